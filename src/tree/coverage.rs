//! What is covered and what is not: by the filter, for lack of room or permission, or because it is gone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::figures::Uncovered;
use super::nodes::{Id, LISTED, NONE, State};
use super::roots::Root;
use super::session::MOST_FORBIDDEN;
use super::tracker::{Out, Tracker};
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;

impl Tracker {
    /// What was said of it stands until this was done.
    pub(super) fn look_again(&mut self, id: Id) {
        let wd = self.nodes.unwatch(id);
        if wd != 0 {
            // It could not be listed, and what is watched is not listed again.
            self.releasing.push_back(wd);
        }
        // It will be listed, which tells.
        self.doubts.remove_all(id);
        if self.nodes.get(id).parent == NONE {
            self.forget_covering(id);
        }
        let node = self.nodes.get_mut(id);
        node.state = State::Pending;
        if node.flags & LISTED == 0 {
            node.flags |= LISTED;
            self.pending.push(id);
        }
    }

    /// The permissions of a directory are others now: perhaps it can be covered, or what is below it, as a root may be that
    /// has no link to it.
    pub(super) fn try_forbidden(&mut self, top: Id) {
        let Self { denied, uncovered, .. } = self;
        let is_denied = |id: &Id| uncovered.get(id).map(Error::kind) == Some(ErrorKind::PermissionDenied);
        denied.retain(is_denied);
        let may_be = |&&id: &&Id| self.is_below(id, top) || self.nodes.get(id).parent == NONE;
        let below: Vec<_> = self.denied.iter().filter(may_be).copied().collect();
        below.into_iter().for_each(|id| self.try_again(id));
    }

    /// A directory is covered now that was not before. Roots that were refused, and to which it is on the way, are not told of
    /// that: what was there may have gone without a change of its permissions, and what is watched costs no watch.
    pub(super) fn try_refused_roots(&mut self, at: Id) {
        for (root, why) in self.refused_roots() {
            let ways: Vec<_> = self.ways(root).collect();
            let is_on_way = ways.iter().any(|way| way.contains(&at));
            if is_on_way || ways.is_empty() && why == ErrorKind::PermissionDenied {
                // If it is on the way, barriers wait for that; by a link it may be.
                self.stirred |= is_on_way;
                self.look_again(root);
            }
        }
    }

    /// A root is covered now by itself: so may be what is there in other roots.
    pub(super) fn try_refused_twins(&mut self, root: Id) {
        if self.nodes.get(root).parent != NONE {
            return;
        }
        for twin in self.twins(root) {
            if self.nodes.get(twin).state == State::Uncovered {
                self.stirred = true;
                self.look_again(twin);
            }
        }
    }

    /// A directory goes. Roots to which it is on the way are missing now, whatever kept them from being covered.
    pub(super) fn try_roots_behind(&mut self, at: Id) {
        for (root, _) in self.refused_roots() {
            if self.ways(root).any(|way| way.contains(&at)) {
                self.stirred = true;
                self.look_again(root);
            }
        }
    }

    /// Roots that are there and not covered, and why.
    fn refused_roots(&self) -> Vec<(Id, ErrorKind)> {
        if self.uncovered.is_empty() {
            return Vec::new();
        }
        let refused = |root: &Root| {
            let why = self.uncovered.get(&root.node)?.kind();
            let is_there = self.nodes.get(root.node).state == State::Uncovered && why != ErrorKind::NotFound;
            is_there.then_some((root.node, why))
        };
        self.roots.iter().filter_map(refused).collect()
    }

