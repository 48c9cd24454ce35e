//! Faults in the middle: each system call that the library makes fails once, at its first times, in the midst and at its last,
//! and for ever, with each error of `errors`; through every reading half, on both backends.
//!
//! What may come of it: all events arrive; or a loss is said; or an error ends it that names the operation. Where only io_uring
//! fails, and `Backend::Auto` is asked for, all arrive. What may not: a
//! wait without end, a spin, a silent end, a panic, a descriptor or a thread left behind. And once the fault is over,
//! everything works again.
//!
//! What the kernel offers is found out once for each process, by some hundreds of calls. That is done before, so that it is the
//! work that fails; but where it is asked for, it fails itself.
//!
//! Which calls those are is found out by counting them in a run without faults; one that is made only behind a fault is
//! known as well. `RINGWATCH_FAULTS=all` takes all errors, more places and scenarios, and second faults behind one by which
//! the ring is lost, which takes minutes.
#![cfg(feature = "tokio")]

mod errors;
mod halves;
mod inject;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::panic;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use ringwatch::{Backend, ErrorKind, Inotify, Result};
use tokio::runtime::Runtime;

use crate::halves::{Half, Seen};
use crate::inject::{Fault, Injector};
use crate::support::child::in_children;
use crate::support::process::Has;
use crate::support::wait_until;

/// Files that are made, in bursts; each burst when the one before was seen.
const FILES: usize = 24;
const BURST: usize = 6;

/// Calls of a whole run: some hundreds are normal, and an error that is tried again for two seconds makes thousands.
const MOST_CALLS: u32 = 20_000;

const SCENARIOS: [(&str, Backend); 15] = [
    ("stream", Backend::Auto),
    ("stream", Backend::Uring),
    ("stream", Backend::Epoll),
    ("reader", Backend::Auto),
    ("reader", Backend::Epoll),
    ("shown", Backend::Auto),
    ("shown", Backend::Epoll),
    ("tokio", Backend::Auto),
    ("tokio", Backend::Epoll),
    ("tree", Backend::Auto),
    ("tree", Backend::Epoll),
    // With all others only.
    ("reader", Backend::Uring),
    ("shown", Backend::Uring),
    ("tokio", Backend::Uring),
    ("tree", Backend::Uring),
];

/// As many are always run.
const USUAL: usize = 11;

/// That in which finding out what the kernel offers fails too.
const COLD: usize = 0;

/// By which a ring is lost: at once, and at work.
const RING_LOST: [Fault; 2] = [
    always(libc::SYS_io_uring_setup, libc::EPERM, 1),
    always(libc::SYS_io_uring_enter, libc::EPERM, 3),
];

/// What failed once, and is not among the first errors of a call.
const FAILED_ONCE: [(usize, Fault); 5] = [
    // Counted with the calls that find out what the kernel offers.
    //
    // The kernel kept a group of buffers, and with it the descriptor stayed open.
    (0, once(libc::SYS_io_uring_register, libc::EINVAL, 3)),
    (3, once(libc::SYS_io_uring_register, libc::ENOMEM, 3)),
    // The ring of the first stream was just failing when the second joined it.
    (1, once(libc::SYS_io_uring_enter, libc::EPERM, 10)),
    // The kernel put reading off, and nobody asked again.
    (7, always(libc::SYS_io_uring_enter, libc::EAGAIN, 3)),
    (7, always(libc::SYS_io_uring_enter, libc::EBUSY, 3)),
];

const fn once(call: libc::c_long, errno: i32, from: u32) -> Fault {
    let count = 1;
    Fault {
        call,
        errno,
        from,
        count,
    }
}

const fn always(call: libc::c_long, errno: i32, from: u32) -> Fault {
    let count = u32::MAX;
    Fault {
        call,
        errno,
        from,
        count,
    }
}

/// What the thread under test tells the one that makes files.
enum Told {
    /// It is watching: now.
    Watching,
    /// It is through.
    Done(Result<Seen>),
}

/// How far the thread under test is.
#[derive(Default)]
struct Progress {
    seen: AtomicUsize,
    done: AtomicBool,
}

/// Says that it is through, however it ends.
struct Done<'a>(&'a Progress);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
    }
}

