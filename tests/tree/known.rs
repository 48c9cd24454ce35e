//! What is known of a tree by what the documentation of [`Tree`](ringwatch::tree::Tree) tells to make of its changes, and by nothing
//! else: with several roots, in one another and beside, which are directories or files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringwatch::tree::{OwnedChange, Recovery, Tree, TreeBuilder};
use ringwatch::{Barrier, ErrorKind, Mask};

use crate::model::Watched;
use crate::support::{PATIENCE, kernel};

/// A directory in which nothing happens, and which always is a root.
pub(crate) const ANCHOR: &str = "anchor";

/// Entries by path, and which are directories.
type Entries = BTreeMap<PathBuf, bool>;

/// All below a path, without what is there itself.
fn below(entries: &Entries, path: &Path) -> Vec<PathBuf> {
    let from = entries.range(path.to_owned()..).map(|(entry, _)| entry);
    let all = from.take_while(|entry| entry.starts_with(path));
    all.filter(|entry| *entry != path).cloned().collect()
}

fn forget_below(entries: &mut Entries, path: &Path) {
    for entry in below(entries, path) {
        entries.remove(&entry);
    }
}

fn take(entries: &mut Entries, path: &Path) -> Entries {
    let mut taken = below(entries, path);
    taken.push(path.to_owned());
    taken
        .into_iter()
        .filter_map(|path| Some((path.clone(), entries.remove(&path)?)))
        .collect()
}

/// What is known of what is there.
pub(crate) struct Known {
    pub(crate) roots: BTreeSet<PathBuf>,
    entries: Entries,
    /// What was renamed, until it is told where it is.
    limbo: BTreeMap<u32, (PathBuf, Entries)>,
    overflows: usize,
    /// What was told, and what was asked for.
    log: Vec<String>,
}

impl Known {
    /// Whether a path lies in a root.
    fn is_in_a_root(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|above| self.roots.contains(above))
    }

    fn apply(&mut self, change: &OwnedChange) -> Result<(), String> {
        let mask = change.mask();
        let moves = Mask::CREATE | Mask::DELETE | Mask::MOVE;
        if mask.intersects(moves | Mask::Q_OVERFLOW) || change.uncovered().is_some() {
            self.log.push(format!("{change:?}"));
        }
        self.overflows += usize::from(change.is_overflow());
        let Some(path) = change.path() else { return Ok(()) };
        if let Some(error) = change.uncovered() {
            if self.roots.contains(&path) && error.operation() != "look into directory" {
                forget_below(&mut self.entries, &path);
                if !change.is_dir() || !self.is_in_a_root(&path) {
                    self.entries.remove(&path);
                }
            }
            return Ok(());
        }
        let parent = path.parent().filter(|_| change.name().is_some());
        if let Some(parent) = parent
            && !self.roots.contains(&path)
            && !self.roots.contains(parent)
            && self.entries.get(parent) != Some(&true)
        {
            return Err(format!("no directory for {change:?}"));
        }
        let cookie = change.cookie().unwrap_or(0);
        if mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
            if mask.contains(Mask::MOVED_TO) {
                // What was there is replaced, with all below.
                forget_below(&mut self.entries, &path);
            }
            let known = self.entries.insert(path.clone(), change.is_dir());
            // A root may have been told of in another, which was removed since.
            if mask.contains(Mask::CREATE) && known.is_some() && !self.roots.contains(&path) {
                return Err(format!("was there already: {change:?}"));
            }
            if let Some(told) = change.renamed_from() {
                let Some((from, taken)) = self.limbo.remove(&cookie) else {
                    return Err(format!("nothing was moved away for {change:?}"));
                };
                if told != from {
                    return Err(format!("it was {from:?}: {change:?}"));
                }
                let place = |old: PathBuf| match old == from {
                    true => path.clone(),
                    false => path.join(old.strip_prefix(&from).expect("below it")),
                };
                let moved = taken.into_iter().map(|(old, is_dir)| (place(old), is_dir));
                self.entries.extend(moved);
            }
        } else if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
            let taken = take(&mut self.entries, &path);
            if !taken.contains_key(&path) && !self.roots.contains(&path) {
                return Err(format!("was not there: {change:?}"));
            }
            if mask.contains(Mask::MOVED_FROM) && !change.is_moved_out() {
                self.limbo.insert(cookie, (path, taken));
            }
        }
        Ok(())
    }

    /// Of what lies in no root, or where the filter wants nothing, nothing is told.
    fn keep_to_roots(&mut self, skips: bool) {
        let Self { roots, entries, .. } = self;
        let is_wanted = |path: &Path, root: &Path| {
            let dir = path.strip_prefix(root).ok().and_then(Path::parent);
            dir.is_some_and(|dir| !skips || dir.iter().all(|name| name != SKIPPED))
        };
        entries.retain(|path, is_dir| {
            let is_file = roots.contains(path) && !*is_dir;
            is_file
                || path
                    .ancestors()
                    .skip(1)
                    .any(|above| roots.contains(above) && is_wanted(path, above))
        });
    }

    pub(crate) fn log(&self) -> String {
        let shown = self.log.len().saturating_sub(4000);
        self.log[shown..].join("\n").replace(&"n".repeat(255), "NAME")
    }
}

