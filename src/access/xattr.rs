//! Reading extended attributes of any length.

use rustix::io::Errno;

/// The longest extended attribute, and the longest list of their names, bytes: the kernel's own limit.
const MAX_BYTES: usize = 64 << 10;

/// All of an answer whose length is not known before.
pub(super) fn whole(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 512];
    loop {
        match get(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_BYTES => buffer.resize(MAX_BYTES, 0),
            Err(errno) => return Err(errno),
        }
    }
}
