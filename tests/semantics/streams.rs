//! Streams that share a reader thread, and must not notice.

use std::sync::mpsc;
use std::thread;

use ringwatch::Mask;

use crate::support::{PATIENCE, file, on_every_backend};

#[test]
fn a_stream_opens_at_the_moment_others_end() {
    const ROUNDS: usize = 200;
    const THREADS: usize = 6;
    on_every_backend(|setup| {
        // Many short rounds: what one misses, the next would tell it.
        for _ in 0..ROUNDS {
            let (opened, is_open) = mpsc::channel();
            for _ in 0..THREADS {
                let (setup, opened) = (*setup, opened.clone());
                // Not joined: if one hangs, the test must still fail.
                thread::spawn(move || {
                    drop(setup.recorder());
                    drop(setup.recorder());
                    opened.send(()).unwrap();
                });
            }
            for _ in 0..THREADS {
                is_open.recv_timeout(PATIENCE).expect("every stream opens");
            }
        }
    });
}

#[test]
fn a_stream_reads_on_while_others_open_and_end() {
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        for number in 0..50 {
            let other = setup.recorder();
            file(dir.path().join(number.to_string()));
            drop(other);
            let events = recorder.events();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(events[0].path(), Some(dir.path().join(number.to_string())));
        }
    });
}
