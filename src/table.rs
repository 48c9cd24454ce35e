//! The watch table: descriptor to [`Watch`], held right by the calls that change it and by the events that pass.
//!
//! The consumer resolves events against it in the order of the stream. So a watch stays in it until its `IGNORED` passes,
//! and a little longer: an event caused at the moment of a removal can arrive behind it. Control calls hold its lock only
//! for a lookup, never through a system call, so no slow path holds up the events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::barrier::{Arrival, Barriers};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::mask::Mask;
use crate::sys::inotify::{InotifyFd, MarkerInode};
use crate::watch::Watch;

/// Ended watches that are still known, for events behind their `IGNORED`.
const ENDED_KEPT: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Table {
    instance: u64,
    state: Mutex<State>,
    /// An `add_watch` has put its watch in.
    added: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    fd: Option<Arc<InotifyFd>>,
    watches: HashMap<i32, Watch, BuildHasherDefault<WdHasher>>,
    ended: VecDeque<i32>,
    barriers: Barriers,
    /// Made with the first barrier.
    marker: Option<MarkerInode>,
    /// Calls of `inotify_add_watch` under way, and begun.
    adding: usize,
    begun: u64,
    /// Events were lost, `IGNORED`s perhaps among them; and how many watches there were then.
    unsure: Option<usize>,
    /// Watches that the kernel does not have any more, to be ended when that barrier of our own arrives.
    gone: Vec<(u64, HashSet<i32>)>,
}

/// An `add_watch` under way.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    /// Whether there was no other when it began.
    alone: bool,
}

/// Watch descriptors are small consecutive numbers; one multiplication spreads them.
#[derive(Debug, Default)]
pub(crate) struct WdHasher(u64);

