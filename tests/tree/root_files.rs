//! Roots that are files: each is watched through its directory, together with others that are there.

use std::fs;
use std::path::{Path, PathBuf};

use ringwatch::Mask;
use ringwatch::tree::{OwnedChange, Recovery, Tree};

use crate::model::Watched;
use crate::roots::{made, place};
use crate::scenarios::paths;
use crate::support::exchange::exchange;

#[test]
fn a_root_that_is_a_file_survives_being_replaced() {
    let (_dir, place) = place();
    let file = place.join("settings.toml");
    fs::write(&file, "old").unwrap();
    fs::write(place.join("unheard"), "").unwrap();
    let mut watched = Watched::open(Tree::builder(&file));
    for round in 0..3 {
        fs::write(place.join("settings.toml~"), "new").unwrap();
        fs::rename(place.join("settings.toml~"), &file).unwrap();
        fs::write(place.join("unheard"), round.to_string()).unwrap();
        let changes = watched.changes();
        assert_eq!(paths(&changes, Mask::MOVED_TO), std::slice::from_ref(&file));
        assert_eq!(changes.len(), 1, "{changes:?}");
    }
    fs::write(&file, "newer").unwrap();
    assert_eq!(
        paths(&watched.changes(), Mask::CLOSE_WRITE),
        std::slice::from_ref(&file)
    );
    // Deleted and made again, also with its directory.
    fs::remove_file(&file).unwrap();
    assert_eq!(paths(&watched.changes(), Mask::DELETE), std::slice::from_ref(&file));
    fs::write(&file, "again").unwrap();
    assert_eq!(made(&mut watched), [file]);
}

#[test]
fn a_root_that_is_a_file_is_awaited_and_found_wherever_it_went() {
    for early in [false, true] {
        let (_dir, place) = place();
        let file = place.join("conf/settings");
        if early {
            fs::create_dir(place.join("conf")).unwrap();
            fs::write(&file, "").unwrap();
        }
        let mut watched = Watched::open(Tree::builder(&file).await_missing_roots(true));
        assert_eq!(watched.tree.uncovered().len(), usize::from(!early));
        for _ in 0..2 {
            if place.join("conf").exists() {
                fs::rename(place.join("conf"), place.join("away")).unwrap();
                watched.wait_for(|change| change.uncovered().is_some());
                fs::remove_dir_all(place.join("away")).unwrap();
            }
            fs::create_dir(place.join("conf")).unwrap();
            fs::write(place.join("conf/unheard"), "").unwrap();
            fs::write(&file, "").unwrap();
            let is_made =
                |change: &OwnedChange| change.mask().contains(Mask::CREATE) && change.path() == Some(file.clone());
            watched.wait_for(is_made);
            watched.changes();
            fs::write(place.join("conf/unheard"), "x").unwrap();
            fs::write(&file, "x").unwrap();
            assert_eq!(
                paths(&watched.changes(), Mask::CLOSE_WRITE),
                std::slice::from_ref(&file)
            );
            assert!(watched.tree.uncovered().is_empty());
        }
    }
}

#[test]
fn a_root_may_be_a_file_once_and_a_directory_then() {
    let (_dir, place) = place();
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
    fs::remove_dir(&root).unwrap();
    watched.wait_for(|change| change.uncovered().is_some());
    fs::write(&root, "").unwrap();
    watched.wait_for(|change| change.path().as_ref() == Some(&root) && change.mask() == Mask::CREATE);
    watched.changes();
    let sessions = watched.tree.stats().sessions;
    fs::write(&root, "x").unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), [root]);
    assert_eq!(
        watched.tree.stats().sessions,
        sessions,
        "it is not looked for again and again"
    );
}

