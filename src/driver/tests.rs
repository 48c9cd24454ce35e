//! Tests of drivers that fail, and of who joins them.

use std::thread;

use super::*;
use crate::backend::{Backend, BackendKind};
use crate::inotify::Inotify;
use crate::mask::Mask;
use crate::queue::{Half, Taken};
use crate::stream::EventStream;
use crate::sys::inotify::InotifyFd;
use crate::sys::pool::Pool;

#[test]
fn a_panic_of_the_thread_reaches_the_consumer_as_an_error() {
    let wanted = Wanted {
        uring: None,
        window: Duration::from_nanos(1),
    };
    let (driver, _) = Driver::join(wanted).ok().unwrap();
    let feed = Feed::new(Pool::new(2, 4096).unwrap());
    let source = Source {
        fd: Arc::new(InotifyFd::new().unwrap()),
        feed: Arc::clone(&feed),
    };
    let attached = feed.enter("test", Half::Stream(driver.clone()), || driver.attach(source));
    attached.unwrap().recv().unwrap().unwrap();
    driver.panic();
    match feed.queue.wait(None) {
        Taken::Failed(Failure { error, .. }) => {
            assert_eq!(error.kind(), ErrorKind::ReaderFailed);
            assert!(error.to_string().contains("panicked: asked to"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // The place is free again, and a new driver takes the next stream.
    feed.queue.leave(&feed);
    let (next, _) = Driver::join(wanted).ok().unwrap();
    assert!(!Arc::ptr_eq(&driver.0, &next.0));
    feed.enter("test", Half::Stream(next), || ()).unwrap();
    feed.queue.leave(&feed);
}

/// A stream that joins a driver whose failure is under way is not concerned by it: another driver takes it.
#[test]
fn a_stream_that_joins_a_failing_driver_is_taken_by_another() {
    let backends = [Backend::Auto, Backend::Uring, Backend::Epoll];
    for (number, backend) in (2..).zip(backends) {
        // Nobody else's.
        let window = Duration::from_nanos(number);
        let Ok(inotify) = Inotify::builder().backend(backend).batch_window(window).build() else {
            assert_eq!(backend, Backend::Uring);
            continue;
        };
        let before = inotify.backend();
        let features = (before.kind() == BackendKind::Uring).then(|| before.features());
        let wanted = Wanted {
            uring: features,
            window,
        };
        let (failing, joined) = Driver::join(wanted).ok().unwrap();
        assert_eq!(joined, Joined::Own);
        let (fail, when) = sync_channel(1);
        failing.tell(Command::Fail(libc::EPERM, when));
        let mut stream = open_behind(&failing, &inotify, fail);
        assert!(failing.mailbox().ended.is_some());
        // What befell another's ring is no reason to go without.
        assert_eq!(inotify.backend().kind(), before.kind(), "{backend:?}");
        let watch = inotify.add_watch("/", Mask::MOVE_SELF).unwrap();
        inotify.rm_watch(&watch).unwrap();
        assert_eq!(stream.wait().unwrap().unwrap().len(), 1);
    }
}

/// The ring is refused while another stream leaves it, which nobody is told.
#[test]
fn a_stream_that_joins_while_another_leaves_a_failing_ring_is_taken_by_another() {
    for (number, backend) in (6..).zip([Backend::Auto, Backend::Uring]) {
        let window = Duration::from_nanos(number);
        let build = || Inotify::builder().backend(backend).batch_window(window).build();
        let (Ok(before), Ok(inotify)) = (build(), build()) else {
            assert_eq!(backend, Backend::Uring);
            continue;
        };
        let kind = inotify.backend().kind();
        let leaving = before.stream().unwrap();
        let features = before.backend().features();
        let wanted = Wanted {
            uring: (kind == BackendKind::Uring).then_some(features),
            window,
        };
        let (failing, joined) = Driver::join(wanted).ok().unwrap();
        assert_eq!(joined, Joined::Another);
        let (fail, when) = sync_channel(1);
        failing.tell(Command::Deny(libc::EPERM, when));
        drop(leaving);
        let mut stream = open_behind(&failing, &inotify, fail);
        assert_eq!(inotify.backend().kind(), kind, "{backend:?}");
        let watch = inotify.add_watch("/", Mask::MOVE_SELF).unwrap();
        inotify.rm_watch(&watch).unwrap();
        assert_eq!(stream.wait().unwrap().unwrap().len(), 1);
        failing.give_up();
    }
}

/// The kernel had no memory for completions that did not fit the ring, so what they brought is lost. Any other refusal is not.
#[test]
fn completions_that_were_dropped_are_said_to_be_lost() {
    // What the kernel may write to is left to it: known for good, or it would count as a leak.
    static KEPT: Mutex<Vec<Arc<Pool>>> = Mutex::new(Vec::new());
    for (number, (code, is_lost)) in (30..).zip([(libc::EPERM, false), (libc::EBADR, true)]) {
        let window = Duration::from_nanos(number);
        let build = || Inotify::builder().batch_window(window).build().unwrap();
        let (leaving, staying) = (build(), build());
        let features = staying.backend().features();
        if staying.backend().kind() != BackendKind::Uring {
            return;
        }
        let pools = [&leaving, &staying].map(|inotify| Arc::clone(&inotify.feed().pool));
        KEPT.lock().unwrap().extend(pools);
        let left = leaving.stream().unwrap();
        let mut stream = staying.stream().unwrap();
        let wanted = Wanted {
            uring: Some(features),
            window,
        };
        let (failing, joined) = Driver::join(wanted).ok().unwrap();
        assert_eq!(joined, Joined::Another);
        let (fail, when) = sync_channel(1);
        failing.tell(Command::Deny(code, when));
        drop(fail);
        drop(left);
        failing.give_up();
        // Whoever reads next there is told too. Nothing happened until then, so a read was under way.
        let mut next = leaving.stream().unwrap();
        let watch = leaving.add_watch("/", Mask::MOVE_SELF).unwrap();
        leaving.rm_watch(&watch).unwrap();
        assert_eq!(next.wait().unwrap().unwrap().overflowed(), is_lost);
        let watch = staying.add_watch("/", Mask::MOVE_SELF).unwrap();
        staying.rm_watch(&watch).unwrap();
        let mut next = || stream.wait_timeout(Duration::from_secs(10));
        let mut came = next();
        if is_lost && came.is_ok() {
            // That came before.
            came = next();
        }
        match came {
            Ok(batch) => assert!(!is_lost && batch.is_some_and(|batch| batch.len() == 1)),
            Err(error) => assert!(is_lost && error.kind() == ErrorKind::ReaderFailed, "{error}"),
        }
    }
}

/// Opens a stream, which joins this driver; and has that go on only then.
fn open_behind(failing: &Driver, inotify: &Inotify, fail: SyncSender<()>) -> EventStream {
    thread::scope(|scope| {
        let opening = scope.spawn(|| inotify.stream());
        let asks = |command: &Command| matches!(command, Command::Attach(..));
        while !failing.mailbox().commands.iter().any(asks) {
            assert!(!opening.is_finished(), "it did not join the one that is there");
            thread::sleep(std::time::Duration::from_micros(100));
        }
        drop(fail);
        opening.join().unwrap().unwrap()
    })
}

/// One's own driver that fails is no reason to try again and again.
#[test]
fn a_driver_of_ones_own_that_fails_is_an_answer() {
    let wanted = Wanted {
        uring: None,
        window: Duration::from_nanos(5),
    };
    let (driver, _) = Driver::join(wanted).ok().unwrap();
    let (fail, when) = sync_channel(1);
    driver.tell(Command::Fail(libc::EPERM, when));
    let source = Source {
        fd: Arc::new(InotifyFd::new().unwrap()),
        feed: Feed::new(Pool::new(2, 4096).unwrap()),
    };
    let attached = driver.attach(source);
    drop(fail);
    assert!(matches!(
        attached.recv().unwrap(),
        Err(Unattached::Ended(Some(libc::EPERM)))
    ));
    let (next, joined) = Driver::join(wanted).ok().unwrap();
    assert_eq!(joined, Joined::Own);
    next.give_up();
}
