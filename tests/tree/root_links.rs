//! Roots that are symbolic links: to a directory that is a root as well, and to a file.

use std::fs;
use std::os::unix::fs::symlink;

use ringwatch::tree::{OwnedChange, Recovery, Tree};
use ringwatch::{ErrorKind, Mask};

use crate::model::Watched;
use crate::roots::{made, place};
use crate::scenarios::{assert_watched_exactly, paths};

#[test]
fn a_directory_that_is_two_roots_is_lost_and_found_by_both() {
    let (_dir, place) = place();
    let (root, link) = (place.join("root"), place.join("link"));
    symlink(&root, &link).unwrap();
    for renamed in [false, true] {
        fs::create_dir(&root).unwrap();
        let mut watched = Watched::open(Tree::builder(&root).root(&link));
        assert_eq!(watched.tree.stats().directories, 1);
        match renamed {
            true => fs::rename(&root, place.join("elsewhere")).unwrap(),
            false => fs::remove_dir(&root).unwrap(),
        }
        let changes = watched.changes();
        let said = changes.iter().filter(|change| change.uncovered().is_some());
        let said: Vec<_> = said.filter_map(OwnedChange::path).collect();
        assert_eq!(said, [root.clone(), link.clone()], "{changes:?}");
        assert_eq!(watched.tree.uncovered().len(), 2);
        fs::create_dir(&root).unwrap();
        watched.tree.add_root(&link).unwrap();
        watched.changes();
        fs::write(root.join("file"), "").unwrap();
        assert_eq!(made(&mut watched), [link.join("file")]);
        fs::remove_dir_all(&root).unwrap();
    }
}

/// It is not missing: to wait for it would be in vain.
#[test]
fn a_root_that_leads_around_is_said_to() {
    let (_dir, place) = place();
    let [one, other] = ["one", "other"].map(|name| place.join(name));
    symlink(&one, &other).unwrap();
    symlink(&other, &one).unwrap();
    let refused = Tree::builder(&one).open().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
    assert!(refused.to_string().contains("lead around"), "{refused}");
    let mut watched = Watched::open(Tree::builder(place.join("root")).root(&one).await_missing_roots(true));
    let said = watched.tree.uncovered();
    let kinds: Vec<_> = said
        .iter()
        .filter(|said| said.path == one)
        .map(|said| said.error.kind())
        .collect();
    assert_eq!(kinds, [ErrorKind::InvalidInput], "{said:?}");
    fs::remove_file(&one).unwrap();
    fs::create_dir(&one).unwrap();
    watched.tree.retry_uncovered().unwrap();
    fs::write(one.join("file"), "").unwrap();
    assert_eq!(made(&mut watched), [one.join("file")]);
}

/// Not under the path of the root that was there first, which had told of it.
#[test]
fn what_is_in_a_root_is_told_under_the_other_path_it_has_in_a_root_that_is_added() {
    let (_dir, place) = place();
    let (outer, link) = (place.join("outer"), place.join("link"));
    fs::create_dir_all(outer.join("a/sub")).unwrap();
    fs::write(outer.join("a/sub/file"), "").unwrap();
    symlink(outer.join("a"), &link).unwrap();
    let told = ["a", "a/sub", "a/sub/file"].map(|name| outer.join(name));
    for (inner, expected) in [(link, &told[..]), (outer.join("a"), &told[..1])] {
        let mut watched = Watched::open(Tree::builder(&inner));
        watched.tree.add_root(&outer).unwrap();
        assert_eq!(made(&mut watched), expected, "{inner:?} first");
        fs::write(inner.join("sub/late"), "").unwrap();
        assert_eq!(made(&mut watched), [outer.join("a/sub/late")]);
        watched.settle();
        assert_watched_exactly(&outer);
        fs::remove_file(outer.join("a/sub/late")).unwrap();
        watched.changes();
        watched.tree.remove_root(&outer).unwrap();
        // What was told under another path is told again.
        let below = ["sub", "sub/file"].map(|name| inner.join(name));
        let told = if inner.starts_with(&outer) { &[] } else { &below[..] };
        assert_eq!(made(&mut watched), told, "it is covered for itself again");
        fs::write(inner.join("sub/late"), "").unwrap();
        assert_eq!(made(&mut watched), [inner.join("sub/late")]);
        fs::remove_file(inner.join("sub/late")).unwrap();
    }
}

#[test]
fn a_root_that_is_a_link_to_a_file_is_that_file() {
    let (_dir, place) = place();
    let (file, link) = (place.join("there/settings"), place.join("settings"));
    fs::create_dir(place.join("there")).unwrap();
    fs::write(&file, "").unwrap();
    symlink("there/settings", &link).unwrap();
    let file = fs::canonicalize(&file).unwrap();
    let mut watched = Watched::open(Tree::builder(&link));
    assert_eq!(watched.tree.roots(), std::slice::from_ref(&link));
    for _ in 0..2 {
        fs::write(&link, "x").unwrap();
        fs::write(file.with_file_name("unheard"), "x").unwrap();
        assert_eq!(
            paths(&watched.changes(), Mask::CLOSE_WRITE),
            std::slice::from_ref(&file)
        );
        fs::write(file.with_file_name("new"), "y").unwrap();
        fs::rename(file.with_file_name("new"), &file).unwrap();
        assert_eq!(paths(&watched.changes(), Mask::MOVED_TO), std::slice::from_ref(&file));
    }
    watched.tree.remove_root(&link).unwrap();
    fs::write(&link, "x").unwrap();
    assert!(watched.changes().is_empty());
    // Added while the tree is running, it is reported.
    watched.tree.add_root(&link).unwrap();
    assert_eq!(made(&mut watched), std::slice::from_ref(&file));
    // The file itself is a root as well: each change is reported once.
    watched.tree.add_root(&file).unwrap();
    assert!(watched.changes().is_empty());
    // Of a file that may be written any moment, nothing is known: if it is listed twice, it has changed.
    let coming = std::time::SystemTime::now() + std::time::Duration::from_secs(1_000);
    let opened = fs::File::options().append(true).open(&file).unwrap();
    opened.set_modified(coming).unwrap();
    let builder = Tree::builder(&file).root(&link).recovery(Recovery::Diff);
    let mut both = Watched::open(builder.report_existing(true));
    assert_eq!(both.changes().len(), 1);
    for watched in [&mut watched, &mut both] {
        watched.changes();
        fs::write(&link, "x").unwrap();
        assert_eq!(
            paths(&watched.changes(), Mask::CLOSE_WRITE),
            std::slice::from_ref(&file)
        );
        watched.tree.remove_root(&file).unwrap();
        fs::write(&link, "x").unwrap();
        assert_eq!(
            paths(&watched.changes(), Mask::CLOSE_WRITE),
            std::slice::from_ref(&file)
        );
    }
}
