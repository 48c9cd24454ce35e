//! How many instructions of ours an event costs, and a batch: counted by valgrind, so they depend on no clock.
//!
//! Optimized code only: `cargo test --release --test instructions`. Each figure is the difference between two runs, so that
//! what a run costs once does not count. A limit is what was counted when it was set, and a quarter more for other compilers.

mod support;

use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ringwatch::{Backend, Inotify, Mask};
use support::{Flood, backends};

/// What the counted process does: `work`, `backend`, `events`.
const TASK: &str = "RINGWATCH_COUNTED";

/// Events in the smaller of two runs; two of them fit the kernel's queue.
const EVENTS: u64 = 2_000;

/// What is done with the events.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    /// Nothing: they are only caused.
    Cause,
    /// Mask, name and watch are looked at, a full queue at a time.
    Look,
    /// The path is written as well.
    Path,
    /// As `Look`, each event in a batch of its own.
    Batches,
}

const WORKS: [Work; 4] = [Work::Cause, Work::Look, Work::Path, Work::Batches];

fn count(work: Work, backend: Backend, events: u64) -> u64 {
    let test = std::env::current_exe().expect("the path of the test program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(test)
        .args(["--exact", "counted", "--ignored", "--nocapture"])
        .env(TASK, format!("{} {backend:?} {events}", work as u8).to_lowercase())
        .output()
        .expect("valgrind");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.expect("valgrind says what it collected");
    number.trim().parse().expect("a number")
}

fn per_event(work: Work, backend: Backend) -> f64 {
    let [few, many] = [EVENTS, 2 * EVENTS].map(|events| count(work, backend, events));
    (many - few) as f64 / EVENTS as f64
}

#[test]
#[ignore = "run by the other test, under valgrind"]
fn counted() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let [work, backend, events] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task:?} is no task");
    };
    let work = WORKS[work.parse::<usize>().expect("a number")];
    let events: u64 = events.parse().expect("a number");
    let dir = tempfile::tempdir().expect("a directory");
    let inotify = Inotify::builder()
        .backend(backend.parse().expect("a backend"))
        .batch_window(Duration::ZERO)
        .build()
        .expect("an instance");
    inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
    let mut flood = Flood::new(dir.path());
    let mut reader = inotify.reader().expect("a reader");
    reader.try_next().expect("nothing");
    let mut path = PathBuf::with_capacity(4_096);
    let at_once = if work == Work::Batches { 1 } else { events };
    let mut caused = 0;
    while caused < events {
        flood.cause(at_once as usize);
        caused += at_once;
        let mut seen = 0;
        while work != Work::Cause && seen < at_once {
            for event in &reader.wait().expect("it goes on").expect("a batch") {
                black_box((event.mask(), event.name(), event.watch()));
                assert!(work != Work::Path || event.write_path(&mut path));
                seen += 1;
            }
        }
    }
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "counts optimized code: cargo test --release --test instructions"
)]
fn an_event_and_a_batch_cost_no_more_instructions_than_they_did() {
    if let Err(missing) = Command::new("valgrind").arg("--version").output() {
        support::skip("valgrind", "RINGWATCH_REQUIRE_VALGRIND", &missing);
        return;
    }
    for &backend in backends() {
        let [cause, look, path, batch] = WORKS.map(|work| per_event(work, backend));
        let batches = match backend {
            Backend::Uring => 1_650.0,
            _ => 1_450.0,
        };
        let costs = [
            ("an event, looked at", look - cause, 135.0),
            ("its path", path - look, 220.0),
            ("a batch of one event", batch - cause, batches),
        ];
        for (what, instructions, limit) in costs {
            println!("{backend:?}: {what}: {instructions:.1} instructions, at most {limit}");
        }
        for (what, instructions, limit) in costs {
            assert!(instructions > 0.0, "{what} can't cost {instructions} on {backend:?}");
            assert!(
                instructions <= limit,
                "{what}: {instructions:.1} instructions on {backend:?}"
            );
        }
    }
}
