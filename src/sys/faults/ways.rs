//! Every way to read, behind one face: what a fault leads to is the same on each.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use futures_core::Stream;

use super::{Fault, Faults};
use crate::sys::checked;
use crate::tree::{Tree, TreeBatch, TreeStream};
use crate::{Backend, BackendKind, ErrorKind, EventBatch, EventStream, Inotify, Mask, Reader, Result};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Looks in a row for which something was told and nothing was there. More is a spin.
const MOST_IN_VAIN: u32 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Stream,
    /// By a waker of its own.
    Polled,
    Reader,
    /// A reader by its descriptor, with a window or without.
    Shown(Window),
    /// A reader by its descriptor, in a loop that is told once of what comes.
    Edges,
    #[cfg(feature = "tokio")]
    Tokio(Window),
    Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    None,
    Short,
}

pub(super) const WAYS: &[Way] = &[
    Way::Stream,
    Way::Polled,
    Way::Reader,
    Way::Shown(Window::None),
    Way::Shown(Window::Short),
    Way::Edges,
    #[cfg(feature = "tokio")]
    Way::Tokio(Window::None),
    #[cfg(feature = "tokio")]
    Way::Tokio(Window::Short),
    Way::Tree,
];

impl Way {
    /// Whether it waits in the ring, where it polls the notifier meanwhile. The others wait with epoll, and turn the ring only
    /// for events.
    pub(super) fn waits_in_the_ring(self) -> bool {
        matches!(self, Self::Stream | Self::Polled | Self::Reader | Self::Tree)
    }

    /// How many files to make between two looks. What turns the ring only for events is to turn it often.
    pub(super) fn files_at_a_time(self) -> usize {
        if self.waits_in_the_ring() { 3 } else { 1 }
    }

    /// Whether it has a ring, if the choice is left to us.
    pub(super) fn has_ring(self, backend: Backend) -> bool {
        match (self, backend) {
            #[cfg(feature = "tokio")]
            (Self::Tokio(Window::None), Backend::Auto) => false,
            _ => true,
        }
    }

    fn window(self) -> Duration {
        match self {
            Self::Shown(Window::None) | Self::Edges => Duration::ZERO,
            #[cfg(feature = "tokio")]
            Self::Tokio(Window::None) => Duration::ZERO,
            _ => own_window(),
        }
    }
}

/// As short as none, and another each time: so each stream has a thread and a ring that nobody else uses.
fn own_window() -> Duration {
    static LAST: AtomicU64 = AtomicU64::new(0);
    Duration::from_nanos(LAST.fetch_add(1, Ordering::Relaxed) % 900 + 10)
}

/// What is read.
#[derive(Clone)]
pub(super) enum Watched {
    Instance(Inotify),
    Tree(Tree),
}

impl Watched {
    /// Watches what is made in a directory. The faults are there from the first request on.
    pub(super) fn new(backend: Backend, way: Way, dir: &Path, faults: &[Fault]) -> Result<Self> {
        if way == Way::Tree {
            let tree = Tree::builder(dir).backend(backend).mask(Mask::CREATE);
            let tree = tree.buffers(34).batch_window(way.window()).faults(faults);
            let (opened, outcome) = sync_channel(1);
            thread::spawn(move || opened.send(tree.open()));
            return outcome.recv_timeout(PATIENCE).expect("it hangs").map(Self::Tree);
        }
        let inotify = Inotify::builder().backend(backend).batch_window(way.window());
        let inotify = inotify.buffers(34).faults(faults).build()?;
        inotify.add_watch(dir, Mask::CREATE)?;
        Ok(Self::Instance(inotify))
    }

    pub(super) fn half(&self, way: Way) -> Result<Half> {
        let inotify = match self {
            Self::Instance(inotify) => inotify,
            Self::Tree(tree) => return tree.stream().map(Half::Tree),
        };
        Ok(match way {
            Way::Stream => Half::Stream(inotify.stream()?),
            Way::Polled => Half::Polled(inotify.stream()?),
            Way::Reader => Half::Reader(inotify.reader()?),
            Way::Shown(_) => Half::Shown(Shown::new(inotify.reader()?, false)),
            Way::Edges => Half::Shown(Shown::new(inotify.reader()?, true)),
            #[cfg(feature = "tokio")]
            Way::Tokio(_) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime");
                let entered = runtime.enter();
                let stream = inotify.reader()?.into_stream()?;
                drop(entered);
                Half::Tokio(stream, runtime)
            }
            Way::Tree => unreachable!("it has no instance"),
        })
    }

    pub(super) fn faults(&self) -> &Faults {
        match self {
            Self::Instance(inotify) => &inotify.feed().faults,
            Self::Tree(tree) => &tree.feed().faults,
        }
    }

    pub(super) fn backend(&self) -> BackendKind {
        match self {
            Self::Instance(inotify) => inotify.backend().kind(),
            Self::Tree(tree) => tree.backend().kind(),
        }
    }

    pub(super) fn close(&self) {
        match self {
            Self::Instance(inotify) => inotify.close(),
            Self::Tree(tree) => tree.close(),
        }
    }
}

