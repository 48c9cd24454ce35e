//! The clock of the machine may be set at any time: time is measured by the one that nobody sets.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ringwatch::Mask;
use support::{on_every_backend, skip};

fn sources(dir: &Path, each: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => sources(&path, each),
            false => each(&path, &fs::read_to_string(&path).expect("a source")),
        }
    }
}

/// But for the times of files, which are that clock's.
#[test]
fn only_the_times_of_files_are_compared_with_the_clock_of_the_machine() {
    let mut using = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if !src.exists() {
        return skip(
            "the source",
            "RINGWATCH_REQUIRE_SOURCE",
            &"this is not where it was built",
        );
    }
    sources(&src, &mut |path, text| {
        if ["SystemTime", "CLOCK_REALTIME", "ABSTIME"]
            .iter()
            .any(|name| text.contains(name))
        {
            using.push(path.strip_prefix(&src).expect("below it").to_owned());
        }
    });
    assert_eq!(using, [Path::new("tree/look.rs")]);
}

/// Moves the clock; back again when dropped, but for the time that has passed meanwhile.
struct Moved {
    by: i64,
}

impl Moved {
    fn by(seconds: i64) -> std::io::Result<Self> {
        step(seconds).map(|()| Self { by: seconds })
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        step(-self.by).expect("the clock set back");
    }
}

fn step(seconds: i64) -> std::io::Result<()> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable and lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    time.tv_sec += seconds;
    // SAFETY: `time` lives through the call.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Only where nobody else lives by that clock: with `RINGWATCH_MAY_SET_CLOCK=1`.
#[test]
fn a_clock_that_is_set_back_or_forth_changes_nothing() {
    if std::env::var("RINGWATCH_MAY_SET_CLOCK").as_deref() != Ok("1") {
        return skip(
            "the clock",
            "RINGWATCH_REQUIRE_CLOCK",
            &"RINGWATCH_MAY_SET_CLOCK is not 1",
        );
    }
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        for (number, seconds) in [-86_400, 86_400, -1, 1].into_iter().enumerate() {
            // Busy, so that a window is kept while the clock is moved.
            for file in 0..200 {
                fs::write(dir.path().join(format!("{number}-{file}")), "").expect("a file");
            }
            let moved = Moved::by(seconds).expect("the clock set");
            assert_eq!(recorder.events().len(), 200);
            let begun = Instant::now();
            assert!(recorder.nothing_for(Duration::from_millis(20)));
            assert!(begun.elapsed() >= Duration::from_millis(20));
            drop(moved);
            fs::write(dir.path().join(format!("{number}")), "").expect("a file");
            assert_eq!(recorder.events().len(), 1);
        }
    });
}
