//! More directories than watches.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ringwatch::tree::{OwnedChange, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::tempdir;

use crate::model::Watched;
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child::in_namespaces;
use crate::support::{skip, wait_until};

/// Sets the limit of this user namespace. False if that is not allowed.
pub(crate) fn limit(watches: usize) -> bool {
    let written = fs::write("/proc/sys/user/max_inotify_watches", watches.to_string());
    if let Err(denied) = &written {
        skip("a limit of its own", "RINGWATCH_REQUIRE_NAMESPACES", denied);
    }
    written.is_ok()
}

/// Directories for which there is no watch, each with an error that names the remedy.
fn refused(tree: &Tree) -> BTreeSet<PathBuf> {
    let uncovered = tree.uncovered().into_iter();
    let refused = uncovered.map(|uncovered| {
        assert_eq!(uncovered.error.kind(), ErrorKind::WatchLimit);
        assert_eq!(uncovered.error.path(), Some(&*uncovered.path));
        let remedy = uncovered.error.remedy().expect("a remedy");
        assert!(
            remedy.contains("raise it with sysctl user.max_inotify_watches=N"),
            "{remedy}"
        );
        uncovered.path
    });
    refused.collect()
}

/// A file made there is heard of.
fn is_heard(watched: &mut Watched, dir: &Path, name: &str) -> bool {
    fs::write(dir.join(name), "").expect("a file");
    paths(&watched.changes(), Mask::CREATE) == [dir.join(name)]
}

/// Twelve directories in each of two, and `watches` for them, the two, the root and the tree's own marker.
fn full(root: &Path, watches: usize) -> Option<(Watched, Vec<PathBuf>)> {
    let dirs = (0..24).map(|number| root.join(["one", "two"][number % 2]).join(number.to_string()));
    let dirs: Vec<_> = dirs.collect();
    dirs.iter()
        .for_each(|dir| fs::create_dir_all(dir).expect("a directory"));
    if !limit(watches + 4) {
        return None;
    }
    Some((Watched::new(Tree::new(root).expect("a tree")), dirs))
}

#[test]
fn directories_beyond_the_limit_are_said_and_their_siblings_are_covered() {
    in_namespaces(
        "limits::directories_beyond_the_limit_are_said_and_their_siblings_are_covered",
        || {
            let dir = tempdir().unwrap();
            let root = dir.path().join("root");
            let Some((mut watched, dirs)) = full(&root, 14) else {
                return;
            };
            let mut missing = refused(&watched.tree);
            assert_eq!(missing.len(), 10);
            for dir in &dirs {
                assert_eq!(is_heard(&mut watched, dir, "file"), !missing.contains(dir), "{dir:?}");
            }
            // One more is said in the stream, once.
            let more = root.join("one/more");
            fs::create_dir_all(more.join("deep")).unwrap();
            let changes = watched.changes();
            let said: Vec<_> = changes.iter().filter(|change| change.uncovered().is_some()).collect();
            assert_eq!(said.len(), 1, "{changes:?}");
            assert_eq!((said[0].path(), said[0].is_dir()), (Some(more.clone()), true));
            assert_eq!(said[0].uncovered().unwrap().kind(), ErrorKind::WatchLimit);
            missing.insert(more.clone());
            assert_eq!(refused(&watched.tree), missing);
            // Asked to try again, it says so again; with more room, all is covered and what is there is reported.
            watched.tree.retry_uncovered().unwrap();
            let again = watched.changes();
            assert_eq!(
                again.iter().filter(|change| change.uncovered().is_some()).count(),
                missing.len()
            );
            limit(1_000);
            watched.tree.retry_uncovered().unwrap();
            let changes = watched.changes();
            assert!(
                !changes.iter().any(|change| change.uncovered().is_some()),
                "{changes:?}"
            );
            assert!(paths(&changes, Mask::CREATE).contains(&more.join("deep")));
            assert!(watched.tree.uncovered().is_empty());
            assert_watched_exactly(&root);
        },
    );
}

