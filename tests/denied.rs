//! io_uring denied: the automatic choice works on epoll and says why, the choice by name fails and says what mends it.
//!
//! Each test denies it to a child process of its own.
#![cfg(feature = "tokio")]

mod support;

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ringwatch::tree::{Tree, TreeStream};
use ringwatch::{Backend, BackendKind, Error, ErrorKind, Inotify, Mask};
use support::PATIENCE;
use support::child::{IO_URING, deny_calls, deny_uring, in_child, in_children, in_namespaces, mount_memory, unmount};
use support::halves::{HALVES, Half};

/// Both halves of `inotify` bring an event.
fn works(inotify: &Inotify) {
    let dir = tempfile::tempdir().expect("a directory");
    inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
    let name = |batch: ringwatch::EventBatch| batch.iter().next().expect("an event").name().map(ToOwned::to_owned);
    fs::write(dir.path().join("a"), "").expect("a file");
    let batch = inotify.stream().expect("a stream").wait();
    assert_eq!(name(batch.expect("it goes on").expect("a batch")), Some("a".into()));
    fs::write(dir.path().join("b"), "").expect("a file");
    let batch = inotify.reader().expect("a reader").wait();
    assert_eq!(name(batch.expect("it goes on").expect("a batch")), Some("b".into()));
}

fn epoll_and_says_why(errno: i32, remedy: &str) {
    let inotify = Inotify::new().expect("an instance");
    works(&inotify);
    let report = inotify.backend();
    assert_eq!(report.kind(), BackendKind::Epoll);
    is_explained(report.refusal().expect("a reason"), errno, remedy);
    assert!(
        report.to_string().starts_with("epoll, as io_uring was refused: "),
        "{report}"
    );

    let error = Inotify::builder().backend(Backend::Uring).build().unwrap_err();
    is_explained(&error, errno, remedy);

    let inotify = Inotify::builder().backend(Backend::Epoll).build().expect("an instance");
    works(&inotify);
    assert!(inotify.backend().refusal().is_none());
}

fn is_explained(error: &Error, errno: i32, remedy: &str) {
    assert_eq!(error.kind(), ErrorKind::BackendUnavailable, "{error}");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    assert!(error.remedy().is_some_and(|text| text.contains(remedy)), "{error}");
}

/// Where the system denies it too, that is to be mended first.
fn remedy_for_eperm() -> &'static str {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(value) if value.trim() != "0" => "sysctl kernel.io_uring_disabled=0",
        _ => "seccomp profile",
    }
}

#[test]
fn denied_with_eperm() {
    in_child(
        "denied_with_eperm",
        |_| {},
        || {
            deny_uring(libc::EPERM);
            epoll_and_says_why(libc::EPERM, remedy_for_eperm());
        },
    );
}

#[test]
fn denied_with_eacces() {
    in_child(
        "denied_with_eacces",
        |_| {},
        || {
            deny_uring(libc::EACCES);
            epoll_and_says_why(libc::EACCES, remedy_for_eperm());
        },
    );
}

#[test]
fn denied_with_enosys() {
    in_child(
        "denied_with_enosys",
        |_| {},
        || {
            deny_uring(libc::ENOSYS);
            epoll_and_says_why(libc::ENOSYS, "seccomp profile");
        },
    );
}

#[test]
fn denied_with_an_errno_that_nobody_expects() {
    in_child(
        "denied_with_an_errno_that_nobody_expects",
        |_| {},
        || {
            deny_uring(libc::EXDEV);
            epoll_and_says_why(libc::EXDEV, "epoll");
        },
    );
}

/// What mends it is known of each but the last.
const ERRORS: [(i32, &str); 4] = [
    (libc::EPERM, "seccomp profile"),
    (libc::EACCES, "seccomp profile"),
    (libc::ENOSYS, "seccomp profile"),
    (libc::EXDEV, "epoll"),
];

#[test]
fn denied_after_the_instance_was_made() {
    let cases = ERRORS.map(|(errno, _)| errno.to_string());
    in_children("denied_after_the_instance_was_made", &cases, |errno| {
        if !support::backends().contains(&Backend::Uring) {
            return;
        }
        let is_this = |&&(number, _): &&(i32, &str)| number.to_string() == errno;
        let &(errno, remedy) = ERRORS.iter().find(is_this).expect("one of them");
        let auto = Inotify::new().expect("an instance");
        let uring = Inotify::builder().backend(Backend::Uring).build().expect("an instance");
        assert_eq!(auto.backend().kind(), BackendKind::Uring);
        deny_uring(errno);
        works(&auto);
        assert_eq!(auto.backend().kind(), BackendKind::Epoll);
        is_explained(auto.backend().refusal().expect("a reason"), errno, remedy);
        is_explained(&uring.stream().map(drop).unwrap_err(), errno, remedy);
        let mut reader = uring.reader().expect("made at its first use");
        is_explained(&reader.wait().expect("an error").unwrap_err(), errno, remedy);
        assert!(reader.wait().is_none());
    });
}

