//! Buffers that are lent to the kernel: the memory of a provided-buffer ring, and the tokens of what is in it.
//!
//! Lending is safe. Taking a buffer back is not, for the kernel may still write to it: whoever does says why it will not.

use std::io;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::pool::{Buffer, map_anonymous};

/// Buffers a source lends to the kernel at a time: of the default size, as many as 16,384 events with short names fill,
/// which is all that the kernel's queue holds. With fewer, a busy window's events come in more than one turn. A power of two.
pub(super) const LENT: u16 = u32::BITS as u16;

const SIZE: usize = LENT as usize * size_of::<BufRingEntry>();

/// A ring of entries, the tail overlaid on the first (io_uring_register_buf_ring(3), Linux 5.19), and what is lent by it.
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    tail: u16,
    /// What the kernel has, by the id that it names a buffer with.
    held: [Option<Buffer>; LENT as usize],
    /// A bit for each id by which nothing is held.
    free: u32,
}

// SAFETY: `base` points to memory that only this struct writes; the kernel reads it.
unsafe impl Send for BufferRing {}

impl BufferRing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            base: map_anonymous(SIZE)?.cast(),
            tail: 0,
            held: Default::default(),
            free: u32::MAX,
        })
    }

    /// Where it begins: page-aligned, as the kernel wants it.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Buffers that the kernel has.
    pub(super) fn lent(&self) -> u16 {
        LENT - self.free.count_ones() as u16
    }

    /// Lends the kernel a buffer. Gives it back if there is no place for it.
    pub(super) fn lend(&mut self, buffer: Buffer) -> Option<Buffer> {
        let id = self.free.trailing_zeros() as u16;
        if id == LENT {
            return Some(buffer);
        }
        let (address, size) = buffer.room();
        let place = usize::from(self.tail % LENT);
        // SAFETY: `place` is below the number of entries that the mapping holds.
        let mut entry = unsafe { self.base.add(place) };
        // SAFETY: aligned and mapped, and zeroed memory is a valid entry. The kernel reads it only behind the tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(size);
        entry.set_bid(id);
        self.held[usize::from(id)] = Some(buffer);
        self.free &= !(1 << id);
        self.publish(self.tail.wrapping_add(1));
        None
    }

    /// The buffer that the kernel has by this id, if it has one.
    ///
    /// # Safety
    /// The kernel has said that it took this buffer out and writes to it no more: by a completion that names it, which was
    /// not used for this before.
    pub(super) unsafe fn take(&mut self, id: u16) -> Option<Buffer> {
        let buffer = self.held.get_mut(usize::from(id))?.take()?;
        self.free |= 1 << id;
        Some(buffer)
    }

    /// Takes what is lent out of the ring, so that a read which is still to run finds nothing. The buffers stay held.
    ///
    /// # Safety
    /// The kernel does not look at the ring during the call, and has taken out no buffer but those that came back by
    /// [`take`](Self::take).
    pub(super) unsafe fn withdraw(&mut self) {
        self.publish(self.tail.wrapping_sub(self.lent()));
    }

    /// Gives all buffers back to their pool. The ring is of no use afterwards.
    ///
    /// # Safety
    /// The kernel writes to none of them any more: no read is left that could, or none finds them.
    pub(super) unsafe fn reclaim(mut self) {
        drop(mem::take(&mut self.held));
    }

    fn publish(&mut self, tail: u16) {
        self.tail = tail;
        // SAFETY: `base` is the address of the first entry of the ring, and zeroed memory is a valid entry.
        let shared = unsafe { BufRingEntry::tail(self.base.as_ptr()) };
        // SAFETY: aligned, mapped, and after registration accessed by the kernel and by us only as an atomic.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        shared.store(tail, Ordering::Release);
    }
}

/// What is still lent stays with the kernel for good, and as it is: nobody has said that it writes there no more.
impl Drop for BufferRing {
    fn drop(&mut self) {
        mem::forget(mem::take(&mut self.held));
        // SAFETY: this is the mapping made in `new`, and nobody else has its address but the kernel, which pins it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use super::*;
    use crate::sys::pool::Pool;

    #[test]
    fn a_buffer_is_lent_once_and_comes_back_only_if_it_is_said_to() {
        let pool = Pool::new(usize::from(LENT) + 1, 512).unwrap();
        let mut ring = BufferRing::new().unwrap();
        for lent in 1..=LENT {
            assert!(ring.lend(pool.take().unwrap()).is_none());
            assert_eq!(ring.lent(), lent);
        }
        assert!(ring.lend(pool.take().unwrap()).is_some());
        assert_eq!((ring.lent(), pool.free()), (LENT, 1));
        // SAFETY: the ring was never registered, so there is no kernel that writes.
        let mut take = |id| unsafe { ring.take(id) };
        assert!(take(3).is_some() && take(3).is_none() && take(LENT).is_none());
        assert_eq!((ring.lent(), pool.free()), (LENT - 1, 2));
        // SAFETY: as above.
        unsafe { ring.reclaim() };
        assert_eq!(pool.free(), usize::from(LENT) + 1);
    }

    #[test]
    fn what_is_lent_when_the_ring_is_dropped_stays_with_the_kernel() {
        // Known for good, or it would count as a leak.
        static KEPT: OnceLock<Arc<Pool>> = OnceLock::new();
        let pool = Pool::new(2, 512).unwrap();
        let mut ring = BufferRing::new().unwrap();
        assert!(ring.lend(pool.take().unwrap()).is_none());
        drop(ring);
        assert_eq!(KEPT.get_or_init(|| pool).free(), 1);
    }
}
