//! Roots that lie in another.
//!
//! Such a root has no watch of its own: it is covered in the other, and looked at again when that ends. While its directory is
//! not known there, but may be told of any moment, it waits for that, so that parents are told before children.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::found::Outcome;
use super::nodes::{Id, NONE, SINGLES, State, UNLISTED};
use super::roots::Root;
use super::tracker::{Out, Seen, Tracker};

/// What was found where a root is, and left to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) wd: i32,
    /// The way there leads through links, so that any directory may be on it.
    winds: bool,
    /// Something was told since about directories on the way, or is being done there: it may be told of yet.
    unsure: bool,
    /// How often it was.
    times: u32,
}

/// Where the directories on the way never cease to be made and renamed, a root is covered at last, even if its own is told of
/// later.
const MOST_LEFT: u32 = 64;

impl Tracker {
    /// Entries of other roots that are where this one is.
    pub(super) fn places(&self, root: Id) -> impl Iterator<Item = Id> {
        let down = |at: Id, name: &OsStr| self.nodes.child(at, name.as_bytes());
        let there = self
            .others(root)
            .filter_map(move |(other, names)| names.iter().try_fold(other.node, down));
        there.filter(|&id| self.nodes.get(id).parent != NONE)
    }

    /// Those of them that are not covered, or not yet.
    pub(super) fn twins(&self, root: Id) -> Vec<Id> {
        let is_open = |id: &Id| self.nodes.get(*id).state != State::Watched;
        self.places(root).filter(is_open).collect()
    }

    /// Those of them that are.
    pub(super) fn covered_places(&self, root: Id) -> Vec<Id> {
        let is_covered = |id: &Id| self.nodes.get(*id).state == State::Watched && !self.is_link(*id);
        self.places(root).filter(is_covered).collect()
    }

    /// A root was found to be covered by another, at this directory.
    pub(super) fn covered_within(&mut self, node: Id, by: Id) {
        self.nodes.get_mut(node).state = State::Filtered;
        self.uncovered.remove(&node);
        let mut files = Vec::new();
        for root in self.roots.iter_mut().filter(|root| root.node == node) {
            root.within = Some(by);
            files.extend(root.file.clone());
        }
        for file in files {
            if self.nodes.child(by, &file).is_some() {
                self.has_turned(by, &file);
            }
        }
    }

    /// A directory was found in another. It may be what a root is that was a file.
    pub(super) fn note_turned(&mut self, dir: Id, name: &[u8]) {
        let is_it = |root: &Root| root.within == Some(dir) && root.file.as_deref() == Some(name);
        if self.is_nested && self.roots.iter().any(is_it) {
            self.has_turned(dir, name);
        }
    }

