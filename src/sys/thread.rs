//! Starting the reader thread so that no signal of the program is ever handled on it.

use std::io;
use std::mem::MaybeUninit;
use std::thread::JoinHandle;

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
