"""Every file of a tree by each kind of access that loaders use; all of them must see the same bytes.

read(2), a private and a shared mapping, 16 threads of 528,384-byte O_DIRECT reads (as fastsafetensors does), and direct
reads at 512-byte offsets with odd lengths (as Run:ai's streamer does). Standard library only.
"""
import concurrent.futures
import errno
import hashlib
import mmap
import os
import sys

from common import directory, report

PAGE = 4096
BLOCK = 512 * 1024
OVERLAP = BLOCK + PAGE


def by_read(path):
    h = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while part := f.read(1 << 20):
            h.update(part)
    return h.hexdigest()


def by_map(path, flags):
    with open(path, "rb") as f:
        if os.fstat(f.fileno()).st_size == 0:
            return hashlib.sha256().hexdigest()
        with mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as m:
            return hashlib.sha256(m).hexdigest()


def aligned_read(fd, offset, size):
    """One direct read into a page-aligned buffer; the bytes it brought."""
    with mmap.mmap(-1, size) as buffer:
        n = os.preadv(fd, [buffer], offset)
        return buffer[:n]


def by_direct(path, pieces):
    """The file from (offset, size, bytes wanted) pieces, read out of order by 16 threads; None where the file system
    under a plain directory has no direct I/O."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as e:
        if e.errno == errno.EINVAL:
            return None
        raise
    try:
        def one(piece):
            offset, size, wanted = piece
            data = aligned_read(fd, offset, size)
            if len(data) < wanted:
                sys.exit(f"{path}: short direct read at {offset}: {len(data)} of {wanted} bytes")
            return offset, data[:wanted]

        # from both ends to the middle, so that no two neighbours follow each other
        order = [p for pair in zip(pieces, reversed(pieces)) for p in pair][:len(pieces)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            parts = dict(pool.map(one, order))
    except OSError as e:
        # a disk with 4 KiB sectors refuses 512-byte offsets; a bsfs mount never may
        if e.errno == errno.EINVAL and not is_fuse(path):
            return None
        raise
    finally:
        os.close(fd)
    h = hashlib.sha256()
    for offset in sorted(parts):
        h.update(parts[offset])
    return h.hexdigest()


def is_fuse(path):
    """Whether the deepest mount above `path` is a FUSE file system."""
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8") as f:
        for line in f:
            _, where, fs, *_ = line.split(" ")
            where = where.replace("\\040", " ").rstrip("/") or "/"
            if len(where) >= len(best) and (str(path) + "/").startswith(where.rstrip("/") + "/"):
                best, kind = where, fs
    return kind.startswith("fuse")


def overlapping(size):
    return [(at, OVERLAP, min(BLOCK, size - at)) for at in range(0, size, BLOCK)]


def odd(size):
    """Pieces of 512 to about a million bytes at offsets aligned to 512 only."""
    pieces, at, turn = [], 0, 0
    lengths = [512, 1_044_992, 1536, 1_048_064, 130_560, 4608]
    while at < size:
        n = lengths[turn % len(lengths)]
        pieces.append((at, n, min(n, size - at)))
        at, turn = at + n, turn + 1
    return pieces


def main():
    root, files, total = directory().resolve(), {}, 0
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            size = os.path.getsize(path)
            digest = by_read(path)
            ways = {"private mapping": by_map(path, mmap.MAP_PRIVATE), "shared mapping": by_map(path, mmap.MAP_SHARED),
                    "overlapping direct reads": by_direct(path, overlapping(size)),
                    "odd direct reads": by_direct(path, odd(size))}
            for way, other in ways.items():
                if other is not None and other != digest:
                    sys.exit(f"{path}: {way} gave {other}, read gave {digest}")
            files[os.path.relpath(path, root)] = digest
            total += size
    if not files:
        sys.exit(f"no file in {root}")
    tree = "".join(f"{v}  {k}\n" for k, v in sorted(files.items()))
    report(reader="raw_bytes", files=len(files), bytes=total, sha256=hashlib.sha256(tree.encode()).hexdigest())


if __name__ == "__main__":
    main()
