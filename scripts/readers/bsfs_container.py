"""Reader of .bs containers, written from src/format/native/FORMAT.md alone: it shows that the page suffices.

    python bsfs_container.py FILE.bs [--base FILE ...] [-o OUT]

decodes everything, checks every chunk's XXH3, every tensor's BLAKE3 and the file's SHA-256, and prints a line of JSON.
With -o it writes the original too, under its name only once all is proven. Status 0: sound; 1: not, or not readable.
What the container is coded against is looked for, by its BLAKE3, in the files of --base alone: safetensors or containers,
of which some may need others.

As a module: Container.open(path, Bases(paths)) does every check that needs no chunk, read(offset, size) gives bytes of the
original, tensors lists what the container says of them. Needs Python 3.11 and requirements-light.txt.
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
INDEX_SURPLUS = 16 * MIB
INDEX_RATIO = 48
INDEX_INFLATION = 512 * MIB
MAX_CHUNK = 16 * MIB
MAX_LITERALS = MIB
# Of a safetensors file that is given as a base.
MAX_HEADER = 100_000_000
# Files that are read one for another.
MAX_DEPTH = 8
CACHED_PIECES = 4

FILE, SPANS, CHUNKS, LITERALS, TENSORS, BASES, BASE_RANGES = 1, 2, 3, 4, 5, 7, 8
SECTIONS = {FILE: "FILE", SPANS: "SPANS", CHUNKS: "CHUNKS", LITERALS: "LITERALS", TENSORS: "TENSORS", BASES: "BASES",
            BASE_RANGES: "BASE RANGES"}

RAW, CONSTANT, ZSTD, PLANES, CLASSES, EXPONENTS, GRID, BASE, DELTA, DIFFERENCE = range(10)
AGAINST_BASE = (BASE, DELTA, DIFFERENCE)
ITSELF, TENSOR = 0, 1
XOR, SUBTRACT, FLOATS = 0, 1, 2
PLANE_RAW, PLANE_CONSTANT, PLANE_RANS = 0, 1, 2
TOP_BYTE, BF16 = 0, 1

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LANES = 64
TILE = 512
PLANE_BITS, CLASS_BITS, EXPONENT_BITS = 12, 11, 7
MAX_CLASSES = 8
RANKS = 32
MAX_BASE = 482
MAX_EXPONENTS = 16
MAX_GROUPS, MAX_TABLES = 16, 64


class ContainerError(Exception):
    """The container cannot be read."""


class Damaged(ContainerError):
    """The container is no container, or not as it was written."""


class Unsupported(ContainerError):
    """The container may be sound, but uses what this reader does not know."""


def check(holds, message):
    if not holds:
        raise Damaged(message)


class BaseMissing(ContainerError):
    """The container is coded against what no file has that was given, or none that can be read without itself."""


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


class Base(NamedTuple):
    kind: int
    length: int
    blake3: bytes
    name: str
    hint: str


class BaseRange(NamedTuple):
    raw_offset: int
    length: int
    base: int
    base_offset: int


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


class Slots(NamedTuple):
    """What each slot of one or more tables means; slot s of table k is entry (k << bits) + s."""

    bits: int
    symbol: np.ndarray
    factor: np.ndarray
    offset: np.ndarray

    @classmethod
    def ascending(cls, bits, tables):
        """Of frequencies by symbol; symbols take their slots in ascending order."""
        symbol, factor, offset = [], [], []
        for frequency in tables:
            frequency = np.asarray(frequency)
            owner = np.repeat(np.arange(len(frequency)), frequency)
            start = np.cumsum(frequency) - frequency
            symbol.append(owner)
            factor.append(frequency[owner])
            offset.append(np.arange(1 << bits) - start[owner])
        return cls.of(bits, symbol, factor, offset)

    @classmethod
    def of(cls, bits, symbol, factor, offset):
        return cls(
            bits,
            np.concatenate(symbol).astype(np.uint8),
            np.concatenate(factor).astype(np.uint32),
            np.concatenate(offset).astype(np.uint32),
        )


# Where the symbol of each state lies in its block.
PLACE = np.array([16 * (t % 16 // 4) + 4 * (t // 16) + t % 16 % 4 for t in range(LANES)])


def in_place(symbols):
    """Blocks of symbols in the order of numbers, from the order of states, one behind the other."""
    blocks = np.empty_like(symbols)
    blocks[..., PLACE] = symbols
    return blocks.ravel()


def decode_states(streams, slots, blocks, first, what, word_size=2):
    """Symbols of each stream, `blocks` rows of 64 in the order of states. All streams at once.

    A stream is 64 states and words of half their size. The first entry of the table of every state is `first(block)`:
    a number, or an array that fits streams × 64.
    """
    low = 1 << 8 * word_size
    x = np.empty((len(streams), LANES), dtype=np.uint32)
    words = []
    for row, stream in enumerate(streams):
        fields = Fields(stream, f"{what}, stream {row}")
        x[row] = np.frombuffer(fields.take(2 * word_size * LANES), dtype=f"<u{2 * word_size}")
        check(bool(np.all(x[row] >= low)), f"{fields.what}: a state is too small")
        check(fields.left() % word_size == 0, f"{fields.what}: half a word")
        words.append(np.frombuffer(fields.take(fields.left()), dtype=f"<u{word_size}").astype(np.uint32))

    ends = np.cumsum([len(w) for w in words])
    next_word = ends - [len(w) for w in words]
    # Beyond the words of a stream come those of the next, then zeros: what is read there shows at the end.
    words = np.concatenate([*words, np.zeros(1, dtype=np.uint32)])
    mask, bits, shift = np.uint32((1 << slots.bits) - 1), np.uint32(slots.bits), np.uint32(8 * word_size)
    entries = np.empty((len(streams), blocks, LANES), dtype=np.uint32)
    for block in range(blocks):
        entry = (x & mask) + first(block)
        entries[:, block] = entry
        x = slots.factor[entry] * (x >> bits) + slots.offset[entry]
        small = x < low
        taken = np.cumsum(small, axis=1)
        word = words.take(taken + (next_word[:, None] - 1), mode="clip")
        x = np.where(small, (x << shift) | word, x)
        next_word = next_word + taken[:, -1]
    for row in range(len(streams)):
        check(next_word[row] == ends[row], f"{what}, stream {row}: words left over or missing")
    check(bool(np.all(x == low)), f"{what}: states do not end where they began")
    return slots.symbol[entries]


# Codec 3


def plane_frequencies(fields, what):
    """The table of a plane: the frequency of each byte."""
    count = fields.number(1) + 1
    if count <= 32:
        symbols = np.frombuffer(fields.take(count), dtype=np.uint8)
        check(bool(np.all(symbols[1:] > symbols[:-1])), f"{what}: symbols are not ascending")
    else:
        bitmap = np.frombuffer(fields.take(32), dtype=np.uint8)
        symbols = np.flatnonzero(np.unpackbits(bitmap, bitorder="little"))
        check(len(symbols) == count, f"{what}: {len(symbols)} symbols, not {count}")
    frequency = [0] * 256
    for symbol in symbols.tolist():
        less_one = fields.number(1)
        if less_one >= 128:
            high = fields.number(1)
            check(high < 32, f"{what}: a frequency is too long")
            less_one += 128 * (high - 1)
        frequency[symbol] = less_one + 1
    check(sum(frequency) == 1 << PLANE_BITS, f"{what}: frequencies sum to {sum(frequency)}")
    return frequency


def decode_rans(streams, count, what):
    """Planes of `count` bytes from their streams, all at once: each step takes 64 bytes of every plane."""
    tables, rest = [], []
    for row, stream in enumerate(streams):
        fields = Fields(stream, f"{what}, rANS stream {row}")
        tables.append(plane_frequencies(fields, fields.what))
        rest.append(fields.take(fields.left()))
    slots = Slots.ascending(PLANE_BITS, tables)
    first = (np.arange(len(streams), dtype=np.uint32) << PLANE_BITS)[:, None]
    symbols = decode_states(rest, slots, -(-count // LANES), lambda block: first, what)
    return [in_place(plane)[:count] for plane in symbols]


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


# Codecs 4, 5 and 6


class Bits:
    """Fields of bits, the lowest first."""

    def __init__(self, data, what):
        self.data = data
        self.at = 0
        self.what = what

    def number(self, bits):
        check(self.at + bits <= 8 * len(self.data), f"{self.what}: the bits end too early")
        here = int.from_bytes(self.data[self.at // 8:self.at // 8 + 4], "little")
        value = here >> self.at % 8 & ((1 << bits) - 1)
        self.at += bits
        return value


def table_of_bits(bits, live, log2_slots, what):
    """Frequencies that sum to 2^log2_slots, of the symbols that `live` lists among 32 or 256."""
    implied = bits.number((len(live) - 1).bit_length())
    check(live[implied], f"{what}: the implied symbol {implied} does not occur")
    frequency = [0] * len(live)
    length = 0
    for symbol in range(len(live)):
        if not live[symbol] or symbol == implied:
            continue
        if bits.number(1):
            if not bits.number(1):
                length += -1 if bits.number(1) else 1
            elif not bits.number(1):
                length += -2 if bits.number(1) else 2
            else:
                length = bits.number(4)
        check(0 <= length <= 12, f"{what}: a frequency of {length} bits")
        if length == 0:
            continue
        kept = min(length - 1, 4)
        frequency[symbol] = ((1 << kept) + bits.number(kept)) << (length - 1 - kept)
    check(sum(frequency) < 1 << log2_slots, f"{what}: the stored frequencies sum to {sum(frequency)}")
    frequency[implied] = (1 << log2_slots) - sum(frequency)
    return frequency


def take_ids(fields, count, below, what):
    """Numbers below `below`, in the fewest bits that hold them."""
    width = (below - 1).bit_length()
    data = np.frombuffer(fields.take(-(-count * width // 8)), dtype=np.uint8)
    if not width:
        return np.zeros(count, dtype=np.uint32)
    bits = np.unpackbits(data, bitorder="little")[:count * width].reshape(count, width)
    ids = (bits.astype(np.uint32) << np.arange(width, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    check(bool(np.all(ids < below)), f"{what}: an id of {below} or more")
    return ids


class Numbers:
    """How the bytes of a chunk are divided, and its head and tail once they are read."""

    def __init__(self, fields, raw_len, widths):
        grain = fields.number(1)
        self.width = 1 << (grain & 3)
        skip = grain >> 2
        check(self.width in widths and skip < self.width, f"{fields.what}: grain {grain:#04x}")
        self._head_len = min(skip, raw_len)
        self.count = (raw_len - self._head_len) // self.width
        self._tail_len = raw_len - self._head_len - self.count * self.width
        self.blocks = -(-self.count // LANES)

    def take_ends(self, fields):
        self._head = fields.take(self._head_len)
        self._tail = fields.take(self._tail_len)

    def tiles(self):
        """The numbers in each tile."""
        return [min(TILE, self.count - at) for at in range(0, self.count, TILE)]

    def join(self, body):
        return self._head + body.tobytes() + self._tail


def group_len(n, bits):
    """Bytes of a tile of n numbers, of each of which three, six or seven bits are stored."""
    return min(n, bits * LANES)


def ungroup(data, n, bits):
    """The numbers of `bits` bits of a tile of n, which `data` holds."""
    if n < bits * LANES:
        return data & ((1 << bits) - 1)
    rows = data.reshape(bits, LANES)
    out = np.empty((8, LANES), dtype=np.uint8)
    if bits == 7:
        out[:7] = rows & 0x7F
        out[7] = sum((rows[k] >> 7) << k for k in range(7))
    elif bits == 6:
        out[:6] = rows & 0x3F
        for h in range(2):
            out[6 + h] = sum((rows[3 * h + k] >> 6) << 2 * k for k in range(3))
    else:
        out[0:6:2] = rows & 7
        out[1:6:2] = rows >> 3 & 7
        six = sum((rows[k] >> 6) << 2 * k for k in range(3))
        out[6] = six & 7
        out[7] = six >> 3
    return out.ravel()[:n]


def take_groups(fields, numbers, bits):
    """Groups of bits, tile by tile."""
    tiles = [ungroup(np.frombuffer(fields.take(group_len(n, bits)), dtype=np.uint8), n, bits) for n in numbers.tiles()]
    return np.concatenate(tiles) if tiles else np.empty(0, dtype=np.uint8)


def take_low_halves(fields, numbers):
    tiles = numbers.tiles()
    # All values of two bits are modes.
    modes = take_ids(fields, len(tiles), 4, fields.what)
    low = np.zeros(numbers.count, dtype="<u2")
    at = 0
    for mode, n in zip(modes.tolist(), tiles, strict=True):
        if mode == 0:
            low[at:at + n] = np.frombuffer(fields.take(2 * n), dtype="<u2")
        elif mode == 1:
            low[at:at + n] = np.frombuffer(fields.take(n), dtype=np.uint8).astype(np.uint16) << 8
        elif mode == 2:
            data = np.frombuffer(fields.take(group_len(n, 3)), dtype=np.uint8)
            low[at:at + n] = ungroup(data, n, 3).astype(np.uint16) << 13
        at += n
    return low


def with_low_halves(words, low):
    if low is None:
        return words.astype("<u2")
    return (words.astype("<u4") << 16) | low


def put_escapes(words, escaped, escapes, what):
    """Words that are stored whole, in the places that `escaped` marks."""
    check(np.count_nonzero(escaped) == len(escapes), f"{what}: escapes left over or missing")
    words[escaped] = escapes


def alias_slots(tables):
    """Slots of classes: 32 buckets of 64, each shared by at most two ranks."""
    symbols, factors, offsets = [], [], []
    for frequency in tables:
        left = list(frequency)
        split, other, bias = [64] * RANKS, [0] * RANKS, [0] * RANKS
        small = [r for r in range(RANKS) if left[r] < 64]
        large = [r for r in range(RANKS) if left[r] >= 64]
        while small and large:
            s, donor = small.pop(), large[-1]
            split[s], other[s] = left[s], donor
            left[donor] -= 64 - left[s]
            bias[s] = left[donor] - left[s]
            if left[donor] < 64:
                small.append(large.pop())
        slot = np.arange(1 << CLASS_BITS)
        bucket, place = slot % RANKS, slot // RANKS
        own = place < np.array(split)[bucket]
        owner = np.where(own, bucket, np.array(other)[bucket])
        symbols.append(owner)
        factors.append(np.array(frequency)[owner])
        offsets.append(np.where(own, place, place + np.array(bias)[bucket]))
    return Slots.of(CLASS_BITS, symbols, factors, offsets)


def decode_classes(packed, raw_len, what):
    fields = Fields(packed, what)
    numbers = Numbers(fields, raw_len, (1, 2, 4))
    classes = fields.number(1) + 1
    check(classes <= MAX_CLASSES, f"{what}: {classes} classes")
    base = fields.number(2)
    check(base <= MAX_BASE, f"{what}: a window at {base}")
    words_len = fields.number(4)
    escape_count = fields.number(4)
    bits = Bits(fields.take(fields.number(2)), what)
    tables = [table_of_bits(bits, [True] * RANKS, CLASS_BITS, what) for _ in range(classes)]
    check(all(t[0] for t in tables), f"{what}: a class in which rank 0 has no slot")
    numbers.take_ends(fields)
    class_of = take_ids(fields, len(numbers.tiles()), classes, what)
    residual = take_groups(fields, numbers, 3 if numbers.width == 1 else 7)
    low = take_low_halves(fields, numbers) if numbers.width == 4 else None
    escapes = np.frombuffer(fields.take(2 * escape_count), dtype="<u2")
    stream = fields.take(fields.left())
    check(len(stream) == 4 * LANES + words_len, f"{what}: states and words of {len(stream)} bytes")

    first = (class_of << CLASS_BITS).tolist()
    ranks = decode_states([stream], alias_slots(tables), numbers.blocks, lambda block: first[block // 8], what)
    ranks = in_place(ranks)[:numbers.count]
    if numbers.width == 1:
        check(escape_count == 0, f"{what}: escapes, which bytes have not")
        return numbers.join(ranks << 2 | (residual & 3) | (residual & 4) << 5)
    symbol_of = np.array([0, 0, *range(base, base + RANKS - 2)], dtype=np.uint16)
    residual = residual.astype(np.uint16)
    words = symbol_of[ranks] << 6 | (residual & 0x3F) | (residual & 0x40) << 9
    put_escapes(words, ranks == 0, escapes, what)
    return numbers.join(with_low_halves(words, low))


def decode_exponents(packed, raw_len, what):
    fields = Fields(packed, what)
    numbers = Numbers(fields, raw_len, (2, 4))
    used = fields.number(1) + 1
    check(used <= MAX_EXPONENTS, f"{what}: {used} exponents")
    pairs = [(fields.number(1), fields.number(1)) for _ in range(used)]
    frequency = [f for _, f in pairs]
    check(all(frequency) and sum(frequency) == 1 << EXPONENT_BITS, f"{what}: slots of exponents: {frequency}")
    words_len = fields.number(4)
    exceptions_len = fields.number(4)
    numbers.take_ends(fields)
    residual = np.frombuffer(fields.take(numbers.count), dtype=np.uint8).astype(np.uint16)
    low = take_low_halves(fields, numbers) if numbers.width == 4 else None
    exceptions = fields.take(exceptions_len)
    stream = fields.take(fields.left())
    check(len(stream) == 2 * LANES + words_len, f"{what}: states and bytes of {len(stream)} bytes")

    slots = Slots.ascending(EXPONENT_BITS, [frequency])
    ranks = decode_states([stream], slots, numbers.blocks, lambda block: np.uint32(0), what, word_size=1)
    exponents = np.array([e for e, _ in pairs], dtype=np.uint16)[ranks.ravel()[:numbers.count]]
    at = 0
    exceptions = iter(exceptions)
    for since in exceptions:
        at += since
        if since == 255:
            continue
        exponent = next(exceptions, None)
        check(exponent is not None, f"{what}: half an exception")
        check(at < numbers.count, f"{what}: an exception at number {at} of {numbers.count}")
        exponents[at] = exponent
        at += 1
    words = exponents << 7 | (residual & 0x7F) | (residual & 0x80) << 8
    return numbers.join(with_low_halves(words, low))


def decode_grid(packed, raw_len, what):
    fields = Fields(packed, what)
    numbers = Numbers(fields, raw_len, (1, 2))
    how = fields.number(1)
    layout, log2_slots = how & 1, 10 + (how >> 1)
    check(log2_slots <= 12 and (layout == TOP_BYTE or numbers.width == 2), f"{what}: layout and slots {how:#04x}")
    row_groups = fields.number(1) + 1
    column_groups = fields.number(1) + 1
    check(row_groups <= MAX_GROUPS and column_groups <= MAX_GROUPS and row_groups * column_groups <= MAX_TABLES,
          f"{what}: {row_groups} × {column_groups} groups")
    row_blocks = fields.number(2)
    check(row_blocks >= 1, f"{what}: rows without numbers")
    base = fields.number(2)
    words_len = fields.number(4)
    escapes_len = fields.number(4)
    bits = Bits(fields.take(fields.number(4)), what)
    live = [bool(bits.number(1)) for _ in range(256)]
    tables = [table_of_bits(bits, live, log2_slots, what) for _ in range(row_groups * column_groups)]
    numbers.take_ends(fields)
    columns = take_ids(fields, row_blocks * LANES, column_groups, what)
    rows = take_ids(fields, -(-numbers.blocks // row_blocks), row_groups, what)
    if layout == BF16:
        residual = take_groups(fields, numbers, 6)
    else:
        residual = np.frombuffer(fields.take(numbers.count * (numbers.width - 1)), dtype=np.uint8)
    check(escapes_len % 2 == 0, f"{what}: half an escape")
    escapes = np.frombuffer(fields.take(escapes_len), dtype="<u2")
    stream = fields.take(fields.left())
    check(len(stream) == 4 * LANES + words_len, f"{what}: states and words of {len(stream)} bytes")

    columns = columns.reshape(row_blocks, LANES)[:, PLACE] << log2_slots
    rows = (rows * np.uint32(column_groups)) << log2_slots
    symbols = decode_states(
        [stream],
        Slots.ascending(log2_slots, tables),
        numbers.blocks,
        lambda block: columns[block % row_blocks] + rows[block // row_blocks],
        what,
    )
    symbols = in_place(symbols)[:numbers.count]
    if layout == BF16:
        residual = residual.astype(np.uint16)
        words = (symbols.astype(np.uint16) + np.uint16((base - 1) % 1024)) % 1024 << 5
        words |= (residual & 0x1F) | (residual & 0x20) << 10
        put_escapes(words, symbols == 0, escapes, what)
        return numbers.join(words.astype("<u2"))
    check(escapes_len == 0, f"{what}: escapes, which this layout has not")
    if numbers.width == 1:
        return numbers.join(symbols)
    return numbers.join((symbols.astype("<u2") << 8) | residual)


# Codecs 7, 8 and 9


def as_numbers(data, width):
    """The numbers of `width` bytes that `data` begins with, and the bytes behind them."""
    count = len(data) // width
    return np.frombuffer(data, dtype=f"<u{width}", count=count), np.frombuffer(data, dtype=np.uint8, offset=count * width)


def undo_difference(op, z, y):
    """The numbers x of which z are the differences from y: arrays of unsigned numbers of one width, which wrap."""
    if op == XOR:
        return z ^ y
    bits = 8 * z.dtype.itemsize
    one = z.dtype.type(1)
    half = z >> one
    d = np.where(z & one, ~half, half)  # -(z + 1) / 2 is -1 - (z - 1) / 2, which does not leave the width
    if op == SUBTRACT:
        return y + d
    top = z.dtype.type(1 << bits - 1)
    p = (y & ~top) + d
    return np.where(p & top, ~p | ((y & top) ^ top), p | (y & top))


def take_delta_values(symbols, extra, what):
    """Differences of two bytes from their symbols: short ones are symbols, longer ones have extra bytes."""
    lengths = np.where(symbols < 224, 0, np.where(symbols < 255, 1, 2))
    check(int(lengths.sum()) == len(extra), f"{what}: extra bytes left over or missing")
    at = np.cumsum(lengths) - lengths
    extra = np.concatenate([np.frombuffer(extra, dtype=np.uint8), np.zeros(2, dtype=np.uint8)]).astype(np.uint32)
    wide = symbols.astype(np.uint32)
    one = 224 + 256 * (wide - 224) + extra[at]
    two = extra[at] | extra[at + 1] << 8
    return np.where(lengths == 0, wide, np.where(lengths == 1, one, two)).astype("<u2")


def decode_delta(packed, counterpart, what):
    fields = Fields(packed, what)
    head = fields.number(1)
    width, op, log2_slots = 1 << (head & 1), head >> 1 & 3, 10 + (head >> 3 & 3)
    check(head >> 5 == 0 and op <= FLOATS and log2_slots <= 12, f"{what}: a delta's head is {head:#04x}")
    shift = fields.number(1)
    check(shift <= 7 if width == 1 else 7 <= shift <= 15, f"{what}: contexts are shifted by {shift}")
    groups = fields.number(1) + 1
    check(groups <= MAX_GROUPS, f"{what}: {groups} groups")
    least = [0, *fields.take(groups - 1)]
    check(all(a < b for a, b in zip(least, least[1:], strict=False)), f"{what}: groups begin at {least}")
    words_len = fields.number(4)
    extra_len = fields.number(4)
    bits = Bits(fields.take(fields.number(4)), what)
    live = [bool(bits.number(1)) for _ in range(256)]
    tables = [table_of_bits(bits, live, log2_slots, what) for _ in range(groups)]
    y, y_tail = as_numbers(counterpart, width)
    tail = np.frombuffer(fields.take(len(y_tail)), dtype=np.uint8)
    extra = fields.take(extra_len)
    stream = fields.take(fields.left())
    check(len(stream) == 4 * LANES + words_len, f"{what}: states and words of {len(stream)} bytes")

    blocks = -(-len(y) // LANES)
    table_of = np.zeros(blocks * LANES, dtype=np.uint32)
    contexts = (y & ((1 << 8 * width - 1) - 1)) >> shift
    table_of[:len(y)] = np.searchsorted(least, contexts, side="right") - 1
    table_of = table_of.reshape(blocks, LANES)[:, PLACE] << log2_slots
    symbols = decode_states(
        [stream], Slots.ascending(log2_slots, tables), blocks, lambda block: table_of[block], what
    )
    symbols = in_place(symbols)[:len(y)]
    if width == 1:
        check(extra_len == 0, f"{what}: extra bytes, which bytes have not")
        z = symbols
    else:
        z = take_delta_values(symbols, extra, what)
    return undo_difference(op, z, y).tobytes() + (tail ^ y_tail).tobytes()


def decode_difference(packed, counterpart, what):
    fields = Fields(packed, what)
    head = fields.number(1)
    op, width = head & 3, 1 << (head >> 2 & 3)
    check(head >> 4 == 0 and op <= FLOATS, f"{what}: a difference's head is {head:#04x}")
    inner = fields.number(1)
    check(inner in (CONSTANT, ZSTD, PLANES), f"{what}: differences in codec {inner}")
    stored = decode(inner, fields.take(fields.left()), len(counterpart), what)
    z, tail = as_numbers(stored, width)
    y, y_tail = as_numbers(counterpart, width)
    return undo_difference(op, z, y).tobytes() + (tail ^ y_tail).tobytes()


def decode_against(codec, packed, counterpart, what):
    """A chunk of a codec that uses its counterpart, which is as long as the chunk."""
    if codec == BASE:
        check(packed == b"\0", f"{what}: what is equal to its base has {packed[:8].hex()}")
        return counterpart
    if codec == DELTA:
        return decode_delta(packed, counterpart, what)
    return decode_difference(packed, counterpart, what)


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
    if codec == CLASSES:
        return decode_classes(packed, raw_len, what)
    if codec == EXPONENTS:
        return decode_exponents(packed, raw_len, what)
    if codec == GRID:
        return decode_grid(packed, raw_len, what)
    raise Unsupported(f"{what}: unknown codec {codec}")


# Files that containers are coded against


class Safetensors:
    """A plain file as a base: the place of each tensor, and its BLAKE3 once somebody asks."""

    def __init__(self, path):
        self._file = open(path, "rb")
        try:
            self._places = self._read_header()
        except BaseException:
            self._file.close()
            raise
        self._digests = {}

    def close(self):
        self._file.close()

    def _read_header(self):
        length = os.fstat(self._file.fileno()).st_size
        fields = Fields(self._file.read(8), "safetensors")
        header_len = fields.number(8)
        check(header_len <= min(length - 8, MAX_HEADER), f"safetensors: a header of {header_len} bytes")
        try:
            header = json.loads(self._file.read(header_len))
            offsets = [tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__"]
            places = [(8 + header_len + int(start), int(end) - int(start)) for start, end in offsets]
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise Damaged(f"safetensors: the header is no list of tensors ({e!r})") from None
        check(all(at >= 8 + header_len and size >= 0 and at + size <= length for at, size in places),
              "safetensors: a tensor outside the file")
        return places

    def find(self, base):
        """Where the bytes of `base` begin, or None."""
        for at, size in self._places:
            if size == base.length:
                if (at, size) not in self._digests:
                    self._digests[at, size] = blake3.blake3(self.read(at, size)).digest()
                if self._digests[at, size] == base.blake3:
                    return at
        return None

    def read(self, offset, size):
        self._file.seek(offset)
        data = self._file.read(size)
        check(len(data) == size, f"safetensors: {len(data)} bytes at {offset}, not {size}")
        return data


class Bases:
    """The files in which bases are looked for. They may be coded against each other.

    A file that has a base need not be of use: a tensor that a fine-tune left as it was is in the fine-tune too, as one that
    is equal to its base. So all files that have it are tried.
    """

    def __init__(self, paths=()):
        self._paths = list(paths)
        self._files = {}
        self._depth = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in self._files.values():
            file.close()

    def _open(self, path):
        if path not in self._files:
            with open(path, "rb") as file:
                is_container = file.read(8) == MAGIC
            try:
                self._files[path] = Container.open(path, self) if is_container else Safetensors(path)
            except ContainerError as e:
                raise type(e)(f"base {path}: {e}") from None
        return self._files[path]

    def read(self, base, offset, size):
        useless = ""
        if self._depth == MAX_DEPTH:
            raise BaseMissing(f"more than {MAX_DEPTH} files one for another")
        self._depth += 1
        try:
            for path in self._paths:
                file = self._open(path)
                try:
                    start = file.find(base)
                    if start is not None:
                        return file.read(start + offset, size)
                except BaseMissing:
                    useless += f"; {path} does, but needs one that is missing"
                except ContainerError as e:
                    raise type(e)(f"base {path}: {e}") from None
            raise BaseMissing(f"no file given with --base has {base.name!r} (BLAKE3 {base.blake3.hex()}), "
                              f"which was in {base.hint!r}{useless}")
        finally:
            self._depth -= 1


# The container


class Container:
    @classmethod
    def open(cls, path, bases=None):
        file = open(path, "rb")
        try:
            return cls(file, bases)
        except BaseException:
            file.close()
            raise

    def __init__(self, file, bases=None):
        self._file = file
        self._given = bases or Bases()
        self._cached = {}
        self._in_progress = set()
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
        check((BASES in bodies) == (BASE_RANGES in bodies), "index: one of BASES and BASE RANGES without the other")
        self.bases = self._read_bases(Fields(bodies[BASES], "BASES")) if BASES in bodies else []
        self.ranges = self._read_ranges(Fields(bodies[BASE_RANGES], "BASE RANGES")) if BASES in bodies else []
        self._range_starts = [r.raw_offset for r in self.ranges]
        self._check_references_to_itself()

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
        limit = container_len + INDEX_SURPLUS + min(INDEX_RATIO * packed_len, INDEX_INFLATION)
        check(index_len <= limit, f"header: an index of {index_len} bytes")
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

    @staticmethod
    def _read_bases(fields):
        fields.take(8)
        n = fields.number(4)
        kinds = fields.column(1, n)
        lengths = fields.column(8, n)
        digests = fields.take(32 * n)
        hint_of = fields.column(4, n)
        name_lens = fields.column(4, n)
        names = Fields(fields.take(sum(name_lens)), "BASES")
        hint_lens = fields.column(4, fields.number(4))
        hints = [text(fields.take(length), "BASES: a hint") for length in hint_lens]
        bases = []
        for i in range(n):
            check(hint_of[i] < len(hints), f"BASES: base {i} has hint {hint_of[i]} of {len(hints)}")
            name = text(names.take(name_lens[i]), "BASES: a name")
            bases.append(Base(kinds[i], lengths[i], digests[32 * i:32 * i + 32], name, hints[hint_of[i]]))
        return bases

    def _read_ranges(self, fields):
        n = fields.number(4)
        columns = [fields.column(size, n) for size in (8, 8, 4, 8)]
        ranges = [BaseRange(*values) for values in zip(*columns, strict=True)]
        end = 0
        for i, r in enumerate(ranges):
            what = f"BASE RANGES: range {i}"
            check(r.length >= 1, f"{what} is empty")
            check(r.raw_offset >= end, f"{what} is out of order or overlaps")
            end = r.raw_offset + r.length
            check(end <= self.raw_len, f"{what} ends at {end} of {self.raw_len}")
            check(r.base < len(self.bases), f"{what} is of base {r.base} of {len(self.bases)}")
            base = self.bases[r.base]
            base_len = min(base.length, self.raw_len) if base.kind == ITSELF else base.length
            check(r.base_offset + r.length <= base_len, f"{what} leads behind its base")
        return ranges

    def _piece_at(self, offset):
        return bisect.bisect_right(self._starts, offset) - 1

    def _check_references_to_itself(self):
        """What a range of kind 0 leads to lies in earlier pieces, of which none has such a range."""
        own = [r for r in self.ranges if self.bases[r.base].kind == ITSELF]
        changes = [0] * (len(self._pieces) + 1)
        for r in own:
            changes[self._piece_at(r.raw_offset)] += 1
            changes[self._piece_at(r.raw_offset + r.length - 1) + 1] -= 1
        with_range_before = list(accumulate((covered > 0 for covered in accumulate(changes)), initial=0))
        for r in own:
            first, last = self._piece_at(r.base_offset), self._piece_at(r.base_offset + r.length - 1)
            what = f"BASE RANGES: the range at {r.raw_offset}"
            check(last < self._piece_at(r.raw_offset), f"{what} leads to what is not before it")
            check(with_range_before[last + 1] == with_range_before[first], f"{what} leads to where another is")

    def _counterpart(self, piece):
        """What lies in bases where the ranges of a chunk lead, and 0 where there is none."""
        out = bytearray(piece.raw_len)
        end = piece.raw_offset + piece.raw_len
        for r in self.ranges[max(bisect.bisect_right(self._range_starts, piece.raw_offset) - 1, 0):]:
            if r.raw_offset >= end:
                break
            start, stop = max(r.raw_offset, piece.raw_offset), min(r.raw_offset + r.length, end)
            if start >= stop:
                continue
            base, at = self.bases[r.base], r.base_offset + start - r.raw_offset
            if base.kind == ITSELF:
                data = self.read(at, stop - start)
            elif base.kind == TENSOR:
                data = self._given.read(base, at, stop - start)
            else:
                raise BaseMissing(f"a base of the unknown kind {base.kind}")
            out[start - piece.raw_offset:stop - piece.raw_offset] = data
        return bytes(out)

    def find(self, base):
        """Where a tensor of this container begins that is `base`, or None."""
        for tensor in self.tensors:
            if tensor.length == base.length and tensor.blake3 == base.blake3:
                return tensor.offset
        return None

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
        if i in self._cached:
            return self._cached[i]
        what = f"chunk at {piece.packed_offset}"
        packed = self._read_at(piece.packed_offset, piece.packed_len, what)
        if piece.codec in AGAINST_BASE:
            if i in self._in_progress:
                raise BaseMissing(f"{what} is needed for itself")
            self._in_progress.add(i)
            try:
                raw = decode_against(piece.codec, packed, self._counterpart(piece), what)
            finally:
                self._in_progress.remove(i)
        else:
            raw = decode(piece.codec, packed, piece.raw_len, what)
        check(len(raw) == piece.raw_len, f"{what}: {len(raw)} bytes, not {piece.raw_len}")
        check(xxhash.xxh3_64_intdigest(raw) == piece.xxh3, f"{what}: checksum differs")
        if len(self._cached) >= CACHED_PIECES:
            del self._cached[next(iter(self._cached))]
        self._cached[i] = raw
        return raw

    def read(self, offset, size):
        """Bytes of the original; fewer than asked for at its end only."""
        if offset < 0 or size < 0:
            raise ValueError("offset and size must not be negative")
        end = min(offset + size, self.raw_len)
        parts = []
        while offset < end:
            i = self._piece_at(offset)
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
    parser.add_argument("--base", metavar="FILE", action="append", default=[],
                        help="a safetensors file or a container that it is coded against; may be repeated")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the original here")
    arguments = parser.parse_args()
    partial = f"{arguments.output}.part{os.getpid()}" if arguments.output else os.devnull
    try:
        with Bases(arguments.base) as bases, Container.open(arguments.container, bases) as container:
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