/// Follows a tree: whatever it tells must make sense where it is told, and be right in the end.
pub(crate) struct Follower {
    base: PathBuf,
    recovery: Recovery,
    /// Whether directories with that name are not wanted.
    skips: Arc<AtomicBool>,
    pub(crate) known: Known,
    pub(crate) barriers: VecDeque<Barrier>,
    pub(crate) watched: Watched,
}

/// What a filter does not want while it is asked to skip it.
pub(crate) const SKIPPED: &str = ".skip";

impl Follower {
    /// Follows what `open` makes of a tree of the first root and the anchor. `is_early`: what is there is reported.
    pub(crate) fn new(
        base: &Path,
        root: &str,
        recovery: Recovery,
        skips: bool,
        is_early: bool,
        open: impl FnOnce(TreeBuilder) -> Tree,
    ) -> Self {
        let skips = Arc::new(AtomicBool::new(skips));
        let asked = Arc::clone(&skips);
        let wanted = move |dir: &Path| !asked.load(Ordering::Relaxed) || dir.file_name() != Some(OsStr::new(SKIPPED));
        let (root, anchor) = (base.join(root), base.join(ANCHOR));
        let builder = Tree::builder(&root)
            .root(&anchor)
            .recovery(recovery)
            .filter(wanted)
            .report_existing(is_early);
        let mut follower = Self {
            base: base.to_owned(),
            recovery,
            skips,
            known: Known {
                roots: [root, anchor].into(),
                entries: Entries::new(),
                limbo: BTreeMap::new(),
                overflows: 0,
                log: Vec::new(),
            },
            barriers: VecDeque::new(),
            watched: Watched::new(open(builder)),
        };
        if !is_early {
            follower.known.entries = follower.on_disk().0;
            for uncovered in follower.watched.tree.uncovered() {
                forget_below(&mut follower.known.entries, &uncovered.path);
            }
        }
        follower
    }

    pub(crate) fn take_one(&mut self, time: Duration) -> Result<(), String> {
        let batch = self.watched.stream.wait_timeout(time);
        let Some(batch) = batch.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        for change in &batch {
            if let Some(barrier) = change.barrier()
                && self.barriers.pop_front() != Some(barrier)
            {
                return Err(format!("{barrier:?} is out of turn"));
            }
            let applied = self.known.apply(&change.to_owned());
            if !self.is_lost() {
                applied?;
            }
        }
        Ok(())
    }

    /// With `Recovery::Mark` an overflow leaves it to the user what is there.
    fn is_lost(&self) -> bool {
        self.recovery == Recovery::Mark && self.known.overflows > 0
    }

