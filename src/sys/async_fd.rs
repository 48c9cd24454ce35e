//! Descriptors in tokio's event loop.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::fork::Home;

/// A descriptor that the loop keeps open with whoever else has it.
#[derive(Debug)]
pub(crate) struct Shared<T: OwnsFd>(Arc<T>);

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

/// A descriptor that tokio tells of.
#[derive(Debug)]
pub(crate) struct Registered<T: OwnsFd> {
    descriptor: ManuallyDrop<AsyncFd<Shared<T>>>,
    home: Home,
}

impl<T: OwnsFd> Registered<T> {
    /// Has tokio tell when a descriptor is readable.
    pub(crate) fn new(descriptor: Arc<T>) -> io::Result<Self> {
        // SAFETY: an `OwnsFd` has the same descriptor as long as it lives, and `Shared` keeps it alive.
        let registered = unsafe { AsyncFd::register_with_interest(Shared(descriptor), Interest::READABLE) };
        Ok(Self {
            descriptor: ManuallyDrop::new(registered.map_err(io::Error::from)?),
            home: Home::new(),
        })
    }

    /// Ready once it is readable. That is taken back at once: what comes after makes it ready again.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.descriptor
            .poll_read_ready(cx)
            .map_ok(|mut readiness| readiness.clear_ready())
    }
}

impl<T: OwnsFd> Drop for Registered<T> {
    fn drop(&mut self) {
        // In a child of `fork` it would be taken out of the loop of the parent, with which the child shares the epoll set.
        if self.home.is_here() {
            // SAFETY: it is not used after this, as it is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        }
    }
}
