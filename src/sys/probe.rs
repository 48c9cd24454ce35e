//! Finds out from the kernel whether io_uring can be had and which reads work: by doing them.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::fork::PerProcess;
use super::inotify::{InotifyFd, LARGEST_RECORD, MarkerInode};
use super::late::patiently;
use super::notifier::Notifier;
use super::pool::Pool;
use super::rlimit;
use super::uring::Uring;
use crate::backend::Features;
use crate::causes::more_descriptors;
use crate::decode::Records;
use crate::engine::{Source, Wait};
use crate::error::{Error, ErrorKind};
use crate::mask::Mask;
use crate::queue::{Feed, Taken};

/// What io_uring offers here, or why it can't be had. A good answer is kept for the life of the process.
pub(crate) fn uring_features() -> Result<Features, Error> {
    static KNOWN: PerProcess<OnceLock<Features>> = PerProcess::new();
    if let Some(known) = KNOWN.get().get() {
        return Ok(*known);
    }
    let found = find_features()?;
    Ok(*KNOWN.get().get_or_init(|| found))
}

/// For a test that needs a ring: says aloud if there is none, and fails if there must be one.
#[cfg(test)]
pub(crate) fn features_for_a_test() -> Option<Features> {
    let refusal = match uring_features() {
        Ok(features) => return Some(features),
        Err(refusal) => refusal,
    };
    let required = std::env::var("RINGWATCH_REQUIRE_URING");
    assert!(
        required.as_deref() != Ok("1"),
        "RINGWATCH_REQUIRE_URING is set, and io_uring can't be had: {refusal}"
    );
    let _ = io::Write::write_all(
        &mut io::stderr(),
        format!("SKIPPED: io_uring can't be had here: {refusal}\n").as_bytes(),
    );
    None
}

fn find_features() -> Result<Features, Error> {
    let refused = |operation| move |cause: io::Error| refusal(operation, &cause);
    let notifier = || Notifier::new().map(Arc::new).map_err(refused("make an eventfd"));
    let uring = Uring::new(Features::empty(), 1, notifier()?).map_err(refused("set up io_uring"))?;
    let known = uring.features();
    let multishot = uring
        .knows_multishot()
        .map_err(refused("ask io_uring what it can do"))?;
    drop(uring);
    for features in [known | Features::MULTISHOT, known] {
        if features.contains(Features::MULTISHOT) && !multishot {
            continue;
        }
        let uring = Uring::new(features, 1, notifier()?).map_err(refused("set up io_uring"))?;
        if reads_work(uring).map_err(refused("test io_uring reads of inotify"))? {
            return Ok(features);
        }
    }
    let cause = "events written to an inotify descriptor did not come back through io_uring";
    let operation = "test io_uring reads of inotify";
    Err(Error::text(ErrorKind::BackendUnavailable, operation, cause)
        .mended_by("use a newer kernel, or the epoll backend"))
}

/// Events in one round of the test: several small buffers full.
const ROUND: usize = 60;

/// Whether all events come, in order, in named buffers: those that wait when the read is armed, and those that come while
/// it waits. The first kernels with multishot reads left some behind.
fn reads_work(mut uring: Uring) -> io::Result<bool> {
    let fd = Arc::new(patiently(libc::EMFILE, InotifyFd::new)?);
    let feed = Feed::new(Pool::new(16, LARGEST_RECORD)?);
    let source = Source {
        fd: Arc::clone(&fd),
        feed: Arc::clone(&feed),
    };
    let mut expected = queue_events(&fd)?;
    uring.attach(source)?;
    let mut seen = Vec::new();
    for round in 0..2 {
        if round == 1 {
            expected.extend(queue_events(&fd)?);
        }
        let since = Instant::now();
        while seen.len() < expected.len() && since.elapsed() < Duration::from_secs(2) {
            uring.turn(Wait {
                timeout: Some(Duration::from_millis(50)),
                window: Duration::ZERO,
            })?;
            match collect(&feed, &mut seen) {
                Collected::Events => {}
                // The kernel's queue is shorter than a round, and the rest of it was never there.
                Collected::Overflow => expected.truncate(seen.len()),
                Collected::Other => return Ok(false),
            }
        }
    }
    Ok(seen == expected)
}

/// Queues events that need no file: each is the end of a watch. Answers their descriptors.
fn queue_events(fd: &InotifyFd) -> io::Result<Vec<i32>> {
    let marker = MarkerInode::new();
    let watch = || match &marker {
        Ok(marker) => marker.watch(fd),
        // `/proc/self/fd` or memfd is not there; the root directory is.
        Err(_) => fd.add_watch(c"/", Mask::MOVE_SELF),
    };
    (0..ROUND)
        .map(|_| {
            let wd = watch().or_else(|_| fd.add_watch(c"/", Mask::MOVE_SELF))?;
            fd.rm_watch(wd)?;
            Ok(wd)
        })
        .collect()
}

enum Collected {
    Events,
    Overflow,
    /// An error, or what was not caused.
    Other,
}

fn collect(feed: &Feed, seen: &mut Vec<i32>) -> Collected {
    let mut collected = Collected::Events;
    loop {
        let buffer = match feed.queue.take(None) {
            Taken::Buffer(buffer) => buffer,
            Taken::Empty => return collected,
            _ => return Collected::Other,
        };
        for record in Records::new(buffer.filled()) {
            match record {
                Ok(record) if record.mask.contains(Mask::IGNORED) => seen.push(record.wd),
                Ok(record) if record.mask.contains(Mask::Q_OVERFLOW) => collected = Collected::Overflow,
                _ => return Collected::Other,
            }
        }
    }
}

/// Why io_uring can't be had, with what mends it.
pub(crate) fn refusal(operation: &'static str, cause: &io::Error) -> Error {
    let remedy = match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            Some(value) if value != "0" => {
                format!("kernel.io_uring_disabled is {value}; allow it with sysctl kernel.io_uring_disabled=0")
            }
            _ => "a seccomp profile may deny it, as those of most containers do; allow the io_uring_* calls".into(),
        },
        Some(libc::ENOSYS) => {
            "the kernel was built without it, or a seccomp profile denies it; allow the io_uring_* calls".into()
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) => "Linux 6.1 or later has what is needed".into(),
        Some(libc::ENOMEM) => rlimit::locked_memory(),
        Some(libc::EMFILE | libc::ENFILE) => more_descriptors(cause),
        _ => "use the epoll backend".to_owned(),
    };
    Error::os(ErrorKind::BackendUnavailable, operation, cause).mended_by(remedy)
}

fn disabled() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned())
}
