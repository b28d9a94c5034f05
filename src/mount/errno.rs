//! What an error looks like to a program that uses the mount: the only table from [`Error`] to errno.

use fuser::Errno;
use log::Level;

use crate::error::Error;

/// The errno of an error.
pub(super) fn of(error: &Error) -> Errno {
    match error {
        Error::Io { source, .. } => match source.raw_os_error().map(Errno::from_i32) {
            // The kernel takes ENOSYS for "never ask this again".
            None | Some(Errno::ENOSYS) => Errno::EIO,
            Some(errno) => errno,
        },
        // The kernel looks the name up again and retries the system call.
        Error::Changed { .. } => Errno::ESTALE,
        Error::Unsupported { .. } => Errno::EOPNOTSUPP,
        Error::Exists { .. } => Errno::EEXIST,
        Error::Invalid { .. } => Errno::EINVAL,
        Error::Interrupted => Errno::EINTR,
        Error::NotAContainer { .. }
        | Error::Truncated { .. }
        | Error::Corrupt { .. }
        | Error::Chunk { .. }
        | Error::Differs { .. }
        | Error::NoBase { .. }
        | Error::TooLarge { .. }
        | Error::NotLossless { .. }
        | Error::Remote { .. }
        | Error::Server { .. }
        | Error::Mount { .. } => Errno::EIO,
    }
}

/// How an error is logged. What a program gets in ordinary use (a name that is gone, a stale inode, a file that may
/// not be read) is no fault of the mount.
pub(super) fn level(error: &Error) -> Level {
    // Once for an outage, where it was found out.
    if matches!(error, Error::Remote { outage: true, .. }) {
        return Level::Debug;
    }
    match of(error) {
        Errno::ENOENT | Errno::ESTALE | Errno::ENOTDIR => Level::Debug,
        Errno::EACCES | Errno::EPERM => Level::Warn,
        _ => Level::Error,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::error::Damage;

    #[test]
    fn the_systems_own_errno_goes_through() {
        let error = Error::io("open", "f")(io::Error::from_raw_os_error(13));
        assert_eq!((of(&error), level(&error)), (Errno::EACCES, Level::Warn));
    }

    #[test]
    fn no_error_switches_a_request_off_for_good() {
        let error = Error::io("open", "f")(io::Error::from_raw_os_error(Errno::ENOSYS.code()));
        assert_eq!(of(&error), Errno::EIO);
    }

    #[test]
    fn damage_is_an_io_error_and_logged_as_one() {
        let damage = Damage::new("checksum", 1, 2);
        let error = Error::Chunk { path: "f".into(), tensor: String::new(), raw_offset: 0, packed_offset: 0, damage };
        assert_eq!((of(&error), level(&error)), (Errno::EIO, Level::Error));
    }

    #[test]
    fn a_replaced_file_is_stale_and_not_logged_as_an_error() {
        let error = Error::Changed { path: "f".into() };
        assert_eq!((of(&error), level(&error)), (Errno::ESTALE, Level::Debug));
    }
}