    /// Roots that may not be watched or listed.
    pub(super) fn forbidden_roots(&self) -> Vec<Id> {
        let refused = self.refused_roots().into_iter();
        let forbidden = |(root, why)| (why == ErrorKind::PermissionDenied).then_some(root);
        let mut roots: Vec<_> = refused.filter_map(forbidden).collect();
        // Files of one directory.
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// What is in the way of a directory may be gone.
    pub(super) fn try_again(&mut self, id: Id) {
        if self.nodes.get(id).state != State::Watched {
            return self.look_again(id);
        }
        // It is covered, but for what nobody could tell.
        self.uncovered.remove(&id);
        self.doubts.open_forbidden(id);
    }

    /// Watches have ended: as many directories are tried again for which there was no room.
    pub(super) fn use_what_was_freed(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        if freed == 0 || self.uncovered.is_empty() {
            return;
        }
        let refused = |(&id, error): (&Id, &Error)| (error.kind() == ErrorKind::WatchLimit).then_some(id);
        let mut refused: Vec<_> = self.uncovered.iter().filter_map(refused).collect();
        // The oldest first, which are often those with most below.
        refused.sort_unstable();
        refused.into_iter().take(freed).for_each(|id| self.look_again(id));
    }

    /// A root is not where it was.
    pub(super) fn root_gone(&mut self, root: Id, why: &'static str, out: &mut Out<'_>) {
        self.changed = true;
        self.try_roots_behind(root);
        let wd = self.nodes.unwatch(root);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
        self.drop_below(root);
        let error = Error::text(ErrorKind::NotFound, "watch root", why)
            .mended_by("add it again, or let missing roots be awaited");
        self.nodes.get_mut(root).state = State::Uncovered;
        self.say_uncovered(root, error, out);
        // Another root may be the same directory, by a link or by another path.
        self.stirred |= self.uncover_within(root);
        let awaits = self.awaits;
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            known.awaited = awaits;
        }
        // Another root may have told of what is there now, which is void with what was said here.
        for place in self.covered_places(root) {
            self.stirred = true;
            self.unsettle(place, out);
            self.covered_within(root, place);
        }
    }

    /// A directory lost its watch and nobody said why: it is taken for another.
    pub(super) fn unsettle(&mut self, dir: Id, out: &mut Out<'_>) {
        let wd = self.nodes.unwatch(dir);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
        self.drop_below(dir);
        self.stirred |= self.uncover_within(dir);
        self.report_another(dir, out);
        self.nodes.get_mut(dir).session = 0;
        self.look_again(dir);
    }

    /// Covers a directory no longer, nor what is below. What is in it is not known from here on, and will be found if it is
    /// covered again: so it is reported as empty.
    pub(super) fn lay_down(&mut self, dir: Id, out: &mut Out<'_>) {
        let wd = self.nodes.unwatch(dir);
        if wd != 0 {
            self.releasing.push_back(wd);
        }
        self.drop_below(dir);
        self.uncover_within(dir);
        self.uncovered.remove(&dir);
        if self.nodes.get(dir).parent != NONE {
            self.report_another(dir, out);
        }
        self.nodes.get_mut(dir).state = State::Uncovered;
    }

    /// Lays down the directories of which more is to be remembered than there is room for.
    pub(super) fn lay_down_overfull(&mut self, out: &mut Out<'_>) {
        for dir in std::mem::take(&mut self.overfull) {
            // One above may have been first.
            if self.nodes.get(dir).state != State::Watched {
                continue;
            }
            let forbidden = self.doubts.forbidden(dir) >= MOST_FORBIDDEN;
            self.lay_down(dir, out);
            if forbidden {
                self.refused(dir, "look into directory", libc::EACCES, out);
                continue;
            }
            let cause = "the names of all directories take 4 GiB";
            let error = Error::text(ErrorKind::OutOfMemory, "watch directory", cause)
                .mended_by("leave some out by a filter, or make trees of parts of it");
            self.say_uncovered(dir, error, out);
        }
    }

    /// The error is kept without its path, which may be long, and is another's tomorrow.
    pub(super) fn say_uncovered(&mut self, id: Id, error: Error, out: &mut Out<'_>) {
        if error.kind() == ErrorKind::PermissionDenied {
            self.denied.insert(id);
        }
        let before = self.uncovered.insert(id, error.clone());
        let is_new = before.is_none_or(|before| before.kind() != error.kind());
        if self.silent || !is_new {
            return;
        }
        if self.nodes.get(id).parent != NONE {
            if self.is_covered_by_root(id) {
                // Of that it would be said as well.
                return;
            }
            let (parent, name) = (self.nodes.get(id).parent, self.nodes.name(id).to_vec());
            return self.emit_error(parent, &name, Mask::ISDIR, error, out);
        }
        self.emit_root_error(id, &error, out);
    }

