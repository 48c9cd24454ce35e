//! The watch table: descriptor to [`Watch`], held right by the calls that change it and by the events that pass.
//!
//! The consumer resolves events against it in the order of the stream. So a watch stays in it until its `IGNORED` passes,
//! and a little longer: an event caused at the moment of a removal can arrive behind it. Calls that take a path hold its lock
//! only for a lookup, never through a system call, so no slow path holds up the events.

mod resolver;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) use self::resolver::{Recent, Resolver, Subject, TURNING_POINTS};

use crate::barrier::{Arrival, Barriers};
use crate::causes::{add_error, marker_error};
use crate::error::{Error, ErrorKind, Result};
use crate::mask::Mask;
use crate::sys::inotify::{InotifyFd, Marker, MarkerInode};
use crate::watch::Watch;

/// Ended watches that are still known, for events behind their `IGNORED`.
const ENDED_KEPT: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Table {
    instance: u64,
    /// Bytes that the buffers between kernel and consumer have.
    buffered: u64,
    /// Bytes of the stream that the consumer has taken. It is the one writer.
    taken: AtomicU64,
    state: Mutex<State>,
    /// An `add_watch` has put its watch in.
    added: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    fd: Option<Arc<InotifyFd>>,
    watches: HashMap<i32, Entry, BuildHasherDefault<WdHasher>>,
    ended: VecDeque<i32>,
    barriers: Barriers,
    marker: Marker,
    /// Calls of `inotify_add_watch` under way, and ended.
    adding: usize,
    added: u64,
    /// Events were lost, `IGNORED`s perhaps among them; and how many watches there were then.
    unsure: Option<usize>,
    /// Watches that the kernel does not have any more, to be ended when that barrier of our own arrives.
    gone: Vec<(u64, HashSet<i32>)>,
}

#[derive(Debug)]
struct Entry {
    watch: Watch,
    /// The number of the `add_watch` that was the last to change it.
    changed: u64,
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
    pub(crate) fn new(instance: u64, fd: InotifyFd, buffered: usize) -> Self {
        Self {
            instance,
            buffered: buffered as u64,
            taken: AtomicU64::new(0),
            state: Mutex::new(State {
                fd: Some(Arc::new(fd)),
                watches: HashMap::default(),
                ended: VecDeque::new(),
                barriers: Barriers::default(),
                marker: Marker::default(),
                adding: 0,
                added: 0,
                unsure: None,
                gone: Vec::new(),
            }),
            added: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.lock()
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
        // The kernel takes from a watch all that it asks for before it gives it what a call asks for, and tells of nothing at that
        // moment (`inotify_update_existing_watch` in fs/notify/inotify/inotify_user.c). So a call adds, and one that takes
        // something away is made only if there is something. Not for one event: that might come in between.
        let gently = match mask.intersects(Mask::MASK_ADD | Mask::MASK_CREATE | Mask::ONESHOT) {
            true => mask,
            false => mask | Mask::MASK_ADD,
        };
        let (fd, mut begun) = {
            let mut state = self.lock();
            let fd = state.fd.clone().ok_or_else(|| Error::closed(OPERATION))?;
            state.adding += 1;
            (fd, state.added)
        };
        let mut touched = Vec::new();
        let (result, mut state) = loop {
            let mut added = fd.add_watch(&name, gently);
            let mut state = self.lock();
            if gently != mask && added.as_ref().is_ok_and(|wd| state.asks_for_more(*wd, mask)) {
                drop(state);
                touched.extend(added.as_ref().ok());
                added = fd.add_watch(&name, mask);
                state = self.lock();
            }
            // If another call has changed this inode's watch since this one began, nobody knows which of them the kernel
            // heard last. Then this one is made again, to be the last.
            let raced = |wd: &i32| {
                let entry = state.watches.get(wd);
                entry.is_some_and(|entry| entry.changed > begun && !entry.watch.is_ended())
            };
            if !added.as_ref().is_ok_and(raced) {
                let result = added.map(|wd| state.insert(self.instance, wd, path, mask));
                break (result.map_err(failed), state);
            }
            touched.extend(added.as_ref().ok());
            begun = state.added;
        };
        // What was at the path before, or was made by a call that had to be made again, asks for this too.
        touched.retain(|wd| result.as_ref().map_or(true, |watch| watch.wd() != *wd));
        for wd in touched {
            state.asks_also(wd, mask);
        }
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
        })?;
        // There is room for one more watch now.
        self.lock().retry_marks();
        Ok(())
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
        let State {
            fd, barriers, marker, ..
        } = &mut *self.lock();
        let fd = fd.as_ref().ok_or_else(|| Error::closed(OPERATION))?;
        barriers.set(marker, fd).map_err(|cause| marker_error(&cause))
    }

    /// After a loss: has the watches ended that the kernel does not have any more, once all their events have passed.
    fn check(&self) {
        let (fd, before): (_, Vec<i32>) = {
            let state = self.lock();
            let live = state.watches.iter().filter(|(_, entry)| !entry.watch.is_ended());
            (state.fd.clone(), live.map(|(wd, _)| *wd).collect())
        };
        let Some(fd) = fd else { return };
        // The marker serves twice: while it is watched, it shows that the kernel's list is to be believed.
        let Ok(inode) = MarkerInode::new() else { return };
        let Ok(marker) = inode.watch(&fd) else { return };
        let kernel = kernel_watches(&fd).filter(|kernel| kernel.contains(&marker));
        let mut state = self.lock();
        let number = state.barriers.open();
        state.barriers.mark(number, marker, false);
        if fd.rm_watch(marker).is_err() {
            state.barriers.withdraw(number);
            return;
        }
        let kernel = kernel.unwrap_or_else(|| before.iter().copied().collect());
        state.unsure = None;
        state
            .gone
            .push((number, before.into_iter().filter(|wd| !kernel.contains(wd)).collect()));
    }

    /// As if this watch had been made.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn pretend(&self, wd: i32, path: &Path) {
        self.lock().insert(self.instance, wd, path, Mask::ALL);
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

