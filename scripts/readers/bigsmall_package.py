"""The Python package `bigsmall` at work, and comparisons that do not trust it.

    bigsmall_package.py make FILE                  write a safetensors file of every dtype that the package can read back
    bigsmall_package.py shards DIR                 write a sharded model, one tensor of which is there twice
    bigsmall_package.py reads CONTAINER ORIGINAL   let the package decode a container; compare with a safetensors file
    bigsmall_package.py compress FILE CONTAINER    let the package compress a file
    bigsmall_package.py delta FILE BASE CONTAINER  let it write the difference of two files
    bigsmall_package.py hub DIR OUT                let it compress a model directory
    bigsmall_package.py same DIR DIR               compare the tensors of two directories or files, whatever their shards

Bytes of tensors are compared with the originals', by name, dtype and shape, and read without the package. Exit code 0 if
they are equal; otherwise the first difference is on standard error.
"""
import json
import os
import struct
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", BIGSMALL_NO_VERSION_CHECK="1", BIGSMALL_WORKERS="1")
import numpy as np


def bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def weights(r, *shape):
    x = r.standard_normal(shape) * 0.02
    if len(shape) == 2:
        x *= np.exp(r.standard_normal((shape[0], 1)) * 0.6)
    return x.astype(np.float32)


def write(path, tensors, metadata=None):
    """tensors: (name, dtype, shape, array)"""
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape, array in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for *_, array in tensors:
            f.write(np.ascontiguousarray(array).tobytes())


def read(path):
    """{name: (dtype, shape, bytes)} of a safetensors file, or of all those of a directory."""
    found = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        data = np.memmap(file, np.uint8, "r")
        size = struct.unpack("<Q", bytes(data[:8]))[0]
        header = json.loads(bytes(data[8:8 + size]))
        header.pop("__metadata__", None)
        for name, t in header.items():
            if name in found:
                sys.exit(f"{file}: {name} is in two shards")
            a, b = t["data_offsets"]
            found[name] = (t["dtype"], t["shape"], data[8 + size + a:8 + size + b])
    if not found:
        sys.exit(f"{path}: no tensors")
    return found


def make(path):
    r = np.random.Generator(np.random.PCG64(11))
    tensors = [("bf16.big", "BF16", (700, 900), bf16(weights(r, 700, 900))), ("f32.big", "F32", (400, 500), weights(r, 400, 500)),
               ("f16.big", "F16", (500, 600), weights(r, 500, 600).astype(np.float16)),
               ("e4m3", "F8_E4M3", (300, 400), np.clip(r.normal(48, 9, 120000), 0, 127).astype(np.uint8)),
               ("e5m2", "F8_E5M2", (90000,), np.clip(r.normal(60, 5, 90000), 0, 127).astype(np.uint8) | (r.integers(0, 2, 90000) << 7).astype(np.uint8))]
    # Every pattern of the bits: NaNs of all payloads, infinities, denormals.
    words = r.permutation(65536).astype(np.uint16)
    tensors += [("bf16.all", "BF16", (65536,), words), ("f16.all", "F16", (65536,), words),
                ("f32.bits", "F32", (50000,), r.integers(0, 1 << 32, 50000, dtype=np.uint32)),
                ("bf16.zeros", "BF16", (100, 300), np.zeros(30000, np.uint16)), ("bf16.one", "BF16", (1,), words[:1]),
                ("f32.empty", "F32", (4, 0), np.zeros(0, np.float32)), ("bf16.empty", "BF16", (0,), np.zeros(0, np.uint16)),
                ("f32.scalar", "F32", (), np.float32([0.5])), ("größe.重み\"\\", "F16", (333,), words[:333])]
    for dtype, kind in (("I64", np.int64), ("I32", np.int32), ("I16", np.int16), ("I8", np.int8), ("U8", np.uint8)):
        tensors.append((dtype.lower() + ".ids", dtype, (3000,), r.integers(0, 100, 3000).astype(kind)))
        tensors.append((dtype.lower() + ".few", dtype, (3,), np.arange(3).astype(kind)))
    tensors.append(("mask", "BOOL", (80, 80), np.tril(np.ones((80, 80), np.uint8))))
    write(path, tensors, {"format": "pt", "note": "größe"})


