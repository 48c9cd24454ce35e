//! All the `unsafe` there is: system calls, memory shared with the kernel, the two backends.
//!
//! Everything this module gives to the rest of the crate is safe to call. Each file owns one kind of kernel object.

#![allow(unsafe_code)]

#[cfg(feature = "tokio")]
pub(crate) mod async_fd;
mod buffer_ring;
pub(crate) mod dir;
pub(crate) mod epoll;
#[cfg_attr(loom, allow(dead_code, reason = "models bring their own"))]
mod eventfd;
#[cfg(test)]
pub(crate) mod faults;
mod fence;
pub(crate) mod fork;
pub(crate) mod gate;
pub(crate) mod inotify;
mod lane;
pub(crate) mod late;
pub(crate) mod mounts;
pub(crate) mod notifier;
pub(crate) mod pool;
pub(crate) mod probe;
mod ring;
pub(crate) mod rlimit;
pub(crate) mod thread;
pub(crate) mod uring;

use std::io;

/// The result of a system call that answers -1 and sets `errno`.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The same for calls that answer a size.
fn checked_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
