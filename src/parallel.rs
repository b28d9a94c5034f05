//! Work on many items at once, results in order, a bounded number of items in flight.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::error::{Error, Result};

/// A pool of `threads` workers; 0 means one for each core.
///
/// # Errors
/// [`Error::Io`] when threads cannot be made.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("bsfs-{i}")).build().map_err(|e| {
        // The system's own answer, which is the source, says more than that there was one.
        let system = e.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        let system = system.map_or_else(|| std::io::Error::other(e.to_string()), |system| system.kind().into());
        Error::io("start threads", "")(system)
    })
}

/// Runs `work` on so many threads, the calling one among them, or on as many as can be made.
pub fn on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if std::thread::Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

/// Takes items from `next` until it gives `None`, runs `work` on them on the pool, and gives the results to `take`
/// in the order of the items. `next` and `take` run on the calling thread; at most `window` items are in flight.
///
/// # Errors
/// The first error of `next`, `work` or `take`, in the order of the items; nothing is taken after it.
pub fn ordered<I: Send, O: Send>(
    pool: &rayon::ThreadPool,
    window: usize,
    mut next: impl FnMut() -> Result<Option<I>>,
    work: impl Fn(I) -> Result<O> + Sync,
    mut take: impl FnMut(O) -> Result<()>,
) -> Result<()> {
    let (send, receive) = mpsc::channel::<(u64, Option<Result<O>>)>();
    let stopped = AtomicBool::new(false);
    pool.in_place_scope(|scope| {
        let mut run = || {
            let (mut sent, mut taken, mut exhausted) = (0_u64, 0_u64, false);
            let mut waiting: BTreeMap<u64, Option<Result<O>>> = BTreeMap::new();
            loop {
                while !exhausted && sent - taken < window as u64 {
                    match next()? {
                        None => exhausted = true,
                        Some(item) => {
                            let (send, stopped, work) = (send.clone(), &stopped, &work);
                            let at = sent;
                            scope.spawn(move |_| {
                                let result = (!stopped.load(Ordering::Relaxed)).then(|| {
                                    // A panic must not leave the caller waiting for a result that never comes.
                                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(item)))
                                        .unwrap_or_else(|_| {
                                            Err(Error::invalid("a worker panicked; this is a defect in bsfs"))
                                        })
                                });
                                // The receiver is gone only after an error, and then nobody wants the result.
                                let _ = send.send((at, result));
                            });
                            sent += 1;
                        }
                    }
                }
                if taken == sent {
                    return Ok(());
                }
                let result = loop {
                    if let Some(result) = waiting.remove(&taken) {
                        break result;
                    }
                    let (at, result) = receive.recv().map_err(|_| Error::Interrupted)?;
                    waiting.insert(at, result);
                };
                taken += 1;
                take(result.unwrap_or(Err(Error::Interrupted))?)?;
            }
        };
        let result = run();
        // The scope waits for the workers: those that have not begun need not.
        stopped.store(true, Ordering::Relaxed);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_no_more_than_the_window_is_in_flight() {
        let pool = pool(4).unwrap();
        let flying = std::sync::atomic::AtomicUsize::new(0);
        let mut items = 0..1000_u64;
        let mut seen = Vec::new();
        ordered(
            &pool,
            7,
            || {
                assert!(flying.fetch_add(1, Ordering::SeqCst) < 7);
                let item = items.next();
                if item.is_none() {
                    flying.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(item)
            },
            |i| {
                std::thread::sleep(std::time::Duration::from_micros(i * 7919 % 50));
                Ok(i * 2)
            },
            |o| {
                flying.fetch_sub(1, Ordering::SeqCst);
                seen.push(o);
                Ok(())
            },
        )
        .unwrap();
        assert!(seen.iter().copied().eq((0..1000).map(|i| i * 2)));
    }

    #[test]
    fn the_first_error_or_panic_ends_it() {
        let pool = pool(2).unwrap();
        let mut items = 0..100;
        let mut taken = 0;
        let work = |i| if i == 5 { Err(Error::invalid("five")) } else { Ok(i) };
        let result = ordered(
            &pool,
            4,
            || Ok(items.next()),
            work,
            |_| {
                taken += 1;
                Ok(())
            },
        );
        assert!(matches!(result, Err(Error::Invalid { message }) if message == "five"));
        assert_eq!(taken, 5);
        let mut items = 0..100;
        let result =
            ordered(&pool, 4, || Ok(items.next()), |i| if i == 3 { panic!("on purpose") } else { Ok(i) }, |_| Ok(()));
        assert!(matches!(result, Err(Error::Invalid { .. })));
    }
}
