//! The batch window: a busy watcher wakes at most once in it.

mod support;

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::{ErrorKind, Inotify, Mask};
use support::{backends, on_every_backend};

const WINDOW: Duration = Duration::from_millis(10);

/// Sets its flag when dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `body` while events pour in.
fn under_load(dir: &Path, body: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = support::Flood::new(dir);
            while !done.load(Ordering::Relaxed) {
                flood.cause(10);
                support::pause();
            }
        });
        // Also if the body panics: the scope waits for the producer.
        let _done = Done(&done);
        body();
    });
}

/// Events that leave no room for any other in a buffer of 16 KiB: 32 bytes each, with these names, and the largest has 272.
const FULL: usize = (16 * 1024 - 272) / 32;

/// How many wake-ups there can have been since, if each but the first took a window. However slow the machine is, there
/// are not more.
fn most_since(since: Instant) -> u64 {
    (since.elapsed().as_nanos() / WINDOW.as_nanos()) as u64 + 2
}

#[test]
fn a_busy_watcher_wakes_once_in_a_window() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = setup.read(setup.builder().batch_window(WINDOW).build().expect("an instance"));
        recorder.watch(dir.path(), Mask::MODIFY);
        under_load(dir.path(), || {
            let since = Instant::now();
            // Whoever could not read all reads on at once.
            let mut full = 0;
            for _ in 0..30 {
                full += u64::from(recorder.batch().len() >= FULL);
            }
            let most = most_since(since) + full;
            let wakeups = recorder.inotify.stats().wakeups;
            assert!(wakeups <= most, "{wakeups} wake-ups where there can be {most}");
        });
    });
}

#[test]
fn a_busy_readers_descriptor_becomes_readable_once_in_a_window() {
    for &backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::builder()
            .backend(backend)
            .batch_window(WINDOW)
            .build()
            .expect("an instance");
        inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
        let mut reader = inotify.reader().expect("a reader");
        let mut poll = libc::pollfd {
            fd: reader.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        under_load(dir.path(), || {
            let since = Instant::now();
            for _ in 0..30 {
                // SAFETY: one pollfd that lives through the call.
                assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 60_000) }, 1);
                while reader.try_next().expect("it goes on").is_some() {}
            }
            let most = most_since(since);
            let wakeups = inotify.stats().wakeups;
            assert!(
                wakeups <= most,
                "{wakeups} wake-ups where there can be {most}, on {backend:?}"
            );
        });
    }
}

#[test]
fn without_a_window_every_event_wakes() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let builder = setup.builder().batch_window(Duration::ZERO);
        let mut recorder = setup.read(builder.build().expect("an instance"));
        recorder.watch(dir.path(), Mask::MODIFY);
        let mut flood = support::Flood::new(dir.path());
        for _ in 0..200 {
            flood.cause(1);
            assert_eq!(recorder.batch().len(), 1);
        }
        assert_eq!(recorder.inotify.stats().wakeups, 200);
    });
}

#[test]
fn a_window_that_is_too_long_is_refused() {
    let error = Inotify::builder()
        .batch_window(Duration::from_secs(2))
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("2s"), "{error}");
}
