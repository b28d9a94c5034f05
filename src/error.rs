//! The one error type of the library.
//!
//! Every variant carries data: which file, where, what was expected and what was found. The text says what to
//! do where there is something to do. The tables that turn an error into an errno or an exit code live at the
//! edges (`mount::errno`, the binary's `exit`), as exhaustive matches.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::escape::Escape;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    Io {
        /// What was being done, as a verb phrase: "read", "create".
        op: &'static str,
        /// The file; empty for this process itself.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is no container that this crate knows.
    NotAContainer {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most 16.
        found: Vec<u8>,
    },
    /// The file is a container, but it needs something that this release does not have.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it needs, for example "container version 2" or "codec 77".
        what: String,
    },
    /// The file ends before the bytes that it promised.
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes expected.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// Header or index of a container break a rule of the format.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which part, and where: "index, span 3".
        part: String,
        /// The rule that is broken, with the values expected and found.
        detail: String,
    },
    /// A chunk could not be decoded, or its bytes are not the ones that were compressed.
    Chunk {
        /// The file.
        path: PathBuf,
        /// Name of the tensor in the chunk, empty when the bytes belong to none.
        tensor: String,
        /// Offset of the chunk in the original file, in bytes.
        raw_offset: u64,
        /// Offset of its packed bytes in the container.
        packed_offset: u64,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Decoding worked, but the result is not what the container (or the original) says.
    Differs {
        /// The file.
        path: PathBuf,
        /// What differs: "SHA-256 of the file", "BLAKE3 of tensor x", "byte at offset 12".
        what: String,
        /// The value expected.
        expected: String,
        /// The value found.
        got: String,
    },
    /// Another file that a container refers to is not there.
    NoBase {
        /// The container.
        path: PathBuf,
        /// What was looked for, for example a tensor and its digest; empty for a whole file.
        want: String,
        /// The other file, as it was called when the container was written; may be empty.
        hint: String,
        /// Why a file that might be it was not taken; may be empty.
        why: String,
    },
    /// A number is above what this release accepts.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Which number.
        what: &'static str,
        /// The largest value accepted.
        limit: u64,
        /// The value found.
        got: u64,
    },
    /// The output is there already.
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A file changed while it was read.
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An encoder produced something that does not decode to its input. Nothing was written.
    NotLossless {
        /// The input file.
        path: PathBuf,
        /// Offset of the chunk in it, in bytes.
        raw_offset: u64,
        /// The codec's name.
        codec: &'static str,
    },
    /// A server does not give what is asked for.
    Remote {
        /// The file or directory, without what may be secret in its address.
        path: PathBuf,
        /// What happened, and what to do.
        message: String,
        /// The server does not answer at all, which was logged when it began.
        outage: bool,
    },
    /// The request makes no sense as given: a wrong path, a wrong combination.
    Invalid {
        /// What is wrong and what to do.
        message: String,
    },
    /// A server could not be reached, refused, or answered with what makes no sense.
    Server {
        /// What was asked for, without secrets: "hf://org/name@main/config.json".
        what: String,
        /// The HTTP status; `None` when there was no answer, or when the answer was the problem.
        status: Option<u16>,
        /// Whether another try later may work.
        again: bool,
        /// What the server asks to wait until then, seconds (`Retry-After`).
        after: Option<u64>,
        /// What is wrong and what to do.
        message: String,
    },
    /// A mount could not be made, found or ended.
    Mount {
        /// The mount point.
        mount_point: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The user or the system asked to stop.
    Interrupted,
}

/// What a file that is no container is by its first bytes, if they are known, and what to do with it.
fn looks_like(first: &[u8]) -> Option<&'static str> {
    let starts = |with: &[u8]| first.starts_with(with);
    let is_safetensors = || {
        let (len, rest) = first.split_first_chunk::<8>()?;
        // The length of the header, and its first byte.
        Some((2..=100_000_000).contains(&u64::from_le_bytes(*len)) && rest.first() == Some(&b'{'))
    };
    if is_safetensors() == Some(true) {
        Some(
            "it is plain safetensors, not compressed; \"bsfs compress\" makes a container of it, \"bsfs estimate\" says how large",
        )
    } else if starts(b"GGUF") {
        Some(
            "it is plain GGUF, not compressed; \"bsfs compress\" makes a container of it, \"bsfs estimate\" says how large",
        )
    } else if starts(b"PK\x03\x04") {
        Some(
            "it is a zip archive, such as a PyTorch file, not compressed by bsfs; \"bsfs compress\" makes a container of it",
        )
    } else if starts(b"version https://") {
        Some("it is a Git LFS pointer and not the file that it stands for; get that with \"git lfs pull\"")
    } else if starts(b"<!DOCTYPE") || starts(b"<!doctype") || starts(b"<html") {
        Some("it is a page of HTML, such as a server's error or login page; download the file again")
    } else {
        None
    }
}

/// Whether these first bytes of a file are text.
fn is_text(first: &[u8]) -> bool {
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        // The last character is cut.
        Err(e) if e.error_len().is_none() => first.utf8_chunks().next().map_or("", |chunk| chunk.valid()),
        Err(_) => "",
    };
    !text.is_empty() && !text.contains(|c: char| c.is_control() && !c.is_whitespace())
}

