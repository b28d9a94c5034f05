//! What the fuzz targets do with their input, and the form that it has. A panic is a finding; so is what
//! AddressSanitizer finds, which is why buffers here have exactly the length that they promise.

use std::cell::RefCell;
use std::sync::Arc;

use bsfs::foreign::bigsmall::codec::{self as bigsmall, Blob, Coding, Symbols};
use bsfs::codec::{self, Codec, Kernel, Mode, Numbers, PAD, Packed, Scratch};
use bsfs::engine::{Engine, EngineConfig};
use bsfs::foreign::bigsmall::Presented;
use bsfs::error::Damage;
use bsfs::format::Container;
use bsfs::format::checksum::checksum;
use bsfs::format::native::{HEADER_LEN, Header};
use bsfs::source::{MemorySource, ReadAt};

/// Every kind of numbers, with rows that divide a vector, that do not, and none.
pub const KINDS: [Numbers; 16] = [
    Numbers::Unknown,
    Numbers::Integers { log2_width: 0 },
    Numbers::Integers { log2_width: 1 },
    Numbers::Integers { log2_width: 2 },
    Numbers::Integers { log2_width: 3 },
    Numbers::F8,
    Numbers::F16 { row: 0 },
    Numbers::F16 { row: 1 },
    Numbers::F16 { row: 64 },
    Numbers::F16 { row: 70 },
    Numbers::Bf16 { row: 0 },
    Numbers::Bf16 { row: 1 },
    Numbers::Bf16 { row: 192 },
    Numbers::Bf16 { row: u32::MAX },
    Numbers::F32,
    Numbers::F64,
];
/// Every mode.
pub const MODES: [Mode; 3] = [Mode::Balanced, Mode::Inference, Mode::Storage];

/// What is read of a container, at most: a few bytes can ask for 16 MiB a chunk, and time is better spent on others.
const MOST_READ: u64 = 1 << 17;

thread_local! {
    static KERNELS: RefCell<Vec<Scratch>> = RefCell::new(kernels());
}

fn kernels() -> Vec<Scratch> {
    Kernel::ALL.into_iter().filter_map(Scratch::with_kernel).collect()
}

/// One decode; `fill` is what lies behind the packed bytes and in the output before.
fn unpack(
    codec: Codec,
    packed: &[u8],
    (raw_len, base): (usize, &[u8]),
    fill: u8,
    scratch: &mut Scratch,
) -> Result<Box<[u8]>, Damage> {
    let padded = [packed, &[fill; PAD]].concat().into_boxed_slice();
    let mut out = vec![fill; raw_len].into_boxed_slice();
    let packed = Packed::new(&padded, packed.len()).expect("padding was added");
    codec::decode_against(codec, packed, base, &mut out, scratch).map(|()| out)
}

/// A target: its name, which is that of its seeds, and what it does with its input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of `fuzz_targets`.
pub const TARGETS: [Target; 13] = [
    ("constant", |data| decode(Codec::Constant, data)),
    ("zstd", |data| decode(Codec::Zstd, data)),
    ("planes", |data| decode(Codec::Planes, data)),
    ("classes", |data| decode(Codec::Classes, data)),
    ("exponents", |data| decode(Codec::Exponents, data)),
    ("grid", |data| decode(Codec::Grid, data)),
    ("delta", |data| decode_against(Codec::Delta, data)),
    ("difference", |data| decode_against(Codec::Difference, data)),
    ("round_trip", round_trip),
    ("against", against),
    ("container", container),
    ("bigsmall_file", bigsmall_file),
    ("bigsmall_blob", bigsmall_blob),
];

/// Raw length less one (u16), then packed bytes: every kernel must give the same bytes or the same error.
pub fn decode(codec: Codec, data: &[u8]) {
    decode_with(codec, data, |_| Box::default());
}

/// The same for a codec that needs a base: [`base`].
pub fn decode_against(codec: Codec, data: &[u8]) {
    decode_with(codec, data, base);
}

