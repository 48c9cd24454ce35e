//! Consumers of trees: what the changes add up to must be what is on the disk.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};

use ringwatch::Mask;
use ringwatch::tree::{Change, Recovery, Tree, TreeStream};

use super::check::Check;
use super::lane::{Answer, End, Handle, Result, Stalls, backend, patiently};
use super::plan::{Fault, Kind, LANES, Phase, Setup, TREES};

/// Directories with a file each that nobody touches.
pub const STATIC: usize = 60;

/// A directory with its entries, or something else.
#[derive(Debug, Default, PartialEq, Eq)]
struct Node(Option<BTreeMap<OsString, Node>>);

impl Node {
    fn of_disk(path: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let node = match entry.file_type()?.is_dir() {
                true => Self::of_disk(&entry.path())?,
                false => Self(None),
            };
            entries.insert(entry.file_name(), node);
        }
        Ok(Self(Some(entries)))
    }
}

/// What is there, by the changes alone.
struct Model {
    root: PathBuf,
    node: Node,
    /// Moved away and not yet there.
    moving: BTreeMap<u32, Node>,
    changes: u64,
}

impl Model {
    fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            node: Node::of_disk(root)?,
            moving: BTreeMap::new(),
            changes: 0,
        })
    }

    fn entries(&mut self, dir: &Path) -> Option<&mut BTreeMap<OsString, Node>> {
        let mut node = &mut self.node;
        for name in dir.strip_prefix(&self.root).ok()? {
            node = node.0.as_mut()?.get_mut(name)?;
        }
        node.0.as_mut()
    }

    fn apply(&mut self, change: &Change<'_>) -> std::result::Result<(), String> {
        let mask = change.mask();
        let (Some(dir), Some(name)) = (change.dir(), change.name()) else {
            return Ok(());
        };
        let cookie = change.cookie().unwrap_or(0);
        let moved = change.renamed_from().and_then(|_| self.moving.remove(&cookie));
        let Some(entries) = self.entries(dir) else {
            return Err(format!("{change:?} is in no directory"));
        };
        if !mask.intersects(Mask::CREATE | Mask::DELETE | Mask::MOVE) {
            return Ok(());
        }
        if mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
            let new = Node(change.is_dir().then(BTreeMap::new));
            let before = entries.insert(name.to_owned(), moved.unwrap_or(new));
            if before.is_some() && mask.contains(Mask::CREATE) {
                return Err(format!("{change:?} was there already"));
            }
        } else {
            let Some(gone) = entries.remove(name) else {
                return Err(format!("{change:?} was not there"));
            };
            if mask.contains(Mask::MOVED_FROM) && !change.is_moved_out() {
                self.moving.insert(cookie, gone);
            }
        }
        Ok(())
    }
}

struct Live {
    tree: Tree,
    stream: TreeStream,
    model: Model,
    recovery: Recovery,
    broken: Option<Fault>,
}

impl Live {
    fn open(setup: &Setup, number: usize) -> Result<Self> {
        let of = &TREES[number];
        let root = setup.tree();
        let recovery = if of.finds { Recovery::Diff } else { Recovery::Mark };
        let mut builder = Tree::builder(&root)
            .backend(backend(setup, of.uring)?)
            .recovery(recovery);
        if of.small {
            builder = builder.buffers(4).buffer_size(4096);
        }
        let tree = patiently(|| builder.clone().open())?;
        Ok(Self {
            stream: tree.stream()?,
            tree,
            model: Model::new(&root)?,
            recovery,
            broken: setup.fault,
        })
    }

    fn follow(&mut self, check: &mut Check, stalls: &mut Stalls, end: &End) -> Result<()> {
        loop {
            let batch = self.stream.wait().ok_or("it ended")??;
            for change in &batch {
                if let Some(barrier) = change.barrier() {
                    if end.is(barrier) {
                        return Ok(());
                    }
                    check.reach(barrier);
                } else if change.is_overflow() {
                    check.lose(Some(self.tree.barrier()?));
                } else if let Some(error) = change.uncovered() {
                    check.fail(|| error.to_string());
                } else {
                    self.take(&change, check);
                }
            }
            drop(batch);
            stalls.rest();
        }
    }

    fn take(&mut self, change: &Change<'_>, check: &mut Check) {
        let name = change.name().map_or(&[][..], OsStrExt::as_bytes);
        // What recovery finds changed was not told by the kernel, and has no place in the sequence.
        let told = change
            .dir()
            .is_some_and(|dir| dir.file_name() == Some(OsStr::new("seq")));
        if told && change.origin() == ringwatch::tree::Origin::Kernel {
            check.see(change.mask().bits(), name);
        }
        self.model.changes += 1;
        if self.broken == Some(Fault::Overlook) && self.model.changes.is_multiple_of(10_000) && !told {
            return;
        }
        let excused = self.recovery == Recovery::Mark && check.outcome.overflows > 0;
        if let Err(fault) = self.model.apply(change)
            && !excused
        {
            check.fail(|| fault);
        }
    }

    /// The producer rests.
    fn compare(&mut self, check: &mut Check) -> Result<()> {
        self.model.moving.clear();
        let disk = Node::of_disk(&self.model.root)?;
        let excused = self.recovery == Recovery::Mark && check.outcome.overflows > 0;
        if self.model.node != disk && !excused {
            check.fail(|| "what the changes add up to is not what is on the disk".into());
        }
        self.model.node = disk;
        Ok(())
    }
}

/// The body of a tree's thread.
pub fn run(setup: &Setup, number: usize, phases: &Receiver<Phase>, answers: &Sender<Result<Answer>>) -> Result<()> {
    let mut live: Option<Live> = None;
    for phase in phases {
        let plan = &phase.lanes[LANES.len() + number];
        if plan.fresh {
            live = None;
        }
        let at = match &mut live {
            Some(live) => live,
            none => none.insert(Live::open(setup, number)?),
        };
        // What the producer did to tidy up is part of the model, and not of the sequence.
        let begin = End::default();
        begin.set(&Handle::Tree(at.tree.clone()))?;
        let mut check = Check::new(Kind::Modify, None);
        at.follow(&mut check, &mut Stalls::none(), &begin)?;
        at.compare(&mut check)?;
        if let Some(fault) = check.outcome.fault {
            return Err(format!("between phases: {fault}").into());
        }
        let end = End::default();
        answers.send(Ok(Answer::Reading(Handle::Tree(at.tree.clone()), end.clone())))?;
        let mut check = Check::new(Kind::Modify, setup.fault);
        at.follow(&mut check, &mut Stalls::new(plan, &phase), &end)?;
        at.compare(&mut check)?;
        answers.send(Ok(Answer::Done(check.outcome)))?;
    }
    Ok(())
}
