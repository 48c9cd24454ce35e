//! The stream on every executor, the reader in every event loop.

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ringwatch::{Backend, EventBatch, Inotify, Mask, Result};
use support::backends;

const FILES: usize = 3_000;

fn watching(backend: Backend) -> (Inotify, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let inotify = Inotify::builder().backend(backend).build().expect("an instance");
    inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
    (inotify, dir)
}

/// Makes files with numbered names, with a pause now and then so that consumers go to sleep.
fn produce(dir: &Path) -> std::thread::JoinHandle<()> {
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for number in 0..FILES {
            fs::write(dir.join(number.to_string()), "").expect("a file");
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    })
}

/// Counts the next events, which must have the next names.
struct Expected(usize);

impl Expected {
    fn check(&mut self, batch: &EventBatch) {
        for event in batch {
            assert_eq!(
                event.name().and_then(|name| name.to_str()),
                Some(&*self.0.to_string()),
                "{event:?}"
            );
            self.0 += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.0 == FILES
    }
}

async fn consume(mut batches: impl Stream<Item = Result<EventBatch>> + Unpin, inotify: &Inotify) {
    let mut expected = Expected(0);
    while !expected.is_complete() {
        expected.check(&batches.next().await.expect("it goes on").expect("a batch"));
    }
    inotify.close();
    assert!(batches.next().await.is_none());
}

fn on_stream(run: impl Fn(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>)) {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let producer = produce(dir.path());
        run(Box::pin(async move {
            let stream = inotify.stream().expect("a stream");
            consume(stream, &inotify).await;
        }));
        producer.join().expect("no panic");
    }
}

#[test]
fn stream_on_a_bare_block_on() {
    on_stream(futures_executor::block_on);
}

#[test]
fn stream_on_multi_thread_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    on_stream(|consumer| runtime.block_on(runtime.spawn(consumer)).expect("no panic"));
}

#[test]
fn stream_on_current_thread_tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    on_stream(|consumer| runtime.block_on(consumer));
}

#[test]
fn stream_on_tokio_uring() {
    if backends().contains(&Backend::Uring) {
        on_stream(tokio_uring::start);
    }
}

#[test]
fn stream_on_smol() {
    on_stream(|consumer| smol::block_on(smol::spawn(consumer)));
}

#[test]
fn stream_that_moves_between_executor_threads() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let mut stream = inotify.stream().expect("a stream");
        let producer = produce(dir.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .expect("a runtime");
        let mut expected = Expected(0);
        while !expected.is_complete() {
            // Each batch is awaited by a task of its own, on whichever thread takes it; or by no executor at all.
            let next = async move {
                let batch = stream.next().await.expect("it goes on").expect("a batch");
                (stream, batch)
            };
            let (moved, batch) = match expected.0 % 3 {
                0 => futures_executor::block_on(next),
                _ => runtime.block_on(runtime.spawn(next)).expect("no panic"),
            };
            stream = moved;
            expected.check(&batch);
        }
        producer.join().expect("no panic");
    }
}

#[test]
fn events_one_by_one_are_those_of_the_batches() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let events = inotify.stream().expect("a stream").events();
        let producer = produce(dir.path());
        let names: Vec<String> = futures_executor::block_on(
            events
                .take(FILES)
                .map(|event| {
                    let event = event.expect("an event");
                    assert_eq!(event.path(), Some(dir.path().join(event.name().expect("a name"))));
                    event.name().expect("a name").to_string_lossy().into_owned()
                })
                .collect(),
        );
        assert!(
            names
                .iter()
                .enumerate()
                .all(|(number, name)| *name == number.to_string())
        );
        producer.join().expect("no panic");
    }
}

#[test]
fn reader_joins_smol_through_its_descriptor() {
    for &backend in backends() {
        let (inotify, dir) = watching(backend);
        let producer = produce(dir.path());
        // The descriptor is only waited on; that it is non-blocking is ours to see to.
        let mut reader = smol::Async::new_nonblocking(inotify.reader().expect("a reader")).expect("in the event loop");
        let mut expected = Expected(0);
        smol::block_on(async {
            while !expected.is_complete() {
                reader.readable().await.expect("readable");
                // SAFETY: the reader is not replaced, and its descriptor stays open.
                let reader = unsafe { reader.get_mut() };
                while let Some(batch) = reader.try_next().expect("it goes on") {
                    expected.check(&batch);
                }
            }
        });
        producer.join().expect("no panic");
    }
}

#[cfg(feature = "tokio")]
mod in_place {
    use super::*;
    use ringwatch::BackendKind;

    fn windows() -> [Duration; 2] {
        [Duration::ZERO, Duration::from_millis(1)]
    }

    fn watching_with(backend: Backend, window: Duration) -> (Inotify, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let builder = Inotify::builder().backend(backend).batch_window(window);
        let inotify = builder.build().expect("an instance");
        inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
        (inotify, dir)
    }

