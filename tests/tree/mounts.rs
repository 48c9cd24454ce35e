//! File systems that are mounted in a tree.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringwatch::tree::{OwnedChange, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::{TempDir, tempdir};

use crate::model::{Model, Watched, difference, disk};
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child::{detach, in_namespaces, mount_again, mount_memory, unmount};
use crate::support::kernel::{inode, inodes_watched_with};
use crate::support::skip;

/// A root and a directory in it where a file system is mounted, with a directory and a file.
fn mounted() -> Option<(TempDir, PathBuf, PathBuf)> {
    let dir = tempdir().expect("a directory");
    let root = dir.path().join("root");
    let at = root.join("mount");
    fs::create_dir_all(at.join("below")).expect("a directory");
    if let Err(refused) = mount_memory(&at) {
        skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
        return None;
    }
    fs::create_dir(at.join("inside")).expect("a directory");
    Some((dir, root, at))
}

#[test]
fn a_mount_that_is_not_to_be_crossed_is_said() {
    in_namespaces("mounts::a_mount_that_is_not_to_be_crossed_is_said", || {
        let Some((_dir, root, at)) = mounted() else { return };
        let mut watched = Watched::new(Tree::new(&root).unwrap());
        let uncovered = watched.tree.uncovered();
        assert_eq!(uncovered.len(), 1);
        assert_eq!((&uncovered[0].path, uncovered[0].error.kind()), (&at, ErrorKind::Other));
        assert!(uncovered[0].error.remedy().unwrap().contains("let mounts be crossed"));
        fs::write(at.join("inside/unheard"), "").unwrap();
        assert!(watched.changes().is_empty());
        unmount(&at).unwrap();
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::UNMOUNT), std::slice::from_ref(&at));
        assert_eq!(paths(&changes, Mask::CREATE), [at.join("below")]);
        assert!(watched.tree.uncovered().is_empty());
        fs::write(at.join("below/heard"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("below/heard")]);
    });
}

#[test]
fn a_mount_that_is_crossed_is_covered_until_it_is_unmounted_which_is_said() {
    let name = "mounts::a_mount_that_is_crossed_is_covered_until_it_is_unmounted_which_is_said";
    in_namespaces(name, || {
        let Some((_dir, root, at)) = mounted() else { return };
        let mut watched = Watched::open(Tree::builder(&root).cross_mounts(true));
        assert!(watched.tree.uncovered().is_empty());
        fs::write(at.join("inside/heard"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("inside/heard")]);
        unmount(&at).unwrap();
        let changes = watched.changes();
        assert!(paths(&changes, Mask::UNMOUNT).contains(&at), "{changes:?}");
        // What it hid is there now.
        assert!(paths(&changes, Mask::CREATE).contains(&at.join("below")), "{changes:?}");
        fs::write(at.join("below/heard"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("below/heard")]);
        watched.settle();
        assert_eq!(watched.tree.stats().directories, 3);
    });
}

#[test]
fn a_root_that_is_unmounted_is_said_to_be_and_awaited() {
    in_namespaces("mounts::a_root_that_is_unmounted_is_said_to_be_and_awaited", || {
        let Some((_dir, _, at)) = mounted() else { return };
        let mut watched = Watched::open(Tree::builder(&at).await_missing_roots(true));
        unmount(&at).unwrap();
        let mut said = Vec::new();
        watched.wait_for(|change| change.path() == Some(at.join("below")));
        fs::write(at.join("below/heard"), "").unwrap();
        said.extend(watched.changes());
        assert_eq!(paths(&said, Mask::CREATE), [at.join("below/heard")]);
        assert!(!said.iter().any(OwnedChange::is_overflow));
    });
}

/// A root with a directory that has something in it.
fn place(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let dir = tempdir().expect("a directory");
    let root = dir.path().join("root");
    let at = root.join(name);
    fs::create_dir_all(at.join("below/deep")).expect("directories");
    (dir, root, at)
}

/// False, and said, if nothing can be mounted here.
fn mount(at: &Path) -> bool {
    let mounted = mount_memory(at);
    if let Err(refused) = &mounted {
        skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", refused);
    }
    mounted.is_ok()
}

