//! Completions that the kernel has no reason to send, and what comes of them. Compiled for tests only.
//!
//! A request that is to end with a certain result is not submitted at all: one that does nothing takes its place, and its
//! completion is given that result. So no event is touched, as is true of a read that fails. A multishot read under way is
//! cancelled, and its last completion is given that result. Cancellations that fail are real ones: the kernel is asked for
//! what it can't do.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use io_uring::{opcode, squeue};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The read ends with this result.
    End(i32),
    /// The read ends behind the first events, as a multishot read may at any time.
    Short,
    /// The multishot read ends with this result behind the first events. Only where there are such reads.
    Cut(i32),
    /// The read takes a buffer and brings nothing. It is one of `/dev/null`. With epoll it answers 0.
    Nothing,
    /// The read is said to have brought more than the buffer holds.
    Long,
    /// The read is said to have filled a buffer that was not lent.
    Astray,
    /// The cancellation of the read fails, and the read goes on.
    Cancel(Cancel),
    /// The poll of the notifier ends with this result.
    Wake(i32),
}

/// How a cancellation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It finds nothing: `ENOENT`.
    Misses,
    /// The kernel does not take it: `EINVAL`.
    Invalid,
    /// The kernel says that it was done.
    Lies,
}

impl Cancel {
    pub(super) fn request(self) -> squeue::Entry {
        match self {
            Self::Misses => opcode::AsyncCancel::new(u64::MAX).build(),
            Self::Invalid => opcode::AsyncCancel::new(0).build().flags(squeue::Flags::BUFFER_SELECT),
            Self::Lies => opcode::Nop::new().build(),
        }
    }
}

/// The faults of a feed's next requests.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    pub(crate) fn plan(&self, faults: &[Fault]) {
        self.planned().extend(faults);
    }

    fn planned(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of those that `find` knows.
    fn take<T>(&self, find: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let mut planned = self.planned();
        let (place, found) = (0..)
            .zip(planned.iter())
            .find_map(|(place, &fault)| Some((place, find(fault)?)))?;
        planned.remove(place);
        Some(found)
    }

    /// Another read is to have it.
    pub(super) fn put_back(&self, fault: Fault) {
        self.planned().push_front(fault);
    }

    pub(super) fn of_read(&self) -> Option<Fault> {
        self.take(|fault| (!matches!(fault, Fault::Cancel(_) | Fault::Wake(_))).then_some(fault))
    }

    /// Whether the read of a lane without a ring is to bring nothing.
    pub(super) fn of_plain_read(&self) -> bool {
        self.take(|fault| (fault == Fault::Nothing).then_some(())).is_some()
    }

    pub(super) fn of_cancel(&self) -> Option<Cancel> {
        self.take(|fault| match fault {
            Fault::Cancel(how) => Some(how),
            _ => None,
        })
    }

    pub(super) fn of_wake(&self) -> Option<i32> {
        self.take(|fault| match fault {
            Fault::Wake(result) => Some(result),
            _ => None,
        })
    }

    pub(super) fn has_wake(&self) -> bool {
        self.planned().iter().any(|fault| matches!(fault, Fault::Wake(_)))
    }
}

/// A descriptor of which there is nothing to read.
pub(super) fn nothing() -> RawFd {
    static NULL: OnceLock<File> = OnceLock::new();
    NULL.get_or_init(|| File::open("/dev/null").expect("/dev/null"))
        .as_raw_fd()
}

mod ways;

mod tests {
    use std::fs;
    use std::mem;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::Fault::{Astray, Cut, End, Long, Nothing, Short, Wake};
    use super::ways::{PATIENCE, WAYS, Watched, Way};
    use super::*;
    use crate::backend::Features;
    use crate::engine::{Engine, Source, Wait};
    use crate::mask::Mask;
    use crate::queue::{Feed, Taken};
    use crate::sys::inotify::InotifyFd;
    use crate::sys::notifier::Notifier;
    use crate::sys::pool::Pool;
    use crate::sys::probe;
    use crate::{Backend, BackendKind, Error, ErrorKind};

    /// One at a time they take more turns than there are faults.
    const FILES: usize = 81;

