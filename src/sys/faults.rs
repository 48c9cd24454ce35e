//! Completions that the kernel has no reason to send, and what comes of them. Compiled for tests only.
//!
//! A read that is to end with a certain result is not submitted at all: a request that does nothing takes its place, and its
//! completion is given that result. So no event is touched, as is true of a read that fails.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// What becomes of a read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends with this result.
    End(i32),
    /// It ends behind the first events, as a multishot read may at any time.
    Short,
}

/// The faults of the next reads of a feed.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    pub(crate) fn plan(&self, faults: &[Fault]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    pub(super) fn next(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use super::Fault::{End, Short};
    use super::*;
    use crate::engine::{Engine, Source, Wait};
    use crate::mask::Mask;
    use crate::queue::{Feed, Taken};
    use crate::sys::inotify::InotifyFd;
    use crate::sys::notifier::Notifier;
    use crate::sys::pool::Pool;
    use crate::sys::probe;
    use crate::{Backend, BackendKind, Error, ErrorKind, EventBatch, EventStream, Inotify, Reader};

    const FILES: usize = 60;
    const PATIENCE: Duration = Duration::from_secs(30);

    enum Half {
        Stream(EventStream),
        Reader(Reader),
    }

    impl Half {
        fn wait(&mut self) -> Result<EventBatch, Error> {
            let next = match self {
                Self::Stream(stream) => stream.wait_timeout(PATIENCE),
                Self::Reader(reader) => reader.wait_timeout(PATIENCE),
            };
            next.map(|batch| batch.expect("it hangs"))
        }
    }

    /// Makes files, a few at a time, and reads until the last; then how it stands.
    fn read(backend: Backend, stream: bool, faults: &[Fault]) -> Result<BackendKind, Error> {
        let dir = tempfile::tempdir().unwrap();
        let inotify = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
        let inotify = inotify.buffers(34).build()?;
        inotify.add_watch(dir.path(), Mask::CREATE)?;
        inotify.feed().faults.plan(faults);
        let mut half = match stream {
            true => Half::Stream(inotify.stream()?),
            false => Half::Reader(inotify.reader()?),
        };
        let mut next = 0;
        for made in 0..FILES {
            fs::write(dir.path().join(made.to_string()), "").unwrap();
            if made % 3 < 2 {
                continue;
            }
            while next <= made {
                let batch = half.wait().inspect_err(|error| {
                    assert_eq!(error.kind(), ErrorKind::ReaderFailed);
                    assert!(half.wait().is_err_and(|again| again.kind() == ErrorKind::ReaderFailed));
                })?;
                assert!(!batch.overflowed());
                for event in &batch {
                    assert_eq!(event.name().unwrap(), next.to_string().as_str());
                    next += 1;
                }
            }
        }
        Ok(inotify.backend().kind())
    }

    /// Every way there is; nothing where there is no io_uring.
    fn each(faults: &[Fault], check: impl Fn(Backend, Result<BackendKind, Error>)) {
        if probe::uring_features().is_err() {
            return;
        }
        for backend in [Backend::Uring, Backend::Auto] {
            for stream in [true, false] {
                // At once, and amid events.
                check(backend, read(backend, stream, faults));
                check(backend, read(backend, stream, &[&[Short; 3], faults].concat()));
            }
        }
    }

    #[test]
    fn a_read_that_ends_without_a_reason_is_made_again() {
        for code in [0, libc::ENOBUFS, libc::ECANCELED, libc::EAGAIN, libc::EINTR] {
            for times in [1, 5, 60] {
                let faults = vec![End(-code); times];
                each(&faults, |_, outcome| assert_eq!(outcome.unwrap(), BackendKind::Uring));
            }
        }
        each(&[Short; 30], |_, outcome| {
            assert_eq!(outcome.unwrap(), BackendKind::Uring)
        });
    }

    #[test]
    fn a_read_that_fails_goes_on_with_epoll_or_says_why_not() {
        let fatal = [libc::EIO, libc::EINVAL, libc::ENOMEM, libc::EBADF, libc::EPERM].map(|code| (code, 1));
        let tiring = [libc::ENOBUFS, libc::ECANCELED, libc::EAGAIN, libc::EINTR].map(|code| (code, 100));
        for (code, times) in [&fatal[..], &tiring[..]].concat() {
            each(&vec![End(-code); times], |backend, outcome| match backend {
                Backend::Uring => {
                    let error = outcome.unwrap_err();
                    let told = (error.operation(), error.raw_os_error());
                    assert_eq!(told, ("read events through io_uring", Some(code)));
                }
                _ => assert_eq!(outcome.unwrap(), BackendKind::Epoll),
            });
        }
    }

    /// Nobody knows where they are, so nobody may go on as if nothing had happened.
    #[test]
    fn events_in_a_buffer_without_a_name_are_an_error_on_every_choice() {
        each(&[End(32)], |_, outcome| {
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EBADMSG));
        });
    }

    #[test]
    fn completions_that_do_not_fit_the_ring_are_not_lost() {
        const SOURCES: usize = 40;
        const EVENTS: usize = 30;
        let Ok(features) = probe::uring_features() else { return };
        // Room for eight completions; each buffer holds nine of these events.
        let notifier = Arc::new(Notifier::new().unwrap());
        let mut engine = Engine::new(Some(features), 0, notifier).unwrap();
        let source = |_| Source {
            fd: Arc::new(InotifyFd::new().unwrap()),
            feed: Feed::new(Pool::new(40, 288).unwrap()),
        };
        let sources: Vec<_> = (0..SOURCES).map(source).collect();
        for source in &sources {
            engine.attach(source.clone()).unwrap();
        }
        for _ in 0..3 {
            for source in &sources {
                for _ in 0..EVENTS {
                    let wd = source.fd.add_watch(c"/", Mask::MOVE_SELF).unwrap();
                    source.fd.rm_watch(wd).unwrap();
                }
            }
            let mut bytes = 0;
            while bytes < SOURCES * EVENTS * 16 {
                let wait = Wait {
                    timeout: Some(PATIENCE),
                    window: Duration::ZERO,
                };
                engine.turn(wait).unwrap();
                for source in &sources {
                    while let Taken::Buffer(buffer) = source.feed.queue.take(None) {
                        bytes += buffer.filled().len();
                    }
                }
            }
        }
    }
}