/// What is wrong with one packed chunk. Pure codecs return this; the reader adds file and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The rule that is broken.
    pub rule: &'static str,
    /// The value expected (meaning depends on the rule).
    pub expected: u64,
    /// The value found.
    pub got: u64,
}

impl Damage {
    /// A broken rule with the two values.
    #[must_use]
    pub const fn new(rule: &'static str, expected: u64, got: u64) -> Self {
        Self { rule, expected, got }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.expected > 0xffff_ffff || self.got > 0xffff_ffff {
            write!(f, "{}: expected {:#x}, got {:#x}", self.rule, self.expected, self.got)
        } else {
            write!(f, "{}: expected {}, got {}", self.rule, self.expected, self.got)
        }
    }
}

impl Error {
    /// Whether the disk is full, which every further file would meet as well.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    /// Whether the file is known to be something else than a container that was damaged: a plain file, a page of HTML, a text.
    #[must_use]
    pub fn is_of_another_kind(&self) -> bool {
        matches!(self, Self::NotAContainer { found, .. } if looks_like(found).is_some() || is_text(found))
    }

    /// An I/O error with the operation and the file it happened on.
    pub fn io(op: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { op, path, source }
    }

    /// An [`Error::Invalid`] from text.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// An [`Error::Corrupt`] from its parts.
    pub fn corrupt(path: impl AsRef<Path>, part: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { path: path.as_ref().to_path_buf(), part: part.into(), detail: detail.into() }
    }
}

/// One line, in which nothing that a file or a server chose can be more than text.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(&mut Escape(f))
    }
}

impl Error {
    /// Writes the message as it is, with whatever files and servers put into it.
    fn describe(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::Io { op, path, source } => {
                if !path.as_os_str().is_empty() {
                    write!(f, "{}: ", path.display())?;
                }
                write!(f, "cannot {op}: {source}")?;
                match source.kind() {
                    io::ErrorKind::StorageFull => {
                        write!(f, "; free some space or choose another place with -o")
                    }
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory if op.starts_with("start") => {
                        write!(
                            f,
                            "; allow more of them or more memory (ulimit -u, ulimit -v, pids.max), or use fewer with -j"
                        )
                    }
                    _ => Ok(()),
                }
            }
            Self::NotAContainer { path, found } => {
                write!(f, "{}: not a bsfs container: ", path.display())?;
                match looks_like(found) {
                    Some(what) => f.write_str(what),
                    None if found.is_empty() => write!(f, "the file is empty"),
                    None => {
                        let first = found.get(..found.len().min(8)).unwrap_or(found);
                        write!(f, "it starts with \"{}\"", first.escape_ascii())
                    }
                }
            }
            Self::Unsupported { path, what } => {
                write!(f, "{}: {what} is not supported by bsfs {}", path.display(), env!("CARGO_PKG_VERSION"))
            }
            Self::Truncated { path, expected, got } => write!(
                f,
                "{}: the file is cut short: {expected} bytes expected, {got} found; copy or download it again",
                path.display()
            ),
            Self::Corrupt { path, part, detail } => {
                write!(f, "{}: damaged {part}: {detail}; copy or download it again", path.display())
            }
            Self::Chunk { path, tensor, raw_offset, packed_offset, damage } => {
                write!(f, "{}: damaged chunk of ", path.display())?;
                if tensor.is_empty() {
                    write!(f, "bytes outside any tensor")?;
                } else {
                    write!(f, "tensor '{tensor}'")?;
                }
                write!(
                    f,
                    " at offset {raw_offset} of the original ({packed_offset} of the container): {damage}; copy or download it again"
                )
            }
            Self::Differs { path, what, expected, got } => {
                write!(f, "{}: {what} differs: expected {expected}, got {got}", path.display())
            }
            Self::NoBase { path, want, hint, why } => {
                write!(f, "{}: cannot be read without ", path.display())?;
                match &**hint {
                    "" => write!(f, "another file")?,
                    hint => write!(f, "'{}' (that or its container)", hint)?,
                }
                write!(f, ", which was not found")?;
                if !want.is_empty() {
                    write!(f, ": {want}")?;
                }
                if !why.is_empty() {
                    write!(f, "; {why}")?;
                }
                write!(f, "; name it with --base, or put it beside the file")
            }
            Self::TooLarge { path, what, limit, got } => {
                write!(f, "{}: {what} is {got}, more than the {limit} that bsfs accepts", path.display())
            }
            Self::Exists { path } => {
                write!(f, "{}: exists already; use --force to replace it, or -o for another place", path.display())
            }
            Self::Changed { path } => {
                write!(f, "{}: the file changed while it was read; run again when nobody writes to it", path.display())
            }
            Self::NotLossless { path, raw_offset, codec } => write!(
                f,
                "{}: codec {codec} did not give back the chunk at offset {raw_offset}; nothing was written. This is a \
                 defect in bsfs, please report it",
                path.display()
            ),
            Self::Remote { path, message, .. } => write!(f, "{}: {message}", path.display()),
            Self::Invalid { message } => f.write_str(message),
            Self::Server { what, message, .. } => write!(f, "{what}: {message}"),
            Self::Mount { mount_point, message } => write!(f, "{}: {message}", mount_point.display()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
