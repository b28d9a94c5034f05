//! What requests of the kernel came to: how many of each kind, how they failed, and how long they took.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::source::{TimeCounts, Times};

/// Requests since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// How long those of each kind took until they were answered, and so how many there were.
    #[serde(default)]
    pub times: BTreeMap<String, TimeCounts>,
    /// Those that were answered with an error, by kind and errno: "read 5".
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
}

impl Requests {
    /// Those of one kind.
    #[must_use]
    pub fn of(&self, op: &str) -> TimeCounts {
        self.times.get(op).cloned().unwrap_or_default()
    }
}

/// Kinds of requests. "other" is for what has no name here.
const OPS: [&str; 15] = [
    "read",
    "lookup",
    "getattr",
    "open",
    "release",
    "opendir",
    "readdir",
    "readdirplus",
    "readlink",
    "getxattr",
    "statfs",
    "forget",
    "status",
    "ioctl",
    "other",
];

/// Counts without locks, but for what fails.
#[derive(Debug, Default)]
pub(super) struct Meter {
    times: [Times; OPS.len()],
    errors: Mutex<BTreeMap<(&'static str, i32), u64>>,
}

impl Meter {
    /// A request that was answered after this time.
    pub(super) fn request(&self, op: &'static str, took: Duration) {
        let at = OPS.iter().position(|known| *known == op).unwrap_or(OPS.len() - 1);
        if let Some(times) = self.times.get(at) {
            times.add(took);
        }
    }

    /// An answer that is an error.
    pub(super) fn error(&self, op: &'static str, errno: i32) {
        *self.errors.lock().entry((op, errno)).or_default() += 1;
    }

    pub(super) fn now(&self) -> Requests {
        let errors = self.errors.lock();
        let times = OPS.iter().zip(&self.times).map(|(op, times)| ((*op).to_owned(), times.now()));
        Requests {
            times: times.filter(|(op, times)| times.count() > 0 || op == "read").collect(),
            errors: errors.iter().map(|((op, errno), n)| (format!("{op} {errno}"), *n)).collect(),
        }
    }
}
