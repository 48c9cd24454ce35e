//! After `fork` the parent goes on as if nothing had happened. In the child, what the parent had made says that it is the
//! parent's, gives none of its events, and waits for no lock; and the child may make instances of its own.
//!
//! Each test runs in a process of its own, so that nothing but what it does is going on when it forks.
#![cfg(feature = "tokio")]

mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use ringwatch::tree::{Tree, TreeBatch, TreeStats, TreeStream};
use ringwatch::{
    Backend, BackendKind, ErrorKind, EventBatch, EventStream, Events, Inotify, Mask, Reader, ReaderStream, Result,
    Watch,
};
use support::child::{in_child, status_of};
use support::kernel::mask_of;
use support::process::{Has, descriptors_now, threads_now};
use support::{Stopping, backends, wait_until};

/// Runs `body` in a child of this process, and answers its process id.
fn fork(body: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the C library sees to its own locks at a fork, and nothing else runs here that holds others.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", std::io::Error::last_os_error());
    if child == 0 {
        end_if_hung();
        let well = catch_unwind(AssertUnwindSafe(body)).is_ok();
        // SAFETY: it never returns, and runs nothing that belongs to the parent.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    child
}

/// Ends this process if it hangs, and says where.
fn end_if_hung() {
    extern "C" fn say_where(_: libc::c_int) {
        // Should it wait for a lock here, this ends it.
        // SAFETY: no pointers are passed.
        unsafe { libc::alarm(5) };
        let trace = std::backtrace::Backtrace::force_capture();
        eprintln!("the child hangs:\n{trace}\n{}\n{}", threads_now(), descriptors_now());
        // SAFETY: it runs nothing that belongs to the parent.
        unsafe { libc::_exit(2) };
    }
    // SAFETY: all zeroes is one that asks for nothing.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = say_where as extern "C" fn(libc::c_int) as usize;
    // The second signal is not handled.
    action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
    let none = std::ptr::null_mut();
    // SAFETY: the action lives through the call. A handler should not allocate; nothing comes behind this one.
    assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, none) }, 0);
    // SAFETY: no pointers are passed.
    unsafe { libc::alarm(20) };
}

/// Waits until this process has no more threads than these. Rust's standard library starts and ends threads under a lock: if
/// it is held at a fork, no thread starts in the child (README).
fn until_others_have_ended(threads: usize) {
    wait_until(|| Has::now().threads <= threads);
}

/// Fails if the child did, or if it had to be ended.
fn join(child: libc::pid_t) {
    let status = status_of(child, 0);
    assert!(
        !libc::WIFSIGNALED(status),
        "the child hung, or was killed by {}",
        libc::WTERMSIG(status)
    );
    assert_eq!(status, 0, "the child failed");
}

fn make(dir: &Path, names: std::ops::Range<usize>) {
    names.for_each(|number| fs::write(dir.join(number.to_string()), "").expect("a file"));
}

/// Waits until the thread sleeps in the kernel.
fn until_asleep(thread: libc::pid_t) {
    let stat = format!("/proc/self/task/{thread}/stat");
    while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S ")) {
        support::pause();
    }
}

/// A reading half, whichever.
enum Half {
    Stream(EventStream),
    Reader(Reader),
    /// A reader whose descriptor is in an event loop.
    Shown(Reader),
    Tokio(ReaderStream, tokio::runtime::Runtime),
}

const HALVES: usize = 4;

impl Half {
    const STREAM: usize = 0;
    const READER: usize = 1;

