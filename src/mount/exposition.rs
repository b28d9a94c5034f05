//! The figures of a mount in the text format of Prometheus, version 0.0.4. Names and labels are an interface: dashboards are built
//! on them.

use std::fmt::Write as _;

use super::status::Status;
use crate::source::{BOUNDS, TimeCounts};

/// The figures as one text. Each sample has the mount point as a label, so that those of several mounts can be put together.
#[must_use]
pub(super) fn metrics(status: &Status) -> String {
    let mut page = Page { text: String::new(), status };
    page.family("build_info", "gauge", "The release.", |s| vec![(labels(&[("version", &s.version)]), 1.0)]);
    page.one("start_time_seconds", "gauge", "When the daemon started, since 1970.", |s| s.started as f64);
    page.one("problems", "gauge", "What is wrong now, as \"bsfs status\" tells it.", |s| s.problems.len() as f64);
    requests(&mut page);
    decoding(&mut page);
    caches(&mut page);
    source(&mut page);
    page.text
}

fn requests(page: &mut Page<'_>) {
    page.family("fuse_requests_total", "counter", "Requests of the kernel.", |s| {
        s.requests.times.iter().map(|(op, times)| (labels(&[("op", op)]), times.count() as f64)).collect()
    });
    page.family("fuse_errors_total", "counter", "Requests answered with an error, by its number.", |s| {
        pairs(&s.requests.errors, "op", "errno")
    });
    page.histogram("fuse_request_seconds", "Time from a request to its answer.", |s| {
        s.requests.times.iter().map(|(op, times)| (labels(&[("op", op)]), times.clone())).collect()
    });
    page.one("read_bytes_total", "counter", "Bytes in answers to reads.", |s| s.read_bytes as f64);
    page.one("open_files", "gauge", "Files and directories open.", |s| s.open_files as f64);
    page.one("panics_total", "counter", "Requests and work in the background that ended in a panic.", |s| {
        s.panics as f64
    });
    page.one("reply_seconds_total", "counter", "Time of giving answers to the kernel, summed over threads.", |s| {
        s.reply_seconds
    });
}

fn decoding(page: &mut Page<'_>) {
    page.one("decode_seconds_total", "counter", "Time of decoding, summed over threads.", |s| s.engine.decode_seconds);
    page.family("decoded_bytes_total", "counter", "Bytes that decoding gave, by codec.", |s| {
        s.engine.codec_bytes.iter().map(|(codec, n)| (labels(&[("codec", codec)]), *n as f64)).collect()
    });
    page.one("wait_seconds_total", "counter", "Time of readers that waited for another, summed over threads.", |s| {
        s.engine.wait_seconds
    });
    let text = "Reads that failed because the bytes were not what they should be.";
    page.one("integrity_failures_total", "counter", text, |s| s.engine.integrity_failures as f64);
    let text = "Chunks that were damaged when read first and right when read again.";
    page.one("integrity_healed_total", "counter", text, |s| s.engine.healed_chunks as f64);
}

fn caches(page: &mut Page<'_>) {
    let tiers = |memory: u64, disk: Option<u64>| {
        let memory = Some(("memory", memory));
        let both = [memory, disk.map(|disk| ("disk", disk))].into_iter().flatten();
        both.map(|(tier, n)| (labels(&[("tier", tier)]), n as f64)).collect()
    };
    let text = "Bytes that a cache holds; of the disk once this process has measured it.";
    page.family("cache_bytes", "gauge", text, |s| {
        tiers(s.engine.memory_bytes, s.disk.as_ref().and_then(|disk| disk.held_bytes))
    });
    page.family("cache_hits_total", "counter", "Chunks found.", |s| {
        tiers(s.engine.hits, s.disk.as_ref().map(|disk| disk.hits))
    });
    page.family("cache_misses_total", "counter", "Chunks not found.", |s| {
        tiers(s.engine.misses, s.disk.as_ref().map(|disk| disk.misses))
    });
    let text = "Chunks of memory, and files of the disk, that made room.";
    page.family("cache_evictions_total", "counter", text, |s| {
        tiers(s.engine.evicted_chunks, s.disk.as_ref().map(|disk| disk.evicted_entries))
    });
    page.family("cache_damaged_total", "counter", "Chunks of the disk cache that were not what was written.", |s| {
        s.disk.iter().map(|disk| (labels(&[("tier", "disk")]), disk.damaged_chunks as f64)).collect()
    });
    page.family(
        "prefetch_bytes_total",
        "counter",
        "Bytes decoded ahead that were read since, or dropped unread.",
        |s| {
            let results = [("used", s.engine.ahead_used_bytes), ("wasted", s.engine.ahead_wasted_bytes)];
            results.map(|(result, n)| (labels(&[("result", result)]), n as f64)).into()
        },
    );
    page.one("buffer_bytes", "gauge", "Bytes of all buffers, the memory cache included.", |s| {
        s.engine.buffer_bytes as f64
    });
    page.one("buffer_limit_bytes", "gauge", "Their bound.", |s| s.engine.memory_limit as f64);
}

