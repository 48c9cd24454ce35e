//! Roots with relative paths: they begin where the process was when the tree was opened, whichever thread looks them up.

use std::collections::BTreeSet;
use std::env::{current_dir, set_current_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ringwatch::Mask;
use ringwatch::tree::Tree;
use tempfile::tempdir;

use crate::model::Watched;
use crate::scenarios::paths;
use crate::support::child::in_child;

/// Wide enough that not all are open at once, and that there are helpers.
const WIDE: usize = 300;

fn assert_covered(tree: &Tree, directories: usize) {
    let uncovered = tree.uncovered();
    let first = uncovered.first().map(|one| one.error.to_string());
    assert_eq!((tree.stats().directories, first), (directories, None));
}

/// Goes to a directory of its own, which is kept.
fn go_to(dir: &Path) -> PathBuf {
    set_current_dir(dir).expect("it is there");
    current_dir().expect("it is there")
}

#[test]
fn a_wide_relative_root_is_covered_also_when_the_process_goes_elsewhere() {
    in_child(
        "relative::a_wide_relative_root_is_covered_also_when_the_process_goes_elsewhere",
        |_| {},
        || {
            let dir = tempdir().unwrap();
            let home = go_to(dir.path());
            (0..WIDE).for_each(|number| fs::create_dir_all(format!("src/{number}/a")).unwrap());
            let asked_at = Arc::new(Mutex::new(BTreeSet::new()));
            let noting = Arc::clone(&asked_at);
            let tree = Tree::builder("src").filter(move |_| {
                noting.lock().unwrap().insert(current_dir().unwrap());
                true
            });
            let mut watched = Watched::open(tree);
            assert_covered(&watched.tree, 1 + 2 * WIDE);
            assert_eq!(*asked_at.lock().unwrap(), BTreeSet::from([home.clone()]));
            // What is there has the same names.
            let elsewhere = tempdir().unwrap();
            fs::create_dir_all(elsewhere.path().join("src/0/b")).unwrap();
            go_to(elsewhere.path());
            let made = |number: usize| home.join(format!("src/{number}/b/c"));
            (0..WIDE).for_each(|number| fs::create_dir_all(made(number)).unwrap());
            let told: BTreeSet<PathBuf> = paths(&watched.changes(), Mask::CREATE).into_iter().collect();
            assert!((0..WIDE).all(|number| told.contains(Path::new(&format!("src/{number}/b/c")))));
            assert_covered(&watched.tree, 1 + 4 * WIDE);
            fs::create_dir(home.join("more")).unwrap();
            watched.tree.add_root("more").unwrap();
            watched.changes();
            assert_covered(&watched.tree, 2 + 4 * WIDE);
        },
    );
}

#[test]
fn none_of_many_relative_roots_is_looked_for_in_another() {
    in_child(
        "relative::none_of_many_relative_roots_is_looked_for_in_another",
        |_| {},
        || {
            const ROOTS: usize = 60;
            let dir = tempdir().unwrap();
            go_to(dir.path());
            let root = |number| format!("r{}", number % ROOTS);
            // In each there is what has the name of the next.
            (0..ROOTS).for_each(|number| fs::create_dir_all(format!("{}/{}", root(number), root(number + 1))).unwrap());
            let builder = (1..ROOTS).fold(Tree::builder(root(0)), |builder, number| builder.root(root(number)));
            let mut watched = Watched::open(builder);
            assert_covered(&watched.tree, 2 * ROOTS);
            (0..ROOTS).for_each(|number| fs::write(format!("{}/file", root(number)), "").unwrap());
            let told: BTreeSet<PathBuf> = paths(&watched.changes(), Mask::CREATE).into_iter().collect();
            let expected = (0..ROOTS).map(|number| PathBuf::from(format!("{}/file", root(number))));
            assert_eq!(told, expected.collect());
        },
    );
}
