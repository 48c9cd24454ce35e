//! The replay property: what the changes add up to is what is on the disk, and every directory there is watched once,
//! under its path. It holds after any operations by any number of threads, with `Recovery::Diff` also across overflows.
//!
//! Each seed is one round: a random tree, some threads with some hundred random operations each, a random consumer. The
//! number of seeds and the first of them can be chosen:
//!
//! ```sh
//! RINGWATCH_SEEDS=10000 RINGWATCH_FIRST_SEED=1 cargo test --release --test tree replay -- --nocapture
//! ```

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Barrier as Start;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::Backend;
use ringwatch::tree::{Recovery, Tree, TreeBuilder};
use tempfile::TempDir;

use crate::model::{Model, Watched, difference, disk};
use crate::support::kernel::{self, SmallQueue};
use crate::support::{PATIENCE, backends};

/// A small generator of numbers (splitmix64), the same on every machine.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5151_5151)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// One hostile act. Most paths of it need not exist; then it fails, and nobody minds.
#[derive(Clone, Debug)]
enum Act {
    MakeDirs(PathBuf, u64),
    Write(PathBuf),
    Remove(PathBuf),
    RemoveAll(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    BackAndForth(PathBuf, PathBuf),
    Replace(PathBuf),
    MoveOut(PathBuf, u64),
    MoveIn(u64, PathBuf),
    BringIn(PathBuf, u64),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Forbid(PathBuf, u32),
    Flood(PathBuf),
    Pause(u64),
}

/// How a round goes.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    seed: u64,
    threads: usize,
    acts: usize,
    backend: Backend,
    recovery: Recovery,
    /// Events that the kernel keeps; none for as many as usual.
    queue: Option<u64>,
    buffers: usize,
    buffer_size: usize,
    window: Duration,
    slow: bool,
    /// The operations begin before the tree is opened.
    early: bool,
    filter: bool,
}

impl Round {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xabcd_ef01);
        let overflows = may_shrink_queue() && random.one_in(3);
        Self {
            seed,
            threads: 1 + random.below(4) as usize,
            acts: [20, 60, 200, 400][random.below(4) as usize],
            backend: backends()[random.below(backends().len() as u64) as usize],
            recovery: if overflows && !random.one_in(4) || random.one_in(3) {
                Recovery::Diff
            } else {
                Recovery::Mark
            },
            queue: overflows.then(|| [16, 32, 100, 300][random.below(4) as usize]),
            buffers: [2, 3, 16, 128][random.below(4) as usize],
            buffer_size: [272, 512, 4096, 65536][random.below(4) as usize],
            window: Duration::from_micros([0, 100, 1000][random.below(3) as usize]),
            slow: random.one_in(3),
            early: random.one_in(3),
            filter: random.one_in(6),
        }
    }
}

fn may_shrink_queue() -> bool {
    OpenOptions::new().write(true).open(kernel::QUEUE).is_ok()
}

/// Opens a tree whose kernel queue is this small. An instance keeps the limit it was made under.
fn open(builder: TreeBuilder, queue: Option<u64>) -> Tree {
    let _small = queue.map(|events| SmallQueue::new(events).expect("a smaller limit"));
    builder.open().expect("a tree")
}

/// Few names, so that the threads get in each other's way.
fn name(random: &mut Random) -> OsString {
    match random.below(24) {
        0 => OsString::from("n".repeat(255)),
        1 => OsStr::from_bytes(b"\xff\xfe").to_owned(),
        2 => OsString::from(".skip"),
        n => OsString::from(["a", "b", "c"][n as usize % 3]),
    }
}

fn path(root: &Path, random: &mut Random) -> PathBuf {
    let mut path = root.to_owned();
    for _ in 0..=random.below(4) {
        path.push(name(random));
    }
    path
}

