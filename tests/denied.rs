//! io_uring denied: the automatic choice works on epoll and says why, the choice by name fails and says what mends it.
//!
//! Each test denies it to a child process of its own.

mod support;

use std::fs;
use std::io;

use ringwatch::{Backend, BackendKind, Error, ErrorKind, Inotify, Mask};
use support::child::{deny_uring, in_child};

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

#[test]
fn denied_after_the_instance_was_made() {
    in_child(
        "denied_after_the_instance_was_made",
        |_| {},
        || {
            if !support::backends().contains(&Backend::Uring) {
                return;
            }
            let auto = Inotify::new().expect("an instance");
            let uring = Inotify::builder().backend(Backend::Uring).build().expect("an instance");
            assert_eq!(auto.backend().kind(), BackendKind::Uring);
            deny_uring(libc::EPERM);
            works(&auto);
            assert_eq!(auto.backend().kind(), BackendKind::Epoll);
            is_explained(
                auto.backend().refusal().expect("a reason"),
                libc::EPERM,
                "seccomp profile",
            );
            is_explained(&uring.stream().map(drop).unwrap_err(), libc::EPERM, "seccomp profile");
            let mut reader = uring.reader().expect("made at its first use");
            is_explained(
                &reader.wait().expect("an error").unwrap_err(),
                libc::EPERM,
                "seccomp profile",
            );
            assert!(reader.wait().is_none());
        },
    );
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
