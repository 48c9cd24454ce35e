//! A signal handler that runs while events are waited for and read changes nothing, nor does a stop of the process.
#![cfg(feature = "tokio")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ringwatch::tree::Tree;
use ringwatch::{Backend, Inotify, Mask};
use support::child::{IN_CHILD, again, status_of};
use support::halves::{HALVES, Half};
use support::{backends, on_every_backend, wait_until};

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Signals that are sent in a row.
const BURST: usize = 50;

extern "C" fn handle(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Without `SA_RESTART`, so that system calls end with `EINTR`.
fn install() {
    // SAFETY: an all-zero `sigaction` is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    // SAFETY: the handler only adds to an atomic; the old action is not asked for.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

#[test]
fn signals_under_load_lose_nothing_and_end_no_wait() {
    let files = support::often(8_000);
    install();
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        // SAFETY: no pointers are passed.
        let this_thread = unsafe { libc::pthread_self() };
        let this_process = std::process::id().cast_signed();
        let before = HANDLED.load(Ordering::Relaxed);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..BURST {
                        // SAFETY: that thread runs until this scope ends.
                        unsafe { libc::pthread_kill(this_thread, libc::SIGUSR1) };
                        // To the process as well: a thread that blocks signals never gets these.
                        // SAFETY: no pointers are passed.
                        unsafe { libc::kill(this_process, libc::SIGUSR1) };
                    }
                    support::pause();
                }
            });
            scope.spawn(|| {
                for number in 0..files {
                    if number == files / 2 {
                        // Some must have come, however fast the rest is.
                        support::wait_until(|| HANDLED.load(Ordering::Relaxed) > before + 100);
                    }
                    fs::write(dir.path().join(number.to_string()), "").expect("a file");
                }
            });
            let mut next = 0;
            while next < files {
                for event in &recorder.batch() {
                    let name = event.name().expect("a name").to_string_lossy().into_owned();
                    assert_eq!(name, next.to_string());
                    next += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

/// Sends a signal to each thread of this process but the calling one, over and over.
fn storm(done: &AtomicBool) {
    let (process, own) = (std::process::id(), gettid());
    while !done.load(Ordering::Relaxed) {
        for task in fs::read_dir("/proc/self/task").expect("/proc").flatten() {
            let thread: libc::pid_t = task.file_name().to_string_lossy().parse().expect("a number");
            if thread != own {
                // SAFETY: no pointers are passed. A thread that has ended meanwhile is an error, no other thread.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
            }
        }
        support::pause();
    }
}

fn gettid() -> libc::pid_t {
    // SAFETY: no pointers are passed.
    unsafe { libc::gettid() }
}

fn make(dir: &Path, files: std::ops::Range<usize>) {
    files.for_each(|number| fs::write(dir.join(number.to_string()), "").expect("a file"));
}

/// Takes the events of so many files, in order, none missing.
fn take(half: &mut Half, files: std::ops::Range<usize>) {
    let mut next = files.start;
    while next < files.end {
        for event in &half.wait().expect("it goes on").expect("a batch") {
            assert_eq!(event.name().expect("a name"), next.to_string().as_str());
            next += 1;
        }
    }
}

#[test]
fn a_storm_of_signals_to_every_thread_loses_nothing() {
    const FILES: usize = 500;
    install();
    let before = HANDLED.load(Ordering::Relaxed);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| storm(&done));
        let _ended = Ended(&done);
        for &backend in backends() {
            for name in HALVES {
                let dir = tempfile::tempdir().expect("a directory");
                let inotify = Inotify::builder().backend(backend).build().expect("an instance");
                inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
                let mut half = Half::new(&inotify, name);
                thread::scope(|scope| {
                    scope.spawn(|| make(dir.path(), 0..FILES));
                    take(&mut half, 0..FILES);
                });
                inotify.close();
                assert!(half.wait().is_none(), "{name} on {backend:?}");
            }
            let dir = tempfile::tempdir().expect("a directory");
            (0..200).for_each(|number| fs::create_dir(dir.path().join(format!("dir{number}"))).expect("a directory"));
            let tree = Tree::builder(dir.path()).backend(backend).open().expect("a tree");
            assert_eq!(tree.stats().directories, 201);
            let mut stream = tree.stream().expect("a stream");
            fs::create_dir_all(dir.path().join("new/deep")).expect("directories");
            make(&dir.path().join("new/deep"), 0..100);
            let barrier = tree.barrier().expect("a barrier");
            let mut made = 0;
            'all: for batch in stream.blocking() {
                for change in &batch.expect("it goes on") {
                    if change.barrier() == Some(barrier) {
                        break 'all;
                    }
                    made += usize::from(change.mask().contains(Mask::CREATE));
                }
            }
            assert_eq!(made, 102);
        }
    });
    assert!(HANDLED.load(Ordering::Relaxed) > before + 100);
}

