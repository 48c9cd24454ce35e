//! Counts the system calls of a consumer, in a run of its own that is not timed.
//!
//! Best by the kernel's own counter, a tracepoint that costs a call some tens of nanoseconds and needs the rights of
//! `perf`. Where that is denied by [`trace`](crate::trace), which anybody may, but which makes a call some ten times as
//! dear: then a consumer that is woken often is slower, finds more events at once, and makes fewer calls than it would.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What counts system calls, if anything does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Counter {
    /// Nothing is counted.
    #[default]
    None,
    /// The kernel's tracepoint.
    Perf,
    /// A tracer.
    Trace,
}

impl Counter {
    /// The best one that can be had.
    pub fn best() -> Self {
        if Calls::new().is_ok() { Self::Perf } else { Self::Trace }
    }
}

/// The first fields of `struct perf_event_attr`, as the oldest kernel had it (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
}

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u32 = 2;
/// The second bit of the flags: threads made later are counted too.
const INHERIT: u64 = 1 << 1;

/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// The system calls of this process, from the thread that makes this on and of all threads it makes.
pub struct Calls {
    counter: fs::File,
    before: u64,
}

impl Calls {
    pub fn new() -> io::Result<Self> {
        let id = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
            .into_iter()
            .find_map(|root| fs::read_to_string(format!("{root}/events/raw_syscalls/sys_enter/id")).ok())
            .and_then(|id| id.trim().parse().ok())
            .ok_or_else(|| io::Error::other("no tracepoint for system calls"))?;
        let attributes = Attributes {
            kind: TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: id,
            flags: INHERIT,
            ..Attributes::default()
        };
        let (this_thread, every_cpu, no_group) = (0, -1, -1);
        // SAFETY: the kernel reads `size` bytes of the attributes, which live through the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_thread,
                every_cpu,
                no_group,
                CLOSE_ON_EXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self {
            counter: fd.into(),
            before: 0,
        })
    }

    /// Counts from now on.
    pub fn restart(&mut self) {
        self.before = self.all();
    }

    pub fn count(&self) -> u64 {
        self.all() - self.before
    }

    fn all(&self) -> u64 {
        let mut count = [0; 8];
        let read = (&self.counter).read_exact(&mut count);
        read.expect("a counter of our own can be read");
        u64::from_ne_bytes(count)
    }
}
