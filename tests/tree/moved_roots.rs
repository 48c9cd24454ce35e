//! Roots whose directories come to others: what is in them is told under the paths they have there, and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use ringwatch::tree::{OwnedChange, Tree};
use ringwatch::{ErrorKind, Mask};
use tempfile::tempdir;

use crate::coverage::mode;
use crate::model::Watched;
use crate::roots::{made, place};
use crate::scenarios::{assert_watched_exactly, paths};
use crate::support::child;
use crate::support::child::in_namespaces;

/// What is in it was told under the path of the root, and is not known yet under the one it has now.
#[test]
fn a_root_that_is_found_elsewhere_in_another_is_told_of_there() {
    let (_dir, place) = place();
    let [outer, moving, new] = ["outer", "moving", "new"].map(|name| place.join(name));
    fs::create_dir(&outer).unwrap();
    fs::create_dir_all(moving.join("sub")).unwrap();
    fs::create_dir_all(new.join("above")).unwrap();
    fs::write(moving.join("sub/file"), "").unwrap();
    let there = outer.join("new/above/moved");
    let (from, to) = (moving.clone(), there.clone());
    // Just before the directory is looked at that it moves into.
    let filter = move |dir: &Path| dir != Path::new("new/above") || fs::rename(&from, &to).is_ok() || to.exists();
    let mut watched = Watched::open(Tree::builder(&outer).root(&moving).filter(filter));
    fs::rename(&new, outer.join("new")).unwrap();
    let changes = watched.changes();
    let told = [
        outer.join("new/above"),
        there.clone(),
        there.join("sub"),
        there.join("sub/file"),
    ];
    assert_eq!(paths(&changes, Mask::CREATE), told);
    let uncovered = watched.tree.uncovered();
    assert_eq!(uncovered.len(), 1);
    assert_eq!(
        (&uncovered[0].path, uncovered[0].error.kind()),
        (&moving, ErrorKind::NotFound)
    );
    fs::write(there.join("sub/late"), "").unwrap();
    assert_eq!(made(&mut watched), [there.join("sub/late")]);
    watched.settle();
    assert_watched_exactly(&outer);
}

/// A directory that is a root, and one in which another root is, that is to come to the first.
fn two_places(place: &Path, below: &str) -> (PathBuf, PathBuf) {
    let (outer, above) = (place.join("outer"), place.join("above"));
    fs::create_dir(&outer).unwrap();
    fs::create_dir_all(above.join(below)).unwrap();
    (outer, above)
}

/// What is said to be missing, which is all that is not covered.
fn gone(changes: &[OwnedChange]) -> Vec<PathBuf> {
    let said = changes
        .iter()
        .filter_map(|change| Some((change.path()?, change.uncovered()?)));
    let gone = |(path, error): (PathBuf, &ringwatch::Error)| {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        path
    };
    said.map(gone).collect()
}

/// Nobody had told the root that it has moved.
#[test]
fn a_root_that_came_to_another_with_a_directory_above_it_is_told_of_there() {
    let (_dir, place) = place();
    let (outer, above) = two_places(&place, "root/sub");
    let root = above.join("root");
    let mut watched = Watched::open(Tree::builder(&outer).root(&root));
    let there = outer.join("there");
    fs::rename(&above, &there).unwrap();
    let changes = watched.changes();
    assert_eq!(
        paths(&changes, Mask::CREATE),
        [there.join("root"), there.join("root/sub")]
    );
    assert_eq!(gone(&changes), [root]);
    fs::write(there.join("root/sub/late"), "").unwrap();
    assert_eq!(made(&mut watched), [there.join("root/sub/late")]);
    watched.settle();
    assert_watched_exactly(&outer);
}

#[test]
fn a_root_that_is_a_file_and_came_to_another_is_told_of_there_and_waited_for_where_it_was() {
    let (_dir, place) = place();
    let (outer, above) = two_places(&place, "dir");
    let file = above.join("dir/file");
    fs::write(&file, "").unwrap();
    let mut watched = Watched::open(Tree::builder(&outer).root(&file).await_missing_roots(true));
    let there = outer.join("there");
    fs::rename(&above, &there).unwrap();
    let changes = watched.changes();
    assert_eq!(
        paths(&changes, Mask::CREATE),
        [there.join("dir"), there.join("dir/file")]
    );
    assert_eq!(gone(&changes), [&*file]);
    fs::create_dir_all(above.join("dir")).unwrap();
    fs::write(&file, "").unwrap();
    watched.wait_for(|change| change.path().as_ref() == Some(&file));
    fs::write(there.join("dir/file"), "x").unwrap();
    let written = paths(&watched.changes(), Mask::CLOSE_WRITE);
    assert_eq!(written.last(), Some(&there.join("dir/file")));
}

