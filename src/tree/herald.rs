//! The thread that waits for file systems to be mounted and unmounted, on behalf of all trees, and wakes their workers.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::sys::fork::PerProcess;
use crate::sys::mounts::MountTable;
use crate::sys::notifier::Notifier;
use crate::sys::thread::spawn_without_signals;

/// Has this thread woken when something is mounted or unmounted.
pub(super) struct Call(Arc<Called>);

struct Called {
    flag: AtomicBool,
    thread: Thread,
}

/// The thread that waits, and whom it wakes.
struct Herald {
    called: Vec<Arc<Called>>,
    stop: Arc<Notifier>,
}

/// A fork leaves the thread behind.
static HERALD: PerProcess<Mutex<Option<Herald>>> = PerProcess::new();

fn herald() -> MutexGuard<'static, Option<Herald>> {
    HERALD.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call {
    pub(super) fn new() -> io::Result<Self> {
        let called = Arc::new(Called {
            flag: AtomicBool::new(false),
            thread: thread::current(),
        });
        let mut herald = herald();
        match herald.as_mut() {
            Some(herald) => herald.called.push(Arc::clone(&called)),
            None => {
                let (stop, table) = (Arc::new(Notifier::new()?), MountTable::open()?);
                let until = Arc::clone(&stop);
                spawn_without_signals("ringwatch-mount", move || proclaim(&table, &until))?;
                *herald = Some(Herald {
                    called: vec![Arc::clone(&called)],
                    stop,
                });
            }
        }
        Ok(Self(called))
    }

    pub(super) fn take(&self) -> bool {
        self.0.flag.load(Ordering::Relaxed) && self.0.flag.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut place = herald();
        let Some(herald) = place.as_mut() else { return };
        herald.called.retain(|called| !Arc::ptr_eq(called, &self.0));
        if herald.called.is_empty() {
            herald.stop.signal();
            *place = None;
        }
    }
}

/// The body of the thread.
fn proclaim(table: &MountTable, stop: &Arc<Notifier>) {
    /// Where one is mounted, others often follow: they are looked at together.
    const PAUSE: Duration = Duration::from_millis(10);
    /// Where it may not be waited for, the workers look for themselves, as often.
    const DENIED: Duration = Duration::from_secs(1);
    loop {
        let pause = match table.wait(stop) {
            Ok(true) => PAUSE,
            Ok(false) => return,
            Err(_) => DENIED,
        };
        if let Some(herald) = herald().as_ref().filter(|herald| Arc::ptr_eq(&herald.stop, stop)) {
            for called in &herald.called {
                called.flag.store(true, Ordering::Release);
                called.thread.unpark();
            }
        }
        // What else ends the pause is nothing to end for.
        stop.sleep(pause);
        if stop.is_signalled() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::in_child;

    #[test]
    fn a_child_has_a_lock_of_its_own() {
        let held = herald();
        assert!(in_child(|| herald().is_none()));
        drop(held);
    }
}
