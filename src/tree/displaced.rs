//! Roots whose directories are not where they were, or are another root's: what was told of them is void, and is said to be.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::found::Found;
use super::mounts::Instead;
use super::nodes::{Id, NONE, SINGLES, State};
use super::roots::Root;
use super::tracker::{Out, Tracker};
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;

/// Why a root is gone of which nobody told that.
pub(super) const DISPLACED: &str = "its path leads elsewhere";

fn last_name(path: &[u8]) -> Option<&[u8]> {
    Path::new(OsStr::from_bytes(path)).file_name().map(OsStr::as_bytes)
}

impl Tracker {
    /// What a root covers is to be told of at this place from now on, which is not the path of the root. Both paths lead to it;
    /// or the root is not there any more, which may not have been told, since one above it has moved.
    pub(super) fn take_over(&mut self, root: Id, place: Id, out: &mut Out<'_>) {
        match self.is_in_place(root) {
            Ok(()) => {
                self.say_aliased(root, out);
                self.yield_root(root, place);
            }
            Err(Instead::Unknown(code)) => {
                self.lay_down(root, out);
                self.refused(root, "watch root", code, out);
            }
            Err(Instead::Nothing | Instead::Another) => self.root_gone(root, DISPLACED, out),
        }
    }

    /// Roots to whose directories their paths lead no more, which nobody may have told.
    pub(super) fn say_displaced_roots(&mut self, out: &mut Out<'_>) {
        for root in self.root_nodes() {
            if self.nodes.get(root).state == State::Watched {
                self.say_if_displaced(root, out);
            }
        }
    }

    /// Says that a root is gone if its path is known to lead to nothing, or to another directory. Answers whether it was said.
    pub(super) fn say_if_displaced(&mut self, root: Id, out: &mut Out<'_>) -> bool {
        let displaced = matches!(self.is_in_place(root), Err(Instead::Nothing | Instead::Another));
        if displaced {
            self.root_gone(root, DISPLACED, out);
        }
        displaced
    }

    /// Whether a root covers a directory, or did, and what was told of that stands.
    pub(super) fn is_known(&self, root: Id) -> bool {
        let node = self.nodes.get(root);
        node.state == State::Watched || node.first_file != NONE || self.nodes.children(root).next().is_some()
    }

    /// Behind a loss, another directory was found where a root is: if another root tells of that, or may, what was told of
    /// this one is void.
    pub(super) fn say_exchanged_root(&mut self, root: Id, found: &Found, out: &mut Out<'_>) {
        if self.nodes.get(root).state == State::Watched || !self.is_known(root) {
            return;
        }
        let other = found.outcome.wd().and_then(|wd| self.nodes.by_wd(wd));
        if !found.listed || other.is_some_and(|other| other != root) || self.outer(root).is_some() {
            self.root_gone(root, DISPLACED, out);
        }
    }

    /// Says why nothing is known of what is in a root, also in others that lie in it: those tell of it again.
    pub(super) fn say_void(&mut self, root: Id, mask: Mask, error: Error, out: &mut Out<'_>) {
        self.emit_error(root, b"", mask, error, out);
        let path = self.nodes.name(root).to_vec();
        self.tell_again_in(&path, root);
    }

    /// Whether a root covers itself the directory that has this place in another.
    pub(super) fn is_covered_by_root(&mut self, place: Id) -> bool {
        if !self.is_nested {
            return false;
        }
        let name = self.nodes.name(place);
        let covers = |root: &&Root| {
            let is_whole = root.file.is_none() && self.nodes.get(root.node).state == State::Watched;
            is_whole && last_name(&root.path) == Some(name)
        };
        let roots: Vec<_> = self.roots.iter().filter(covers).map(|root| root.node).collect();
        roots.into_iter().any(|root| self.is_named_alike(root, place))
    }

    /// What was told at this path or below is void: roots that cover something there themselves tell of it again.
    pub(super) fn tell_again_in(&mut self, path: &[u8], by: Id) {
        if !self.is_nested || self.nodes.get(by).flags & SINGLES != 0 {
            return;
        }
        let as_path = |bytes| Path::new(OsStr::from_bytes(bytes));
        let is_inside = |root: &&Root| {
            let covers = root.node != by && self.nodes.get(root.node).state == State::Watched;
            covers && as_path(self.nodes.name(root.node)).starts_with(as_path(path))
        };
        let inner: BTreeSet<_> = self.roots.iter().filter(is_inside).map(|root| root.node).collect();
        for root in inner {
            self.stirred = true;
            self.drop_below(root);
            self.look_again(root);
        }
    }

    /// The directories of roots that are covered by themselves, and may be below such an entry of another directory.
    fn seats(&self, dir: Id, entry: &[u8]) -> Vec<Id> {
        let may_be_below = |path: &[u8]| path.split(|&byte| byte == b'/').any(|part| part == entry);
        let is_seat = |&root: &Id| {
            let node = self.nodes.get(root);
            root != dir && node.state == State::Watched && node.parent == NONE && may_be_below(self.nodes.name(root))
        };
        let mut seats: Vec<_> = self.roots.iter().map(|root| root.node).filter(is_seat).collect();
        seats.sort_unstable();
        seats.dedup();
        seats
    }

