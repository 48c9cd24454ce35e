//! How the worker looks at the disk: at what is new, at everything after a loss, and for roots that are missing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::batch::Draft;
use super::crawl::{Job, Manner, crawl};
use super::figures::add_one;
use super::found::{Crawl, Outcome};
use super::jobs::Probe;
use super::marks::Mark;
use super::nodes::{Id, NONE, State};
use super::read::Read;
use super::tracker::Out;
use super::worker::Worker;
use crate::decode::HEADER;
use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::queue::add;
use crate::sys::dir::{Dir, errno, is_absent};

/// What a tree ends with that can set none.
fn no_markers(cause: &io::Error) -> Error {
    let error = Error::os(ErrorKind::ReaderFailed, "set marker in the stream", cause);
    match cause.raw_os_error() {
        Some(libc::ENOSPC) => error.mended_by(limits::remedy("max_user_watches")),
        _ => error,
    }
}

/// How long to wait before what was refused is tried again.
pub(super) const AGAIN: Duration = Duration::from_millis(5);

impl Worker {
    /// There is nothing to work on: time to look at what is new, and to let go. Answers whether something was done.
    pub(super) fn look_around(&mut self) -> bool {
        self.catch_up();
        if self.tracker.session == 0 && self.tracker.has_work() {
            self.session();
            return true;
        }
        self.release()
    }

    /// What waits for a pause has its turn now and then also if there is none. Time counts too: what was refused is not to be
    /// tried again and again because buffers are small.
    pub(super) fn catch_up_at_times(&mut self) {
        const BUFFERS: usize = 16;
        self.busy += 1;
        if self.busy >= BUFFERS && self.caught_up.elapsed() >= AGAIN {
            self.catch_up();
            self.release();
        }
    }

    /// Does what waits for a pause, but for looking at what is new and letting go.
    fn catch_up(&mut self) {
        self.pause = None;
        for mark in std::mem::take(&mut self.unmarked) {
            self.mark(mark);
        }
        let marked_again = self.shared.marks.mark_again();
        match &marked_again {
            Ok(true) => self.refused = 0,
            Ok(false) => {}
            Err(error) => self.not_marked(error),
        }
        let is_unmarked = !self.unmarked.is_empty() || marked_again.is_err();
        if is_unmarked && self.tracker.releasing.is_empty() {
            // Without its marker the session does not end, and no barrier arrives.
            let mut draft = self.begin();
            self.make_room(true, &mut draft);
            self.hand_on(None, draft);
        }
        if self.tracker.awaits || !self.awaiting.is_empty() || !self.tracker.forbidden_roots().is_empty() {
            self.await_roots();
        }
        if self.tracker.releasing.is_empty() {
            self.tracker.use_what_was_freed();
        }
        (self.busy, self.caught_up) = (0, Instant::now());
    }

    pub(super) fn remove_root(&mut self, path: &[u8]) -> bool {
        let mut draft = self.begin();
        let removed = self.tracker.remove_root(
            path,
            &mut Out {
                draft: &mut draft,
                memory: &mut self.memory,
                spill: None,
            },
        );
        self.hand_on(None, draft);
        removed
    }

    pub(super) fn refilter(&mut self) {
        let mut draft = self.begin();
        let (tracker, mut out) = self.reporting(&mut draft, None);
        // Who asked for it waits, and may be the one who is to take it.
        out.never_wait();
        let roots: Vec<_> = tracker.roots.iter().map(|root| root.node).collect();
        for root in roots {
            tracker.refilter(root, &mut out);
        }
        self.hand_on(None, draft);
    }

    pub(super) fn retry_uncovered(&mut self) {
        let mut draft = self.begin();
        let out = &mut Out {
            draft: &mut draft,
            memory: &mut self.memory,
            spill: None,
        };
        self.tracker.say_displaced_roots(out);
        self.hand_on(None, draft);
        self.tracker.replace_missing();
        let uncovered = std::mem::take(&mut self.tracker.uncovered);
        uncovered.into_keys().for_each(|id| self.tracker.try_again(id));
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        if self.set(mark).is_none() {
            self.unmarked.push(mark);
        }
    }

    /// Sets a marker. None if it was refused: then it is to be tried again.
    pub(super) fn set(&mut self, mark: Mark) -> Option<i32> {
        match self.shared.marks.set(mark) {
            Ok(marker) => {
                self.refused = 0;
                Some(marker)
            }
            Err(error) => {
                self.not_marked(&error);
                None
            }
        }
    }

    /// A marker was refused, perhaps for want of a watch: lets go what has left, and `gives_up` one that is needed less if
    /// nothing has.
    pub(super) fn make_room(&mut self, gives_up: bool, draft: &mut Draft) {
        let none = self.tracker.releasing.is_empty();
        let mut out = Out {
            draft,
            memory: &mut self.memory,
            spill: None,
        };
        if self.crowded && none && gives_up && self.tracker.give_up_one(&mut out) {
            // There is room now, if nobody else takes it.
            self.refused = 0;
        }
        // Nothing may be read until there is a marker.
        self.release_up_to(usize::MAX);
    }

