//! Ends, and moves between threads.

mod support;

use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::{Stream, StreamExt};
use ringwatch::tree::{Cancel, OwnedChange, Tree, TreeBatch, TreeBuilder, TreeStream};
use ringwatch::{
    Backend, BackendKind, Builder, ErrorKind, EventBatch, EventStream, Events, Inotify, Mask, OwnedEvent, Reader, Watch,
};
use support::{PATIENCE, backends, on_every_backend};

fn watching(backend: Backend) -> (Inotify, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let inotify = Inotify::builder().backend(backend).build().expect("an instance");
    inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
    (inotify, dir)
}

fn make(dir: &Path, name: &str) {
    fs::write(dir.join(name), "").expect("a file");
}

fn names(batch: &EventBatch) -> Vec<String> {
    let name = |event: ringwatch::Event<'_>| event.name().expect("a name").to_string_lossy().into_owned();
    batch.iter().map(name).collect()
}

/// Waits until the thread sleeps in the kernel, so that what it waits for is what ends the wait.
fn until_asleep(thread: libc::pid_t) {
    let stat = format!("/proc/self/task/{thread}/stat");
    while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S ")) {
        support::pause();
    }
}

fn this_thread() -> libc::pid_t {
    // SAFETY: no pointers are passed.
    unsafe { libc::gettid() }
}

#[test]
fn close_ends_a_wait_that_is_under_way() {
    for &backend in backends() {
        for half in 0..3 {
            let (inotify, _dir) = watching(backend);
            let (tell, told) = mpsc::channel();
            let waiting = inotify.clone();
            let waiter = thread::spawn(move || {
                let ready = || tell.send(this_thread()).expect("someone listens");
                if half == 1 {
                    let mut reader = waiting.reader().expect("a reader");
                    ready();
                    return reader.wait().is_none();
                }
                let mut stream = waiting.stream().expect("a stream");
                ready();
                match half {
                    0 => stream.wait().is_none(),
                    _ => block_on(stream.next()).is_none(),
                }
            });
            until_asleep(told.recv().expect("a thread"));
            inotify.close();
            assert!(waiter.join().expect("no panic"), "half {half} on {backend:?}");
            assert!(inotify.is_closed());
        }
    }
}

#[test]
fn what_was_read_before_close_is_delivered_then_nothing() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let mut stream = inotify.stream().expect("a stream");
        make(dir.path(), "a");
        support::wait_until(|| inotify.stats().reads > 0);
        inotify.close();
        let batch = stream.wait().expect("what was read").expect("a batch");
        assert_eq!(names(&batch), ["a"]);
        assert!(stream.wait().is_none() && stream.wait().is_none());
        let error = stream.wait_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
}

#[test]
fn a_closed_instance_says_so_whatever_is_asked_of_it() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let watch = inotify.add_watch(dir.path(), Mask::ALL).expect("a watch");
        let other = inotify.clone();
        inotify.close();
        other.close();
        let errors = [
            other.add_watch(dir.path(), Mask::ALL).unwrap_err(),
            other.rm_watch(&watch).unwrap_err(),
            other.barrier().unwrap_err(),
            other.stream().map(drop).unwrap_err(),
            other.reader().map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        }
        assert_eq!(other.stats().kernel_queue, 0);
    }
}

#[test]
fn there_is_one_reading_half_at_a_time() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let stream = inotify.stream().expect("a stream");
        for error in [
            inotify.stream().map(drop).unwrap_err(),
            inotify.reader().map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::AlreadyReading, "{error}");
            assert!(error.remedy().is_some());
        }
        drop(stream);
        let reader = inotify.reader().expect("a reader");
        assert_eq!(
            inotify.stream().map(drop).unwrap_err().kind(),
            ErrorKind::AlreadyReading
        );
        drop(reader);
        let mut stream = inotify.stream().expect("a stream");
        make(dir.path(), "a");
        assert_eq!(names(&stream.wait().expect("it goes on").expect("a batch")), ["a"]);
    }
}

#[test]
fn the_stream_goes_on_when_the_handles_are_gone() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        let handle = recorder.inotify.clone();
        drop(handle);
        make(dir.path(), "a");
        assert_eq!(names(&recorder.batch()), ["a"]);
    });
}

