//! For AddressSanitizer (`ci/sanitize`): memory that nobody may touch just now, though it is mapped.
//!
//! Without `--cfg fenced` it is nothing.

#[cfg(fenced)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const std::ffi::c_void, size: usize);
    fn __asan_unpoison_memory_region(start: *const std::ffi::c_void, size: usize);
}

/// From now on, whoever touches it ends the process.
pub(super) fn shut(start: *const u8, size: usize) {
    #[cfg(fenced)]
    // SAFETY: it marks these bytes, which are the caller's, and touches none of them.
    unsafe {
        __asan_poison_memory_region(start.cast(), size);
    }
    let _ = (start, size);
}

/// It may be touched again.
pub(super) fn open(start: *const u8, size: usize) {
    #[cfg(fenced)]
    // SAFETY: as in `shut`.
    unsafe {
        __asan_unpoison_memory_region(start.cast(), size);
    }
    let _ = (start, size);
}