    fn new(inotify: &Inotify, number: usize) -> Self {
        let reader = || inotify.reader().expect("a reader");
        match number {
            Self::STREAM => Self::Stream(inotify.stream().expect("a stream")),
            Self::READER => Self::Reader(reader()),
            2 => {
                let reader = reader();
                std::os::fd::AsRawFd::as_raw_fd(&reader);
                Self::Shown(reader)
            }
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let entered = runtime.enter();
                let stream = reader().into_stream().expect("a stream");
                drop(entered);
                Self::Tokio(stream, runtime)
            }
        }
    }

    fn wait(&mut self) -> Option<Result<EventBatch>> {
        match self {
            Self::Stream(stream) => stream.wait(),
            Self::Reader(reader) | Self::Shown(reader) => reader.wait(),
            Self::Tokio(stream, runtime) => runtime.block_on(stream.next()),
        }
    }

    /// In a child. The runtime is the parent's, and tokio's affair.
    fn assert_refused(mut self, inotify: &Inotify) {
        let is_forked = |error: &ringwatch::Error| {
            assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
            assert!(error.to_string().contains("fork"), "{error}");
        };
        match &mut self {
            Self::Stream(stream) => {
                is_forked(&stream.wait().expect("an error").unwrap_err());
                assert!(stream.wait().is_none());
                assert!(stream.next().now_or_never().expect("at once").is_none());
                is_forked(&stream.wait_timeout(Duration::ZERO).unwrap_err());
            }
            Self::Reader(reader) | Self::Shown(reader) => {
                is_forked(&reader.try_next().unwrap_err());
                is_forked(&reader.wait_timeout(Duration::ZERO).unwrap_err());
                assert!(reader.wait().is_none());
                std::os::fd::AsRawFd::as_raw_fd(reader);
            }
            Self::Tokio(stream, _) => {
                is_forked(
                    &stream
                        .next()
                        .now_or_never()
                        .expect("at once")
                        .expect("an error")
                        .unwrap_err(),
                );
                assert!(stream.next().now_or_never().expect("at once").is_none());
            }
        }
        is_forked(&inotify.stream().map(drop).unwrap_err());
        is_forked(&inotify.reader().map(drop).unwrap_err());
        if let Self::Tokio(stream, runtime) = self {
            std::mem::forget(runtime);
            drop(stream.into_reader());
        }
    }
}

fn handle_is_refused(inotify: &Inotify, watch: &Watch, dir: &Path) {
    let errors = [
        inotify.add_watch(dir, Mask::ALL).unwrap_err(),
        inotify.rm_watch(watch).unwrap_err(),
        inotify.barrier().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
    }
    assert!(inotify.watches().is_empty() && inotify.is_closed());
    assert_eq!(inotify.stats(), ringwatch::Stats::default());
    let report = inotify.backend();
    assert_eq!(report.refusal().expect("a reason").kind(), ErrorKind::Forked);
    inotify.close();
    // What it knows it can tell.
    assert_eq!((&*watch.path(), watch.mask()), (dir, Mask::CREATE));
    watch.set_path("/elsewhere");
}

/// An instance of the child's own, through each of these halves.
fn own_instance_works(backend: Backend, halves: &[usize]) {
    let dir = tempfile::tempdir().expect("a directory");
    let inotify = Inotify::builder().backend(backend).build().expect("an instance");
    inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
    for &number in halves {
        let mut half = Half::new(&inotify, number);
        make(dir.path(), number..number + 1);
        let batch = half.wait().expect("it goes on").expect("a batch");
        assert_eq!(
            batch.iter().next().expect("an event").name().expect("a name"),
            number.to_string().as_str()
        );
    }
}

fn events(half: &mut Half, expected: std::ops::Range<usize>) {
    let mut next = expected.start;
    while next < expected.end {
        for event in &half.wait().expect("it goes on").expect("a batch") {
            assert_eq!(event.name().expect("a name"), next.to_string().as_str());
            next += 1;
        }
    }
    assert_eq!(next, expected.end);
}

