#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]

#[cfg(not(target_os = "linux"))]
compile_error!("ringwatch watches files through inotify, which only Linux has");

mod backend;
mod barrier;
mod batch;
mod builder;
mod causes;
mod core;
mod decode;
mod driver;
mod engine;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), doc(hidden))]
pub mod fuzzing;
mod inotify;
mod letters;
mod limits;
mod mask;
#[cfg(doctest)]
mod misuse;
#[cfg(loom)]
#[doc(hidden)]
pub mod models;
mod queue;
mod reader;
#[cfg(feature = "tokio")]
mod reader_stream;
mod shown;
mod stats;
mod stream;
mod sync;
mod sys;
mod table;
pub mod tree;
mod waiting;
mod watch;

pub use crate::backend::{Backend, BackendKind, BackendReport, Features};
pub use crate::barrier::Barrier;
pub use crate::batch::{EventBatch, Iter};
pub use crate::builder::Builder;
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::event::{Event, OwnedEvent};
pub use crate::inotify::Inotify;
pub use crate::limits::Limits;
pub use crate::mask::Mask;
pub use crate::reader::Reader;
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use crate::reader_stream::ReaderStream;
pub use crate::stats::Stats;
pub use crate::stream::{EventStream, Events};
pub use crate::tree::{Change, Tree, TreeBatch, TreeStream};
pub use crate::watch::Watch;