fn act(root: &Path, random: &mut Random) -> Act {
    let one = path(root, random);
    let other = match random.one_in(2) {
        true => path(root, random),
        false => one.with_file_name(name(random)),
    };
    match random.below(40) {
        0..=7 => Act::MakeDirs(one, random.below(4)),
        8..=11 => Act::Write(one),
        12..=14 => Act::Remove(one),
        15..=16 => Act::RemoveAll(one),
        17..=22 => Act::Rename(one, other),
        23..=24 => Act::Exchange(one, other),
        25 => Act::BackAndForth(one, other),
        26..=27 => Act::Replace(one),
        28..=29 => Act::MoveOut(one, random.below(3)),
        30..=31 => Act::MoveIn(random.below(3), one),
        32..=33 => Act::BringIn(one, random.below(12)),
        34 => Act::Link(one, other),
        35 => Act::Symlink(one, other),
        36 => Act::Forbid(one, [0o000, 0o755, 0o500][random.below(3) as usize]),
        37 => Act::Flood(one),
        _ => Act::Pause(random.below(300)),
    }
}

/// Whether it is done does not matter.
fn do_act(act: &Act, outside: &Path) {
    let kept = |number: &u64| outside.join(format!("kept-{number}"));
    let _ = match act {
        Act::MakeDirs(path, files) => {
            let made = fs::create_dir_all(path);
            (0..*files).for_each(|number| drop(fs::write(path.join(format!("f{number}")), "x")));
            made
        }
        Act::Write(path) => fs::write(path, "content"),
        Act::Remove(path) => fs::remove_file(path).or_else(|_| fs::remove_dir(path)),
        Act::RemoveAll(path) => fs::remove_dir_all(path),
        Act::Rename(from, to) => fs::rename(from, to),
        Act::Exchange(a, b) => exchange(a, b),
        Act::BackAndForth(a, b) => fs::rename(a, b).and_then(|()| fs::rename(b, a)),
        Act::Replace(path) => fs::remove_dir(path)
            .or_else(|_| fs::remove_file(path))
            .and_then(|()| fs::create_dir(path))
            .and_then(|()| fs::write(path.join("a"), "")),
        Act::MoveOut(path, number) => fs::rename(path, kept(number)),
        Act::MoveIn(number, path) => fs::rename(kept(number), path),
        Act::BringIn(path, size) => bring_in(path, *size, outside),
        Act::Link(a, b) => fs::hard_link(a, b),
        Act::Symlink(a, b) => symlink(a, b),
        Act::Forbid(path, mode) => fs::set_permissions(path, fs::Permissions::from_mode(*mode)),
        Act::Flood(path) => (0..300).try_for_each(|number| {
            let file = path.with_file_name(format!("flood-{}", number % 2));
            OpenOptions::new().append(true).create(true).open(file)?.write_all(b"x")
        }),
        Act::Pause(microseconds) => {
            thread::sleep(Duration::from_micros(*microseconds));
            Ok(())
        }
    };
}

/// Moves in a tree of some directories with files.
fn bring_in(path: &Path, size: u64, outside: &Path) -> io::Result<()> {
    let dir = tempfile::tempdir_in(outside)?;
    let mut at = dir.path().join("new");
    fs::create_dir(&at)?;
    let top = at.clone();
    for number in 0..size {
        at = if number % 3 == 2 { top.clone() } else { at };
        at.push(["a", "b", "c"][number as usize % 3]);
        fs::create_dir_all(&at)?;
        fs::write(at.join("inside"), "")?;
    }
    fs::rename(top, path)
}

/// Exchanges two entries in one step.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let [a, b] = [a, b].map(|path| CString::new(path.as_os_str().as_bytes()).expect("no NUL"));
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both paths are NUL-terminated and live through the call.
    match unsafe { libc::renameat2(here, a.as_ptr(), here, b.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn place() -> TempDir {
    // In memory, if that can be had: the disk is not what is tested.
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

fn acts(round: &Round, root: &Path) -> Vec<Vec<Act>> {
    let of = |thread: usize| {
        let mut random = Random::new(round.seed.wrapping_mul(31) + thread as u64);
        (0..round.acts).map(|_| act(root, &mut random)).collect()
    };
    (0..round.threads).map(of).collect()
}

const PROBE: &str = "probe";

/// Runs one round. An error says what does not hold.
pub(crate) fn run(round: &Round) -> Result<(), String> {
    let dir = place();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).expect("a root");
    fs::create_dir(&outside).expect("an outside");
    let mut random = Random::new(round.seed);
    for _ in 0..random.below(40) {
        do_act(&act(&root, &mut random), &outside);
    }
    let acts = acts(round, &root);
    let start = Start::new(round.threads + 1);
    let finished = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let threads: Vec<_> = acts
            .iter()
            .map(|acts| {
                let (start, outside) = (&start, &outside);
                scope.spawn(move || {
                    start.wait();
                    acts.iter().for_each(|act| do_act(act, outside));
                })
            })
            .collect();
        scope.spawn(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().expect("operations do not panic"));
            finished.store(true, Ordering::Release);
        });
        consume(round, &root, &start, &finished)
    });
    // So that it can be removed.
    allow(dir.path());
    outcome
}