#[test]
fn the_parent_goes_on_and_the_child_is_refused() {
    in_child(
        "the_parent_goes_on_and_the_child_is_refused",
        |_| {},
        || {
            let threads = Has::now().threads;
            for &backend in backends() {
                for number in 0..HALVES {
                    for window in [Duration::ZERO, Duration::from_millis(4)] {
                        until_others_have_ended(threads);
                        let dir = tempfile::tempdir().expect("a directory");
                        let builder = Inotify::builder().backend(backend).batch_window(window);
                        let inotify = builder.build().expect("an instance");
                        let watch = inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
                        let mut half = Half::new(&inotify, number);
                        make(dir.path(), 0..3);
                        let held = half.wait().expect("it goes on").expect("a batch");
                        let seen = held.len();
                        events(&mut half, seen..3);
                        // Read and not taken, or not read, in the parent; and a request that waits.
                        make(dir.path(), 3..5);
                        for round in 0..3 {
                            let half = &mut half;
                            let child = fork(|| {
                                // SAFETY: the parent's own is not touched: this is another process.
                                let half = unsafe { std::ptr::read(half) };
                                half.assert_refused(&inotify);
                                handle_is_refused(&inotify, &watch, dir.path());
                                // SAFETY: as above.
                                drop(unsafe { std::ptr::read(&raw const held) });
                                // SAFETY: as above.
                                drop(unsafe { std::ptr::read(&raw const inotify) });
                                // SAFETY: as above.
                                drop(unsafe { std::ptr::read(&raw const watch) });
                                own_instance_works(backend, &[Half::STREAM, Half::READER]);
                            });
                            // At the same time, and afterwards.
                            make(dir.path(), 5 + 4 * round..7 + 4 * round);
                            join(child);
                            make(dir.path(), 7 + 4 * round..9 + 4 * round);
                        }
                        events(&mut half, 3..17);
                        // What it waits on is still there: these come while it sleeps.
                        // SAFETY: no pointers are passed.
                        let sleeper = unsafe { libc::gettid() };
                        thread::scope(|scope| {
                            scope.spawn(|| {
                                until_asleep(sleeper);
                                make(dir.path(), 17..18);
                                until_asleep(sleeper);
                                make(dir.path(), 18..19);
                            });
                            events(&mut half, 17..19);
                        });
                        assert_eq!((&*watch.path(), watch.mask()), (dir.path(), Mask::CREATE));
                        assert_eq!(mask_of(dir.path()), Some(Mask::CREATE));
                        assert_eq!(inotify.watches().len(), 1);
                        let kind = inotify.backend().kind();
                        assert!(number == 3 || (kind == BackendKind::Uring) == (backend == Backend::Uring));
                        drop(held);
                        inotify.close();
                        assert!(half.wait().is_none());
                    }
                }
            }
        },
    );
}

fn tree_is_refused(tree: &Tree, stream: &mut TreeStream, dir: &Path) {
    let is_forked = |error: ringwatch::Error| assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
    is_forked(stream.wait().expect("an error").map(drop).unwrap_err());
    assert!(stream.wait().is_none());
    is_forked(stream.wait_timeout(Duration::ZERO).map(drop).unwrap_err());
    is_forked(tree.barrier().map(drop).unwrap_err());
    is_forked(tree.stream().map(drop).unwrap_err());
    is_forked(tree.add_root(dir).unwrap_err());
    is_forked(tree.remove_root(dir).unwrap_err());
    is_forked(tree.refilter().unwrap_err());
    is_forked(tree.retry_uncovered().unwrap_err());
    assert!(tree.roots().is_empty() && tree.uncovered().is_empty());
    assert_eq!(tree.backend().refusal().expect("a reason").kind(), ErrorKind::Forked);
    assert_eq!(tree.stats(), TreeStats::default());
    tree.close();
}

#[test]
fn a_tree_goes_on_in_the_parent_and_is_refused_in_the_child() {
    in_child(
        "a_tree_goes_on_in_the_parent_and_is_refused_in_the_child",
        |_| {},
        || {
            let threads = Has::now().threads;
            for &backend in backends() {
                until_others_have_ended(threads);
                let dir = tempfile::tempdir().expect("a directory");
                fs::create_dir(dir.path().join("sub")).expect("a directory");
                let tree = Tree::builder(dir.path()).backend(backend).open().expect("a tree");
                let mut stream = tree.stream().expect("a stream");
                fs::write(dir.path().join("sub/first"), "").expect("a file");
                let held: TreeBatch = stream.wait().expect("it goes on").expect("a batch");
                for round in 0..3 {
                    let file = |when| dir.path().join(format!("sub/{round}-{when}"));
                    fs::write(file("before"), "").expect("a file");
                    let child = fork(|| {
                        // SAFETY: the parent's own is not touched: this is another process.
                        let mut stream = unsafe { std::ptr::read(&raw const stream) };
                        tree_is_refused(&tree, &mut stream, dir.path());
                        drop(stream);
                        // SAFETY: as above.
                        drop(unsafe { std::ptr::read(&raw const held) });
                        // SAFETY: as above.
                        drop(unsafe { std::ptr::read(&raw const tree) });
                        let own = Tree::new(dir.path()).expect("a tree of its own");
                        assert!(own.stats().directories >= 2);
                    });
                    fs::create_dir_all(file("dir").join("below")).expect("directories");
                    join(child);
                    let barrier = tree.barrier().expect("a barrier");
                    let mut made = Vec::new();
                    'all: for batch in stream.blocking() {
                        for change in &batch.expect("it goes on") {
                            if change.barrier() == Some(barrier) {
                                break 'all;
                            }
                            if change.mask().contains(Mask::CREATE) {
                                made.extend(change.path());
                            }
                        }
                    }
                    for path in [file("before"), file("dir"), file("dir").join("below")] {
                        assert!(made.contains(&path), "{path:?} is not in {made:?}");
                    }
                    assert_eq!(tree.stats().directories, 4 + 2 * round);
                }
            }
        },
    );
}

