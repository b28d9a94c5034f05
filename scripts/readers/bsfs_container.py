"""Reader of .bs containers, written from src/format/native/FORMAT.md alone: it shows that the page suffices.

    python bsfs_container.py FILE.bs [-o OUT]

decodes everything, checks every chunk's XXH3, every tensor's BLAKE3 and the file's SHA-256, and prints a line of JSON.
With -o it writes the original too, under its name only once all is proven. Status 0: sound; 1: not, or not readable.

As a module: Container.open(path) does every check that needs no chunk, read(offset, size) gives bytes of the original,
tensors lists what the container says of them. Needs Python 3.11 and requirements-container.txt.
"""
import argparse
import bisect
import hashlib
import json
import os
import sys
from itertools import accumulate
from typing import NamedTuple

import blake3
import numpy as np
import xxhash
import zstandard

MAGIC = b"\x89bsf\r\n\x1a\n"
HEADER_LEN = 64
MAJOR = 1
KNOWN_FLAGS = 0
REQUIRED_FLAGS = 0xFFFF
MIB = 1 << 20
MAX_RAW = (1 << 63) - 1
MAX_INFLATION = 16 * MIB
MAX_CHUNK = 16 * MIB
MAX_LITERALS = MIB

FILE, SPANS, CHUNKS, LITERALS, TENSORS = 1, 2, 3, 4, 5
SECTIONS = {FILE: "FILE", SPANS: "SPANS", CHUNKS: "CHUNKS", LITERALS: "LITERALS", TENSORS: "TENSORS"}

RAW, CONSTANT, ZSTD, PLANES = 0, 1, 2, 3
PLANE_RAW, PLANE_CONSTANT, PLANE_RANS = 0, 1, 2

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LANES = 64
SLOT_BITS = 12
SLOTS = 1 << SLOT_BITS
STATE_LOW = 1 << 16


class ContainerError(Exception):
    """The container cannot be read."""


class Damaged(ContainerError):
    """The container is no container, or not as it was written."""


class Unsupported(ContainerError):
    """The container may be sound, but uses what this reader does not know."""


def check(holds, message):
    if not holds:
        raise Damaged(message)


class Fields:
    """Reads fields one behind the other, and never beyond the end."""

    def __init__(self, data, what):
        self.data = memoryview(data)
        self.at = 0
        self.what = what

    def left(self):
        return len(self.data) - self.at

    def take(self, size):
        check(size <= self.left(), f"{self.what}: needs {size} bytes at {self.at}, has {self.left()}")
        self.at += size
        return bytes(self.data[self.at - size:self.at])

    def number(self, size, signed=False):
        return int.from_bytes(self.take(size), "little", signed=signed)

    def column(self, size, count):
        """Numbers of `size` bytes, as Python's, which do not overflow."""
        return np.frombuffer(self.take(size * count), dtype=f"<u{size}").tolist()

    def end(self):
        check(self.left() == 0, f"{self.what}: {self.left()} bytes too many")


class FileInfo(NamedTuple):
    kind: int
    mode: int
    chunk_len: int
    mtime: tuple
    sha256: bytes
    name: bytes
    writer: str


class Chunk(NamedTuple):
    raw_offset: int
    raw_len: int
    packed_offset: int
    packed_len: int
    codec: int
    xxh3: int


class Literal(NamedTuple):
    raw_offset: int
    raw_len: int
    data: bytes


class Span(NamedTuple):
    raw_offset: int
    raw_len: int
    element_type: int
    unit_len: int
    unit_numbers: int
    row_numbers: int
    chunk_len: int
    table_set: int


class Tensor(NamedTuple):
    name: str
    dtype: str
    shape: tuple
    offset: int
    length: int
    blake3: bytes


def text(data, what):
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Damaged(f"{what} is not UTF-8") from None


# Codecs


def inflate(packed, raw_len, what):
    """One zstd frame, all of `packed`, that inflates to `raw_len` bytes."""
    check(packed[:4] == ZSTD_MAGIC, f"{what}: no zstd frame")
    inflater = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)
    parts = []
    length = 0
    try:
        # In small pieces: no more than some 4 MiB can come of one, whatever the frame says.
        for at in range(0, len(packed), 128):
            check(not inflater.eof, f"{what}: bytes behind the zstd frame")
            parts.append(inflater.decompress(packed[at:at + 128]))
            length += len(parts[-1])
            check(length <= raw_len, f"{what}: inflates to more than {raw_len} bytes")
    except zstandard.ZstdError as e:
        raise Damaged(f"{what}: {e}") from None
    check(inflater.eof, f"{what}: the zstd frame is cut off")
    check(not inflater.unused_data, f"{what}: bytes behind the zstd frame")
    check(length == raw_len, f"{what}: inflates to {length} bytes, not {raw_len}")
    return b"".join(parts)


