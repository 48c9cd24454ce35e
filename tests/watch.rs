//! The example `watch`, on names that are made to do harm.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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
        let mut child = Command::new(program())
            .args(options)
            .arg(dir.path().join(OsStr::from_bytes(NAME)))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example");
        let mut shown = Vec::new();
        child.stderr.take().unwrap().read_to_end(&mut shown).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(String::from_utf8_lossy(&shown).contains("owned"));
        assert_harmless(&shown);
    }
}
