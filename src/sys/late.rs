//! What is given back late, and waiting for it.
//!
//! The kernel gives back what a ring held some time after it was closed: locked memory, and the inotify instance if the
//! ring was closed by another thread than its own. And an inotify descriptor with watches takes milliseconds to close (it
//! waits for a grace period), so that is done on a thread of its own. A program that makes and drops instances in a loop
//! would meet a limit that is not really reached.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::fork::PerProcess;

/// How late is late. Seen: some milliseconds.
const LATE: Duration = Duration::from_secs(1);

static LATE_THINGS: PerProcess<Late> = PerProcess::new();

#[derive(Default)]
struct Late {
    /// When this process last closed a ring.
    ring_closed: Mutex<Option<Instant>>,
    /// Descriptors that are being closed.
    closing: AtomicUsize,
}

pub(super) fn ring_closed() {
    let closed = &LATE_THINGS.get().ring_closed;
    *closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
}

/// Drops `value` on a thread of its own; here, if there can be none.
pub(super) fn drop_elsewhere<T: Send + 'static>(value: T) {
    LATE_THINGS.get().closing.fetch_add(1, Ordering::Relaxed);
    let closing = Closing(Some(value));
    let closer = thread::Builder::new().name("ringwatch-close".into());
    // Without a thread, the closure is dropped here, and what it holds with it.
    let _ = closer.spawn(move || drop(closing));
}

struct Closing<T>(Option<T>);

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        drop(self.0.take());
        LATE_THINGS.get().closing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls `make`, and again for a while if it fails with `code` while something is being given back.
pub(crate) fn patiently<T>(code: i32, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let since = Instant::now();
    loop {
        let made = make();
        let lacking = matches!(&made, Err(error) if error.raw_os_error() == Some(code));
        if !lacking || !something_is_late(since) || since.elapsed() > LATE {
            return made;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn something_is_late(since: Instant) -> bool {
    let late = LATE_THINGS.get();
    let closed = *late.ring_closed.lock().unwrap_or_else(PoisonError::into_inner);
    let recently = closed.is_some_and(|at| since.saturating_duration_since(at) < LATE);
    recently || late.closing.load(Ordering::Relaxed) > 0
}