/// Something like weights of two bytes, and as good for other widths: what fuzzed chunks are decoded against.
pub fn base(len: usize) -> Box<[u8]> {
    let mut state = 1_u64;
    let byte = |i: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let noise = (state >> 56) as u8;
        if i % 2 == 1 { 0x3a + (state >> 40 & 3) as u8 | noise & 0x80 } else { noise }
    };
    (0..len).map(byte).collect()
}

fn decode_with(codec: Codec, data: &[u8], base: impl Fn(usize) -> Box<[u8]>) {
    let Some((len, packed)) = data.split_first_chunk() else { return };
    let raw_len = usize::from(u16::from_le_bytes(*len)) + 1;
    let base = base(raw_len);
    let raw_len = (raw_len, &*base);
    KERNELS.with_borrow_mut(|kernels| {
        let mut first = None;
        for scratch in kernels {
            let kernel = scratch.kernel();
            let got = unpack(codec, packed, raw_len, 0xa5, scratch);
            if first.is_none() && got.is_ok() {
                // A sound chunk depends on nothing else: other padding, other output, a scratch that never saw a chunk.
                let mut fresh = Scratch::with_kernel(kernel).expect("there was one");
                let again = unpack(codec, packed, raw_len, 0, &mut fresh);
                assert!(again == got, "{kernel:?}: depends on more than the packed bytes");
            }
            let first = first.get_or_insert_with(|| got.clone());
            assert!(
                got == *first,
                "{kernel:?} gives {:?}, another kernel {:?}",
                got.as_ref().map(|_| "bytes"),
                first.as_ref().map(|_| "bytes")
            );
        }
    });
}

/// Kind of numbers and mode (u8), then raw bytes: every kernel packs them alike, into no more bytes, and gives them back.
pub fn round_trip(data: &[u8]) {
    let Some((&choice, raw)) = data.split_first() else { return };
    let numbers = KINDS[usize::from(choice) % KINDS.len()];
    let mode = MODES[usize::from(choice) / KINDS.len() % MODES.len()];
    KERNELS.with_borrow_mut(|kernels| {
        let mut first = None;
        for scratch in kernels {
            let kernel = scratch.kernel();
            let mut packed = Vec::new();
            let codec = codec::encode(numbers, mode, raw, &mut packed, scratch);
            assert!(packed.len() <= raw.len(), "{} bytes became {}", raw.len(), packed.len());
            let back = unpack(codec, &packed, (raw.len(), &[]), 0xa5, scratch);
            assert!(back.as_deref() == Ok(raw), "{kernel:?}: {codec:?} does not come back");
            let first = first.get_or_insert_with(|| (codec, packed.clone()));
            assert!((codec, packed) == *first, "{kernel:?} packs otherwise, as {codec:?}");
        }
    });
}

/// Kind of numbers (u8), then the raw bytes, then as many of a base: as [`round_trip`], and never as many bytes as the limit.
pub fn against(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let numbers = KINDS[usize::from(choice) % KINDS.len()];
    let (raw, base) = rest.split_at(rest.len() / 2);
    let base = base.get(..raw.len()).expect("the longer half").to_vec().into_boxed_slice();
    for limit in [usize::MAX, raw.len(), usize::from(choice) * 4] {
        KERNELS.with_borrow_mut(|kernels| {
            let mut first = None;
            for scratch in kernels {
                let kernel = scratch.kernel();
                let mut packed = Vec::new();
                let found = codec::encode_against(numbers, (raw, &base), limit, &mut packed, scratch);
                if let Some(codec) = found {
                    assert!(packed.len() < limit, "{codec:?}: {} bytes, limit {limit}", packed.len());
                    let back = unpack(codec, &packed, (raw.len(), &base), 0xa5, scratch);
                    assert!(back.as_deref() == Ok(raw), "{kernel:?}: {codec:?} does not come back");
                }
                let made = found.map(|codec| (codec, packed));
                let first = first.get_or_insert_with(|| made.clone());
                assert!(made == *first, "{kernel:?} packs otherwise");
            }
        });
    }
}

