//! The memory of a provided-buffer ring: we put buffers in, the kernel takes them out.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::pool::map_anonymous;

/// A ring of entries, the tail overlaid on the first (io_uring_register_buf_ring(3), Linux 5.19).
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    /// A power of two.
    entries: u16,
    tail: u16,
}

// SAFETY: `base` points to memory that only this struct writes; the kernel reads it.
unsafe impl Send for BufferRing {}

impl BufferRing {
    /// `entries` is a power of two.
    pub(super) fn new(entries: u16) -> io::Result<Self> {
        debug_assert!(entries.is_power_of_two());
        Ok(Self {
            base: map_anonymous(size(entries))?.cast(),
            entries,
            tail: 0,
        })
    }

    /// Where it begins: page-aligned, as the kernel wants it.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Offers the kernel a buffer, to be named `id` when it is filled.
    pub(super) fn offer(&mut self, address: NonNull<u8>, size: u32, id: u16) {
        let place = usize::from(self.tail % self.entries);
        // SAFETY: `place` is below the number of entries that the mapping holds.
        let mut entry = unsafe { self.base.add(place) };
        // SAFETY: aligned and mapped, and zeroed memory is a valid entry. The kernel reads it only behind the tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(size);
        entry.set_bid(id);
        self.publish(self.tail.wrapping_add(1));
    }

    /// Takes back the last `count` offers, which the kernel has not used.
    pub(super) fn withdraw(&mut self, count: u16) {
        self.publish(self.tail.wrapping_sub(count));
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

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody else has its address but the kernel, which pins it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), size(self.entries)) };
    }
}

fn size(entries: u16) -> usize {
    usize::from(entries) * size_of::<BufRingEntry>()
}