    /// A marker could not be set. It is tried again; not for ever, for without markers nobody knows what is older and what newer.
    /// Longer if it only wants room, which others may give back.
    fn not_marked(&mut self, error: &io::Error) {
        /// With [`AGAIN`] between them: five seconds and more.
        const MOST_REFUSED: u32 = if cfg!(test) { 100 } else { 1_000 };
        const MOST_CROWDED: u32 = 2 * MOST_REFUSED;
        self.pause = Some(AGAIN);
        self.crowded = error.raw_os_error() == Some(libc::ENOSPC);
        self.refused += 1;
        if self.refused > if self.crowded { MOST_CROWDED } else { MOST_REFUSED } {
            self.fail(no_markers(error));
        }
    }

    /// The tree ends with this.
    pub(super) fn fail(&mut self, error: Error) {
        // Whoever has the error from the stream sets no barrier any more.
        self.shared.end(Some(&error));
        self.failure = Some(error.clone());
        self.shared.outlet.push(Err(error));
        self.ended = true;
    }

    /// Removes some of the watches that nobody needs, as long as what the kernel tells of that leaves half of its queue free.
    /// Answers whether there were any, and room.
    fn release(&mut self) -> bool {
        if self.tracker.releasing.is_empty() {
            return false;
        }
        let queued = self.inotify.queued_bytes().unwrap_or(0) / HEADER;
        self.release_up_to((self.most_queued / 2).saturating_sub(queued))
    }

    fn release_up_to(&mut self, most: usize) -> bool {
        const AT_ONCE: usize = 256;
        let some = self.tracker.releasing.len().min(AT_ONCE).min(most);
        self.tracker.freed += some;
        for wd in self.tracker.releasing.drain(..some) {
            if self.tracker.nodes.by_wd(wd).is_none() && !self.awaiting.contains(&wd) {
                // It may have ended by itself.
                let _ = self.inotify.rm_watch(wd);
            }
        }
        if self.tracker.releasing.is_empty() {
            self.tracker.releasing.shrink_to(AT_ONCE);
        }
        some > 0
    }

    /// Looks at all that is to be looked at.
    pub(super) fn session(&mut self) {
        self.delayed = 0;
        let reports = !self.tracker.silent;
        self.tracker.begin_session(reports || self.compares);
        let jobs = self.tracker.jobs();
        let probes = self.tracker.probes();
        let manner = Manner {
            names: reports || self.compares,
            fingerprints: self.compares,
            ..self.manner.clone()
        };
        let found = self.crawl(jobs, &manner, false);
        let mut draft = self.begin();
        let lost = self.probe(&probes, &mut draft);
        let suspects = self.tracker.swaps.suspects().into_iter();
        let rests = |&wd: &i32| {
            let dir = self.tracker.nodes.by_wd(wd);
            dir.is_some_and(|dir| self.wait_for_change(dir))
        };
        let rested = suspects.filter(rests).collect();
        self.tracker.swaps.rested(&rested);
        self.take_in(&found, &mut draft, false);
        self.hand_on(None, draft);
        self.wait_for_moves(lost);
        for (root, dir) in self.tracker.tellers() {
            if !self.wait_for_change(dir) {
                // It is not where it was, or nobody can tell what is being done there.
                self.tracker.doubt_left(root);
            }
        }
        self.mark(Mark::Session);
        if reports {
            // Whatever comes is reported, so there is no need to wait for a certain place; and nobody takes it before.
            self.opened = true;
        }
    }

    /// Looks at names that are in doubt, those of one directory behind each other. Answers the directories that were not where
    /// they were.
    fn probe(&mut self, probes: &[Probe], draft: &mut Draft) -> Vec<Id> {
        let mut lost = Vec::new();
        let Self { tracker, memory, .. } = self;
        let out = &mut Out {
            draft,
            memory,
            spill: None,
        };
        for here in probes.chunk_by(|one, other| one.dir == other.dir) {
            let Some(first) = here.first() else { continue };
            let looked = Dir::find(&first.path).and_then(|dir| Ok((dir.identity()? == first.identity, dir)));
            for probe in here {
                match &looked {
                    Ok((true, dir)) => match dir.status_of(&probe.name) {
                        Ok(status) => tracker.probed(probe, Some(status.kind), out),
                        Err(error) if is_absent(&error) => tracker.probed(probe, None, out),
                        Err(error) => tracker.probe_refused(probe, errno(&error), out),
                    },
                    Err(error) if !is_absent(error) => tracker.probe_refused(probe, errno(error), out),
                    _ => {
                        tracker.probe_lost(probe);
                        lost.push(probe.dir);
                    }
                }
            }
        }
        lost
    }