    /// Says something of the roots that have their directory here.
    pub(super) fn emit_root_error(&mut self, id: Id, error: &Error, out: &mut Out<'_>) {
        let here = self.roots.iter().filter(|root| root.node == id);
        let files: Vec<_> = here.map(|root| root.file.clone()).collect();
        for file in files {
            match file {
                Some(file) => self.emit_error(id, &file, Mask::empty(), error.clone(), out),
                None => self.say_void(id, Mask::ISDIR, error.clone(), out),
            }
        }
    }

    pub(super) fn emit_error(&mut self, dir: Id, name: &[u8], mask: Mask, error: Error, out: &mut Out<'_>) {
        if self.silent {
            return;
        }
        let error = error.at(&self.path_of(dir, name));
        let dir = out.draft.dir(&mut self.nodes, out.memory, dir);
        out.draft.error(Some(dir), name, mask, error);
    }

    fn path_of(&mut self, dir: Id, name: &[u8]) -> PathBuf {
        let path = PathBuf::from(OsString::from_vec(self.nodes.path(dir)));
        if name.is_empty() {
            path
        } else {
            path.join(OsStr::from_bytes(name))
        }
    }

    /// The names of the roots that are files and have their directory here.
    fn files_of_root(&self, id: Id) -> Vec<Vec<u8>> {
        let here = self.roots.iter().filter(|root| root.node == id);
        here.filter_map(|root| root.file.clone()).collect()
    }

    /// What is not covered, each with its present path: directories, and roots that are files.
    pub(super) fn all_uncovered(&mut self) -> Vec<Uncovered> {
        let said: Vec<_> = self.uncovered.iter().map(|(&id, error)| (id, error.clone())).collect();
        let mut all = Vec::with_capacity(said.len());
        for (id, error) in said {
            let mut names = self.files_of_root(id);
            if names.is_empty() {
                names.push(Vec::new());
            }
            for name in names {
                let path = self.path_of(id, &name);
                let error = error.clone().at(&path);
                all.push(Uncovered { path, error });
            }
        }
        all
    }

    /// The path of an entry below its root.
    pub(super) fn relative(&mut self, dir: Id, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        let root = self.nodes.write_path(dir, &mut path);
        if !name.is_empty() {
            path.push(b'/');
            path.extend(name);
        }
        let below = &path[root.min(path.len())..];
        let slashes = below.iter().take_while(|&&byte| byte == b'/').count();
        below[slashes..].to_vec()
    }

    pub(super) fn is_wanted(&mut self, dir: Id, name: &[u8]) -> bool {
        let Some(filter) = self.manner.filter.clone() else {
            return true;
        };
        let relative = self.relative(dir, name);
        filter(Path::new(OsStr::from_bytes(&relative)))
    }

    /// Asks the filter again for all below a directory, whose paths are others now.
    pub(super) fn refilter(&mut self, top: Id, out: &mut Out<'_>) {
        let mut stack = vec![top];
        while let Some(id) = stack.pop() {
            let parent = self.nodes.get(id).parent;
            if parent != NONE {
                let name = self.nodes.name(id).to_vec();
                let wanted = self.is_wanted(parent, &name);
                let was_wanted = self.nodes.get(id).state != State::Filtered;
                if wanted && !was_wanted {
                    self.look_again(id);
                } else if !wanted && was_wanted {
                    self.unsettle(id, out);
                    self.nodes.get_mut(id).state = State::Filtered;
                    self.uncovered.remove(&id);
                    out.spare();
                    continue;
                }
            }
            stack.extend(self.nodes.children(id));
        }
    }
}