#[test]
fn a_reader_goes_from_thread_to_thread_and_loses_nothing() {
    for backend in [&[Backend::Auto], backends()].concat() {
        let (inotify, dir) = watching(backend);
        let mut reader = inotify.reader().expect("a reader");
        for round in 0..40 {
            make(dir.path(), &format!("{round}-waiting"));
            let path = dir.path().to_owned();
            let mover = thread::spawn(move || {
                let mut seen = Vec::new();
                make(&path, &format!("{round}-moved"));
                while seen.len() < 2 {
                    seen.extend(names(&reader.wait().expect("it goes on").expect("a batch")));
                }
                // Left in the queue, and a read with the kernel, when this thread ends.
                make(&path, &format!("{round}-left"));
                (reader, seen)
            });
            let (moved, seen) = mover.join().expect("no panic");
            reader = moved;
            assert_eq!(
                seen,
                [format!("{round}-waiting"), format!("{round}-moved")],
                "{backend:?}"
            );
            let batch = reader.wait().expect("it goes on").expect("a batch");
            assert_eq!(names(&batch), [format!("{round}-left")], "{backend:?}");
        }
        let report = inotify.backend();
        match backend {
            Backend::Uring => assert_eq!(report.kind(), BackendKind::Uring),
            Backend::Epoll => assert!(report.refusal().is_none()),
            // It falls back, and says why. Unless it had to before.
            Backend::Auto => assert!(report.refusal().is_some() && report.kind() == BackendKind::Epoll),
        }
    }
}

#[test]
fn a_reader_that_moves_while_events_pour_in_gets_them_all_in_order() {
    let count = support::often(30_000);
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let mut reader = inotify.reader().expect("a reader");
        let (mut next, path) = (0, dir.path().to_owned());
        let producer = thread::spawn(move || {
            // Within what the kernel's queue takes, so that nothing is lost.
            for number in 0..count {
                make(&path, &number.to_string());
                if number % 8_000 == 7_999 {
                    thread::park();
                }
            }
        });
        while next < count {
            let mover = thread::spawn(move || {
                let batch = reader.wait().expect("it goes on").expect("a batch");
                (reader, batch)
            });
            let (moved, batch) = mover.join().expect("no panic");
            reader = moved;
            for name in names(&batch) {
                assert_eq!(name, next.to_string(), "on {backend:?}");
                next += 1;
                if next % 8_000 == 0 {
                    producer.thread().unpark();
                }
            }
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn a_reader_made_on_a_thread_that_has_ended_works() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let maker = inotify.clone();
        let made = thread::spawn(move || maker.reader().expect("a reader"));
        let mut reader = made.join().expect("no panic");
        make(dir.path(), "a");
        assert_eq!(names(&reader.wait().expect("it goes on").expect("a batch")), ["a"]);
        drop(reader);
        let maker = inotify.clone();
        let made = thread::spawn(move || maker.stream().expect("a stream"));
        let mut stream = made.join().expect("no panic");
        make(dir.path(), "b");
        assert_eq!(names(&stream.wait().expect("it goes on").expect("a batch")), ["b"]);
    }
}

#[test]
fn a_slow_consumer_does_not_hold_up_another_instance() {
    for &backend in backends() {
        let builder = Inotify::builder().backend(backend).buffers(2).buffer_size(512);
        let stalled = builder.build().expect("an instance");
        let stalled_dir = tempfile::tempdir().expect("a directory");
        stalled.add_watch(stalled_dir.path(), Mask::MODIFY).expect("a watch");
        let _stalled_stream = stalled.stream().expect("a stream");
        let (inotify, dir) = watching(backend);
        let mut stream = inotify.stream().expect("a stream");
        support::Flood::new(stalled_dir.path()).cause(1_000);
        support::wait_until(|| stalled.stats().budget_used == stalled.stats().budget);
        for name in ["a", "b", "c"] {
            make(dir.path(), name);
            assert_eq!(names(&stream.wait().expect("it goes on").expect("a batch")), [name]);
        }
    }
}

