//! Roots: several, in one another, files, missing, deleted, renamed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringwatch::tree::{OwnedChange, Recovery, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::{TempDir, tempdir};

use crate::coverage::mode;
use crate::deep::{far_below, make_all, reach};
use crate::model::Watched;
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child::without_capabilities;
use crate::support::{self, Flood, queue_limit, wait_until};

pub(crate) fn place() -> (TempDir, PathBuf) {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("place");
    fs::create_dir(&path).expect("a place");
    (dir, path)
}

pub(crate) fn made(watched: &mut Watched) -> Vec<PathBuf> {
    paths(&watched.changes(), Mask::CREATE)
}

#[test]
fn a_root_that_is_added_is_reported_and_one_that_is_removed_is_silent() {
    let (_dir, place) = place();
    let (one, other) = (place.join("one"), place.join("other"));
    fs::create_dir(&one).unwrap();
    fs::create_dir_all(other.join("sub")).unwrap();
    let mut watched = Watched::open(Tree::builder(&one));
    watched.tree.add_root(&other).unwrap();
    assert_eq!(made(&mut watched), [other.join("sub")]);
    fs::write(other.join("sub/file"), "").unwrap();
    assert_eq!(made(&mut watched), [other.join("sub/file")]);
    assert_eq!(watched.tree.roots(), [one.clone(), other.clone()]);
    watched.tree.remove_root(&other).unwrap();
    fs::write(other.join("sub/late"), "").unwrap();
    fs::write(one.join("late"), "").unwrap();
    assert_eq!(made(&mut watched), [one.join("late")]);
    watched.settle();
    assert_watched_exactly(&one);
    assert_eq!(
        watched.tree.remove_root(&other).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn roots_in_one_another_are_reported_as_one_tree() {
    let (_dir, place) = place();
    let inner = place.join("a/inner");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("file"), "").unwrap();
    for (first, second) in [(&place, &inner), (&inner, &place)] {
        let mut watched = Watched::open(Tree::builder(first).root(second).report_existing(true));
        assert_eq!(
            made(&mut watched),
            [place.join("a"), inner.clone(), inner.join("file")],
            "{first:?} first"
        );
        watched.settle();
        assert_watched_exactly(&place);
    }
}

#[test]
fn a_root_in_another_that_leaves_it_out_is_told_of_behind_its_directory() {
    let (_dir, place) = place();
    let inner = place.join("a/b");
    fs::create_dir_all(inner.join("c")).unwrap();
    // What is listed and not taken is let go of before the next look.
    (0..400).for_each(|number| fs::create_dir(place.join(format!("a/{number}"))).unwrap());
    for roots in [
        [&place, &place.join("a"), &inner],
        [&inner, &place.join("a"), &place],
        [&place.join("a"), &inner, &place],
    ] {
        let builder = Tree::builder(roots[0]).root(roots[1]).root(roots[2]);
        let builder = builder.filter(|dir| dir != Path::new("a")).report_existing(true);
        let mut watched = Watched::open(builder);
        let mut made = made(&mut watched);
        made.retain(|path| path.starts_with(&inner) || inner.starts_with(path));
        assert_eq!(made, [place.join("a"), inner.clone(), inner.join("c")], "{roots:?}");
        watched.settle();
        assert_watched_exactly(&place);
    }
}

/// What is listed under one of them is not listed under the other.
#[test]
fn roots_in_one_another_are_covered_where_links_are_followed() {
    let (_dir, place) = place();
    let inner = place.join("a");
    fs::create_dir_all(inner.join("deep")).unwrap();
    fs::write(inner.join("deep/file"), "").unwrap();
    for report in [true, false] {
        for (first, second) in [(&place, &inner), (&inner, &place)] {
            let mut flood = Flood::new(first);
            let builder = Tree::builder(first).root(second).follow_symlinks(true);
            let builder = builder.recovery(Recovery::Diff).buffers(2).buffer_size(4096);
            let mut watched = Watched::open(builder.report_existing(report));
            let expected = [inner.clone(), inner.join("deep"), inner.join("deep/file")];
            let made_first = made(&mut watched);
            let told: Vec<_> = expected.iter().filter(|path| made_first.contains(path)).collect();
            assert_eq!(told.len(), if report { 3 } else { 0 }, "{made_first:?}");
            // Events are lost, and all is looked at again.
            flood.cause(queue_limit() + 2_000);
            let changes = watched.changes();
            assert!(changes.iter().any(OwnedChange::is_overflow));
            let (made, gone) = (paths(&changes, Mask::CREATE), paths(&changes, Mask::DELETE));
            for path in &expected {
                let count = |all: &[PathBuf]| all.iter().filter(|one| *one == path).count();
                assert_eq!(count(&made), count(&gone), "{path:?}");
            }
            watched.settle();
            assert_watched_exactly(&place);
            let late = inner.join("deep/late");
            fs::write(&late, "").unwrap();
            assert_eq!(paths(&watched.changes(), Mask::CREATE), [&*late]);
            fs::remove_file(&late).unwrap();
        }
    }
}

#[test]
fn a_root_in_another_is_covered_once_and_outlives_it() {
    let (_dir, place) = place();
    let inner = place.join("a/inner");
    fs::create_dir_all(&inner).unwrap();
    for inner_first in [false, true] {
        let name = format!("file-{inner_first}");
        let (first, second) = if inner_first {
            (&inner, &place)
        } else {
            (&place, &inner)
        };
        let mut watched = Watched::open(Tree::builder(first));
        watched.tree.add_root(second).unwrap();
        watched.changes();
        assert_watched_exactly(&place);
        fs::write(inner.join(&name), "").unwrap();
        assert_eq!(made(&mut watched), [inner.join(&name)]);
        watched.tree.remove_root(&place).unwrap();
        watched.changes();
        fs::write(inner.join(format!("{name}-late")), "").unwrap();
        fs::write(place.join("unheard"), "").unwrap();
        assert_eq!(made(&mut watched), [inner.join(format!("{name}-late"))]);
        watched.settle();
        assert_watched_exactly(&inner);
        fs::remove_file(place.join("unheard")).unwrap();
    }
}

#[test]
fn a_missing_root_is_said_when_it_is_opened_and_what_mends_that() {
    let (_dir, place) = place();
    let root = place.join("missing");
    let error = Tree::new(&root).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(&*root)));
    assert_eq!(error.remedy(), Some("make it first, or let missing roots be awaited"));
}

