//! The contents of a tree as a consumer knows them who takes the events and nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use ringwatch::tree::{OwnedChange, Tree, TreeBuilder, TreeStream};
use ringwatch::{Barrier, Mask};

use crate::deep::reach;
use crate::support::PATIENCE;
use crate::support::kernel::alone_with_queues;

/// A directory, or something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) is_dir: bool,
    /// Of a directory, and of a link that is followed.
    pub(crate) children: Option<BTreeMap<OsString, Node>>,
}

impl Node {
    pub(crate) fn dir() -> Self {
        Self {
            is_dir: true,
            children: Some(BTreeMap::new()),
        }
    }

    /// What is in a directory, if it is known.
    pub(crate) fn forget_below(&mut self, path: &Path) {
        let mut node = self;
        for name in path {
            let Some(child) = node.children.as_mut().and_then(|children| children.get_mut(name)) else {
                return;
            };
            node = child;
        }
        node.children = node.children.as_ref().map(|_| BTreeMap::new());
    }

    fn file() -> Self {
        Self::default()
    }
}

/// What was made of the changes so far.
pub(crate) struct Model {
    pub(crate) root: PathBuf,
    pub(crate) node: Node,
    /// What is no directory may be a link that is followed, and have something in it.
    pub(crate) follows: bool,
    /// A root that may be said to be gone: there is nothing in it then.
    pub(crate) moving: Option<PathBuf>,
    limbo: BTreeMap<u32, (PathBuf, Node)>,
    pub(crate) overflows: usize,
    pub(crate) log: Vec<OwnedChange>,
}

impl Model {
    pub(crate) fn new(root: &Path, node: Node) -> Self {
        Self {
            root: root.to_owned(),
            node,
            follows: false,
            moving: None,
            limbo: BTreeMap::new(),
            overflows: 0,
            log: Vec::new(),
        }
    }

    fn dir(&mut self, path: &Path) -> Option<&mut BTreeMap<OsString, Node>> {
        let below = path.strip_prefix(&self.root).expect("below the root");
        let mut node = &mut self.node;
        for name in below {
            node = node.children.as_mut()?.get_mut(name)?;
        }
        match self.follows {
            true => Some(node.children.get_or_insert_default()),
            false => node.children.as_mut(),
        }
    }

    /// Takes one change.
    pub(crate) fn apply(&mut self, change: &OwnedChange) -> Result<(), String> {
        if change
            .mask()
            .intersects(Mask::CREATE | Mask::DELETE | Mask::MOVE | Mask::Q_OVERFLOW)
            || change.uncovered().is_some()
        {
            self.log.push(change.clone());
        }
        if change.is_overflow() {
            self.overflows += 1;
            return Ok(());
        }
        if change.uncovered().is_some() && change.path() == self.moving {
            let gone = self.moving.iter().filter_map(|gone| gone.strip_prefix(&self.root).ok());
            gone.for_each(|gone| self.node.forget_below(gone));
            return Ok(());
        }
        let (Some(dir), Some(name)) = (change.dir().map(Path::to_owned), change.name().map(OsStr::to_owned)) else {
            return Ok(());
        };
        let mask = change.mask();
        if !mask.intersects(Mask::CREATE | Mask::DELETE | Mask::MOVE) {
            return Ok(());
        }
        let new = if change.is_dir() { Node::dir() } else { Node::file() };
        let paired = change.renamed_from().is_some();
        let cookie = change.cookie().unwrap_or(0);
        let moved = if mask.contains(Mask::MOVED_TO) && paired {
            self.limbo.remove(&cookie)
        } else {
            None
        };
        let moved = match (moved, change.renamed_from()) {
            (Some((from, _)), Some(told)) if from != told => return Err(format!("it was {from:?}: {change:?}")),
            (moved, _) => moved.map(|(_, node)| node),
        };
        if mask.contains(Mask::MOVED_TO) && paired && moved.is_none() {
            return Err(format!("nothing was moved away for {change:?}"));
        }
        let Some(entries) = self.dir(&dir) else {
            return Err(format!("no directory for {change:?}"));
        };
        if mask.contains(Mask::CREATE) {
            if entries.contains_key(&name) {
                return Err(format!("was there already: {change:?}"));
            }
            entries.insert(name, new);
        } else if mask.contains(Mask::MOVED_TO) {
            entries.insert(name, moved.unwrap_or(new));
        } else {
            let Some(gone) = entries.remove(&name) else {
                return Err(format!("was not there: {change:?}"));
            };
            if mask.contains(Mask::MOVED_FROM) && !change.is_moved_out() {
                self.limbo.insert(cookie, (dir.join(&name), gone));
            }
        }
        Ok(())
    }
}

