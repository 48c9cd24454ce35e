//! Where a tree begins: roots that come and go, are files, or are missing. Those that lie in one another: see `inner_roots`.
//!
//! A root that is a file is covered by watching its directory, for that name only, so it survives being replaced. If it is a
//! link to a file, that is the directory of the file.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::batch::Extra;
use super::doubts::Answer;
use super::files::UNKNOWN;
use super::inner_roots::Left;
use super::nodes::{Id, NONE, SINGLES, State};
use super::texts::LONGEST;
use super::tracker::{ENTRIES, Out, Seen, Tracker};
use crate::error::{Error, ErrorKind, Result};
use crate::mask::Mask;
use crate::sys::dir::{Kind, status_at};

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
    if !status_at(path, true).is_ok_and(|found| found.kind != Kind::Dir) {
        return (path.to_vec(), None);
    }
    let is_link = status_at(path, false).is_ok_and(|found| found.kind == Kind::Link);
    let given = Path::new(OsStr::from_bytes(path));
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
                    _ => {
                        // What is in the way is in that of this one too, which is said.
                        self.uncovered.remove(&node);
                        self.look_again(node);
                    }
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
        let new = Path::new(OsStr::from_bytes(&path));
        self.is_nested |= self.roots.iter().any(|known| {
            let known = Path::new(OsStr::from_bytes(&known.path));
            known.starts_with(new) || new.starts_with(known)
        });
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
        let covering = covering.map(|root| (root.node, root.file.clone()));
        if let Some(root) = self.roots.iter().find(|root| root.path == path)
            && !self
                .roots
                .iter()
                .any(|other| other.node == root.node && other.path != path)
        {
            let node = root.node;
            self.release_inner(node, out);
            self.release_files(node);
            self.say_unreleased(node, out);
        }
        if let Some((node, file)) = covering
            && self.is_untold(node)
        {
            let cause = "it is no root any more, and the one above it has not told of it yet";
            let error = Error::text(ErrorKind::Cancelled, "watch root", cause);
            self.say_unknown(node, file, error, out);
        }
        let removed = self.forget_root(path);
        twins.into_iter().for_each(|twin| self.report_another(twin, out));
        removed
    }

    fn forget_root(&mut self, path: &[u8]) -> bool {
        let Some(place) = self.roots.iter().position(|root| root.path == path) else {
            return false;
        };
        let root = self.roots.remove(place);
        self.forget_single(&root);
        self.releasing.extend(root.left.map(|left| left.wd));
        if !self.roots.iter().any(|other| other.node == root.node) {
            self.hand_over(root.node);
            self.drop_subtree(root.node);
        }
        self.count_singles();
        true
    }

    /// Where the directory of a file is watched for others too, that entry is not known any more.
    fn forget_single(&mut self, root: &Root) {
        let dir = root.within.unwrap_or(root.node);
        if let Some(name) = &root.file
            && self.nodes.get(dir).flags & SINGLES != 0
            && !self.is_single(dir, name)
        {
            self.files.remove(&mut self.nodes, dir, name);
            self.doubts.remove(dir, name);
        }
    }

    /// Whether directories are watched for some of their entries only may be otherwise now.
    pub(super) fn count_singles(&mut self) {
        let is_single = |root: &Root| root.file.is_some() && root.within.is_none();
        self.has_singles = self.roots.iter().any(is_single);
    }

    /// The directory of files may be watched for others too, which call it by other paths: it is from now on by the first of these.
    fn hand_over(&mut self, dir: Id) {
        let node = self.nodes.get(dir);
        let heir = self
            .roots
            .iter()
            .find(|root| root.file.is_some() && root.within == Some(dir));
        if let Some(heir) = heir.map(|root| root.node)
            && node.flags & SINGLES != 0
            && node.wd != 0
        {
            self.inherit(dir, heir);
        }
    }

    /// Files that are roots, and were covered in another that is to go, are watched through their directory from here on.
    pub(super) fn release_files(&mut self, outer: Id) {
        let files: Vec<_> = self.roots.iter().filter(|root| root.file.is_some()).cloned().collect();
        for Root { node, within, .. } in files {
            // A former one may have done it.
            let is_still = self.roots.iter().any(|root| root.node == node && root.within == within);
            let Some(dir) = within.filter(|&dir| is_still && self.is_below(dir, outer)) else {
                continue;
            };
            let is_whole = self.nodes.get(dir).state == State::Watched && !self.is_link(dir);
            let name = self.nodes.name(node).to_vec();
            if is_whole && self.is_called(dir, &name) {
                self.inherit(dir, node);
            }
        }
    }

    /// The watch of a directory is from now on that of another node, for the files that are roots only.
    fn inherit(&mut self, dir: Id, heir: Id) {
        let node = *self.nodes.get(dir);
        let files = self
            .roots
            .iter()
            .filter(|root| root.node == dir || root.within == Some(dir));
        let names: Vec<_> = files.filter_map(|root| root.file.clone()).collect();
        for name in &names {
            if self.nodes.child(dir, name).is_some() {
                self.has_turned(heir, name);
            }
        }
        let (device, inode) = self.nodes.identity(dir);
        let wd = self.nodes.unwatch(dir);
        self.nodes.watch(heir, wd);
        self.nodes.set_identity(heir, device, inode);
        let node_of_heir = self.nodes.get_mut(heir);
        node_of_heir.session = node.session;
        node_of_heir.flags |= SINGLES;
        let covered = |root: &&mut Root| root.file.is_some() && root.within == Some(dir);
        for root in self.roots.iter_mut().filter(covered) {
            root.within = (root.node != heir).then_some(heir);
        }
        for name in names {
            if let Some(known) = self.files.remove(&mut self.nodes, dir, &name) {
                self.files.put(&mut self.nodes, heir, &name, known);
            }
            if self.doubts.remove(dir, &name).is_some() {
                self.doubts.put(heir, &name);
            }
        }
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

    /// The directories of roots, each once: that of several files is one.
    pub(super) fn root_nodes(&self) -> BTreeSet<Id> {
        self.roots.iter().map(|root| root.node).collect()
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
        if mask.is_dir() {
            // As a root that is a directory it is told of by what is in it.
            match mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
                true => self.has_turned(dir, name),
                false => self.doubts.put(dir, name),
            }
            return;
        }
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
            if mask.contains(Mask::MOVED_FROM) {
                // Perhaps it was exchanged with another, and is there.
                self.doubts.put(dir, name);
            }
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

    /// A root that was a file may be a directory now. Barriers wait until that was looked at.
    pub(super) fn has_turned(&mut self, dir: Id, name: &[u8]) {
        self.turned.insert((dir, name.into()));
        self.stirred = true;
    }

    /// Roots that were files and are directories now are to be looked at as such.
    pub(super) fn turn_roots(&mut self) {
        if self.turned.is_empty() || self.session != 0 {
            return;
        }
        let turned = std::mem::take(&mut self.turned);
        let has_turned = |root: &&Root| {
            let Some(name) = &root.file else { return false };
            let dirs = [Some(root.node), root.within].into_iter().flatten();
            dirs.into_iter()
                .any(|dir| turned.contains(&(dir, name.as_slice().into())))
        };
        let is_dir = |path: &Vec<u8>| status_at(path, true).is_ok_and(|found| found.kind == Kind::Dir);
        let paths = self.roots.iter().filter(has_turned).map(|root| root.path.clone());
        let paths: Vec<_> = paths.filter(is_dir).collect();
        paths.into_iter().for_each(|path| self.replace_root(path));
    }

    /// Whether a root is missing and waited for. One that was covered since, as its watch could be had, its permissions were given
    /// back, or another root has it, is there.
    pub(super) fn is_awaited(&self, root: &Root) -> bool {
        root.awaited && self.nodes.get(root.node).state == State::Uncovered
    }

    /// Roots that were missing are begun with again: what was a directory may be a file now.
    pub(super) fn replace_missing(&mut self) {
        let is_missing = |root: &&Root| {
            let why = self.uncovered.get(&root.node).map(Error::kind);
            self.nodes.get(root.node).state == State::Uncovered && why == Some(ErrorKind::NotFound)
        };
        let missing = self.roots.iter().filter(is_missing).map(|root| root.path.clone());
        missing
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|path| self.replace_root(path));
    }

    /// Missing roots that are there now are to be looked at. Answers whether there are any that are not.
    pub(super) fn look_for_missing(&mut self) -> bool {
        let is_there = |root: &Root| status_at(&root.path, true).is_ok();
        let mut awaited: Vec<_> = self.roots.iter().filter(|root| self.is_awaited(root)).collect();
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
