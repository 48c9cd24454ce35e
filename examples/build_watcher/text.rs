//! Files that say what is ignored, and where git has its own.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// None is as long as this. What is behind it is not read.
const LONGEST: u64 = 1 << 20;

/// What is in a file, if it is one and can be read. Whoever writes in the tree must not have us wait for a pipe, nor fill our
/// memory.
pub(crate) fn read(file: &Path) -> Option<Vec<u8>> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(file)
        .ok()?;
    let mut text = Vec::new();
    let is_file = opened.metadata().is_ok_and(|found| found.is_file());
    let was_read = is_file && opened.take(LONGEST).read_to_end(&mut text).is_ok();
    was_read.then_some(text)
}
