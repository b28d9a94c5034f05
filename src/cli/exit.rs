//! Exit codes.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use bsfs::Error;

/// How the program ends. The order is that of what is told of several failures: as long as one is worth another try, that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// What was asked was done.
    Done,
    /// `verify` found a difference or damage.
    Differs,
    /// The input is damaged (`EX_DATAERR`): it fails the same way each time.
    Damaged,
    /// An error; also what clap gives for wrong arguments.
    Failed,
    /// Something outside failed that may be well the next time (`EX_TEMPFAIL`): I/O, network, a full disk, a file in use.
    Again,
    /// Interrupted by a signal.
    Interrupted,
}

impl Exit {
    /// How an error ends the program.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Interrupted => Self::Interrupted,
            // By its name it is a container: one whose first bytes are not right is damaged, unless it is something else.
            Error::NotAContainer { path, .. } if !error.is_of_another_kind() && has_name(path) => Self::Damaged,
            Error::NotAContainer { .. } => Self::Failed,
            Error::Truncated { .. }
            | Error::Corrupt { .. }
            | Error::Chunk { .. }
            | Error::Differs { .. }
            | Error::TooLarge { .. } => Self::Damaged,
            Error::Io { source, .. } => Self::of_io(source.kind()),
            Error::Changed { .. } | Error::Remote { outage: true, .. } | Error::Server { again: true, .. } => {
                Self::Again
            }
            Error::Remote { outage: false, .. }
            | Error::Server { again: false, .. }
            | Error::Unsupported { .. }
            | Error::NoBase { .. }
            | Error::Exists { .. }
            | Error::NotLossless { .. }
            | Error::Invalid { .. }
            | Error::Mount { .. } => Self::Failed,
            // The enum may grow outside of this crate; what is not known is a plain error.
            _ => Self::Failed,
        }
    }

    /// The system's answers to a wrong name or a missing right are the same tomorrow; all others may not be.
    fn of_io(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
            | ErrorKind::CrossesDevices
            | ErrorKind::TooManyLinks
            | ErrorKind::BrokenPipe
            | ErrorKind::Unsupported => Self::Failed,
            _ => Self::Again,
        }
    }

    /// The exit status.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Differs => 1,
            Self::Failed => 2,
            Self::Damaged => 65,
            Self::Again => 75,
            Self::Interrupted => 130,
        }
    }

    /// How the program ends after this and another failure.
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

/// Whether a file has the name of a container.
fn has_name(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "bs" || ending == "bsr")
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
