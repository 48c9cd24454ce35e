//! Which errors a call can have.

use libc::{
    EACCES, EAGAIN, EBADF, EBADR, EBUSY, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, ENXIO,
    EPERM, c_long,
};

use crate::inject::Fault;

/// Calls that are not made to fail, on purpose.
const LEFT_OUT: [c_long; 6] = [
    // What is not closed stays open.
    libc::SYS_close,
    // With debug assertions, std asks so whether what it closes is open, and ends the process if not.
    libc::SYS_fcntl,
    // It can't fail.
    libc::SYS_getpid,
    // Time passes by itself, and not every machine tells it without a call.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // The test's own: see `halves::until_readable`.
    libc::SYS_pselect6,
];

/// The errors of a call, the most telling first. None if it is left out; a call that nobody has thought of fails the test.
pub(crate) fn errors(half: &str, call: c_long) -> &'static [i32] {
    match call {
        libc::SYS_io_uring_setup => &[EPERM, ENOMEM, EMFILE, ENOSYS],
        libc::SYS_io_uring_enter => &[EPERM, EINTR, EAGAIN, EBUSY, EINVAL, EBADF, ENOMEM, ENXIO, EBADR],
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
        libc::SYS_lseek => &[EINVAL],
        libc::SYS_write => &[EIO, EINTR, EAGAIN],
        libc::SYS_ppoll => &[EINTR, EPERM, ENOMEM],
        libc::SYS_ioctl => &[EIO, EPERM],
        libc::SYS_timerfd_settime | libc::SYS_prlimit64 => &[EPERM],
        // Not ENOENT where directories are opened: that is one that was removed, which its own events tell.
        libc::SYS_openat if half == "tree" => &[EMFILE, EACCES, ENOMEM, EINTR, ENFILE, EIO],
        libc::SYS_openat => &[EMFILE, EACCES, ENOMEM, ENOENT, EINTR, ENFILE, EIO],
        libc::SYS_newfstatat | libc::SYS_fstat | libc::SYS_statx => &[ENOMEM, EACCES],
        // Not ENOENT: that is what a directory says that was removed.
        libc::SYS_getdents64 => &[EIO, ENOMEM],
        libc::SYS_mmap => &[ENOMEM],
        libc::SYS_madvise => &[EINVAL],
        libc::SYS_clone3 | libc::SYS_clone => &[EAGAIN],
        libc::SYS_unshare | libc::SYS_fchdir => &[EPERM],
        _ if LEFT_OUT.contains(&call) => &[],
        _ => other(half, call),
    }
}

#[cfg(target_arch = "x86_64")]
fn other(half: &str, call: c_long) -> &'static [i32] {
    match call {
        libc::SYS_epoll_wait if half == "tokio" => &[EINTR],
        libc::SYS_epoll_wait => &[EINTR, EBADF],
        libc::SYS_poll => &[EINVAL, EPERM, EINTR],
        // As pselect6, of older C libraries.
        libc::SYS_select => &[],
        _ => unknown(half, call),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other(half: &str, call: c_long) -> &'static [i32] {
    unknown(half, call)
}

fn unknown(half: &str, call: c_long) -> ! {
    panic!("{half} makes system call {call}, which is new: say here which errors it can have, or why it is left out")
}

/// Whether an error that never ends is plausible: a call that was interrupted is made again, and where no eventfd can be
/// written, no thread can be told anything.
fn may_last(call: c_long, errno: i32) -> bool {
    errno != EINTR && call != libc::SYS_write
}

/// Second faults: of the calls that are made more often when something else has failed.
pub(crate) fn second_faults(half: &str, without: &[(c_long, u32)], behind: &[(c_long, u32)]) -> Vec<Fault> {
    const MOST_PLACES: u32 = 3;
    let mut faults = Vec::new();
    // By then the allocator needs memory too, and aborts where it gets none.
    for &(call, times) in behind.iter().filter(|&&(call, _)| call != libc::SYS_mmap) {
        // The scenario is run twice, and something else fails the first time only.
        let once = without
            .iter()
            .find(|(of, _)| *of == call)
            .map_or(0, |(_, times)| times / 2);
        let first = times - once;
        for &errno in errors(half, call) {
            faults.extend((once + 1..=first).take(MOST_PLACES as usize).map(|from| Fault {
                call,
                errno,
                from,
                count: 1,
            }));
            if once < first && may_last(call, errno) {
                faults.push(Fault {
                    call,
                    errno,
                    from: once + 1,
                    count: u32::MAX,
                });
            }
        }
    }
    faults
}

/// Whether all events arrive all the same, if `Backend::Auto` was asked for.
pub(crate) fn is_outlived(fault: &Fault) -> bool {
    let of_a_ring = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    // The kernel has dropped what it could not keep; and who has no descriptor left has none for epoll.
    of_a_ring.contains(&fault.call) && ![EBADR, EMFILE].contains(&fault.errno)
}

/// How many errors of each call, and at which of the times that it is made.
pub(crate) type Places = (usize, fn(u32) -> Vec<u32>);

/// Also in the midst of the work, and at its end.
pub(crate) fn places(all: bool) -> Places {
    match all {
        true => (usize::MAX, |times| {
            vec![1, 2, 3, times / 3, times / 2, times * 2 / 3, times]
        }),
        false => (1, |times| vec![1, times.div_ceil(2)]),
    }
}

pub(crate) fn first_places(all: bool) -> Places {
    match all {
        true => (usize::MAX, |_| vec![1, 2, 3]),
        false => (1, |_| vec![1, 2]),
    }
}

/// The faults of a scenario that makes these calls, so many times.
pub(crate) fn faults(half: &str, counts: &[(c_long, u32)], (most_errors, places): Places) -> Vec<Fault> {
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
            let times = times.div_ceil(2);
            let mut at = places(times);
            // Once threads are at work, the allocator needs memory too, and std for their stacks: without, they abort.
            at.retain(|place| (1..=times).contains(place) && (call != libc::SYS_mmap || *place == 1));
            at.sort_unstable();
            at.dedup();
            at.iter().for_each(|&from| fault(from, 1));
            if may_last(call, errno) {
                fault(1, u32::MAX);
                if most_errors > 1 {
                    at.iter().skip(1).for_each(|&from| fault(from, u32::MAX));
                }
            }
        }
    }
    faults
}
