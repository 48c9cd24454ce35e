//! What can't be covered is said, the rest is covered, and what can be later is then.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ringwatch::tree::{OwnedChange, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::tempdir;

use crate::model::{Model, Node, Watched, difference, disk};
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child;

pub(crate) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn an_unreadable_directory_is_said_its_siblings_are_covered_and_it_is_when_it_can_be() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        let root = dir.path().join("root");
        for name in ["a", "locked/inside", "z"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let locked = root.join("locked");
        mode(&locked, 0o000);
        let mut watched = Watched::new(Tree::new(&root).unwrap());
        let uncovered = watched.tree.uncovered();
        assert_eq!(uncovered.len(), 1);
        assert_eq!(
            (&uncovered[0].path, uncovered[0].error.kind()),
            (&locked, ErrorKind::PermissionDenied)
        );
        assert!(uncovered[0].error.remedy().unwrap().contains("read permission"));
        for name in ["a", "z"] {
            fs::write(root.join(name).join("file"), "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join(name).join("file")]);
        }
        mode(&locked, 0o755);
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [locked.join("inside")]);
        assert!(watched.tree.uncovered().is_empty());
        assert_watched_exactly(&root);
        // One that appears is said in the stream.
        fs::create_dir(dir.path().join("new")).unwrap();
        mode(&dir.path().join("new"), 0o300);
        fs::rename(dir.path().join("new"), root.join("new")).unwrap();
        let changes = watched.changes();
        let said: Vec<_> = changes.iter().filter(|change| change.uncovered().is_some()).collect();
        assert_eq!(said.len(), 1, "{changes:?}");
        assert_eq!(said[0].path(), Some(root.join("new")));
        mode(&root.join("new"), 0o755);
        watched.changes();
        assert_watched_exactly(&root);
    });
}

/// No other root tells of it. It may be that nobody tells, where what is above it may not be watched either.
#[test]
fn a_root_that_is_alone_is_covered_when_its_permissions_are_given_back() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        let (other, above) = (dir.path().join("other"), dir.path().join("above"));
        let root = above.join("root");
        fs::create_dir(&other).unwrap();
        fs::create_dir_all(root.join("inside")).unwrap();
        let mut watched = Watched::new(Tree::new(&other).unwrap());
        for (locked, modes) in [
            (&root, [0o000, 0o500]),
            (&root, [0o300, 0o755]),
            (&above, [0o000, 0o755]),
            (&above, [0o100, 0o755]),
        ] {
            mode(&root, if *locked == root { modes[0] } else { 0o000 });
            mode(locked, modes[0]);
            watched.tree.add_root(&root).unwrap();
            assert!(watched.changes().iter().any(|change| change.uncovered().is_some()));
            assert_eq!(watched.tree.uncovered()[0].error.kind(), ErrorKind::PermissionDenied);
            mode(locked, modes[1]);
            mode(&root, modes[1]);
            watched.wait_for(|change| change.path() == Some(root.join("inside")));
            assert!(watched.tree.uncovered().is_empty());
            watched.settle();
            assert_eq!(watched.tree.stats().directories, 3);
            watched.tree.remove_root(&root).unwrap();
            watched.settle();
            mode(&root, 0o755);
            watched.changes();
            assert_watched_exactly(&other);
        }
    });
}

/// Nobody could tell what it is.
#[test]
fn a_forbidden_root_that_turns_out_to_be_a_file_or_missing_is_what_it_is() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        for is_there in [true, false] {
            let above = dir.path().join(is_there.to_string());
            let file = above.join("file");
            fs::create_dir(&above).unwrap();
            if is_there {
                fs::write(&file, "").unwrap();
            }
            mode(&above, 0o000);
            let mut watched = Watched::open(Tree::builder(&file).await_missing_roots(true));
            assert_eq!(watched.tree.uncovered()[0].error.kind(), ErrorKind::PermissionDenied);
            mode(&above, 0o755);
            if !is_there {
                watched.wait_for(|change| {
                    change
                        .uncovered()
                        .is_some_and(|error| error.kind() == ErrorKind::NotFound)
                });
                fs::write(&file, "").unwrap();
            }
            watched.wait_for(|change| change.mask().contains(Mask::CREATE) && change.path().as_ref() == Some(&file));
            fs::write(&file, "x").unwrap();
            watched.wait_for(|change| change.mask().contains(Mask::CLOSE_WRITE));
            assert!(watched.tree.uncovered().is_empty());
        }
    });
}