#[test]
fn what_is_mounted_over_a_watched_directory_is_noticed_and_covered() {
    let name = "mounts::what_is_mounted_over_a_watched_directory_is_noticed_and_covered";
    in_namespaces(name, || {
        // Blanks and backslashes are written in another way in the table of mounts.
        let (_dir, root, at) = place("a mount\\040");
        let mut watched = Watched::open(Tree::builder(&root).cross_mounts(true));
        let mut model = Model::new(&root, disk(&root, &|_| true));
        let mut replays = |watched: &mut Watched| {
            let changes = watched.changes();
            changes.iter().for_each(|change| model.apply(change).unwrap());
            assert_eq!(difference(&model.node, &disk(&root, &|_| true), &root), None);
            changes
        };
        if !mount(&at) {
            return;
        }
        fs::create_dir(at.join("inside")).unwrap();
        replays(&mut watched);
        assert!(watched.tree.uncovered().is_empty());
        watched.settle();
        assert_eq!(watched.tree.stats().directories, 3, "what is hidden is not watched");
        fs::write(at.join("inside/heard"), "").unwrap();
        assert_eq!(paths(&replays(&mut watched), Mask::CREATE), [at.join("inside/heard")]);
        // One more over it, and in that another.
        mount_memory(&at).unwrap();
        fs::create_dir(at.join("other")).unwrap();
        mount_memory(&at.join("other")).unwrap();
        replays(&mut watched);
        fs::write(at.join("other/heard"), "").unwrap();
        assert_eq!(paths(&replays(&mut watched), Mask::CREATE), [at.join("other/heard")]);
        for mounted in [at.join("other"), at.clone(), at.clone()] {
            unmount(&mounted).unwrap();
            let changes = replays(&mut watched);
            assert!(paths(&changes, Mask::UNMOUNT).contains(&mounted), "{changes:?}");
        }
        fs::write(at.join("below/deep/heard"), "").unwrap();
        assert_eq!(
            paths(&replays(&mut watched), Mask::CREATE),
            [at.join("below/deep/heard")]
        );
        watched.settle();
        assert_watched_exactly(&root);
    });
}

#[test]
fn mounts_are_noticed_without_being_asked_for() {
    in_namespaces("mounts::mounts_are_noticed_without_being_asked_for", || {
        let (_dir, root, at) = place("mount");
        let mut watched = Watched::new(Tree::new(&root).unwrap());
        if !mount(&at) {
            return;
        }
        watched.wait_for(|change| change.uncovered().is_some() && change.path().as_ref() == Some(&at));
        assert_eq!(watched.tree.uncovered().len(), 1);
        unmount(&at).unwrap();
        watched.wait_for(|change| change.path() == Some(at.join("below/deep")));
        assert!(watched.tree.uncovered().is_empty());
        watched.settle();
        assert_watched_exactly(&root);
    });
}

