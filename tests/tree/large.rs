//! A large tree that is moved in while much happens elsewhere. It takes a hundred thousand watches, and is run by
//!
//! ```sh
//! cargo test --release --all-features --test tree -- --ignored --nocapture large
//! ```
//!
//! `RINGWATCH_DIRECTORIES`, `RINGWATCH_RATE` (events a second) and `RINGWATCH_BUFFERS` are its numbers.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::Mask;
use ringwatch::tree::Tree;

use crate::model::opened;
use crate::replay::number;
use crate::support::{Flood, PATIENCE};

/// Ten directories in each.
fn plant(root: &Path, directories: usize) {
    let mut level = vec![root.to_owned()];
    fs::create_dir(root).expect("a directory");
    let mut made = 1;
    while made < directories {
        let below = level
            .iter()
            .flat_map(|dir| (0..10).map(|number| dir.join(number.to_string())));
        level = below.take(directories - made).collect();
        level.iter().for_each(|dir| fs::create_dir(dir).expect("a directory"));
        made += level.len();
    }
}

/// What came of a flood.
#[derive(Default)]
struct Flooded {
    /// How full budget and queue were at most, in bytes.
    used: usize,
    queued: usize,
    lasted: Duration,
}

/// Causes events at a rate until it is told to stop; slower, where the machine does not bear that.
fn flood(mut flood: Flood, rate: usize, stop: &AtomicBool, caused: &AtomicUsize, tree: &Tree) -> Flooded {
    const STEP: usize = 100;
    let mut flooded = Flooded::default();
    let begun = Instant::now();
    while !stop.load(Ordering::Acquire) {
        flood.cause(STEP);
        let caused = caused.fetch_add(STEP, Ordering::Release) + STEP;
        let stats = tree.stats().instance;
        flooded.used = flooded.used.max(stats.budget_used);
        flooded.queued = flooded.queued.max(stats.kernel_queue);
        let due = begun + Duration::from_secs_f64(caused as f64 / rate as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    flooded.lasted = begun.elapsed();
    flooded
}

#[test]
#[ignore = "takes a hundred thousand watches and some seconds"]
fn moving_in_a_large_tree_loses_nothing_of_what_happens_elsewhere() {
    let directories = number("RINGWATCH_DIRECTORIES").unwrap_or(100_000) as usize;
    let rate = number("RINGWATCH_RATE").unwrap_or(100_000) as usize;
    let dir = crate::round::place();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    let busy = root.join("busy");
    fs::create_dir_all(&busy).unwrap();
    plant(&outside, directories);
    let files = Flood::new(&busy);
    let builder = Tree::builder(&root).mask(Mask::MODIFY | Mask::CREATE | Mask::MOVE);
    let tree = match number("RINGWATCH_BUFFERS") {
        Some(buffers) => builder.buffers(buffers as usize),
        None => builder,
    };
    let tree = opened(tree);
    let mut stream = tree.stream().unwrap();
    let (stop, caused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut heard, mut found) = (0, 1);
    let mut took = Duration::ZERO;
    let flooded = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(files, rate, &stop, &caused, &tree));
        let mut begun = None;
        let mut barrier = None;
        loop {
            if begun.is_none() && heard > rate / 10 {
                begun = Some(Instant::now());
                fs::rename(&outside, root.join("in")).unwrap();
            }
            let batch = stream.wait_timeout(PATIENCE).unwrap().expect("it goes on");
            for change in &batch {
                heard += usize::from(change.mask().contains(Mask::MODIFY));
                found += usize::from(change.is_dir() && change.mask().contains(Mask::CREATE));
            }
            let reached = barrier.is_some() && batch.iter().any(|change| change.barrier() == barrier);
            drop(batch);
            if found == directories && barrier.is_none() {
                took = begun.expect("it was moved in").elapsed();
                stop.store(true, Ordering::Release);
                barrier = Some(tree.barrier().unwrap());
            }
            if reached {
                break flood.join().expect("the flood");
            }
        }
    });
    // What was caused between the barrier and the end.
    let barrier = tree.barrier().unwrap();
    'all: for batch in stream.blocking() {
        for change in &batch.unwrap() {
            heard += usize::from(change.mask().contains(Mask::MODIFY));
            if change.barrier() == Some(barrier) {
                break 'all;
            }
        }
    }
    let stats = tree.stats();
    let caused = caused.load(Ordering::Acquire);
    let Flooded { used, queued, lasted } = flooded;
    println!(
        "{directories} directories found {took:.2?} after the move; {heard} of {caused} events heard; {:.0} a second caused, \
         of {rate} asked; {} overflows; at most {used} of {} bytes of the budget used, and {queued} of the kernel's queue",
        caused as f64 / lasted.as_secs_f64(),
        stats.instance.overflows,
        stats.instance.budget,
    );
    assert_eq!((heard, stats.instance.overflows), (caused, 0));
    assert_eq!(stats.directories, directories + 2);
}