/// Without locked memory: some kernels charge a ring to it (before 5.12, and again from 6.16 on), others do not.
#[test]
fn no_locked_memory_and_no_privileges() {
    in_child(
        "no_locked_memory_and_no_privileges",
        |_| {},
        || {
            give_up_locked_memory_and_privileges().expect("nobody");
            let auto = Inotify::new().expect("an instance");
            works(&auto);
            match Inotify::builder().backend(Backend::Uring).build() {
                Ok(inotify) => {
                    support::skip(
                        "a kernel that charges rings to RLIMIT_MEMLOCK",
                        "RINGWATCH_REQUIRE_MEMLOCK",
                        &"it did not",
                    );
                    works(&inotify);
                    assert_eq!(auto.backend().kind(), BackendKind::Uring);
                }
                // Before memory is asked for.
                Err(error) if error.raw_os_error() != Some(libc::ENOMEM) => {
                    support::skip("io_uring", "RINGWATCH_REQUIRE_URING", &error);
                    assert_eq!(auto.backend().kind(), BackendKind::Epoll);
                }
                Err(error) => {
                    is_explained(&error, libc::ENOMEM, "RLIMIT_MEMLOCK is 0 bytes");
                    is_explained(auto.backend().refusal().expect("a reason"), libc::ENOMEM, "ulimit -l");
                    assert_eq!(auto.backend().kind(), BackendKind::Epoll);
                }
            }
        },
    );
}

fn give_up_locked_memory_and_privileges() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65_534;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the limit lives through the call.
    done(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) })?;
    // SAFETY: no pointers are passed.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: no pointers are passed.
        done(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) })?;
        // SAFETY: no pointers are passed.
        done(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) })?;
    }
    Ok(())
}

fn make(dir: &Path, names: Range<usize>) {
    names.for_each(|number| fs::write(dir.join(number.to_string()), "").expect("a file"));
}

/// A filter that is put in place while a ring is at work: whichever of its calls it denies, and with what, reading goes on
/// with epoll and nothing is lost; a ring that was asked for by name ends with an error that says why.
#[test]
fn denied_while_events_are_read() {
    let errors = [libc::EPERM, libc::ENOSYS, libc::EACCES];
    let mut cases = Vec::new();
    for half in HALVES {
        cases.extend(errors.map(|errno| format!("{half} all {errno} auto")));
        cases.push(format!("{half} enter {} auto", libc::EPERM));
        cases.extend(errors.map(|errno| format!("{half} all {errno} uring")));
    }
    in_children("denied_while_events_are_read", &cases, |case| {
        if !support::backends().contains(&Backend::Uring) {
            return;
        }
        let [half, calls, errno, backend] = case.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{case}");
        };
        let errno = errno.parse().expect("a number");
        let calls = if calls == "all" { &IO_URING[..] } else { &IO_URING[1..2] };
        denied_while_read(half, calls, errno, backend.parse().expect("a backend"));
    });
}