/// What is on the disk.
pub(crate) fn disk(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Node {
    walk(path, wanted, false)
}

/// What is on the disk, also below links to directories. To be called only where those do not lead around.
pub(crate) fn disk_behind_links(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Node {
    walk(path, wanted, true)
}

fn walk(path: &Path, wanted: &dyn Fn(&Path) -> bool, follows: bool) -> Node {
    let mut children = BTreeMap::new();
    let reached = reach(path).expect("a way");
    for entry in fs::read_dir(&reached).expect("a listing") {
        let entry = entry.expect("an entry");
        let path = path.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        let followed = follows && kind.is_symlink() && path.is_dir() && wanted(&path);
        let node = match kind.is_dir() || followed {
            true if wanted(&path) => Node {
                is_dir: kind.is_dir(),
                ..walk(&path, wanted, follows)
            },
            true => Node::dir(),
            false => Node::file(),
        };
        children.insert(entry.file_name(), node);
    }
    Node {
        children: Some(children),
        ..Node::dir()
    }
}

/// The first path in which they differ.
pub(crate) fn difference(model: &Node, disk: &Node, at: &Path) -> Option<String> {
    if model.is_dir != disk.is_dir {
        return Some(format!("{at:?} is a directory in one and not in the other"));
    }
    let nothing = BTreeMap::new();
    let [model, disk] = [model, disk].map(|node| node.children.as_ref().unwrap_or(&nothing));
    for (name, node) in model {
        let path = at.join(name);
        match disk.get(name) {
            None => return Some(format!("{path:?} is not on the disk")),
            Some(other) => {
                if let Some(found) = difference(node, other, &path) {
                    return Some(found);
                }
            }
        }
    }
    let missing = disk.keys().find(|name| !model.contains_key(*name))?;
    Some(format!("{:?} was not reported", at.join(missing)))
}

/// A tree that is read up to barriers.
pub(crate) struct Watched {
    pub(crate) tree: Tree,
    pub(crate) stream: TreeStream,
}

/// With a queue as large as usual: not while another test makes those of this machine small, if anybody can.
pub(crate) fn opened(builder: TreeBuilder) -> Tree {
    let _alone = alone_with_queues();
    builder.open().expect("a tree")
}

impl Watched {
    pub(crate) fn open(builder: TreeBuilder) -> Self {
        Self::new(opened(builder))
    }

    pub(crate) fn new(tree: Tree) -> Self {
        let stream = tree.stream().expect("a stream");
        Self { tree, stream }
    }

    /// All changes up to the barrier, without it.
    pub(crate) fn until(&mut self, barrier: Barrier) -> Vec<OwnedChange> {
        self.until_where(barrier, |_| true)
    }

    /// The changes up to the barrier that are wanted. Where there are many, only these take memory.
    fn until_where(&mut self, barrier: Barrier, wanted: impl Fn(&OwnedChange) -> bool) -> Vec<OwnedChange> {
        let mut changes = Vec::new();
        let begun = std::time::Instant::now();
        loop {
            let batch = self.stream.wait_timeout(PATIENCE).expect("reading goes on");
            let batch = batch.filter(|_| begun.elapsed() < 2 * PATIENCE);
            let batch = batch.expect("a batch that was due did not come");
            let mut here = false;
            for change in &batch {
                here |= change.barrier() == Some(barrier);
                if change.barrier().is_none() {
                    changes.extend(Some(change.to_owned()).filter(&wanted));
                }
            }
            if here {
                return changes;
            }
        }
    }

    /// Takes changes until one is as wanted.
    pub(crate) fn wait_for(&mut self, mut wanted: impl FnMut(&OwnedChange) -> bool) {
        let begun = std::time::Instant::now();
        loop {
            let batch = self.stream.wait_timeout(PATIENCE).expect("reading goes on");
            let batch = batch.filter(|_| begun.elapsed() < PATIENCE);
            let batch = batch.expect("a change that was due did not come");
            if batch.iter().any(|change| wanted(&change.to_owned())) {
                return;
            }
        }
    }

    /// Waits until what is to be let go was let go.
    pub(crate) fn settle(&self) {
        crate::support::wait_until(|| self.tree.stats().releasing == 0);
    }

    /// All changes caused before this call.
    pub(crate) fn changes(&mut self) -> Vec<OwnedChange> {
        self.changes_where(|_| true)
    }

    /// Those of them that are wanted.
    pub(crate) fn changes_where(&mut self, wanted: impl Fn(&OwnedChange) -> bool) -> Vec<OwnedChange> {
        let barrier = self.tree.barrier().expect("a barrier");
        self.until_where(barrier, wanted)
    }

    /// As [`changes`](Self::changes), where there may be no room for a barrier at first.
    pub(crate) fn until_marked(&mut self) -> Vec<OwnedChange> {
        let begun = std::time::Instant::now();
        loop {
            match self.tree.barrier() {
                Ok(barrier) => return self.until(barrier),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }
}
