"""One measured pass over a file, printed as JSON.

    python3 reading.py WAY FILE [--count N] [--seed N]

WAY is one of

    read        1 MiB at a time into one buffer, to the end
    mmap        a mapping, a byte of each page in order
    copy        a mapping, every byte of it copied out, 1 MiB at a time
    threads4    4 threads that take 2 MiB blocks in turn and read them through one descriptor
    threads16   16 of them
    random4k    --count reads of 4 KiB at random offsets, multiples of 4 KiB (1000 unless given)
    random1m    --count reads of 1 MiB at such offsets (100 unless given)
    touch       a mapping, a byte of each of --count pages in random order (20000 unless given)
    load_file   safetensors' load_file, then a byte of each page of each tensor
    safe_open   safetensors' safe_open, tensor by tensor in order of names, a byte of each page

The last two need a Python with safetensors, and take torch for the tensors where it is, else numpy (which has no BF16).

Output: {"seconds", "bytes", "p50_us", "p99_us"}. The clock starts before the file is opened and stops when the last byte is
there; imports, buffers and a rehearsal on another file come before it. bytes is what was asked for, and a file that ends early
is an error. The percentiles are microseconds of one read, for the random ways only (else null). One seed gives the same offsets
each time, in files of one length: so a second pass finds in the page cache what the first has read.
"""

import argparse
import itertools
import json
import mmap
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

KIB, MIB = 1 << 10, 1 << 20
PAGE = 4 * KIB


def buffer(size):
    """Memory whose pages are there already: their first touch is no part of reading."""
    return memoryview(bytearray(b"\1" * size))


def fill(fd, view, offset):
    """Reads view's length at offset, in as many calls as it takes."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            raise EOFError(f"no byte at {offset + done}")
        done += count


def read(path, _):
    block = buffer(MIB)
    total = 0
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as f:
        while count := f.readinto(block):
            total += count
    return time.perf_counter() - start, total, []


def mapped(path, _):
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
        sum(m[::PAGE])
        total = len(m)
    return time.perf_counter() - start, total, []


def copied(path, _):
    block = buffer(MIB)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
        with memoryview(m) as view:
            for at in range(0, len(m), MIB):
                part = view[at : at + MIB]
                block[: len(part)] = part
                part.release()
        total = len(m)
    return time.perf_counter() - start, total, []


def threads(path, args):
    number = int(args.way.removeprefix("threads"))
    buffers = [buffer(2 * MIB) for _ in range(number)]
    # next() of a count is one step under the interpreter's lock, so no block is handed out twice
    blocks = itertools.count()

    def work(view):
        total = 0
        while (at := next(blocks) * len(view)) < size:
            part = view[: size - at]
            fill(fd, part, at)
            total += len(part)
        return total

    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        with ThreadPoolExecutor(number) as pool:
            # each works until no block is left, so each submission starts a thread
            total = sum(task.result() for task in [pool.submit(work, view) for view in buffers])
    finally:
        os.close(fd)
    return time.perf_counter() - start, total, []


def scattered(path, args):
    length, count = (4 * KIB, 1000) if args.way == "random4k" else (MIB, 100)
    count = args.count or count
    size = os.stat(path).st_size
    view = buffer(min(length, size))
    draw = random.Random(args.seed)
    offsets = [draw.randrange(size - len(view) + 1) // PAGE * PAGE for _ in range(count)]
    times = []
    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    try:
        for offset in offsets:
            before = time.perf_counter()
            fill(fd, view, offset)
            times.append(time.perf_counter() - before)
    finally:
        os.close(fd)
    return time.perf_counter() - start, count * len(view), times


def touched(path, args):
    count = args.count or 20000
    pages = -(-os.stat(path).st_size // PAGE)
    draw = random.Random(args.seed)
    offsets = [draw.randrange(pages) * PAGE for _ in range(count)]
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
        for offset in offsets:
            m[offset]
    return time.perf_counter() - start, count * PAGE, []


def framework():
    """Name for safe_open, load_file, and what sums a byte of each page of a tensor and gives its length."""
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        from safetensors.numpy import load_file

        def touch(tensor):
            tensor.reshape(-1).view("u1")[::PAGE].sum()
            return tensor.nbytes

        return "np", load_file, touch

    def touch(tensor):
        tensor.reshape(-1).view(torch.uint8)[::PAGE].sum()
        return tensor.nbytes

    return "pt", load_file, touch


def load(path, _):
    _, load_file, touch = framework()
    start = time.perf_counter()
    total = sum(touch(tensor) for tensor in load_file(path).values())
    return time.perf_counter() - start, total, []


def opened(path, _):
    from safetensors import safe_open

    name, _, touch = framework()
    start = time.perf_counter()
    with safe_open(path, framework=name) as f:
        total = sum(touch(f.get_tensor(key)) for key in sorted(f.keys()))
    return time.perf_counter() - start, total, []


WAYS = {
    "read": read,
    "mmap": mapped,
    "copy": copied,
    "threads4": threads,
    "threads16": threads,
    "random4k": scattered,
    "random1m": scattered,
    "touch": touched,
    "load_file": load,
    "safe_open": opened,
}


def rank(times, share):
    """The value that this share of them does not exceed, in microseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1e6 if times else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS, metavar="WAY")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.way not in ("load_file", "safe_open"):
        # A rehearsal: after a drop of all caches the interpreter comes from the disk too, page by page as it gets there, which is
        # no part of reading FILE.
        WAYS[args.way](__file__, args)
    seconds, total, times = WAYS[args.way](args.file, args)
    if args.way in ("read", "mmap", "copy", "threads4", "threads16") and total != (size := os.stat(args.file).st_size):
        sys.exit(f"reading.py: {args.file} has {size} bytes, of which {total} were read")
    print(json.dumps({"seconds": seconds, "bytes": total, "p50_us": rank(times, 0.5), "p99_us": rank(times, 0.99)}))


if __name__ == "__main__":
    main()
