//! Tests that need a process, or a thread, with other rights than this one.
//!
//! A test that needs a process of its own runs the test program again, for itself alone.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::PATIENCE;

/// Set in the child.
pub(crate) const IN_CHILD: &str = "RINGWATCH_TEST_CHILD";

/// The one user and group that has no rights of its own.
const NOBODY: libc::c_long = 65_534;

/// Runs the named test again in a child that `prepare` may alter, and `body` there. Fails if it fails there.
pub(crate) fn in_child(test: &str, prepare: impl FnOnce(&mut Command), body: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some() {
        return body();
    }
    let mut command = again(test);
    prepare(&mut command);
    run(test, &mut command).expect("a child");
}

/// Cases that may fail before the rest is not run any more: if all hang, that takes hours.
const MOST_FAILED: usize = 10;

/// As [`in_child`], a child for each case; twice as many at once as there are cores, since many wait. What is slow is told
/// from what hangs: it is said now and then how many are through, and of each that hangs its name. With
/// `RINGWATCH_VERBOSE` each is printed with its time.
pub(crate) fn in_children(test: &str, cases: &[String], body: impl FnOnce(&str)) {
    const CASE: &str = "RINGWATCH_TEST_CASE";
    if let (Some(_), Ok(case)) = (std::env::var_os(IN_CHILD), std::env::var(CASE)) {
        return body(&case);
    }
    let verbose = std::env::var_os("RINGWATCH_VERBOSE").is_some();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let times = Mutex::new(Vec::new());
    let work = || {
        while failed.lock().expect("no panic").len() < MOST_FAILED
            && let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let mut command = again(test);
            command.env(CASE, case);
            let begun = Instant::now();
            let outcome = outcome(&mut command);
            let took = begun.elapsed();
            let mut times = times.lock().expect("no panic");
            times.push((took, case));
            if verbose || outcome.is_err() || times.len() % 100 == 0 {
                let how = if outcome.is_ok() { "well" } else { "FAILED" };
                super::say(&format!(
                    "{} of {}: {case}, {how}, {took:.1?}",
                    times.len(),
                    cases.len()
                ));
            }
            if let Err(why) = outcome {
                failed.lock().expect("no panic").push(format!("{case}: {why}"));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut times = times.into_inner().expect("no panic");
    times.sort_unstable();
    if let (Some(slowest), true) = (times.last(), times.len() > 100) {
        let together: Duration = times.iter().map(|(took, _)| took).sum();
        let (took, case) = slowest;
        super::say(&format!("{together:.1?} together, the slowest {took:.1?}: {case}"));
    }
    let failed = failed.into_inner().expect("no panic");
    assert!(
        failed.is_empty(),
        "{} of {} failed, {} were run:\n{}",
        failed.len(),
        cases.len(),
        times.len(),
        failed.join("\n")
    );
}

/// How a child ends that is killed if it does not in good time: then it hangs.
fn outcome(command: &mut Command) -> Result<(), String> {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|error| error.to_string())?;
    // It says less than a pipe holds.
    let begun = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().map_err(|error| error.to_string())?;
            let output = child.wait_with_output().map_err(|error| error.to_string())?;
            let (waited, said) = (begun.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned());
            return Err(format!("it hung, for {waited:.0?}:\n{said}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    pass_on(&err);
    match output.status.success() && out.contains("1 passed") {
        true => Ok(()),
        false => Err(format!("{}\n{err}", output.status)),
    }
}

/// As [`in_child`], in user and mount namespaces of its own, where it is root. If there can be none, says so and does not
/// run.
pub(crate) fn in_namespaces(test: &str, body: impl FnOnce()) {
    if std::env::var_os(IN_CHILD).is_some() {
        return body();
    }
    let mut command = again(test);
    // SAFETY: no pointers are passed.
    let (user, group) = (unsafe { libc::geteuid() }, own_group());
    let maps = [
        (c"/proc/self/setgroups", CString::from(c"deny")),
        (
            c"/proc/self/uid_map",
            CString::new(format!("0 {user} 1")).expect("no NUL"),
        ),
        (
            c"/proc/self/gid_map",
            CString::new(format!("0 {group} 1")).expect("no NUL"),
        ),
    ];
    let enter = move || {
        // SAFETY: no pointers are passed. The child of a fork has one thread, which is what the call asks for.
        done(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
        maps.iter().try_for_each(|(path, text)| put(path, text))
    };
    // SAFETY: between fork and exec it only makes system calls; all it names was allocated before.
    unsafe { command.pre_exec(enter) };
    if let Err(refused) = run(test, &mut command) {
        super::skip("a user namespace", "RINGWATCH_REQUIRE_NAMESPACES", &refused);
    }
}

/// The test program, to run this test alone, as a child.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test program"));
    command.args(["--exact", test, "--nocapture"]).env(IN_CHILD, "1");
    command
}

/// An error if the child could not be started.
fn run(test: &str, command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{test} failed in a child:\n{out}\n{err}"
    );
    pass_on(&err);
    Ok(())
}

/// Says what a child has said to whoever reads the output of all.
fn pass_on(err: &str) {
    let is_for_all = |line: &&str| ["SKIPPED", "REPLAYED"].iter().any(|word| line.starts_with(word));
    err.lines().filter(is_for_all).for_each(super::say);
}

fn own_group() -> libc::gid_t {
    // SAFETY: no pointers are passed.
    unsafe { libc::getegid() }
}

/// Writes a file with system calls and nothing else.
fn put(path: &std::ffi::CStr, text: &CString) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated and lives through the call.
    let fd = done(unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    let bytes = text.as_bytes();
    // SAFETY: the bytes live through the call, which only reads them.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    done(written as libc::c_int).map(drop)
}

/// Waits for what the flags say of a child, whatever signals come meanwhile, and answers its status.
pub(crate) fn status_of(child: libc::pid_t, flags: libc::c_int) -> libc::c_int {
    let mut status = -1;
    // SAFETY: the status lives through the call.
    while unsafe { libc::waitpid(child, &raw mut status, flags) } == -1 {
        let error = io::Error::last_os_error();
        assert_eq!(
            error.kind(),
            io::ErrorKind::Interrupted,
            "no process, or not ours: {error}"
        );
    }
    status
}

/// Does in a process of its own, which has none of our descriptors, what works in the child of a fork: no other thread is there.
/// Answers whether it did not panic.
pub(crate) fn in_process(body: impl FnOnce()) -> bool {
    // SAFETY: the child ends here. What it does until then are system calls, and allocations, which libc lets it make.
    match unsafe { libc::fork() } {
        0 => {
            let first: libc::c_long = 3;
            // SAFETY: no pointers are passed, and nobody here uses what is closed.
            unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_long::from(u32::MAX), 0) };
            let done = catch_unwind(AssertUnwindSafe(body));
            // SAFETY: it is no pointer.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        child => status_of(child, 0) == 0,
    }
}

/// Runs `body` on a thread that may do no more than anybody. If this process may do no more already, so be it.
pub(crate) fn as_nobody<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            // SAFETY: no pointers are passed.
            if unsafe { libc::geteuid() } == 0 {
                become_nobody().expect("root may become nobody");
            }
            body()
        });
        match unprivileged.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `body` on a thread that may not pass over permissions, whose owner it may be.