#[test]
fn a_descriptor_is_readable_when_and_only_when_there_is_something_to_take() {
    use std::os::fd::{AsFd, AsRawFd};
    let readable = |reader: &Reader, patience: libc::c_int| {
        let mut poll = libc::pollfd {
            fd: reader.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&raw mut poll, 1, patience) == 1 }
    };
    for &backend in backends() {
        for window in [Duration::ZERO, Duration::from_millis(2)] {
            let dir = tempfile::tempdir().expect("a directory");
            let builder = Inotify::builder().backend(backend).batch_window(window);
            let inotify = builder.buffers(4).buffer_size(512).build().expect("an instance");
            inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
            let mut reader = inotify.reader().expect("a reader");
            assert!(!readable(&reader, 0));
            let mut flood = support::Flood::new(dir.path());
            for _ in 0..50 {
                // Several buffers full: all of it comes while the descriptor says so.
                flood.cause(60);
                let mut events = 0;
                while events < 60 {
                    assert!(readable(&reader, 10_000), "{events} on {backend:?} with {window:?}");
                    if let Some(batch) = reader.try_next().expect("it goes on") {
                        events += batch.len();
                    }
                }
                assert_eq!(events, 60);
                // A window that is over shows once more, with nothing to take.
                while readable(&reader, 5) {
                    assert!(reader.try_next().expect("it goes on").is_none());
                }
            }
            // All buffers held: quiet, until one comes back.
            flood.cause(1_000);
            let mut held = Vec::new();
            while held.len() < 4 {
                assert!(readable(&reader, 10_000));
                held.extend(reader.try_next().expect("it goes on"));
            }
            while readable(&reader, 5) {
                assert!(reader.try_next().expect("it goes on").is_none());
            }
            held.pop();
            assert!(readable(&reader, 10_000), "on {backend:?} with {window:?}");
            drop(held);
            // And it is readable when the instance is closed.
            while reader.try_next().expect("it goes on").is_some() || readable(&reader, 5) {}
            inotify.close();
            assert!(readable(&reader, 10_000));
            assert_eq!(reader.try_next().unwrap_err().kind(), ErrorKind::Closed);
        }
    }
}

#[test]
fn what_may_move_may_move() {
    fn send<T: Send + 'static>() {}
    fn sync<T: Sync + 'static>() {}
    send::<Inotify>();
    sync::<Inotify>();
    send::<Watch>();
    sync::<Watch>();
    send::<EventBatch>();
    sync::<EventBatch>();
    send::<EventStream>();
    send::<Events>();
    send::<Reader>();
    send::<OwnedEvent>();
    sync::<OwnedEvent>();
    send::<Builder>();
    send::<Tree>();
    sync::<Tree>();
    send::<TreeBuilder>();
    send::<TreeStream>();
    send::<TreeBatch>();
    sync::<TreeBatch>();
    send::<OwnedChange>();
    sync::<OwnedChange>();
    send::<Cancel>();
    sync::<Cancel>();
    sync::<ringwatch::Error>();
}

#[test]
fn a_stream_opens_while_another_of_its_thread_ends() {
    for &backend in backends() {
        for window in [Duration::ZERO, Duration::from_millis(1)] {
            let make = || {
                let inotify = Inotify::builder().backend(backend).batch_window(window).build();
                let inotify = inotify.expect("an instance");
                let stream = inotify.stream().expect("a stream");
                (inotify, stream)
            };
            // Keeps the thread alive.
            let _idle = make();
            for _ in 0..support::often(1_000) {
                let ending = make();
                thread::scope(|scope| {
                    scope.spawn(move || drop(ending));
                    scope.spawn(|| drop(make()));
                });
            }
        }
    }
    // If this is the last test, LeakSanitizer is not to find a thread that is just ending.
    support::wait_until(|| reader_threads().is_empty());
}

#[test]
fn close_at_any_moment_of_opening_neither_hangs_nor_leaves_anything() {
    for &backend in backends() {
        for round in 0..support::often(1_000) {
            let (inotify, _dir) = watching(backend);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (0..round % 50).for_each(|_| thread::yield_now());
                    inotify.close();
                });
                scope.spawn(|| match inotify.stream() {
                    Ok(mut stream) => assert!(stream.wait().is_none()),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                });
            });
        }
    }
}