impl Hasher for WdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_i32(&mut self, wd: i32) {
        self.0 = u64::from(wd.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Table {
    pub(crate) fn new(instance: u64, fd: InotifyFd) -> Self {
        Self {
            instance,
            state: Mutex::new(State {
                fd: Some(Arc::new(fd)),
                watches: HashMap::default(),
                ended: VecDeque::new(),
                barriers: Barriers::default(),
                marker: None,
                adding: 0,
                begun: 0,
                unsure: None,
                gone: Vec::new(),
            }),
            added: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fd(&self, operation: &'static str) -> Result<Arc<InotifyFd>> {
        let fd = self.lock().fd.clone();
        fd.ok_or_else(|| Error::closed(operation))
    }

    /// Gives the descriptor up. It closes when the last call that uses it returns.
    pub(crate) fn close(&self) {
        let fd = self.lock().fd.take();
        drop(fd);
    }

    pub(crate) fn add(&self, path: &Path, mask: Mask) -> Result<Watch> {
        const OPERATION: &str = "add watch";
        if !mask.intersects(Mask::ALL) {
            return Err(Error::text(
                ErrorKind::InvalidInput,
                OPERATION,
                format!("the mask {mask:?} names no event"),
            )
            .at(path)
            .mended_by("ask for at least one kind, such as Mask::CHANGES"));
        }
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::text(ErrorKind::InvalidInput, OPERATION, "the path contains a NUL byte").at(path))?;
        let failed = |cause| add_error(OPERATION, Some(path), mask, &cause);
        let (fd, ticket) = self.begin_add(OPERATION)?;
        let added = fd.add_watch(&name, mask);
        let mut state = self.lock();
        let result = added.map_err(failed).and_then(|wd| {
            // If another call overlapped with this one on the same inode, nobody knows which came last. Then we make
            // this one the last: again, and under the lock.
            let alone = ticket.alone && state.begun == ticket.number;
            let known = state.watches.get(&wd).is_some_and(|watch| !watch.is_ended());
            let wd = match known && !alone {
                true => fd.add_watch(&name, mask).map_err(failed)?,
                false => wd,
            };
            Ok(state.insert(self.instance, wd, path, mask))
        });
        state.adding -= 1;
        let live = state.live();
        fd.watches.store(live, Ordering::Relaxed);
        // Not each time: looking costs as much as there are watches.
        let check = state.unsure.is_some_and(|then| live > then + then / 4 + 256);
        drop(state);
        self.added.notify_all();
        if check {
            self.check();
        }
        result
    }

    fn begin_add(&self, operation: &'static str) -> Result<(Arc<InotifyFd>, Ticket)> {
        let mut state = self.lock();
        let fd = state.fd.clone().ok_or_else(|| Error::closed(operation))?;
        state.begun += 1;
        let ticket = Ticket {
            number: state.begun,
            alone: state.adding == 0,
        };
        state.adding += 1;
        Ok((fd, ticket))
    }

    pub(crate) fn remove(&self, watch: &Watch) -> Result<()> {
        const OPERATION: &str = "remove watch";
        if watch.instance() != self.instance {
            let cause = "it belongs to another inotify instance";
            return Err(Error::text(ErrorKind::InvalidInput, OPERATION, cause).at(&watch.path()));
        }
        let fd = self.fd(OPERATION)?;
        fd.rm_watch(watch.wd()).map_err(|cause| {
            let error = match cause.raw_os_error() {
                Some(libc::EINVAL) => Error::text(ErrorKind::WatchEnded, OPERATION, "it has ended already"),
                _ => Error::os(ErrorKind::Other, OPERATION, &cause),
            };
            error.at(&watch.path())
        })
    }

    /// The watches that have not ended.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        self.certain().present().cloned().collect()
    }

    /// How many watches have not ended.
    pub(crate) fn count(&self) -> usize {
        let state = self.certain();
        match state.gone.is_empty() {
            true => state.live(),
            false => state.present().count(),
        }
    }

    /// The state, and if there was a loss, after asking the kernel what is left.
    fn certain(&self) -> MutexGuard<'_, State> {
        let state = self.lock();
        if state.unsure.is_none() {
            return state;
        }
        drop(state);
        self.check();
        self.lock()
    }

    /// Sets a barrier: queues its marker.
    pub(crate) fn barrier(&self) -> Result<u64> {
        const OPERATION: &str = "set barrier";
        let mut state = self.lock();
        let fd = state.fd.clone().ok_or_else(|| Error::closed(OPERATION))?;
        let number = state.barriers.open();
        state.mark(&fd, number, false).map_err(|cause| {
            state.barriers.withdraw(number);
            match cause.raw_os_error() {
                Some(libc::ENOENT) => Error::os(ErrorKind::NotFound, OPERATION, &cause)
                    .mended_by("mount /proc: the marker is reached through /proc/self/fd"),
                _ => add_error(OPERATION, None, Mask::empty(), &cause),
            }
        })?;
        Ok(number)
    }

    /// After a loss: has the watches ended that the kernel does not have any more, once all their events have passed.
    fn check(&self) {
        let (fd, before): (_, Vec<i32>) = {
            let state = self.lock();
            let live = state.watches.iter().filter(|(_, watch)| !watch.is_ended());
            (state.fd.clone(), live.map(|(wd, _)| *wd).collect())
        };
        let Some(fd) = fd else { return };
        let Some(kernel) = kernel_watches(&fd) else { return };
        let gone = before.into_iter().filter(|wd| !kernel.contains(wd)).collect();
        let mut state = self.lock();
        let number = state.barriers.open();
        match state.mark(&fd, number, false) {
            Ok(()) => {
                state.unsure = None;
                state.gone.push((number, gone));
            }
            Err(_) => state.barriers.withdraw(number),
        }
    }

    /// The table, for the consumer to resolve a batch of events against.
    pub(crate) fn resolve(&self) -> Resolver<'_> {
        Resolver {
            table: self,
            state: self.lock(),
        }
    }
}