#[test]
fn files_of_one_directory_are_roots_of_their_own() {
    let (_dir, place) = place();
    let files = made_in(&place, ["a", "b", "c"]);
    let mut watched = Watched::open(Tree::builder(&files[0]));
    watched.tree.add_root(&files[1]).unwrap();
    assert_eq!(
        made(&mut watched),
        [files[1].clone()],
        "what is there of a new root is reported"
    );
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    assert_eq!(paths(&watched.changes(), Mask::DELETE), files[..2]);
    files.iter().for_each(|file| fs::write(file, "").unwrap());
    assert_eq!(made(&mut watched), files[..2]);
    // As a whole, and not any more.
    watched.tree.add_root(&place).unwrap();
    watched.changes();
    fs::write(&files[2], "x").unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), files[2..]);
    watched.tree.remove_root(&place).unwrap();
    watched.changes();
    watched.tree.remove_root(&files[0]).unwrap();
    files.iter().for_each(|file| fs::write(file, "y").unwrap());
    assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), files[1..2]);
}

#[test]
fn roots_that_are_files_share_the_watch_of_their_directory() {
    let (_dir, place) = place();
    let files = ["a/1", "b/1", "b/2", "a/2", "b/3"].map(|name| place.join(name));
    for file in &files {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "").unwrap();
    }
    let builder = files[1..]
        .iter()
        .fold(Tree::builder(&files[0]), |builder, file| builder.root(file));
    let mut watched = Watched::open(builder);
    assert_eq!(watched.tree.stats().directories, 2);
    for file in &files {
        fs::write(file, "x").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), std::slice::from_ref(file));
    }
    watched.tree.remove_root(&files[1]).unwrap();
    fs::write(&files[1], "unheard").unwrap();
    fs::write(&files[2], "y").unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), [files[2].clone()]);
}

#[test]
fn a_missing_root_may_turn_out_to_be_a_file() {
    let (_dir, place) = place();
    let root = place.join("not/yet/settings");
    let mut watched = Watched::open(Tree::builder(&root).await_missing_roots(true));
    for round in 0..2 {
        fs::create_dir_all(root.parent().unwrap()).unwrap();
        fs::write(&root, "").unwrap();
        watched.wait_for(|change| change.path() == Some(root.clone()));
        watched.changes();
        assert!(watched.tree.uncovered().is_empty(), "in round {round}");
        fs::write(root.with_file_name("unheard"), "").unwrap();
        fs::write(&root, "x").unwrap();
        assert_eq!(
            paths(&watched.changes(), Mask::CLOSE_WRITE),
            std::slice::from_ref(&root)
        );
        // It comes and goes, and its directory stays.
        fs::remove_file(&root).unwrap();
        assert_eq!(paths(&watched.changes(), Mask::DELETE), std::slice::from_ref(&root));
        fs::write(&root, "").unwrap();
        assert_eq!(made(&mut watched), std::slice::from_ref(&root));
        fs::remove_dir_all(place.join("not")).unwrap();
        watched.wait_for(|change| change.uncovered().is_some());
    }
    assert_eq!(watched.tree.roots(), [root]);
}

/// Files that are there, without contents.
fn made_in<const N: usize>(dir: &Path, names: [&str; N]) -> [PathBuf; N] {
    let files = names.map(|name| dir.join(name));
    files.iter().for_each(|file| fs::write(file, "").unwrap());
    files
}

/// What is written to each is told under the path that it was given as.
fn assert_heard(watched: &mut Watched, files: &[PathBuf]) {
    watched.changes();
    for file in files {
        fs::write(file, "x").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CLOSE_WRITE), std::slice::from_ref(file));
    }
    assert!(watched.tree.uncovered().is_empty());
}

