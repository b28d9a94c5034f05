#!/usr/bin/env python3
"""A large model, made and read layer by layer.

    layers.py make FILE BYTES SUMS              writes a safetensors file of BF16 layers, and the sums of its tensors
    layers.py walk WAY FILE SUMS [COLD...]      reads it, compares every sum, prints the seconds that reading took

WAY is mmap (standard library only) or safe_open (needs safetensors and numpy). What the page cache has of FILE and of the
COLD files is dropped first. The weights compress as trained ones do: the high bytes are those of Gaussian numbers.
"""
import json
import mmap
import os
import random
import statistics
import struct
import sys
import time
import zlib

MIB = 1 << 20
# A layer is 64 MiB and a norm, whose odd length keeps tensors off the pages.
SHAPES = {"input_layernorm": [1023], "self_attn.q_proj": [1024, 2048], "self_attn.k_proj": [1024, 2048],
          "self_attn.v_proj": [1024, 2048], "self_attn.o_proj": [2048, 1024], "mlp.gate_proj": [4096, 2048],
          "mlp.up_proj": [4096, 2048], "mlp.down_proj": [2048, 4096]}


def length(shape):
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def make(path, size, sums):
    normal = statistics.NormalDist(0, 0.02)
    high = bytes(struct.pack(">f", normal.inv_cdf((i + 0.5) / 256))[0] for i in range(256))
    header, end = {}, 0
    for layer in range(max(1, size // (64 * MIB))):
        for name, shape in SHAPES.items():
            begin, end = end, end + length(shape)
            header[f"model.layers.{layer}.{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    found, chance = {}, random.Random(1)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in header.items():
            words = length(tensor["shape"]) // 2
            data = bytearray(2 * words)
            data[0::2] = chance.randbytes(words)
            data[1::2] = chance.randbytes(words).translate(high)
            found[name] = zlib.crc32(data)
            f.write(data)
    with open(sums, "w", encoding="utf-8") as f:
        json.dump(found, f)


def by_mmap(path):
    """Name, seconds and bytes of each tensor in the order of the file."""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        tensors = json.loads(f.read(size))
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m, memoryview(m) as view:
            for name, tensor in tensors.items():
                begin, end = (8 + size + at for at in tensor["data_offsets"])
                start = time.perf_counter()
                # one byte of each page, so that the sum's own time is not counted
                bytes(view[begin:end:mmap.PAGESIZE])
                seconds = time.perf_counter() - start
                with view[begin:end] as data:
                    yield name, seconds, data


def by_safe_open(path):
    import numpy
    from safetensors import safe_open

    # numpy has no BF16; the words themselves are what is compared
    numpy.sctypeDict.setdefault("bfloat16", numpy.uint16)
    with safe_open(path, "np") as f:
        for name in f.offset_keys():
            start = time.perf_counter()
            tensor = f.get_tensor(name)
            seconds = time.perf_counter() - start
            yield name, seconds, tensor
            # before the next one is made, since two of them are a part of a small memory
            del tensor


def walk(way, path, sums, *cold):
    for each in (path, *cold):
        fd = os.open(each, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    with open(sums, encoding="utf-8") as f:
        left = json.load(f)
    total = 0.0
    for name, seconds, data in {"mmap": by_mmap, "safe_open": by_safe_open}[way](path):
        if zlib.crc32(data) != left.pop(name):
            sys.exit(f"{path}: {name} differs ({way})")
        total += seconds
        del data
    if left:
        sys.exit(f"{path}: {len(left)} tensors are missing ({way})")
    print(f"{total:.6f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", path, size, sums]:
            make(path, int(size), sums)
        case ["walk", way, path, sums, *cold]:
            walk(way, path, sums, *cold)
        case _:
            sys.exit(__doc__)
