//! Roots in one another, and such as are files once and directories then: what is told of them makes sense where it is told, and is
//! right in the end.

use std::fs;
use std::path::Path;
use std::thread;

use ringwatch::tree::Recovery;
use tempfile::{TempDir, tempdir};

use crate::known::{ANCHOR, Follower, SKIPPED};
use crate::model::opened;
use crate::support::exchange::exchange;

fn base() -> TempDir {
    let dir = tempdir().expect("a directory");
    fs::create_dir(dir.path().join(ANCHOR)).expect("a directory");
    dir
}

/// Both recoveries, and whether roots that are missing are waited for.
fn manners() -> impl Iterator<Item = (Recovery, bool)> {
    [Recovery::Mark, Recovery::Diff]
        .into_iter()
        .flat_map(|recovery| [true, false].map(|awaits| (recovery, awaits)))
}

fn follow(base: &Path, root: &str, (recovery, awaits): (Recovery, bool), skips: bool) -> Follower {
    let existing = false;
    Follower::new(base, root, recovery, skips, existing, |builder| {
        opened(builder.await_missing_roots(awaits))
    })
}

#[track_caller]
fn check(follower: &mut Follower) {
    if let Err(fault) = follower.check() {
        panic!("{}\n{fault}", follower.known.log());
    }
}

/// With the same names wherever it is, and as many.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deep")).expect("directories");
    for file in ["file", "sub/file", "sub/deep/file"] {
        fs::write(dir.join(file), "").expect("a file");
    }
}

#[test]
fn a_root_is_covered_as_the_file_or_the_directory_that_it_is() {
    for (recovery, awaits) in manners() {
        for outer in [false, true] {
            let dir = base();
            let root = dir.path().join("place/root");
            fs::create_dir(dir.path().join("place")).unwrap();
            fs::write(&root, "").unwrap();
            let mut follower = follow(dir.path(), "place/root", (recovery, awaits), false);
            for _ in 0..3 {
                if outer {
                    follower.add("place").unwrap();
                }
                fs::remove_file(&root).unwrap();
                fill(&root);
                if outer {
                    follower.remove("place").unwrap();
                }
                check(&mut follower);
                fs::write(root.join("sub/late"), "").unwrap();
                check(&mut follower);
                if !awaits {
                    break;
                }
                fs::remove_dir_all(&root).unwrap();
                fs::write(&root, "").unwrap();
                check(&mut follower);
            }
        }
    }
}

/// The kernel tells of nothing in the meantime.
#[test]
fn files_that_are_roots_are_deleted_while_the_one_above_them_is_added_and_removed() {
    const FILES: usize = 200;
    for manner in manners() {
        let dir = base();
        fs::create_dir(dir.path().join("place")).unwrap();
        let names: Vec<_> = (0..FILES).map(|number| format!("place/{number}")).collect();
        let write = || {
            names
                .iter()
                .for_each(|name| fs::write(dir.path().join(name), "").unwrap())
        };
        let delete = |name: &String| fs::remove_file(dir.path().join(name)).unwrap();
        write();
        let mut follower = follow(dir.path(), &names[0], manner, false);
        names[1..].iter().for_each(|name| follower.add(name).unwrap());
        check(&mut follower);
        for _ in 0..4 {
            thread::scope(|scope| {
                scope.spawn(|| names[..FILES / 2].iter().for_each(delete));
                follower.add("place").unwrap();
            });
            check(&mut follower);
            thread::scope(|scope| {
                scope.spawn(|| names[FILES / 2..].iter().for_each(delete));
                follower.remove("place").unwrap();
            });
            check(&mut follower);
            write();
            check(&mut follower);
        }
    }
}

/// A directory above it was renamed, of which nobody tells.
#[test]
fn a_root_whose_path_leads_elsewhere_is_told_anew_when_one_above_it_is_added() {
    for manner in manners() {
        let dir = base();
        let place = |name: &str| dir.path().join(name);
        fill(&place("in/above/root"));
        fs::write(place("in/above/root/old"), "").unwrap();
        let mut follower = follow(dir.path(), "in/above/root", manner, false);
        for round in 0..2 {
            fs::rename(place("in/above"), place(&format!("out-{round}"))).unwrap();
            fill(&place("in/above/root"));
            follower.add("in").unwrap();
            check(&mut follower);
            follower.remove("in").unwrap();
            check(&mut follower);
        }
    }
}

/// The same, and a file is there now.
#[test]
fn a_root_whose_path_leads_to_a_file_is_not_told_of_when_one_above_it_is_added() {
    for manner in manners() {
        let dir = base();
        let place = |name: &str| dir.path().join(name);
        fill(&place("in/above/root"));
        let mut follower = follow(dir.path(), "in/above/root", manner, false);
        follower.add("in/above/root/sub").unwrap();
        check(&mut follower);
        fs::rename(place("in/above"), place("out")).unwrap();
        fs::create_dir(place("in/above")).unwrap();
        fs::write(place("in/above/root"), "").unwrap();
        follower.add("in").unwrap();
        follower.calm().unwrap();
        fs::write(place("out/root/sub/late"), "").unwrap();
        follower.remove("in/above/root").unwrap();
        check(&mut follower);
    }
}

