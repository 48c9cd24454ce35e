//! What can't be watched is said, with the remedy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::project::{Project, program, succeed, wait_until};
use crate::support::child::in_namespaces;
use crate::support::skip;

const NOBODY: u32 = 65_534;

/// Sets a limit of this user namespace. False if that is not allowed.
fn limit(name: &str, value: usize) -> bool {
    let written = fs::write(Path::new("/proc/sys/user").join(name), value.to_string());
    if let Err(denied) = &written {
        skip("a limit of its own", "RINGWATCH_REQUIRE_NAMESPACES", denied);
    }
    written.is_ok()
}

fn ended(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the example; cargo test builds it");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn without_watches_enough_it_ends_with_one_line_that_helps() {
    in_namespaces(
        "limits::without_watches_enough_it_ends_with_one_line_that_helps",
        || {
            let project = Project::new();
            (0..20).for_each(|number| project.write(&format!("many/{number}/file"), "x"));
            if !limit("max_inotify_watches", 15) {
                return;
            }
            let (code, text) = ended(&mut project.command(["--once", "--", "true"]));
            assert_eq!(code, Some(1), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.starts_with("error: no watch is left for 1"), "{text}");
            assert!(text.contains(" directories; "), "{text}");
            assert!(
                text.contains("raise it with sysctl user.max_inotify_watches=N"),
                "{text}"
            );
            assert!(text.ends_with(", or leave something out with --exclude\n"), "{text}");
            // As it says, once the kernel does not count the watches of the first any more.
            wait_until("its end", || {
                let (code, text) = ended(&mut project.command(["--once", "--exclude", "many/1*", "--", "true"]));
                let counted = text.contains("user.max_inotify_watches of this user namespace is 15");
                assert!(code == Some(0) || counted, "{text}");
                code == Some(0)
            });
        },
    );
}

#[test]
fn a_directory_for_which_no_watch_is_left_later_is_said_and_the_rest_goes_on() {
    const NAME: &str = "limits::a_directory_for_which_no_watch_is_left_later_is_said_and_the_rest_goes_on";
    in_namespaces(NAME, || {
        let project = Project::new();
        if !limit("max_inotify_watches", 15) {
            return;
        }
        let mut watcher = project.watch(&[], "true");
        (0..20).for_each(|number| project.write(&format!("many/{number}/file"), "x"));
        let said = watcher.await_event("uncovered");
        let error = said["error"].as_str().expect("a text");
        assert!(
            error.contains("raise it with sysctl user.max_inotify_watches=N"),
            "{error}"
        );
        watcher.await_event("finished");
        wait_until("its run", || project.lines().len() >= 2);
        let runs = project.lines().len();
        project.write("src/main.rs", "fn main() { }\n");
        wait_until("a run for what is covered", || project.lines().len() > runs);
    });
}

#[test]
fn without_an_instance_it_ends_with_one_line_that_helps() {
    in_namespaces("limits::without_an_instance_it_ends_with_one_line_that_helps", || {
        let project = Project::new();
        if !limit("max_inotify_instances", 0) {
            return;
        }
        let (code, text) = ended(&mut project.command(["--once", "--", "true"]));
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.starts_with("error: "), "{text}");
        assert!(text.contains("user.max_inotify_instances"), "{text}");
    });
}

/// A project of somebody without rights of their own, and the example where they can run it.
fn of_nobody(project: &Project, arguments: &[&str]) -> Command {
    let copy = project.outside.path().join("build_watcher");
    // Not by this process: while another test starts something, that holds the copy open, and it can't be run.
    succeed(Command::new("cp").arg(program()).arg(&copy));
    fs::set_permissions(project.outside.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut command = project.command(arguments);
    let mut theirs = Command::new(copy);
    theirs.args(command.get_args()).current_dir(project.dir.path());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => theirs.env(name, value),
            None => theirs.env_remove(name),
        };
    }
    command = theirs;
    if rustix::process::geteuid().is_root() {
        let mut all = vec![project.dir.path().to_owned()];
        while let Some(path) = all.pop() {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
            if path.is_dir() {
                let entries = fs::read_dir(&path).expect("a list");
                all.extend(entries.map(|entry| entry.expect("an entry").path()));
            }
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn what_may_not_be_read_is_said_with_the_reason_and_the_rest_is_watched() {
    let project = Project::new();
    project.write("src/secret/key", "x");
    let mut command = of_nobody(&project, &["--once", "--stats", "--", "true"]);
    let secret = project.path("src/secret");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).expect("a mode");
    let (code, text) = ended(&mut command);
    assert_eq!(code, Some(0), "{text}");
    let said: Vec<_> = text.lines().filter(|line| line.starts_with(" Not covered")).collect();
    assert_eq!(said.len(), 1, "{text}");
    let path = fs::canonicalize(secret).expect("a path");
    assert!(said[0].contains(path.to_str().expect("a text")), "{text}");
    assert!(said[0].to_lowercase().contains("permission denied"), "{text}");
    assert!(text.contains("Stats not covered                1\n"), "{text}");
}

#[test]
fn tools_are_told_of_all_that_may_not_be_read() {
    let project = Project::new();
    (0..6).for_each(|number| project.write(&format!("src/secret{number}/key"), "x"));
    let mut command = of_nobody(&project, &["--once", "--json", "--", "true"]);
    for number in 0..6 {
        let secret = project.path(&format!("src/secret{number}"));
        fs::set_permissions(secret, PermissionsExt::from_mode(0o000)).expect("a mode");
    }
    let output = command.output().expect("the example; cargo test builds it");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches(r#""event":"uncovered""#).count(), 6, "{text}");
}

#[test]
fn a_root_that_may_not_be_read_is_a_fault() {
    let project = Project::new();
    for path in ["src", "src/main.rs"] {
        let mut command = of_nobody(&project, &["--once", path, "--", "true"]);
        fs::set_permissions(project.path("src"), PermissionsExt::from_mode(0o111)).expect("a mode");
        let (code, text) = ended(&mut command);
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        assert!(
            text.starts_with("error: ") && text.to_lowercase().contains("permission denied"),
            "{text}"
        );
        fs::set_permissions(project.path("src"), PermissionsExt::from_mode(0o755)).expect("a mode");
    }
}
