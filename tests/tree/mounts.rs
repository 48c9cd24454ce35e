//! File systems that are mounted in a tree.

use std::fs;
use std::path::PathBuf;

use ringwatch::tree::{OwnedChange, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::{TempDir, tempdir};

use crate::model::Watched;
use crate::scenarios::paths;
use crate::support::child::{in_namespaces, mount_memory, unmount};
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
        // Nothing tells that it is unmounted; looked at again, it is seen.
        unmount(&at).unwrap();
        watched.tree.retry_uncovered().unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [at.join("below")]);
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
        let mut watched = Watched::new(Tree::builder(&root).cross_mounts(true).open().unwrap());
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
        let mut watched = Watched::new(Tree::builder(&at).await_missing_roots(true).open().unwrap());
        unmount(&at).unwrap();
        let mut said = Vec::new();
        watched.wait_for(|change| change.path() == Some(at.join("below")));
        fs::write(at.join("below/heard"), "").unwrap();
        said.extend(watched.changes());
        assert_eq!(paths(&said, Mask::CREATE), [at.join("below/heard")]);
        assert!(!said.iter().any(OwnedChange::is_overflow));
    });
}
