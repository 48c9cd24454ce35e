//! Descriptors in tokio's event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the loop keeps open with whoever else has it.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<T>);

/// Owns one descriptor, from when it is made until it is dropped.
pub(crate) trait OwnsFd: AsFd {}

impl OwnsFd for super::epoll::EpollFd {}
impl OwnsFd for super::inotify::InotifyFd {}
impl OwnsFd for super::notifier::Notifier {}

impl<T: OwnsFd> AsRawFd for Shared<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Has tokio tell when a descriptor is readable.
pub(crate) fn register<T: OwnsFd>(descriptor: Arc<T>) -> io::Result<AsyncFd<Shared<T>>> {
    // SAFETY: an `OwnsFd` has the same descriptor as long as it lives, and `Shared` keeps it alive.
    let registered = unsafe { AsyncFd::register_with_interest(Shared(descriptor), Interest::READABLE) };
    registered.map_err(io::Error::from)
}
