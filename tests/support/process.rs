//! What this process has, and whether it gives back what it took.

use std::fs;
use std::path::Path;
use std::time::Instant;

/// Mappings that the C library may keep for threads that have ended (stacks, and arenas of its allocator, of which it makes
/// up to eight a CPU); far below one a round of a test that makes thousands.
const SLACK: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Has {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) mappings: usize,
}

impl Has {
    pub(crate) fn now() -> Self {
        let entries = |path| fs::read_dir(path).expect("/proc").count();
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            mappings: fs::read_to_string("/proc/self/maps").expect("/proc").lines().count(),
        }
    }

    /// Waits until the process has no more than this: threads and descriptors go a moment after the last handle. On a busy
    /// machine the kernel may take seconds to close an inotify descriptor. Fails if it has more for good.
    pub(crate) fn wait_until_no_more(self, during: &str) {
        let begun = Instant::now();
        loop {
            let now = Self::now();
            if now.descriptors <= self.descriptors
                && now.threads <= self.threads
                && now.mappings <= self.mappings + SLACK
            {
                return;
            }
            assert!(
                begun.elapsed() < super::PATIENCE,
                "left behind by {during}: {now:?}, of at most {self:?}: {}",
                threads_now()
            );
            super::pause();
        }
    }
}

/// Each thread, with the call it is in, and where in that.
pub(crate) fn threads_now() -> String {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    let one = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        format!("{}{}{}", read("comm"), read("syscall"), read("stack"))
    };
    tasks.flatten().map(one).collect()
}

/// What the kernel tells of each descriptor that is no file: of a ring its queues, of an inotify instance its watches.
pub(crate) fn descriptors_now() -> String {
    let one = |entry: fs::DirEntry| {
        let what = fs::read_link(entry.path()).ok()?;
        let what = what.to_str().filter(|what| what.starts_with("anon_inode:"))?;
        let number = entry.file_name();
        let told = fs::read_to_string(Path::new("/proc/self/fdinfo").join(&number)).unwrap_or_default();
        let number = number.to_str()?;
        let mut queued = -1_i32;
        // SAFETY: the number lives through the call. What is no inotify instance refuses it, or writes it too.
        unsafe { libc::ioctl(number.parse().ok()?, libc::FIONREAD, &raw mut queued) };
        Some(format!("{number} {what}, {queued} bytes queued:\n{told}"))
    };
    let entries = fs::read_dir("/proc/self/fd").expect("/proc");
    entries.flatten().filter_map(one).collect()
}
