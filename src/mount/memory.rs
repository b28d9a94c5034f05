//! How much memory a mount takes unless it is told.

use std::fs;
use std::path::Path;
use std::thread;

/// For each core, whose threads decode at the same time.
const PER_CORE: u64 = 16 << 20;
/// Where there are few cores.
const LEAST: u64 = 256 << 20;
/// Of the machine's memory one part in so many at most, but no less than [`FLOOR`].
const SHARE: u64 = 8;
const FLOOR: u64 = 64 << 20;

/// The bound for decoded chunks and buffers that suits this machine, bytes. `threads` decode; 0 for one for each core.
#[must_use]
pub fn default_memory(threads: usize) -> u64 {
    let cores = thread::available_parallelism().map_or(1, usize::from).max(threads);
    suitable(cores as u64, available())
}

fn suitable(cores: u64, available: u64) -> u64 {
    cores.saturating_mul(PER_CORE).max(LEAST).min((available / SHARE).max(FLOOR))
}

/// The machine's memory, or what the control group of this process may take of it, bytes.
fn available() -> u64 {
    let machine = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "the types differ between processors")]
    let total = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let root = Path::new("/sys/fs/cgroup");
    // A group is bounded by those above it; the last of them is this process's own in a container.
    let dir = root.join(own.trim_start_matches('/'));
    let bounds = dir
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(|dir| fs::read_to_string(dir.join("memory.max")).ok()?.trim().parse::<u64>().ok());
    let old = fs::read_to_string(root.join("memory/memory.limit_in_bytes")).ok();
    let old = old.and_then(|text| text.trim().parse().ok());
    bounds.chain(old).fold(total, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_grows_with_cores_and_stays_a_small_part_of_the_machine() {
        const GIB: u64 = 1 << 30;
        assert_eq!(suitable(2, 64 * GIB), 256 << 20);
        assert_eq!(suitable(64, 256 * GIB), GIB);
        assert_eq!(suitable(64, 4 * GIB), 512 << 20);
        assert_eq!(suitable(2, GIB), 128 << 20);
        assert_eq!(suitable(128, 0), 64 << 20);
        assert!((FLOOR..=available()).contains(&default_memory(0)) && default_memory(1 << 20) >= default_memory(0));
    }
}
