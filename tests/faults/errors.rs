//! Which errors a call can have.

use libc::{
    EACCES, EAGAIN, EBADF, EBUSY, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, EPERM, c_long,
};

use crate::inject::Fault;

/// The errors of a call, the most telling first. None if it can't fail, or if it is not the library that calls it.
fn errors(half: &str, call: c_long) -> &'static [i32] {
    match call {
        libc::SYS_io_uring_setup => &[EPERM, ENOMEM, EMFILE, ENOSYS],
        libc::SYS_io_uring_enter => &[EPERM, EINTR, EAGAIN, EBUSY, EINVAL, EBADF],
        libc::SYS_io_uring_register => &[EINVAL, ENOMEM, EPERM],
        libc::SYS_inotify_init1 => &[EMFILE, ENOMEM, ENFILE],
        libc::SYS_inotify_add_watch => &[ENOSPC, EACCES, ENOMEM, ENOENT],
        libc::SYS_inotify_rm_watch => &[EINVAL, ENOMEM],
        libc::SYS_eventfd2 | libc::SYS_epoll_create1 | libc::SYS_timerfd_create => &[EMFILE, ENOMEM, EPERM],
        libc::SYS_memfd_create => &[EMFILE, ENOSYS, ENOMEM],
        libc::SYS_epoll_ctl => &[ENOMEM, ENOSPC],
        // Those of tokio's own loop are tokio's affair.
        libc::SYS_epoll_pwait if half == "tokio" => &[EINTR],
        libc::SYS_epoll_pwait => &[EINTR, EBADF],
        libc::SYS_read => &[EIO, EINTR],
        libc::SYS_write => &[EIO, EINTR, EAGAIN],
        libc::SYS_ppoll => &[EINTR, EPERM, ENOMEM],
        libc::SYS_ioctl => &[EIO, EPERM],
        libc::SYS_timerfd_settime => &[EPERM],
        // Not ENOENT where directories are opened: that is one that was removed, which its own events tell.
        libc::SYS_openat if half == "tree" => &[EMFILE, EACCES, ENOMEM, EINTR],
        libc::SYS_openat => &[EMFILE, EACCES, ENOMEM, ENOENT, EINTR],
        libc::SYS_newfstatat | libc::SYS_fstat | libc::SYS_statx => &[ENOMEM, EACCES],
        // Not ENOENT: that is what a directory says that was removed.
        libc::SYS_getdents64 => &[EIO, ENOMEM],
        libc::SYS_mmap => &[ENOMEM],
        libc::SYS_madvise => &[EINVAL],
        libc::SYS_clone3 | libc::SYS_clone => &[EAGAIN],
        libc::SYS_unshare | libc::SYS_fchdir => &[EPERM],
        // What is not closed stays open; time passes by itself; and the rest are the C library's own.
        _ => other(half, call),
    }
}

#[cfg(target_arch = "x86_64")]
fn other(half: &str, call: c_long) -> &'static [i32] {
    match call {
        libc::SYS_epoll_wait if half == "tokio" => &[EINTR],
        libc::SYS_epoll_wait => &[EINTR, EBADF],
        libc::SYS_poll => &[EINTR],
        _ => &[],
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other(_: &str, _: c_long) -> &'static [i32] {
    &[]
}

/// Whether an error that never ends is plausible: a call that was interrupted is made again, and where no eventfd can be
/// written, no thread can be told anything.
fn may_last(call: c_long, errno: i32) -> bool {
    errno != EINTR && call != libc::SYS_write
}

/// The faults of a scenario that makes these calls, so many times.
pub(crate) fn faults(half: &str, counts: &[(c_long, u32)], all: bool) -> Vec<Fault> {
    let (most_errors, most_places) = if all { (usize::MAX, 3) } else { (1, 2) };
    let mut faults = Vec::new();
    for &(call, times) in counts {
        for &errno in errors(half, call).iter().take(most_errors) {
            let mut fault = |from, count| {
                faults.push(Fault {
                    call,
                    errno,
                    from,
                    count,
                });
            };
            // The scenario is run twice, and fails the first time only.
            let places = times.div_ceil(2).min(most_places);
            (1..=places).for_each(|from| fault(from, 1));
            if may_last(call, errno) {
                fault(1, u32::MAX);
                // Once threads are at work, the allocator needs memory too, and aborts where it gets none.
                if places > 1 && all && call != libc::SYS_mmap {
                    fault(places, u32::MAX);
                }
            }
        }
    }
    faults
}
