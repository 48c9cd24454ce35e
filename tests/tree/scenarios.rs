//! What every recursive watcher meets.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringwatch::tree::{Origin, OwnedChange, Tree, TreeBuilder};
use ringwatch::{Backend, Mask};
use tempfile::{TempDir, tempdir};

use crate::model::{Watched, opened};
use crate::support::{PATIENCE, backends, kernel};

fn on_every_backend(body: impl Fn(&dyn Fn(&Path) -> TreeBuilder)) {
    for &backend in backends() {
        body(&|path| Tree::builder(path).backend(backend));
    }
}

struct Place {
    _dir: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

fn place() -> Place {
    let dir = tempdir().expect("a directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).expect("a root");
    fs::create_dir(&outside).expect("an outside");
    Place {
        _dir: dir,
        root,
        outside,
    }
}

pub(crate) fn paths(changes: &[OwnedChange], mask: Mask) -> Vec<PathBuf> {
    let wanted = changes.iter().filter(|change| change.mask().intersects(mask));
    wanted.filter_map(OwnedChange::path).collect()
}

/// Every directory below is watched, and nothing else is.
pub(crate) fn assert_watched_exactly(root: &Path) {
    let mut directories = vec![kernel::inode(root)];
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).expect("a listing") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                directories.push(kernel::inode(&entry.path()));
                stack.push(entry.path());
            }
        }
    }
    directories.sort_unstable();
    assert_eq!(kernel::inodes_watched_with(root), directories);
}

#[test]
fn a_file_in_a_deep_new_directory_is_reported_and_so_is_a_later_one() {
    on_every_backend(|tree| {
        let place = place();
        let mut watched = Watched::open(tree(&place.root));
        let deep = place.root.join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("early"), "").unwrap();
        let changes = watched.changes();
        let made = paths(&changes, Mask::CREATE);
        let all: Vec<_> = ["a", "a/b", "a/b/c", "a/b/c/early"]
            .iter()
            .map(|path| place.root.join(path))
            .collect();
        assert_eq!(made, all, "each once, parents first");
        fs::write(deep.join("late"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [deep.join("late")]);
        assert_watched_exactly(&place.root);
    });
}

#[test]
fn events_below_a_renamed_directory_carry_the_new_path_at_once() {
    on_every_backend(|tree| {
        let place = place();
        fs::create_dir_all(place.root.join("old/sub/deep")).unwrap();
        let mut watched = Watched::open(tree(&place.root));
        fs::rename(place.root.join("old"), place.root.join("new")).unwrap();
        fs::write(place.root.join("new/sub/deep/file"), "").unwrap();
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::CREATE), [place.root.join("new/sub/deep/file")]);
        let to = changes
            .iter()
            .find(|change| change.mask().contains(Mask::MOVED_TO))
            .unwrap();
        assert_eq!(to.renamed_from(), Some(&*place.root.join("old")));
        assert!(changes.iter().all(|change| change.origin() == Origin::Kernel));
        assert_watched_exactly(&place.root);
    });
}

#[test]
fn a_directory_moved_out_is_not_heard_of_again_and_not_watched() {
    on_every_backend(|tree| {
        let place = place();
        fs::create_dir_all(place.root.join("dir/sub")).unwrap();
        let mut watched = Watched::open(tree(&place.root));
        let outside = place.outside.join("dir");
        fs::rename(place.root.join("dir"), &outside).unwrap();
        fs::write(outside.join("sub/file"), "").unwrap();
        let changes = watched.changes();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].is_moved_out());
        watched.settle();
        assert_watched_exactly(&place.root);
    });
}