fn denied_while_read(half: &str, calls: &[libc::c_long], errno: i32, backend: Backend) {
    const FILES: usize = 500;
    let dir = tempfile::tempdir().expect("a directory");
    // As many buffers as are lent to the kernel: if they did not come back, nothing would be read.
    let builder = Inotify::builder().backend(backend).buffers(32);
    let inotify = builder.build().expect("an instance");
    inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
    let mut half = Half::new(&inotify, half);
    let mut next = 0;
    let mut take = |half: &mut Half, until: usize| {
        while next < until {
            for event in &half.wait()?.ok()? {
                assert_eq!(event.name().expect("a name"), next.to_string().as_str());
                next += 1;
            }
        }
        Some(())
    };
    make(dir.path(), 0..3);
    take(&mut half, 3).expect("three events");
    assert_eq!(inotify.backend().kind(), BackendKind::Uring);
    make(dir.path(), 3..FILES);
    deny_calls(calls, errno);
    make(dir.path(), FILES..2 * FILES);
    if backend == Backend::Uring {
        // What was read before is delivered before.
        let error = loop {
            match half.wait().expect("an error") {
                Ok(batch) => drop(batch),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::ReaderFailed);
        assert_eq!(
            (error.operation(), error.raw_os_error()),
            ("wait for events through io_uring", Some(errno))
        );
        assert!(error.remedy().is_some_and(|text| text.contains("seccomp")), "{error}");
        assert!(matches!(half, Half::Shown(_)) || half.wait().is_none());
        return;
    }
    take(&mut half, 2 * FILES).expect("it goes on");
    // A call that was under way may have read all of them. The next is denied.
    let (begun, mut made) = (Instant::now(), 2 * FILES);
    while inotify.backend().kind() == BackendKind::Uring {
        assert!(begun.elapsed() < PATIENCE, "{made} were read");
        make(dir.path(), made..made + 1);
        made += 1;
        take(&mut half, made).expect("it goes on");
    }
    let report = inotify.backend();
    assert_eq!(report.kind(), BackendKind::Epoll);
    is_explained(report.refusal().expect("a reason"), errno, "seccomp profile");
    drop(half);
    works(&inotify);
    inotify.close();
}

#[test]
fn a_tree_goes_on_when_io_uring_is_denied() {
    in_child(
        "a_tree_goes_on_when_io_uring_is_denied",
        |_| {},
        || {
            if !support::backends().contains(&Backend::Uring) {
                return;
            }
            let dir = tempfile::tempdir().expect("a directory");
            let tree = Tree::new(dir.path()).expect("a tree");
            let mut stream = tree.stream().expect("a stream");
            assert_eq!(tree.backend().kind(), BackendKind::Uring);
            deny_uring(libc::EPERM);
            let sub = dir.path().join("sub/deep");
            fs::create_dir_all(&sub).expect("directories");
            make(&sub, 0..20);
            let barrier = tree.barrier().expect("a barrier");
            let mut made = Vec::new();
            'all: for batch in stream.blocking() {
                for change in &batch.expect("it goes on") {
                    assert!(!change.is_overflow() && change.uncovered().is_none());
                    if change.barrier() == Some(barrier) {
                        break 'all;
                    }
                    made.extend(change.path().filter(|_| change.mask().contains(Mask::CREATE)));
                }
            }
            assert_eq!(made.len(), 22, "{made:?}");
            assert_eq!(tree.backend().kind(), BackendKind::Epoll);
            is_explained(
                tree.backend().refusal().expect("a reason"),
                libc::EPERM,
                "seccomp profile",
            );
        },
    );
}

/// That the table of mounts has changed is waited for, and asked, by calls that a seccomp profile may deny.
#[test]
fn a_tree_that_may_not_wait_for_mounts_looks_for_them() {
    in_namespaces("a_tree_that_may_not_wait_for_mounts_looks_for_them", || {
        let dir = tempfile::tempdir().expect("a directory");
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        for place in [&first, &second] {
            fs::create_dir(place).expect("a directory");
        }
        for &backend in support::backends() {
            let builder = Tree::builder(dir.path()).backend(backend).cross_mounts(true);
            let tree = builder.open().expect("a tree");
            let mut stream = tree.stream().expect("a stream");
            #[cfg(target_arch = "x86_64")]
            deny_calls(&[libc::SYS_poll], libc::EPERM);
            deny_calls(&[libc::SYS_ppoll], libc::EPERM);
            if let Err(denied) = mount_memory(&first) {
                return support::skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
            }
            let barrier = tree.barrier().expect("a barrier");
            let mut made = Vec::new();
            let take = |stream: &mut TreeStream, made: &mut Vec<PathBuf>| {
                let batch = stream.wait_timeout(PATIENCE).expect("it goes on");
                batch.expect("what is due").iter().any(|change| {
                    made.extend(change.path().filter(|_| change.mask().contains(Mask::CREATE)));
                    change.barrier() == Some(barrier)
                })
            };
            while !take(&mut stream, &mut made) {}
            assert_eq!(made, [first.as_path()]);
            // And once more with nothing behind it.
            mount_memory(&second).expect("mounted");
            while !made.contains(&second) {
                take(&mut stream, &mut made);
            }
            assert!(tree.uncovered().is_empty());
            drop((tree, stream));
            for place in [&first, &second] {
                unmount(place).expect("unmounted");
            }
        }
    });
}