/// Ends a storm, also if what it is about fails.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the process that is stopped does: reads what another makes.
fn read_until_last(case: &str, dir: &Path) {
    let (half, backend) = case.split_once(' ').expect("two words");
    let backend: Backend = backend.parse().expect("a backend");
    if half == TREE {
        return read_tree_until_last(backend, dir);
    }
    let inotify = Inotify::builder().backend(backend).build().expect("an instance");
    inotify.add_watch(dir, Mask::CREATE).expect("a watch");
    let mut half = Half::new(&inotify, half);
    fs::write(dir.with_extension("ready"), "").expect("a file");
    take(&mut half, 0..STOPS * FILES_A_STOP);
}

/// The same, of a tree.
fn read_tree_until_last(backend: Backend, dir: &Path) {
    let tree = Tree::builder(dir).backend(backend).mask(Mask::CREATE).open();
    let mut stream = tree.and_then(|tree| tree.stream()).expect("a stream");
    fs::write(dir.with_extension("ready"), "").expect("a file");
    let mut next = 0;
    while next < STOPS * FILES_A_STOP {
        for change in &stream.wait().expect("it goes on").expect("a batch") {
            assert_eq!(change.path().expect("a path"), dir.join(next.to_string()));
            next += 1;
        }
    }
}

/// What stands for it where halves are named.
const TREE: &str = "tree";

const STOPS: usize = 10;
const FILES_A_STOP: usize = 100;

#[test]
fn a_process_that_is_stopped_and_continued_misses_nothing() {
    const TEST: &str = "a_process_that_is_stopped_and_continued_misses_nothing";
    if std::env::var_os(IN_CHILD).is_some() {
        let [case, dir] = ["CASE", "DIR"].map(|name| std::env::var(format!("RINGWATCH_{name}")).expect("a value"));
        return read_until_last(&case, Path::new(&dir));
    }
    for backend in backends() {
        for half in HALVES.into_iter().chain([TREE]) {
            let above = tempfile::tempdir().expect("a directory");
            let dir = above.path().join("dir");
            fs::create_dir(&dir).expect("a directory");
            let case = format!("{half} {backend:?}").to_lowercase();
            let mut command = again(TEST);
            command
                .env("RINGWATCH_CASE", &case)
                .env("RINGWATCH_DIR", &dir)
                .stdout(Stdio::null());
            let mut child = command.spawn().expect("a child");
            let process = child.id().cast_signed();
            // SAFETY: no pointers are passed, and the child was not waited for, so the number is still its own.
            let send = |signal| assert_eq!(unsafe { libc::kill(process, signal) }, 0);
            wait_until(|| dir.with_extension("ready").exists());
            for round in 0..STOPS {
                let files = round * FILES_A_STOP..(round + 1) * FILES_A_STOP;
                let half = files.start + FILES_A_STOP / 2;
                make(&dir, files.start..half);
                send(libc::SIGSTOP);
                assert!(
                    libc::WIFSTOPPED(status_of(process, libc::WUNTRACED)),
                    "{case} has ended"
                );
                make(&dir, half..files.end);
                send(libc::SIGCONT);
            }
            assert!(child.wait().expect("an end").success(), "{case}");
        }
    }
}
