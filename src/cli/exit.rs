//! Exit codes.

use std::process::ExitCode;

use bsfs::Error;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked was done.
    Done,
    /// `verify` found a difference or damage.
    Differs,
    /// An error; also what clap gives for wrong arguments.
    Failed,
    /// Interrupted by a signal.
    Interrupted,
}

impl Exit {
    /// How an error ends the program.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Interrupted => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0_u8,
            Exit::Differs => 1,
            Exit::Failed => 2,
            Exit::Interrupted => 130,
        })
    }
}
