//! What a tree takes, by its own figures.

use std::fs;
use std::path::Path;

use ringwatch::Mask;
use ringwatch::tree::{Recovery, Tree, TreeStats};

use crate::model::{Watched, opened};
use crate::round::place;
use crate::scenarios::paths;

/// As many as a machine with little memory has inodes for.
const DIRECTORIES: usize = 1_000;
const FILES: usize = 4_000;

/// Forty directories with the others in them, and four files in each.
fn plant(root: &Path) {
    for number in 0..DIRECTORIES - 40 {
        let dir = root.join(format!("{}/{number}", number % 40));
        fs::create_dir_all(&dir).expect("a directory");
    }
    for number in 0..FILES {
        let dir = number % (DIRECTORIES - 40);
        fs::write(root.join(format!("{}/{dir}/{number}", dir % 40)), "").expect("a file");
    }
}

fn stats(root: &Path, recovery: Recovery) -> TreeStats {
    let stats = opened(Tree::builder(root).recovery(recovery)).stats();
    // And the root.
    assert_eq!(stats.directories, DIRECTORIES + 1);
    stats
}

#[test]
fn a_directory_takes_at_most_150_bytes_beside_its_name_and_a_file_64() {
    let dir = place();
    let root = dir.path().join("root");
    plant(&root);
    let (mark, diff) = (stats(&root, Recovery::Mark), stats(&root, Recovery::Diff));
    assert_eq!((mark.files, diff.files), (0, FILES));
    let directory = mark.memory / DIRECTORIES;
    let file = (diff.memory - mark.memory) / FILES;
    assert!(directory <= 150, "{directory} bytes a directory");
    assert!(file <= 64, "{file} bytes a file");
    // Names are short here: what they take is what they are, their length, and room to grow.
    assert!(diff.name_memory < 2 * (DIRECTORIES + FILES) * 8, "{}", diff.name_memory);
}

#[test]
fn a_rename_of_a_directory_looks_at_nothing_below() {
    let dir = place();
    let root = dir.path().join("root");
    plant(&root.join("old"));
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let mut watched = Watched::open(Tree::builder(&root).recovery(recovery));
        let before = watched.tree.stats();
        fs::rename(root.join("old"), root.join("new")).unwrap();
        let changes = watched.changes();
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(changes[1].renamed_from(), Some(&*root.join("old")));
        let after = watched.tree.stats();
        assert_eq!(
            (after.sessions, after.directories, after.files, after.releasing),
            (before.sessions, before.directories, before.files, 0)
        );
        fs::write(root.join("new/7/7/late"), "").unwrap();
        assert_eq!(paths(&watched.changes(), Mask::CREATE), [root.join("new/7/7/late")]);
        fs::rename(root.join("new"), root.join("old")).unwrap();
        fs::remove_file(root.join("old/7/7/late")).unwrap();
    }
}

#[test]
fn names_that_are_not_there_any_more_take_no_memory() {
    const LARGE: usize = 512 * 1024;
    let dir = place();
    let root = dir.path().join("root");
    let [one, other] = ["a", "b"].map(|letter| root.join(letter.repeat(200)));
    for is_dir in [true, false] {
        fs::create_dir_all(&root).unwrap();
        match is_dir {
            true => fs::create_dir(&one).unwrap(),
            false => fs::write(&one, "").unwrap(),
        }
        let mut watched = Watched::open(Tree::builder(&root).recovery(Recovery::Diff));
        for _ in 0..20 {
            for _ in 0..100 {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
            watched.changes();
        }
        assert!(
            watched.tree.stats().name_memory < LARGE,
            "renamed: {:?}",
            watched.tree.stats()
        );
        for number in 0..4_000 {
            let brief = root.join(format!("{number:0200}"));
            match is_dir {
                true => fs::create_dir(&brief).and_then(|()| fs::remove_dir(&brief)).unwrap(),
                false => fs::write(&brief, "").and_then(|()| fs::remove_file(&brief)).unwrap(),
            }
            if number % 100 == 0 {
                watched.changes();
            }
        }
        watched.changes();
        assert!(
            watched.tree.stats().name_memory < LARGE,
            "made and removed: {:?}",
            watched.tree.stats()
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