/// Opens a container and reads what it shows. Behind a byte 0 lies a file as it is. Behind another byte lies what
/// [`forge`] makes a file of: a fuzzer cannot guess checksums.
pub fn container(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else { return };
    let file = match form {
        0 => rest.to_vec(),
        _ => match forge(rest) {
            Some(file) => file,
            None => return,
        },
    };
    let source = Arc::new(MemorySource::new("fuzz.bs", file));
    let Ok(container) = Container::open(&*source) else { return };
    let container = Arc::new(container);
    let (mut covered, mut pieces) = (0, 0);
    for piece in container.pieces().take(1000) {
        let len = match &piece {
            bsfs::format::Piece::Literal { raw_offset, range } => {
                assert_eq!(*raw_offset, covered);
                assert!(container.literals().get(range.clone()).is_some());
                range.len() as u64
            }
            bsfs::format::Piece::Chunk(chunk) => {
                assert_eq!(chunk.raw_offset, covered);
                u64::from(chunk.raw_len)
            }
        };
        covered += len;
        pieces += 1;
    }
    assert!(covered == container.raw_len() || pieces == 1000, "{covered} of {} bytes", container.raw_len());
    for tensor in container.tensors().iter().take(1000) {
        let _ = container.tensor_at(tensor.raw_offset);
    }
    let bases = container.bases();
    let whole: u64 = bases.within(0, container.raw_len()).map(|range| range.len).sum();
    let half = container.raw_len() / 2;
    let parts = bases.within(0, half).chain(bases.within(half, container.raw_len()));
    assert_eq!(parts.map(|range| range.len).sum::<u64>(), whole);
    for range in bases.ranges.iter().take(1000) {
        assert!(range.raw_end() <= container.raw_len());
        assert!(range.offset + range.len <= bases.refs[range.base as usize].raw_len);
    }
    let image = Engine::new(EngineConfig { memory: MOST_READ, ..EngineConfig::default() })
        .image(Arc::clone(&container), source);
    for piece in container.pieces().take(32) {
        let (offset, len) = match piece {
            bsfs::format::Piece::Literal { raw_offset, range } => (raw_offset, range.len() as u64),
            bsfs::format::Piece::Chunk(chunk) => (chunk.raw_offset, u64::from(chunk.raw_len)),
        };
        if len > MOST_READ {
            break;
        }
        if let Ok(bytes) = image.read_at(offset, len as usize) {
            assert_eq!(bytes.len() as u64, len);
        }
    }
}

/// A container with right checksums. `parts`: raw length of the original (u32), length of the chunks (u16), the packed
/// chunks, the index before it is packed.
pub fn forge(parts: &[u8]) -> Option<Vec<u8>> {
    let (raw_len, rest) = parts.split_first_chunk()?;
    let (chunks_len, rest) = rest.split_first_chunk()?;
    let (chunks, index) = rest.split_at_checked(u16::from_le_bytes(*chunks_len).into())?;
    let packed = zstd::bulk::compress(index, 1).ok()?;
    let index_offset = HEADER_LEN + chunks.len();
    let header = Header {
        minor: 0,
        flags: 0,
        container_len: (index_offset + packed.len()) as u64,
        raw_len: u32::from_le_bytes(*raw_len).into(),
        index_offset: index_offset as u64,
        index_packed_len: packed.len() as u32,
        index_raw_len: index.len() as u32,
        index_checksum: checksum(&packed),
    };
    Some([&header.to_bytes(), chunks, &packed].concat())
}

