//! Counts the system calls of a consumer by tracing it, for those who may not use the kernel's counter.

use std::io;
use std::ptr;

/// Between two of these, calls are counted: nothing else here has a reason to ask for the parent.
pub fn mark() {
    // SAFETY: no arguments, and it can't fail.
    unsafe { libc::getppid() };
}

/// Traces a process that waits for us, and lets it go on. For the thread that calls this, and only that one, what follows
/// must be `count`.
pub fn seize(process: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SEIZE, process, options as usize)?;
    request(libc::PTRACE_INTERRUPT, process, 0)?;
    match stopped(process)? {
        Some(_) => request(libc::PTRACE_SYSCALL, process, 0),
        None => Err(io::Error::other("the consumer ended before it was traced")),
    }
}

/// Calls between the two marks, of all threads, when all of them have ended.
pub fn count() -> io::Result<u64> {
    let (mut marks, mut calls) = (0, 0);
    loop {
        let Some((thread, status)) = stopped_any()? else {
            return Ok(calls);
        };
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let mut signal = 0;
        match libc::WSTOPSIG(status) {
            stop if stop == libc::SIGTRAP | 0x80 => {
                if let Some(call) = entered(thread) {
                    if call == libc::SYS_getppid as u64 {
                        marks += 1;
                    } else if marks == 1 {
                        calls += 1;
                    }
                }
            }
            // A new thread, or one that stopped with the others.
            _ if status >> 16 != 0 => {}
            other => signal = other,
        }
        // A thread can be killed at any time; then the next wait says so.
        let _ = request(libc::PTRACE_SYSCALL, thread, signal as usize);
    }
}

/// The number of the call a thread stands before; none if it stands behind one.
fn entered(thread: i32) -> Option<u64> {
    // SAFETY: all-zero bytes are a valid value of this plain struct.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`, which lives through the call; since Linux 5.3.
    let written = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, &raw mut info) };
    if written <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that this is what the kernel wrote.
    Some(unsafe { info.u.entry }.nr)
}

fn request(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests used here reads or writes our memory.
    let result = unsafe { libc::ptrace(request, thread, ptr::null_mut::<libc::c_void>(), data) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn stopped(process: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: the call writes `status`, which lives through it.
    let found = unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) };
    if found < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::WIFSTOPPED(status).then_some(status))
}

/// Only what this very thread traces: other threads wait for children of their own.
fn stopped_any() -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: the call writes `status`, which lives through it.
    let found = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    if found >= 0 {
        return Ok(Some((found, status)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ECHILD) => Ok(None),
        Some(libc::EINTR) => stopped_any(),
        _ => Err(error),
    }
}
