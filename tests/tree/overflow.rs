//! What is there of a tree when the kernel's queue was too small. The consumer takes nothing and the budget is small, so
//! the queue fills for certain.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringwatch::Mask;
use ringwatch::tree::{Origin, OwnedChange, Recovery, Tree, TreeBuilder};
use tempfile::{TempDir, tempdir};

use crate::model::{Model, Watched, difference, disk};
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::kernel::QueueLimit;
use crate::support::{Flood, backends, queue_limit, skip};

/// Events that are read before nobody takes more, at most.
pub(crate) const BUDGET: usize = 2_000;

fn builder(root: &Path, recovery: Recovery) -> TreeBuilder {
    Tree::builder(root).recovery(recovery).buffers(2).buffer_size(4096)
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempdir().expect("a directory");
    let root = dir.path().join("root");
    for name in ["floods", "gone/deep", "old/sub"] {
        fs::create_dir_all(root.join(name)).expect("directories");
    }
    fs::write(root.join("old/file"), "").expect("a file");
    (dir, root)
}

/// What is lost: directories made, removed and renamed.
fn act(root: &Path) {
    fs::create_dir_all(root.join("made/deep")).expect("directories");
    fs::write(root.join("made/deep/early"), "").expect("a file");
    fs::remove_dir_all(root.join("gone")).expect("removed");
    fs::rename(root.join("old"), root.join("new")).expect("renamed");
}

/// What is there then.
const MADE: [&str; 6] = ["made", "made/deep", "made/deep/early", "new", "new/file", "new/sub"];

/// All changes of a tree that has lost what [`act`] did.
fn after_loss(root: &Path, recovery: Recovery) -> (Watched, Vec<OwnedChange>) {
    let mut flood = Flood::new(&root.join("floods"));
    let mut watched = Watched::open(builder(root, recovery));
    flood.cause(queue_limit() + BUDGET);
    act(root);
    let changes = watched.changes();
    let overflows = changes.iter().filter(|change| change.is_overflow()).count();
    assert_eq!((overflows, watched.tree.stats().instance.overflows), (1, 1));
    (watched, changes)
}

fn is_covered(root: &Path, watched: &mut Watched) {
    watched.settle();
    assert_watched_exactly(root);
    for dir in ["made/deep", "new/sub"] {
        let late = root.join(dir).join("late");
        fs::write(&late, "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [late]);
    }
}

#[test]
fn what_an_overflow_swallowed_is_found_and_reported() {
    let (_dir, root) = place();
    let mut model = Model::new(&root, disk(&root, &|_| true));
    // Its two files are made before the tree is opened.
    drop(Flood::new(&root.join("floods")));
    model.node = disk(&root, &|_| true);
    let (mut watched, changes) = after_loss(&root, Recovery::Diff);
    let lost = changes.iter().position(OwnedChange::is_overflow).unwrap();
    let found = &changes[lost + 1..];
    assert!(found.iter().all(|change| change.origin() == Origin::Scan), "{found:?}");
    let made = paths(found, Mask::CREATE);
    for path in MADE {
        assert_eq!(
            made.iter().filter(|made| **made == root.join(path)).count(),
            1,
            "{path}"
        );
    }
    let gone = paths(found, Mask::DELETE);
    assert!(
        gone.contains(&root.join("gone")) && gone.contains(&root.join("old")),
        "{gone:?}"
    );
    changes.iter().for_each(|change| model.apply(change).unwrap());
    assert_eq!(difference(&model.node, &disk(&root, &|_| true), &root), None);
    is_covered(&root, &mut watched);
}

#[test]
fn with_a_mark_only_an_overflow_is_said_and_all_is_watched() {
    let (_dir, root) = place();
    let (mut watched, changes) = after_loss(&root, Recovery::Mark);
    assert!(changes.iter().all(|change| change.origin() == Origin::Kernel));
    let lost = changes.iter().position(OwnedChange::is_overflow).unwrap();
    assert_eq!(changes[lost + 1..].len(), 0, "{:?}", &changes[lost + 1..]);
    is_covered(&root, &mut watched);
}

/// The kernel tells of each watch that is removed: of far more than its queue holds here.
#[test]
fn what_is_let_go_does_not_overflow_the_queue() {
    let dir = tempdir().expect("a directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for number in 0..200 {
        fs::create_dir_all(root.join(format!("leaves/{number}"))).expect("directories");
    }
    let tree = {
        let _queue = match QueueLimit::new(16) {
            Ok(queue) => queue,
            Err(denied) => return skip("a shorter queue", "RINGWATCH_REQUIRE_CGROUP", &denied),
        };
        Tree::new(&root).expect("a tree")
    };
    let mut watched = Watched::new(tree);
    fs::rename(root.join("leaves"), &outside).expect("renamed");
    watched.changes();
    watched.settle();
    watched.changes();
    assert_eq!(watched.tree.stats().instance.overflows, 0);
    assert_watched_exactly(&root);
}

/// The queue overflows each time anybody looks around, so that no marker of the tree's own ever arrives.
#[test]
fn a_tree_that_overflows_again_and_again_opens_and_its_barriers_arrive() {
    let (_dir, root) = place();
    fs::create_dir(root.join("floods/below")).expect("a directory");
    let flood = Mutex::new(Flood::new(&root.join("floods")));
    let floods = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&floods);
    let builder = builder(&root, Recovery::Diff).filter(move |dir| {
        // The one above it is watched by then.
        if dir == Path::new("floods/below") && asked.load(Ordering::Acquire) {
            flood.lock().expect("it floods").cause(queue_limit() + BUDGET);
        }
        true
    });
    // Its filter asks how long queues are, which only one may at a time.
    let mut watched = Watched::new(builder.open().expect("a tree"));
    act(&root);
    // Of the flood nothing is kept: that is much where memory is little.
    let barrier = watched.tree.barrier().expect("a barrier");
    let (mut overflows, mut made) = (0, Vec::new());
    watched.wait_for(|change| {
        overflows += usize::from(change.is_overflow());
        made.extend(change.path().filter(|_| change.mask().contains(Mask::CREATE)));
        change.barrier() == Some(barrier)
    });
    assert!(overflows > 1);
    made.sort();
    assert_eq!(made, MADE.map(|path| root.join(path)));
    // Three at once, each in its turn.
    let barriers = [(); 3].map(|()| watched.tree.barrier().expect("a barrier"));
    let mut arrived = Vec::new();
    watched.wait_for(|change| {
        arrived.extend(change.barrier());
        arrived.len() == barriers.len()
    });
    assert_eq!(arrived, barriers);
    floods.store(false, Ordering::Release);
    watched.changes();
    is_covered(&root, &mut watched);
}

