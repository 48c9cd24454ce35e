//! Trees that somebody else controls, who means harm: what is watched never leaves them, and what they cost is bounded.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::tree::{OwnedChange, Recovery, Tree, TreeBatch, TreeBuilder};
use ringwatch::{ErrorKind, Mask};
use tempfile::TempDir;

use crate::deep::step;
use crate::model::{Watched, opened};
use crate::round::place;
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child::in_child;
use crate::support::exchange::exchange;
use crate::support::{PATIENCE, Stopping, kernel, wait_until};

/// A tree, and what is beside it: directories that nobody may be watched in.
struct Ground {
    _dir: TempDir,
    root: PathBuf,
    outside: PathBuf,
    forbidden: BTreeSet<u64>,
}

const SECRET: &str = "secret";

fn ground() -> Ground {
    let dir = place();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for name in ["swapped/below", "calm/below"] {
        fs::create_dir_all(root.join(name)).expect("a directory");
    }
    let mut forbidden = BTreeSet::new();
    for name in ["", "below", "below/deep", "other"] {
        let path = outside.join(name);
        fs::create_dir_all(&path).expect("a directory");
        fs::write(path.join(SECRET), "").expect("a file");
        forbidden.insert(fs::metadata(&path).expect("metadata").ino());
    }
    forbidden.insert(fs::metadata(dir.path()).expect("metadata").ino());
    symlink(&outside, root.join("link")).expect("a link");
    Ground {
        _dir: dir,
        root,
        outside,
        forbidden,
    }
}

impl Ground {
    /// Swaps directories of the tree with links to the outside, each in one step, and writes there, until told to stop.
    fn swap(&self, stop: &AtomicBool) {
        let (swapped, link) = (self.root.join("swapped"), self.root.join("link"));
        let inner = self.root.join("calm/below/inner");
        while !stop.load(Ordering::Relaxed) {
            // What is a directory when it is listed is a link when it is opened.
            let _ = exchange(&swapped, &link);
            let _ = fs::create_dir(&inner);
            let _ = fs::remove_dir(&inner);
            let _ = symlink(self.outside.join("below"), &inner);
            let _ = fs::remove_file(&inner);
            // The directory above a new one becomes a link while that is looked for.
            let _ = fs::create_dir(swapped.join("below/new"));
            let _ = exchange(&swapped, &link);
            let _ = fs::create_dir(swapped.join("below/new"));
            let _ = fs::remove_dir(swapped.join("below/new"));
            let _ = fs::write(self.outside.join("below").join(SECRET), "x");
        }
    }

    /// Exchanges directories of the tree with some of the outside, each in one step, until told to stop. What is exchanged is
    /// of the tree by turns; what is above it outside, and beside it, never is.
    fn trade(&self, stop: &AtomicBool) {
        let (swapped, calm) = (self.root.join("swapped"), self.root.join("calm/below"));
        let (twin, deep) = (self.outside.join("twin"), self.outside.join("twins/deep"));
        for dir in [&twin, &deep] {
            (0..8).for_each(|number| fs::create_dir_all(dir.join(format!("{number}/below"))).expect("a directory"));
        }
        while !stop.load(Ordering::Relaxed) {
            // What is listed in the tree is outside when what is in it is opened, and the other way round.
            let _ = exchange(&swapped, &twin);
            let _ = exchange(&swapped.join("0"), &deep.join("1"));
            let _ = fs::write(self.outside.join("other").join(SECRET), "x");
            let _ = exchange(&calm, &deep);
            let _ = fs::write(self.outside.join(SECRET), "x");
        }
    }

    /// Holds what the kernel watches on behalf of this tree, by the kernel's own list, against what it may.
    fn assert_inside(&self) {
        let watched = kernel::inodes_watched_with(&self.root);
        let stray: Vec<_> = watched.iter().filter(|inode| self.forbidden.contains(inode)).collect();
        assert!(stray.is_empty(), "watched and outside: {stray:?} of {watched:?}");
    }
}

fn assert_no_secret(name: Option<&OsStr>) {
    assert!(name.is_none_or(|name| name != SECRET), "it was reported");
}

/// What is done to a tree, and beside it, until told to stop.
type Acts = fn(&Ground, &AtomicBool);

