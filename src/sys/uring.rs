//! The io_uring backend: multishot reads into rings of provided buffers.
//!
//! The ring is made with `SINGLE_ISSUER | DEFER_TASKRUN`. Two things follow, and all else here rests on them:
//!
//! 1. The kernel reads the descriptors only inside `io_uring_enter`, and only this ring's own thread may call that. So
//!    between two calls nothing is written to any buffer, and on another thread the ring can be let go of safely.
//! 2. However many events arrive while nobody waits, they are read together at the next call.
//!
//! A buffer that is lent to the kernel stays in the lane's `BufferRing`, where the kernel's "buffer id" points. It leaves when a
//! completion says it was filled, or when the read is known to have ended.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};

use super::buffer_ring::{BufferRing, LENT};
use super::fork::Home;
use super::lane::Lane;
use super::late;
use super::notifier::Notifier;
use super::pool::Buffer;
use super::ring::{Ring, group};
use crate::backend::Features;
use crate::engine::{Pace, Source, SourceId, Wait};

/// Completions a source can have outstanding: its buffers, the end of its read, the end of its cancellation.
const COMPLETIONS_A_SOURCE: usize = LENT as usize + 2;

/// What a completion is about: the upper half of its user data. The lower half is the lane.
const READ: u64 = 0;
const CANCEL: u64 = 1 << 32;
const WAKE: u64 = 2 << 32;

/// How long teardown waits for the kernel's last word before it leaves the memory to the kernel for good.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Cancellations of a read that may fail, as fast as the kernel answers, before the rest of [`LAST_WORD`] is only waited.
const MOST_CANCELLED: u32 = 64;

/// Polls of the notifier in a row that may fail before that counts as a refusal.
const MOST_UNHEARD: u32 = 64;

pub(crate) struct Uring {
    ring: Ring,
    /// The thread that made the ring.
    owner: u64,
    home: Home,
    notifier: Arc<Notifier>,
    /// Whether a poll of the notifier is in the ring.
    listening: bool,
    lanes: Vec<Option<Lane>>,
    /// Lanes of which the kernel did not let go. Their numbers are not used again: it knows their buffers by them, and may still
    /// speak of their reads.
    left: Vec<u16>,
    /// Lanes to supply with buffers or to arm before the next wait.
    needy: Vec<u16>,
    /// Lanes with a read in the ring.
    armed: usize,
    turn: u64,
    pace: Pace,
    /// The kernel may have more than was read: the next turn does not keep the window, or its queue would fill.
    behind: bool,
    /// Polls of the notifier in a row that ended with an error.
    unheard: u32,
    unheard_of: i32,
    /// What the poll under way is to end with.
    #[cfg(test)]
    pretended: Option<i32>,
    pub(crate) in_place: bool,
    /// Of the turn under way: what it will answer.
    passed: Option<Buffer>,
}

impl Uring {
    pub(crate) fn new(features: Features, sources: usize, notifier: Arc<Notifier>) -> io::Result<Self> {
        let completions = (sources * COMPLETIONS_A_SOURCE + 8).next_power_of_two();
        let ring = Ring::new(features, completions)?;
        Ok(Self {
            ring,
            owner: super::thread::current(),
            home: Home::new(),
            notifier,
            listening: false,
            lanes: Vec::new(),
            left: Vec::new(),
            needy: Vec::new(),
            armed: 0,
            turn: 0,
            pace: Pace::default(),
            behind: false,
            unheard: 0,
            unheard_of: 0,
            #[cfg(test)]
            pretended: None,
            in_place: false,
            passed: None,
        })
    }

    /// What it uses of this kernel.
    pub(crate) fn features(&self) -> Features {
        self.ring.features()
    }

    /// Whether the kernel knows multishot reads. That they work is for a test to say.
    pub(super) fn knows_multishot(&self) -> io::Result<bool> {
        self.ring.knows_multishot()
    }

    #[inline]
    pub(crate) fn usable_here(&self) -> bool {
        self.owner == super::thread::current()
    }

    /// The error with which a call was refused, be it to detach. The ring is of no use then.
    pub(crate) fn refused(&self) -> Option<i32> {
        self.ring.refused
    }

    #[cfg(test)]
    pub(crate) fn deny(&mut self, code: i32) {
        self.ring.denied = Some(code);
    }

    pub(crate) fn has_read_all(&self) -> bool {
        !self.behind
    }

    #[cfg(test)]
    pub(crate) fn notifier(&self) -> Arc<Notifier> {
        Arc::clone(&self.notifier)
    }