fn allow(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            allow(&entry.path());
        }
    }
}

fn builder(round: &Round, root: &Path) -> TreeBuilder {
    let builder = Tree::builder(root)
        .backend(round.backend)
        .recovery(round.recovery)
        .buffers(round.buffers)
        .buffer_size(round.buffer_size)
        .batch_window(round.window)
        .report_existing(round.early);
    match round.filter {
        true => builder.filter(|dir| dir.file_name() != Some(OsStr::new(".skip"))),
        false => builder,
    }
}

fn consume(round: &Round, root: &Path, start: &Start, finished: &AtomicBool) -> Result<(), String> {
    let mut model = Model::new(root, crate::model::Node::dir());
    follow(round, root, start, finished, &mut model).map_err(|fault| format!("{}\n{fault}", model_log(&model)))
}

fn follow(round: &Round, root: &Path, start: &Start, finished: &AtomicBool, model: &mut Model) -> Result<(), String> {
    if round.early {
        start.wait();
    }
    let tree = open(builder(round, root), round.queue);
    if !round.early {
        model.node = contents(round, root);
    }
    let mut watched = Watched::new(tree);
    if !round.early {
        start.wait();
    }
    let mut random = Random::new(round.seed ^ 77);
    while !finished.load(Ordering::Acquire) {
        let batch = watched.stream.wait_timeout(Duration::from_millis(1));
        let Some(batch) = batch.map_err(|error| error.to_string())? else {
            continue;
        };
        for change in &batch {
            model
                .apply(&change.to_owned())
                .or_else(|fault| excused(round, model, fault))?;
        }
        if round.slow {
            thread::sleep(Duration::from_micros(random.below(3000)));
        }
    }
    calm(round, &mut watched, model)?;
    compare(round, model, root)?;
    watched.settle();
    compare_watches(round, root)?;
    // A file in every directory shows under which path it is watched.
    let mut directories = Vec::new();
    directories_of(round, root, &mut directories);
    directories
        .iter()
        .for_each(|dir| fs::write(dir.join(PROBE), "").expect("a probe"));
    calm(round, &mut watched, model)?;
    compare(round, model, root).map_err(|fault| format!("with probes: {fault}"))
}

fn model_log(model: &Model) -> String {
    let log: Vec<_> = model.log.iter().map(|change| format!("{change:?}")).collect();
    let shown = log.len().saturating_sub(400);
    log[shown..].join("\n").replace(&"n".repeat(255), "NAME")
}

/// Whether what the changes add up to is not known: with `Recovery::Mark` an overflow leaves that to the user.
fn lost(round: &Round, model: &Model) -> bool {
    round.recovery == Recovery::Mark && model.overflows > 0
}

fn excused(round: &Round, model: &Model, fault: String) -> Result<(), String> {
    if lost(round, model) { Ok(()) } else { Err(fault) }
}

/// Takes all that has happened.
fn calm(round: &Round, watched: &mut Watched, model: &mut Model) -> Result<(), String> {
    let barrier = watched.tree.barrier().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    loop {
        let batch = watched
            .stream
            .wait_timeout(PATIENCE)
            .map_err(|error| error.to_string())?;
        let Some(batch) = batch else {
            return Err(format!("the barrier did not come: {:?}", watched.tree.stats()));
        };
        for change in &batch {
            if change.barrier() == Some(barrier) {
                return Ok(());
            }
            model
                .apply(&change.to_owned())
                .or_else(|fault| excused(round, model, fault))?;
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("the barrier does not come: {:?}", watched.tree.stats()));
        }
    }
}

