//! The consumers by name. Each reads the events its own way, and reports each event to its [`Job`].

use std::error::Error;

use crate::job::{Job, Order};
use crate::{bare, crates, halves, instances};

/// Every consumer by name, and whether it is run where only ringwatch's own core is asked about.
pub const CONSUMERS: &[(&str, bool)] = &[
    ("bare-epoll", true),
    ("bare-read", false),
    ("stream-uring", true),
    ("stream-epoll", true),
    ("stream-uring-w0", true),
    ("stream-epoll-w0", true),
    ("reader-uring", true),
    ("reader-epoll", true),
    ("reader-uring-w1000", true),
    ("reader-uring-w0", true),
    ("reader-epoll-w0", true),
    ("tokio-inplace-w0", true),
    ("tokio-uring-inplace-w0", true),
    ("inotify-sync", false),
    ("inotify-tokio", true),
    ("notify", false),
];

/// What every consumer is compared with.
pub const BARE: &str = "bare-epoll";
/// What those are compared with that run on an executor, in place.
pub const CRATE: &str = "inotify-tokio";

/// A consumer of this prefix keeps one event to itself, so that it can be seen what becomes of such a run.
const FORGETFUL: &str = "forgetful-";

pub fn consume(order: &Order) -> Result<(), Box<dyn Error>> {
    let name = order.consumer.strip_prefix(FORGETFUL).unwrap_or(&order.consumer);
    let mut figures = if order.instances {
        instances::consume(name, order)?
    } else {
        let mut job = Job::new(order)?;
        match name {
            "bare-epoll" => bare::epoll(&mut job)?,
            "bare-read" => bare::read(&mut job)?,
            "inotify-sync" => crates::inotify_sync(&mut job)?,
            "inotify-tokio" => crates::inotify_tokio(&mut job)?,
            "notify" => crates::notify(&mut job)?,
            "tokio-inplace-w0" => halves::tokio_in_place(&mut job)?,
            "tokio-uring-inplace-w0" => halves::tokio_uring_in_place(&mut job)?,
            _ if name.starts_with("stream-") => halves::stream(&mut job, &halves::inotify(name)?)?,
            _ if name.starts_with("reader-") => halves::reader(&mut job, &halves::inotify(name)?)?,
            _ => return Err(format!("no consumer is named {name:?}").into()),
        }
        job.figures()?
    };
    figures.events -= u64::from(name.len() < order.consumer.len());
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