#[test]
fn overflows_while_recovering_come_to_an_end() {
    const MORE: usize = 3;
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let (_dir, root) = place();
        let mut flood = Flood::new(&root.join("floods"));
        let mut model = Model::new(&root, disk(&root, &|_| true));
        // The filter is asked in the midst of a look around. While it does not answer nothing is taken from the queue but what
        // the budget allows.
        let to_come = Arc::new(AtomicUsize::new(0));
        let again = Arc::clone(&to_come);
        let (inner, second) = (root.clone(), Mutex::new(Flood::new(&root.join("floods"))));
        let filter = move |dir: &Path| {
            if dir == Path::new("floods")
                && let Ok(left) = again.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
            {
                second.lock().expect("it floods").cause(queue_limit() + BUDGET);
                fs::create_dir_all(inner.join(format!("made-{left}/deep"))).expect("directories");
                let _ = fs::remove_dir_all(inner.join(format!("made-{}", left + 1)));
            }
            true
        };
        let mut watched = Watched::open(builder(&root, recovery).filter(filter));
        to_come.store(MORE, Ordering::Release);
        flood.cause(queue_limit() + BUDGET);
        act(&root);
        let changes = watched.changes();
        // More, if a flood found room behind an overflow that was read.
        assert!(watched.tree.stats().instance.overflows as usize > MORE, "{recovery:?}");
        assert_eq!(to_come.load(Ordering::Acquire), 0);
        if recovery == Recovery::Diff {
            changes.iter().for_each(|change| model.apply(change).unwrap());
            assert_eq!(difference(&model.node, &disk(&root, &|_| true), &root), None);
        }
        is_covered(&root, &mut watched);
    }
}

