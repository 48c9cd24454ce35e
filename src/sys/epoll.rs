//! The epoll backend: the same contract with `epoll_wait` and `read`, where io_uring can't be had.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::checked;
use super::inotify::LARGEST_RECORD;
use super::lane::MOST_FRUITLESS;
use super::notifier::Notifier;
use super::pool::Buffer;
use crate::engine::{Pace, Source, SourceId, Wait};
use crate::error::{Error, ErrorKind};
use crate::queue::add;

/// Buffers one source may fill in one turn before the others have theirs.
const READS_A_TURN: usize = 32;

/// What the notifier is registered as; sources are registered by their index.
const NOTIFIER: u64 = u64::MAX;

pub(crate) struct Epoll {
    poll: EpollFd,
    notifier: Arc<Notifier>,
    lanes: Vec<Option<Lane>>,
    pace: Pace,
    last_look: Look,
    pub(crate) in_place: bool,
    /// Of the turn under way: what it will answer.
    passed: Option<Buffer>,
}

/// How much of what there was a look brought.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Nothing,
    All,
    Part,
}

struct Lane {
    source: Source,
    /// The buffer for the next read.
    spare: Option<Buffer>,
    /// Whether the pool was empty, so that readiness is not asked for.
    starved: bool,
    /// Reads in a row that brought nothing and did not say that there is nothing.
    fruitless: u32,
}

impl Epoll {
    pub(crate) fn new(notifier: Arc<Notifier>) -> io::Result<Self> {
        let poll = EpollFd::new()?;
        poll.add(notifier.as_fd(), NOTIFIER, true)?;
        Ok(Self {
            poll,
            notifier,
            lanes: Vec::new(),
            pace: Pace::default(),
            last_look: Look::Nothing,
            in_place: false,
            passed: None,
        })
    }

    pub(crate) fn has_read_all(&self) -> bool {
        self.last_look != Look::Part
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
        self.poll.add(source.fd.as_fd(), u64::from(id), true)?;
        self.lanes[index] = Some(Lane {
            source,
            spare: None,
            starved: false,
            fruitless: 0,
        });
        Ok(SourceId(id))
    }

    pub(crate) fn detach(&mut self, SourceId(id): SourceId) {
        if let Some(lane) = self.lanes[id as usize].take() {
            // It fails only if the lane was removed before, when it failed.
            let _ = self.poll.remove(lane.source.fd.as_fd());
        }
    }

    pub(crate) fn turn(&mut self, wait: Wait) -> io::Result<Option<Buffer>> {
        if wait.is_not() {
            self.look();
            return Ok(self.passed.take());
        }
        let timeout = match self.pace.hold(wait, &self.notifier) {
            Some(timeout) => timeout,
            None => Some(Duration::ZERO),
        };
        let mut ready = [MaybeUninit::uninit(); 64];
        let mut all = Look::Nothing;
        for token in self.poll.wait(&mut ready, timeout)? {
            if token == NOTIFIER {
                self.notifier.clear();
                self.signalled();
            } else {
                all = all.max(self.read(token as usize));
            }
        }
        self.looked(all);
        Ok(self.passed.take())
    }

    fn looked(&mut self, look: Look) {
        self.last_look = look;
        // Who could not read all goes on at once: a window would let the kernel's queue fill.
        if look == Look::All {
            self.pace.busy();
        }
    }

    /// A turn that does not wait needs no readiness: a read says as much.
    fn look(&mut self) {
        if self.notifier.is_signalled() && self.notifier.clear() {
            self.signalled();
        }
        let looks = (0..self.lanes.len()).map(|index| self.read(index)).max();
        self.looked(looks.unwrap_or(Look::Nothing));
    }

