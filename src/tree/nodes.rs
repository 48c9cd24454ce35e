//! The directories of a tree: who is whose child under which name, and by which descriptor each is watched.
//!
//! Links and numbers only; it knows nothing of events, nor of the disk. A rename moves one link.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::texts::Texts;

/// Which directory. Numbers are used again once a directory is gone.
pub(super) type Id = u32;

pub(super) const NONE: Id = Id::MAX;

/// One directory. 44 bytes, its name and the places in two tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) parent: Id,
    /// Its name; of a root, its whole path.
    name: u32,
    /// What it is watched by; 0 if it is not.
    pub(super) wd: i32,
    pub(super) first_child: Id,
    pub(super) next: Id,
    previous: Id,
    /// The first of its files, where files are known.
    pub(super) first_file: u32,
    inode: [u32; 2],
    device: u16,
    /// The session that looked at it last.
    pub(super) session: u16,
    pub(super) state: State,
    pub(super) flags: u8,
}

/// How a directory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Free to be used for another.
    Vacant,
    /// Known by an event or a listing, and to be looked at.
    Pending,
    Watched,
    /// The filter does not want it.
    Filtered,
    /// It can't be watched.
    Uncovered,
}

/// Its creation, told by an event, is what the session that looked at it found.
pub(super) const CONFIRMED: u8 = 1;
/// It is in the list of the pending.
pub(super) const LISTED: u8 = 2;
/// It is a symbolic link, or may be one, that is followed.
pub(super) const LINK: u8 = 4;
/// Its watch has ended, and nobody said why.
pub(super) const ENDED: u8 = 16;
/// It is watched for some of its entries only.
pub(super) const SINGLES: u8 = 32;
/// The session that has met it last did not list it: it was watched already.
pub(super) const UNLISTED: u8 = 64;

#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    vacant: Id,
    /// What is not to be used again while findings are taken in that name it.
    held: Option<Vec<Id>>,
    names: Texts,
    by_name: HashTable<Id>,
    by_wd: HashTable<Id>,
    devices: Vec<u64>,
    hasher: RandomState,
    ancestors: Vec<Id>,
    /// Changes whenever a path may have, or is no more.
    pub(super) epoch: u64,
    #[cfg(test)]
    lookups: std::sync::atomic::AtomicUsize,
    /// A watch has ended since this was last asked.
    pub(super) let_go: bool,
}