/// Acts while a tree is opened and some of its changes are read, then stops, and reads the rest. Or up to a barrier, which takes
/// a while: nothing rests until events are lost.
fn under(acts: Acts, ground: &Ground, builder: TreeBuilder, to_barrier: bool, look: &dyn Fn(&TreeBatch)) -> Watched {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| acts(ground, &stop));
        let _stopping = Stopping(&stop);
        let mut watched = Watched::open(builder);
        let mut read = |time| {
            let batch = watched.stream.wait_timeout(time).expect("reading goes on");
            batch.iter().for_each(look);
            batch
        };
        for number in 0..20 {
            read(Duration::from_millis(1));
            if number == 10 {
                watched.tree.retry_uncovered().expect("it is open");
                watched.tree.refilter().expect("it is open");
            }
        }
        if to_barrier {
            let barrier = watched.tree.barrier().expect("a barrier");
            let arrives = |batch: &TreeBatch| batch.iter().any(|change| change.barrier() == Some(barrier));
            let begun = Instant::now();
            while !arrives(&read(PATIENCE).expect("a batch that was due did not come")) {
                assert!(begun.elapsed() < PATIENCE, "a barrier that was due did not come");
            }
        }
        watched
    })
}

/// Holds trees under such acts to what is inside, while they go on and behind them, in several rounds. In the first of them they may
/// go on up to a barrier. What is to be true at the end of each is for `end`.
fn stays_inside(acts: Acts, to_barrier: bool, end: impl Fn(&Ground, &Watched)) {
    let ground = ground();
    for round in 0..12 {
        let recovery = [Recovery::Mark, Recovery::Diff][round % 2];
        let builder = Tree::builder(&ground.root).recovery(recovery);
        let builder = builder.report_existing(round % 3 == 0);
        let mut watched = under(acts, &ground, builder, to_barrier && round == 0, &|batch| {
            batch.iter().for_each(|change| assert_no_secret(change.name()));
            ground.assert_inside();
        });
        watched
            .changes()
            .iter()
            .for_each(|change| assert_no_secret(change.name()));
        ground.assert_inside();
        end(&ground, &watched);
    }
}

#[test]
fn links_swapped_with_directories_under_a_crawl_never_lead_it_outside() {
    stays_inside(Ground::swap, true, |_, _| ());
}

#[test]
fn directories_exchanged_with_some_of_the_outside_are_watched_only_while_they_are_inside() {
    stays_inside(Ground::trade, false, |ground, watched| {
        watched.settle();
        ground.assert_inside();
        assert_watched_exactly(&ground.root);
        let uncovered = watched.tree.uncovered();
        assert!(uncovered.is_empty(), "{uncovered:?}");
    });
}

#[test]
fn a_link_that_may_be_followed_is_let_go_once_it_is_gone() {
    let ground = ground();
    let builder = Tree::builder(&ground.root).follow_symlinks(true);
    let mut watched = under(Ground::swap, &ground, builder, false, &|_| ());
    watched.changes();
    let link = ["link", "swapped"].map(|name| ground.root.join(name));
    let link = link.iter().find(|path| path.is_symlink()).expect("one is the link");
    fs::remove_file(link).unwrap();
    watched.changes();
    watched.changes();
    watched.settle();
    ground.assert_inside();
    assert_watched_exactly(&ground.root);
}

/// Makes a chain of directories, with two more in each: one that is made before the next of the chain, and one after it.
fn plant(root: &Path, name: &str, depth: usize) {
    let mut at = File::open(root).expect("the root");
    for _ in 0..depth {
        for name in ["before", name, "after"] {
            let name = CString::new(name).expect("no NUL");
            // SAFETY: the name is NUL-terminated and lives through the call.
            assert_eq!(unsafe { libc::mkdirat(at.as_raw_fd(), name.as_ptr(), 0o755) }, 0);
        }
        at = File::from(step(at.as_raw_fd(), name.as_bytes()).expect("a directory"));
    }
}

/// The standard library goes down by recursion, with a descriptor for each level.
fn remove(path: &Path) {
    let removed = Command::new("rm").arg("-rf").arg(path).status().expect("rm");
    assert!(removed.success());
}