fn make(dir: &Path, progress: &Progress) {
    for number in 0..FILES {
        if number % BURST == 0 {
            wait_until(|| progress.seen.load(Ordering::SeqCst) >= number || progress.done.load(Ordering::SeqCst));
        }
        if number == FILES / 2 {
            halves::make_below(dir);
            halves::move_about(dir);
        }
        fs::write(dir.join(number.to_string()), "").expect("a file");
    }
}

/// Watches, reads until the last file, and lets go.
fn attempt(
    (half, backend, runtime): (&str, Backend, &'static Runtime),
    dir: &Path,
    progress: &Progress,
    tell: &Sender<Told>,
) -> Result<Seen> {
    let mut half = Half::new(half, backend, dir, runtime)?;
    tell.send(Told::Watching).expect("someone listens");
    half.read(FILES, &progress.seen)
}

/// From now on a panic ends the process: on a thread of the library it would become an error like any other.
fn end_at_a_panic() {
    let say = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        say(panic);
        process::abort();
    }));
}

/// Two attempts on one thread that is supervised, the second without faults. Answers what came of the first.
fn run(Scenario { half, backend, cold }: Scenario, injector: &'static Injector) -> Result<Seen> {
    if !cold {
        Inotify::new().expect("an instance");
    }
    let runtime = halves::runtime();
    let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("a directory"));
    dirs.iter().for_each(|dir| halves::prepare(dir.path()));
    injector.start();
    wait_until(|| Has::now().threads >= 2);
    let before = Has::now();
    let (tell, told) = channel();
    let mut outcomes = Vec::new();
    let progress = &[Progress::default(), Progress::default()];
    let paths = dirs.each_ref().map(|dir| dir.path());
    thread::scope(|scope| {
        scope.spawn(move || {
            injector.enter().expect("a supervised thread");
            for (dir, progress) in paths.into_iter().zip(progress) {
                let _done = Done(progress);
                let outcome = attempt((half, backend, runtime), dir, progress, &tell);
                injector.stop_failing();
                tell.send(Told::Done(outcome)).expect("someone listens");
            }
        });
        for told in told {
            match told {
                Told::Watching => make(paths[outcomes.len()], &progress[outcomes.len()]),
                Told::Done(outcome) => outcomes.push(outcome),
            }
        }
    });
    // The listener itself is one more.
    let descriptors = before.descriptors + 1;
    Has { descriptors, ..before }.wait_until_no_more("both attempts");
    let second = outcomes.pop().expect("two outcomes").expect("it works again");
    assert_eq!(second.complete(FILES), Ok(()), "behind the fault");
    let total = injector.total();
    for (call, _) in injector.counts() {
        errors::errors(half, call);
    }
    assert!(total < MOST_CALLS, "{total} calls: it spins, on {}", injector.last());
    outcomes.pop().expect("two outcomes")
}

/// What is done in a child.
#[derive(Clone, Copy)]
struct Scenario {
    half: &'static str,
    backend: Backend,
    /// What the kernel offers is found out in the middle of it.
    cold: bool,
}

/// What `named` has named.
fn scenario(name: &str) -> Scenario {
    let number = name.trim_end_matches('c');
    let (half, backend) = SCENARIOS[number.parse::<usize>().expect("a number")];
    let cold = name.ends_with('c');
    Scenario { half, backend, cold }
}

fn named(number: usize, cold: bool) -> String {
    let cold = if cold { "c" } else { "" };
    format!("{number}{cold}")
}

/// As a child is told of it.
fn line(fault: &Fault) -> String {
    let Fault {
        call,
        errno,
        from,
        count,
    } = fault;
    format!("{call} {errno} {from} {count}")
}

/// Reads lines of faults, with a semicolon before each.
fn faults(lines: &str) -> Vec<Fault> {
    let number = |part: Option<&str>| part.expect("four numbers").parse::<i64>().expect("a number");
    let fault = |line: &str| {
        let mut parts = line.split(' ');
        Fault {
            call: number(parts.next()),
            errno: number(parts.next()) as i32,
            from: number(parts.next()) as u32,
            count: number(parts.next()) as u32,
        }
    };
    lines.split(';').skip(1).map(fault).collect()
}