/// The inverse of [`forge`]: `None` for a container that is damaged or too large for it.
pub fn take_apart(file: &[u8]) -> Option<Vec<u8>> {
    let header = Header::parse(file.first_chunk()?, file.len() as u64, "seed".as_ref()).ok()?;
    let (chunks, packed) = file.split_at_checked(header.index_offset as usize)?;
    let chunks = chunks.get(HEADER_LEN..)?;
    let index = zstd::bulk::decompress(packed, header.index_raw_len as usize).ok()?;
    let raw_len = u32::try_from(header.raw_len).ok()?.to_le_bytes();
    let chunks_len = u16::try_from(chunks.len()).ok()?.to_le_bytes();
    Some([&raw_len[..], &chunks_len, chunks, &index[..]].concat())
}

/// Most bytes that a fuzzed tensor of BigSmall has.
const MOST_TENSOR: u64 = 1 << 20;

/// Opens a file of BigSmall and proves its tensors, if they are short.
pub fn bigsmall_file(data: &[u8]) {
    let source: Arc<dyn ReadAt> = Arc::new(MemorySource::new("fuzz.bs", data.to_vec()));
    let Ok(container) = bsfs::foreign::bigsmall::format::Container::open(&*source) else { return };
    let container = Arc::new(container);
    let Ok(presented) = Presented::new(&container, []) else { return };
    assert_eq!(presented.raw_len(), presented.header().len() as u64 + presented.tensor_bytes());
    if presented.tensor_bytes() > MOST_TENSOR {
        return;
    }
    let engine = Engine::new(EngineConfig { memory: MOST_READ, ..EngineConfig::default() });
    let image = engine.foreign(Arc::new(presented), source, None);
    let mut at = 0;
    while let Ok(bytes) = image.read_at(at, 1 << 16) {
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
}

/// Decodes a blob of BigSmall: a byte for the coding, three for the tensor's length, one for the length of windows, then the
/// blob. States that were noted lead to the same bytes.
pub fn bigsmall_blob(data: &[u8]) {
    let Some((&[coding, a, b, c, window], blob)) = data.split_first_chunk::<5>() else { return };
    let (coding, ..) = Coding::ALL[usize::from(coding) % Coding::ALL.len()];
    let elem = coding.elem_bytes().max(1);
    let raw_len = (u64::from(u32::from_le_bytes([a, b, c, 0])) % MOST_TENSOR) / elem * elem;
    let window = (usize::from(window) + 1) * 8;
    let blob: Arc<dyn Blob> = Arc::new(Bytes(blob.to_vec()));
    let Ok((mut front, mut back)) = bigsmall::open(coding, Arc::clone(&blob), raw_len, 4096) else { return };
    let mut symbols = Symbols::default();
    let mut noted = None;
    let mut whole = Vec::new();
    while (whole.len() as u64) < raw_len {
        let len = window.min(raw_len as usize - whole.len());
        if whole.len() > raw_len as usize / 2 && noted.is_none() {
            noted = front.state().zip(back.state()).map(|states| (whole.len(), states));
        }
        let mut out = vec![0; len];
        if front.window(len, &mut symbols).is_err() || back.window(&symbols, &mut out).is_err() {
            return;
        }
        whole.extend_from_slice(&out);
    }
    let _ = (front.finish(), back.finish());
    let Some((at, states)) = noted else { return };
    let Ok((mut front, mut back)) = bigsmall::open(coding, blob, raw_len, 4096) else { panic!("opened once") };
    assert!(front.resume(at as u64, &states.0).is_ok() && back.resume(at as u64, &states.1).is_ok());
    let mut out = vec![0; window.min(raw_len as usize - at)];
    assert!(front.window(out.len(), &mut symbols).is_ok() && back.window(&symbols, &mut out).is_ok());
    assert_eq!(out, whole[at..at + out.len()]);
}

struct Bytes(Vec<u8>);

impl Blob for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), bsfs::Error> {
        to.copy_from_slice(&self.0[at as usize..at as usize + to.len()]);
        Ok(())
    }
}