fn skipped(round: &Round, path: &Path) -> bool {
    round.filter && path.file_name() == Some(OsStr::new(".skip"))
}

fn contents(round: &Round, root: &Path) -> crate::model::Node {
    disk(root, &|path| !skipped(round, path))
}

fn compare(round: &Round, model: &Model, root: &Path) -> Result<(), String> {
    if lost(round, model) {
        return Ok(());
    }
    match difference(&model.node, &contents(round, root), root) {
        None => Ok(()),
        Some(difference) => Err(format!("{difference} (after {} overflows)", model.overflows)),
    }
}

fn directories_of(round: &Round, path: &Path, all: &mut Vec<PathBuf>) {
    all.push(path.to_owned());
    for entry in fs::read_dir(path).expect("a listing") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() && !skipped(round, &entry.path()) {
            directories_of(round, &entry.path(), all);
        }
    }
}

fn compare_watches(round: &Round, root: &Path) -> Result<(), String> {
    let mut directories = Vec::new();
    directories_of(round, root, &mut directories);
    let mut inodes: Vec<_> = directories.iter().map(|path| kernel::inode(path)).collect();
    inodes.sort_unstable();
    let watched = kernel::directories_watched_with(root);
    if watched == inodes {
        return Ok(());
    }
    let missing: Vec<_> = directories
        .iter()
        .filter(|path| !watched.contains(&kernel::inode(path)))
        .collect();
    let more: Vec<_> = watched.iter().filter(|inode| !inodes.contains(inode)).collect();
    Err(format!("unwatched: {missing:?}, watched and not there: {more:?}"))
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn holds(round: &Round) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(round))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(message.unwrap_or_else(|| "it panicked".to_owned()))
    })
}

/// The smallest round like this one that fails at least once in a few runs, and how.
fn shrink(round: Round, fault: String) -> (Round, String) {
    const TRIES: usize = 30;
    let mut smallest = (round, fault);
    loop {
        let at = smallest.0.clone();
        let candidates = [
            Round {
                acts: at.acts / 2,
                ..at.clone()
            },
            Round {
                acts: at.acts * 3 / 4,
                ..at.clone()
            },
            Round {
                threads: at.threads - 1,
                ..at.clone()
            },
            Round {
                early: false,
                ..at.clone()
            },
            Round {
                slow: false,
                ..at.clone()
            },
            Round {
                filter: false,
                ..at.clone()
            },
        ];
        let differs = |other: &Round| format!("{other:?}") != format!("{at:?}");
        let smaller = candidates
            .into_iter()
            .filter(|round| round.threads > 0 && round.acts > 0 && differs(round));
        let failing = smaller.into_iter().find_map(|round| {
            let fault = (0..TRIES).find_map(|_| holds(&round).err())?;
            Some((round, fault))
        });
        match failing {
            Some(failing) => smallest = failing,
            None => return smallest,
        }
    }
}

fn check(seeds: impl Iterator<Item = u64>) {
    let deadline = number("RINGWATCH_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut rounds = 0;
    for seed in seeds {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        let round = Round::of(seed);
        if std::env::var_os("RINGWATCH_VERBOSE").is_some() {
            println!("{round:?}");
        }
        if let Err(fault) = holds(&round) {
            println!("{round:?} fails; looking for a smaller one");
            if std::env::var_os("RINGWATCH_NO_SHRINK").is_some() {
                panic!("{fault}");
            }
            let (round, fault) = shrink(round, fault);
            panic!("{round:?}: {fault}");
        }
        rounds += 1;
    }
    println!("{rounds} rounds");
}

#[test]
fn replaying_the_changes_gives_what_is_on_the_disk() {
    let first = number("RINGWATCH_FIRST_SEED").unwrap_or(1);
    let seeds = number("RINGWATCH_SEEDS").unwrap_or(150);
    check(first..first + seeds);
}
