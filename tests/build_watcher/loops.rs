//! A command that changes its own sources is told from people who save while it runs.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::project::Project;
use crate::rounds::{Rounds, Verdict};

/// What follows if a file changes while the command runs, again and again. `after` answers how long after the start, of
/// the number of the round and how late the run was started.
fn verdicts(rounds: &mut Rounds, number: u32, after: impl Fn(u32, Duration) -> Duration) -> Vec<Verdict> {
    let mut late = Duration::ZERO;
    let mut verdict = |round| {
        let (after, paths) = (after(round, late), vec![PathBuf::from("main.rs")]);
        late = rounds.pause();
        rounds.changed_by_run(paths, after)
    };
    (0..number).map(&mut verdict).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn whoever_saves_at_regular_intervals_is_no_loop() {
    for interval in [SECOND / 2, SECOND, 5 * SECOND, 60 * SECOND] {
        for jitter in [0, 1, 40] {
            let after = |round, late| interval + interval * (round % 2) * jitter / 1000 - late;
            let told = verdicts(&mut Rounds::default(), 100, after);
            // Once it is said that it looks like one.
            let (warned, rest): (Vec<_>, Vec<_>) = told.iter().partition(|told| **told == Verdict::Warn);
            assert_eq!(warned.len(), 1, "{interval:?}: {told:?}");
            assert!(rest.iter().all(|told| **told == Verdict::Run), "{interval:?}: {told:?}");
        }
    }
}

#[test]
fn a_loop_that_stumbles_is_stopped() {
    for every in 6..10 {
        let stumbling = |round, _| if round % every == 0 { 2 * SECOND } else { SECOND };
        let told = verdicts(&mut Rounds::default(), 60, stumbling);
        assert!(told.contains(&Verdict::Stop), "each {every}: {told:?}");
    }
}

#[test]
fn whoever_saves_now_and_then_is_no_loop() {
    // As good as chance: a multiplier of an old generator.
    let mut seed = 1_u32;
    let chance = |_, _| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        SECOND + SECOND * (seed >> 24) / 64
    };
    let seeds = std::cell::RefCell::new(chance);
    let told = verdicts(&mut Rounds::default(), 2_000, |round, late| {
        seeds.borrow_mut()(round, late)
    });
    assert!(!told.contains(&Verdict::Stop), "{told:?}");
}

/// Two files by turns, at times that are hardly alike: not for certain the command's doing, so it is not stopped.
#[test]
fn a_loop_that_is_not_regular_is_told_of() {
    let mut rounds = Rounds::default();
    let told = (1..40).map(|round| {
        let path = PathBuf::from(format!("{}.rs", round % 2));
        rounds.changed_by_run(vec![path], SECOND * (1 + round * round % 7))
    });
    let told: Vec<_> = told.collect();
    assert_eq!(
        told.iter().filter(|told| **told == Verdict::Warn).count(),
        1,
        "{told:?}"
    );
    assert!(!told.contains(&Verdict::Stop));
}

#[test]
fn what_changes_when_nothing_runs_speaks_against_a_loop() {
    let mut rounds = Rounds::default();
    for _ in 0..10 {
        assert_eq!(verdicts(&mut rounds, 3, |_, _| SECOND), [const { Verdict::Run }; 3]);
        rounds.changed_from_outside();
    }
}

#[test]
fn a_loop_is_told_and_stopped_and_what_comes_at_another_time_runs_again() {
    for after in [SECOND / 100, SECOND, 60 * SECOND] {
        let mut rounds = Rounds::default();
        let told = verdicts(&mut rounds, 20, |round, _| after + after * (round % 2) / 50);
        let warned = told.iter().position(|told| *told == Verdict::Warn);
        let stopped = told.iter().position(|told| *told == Verdict::Stop);
        assert!(warned < stopped && stopped < Some(10), "{told:?}");
        assert!(
            told[stopped.unwrap() + 1..].iter().all(|told| *told == Verdict::Stay),
            "{told:?}"
        );
        assert_eq!(verdicts(&mut rounds, 1, |_, _| 2 * after + SECOND), [Verdict::Run]);
        assert_eq!(verdicts(&mut rounds, 1, |_, _| after), [Verdict::Stay]);
    }
}

#[test]
fn saves_while_a_command_runs_that_does_not_end_run_it_once_each() {
    let project = Project::new();
    let mut watcher = project.begin_with(&["--settle", "50ms"], &project.counting("exec sleep 1000"));
    for round in 1..=12 {
        watcher.await_event("started");
        // Time is what this is about.
        thread::sleep(Duration::from_millis(20 + 150 * (round * round % 3)));
        project.write("src/main.rs", &format!("fn main() {{ /* {round} */ }}\n"));
    }
    watcher.await_event("started");
    crate::project::wait_until("each run", || project.lines().len() == 13);
}

#[test]
fn a_command_that_changes_its_own_sources_is_stopped() {
    for on_busy in ["restart", "queue"] {
        let project = Project::new();
        let mut watcher = project.begin(&["--on-busy", on_busy], &project.counting("date +%N > src/made.rs"));
        assert_eq!(watcher.await_event("loop")["stopped"], false);
        assert_eq!(watcher.await_event("loop")["stopped"], true);
        let runs = project.lines().len();
        assert!(runs < 15, "{runs} runs");
        // What others change still counts, and what the command does then does not.
        for round in 1..=2 {
            project.write("src/main.rs", &format!("fn main() {{ /* {round} */ }}\n"));
            watcher.await_all(&["started", "finished", "ignored"]);
            assert_eq!(project.lines().len(), runs + round);
        }
    }
}
