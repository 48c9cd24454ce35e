//! An eventfd that wakes whoever drives an engine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{checked, checked_size};

/// Writes of one signal that may fail.
const MOST_TRIES: u32 = 64;

/// Wakes an engine from any thread. Any number of signals before it looks are one.
#[derive(Debug)]
pub(crate) struct Notifier {
    fd: OwnedFd,
    signalled: AtomicBool,
}

impl Notifier {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            signalled: AtomicBool::new(false),
        })
    }

    /// Makes the descriptor readable. What the signal is about must be in place before.
    pub(crate) fn signal(&self) {
        if self.signalled.swap(true, Ordering::SeqCst) {
            return;
        }
        let one = 1_u64.to_ne_bytes();
        // The count is small, so the kernel has no reason to refuse. If something does all the same, a signal that is lost
        // would be waited for for ever.
        for _ in 0..MOST_TRIES {
            // SAFETY: writes eight bytes from a live array.
            let written = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            if checked_size(written).is_ok() {
                return;
            }
        }
        // The next signal tries again.
        self.signalled.store(false, Ordering::SeqCst);
    }

    /// Takes the signal back; answers whether there was one. Look at what it was about only after this: a signal that
    /// comes in between is folded into the one taken here.
    pub(crate) fn clear(&self) -> bool {
        let mut count = [0_u8; 8];
        // SAFETY: reads eight bytes into a live array.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if let Err(error) = checked_size(read)
            && error.kind() == io::ErrorKind::WouldBlock
        {
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
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = timespec(time);
        // SAFETY: one pollfd and one timespec, both live; a null signal mask leaves the thread's own.
        match checked(unsafe { libc::ppoll(&raw mut poll, 1, &raw const limit, std::ptr::null()) }) {
            Ok(ready) => ready != 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            // It is denied. The time must pass all the same, or we spin.
            Err(_) => {
                std::thread::sleep(time);
                self.is_signalled()
            }
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
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
