"""Write FILE, a small safetensors file with every dtype that numpy and torch know of, and the corners of the format.

Scalars, empty tensors, names that are not ASCII, metadata, single elements, and lengths that are no multiple of
anything; the header is padded as the reference writer pads it. The same bytes on every run. Standard library only.
"""
import hashlib
import json
import math
import struct
import sys
from pathlib import Path

SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
         "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
SHAPES = {"big": (257, 1031), "row": (1, 777), "one": (1,), "scalar": (), "empty": (0, 5), "cube": (3, 5, 7)}


def body(name, dtype, count):
    """Bytes of any pattern for integers, NaNs and denormals included for floats; 0 and 1 for booleans."""
    data = hashlib.shake_128(name.encode()).digest(SIZES[dtype] * count)
    if dtype == "BOOL":
        return bytes(b & 1 for b in data)
    if name.endswith(".big") and dtype in ("F32", "BF16"):
        # exponents near those of trained weights, so that a compressed chunk is among the chunks
        step, data = SIZES[dtype], bytearray(data)
        data[step - 1::step] = bytes(0x3C | (b & 0x80) for b in data[step - 1::step])
    return bytes(data)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: {sys.argv[0]} FILE")
    tensors = [(f"{kind.lower()}.{shape}", kind, SHAPES[shape]) for kind in SIZES for shape in SHAPES]
    tensors.append(("größe.重み", "F32", (33, 3)))
    # the reference writer's order: widest first, so that every tensor is aligned, then by name
    tensors.sort(key=lambda t: (-SIZES[t[1]], t[0]))
    header, at = {"__metadata__": {"format": "pt", "note": "dtypes and shapes of every kind"}}, 0
    for name, kind, shape in tensors:
        end = at + SIZES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(Path(sys.argv[1]), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, kind, shape in tensors:
            f.write(body(name, kind, math.prod(shape)))


if __name__ == "__main__":
    main()
