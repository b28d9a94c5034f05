"""What the readers share: one line of JSON out, and the ways they look at a model directory.

A reader prints exactly one line on standard output, made of what it saw and of nothing else: no path, no time, no size of
a buffer. Then two directories are the same to a reader exactly if its two lines are.
"""
import hashlib
import json
import os
import struct
import sys
from pathlib import Path

# Engines log to standard output too, and from native code: give them standard error and keep the real one.
_out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

PROMPTS = ["The quick brown fox", "Compressed weights are"]


def report(**seen):
    _out.write(json.dumps(seen, sort_keys=True) + "\n")
    _out.flush()


def directory():
    """The one argument of every reader."""
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit(f"usage: {sys.argv[0]} DIR")
    return Path(sys.argv[1])


def weight_files(root):
    """The safetensors files of a directory as its listing shows them, by name."""
    found = sorted(p for p in root.iterdir() if p.name.endswith(".safetensors"))
    if not found:
        sys.exit(f"no .safetensors file in {root}")
    return found


def header(path):
    """(tensors by name, offset of the data) of one safetensors file, read without any library."""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        tensors = json.loads(f.read(size))
    tensors.pop("__metadata__", None)
    return tensors, 8 + size


class Digest:
    """SHA-256 over named byte strings in the order of their names."""

    def __init__(self):
        self.parts = {}

    def add(self, name, dtype, shape, data):
        key = f"{name}|{dtype}|{list(shape)}"
        if key in self.parts:
            sys.exit(f"tensor {name} came twice")
        self.parts[key] = hashlib.sha256(data).hexdigest()

    def __len__(self):
        return len(self.parts)

    def hex(self):
        text = "".join(f"{k} {v}\n" for k, v in sorted(self.parts.items()))
        return hashlib.sha256(text.encode()).hexdigest()
