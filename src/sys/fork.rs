//! Which process something was made in: a child of `fork` has its parent's memory, and none of its threads.
//!
//! What was made before a fork is the parent's. The child has descriptors of the same inotify instance, epoll set and ring,
//! and memory that it shares with the parent (a ring's), so whatever it did with them would be done to the parent. And a
//! lock may be held for ever by a thread that the child does not have. So every call asks [`Home::is_here`] before it
//! takes a lock or makes a system call, and what is dropped in a child only closes the child's descriptors.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::pool::map_anonymous;

/// The process that something was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(u64);

/// The number of this process, in memory that is zeroed in a child. None while nothing was made.
static NUMBER: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Stands for memory that could not be had. Then a process is known by its id, at the cost of a system call each time.
static BY_ID: AtomicU64 = AtomicU64::new(0);

/// The last number that was given. A child counts on from its parent's, so none of them is an ancestor's.
static LAST: AtomicU64 = AtomicU64::new(0);

impl Home {
    /// This process.
    pub(crate) fn new() -> Self {
        if NUMBER.load(Ordering::Acquire).is_null() {
            let memory = wiped_in_children().unwrap_or(&BY_ID);
            let memory = ptr::from_ref(memory).cast_mut();
            // If another thread was faster, a page is left over.
            let _ = NUMBER.compare_exchange(ptr::null_mut(), memory, Ordering::AcqRel, Ordering::Acquire);
        }
        loop {
            let number = current();
            if number != 0 {
                return Self(number);
            }
            let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            // As above.
            let _ = shared().compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether this is that process, and no child of it. A load and a comparison.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        current() == self.0
    }
}

/// The number of this process; 0 if it has none yet.
#[inline]
fn current() -> u64 {
    let number = shared();
    if ptr::eq(number, &raw const BY_ID) {
        return std::process::id().into();
    }
    number.load(Ordering::Acquire)
}

#[inline]
fn shared() -> &'static AtomicU64 {
    // SAFETY: `Home::new`, by which every call comes here first, has put a pointer there; to a static or to a page that is
    // never unmapped, aligned and zeroed, which is a valid `AtomicU64`.
    unsafe { &*NUMBER.load(Ordering::Acquire) }
}

/// A page that is zeroed in a child, whichever way it was forked (madvise(2), Linux 4.14).
fn wiped_in_children() -> io::Result<&'static AtomicU64> {
    const SIZE: usize = 4_096;
    let page = map_anonymous(SIZE)?;
    // SAFETY: the whole of a mapping that was just made, private and anonymous as this advice asks for.
    super::checked(unsafe { libc::madvise(page.as_ptr().cast(), SIZE, libc::MADV_WIPEONFORK) })?;
    // SAFETY: page-aligned, zeroed, and never unmapped.
    Ok(unsafe { page.cast::<AtomicU64>().as_ref() })
}

/// Something that each process has one of. A child of `fork` begins with a new one: whatever its parent's threads did with
/// theirs at that moment, it is not left half done here.
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<Owned<T>>);

struct Owned<T> {
    home: Home,
    value: T,
    /// The parent's, so that it is not taken for lost.
    _parents: *mut Owned<T>,
}

impl<T: Default + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn get(&self) -> &'static T {
        let known = self.0.load(Ordering::Acquire);
        // SAFETY: null, or put there below: never freed, and reached by shared references only.
        if let Some(owned) = unsafe { known.as_ref() }
            && owned.home.is_here()
        {
            return &owned.value;
        }
        let new = Box::into_raw(Box::new(Owned {
            home: Home::new(),
            value: T::default(),
            _parents: known,
        }));
        match self.0.compare_exchange(known, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: made above, and never freed from now on.
            Ok(_) => unsafe { &(*new).value },
            Err(faster) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: another thread of this process has put it there.
                unsafe { &(*faster).value }
            }
        }
    }
}

/// Whether `check` holds in a child of this process, and ends.
#[cfg(test)]
pub(crate) fn in_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the C library sees to its own locks at a fork, and the child ends below.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // What hangs is ended.
        // SAFETY: no pointers are passed.
        unsafe { libc::alarm(20) };
        let code = if check() { 0 } else { 1 };
        // SAFETY: it never returns.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable and lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_its_child_are_other_processes() {
        let home = Home::new();
        assert!(home.is_here() && home == Home::new());
        assert!(in_child(|| {
            let away = !home.is_here();
            let own = Home::new();
            away && own != home && own.is_here() && in_child(|| !own.is_here() && ![home, own].contains(&Home::new()))
        }));
        assert!(home.is_here());
    }

    #[test]
    fn each_process_has_its_own() {
        static OWN: PerProcess<AtomicU64> = PerProcess::new();
        OWN.get().store(7, Ordering::Relaxed);
        assert!(in_child(|| {
            let fresh = OWN.get().swap(8, Ordering::Relaxed) == 0;
            fresh && OWN.get().load(Ordering::Relaxed) == 8
        }));
        assert_eq!(OWN.get().load(Ordering::Relaxed), 7);
    }
}