#[test]
fn directories_beyond_the_limit_are_covered_when_others_go() {
    in_namespaces(
        "limits::directories_beyond_the_limit_are_covered_when_others_go",
        || {
            let dir = tempdir().unwrap();
            let root = dir.path().join("root");
            let Some((mut watched, dirs)) = full(&root, 14) else {
                return;
            };
            let missing = refused(&watched.tree);
            let covered: Vec<_> = dirs.iter().filter(|dir| !missing.contains(*dir)).collect();
            assert_eq!((missing.len(), covered.len()), (10, 14));
            missing.iter().for_each(|dir| fs::write(dir.join("file"), "").unwrap());
            // Two are removed, and two are moved out with one in each.
            covered[..2].iter().for_each(|dir| fs::remove_dir(dir).unwrap());
            for (number, path) in covered[2..4].iter().enumerate() {
                fs::rename(path, dir.path().join(number.to_string())).unwrap();
            }
            wait_until(|| watched.tree.stats().uncovered == 6);
            let changes = watched.changes();
            assert!(
                !changes.iter().any(|change| change.uncovered().is_some()),
                "{changes:?}"
            );
            let found = paths(&changes, Mask::CREATE);
            let now = refused(&watched.tree);
            let newly: BTreeSet<_> = missing.difference(&now).map(|dir| dir.join("file")).collect();
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), newly);
            for file in &newly {
                assert!(is_heard(&mut watched, file.parent().unwrap(), "late"));
            }
            // A whole branch goes, and there is room for all.
            let branch = if now.iter().all(|dir| dir.starts_with(root.join("one"))) {
                "two"
            } else {
                "one"
            };
            fs::rename(root.join(branch), dir.path().join("branch")).unwrap();
            wait_until(|| watched.tree.stats().uncovered == 0);
            assert!(!watched.changes().iter().any(OwnedChange::is_overflow));
            watched.settle();
            assert_watched_exactly(&root);
        },
    );
}

#[test]
fn a_limit_that_is_lowered_below_what_is_watched_stops_nothing() {
    in_namespaces(
        "limits::a_limit_that_is_lowered_below_what_is_watched_stops_nothing",
        || {
            let dir = tempdir().unwrap();
            let root = dir.path().join("root");
            let Some((mut watched, _)) = full(&root, 24) else {
                return;
            };
            assert!(watched.tree.uncovered().is_empty());
            // The watch that a marker gives up is not to be had again.
            limit(20);
            let barrier = watched.tree.barrier().unwrap();
            fs::create_dir(root.join("new")).unwrap();
            watched.until(barrier);
            wait_until(|| watched.tree.stats().uncovered > 1);
            let changes = watched.until_marked();
            assert!(paths(&changes, Mask::CREATE).contains(&root.join("new")) || !refused(&watched.tree).is_empty());
            assert!(refused(&watched.tree).contains(&root.join("new")));
            fs::write(root.join("late"), "").unwrap();
            assert_eq!(paths(&watched.until_marked(), Mask::CREATE), [root.join("late")]);
        },
    );
}

/// Nothing tells that it has come: it is looked for now and then.
#[test]
fn a_missing_root_is_found_also_if_no_watch_was_left_to_wait_for_it() {
    in_namespaces(
        "limits::a_missing_root_is_found_also_if_no_watch_was_left_to_wait_for_it",
        || {
            let dir = tempdir().unwrap();
            let root = dir.path().join("not/yet");
            // That of the tree's own marker.
            if !limit(1) {
                return;
            }
            let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
            fs::create_dir_all(&root).unwrap();
            let is_refused = |change: &OwnedChange| {
                change
                    .uncovered()
                    .is_some_and(|why| why.kind() == ErrorKind::WatchLimit)
            };
            watched.wait_for(is_refused);
            assert_eq!(refused(&watched.tree), BTreeSet::from([root.clone()]));
            limit(10_000);
            watched.tree.retry_uncovered().unwrap();
            watched.changes();
            assert!(is_heard(&mut watched, &root, "file"));
            assert!(watched.tree.uncovered().is_empty());
        },
    );
}
