//! Roots that are missing, or that nobody may look into: how the tree hears that this has changed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::nodes::Id;
use super::tracker::ENTRIES;
use super::worker::Worker;
use crate::mask::Mask;
use crate::sys::dir::{Dir, is_absent};

/// What tells of a root where it can't be watched itself. All that tells of entries: if the directory comes to the tree before this
/// is read, one that was made is not to be taken for one that is there.
const ABOVE: Mask = ENTRIES
    .union(Mask::ATTRIB)
    .union(Mask::DELETE_SELF)
    .union(Mask::MOVE_SELF);

impl Worker {
    /// Has the directory watched in which a missing root may appear, or that tells of the permissions of one. The kernel's queue
    /// wakes us when something does.
    pub(super) fn await_roots(&mut self) {
        if !self.look_for_roots() {
            let idle = std::mem::take(&mut self.awaiting);
            return self.tracker.releasing.extend(idle);
        }
        /// As long as what is next above is another each time, since it was made while one further above was watched.
        const MOST_MADE: usize = 8;
        for _ in 0..MOST_MADE {
            let mut above = self.watch_above();
            above.retain(|&wd| self.tracker.nodes.by_wd(wd).is_none());
            let before = std::mem::replace(&mut self.awaiting, above);
            let is_new = before != self.awaiting;
            let idle = before.into_iter().filter(|wd| !self.awaiting.contains(wd));
            self.tracker.releasing.extend(idle);
            if !is_new {
                break;
            }
        }
        // It may have appeared before it was waited for.
        self.look_for_roots();
    }

    /// Whether roots are waited for, or their permissions.
    pub(super) fn awaits_any(&self) -> bool {
        let tracker = &self.tracker;
        !self.awaiting.is_empty()
            && (tracker.roots.iter().any(|root| tracker.is_awaited(root)) || !tracker.forbidden_roots().is_empty())
    }

    /// Roots that are there, or may be covered, and were not before, are to be looked at. Answers whether there are others.
    pub(super) fn look_for_roots(&mut self) -> bool {
        let mut are_left = self.tracker.look_for_missing();
        for root in self.tracker.forbidden_roots() {
            match self.may_cover(root) {
                true => {
                    // Barriers wait for that.
                    self.tracker.stirred = true;
                    self.tracker.look_again(root);
                }
                false => are_left = true,
            }
        }
        are_left
    }

    /// Whether a root may be opened, watched and listed: all that a look at it does, or it would be looked at for ever.
    fn may_cover(&mut self, root: Id) -> bool {
        let path = self.tracker.nodes.path(root);
        let dir = match Dir::find(&path).and_then(|root| root.open(c".", true)) {
            Ok(dir) => dir,
            // It is missing now, or it is a file.
            Err(error) => return is_absent(&error),
        };
        let mut room = vec![0; 32 * 1024];
        let is_listed = loop {
            match dir.read(&mut room) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        let watch = || dir.watch(&self.inotify, Mask::MASK_ADD | Mask::ONLYDIR | ABOVE);
        let watched = is_listed.then(watch).and_then(io::Result::ok);
        // Who looks at it watches it again.
        self.tracker.releasing.extend(watched);
        watched.is_some()
    }

    /// Watches the directories that are next above these roots. Where that can't be, the root is looked for now and then.
    fn watch_above(&mut self) -> Vec<i32> {
        const NOW_AND_THEN: Duration = Duration::from_millis(200);
        let mask = Mask::MASK_ADD | Mask::ONLYDIR | ABOVE;
        let forbidden = self.tracker.forbidden_roots();
        let roots = self.tracker.roots.iter();
        let awaited = roots.filter(|root| self.tracker.is_awaited(root) || forbidden.contains(&root.node));
        let mut refused = false;
        let above = awaited.filter_map(|root| {
            let mut dirs = Path::new(OsStr::from_bytes(&root.path)).ancestors().skip(1);
            let next = dirs.find_map(|dir| {
                let dir = if dir.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    dir
                };
                match Dir::find(dir.as_os_str().as_bytes()) {
                    Err(error) if is_absent(&error) => None,
                    found => Some(found),
                }
            });
            let watched = next?.and_then(|dir| dir.watch(&self.inotify, mask));
            refused |= watched.is_err();
            watched.ok()
        });
        let above = above.collect();
        if refused && self.pause.is_none() {
            self.pause = Some(NOW_AND_THEN);
        }
        above
    }
}