    pub(crate) fn attach(&mut self, source: Source) -> io::Result<SourceId> {
        let is_free =
            |id: &u16| self.lanes.get(usize::from(*id)).is_none_or(Option::is_none) && !self.left.contains(id);
        let id = (0..u16::MAX)
            .find(is_free)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let index = usize::from(id);
        if index == self.lanes.len() {
            self.lanes.push(None);
        }
        let entries = BufferRing::new()?;
        // SAFETY: it was just made.
        unsafe { self.ring.register(id, &entries)? };
        let lane = Lane::new(source, entries);
        #[cfg(test)]
        if self.listening && lane.faults().has_wake() {
            let unlisten = opcode::AsyncCancel::new(WAKE).build().user_data(CANCEL | u64::from(id));
            // SAFETY: it names no memory.
            unsafe { self.ring.submit(&unlisten)? };
        }
        self.lanes[index] = Some(lane);
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
        let kernel_keeps_window = self.ring.features().contains(Features::MIN_WAIT);
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
        self.ring.enter(wait)?;
        if self.reap() && !kernel_keeps_window {
            self.pace.busy();
        }
        Ok(self.passed.take())
    }

    /// Lends buffers, arms reads, listens to the notifier. What is put in the queue is submitted by the next `enter`.
    fn prepare(&mut self) -> io::Result<()> {
        if !self.listening {
            self.listen()?;
        }
        while let Some(id) = self.needy.pop() {
            let Some(lane) = &mut self.lanes[id as usize] else {
                continue;
            };
            lane.needy = false;
            lane.supply(&self.notifier);
            #[cfg(test)]
            if mem::take(&mut lane.to_cut) && lane.armed {
                let cut = opcode::AsyncCancel::new(READ | u64::from(id)).build();
                // SAFETY: it names no memory.
                unsafe { self.ring.submit(&cut.user_data(CANCEL | u64::from(id)))? };
                continue;
            }
            if !lane.wants_read() {
                continue;
            }
            let read = lane.read(group(id)?, self.ring.features().contains(Features::MULTISHOT));
            let read = read.user_data(READ | u64::from(id));
            // SAFETY: the buffers it writes are those lent through the lane's ring, which are held until it has ended.
            unsafe { self.ring.submit(&read)? };
            if let Some(lane) = &mut self.lanes[id as usize] {
                lane.armed = true;
                self.armed += 1;
            }
        }
        Ok(())
    }

