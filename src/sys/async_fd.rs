//! A reader in tokio's event loop.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::reader::Reader;

/// Has tokio tell when the reader's descriptor is readable.
pub(crate) fn register(reader: Reader) -> io::Result<AsyncFd<Reader>> {
    // SAFETY: the descriptor belongs to the reader's gate, which is made with the reader, is never replaced, and closes
    // when the reader is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(reader, Interest::READABLE) };
    registered.map_err(io::Error::from)
}