def shards(path):
    r = np.random.Generator(np.random.PCG64(12))
    path.mkdir(parents=True)
    embedding = bf16(weights(r, 900, 256))
    parts = [[("model.embed_tokens.weight", "BF16", (900, 256), embedding)], [], []]
    for i in range(4):
        for name, shape in (("mlp.up_proj.weight", (512, 256)), ("self_attn.q_proj.weight", (256, 256)), ("input_layernorm.weight", (256,))):
            parts[min(2, i)].append((f"model.layers.{i}.{name}", "BF16", shape, bf16(1 + weights(r, *shape)) if len(shape) == 1 else bf16(weights(r, *shape))))
    parts[2] += [("model.norm.weight", "F32", (256,), weights(r, 256)), ("lm_head.weight", "BF16", (900, 256), embedding)]
    weight_map = {}
    for i, tensors in enumerate(parts, 1):
        name = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
        write(path / name, tensors, {"format": "pt"})
        weight_map.update({t[0]: name for t in tensors})
    index = {"metadata": {"total_size": sum(t[3].nbytes for p in parts for t in p)}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text('{"model_type": "toy"}')


def reads(container, original):
    import bigsmall
    got, want = bigsmall.decompress(str(container), progress=False), read(original)
    if set(got) != set(want):
        sys.exit(f"{container}: the package finds other names: {sorted(set(got) ^ set(want))[:5]}")
    for name, (dtype, shape, raw) in want.items():
        array = np.ascontiguousarray(got[name])
        # The package gives scalars the shape [1].
        if list(array.shape) != (shape or [1]):
            sys.exit(f"{container}: {name}: the package finds shape {list(array.shape)}, expected {shape}")
        if array.tobytes() != raw.tobytes():
            sys.exit(f"{container}: {name} ({dtype}): the package decodes other bytes")
    print(f"   {len(want)} tensors of {original.name} by bigsmall {bigsmall.__version__}", file=sys.stderr)


def same(a, b):
    left, right = read(a), read(b)
    if set(left) != set(right):
        sys.exit(f"{b}: other names than in {a}: {sorted(set(left) ^ set(right))[:5]}")
    for name, (dtype, shape, raw) in left.items():
        if (dtype, shape) != right[name][:2]:
            sys.exit(f"{b}: {name} is {right[name][:2]}, expected {(dtype, shape)}")
        if not np.array_equal(raw, right[name][2]):
            sys.exit(f"{b}: {name} has other bytes")
    index = b / "model.safetensors.index.json" if b.is_dir() else None
    if index and index.exists():
        for name, file in json.loads(index.read_text())["weight_map"].items():
            if name not in read(b / file):
                sys.exit(f"{index}: {name} is not in {file}")


def main():
    paths = [Path(p).resolve() for p in sys.argv[2:]]
    match sys.argv[1:2], len(paths):
        case ["make"], 1:
            make(*paths)
        case ["shards"], 1:
            shards(*paths)
        case ["reads"], 2:
            reads(*paths)
        case ["same"], 2:
            same(*paths)
        case ["compress"], 2:
            import bigsmall
            bigsmall.compress(str(paths[0]), str(paths[1]), workers=1, progress=False)
        case ["delta"], 3:
            import bigsmall
            os.chdir(paths[1].parent)  # so that the delta names no directory
            bigsmall.compress_delta(str(paths[0]), paths[1].name, str(paths[2]), workers=1, progress=False)
        case ["hub"], 2:
            import bigsmall
            bigsmall.compress_for_hub(str(paths[0]), str(paths[1]), workers=1)
        case _:
            sys.exit(__doc__)


main()
