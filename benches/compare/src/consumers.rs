//! The consumers: each reads the events its own way, and reports each event to [`Seen`].

use std::error::Error;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use futures_util::{Stream, StreamExt};
use ringwatch::{Backend, EventBatch, Inotify, Mask};

use crate::measure::{Figures, Seen, Usage};
use crate::producer::{self, Kind};

#[derive(Clone, Debug, Args)]
pub struct Order {
    pub consumer: String,
    pub kind: Kind,
    pub dir: PathBuf,
    pub dirs: usize,
    /// Milliseconds the consumer stalls after its first event.
    pub stall: u64,
}

/// Every consumer by name, and whether it is ringwatch or what ringwatch is measured against.
pub const CONSUMERS: &[(&str, bool)] = &[
    ("bare-epoll", true),
    ("bare-read", false),
    ("stream-uring", true),
    ("stream-epoll", true),
    ("stream-uring-w0", true),
    ("stream-epoll-w0", true),
    ("reader-uring", true),
    ("reader-epoll", true),
    ("reader-uring-w0", true),
    ("reader-epoll-w0", true),
    ("tokio-inplace-w0", false),
    ("tokio-uring-inplace-w0", false),
    ("inotify-sync", false),
    ("inotify-tokio", false),
    ("notify", false),
];

/// What a consumer needs to know.
struct Job {
    dirs: Vec<PathBuf>,
    mask: u32,
    stall: Duration,
    seen: Seen,
    start: Option<Usage>,
}

impl Job {
    /// Everything is set up: tell the parent, and begin to measure.
    fn ready(&mut self) {
        println!("ready");
        let _ = std::io::stdout().flush();
        self.start = Some(Usage::now());
    }

    #[inline]
    fn see(&mut self, mask: u32, name: &[u8]) {
        self.seen.see(mask, name);
    }

    /// The batch is done; now is the time to stall. Answers whether it was the last.
    fn rest(&mut self) -> bool {
        if !self.stall.is_zero() && self.seen.events > 0 {
            thread::sleep(std::mem::take(&mut self.stall));
        }
        self.seen.ended
    }
}

pub fn consume(order: &Order) -> Result<(), Box<dyn Error>> {
    let mask = libc::IN_CREATE
        | match order.kind {
            Kind::Modify => libc::IN_MODIFY,
            Kind::Create => 0,
            Kind::Rename => libc::IN_MOVE,
        };
    let mut job = Job {
        dirs: producer::dirs(&order.dir, order.dirs),
        mask,
        stall: Duration::from_millis(order.stall),
        seen: Seen::default(),
        start: None,
    };
    let name = order.consumer.as_str();
    match name {
        "bare-epoll" => bare(&mut job, true)?,
        "bare-read" => bare(&mut job, false)?,
        "inotify-sync" => inotify_sync(&mut job)?,
        "inotify-tokio" => inotify_tokio(&mut job)?,
        "notify" => notify(&mut job)?,
        "tokio-inplace-w0" => tokio_in_place(&mut job)?,
        "tokio-uring-inplace-w0" => tokio_uring_in_place(&mut job)?,
        _ if name.starts_with("stream") => stream(&mut job, &ringwatch(name)?)?,
        _ if name.starts_with("reader") => reader(&mut job, &ringwatch(name)?)?,
        _ => return Err(format!("no consumer is named {name:?}").into()),
    }
    let figures = Figures::since(job.start.ok_or("the consumer was never ready")?, job.seen);
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// `HALF-BACKEND[-wMICROSECONDS]`; without a window, the default.
fn ringwatch(name: &str) -> Result<Inotify, Box<dyn Error>> {
    let mut parts = name.split('-').skip(1);
    let backend: Backend = parts.next().unwrap_or("auto").parse()?;
    let mut builder = Inotify::builder().backend(backend);
    if let Some(window) = parts.next().and_then(|part| part.strip_prefix('w')) {
        builder = builder.batch_window(Duration::from_micros(window.parse()?));
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

fn stream(job: &mut Job, inotify: &Inotify) -> Result<(), Box<dyn Error>> {
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

fn reader(job: &mut Job, inotify: &Inotify) -> Result<(), Box<dyn Error>> {
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

fn tokio_in_place(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let inotify = ringwatch("in-uring-w0")?;
    watch(job, &inotify)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let stream = inotify.reader()?.into_stream()?;
        job.ready();
        see_stream(job, stream).await
    })
}

fn tokio_uring_in_place(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let inotify = ringwatch("in-uring-w0")?;
    watch(job, &inotify)?;
    tokio_uring::start(async {
        let stream = inotify.reader()?.into_stream()?;
        job.ready();
        see_stream(job, stream).await
    })
}

/// 64 KiB reads; with epoll until `EAGAIN`, else blocking.
fn bare(job: &mut Job, epoll: bool) -> Result<(), Box<dyn Error>> {
    let flags = libc::IN_CLOEXEC | if epoll { libc::IN_NONBLOCK } else { 0 };
    // SAFETY: no pointers; the descriptor is ours.
    let fd = unsafe { OwnedFd::from_raw_fd(checked(libc::inotify_init1(flags))?) };
    for dir in &job.dirs {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: `path` is NUL-terminated and lives through the call.
        checked(unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), job.mask) })?;
    }
    // SAFETY: no pointers; the descriptor is ours.
    let poll = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: `event` lives through the call.
    checked(unsafe { libc::epoll_ctl(poll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) })?;
    let mut buffer = vec![0_u64; 64 * 1024 / 8];
    job.ready();
    loop {
        if epoll {
            // SAFETY: one event, which lives through the call.
            checked(unsafe { libc::epoll_wait(poll.as_raw_fd(), &mut event, 1, -1) })?;
        }
        loop {
            // SAFETY: the buffer is writable for its length.
            let read = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), 64 * 1024) };
            let Ok(length) = usize::try_from(read) else {
                break;
            };
            // SAFETY: the kernel wrote `length` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            see_records(job, bytes);
            if job.rest() {
                return Ok(());
            }
            if !epoll {
                break;
            }
        }
    }
}

fn see_records(job: &mut Job, mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<16>() {
        let field = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (name, rest) = rest.split_at(field(12) as usize);
        let name = std::ffi::CStr::from_bytes_until_nul(name).map_or(name, std::ffi::CStr::to_bytes);
        job.see(field(4), name);
        bytes = rest;
    }
}

fn checked(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result)
}

fn inotify_crate(job: &Job) -> Result<inotify::Inotify, Box<dyn Error>> {
    let inotify = inotify::Inotify::init()?;
    let mask = inotify::WatchMask::from_bits_retain(job.mask);
    for dir in &job.dirs {
        inotify.watches().add(dir, mask)?;
    }
    Ok(inotify)
}

fn inotify_sync(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let mut inotify = inotify_crate(job)?;
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

fn inotify_tokio(job: &mut Job) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut events = inotify_crate(job)?.into_event_stream(vec![0; 64 * 1024])?;
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

fn notify(job: &mut Job) -> Result<(), Box<dyn Error>> {
    use notify::event::{CreateKind, EventKind, ModifyKind};
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
            EventKind::Modify(ModifyKind::Name(_)) if event.paths.len() == 1 => libc::IN_MOVED_FROM,
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
