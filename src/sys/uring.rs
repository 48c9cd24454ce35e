//! The io_uring backend: multishot reads into rings of provided buffers.
//!
//! The ring is made with `SINGLE_ISSUER | DEFER_TASKRUN`. Two things follow, and all else here rests on them:
//!
//! 1. The kernel reads the descriptors only inside `io_uring_enter`, and only this ring's own thread may call that. So
//!    between two calls nothing is written to any buffer, and on another thread the ring can be let go of safely.
//! 2. However many events arrive while nobody waits, they are read together at the next call.
//!
//! A buffer that is lent to the kernel stays in `Lane::held`, which is where the kernel's "buffer id" points. It leaves
//! when a completion says it was filled, or when the read is known to have ended.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

use super::buffer_ring::BufferRing;
use super::eventfd::timespec;
use super::fork::Home;
use super::lane::{LENT, Lane};
use super::late;
use super::notifier::Notifier;
use super::pool::Buffer;
use crate::backend::Features;
use crate::engine::{Pace, Source, SourceId, Wait};

/// Completions a source can have outstanding: its buffers, the end of its read, the end of its cancellation.
const COMPLETIONS_A_SOURCE: usize = LENT as usize + 2;

/// What a completion is about: the upper half of its user data. The lower half is the lane.
const READ: u64 = 0;
const CANCEL: u64 = 1 << 32;
const WAKE: u64 = 2 << 32;

/// Buffer groups are numbered from here. Below, old kernels (seen: 6.1) keep a group's place in its ring when it is
/// unregistered, so that the next group of that number begins in the middle of its own, and runs dry.
const FIRST_GROUP: u16 = 64;

/// How long teardown waits for the kernel's last word before it leaves the memory to the kernel for good.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Calls in a row that the kernel may put off, a millisecond each, before it counts as a refusal.
const MOST_PUT_OFF: u32 = 2_000;

/// Polls of the notifier in a row that may fail before that counts as a refusal.
const MOST_UNHEARD: u32 = 64;

pub(crate) struct Uring {
    ring: IoUring,
    features: Features,
    /// The thread that made the ring.
    owner: u64,
    home: Home,
    notifier: Arc<Notifier>,
    /// Whether a poll of the notifier is in the ring.
    listening: bool,
    lanes: Vec<Option<Lane>>,
    /// Lanes to supply with buffers or to arm before the next wait.
    needy: Vec<u16>,
    /// Lanes with a read in the ring.
    armed: usize,
    turn: u64,
    pace: Pace,
    /// The kernel may have more than was read: the next turn does not keep the window, or its queue would fill.
    behind: bool,
    /// Whether requests are in the ring that the kernel has not been given.
    unsubmitted: bool,
    /// Calls in a row that the kernel did not carry out.
    put_off: u32,
    /// Polls of the notifier in a row that ended with an error.
    unheard: u32,
    unheard_of: i32,
    /// The kernel refuses the calls, so that it writes to no buffer any more.
    refused: bool,
    pub(crate) in_place: bool,
    /// Of the turn under way: what it will answer.
    passed: Option<Buffer>,
}