    /// Something is told of an entry at which, or below, a directory is that a root covers itself. That is not there any more, or
    /// what was told of it is void with this.
    pub(super) fn unseat(&mut self, mask: Mask, dir: Id, name: &[u8], out: &mut Out<'_>) {
        if !self.is_nested {
            return;
        }
        let roots = self.seats(dir, name);
        if roots.is_empty() {
            return;
        }
        let entry = Path::new(OsStr::from_bytes(&self.nodes.path(dir))).join(OsStr::from_bytes(name));
        for root in roots {
            if !Path::new(OsStr::from_bytes(self.nodes.name(root))).starts_with(&entry) {
                continue;
            }
            if !self.say_if_displaced(root, out) && !mask.contains(Mask::CREATE) {
                let cause = "what was there has gone, and it is looked at anew";
                let error = Error::text(ErrorKind::Other, "watch root", cause);
                self.emit_root_error(root, &error, out);
                self.drop_below(root);
                self.look_later(root);
            }
        }
    }

    /// The entries of a directory at which, or below which, directories are that roots cover themselves.
    pub(super) fn seats_in(&mut self, dir: Id) -> BTreeSet<Vec<u8>> {
        let name = last_name(self.nodes.name(dir)).map(<[u8]>::to_vec);
        let roots = match (self.is_nested, name) {
            (false, _) => Vec::new(),
            (true, Some(name)) => self.seats(dir, &name),
            (true, None) => self.root_nodes().into_iter().collect(),
        };
        if roots.is_empty() {
            return BTreeSet::new();
        }
        let path = self.nodes.path(dir);
        let entry = |root: Id| {
            let below = Path::new(OsStr::from_bytes(self.nodes.name(root))).strip_prefix(OsStr::from_bytes(&path));
            Some(below.ok()?.iter().next()?.as_bytes().to_vec())
        };
        roots.into_iter().filter_map(entry).collect()
    }

    /// A root is to cover a directory itself that is not the one another root has under that path: that has it no more. False if
    /// that has it still, so that this one is to be looked at once more.
    pub(super) fn void_places(&mut self, root: Id, out: &mut Out<'_>) -> bool {
        for place in self.covered_places(root) {
            if self.nodes.get(place).state != State::Watched {
                // It went with one before.
                continue;
            }
            let top = self.nodes.root(place);
            if !self.say_if_displaced(top, out) {
                self.unsettle(place, out);
            }
        }
        let mut is_free = true;
        for other in self.namesakes(root) {
            is_free &= self.say_if_displaced(other, out);
        }
        is_free
    }

    /// Roots that cover the directory itself in which the files are that this root is.
    fn namesakes(&self, root: Id) -> Vec<Id> {
        let others = self.others(root).filter(|(_, names)| names.as_os_str().is_empty());
        let covering = others.filter(|(other, _)| self.nodes.get(other.node).state == State::Watched);
        covering.map(|(other, _)| other.node).collect()
    }

    /// Roots that have the path of a directory which was found in another, or whose files are in that, and cover what is not
    /// there any more.
    pub(super) fn displaced_by(&mut self, place: Id) -> Vec<Id> {
        let is_root = self.nodes.get(place).parent == NONE;
        if !self.is_nested || self.is_link(place) || is_root && !self.has_singles {
            return Vec::new();
        }
        let name = last_name(self.nodes.name(place));
        let covers = |root: &&Root| {
            let may_be = root.node != place && (root.file.is_some() || !is_root);
            may_be && last_name(self.nodes.name(root.node)) == name && self.is_known(root.node)
        };
        let roots: BTreeSet<_> = self.roots.iter().filter(covers).map(|root| root.node).collect();
        roots
            .into_iter()
            .filter(|&root| self.is_named_alike(root, place))
            .collect()
    }

    /// Says that files which are roots are told of in another from here on: what happened meanwhile may not be.
    pub(super) fn say_yielded(&mut self, root: Id, out: &mut Out<'_>) {
        let cause = "another root has its directory, and tells of it from here on";
        let error = Error::text(ErrorKind::Other, "watch root", cause);
        self.emit_root_error(root, &error, out);
    }

    /// Of roots in one that is to go which do not go on nothing is known from here on, not even whether they are there.
    pub(super) fn say_unreleased(&mut self, outer: Id, out: &mut Out<'_>) {
        let is_in = |root: &&Root| self.others(root.node).any(|(other, _)| other.node == outer);
        let inner: Vec<_> = self.roots.iter().filter(is_in).cloned().collect();
        for root in inner {
            let by = root.within.unwrap_or(root.node);
            let is_there = self.nodes.get(by).state == State::Watched && !self.is_below(by, outer);
            // What was told of one that has another path elsewhere was told here.
            if is_there && self.is_named_alike(root.node, by) {
                continue;
            }
            let cause = "it was told of in a root that is none any more";
            let error = Error::text(ErrorKind::Cancelled, "watch root", cause);
            if let Some(file) = &root.file {
                self.files.remove(&mut self.nodes, root.node, file);
            }
            self.say_unknown(root.node, root.file, error, out);
        }
    }

    /// Says why nothing is known of a root, not even whether there is something.
    pub(super) fn say_unknown(&mut self, root: Id, file: Option<Vec<u8>>, error: Error, out: &mut Out<'_>) {
        match file {
            Some(file) => self.emit_error(root, &file, Mask::empty(), error, out),
            None => self.say_void(root, Mask::empty(), error, out),
        }
    }

    /// Whether a root lies in another that does not know yet of what is there.
    pub(super) fn is_untold(&self, root: Id) -> bool {
        let is_told = self.places(root).next().is_some() || !self.namesakes(root).is_empty();
        self.others(root).next().is_some() && !is_told
    }
}