pub(super) enum Half {
    Stream(EventStream),
    Polled(EventStream),
    Reader(Reader),
    Shown(Shown),
    #[cfg(feature = "tokio")]
    Tokio(crate::ReaderStream, tokio::runtime::Runtime),
    Tree(TreeStream),
}

impl Half {
    /// The names of what was made, of the next batch. None at the end.
    pub(super) fn wait(&mut self) -> Option<Result<Vec<OsString>>> {
        let next = match self {
            Self::Stream(stream) => stream.wait_timeout(PATIENCE),
            Self::Reader(reader) => reader.wait_timeout(PATIENCE),
            Self::Polled(stream) => return polled(stream).map(|batch| batch.map(|batch| names(&batch))),
            Self::Shown(shown) => shown.next(),
            #[cfg(feature = "tokio")]
            Self::Tokio(stream, runtime) => {
                let mut in_vain = 0;
                let next = std::future::poll_fn(|cx| {
                    assert!(in_vain < MOST_IN_VAIN, "it spins");
                    in_vain += 1;
                    Pin::new(&mut *stream).poll_next(cx)
                });
                let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await });
                let next = next.expect("it hangs");
                return next.map(|batch| batch.map(|batch| names(&batch)));
            }
            Self::Tree(stream) => {
                let next = stream.wait_timeout(PATIENCE);
                return some(next).map(|batch| batch.map(|batch| names_of_tree(&batch)));
            }
        };
        some(next).map(|batch| batch.map(|batch| names(&batch)))
    }

    /// Whether it says again that it has failed, if it is asked again. The others have ended.
    pub(super) fn fails_again(&self) -> bool {
        matches!(self, Self::Stream(_) | Self::Reader(_) | Self::Shown(_))
    }
}

fn some<B>(next: Result<Option<B>>) -> Option<Result<B>> {
    match next {
        Ok(batch) => Some(Ok(batch.expect("it hangs"))),
        Err(error) if error.kind() == ErrorKind::Closed => None,
        Err(error) => Some(Err(error)),
    }
}

fn names(batch: &EventBatch) -> Vec<OsString> {
    assert!(!batch.overflowed());
    batch.iter().map(|event| event.name().unwrap().to_owned()).collect()
}

fn names_of_tree(batch: &TreeBatch) -> Vec<OsString> {
    assert!(!batch.overflowed());
    let made = batch.iter().filter(|change| change.mask().contains(Mask::CREATE));
    made.map(|change| change.name().unwrap().to_owned()).collect()
}

/// A reader in a loop that waits on its descriptor.
pub(super) struct Shown {
    reader: Reader,
    edges: Option<OwnedFd>,
    /// There was nothing left when it was last asked.
    waiting: bool,
}

impl Shown {
    fn new(reader: Reader, by_edges: bool) -> Self {
        Self {
            edges: by_edges.then(|| edges_of(&reader)),
            reader,
            waiting: true,
        }
    }

    /// Asked only when the descriptor says that there is something to do, and then until there is nothing.
    fn next(&mut self) -> Result<Option<EventBatch>> {
        for _ in 0..MOST_IN_VAIN {
            match &self.edges {
                Some(edges) if self.waiting => until_edge(edges),
                None if self.waiting => until_readable(&self.reader),
                _ => {}
            }
            let batch = self.reader.try_next().inspect_err(|_| self.waiting = false)?;
            self.waiting = batch.is_none();
            if batch.is_some() {
                return Ok(batch);
            }
        }
        panic!("it spins");
    }
}

fn until_readable(reader: &Reader) {
    let mut poll = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as libc::c_int) };
    assert_ne!(ready, 0, "it hangs");
}

fn edges_of(reader: &Reader) -> OwnedFd {
    // SAFETY: no pointers are passed.
    let edges = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).unwrap();
    // SAFETY: the call above made this descriptor, and nobody else has it.
    let edges = unsafe { OwnedFd::from_raw_fd(edges) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: 0,
    };
    let (add, shown) = (libc::EPOLL_CTL_ADD, reader.as_raw_fd());
    // SAFETY: `event` lives through the call.
    checked(unsafe { libc::epoll_ctl(edges.as_raw_fd(), add, shown, &raw mut event) }).unwrap();
    edges
}

fn until_edge(edges: &OwnedFd) {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let patience = PATIENCE.as_millis() as libc::c_int;
    // SAFETY: room for one event, which lives through the call.
    let ready = unsafe { libc::epoll_wait(edges.as_raw_fd(), &raw mut event, 1, patience) };
    assert_ne!(ready, 0, "it hangs");
}

/// Wakes a thread, once each time it is to be polled.
struct Bell(Thread, AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Polls whenever the waker says so.
fn polled<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    let bell = Arc::new(Bell(thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&bell));
    let begun = Instant::now();
    for _ in 0..MOST_IN_VAIN {
        if let Poll::Ready(next) = Pin::new(&mut *stream).poll_next(&mut Context::from_waker(&waker)) {
            return next;
        }
        while !bell.1.swap(false, Ordering::SeqCst) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "it hangs");
            thread::park_timeout(left);
        }
    }
    panic!("it spins");
}
