"""The safetensors library: every tensor by load_file, by safe_open and by slices, bytewise.

Always with numpy; with torch as well where it is installed. Dtypes that numpy lacks (BF16, the 8-bit floats) are read
from a mapping at the offsets of the header then, so that no tensor is left out.
"""
import hashlib
import mmap

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from common import Digest, directory, header, report, weight_files

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4",
         "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?", "C64": "<c8"}

try:
    import torch
    from safetensors.torch import load_file as load_torch
except ImportError:
    torch = None


def slices(shape):
    """A few sub-ranges of the first two dimensions: the ends, the middle, single rows and columns."""
    if not shape or 0 in shape:
        return []
    n = shape[0]
    some = [slice(0, 1), slice(n - 1, n), slice(n // 3, n // 3 + max(1, n // 4)), slice(0, n)]
    if len(shape) > 1:
        m = shape[1]
        some += [(slice(0, n), slice(m // 2, m // 2 + 1)), (slice(n // 2, n), slice(0, max(1, m // 3)))]
    return some


def same(path, name, way, got, want):
    if got != want:
        raise SystemExit(f"{path}: {name}: {way} differs from the mapped bytes")


def with_numpy(path, tensors, data):
    """Returns how many tensors numpy could hold; each was compared with its mapped bytes."""
    known = [n for n, t in tensors.items() if t["dtype"] in NUMPY]
    if len(known) == len(tensors):
        for name, array in load_file(path).items():
            same(path, name, "load_file", array.tobytes(), data[name])
    sliced = hashlib.sha256()
    with safe_open(path, framework="np") as f:
        if sorted(f.keys()) != sorted(tensors):
            raise SystemExit(f"{path}: safe_open lists other tensors than the header")
        for name in known:
            same(path, name, "get_tensor", f.get_tensor(name).tobytes(), data[name])
            whole = np.frombuffer(data[name], NUMPY[tensors[name]["dtype"]]).reshape(tensors[name]["shape"])
            for part in slices(whole.shape):
                got = np.ascontiguousarray(f.get_slice(name)[part]).tobytes()
                same(path, name, f"slice {part}", got, np.ascontiguousarray(whole[part]).tobytes())
                sliced.update(got)
    return len(known), sliced.hexdigest()


def with_torch(path, tensors, data):
    """Every dtype that torch knows of, by load_file, and by slices in another order than the file's."""
    def raw(t):
        return t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""

    for name, tensor in load_torch(path).items():
        same(path, name, "torch load_file", raw(tensor), data[name])
    with safe_open(path, framework="pt") as f:
        for name in sorted(tensors, reverse=True):
            whole = f.get_tensor(name)
            same(path, name, "torch get_tensor", raw(whole), data[name])
            for part in slices(tuple(whole.shape)):
                same(path, name, f"torch slice {part}", raw(f.get_slice(name)[part]), raw(whole[part]))
    return len(tensors)


def main():
    digest, by_numpy, by_torch, parts = Digest(), 0, 0, []
    for path in weight_files(directory()):
        tensors, start = header(path)
        data = {}
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            for name, t in tensors.items():
                begin, end = t["data_offsets"]
                data[name] = m[start + begin:start + end]
                digest.add(f"{path.name}:{name}", t["dtype"], t["shape"], data[name])
        count, sliced = with_numpy(path, tensors, data)
        by_numpy += count
        parts.append(sliced)
        if torch:
            by_torch += with_torch(path, tensors, data)
    report(reader="safetensors", tensors=len(digest), numpy=by_numpy, torch=by_torch if torch else None,
           sha256=digest.hex(), slices=parts)


if __name__ == "__main__":
    main()
