//! The clock of the machine may be set at any time: time is measured by the one that nobody sets.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ringwatch::Mask;
use ringwatch::tree::{OwnedChange, Recovery, Tree, TreeStream};
use support::{PATIENCE, backends, on_every_backend, skip};

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

/// Seconds by which the clock is moved.
const STEPS: [i64; 4] = [-86_400, 86_400, -1, 1];

/// All changes up to a barrier that is set now.
fn changes(tree: &Tree, stream: &mut TreeStream) -> Vec<OwnedChange> {
    let barrier = tree.barrier().expect("a barrier");
    let mut changes = Vec::new();
    loop {
        let batch = stream.wait_timeout(PATIENCE).expect("it goes on");
        for change in &batch.expect("a batch that is due") {
            if change.barrier() == Some(barrier) {
                return changes;
            }
            changes.push(change.to_owned());
        }
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
        for (number, seconds) in STEPS.into_iter().enumerate() {
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
    for &backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree::builder(dir.path())
            .backend(backend)
            .mask(Mask::CREATE | Mask::MOVE);
        let tree = tree.recovery(Recovery::Diff).open().expect("a tree");
        let mut stream = tree.stream().expect("a stream");
        for (number, seconds) in STEPS.into_iter().enumerate() {
            let below = |name: &str| dir.path().join(format!("{name}{number}"));
            fs::create_dir_all(below("one").join("deep")).expect("directories");
            let made = changes(&tree, &mut stream);
            assert_eq!(made.len(), 2, "{backend:?}: {made:?}");
            // The other half of a rename is waited for, and what is new is looked at, while the clock is moved.
            fs::rename(below("one"), below("two")).expect("renamed");
            fs::create_dir(below("two").join("new")).expect("a directory");
            let moved = Moved::by(seconds).expect("the clock set");
            fs::write(below("two").join("new/file"), "").expect("a file");
            let seen = changes(&tree, &mut stream);
            assert_eq!(seen.len(), 4, "{backend:?}: {seen:?}");
            let begun = Instant::now();
            let nothing = stream.wait_timeout(Duration::from_millis(20)).expect("it goes on");
            assert!(nothing.is_none() && begun.elapsed() >= Duration::from_millis(20));
            drop(moved);
            fs::rename(below("two"), below("three")).expect("renamed");
            let seen = changes(&tree, &mut stream);
            assert_eq!(seen.len(), 2, "{backend:?}: {seen:?}");
        }
    }
}
