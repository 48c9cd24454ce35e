//! Consumers that read with other crates.

use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use futures_util::StreamExt;

use crate::job::Job;

pub fn inotify(dirs: &[PathBuf], mask: u32) -> Result<inotify::Inotify, Box<dyn Error>> {
    let inotify = inotify::Inotify::init()?;
    let mask = inotify::WatchMask::from_bits_retain(mask);
    for dir in dirs {
        inotify.watches().add(dir, mask)?;
    }
    Ok(inotify)
}

pub fn inotify_sync(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let mut inotify = inotify(&job.dirs, job.mask)?;
    let mut buffer = vec![0; 64 * 1024];
    job.ready();
    loop {
        for event in inotify.read_events_blocking(&mut buffer)? {
            job.see(event.mask.bits(), event.name.map_or(&[][..], OsStrExt::as_bytes));
        }
        if job.rest() {
            return Ok(());
        }
    }
}

pub fn inotify_tokio(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut events = inotify(&job.dirs, job.mask)?.into_event_stream(vec![0; 64 * 1024])?;
        job.ready();
        while let Some(event) = events.next().await {
            let event = event?;
            job.see(
                event.mask.bits(),
                event.name.as_deref().map_or(&[][..], OsStrExt::as_bytes),
            );
            if job.rest() {
                break;
            }
        }
        Ok(())
    })
}

pub fn notify(job: &mut Job) -> Result<(), Box<dyn Error>> {
    use notify::event::{CreateKind, EventKind, ModifyKind, RenameMode};
    use notify::{RecursiveMode, Watcher};

    let (send, events) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(send)?;
    for dir in &job.dirs {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
    }
    job.ready();
    for event in events {
        let event = event?;
        let mask = match event.kind {
            EventKind::Create(CreateKind::File) => libc::IN_CREATE,
            EventKind::Modify(ModifyKind::Data(_)) => libc::IN_MODIFY,
            // A rename comes as from, to, and both: the third is not counted.
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => libc::IN_MOVED_FROM,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => libc::IN_MOVED_TO,
            _ if event.need_rescan() => libc::IN_Q_OVERFLOW,
            _ => continue,
        };
        let name = event.paths.first().and_then(|path| path.file_name());
        job.see(mask, name.map_or(&[][..], OsStrExt::as_bytes));
        if job.rest() {
            break;
        }
    }
    Ok(())
}