fn source(page: &mut Page<'_>) {
    let text = "Reads of packed bytes, or requests to a server, by how they ended.";
    page.family("source_requests_total", "counter", text, |s| match &s.remote {
        Some(remote) => pairs(&remote.answers, "kind", "status"),
        None => {
            let ends = [("ok", s.engine.source_times.count()), ("failed", s.engine.source_failures)];
            ends.map(|(status, n)| (labels(&[("kind", "read"), ("status", status)]), n as f64)).into()
        }
    });
    let text = "Time of a read of packed bytes, or until the answer of a server began.";
    page.histogram("source_first_byte_seconds", text, |s| {
        let times = s.remote.as_ref().map_or(&s.engine.source_times, |remote| &remote.first_byte);
        vec![(String::new(), times.clone())]
    });
    page.one("source_bytes_total", "counter", "Packed bytes read, or bytes that came from a server.", |s| {
        s.remote.as_ref().map_or(s.engine.packed_bytes_read, |remote| remote.bytes) as f64
    });
    page.one("source_seconds_total", "counter", "Time of reading packed bytes, summed over threads.", |s| {
        s.engine.source_seconds
    });
}

struct Page<'a> {
    text: String,
    status: &'a Status,
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP bsfs_{name} {help}\n# TYPE bsfs_{name} {kind}");
    }

    /// A family with its samples, `of` giving the labels and the value of each.
    fn family(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&Status) -> Vec<(String, f64)>) {
        self.head(name, kind, help);
        let mount = self.mount();
        for (labels, value) in of(self.status) {
            let _ = writeln!(self.text, "bsfs_{name}{{{mount}{labels}}} {value}");
        }
    }

    fn mount(&self) -> String {
        format!("mount=\"{}\"", escape(&self.status.mount_point))
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&Status) -> f64) {
        self.family(name, kind, help, |status| vec![(String::new(), of(status))]);
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&Status) -> Vec<(String, TimeCounts)>) {
        self.head(name, "histogram", help);
        let mount = self.mount();
        for (more, times) in of(self.status) {
            let mut sum = 0;
            for at in 0..=BOUNDS.len() {
                sum += times.classes.get(at).copied().unwrap_or(0);
                let bound = BOUNDS.get(at).map_or("+Inf".to_owned(), |micros| (*micros as f64 / 1e6).to_string());
                let bound = labels(&[("le", &bound)]);
                let _ = writeln!(self.text, "bsfs_{name}_bucket{{{mount}{more}{bound}}} {sum}");
            }
            let _ = writeln!(self.text, "bsfs_{name}_sum{{{mount}{more}}} {}", times.seconds);
            let _ = writeln!(self.text, "bsfs_{name}_count{{{mount}{more}}} {sum}");
        }
    }
}

/// Labels as they stand between braces, behind another.
fn labels(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(name, value)| format!(",{name}=\"{}\"", escape(value))).collect()
}

/// Counters whose keys are two words.
fn pairs(counts: &std::collections::BTreeMap<String, u64>, first: &str, second: &str) -> Vec<(String, f64)> {
    let split = |key: &str| {
        let (a, b) = key.split_once(' ').unwrap_or((key, ""));
        labels(&[(first, a), (second, b)])
    };
    counts.iter().map(|(key, n)| (split(key), *n as f64)).collect()
}

/// Text inside the quotes of a label.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("m", "a\"b\\c\nd"), ("n", "")]), ",m=\"a\\\"b\\\\c\\nd\",n=\"\"");
    }
}