    /// Waits for whoever moves these directories, or some above them, so that what tells where they are is queued before a
    /// marker that is set next. So it does for what this session did not find since the one above was not where it was.
    fn wait_for_moves(&mut self, mut lost: Vec<Id>) {
        let nodes = &self.tracker.nodes;
        let left_over = self.tracker.left_over.iter();
        let not_found = left_over.filter(|(_, outcome)| *outcome == Outcome::Lost);
        lost.extend(not_found.map(|&(id, _)| nodes.get(id).parent));
        lost.sort_unstable();
        lost.dedup();
        for mut dir in lost {
            while dir != NONE && self.tracker.nodes.get(dir).state != State::Vacant && !self.wait_for_change(dir) {
                dir = self.tracker.nodes.get(dir).parent;
            }
        }
    }

    /// Waits for whoever is changing what is in a directory, so that all he does is queued before a marker that is set next.
    /// False if it is not where it was.
    pub(super) fn wait_for_change(&mut self, dir: Id) -> bool {
        let tracker = &mut self.tracker;
        if tracker.nodes.get(dir).state != State::Watched {
            return false;
        }
        let (path, identity) = (tracker.nodes.path(dir), tracker.identity(dir));
        let found = Dir::find(&path).ok();
        let same = found.filter(|found| found.identity().is_ok_and(|now| now == identity));
        same.is_some_and(|dir| dir.wait_for_change())
    }

    fn crawl(&mut self, jobs: Vec<Job>, manner: &Manner, all: bool) -> Crawl {
        add_one(&self.shared.figures.sessions);
        let nodes = &self.tracker.nodes;
        let known = |wd| !all && nodes.by_wd(wd).is_some();
        let counts = &self.shared.counts;
        let cancelled = (!self.opened).then_some(&*counts.cancelled);
        crawl(&jobs, manner, &self.inotify, counts, cancelled, &known)
    }

    /// Makes what was found part of the tree, and hands on what is reported of it in batches of a reasonable size.
    fn take_in(&mut self, found: &Crawl, draft: &mut Draft, recovery: bool) {
        let (tracker, mut out) = self.reporting(draft, None);
        match recovery {
            true => tracker.recover(found, &mut out),
            false => tracker.take_in(found, &mut out),
        }
    }

    /// Sets the marker behind which events are believed again. False if the tree ends before that can be done.
    ///
    /// The kernel says only once that it lost events, as long as that was not read. So what was queued until now may have gaps,
    /// and is older than what is looked at from now on. Until the marker is set nothing more is read.
    fn mark_light(&mut self, buffer: &Arc<Read>, draft: &mut Draft) -> bool {
        while self.set(Mark::Light).is_none() {
            self.make_room(true, draft);
            if self.shared.is_asked() {
                // What was reported up to here comes before what that reports.
                self.divide(buffer, draft);
                self.obey();
                self.memory.forget();
            }
            self.ended |= !self.opened && self.shared.counts.cancelled.load(Ordering::Relaxed);
            if self.ended || self.shared.core.feed.queue.is_closed() {
                return false;
            }
            thread::park_timeout(AGAIN);
        }
        true
    }

    /// Events were lost here. Everything is looked at before the loss is reported, so that whoever looks then misses
    /// nothing that the watches do not tell.
    pub(super) fn overflowed(&mut self, buffer: &Arc<Read>, draft: &mut Draft) {
        while let Some(number) = self.shared.marks.overdue(self.taken) {
            self.barrier(number, true, draft);
        }
        let buffered = self.shared.core.feed.pool.bytes() + self.ahead.bytes();
        self.shared.marks.overflowed(self.taken, buffered);
        self.unmarked.clear();
        self.search_ends.clear();
        self.mounts.forget();
        let marked = self.mark_light(buffer, draft);
        if !self.tracker.silent {
            draft.overflow();
        }
        add(&self.shared.core.feed.counters.overflows, 1);
        if !marked {
            self.tracker.shadow = true;
            return;
        }
        let jobs = self.tracker.begin_recovery();
        self.delayed = 0;
        let manner = Manner {
            names: self.compares,
            fingerprints: self.compares,
            ..self.manner.clone()
        };
        let found = self.crawl(jobs, &manner, true);
        let next = self.shelf.take();
        self.memory.forget();
        let so_far = std::mem::replace(draft, next);
        self.hand_on(Some(buffer), so_far);
        self.tracker.blind = !self.compares;
        self.take_in(&found, draft, true);
        self.tracker.blind = false;
        self.wait_for_moves(Vec::new());
        self.mark(Mark::Session);
        self.recovered(draft);
        let next = self.shelf.take();
        self.memory.forget();
        let found = std::mem::replace(draft, next);
        self.hand_on(None, found);
    }
}

/// Waits until the consumer has taken some of what was found, unless it waits for us.
#[cfg(test)]
mod tests;