#[test]
fn a_root_that_is_added_again_is_one_and_is_looked_for_again() {
    let (_dir, place) = place();
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let mut watched = Watched::open(Tree::builder(&root));
    watched.tree.add_root(&root).unwrap();
    assert_eq!(watched.tree.roots(), std::slice::from_ref(&root));
    fs::remove_dir(&root).unwrap();
    watched.wait_for(|change| change.uncovered().is_some());
    fs::create_dir_all(root.join("sub")).unwrap();
    assert!(watched.changes().is_empty());
    watched.tree.add_root(&root).unwrap();
    assert_eq!(made(&mut watched), [root.join("sub")]);
    assert!(watched.tree.uncovered().is_empty());
    assert_eq!(watched.tree.roots(), std::slice::from_ref(&root));
    assert_watched_exactly(&root);
}

#[test]
fn a_root_in_another_that_is_renamed_there_is_said_to_be() {
    let (_dir, place) = place();
    let inner = place.join("a/inner");
    fs::create_dir_all(&inner).unwrap();
    let mut watched = Watched::open(Tree::builder(&place).root(&inner).await_missing_roots(true));
    fs::rename(place.join("a"), place.join("b")).unwrap();
    watched.wait_for(|change| change.uncovered().is_some() && change.path().as_ref() == Some(&inner));
    // The other goes on.
    fs::write(place.join("b/inner/heard"), "").unwrap();
    assert_eq!(made(&mut watched), [place.join("b/inner/heard")]);
    fs::create_dir_all(&inner).unwrap();
    watched.changes();
    fs::write(inner.join("heard"), "").unwrap();
    assert_eq!(made(&mut watched), [inner.join("heard")]);
    watched.settle();
    assert_watched_exactly(&place);
    support::wait_until(|| watched.tree.uncovered().is_empty());
}

#[test]
fn a_root_in_another_that_refuses_it_is_covered_all_the_same() {
    let (_dir, place) = place();
    let inner = place.join("a/inner");
    fs::create_dir_all(inner.join("deep")).unwrap();
    let refuses = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&refuses);
    let filter = move |dir: &Path| dir != Path::new("a/inner") || !asked.load(Ordering::Acquire);
    let mut watched = Watched::open(Tree::builder(&place).root(&inner).filter(filter));
    // Refused, then not, and again.
    for round in 0..3 {
        let file = inner.join(format!("deep/{round}"));
        fs::write(&file, "").unwrap();
        assert_eq!(made(&mut watched), [file]);
        watched.settle();
        assert_watched_exactly(&place);
        refuses.fetch_xor(true, Ordering::AcqRel);
        watched.tree.refilter().unwrap();
        watched.changes();
    }
}

