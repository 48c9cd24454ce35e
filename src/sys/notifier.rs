//! An eventfd that wakes whoever drives an engine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

#[cfg(not(loom))]
use super::eventfd::EventFd;
#[cfg(loom)]
use crate::models::EventFd;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Writes of one signal that may fail.
const MOST_TRIES: u32 = 64;

/// Wakes an engine from any thread. Any number of signals before it looks are one.
#[derive(Debug)]
pub(crate) struct Notifier {
    fd: EventFd,
    signalled: AtomicBool,
}

impl Notifier {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            fd: EventFd::new()?,
            signalled: AtomicBool::new(false),
        })
    }

    /// Makes the descriptor readable. What the signal is about must be in place before.
    pub(crate) fn signal(&self) {
        if self.signalled.swap(true, Ordering::SeqCst) {
            return;
        }
        // The count is small, so the kernel has no reason to refuse. If something does all the same, a signal that is lost
        // would be waited for for ever.
        if !(0..MOST_TRIES).any(|_| self.fd.add_one()) {
            // The next signal tries again.
            self.signalled.store(false, Ordering::SeqCst);
        }
    }

    /// Takes the signal back; answers whether there was one. Look at what it was about only after this: a signal that
    /// comes in between is folded into the one taken here.
    pub(crate) fn clear(&self) -> bool {
        if !self.fd.take() {
            // Nothing there; if the flag is up, the write is still on its way: leave both for the next look.
            return false;
        }
        // If it could not be read, the next signal still makes itself heard, by being written.
        // A swap, not a store: it sees what was put in place before each signal that was folded into this one.
        self.signalled.swap(false, Ordering::SeqCst);
        true
    }

    /// Whether there may be a signal to take back. Costs no system call.
    pub(crate) fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }

    /// Sleeps for `time`, or until a signal; answers whether it was a signal (or a signal handler ran).
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        self.fd.wait(time).unwrap_or_else(|_| {
            // It is denied. The time must pass all the same, or we spin.
            std::thread::sleep(time);
            self.is_signalled()
        })
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_signals_are_one_and_clearing_takes_it_back() {
        let notifier = Notifier::new().unwrap();
        assert!(!notifier.clear());
        notifier.signal();
        notifier.signal();
        assert!(notifier.sleep(Duration::ZERO));
        assert!(notifier.clear());
        assert!(!notifier.clear());
        assert!(!notifier.sleep(Duration::ZERO));
        notifier.signal();
        assert!(notifier.clear());
    }
}
