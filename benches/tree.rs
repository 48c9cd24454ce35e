//! Trees of many directories: how long it takes to open one, and to recover from a loss; what it costs in memory, and what an
//! event costs.
//!
//! ```sh
//! cargo bench --bench tree                       # 10,000 directories
//! cargo bench --bench tree -- 100000             # as many
//! cargo bench --bench tree -- 10000 --rounds 9
//! cargo bench --bench tree -- 100000 --open      # only how long it takes to open one
//! ```
//!
//! Everything is measured in turns in one run, and compared by medians: no machine is quiet, so only ratios mean anything.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::Watcher;
use ringwatch::tree::{Recovery, Tree};
use ringwatch::{Inotify, Mask};

fn main() {
    let mut directories = 10_000;
    let mut rounds = 5;
    let mut only_open = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                rounds = arguments
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("a number of rounds")
            }
            "--test" => (directories, rounds) = (500, 1),
            "--open" => only_open = true,
            "--bench" => {}
            number => directories = number.parse().expect("a number of directories"),
        }
    }
    let place = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory");
    let root = place.path().join("root");
    let files = plant(&root, directories);
    println!("{directories} directories with {files} files");
    opening(&root, directories, rounds);
    if only_open {
        return;
    }
    memory(&root, directories, files);
    recovering(&root, directories, rounds);
    renaming(&root, rounds);
    events(&root, rounds);
}

/// Ten directories in each, four files in each.
fn plant(root: &Path, directories: usize) -> usize {
    fs::create_dir_all(root).expect("a root");
    let mut level = vec![root.to_owned()];
    let mut made = 1;
    let mut files = 0;
    'all: loop {
        let mut next = Vec::new();
        for dir in &level {
            for number in 0..10 {
                if made == directories {
                    break 'all;
                }
                let below = dir.join(format!("module-{number:04}"));
                fs::create_dir(&below).expect("a directory");
                made += 1;
                for number in 0..4 {
                    fs::write(below.join(format!("source-{number}.rs")), "").expect("a file");
                    files += 1;
                }
                next.push(below);
            }
        }
        level = next;
    }
    files
}

/// What anybody would write: list, watch by path, go on below. On one thread.
fn walk_and_add(root: &Path, mask: Mask) -> (usize, Duration) {
    let begun = Instant::now();
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    assert!(fd >= 0, "an inotify instance");
    let mut watches: HashMap<i32, PathBuf> = HashMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        let path = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: the path is NUL-terminated and lives through the call.
        let wd = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask.bits() | libc::IN_ONLYDIR) };
        assert!(wd >= 0, "a watch");
        for entry in fs::read_dir(&dir).expect("a listing").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
        }
        watches.insert(wd, dir);
    }
    let elapsed = begun.elapsed();
    let count = watches.len();
    // SAFETY: the descriptor is ours and is not used again.
    unsafe { libc::close(fd) };
    (count, elapsed)
}

fn with_tree(root: &Path, recovery: Recovery) -> (usize, Duration) {
    let begun = Instant::now();
    let tree = Tree::builder(root).recovery(recovery).open().expect("a tree");
    (tree.stats().directories, begun.elapsed())
}

fn with_notify(root: &Path) -> Duration {
    let begun = Instant::now();
    let mut watcher = notify::recommended_watcher(|event| drop(black_box(event))).expect("a watcher");
    watcher.watch(root, notify::RecursiveMode::Recursive).expect("a watch");
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn opening(root: &Path, directories: usize, rounds: usize) {
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        let (count, time) = walk_and_add(root, Mask::CHANGES);
        assert_eq!(count, directories);
        times[0].push(time);
        for (place, recovery) in [(1, Recovery::Mark), (2, Recovery::Diff)] {
            let (count, time) = with_tree(root, recovery);
            assert_eq!(count, directories);
            times[place].push(time);
        }
        times[3].push(with_notify(root));
    }
    let [walk, mark, diff, notify] = times.map(median);
    let per = |time: Duration| time.as_secs_f64() * 1e6 / directories as f64;
    println!(
        "open, µs a directory: walk and add {:.2}, tree {:.2}, with Diff {:.2}, notify {:.2}",
        per(walk),
        per(mark),
        per(diff),
        per(notify)
    );
    println!(
        "tree is {:.2} times as fast as walk and add, {:.2} as notify",
        walk.as_secs_f64() / mark.as_secs_f64(),
        notify.as_secs_f64() / mark.as_secs_f64()
    );
}

fn memory(root: &Path, directories: usize, files: usize) {
    let mark = Tree::builder(root).open().expect("a tree").stats();
    let diff = Tree::builder(root)
        .recovery(Recovery::Diff)
        .open()
        .expect("a tree")
        .stats();
    assert_eq!(diff.files, files);
    println!(
        "memory beside names: {:.1} bytes a directory; {:.1} a file with Diff",
        mark.memory as f64 / directories as f64,
        (diff.memory - mark.memory) as f64 / files as f64
    );
}

