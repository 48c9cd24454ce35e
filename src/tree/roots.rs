//! Where a tree begins: roots that come and go, lie in one another, are files, or are missing.
//!
//! A root that lies in another has no watch of its own: it is covered there, and looked at again when that ends. While its
//! directory is not known there, but may be told of any moment, it waits for that, so that parents are told before children.
//! A root that is a file is covered by watching its directory, for that name only, so it survives being replaced. If it is a
//! link to a file, that is the directory of the file.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::batch::Extra;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::found::Outcome;
use super::nodes::{Id, NONE, SINGLES, State};
use super::texts::LONGEST;
use super::tracker::{ENTRIES, Out, Seen, Tracker};
use crate::error::{Error, ErrorKind, Result};
use crate::mask::Mask;

/// Where a tree begins.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) path: Vec<u8>,
    /// Its directory; that which it is in, if it is a file.
    pub(super) node: Id,
    /// The name of a file in that directory.
    pub(super) file: Option<Vec<u8>>,
    /// The directory of another root that covers it.
    pub(super) within: Option<Id>,
    /// It is missing, and waited for.
    pub(super) awaited: bool,
    /// What was found there, and was left to another root that had not been told of it.
    pub(super) left: Option<Left>,
}

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

/// Why a root can't be added.
fn no_room(path: &[u8]) -> Error {
    let (kind, cause, remedy) = if path.len() > LONGEST {
        let remedy = "give it relative to the working directory";
        (ErrorKind::InvalidInput, "its path is longer than 64 KiB", remedy)
    } else {
        let cause = "the names of all directories take 4 GiB";
        (ErrorKind::OutOfMemory, cause, "make another tree for it")
    };
    let error = Error::text(kind, "add root", cause).at(Path::new(OsStr::from_bytes(path)));
    error.mended_by(remedy)
}