    /// Makes files, a few at a time, and reads until the last; then how it stands.
    fn read(backend: Backend, way: Way, faults: &[Fault]) -> Result<BackendKind, Error> {
        let dir = tempfile::tempdir().unwrap();
        let watched = Watched::new(backend, way, dir.path(), faults)?;
        let mut half = watched.half(way)?;
        let mut next = 0;
        for made in 0..FILES {
            fs::write(dir.path().join(made.to_string()), "").unwrap();
            if (made + 1) % way.files_at_a_time() > 0 {
                continue;
            }
            while next <= made {
                let names = half.wait().expect("it ends without a word").inspect_err(|error| {
                    assert_eq!(error.kind(), ErrorKind::ReaderFailed);
                    match half.wait() {
                        Some(again) => assert_eq!(again.unwrap_err().kind(), ErrorKind::ReaderFailed),
                        None => assert!(!half.fails_again()),
                    }
                })?;
                for name in names {
                    assert_eq!(name, next.to_string().as_str());
                    next += 1;
                }
            }
        }
        // Whoever waits goes on to poll, and can still be woken.
        let failed = Arc::new(AtomicBool::new(false));
        let closer = thread::spawn({
            let (watched, failed) = (watched.clone(), Arc::clone(&failed));
            move || {
                let begun = Instant::now();
                let over = || watched.backend() == BackendKind::Epoll || failed.load(Ordering::SeqCst);
                let polled = || !way.waits_in_the_ring() || !watched.faults().has_wake() || over();
                while !polled() && begun.elapsed() < PATIENCE {
                    thread::sleep(std::time::Duration::from_micros(100));
                }
                watched.close();
                assert!(polled(), "some polls were not made");
            }
        });
        let end = match half.wait() {
            Some(next) => Err(next.expect_err("nothing is left")),
            None => Ok(()),
        };
        failed.store(end.is_err(), Ordering::SeqCst);
        closer.join().unwrap();
        end.map(|()| {
            let backend = watched.backend();
            // What it goes on after has happened.
            let left = mem::take(&mut *watched.faults().planned());
            assert!(
                backend == BackendKind::Epoll || left.iter().all(|fault| matches!(fault, Short | Wake(_))),
                "{left:?}"
            );
            backend
        })
    }

    /// Every way there is; nothing where there is no io_uring.
    fn each(faults: &[Fault], check: impl Fn(Backend, Result<BackendKind, Error>)) {
        if probe::features_for_a_test().is_none() {
            return;
        }
        for &way in WAYS {
            for backend in [Backend::Uring, Backend::Auto] {
                if !way.has_ring(backend) {
                    continue;
                }
                // At once, and amid events.
                for shorts in [0, 8] {
                    let _failed_on = FailedOn(backend, way, shorts);
                    let faults = [&vec![Short; shorts], faults].concat();
                    check(backend, read(backend, way, &faults));
                }
            }
        }
    }

    /// Each goes on with epoll, or says that it can't: in which operation, and for which error.
    fn each_falls_back(faults: &[Fault], (operation, code): (&str, i32)) {
        each(faults, |backend, outcome| match backend {
            Backend::Uring => {
                let error = outcome.unwrap_err();
                assert_eq!((error.operation(), error.raw_os_error()), (operation, Some(code)));
            }
            _ => assert_eq!(outcome.unwrap(), BackendKind::Epoll),
        });
    }

    /// Says on what a body panicked, and behind how many short reads.
    struct FailedOn(Backend, Way, usize);

    impl Drop for FailedOn {
        fn drop(&mut self) {
            if thread::panicking() {
                let Self(backend, way, shorts) = self;
                eprintln!("this was with {backend:?}, {way:?}, behind {shorts} short reads");
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
            each_falls_back(&vec![End(-code); times], ("read events through io_uring", code));
        }
    }

    fn has_multishot() -> bool {
        probe::features_for_a_test().is_some_and(|features| features.contains(Features::MULTISHOT))
    }

    #[test]
    fn a_multishot_read_that_ends_amid_events_is_made_again() {
        if !has_multishot() {
            return;
        }
        for code in [0, libc::ENOBUFS, libc::ECANCELED, libc::EAGAIN, libc::EINTR] {
            // Each takes two turns: one brings events, the next the end.
            for times in [1, 5] {
                each(&vec![Cut(-code); times], |_, outcome| {
                    assert_eq!(outcome.unwrap(), BackendKind::Uring);
                });
            }
        }
    }

    #[test]
    fn a_multishot_read_that_fails_amid_events_goes_on_with_epoll_or_says_why_not() {
        if !has_multishot() {
            return;
        }
        for code in [libc::EIO, libc::EINVAL, libc::ENOMEM, libc::EBADF, libc::EPERM] {
            each_falls_back(&[Cut(-code)], ("read events through io_uring", code));
        }
    }

    #[test]
    fn a_poll_of_the_notifier_that_ends_is_made_again() {
        for code in [0, libc::ECANCELED, libc::ENOMEM, libc::EBADF, libc::EINVAL] {
            for times in [1, 5, 60] {
                each(&vec![Wake(-code); times], |_, outcome| {
                    assert_eq!(outcome.unwrap(), BackendKind::Uring);
                });
            }
        }
        // Without an error, however often.
        each(&[Wake(1); 200], |_, outcome| {
            assert_eq!(outcome.unwrap(), BackendKind::Uring)
        });
    }

    #[test]
    fn a_notifier_that_can_not_be_polled_makes_it_go_on_with_epoll_or_say_why_not() {
        for code in [libc::ECANCELED, libc::ENOMEM, libc::EBADF] {
            each_falls_back(&[Wake(-code); 66], ("wait for events through io_uring", code));
        }
    }

