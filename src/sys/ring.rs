//! The ring itself: the requests put into it, the buffers registered with it, and the calls that hand over and wait.
//!
//! It knows nothing of what the requests are about, nor what becomes of their completions.

use std::io;
use std::thread;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use super::buffer_ring::{BufferRing, LENT};
use super::eventfd::timespec;
use super::late;
use crate::backend::Features;
use crate::engine::Wait;

/// Buffer groups are numbered from here. Below, old kernels (seen: 6.1) keep a group's place in its ring when it is
/// unregistered, so that the next group of that number begins in the middle of its own, and runs dry.
const FIRST_GROUP: u16 = 64;

/// Calls in a row that the kernel may put off, a millisecond each, before it counts as a refusal.
const MOST_PUT_OFF: u32 = 2_000;

/// The kernel takes a relative time; what is longer than this is as good as for ever.
const A_LONG_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Ring {
    inner: IoUring,
    features: Features,
    /// Whether requests are in the ring that the kernel has not been given.
    unsubmitted: bool,
    /// Calls in a row that the kernel did not carry out.
    put_off: u32,
    /// The error with which the kernel refuses the calls, so that it writes to no buffer any more.
    pub(super) refused: Option<i32>,
    /// Whether the kernel has said that it could not keep a completion that did not fit the ring's memory.
    dropped: bool,
    /// What the next call is to be refused with.
    #[cfg(test)]
    pub(super) denied: Option<i32>,
}