    /// What covered a root is to be found out anew.
    pub(super) fn forget_covering(&mut self, root: Id) {
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            let covering = known.within.take();
            self.has_singles |= covering.is_some() && known.file.is_some();
        }
    }

    /// Leaves what was found where a root is to another root that has its path, and may not have been told of it. If it was
    /// left before and is found `again`, though nothing has changed above, nobody tells.
    pub(super) fn leave(&mut self, root: Id, wd: i32, again: Option<Left>, listed: bool) -> bool {
        let is_new = again.is_none() || !listed;
        let leaves = !self.silent && self.outer(root).is_some_and(|unsettled| unsettled || is_new);
        let left = Left {
            wd,
            winds: leaves && self.winds(root),
            unsure: false,
            times: again.map_or(1, |left| left.times + 1),
        };
        for known in self.roots.iter_mut().filter(|known| known.node == root && leaves) {
            known.left = Some(left);
        }
        self.has_left |= leaves;
        leaves
    }

    /// Whether there are links on the way to a root from one above it.
    fn winds(&self, root: Id) -> bool {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let path = Path::new(OsStr::from_bytes(self.nodes.name(root)));
        let found = real(path);
        let mut above = self
            .others(root)
            .filter_map(|(other, names)| Some(real(Path::new(OsStr::from_bytes(&other.path)))?.join(names)));
        found.is_some_and(|found| above.any(|named| named != found))
    }

    /// A directory's entries that are directories have changed. What was left to be told of may be among them, or below, if this
    /// is on the way there.
    pub(super) fn told_of(&mut self, seen: Seen<'_>, dir: Id) {
        if !self.has_left || !seen.is_dir() && !self.manner.follow_links {
            return;
        }
        self.has_left = self.roots.iter().any(|root| root.left.is_some());
        let sure = self.roots.iter().filter_map(|root| Some((root.node, root.left?)));
        let sure = sure.filter(|(_, left)| !left.unsure);
        let here = sure.filter(|&(root, left)| left.winds || self.ways(root).any(|way| way.contains(&dir)));
        let here: Vec<_> = here.map(|(root, _)| root).collect();
        here.into_iter().for_each(|root| self.doubt_left(root));
    }

    /// What was left at this root may be told of yet.
    pub(super) fn doubt_left(&mut self, root: Id) {
        let known = self.roots.iter_mut().filter(|known| known.node == root);
        let left = known.filter_map(|known| known.left.as_mut());
        left.for_each(|left| left.unsure = true);
    }

    /// Whether what is found where a root is will be left, or is covered already: then it is not listed.
    pub(super) fn only_probes(&self, root: Id) -> bool {
        let mut known = self.roots.iter().filter(|known| known.node == root);
        let Some(known) = known.next().filter(|_| !self.silent) else {
            return false;
        };
        let is_sure = |left: Left| !left.unsure || left.times >= MOST_LEFT;
        match self.nodes.get(root).state {
            State::Watched => false,
            _ if known.within.is_some() => true,
            _ => self
                .outer(root)
                .is_some_and(|unsettled| unsettled || !known.left.is_some_and(is_sure)),
        }
    }

    /// If the path of a root is below that of another: whether what is on the way down is still to be looked at, or has been
    /// in this session.
    pub(super) fn outer(&self, root: Id) -> Option<bool> {
        let unsettled = |id: Id| self.nodes.get(id).state == State::Pending || self.is_fresh(id);
        self.ways(root)
            .map(|way| way.into_iter().any(unsettled))
            .reduce(|one, other| one | other)
    }

    /// What is known of the ways down to a root from others above it.
    pub(super) fn ways(&self, root: Id) -> impl Iterator<Item = Vec<Id>> {
        self.others(root).map(|(other, names)| {
            let below = names.iter().scan(other.node, |at, name| {
                *at = self.nodes.child(*at, name.as_bytes())?;
                Some(*at)
            });
            std::iter::once(other.node).chain(below).collect()
        })
    }

    /// The roots that are directories above another, and the names from there down to it.
    pub(super) fn others(&self, root: Id) -> impl Iterator<Item = (&Root, &Path)> {
        let path = Path::new(OsStr::from_bytes(self.nodes.name(root)));
        let others = self
            .roots
            .iter()
            .filter(move |other| other.node != root && other.file.is_none());
        others.filter_map(move |other| Some((other, path.strip_prefix(OsStr::from_bytes(&other.path)).ok()?)))
    }

    /// The roots at which something was left, each with the directory whose events will tell of it: the last on the way there
    /// that is watched.
    pub(super) fn tellers(&self) -> Vec<(Id, Id)> {
        let is_watched = |&id: &Id| self.nodes.get(id).state == State::Watched;
        let left = self.roots.iter().filter(|root| root.left.is_some());
        let ways = left.flat_map(|root| self.ways(root.node).map(|way| (root.node, way)));
        ways.filter_map(|(root, way)| Some((root, way.into_iter().rfind(is_watched)?)))
            .collect()
    }

    /// Whether this session has found something where a root is that is to be looked at again.
    pub(super) fn is_found(&self, root: Id) -> bool {
        let left = || {
            self.roots
                .iter()
                .any(|known| known.node == root && known.left.is_some())
        };
        let found = |&(id, outcome): &(Id, Outcome)| id == root && outcome.wd().is_some();
        left() || self.left_over.iter().any(found)
    }

    /// What was found where a root is, if it was left there before. Its watch tells it from another that was given its inode.
    pub(super) fn was_left(&mut self, root: Id, found: Outcome) -> Option<Left> {
        let known = self.roots.iter_mut().filter(|known| known.node == root);
        let left = known.filter_map(|known| known.left.take()).last()?;
        if found.wd() == Some(left.wd) {
            return Some(left);
        }
        self.releasing.push_back(left.wd);
        None
    }

    /// Whether what is in a root was told under the paths that it has here.
    pub(super) fn is_named_alike(&mut self, root: Id, place: Id) -> bool {
        let name = self.nodes.name(root).to_vec();
        self.is_called(place, &name)
    }

    pub(super) fn is_called(&mut self, place: Id, path: &[u8]) -> bool {
        let as_path = |bytes| Path::new(OsStr::from_bytes(bytes)).to_owned();
        as_path(&self.nodes.path(place)) == as_path(path)
    }

    /// A directory of another root was found where this root is: it takes the root's directory, with all below. False if there
    /// is no room for the names that takes.
    pub(super) fn adopt(&mut self, root: Id, place: Id) -> bool {
        let (parent, name) = (self.nodes.get(place).parent, self.nodes.name(place).to_vec());
        let path = self.nodes.name(root).to_vec();
        let Some(stand_in) = self.nodes.add(NONE, &path) else {
            return false;
        };
        if !self.nodes.has_room() {
            self.nodes.remove(stand_in);
            return false;
        }
        self.drop_subtree(place);
        self.nodes.relink(root, parent, &name);
        let node = self.nodes.get_mut(root);
        node.session = self.session;
        node.flags |= UNLISTED;
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            known.node = stand_in;
        }
        self.covered_within(stand_in, root);
        true
    }

    /// A root is to go: those that it covers under their own paths go on as they are, each with its directory.
    pub(super) fn release_inner(&mut self, outer: Id, out: &mut Out<'_>) {
        let mut inner = self.roots.clone();
        // Of two in one another the inner goes with the outer.
        inner.sort_by_key(|root| root.path.len());
        for root in inner.into_iter().filter(|root| root.node != outer) {
            let Some(by) = self.covering(&root).filter(|&by| self.is_below(by, outer)) else {
                continue;
            };
            let Root { path, node, .. } = root;
            if !self.is_called(by, &path) || !self.nodes.has_room() {
                continue;
            }
            if !self.roots.iter().any(|other| other.node == node && other.path != path) {
                self.forget(node);
            }
            self.nodes.relink(by, NONE, &path);
            self.crossings.remove(&by);
            for known in self.roots.iter_mut().filter(|known| known.path == path) {
                (known.node, known.within, known.awaited, known.file) = (by, None, false, None);
            }
            // Below this root its paths are others, for which that was not asked.
            if self.manner.filter.is_some() {
                self.refilter(by, out);
            }
        }
    }

    /// The directory by which another root covers all that is in this one.
    fn covering(&self, root: &Root) -> Option<Id> {
        let by = match &root.file {
            // It has become a directory.
            Some(file) => self.nodes.child(root.within?, file),
            None if self.nodes.get(root.node).state == State::Watched => None,
            // One that was missing may have been told of there, and not be looked for yet.
            None => root.within.or_else(|| self.covered_places(root.node).first().copied()),
        };
        by.filter(|&by| self.nodes.get(by).state == State::Watched && !self.is_link(by))
    }

    /// What was found here is covered by a root that has another path, under which it was told of.
    pub(super) fn claim(&mut self, place: Id, found: Outcome, out: &mut Out<'_>) {
        let root = found.wd().and_then(|wd| self.nodes.by_wd(wd));
        let root = root.filter(|&root| {
            let node = self.nodes.get(root);
            node.parent == NONE && node.flags & SINGLES == 0 && !self.is_below(place, root)
        });
        let Some(root) = root.filter(|_| !self.is_link(place)) else {
            return;
        };
        // For want of room it was not taken as it is.
        if !self.is_named_alike(root, place) {
            self.take_over(root, place, out);
        }
    }

    /// A directory that a root covers, as a whole or for some files, is to be covered by another: it gives its watch to that.
    pub(super) fn yield_root(&mut self, root: Id, to: Id) {
        // That takes it, unless it goes before.
        self.releasing.push_back(self.nodes.unwatch(root));
        self.drop_below(root);
        for known in self.roots.iter_mut().filter(|known| known.within == Some(root)) {
            known.within = Some(to);
        }
        self.covered_within(root, to);
        self.count_singles();
    }

    /// The roots that were found to be covered by such directories.
    fn covered(&self, by: impl Fn(Id) -> bool) -> Vec<Id> {
        let covered = self.roots.iter().filter(|root| root.within.is_some_and(&by));
        covered.map(|root| root.node).collect()
    }

    /// A directory goes: what it covered must be looked at itself. Answers whether there was such.
    pub(super) fn uncover_within(&mut self, by: Id) -> bool {
        let orphans = self.covered(|covering| covering == by);
        orphans.iter().for_each(|&root| self.look_again(root));
        let above = self.nodes.get(by).parent;
        let is_turned = |root: &Root| {
            let here = root.within == Some(above) && above != NONE;
            here && root.file.as_deref() == Some(self.nodes.name(by))
        };
        if self.roots.iter().any(is_turned) {
            // It was a file when it was found to be covered there.
            let name = self.nodes.name(by).to_vec();
            self.has_turned(above, &name);
        }
        !orphans.is_empty()
    }

    /// A directory can't be covered: roots that it covered, and that have other paths, perhaps can.
    pub(super) fn uncover_others_within(&mut self, by: Id) {
        for root in self.covered(|covering| covering == by) {
            if !self.is_named_alike(root, by) && self.nodes.get(root).flags & SINGLES == 0 {
                self.stirred = true;
                self.look_again(root);
            }
        }
    }

    /// Something was mounted or unmounted: roots that others cover may not be there any more.
    pub(super) fn look_at_covered_roots(&mut self) {
        let covered = self.covered(|_| true);
        covered.into_iter().for_each(|root| self.look_again(root));
    }

    /// A directory was renamed with all below: roots that it covered have their paths no more.
    pub(super) fn orphan_within(&mut self, top: Id) {
        let orphans = self.covered(|by| self.is_below(by, top));
        orphans.into_iter().for_each(|root| self.look_again(root));
    }
}