/// The calls that a scenario makes, and how often; behind a fault that it survives, if one is given.
fn count(name: &str, behind: Option<&Fault>) -> Vec<(libc::c_long, u32)> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let fault = behind.map(|fault| format!(";{}", line(fault)));
    let case = format!("{name} {}{}", file.path().display(), fault.unwrap_or_default());
    in_children("a_run_without_faults_sees_everything", &[case], |_| ());
    let text = fs::read_to_string(file.path()).expect("counts");
    let pair = |line: &str| {
        let (call, count) = line.split_once(' ').expect("two numbers");
        (call.parse().expect("a number"), count.parse().expect("a number"))
    };
    text.lines().map(pair).collect()
}

fn all() -> bool {
    std::env::var("RINGWATCH_FAULTS").as_deref() == Ok("all")
}

fn available() -> impl Iterator<Item = usize> {
    let there = support::backends();
    let scenarios = if all() { SCENARIOS.len() } else { USUAL };
    (0..scenarios).filter(|&number| SCENARIOS[number].1 == Backend::Auto || there.contains(&SCENARIOS[number].1))
}

#[test]
fn a_run_without_faults_sees_everything() {
    let cases: Vec<_> = available()
        .map(|number| format!("{} ", named(number, number == COLD)))
        .collect();
    in_children("a_run_without_faults_sees_everything", &cases, |case| {
        let (name, rest) = case.split_once(' ').expect("two parts");
        let file = rest.split(';').next().expect("a part");
        let injector = Injector::new(faults(rest));
        let seen = run(scenario(name), injector).expect("no error");
        assert_eq!(seen.complete(FILES), Ok(()));
        if !file.is_empty() {
            let lines = injector.counts().map(|(call, count)| format!("{call} {count}\n"));
            fs::write(file, lines.collect::<String>()).expect("the counts written");
        }
    });
}

#[test]
fn every_call_fails_and_nothing_hangs_spins_or_ends_in_silence() {
    let mut cases = Vec::new();
    if std::env::var_os("RINGWATCH_TEST_CHILD").is_none() {
        for number in available() {
            let (half, backend) = SCENARIOS[number];
            let [warm, cold] = [false, true].map(|cold| named(number, cold));
            let counts = count(&warm, None);
            let case = |name: &str, fault: &Fault| format!("{name};{}", line(fault));
            let faults = errors::faults(half, &counts, errors::places(all()));
            cases.extend(faults.iter().map(|fault| case(&warm, fault)));
            let failed_once = FAILED_ONCE.iter().filter(|(of, _)| *of == number);
            cases.extend(failed_once.map(|(_, fault)| case(&cold, fault)));
            if number == COLD {
                let faults = errors::faults(half, &count(&cold, None), errors::first_places(all()));
                cases.extend(faults.iter().map(|fault| case(&cold, fault)));
            }
            if !all() || backend != Backend::Auto || support::backends().len() == 1 {
                continue;
            }
            for lost in &RING_LOST {
                let seconds = errors::second_faults(half, &counts, &count(&warm, Some(lost)));
                let seconds = seconds.iter().filter(|second| second.call != lost.call);
                cases.extend(seconds.map(|second| format!("{warm};{};{}", line(lost), line(second))));
            }
        }
        cases.sort_unstable();
        cases.dedup();
        println!("{} faults", cases.len());
    }
    in_children(
        "every_call_fails_and_nothing_hangs_spins_or_ends_in_silence",
        &cases,
        |case| {
            let (name, _) = case.split_once(';').expect("two parts");
            let scenario = scenario(name);
            let Scenario { half, backend, .. } = scenario;
            let faults = faults(case);
            end_at_a_panic();
            let outlives = backend == Backend::Auto && faults.iter().all(errors::is_outlived);
            match run(scenario, Injector::new(faults.clone())) {
                Ok(seen) => {
                    assert_eq!(seen.complete(FILES), Ok(()), "{half} on {backend:?}, {faults:?}");
                    assert!(!outlives || !seen.said, "epoll goes on: {half}, {faults:?}");
                }
                Err(error) => {
                    assert!(!outlives, "epoll goes on: {half}, {faults:?}: {error}");
                    println!("{half} on {backend:?}, {faults:?}: {error}");
                    assert!(
                        error.kind() != ErrorKind::Malformed && error.kind() != ErrorKind::Closed,
                        "{error}"
                    );
                    assert!(!error.operation().is_empty());
                }
            }
        },
    );
}