#[test]
fn all_that_a_directory_holds_that_is_moved_in_is_reported_and_watched() {
    on_every_backend(|tree| {
        let place = place();
        let mut watched = Watched::open(tree(&place.root));
        fs::create_dir_all(place.outside.join("dir/sub/deep")).unwrap();
        fs::write(place.outside.join("dir/sub/file"), "").unwrap();
        fs::rename(place.outside.join("dir"), place.root.join("dir")).unwrap();
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::MOVED_TO), [place.root.join("dir")]);
        assert_eq!(changes[0].renamed_from(), None);
        let mut made = paths(&changes, Mask::CREATE);
        made.sort();
        let all: Vec<_> = ["dir/sub", "dir/sub/deep", "dir/sub/file"]
            .iter()
            .map(|path| place.root.join(path))
            .collect();
        assert_eq!(made, all);
        assert!(changes[1..].iter().all(|change| change.origin() == Origin::Scan));
        assert_watched_exactly(&place.root);
    });
}

#[test]
fn a_newcomer_of_the_same_name_is_not_taken_for_the_one_that_left() {
    on_every_backend(|tree| {
        let place = place();
        let dir = place.root.join("dir");
        fs::create_dir(&dir).unwrap();
        let mut watched = Watched::open(tree(&place.root));
        fs::rename(&dir, place.outside.join("dir")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(place.outside.join("dir/stranger"), "").unwrap();
        fs::write(dir.join("newcomer"), "").unwrap();
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::CREATE), [dir.clone(), dir.join("newcomer")]);
        watched.settle();
        assert_watched_exactly(&place.root);
    });
}

#[test]
fn two_directories_that_were_exchanged_are_each_where_they_are() {
    let place = place();
    let (a, b) = (place.root.join("a"), place.root.join("b"));
    fs::create_dir_all(a.join("of-a")).unwrap();
    fs::create_dir_all(b.join("of-b")).unwrap();
    let mut watched = Watched::open(Tree::builder(&place.root).backend(Backend::Auto));
    crate::support::exchange::exchange(&a, &b).unwrap();
    fs::write(a.join("of-b/file"), "").unwrap();
    let changes = watched.changes();
    assert!(
        paths(&changes, Mask::CREATE).contains(&a.join("of-b/file")),
        "{changes:?}"
    );
    watched.settle();
    assert_watched_exactly(&place.root);
}

#[test]
fn a_barrier_passes_where_what_was_to_be_looked_at_is_gone() {
    on_every_backend(|builder| {
        let place = place();
        let mut watched = Watched::open(builder(&place.root));
        for _ in 0..20 {
            fs::create_dir(place.root.join("brief")).unwrap();
            let barrier = watched.tree.barrier().unwrap();
            fs::remove_dir(place.root.join("brief")).unwrap();
            watched.until(barrier);
        }
    });
}

/// The one behind may have less to wait for than the one before it.
#[test]
fn barriers_behind_one_another_come_in_turn() {
    const ROUNDS: u64 = 501;
    on_every_backend(|builder| {
        let place = place();
        let tree = opened(builder(&place.root));
        let mut stream = tree.stream().unwrap();
        let mut set = VecDeque::new();
        for round in 0..ROUNDS {
            let [first, brief, second] = ["first", "brief", "second"].map(|name| place.root.join(name));
            fs::create_dir(&first).unwrap();
            // The look at it may begin before the rest, amid that, or behind.
            thread::sleep(Duration::from_micros(50 * (round % 20)));
            fs::create_dir(&brief).unwrap();
            set.push_back(tree.barrier().unwrap());
            fs::remove_dir(&brief).unwrap();
            set.push_back(tree.barrier().unwrap());
            fs::create_dir(&second).unwrap();
            thread::sleep(Duration::from_micros(100 * (round % 7)));
            fs::remove_dir(&second).unwrap();
            fs::remove_dir(&first).unwrap();
            while round % 5 == 0 && !set.is_empty() {
                let batch = stream.wait_timeout(PATIENCE).unwrap().expect("a barrier that was due");
                for barrier in batch.iter().filter_map(|change| change.barrier()) {
                    assert_eq!(Some(barrier), set.pop_front());
                }
            }
        }
    });
}
