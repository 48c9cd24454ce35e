//! Starting the reader thread so that no signal of the program is ever handled on it, and telling threads apart.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// The calling thread's number; no two threads of a process ever have the same. `std::thread::current().id()` says as much,
/// and counts references for it.
#[inline]
pub(super) fn current() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        number.get()
    })
}

/// Starts a named thread with every signal blocked from its first instruction on.
pub(crate) fn spawn_without_signals(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // A thread inherits the mask of the one that makes it.
    let _blocked = BlockedSignals::new();
    std::thread::Builder::new().name(name.into()).spawn(body)
}

/// All signals blocked on this thread until dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: `sigfillset` initializes the whole set.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was initialized above; `before` has room for a set. With SIG_SETMASK the call can't fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        Self {
            // SAFETY: the call above wrote the whole set.
            before: unsafe { before.assume_init() },
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` is the set this thread had; a null pointer asks for no copy of the current one.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