fn limit_descriptors(most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the call only reads the struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

#[test]
fn a_tree_deeper_than_there_are_descriptors_is_covered_with_few() {
    let name = "hostile::a_tree_deeper_than_there_are_descriptors_is_covered_with_few";
    in_child(
        name,
        |_| (),
        || {
            const DEPTH: usize = 3_000;
            let dir = place();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            // In whichever order they are listed, some are to be looked at when the whole depth of others has been.
            plant(&root, "a", DEPTH);
            limit_descriptors(256);
            let most = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            for filtered in [false, true] {
                let mut builder = Tree::builder(&root);
                if filtered {
                    let most = std::sync::Arc::clone(&most);
                    let number = std::sync::atomic::AtomicUsize::new(0);
                    builder = builder.filter(move |_| {
                        if number.fetch_add(1, Ordering::Relaxed).is_multiple_of(64) {
                            most.fetch_max(open_descriptors(), Ordering::Relaxed);
                        }
                        true
                    });
                }
                let tree = opened(builder);
                let uncovered = tree.uncovered();
                let first = uncovered
                    .first()
                    .map(|one| (one.path.components().count(), one.error.kind()));
                assert_eq!(
                    first,
                    None,
                    "{} are not covered; depth and kind of the first",
                    uncovered.len()
                );
                assert_eq!(tree.stats().directories, 3 * DEPTH + 1);
            }
            assert!(most.load(Ordering::Relaxed) < 200, "{most:?} were open at once");
            remove(&root);
        },
    );
}

#[test]
fn a_flood_of_new_directories_takes_few_descriptors() {
    let name = "hostile::a_flood_of_new_directories_takes_few_descriptors";
    in_child(
        name,
        |_| (),
        || {
            const DIRECTORIES: usize = 5_000;
            let dir = place();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            limit_descriptors(256);
            let mut watched = Watched::new(Tree::new(&root).expect("a tree"));
            for number in 0..DIRECTORIES {
                fs::create_dir_all(root.join((number % 50).to_string()).join(number.to_string())).unwrap();
            }
            let changes = watched.changes();
            let said = changes.iter().find_map(|change| change.uncovered());
            assert!(said.is_none(), "{said:?}");
            assert_eq!(watched.tree.stats().directories, DIRECTORIES + 50 + 1);
            assert!(watched.tree.uncovered().is_empty());
        },
    );
}

/// KiB that are resident.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("a figure")
}

/// AddressSanitizer keeps what was freed.
fn assert_below(grown: u64, most: u64) {
    assert!(cfg!(fenced) || grown < most, "{grown} KiB more than before");
}

#[test]
fn a_chain_of_ten_thousand_directories_is_covered_and_moves_at_once() {
    let name = "hostile::a_chain_of_ten_thousand_directories_is_covered_and_moves_at_once";
    in_child(
        name,
        |_| (),
        || {
            const DEPTH: usize = 10_000;
            let dir = place();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            plant(&root, "deep", DEPTH);
            let all = 3 * DEPTH + 1;
            let before = resident();
            let mut watched = Watched::new(Tree::new(&root).expect("a tree"));
            assert_eq!(
                (watched.tree.stats().directories, watched.tree.uncovered().len()),
                (all, 0)
            );
            let grown = resident() - before;
            assert_below(grown, 64 * 1024);
            // At its end paths are right.
            let mut deepest = root.clone();
            (0..DEPTH).for_each(|_| deepest.push("deep"));
            crate::deep::make_all(&deepest.join("new")).expect("a directory");
            let made = paths(&watched.changes(), Mask::CREATE);
            assert!(made == [deepest.join("new")], "{} paths", made.len());
            // All of it leaves.
            fs::rename(root.join("deep"), dir.path().join("aside")).unwrap();
            watched.changes();
            watched.settle();
            assert_eq!(watched.tree.stats().directories, 3);
            // And comes back, to a consumer that takes its time. Each of its paths is up to 50 KB long.
            let before = resident();
            fs::rename(dir.path().join("aside"), root.join("deep")).unwrap();
            wait_until(|| watched.tree.stats().sessions > 2);
            let barrier = watched.tree.barrier().unwrap();
            let (mut found, mut most) = (0, 0);
            'all: for batch in watched.stream.blocking() {
                for change in &batch.expect("reading goes on") {
                    found += usize::from(change.mask().contains(Mask::CREATE));
                    if change.barrier() == Some(barrier) {
                        break 'all;
                    }
                }
                most = most.max(resident());
            }
            // But for the three at the top and the one that moved, and with the new one.
            assert_eq!(found, all - 4 + 1);
            assert_eq!(watched.tree.stats().directories, all + 1);
            let grown = most.saturating_sub(before);
            assert_below(grown, 128 * 1024);
            drop(watched);
            remove(&root);
        },
    );
}

