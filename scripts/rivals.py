"""Ratio and speed of other lossless coders on one .safetensors file, memory to memory, in one thread.

    python rivals.py FILE [--only NAME]...

Prints one tab-separated line for each coder that this Python can import: name, version, raw bytes, packed bytes, raw bytes
per second of encode and of decode. A coder that is missing is skipped with a word on standard error.

The process is pinned to one core. A coder gets the tensors of one dtype that lie together, in pieces of 4 MiB (more is no
faster, less is slower for some); what it does not know as numbers it keeps as it is, which counts in both lengths but not in
the speeds. A coder that does not know nine tenths of a file is skipped. Speeds are the best of three over wall time. The
memory of a decoded piece is used again for the next, which flatters the rivals: bsfs writes to memory that no cache holds.
Every decoded byte is compared. Exit code 1 if one differs.
"""

import argparse
import importlib.metadata
import json
import os
import struct
import sys
import time

PIECE = 4 << 20
# dtypes of one byte
BYTES = ("F8_E4M3", "F8_E5M2", "U8", "I8")


def pieces(data):
    """(dtype, bytes) of a file in order: tensors of one dtype that touch are one run, cut into pieces."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    start = 8 + length
    tensors = sorted((t["data_offsets"], t["dtype"]) for name, t in header.items() if name != "__metadata__")
    runs = [["header", 0, start]]
    for (begin, end), dtype in tensors:
        if start + begin != runs[-1][2]:
            runs.append(["hole", runs[-1][2], start + begin])
        if dtype == runs[-1][0]:
            runs[-1][2] = start + end
        else:
            runs.append([dtype, start + begin, start + end])
    runs.append(["rest", runs[-1][2], len(data)])
    for dtype, begin, end in runs:
        for at in range(begin, end, PIECE):
            yield dtype, data[at : min(end, at + PIECE)]


def zipnn():
    from zipnn import ZipNN

    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    made = {t: ZipNN(bytearray_dtype=n, threads=1, input_format="byte") for t, n in names.items()}
    # it wants a bytearray, and writes to it
    return {t: (lambda raw, z=z: z.compress(bytearray(raw)), z.decompress) for t, z in made.items()}


def pcodec():
    import numpy
    from pcodec import ChunkConfig, standalone

    # BF16 has no type of its own there
    types = {"BF16": numpy.uint16, "F16": numpy.float16, "F32": numpy.float32, "F64": numpy.float64}
    types |= {"I64": numpy.int64, "I32": numpy.int32, "I16": numpy.int16}
    # it takes numbers of eight bits only when told to
    types |= dict.fromkeys(BYTES, numpy.uint8)

    def coder(kind):
        out = numpy.empty(PIECE // numpy.dtype(kind).itemsize, kind)

        def decode(packed):
            return memoryview(out[: standalone.simple_decompress_into(packed, out).n_processed]).cast("B")

        config = ChunkConfig(enable_8_bit=True)
        return lambda raw: standalone.simple_compress(numpy.frombuffer(raw, kind), config), decode

    return {t: coder(kind) for t, kind in types.items()}


def openzl():
    import openzl.ext as zl

    def floats(number, split):
        compressor = zl.Compressor()
        store, entropy = zl.graphs.Store()(compressor), zl.graphs.Entropy()(compressor)
        rest = store if split == "BFloat16Deconstruct" else zl.graphs.Compress()(compressor)
        graph = getattr(zl.nodes, split)()(compressor, sign_frac=rest, exponent=entropy)
        return coder(compressor, getattr(zl.nodes, number)()(compressor, graph))

    def anything():
        compressor = zl.Compressor()
        return coder(compressor, zl.graphs.Compress()(compressor))

    def coder(compressor, graph):
        compressor.select_starting_graph(graph)

        def encode(raw):
            context = zl.CCtx()
            context.ref_compressor(compressor)
            context.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
            return context.compress([zl.Input(zl.Type.Serial, raw)])

        return encode, lambda packed: zl.DCtx().decompress(packed)[0].content

    return {
        "BF16": floats("ConvertSerialToNumLE16", "BFloat16Deconstruct"),
        "F16": floats("ConvertSerialToNumLE16", "Float16Deconstruct"),
        "F32": floats("ConvertSerialToNumLE32", "Float32Deconstruct"),
        **{dtype: anything() for dtype in BYTES},
    }


def glyd():
    import glyd as g

    return {None: (lambda raw: g.compress(raw, level="max", threads=1), g.decompress)}


# What each is called here, its package, and the function that gives {dtype: (encode, decode)}; None is the whole file at once.
# lmzip is not among them: it goes from file to file only.
RIVALS = [("ZipNN", "zipnn", zipnn), ("pcodec", "pcodec", pcodec), ("OpenZL", "openzl", openzl), ("glyd max", "glyd", glyd)]


def measure(coders, data):
    """(packed bytes, bytes per second of encode and of decode)."""
    parts = [(None, data)] if None in coders else list(pieces(data))
    known = [(coders[dtype], raw) for dtype, raw in parts if dtype in coders]
    kept = sum(len(raw) for dtype, raw in parts if dtype not in coders)
    if kept > len(data) / 10:
        raise NotImplementedError("does not know the dtypes of this file")
    encodes, decodes = [], []
    for _ in range(3):
        packed, seconds = [], 0.0
        for (encode, _), raw in known:
            start = time.perf_counter()
            out = encode(raw)
            seconds += time.perf_counter() - start
            packed.append(bytes(out))
        encodes.append(seconds)
        seconds = 0.0
        for ((_, decode), raw), out in zip(known, packed):
            start = time.perf_counter()
            back = decode(out)
            seconds += time.perf_counter() - start
            if (back.as_bytes() if hasattr(back, "as_bytes") else back) != raw:
                raise ValueError("decoded bytes differ")
        decodes.append(seconds)
    raw = len(data) - kept
    return kept + sum(map(len, packed)), raw / min(encodes), raw / min(decodes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--only", action="append", metavar="NAME", help="name of a package; may be given again")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with open(args.file, "rb") as file:
        data = file.read()
    failed = False
    for name, package, coders in RIVALS:
        if args.only and package not in args.only:
            continue
        try:
            version = importlib.metadata.version(package)
            packed, encode, decode = measure(coders(), data)
            print(f"{name}\t{version}\t{len(data)}\t{packed}\t{encode:.0f}\t{decode:.0f}", flush=True)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: skipped: the package {package} is not installed", file=sys.stderr)
        except (ImportError, NotImplementedError) as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
        except Exception as error:
            failed = True
            print(f"{name}: failed: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