/// Directories that come and go all the time, in one that nobody covers; not so often that a slow machine can't follow.
fn while_others_come_and_go<T>(place: &Path, body: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let coming = scope.spawn(|| {
            let dir = place.join("others/one");
            while !ended.load(Ordering::Acquire) {
                fs::create_dir(&dir).unwrap();
                fs::remove_dir(&dir).unwrap();
                thread::sleep(Duration::from_micros(100));
            }
        });
        let done = catch_unwind(AssertUnwindSafe(body));
        ended.store(true, Ordering::Release);
        coming.join().expect("no panic");
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[test]
fn a_root_in_another_waits_for_nothing_that_happens_elsewhere() {
    let (_dir, place) = place();
    fs::create_dir_all(place.join("others")).unwrap();
    fs::create_dir_all(place.join("a")).unwrap();
    let refused = |dir: &Path| dir != Path::new("others/one") && !dir.ends_with("refused");
    // So that it is looked at before its directory is told of.
    let builder = Tree::builder(&place).batch_window(Duration::from_millis(20));
    let mut watched = Watched::open(builder.filter(refused));
    while_others_come_and_go(&place, || {
        for round in 0..20 {
            // The other root refuses the first, and tells of the second, and of what the third leads to.
            let named = ["refused", "told", "linked"].map(|name| place.join(format!("a/{round}/{name}")));
            for root in &named {
                let before = watched.tree.stats().sessions;
                fs::create_dir_all(root.join("deep")).unwrap();
                fs::write(root.join("file"), "").unwrap();
                let link = place.join(format!("{round}"));
                if root.ends_with("linked") {
                    std::os::unix::fs::symlink(root, &link).unwrap();
                    watched.tree.add_root(&link).unwrap();
                } else {
                    watched.tree.add_root(root).unwrap();
                }
                let is_of = |path: PathBuf| path.starts_with(root) || path.starts_with(&link) && path != link;
                let changes = watched.changes_where(|change| change.path().is_some_and(is_of));
                let mut made = paths(&changes, Mask::CREATE);
                assert_eq!(made.first(), Some(root));
                made.sort_unstable();
                assert_eq!(made, [root.clone(), root.join("deep"), root.join("file")]);
                let sessions = watched.tree.stats().sessions - before;
                assert!(sessions < 10, "{sessions} for {root:?}");
            }
        }
    });
    watched.settle();
    assert!(watched.tree.uncovered().is_empty());
}

#[test]
fn a_root_that_is_deleted_or_renamed_is_said_to_be() {
    let (_dir, place) = place();
    let root = place.join("root");
    for renamed in [false, true] {
        fs::create_dir_all(&root).unwrap();
        let mut watched = Watched::open(Tree::builder(&root));
        match renamed {
            true => fs::rename(&root, place.join("elsewhere")).unwrap(),
            false => fs::remove_dir(&root).unwrap(),
        }
        let changes = watched.changes();
        let said = changes.iter().find_map(OwnedChange::uncovered).expect("it is said");
        assert_eq!((said.kind(), said.path()), (ErrorKind::NotFound, Some(&*root)));
        assert_eq!(watched.tree.uncovered().len(), 1);
    }
}

#[test]
fn a_missing_root_is_waited_for_if_asked() {
    let (_dir, place) = place();
    let root = place.join("not/yet/root");
    assert_eq!(Tree::new(&root).unwrap_err().kind(), ErrorKind::NotFound);
    let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
    for round in 0..2 {
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("early"), "").unwrap();
        watched.wait_for(|change| change.path() == Some(root.join("early")));
        fs::write(root.join("late"), "").unwrap();
        assert_eq!(made(&mut watched), [root.join("late")], "in round {round}");
        fs::remove_dir_all(place.join("not")).unwrap();
        watched.wait_for(|change| change.uncovered().is_some());
    }
}