/// Multiplying spreads consecutive numbers.
fn hash_wd(wd: i32) -> u64 {
    u64::from(wd.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: NONE,
            held: None,
            names: Texts::default(),
            by_name: HashTable::new(),
            by_wd: HashTable::new(),
            devices: Vec::new(),
            hasher: RandomState::new(),
            ancestors: Vec::new(),
            // Nothing is remembered at first, which is of 0.
            epoch: 1,
            #[cfg(test)]
            lookups: Default::default(),
            let_go: false,
        }
    }

    pub(super) fn get(&self, id: Id) -> &Node {
        #[cfg(test)]
        self.lookups.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        &self.nodes[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// How often one was asked for.
    #[cfg(test)]
    pub(super) fn lookups(&self) -> usize {
        self.lookups.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn name(&self, id: Id) -> &[u8] {
        self.names.get(self.get(id).name)
    }

    pub(super) fn watched(&self) -> usize {
        self.by_wd.len()
    }

    /// Every directory that is known.
    pub(super) fn all(&self) -> impl Iterator<Item = Id> + '_ {
        let known = self.nodes.iter().enumerate();
        known.filter_map(|(id, node)| (node.state != State::Vacant).then_some(id as Id))
    }

    pub(super) fn by_wd(&self, wd: i32) -> Option<Id> {
        self.by_wd.find(hash_wd(wd), |&id| self.get(id).wd == wd).copied()
    }

    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let hash = self.hasher.hash_one((parent, name));
        let is_it = |&id: &Id| self.get(id).parent == parent && self.name(id) == name;
        self.by_name.find(hash, is_it).copied()
    }

    pub(super) fn children(&self, parent: Id) -> impl Iterator<Item = Id> + '_ {
        let mut next = self.get(parent).first_child;
        std::iter::from_fn(move || {
            let id = (next != NONE).then_some(next)?;
            next = self.get(id).next;
            Some(id)
        })
    }

    /// No directory was looked at by a session whose number is to be used again.
    pub(super) fn forget_sessions(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.session = 0);
    }

    /// Makes room for so many more at once.
    pub(super) fn reserve(&mut self, more: usize) {
        let Self {
            nodes,
            names,
            by_name,
            by_wd,
            hasher,
            ..
        } = self;
        by_name.reserve(more, |&id| {
            let node = &nodes[id as usize];
            hasher.hash_one((node.parent, names.get(node.name)))
        });
        by_wd.reserve(more, |&id| hash_wd(nodes[id as usize].wd));
        nodes.reserve(more);
    }

    /// A pending directory that was not known. None if there is no room for more.
    pub(super) fn add(&mut self, parent: Id, name: &[u8]) -> Option<Id> {
        let node = Node {
            parent,
            name: self.names.put(name)?,
            wd: 0,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            first_file: NONE,
            inode: [0; 2],
            device: 0,
            session: 0,
            state: State::Pending,
            flags: 0,
        };
        let id = if self.vacant == NONE {
            self.nodes.push(node);
            Id::try_from(self.nodes.len() - 1).ok().filter(|&id| id != NONE)?
        } else {
            let id = self.vacant;
            // What is remembered of this number is another's.
            self.epoch += 1;
            self.vacant = self.get(id).next;
            *self.get_mut(id) = node;
            id
        };
        self.link(id);
        Some(id)
    }

    /// Forgets a directory that has no children. Answers what it was watched by.
    pub(super) fn remove(&mut self, id: Id) -> i32 {
        debug_assert_eq!(self.get(id).first_child, NONE);
        let wd = self.unwatch(id);
        self.unlink(id);
        self.names.drop(self.get(id).name);
        let node = self.get_mut(id);
        node.state = State::Vacant;
        node.next = NONE;
        match &mut self.held {
            Some(held) => held.push(id),
            None => self.reuse(id),
        }
        self.compact();
        wd
    }

    fn reuse(&mut self, id: Id) {
        let vacant = std::mem::replace(&mut self.vacant, id);
        self.get_mut(id).next = vacant;
    }

    /// From here on, what is removed is no other node until that is ended.
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    pub(super) fn end_hold(&mut self) {
        let held = self.held.take().unwrap_or_default();
        held.into_iter().for_each(|id| self.reuse(id));
    }

    /// Whether there is room for one more name.
    pub(super) fn has_room(&self) -> bool {
        self.names.has_room()
    }

    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        self.names.fill();
    }

    /// Moves a directory, and with it all below. For its name there must be [room](Self::has_room).
    pub(super) fn relink(&mut self, id: Id, parent: Id, name: &[u8]) {
        let Some(name) = self.names.put(name) else { return };
        self.epoch += 1;
        self.unlink(id);
        self.names.drop(self.get(id).name);
        let node = self.get_mut(id);
        (node.parent, node.name) = (parent, name);
        self.link(id);
        self.compact();
    }

    /// Lets go of names that no directory has any more, once they take more than all others.
    fn compact(&mut self) {
        if self.names.is_sparse() {
            let used = self.nodes.iter_mut().filter(|node| node.state != State::Vacant);
            self.names.compact(used.map(|node| &mut node.name));
        }
    }

    fn link(&mut self, id: Id) {
        let parent = self.get(id).parent;
        if parent != NONE {
            let next = self.get(parent).first_child;
            self.get_mut(id).next = next;
            self.get_mut(id).previous = NONE;
            if next != NONE {
                self.get_mut(next).previous = id;
            }
            self.get_mut(parent).first_child = id;
        }
        let hash = self.hasher.hash_one((parent, self.name(id)));
        let Self {
            nodes,
            names,
            by_name,
            hasher,
            ..
        } = self;
        by_name.insert_unique(hash, id, |&id| {
            let node = &nodes[id as usize];
            hasher.hash_one((node.parent, names.get(node.name)))
        });
    }

    fn unlink(&mut self, id: Id) {
        let Node {
            parent, next, previous, ..
        } = *self.get(id);
        let hash = self.hasher.hash_one((parent, self.name(id)));
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        if parent != NONE {
            match previous {
                NONE => self.get_mut(parent).first_child = next,
                previous => self.get_mut(previous).next = next,
            }
            if next != NONE {
                self.get_mut(next).previous = previous;
            }
        }
    }

    /// The directory is watched from now on.
    pub(super) fn watch(&mut self, id: Id, wd: i32) {
        self.unwatch(id);
        let node = self.get_mut(id);
        (node.wd, node.state) = (wd, State::Watched);
        let Self { nodes, by_wd, .. } = self;
        by_wd.insert_unique(hash_wd(wd), id, |&id| hash_wd(nodes[id as usize].wd));
    }

    /// The directory is not watched any more. Answers what it was watched by, or 0.
    pub(super) fn unwatch(&mut self, id: Id) -> i32 {
        let wd = std::mem::take(&mut self.get_mut(id).wd);
        if wd != 0 {
            self.let_go = true;
            if let Ok(entry) = self.by_wd.find_entry(hash_wd(wd), |&other| other == id) {
                entry.remove();
            }
            self.get_mut(id).state = State::Pending;
        }
        wd
    }

    pub(super) fn set_identity(&mut self, id: Id, device: u64, inode: u64) {
        let known = self.devices.iter().position(|&known| known == device);
        let device = known.unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        let node = self.get_mut(id);
        // More than 65,535 devices: the last few can't be told apart, and are told by their inodes.
        node.device = u16::try_from(device).unwrap_or(u16::MAX);
        node.inode = [inode as u32, (inode >> 32) as u32];
    }

    /// Device and inode.
    pub(super) fn identity(&self, id: Id) -> (u64, u64) {
        let node = self.get(id);
        let device = self.devices.get(usize::from(node.device)).copied().unwrap_or(0);
        (device, u64::from(node.inode[0]) | u64::from(node.inode[1]) << 32)
    }

    /// The root it is below, or is.
    pub(super) fn root(&self, mut id: Id) -> Id {
        while self.get(id).parent != NONE {
            id = self.get(id).parent;
        }
        id
    }

    /// Appends its path. Answers how much of that is the root's.
    pub(super) fn write_path(&mut self, id: Id, out: &mut Vec<u8>) -> usize {
        let mut ancestors = std::mem::take(&mut self.ancestors);
        ancestors.clear();
        let mut at = id;
        while at != NONE {
            ancestors.push(at);
            at = self.get(at).parent;
        }
        let mut root = 0;
        for (depth, &at) in ancestors.iter().rev().enumerate() {
            if depth > 0 && out.last() != Some(&b'/') {
                out.push(b'/');
            }
            let name = self.names.get(self.get(at).name);
            out.extend(name);
            if depth == 0 {
                root = name.len();
            }
        }
        self.ancestors = ancestors;
        root
    }

    pub(super) fn path(&mut self, id: Id) -> Vec<u8> {
        let mut path = Vec::new();
        self.write_path(id, &mut path);
        path
    }

    /// Bytes it has taken, and of these the bytes for names.
    pub(super) fn memory(&self) -> (usize, usize) {
        const PLACE: usize = 5;
        let tables = (self.by_name.capacity() + self.by_wd.capacity()) * 8 / 7 * PLACE;
        let names = self.names.capacity();
        (self.nodes.capacity() * size_of::<Node>() + tables + names, names)
    }
}