/// What is made there later.
#[test]
fn a_root_whose_path_leads_elsewhere_is_not_told_of_once_that_is_made() {
    for manner in manners() {
        for root in ["in/above/root", "in/above/root/file"] {
            for later in ["in/above", "in/above/root"] {
                let dir = base();
                let place = |name: &str| dir.path().join(name);
                fill(&place("in/above/root"));
                let mut follower = follow(dir.path(), root, manner, false);
                fs::rename(place("in/above"), place("out")).unwrap();
                if later == "in/above/root" {
                    fs::create_dir(place("in/above")).unwrap();
                }
                follower.add("in").unwrap();
                follower.calm().unwrap();
                fs::write(place(later), "").unwrap();
                if !manner.1 {
                    // It would have to be added again.
                    follower.calm().unwrap();
                    follower.remove(root).unwrap();
                }
                check(&mut follower);
                fs::write(place("out/root/sub/late"), "").unwrap();
                check(&mut follower);
            }
        }
    }
}

/// Files of one directory, which is another root, and another directory each time.
#[test]
fn files_that_are_roots_are_told_of_once_where_their_directory_is_exchanged() {
    for manner in manners() {
        let dir = base();
        let place = |name: &str| dir.path().join(name);
        fill(&place("in/above/root"));
        fill(&place("out/above/root"));
        let mut follower = follow(dir.path(), "in/above/root", manner, false);
        for round in 0..6 {
            exchange(&place("in"), &place("out")).unwrap();
            match round % 2 {
                0 => follower.add("in/above/root/file").unwrap(),
                _ => follower.remove("in/above/root/file").unwrap(),
            }
            follower.calm().unwrap();
            if round == 3 {
                follower.retry().unwrap();
            }
        }
        follower.retry().unwrap();
        check(&mut follower);
    }
}

#[test]
fn a_root_that_the_one_above_it_refuses_is_told_of_wherever_it_goes() {
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let dir = base();
        let place = |name: &str| dir.path().join("place").join(name);
        fill(&place(SKIPPED));
        let mut follower = follow(dir.path(), "place", (recovery, true), true);
        follower.add("place/.skip").unwrap();
        check(&mut follower);
        for _ in 0..2 {
            // Wanted, and not.
            follower.refilter().unwrap();
            check(&mut follower);
            follower.refilter().unwrap();
            check(&mut follower);
            // To where it is wanted, and to where it is not.
            for other in ["wanted", "sub/.skip"] {
                fs::create_dir_all(place("sub")).unwrap();
                fs::rename(place(SKIPPED), place(other)).unwrap();
                check(&mut follower);
                fs::rename(place(other), place(SKIPPED)).unwrap();
                check(&mut follower);
            }
            fs::remove_dir_all(place(SKIPPED)).unwrap();
            fill(&place(SKIPPED));
            check(&mut follower);
        }
    }
}

#[test]
fn a_root_that_the_one_above_it_refuses_is_renamed_while_it_is_removed() {
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let dir = base();
        let [refused, wanted] = [SKIPPED, "wanted"].map(|name| dir.path().join("place").join(name));
        fill(&refused);
        let mut follower = follow(dir.path(), "place", (recovery, true), true);
        for _ in 0..40 {
            follower.add("place/.skip").unwrap();
            check(&mut follower);
            thread::scope(|scope| {
                scope.spawn(|| fs::rename(&refused, &wanted).unwrap());
                if let Err(fault) = follower.remove("place/.skip") {
                    panic!("{}\n{fault}", follower.known.log());
                }
            });
            check(&mut follower);
            fs::rename(&wanted, &refused).unwrap();
        }
    }
}

#[test]
fn of_two_roots_in_one_another_one_is_added_and_the_other_removed_at_once() {
    for manner in manners() {
        let dir = base();
        fill(&dir.path().join("place/root"));
        let mut follower = follow(dir.path(), "place/root", manner, false);
        for round in 0..40 {
            let late = |from| dir.path().join(format!("place/root/sub/{from}-{round}"));
            follower.add("place").unwrap();
            fs::write(late("added"), "").unwrap();
            follower.remove("place/root").unwrap();
            check(&mut follower);
            follower.add("place/root").unwrap();
            fs::write(late("removed"), "").unwrap();
            follower.remove("place").unwrap();
            check(&mut follower);
        }
    }
}

#[test]
fn a_missing_root_is_made_while_the_one_above_it_is_removed() {
    for recovery in [Recovery::Mark, Recovery::Diff] {
        let dir = base();
        let root = dir.path().join("place/root");
        fs::create_dir(dir.path().join("place")).unwrap();
        let mut follower = follow(dir.path(), "place", (recovery, true), false);
        follower.add("place/root").unwrap();
        for round in 0..40 {
            thread::scope(|scope| {
                scope.spawn(|| match round % 2 {
                    0 => fill(&root),
                    _ => fs::write(&root, "").unwrap(),
                });
                follower.remove("place").unwrap();
            });
            check(&mut follower);
            follower.add("place").unwrap();
            check(&mut follower);
            match round % 2 {
                0 => fs::remove_dir_all(&root).unwrap(),
                _ => fs::remove_file(&root).unwrap(),
            }
            check(&mut follower);
        }
    }
}