#[test]
fn a_directory_with_a_hundred_thousand_entries_costs_little() {
    let name = "hostile::a_directory_with_a_hundred_thousand_entries_costs_little";
    in_child(
        name,
        |_| (),
        || {
            const ENTRIES: usize = 100_000;
            let dir = place();
            let (root, wide) = (dir.path().join("root"), dir.path().join("wide"));
            fs::create_dir(&root).unwrap();
            fs::create_dir(&wide).unwrap();
            // The names alone are 20 MB.
            for number in 0..ENTRIES {
                File::create(wide.join(format!("{number:0>200}"))).unwrap();
            }
            // It is there from the beginning, and nothing of it is kept.
            let before = resident();
            let tree = Tree::new(&wide).expect("a tree");
            assert_eq!(tree.stats().directories, 1);
            let grown = resident().saturating_sub(before);
            assert_below(grown, 8 * 1024);
            drop(tree);
            // It comes, to a consumer that takes its time.
            let mut watched = Watched::new(Tree::new(&root).expect("a tree"));
            let before = resident();
            fs::rename(&wide, root.join("wide")).unwrap();
            let barrier = watched.tree.barrier().unwrap();
            let (mut found, mut most) = (BTreeSet::new(), 0);
            'all: for batch in watched.stream.blocking() {
                most = most.max(resident());
                for change in &batch.expect("reading goes on") {
                    assert!(!change.is_overflow() && change.uncovered().is_none(), "{change:?}");
                    if change.barrier() == Some(barrier) {
                        break 'all;
                    }
                    let name = change.name().expect("a name").to_str().expect("text");
                    if name != "wide" {
                        assert!(found.insert(name.parse::<usize>().expect("a number")), "{name}");
                    }
                }
            }
            assert!(found.into_iter().eq(0..ENTRIES));
            // Its names, in a vector that grows by doubling, and once more to tell what the kernel will report, too; 8 MiB of
            // batches that wait; and what is kept here.
            let grown = most.saturating_sub(before);
            assert_below(grown, 96 * 1024);
        },
    );
}

#[test]
fn what_is_deeper_than_a_path_may_reasonably_be_long_is_said_and_costs_nothing() {
    let name = "hostile::what_is_deeper_than_a_path_may_reasonably_be_long_is_said_and_costs_nothing";
    in_child(
        name,
        |_| (),
        || {
            const DEPTH: usize = 2_000;
            let dir = place();
            let root = dir.path().join("root");
            fs::create_dir(&root).unwrap();
            // Its deepest path is half a megabyte long.
            plant(&root, &"n".repeat(250), DEPTH);
            let mut watched = Watched::new(Tree::new(&root).expect("a tree"));
            let uncovered = watched.tree.uncovered();
            assert!(!uncovered.is_empty());
            for one in &uncovered {
                assert_eq!(
                    (one.error.kind(), one.error.raw_os_error()),
                    (ErrorKind::InvalidInput, Some(libc::ENAMETOOLONG))
                );
                let remedy = one.error.remedy().expect("a remedy");
                assert!(
                    remedy.contains("add it, or a directory above it, as a root"),
                    "{remedy}"
                );
                assert!(one.path.as_os_str().len() > 64 * 1024, "{}", one.path.as_os_str().len());
            }
            // What is above is heard of.
            fs::write(root.join("n".repeat(250)).join("after/file"), "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE).len(), 1);
            // What comes in later is said in the stream.
            let outside = dir.path().join("outside");
            fs::create_dir(&outside).unwrap();
            plant(&outside, &"m".repeat(250), DEPTH / 4);
            fs::rename(outside.join("m".repeat(250)), root.join("m".repeat(250))).unwrap();
            let changes = watched.changes();
            let said: Vec<_> = changes.iter().filter_map(OwnedChange::uncovered).collect();
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!(said[0].raw_os_error(), Some(libc::ENAMETOOLONG));
            drop(watched);
            remove(&root);
        },
    );
}

/// A batch of what was found, or of what goes, is no larger because more comes together.
#[test]
fn what_a_filter_turns_away_at_once_comes_in_several_batches() {
    const MANY: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(200);
    let mut deep = dir.path().join("top");
    (0..12).for_each(|_| deep.push(&name));
    (0..MANY).for_each(|number| fs::create_dir_all(deep.join(format!("x{number}/y"))).unwrap());
    let wanted = |path: &Path| {
        !path.starts_with("moved") || path.file_name().is_none_or(|name| name.as_encoded_bytes()[0] != b'x')
    };
    let tree = opened(Tree::builder(dir.path()).filter(wanted));
    let mut stream = tree.stream().unwrap();
    fs::rename(dir.path().join("top"), dir.path().join("moved")).unwrap();
    let barrier = tree.barrier().unwrap();
    let (mut largest, mut gone, mut here) = (0, 0, false);
    while !here {
        let batch = stream.wait_timeout(PATIENCE).unwrap().expect("what is due");
        largest = largest.max(batch.len());
        for change in &batch {
            gone += usize::from(change.mask().contains(Mask::DELETE));
            here |= change.barrier() == Some(barrier);
        }
    }
    assert_eq!(gone, MANY);
    assert!(largest < MANY, "{largest} changes in a batch");
}