    /// A ring with a read armed that is detached amid these faults, with and without events that the read may bring; then
    /// the same instance is read through the same ring again, and nothing is missing.
    /// Answers how many of the faults were not made.
    fn detach(cancels: &[Cancel]) -> usize {
        let features = probe::features_for_a_test().expect("a ring");
        let mut engine = Engine::new(Some(features), 2, Arc::new(Notifier::new().unwrap())).unwrap();
        let source = Source {
            fd: Arc::new(InotifyFd::new().unwrap()),
            feed: Feed::new(Pool::new(40, 288).unwrap()),
        };
        let cause = || {
            let wd = source.fd.add_watch(c"/", Mask::MOVE_SELF).unwrap();
            source.fd.rm_watch(wd).unwrap();
        };
        let id = engine.attach(source.clone()).unwrap();
        cause();
        engine.turn(Wait::forever(Duration::ZERO)).unwrap();
        // Without multishot, the next read begins with the next turn.
        engine.turn(Wait::NOT).unwrap();
        let faults: Vec<_> = cancels.iter().copied().map(Fault::Cancel).collect();
        source.feed.faults.plan(&faults);
        engine.detach(id);
        // A read that goes on would take this one.
        cause();
        engine.turn(Wait::NOT).unwrap();
        let again = engine.attach(source.clone()).unwrap();
        cause();
        let (mut bytes, begun) = (0, Instant::now());
        while bytes < 3 * 16 {
            assert!(begun.elapsed() < PATIENCE, "only {bytes} bytes came");
            let wait = Wait {
                timeout: Some(PATIENCE),
                window: Duration::ZERO,
            };
            engine.turn(wait).unwrap();
            while let Taken::Buffer(buffer) = source.feed.queue.take(None) {
                bytes += buffer.filled().len();
            }
        }
        assert_eq!(bytes, 3 * 16);
        assert_eq!(source.fd.queued_bytes().unwrap(), 0);
        let left = mem::take(&mut *source.feed.faults.planned()).len();
        engine.detach(again);
        if left > 0 {
            // LeakSanitizer is to know where the memory is that was left to the kernel.
            static KEPT: Mutex<Vec<Arc<Pool>>> = Mutex::new(Vec::new());
            KEPT.lock().unwrap().push(Arc::clone(&source.feed.pool));
        }
        left
    }

    #[test]
    fn a_cancellation_that_fails_is_made_again() {
        if probe::features_for_a_test().is_none() {
            return;
        }
        for how in [Cancel::Misses, Cancel::Invalid, Cancel::Lies] {
            for times in [1, 5, 60] {
                assert_eq!(detach(&vec![how; times]), 0, "{how:?}");
            }
        }
    }

    /// It waits ten seconds for the kernel.
    #[test]
    fn a_read_that_can_not_be_cancelled_takes_no_events_from_the_next() {
        if probe::features_for_a_test().is_none() {
            return;
        }
        thread::scope(|scope| {
            for how in [Cancel::Misses, Cancel::Invalid, Cancel::Lies] {
                scope.spawn(move || assert!(detach(&[how; 100]) > 0));
            }
        });
    }

    /// Nobody knows where they are, so nobody may go on as if nothing had happened.
    #[test]
    fn events_in_a_buffer_without_a_name_are_an_error_on_every_choice() {
        for fault in [End(32), Astray] {
            each(&[fault], |_, outcome| {
                assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EBADMSG));
            });
        }
    }

    #[test]
    fn more_events_than_a_buffer_holds_are_an_error_on_every_choice() {
        each(&[Long], |_, outcome| {
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EOVERFLOW));
        });
    }

    /// More of them than there are buffers.
    #[test]
    fn a_buffer_that_comes_back_empty_is_lent_again() {
        let some = [&[Nothing; 60][..], &[Short]].concat();
        each(&some.repeat(10), |_, outcome| {
            assert_eq!(outcome.unwrap(), BackendKind::Uring)
        });
    }

    #[test]
    fn a_read_without_a_ring_that_brings_nothing_is_made_again_but_not_for_ever() {
        for &way in WAYS {
            for times in [1, 5, 60] {
                let outcome = read(Backend::Epoll, way, &vec![Nothing; times]);
                assert_eq!(outcome.unwrap(), BackendKind::Epoll, "{way:?}, {times} times");
            }
            let error = read(Backend::Epoll, way, &[Nothing; 100]).expect_err("it spins");
            let told = (error.operation(), error.raw_os_error());
            assert_eq!(told, ("read events through epoll", Some(libc::EIO)), "{way:?}");
        }
    }

    #[test]
    fn completions_that_do_not_fit_the_ring_are_not_lost() {
        const SOURCES: usize = 40;
        const EVENTS: usize = 30;
        let Some(features) = probe::features_for_a_test() else {
            return;
        };
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