    #[test]
    fn on_current_thread_tokio() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        for &backend in backends() {
            for window in windows() {
                let (inotify, dir) = watching_with(backend, window);
                let producer = produce(dir.path());
                runtime.block_on(async {
                    let stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
                    consume(stream, &inotify).await;
                });
                producer.join().expect("no panic");
            }
        }
    }

    #[test]
    fn in_a_local_set_beside_other_tasks() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        for &backend in backends() {
            let (inotify, dir) = watching(backend);
            let producer = produce(dir.path());
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
                let beside = tokio::task::spawn_local(async {
                    for _ in 0..20 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
                consume(stream, &inotify).await;
                beside.await.expect("no panic");
            });
            producer.join().expect("no panic");
        }
    }

    #[test]
    fn on_tokio_uring() {
        if !backends().contains(&Backend::Uring) {
            return;
        }
        for &backend in backends() {
            for window in windows() {
                let (inotify, dir) = watching_with(backend, window);
                let producer = produce(dir.path());
                tokio_uring::start(async {
                    let stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
                    consume(stream, &inotify).await;
                });
                producer.join().expect("no panic");
            }
        }
    }

    #[test]
    fn a_look_that_brings_nothing_to_show_is_not_the_last() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let runtime = runtime.expect("a runtime");
        for &backend in backends() {
            let dir = tempfile::tempdir().expect("a directory");
            let builder = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
            let inotify = builder.buffers(64).buffer_size(544).build().expect("an instance");
            inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
            let mut flood = support::Flood::new(dir.path());
            runtime.block_on(async {
                let reader = inotify.reader().expect("a reader");
                let mut stream = reader.into_stream().expect("a stream");
                flood.overflow();
                let mut seen = 0;
                while seen < 8_000 {
                    seen += stream.next().await.expect("it goes on").expect("a batch").len();
                }
                // Each gets another marker when the overflow is read; the first ones then mean nothing, and are not shown.
                let barriers: Vec<_> = (0..3_000).map(|_| inotify.barrier().expect("a barrier")).collect();
                let (mut overflowed, mut arrived, mut rest) = (false, 0, 0);
                while arrived < barriers.len() || rest < 100 {
                    let batch = stream.next().await.expect("it goes on").expect("a batch");
                    rest += batch
                        .iter()
                        .filter(|event| overflowed && event.name().is_some())
                        .count();
                    if batch.overflowed() && !overflowed {
                        overflowed = true;
                        flood.cause(100);
                    }
                    arrived += batch.iter().filter(|event| event.barrier().is_some()).count();
                }
            });
        }
    }

    #[test]
    fn a_reader_that_was_starved_and_a_stream_shows_its_events_again() {
        use std::os::fd::{AsFd, AsRawFd};

        let is_readable = |reader: &ringwatch::Reader| {
            let mut poll = [libc::pollfd {
                fd: reader.as_fd().as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            }];
            // SAFETY: one pollfd, which lives through the call.
            unsafe { libc::poll(poll.as_mut_ptr(), 1, 0) == 1 }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        for &backend in backends() {
            let dir = tempfile::tempdir().expect("a directory");
            let builder = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
            let inotify = builder.buffers(2).buffer_size(272).build().expect("an instance");
            inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
            let mut flood = support::Flood::new(dir.path());
            let mut reader = inotify.reader().expect("a reader");
            assert!(!is_readable(&reader));
            flood.cause(100);
            let mut held = Vec::new();
            while let Some(batch) = reader.try_next().expect("it goes on") {
                held.push(batch);
            }
            assert!(!is_readable(&reader), "nothing can be taken while all buffers are held");
            let mut seen: usize = held.iter().map(EventBatch::len).sum();
            reader = runtime.block_on(async {
                let mut stream = reader.into_stream().expect("a stream");
                held.clear();
                while seen < 100 {
                    seen += stream.next().await.expect("it goes on").expect("a batch").len();
                }
                stream.into_reader()
            });
            assert!(!is_readable(&reader));
            flood.cause(1);
            assert!(is_readable(&reader), "{backend:?}");
        }
    }

    #[test]
    fn without_a_window_the_choice_is_to_read_without_a_ring_and_it_is_said() {
        if !backends().contains(&Backend::Uring) {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        let kind = |backend, window| {
            let (inotify, _dir) = watching_with(backend, window);
            let stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
            let report = inotify.backend();
            let _reader = stream.into_reader();
            assert_eq!(inotify.backend().kind(), BackendKind::Uring);
            (report.kind(), report.to_string().contains("tokio waits with epoll"))
        };
        let [none, some] = [Duration::ZERO, Duration::from_millis(1)];
        assert_eq!(kind(Backend::Auto, none), (BackendKind::Epoll, true));
        assert_eq!(kind(Backend::Auto, some), (BackendKind::Uring, false));
        assert_eq!(kind(Backend::Uring, none), (BackendKind::Uring, false));
    }

    #[test]
    fn close_from_another_thread_ends_it() {
        for &backend in backends() {
            let (inotify, _dir) = watching(backend);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
                let pending = futures_util::poll!(stream.next());
                assert!(pending.is_pending());
                let closer = inotify.clone();
                let closed = std::thread::spawn(move || closer.close());
                assert!(stream.next().await.is_none());
                closed.join().expect("no panic");
            });
        }
    }

    #[test]
    fn dropping_next_half_way_loses_nothing() {
        for &backend in backends() {
            let (inotify, dir) = watching(backend);
            let producer = produce(dir.path());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut stream = inotify.reader().expect("a reader").into_stream().expect("a stream");
                let mut expected = Expected(0);
                while !expected.is_complete() {
                    let next = tokio::time::timeout(Duration::from_micros(100), stream.next()).await;
                    if let Ok(batch) = next {
                        expected.check(&batch.expect("it goes on").expect("a batch"));
                    }
                }
            });
            producer.join().expect("no panic");
        }
    }
}
