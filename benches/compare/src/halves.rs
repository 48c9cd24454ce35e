//! Consumers that read with ringwatch: its stream, its reader, and the reader as a stream of an executor.

use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use ringwatch::{Backend, EventBatch, Inotify, Mask};

use crate::job::Job;

/// Consumers are named `HALF-BACKEND[-wMICROSECONDS][-bMEBIBYTES]`: what reads, with which window and which budget;
/// without them, the defaults.
pub fn inotify(name: &str) -> Result<Inotify, Box<dyn Error>> {
    let mut parts = name.split('-').skip(1);
    let backend: Backend = parts.next().unwrap_or("auto").parse()?;
    let mut builder = Inotify::builder().backend(backend);
    for part in parts {
        if let Some(window) = part.strip_prefix('w') {
            builder = builder.batch_window(Duration::from_micros(window.parse()?));
        } else if let Some(budget) = part.strip_prefix('b') {
            const SIZE: usize = 64 * 1024;
            builder = builder
                .buffers(budget.parse::<usize>()? * (1 << 20) / SIZE)
                .buffer_size(SIZE);
        } else {
            return Err(format!("{part:?} of {name:?} is neither a window (w1000) nor a budget (b24)").into());
        }
    }
    Ok(builder.build()?)
}

fn watch(job: &Job, inotify: &Inotify) -> Result<(), Box<dyn Error>> {
    for dir in &job.dirs {
        inotify.add_watch(dir, Mask::from_bits_retain(job.mask))?;
    }
    Ok(())
}

fn see_batch(job: &mut Job, batch: &EventBatch) -> bool {
    for event in batch {
        let name = event.name().map_or(&[][..], OsStrExt::as_bytes);
        if event.watch().is_none() && !event.mask().contains(Mask::Q_OVERFLOW) {
            continue;
        }
        job.see(event.mask().bits(), name);
    }
    job.rest()
}

pub fn stream(job: &mut Job, inotify: &Inotify) -> Result<(), Box<dyn Error>> {
    watch(job, inotify)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let stream = inotify.stream()?;
        job.ready();
        see_stream(job, stream).await
    })
}

async fn see_stream(
    job: &mut Job,
    mut batches: impl Stream<Item = ringwatch::Result<EventBatch>> + Unpin,
) -> Result<(), Box<dyn Error>> {
    while let Some(batch) = batches.next().await {
        if see_batch(job, &batch?) {
            break;
        }
    }
    Ok(())
}

pub fn reader(job: &mut Job, inotify: &Inotify) -> Result<(), Box<dyn Error>> {
    watch(job, inotify)?;
    let mut reader = inotify.reader()?;
    reader.try_next()?;
    job.ready();
    while let Some(batch) = reader.wait() {
        if see_batch(job, &batch?) {
            break;
        }
    }
    Ok(())
}

pub fn tokio_in_place(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let inotify = inotify("in-auto-w0")?;
    watch(job, &inotify)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let stream = inotify.reader()?.into_stream()?;
        job.ready();
        see_stream(job, stream).await
    })
}

pub fn tokio_uring_in_place(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let inotify = inotify("in-auto-w0")?;
    watch(job, &inotify)?;
    tokio_uring::start(async {
        let stream = inotify.reader()?.into_stream()?;
        job.ready();
        see_stream(job, stream).await
    })
}
