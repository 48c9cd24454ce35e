//! When a tree is open, and when a barrier passes: once what was to be looked at has been.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch::Draft;
use super::nodes::State;
use super::read::Read;
use super::roots::Root;
use super::worker::Worker;
use crate::error::{Error, ErrorKind};

/// A barrier that has arrived, and sessions that must end before it is delivered.
pub(super) struct HeldBarrier {
    number: u64,
    overtaken: bool,
    pub(super) sessions: usize,
    /// Overflows behind which everything was looked at since.
    recoveries: usize,
}

impl Worker {
    /// A barrier has arrived. What happened before it may still have to be looked at.
    pub(super) fn barrier(&mut self, number: u64, overtaken: bool, draft: &mut Draft) {
        self.look_at_mounts(false, draft);
        self.look_for_roots();
        if self.tracker.is_calm() && self.barriers.is_empty() {
            return draft.barrier(number, overtaken);
        }
        let under_way = usize::from(self.tracker.session != 0);
        let to_come = usize::from(self.tracker.has_work());
        let sessions = (under_way + to_come).max(1);
        self.barriers.push(HeldBarrier {
            number,
            overtaken,
            sessions,
            recoveries: 0,
        });
    }

    pub(super) fn end_session(&mut self, buffer: &Arc<Read>, draft: &mut Draft) {
        // It may have looked at what was mounted for that moment only.
        self.look_at_mounts(false, draft);
        let (tracker, mut out) = self.reporting(draft, Some(buffer));
        tracker.end_session(&mut out);
        if !self.barriers.is_empty() {
            // What was a directory when the session began, and gone when it looked, may be a file by now.
            self.look_for_roots();
        }
        self.open_if_done();
        let calm = self.tracker.is_calm();
        // What was void is to be looked at once more.
        if !self.tracker.stirred {
            for held in &mut self.barriers {
                // One behind another may have waited for less, and passes with it.
                held.sessions = held.sessions.saturating_sub(1);
            }
        }
        let due = self
            .barriers
            .iter()
            .take_while(|held| calm || held.sessions == 0)
            .count();
        self.let_pass(due, draft);
    }

    /// Everything was looked at behind an overflow, by a session that ends if its marker is not lost in another.
    pub(super) fn recovered(&mut self, draft: &mut Draft) {
        /// What came before a barrier has been looked at by then, as often as there is a chance to.
        const MOST_RECOVERIES: usize = 4;
        self.open_if_done();
        for held in &mut self.barriers {
            held.sessions = held.sessions.max(1);
            held.recoveries += 1;
        }
        let due = self
            .barriers
            .iter()
            .take_while(|held| held.recoveries >= MOST_RECOVERIES)
            .count();
        self.let_pass(due, draft);
    }

    pub(super) fn let_pass(&mut self, due: usize, draft: &mut Draft) {
        for held in self.barriers.drain(..due) {
            draft.barrier(held.number, held.overtaken);
        }
    }

    pub(super) fn open_if_done(&mut self) {
        /// What never rests is reported in the end.
        const MOST_SESSIONS: usize = 16;
        let sessions = self.shared.figures.sessions.load(Ordering::Relaxed);
        // What has changed meanwhile is looked at before: whoever lists the tree once it is open finds it there.
        let rests = self.tracker.session == 0 && !self.tracker.has_work();
        if !self.opened && (sessions >= MOST_SESSIONS || rests) {
            self.opened = true;
            self.tracker.silent = false;
        }
    }

    /// Whether the roots are there, once all was looked at.
    pub(super) fn opened_well(&mut self, await_missing: bool) -> Result<(), Error> {
        if self.shared.counts.cancelled.load(Ordering::Relaxed) {
            let error = Error::text(ErrorKind::Cancelled, "open tree", "it was cancelled");
            return Err(error);
        }
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if !self.opened {
            return Err(Error::text(ErrorKind::ReaderFailed, "open tree", "reading has ended"));
        }
        let failed = |root: &Root| match self.tracker.nodes.get(root.node).state {
            State::Watched | State::Filtered => None,
            State::Pending if self.tracker.is_found(root.node) => None,
            _ => {
                let path = Path::new(OsStr::from_bytes(&root.path));
                let error = self.tracker.uncovered.get(&root.node);
                let missing = error.is_none_or(|error| error.kind() == ErrorKind::NotFound);
                let cause = io::Error::from_raw_os_error(libc::ENOENT);
                let not_found = Error::os(ErrorKind::NotFound, "watch root", &cause)
                    .mended_by("make it first, or let missing roots be awaited");
                let error = if missing { Some(not_found) } else { error.cloned() };
                error.map(|error| error.at(path))
            }
        };
        match self.tracker.roots.iter().find_map(failed) {
            Some(error) if !await_missing => Err(error),
            _ => Ok(()),
        }
    }
}