/// The directory that is to be watched for a root; and the name in it, if it is a file.
fn place(path: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let given = Path::new(OsStr::from_bytes(path));
    if !fs::metadata(given).is_ok_and(|found| !found.is_dir()) {
        return (path.to_vec(), None);
    }
    let is_link = fs::symlink_metadata(given).is_ok_and(|found| found.is_symlink());
    // The directory that a link is in is told nothing of what is written to the file.
    let target = if is_link { fs::canonicalize(given).ok() } else { None };
    let given = target.as_deref().unwrap_or(given);
    let (Some(parent), Some(name)) = (given.parent(), given.file_name()) else {
        return (path.to_vec(), None);
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    (parent.as_os_str().as_bytes().to_vec(), Some(name.as_bytes().to_vec()))
}

impl Tracker {
    /// One more root. It is looked at in the next session, and so is one that is there already and not covered.
    pub(super) fn add_root(&mut self, path: Vec<u8>) -> Result<()> {
        if let Some(known) = self.roots.iter().find(|root| root.path == path) {
            let node = known.node;
            if self.uncovered.contains_key(&node) {
                self.replace_root(path);
            }
            return Ok(());
        }
        let (dir, file) = place(&path);
        let shared = self.roots.iter().find(|root| {
            root.file.is_some() && file.is_some() && root.within.is_none() && self.nodes.name(root.node) == dir
        });
        let node = match (shared, &file) {
            (Some(root), Some(name)) => {
                let node = root.node;
                match self.nodes.get(node).state {
                    // Only this name is to be looked at, unless it is another root already.
                    State::Watched if self.is_single(node, name) => {}
                    State::Watched => self.doubts.put(node, name),
                    _ => self.look_again(node),
                }
                node
            }
            _ => {
                let node = self.nodes.add(NONE, &dir).ok_or_else(|| no_room(&dir))?;
                if file.is_some() {
                    self.nodes.get_mut(node).flags |= SINGLES;
                    self.has_singles = true;
                }
                self.look_again(node);
                node
            }
        };
        self.roots.push(Root {
            path,
            node,
            file,
            within: None,
            awaited: false,
            left: None,
        });
        Ok(())
    }

    /// Begins again with a root, at the same place in their order.
    fn replace_root(&mut self, path: Vec<u8>) {
        let place = self.roots.iter().position(|root| root.path == path);
        if !self.nodes.has_room() {
            // It stays as it was said to be.
            return;
        }
        self.forget_root(&path);
        if let (Ok(()), Some(place), Some(root)) = (self.add_root(path), place, self.roots.pop()) {
            self.roots.insert(place, root);
        }
    }

    /// Answers whether there was such a root. Where it alone covered a directory that is another's too, what was reported of that
    /// is not known from here on, and will be found if it is covered there: so it is reported as empty.
    pub(super) fn remove_root(&mut self, path: &[u8], out: &mut Out<'_>) -> bool {
        let root = self.roots.iter().find(|root| root.path == path);
        let covering = root.filter(|root| self.nodes.get(root.node).state == State::Watched);
        let twins = covering.map_or_else(Vec::new, |root| self.twins(root.node));
        let removed = self.forget_root(path);
        twins.into_iter().for_each(|twin| self.report_another(twin, out));
        removed
    }

    /// Entries of other roots that are where this one is, and are not covered there.
    pub(super) fn twins(&self, root: Id) -> Vec<Id> {
        let down = |at: Id, name: &OsStr| self.nodes.child(at, name.as_bytes());
        let there = self
            .others(root)
            .filter_map(|(other, names)| names.iter().try_fold(other.node, down));
        there
            .filter(|&id| {
                let node = self.nodes.get(id);
                node.parent != NONE && matches!(node.state, State::Uncovered | State::Pending)
            })
            .collect()
    }

    fn forget_root(&mut self, path: &[u8]) -> bool {
        let Some(place) = self.roots.iter().position(|root| root.path == path) else {
            return false;
        };
        let root = self.roots.remove(place);
        self.releasing.extend(root.left.map(|left| left.wd));
        if !self.roots.iter().any(|other| other.node == root.node) {
            self.drop_subtree(root.node);
        }
        self.has_singles = self
            .roots
            .iter()
            .any(|root| root.file.is_some() && root.within.is_none());
        true
    }

    /// A root was found to be covered by another, at this directory.
    pub(super) fn covered_within(&mut self, node: Id, by: Id) {
        self.nodes.get_mut(node).state = State::Filtered;
        self.uncovered.remove(&node);
        for root in self.roots.iter_mut().filter(|root| root.node == node) {
            root.within = Some(by);
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
    fn outer(&self, root: Id) -> Option<bool> {
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
    fn others(&self, root: Id) -> impl Iterator<Item = (&Root, &Path)> {
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
        self.nodes.get_mut(root).session = self.session;
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            known.node = stand_in;
        }
        self.covered_within(stand_in, root);
        true
    }

    /// The directory of a file is to be covered as a whole, by another root: it gives its watch to that.
    pub(super) fn yield_singles(&mut self, root: Id, to: Id) {
        // That takes it, unless it goes before.
        self.releasing.push_back(self.nodes.unwatch(root));
        self.files.remove_all(&mut self.nodes, root);
        self.doubts.remove_all(root);
        for known in self.roots.iter_mut().filter(|known| known.within == Some(root)) {
            known.within = Some(to);
        }
        self.covered_within(root, to);
        self.has_singles = self
            .roots
            .iter()
            .any(|root| root.file.is_some() && root.within.is_none());
    }

    /// The directory of a file is watched already for others, which call it by another path. It is told of under its own.
    pub(super) fn share_singles(&mut self, root: Id, by: Id) {
        let is_new = |known: &&Root| known.node == root && known.within != Some(by);
        let files = self.roots.iter().filter(is_new).filter_map(|known| known.file.clone());
        for file in files.collect::<Vec<_>>() {
            if !self.is_single(by, &file) {
                // Barriers wait for that.
                self.stirred = true;
                self.doubts.put(by, &file);
            }
        }
        self.covered_within(root, by);
    }

    /// Under which directory an entry is told of, where one is watched for some of its entries only.
    pub(super) fn told_under(&self, dir: Id, name: &[u8]) -> Id {
        if self.nodes.get(dir).flags & SINGLES == 0 {
            return dir;
        }
        self.singles_of(dir)
            .find(|root| root.file.as_deref() == Some(name))
            .map_or(dir, |root| root.node)
    }

    /// The files that a directory is watched for, also those that call it by another path.
    fn singles_of(&self, dir: Id) -> impl Iterator<Item = &Root> {
        let is_shared = self.nodes.get(dir).flags & SINGLES != 0;
        self.roots
            .iter()
            .filter(move |root| root.file.is_some() && (root.node == dir || is_shared && root.within == Some(dir)))
    }

    /// A directory goes: what it covered must be looked at itself.
    pub(super) fn uncover_within(&mut self, by: Id) {
        let orphans: Vec<_> = self.roots.iter_mut().filter(|root| root.within == Some(by)).collect();
        let nodes: Vec<_> = orphans
            .into_iter()
            .map(|root| {
                root.within = None;
                self.has_singles |= root.file.is_some();
                root.node
            })
            .collect();
        nodes.into_iter().for_each(|node| self.look_again(node));
    }

    /// A directory was renamed with all below: roots that it covered have their paths no more.
    pub(super) fn orphan_within(&mut self, top: Id) {
        let covering: Vec<_> = self.roots.iter().filter_map(|root| root.within).collect();
        let moved = covering.into_iter().filter(|&by| self.is_below(by, top));
        moved
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|by| self.uncover_within(by));
    }

    /// The entries that a directory is watched for.
    pub(super) fn singles(&self, dir: Id) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = self.singles_of(dir).filter_map(|root| root.file.clone()).collect();
        // By a link, two may be one file.
        names.sort();
        names.dedup();
        names
    }

    /// Something about an entry of a directory that is watched for some only.
    pub(super) fn about_single(&mut self, seen: Seen<'_>, dir: Id, out: &mut Out<'_>) {
        let (mask, name) = (seen.record.mask, seen.name());
        if !self.is_single(dir, name) {
            return;
        }
        if !mask.intersects(ENTRIES) {
            return self.emit(seen, dir, Extra::default(), out);
        }
        if self.shadow {
            return;
        }
        self.changed = true;
        let answer = self.settle_doubt(dir, name);
        let listed = self.is_fresh(dir) && self.files.contains(dir, name);
        if mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
            if self.knows_names(dir) {
                self.files.put(&mut self.nodes, dir, name, UNKNOWN);
            }
            if listed || answer == Some(Answer::Present) {
                // It was found, and reported.
                return;
            }
        } else {
            let known = self.files.remove(&mut self.nodes, dir, name).is_some() || answer == Some(Answer::Present);
            if !known && (answer.is_some() || self.knows_names(dir)) {
                // Gone before it was seen.
                return;
            }
        }
        self.emit_alone(seen, dir, out);
    }

    /// Whether an entry of a directory is one of those it is watched for.
    pub(super) fn is_single(&self, dir: Id, name: &[u8]) -> bool {
        self.singles_of(dir).any(|root| root.file.as_deref() == Some(name))
    }

    /// Missing roots that are there now are to be looked at. Answers whether there are any that are not.
    pub(super) fn look_for_missing(&mut self) -> bool {
        let is_there = |root: &Root| fs::metadata(Path::new(OsStr::from_bytes(&root.path))).is_ok();
        // One that was covered since, as its watch could be had or its permissions were given back, is there.
        let is_lost = |root: &&Root| root.awaited && self.nodes.get(root.node).state == State::Uncovered;
        let mut awaited: Vec<_> = self.roots.iter().filter(is_lost).collect();
        // Of two in one another the inner first: if it is there, the outer is found too, and tells of it.
        awaited.sort_by_key(|root| Reverse(root.path.len()));
        let (found, missing): (Vec<_>, Vec<_>) = awaited.into_iter().partition(|&root| is_there(root));
        let missing = !missing.is_empty();
        // Barriers wait for that.
        self.stirred |= !found.is_empty();
        let found: Vec<_> = found.into_iter().map(|root| root.path.clone()).collect();
        for path in found {
            // What was a file may be a directory now.
            self.replace_root(path);
        }
        missing
    }
}