#[test]
fn files_whose_directory_has_several_paths_are_each_told_of_under_their_own() {
    let (_dir, place) = place();
    fs::create_dir(place.join("dir")).unwrap();
    std::os::unix::fs::symlink("dir", place.join("link")).unwrap();
    let names = ["dir/1", "dir/../dir/2", "link/3"];
    let files = made_in(&place, names);
    let builder = Tree::builder(&files[0]).root(&files[1]).await_missing_roots(true);
    let mut watched = Watched::open(builder);
    assert_eq!(watched.tree.stats().directories, 1);
    assert_heard(&mut watched, &files[..2]);
    watched.tree.add_root(&files[2]).unwrap();
    assert_eq!(made(&mut watched), [files[2].clone()]);
    assert_heard(&mut watched, &files);
    // The first, which has the watch, goes.
    watched.tree.remove_root(&files[0]).unwrap();
    assert!(watched.changes().is_empty(), "what lies in others goes on");
    assert_heard(&mut watched, &files[1..]);
    // All of them go, and are waited for.
    fs::remove_dir_all(place.join("dir")).unwrap();
    watched.wait_for(|change| change.uncovered().is_some());
    watched.changes();
    fs::create_dir(place.join("dir")).unwrap();
    made_in(&place, names);
    assert_heard(&mut watched, &files[1..]);
}

#[test]
fn files_that_were_covered_as_a_whole_are_all_roots_again_behind_that() {
    let (_dir, place) = place();
    let files = made_in(&place, ["1", "2"]);
    let mut watched = Watched::open(Tree::builder(&files[0]));
    watched.tree.add_root(&place).unwrap();
    watched.changes();
    // Its directory is known as that of the first no more.
    watched.tree.add_root(&files[1]).unwrap();
    watched.changes();
    watched.tree.remove_root(&place).unwrap();
    assert_heard(&mut watched, &files);
}

#[test]
fn files_of_a_directory_that_comes_back_are_all_found() {
    for awaits in [true, false] {
        let (_dir, place) = place();
        let dir = place.join("dir");
        let make = || {
            fs::create_dir(&dir).unwrap();
            made_in(&dir, ["1", "2", "3"])
        };
        let files = make();
        let builder = Tree::builder(&files[0]).root(&files[1]).await_missing_roots(awaits);
        let mut watched = Watched::open(builder);
        fs::remove_dir_all(&dir).unwrap();
        watched.wait_for(|change| change.uncovered().is_some());
        watched.changes();
        make();
        if !awaits {
            // The remedy.
            files[..2].iter().for_each(|file| watched.tree.add_root(file).unwrap());
        }
        // One that was none before.
        watched.tree.add_root(&files[2]).unwrap();
        let found: Vec<_> = made(&mut watched);
        let times = |file: &&PathBuf| found.iter().filter(|found| found == file).count();
        assert_eq!(files.each_ref().map(|file| times(&file)), [1; 3], "{found:?}");
        assert_heard(&mut watched, &files);
    }
}

#[test]
fn files_that_are_there_when_a_tree_is_opened_are_reported_once() {
    let (_dir, place) = place();
    let files = made_in(&place, ["1", "2", "3"]);
    let builder = Tree::builder(&files[0]).root(&files[1]).root(&files[2]);
    let mut watched = Watched::open(builder.report_existing(true));
    assert_eq!(made(&mut watched), files);
}

/// `RENAME_EXCHANGE` looks like a rename to it and one from it.
#[test]
fn a_root_that_is_a_file_is_there_behind_an_exchange() {
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let (_dir, place) = place();
        let (file, other) = (place.join("file"), place.join("other"));
        fs::write(&file, "").unwrap();
        fs::write(&other, "new").unwrap();
        let mut watched = Watched::open(Tree::builder(&file).recovery(recovery));
        for _ in 0..3 {
            exchange(&other, &file).unwrap();
            let mut there = true;
            for change in watched.changes() {
                assert_eq!(change.path().as_ref(), Some(&file));
                let mask = change.mask();
                if mask.intersects(Mask::CREATE | Mask::MOVED_TO) {
                    there = true;
                } else if mask.intersects(Mask::DELETE | Mask::MOVED_FROM) {
                    there = false;
                }
            }
            assert!(there);
        }
        fs::rename(&file, place.join("away")).unwrap();
        assert_eq!(paths(&watched.changes(), Mask::MOVED_FROM), [&*file]);
    }
}