impl State {
    fn live(&self) -> usize {
        self.watches.len() - self.ended.len()
    }

    /// The watches that have not ended, and those that are to be ended left out.
    fn present(&self) -> impl Iterator<Item = &Watch> {
        let gone = |wd: i32| self.gone.iter().any(|(_, gone)| gone.contains(&wd));
        let present = move |watch: &&Watch| !watch.is_ended() && !gone(watch.wd());
        self.watches.values().map(|entry| &entry.watch).filter(present)
    }

    /// Whether there is such a watch, and this mask would take something from it.
    fn asks_for_more(&self, wd: i32, mask: Mask) -> bool {
        let watch = self.watches.get(&wd).map(|entry| &entry.watch);
        watch.is_some_and(|watch| !watch.is_ended() && !mask.contains(watch.mask()))
    }

    fn asks_also(&mut self, wd: i32, mask: Mask) {
        self.added += 1;
        if let Some(entry) = self.watches.get_mut(&wd) {
            entry.changed = self.added;
            entry.watch.ask_also(mask);
        }
    }

    fn insert(&mut self, instance: u64, wd: i32, path: &Path, mask: Mask) -> Watch {
        self.added += 1;
        let changed = self.added;
        match self.watches.get_mut(&wd) {
            // It has ended since the kernel answered. Descriptors do not come back, so it has no successor.
            Some(entry) if entry.watch.is_ended() => entry.watch.clone(),
            Some(entry) => {
                entry.changed = changed;
                entry.watch.update(path, mask);
                entry.watch.clone()
            }
            None => {
                let watch = Watch::new(instance, wd, path, mask);
                let entry = Entry {
                    watch: watch.clone(),
                    changed,
                };
                self.watches.insert(wd, entry);
                watch
            }
        }
    }

    /// An overflow was read, behind so many bytes of the stream: the markers of barriers that have not arrived may have been
    /// dropped. At most `buffered` bytes are between the kernel's queue and the consumer.
    fn overflowed(&mut self, taken: u64, buffered: u64) {
        let live = self.live();
        self.unsure.get_or_insert(live);
        let Self { fd, barriers, .. } = self;
        barriers.overflowed(taken, || {
            let queued = fd.as_ref()?.queued_bytes().ok()?;
            Some(buffered + queued as u64)
        });
        self.retry_marks();
    }

    /// Marks again, if that is to be done. There may be no room for a watch; then it is tried again when there may be.
    fn retry_marks(&mut self) {
        let Self {
            fd, barriers, marker, ..
        } = self;
        if let Some(fd) = fd {
            let _ = barriers.mark_again(marker, fd);
        }
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
            Some(entry) if !entry.watch.is_ended() => entry.watch.end(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_rounds_of_add_and_end_leave_the_table_as_it_was() {
        let table = Table::new(1, InotifyFd::new().unwrap(), 0);
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
    fn a_call_that_comes_back_behind_the_end_of_its_watch_gets_the_ended_one() {
        let table = Table::new(1, InotifyFd::new().unwrap(), 0);
        let mut state = table.lock();
        let first = state.insert(1, 5, Path::new("/a"), Mask::ALL);
        state.end(5);
        // The kernel answered 5 before it ended, and the answer is entered only now.
        let late = state.insert(1, 5, Path::new("/a"), Mask::ALL);
        assert!(late == first && late.is_ended());
        assert_eq!((state.present().count(), state.live()), (0, 0));
    }

    #[test]
    fn the_table_shrinks_when_many_watches_end() {
        let table = Table::new(1, InotifyFd::new().unwrap(), 0);
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