/// Its own path leads to where nobody may look.
#[test]
fn a_root_that_came_to_another_is_told_of_there_whatever_is_where_it_was() {
    let dir = tempdir().unwrap();
    mode(dir.path(), 0o777);
    child::as_nobody(|| {
        let (outer, above) = two_places(dir.path(), "root/sub");
        let root = above.join("root");
        let forbidden = above.clone();
        // Before what has come is looked at.
        let filter = move |dir: &Path| {
            if dir == Path::new("there") && fs::create_dir(&forbidden).is_ok() {
                mode(&forbidden, 0o000);
            }
            true
        };
        let mut watched = Watched::open(Tree::builder(&outer).root(&root).filter(filter));
        let there = outer.join("there");
        fs::rename(&above, &there).unwrap();
        let changes = watched.changes();
        assert_eq!(
            paths(&changes, Mask::CREATE),
            [there.join("root"), there.join("root/sub")]
        );
        let said: Vec<_> = changes.iter().filter_map(OwnedChange::uncovered).collect();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].kind(), ErrorKind::PermissionDenied);
        fs::write(there.join("root/sub/late"), "").unwrap();
        assert_eq!(made(&mut watched), [there.join("root/sub/late")]);
        mode(&above, 0o755);
        watched.wait_for(|change| {
            change
                .uncovered()
                .is_some_and(|error| error.kind() == ErrorKind::NotFound)
        });
        watched.settle();
        assert_watched_exactly(&outer);
    });
}

/// Who tells of it did not list it.
#[test]
fn what_goes_from_a_root_while_another_takes_it_is_told() {
    let (_dir, place) = place();
    let root = place.join("a");
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(place.join("b/asked")).unwrap();
    fs::create_dir_all(root.join("sub")).unwrap();
    let names = ["removed", "renamed", "away", "stays"].map(|name| root.join(name));
    names.iter().for_each(|name| fs::write(name, "").unwrap());
    let [removed, renamed, away, _] = names.clone();
    let outside = place.with_file_name("away");
    // While the outer root is looked at, in which this one is met.
    let filter = move |dir: &Path| {
        if dir == Path::new("b/asked") && removed.exists() {
            fs::remove_file(&removed).unwrap();
            fs::rename(&renamed, renamed.with_file_name("new")).unwrap();
            fs::rename(&away, &outside).unwrap();
        }
        true
    };
    let mut watched = Watched::open(Tree::builder(&root).filter(filter));
    watched.tree.add_root(&place).unwrap();
    let changes = watched.changes();
    assert_eq!(paths(&changes, Mask::DELETE), names[..1]);
    assert_eq!(paths(&changes, Mask::MOVED_FROM), names[1..3]);
    assert_eq!(paths(&changes, Mask::MOVED_TO), [root.join("new")]);
    watched.settle();
    assert_watched_exactly(&place);
}

#[test]
fn a_root_that_another_covered_is_looked_at_when_it_is_unmounted() {
    let name = "moved_roots::a_root_that_another_covered_is_looked_at_when_it_is_unmounted";
    in_namespaces(name, || {
        let (_dir, place) = place();
        let (outer, root) = (place.join("outer"), place.join("root"));
        fs::create_dir_all(outer.join("a")).unwrap();
        fs::create_dir(&root).unwrap();
        if let Err(refused) = child::mount_again(&outer.join("a"), &root) {
            return crate::support::skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
        }
        let mut watched = Watched::open(Tree::builder(&outer).root(&root));
        fs::write(root.join("file"), "").unwrap();
        assert_eq!(made(&mut watched), [outer.join("a/file")]);
        child::unmount(&root).unwrap();
        watched.changes();
        fs::write(root.join("new"), "").unwrap();
        assert_eq!(made(&mut watched), [root.join("new")]);
    });
}
