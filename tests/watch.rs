//! The example `watch`, on names that are made to do harm.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::hostile::{NAME, UNSEEN, assert_harmless};
use support::wait_until;

/// The example, which cargo builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test itself");
    let profile = test.ancestors().nth(2).expect("the directory of the profile");
    profile.join("examples/watch")
}

#[test]
fn names_are_printed_harmlessly_wherever_they_stand() {
    for name in [NAME, UNSEEN.as_bytes()] {
        for options in [
            &["--stats"][..],
            &["--json"],
            &["--reader"],
            &["--recursive"],
            &["--recursive", "--json"],
        ] {
            assert_printed_harmlessly(OsStr::from_bytes(name), options);
        }
    }
}

fn assert_printed_harmlessly(name: &OsStr, options: &[&str]) {
    let dir = tempfile::tempdir().expect("a directory");
    // What is watched has such a name itself, and so has what is in it.
    let watched = dir.path().join(name);
    fs::create_dir(&watched).unwrap();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    let mut child = Command::new(program())
        .args(options)
        .arg(&watched)
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .expect("the example");
    // It says what it watches.
    wait_until(|| !fs::read(&err).unwrap().is_empty());
    let made = watched.join(name);
    fs::create_dir(&made).unwrap();
    let other = watched.join("other");
    fs::rename(&made, &other).unwrap();
    let is_told = |out: &[u8]| out.ends_with(b"\n") && out.windows(8).any(|word| word == b"MOVED_TO");
    wait_until(|| is_told(&fs::read(&out).unwrap()));
    // SAFETY: the call takes numbers, and the process has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert!(child.wait().unwrap().success(), "{options:?}");
    for shown in [&out, &err] {
        let shown = fs::read(shown).unwrap();
        let text = String::from_utf8_lossy(&shown);
        // As JSON, a path that is no text is numbers.
        assert!(
            text.contains("owned") || text.contains("27, 93, 48"),
            "{options:?}: {text}"
        );
        assert_harmless(&shown);
    }
    if options.contains(&"--json") {
        let text = fs::read_to_string(&out).unwrap();
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let is_made = |event: &Value| path_of(&event["path"]) == made;
        assert!(events.iter().any(is_made), "{text}");
        if options.contains(&"--recursive") {
            let is_renamed = |event: &Value| !event["renamed_from"].is_null();
            let renamed = events.iter().find(|event| is_renamed(event)).expect("a rename");
            assert_eq!(path_of(&renamed["renamed_from"]), made);
            assert_eq!(renamed["found"], false);
        }
    }
}

fn path_of(path: &Value) -> PathBuf {
    let byte = |byte: &Value| byte.as_u64().expect("a byte") as u8;
    match path {
        Value::Array(bytes) => Path::new(OsStr::from_bytes(&bytes.iter().map(byte).collect::<Vec<_>>())).to_owned(),
        path => path.as_str().expect("a path").into(),
    }
}

#[test]
fn a_path_that_can_t_be_watched_is_named_harmlessly() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, options) in [(NAME, &[][..]), (UNSEEN.as_bytes(), &["--recursive"])] {
        let path = dir.path().join(OsStr::from_bytes(name));
        assert_named_harmlessly(Command::new(program()).args(options).arg(path), 1);
    }
}

#[test]
fn an_argument_that_makes_no_sense_is_named_harmlessly() {
    let bad = "\u{1b}]0;owned\u{7}\nforged\u{202e}\u{3164}";
    for argument in ["--x", "--backend=", "--for=", "--events=", "--json=", "--backe"] {
        assert_named_harmlessly(Command::new(program()).arg(format!("{argument}{bad}")), 2);
    }
}

/// It ends with this code, and has said why.
#[track_caller]
fn assert_named_harmlessly(command: &mut Command, code: i32) {
    let output = command.output().expect("the example");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {shown}");
    assert!(
        output.stdout.is_empty() && shown.contains("owned"),
        "{command:?}: {shown}"
    );
    assert!(!shown.contains("\nforged"), "{command:?}: {shown}");
    assert_harmless(&output.stderr);
}

#[test]
fn blanks_among_events_are_printed_harmlessly() {
    let output = Command::new(program())
        .args(["--for", "0", "--events", "create,\u{85}open\r"])
        .output()
        .expect("the example");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("open"), "{shown}");
    assert_harmless(&output.stderr);
}

#[test]
fn help_is_no_error() {
    for option in ["-h", "--help"] {
        let output = Command::new(program()).arg(option).output().expect("the example");
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains("--recursive"));
        assert_harmless(&output.stdout);
    }
}
