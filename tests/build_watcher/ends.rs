//! Nothing is left behind, however it ends.

use std::fs;
use std::path::Path;

use rustix::process::{getpid, set_child_subreaper};

use crate::project::{Project, Watcher, wait_until, was_killed_by};
use crate::support::child::in_child;

/// A command with a child and a grandchild in the background, which note their numbers; politeness is lost on them.
const FAMILY: &str = "trap '' TERM; (trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> $0; while :; do sleep 1; done' $NOTES & \
    while :; do sleep 1; done) & echo $! >> $NOTES; echo $$ >> $NOTES; while :; do sleep 1; done";

fn family(project: &Project) -> Vec<String> {
    let notes = project.outside.path().join("notes");
    project.counting(&format!("NOTES={}; export NOTES; {FAMILY}", notes.display()))
}

fn members(project: &Project) -> Vec<u32> {
    let notes = fs::read_to_string(project.outside.path().join("notes")).unwrap_or_default();
    notes.lines().filter_map(|line| line.parse().ok()).collect()
}

/// It does not run; a zombie does not either.
fn is_gone(id: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"));
    status.map_or(true, |status| {
        status.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
    })
}

fn started(project: &Project, options: &[&str]) -> (Watcher, Vec<u32>) {
    let mut watcher = project.begin(options, &family(project));
    watcher.await_event("started");
    wait_until("three processes", || members(project).len() == 3);
    (watcher, members(project))
}

#[test]
fn a_restart_ends_the_whole_group() {
    let project = Project::new();
    let (mut watcher, first) = started(&project, &["--grace", "50ms"]);
    project.write("src/main.rs", "fn main() { }\n");
    watcher.await_event("restart");
    watcher.await_event("started");
    assert!(first.iter().all(|&id| is_gone(id)));
}

#[test]
fn signals_to_the_watcher_end_the_whole_group() {
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let project = Project::new();
        let (watcher, family) = started(&project, &["--grace", "50ms"]);
        assert_eq!(watcher.stop(signal).code(), Some(code));
        assert!(family.iter().all(|&id| is_gone(id)));
    }
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace() {
    let project = Project::new();
    let (mut watcher, family) = started(&project, &["--grace", "60m"]);
    watcher.signal(libc::SIGINT);
    watcher.signal(libc::SIGTERM);
    let code = watcher.wait().code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}");
    assert!(family.iter().all(|&id| is_gone(id)));
}

#[test]
fn a_watcher_that_is_killed_leaves_nothing() {
    let project = Project::new();
    let (watcher, family) = started(&project, &["--grace", "50ms"]);
    assert!(was_killed_by(watcher.stop(libc::SIGKILL), libc::SIGKILL));
    wait_until("the end of all", || family.iter().all(|&id| is_gone(id)));
}

#[test]
fn what_a_finished_command_left_running_ends_with_the_next_run() {
    let project = Project::new();
    let notes = project.outside.path().join("notes");
    let then = format!("sleep 1000 & echo $! >> {}", notes.display());
    let mut watcher = project.watch(&[], &then);
    let first = members(&project);
    assert!(first.iter().all(|&id| !is_gone(id)));
    watcher.runs_once(&["changed main.rs"], || project.write("src/main.rs", "fn main() { }\n"));
    assert!(is_gone(first[0]));
    let all = members(&project);
    assert_eq!(watcher.stop(libc::SIGINT).code(), Some(130));
    assert!(all.iter().all(|&id| is_gone(id)));
}

#[test]
fn a_polite_command_may_end_itself() {
    let project = Project::new();
    let said = project.outside.path().join("said");
    let then = format!(
        "trap 'echo bye > {}; exit 0' TERM; while :; do sleep 0.01; done",
        said.display()
    );
    let mut watcher = project.begin(&["--grace", "60m"], &project.counting(&then));
    watcher.await_event("started");
    wait_until("its first line", || project.lines().len() == 1);
    project.write("src/main.rs", "fn main() { }\n");
    watcher.await_event("restart");
    watcher.await_event("started");
    assert_eq!(fs::read_to_string(said).expect("its last words"), "bye\n");
}

/// How many children of a process nobody has waited for.
fn zombies_of(parent: u32) -> usize {
    let processes = fs::read_dir("/proc").expect("a list of processes");
    let statuses = processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let zombie = format!(" Z {parent} ");
    let is_one = |status: &String| status.rsplit(')').next().is_some_and(|rest| rest.starts_with(&zombie));
    statuses.filter(is_one).count()
}

#[test]
fn orphans_are_waited_for_where_the_first_process_does_not() {
    const NAME: &str = "ends::orphans_are_waited_for_where_the_first_process_does_not";
    let body = || {
        // As the first process of a container that does nothing for orphans.
        set_child_subreaper(Some(getpid())).expect("allowed");
        let project = Project::new();
        let options = ["--settle", "50ms", "--grace", "50ms", "--"].map(str::to_owned);
        // The one that leaves the group ends by itself.
        let then = "(sleep 1000 & exec setsid true) & exec sleep 1000";
        let watcher = project.begin_as(project.command(options.into_iter().chain(project.counting(then))));
        for round in 1..=4 {
            wait_until("a run", || project.lines().len() == round);
            project.write("src/main.rs", &format!("fn main() {{ /* {round} */ }}\n"));
        }
        wait_until("the last run", || project.lines().len() == 5);
        assert_eq!(zombies_of(std::process::id()), 0);
        wait_until("no more than the last", || zombies_of(watcher.id()) <= 1);
        let said = watcher.end(libc::SIGINT);
        assert!(!said.contains("Left"), "{said}");
    };
    in_child(NAME, |_| {}, body);
}