def frequencies(fields, what):
    """The table of a rANS stream: symbols, ascending, and their frequencies."""
    count = fields.number(1) + 1
    if count <= 32:
        symbols = np.frombuffer(fields.take(count), dtype=np.uint8)
        check(bool(np.all(symbols[1:] > symbols[:-1])), f"{what}: symbols are not ascending")
    else:
        bitmap = np.frombuffer(fields.take(32), dtype=np.uint8)
        symbols = np.flatnonzero(np.unpackbits(bitmap, bitorder="little")).astype(np.uint8)
        check(len(symbols) == count, f"{what}: {len(symbols)} symbols, not {count}")
    frequency = []
    for _ in range(count):
        less_one = fields.number(1)
        if less_one >= 128:
            high = fields.number(1)
            check(high < 32, f"{what}: a frequency is too long")
            less_one += 128 * (high - 1)
        frequency.append(less_one + 1)
    check(sum(frequency) == SLOTS, f"{what}: frequencies sum to {sum(frequency)}")
    return symbols, np.array(frequency)


# Where the symbol of each state lies in its block.
PLACE = np.array([16 * (t % 16 // 4) + 4 * (t // 16) + t % 16 % 4 for t in range(LANES)])


def decode_rans(streams, count, what):
    """Planes of `count` bytes from their streams, all at once: each step takes 64 bytes of every plane."""
    rows = len(streams)
    symbol_of = np.empty((rows, SLOTS), dtype=np.uint8)
    factor = np.empty((rows, SLOTS), dtype=np.uint32)
    summand = np.empty((rows, SLOTS), dtype=np.uint32)
    x = np.empty((rows, LANES), dtype=np.uint32)
    words = []
    for row, stream in enumerate(streams):
        fields = Fields(stream, f"{what}, rANS stream {row}")
        symbols, frequency = frequencies(fields, fields.what)
        owner = np.repeat(np.arange(len(symbols)), frequency)
        start = np.cumsum(frequency) - frequency
        symbol_of[row] = symbols[owner]
        factor[row] = frequency[owner]
        summand[row] = np.arange(SLOTS) - start[owner]
        x[row] = np.frombuffer(fields.take(4 * LANES), dtype="<u4")
        check(bool(np.all(x[row] >= STATE_LOW)), f"{fields.what}: a state is too small")
        check(fields.left() % 2 == 0, f"{fields.what}: half a word")
        words.append(np.frombuffer(fields.take(fields.left()), dtype="<u2").astype(np.uint32))

    ends = np.cumsum([len(w) for w in words])
    next_word = ends - [len(w) for w in words]
    # Beyond the words of a stream come those of the next, then zeros: what is read there shows at the end.
    words = np.concatenate([*words, np.zeros(1, dtype=np.uint32)])
    table = (np.arange(rows) * SLOTS)[:, None]
    factor, summand = factor.ravel(), summand.ravel()
    blocks = -(-count // LANES)
    slots = np.empty((rows, blocks, LANES), dtype=np.uint16)
    for block in range(blocks):
        slot = x & (SLOTS - 1)
        slots[:, block] = slot
        slot = slot + table
        x = factor[slot] * (x >> SLOT_BITS) + summand[slot]
        small = x < STATE_LOW
        taken = np.cumsum(small, axis=1)
        word = words.take(taken + (next_word[:, None] - 1), mode="clip")
        x = np.where(small, (x << 16) | word, x)
        next_word = next_word + taken[:, -1]
    for row in range(rows):
        check(next_word[row] == ends[row], f"{what}, rANS stream {row}: words left over or missing")
    check(bool(np.all(x == STATE_LOW)), f"{what}: rANS states do not end where they began")

    planes = []
    for row in range(rows):
        plane = np.empty((blocks, LANES), dtype=np.uint8)
        plane[:, PLACE] = symbol_of[row][slots[row]]
        planes.append(plane.ravel()[:count])
    return planes


def decode_planes(packed, raw_len, what):
    fields = Fields(packed, what)
    head = fields.number(1)
    check(head >> 3 == 0, f"{what}: bits 3-7 of the planes' head are {head >> 3:#x}")
    width = 1 << (head & 3)
    rotated = bool(head & 4)
    count = raw_len // width
    modes = []
    for _ in range(width):
        mode = fields.number(1)
        if mode == PLANE_RAW:
            length = count
        elif mode == PLANE_CONSTANT:
            length = 1
        elif mode == PLANE_RANS:
            length = fields.number(4)
        else:
            raise Damaged(f"{what}: a plane has the unknown mode {mode}")
        modes.append((mode, length))
    tail = fields.take(raw_len - count * width)
    streams = [fields.take(length) for _, length in modes]
    fields.end()

    numbers = np.empty((count, width), dtype=np.uint8)
    rans = [k for k, (mode, _) in enumerate(modes) if mode == PLANE_RANS]
    for k, (mode, _) in enumerate(modes):
        if mode == PLANE_RAW:
            numbers[:, k] = np.frombuffer(streams[k], dtype=np.uint8)
        elif mode == PLANE_CONSTANT:
            numbers[:, k] = streams[k][0]
    if rans:
        for k, plane in zip(rans, decode_rans([streams[k] for k in rans], count, what), strict=True):
            numbers[:, k] = plane
    if rotated:
        joined = numbers.reshape(-1).view(f"<u{width}")
        joined = (joined >> 1) | (joined << (8 * width - 1))
        return joined.tobytes() + tail
    return numbers.tobytes() + tail


def decode(codec, packed, raw_len, what):
    if codec == RAW:
        check(len(packed) == raw_len, f"{what}: {len(packed)} bytes, not {raw_len}")
        return packed
    if codec == CONSTANT:
        check(len(packed) in (1, 2, 4, 8), f"{what}: a constant of {len(packed)} bytes")
        return (packed * -(-raw_len // len(packed)))[:raw_len]
    if codec == ZSTD:
        return inflate(packed, raw_len, what)
    if codec == PLANES:
        return decode_planes(packed, raw_len, what)
    raise Unsupported(f"{what}: unknown codec {codec}")


# The container


class Container:
    @classmethod
    def open(cls, path):
        file = open(path, "rb")
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def __init__(self, file):
        self._file = file
        self._cached = None
        index = self._read_header()
        bodies = self._split(index)
        spans = Fields(bodies[SPANS], "SPANS")
        chunks = Fields(bodies[CHUNKS], "CHUNKS")
        self.info = self._read_file(Fields(bodies[FILE], "FILE"))
        self.spans = self._read_spans(spans)
        columns = self._read_chunks(chunks)
        self.tensors = self._read_tensors(Fields(bodies[TENSORS], "TENSORS")) if TENSORS in bodies else []
        end = self.spans[-1].raw_offset + self.spans[-1].raw_len if self.spans else 0
        check(end == self.raw_len, f"SPANS: cover {end} bytes, not {self.raw_len}")
        self._lay_out(columns, bodies.get(LITERALS))
        self._check_tensors()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._file.close()

    def _read_at(self, offset, size, what):
        self._file.seek(offset)
        data = self._file.read(size)
        check(len(data) == size, f"{what}: {len(data)} bytes there, not {size}")
        return data

    def _read_header(self):
        """All checks of the header; the inflated index."""
        length = os.fstat(self._file.fileno()).st_size
        check(length >= HEADER_LEN, f"a file of {length} bytes has no header")
        header = self._read_at(0, HEADER_LEN, "header")
        fields = Fields(header, "header")
        check(fields.take(8) == MAGIC, "not a .bs container (magic)")
        checksum = int.from_bytes(header[56:], "little")
        check(xxhash.xxh3_64_intdigest(header[:56]) == checksum, "header: checksum differs")
        major = fields.number(2)
        minor = fields.number(2)
        if major != MAJOR:
            raise Unsupported(f"format {major}.{minor}")
        flags = fields.number(4)
        if unknown := flags & REQUIRED_FLAGS & ~KNOWN_FLAGS:
            raise Unsupported(f"unknown flags {unknown:#06x}")
        container_len = fields.number(8)
        self.raw_len = fields.number(8)
        self.index_offset = fields.number(8)
        packed_len = fields.number(4)
        index_len = fields.number(4)
        checksum = fields.number(8)
        self.version = (major, minor)
        self.flags = flags
        self.container_len = container_len
        check(container_len == length, f"the container has {length} bytes, not {container_len}")
        check(HEADER_LEN <= self.index_offset <= length, f"header: index at {self.index_offset} of {length}")
        check(self.index_offset + packed_len == container_len, "header: the index does not end the container")
        check(index_len <= container_len + MAX_INFLATION, f"header: an index of {index_len} bytes")
        check(self.raw_len <= MAX_RAW, f"header: an original of {self.raw_len} bytes")
        packed = self._read_at(self.index_offset, packed_len, "index")
        check(xxhash.xxh3_64_intdigest(packed) == checksum, "index: checksum differs")
        return inflate(packed, index_len, "index")

    @staticmethod
    def _split(index):
        """The bodies of the known sections."""
        fields = Fields(index, "index")
        seen = set()
        bodies = {}
        while fields.left():
            section = fields.number(2)
            required = fields.number(2) & 1
            fields.take(4)
            fields.what = f"index, section {section}"
            body = fields.take(fields.number(8))
            fields.what = "index"
            check(section not in seen, f"index: section {section} occurs twice")
            seen.add(section)
            if section in SECTIONS:
                bodies[section] = body
            elif required:
                raise Unsupported(f"unknown section {section}")
        for section in (FILE, SPANS, CHUNKS):
            check(section in bodies, f"index: no section {SECTIONS[section]}")
        return bodies

    @staticmethod
    def _read_file(fields):
        kind = fields.number(2)
        mode = fields.number(1)
        fields.take(1)
        chunk_len = fields.number(4)
        seconds = fields.number(8, signed=True)
        nanoseconds = fields.number(4)
        check(nanoseconds < 10**9, f"FILE: {nanoseconds} nanoseconds")
        sha256 = fields.take(32)
        name = fields.take(fields.number(2))
        writer = fields.take(fields.number(2)).decode(errors="replace")
        fields.end()
        return FileInfo(kind, mode, chunk_len, (seconds, nanoseconds), sha256, name, writer)

    @staticmethod
    def _read_spans(fields):
        n = fields.number(4)
        columns = [fields.column(size, n) for size in (8, 2, 2, 2, 8, 4, 4)]
        fields.end()
        spans = []
        offset = 0
        for i, values in enumerate(zip(*columns, strict=True)):
            span = Span(offset, *values)
            check(span.raw_len >= 1, f"SPANS: span {i} is empty")
            check(span.unit_len >= 1 and span.unit_numbers >= 1, f"SPANS: span {i} has an empty unit")
            check(span.chunk_len <= MAX_CHUNK, f"SPANS: span {i} has chunks of {span.chunk_len} bytes")
            if span.table_set:
                raise Unsupported(f"SPANS: span {i} needs table set {span.table_set}")
            spans.append(span)
            offset += span.raw_len
        return spans

    @staticmethod
    def _read_chunks(fields):
        n = fields.number(4)
        columns = [fields.column(size, n) for size in (4, 2, 8)]
        fields.end()
        return columns

    @staticmethod
    def _read_tensors(fields):
        n = fields.number(4)
        offsets = fields.column(8, n)
        lengths = fields.column(8, n)
        dtypes = fields.column(2, n)
        ranks = fields.column(1, n)
        dimensions = fields.column(8, sum(ranks))
        dtype_names = [text(fields.take(fields.number(1)), "TENSORS: a dtype") for _ in range(fields.number(2))]
        name_lens = fields.column(4, n)
        names = Fields(fields.take(sum(name_lens)), "TENSORS")
        hashes = fields.take(32 * n)
        at = 0
        tensors = []
        for i in range(n):
            check(dtypes[i] < len(dtype_names), f"TENSORS: tensor {i} has dtype {dtypes[i]} of {len(dtype_names)}")
            tensors.append(Tensor(
                text(names.take(name_lens[i]), "TENSORS: a name"),
                dtype_names[dtypes[i]],
                tuple(dimensions[at:at + ranks[i]]),
                offsets[i],
                lengths[i],
                hashes[32 * i:32 * i + 32],
            ))
            at += ranks[i]
        return tensors

    def _lay_out(self, columns, literals):
        """The pieces of the original in order: chunks, and literals from the index."""
        packed_lens, codecs, hashes = columns
        chunked = [s for s in self.spans if s.chunk_len]
        expected = sum(-(-s.raw_len // s.chunk_len) for s in chunked)
        check(expected == len(codecs), f"CHUNKS: {len(codecs)} chunks, the spans have {expected}")
        raw_lens = [min(s.chunk_len, s.raw_len - at) for s in chunked for at in range(0, s.raw_len, s.chunk_len)]
        for i, (raw_len, packed_len) in enumerate(zip(raw_lens, packed_lens, strict=True)):
            check(1 <= packed_len <= raw_len, f"CHUNKS: chunk {i} packs {raw_len} bytes in {packed_len}")
        check(HEADER_LEN + sum(packed_lens) == self.index_offset, "CHUNKS: packed lengths do not end at the index")
        literal_len = sum(s.raw_len for s in self.spans if not s.chunk_len)
        check(literals is not None or not literal_len, "index: no section LITERALS")
        literals = literals or b""
        check(len(literals) == literal_len, f"LITERALS: {len(literals)} bytes, the spans have {literal_len}")
        check(literal_len <= MAX_LITERALS, f"LITERALS: {literal_len} bytes")

        self.chunks = []
        self._pieces = []
        packed_offsets = accumulate(packed_lens, initial=HEADER_LEN)
        chunks = zip(raw_lens, packed_offsets, packed_lens, codecs, hashes)
        literal = 0
        for span in self.spans:
            if span.chunk_len:
                for at in range(0, span.raw_len, span.chunk_len):
                    self.chunks.append(Chunk(span.raw_offset + at, *next(chunks)))
                    self._pieces.append(self.chunks[-1])
            else:
                self._pieces.append(Literal(span.raw_offset, span.raw_len, literals[literal:literal + span.raw_len]))
                literal += span.raw_len
        self._starts = [p.raw_offset for p in self._pieces]

    def _check_tensors(self):
        end = 0
        for i, t in enumerate(self.tensors):
            check(t.offset >= end, f"TENSORS: tensor {i} is out of order or overlaps")
            end = t.offset + t.length
            check(end <= self.raw_len, f"TENSORS: tensor {i} ends at {end} of {self.raw_len}")

    def _piece(self, i):
        """All bytes of a piece; those of a chunk are proven by its hash."""
        piece = self._pieces[i]
        if isinstance(piece, Literal):
            return piece.data
        if self._cached and self._cached[0] == i:
            return self._cached[1]
        what = f"chunk at {piece.packed_offset}"
        packed = self._read_at(piece.packed_offset, piece.packed_len, what)
        raw = decode(piece.codec, packed, piece.raw_len, what)
        check(len(raw) == piece.raw_len, f"{what}: {len(raw)} bytes, not {piece.raw_len}")
        check(xxhash.xxh3_64_intdigest(raw) == piece.xxh3, f"{what}: checksum differs")
        self._cached = (i, raw)
        return raw

    def read(self, offset, size):
        """Bytes of the original; fewer than asked for at its end only."""
        if offset < 0 or size < 0:
            raise ValueError("offset and size must not be negative")
        end = min(offset + size, self.raw_len)
        parts = []
        while offset < end:
            i = bisect.bisect_right(self._starts, offset) - 1
            start = offset - self._starts[i]
            part = self._piece(i)[start:start + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def verify(self, write=lambda data: None):
        """Decodes everything, hands it to `write` piece by piece, and compares BLAKE3 and SHA-256."""
        whole = hashlib.sha256()
        tensors = iter(self.tensors)
        tensor = next(tensors, None)
        hasher = blake3.blake3()
        for i, piece in enumerate(self._pieces):
            data = memoryview(self._piece(i))
            whole.update(data)
            write(data)
            end = piece.raw_offset + piece.raw_len
            while tensor and tensor.offset < end:
                start = max(tensor.offset, piece.raw_offset) - piece.raw_offset
                stop = min(tensor.offset + tensor.length, end) - piece.raw_offset
                hasher.update(data[start:stop])
                if tensor.offset + tensor.length > end:
                    break
                check(hasher.digest() == tensor.blake3, f"tensor {tensor.name}: BLAKE3 differs")
                tensor = next(tensors, None)
                hasher = blake3.blake3()
        while tensor:
            check(hasher.digest() == tensor.blake3, f"tensor {tensor.name}: BLAKE3 differs")
            tensor = next(tensors, None)
        check(whole.digest() == self.info.sha256, "SHA-256 of the file differs")
        return whole.hexdigest()


def main():
    parser = argparse.ArgumentParser(description="Decode a .bs container and check all its hashes.")
    parser.add_argument("container")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the original here")
    arguments = parser.parse_args()
    partial = f"{arguments.output}.part{os.getpid()}" if arguments.output else os.devnull
    try:
        with Container.open(arguments.container) as container:
            try:
                with open(partial, "wb") as out:
                    sha256 = container.verify(out.write)
                if arguments.output:
                    os.replace(partial, arguments.output)
            except BaseException:
                if arguments.output and os.path.exists(partial):
                    os.unlink(partial)
                raise
            print(json.dumps({
                "sha256": sha256,
                "raw_bytes": container.raw_len,
                "chunks": len(container.chunks),
                "tensors": len(container.tensors),
            }))
    except (ContainerError, OSError) as e:
        sys.exit(f"{arguments.container}: {e}")


if __name__ == "__main__":
    main()