#[test]
fn what_is_unmounted_and_in_use_elsewhere_is_not_heard_of_any_more() {
    let name = "mounts::what_is_unmounted_and_in_use_elsewhere_is_not_heard_of_any_more";
    in_namespaces(name, || {
        for detached in [false, true] {
            let (dir, root, at) = place("mount");
            let other = dir.path().join("other");
            fs::create_dir_all(other.join("of-other")).unwrap();
            if let Err(refused) = mount_again(&other, &at) {
                return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
            }
            let mut watched = Watched::open(Tree::builder(&root).cross_mounts(true));
            fs::write(other.join("of-other/heard"), "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("of-other/heard")]);
            let in_use = detached.then(|| fs::File::open(at.join("of-other/heard")).unwrap());
            match detached {
                true => detach(&at).unwrap(),
                false => unmount(&at).unwrap(),
            }
            fs::write(other.join("of-other/unheard"), "").unwrap();
            let changes = watched.changes();
            // What happened before it was noticed may be told; nothing after that.
            assert_eq!(paths(&changes, Mask::UNMOUNT), std::slice::from_ref(&at));
            fs::write(other.join("of-other/late"), "").unwrap();
            drop(in_use);
            fs::write(at.join("below/heard"), "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("below/heard")]);
            watched.settle();
            assert_watched_exactly(&root);
        }
    });
}

#[test]
fn what_is_mounted_over_a_root_or_above_it_is_said() {
    in_namespaces("mounts::what_is_mounted_over_a_root_or_above_it_is_said", || {
        for awaited in [false, true] {
            let (_dir, above, root) = place("root");
            let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(awaited));
            for at in [&root, &above] {
                if !mount(at) {
                    return;
                }
                let changes = watched.changes();
                let said = changes.iter().find_map(OwnedChange::uncovered).expect("it is said");
                assert_eq!((said.kind(), said.path()), (ErrorKind::NotFound, Some(&*root)));
                if awaited && at == &above {
                    fs::create_dir(&root).unwrap();
                }
                if awaited {
                    fs::create_dir(root.join("new")).unwrap();
                    watched.wait_for(|change| change.path() == Some(root.join("new")));
                    assert!(watched.tree.uncovered().is_empty());
                } else {
                    watched.tree.remove_root(&root).unwrap();
                    fs::create_dir_all(&root).unwrap();
                    watched.tree.add_root(&root).unwrap();
                }
                watched.changes();
                watched.settle();
                assert_watched_exactly(&root);
            }
            // The tree may be looking there.
            detach(&above).unwrap();
            detach(&root).unwrap();
        }
    });
}

#[test]
fn mounts_below_a_link_are_noticed() {
    in_namespaces("mounts::mounts_below_a_link_are_noticed", || {
        let (dir, outside, at) = place("mount");
        let (root, link) = (dir.path().join("tree"), dir.path().join("link"));
        fs::create_dir(&root).unwrap();
        symlink(&outside, root.join("followed")).unwrap();
        symlink(&root, &link).unwrap();
        let tree = Tree::builder(&link).follow_symlinks(true).cross_mounts(true);
        let mut watched = Watched::open(tree);
        let seen = link.join("followed/mount");
        if !mount(&at) {
            return;
        }
        fs::create_dir(at.join("inside")).unwrap();
        assert!(paths(&watched.changes(), Mask::CREATE).contains(&seen.join("inside")));
        fs::write(at.join("inside/heard"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [seen.join("inside/heard")]);
        unmount(&at).unwrap();
    });
}

/// What the tree adds up to is what is there.
fn assert_replays(watched: &mut Watched, model: &mut Model, root: &Path) {
    let changes = watched.changes();
    changes.iter().for_each(|change| model.apply(change).unwrap());
    assert_eq!(difference(&model.node, &disk(root, &|_| true), root), None);
    assert!(watched.tree.uncovered().is_empty(), "{:?}", watched.tree.uncovered());
    watched.settle();
    assert_watched_exactly(root);
}

/// The filter is asked while the tree looks, so it can have something mounted for just that moment: no table of mounts that
/// is read before or later has it. The kernel does not tell either, since something of it is still in use.
#[test]
fn what_is_mounted_only_while_the_tree_looks_is_left_again() {
    let name = "mounts::what_is_mounted_only_while_the_tree_looks_is_left_again";
    in_namespaces(name, || {
        let (dir, root, at) = place("new/mount");
        let (outside, in_use) = (dir.path().join("outside"), Arc::new(Mutex::new(None)));
        fs::rename(root.join("new"), &outside).unwrap();
        let asked = Arc::clone(&in_use);
        let place = at.clone();
        let tree = Tree::builder(&root).cross_mounts(true).filter(move |dir| {
            if dir == Path::new("new/mount") && mount_memory(&place).is_ok() {
                fs::create_dir(place.join("passing")).unwrap();
                *asked.lock().unwrap() = Some(fs::File::create(place.join("in-use")).unwrap());
            } else if dir == Path::new("new/mount/passing") {
                detach(&place).unwrap();
            }
            true
        });
        let mut watched = Watched::open(tree);
        let mut model = Model::new(&root, disk(&root, &|_| true));
        fs::rename(&outside, root.join("new")).unwrap();
        assert_replays(&mut watched, &mut model, &root);
        if in_use.lock().unwrap().is_none() {
            skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &"it is refused");
        }
    });
}

/// The same over a directory that is known, while others in it are to be looked at: they are not given up.
#[test]
fn what_was_hidden_only_while_the_tree_looked_is_looked_at_again() {
    let name = "mounts::what_was_hidden_only_while_the_tree_looked_is_looked_at_again";
    in_namespaces(name, || {
        let dir = tempdir().unwrap();
        let root = dir.path().join("root");
        for below in ["a/late/last", "b/late/last", "c/late/last"] {
            fs::create_dir_all(root.join("early").join(below)).unwrap();
        }
        let (now, steps) = (root.clone(), Arc::new(AtomicUsize::new(0)));
        let (order, step) = (Mutex::new(Vec::new()), Arc::clone(&steps));
        let tree = Tree::builder(&root).cross_mounts(true).filter(move |dir| {
            let mut order = order.lock().unwrap();
            // All that is called late is new as soon as the directory is renamed, and is looked at in the order in which
            // it is asked for: that in the middle while something is mounted above it.
            if dir.ends_with("late") && order.len() < 3 {
                let is_known = dir.starts_with("early");
                order.extend((!is_known).then(|| now.join(dir.parent().unwrap())));
                return !is_known;
            }
            match (order.get(1), step.load(Ordering::Relaxed)) {
                (Some(above), 0) if dir.ends_with("last") && mount_memory(above).is_ok() => {
                    step.store(1, Ordering::Relaxed);
                }
                (Some(above), 1) if dir.ends_with("last") => {
                    detach(above).unwrap();
                    step.store(2, Ordering::Relaxed);
                }
                _ => {}
            }
            true
        });
        let mut watched = Watched::open(tree);
        let mut model = Model::new(&root, disk(&root, &|path| !path.ends_with("late")));
        fs::rename(root.join("early"), root.join("now")).unwrap();
        assert_replays(&mut watched, &mut model, &root);
        match steps.load(Ordering::Relaxed) {
            0 => skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &"it is refused"),
            steps => assert_eq!(steps, 2),
        }
    });
}

