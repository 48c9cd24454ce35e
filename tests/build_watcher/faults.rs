//! What is wrong is said in one line, with its remedy and a fitting exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::project::{Project, wait_until};

fn run(project: &Project, arguments: &[&str]) -> (Option<i32>, String) {
    let output = project.command(arguments).output();
    let Output { status, stderr, .. } = output.expect("the example; cargo test builds it");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn faults_are_one_line_with_a_remedy() {
    let project = Project::new();
    fs::write(project.path("script"), "#!/bin/sh\n").expect("written");
    for (arguments, code, line) in [
        (
            &["nowhere", "--", "true"][..],
            2,
            "error: can't watch nowhere: no such file or directory; is it spelt right? The command comes behind --\n",
        ),
        (
            &["--", "no-such-command"],
            127,
            "error: no command is named \"no-such-command\"; is it installed, and in PATH?\n",
        ),
        (
            &["--", "cargo test | tail"],
            127,
            "error: no command is named \"cargo test | tail\"; to have a shell run it: -- sh -c \"cargo test | tail\"\n",
        ),
        (
            &["--", "./script"],
            126,
            "error: \"./script\" can't be run; make it a program with chmod +x\n",
        ),
        (
            &["--exclude", "a[", "--", "true"],
            2,
            "error: bad glob \"a[\": unclosed character class; missing ']'; write it as a line of .gitignore, as in '*.md' \
             or 'docs/**'\n",
        ),
    ] {
        assert_eq!(run(&project, arguments), (Some(code), line.to_owned()));
    }
    for arguments in [
        &["--settle", "50", "--", "true"][..],
        &["--on-busy", "panic", "--", "true"],
        &["src"],
    ] {
        let (code, text) = run(&project, arguments);
        assert_eq!(code, Some(2), "{text}");
    }
}

#[test]
fn a_script_without_its_interpreter_is_not_said_to_be_missing() {
    let project = Project::new();
    let script = project.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(script, PermissionsExt::from_mode(0o755)).expect("a mode");
    let (code, text) = run(&project, &["--once", "--quiet", "--", "./script"]);
    let line = "\"./script\" can't be run, though it is there; is the interpreter there that its first line names?";
    assert_eq!(
        (code, text.trim_start()),
        (Some(126), format!("Failed {line}\n").as_str())
    );
}

#[test]
fn a_pipe_gets_plain_text_and_quiet_only_what_goes_wrong() {
    let project = Project::new();
    let (code, text) = run(&project, &["--once", "--", "sh", "-c", "exit 3"]);
    assert_eq!(code, Some(3));
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(text.contains("  Running sh -c 'exit 3'\n"), "{text}");
    assert!(
        text.contains("   Failed sh -c 'exit 3' with exit code 3 after "),
        "{text}"
    );
    assert_eq!(
        run(&project, &["--once", "--quiet", "--", "true"]),
        (Some(0), String::new())
    );
    for (script, start) in [
        ("exit 3", "Failed sh -c 'exit 3' with exit code 3 after "),
        ("kill -9 $$", "Killed sh -c 'kill -9 $$' by SIGKILL (9) after "),
    ] {
        let (_, text) = run(&project, &["--once", "--quiet", "--", "sh", "-c", script]);
        assert!(
            text.trim_start().starts_with(start) && text.lines().count() == 1,
            "{text}"
        );
    }
}

#[test]
fn people_read_what_changed_and_how_the_command_ended() {
    let project = Project::new();
    let options = ["--settle", "400ms", "--"].map(str::to_owned);
    let watcher = project.begin_as(project.command(options.into_iter().chain(project.counting("exec sleep 1000"))));
    wait_until("the first run", || project.lines().len() == 1);
    watcher.signal(libc::SIGSTOP);
    (0..5).for_each(|number| project.write(&format!("docs{number}"), "x"));
    project.rename("src/part/more.rs", "a.rs");
    watcher.signal(libc::SIGCONT);
    wait_until("the second run", || project.lines().len() == 2);
    let text = watcher.end(libc::SIGTERM);
    let lines: Vec<_> = text.lines().filter(|line| !line.contains(" Running ")).collect();
    let verbs: Vec<_> = lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = [
        "Watching", "Renamed", "Created", "Created", "Created", "and", "Ending", "Killed", "Killed",
    ];
    assert_eq!(verbs, expected, "{text}");
    assert_eq!(lines[1], "     Renamed src/part/more.rs to a.rs");
    assert_eq!(lines[5].trim_start(), "and 2 more");
    assert!(lines[7].contains("exec sleep 1000' by SIGTERM (15) after "), "{text}");
}
