//! One round of the replay: random operations at full speed, a consumer who takes the changes, and what must hold then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::tree::{Change, Recovery, Tree, TreeBuilder};
use ringwatch::{Barrier, ErrorKind};
use tempfile::TempDir;

use crate::acts::{Act, Field, Random, act, do_act};
use crate::deep::{far_below, make_all, reach};
use crate::model::{Model, Node, Watched, difference, disk, disk_behind_links};
use crate::setting::{Round, Second, is_root};
use crate::several;
use crate::start::{Begins, Start};
use crate::support::PATIENCE;
use crate::support::child::{in_process, without_capabilities};
use crate::support::kernel::{self, QueueLimit};

/// Opens a tree whose kernel queue is this small. An instance keeps the limit it was made under.
pub(crate) fn open(round: &Round, builder: TreeBuilder) -> Tree {
    let small = || {
        round
            .queue
            .map(|events| QueueLimit::new(events).expect("a smaller limit"))
    };
    let _small = small();
    let open = || builder.open().expect("a tree");
    match round.unprivileged {
        true => without_capabilities(open),
        false => open(),
    }
}

pub(crate) fn place() -> TempDir {
    // In memory, if that can be had: the disk is not what is tested.
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

fn acts(round: &Round, field: &Field) -> Vec<Vec<Act>> {
    let of = |thread: usize| {
        let mut random = Random::new(round.seed.wrapping_mul(31) + thread as u64);
        let acts = (0..round.acts).map(|_| act(field, &mut random));
        acts.filter(|act| may_be(round, field, act)).collect()
    };
    (0..round.threads).map(of).collect()
}

/// A root that is a link shows what it leads to, where the other root shows a link. Where links are followed, those that lead
/// to what comes and goes are not noticed to come alive, and what links lead to stays as it is.
fn may_be(round: &Round, field: &Field, act: &Act) -> bool {
    match act {
        Act::Symlink(to, _) if round.links => field.targets.contains(to),
        Act::Symlink(..) => !matches!(round.second, Some(Second::Within | Second::Several)),
        Act::Forbid(..) => !round.links,
        _ => true,
    }
}

/// Directories beside the root, and one in it, that stay where they are. With the root itself, links are made to these.
const TARGETS: [&str; 4] = ["one", "two", "three", "root/kept"];

pub(crate) const PROBE: &str = "probe";

/// Runs one round. An error says what does not hold.
pub(crate) fn run(round: &Round) -> Result<(), String> {
    let dir = place();
    let [root, outside, beside] = ["root", "outside", "beside"].map(|name| dir.path().join(name));
    let far = round.deep.then(|| far_below(&root.join("a")));
    let field = Field {
        other: far.or(round.is_beside().then(|| beside.clone())),
        moving: match round.second {
            Some(Second::Moving) => vec![beside.clone()],
            Some(Second::Several) => vec![beside.clone(), root.clone()],
            _ => Vec::new(),
        },
        holds: round.second == Some(Second::Several),
        root: root.clone(),
        mounts: round.mounts,
        targets: targets(round, dir.path()),
    };
    for dir in [&root, &outside, &beside].into_iter().chain(&field.targets) {
        fs::create_dir_all(dir).expect("a directory");
    }
    if let Some(other) = &field.other {
        make_all(other).expect("a place far below");
    }
    let mut random = Random::new(round.seed);
    for _ in 0..random.below(40) {
        let act = act(&field, &mut random);
        if may_be(round, &field, &act) {
            do_act(&act, &outside);
        }
    }
    let acts = acts(round, &field);
    let (start, finished) = (Start::default(), AtomicBool::new(false));
    let outcome = thread::scope(|scope| {
        let threads: Vec<_> = acts
            .iter()
            .map(|acts| {
                let (start, outside) = (&start, &outside);
                scope.spawn(move || {
                    start.wait();
                    let all = || acts.iter().for_each(|act| do_act(act, outside));
                    match round.processes {
                        true => assert!(in_process(all), "operations do not panic"),
                        false => all(),
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().expect("operations do not panic"));
            finished.store(true, Ordering::Release);
        });
        let _begins = Begins(&start);
        match round.second {
            Some(Second::Several) => several::consume(round, dir.path(), &start, &finished),
            _ => consume(round, dir.path(), &start, &finished),
        }
    });
    // So that it can be removed.
    allow(dir.path());
    outcome
}

fn targets(round: &Round, base: &Path) -> Vec<PathBuf> {
    let names = TARGETS.iter().chain(&["root"]).filter(|_| round.links);
    names.map(|name| base.join(name)).collect()
}

pub(crate) fn allow(path: &Path) {
    let Ok(reached) = reach(path) else { return };
    let _ = fs::set_permissions(&reached, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(&reached).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            allow(&path.join(entry.file_name()));
        }
    }
}

pub(crate) fn set(round: &Round, builder: TreeBuilder) -> TreeBuilder {
    builder
        .backend(round.backend)
        .recovery(round.recovery)
        .buffers(round.buffers)
        .buffer_size(round.buffer_size)
        .batch_window(round.window)
        .await_missing_roots(round.awaits())
        .cross_mounts(round.mounts)
        .follow_symlinks(round.links)
        .report_existing(round.early)
}

fn consume(round: &Round, base: &Path, start: &Start, finished: &AtomicBool) -> Result<(), String> {
    if round.early {
        start.begin();
    }
    let root = base.join("root");
    let builder = set(round, Tree::builder(&root));
    let builder = match round.filter {
        true => builder.filter(|dir| dir.file_name() != Some(OsStr::new(".skip"))),
        false => builder,
    };
    if let Some(watches) = round.watches {
        crate::limits::limit(watches as usize);
    }
    let mut consumer = Consumer {
        round,
        second: match round.second {
            Some(Second::Within) => root.join("a"),
            _ => base.join("beside"),
        },
        has_second: false,
        model: Model::new(base, Node::dir()),
        barriers: VecDeque::new(),
        watched: Watched::new(open(round, builder)),
        root,
    };
    consumer.model.follows = round.links;
    consumer.model.moving = (round.second == Some(Second::Moving)).then(|| consumer.second.clone());
    let mut contents = Node::dir();
    if !round.early {
        contents = consumer.contents(&consumer.root, &consumer.uncovered());
        start.begin();
    }
    consumer.put("root", Some(contents));
    let outcome = consumer.follow(finished);
    outcome.map_err(|fault| format!("{}\n{fault}", consumer.log()))
}

struct Consumer<'a> {
    round: &'a Round,
    root: PathBuf,
    second: PathBuf,
    has_second: bool,
    /// Of the directory that the roots are in.
    model: Model,
    /// Those that were set and have not come.
    barriers: VecDeque<Barrier>,
    watched: Watched,
}

impl Consumer<'_> {
    fn put(&mut self, name: &str, node: Option<Node>) {
        let children = self.model.node.children.get_or_insert_default();
        match node {
            Some(node) => drop(children.insert(name.into(), node)),
            None => drop(children.remove(OsStr::new(name))),
        }
    }

    fn follow(&mut self, finished: &AtomicBool) -> Result<(), String> {
        let mut random = Random::new(self.round.seed ^ 77);
        let mut marking = Random::new(self.round.seed ^ 78);
        while !finished.load(Ordering::Acquire) {
            let batch = self.watched.stream.wait_timeout(Duration::from_millis(1));
            let Some(batch) = batch.map_err(|error| error.to_string())? else {
                continue;
            };
            for change in &batch {
                self.take(change)?;
            }
            drop(batch);
            if marking.one_in(6) {
                // Where there is no room for its watch there is none.
                self.barriers.extend(self.watched.tree.barrier());
            }
            if self.round.slow {
                thread::sleep(Duration::from_micros(random.below(3000)));
            }
            if self.round.second.is_some() && random.one_in(8) {
                self.add_or_remove()?;
            }
        }
        if self.round.second == Some(Second::Moving) {
            // What is above a missing root is watched too.
            fs::create_dir_all(&self.second).expect("a directory");
        }
        self.calm()?;
        if self.round.unprivileged || self.round.watches.is_some() {
            self.check_uncovered()?;
        }
        self.watched.settle();
        let all = |consumer: &Self| {
            consumer.compare_watches()?;
            consumer.compare(&BTreeSet::new())
        };
        all(self)?;
        // A file in every directory shows under which path it is watched.
        for dir in self.directories() {
            fs::write(reach(&dir.join(PROBE)).expect("a way"), "").expect("a probe");
        }
        self.calm()?;
        self.watched.settle();
        all(self).map_err(|fault| format!("with probes: {fault}"))
    }

    fn add_or_remove(&mut self) -> Result<(), String> {
        let beside = self.round.is_beside();
        let tree = &self.watched.tree;
        if self.has_second {
            tree.remove_root(&self.second).map_err(|error| error.to_string())?;
            // What was on its way is told.
            self.calm()?;
            if beside {
                self.put("beside", None);
            }
        } else {
            tree.add_root(&self.second).map_err(|error| error.to_string())?;
            if beside {
                self.put("beside", Some(Node::dir()));
            }
        }
        self.has_second = !self.has_second;
        Ok(())
    }

    fn log(&self) -> String {
        let log: Vec<_> = self.model.log.iter().map(|change| format!("{change:?}")).collect();
        let shown = log.len().saturating_sub(400);
        let log = log[shown..].join("\n").replace(&"n".repeat(255), "NAME");
        log.replace(&format!("{}/", "L".repeat(250)), "")
    }

    /// Whether what the changes add up to is not known: with `Recovery::Mark` an overflow leaves that to the user.
    fn lost(&self) -> bool {
        self.round.recovery == Recovery::Mark && self.model.overflows > 0
    }

    fn excused(&self, fault: String) -> Result<(), String> {
        if self.lost() { Ok(()) } else { Err(fault) }
    }

    /// Each barrier comes once, in the order in which they were set.
    fn take(&mut self, change: Change<'_>) -> Result<(), String> {
        if let Some(barrier) = change.barrier()
            && self.barriers.pop_front() != Some(barrier)
        {
            return Err(format!("{barrier:?} is out of turn"));
        }
        let applied = self.model.apply(&change.to_owned());
        applied.or_else(|fault| self.excused(fault))
    }

    /// Takes all that has happened.
    fn calm(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let barrier = loop {
            match self.watched.tree.barrier() {
                Ok(barrier) => break barrier,
                // A directory gives up its watch for it.
                Err(error) if error.kind() == ErrorKind::WatchLimit && begun.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        self.barriers.push_back(barrier);
        loop {
            let batch = self.watched.stream.wait_timeout(PATIENCE);
            let Some(batch) = batch.map_err(|error| error.to_string())? else {
                return Err(format!("the barrier did not come: {:?}", self.watched.tree.stats()));
            };
            for change in &batch {
                self.take(change)?;
            }
            if self.barriers.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the barrier does not come: {:?}", self.watched.tree.stats()));
            }
        }
    }

    fn skipped(&self, path: &Path) -> bool {
        self.round.filter && path.file_name() == Some(OsStr::new(".skip"))
    }

    fn contents(&self, root: &Path, uncovered: &BTreeSet<PathBuf>) -> Node {
        if uncovered.contains(root) {
            return Node::dir();
        }
        let wanted = |path: &Path| !self.skipped(path) && !uncovered.contains(path);
        match self.round.links {
            true => {
                let aliases = self.uncovered();
                disk_behind_links(root, &|path| wanted(path) && !aliases.contains(path))
            }
            false => disk(root, &wanted),
        }
    }

    fn roots(&self) -> Vec<PathBuf> {
        let beside = self.has_second && self.round.is_beside();
        let second = beside.then(|| self.second.clone());
        std::iter::once(self.root.clone()).chain(second).collect()
    }

    /// But for what is in directories that are not covered.
    fn compare(&self, uncovered: &BTreeSet<PathBuf>) -> Result<(), String> {
        if self.lost() {
            return Ok(());
        }
        let name = |root: &PathBuf| root.file_name().expect("a name").to_owned();
        let of_root = |root: &PathBuf| (name(root), self.contents(root, uncovered));
        let contents = Node {
            children: Some(self.roots().iter().map(of_root).collect::<BTreeMap<_, _>>()),
            ..Node::dir()
        };
        let mut model = self.model.node.clone();
        for path in uncovered {
            model.forget_below(path.strip_prefix(&self.model.root).expect("below"));
        }
        match difference(&model, &contents, &self.model.root) {
            None => Ok(()),
            Some(difference) => Err(format!(
                "{difference} (after {} overflows), uncovered {:?}, mounted {}",
                self.model.overflows,
                self.uncovered(),
                self.mounted(),
            )),
        }
    }

    fn mounted(&self) -> String {
        let base = self.model.root.to_str().expect("a path in UTF-8");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = table.lines().filter(|line| line.contains(base));
        here.collect::<Vec<_>>().join("; ")
    }

    /// All that are to be covered. Behind a link, what is said to be watched under another path is not gone into; that there
    /// is such a watch is for [`compare_watches`](Self::compare_watches) to see.
    fn directories(&self) -> Vec<PathBuf> {
        /// Links that lead around have no end.
        const MOST: usize = 20_000;
        let aliases = match self.round.links {
            true => self.uncovered(),
            false => BTreeSet::new(),
        };
        let mut all = self.roots();
        let mut place = 0;
        while place < all.len().min(MOST) {
            let dir = all[place].clone();
            for entry in fs::read_dir(reach(&dir).expect("a way")).expect("a listing") {
                let entry = entry.expect("an entry");
                let path = dir.join(entry.file_name());
                let kind = entry.file_type().expect("a type");
                let followed = self.round.links && kind.is_symlink() && path.is_dir();
                if (kind.is_dir() || followed) && !self.skipped(&path) && !aliases.contains(&path) {
                    all.push(path);
                }
            }
            place += 1;
        }
        all
    }

    /// Each directory is watched or not covered, or lies in one that is not; and what is not covered can't be. Then
    /// everything is made possible again.
    fn check_uncovered(&mut self) -> Result<(), String> {
        const TRIES: usize = 50;
        let mut outcome = Ok(());
        // Who may not look everywhere can't tell.
        for _ in 0..if is_root() { TRIES } else { 0 } {
            outcome = self.uncovered_is_true();
            // Watches that were set free are used again behind the barrier.
            if outcome.is_ok() || self.round.watches.is_none() {
                break;
            }
            self.calm()?;
            self.watched.settle();
        }
        outcome?;
        for root in self.roots() {
            allow(&root);
        }
        // Nobody tells of what is mounted that its permissions have changed: the directory above is on another file system.
        if self.round.watches.is_some() || self.round.mounts {
            if self.round.watches.is_some() {
                crate::limits::limit(1_000_000);
            }
            let retried = self.watched.tree.retry_uncovered();
            retried.map_err(|error| error.to_string())?;
        }
        self.calm()?;
        match self.watched.tree.uncovered().first() {
            Some(uncovered) if !self.is_missing(&uncovered.path) => Err(format!("not covered again: {uncovered:?}")),
            _ => Ok(()),
        }
    }

    /// A root that is waited for.
    fn is_missing(&self, path: &Path) -> bool {
        self.has_second && self.second == path && fs::metadata(path).is_err()
    }

    fn uncovered(&self) -> BTreeSet<PathBuf> {
        let uncovered = self.watched.tree.uncovered().into_iter();
        uncovered.map(|uncovered| uncovered.path).collect()
    }

    fn uncovered_is_true(&self) -> Result<(), String> {
        let uncovered = self.watched.tree.uncovered();
        let paths: BTreeSet<_> = uncovered.iter().map(|uncovered| uncovered.path.clone()).collect();
        self.compare(&paths)?;
        for one in &uncovered {
            let forbidden = |path: &Path| {
                let listed = |path: &Path| fs::read_dir(path).and_then(|_| fs::metadata(path.join(".")));
                let opened = reach(path).and_then(|path| listed(path.as_ref()));
                opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
            };
            let excused = match one.error.kind() {
                ErrorKind::PermissionDenied => without_capabilities(|| forbidden(&one.path)),
                ErrorKind::WatchLimit => self.round.watches.is_some(),
                _ => self.is_missing(&one.path),
            };
            if !excused {
                return Err(format!("nothing is in the way of {one:?}"));
            }
        }
        let watched = kernel::all_watched_with(&self.root);
        let is_known = |path: &Path| path.ancestors().any(|above| paths.contains(above));
        let forgotten = self.directories().into_iter().find(|dir| {
            let place = kernel::place_of(reach(dir).expect("a way").as_ref());
            !is_known(dir) && !watched.contains(&place)
        });
        forgotten.map_or(Ok(()), |dir| {
            Err(format!("{dir:?} is not watched, and not said to be uncovered"))
        })
    }

    fn compare_watches(&self) -> Result<(), String> {
        let directories = self.directories();
        let place = |path: &PathBuf| match self.round.links {
            true => kernel::place_of(&path.join(".")),
            false => kernel::place_of(reach(path).expect("a way").as_ref()),
        };
        let mut places: Vec<_> = directories.iter().map(place).collect();
        places.sort_unstable();
        let devices: BTreeSet<_> = places.iter().map(|&(_, device)| device).collect();
        // Others are the markers'.
        let mut watched = kernel::all_watched_with(&self.root);
        watched.retain(|(_, device)| devices.contains(device));
        let aliases = self.watched.tree.uncovered();
        let is_elsewhere = |path: &PathBuf| fs::metadata(path.join(".")).is_ok() && watched.contains(&place(path));
        if self.round.links
            && let Some(wrong) = aliases.iter().find(|alias| !is_elsewhere(&alias.path))
        {
            let there = fs::metadata(wrong.path.join(".")).map(|_| place(&wrong.path));
            let leads = fs::read_link(&wrong.path);
            return Err(format!(
                "not watched under another path: {wrong:?}, which is {there:?} and leads to {leads:?}"
            ));
        }
        if watched == places {
            return Ok(());
        }
        let twice = (1..places.len()).find(|&at| places[at] == places[at - 1]);
        if let Some(at) = twice {
            let same = directories.iter().filter(|path| place(path) == places[at]).take(3);
            let (same, stats) = (same.collect::<Vec<_>>(), self.watched.tree.stats());
            return Err(format!("covered twice: {same:?}; not covered: {aliases:?}; {stats:?}"));
        }
        let missing: Vec<_> = directories
            .iter()
            .filter(|path| !watched.contains(&place(path)))
            .collect();
        let more: Vec<_> = watched.iter().filter(|place| !places.contains(place)).collect();
        Err(format!("unwatched: {missing:?}, watched and not there: {more:?}"))
    }
}
