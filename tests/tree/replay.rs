//! The replay property: what the changes add up to is what is on the disk, and every directory there is watched once,
//! under its path. It holds after any operations by any number of threads and processes, with `Recovery::Diff` also across
//! overflows.
//!
//! Each seed is one round: a random tree, some threads or processes with some hundred random operations each, a random
//! consumer. The number of seeds and the first of them can be chosen:
//!
//! ```sh
//! RINGWATCH_SEEDS=10000 RINGWATCH_FIRST_SEED=1 cargo test --release --test tree replay -- --nocapture
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::round::run;
use crate::setting::{Round, Second};
use crate::support::child::{in_child, in_namespaces, in_process, mount_memory, unmount};
use crate::support::{say, skip};

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn holds(round: &Round) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(round))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(message.unwrap_or_else(|| "it panicked".to_owned()))
    })
}

/// The smallest round like this one that fails at least once in a few runs, and how.
fn shrink(round: Round, fault: String) -> (Round, String) {
    const TRIES: usize = 30;
    let mut smallest = (round, fault);
    loop {
        let at = smallest.0.clone();
        let candidates = [
            Round {
                acts: at.acts / 2,
                ..at.clone()
            },
            Round {
                acts: at.acts * 3 / 4,
                ..at.clone()
            },
            Round {
                threads: at.threads - 1,
                ..at.clone()
            },
            Round {
                processes: false,
                ..at.clone()
            },
            Round {
                early: false,
                ..at.clone()
            },
            Round {
                slow: false,
                ..at.clone()
            },
            Round {
                filter: false,
                ..at.clone()
            },
            Round {
                deep: false,
                ..at.clone()
            },
            Round {
                unprivileged: false,
                ..at.clone()
            },
            Round {
                second: None,
                ..at.clone()
            },
        ];
        let differs = |other: &Round| format!("{other:?}") != format!("{at:?}");
        let smaller = candidates
            .into_iter()
            .filter(|round| round.threads > 0 && round.acts > 0 && differs(round));
        let failing = smaller.into_iter().find_map(|round| {
            let fault = (0..TRIES).find_map(|_| holds(&round).err())?;
            Some((round, fault))
        });
        match failing {
            Some(failing) => smallest = failing,
            None => return smallest,
        }
    }
}

