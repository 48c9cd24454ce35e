//! The memory that events may take, and the buffers it is cut into.
//!
//! One anonymous mapping, made once, never grown. A [`Buffer`] is the only way to a piece of it, has one owner, and goes
//! back when dropped; it can be neither copied nor given back twice. While a buffer is with the kernel its token is held
//! by the ring that gave it, so nobody can touch those bytes.

use std::fmt;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use super::fence;
use super::fork::Home;
use super::notifier::Notifier;
use crate::sync::{Mutex, MutexGuard};

/// The buffers of one instance.
pub(crate) struct Pool {
    base: NonNull<u8>,
    buffer_size: usize,
    buffers: usize,
    home: Home,
    /// Buffers with something in them.
    used: AtomicUsize,
    free: Mutex<Free>,
    /// Tells loom who touches which buffer.
    #[cfg(loom)]
    touched: Vec<loom::cell::UnsafeCell<()>>,
}

struct Free {
    /// Last in, first out: the buffer used last is the one still in the cache.
    indices: Vec<u32>,
    /// Who found the pool empty and is to be woken by the next buffer that comes back.
    starved: Option<Arc<Notifier>>,
}

// SAFETY: `base` points to memory that this struct owns; distinct buffers are disjoint, and each has one owner.
unsafe impl Send for Pool {}
// SAFETY: as above; everything else is behind the mutex.
unsafe impl Sync for Pool {}

impl Pool {
    /// `buffers` of `buffer_size` bytes each. The memory is taken from the system only as it is first used.
    pub(crate) fn new(buffers: usize, buffer_size: usize) -> io::Result<Arc<Self>> {
        let out_of_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let count = u32::try_from(buffers).map_err(|_| out_of_memory())?;
        let size = buffers.checked_mul(buffer_size).ok_or_else(out_of_memory)?;
        let base = map_anonymous(size)?;
        fence::shut(base.as_ptr(), size);
        Ok(Arc::new(Self {
            base,
            buffer_size,
            buffers,
            home: Home::new(),
            used: AtomicUsize::new(0),
            free: Mutex::new(Free {
                indices: (0..count).rev().collect(),
                starved: None,
            }),
            #[cfg(loom)]
            touched: (0..count).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }))
    }

    pub(crate) fn buffers(&self) -> usize {
        self.buffers
    }

    pub(crate) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    /// Buffers that nobody has.
    #[cfg(any(test, loom))]
    pub(crate) fn free(&self) -> usize {
        self.lock().indices.len()
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.buffers * self.buffer_size
    }