    /// Polls the notifier.
    fn listen(&mut self) -> io::Result<()> {
        if self.unheard > MOST_UNHEARD {
            self.ring.refused = Some(self.unheard_of);
            return Err(io::Error::from_raw_os_error(self.unheard_of));
        }
        let fd = Fd(self.notifier.as_fd().as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        #[cfg(test)]
        let poll = {
            self.pretended = self.lanes.iter().flatten().find_map(|lane| lane.faults().of_wake());
            self.pretended.map_or(poll, |_| opcode::Nop::new().build())
        };
        // SAFETY: it names no memory, and the descriptor is owned by `self.notifier`.
        unsafe { self.ring.submit(&poll.user_data(WAKE))? };
        self.listening = true;
        Ok(())
    }

    /// Whether all that the kernel has read has come here, now that it refuses to be called: it keeps completions that do
    /// not fit the ring until it is, if it has memory for that.
    pub(crate) fn lost_nothing(&mut self) -> bool {
        // There is no turn that would answer it.
        self.in_place = false;
        self.reap();
        !self.ring.lacks_some()
    }

    /// Takes every completion that the ring's memory holds, and answers whether there were events. No system call but,
    /// after a signal, one to clear it.
    fn reap(&mut self) -> bool {
        let mut events = false;
        let mut signalled = false;
        for completion in self.ring.completions() {
            let about = completion.user_data();
            let id = about as u16;
            match about & !0xffff_ffff {
                WAKE => {
                    let result = completion.result();
                    #[cfg(test)]
                    let result = self.pretended.take().unwrap_or(result);
                    self.listening &= cqueue::more(completion.flags());
                    self.unheard = if result < 0 { self.unheard + 1 } else { 0 };
                    self.unheard_of = -result;
                    signalled = true;
                }
                // Whatever came of it, the read itself says whether it has ended.
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
                    // SAFETY: it was just taken out of the ring, and names this lane as the one it is for.
                    events |= unsafe { lane.complete(completion, self.turn, passed) };
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
            let certain = self.lost_nothing();
            if self.ring.refused.is_some() && certain {
                // SAFETY: it refuses to be called, and `lost_nothing` took all there was.
                return unsafe { self.abandon(id) };
            }
            // The kernel never said that the read has ended. What it may write to is left to it; but as far as it can be
            // told which buffers it has, it gets no other: what the read would take from the queue, nobody would see.
            if let Some(mut lane) = self.lanes[usize::from(id)].take() {
                if certain {
                    // SAFETY: no call is under way, and `lost_nothing` took all there was.
                    unsafe { lane.withdraw() };
                } else {
                    lane.lose();
                }
                self.armed -= usize::from(lane.armed);
                self.left.push(id);
            }
            return;
        }
        if self.ring.unregister(id).is_err() {
            // No read is left that could use what is registered.
            self.left.push(id);
        }
        if let Some(lane) = self.lanes[usize::from(id)].take() {
            // SAFETY: the kernel has said that its read has ended.
            unsafe { lane.reclaim() };
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
        let patience = Wait {
            timeout: Some(Duration::from_millis(100)),
            window: Duration::ZERO,
        };
        let since = std::time::Instant::now();
        let mut cancelled = 0;
        loop {
            self.reap();
            let Some(lane) = &mut self.lanes[usize::from(id)] else {
                return true;
            };
            if !lane.armed && !lane.cancelling {
                return true;
            }
            if !lane.cancelling && cancelled < MOST_CANCELLED {
                cancelled += 1;
                lane.cancelling = true;
                let cancel = lane.cancel(READ | u64::from(id)).user_data(CANCEL | u64::from(id));
                // SAFETY: it names no memory.
                if unsafe { self.ring.submit(&cancel) }.is_err() {
                    return false;
                }
            }
            if since.elapsed() > LAST_WORD || self.ring.enter(patience).is_err() {
                return false;
            }
        }
    }

    /// Lets go of a lane whose ring can't be called: its thread is another, or has ended, or the kernel refuses. See the
    /// head of this file for why it can be.
    ///
    /// # Safety
    /// The ring is not called any more, and all completions were taken.
    unsafe fn abandon(&mut self, id: u16) {
        if let Some(mut lane) = self.lanes[id as usize].take() {
            // Closing the ring cancels its reads, but later, and on old kernels a read that was just due may run once
            // more. With no buffer to select it ends with `ENOBUFS` before it takes an event from the queue.
            // SAFETY: no call is under way, and the caller promises that all completions were taken.
            unsafe { lane.withdraw() };
            self.armed -= usize::from(lane.armed);
            // SAFETY: the kernel reads only in calls, of which none comes any more, and would find no buffer.
            unsafe { lane.reclaim() };
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
        let callable = self.usable_here() && self.ring.refused.is_none();
        // What the kernel could not say is where it may still write.
        let certain = callable || self.lost_nothing();
        for index in 0..self.lanes.len() as u16 {
            match (callable, certain) {
                (true, _) => self.detach(SourceId(index)),
                // SAFETY: it is being dropped, and `lost_nothing` took all there was.
                (false, true) => unsafe { self.abandon(index) },
                (false, false) => self.lanes[usize::from(index)] = None,
            }
        }
        late::ring_closed();
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.ring.features())
            .field("owner", &self.owner)
            .field("sources", &self.lanes.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::queue::Feed;
    use crate::sys::inotify::InotifyFd;
    use crate::sys::pool::Pool;
    use crate::sys::probe;

    fn source(buffers: usize) -> Source {
        Source {
            fd: Arc::new(InotifyFd::new().unwrap()),
            feed: Feed::new(Pool::new(buffers, 4096).unwrap()),
        }
    }

    /// More reads are armed in one turn than the ring takes at once, so they are handed over before it waits.
    #[test]
    fn a_refusal_while_requests_are_handed_over_leaves_nothing_with_the_kernel() {
        const SOURCES: usize = 20;
        let Some(features) = probe::features_for_a_test() else {
            return;
        };
        for code in [libc::EPERM, libc::EAGAIN, libc::EINTR] {
            let mut uring = Uring::new(features, SOURCES, Arc::new(Notifier::new().unwrap())).unwrap();
            let sources: Vec<_> = (0..SOURCES).map(|_| source(2)).collect();
            let ids: Vec<_> = sources
                .iter()
                .map(|source| uring.attach(source.clone()).unwrap())
                .collect();
            uring.deny(code);
            let turned = uring.turn(Wait::NOT).map(drop).map_err(|error| error.raw_os_error());
            if code == libc::EPERM {
                assert_eq!((turned, uring.refused()), (Err(Some(code)), Some(code)));
                uring.detach(ids[0]);
            } else {
                assert_eq!((turned, uring.armed), (Ok(()), SOURCES));
            }
            drop(uring);
            for source in sources {
                assert!(
                    source
                        .feed
                        .pool
                        .take()
                        .is_some_and(|_first| source.feed.pool.take().is_some())
                );
            }
        }
    }

    #[test]
    fn a_ring_dropped_in_a_child_leaves_the_parents_as_it_is() {
        let Some(features) = probe::features_for_a_test() else {
            return;
        };
        let mut uring = Uring::new(features, 1, Arc::new(Notifier::new().unwrap())).unwrap();
        let source = source(4);
        uring.attach(source.clone()).unwrap();
        uring.turn(Wait::NOT).unwrap();
        assert!(uring.armed == 1 && uring.ring.is_submitted());
        assert!(crate::sys::fork::in_child(|| {
            // SAFETY: what the child drops is its own copy; this one lives on.
            drop(unsafe { std::ptr::read(&raw const uring) });
            true
        }));
        // Both processes see the same ring: nothing was put into it.
        assert!(uring.ring.is_submitted());
        let wd = source.fd.add_watch(c"/", Mask::MOVE_SELF).unwrap();
        source.fd.rm_watch(wd).unwrap();
        uring.turn(Wait::forever(Duration::ZERO)).unwrap();
        assert!(source.feed.queue.has_news());
    }
}
