//! A bar on standard error, on a terminal only.

use std::sync::atomic::{AtomicU64, Ordering};

use bsfs::compress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows bytes, ratio, speed and the time left. Invisible when standard error is no terminal.
pub struct Bar {
    bar: ProgressBar,
    raw: AtomicU64,
    packed: AtomicU64,
}

impl Bar {
    /// A bar for `total` raw bytes; `quiet` hides it.
    pub fn new(total: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr_with_hz(10) };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template =
            "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}  {prefix}{binary_bytes_per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, raw: AtomicU64::new(0), packed: AtomicU64::new(0) }
    }

    /// Names what is being worked on.
    pub fn name(&self, text: &str) {
        self.bar.set_message(super::out::shorten(text, 40));
    }

    /// Prints a line above the bar, or plainly when there is no bar.
    pub fn say(&self, text: &str) {
        self.bar.suspend(|| super::out::say(text));
    }

    /// Runs `f` with the bar out of the way.
    pub fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        self.bar.suspend(f)
    }

    /// So many raw bytes more are done, with nothing to say of their packed length.
    pub fn skip(&self, raw: u64) {
        self.bar.inc(raw);
    }

    /// So many raw bytes are done, of so many.
    #[cfg(feature = "mount")]
    pub fn reach(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Warnings of the library from now on are lines above the bar. `BSFS_LOG` chooses others.
    #[cfg(feature = "hub")]
    pub fn show_warnings(&self) {
        use std::io::Write;

        struct Above(ProgressBar);
        impl Write for Above {
            fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
                self.0.suspend(|| std::io::stderr().write(line))
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut builder = env_logger::Builder::new();
        builder.filter_level(log::LevelFilter::Off).filter_module("bsfs", log::LevelFilter::Warn).parse_env("BSFS_LOG");
        builder.format(|line, record| writeln!(line, "bsfs: {}", bsfs::escape::Escaped(record.args())));
        // A program has one log; a second start keeps the first.
        let _ = builder.target(env_logger::Target::Pipe(Box::new(Above(self.bar.clone())))).try_init();
    }

    /// Removes the bar.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn advance(&self, raw: u64, packed: u64) {
        let raw_sum = self.raw.fetch_add(raw, Ordering::Relaxed) + raw;
        let packed_sum = self.packed.fetch_add(packed, Ordering::Relaxed) + packed;
        if raw_sum > 0 && !self.bar.is_hidden() {
            self.bar.set_prefix(format!("ratio {:.3}  ", packed_sum as f64 / raw_sum as f64));
        }
        self.bar.inc(raw);
    }

    fn note(&self, text: &str) {
        self.say(text);
    }
}

#[cfg(feature = "hub")]
impl bsfs::hub::Progress for Bar {
    fn expect(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn retreat(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    fn name(&self, path: &str) {
        Self::name(self, path);
    }
}
