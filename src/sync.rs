//! What threads hand things over by: the standard library's, or under `--cfg loom` that of loom, which tries every order
//! with a few interruptions of a thread (`src/models.rs`).
//!
//! `Arc` is not among it: loom's can't be a receiver, and what is modelled here is not how references are counted.

#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
