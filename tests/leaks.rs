//! Nothing is left behind: thousands of rounds of build, watch, read and drop, in every order, leave the process as it was.
//!
//! One test, so that nothing else in the process changes the counts.

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use ringwatch::{Backend, Inotify, Mask};
use support::process::Has;
use support::{backends, often};

const ROUNDS: usize = 3_000;

fn round(backend: Backend, number: usize, dir: &std::path::Path) {
    let inotify = Inotify::builder().backend(backend).build().expect("an instance");
    inotify.add_watch(dir, Mask::OPEN).expect("a watch");
    let cause = || drop(fs::read_dir(dir).expect("a directory"));
    match number % 8 {
        // The stream first, the handle first, the batch last.
        0 => {
            let mut stream = inotify.stream().expect("a stream");
            cause();
            let batch = stream.wait();
            drop(stream);
            drop(inotify);
            assert_eq!(batch.expect("it goes on").expect("a batch").len(), 1);
        }
        1 => {
            let mut stream = inotify.stream().expect("a stream");
            drop(inotify);
            cause();
            let batch = stream.wait();
            drop(stream);
            drop(batch);
        }
        2 => {
            let mut stream = inotify.stream().expect("a stream");
            cause();
            inotify.close();
            while let Some(batch) = stream.wait() {
                drop(batch.expect("a batch"));
            }
        }
        // Nothing was ever read, and nothing ever happened.
        3 => drop(inotify.stream().expect("a stream")),
        4 => {
            let mut reader = inotify.reader().expect("a reader");
            cause();
            let batch = reader.wait();
            drop(reader);
            drop(inotify);
            drop(batch);
        }
        // A read is with the kernel when the reader is dropped.
        5 => {
            let mut reader = inotify.reader().expect("a reader");
            assert!(reader.wait_timeout(Duration::ZERO).expect("it goes on").is_none());
            drop(inotify);
        }
        6 => {
            inotify.close();
            assert!(inotify.stream().is_err());
        }
        // Dropped on another thread than the one it was used on.
        _ => {
            let mut reader = inotify.reader().expect("a reader");
            assert!(reader.wait_timeout(Duration::ZERO).expect("it goes on").is_none());
            thread::spawn(move || drop(reader)).join().expect("a thread");
        }
    }
}

#[test]
fn thousands_of_rounds_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    for &backend in backends() {
        // Whatever is made once is made now.
        (0..64).for_each(|number| round(backend, number, dir.path()));
        thread::sleep(Duration::from_millis(50));
        let before = Has::now();
        (0..often(ROUNDS)).for_each(|number| round(backend, number, dir.path()));
        before.wait_until_no_more(&format!("rounds on {backend:?}"));
        // Not even in the kernel: as many instances at once as ever.
        let many: Vec<_> = (0..100).map(|_| Inotify::builder().backend(backend).build()).collect();
        assert!(
            many.iter().all(Result::is_ok),
            "{:?}",
            many.iter().find(|one| one.is_err())
        );
    }
}
