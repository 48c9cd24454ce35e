//! Every way to read, behind one face.

use std::os::fd::AsRawFd;

use futures_util::StreamExt;
use ringwatch::{ErrorKind, EventBatch, EventStream, Inotify, Reader, ReaderStream, Result};

/// A reading half, whichever.
pub(crate) enum Half {
    Stream(EventStream),
    /// On an executor.
    Polled(EventStream),
    Reader(Reader),
    /// A reader in an event loop.
    Shown(Reader),
    Tokio(ReaderStream, tokio::runtime::Runtime),
}

pub(crate) const HALVES: [&str; 5] = ["stream", "polled", "reader", "shown", "tokio"];

impl Half {
    pub(crate) fn new(inotify: &Inotify, name: &str) -> Self {
        let stream = || inotify.stream().expect("a stream");
        let reader = || inotify.reader().expect("a reader");
        match name {
            "stream" => Self::Stream(stream()),
            "polled" => Self::Polled(stream()),
            "reader" => Self::Reader(reader()),
            "shown" => Self::Shown(reader()),
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime");
                let entered = runtime.enter();
                let stream = reader().into_stream().expect("a stream");
                drop(entered);
                Self::Tokio(stream, runtime)
            }
        }
    }

    pub(crate) fn wait(&mut self) -> Option<Result<EventBatch>> {
        match self {
            Self::Stream(stream) => stream.wait(),
            Self::Polled(stream) => futures_executor::block_on(stream.next()),
            Self::Reader(reader) => reader.wait(),
            Self::Shown(reader) => loop {
                match reader.try_next() {
                    Ok(Some(batch)) => return Some(Ok(batch)),
                    Ok(None) => until_readable(reader),
                    Err(error) if error.kind() == ErrorKind::Closed => return None,
                    Err(error) => return Some(Err(error)),
                }
            },
            Self::Tokio(stream, runtime) => runtime.block_on(stream.next()),
        }
    }
}

fn until_readable(reader: &Reader) {
    let mut poll = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // It may end because a signal was handled: then there is nothing yet.
    // SAFETY: one pollfd, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}