impl Ring {
    /// A ring with room for so many completions. Of the features, those that it does not find out by itself are as given.
    pub(super) fn new(features: Features, completions: usize) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_clamp()
            .setup_cqsize(completions.try_into().unwrap_or(u32::MAX));
        let inner = late::patiently(libc::ENOMEM, || builder.build(8))?;
        let params = inner.params();
        let mut found = Features::DEFER_TASKRUN | (features & Features::MULTISHOT);
        found.set(Features::MIN_WAIT, params.is_feature_min_timeout());
        found.set(Features::NO_IOWAIT, params.is_feature_no_iowait());
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self {
            inner,
            features: found,
            unsubmitted: false,
            put_off: 0,
            refused: None,
            dropped: false,
            #[cfg(test)]
            denied: None,
        })
    }

    /// What is used of this kernel.
    pub(super) fn features(&self) -> Features {
        self.features
    }

    pub(super) fn knows_multishot(&self) -> io::Result<bool> {
        let mut probe = Probe::new();
        self.inner.submitter().register_probe(&mut probe)?;
        Ok(probe.is_supported(opcode::ReadMulti::CODE))
    }

    /// Makes a lane's provided-buffer ring known to the kernel.
    ///
    /// # Safety
    /// It was not made known before: the kernel would take each buffer once for every group.
    pub(super) unsafe fn register(&self, id: u16, entries: &BufferRing) -> io::Result<()> {
        let submitter = self.inner.submitter();
        // SAFETY: the memory is page-aligned and holds `LENT` entries. It may be unmapped while it is registered: the kernel
        // pins its pages (5.19), and looks at them by a mapping of its own.
        unsafe { submitter.register_buf_ring_with_flags(entries.address(), LENT, group(id)?, 0) }
    }

    pub(super) fn unregister(&self, id: u16) -> io::Result<()> {
        self.inner.submitter().unregister_buf_ring(group(id)?)
    }

    /// Puts a request into the ring, handing over those already there if it is full.
    ///
    /// # Safety
    /// What the request names must stay valid until its last completion.
    pub(super) unsafe fn submit(&mut self, request: &squeue::Entry) -> io::Result<()> {
        self.unsubmitted = true;
        loop {
            // SAFETY: the caller promises it.
            if unsafe { self.inner.submission().push(request) }.is_ok() {
                return Ok(());
            }
            let submitted = self.inner.submit();
            self.judge(submitted.map(drop))?;
        }
    }

    /// Submits, runs the kernel's deferred work, and waits.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut flags = EnterFlags::GETEVENTS;
        if self.features.contains(Features::NO_IOWAIT) {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let to_submit = match self.unsubmitted {
            true => self.inner.submission().len() as u32,
            false => 0,
        };
        // What new requests bring at once is taken before a window is waited for: who was idle has it without delay. And a call
        // that both submitted and waited was seen, though rarely, to sleep for ever with the completions of what it had
        // submitted (Linux 7.3, emulated).
        let brings_at_once = to_submit > 0 && !wait.is_not() && !wait.window.is_zero();
        let submitter = self.inner.submitter();
        let entered = if wait.is_not() || brings_at_once {
            // SAFETY: no argument is passed.
            unsafe { submitter.enter::<()>(to_submit, 0, flags.bits(), None) }
        } else {
            let timeout = wait.timeout.unwrap_or(A_LONG_TIME).min(A_LONG_TIME);
            let time = timespec(timeout);
            let window = wait.window.min(timeout);
            let argument = EnterArgument {
                sigmask: 0,
                sigmask_size: 0,
                min_wait_microseconds: u32::try_from(window.as_micros()).unwrap_or(u32::MAX),
                time: (&raw const time) as u64,
            };
            // With a window, ask for more than can come: then the kernel's timer decides, not the first event. It takes
            // this for a signed number, and for no more than the completion queue holds.
            let enough = if argument.min_wait_microseconds == 0 {
                1
            } else {
                1 << 16
            };
            flags |= EnterFlags::EXT_ARG;
            // SAFETY: `argument` is laid out as `struct io_uring_getevents_arg`, and it and `time` live through the call.
            unsafe { submitter.enter(to_submit, enough, flags.bits(), Some(&argument)) }
        };
        if let &Ok(submitted) = &entered {
            self.unsubmitted = submitted < to_submit as usize;
        }
        self.judge(entered.map(drop))?;
        match brings_at_once && !self.unsubmitted && self.inner.completion().is_empty() {
            true => self.enter(wait),
            false => Ok(()),
        }
    }

    /// What the answer to a call means: that the caller looks what there is, or that the kernel refuses the calls.
    fn judge(&mut self, called: io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        let called = self
            .denied
            .take()
            .map_or(called, |code| Err(io::Error::from_raw_os_error(code)));
        let Err(error) = called else {
            self.put_off = 0;
            return Ok(());
        };
        match error.raw_os_error() {
            // Time is over; a signal was handled.
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // Completions must be taken first; or the kernel was short of memory for a request, which is offered again.
            Some(libc::EBUSY | libc::EAGAIN) if self.put_off < MOST_PUT_OFF => {
                self.put_off += 1;
                if self.put_off > 1 {
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            code => {
                self.dropped |= code == Some(libc::EBADR);
                self.refused = code;
                Err(error)
            }
        }
    }

    /// The completions that the ring's memory holds. No system call.
    pub(super) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.inner.completion()
    }

    /// Whether there are completions that did not fit the ring's memory. The kernel keeps them, and they come with the next
    /// call; or it had no memory to keep them, and they are lost.
    pub(super) fn lacks_some(&mut self) -> bool {
        self.dropped || self.inner.submission().cq_overflow() || self.inner.completion().overflow() > 0
    }

    /// Whether the kernel was given all requests.
    #[cfg(test)]
    pub(super) fn is_submitted(&mut self) -> bool {
        self.inner.submission().is_empty()
    }
}

/// The buffer group of a lane.
pub(super) fn group(id: u16) -> io::Result<u16> {
    id.checked_add(FIRST_GROUP)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))
}

/// `struct io_uring_getevents_arg`; the `io-uring` crate has no builder for the window in it (Linux 6.12).
#[repr(C)]
struct EnterArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_microseconds: u32,
    time: u64,
}
