//! A short run of every target without a fuzzer: the seeds, then changes of them for some time. `scripts/sanitize.sh` builds
//! it under AddressSanitizer.
//!
//! `smoke MILLISECONDS`: for each target. The last input before a panic is left in `artifacts`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bsfs_fuzz::TARGETS;

/// Longer inputs make every execution slow.
const LONGEST: usize = 8192;

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// A seed with one to four changes.
    fn changed(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len());
            match self.below(6) {
                0 if !data.is_empty() => data[at] ^= 1 << self.below(8),
                1 if !data.is_empty() => data[at] = self.below(256) as u8,
                2 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => data.truncate(at),
                4 => data.insert(at, self.below(256) as u8),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    data.truncate(at);
                    data.extend_from_slice(other.get(from..).unwrap_or_default());
                }
            }
        }
        data.truncate(LONGEST);
        data
    }
}

fn main() {
    let each = std::env::args().nth(1).and_then(|text| text.parse().ok()).map_or(Duration::from_secs(1), Duration::from_millis);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let artifacts = here.join("artifacts");
    for (name, target) in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(here.join("seeds").join(name)).expect(name).map(|e| e.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let (mut random, mut runs, end) = (Random(0x9e37_79b9_7f4a_7c15), 0, Instant::now() + each);
        let mut run = |data: &[u8]| {
            runs += 1;
            if let Err(panic) = std::panic::catch_unwind(|| target(data)) {
                fs::create_dir_all(&artifacts).unwrap();
                let path = artifacts.join(format!("smoke-{name}"));
                fs::write(&path, data).unwrap();
                eprintln!("{name}: the input is in {}", path.display());
                std::panic::resume_unwind(panic);
            }
        };
        seeds.iter().for_each(|data| run(data));
        while Instant::now() < end {
            run(&random.changed(&seeds));
        }
        println!("{name:13} {runs:6} runs");
    }
}
