//! The names of files: of all, if what an overflow swallowed is to be found; else only of those that were just listed.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::nodes::{Id, NONE, Nodes};
use super::texts::Texts;

/// What tells a file from its later self.
pub(super) type Fingerprint = u64;

/// Nothing is known but that it is there.
pub(super) const UNKNOWN: Fingerprint = 0;

/// It is none, but a directory, where only single files are looked for.
pub(super) const DIRECTORY: Fingerprint = Fingerprint::MAX;

/// One file: 24 bytes, its name and the place in a table.
#[derive(Clone, Copy, Debug)]
struct File {
    parent: Id,
    name: u32,
    next: u32,
    previous: u32,
    fingerprint: [u32; 2],
}

#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<File>,
    vacant: Option<u32>,
    names: Texts,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

fn split(fingerprint: Fingerprint) -> [u32; 2] {
    [fingerprint as u32, (fingerprint >> 32) as u32]
}

impl Files {
    fn get(&self, id: u32) -> &File {
        &self.files[id as usize]
    }

    fn find(&self, parent: Id, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        let is_it = |&id: &u32| self.get(id).parent == parent && self.names.get(self.get(id).name) == name;
        self.by_name.find(hash, is_it).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn contains(&self, parent: Id, name: &[u8]) -> bool {
        self.find(parent, name).is_some()
    }

    /// The file is there. Answers what was known of it, if it was.
    pub(super) fn put(&mut self, nodes: &mut Nodes, parent: Id, name: &[u8], new: Fingerprint) -> Option<Fingerprint> {
        if let Some(id) = self.find(parent, name) {
            let known = &mut self.files[id as usize].fingerprint;
            let [low, high] = std::mem::replace(known, split(new));
            return Some(u64::from(low) | u64::from(high) << 32);
        }
        let first = nodes.get(parent).first_file;
        let file = File {
            parent,
            // Without room for more names, later looks find the file again and say so.
            name: self.names.put(name)?,
            next: first,
            previous: NONE,
            fingerprint: split(new),
        };
        let id = match self.vacant {
            Some(id) => {
                let next = self.get(id).next;
                self.vacant = (next != NONE).then_some(next);
                self.files[id as usize] = file;
                id
            }
            None => {
                self.files.push(file);
                self.files.len() as u32 - 1
            }
        };
        if first != NONE {
            self.files[first as usize].previous = id;
        }
        nodes.get_mut(parent).first_file = id;
        let hash = self.hasher.hash_one((parent, name));
        let Self {
            files,
            names,
            by_name,
            hasher,
            ..
        } = self;
        by_name.insert_unique(hash, id, |&id| {
            let file = &files[id as usize];
            hasher.hash_one((file.parent, names.get(file.name)))
        });
        None
    }

    /// The file is not there. Answers what was known of it, if it was.
    pub(super) fn remove(&mut self, nodes: &mut Nodes, parent: Id, name: &[u8]) -> Option<Fingerprint> {
        let id = self.find(parent, name)?;
        let [low, high] = self.get(id).fingerprint;
        self.remove_one(nodes, id);
        Some(u64::from(low) | u64::from(high) << 32)
    }

    fn remove_one(&mut self, nodes: &mut Nodes, id: u32) {
        let File {
            parent,
            name,
            next,
            previous,
            ..
        } = *self.get(id);
        let hash = self.hasher.hash_one((parent, self.names.get(name)));
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        match previous {
            NONE => nodes.get_mut(parent).first_file = next,
            previous => self.files[previous as usize].next = next,
        }
        if next != NONE {
            self.files[next as usize].previous = previous;
        }
        self.names.drop(name);
        let file = &mut self.files[id as usize];
        file.parent = NONE;
        file.next = self.vacant.unwrap_or(NONE);
        self.vacant = Some(id);
        if self.names.is_sparse() {
            let used = self.files.iter_mut().filter(|file| file.parent != NONE);
            self.names.compact(used.map(|file| &mut file.name));
        }
    }

    /// All files of a directory are not there.
    pub(super) fn remove_all(&mut self, nodes: &mut Nodes, parent: Id) {
        while nodes.get(parent).first_file != NONE {
            self.remove_one(nodes, nodes.get(parent).first_file);
        }
    }

    /// The names of a directory's files.
    pub(super) fn of(&self, nodes: &Nodes, parent: Id) -> impl Iterator<Item = &[u8]> {
        let mut next = nodes.get(parent).first_file;
        std::iter::from_fn(move || {
            let file = (next != NONE).then(|| self.get(next))?;
            next = file.next;
            Some(self.names.get(file.name))
        })
    }

    /// Forgets everything, and what it took.
    pub(super) fn clear(&mut self, nodes: &mut Nodes) {
        if self.files.is_empty() {
            return;
        }
        for file in &self.files {
            if file.parent != NONE {
                nodes.get_mut(file.parent).first_file = NONE;
            }
        }
        *self = Self::default();
    }

    /// Bytes it has taken, and of these the bytes for names.
    pub(super) fn memory(&self) -> (usize, usize) {
        const PLACE: usize = 5;
        let names = self.names.capacity();
        let table = self.by_name.capacity() * 8 / 7 * PLACE;
        (self.files.capacity() * size_of::<File>() + table + names, names)
    }
}