/// Locks are held at the moment of some of these forks, by threads that the children do not have.
#[test]
fn a_child_waits_for_no_lock_of_its_parent() {
    in_child(
        "a_child_waits_for_no_lock_of_its_parent",
        |_| {},
        || {
            backends().iter().for_each(|&backend| fork_amid_work(backend));
        },
    );
}

fn fork_amid_work(backend: Backend) {
    let forks = support::often(40);
    let dir = tempfile::tempdir().expect("a directory");
    let build = || {
        let builder = Inotify::builder().backend(backend).buffers(16);
        builder.batch_window(Duration::ZERO).build().expect("an instance")
    };
    let inotify = build();
    let watch = inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
    let mut stream = inotify.stream().expect("a stream");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopping = Stopping(&done);
        let until_done = |work: &dyn Fn()| {
            while !done.load(Ordering::Relaxed) {
                work();
            }
        };
        let files = [dir.path().join("a"), dir.path().join("b")];
        scope.spawn(move || until_done(&|| files.iter().for_each(|file| fs::write(file, "x").expect("a file"))));
        let (inotify, watch) = (&inotify, &watch);
        scope.spawn(move || {
            until_done(&|| {
                inotify.add_watch("/", Mask::MODIFY).expect("a watch");
                watch.set_path("/elsewhere");
                inotify.barrier().expect("a barrier");
                drop((inotify.stats(), inotify.backend(), watch.path()));
            });
        });
        // The list of reader threads, and what is given back late.
        scope.spawn(move || {
            until_done(&|| drop(build().stream().expect("a stream")));
        });
        for number in 0..forks {
            let batch = stream.wait().expect("it goes on").expect("a batch");
            let child = fork(|| {
                // SAFETY: the parent's own is not touched: this is another process.
                let batch = unsafe { std::ptr::read(&raw const batch) };
                // SAFETY: as above.
                let mut stream = unsafe { std::ptr::read(&raw const stream) };
                batch.iter().for_each(|event| drop(event.path()));
                drop(batch);
                assert_eq!(
                    stream.wait().expect("an error").map(drop).unwrap_err().kind(),
                    ErrorKind::Forked
                );
                drop(stream);
                assert!(inotify.barrier().is_err() && inotify.watches().is_empty());
                drop((inotify.stats(), inotify.backend(), watch.path(), watch.mask()));
                watch.set_path("/elsewhere");
                inotify.close();
                if number % 8 == 0 {
                    // Threads start and end here all the time.
                    own_instance_works(backend, &[Half::READER]);
                }
            });
            join(child);
        }
    });
}

fn assert_next(events: &mut Events, expected: usize) {
    let event = futures_executor::block_on(events.next());
    let event = event.expect("it goes on").expect("an event");
    assert_eq!(event.name().expect("a name"), expected.to_string().as_str());
}

#[test]
fn events_one_by_one_end_in_the_child_also_amid_a_batch() {
    in_child(
        "events_one_by_one_end_in_the_child_also_amid_a_batch",
        |_| {},
        || {
            for &backend in backends() {
                let dir = tempfile::tempdir().expect("a directory");
                let inotify = Inotify::builder().backend(backend).build().expect("an instance");
                inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
                make(dir.path(), 0..3);
                let mut events = inotify.stream().expect("a stream").events();
                assert_next(&mut events, 0);
                join(fork(|| {
                    // SAFETY: the parent's own is not touched: this is another process.
                    let mut events = unsafe { std::ptr::read(&raw const events) };
                    let mut next = || events.next().now_or_never().expect("at once");
                    let error = next().expect("an error").unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Forked, "{error}");
                    assert!(next().is_none());
                }));
                assert_next(&mut events, 1);
                assert_next(&mut events, 2);
            }
        },
    );
}