pub(crate) fn without_capabilities<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let passes = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            let mut sets = capabilities(None).expect("capabilities");
            sets.effective.remove(passes);
            set_capabilities(None, sets).expect("fewer capabilities");
            body()
        });
        match unprivileged.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The system calls themselves, which change this thread; the functions of libc of that name change all threads.
fn become_nobody() -> io::Result<()> {
    // SAFETY: the list of groups is empty, so none is read.
    done_long(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) })?;
    // SAFETY: no pointers are passed.
    done_long(unsafe { libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) })?;
    // SAFETY: no pointers are passed.
    done_long(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) })?;
    // Whoever changes user may not read all of `/proc/thread-self` any more, but if this is allowed.
    // SAFETY: no pointers are passed.
    done(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }).map(drop)
}

/// The system calls of io_uring.
pub(crate) const IO_URING: [libc::c_long; 3] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Answers the io_uring calls with `errno`, as the profiles of containers do.
pub(crate) fn deny_uring(errno: i32) {
    deny_calls(&IO_URING, errno);
}

/// Answers these calls with `errno`, on all threads there are.
pub(crate) fn deny_calls(calls: &[libc::c_long], errno: i32) {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|&call| (call, Vec::new())).collect();
    let machine = std::env::consts::ARCH
        .try_into()
        .expect("a machine that seccompiler knows");
    let denied = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, machine).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    apply_filter_all_threads(&program).expect("the filter applied");
}

/// Mounts an empty file system in memory, in a mount namespace of one's own.
pub(crate) fn mount_memory(at: &Path) -> io::Result<()> {
    mount_memory_as(at, c"")
}

/// With options, such as `size=16k`.
pub(crate) fn mount_memory_as(at: &Path, options: &std::ffi::CStr) -> io::Result<()> {
    mount(Path::new("tmpfs"), at, c"tmpfs", 0, options)
}

/// Mounts what is at one place at another too.
pub(crate) fn mount_again(from: &Path, at: &Path) -> io::Result<()> {
    mount(from, at, c"none", libc::MS_BIND, c"")
}

fn mount(
    what: &Path,
    at: &Path,
    kind: &std::ffi::CStr,
    flags: libc::c_ulong,
    options: &std::ffi::CStr,
) -> io::Result<()> {
    let nothing = ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the target is a NUL-terminated literal, and the other pointers may be null for this flag.
    done(unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()) })?;
    let (what, at) = (path(what), path(at));
    let options = options.as_ptr().cast();
    // SAFETY: the strings are NUL-terminated and live through the call.
    done(unsafe { libc::mount(what.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, options) }).map(drop)
}

/// Waits until it is not in use: a tree may be looking at it.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match unmount_as(at, 0) {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < PATIENCE => super::pause(),
            outcome => return outcome,
        }
    }
}

/// Also if it is in use, which it goes on to be.
pub(crate) fn detach(at: &Path) -> io::Result<()> {
    unmount_as(at, libc::MNT_DETACH)
}

fn unmount_as(at: &Path, flags: libc::c_int) -> io::Result<()> {
    let at = path(at);
    // SAFETY: the path is NUL-terminated and lives through the call.
    done(unsafe { libc::umount2(at.as_ptr(), flags) }).map(drop)
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL")
}

fn done(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn done_long(result: libc::c_long) -> io::Result<()> {
    done(result as libc::c_int).map(drop)
}
