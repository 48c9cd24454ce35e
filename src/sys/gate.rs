//! The descriptor a [`Reader`](crate::Reader) shows to other event loops.
//!
//! An epoll descriptor with the inotify descriptor and the reader's notifier in it: readable exactly when there is
//! something to take, whichever backend runs. With a batch window the inotify descriptor is left out of it until the
//! window is over, and a timer stands in for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::checked;
use super::epoll::EpollFd;
use super::eventfd::timespec;
use super::inotify::InotifyFd;
use super::notifier::Notifier;

#[derive(Debug)]
pub(crate) struct Gate {
    poll: Arc<EpollFd>,
    /// Set once the descriptor was shown; before that nothing is registered, and events cost nothing more.
    shown: OnceLock<Result<Option<OwnedFd>, i32>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The inotify descriptor is asked.
    Open,
    /// It is left out until the window is over.
    Window(Instant),
    /// It is left out until a buffer comes back, which signals the notifier.
    Starved,
}

impl Gate {
    pub(crate) fn new(notifier: &Notifier) -> io::Result<Self> {
        let poll = EpollFd::new()?;
        poll.add(notifier.as_fd(), 0, true)?;
        Ok(Self {
            poll: Arc::new(poll),
            shown: OnceLock::new(),
            state: State::Open,
        })
    }

    /// The descriptor to wait on. If it can't be completed, the notifier is signalled: the next look says why.
    pub(crate) fn show(&self, fd: &InotifyFd, notifier: &Notifier, window: Duration) -> &Arc<EpollFd> {
        let shown = self.shown.get_or_init(|| {
            let timer = self.complete(fd, window);
            timer.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
        });
        if shown.is_err() {
            notifier.signal();
        }
        &self.poll
    }

    fn complete(&self, fd: &InotifyFd, window: Duration) -> io::Result<Option<OwnedFd>> {
        let timer = if window.is_zero() {
            None
        } else {
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            // SAFETY: no pointers are passed.
            let timer = checked(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
            // SAFETY: the call above made this descriptor, and nobody else has it.
            let timer = unsafe { OwnedFd::from_raw_fd(timer) };
            self.poll.add(timer.as_fd(), 1, true)?;
            Some(timer)
        };
        self.poll.add(fd.as_fd(), 2, true)?;
        Ok(timer)
    }

    /// The descriptor, shown or not.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }

    /// Whether the descriptor was shown, and whether that worked.
    pub(crate) fn shown(&self) -> io::Result<bool> {
        match self.shown.get() {
            None => Ok(false),
            Some(Ok(_)) => Ok(true),
            Some(Err(code)) => Err(io::Error::from_raw_os_error(*code)),
        }
    }

    /// Whether a window is running, so that the kernel is not to be asked yet.
    pub(crate) fn is_shut(&self) -> bool {
        matches!(self.state, State::Window(until) if Instant::now() < until)
    }

    /// The reader was just asked: with events it shuts for a window, with none it opens.
    pub(crate) fn asked(&mut self, fd: &InotifyFd, events: bool, window: Duration) -> io::Result<()> {
        let state = match events && !window.is_zero() {
            true => State::Window(Instant::now() + window),
            false => State::Open,
        };
        self.enter(fd, state, window)
    }

    /// There are events and no buffers: the descriptor stays quiet until the notifier is signalled.
    pub(crate) fn starved(&mut self, fd: &InotifyFd) -> io::Result<()> {
        self.enter(fd, State::Starved, Duration::ZERO)
    }

    /// The reader was waited with, so that what kept it shut is over.
    pub(crate) fn open(&mut self, fd: &InotifyFd) -> io::Result<()> {
        self.enter(fd, State::Open, Duration::ZERO)
    }

    fn enter(&mut self, fd: &InotifyFd, state: State, window: Duration) -> io::Result<()> {
        let Some(Ok(timer)) = self.shown.get() else {
            return Ok(());
        };
        let before = std::mem::replace(&mut self.state, state);
        let windows = [before, state].map(|state| matches!(state, State::Window(_)));
        if let Some(timer) = timer
            && windows.contains(&true)
        {
            // A timer that has run out stays readable until it is set again, or stopped.
            set_timer(timer, if windows[1] { window } else { Duration::ZERO })?;
        }
        if (before == State::Open) != (state == State::Open) {
            self.poll.set(fd.as_fd(), 2, state == State::Open)?;
        }
        Ok(())
    }
}

/// Lets the timer run out once after `time`; zero stops it. Either way it is not readable until then.
fn set_timer(timer: &OwnedFd, time: Duration) -> io::Result<()> {
    let setting = libc::itimerspec {
        it_interval: timespec(Duration::ZERO),
        it_value: timespec(time),
    };
    // SAFETY: `setting` lives through the call; a null pointer asks for no copy of the setting before.
    checked(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const setting, ptr::null_mut()) }).map(drop)
}