#[test]
fn what_is_deeper_than_a_path_may_be_long_is_covered() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut watched = Watched::new(Tree::new(&root).unwrap());
    // Made from below: a directory at a time is put into a new one.
    let name = "d".repeat(200);
    let mut top = dir.path().join("top");
    fs::create_dir(&top).unwrap();
    for _ in 0..30 {
        let above = dir.path().join("above");
        fs::create_dir(&above).unwrap();
        fs::rename(&top, above.join(&name)).unwrap();
        fs::rename(&above, dir.path().join("top")).unwrap();
        top = dir.path().join("top");
    }
    fs::rename(&top, root.join("deep")).unwrap();
    let changes = watched.changes();
    let deepest = paths(&changes, Mask::CREATE)
        .into_iter()
        .map(|path| path.as_os_str().len())
        .max();
    assert!(deepest > Some(6_000), "{deepest:?}");
    assert_eq!(watched.tree.stats().directories, 32);
    assert!(watched.tree.uncovered().is_empty());
    // A directory made down there is found by its path, in steps.
    let mut at = root.join("deep");
    for _ in 0..30 {
        at.push(&name);
    }
    crate::deep::make_all(&at.join("new")).unwrap();
    watched.changes();
    assert_eq!(watched.tree.stats().directories, 33);
    fs::remove_dir_all(root.join("deep")).unwrap();
}

#[test]
fn a_filter_is_asked_again_when_a_directory_is_renamed() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("target/debug")).unwrap();
    fs::create_dir_all(root.join("src/deep")).unwrap();
    let wanted = |dir: &Path| dir != Path::new("target");
    let mut watched = Watched::open(Tree::builder(&root).filter(wanted));
    assert_eq!(watched.tree.stats().directories, 3);
    fs::write(root.join("target/debug/unheard"), "").unwrap();
    assert!(watched.changes().is_empty());
    // Into its favour: all that is in it is reported.
    fs::rename(root.join("target"), root.join("kept")).unwrap();
    let made = paths(&watched.changes(), Mask::CREATE);
    assert_eq!(made, [root.join("kept/debug"), root.join("kept/debug/unheard")]);
    // And out of it: nothing more.
    fs::rename(root.join("src"), root.join("target")).unwrap();
    let changes = watched.changes();
    assert!(changes.iter().any(OwnedChange::is_moved_out));
    fs::write(root.join("target/deep/unheard"), "").unwrap();
    assert!(watched.changes().is_empty());
    assert_eq!(watched.tree.stats().directories, 3);
    // A directory that appears is asked for before it is watched.
    fs::remove_dir_all(root.join("target")).unwrap();
    fs::create_dir_all(root.join("target/again")).unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("target")]);
}

#[test]
fn links_are_followed_without_loops_if_asked() {
    let dir = tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::create_dir_all(outside.join("deep")).unwrap();
    symlink(&root, root.join("sub/loop")).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let mut watched = Watched::open(Tree::builder(&root).follow_symlinks(true));
    fs::write(outside.join("deep/file"), "").unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("link/deep/file")]);
    fs::remove_file(root.join("link")).unwrap();
    assert_eq!(paths(&watched.changes(), Mask::DELETE), [root.join("link")]);
    fs::write(outside.join("deep/unheard"), "").unwrap();
    assert!(watched.changes().is_empty());
    let plain = Tree::new(&root).unwrap();
    assert_eq!(plain.stats().directories, 2);
    // A link that is made later.
    symlink(&outside, root.join("later")).unwrap();
    let made: Vec<PathBuf> = paths(&watched.changes(), Mask::CREATE);
    assert!(made.contains(&root.join("later/deep/unheard")), "{made:?}");
}

#[test]
fn what_is_made_where_nobody_may_look_is_said_and_covered_when_permission_is_given_back() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        let root = dir.path().join("root");
        let (locked, new) = (root.join("a/locked"), root.join("a/locked/new"));
        fs::create_dir_all(locked.join("sub")).unwrap();
        // The tree looks at nothing while it may be looked at, which it must be for what is moved there.
        static OPEN: Mutex<()> = Mutex::new(());
        let builder = Tree::builder(&root).filter(|_| OPEN.lock().is_ok());
        let mut watched = Watched::open(builder);
        // It is watched already, and goes on to be heard of.
        let from_outside = |name: &str, target: &Path| {
            let source = dir.path().join(name);
            fs::create_dir_all(source.join("inside")).unwrap();
            let _open = OPEN.lock().unwrap();
            mode(&locked, 0o300);
            fs::rename(&source, target).unwrap();
            mode(&locked, 0o000);
        };
        from_outside("new", &new);
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::MOVED_TO), std::slice::from_ref(&new));
        let said: Vec<_> = changes.iter().filter_map(OwnedChange::uncovered).collect();
        assert_eq!(said.len(), 1, "{changes:?}");
        assert_eq!(
            (said[0].kind(), said[0].path()),
            (ErrorKind::PermissionDenied, Some(&*new))
        );
        // Still forbidden, which is not said again.
        mode(&locked, 0o200);
        let changes = watched.changes();
        assert!(
            !changes.iter().any(|change| change.uncovered().is_some()),
            "{changes:?}"
        );
        assert_eq!(watched.tree.uncovered().len(), 1);
        mode(&locked, 0o755);
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [new.join("inside")]);
        assert!(watched.tree.uncovered().is_empty());
        assert_watched_exactly(&root);
    });
}

