//! That what inotify(7) says is so through our types, on every backend, through the stream and through the reader.

#![allow(
    clippy::mutable_key_type,
    reason = "a watch is hashed by what it is, which never changes; its path and mask are no part of that"
)]

mod barriers;
mod events;
mod flags;
mod overflow;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod watches;

use ringwatch::{Inotify, Mask};
use support::{Flood, Setup};
use tempfile::TempDir;

/// An instance with a budget far below what the kernel's queue holds, and what floods the directory it watches.
fn small(setup: &Setup, mask: Mask) -> (Inotify, Flood, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let flood = Flood::new(dir.path());
    let inotify = setup.small();
    inotify.add_watch(dir.path(), mask).expect("a watch");
    (inotify, flood, dir)
}
