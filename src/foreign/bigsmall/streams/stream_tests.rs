//! What becomes of readers of a tensor when one of its windows fails.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use md5::{Digest, Md5};

use super::limits::{APART, WINDOW};
use super::pass::{Failure, Other, Plan};
use super::points::{Budget, Points};
use super::stream::{Stream, Waiting};
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::foreign::bigsmall::codec::Coding;
use crate::foreign::bigsmall::format::Part;
use crate::source::MemorySource;

const WINDOWS: u32 = 8;
/// The window whose base fails.
const FAILING: u32 = 3;
const BOUND: Duration = Duration::from_secs(60);

/// A base of zeros that fails in one window.
struct Base {
    panics: bool,
}

impl Other for Base {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if offset == u64::from(FAILING) * WINDOW {
            assert!(!self.panics, "on purpose");
            return Err(Error::invalid("on purpose"));
        }
        out.fill(0);
        Ok(())
    }
}

fn stream(proven_first: bool, panics: bool) -> (Arc<Stream>, Vec<u8>) {
    let raw: Vec<u8> = (0..u64::from(WINDOWS) * WINDOW).map(|n| (n * 7 / 3) as u8).collect();
    let len = raw.len() as u64;
    let plan = Plan {
        source: Arc::new(MemorySource::new("m.bs", raw.clone())),
        reads: Arc::default(),
        parts: vec![Part { coding: Coding::Raw, offset: 0, len, raw_len: len }],
        width: 0,
        skip: 0,
        raw_len: len,
        md5: Md5::digest(&raw).into(),
        other: Some(Arc::new(Base { panics })),
        points: Arc::new(Points::new(Arc::new(Budget::new(1 << 20)), APART)),
    };
    (Arc::new(Stream::new(plan, proven_first, false, Arc::new(Waiting::new(64 << 20)))), raw)
}

#[test]
fn a_window_whose_base_fails_or_panics_holds_no_other_up() {
    for (proven_first, panics) in [(false, false), (false, true), (true, false), (true, true)] {
        let (stream, raw) = stream(proven_first, panics);
        let engine = Engine::new(EngineConfig { memory: 64 << 20, ..EngineConfig::default() });
        let (send, receive) = mpsc::channel();
        for window in 0..WINDOWS {
            let (stream, engine, send) = (Arc::clone(&stream), Arc::clone(&engine), send.clone());
            std::thread::spawn(move || {
                let read = || stream.window(&engine.core, window, &|_, _| {});
                let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
                let _ = send.send((window, read.ok()));
            });
        }
        for _ in 0..WINDOWS {
            let (window, read) = receive.recv_timeout(BOUND).expect("a reader waits for ever");
            match read {
                Some(Ok(bytes)) => {
                    assert!(!proven_first, "given out before it was proven");
                    assert!(window != FAILING && *bytes == raw[(u64::from(window) * WINDOW) as usize..][..bytes.len()]);
                }
                Some(Err(Failure::Read(_))) => assert!(!panics),
                Some(Err(other)) => panic!("{other:?}"),
                None => assert!(panics),
            }
        }
        assert!(!stream.is_good());
    }
}