/// Fails at the first that does not hold, and if there was none. `what` says which they are.
fn check(what: &str, rounds: impl Iterator<Item = Round>) {
    let deadline = number("RINGWATCH_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut held = 0;
    for round in rounds {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        if std::env::var_os("RINGWATCH_VERBOSE").is_some() {
            println!("{round:?}");
        }
        if let Err(fault) = holds(&round) {
            println!("{round:?} fails; looking for a smaller one");
            if std::env::var_os("RINGWATCH_NO_SHRINK").is_some() {
                panic!("{fault}");
            }
            let (round, fault) = shrink(round, fault);
            panic!("{round:?}: {fault}");
        }
        held += 1;
    }
    assert!(held > 0, "no round was run: {what}");
    say(&format!("REPLAYED: {held} rounds, {what}"));
}

fn seeds(otherwise: u64) -> std::ops::Range<u64> {
    let first = number("RINGWATCH_FIRST_SEED").unwrap_or(1);
    first..first + number("RINGWATCH_SEEDS").unwrap_or(otherwise)
}

#[test]
fn replaying_the_changes_gives_what_is_on_the_disk() {
    check("of all kinds", seeds(150).map(Round::of));
}

/// Rounds that failed once. Where a fault could be had without chance, it is a test of its own in `src/tree` as well.
const KEPT: &[fn() -> Round] = &[
    || Round {
        threads: 4,
        acts: 400,
        ..Round::of(21_487)
    },
    || within(80),
    || within(306),
    || within(391),
    || within(1_016),
    || within(20_777),
    || within(31_203),
    || within(41_402),
    || within(100_582),
    || within(100_933),
];

/// The same, where watches are few.
const KEPT_OF_FEW: &[u64] = &[298];

/// How often each of these is run: they failed now and then.
const TIMES: usize = 5;

/// A round with a root in the other.
fn within(seed: u64) -> Round {
    Round {
        second: Some(Second::Within),
        ..Round::of(seed)
    }
}

/// A round with few watches.
fn few(seed: u64) -> Round {
    Round {
        watches: Some(8 + seed % 40),
        ..Round::of(seed)
    }
}

/// Several times.
fn again(round: Round) -> impl Iterator<Item = Round> {
    std::iter::repeat_n(round, TIMES)
}

#[test]
fn what_failed_once_holds() {
    check("that failed once", KEPT.iter().flat_map(|round| again(round())));
}

#[test]
fn what_failed_once_where_watches_are_few_holds() {
    in_namespaces("replay::what_failed_once_where_watches_are_few_holds", || {
        if !crate::limits::limit(1_000_000) {
            return;
        }
        let kept = KEPT_OF_FEW.iter().flat_map(|&seed| again(few(seed)));
        check("that failed once, with few watches", kept);
    });
}

#[test]
fn replaying_gives_what_is_there_with_a_root_in_another() {
    check("a root in another", seeds(60).map(within));
}

#[test]
fn replaying_gives_what_is_there_with_a_root_that_moves() {
    let moving = |seed| Round {
        second: Some(Second::Moving),
        deep: false,
        ..Round::of(seed)
    };
    check("a root that moves", seeds(60).map(moving));
}

fn several(seed: u64) -> Round {
    Round {
        second: Some(Second::Several),
        deep: false,
        ..Round::of(seed)
    }
}

#[test]
fn replaying_gives_what_is_there_with_several_roots_that_come_and_go() {
    check("with several roots", seeds(60).map(several));
}

/// The working directory is that of the whole process.
#[test]
fn replaying_gives_what_is_there_with_relative_roots() {
    in_child(
        "replay::replaying_gives_what_is_there_with_relative_roots",
        |_| {},
        || {
            let relative = |seed| Round {
                relative: true,
                ..several(seed)
            };
            check("with relative roots", seeds(40).map(relative));
        },
    );
}

#[test]
fn replaying_gives_what_is_there_where_links_are_followed() {
    let linked = |seed| Round {
        links: true,
        deep: false,
        unprivileged: false,
        second: None,
        ..Round::of(seed)
    };
    check("with links", seeds(60).map(linked));
}

/// In a process that does nothing else: what another test closes would be closed only when the last of them has begun.
#[test]
fn replaying_gives_what_is_there_behind_processes() {
    in_namespaces("replay::replaying_gives_what_is_there_behind_processes", || {
        let dir = crate::round::place();
        let file = dir.path().join("file");
        assert!(in_process(|| std::fs::write(&file, "").expect("a file")));
        assert!(file.exists());
        // Without the words of a panic.
        assert!(!in_process(|| std::panic::resume_unwind(Box::new("it fails"))));
        let processes = |seed| Round {
            processes: true,
            ..Round::of(seed)
        };
        check("with processes", seeds(60).map(processes));
    });
}

#[test]
fn replaying_gives_what_is_there_where_file_systems_come_and_go() {
    let name = "replay::replaying_gives_what_is_there_where_file_systems_come_and_go";
    in_namespaces(name, || {
        let probe = crate::round::place();
        if let Err(refused) = mount_memory(probe.path()).and_then(|()| unmount(probe.path())) {
            return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
        }
        let mounting = |seed| Round {
            mounts: true,
            deep: false,
            ..Round::of(seed)
        };
        check("with mounts", seeds(40).map(mounting));
    });
}

#[test]
fn replaying_gives_what_is_there_where_watches_are_few() {
    in_namespaces("replay::replaying_gives_what_is_there_where_watches_are_few", || {
        if !crate::limits::limit(1_000_000) {
            return;
        }
        check("with few watches", seeds(40).map(few));
    });
}