/// From the moment in which a consumer comes back to what has overflowed to the barrier behind it, beside opening.
fn recovering(root: &Path, directories: usize, rounds: usize) {
    let queue = ringwatch::Limits::read().expect("the limits").max_queued_events as usize;
    let file = |number| fs::File::create(root.join(format!("flood-{number}"))).expect("a file");
    let files = [file(0), file(1)];
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for _ in 0..rounds {
        for (place, recovery) in [(0, Recovery::Mark), (1, Recovery::Diff)] {
            let begun = Instant::now();
            // With little memory, so that what is not consumed stays in the kernel's queue.
            let builder = Tree::builder(root).recovery(recovery).buffers(2).buffer_size(4096);
            let tree = builder.open().expect("a tree");
            times[place][0].push(begun.elapsed());
            for number in 0..queue + 2_000 {
                std::os::unix::fs::FileExt::write_at(&files[number % 2], b"x", 0).expect("a byte");
            }
            let begun = Instant::now();
            let mut stream = tree.stream().expect("a stream");
            let mut barrier = None;
            'all: for batch in stream.blocking() {
                for change in &batch.expect("a batch") {
                    if change.is_overflow() {
                        barrier = Some(tree.barrier().expect("a barrier"));
                    } else if barrier.is_some() && change.barrier() == barrier {
                        break 'all;
                    }
                }
            }
            times[place][1].push(begun.elapsed());
            assert_eq!(tree.stats().directories, directories);
            assert!(tree.stats().instance.overflows > 0);
        }
    }
    for (name, [open, recover]) in ["Mark", "Diff"].into_iter().zip(times.map(|times| times.map(median))) {
        println!(
            "recovery with {name}: {recover:.1?} to the barrier behind it, {:.2} times as long as opening",
            recover.as_secs_f64() / open.as_secs_f64()
        );
    }
    for number in 0..2 {
        fs::remove_file(root.join(format!("flood-{number}"))).expect("removed");
    }
}

/// A rename of all there is, against one of an empty directory.
fn renaming(root: &Path, rounds: usize) {
    let (large, small) = (root.join("module-0000"), root.join("small"));
    fs::create_dir(&small).expect("a directory");
    let tree = Tree::new(root).expect("a tree");
    let mut stream = tree.stream().expect("a stream");
    let mut time = |dir: &Path| {
        let other = root.join("renamed");
        let times = (0..rounds * 20).map(|_| {
            let begun = Instant::now();
            fs::rename(dir, &other).expect("a rename");
            fs::rename(&other, dir).expect("a rename");
            let barrier = tree.barrier().expect("a barrier");
            for batch in stream.blocking() {
                if batch
                    .expect("a batch")
                    .iter()
                    .any(|change| change.barrier() == Some(barrier))
                {
                    break;
                }
            }
            begun.elapsed()
        });
        median(times.collect())
    };
    let (first, second) = (time(&small), time(&large));
    println!("rename and back, to the barrier behind it: empty {first:.1?}, a tenth of all {second:.1?}");
    fs::remove_dir(&small).expect("removed");
}

/// The CPU time of the whole process for events in 1,000 directories, less that of causing them.
fn events(root: &Path, rounds: usize) {
    const EVENTS: usize = 100_000;
    let mut directories = Vec::new();
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).expect("a listing").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(entry.path());
            }
        }
        if dir != root {
            directories.push(dir);
        }
    }
    directories.truncate(1_000);
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut path = PathBuf::new();
    for _ in 0..rounds {
        let inotify = Inotify::new().expect("an instance");
        for dir in &directories {
            inotify.add_watch(dir, Mask::CHANGES).expect("a watch");
        }
        let mut stream = inotify.stream().expect("a stream");
        let core = cpu(&directories, EVENTS, || {
            let mut seen = 0;
            while seen < EVENTS {
                let batch = stream.wait().expect("a batch").expect("a batch");
                for event in &batch {
                    seen += usize::from(event.write_path(&mut path));
                }
            }
        });
        drop((stream, inotify));
        let tree = Tree::new(root).expect("a tree");
        let mut stream = tree.stream().expect("a stream");
        let whole = cpu(&directories, EVENTS, || {
            let mut seen = 0;
            while seen < EVENTS {
                let batch = stream.wait().expect("a batch").expect("a batch");
                for change in &batch {
                    seen += usize::from(change.write_path(&mut path));
                }
            }
        });
        times[0].push(core);
        times[1].push(whole);
    }
    let [core, tree] = times.map(median);
    let per = |time: Duration| time.as_nanos() as f64 / EVENTS as f64;
    println!(
        "CPU at 100,000 events a second in 1,000 directories, ns an event: core {:.0}, tree {:.0}: {:.2} times",
        per(core),
        per(tree),
        per(tree) / per(core)
    );
}

/// CPU time of all threads but the one that causes the events.
fn cpu(directories: &[PathBuf], events: usize, consume: impl FnOnce()) -> Duration {
    use std::os::unix::fs::FileExt;
    let open = |dir: &PathBuf| {
        fs::OpenOptions::new()
            .write(true)
            .open(dir.join("source-0.rs"))
            .expect("a file")
    };
    let files: Vec<_> = directories.iter().map(open).collect();
    let before = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    let (mut own, mut begun) = (Duration::ZERO, Duration::ZERO);
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            begun = clock(libc::CLOCK_THREAD_CPUTIME_ID);
            let start = Instant::now();
            for number in 0..events {
                files[number % files.len()].write_at(b"x", 0).expect("a byte");
                // In steps, each of which is due a little later.
                if number % 100 == 99 {
                    let due = start + Duration::from_micros(10 * (number as u64 + 1));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
            own = clock(libc::CLOCK_THREAD_CPUTIME_ID);
        });
        consume();
        producer.join().expect("the producer");
    });
    clock(libc::CLOCK_PROCESS_CPUTIME_ID) - before - (own - begun)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to the address given, which is a local one.
    assert_eq!(unsafe { libc::clock_gettime(id, &raw mut time) }, 0);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}