/// The watch descriptors the kernel lists for this instance (proc(5), `fdinfo`).
fn kernel_watches(fd: &InotifyFd) -> Option<HashSet<i32>> {
    let number = fd.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let wds = text.lines().filter_map(|line| {
        let wd = line.strip_prefix("inotify wd:")?.split(' ').next()?;
        u32::from_str_radix(wd, 16).ok().map(u32::cast_signed)
    });
    Some(wds.collect())
}

fn add_error(operation: &'static str, path: Option<&Path>, mask: Mask, cause: &io::Error) -> Error {
    let (kind, remedy) = match cause.raw_os_error() {
        Some(libc::ENOENT) => (ErrorKind::NotFound, None),
        Some(libc::EACCES | libc::EPERM) => (
            ErrorKind::PermissionDenied,
            Some("watching needs read permission on it, and search permission above it".into()),
        ),
        Some(libc::ENOTDIR) => (ErrorKind::NotADirectory, None),
        Some(libc::EEXIST) => (
            ErrorKind::AlreadyExists,
            Some("its inode is watched already; leave MASK_CREATE out to update that watch".into()),
        ),
        Some(libc::ENOSPC) => (ErrorKind::WatchLimit, Some(limits::remedy("max_user_watches"))),
        Some(libc::EMFILE | libc::ENFILE) => (
            ErrorKind::DescriptorLimit,
            Some("raise RLIMIT_NOFILE with ulimit -n".into()),
        ),
        Some(libc::ENOMEM) => (ErrorKind::OutOfMemory, None),
        Some(libc::EINVAL) if mask.contains(Mask::MASK_ADD | Mask::MASK_CREATE) => (
            ErrorKind::InvalidInput,
            Some("MASK_ADD and MASK_CREATE exclude each other".into()),
        ),
        Some(libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP) => (ErrorKind::InvalidInput, None),
        _ => (ErrorKind::Other, None),
    };
    let mut error = Error::os(kind, operation, cause);
    if let Some(path) = path {
        error = error.at(path);
    }
    match remedy {
        Some(remedy) => error.mended_by(remedy),
        None => error,
    }
}

impl State {
    fn live(&self) -> usize {
        self.watches.len() - self.ended.len()
    }

    /// The watches that have not ended, and those that are to be ended left out.
    fn present(&self) -> impl Iterator<Item = &Watch> {
        let gone = |wd: i32| self.gone.iter().any(|(_, gone)| gone.contains(&wd));
        let present = move |watch: &&Watch| !watch.is_ended() && !gone(watch.wd());
        self.watches.values().filter(present)
    }

    fn insert(&mut self, instance: u64, wd: i32, path: &Path, mask: Mask) -> Watch {
        if let Some(watch) = self.watches.get(&wd)
            && !watch.is_ended()
        {
            watch.update(path, mask);
            return watch.clone();
        }
        let watch = Watch::new(instance, wd, path, mask);
        self.watches.insert(wd, watch.clone());
        watch
    }

    /// Queues the marker of a barrier. It is noted before the kernel can queue it.
    fn mark(&mut self, fd: &InotifyFd, number: u64, overtaken: bool) -> io::Result<()> {
        let inode = match &mut self.marker {
            Some(inode) => inode,
            none => none.insert(MarkerInode::new()?),
        };
        let wd = inode.watch(fd)?;
        self.barriers.mark(number, wd, overtaken);
        fd.rm_watch(wd)
    }

    /// An overflow was read: the barriers that have not arrived may have been dropped, so each gets another marker. One
    /// that can get none is here now; if there are several, the last stands for those before it.
    fn overflowed(&mut self) -> Subject {
        let live = self.live();
        self.unsure.get_or_insert(live);
        let numbers: Vec<_> = self.barriers.outstanding().collect();
        let mut here = Subject::Nothing;
        for number in numbers {
            let marked = self.fd.clone().map(|fd| self.mark(&fd, number, true));
            if !matches!(marked, Some(Ok(()))) {
                self.barriers.withdraw(number);
                let overtaken = true;
                here = Subject::Barrier { number, overtaken };
            }
        }
        here
    }