    /// Asks again for the readiness of the lanes that ran out of buffers.
    pub(crate) fn signalled(&mut self) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            if lane.starved {
                lane.starved = false;
                if let Err(error) = self.poll.set(lane.source.fd.as_fd(), index as u64, true) {
                    lane.fail(&self.poll, &error);
                }
            }
        }
    }

    /// Reads a lane until it is empty, its pool is, or it had its share.
    fn read(&mut self, index: usize) -> Look {
        let Some(lane) = &mut self.lanes[index] else {
            return Look::Nothing;
        };
        let mut look = Look::Nothing;
        for _ in 0..READS_A_TURN {
            let pool = &lane.source.feed.pool;
            let Some(mut buffer) = lane.spare.take().or_else(|| pool.take_or_starve(&self.notifier)) else {
                lane.starved = true;
                let fd = lane.source.fd.as_fd();
                if let Err(error) = self.poll.set(fd, index as u64, false) {
                    lane.fail(&self.poll, &error);
                }
                break;
            };
            let length = match lane.read(&mut buffer) {
                Ok(Some(length)) if length > 0 && buffer.advance(length) => length,
                Ok(None) => {
                    lane.spare = Some(buffer);
                    lane.fruitless = 0;
                    look = look.min(Look::All);
                    break;
                }
                Ok(Some(_)) => {
                    lane.spare = Some(buffer);
                    lane.read_in_vain(&self.poll);
                    // There is something, or the read would have said that there is not.
                    look = Look::Part;
                    break;
                }
                Err(error) => {
                    lane.fail(&self.poll, &error);
                    break;
                }
            };
            lane.fruitless = 0;
            if look == Look::Nothing {
                add(&lane.source.feed.counters.wakeups, 1);
            }
            // A read that left room for any record has emptied the queue.
            let emptied = pool.buffer_size() - length >= LARGEST_RECORD;
            look = if emptied { Look::All } else { Look::Part };
            if self.in_place && self.passed.is_none() && lane.source.feed.pass_by() {
                self.passed = Some(buffer);
            } else {
                lane.spare = lane.source.feed.push(buffer);
            }
            if emptied {
                break;
            }
        }
        look
    }
}

impl Lane {
    fn read(&self, buffer: &mut Buffer) -> io::Result<Option<usize>> {
        #[cfg(test)]
        if self.source.feed.faults.of_plain_read() {
            return Ok(Some(0));
        }
        self.source.fd.read(buffer.spare())
    }

    /// No kernel is known to end a read so. The descriptor stays ready, so it is tried again at once, but not for ever.
    fn read_in_vain(&mut self, poll: &EpollFd) {
        self.fruitless += 1;
        if self.fruitless > MOST_FRUITLESS {
            self.fail(poll, &io::Error::from_raw_os_error(libc::EIO));
        }
    }

    fn fail(&mut self, poll: &EpollFd, cause: &io::Error) {
        // It fails only if it is not registered, which is what is wanted.
        let _ = poll.remove(self.source.fd.as_fd());
        let error = Error::os(ErrorKind::ReaderFailed, "read events through epoll", cause);
        self.source.feed.queue.fail(error, true);
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll")
            .field("sources", &self.lanes.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// An epoll descriptor; readiness is level-triggered and for reading only.
#[derive(Debug)]
pub(crate) struct EpollFd(OwnedFd);

impl EpollFd {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Registers `fd`; its readiness is reported as `token`, or not at all until `set`.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: u64, ready: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, ready)
    }

    pub(super) fn set(&self, fd: BorrowedFd<'_>, token: u64, ready: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, ready)
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, false)
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, token: u64, ready: bool) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: if ready { libc::EPOLLIN as u32 } else { 0 },
            u64: token,
        };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` lives through the call; the kernel only reads it.
        checked(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
    }

    /// The tokens of what is ready, after waiting for it for `timeout` (in milliseconds, rounded up), or for ever. None
    /// if a signal was handled.
    fn wait<'a>(
        &self,
        ready: &'a mut [MaybeUninit<libc::epoll_event>],
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = u64> + use<'a>> {
        let milliseconds = timeout.map_or(-1, |timeout| {
            timeout
                .as_nanos()
                .div_ceil(1_000_000)
                .try_into()
                .unwrap_or(libc::c_int::MAX)
        });
        let most = ready.len().try_into().unwrap_or(libc::c_int::MAX);
        let events = ready.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `most` events to `ready`, which has room for them.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events, most, milliseconds) };
        let count = match checked(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        Ok(ready[..count].iter().map(|event| {
            // SAFETY: the kernel wrote the first `count` events.
            unsafe { event.assume_init() }.u64
        }))
    }
}

impl AsFd for EpollFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