/// A directory of the same file system that is mounted in the tree is on no other device, so it is entered whether mounts are
/// to be crossed or not. What is reached in two ways by that is covered in one of them, and the other is said.
fn mounted_again(what: &str, early: bool, crossed: bool) {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["root/at/below", "root/known/deep", "outside/deep"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let (from, at) = (dir.path().join(what), root.join("at"));
    let open = || Watched::open(Tree::builder(&root).cross_mounts(crossed));
    let opened = (!early).then(open);
    let mut node = disk(&root, &|_| true);
    if let Err(refused) = mount_again(&from, &at) {
        return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
    }
    let mut watched = opened.unwrap_or_else(|| {
        let watched = open();
        node = disk(&root, &|path| !is_uncovered(&watched, path));
        watched
    });
    let mut model = Model::new(&root, node);
    let mut replays = |watched: &mut Watched| {
        let changes = watched.changes();
        changes.iter().for_each(|change| model.apply(change).unwrap());
        let there = disk(&root, &|path| !is_uncovered(watched, path));
        assert_eq!(difference(&model.node, &there, &root), None, "{changes:?}");
        watched.settle();
        assert_eq!(inodes_watched_with(&root), covered(watched, &root));
        paths(&changes, Mask::CREATE)
    };
    replays(&mut watched);
    let uncovered = watched.tree.uncovered();
    assert_eq!(uncovered.len(), usize::from(what != "outside"), "{uncovered:?}");
    for one in uncovered {
        assert!(one.error.to_string().contains("watched under another path"), "{one:?}");
        assert!([root.join("known"), at.clone()].contains(&one.path), "{one:?}");
    }
    for file in ["heard", "deep/heard", "known/deep/heard"].map(|file| from.join(file)) {
        if fs::write(&file, "").is_ok() {
            let told = replays(&mut watched);
            assert_eq!(told.len(), 1, "{file:?}: {told:?}");
            assert_eq!(inode(&told[0]), inode(&file), "{told:?}");
        }
    }
    unmount(&at).unwrap();
    replays(&mut watched);
    assert!(watched.tree.uncovered().is_empty());
    for file in [at.join("below/heard"), root.join("known/deep/late")] {
        fs::write(&file, "").unwrap();
        assert_eq!(replays(&mut watched), [file]);
    }
    fs::write(dir.path().join("outside/deep/unheard"), "").unwrap();
    assert!(replays(&mut watched).is_empty());
    assert_watched_exactly(&root);
}

fn is_uncovered(watched: &Watched, path: &Path) -> bool {
    watched.tree.uncovered().iter().any(|one| one.path == path)
}

/// The directories that are covered, as they are reached; one that is reached in two ways would be in it twice.
fn covered(watched: &Watched, root: &Path) -> Vec<u64> {
    let mut inodes = Vec::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        inodes.push(inode(&dir));
        let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        stack.extend(entries.filter(|path| path.is_dir() && !is_uncovered(watched, path)));
    }
    inodes.sort_unstable();
    inodes
}

#[test]
fn what_is_mounted_from_the_same_file_system_is_covered_once_whether_mounts_are_crossed_or_not() {
    let name = "mounts::what_is_mounted_from_the_same_file_system_is_covered_once_whether_mounts_are_crossed_or_not";
    in_namespaces(name, || {
        for what in ["outside", "root/known", "root"] {
            for (early, crossed) in [(false, false), (false, true), (true, false), (true, true)] {
                mounted_again(what, early, crossed);
            }
        }
    });
}