    fn marker_arrived(&mut self, arrival: Arrival) -> Subject {
        let Arrival::Barrier { number, overtaken } = arrival else {
            return Subject::Stale;
        };
        let Some(place) = self.gone.iter().position(|(waiting, _)| *waiting == number) else {
            return Subject::Barrier { number, overtaken };
        };
        let (_, gone) = self.gone.swap_remove(place);
        gone.into_iter().for_each(|wd| self.end(wd));
        Subject::Stale
    }

    /// The watch has ended. It stays known for a while.
    fn end(&mut self, wd: i32) {
        match self.watches.get(&wd) {
            Some(watch) if !watch.is_ended() => watch.end(),
            _ => return,
        }
        self.ended.push_back(wd);
        if self.ended.len() > ENDED_KEPT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.watches.remove(&oldest);
        }
        let capacity = self.watches.capacity();
        if capacity > 4 * (self.watches.len() + ENDED_KEPT) {
            self.watches.shrink_to(2 * self.watches.len());
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Watch(Watch),
    /// An overflow; or a descriptor that nobody knows.
    Nothing,
    Barrier {
        number: u64,
        overtaken: bool,
    },
    /// A marker that means nothing any more. Not shown.
    Stale,
}

/// Resolves the events of one batch, in order.
pub(crate) struct Resolver<'a> {
    table: &'a Table,
    state: MutexGuard<'a, State>,
}

impl Resolver<'_> {
    /// If this event is a marker: a barrier that was set before that marker's and has not arrived, so that the overflow
    /// has dropped it. Such come first, as they were set first.
    pub(crate) fn overtaken_by(&mut self, wd: i32, mask: Mask) -> Option<Subject> {
        if !mask.contains(Mask::IGNORED) {
            return None;
        }
        let number = self.state.barriers.overtaken_by(wd)?;
        let overtaken = true;
        Some(self.state.marker_arrived(Arrival::Barrier { number, overtaken }))
    }

    /// The subject of an event, and the table as it is behind it.
    pub(crate) fn resolve(mut self, wd: i32, mask: Mask) -> (Subject, Self) {
        if mask.contains(Mask::Q_OVERFLOW) {
            return (self.state.overflowed(), self);
        }
        let ended = mask.contains(Mask::IGNORED);
        if ended && let Some(arrival) = self.state.barriers.arrived(wd) {
            return (self.state.marker_arrived(arrival), self);
        }
        // The kernel may know a new watch before the call that makes it has put it in here. It is about to.
        while !self.state.watches.contains_key(&wd) && self.state.adding > 0 {
            let waited = self.table.added.wait(self.state);
            self.state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let subject = match self.state.watches.get(&wd) {
            Some(watch) => Subject::Watch(watch.clone()),
            None => Subject::Nothing,
        };
        if ended {
            self.state.end(wd);
            if let Some(fd) = &self.state.fd {
                fd.watches.store(self.state.live(), Ordering::Relaxed);
            }
        }
        (subject, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_rounds_of_add_and_end_leave_the_table_as_it_was() {
        let table = Table::new(1, InotifyFd::new().unwrap());
        let mut state = table.lock();
        for wd in 1..1_000_000 {
            state.insert(1, wd, Path::new("/a"), Mask::ALL);
            state.end(wd);
            assert!(state.watches.capacity() < 8 * ENDED_KEPT);
        }
        assert_eq!(state.live(), 0);
        assert!(state.ended.capacity() < 4 * ENDED_KEPT);
    }

    #[test]
    fn the_table_shrinks_when_many_watches_end() {
        let table = Table::new(1, InotifyFd::new().unwrap());
        let mut state = table.lock();
        for wd in 1..200_000 {
            state.insert(1, wd, Path::new("/a"), Mask::ALL);
        }
        assert!(state.watches.capacity() >= 199_999);
        for wd in 1..200_000 {
            state.end(wd);
        }
        assert!(state.watches.capacity() < 16 * ENDED_KEPT);
    }
}
