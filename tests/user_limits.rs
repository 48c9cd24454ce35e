//! The limits of inotify for each user, which are the whole machine's.

mod support;

use std::fs;
use std::path::Path;

use ringwatch::{Error, ErrorKind, Inotify, Mask};
use support::{on_every_backend, skip};

/// Sets a limit of the machine. What it was is restored in the end.
struct Limit {
    path: &'static str,
    before: String,
}

impl Limit {
    fn set(path: &'static str, value: usize) -> Self {
        let before = fs::read_to_string(path).expect("a limit");
        fs::write(path, value.to_string()).expect("the limit set");
        Self { path, before }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).expect("the limit set back");
    }
}

fn assert_told(error: &Error, kind: ErrorKind, remedy: &str) {
    assert_eq!((error.kind(), error.remedy()), (kind, Some(remedy)), "{error}");
}

/// Only where nobody else needs instances or watches: with `RINGWATCH_MAY_SET_LIMITS=1`.
#[test]
fn what_a_user_may_not_have_more_of_is_said_with_its_limit() {
    if std::env::var("RINGWATCH_MAY_SET_LIMITS").as_deref() != Ok("1") {
        let why = "RINGWATCH_MAY_SET_LIMITS is not 1";
        return skip("the machine's limits", "RINGWATCH_REQUIRE_LIMITS", &why);
    }
    on_every_backend(|setup| {
        let mut recorder = setup.recorder();
        let dir = tempfile::tempdir().expect("a directory");
        let watch = recorder.watch(dir.path(), Mask::CREATE);
        {
            let _limit = Limit::set("/proc/sys/fs/inotify/max_user_watches", 1);
            let told = "fs.inotify.max_user_watches is 1; raise it with sysctl fs.inotify.max_user_watches=N";
            let refused = recorder.inotify.add_watch("/", Mask::CREATE).unwrap_err();
            assert_told(&refused, ErrorKind::WatchLimit, told);
            assert_eq!(refused.path(), Some(Path::new("/")));
            // What there was goes on.
            assert_eq!(recorder.inotify.watches().len(), 1);
        }
        {
            let _limit = Limit::set("/proc/sys/fs/inotify/max_user_instances", 1);
            let told = "fs.inotify.max_user_instances is 1; raise it with sysctl fs.inotify.max_user_instances=N";
            assert_told(&Inotify::new().map(drop).unwrap_err(), ErrorKind::InstanceLimit, told);
        }
        fs::write(dir.path().join("file"), "").expect("a file");
        assert_eq!(recorder.events().len(), 1);
        recorder.inotify.rm_watch(&watch).expect("it had not ended");
    });
}
