//! The kernel's counter that a descriptor stands for (eventfd(2)), and its relative time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{checked, checked_size};

/// A counter. Its descriptor is readable while it is above zero.
#[derive(Debug)]
pub(super) struct EventFd(OwnedFd);

impl EventFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Counts one up. Answers whether that worked.
    pub(super) fn add_one(&self) -> bool {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: writes eight bytes from a live array.
        let written = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        checked_size(written).is_ok()
    }

    /// Sets it to zero; answers whether it was above, or whether that can't be known.
    pub(super) fn take(&self) -> bool {
        let mut count = [0_u8; 8];
        // SAFETY: reads eight bytes into a live array.
        let read = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        !checked_size(read).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for `time`, or until it is above zero; answers whether that was it (or a signal handler ran).
    pub(super) fn wait(&self, time: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let time = timespec(time);
        // SAFETY: one pollfd and one timespec, both live; a null signal mask leaves the thread's own.
        match checked(unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) }) {
            Ok(ready) => Ok(ready != 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
