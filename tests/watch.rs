//! The example `watch`, on names that are made to do harm.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

use support::hostile::{NAME, assert_harmless};
use support::wait_until;

/// The example, which cargo builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test itself");
    let profile = test.ancestors().nth(2).expect("the directory of the profile");
    profile.join("examples/watch")
}

#[test]
fn names_are_printed_harmlessly_wherever_they_stand() {
    for options in [
        &["--stats"][..],
        &["--json"],
        &["--reader"],
        &["--recursive"],
        &["--recursive", "--json"],
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        // What is watched has such a name itself, and so has what is in it.
        let watched = dir.path().join(OsStr::from_bytes(NAME));
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
        fs::create_dir(watched.join(OsStr::from_bytes(NAME))).unwrap();
        wait_until(|| fs::read(&out).unwrap().ends_with(b"\n"));
        // SAFETY: the call takes numbers, and the process has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        assert!(child.wait().unwrap().success(), "{options:?}");
        for (shown, what) in [(&out, "owned"), (&err, "owned")] {
            let shown = fs::read(shown).unwrap();
            let text = String::from_utf8_lossy(&shown);
            // As JSON, a path that is no text is numbers.
            assert!(
                text.contains(what) || text.contains("27, 93, 48"),
                "{options:?}: {text}"
            );
            assert_harmless(&shown);
        }
    }
}

#[test]
fn a_path_that_can_t_be_watched_is_named_harmlessly() {
    let dir = tempfile::tempdir().expect("a directory");
    for options in [&[][..], &["--recursive"]] {
        let path = dir.path().join(OsStr::from_bytes(NAME));
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