#[test]
fn a_filter_that_answers_otherwise_is_asked_again_for_all() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["a/deep", "b/deep"] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), "").unwrap();
    }
    let unwanted = Arc::new(Mutex::new("a"));
    let asked = Arc::clone(&unwanted);
    let filter = move |dir: &Path| dir != Path::new(*asked.lock().unwrap());
    let mut watched = Watched::open(Tree::builder(&root).filter(filter));
    *unwanted.lock().unwrap() = "b";
    watched.tree.refilter().unwrap();
    let changes = watched.changes();
    let made = paths(&changes, Mask::CREATE);
    for path in ["a/deep", "a/deep/file"] {
        assert!(made.contains(&root.join(path)), "{changes:?}");
    }
    assert!(
        !made.iter().any(|path| path.starts_with(root.join("b/deep"))),
        "{changes:?}"
    );
    fs::write(root.join("b/deep/unheard"), "").unwrap();
    fs::write(root.join("a/deep/heard"), "").unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("a/deep/heard")]);
    watched.settle();
    assert_eq!(watched.tree.stats().directories, 3);
}

/// Opens a tree while a hook is called for a directory that was listed and not looked at yet.
fn with_hook(root: &Path, name: &'static str, hook: impl Fn() + Send + Sync + 'static) -> Watched {
    let armed = AtomicBool::new(true);
    let filter = move |dir: &Path| {
        if dir.file_name() == Some(name.as_ref()) && armed.swap(false, Ordering::AcqRel) {
            hook();
        }
        true
    };
    Watched::open(Tree::builder(root).filter(filter))
}

#[test]
fn a_directory_that_vanishes_between_listing_and_look_leaves_the_rest_covered() {
    for replaced in [false, true] {
        let dir = tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["a/deep", "b", "c/vanishing/deep", "c/z"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let vanishing = root.join("c/vanishing");
        let hook = move || {
            fs::remove_dir_all(&vanishing).unwrap();
            if replaced {
                fs::create_dir_all(vanishing.join("other")).unwrap();
            }
        };
        let mut watched = with_hook(&root, "vanishing", hook);
        assert!(watched.tree.uncovered().is_empty());
        for name in ["a/deep", "b", "c/z"] {
            fs::write(root.join(name).join("file"), "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join(name).join("file")]);
        }
        assert_watched_exactly(&root);
    }
}

#[test]
fn a_directory_that_vanishes_after_it_was_moved_in_is_not_left_behind() {
    let dir = tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir_all(outside.join("vanishing/deep")).unwrap();
    fs::create_dir_all(outside.join("z")).unwrap();
    let vanishing = root.join("in/vanishing");
    let mut watched = with_hook(&root, "vanishing", move || fs::remove_dir_all(&vanishing).unwrap());
    fs::rename(&outside, root.join("in")).unwrap();
    let mut model = Model::new(&root, Node::dir());
    watched.changes().iter().for_each(|change| model.apply(change).unwrap());
    assert_eq!(difference(&model.node, &disk(&root, &|_| true), &root), None);
    assert!(watched.tree.uncovered().is_empty());
    watched.settle();
    assert_watched_exactly(&root);
}

#[test]
fn what_a_root_or_a_rename_makes_accessible_is_tried_again() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("locked")).unwrap();
    let tree = child::without_capabilities(|| Tree::new(&root).unwrap());
    let mut watched = Watched::new(tree);
    // Nobody may search the root: what is new there is not covered.
    mode(&root, 0o600);
    fs::create_dir_all(root.join("new/deep")).unwrap();
    let said = watched
        .changes()
        .iter()
        .filter(|change| change.uncovered().is_some())
        .count();
    assert_eq!((said, watched.tree.uncovered().len()), (1, 1));
    mode(&root, 0o755);
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("new/deep")]);
    assert!(watched.tree.uncovered().is_empty());
    // What is made where nobody may search, and is moved to where all may.
    mode(&root.join("locked"), 0o600);
    fs::create_dir_all(root.join("locked/other/deep")).unwrap();
    watched.changes();
    assert_eq!(watched.tree.uncovered()[0].path, root.join("locked/other"));
    fs::rename(root.join("locked/other"), root.join("other")).unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("other/deep")]);
    assert!(watched.tree.uncovered().is_empty());
    mode(&root.join("locked"), 0o755);
    watched.changes();
    assert_watched_exactly(&root);
}

/// It is there, nobody could see it, and it was covered on request: it is not missing any more, and not found once more.
#[test]
fn a_missing_root_that_is_covered_on_request_is_reported_once() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        let (above, other) = (dir.path().join("above"), dir.path().join("other"));
        let root = above.join("root");
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(other.join("root")).unwrap();
        fs::write(other.join("root/file"), "").unwrap();
        mode(&other, 0o000);
        let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
        fs::remove_dir(&root).unwrap();
        watched.changes();
        fs::remove_dir(&above).unwrap();
        fs::rename(&other, &above).unwrap();
        watched.changes();
        mode(&above, 0o755);
        watched.tree.retry_uncovered().unwrap();
        watched.wait_for(|change| change.path().is_some_and(|path| path.ends_with("file")));
        assert!(watched.changes().is_empty());
        assert_watched_exactly(&root);
    });
}