#[test]
fn a_watch_that_ends_while_it_is_added_again_is_not_left_behind() {
    for &backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        // Ends are to be delivered while the next call is under way.
        let builder = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
        let inotify = builder.build().expect("an instance");
        inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
        let mut stream = inotify.stream().expect("a stream");
        let path = dir.path().join("again");
        // Resolves all events in order, to the one barrier that is set.
        let consumer = thread::spawn(move || {
            let mut batches = stream.blocking().map(|batch| batch.expect("a batch"));
            assert!(batches.any(|batch| batch.iter().any(|event| event.barrier().is_some())));
        });
        thread::scope(|scope| {
            let adder = scope.spawn(|| {
                for _ in 0..support::often(20_000) {
                    let _ = inotify.add_watch(&path, Mask::ALL);
                }
            });
            while !adder.is_finished() {
                fs::create_dir(&path).expect("a directory");
                fs::remove_dir(&path).expect("no directory");
            }
        });
        // All ends are delivered: only the directory itself is watched.
        inotify.barrier().expect("a barrier");
        consumer.join().expect("no panic");
        assert_eq!(
            (inotify.watches().len(), inotify.stats().watches),
            (1, 1),
            "on {backend:?}"
        );
    }
}

#[test]
fn a_readers_descriptor_shows_what_a_stream_had_read() {
    use std::os::fd::{AsFd, AsRawFd};
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let stream = inotify.stream().expect("a stream");
        make(dir.path(), "a");
        support::wait_until(|| inotify.stats().budget_used > 0);
        drop(stream);
        let mut reader = inotify.reader().expect("a reader");
        let mut poll = libc::pollfd {
            fd: reader.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "on {backend:?}");
        assert_eq!(names(&reader.try_next().expect("it goes on").expect("a batch")), ["a"]);
    }
}

/// What the kernel says of each reader thread.
fn reader_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let status = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    status
        .filter(|status| status.starts_with("Name:\tringwatch\n"))
        .collect()
}

#[test]
fn the_reader_thread_has_a_name_blocks_all_signals_and_ends_with_the_last_stream() {
    // A window of its own, so that no other test's stream is on this thread.
    let window = Duration::from_micros(987);
    for &backend in backends() {
        let make = || {
            let builder = Inotify::builder().backend(backend).batch_window(window);
            builder.build().expect("an instance").stream().expect("a stream")
        };
        let (first, second) = (make(), make());
        let running = reader_threads();
        assert!(!running.is_empty(), "on {backend:?}");
        for status in running {
            let blocked = status
                .lines()
                .find_map(|line| line.strip_prefix("SigBlk:\t"))
                .expect("a set");
            let blocked = u64::from_str_radix(blocked, 16).expect("a number");
            // All that can be blocked; glibc keeps two for itself, and KILL and STOP are the kernel's.
            let ours = [
                libc::SIGHUP,
                libc::SIGINT,
                libc::SIGTERM,
                libc::SIGUSR1,
                libc::SIGALRM,
                libc::SIGCHLD,
                libc::SIGPROF,
            ];
            assert!(
                ours.iter().all(|signal| blocked & (1 << (signal - 1)) != 0),
                "{blocked:x}"
            );
        }
        drop(first);
        drop(second);
    }
}

/// Does something when it is dropped, as a task does that is dropped with its last waker.
struct AtDrop<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Wake for AtDrop<F> {
    fn wake(self: Arc<Self>) {}
}

impl<F: Fn() + Send + Sync> Drop for AtDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Polls a stream that has nothing, which keeps the only waker: `at_drop` is done when that is dropped, by a later poll or
/// with the stream. Fails if that hangs.
fn drop_the_waker_of<S, F>(what: &str, by_a_poll: bool, mut stream: S, at_drop: F)
where
    S: Stream + Unpin + Send + 'static,
    F: Fn() + Send + Sync + 'static,
{
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let waker = Waker::from(Arc::new(AtDrop(at_drop)));
        assert!(stream.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        if by_a_poll {
            let _ = stream.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
        }
        drop(stream);
        let _ = tell.send(());
    });
    let ended = told.recv_timeout(PATIENCE);
    ended.unwrap_or_else(|error| panic!("{what}, by a poll: {by_a_poll}: {error}"));
}

#[test]
fn a_task_that_is_dropped_with_its_waker_may_close_what_it_waited_for() {
    for by_a_poll in [true, false] {
        for &backend in backends() {
            let (inotify, _dir) = watching(backend);
            let stream = inotify.stream().expect("a stream");
            let closing = inotify.clone();
            drop_the_waker_of("a stream", by_a_poll, stream, move || closing.close());
            assert!(inotify.is_closed());
        }
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree::new(dir.path()).expect("a tree");
        let stream = tree.stream().expect("a stream");
        // What it asks of the tree is among what the stream locks.
        drop_the_waker_of("a tree's stream", by_a_poll, stream, move || {
            drop(tree.stream());
            tree.close();
        });
    }
}