/// A directory, and then a file, whose path takes several calls.
#[test]
fn a_missing_root_is_waited_for_however_long_its_path() {
    let (_dir, place) = place();
    let above = far_below(&place.join("not"));
    let (dir, file) = (above.join("dir"), above.join("file"));
    let mut watched = Watched::open(Tree::builder(&dir).root(&file).await_missing_roots(true));
    for round in 0..2 {
        make_all(&dir).unwrap();
        fs::write(reach(&dir.join("early")).unwrap(), "").unwrap();
        fs::write(reach(&file).unwrap(), "").unwrap();
        let mut due = vec![dir.join("early"), file.clone()];
        watched.wait_for(|change| {
            due.retain(|path| change.path().as_ref() != Some(path));
            due.is_empty()
        });
        watched.changes();
        fs::write(reach(&dir.join("late")).unwrap(), "").unwrap();
        fs::write(reach(&file).unwrap(), "x").unwrap();
        let told: Vec<_> = watched.changes().iter().filter_map(OwnedChange::path).collect();
        assert!(
            told.contains(&dir.join("late")) && told.contains(&file),
            "in round {round}: {told:?}"
        );
        assert!(watched.tree.uncovered().is_empty(), "in round {round}");
        fs::remove_dir_all(place.join("not")).unwrap();
        wait_until(|| watched.tree.uncovered().len() == 2);
        watched.changes();
    }
}

#[test]
fn a_root_that_moves_with_a_directory_above_it_keeps_its_path_until_that_is_needed() {
    let (_dir, place) = place();
    let root = place.join("above/root");
    fs::create_dir_all(&root).unwrap();
    let mut watched = Watched::open(Tree::builder(&root));
    // Nothing tells the root.
    let elsewhere = place.join("elsewhere/root");
    fs::rename(place.join("above"), place.join("elsewhere")).unwrap();
    fs::write(elsewhere.join("file"), "").unwrap();
    assert_eq!(made(&mut watched), [root.join("file")]);
    // What is to be looked at is not found under that path.
    fs::create_dir_all(elsewhere.join("new/deep")).unwrap();
    let changes = watched.changes();
    assert_eq!(paths(&changes, Mask::CREATE), [root.join("new")]);
    let said = changes.iter().find_map(OwnedChange::uncovered).expect("it is said");
    assert!(said.to_string().contains("its path leads elsewhere"), "{said}");
    assert_eq!(watched.tree.uncovered().len(), 1);
    fs::rename(place.join("elsewhere"), place.join("above")).unwrap();
    watched.tree.retry_uncovered().unwrap();
    assert_eq!(made(&mut watched), [root.join("new/deep")]);
    assert!(watched.tree.uncovered().is_empty());
    assert_watched_exactly(&root);
}

#[test]
fn a_renamed_root_is_covered_again_under_its_name_when_another_is_made() {
    let (_dir, place) = place();
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
    fs::rename(&root, place.join("elsewhere")).unwrap();
    watched.wait_for(|change| change.uncovered().is_some());
    fs::create_dir(&root).unwrap();
    fs::write(root.join("early"), "").unwrap();
    watched.wait_for(|change| change.path() == Some(root.join("early")));
    fs::write(place.join("elsewhere/unheard"), "").unwrap();
    fs::write(root.join("late"), "").unwrap();
    assert_eq!(made(&mut watched), [root.join("late")]);
    assert!(watched.tree.uncovered().is_empty());
    watched.settle();
    assert_watched_exactly(&root);
}

#[test]
fn a_forbidden_root_is_tried_again_when_another_directory_takes_its_place() {
    let dir = tempdir().unwrap();
    let (root, inner) = (dir.path().join("root"), dir.path().join("root/inner"));
    fs::create_dir_all(&inner).unwrap();
    mode(&inner, 0o000);
    let tree = without_capabilities(|| Tree::new(&root).unwrap());
    let mut watched = Watched::new(tree);
    watched.tree.add_root(&inner).unwrap();
    watched.changes();
    // The directory of the outer root, and the root.
    assert_eq!(watched.tree.uncovered().len(), 2);
    fs::rename(&inner, dir.path().join("away")).unwrap();
    fs::create_dir(&inner).unwrap();
    watched.changes();
    assert!(watched.tree.uncovered().is_empty(), "{:?}", watched.tree.uncovered());
    watched.settle();
    assert_watched_exactly(&root);
}