impl Uring {
    pub(crate) fn new(features: Features, sources: usize, notifier: Arc<Notifier>) -> io::Result<Self> {
        let completions = (sources * COMPLETIONS_A_SOURCE + 8).next_power_of_two();
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_clamp()
            .setup_cqsize(completions.try_into().unwrap_or(u32::MAX));
        let ring = late::patiently(libc::ENOMEM, || builder.build(8))?;
        let params = ring.params();
        let mut found = Features::DEFER_TASKRUN | (features & Features::MULTISHOT);
        found.set(Features::MIN_WAIT, params.is_feature_min_timeout());
        found.set(Features::NO_IOWAIT, params.is_feature_no_iowait());
        if !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self {
            ring,
            features: found,
            owner: super::thread::current(),
            home: Home::new(),
            notifier,
            listening: false,
            lanes: Vec::new(),
            needy: Vec::new(),
            armed: 0,
            turn: 0,
            pace: Pace::default(),
            behind: false,
            unsubmitted: false,
            put_off: 0,
            unheard: 0,
            unheard_of: 0,
            refused: false,
            in_place: false,
            passed: None,
        })
    }

    /// What it uses of this kernel.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Whether the kernel knows multishot reads. That they work is for a test to say.
    pub(super) fn knows_multishot(&self) -> io::Result<bool> {
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe)?;
        Ok(probe.is_supported(opcode::ReadMulti::CODE))
    }

    #[inline]
    pub(crate) fn usable_here(&self) -> bool {
        self.owner == super::thread::current()
    }

    pub(crate) fn has_read_all(&self) -> bool {
        !self.behind
    }

    #[cfg(test)]
    pub(crate) fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    pub(crate) fn attach(&mut self, source: Source) -> io::Result<SourceId> {
        let index = self.lanes.iter().position(Option::is_none).unwrap_or(self.lanes.len());
        let id = u16::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENOSPC))?;
        if index == self.lanes.len() {
            self.lanes.push(None);
        }
        let entries = BufferRing::new(LENT)?;
        let address = entries.address();
        // SAFETY: the memory is page-aligned, holds `LENT` entries, and stays mapped until the lane is dropped, which is
        // after `unregister_buf_ring` or after the ring was closed (the kernel pins the pages it still looks at, 5.19).
        unsafe {
            self.ring
                .submitter()
                .register_buf_ring_with_flags(address, LENT, group(id)?, 0)?
        };
        self.lanes[index] = Some(Lane::new(source, entries));
        self.need(id);
        Ok(SourceId(id))
    }

    fn need(&mut self, id: u16) {
        if let Some(lane) = &mut self.lanes[id as usize]
            && !mem::replace(&mut lane.needy, true)
        {
            self.needy.push(id);
        }
    }

    pub(crate) fn turn(&mut self, mut wait: Wait) -> io::Result<Option<Buffer>> {
        debug_assert!(self.usable_here());
        self.turn += 1;
        // Completions are posted only by calls, and taken behind each. What did not fit the ring comes with the next call.
        let kernel_keeps_window = self.features.contains(Features::MIN_WAIT);
        if mem::take(&mut self.behind) {
            wait.window = Duration::ZERO;
        }
        if !kernel_keeps_window {
            match self.pace.hold(wait, &self.notifier) {
                Some(left) => wait.timeout = left,
                None => wait = Wait::NOT,
            }
            wait.window = Duration::ZERO;
        }
        self.prepare()?;
        if self.armed == 0 {
            wait.window = Duration::ZERO;
        }
        self.enter(wait)?;
        if self.reap() && !kernel_keeps_window {
            self.pace.busy();
        }
        Ok(self.passed.take())
    }

    /// Lends buffers, arms reads, listens to the notifier. What is put in the queue is submitted by the next `enter`.
    fn prepare(&mut self) -> io::Result<()> {
        if !self.listening {
            if self.unheard > MOST_UNHEARD {
                self.refused = true;
                return Err(io::Error::from_raw_os_error(self.unheard_of));
            }
            let fd = Fd(self.notifier.as_fd().as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true);
            // SAFETY: it names no memory, and the descriptor is owned by `self.notifier`.
            unsafe { self.submit(&poll.build().user_data(WAKE))? };
            self.listening = true;
        }
        while let Some(id) = self.needy.pop() {
            let Some(lane) = &mut self.lanes[id as usize] else {
                continue;
            };
            lane.needy = false;
            lane.supply(&self.notifier);
            if !lane.wants_read() {
                continue;
            }
            let read = lane.read(group(id)?, self.features.contains(Features::MULTISHOT));
            let read = read.user_data(READ | u64::from(id));
            // SAFETY: the buffers it writes are those lent through the lane's ring, which are held until it has ended.
            unsafe { self.submit(&read)? };
            if let Some(lane) = &mut self.lanes[id as usize] {
                lane.armed = true;
                self.armed += 1;
            }
        }
        Ok(())
    }

    /// Puts a request into the ring, handing over those already there if it is full.
    ///
    /// # Safety
    /// What the request names must stay valid until its last completion.
    unsafe fn submit(&mut self, request: &squeue::Entry) -> io::Result<()> {
        self.unsubmitted = true;
        loop {
            // SAFETY: the caller promises it.
            if unsafe { self.ring.submission().push(request) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Submits, runs the kernel's deferred work, and waits.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let mut flags = EnterFlags::GETEVENTS;
        if self.features.contains(Features::NO_IOWAIT) {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let to_submit = match self.unsubmitted {
            true => self.ring.submission().len() as u32,
            false => 0,
        };
        let submitter = self.ring.submitter();
        let entered = if wait.is_not() {
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
        match entered {
            Ok(submitted) => {
                self.put_off = 0;
                self.unsubmitted = submitted < to_submit as usize;
                Ok(())
            }
            // Time is over; a signal was handled; completions must be taken first. The caller looks what there is.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => Ok(()),
                // Completions must be taken first; or the kernel was short of memory for a request, which is offered again.
                Some(libc::EBUSY | libc::EAGAIN) if self.put_off < MOST_PUT_OFF => {
                    self.put_off += 1;
                    if self.put_off > 1 {
                        thread::sleep(Duration::from_millis(1));
                    }
                    Ok(())
                }
                _ => {
                    self.refused = true;
                    Err(error)
                }
            },
        }
    }

    /// Whether all that the kernel has read has come here, now that it refuses to be called: it keeps completions that do
    /// not fit the ring until it is.
    pub(crate) fn lost_nothing(&mut self) -> bool {
        self.reap();
        !self.ring.submission().cq_overflow()
    }

    /// Takes every completion that the ring's memory holds, and answers whether there were events. No system call but,
    /// after a signal, one to clear it.
    fn reap(&mut self) -> bool {
        let mut events = false;
        let mut signalled = false;
        for completion in self.ring.completion() {
            let about = completion.user_data();
            let id = about as u16;
            match about & !0xffff_ffff {
                WAKE => {
                    self.listening &= cqueue::more(completion.flags());
                    self.unheard = if completion.result() < 0 { self.unheard + 1 } else { 0 };
                    self.unheard_of = -completion.result();
                    signalled = true;
                }
                CANCEL => {
                    if let Some(lane) = &mut self.lanes[id as usize] {
                        lane.cancelling = false;
                    }
                }
                _ => {
                    // A lane that was left to the kernel may hear from it after all.
                    let Some(lane) = &mut self.lanes[id as usize] else {
                        continue;
                    };
                    let passed = self.in_place.then_some(&mut self.passed);
                    let was_armed = lane.armed;
                    events |= lane.complete(&completion, self.turn, passed);
                    self.armed -= usize::from(was_armed && !lane.armed);
                    self.behind |= mem::take(&mut lane.behind);
                    if !mem::replace(&mut lane.needy, true) {
                        self.needy.push(id);
                    }
                }
            }
        }
        if signalled {
            self.notifier.clear();
            self.signalled();
        }
        events
    }

    pub(crate) fn detach(&mut self, id: SourceId) {
        debug_assert!(self.usable_here());
        self.in_place = false;
        let SourceId(id) = id;
        if !self.cancel(id) {
            if self.refused && self.lost_nothing() {
                return self.abandon(id);
            }
            // The kernel never said that the read has ended. What it may write to is left to it.
            let lane = self.lanes[id as usize].take();
            self.armed -= usize::from(lane.as_ref().is_some_and(|lane| lane.armed));
            mem::forget(lane);
            return;
        }
        let unregistered = group(id).and_then(|group| self.ring.submitter().unregister_buf_ring(group));
        let lane = self.lanes[id as usize].take();
        if unregistered.is_err() {
            mem::forget(lane);
        }
    }

    /// A buffer may have come back to any lane that ran out.
    pub(crate) fn signalled(&mut self) {
        for index in 0..self.lanes.len() {
            self.need(index as u16);
        }
    }

    /// Ends the read of a lane; what it brought is in the feed. Answers whether the kernel confirmed it.
    fn cancel(&mut self, id: u16) -> bool {
        let Some(lane) = &mut self.lanes[id as usize] else {
            return true;
        };
        lane.stop();
        if lane.armed {
            let cancel = opcode::AsyncCancel::new(READ | u64::from(id))
                .build()
                .user_data(CANCEL | u64::from(id));
            // SAFETY: it names no memory.
            if unsafe { self.submit(&cancel) }.is_err() {
                return false;
            }
            if let Some(lane) = &mut self.lanes[id as usize] {
                lane.cancelling = true;
            }
        }
        let patience = Wait {
            timeout: Some(Duration::from_millis(100)),
            window: Duration::ZERO,
        };
        let since = std::time::Instant::now();
        loop {
            self.reap();
            match &self.lanes[id as usize] {
                Some(lane) if lane.armed || lane.cancelling => {}
                _ => return true,
            }
            if since.elapsed() > LAST_WORD || self.enter(patience).is_err() {
                return false;
            }
        }
    }

    /// Lets go of a lane whose ring can't be called: its thread is another, or has ended, or the kernel refuses. See the
    /// head of this file for why this is safe. All that has come was taken before.
    fn abandon(&mut self, id: u16) {
        if let Some(mut lane) = self.lanes[id as usize].take() {
            // Closing the ring cancels its reads, but later, and on old kernels a read that was just due may run once
            // more. With no buffer to select it ends with `ENOBUFS` before it takes an event from the queue.
            lane.withdraw();
            self.armed -= usize::from(lane.armed);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.home.is_here() {
            // The parent's, and so is the memory that the kernel looks at.
            return;
        }
        self.in_place = false;
        let callable = self.usable_here() && !self.refused;
        // What the kernel could not say is where it may still write.
        let certain = callable || self.lost_nothing();
        for index in 0..self.lanes.len() as u16 {
            match (callable, certain) {
                (true, _) => self.detach(SourceId(index)),
                (false, true) => self.abandon(index),
                (false, false) => mem::forget(self.lanes[usize::from(index)].take()),
            }
        }
        late::ring_closed();
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("owner", &self.owner)
            .field("sources", &self.lanes.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// The buffer group of a lane.
fn group(id: u16) -> io::Result<u16> {
    id.checked_add(FIRST_GROUP)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))
}

/// The kernel takes a relative time; what is longer than this is as good as for ever.
const A_LONG_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// `struct io_uring_getevents_arg`; the `io-uring` crate has no builder for the window in it (Linux 6.12).
#[repr(C)]
struct EnterArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_microseconds: u32,
    time: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::queue::Feed;
    use crate::sys::inotify::InotifyFd;
    use crate::sys::pool::Pool;
    use crate::sys::probe;

    #[test]
    fn a_ring_dropped_in_a_child_leaves_the_parents_as_it_is() {
        let Ok(features) = probe::uring_features() else { return };
        let mut uring = Uring::new(features, 1, Arc::new(Notifier::new().unwrap())).unwrap();
        let source = Source {
            fd: Arc::new(InotifyFd::new().unwrap()),
            feed: Feed::new(Pool::new(4, 4096).unwrap()),
        };
        uring.attach(source.clone()).unwrap();
        uring.turn(Wait::NOT).unwrap();
        assert!(uring.armed == 1 && uring.ring.submission().is_empty());
        assert!(crate::sys::fork::in_child(|| {
            // SAFETY: what the child drops is its own copy; this one lives on.
            drop(unsafe { std::ptr::read(&raw const uring) });
            true
        }));
        // Both processes see the same ring: nothing was put into it.
        assert!(uring.ring.submission().is_empty());
        let wd = source.fd.add_watch(c"/", Mask::MOVE_SELF).unwrap();
        source.fd.rm_watch(wd).unwrap();
        uring.turn(Wait::forever(Duration::ZERO)).unwrap();
        assert!(source.feed.queue.has_news());
    }
}