    pub(crate) fn calm(&mut self) -> Result<(), String> {
        let barrier = self.watched.tree.barrier().map_err(|error| error.to_string())?;
        self.barriers.push_back(barrier);
        let begun = Instant::now();
        while !self.barriers.is_empty() {
            self.take_one(PATIENCE)?;
            if begun.elapsed() > PATIENCE {
                return Err(format!("the barrier does not come: {:?}", self.watched.tree.stats()));
            }
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, root: &str) -> Result<(), String> {
        let root = self.base.join(root);
        self.known.log.push(format!("add {root:?}"));
        let added = self.watched.tree.add_root(&root);
        self.known.roots.insert(root);
        added.map_err(|error| error.to_string())
    }

    pub(crate) fn remove(&mut self, root: &str) -> Result<(), String> {
        let root = self.base.join(root);
        self.known.log.push(format!("remove {root:?}"));
        self.watched
            .tree
            .remove_root(&root)
            .map_err(|error| error.to_string())?;
        // What was on its way is told.
        self.calm()?;
        self.known.roots.remove(&root);
        self.known.keep_to_roots(self.skips.load(Ordering::Relaxed));
        Ok(())
    }

    pub(crate) fn has(&self, root: &str) -> bool {
        self.known.roots.contains(&self.base.join(root))
    }

    pub(crate) fn retry(&mut self) -> Result<(), String> {
        self.known.log.push("retry".to_owned());
        let retried = self.watched.tree.retry_uncovered();
        retried.map_err(|error| error.to_string())
    }

    /// Asks the filter again, which answers otherwise.
    pub(crate) fn refilter(&mut self) -> Result<(), String> {
        let skipped = self.skips.fetch_xor(true, Ordering::Relaxed);
        self.known.log.push(format!("skips: {}", !skipped));
        self.watched.tree.refilter().map_err(|error| error.to_string())
    }

    /// The entries that are in roots, and the directories that are to be watched.
    pub(crate) fn on_disk(&self) -> (Entries, BTreeSet<PathBuf>) {
        let (mut entries, mut dirs) = (Entries::new(), BTreeSet::new());
        let skips = self.skips.load(Ordering::Relaxed);
        for root in &self.known.roots {
            match fs::metadata(root).map(|found| found.is_dir()) {
                Ok(true) => {}
                Ok(false) => {
                    entries.insert(root.clone(), false);
                    continue;
                }
                Err(_) => continue,
            }
            let mut pending = vec![root.clone()];
            while let Some(dir) = pending.pop() {
                for entry in fs::read_dir(&dir).expect("a listing") {
                    let entry = entry.expect("an entry");
                    let path = dir.join(entry.file_name());
                    let is_dir = entry.file_type().expect("a type").is_dir();
                    if is_dir && !(skips && entry.file_name() == SKIPPED) {
                        pending.push(path.clone());
                    }
                    entries.insert(path, is_dir);
                }
                dirs.insert(dir);
            }
        }
        (entries, dirs)
    }

    pub(crate) fn check(&mut self) -> Result<(), String> {
        self.calm()?;
        self.watched.settle();
        let (entries, dirs) = self.on_disk();
        if !self.is_lost() {
            self.compare(&entries)?;
        }
        self.compare_watches(&dirs)?;
        let is_missing = |path: &Path| self.known.roots.contains(path) && fs::metadata(path).is_err();
        let uncovered = self.watched.tree.uncovered().into_iter();
        match uncovered
            .filter(|one| one.error.kind() != ErrorKind::NotFound || !is_missing(&one.path))
            .map(|one| one.error.to_string())
            .next()
        {
            Some(uncovered) => Err(format!("not covered: {uncovered}")),
            None => Ok(()),
        }
    }

    /// A root that is a directory, and in no other, is no entry.
    fn compare(&self, entries: &Entries) -> Result<(), String> {
        let known = &self.known.entries;
        let is_entry = |(path, is_dir): &(&PathBuf, &bool)| !**is_dir || self.known.is_in_a_root(path);
        let gone = known
            .iter()
            .filter(is_entry)
            .find(|(path, is_dir)| entries.get(*path) != Some(*is_dir));
        let missing = entries.iter().find(|(path, is_dir)| known.get(*path) != Some(*is_dir));
        if gone.is_none() && missing.is_none() {
            return Ok(());
        }
        Err(format!(
            "not on the disk: {gone:?}, not reported: {missing:?}, roots {:?}, overflows {}, uncovered {:?}",
            self.known.roots,
            self.known.overflows,
            self.watched.tree.uncovered(),
        ))
    }

    /// Each directory once. Those above roots that are files or missing may be watched for these.
    fn compare_watches(&self, dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
        let place = |path: &Path| kernel::place_of(&path.join("."));
        let wanted: BTreeMap<_, _> = dirs.iter().map(|dir| (place(dir), dir)).collect();
        let device = place(&self.base.join(ANCHOR)).1;
        let mut watched = kernel::all_watched_with(&self.base.join(ANCHOR));
        watched.retain(|watch| watch.1 == device);
        let is_dir = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_dir());
        let others = self.known.roots.iter().filter(|root| !is_dir(root));
        let above: BTreeSet<_> = others
            .filter_map(|root| root.ancestors().skip(1).find(|above| is_dir(&above.join("."))))
            .map(place)
            .collect();
        let missing = wanted.iter().find(|(place, _)| !watched.contains(place));
        let more: Vec<_> = watched
            .iter()
            .filter(|place| !wanted.contains_key(*place) && !above.contains(*place))
            .collect();
        if missing.is_none() && more.is_empty() {
            return Ok(());
        }
        Err(format!(
            "unwatched: {missing:?}, watched without need: {more:?}, roots {:?}, uncovered {:?}",
            self.known.roots,
            self.watched.tree.uncovered()
        ))
    }
}
