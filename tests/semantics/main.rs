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