#[test]
fn a_forbidden_root_whose_directory_goes_is_said_to_be_missing() {
    type Goes = fn(&Path, &Path);
    let ways: [Goes; 3] = [
        |inner, _| fs::remove_dir(inner).unwrap(),
        |inner, away| fs::rename(inner, away).unwrap(),
        // With one above it.
        |inner, away| fs::rename(inner.parent().unwrap(), away).unwrap(),
    ];
    for goes in ways {
        let dir = tempdir().unwrap();
        let (root, inner) = (dir.path().join("root"), dir.path().join("root/above/inner"));
        fs::create_dir_all(&inner).unwrap();
        mode(&inner, 0o000);
        let mut watched = Watched::new(without_capabilities(|| Tree::new(&root).unwrap()));
        watched.tree.add_root(&inner).unwrap();
        watched.changes();
        let kinds = |watched: &Watched| {
            let uncovered = watched.tree.uncovered().into_iter();
            uncovered.map(|one| (one.path, one.error.kind())).collect::<Vec<_>>()
        };
        let forbidden = (inner.clone(), ErrorKind::PermissionDenied);
        assert_eq!(kinds(&watched), [forbidden.clone(), forbidden]);
        goes(&inner, &dir.path().join("away"));
        watched.changes();
        assert_eq!(kinds(&watched), [(inner, ErrorKind::NotFound)]);
    }
}

#[test]
fn a_root_in_another_goes_on_while_that_is_removed() {
    const FILES: usize = 2_000;
    let (_dir, place) = place();
    let inner = place.join("a");
    for recovery in [Recovery::Mark, Recovery::Diff] {
        fs::create_dir_all(inner.join("sub/deep")).unwrap();
        let files: Vec<_> = (0..FILES).map(|number| inner.join(format!("sub/{number}"))).collect();
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        let mut watched = Watched::open(Tree::builder(&place).root(&inner).recovery(recovery));
        thread::scope(|scope| {
            scope.spawn(|| files.iter().for_each(|file| fs::remove_file(file).unwrap()));
            watched.tree.remove_root(&place).unwrap();
        });
        fs::write(place.join("unheard"), "").unwrap();
        fs::write(inner.join("sub/deep/late"), "").unwrap();
        let changes = watched.changes();
        let mut gone = paths(&changes, Mask::DELETE);
        gone.sort();
        let mut files = files;
        files.sort();
        assert_eq!(gone, files);
        assert_eq!(paths(&changes, Mask::CREATE), [inner.join("sub/deep/late")]);
        watched.settle();
        assert_watched_exactly(&inner);
        fs::rename(inner.join("sub"), inner.join("renamed")).unwrap();
        assert_eq!(paths(&watched.changes(), Mask::MOVED_TO), [inner.join("renamed")]);
        // It is no worse than before in the other.
        watched.tree.add_root(&place).unwrap();
        watched.changes();
        watched.settle();
        assert_watched_exactly(&place);
        fs::remove_dir_all(&inner).unwrap();
        watched.changes();
    }
}

#[test]
fn what_another_root_has_told_where_a_root_was_is_told_again_behind_that() {
    for awaits in [false, true] {
        let (_dir, place) = place();
        let (above, root) = (place.join("in"), place.join("in/root"));
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("old"), "").unwrap();
        let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(awaits));
        // Nothing tells of that.
        fs::rename(&above, place.join("out")).unwrap();
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("new"), "").unwrap();
        watched.changes();
        watched.tree.add_root(&place).unwrap();
        let mut there = None;
        for change in watched.changes() {
            if change.path() == Some(root.join("new")) {
                there = Some(change.mask());
            } else if change.uncovered().is_some() && change.path() == Some(root.clone()) {
                there = None;
            }
        }
        assert!(there.is_some_and(|mask| mask.contains(Mask::CREATE)), "{there:?}");
        assert!(watched.tree.uncovered().is_empty(), "{:?}", watched.tree.uncovered());
        fs::write(root.join("later"), "").unwrap();
        assert_eq!(made(&mut watched), [root.join("later")]);
        watched.settle();
        assert_watched_exactly(&place);
    }
}

/// The kernel tells of that only when the inode goes.
#[test]
fn a_root_that_is_deleted_while_a_file_in_it_is_open_is_found_out_on_request() {
    for awaits in [false, true] {
        let (_dir, place) = place();
        let root = place.join("root");
        fs::create_dir(&root).unwrap();
        let held = fs::File::create(root.join("old")).unwrap();
        let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(awaits));
        fs::remove_dir_all(&root).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(root.join("new"), "").unwrap();
        watched.changes();
        watched.tree.retry_uncovered().unwrap();
        let changes = watched.changes();
        assert!(changes.iter().any(|change| change.uncovered().is_some()), "{changes:?}");
        assert_eq!(paths(&changes, Mask::CREATE), [root.join("new")]);
        drop(held);
        fs::write(root.join("newer"), "").unwrap();
        assert_eq!(made(&mut watched), [root.join("newer")]);
        assert!(watched.tree.uncovered().is_empty());
    }
}