#[test]
fn what_became_another_in_a_loss_is_found_by_more_than_its_name() {
    let (_dir, root) = place();
    let old = |name: &str| root.join("old").join(name);
    for name in ["was-file", "inode", "size", "same", "time"] {
        fs::write(old(name), "one").unwrap();
    }
    fs::create_dir(old("was-dir")).unwrap();
    let single = root.join("old/file");
    let mut flood = Flood::new(&root.join("floods"));
    // A time that lies back: of what was written just now, nothing is known.
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000);
    let date = |path: &Path| {
        fs::File::options()
            .append(true)
            .open(path)
            .unwrap()
            .set_modified(past)
            .unwrap()
    };
    for name in ["inode", "size", "same", "time", "file"] {
        date(&old(name));
    }
    let roots = [root.clone(), single.clone()];
    for (watched_root, is_file) in roots.iter().zip([false, true]) {
        let tree = builder(watched_root, Recovery::Diff).root(root.join("floods"));
        let mut watched = Watched::open(tree);
        flood.cause(queue_limit() + BUDGET);
        if is_file {
            fs::write(&single, "longer").unwrap();
        } else {
            fs::remove_file(old("was-file")).unwrap();
            fs::create_dir(old("was-file")).unwrap();
            fs::remove_dir(old("was-dir")).unwrap();
            fs::write(old("was-dir"), "").unwrap();
            // Another inode of the same size and time; the one that was there is kept, or its number might be used again.
            fs::rename(old("inode"), root.join("kept")).unwrap();
            fs::write(old("inode"), "two").unwrap();
            date(&old("inode"));
            fs::write(old("size"), "four").unwrap();
            date(&old("size"));
            fs::write(old("time"), "two").unwrap();
        }
        let changes = watched.changes();
        let lost = changes.iter().position(OwnedChange::is_overflow).expect("a loss");
        let of = |mask: Mask, dir: bool| {
            let found = changes[lost + 1..].iter().filter(|change| change.mask().contains(mask));
            let below = found.filter(|change| change.dir() == Some(&root.join("old")) && change.is_dir() == dir);
            below
                .filter_map(OwnedChange::path)
                .collect::<std::collections::BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| old(name)).collect();
        if is_file {
            assert_eq!(of(Mask::MODIFY, false), set(&["file"]), "{changes:?}");
            continue;
        }
        assert_eq!(of(Mask::DELETE, false), set(&["was-file"]));
        assert_eq!(of(Mask::CREATE, true), set(&["was-file"]));
        assert_eq!(of(Mask::DELETE, true), set(&["was-dir"]));
        assert_eq!(of(Mask::CREATE, false), set(&["was-dir"]));
        assert_eq!(of(Mask::MODIFY, false), set(&["inode", "size", "time"]));
        is_covered_as_it_is(&root, &watched);
    }
}

fn is_covered_as_it_is(root: &Path, watched: &Watched) {
    watched.settle();
    assert_watched_exactly(root);
}

/// The budget ends between the halves of a rename, and the consumer is slow: the other half is waited for. Taken for gone and
/// new, the directory would have nothing to say until it was looked at again.
#[test]
fn a_rename_whose_other_half_has_no_room_yet_is_one() {
    const RENAMES: usize = 2_000;
    let (_dir, root) = place();
    let at = |number: usize| root.join(["old", "made"][number % 2]).join("sub");
    fs::create_dir(root.join("made")).unwrap();
    for &backend in backends() {
        // Equal events in a row become one.
        let file = |number: usize, touched: usize| at(number).join(["a", "b"][touched % 2]);
        (0..2).for_each(|touched| fs::write(file(0, touched), "").unwrap());
        let tree = builder(&root, Recovery::Mark).mask(Mask::MOVE | Mask::ATTRIB);
        let mut watched = Watched::open(tree.backend(backend));
        let mut expected = Vec::new();
        for number in 0..RENAMES {
            fs::rename(at(number), at(number + 1)).unwrap();
            expected.push((at(number + 1), Some(at(number))));
            // More and less of them, so that a read ends everywhere sooner or later.
            for touched in 0..number % 5 {
                let path = file(number + 1, touched);
                fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap();
                expected.push((path, None));
            }
        }
        let barrier = watched.tree.barrier().expect("a barrier");
        let mut seen = Vec::new();
        'all: loop {
            let batch = watched.stream.wait().expect("it goes on").expect("a batch");
            for change in &batch {
                if change.barrier() == Some(barrier) {
                    break 'all;
                }
                assert!(!change.is_overflow() && !change.is_moved_out(), "{change:?}");
                assert_eq!(change.origin(), Origin::Kernel, "{change:?}");
                if !change.mask().contains(Mask::MOVED_FROM) {
                    let path = change.path().expect("a path");
                    seen.push((path, change.renamed_from().map(Path::to_owned)));
                }
            }
            // At work on it, so that nothing more can be read; what the tree is asked it answers all the same.
            assert!(watched.tree.uncovered().is_empty());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let wrong = seen.iter().zip(&expected).position(|(seen, expected)| seen != expected);
        assert_eq!((wrong, seen.len()), (None, expected.len()), "{backend:?}");
    }
}
