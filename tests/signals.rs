//! A signal handler that runs while events are waited for and read changes nothing.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use ringwatch::Mask;
use support::on_every_backend;

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Without `SA_RESTART`, so that system calls end with `EINTR`.
fn install() {
    // SAFETY: an all-zero `sigaction` is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    // SAFETY: the handler only adds to an atomic; the old action is not asked for.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
}

#[test]
fn signals_under_load_lose_nothing_and_end_no_wait() {
    let files = support::often(8_000);
    install();
    on_every_backend(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let mut recorder = setup.recorder();
        recorder.watch(dir.path(), Mask::CREATE);
        // SAFETY: no pointers are passed.
        let this_thread = unsafe { libc::pthread_self() };
        let this_process = std::process::id().cast_signed();
        let before = HANDLED.load(Ordering::Relaxed);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: that thread runs until this scope ends.
                    unsafe { libc::pthread_kill(this_thread, libc::SIGUSR1) };
                    // To the process as well: a thread that blocks signals never gets these.
                    // SAFETY: no pointers are passed.
                    unsafe { libc::kill(this_process, libc::SIGUSR1) };
                    thread::yield_now();
                }
            });
            scope.spawn(|| {
                for number in 0..files {
                    fs::write(dir.path().join(number.to_string()), "").expect("a file");
                }
            });
            let mut next = 0;
            while next < files {
                for event in &recorder.batch() {
                    let name = event.name().expect("a name").to_string_lossy().into_owned();
                    assert_eq!(name, next.to_string());
                    next += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(HANDLED.load(Ordering::Relaxed) > before + 100);
    });
}
