//! Where a tree begins: roots that come and go, lie in one another, are files, or are missing.
//!
//! A root that lies in another has no watch of its own: it is covered there, and looked at again when that ends. A root that
//! is a file is covered by watching its directory, for that name only, so it survives being replaced.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::nodes::{Id, LISTED, NONE, SINGLES, State};
use super::tracker::{Out, Tracker};
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
    /// That the file is there was said since its directory is watched for it.
    pub(super) announced: bool,
}

impl Tracker {
    /// One more root. It is looked at in the next session.
    pub(super) fn add_root(&mut self, path: Vec<u8>) {
        let given = Path::new(OsStr::from_bytes(&path));
        let is_file = fs::metadata(given).is_ok_and(|found| !found.is_dir());
        let (dir, file) = match (given.parent(), given.file_name()) {
            (Some(parent), Some(name)) if is_file => {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                (parent.as_os_str().as_bytes().to_vec(), Some(name.as_bytes().to_vec()))
            }
            _ => (path.clone(), None),
        };
        let shared = self.roots.iter().find(|root| {
            root.file.is_some() && file.is_some() && root.within.is_none() && self.nodes.name(root.node) == dir
        });
        let node = match shared {
            Some(root) => root.node,
            None => {
                let Some(node) = self.nodes.add(NONE, &dir) else { return };
                if file.is_some() {
                    self.nodes.get_mut(node).flags |= SINGLES;
                    self.has_singles = true;
                }
                node
            }
        };
        self.look_again(node);
        self.roots.push(Root {
            path,
            node,
            file,
            within: None,
            awaited: false,
            announced: false,
        });
    }

    /// Answers whether there was such a root.
    pub(super) fn remove_root(&mut self, path: &[u8]) -> bool {
        let Some(place) = self.roots.iter().position(|root| root.path == path) else {
            return false;
        };
        let root = self.roots.swap_remove(place);
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

    /// A directory of another root was found where this root is: it takes the root's directory, with all below.
    pub(super) fn adopt(&mut self, root: Id, place: Id) {
        let (parent, name) = (self.nodes.get(place).parent, self.nodes.name(place).to_vec());
        let path = self.nodes.name(root).to_vec();
        let Some(stand_in) = self.nodes.add(NONE, &path) else {
            return;
        };
        self.drop_subtree(place);
        self.nodes.relink(root, parent, &name);
        self.nodes.get_mut(root).session = self.session;
        for known in self.roots.iter_mut().filter(|known| known.node == root) {
            known.node = stand_in;
        }
        self.covered_within(stand_in, root);
    }

    /// The directory of a file is to be covered as a whole, by another root: it gives its watch to that.
    pub(super) fn yield_singles(&mut self, root: Id, to: Id) {
        self.nodes.unwatch(root);
        self.covered_within(root, to);
        self.has_singles = self
            .roots
            .iter()
            .any(|root| root.file.is_some() && root.within.is_none());
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

    /// Whether an entry of a directory is one of those it is watched for.
    pub(super) fn is_single(&self, dir: Id, name: &[u8]) -> bool {
        self.roots
            .iter()
            .any(|root| root.node == dir && root.file.as_deref() == Some(name))
    }

    /// A directory is watched: says of the files it is watched for that they are there.
    pub(super) fn announce_singles(&mut self, dir: Id, out: &mut Out<'_>) {
        if self.nodes.get(dir).flags & SINGLES == 0 {
            return;
        }
        let mut there = Vec::new();
        for root in self.roots.iter_mut().filter(|root| root.node == dir) {
            let is_news = !std::mem::replace(&mut root.announced, true);
            if is_news && fs::symlink_metadata(OsStr::from_bytes(&root.path)).is_ok() {
                there.extend(root.file.clone());
            }
        }
        there.iter().for_each(|name| self.report(dir, name, Mask::CREATE, out));
    }

    /// Missing roots that are there now are to be looked at. Answers whether there are any that are not.
    pub(super) fn look_for_missing(&mut self) -> bool {
        let mut missing = false;
        let (mut found, mut files) = (Vec::new(), Vec::new());
        for root in self.roots.iter_mut().filter(|root| root.awaited) {
            let path = Path::new(OsStr::from_bytes(&root.path));
            // A file may come and go; its directory is what was missing.
            let path = path.parent().filter(|_| root.file.is_some()).unwrap_or(path);
            match fs::metadata(path) {
                Ok(is) if is.is_dir() => {
                    root.awaited = false;
                    found.push(root.node);
                }
                Ok(_) => files.push(root.path.clone()),
                Err(_) => missing = true,
            }
        }
        // It was not known that they would be files.
        for path in files {
            self.remove_root(&path);
            self.add_root(path);
        }
        for node in found {
            if self.nodes.get(node).flags & LISTED == 0 {
                self.look_again(node);
            }
        }
        missing
    }
}