    /// Bytes of the buffers that have something in them: read and not consumed, or held by the consumer.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed) * self.buffer_size
    }

    /// An empty buffer, if there is one.
    #[cfg(any(test, fuzzing, loom))]
    pub(crate) fn take(self: &Arc<Self>) -> Option<Buffer> {
        let index = self.lock().indices.pop()?;
        Some(self.buffer(index))
    }

    /// Puts an empty buffer into each place, as far as there are any.
    pub(crate) fn fill(self: &Arc<Self>, places: &mut [Option<Buffer>]) {
        let mut free = self.lock();
        for place in places {
            let Some(index) = free.indices.pop() else { return };
            debug_assert!(place.is_none());
            *place = Some(self.buffer(index));
        }
    }

    /// An empty buffer; if there is none, `notifier` is signalled once one comes back.
    pub(crate) fn take_or_starve(self: &Arc<Self>, notifier: &Arc<Notifier>) -> Option<Buffer> {
        let mut free = self.lock();
        let Some(index) = free.indices.pop() else {
            free.starved = Some(Arc::clone(notifier));
            return None;
        };
        drop(free);
        Some(self.buffer(index))
    }

    /// Has `notifier` signalled once a buffer comes back. Answers whether there is none now.
    pub(crate) fn starve(&self, notifier: &Arc<Notifier>) -> bool {
        let mut free = self.lock();
        let starved = free.indices.is_empty();
        if starved {
            free.starved = Some(Arc::clone(notifier));
        }
        starved
    }

    fn buffer(self: &Arc<Self>, index: u32) -> Buffer {
        let buffer = Buffer {
            pool: Arc::clone(self),
            index,
            filled: 0,
        };
        buffer.open();
        buffer
    }

    fn give_back(&self, index: u32) {
        let mut free = self.lock();
        free.indices.push(index);
        let starved = free.starved.take();
        drop(free);
        if let Some(notifier) = starved {
            notifier.signal();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        fence::open(self.base.as_ptr(), self.bytes());
        // SAFETY: `base` and the length are those of the mapping made in `new`. Every buffer holds the pool, so none is
        // left, with us or with the kernel.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.buffers * self.buffer_size) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("buffers", &self.buffers)
            .field("buffer_size", &self.buffer_size)
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

/// Private anonymous memory, zeroed, page-aligned.
pub(super) fn map_anonymous(size: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// One buffer of a [`Pool`], and how much of it is filled. Dropping it gives it back.
pub(crate) struct Buffer {
    pool: Arc<Pool>,
    index: u32,
    filled: u32,
}

/// Compiles only as long as a buffer can't be cloned: two calls would fit.
const _: fn() = || {
    trait Cloned<How> {
        fn check() {}
    }
    impl<T> Cloned<()> for T {}
    impl<T: Clone> Cloned<u8> for T {}
    <Buffer as Cloned<_>>::check();
};

impl Buffer {
    fn start(&self) -> NonNull<u8> {
        let offset = self.index as usize * self.pool.buffer_size;
        // SAFETY: `index` is below the number of buffers, so the result is inside the pool's mapping.
        unsafe { self.pool.base.add(offset) }
    }

    fn open(&self) {
        fence::open(self.start().as_ptr(), self.pool.buffer_size);
    }

    fn shut(&self) {
        fence::shut(self.start().as_ptr(), self.pool.buffer_size);
    }

    /// The address and size of the whole buffer, to be written by the kernel: until `advance`, it is not to be touched.
    pub(super) fn room(&self) -> (NonNull<u8>, u32) {
        self.shut();
        // The size fits: it is checked against `u32` when the pool's owner is built.
        (self.start(), self.pool.buffer_size as u32)
    }

    /// What was read into it.
    pub(crate) fn filled(&self) -> &[u8] {
        #[cfg(loom)]
        self.pool.touched[self.index as usize].with(|_| ());
        // SAFETY: inside the mapping, which is initialized (the kernel zeroes it). This token is the buffer's only owner
        // and not with the kernel, so nobody writes while it is borrowed.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.filled as usize) }
    }

    /// The rest of it.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        #[cfg(loom)]
        self.pool.touched[self.index as usize].with_mut(|_| ());
        let spare = self.room_left();
        // SAFETY: `filled` is at most the buffer's size.
        let start = unsafe { self.start().add(self.filled as usize) };
        // SAFETY: as in `filled`, and `&mut self` makes it exclusive.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), spare) }
    }

    /// Says that `length` more bytes were written. What the buffer can't hold is not believed.
    pub(crate) fn advance(&mut self, length: usize) -> bool {
        self.open();
        if length > self.room_left() {
            return false;
        }
        if self.filled == 0 && length > 0 {
            self.pool.used.fetch_add(1, Ordering::Relaxed);
        }
        self.filled += length as u32;
        true
    }

    /// Copies `bytes` behind what is there, if they fit.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.spare().get_mut(..bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.advance(bytes.len())
    }

    /// Bytes that still fit.
    pub(crate) fn room_left(&self) -> usize {
        self.pool.buffer_size - self.filled as usize
    }

    /// Forgets the first `length` bytes, and moves the rest to the front.
    pub(crate) fn forget_front(&mut self, length: usize) {
        if length == 0 {
            return;
        }
        #[cfg(loom)]
        self.pool.touched[self.index as usize].with_mut(|_| ());
        let rest = self.filled as usize - length;
        // SAFETY: as in `filled`, and `&mut self` makes it exclusive.
        let filled = unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.filled as usize) };
        filled.copy_within(length.., 0);
        self.clear();
        self.advance(rest);
    }

    /// Forgets what was read into it.
    pub(crate) fn clear(&mut self) {
        if self.filled > 0 {
            self.pool.used.fetch_sub(1, Ordering::Relaxed);
        }
        self.filled = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a child of `fork` the lock may be held for ever, and nobody takes it out again.
        if self.pool.home.is_here() {
            self.clear();
            self.shut();
            self.pool.give_back(self.index);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({}: {} bytes)", self.index, self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_disjoint_bounded_and_come_back() {
        let pool = Pool::new(3, 512).unwrap();
        let mut buffers: Vec<_> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert!(buffer.append(&[i as u8; 512]));
            assert!(!buffer.append(&[9]));
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert_eq!(buffer.filled(), [i as u8; 512]);
        }
        drop(buffers);
        assert_eq!(pool.free(), 3);
        assert!(pool.take().unwrap().filled().is_empty());
    }

    #[test]
    fn a_buffer_dropped_in_a_child_waits_for_no_lock_and_signals_nobody() {
        let pool = Pool::new(1, 512).unwrap();
        let notifier = Arc::new(Notifier::new().unwrap());
        let buffer = pool.take().unwrap();
        assert!(pool.take_or_starve(&notifier).is_none());
        let lock = pool.lock();
        assert!(crate::sys::fork::in_child(|| {
            // SAFETY: what the child drops is its own copy; this one lives on.
            drop(unsafe { ptr::read(&raw const buffer) });
            true
        }));
        drop(lock);
        assert!(!notifier.clear());
        drop(buffer);
        assert!(notifier.clear());
    }

    #[test]
    fn a_starved_taker_is_woken_once_by_the_next_buffer() {
        let pool = Pool::new(1, 512).unwrap();
        let notifier = Arc::new(Notifier::new().unwrap());
        let buffer = pool.take().unwrap();
        assert!(!notifier.clear());
        assert!(pool.take_or_starve(&notifier).is_none());
        drop(buffer);
        assert!(notifier.clear());
        drop(pool.take_or_starve(&notifier).unwrap());
        assert!(!notifier.clear());
    }

    /// AddressSanitizer ends a process that reads a buffer which is free, or with the kernel.
    #[cfg(fenced)]
    #[test]
    fn whoever_reads_a_buffer_that_went_back_is_found() {
        const HOW: &str = "RINGWATCH_MISUSE";
        let pool = Pool::new(1, 512).unwrap();
        let buffer = pool.take().unwrap();
        let start = buffer.start();
        // SAFETY: the mapping is there. That nobody owns these bytes is what is tested.
        let read = || unsafe { start.as_ptr().read_volatile() };
        match std::env::var(HOW).as_deref() {
            Ok("free") => {
                drop(buffer);
                read();
            }
            Ok("kernel") => {
                buffer.room();
                read();
            }
            _ => {
                read();
                for how in ["free", "kernel"] {
                    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
                    again.args([
                        "--exact",
                        "--nocapture",
                        "sys::pool::tests::whoever_reads_a_buffer_that_went_back_is_found",
                    ]);
                    let output = again.env(HOW, how).output().unwrap();
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(
                        !output.status.success() && said.contains("use-after-poison"),
                        "{how}: {said}"
                    );
                }
            }
        }
    }
}
