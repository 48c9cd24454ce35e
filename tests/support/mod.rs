//! What the integration tests share: the ways events can be read here, and a recorder that reads up to a barrier, so that
//! no test sleeps and every test knows that it has seen all there is.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod child;
pub(crate) mod exchange;
#[cfg(feature = "tokio")]
pub(crate) mod halves;
pub(crate) mod hostile;
pub(crate) mod kernel;
pub(crate) mod process;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Write, stderr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwatch::{
    Backend, Barrier, Builder, EventBatch, EventStream, Inotify, Limits, Mask, OwnedEvent, Reader, Result, Watch,
};

/// How long to wait for what must come. It is there to end a test that would hang, and measures nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A way to read events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    backend: Backend,
    half: Half,
}

#[derive(Clone, Copy, Debug)]
enum Half {
    Stream,
    Reader,
}

/// Runs one body on every backend there is, through the stream and through the reader. A failure says which it was.
pub(crate) fn on_every_backend(body: impl Fn(&Setup)) {
    for &backend in backends() {
        for half in [Half::Stream, Half::Reader] {
            let setup = Setup { backend, half };
            let _failed_on = FailedOn(setup);
            body(&setup);
        }
    }
}

/// Says on what a body panicked.
struct FailedOn(Setup);

impl Drop for FailedOn {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("this was with {:?}", self.0);
        }
    }
}

pub(crate) fn backends() -> &'static [Backend] {
    static BACKENDS: OnceLock<Vec<Backend>> = OnceLock::new();
    BACKENDS.get_or_init(|| match Inotify::builder().backend(Backend::Uring).build() {
        Ok(_) => vec![Backend::Uring, Backend::Epoll],
        Err(refusal) => {
            skip("io_uring", "RINGWATCH_REQUIRE_URING", &refusal);
            vec![Backend::Epoll]
        }
    })
}

/// How often to do what is done very often: as given, or one in `RINGWATCH_SHARE`, where a machine is emulated.
pub(crate) fn often(times: usize) -> usize {
    let share = std::env::var("RINGWATCH_SHARE").map(|share| share.parse().expect("a number"));
    times / share.unwrap_or(1)
}

/// Says aloud that something is not tested, and why. Fails instead if the variable says that it must be.
pub(crate) fn skip(what: &str, required: &str, why: &dyn std::fmt::Display) {
    assert!(
        std::env::var(required).as_deref() != Ok("1"),
        "{required} is set, and {what} can't be had: {why}"
    );
    say(&format!("SKIPPED: {what} can't be had here: {why}"));
}

/// Not by `eprintln`, which is shown only for tests that fail.
pub(crate) fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

impl Setup {
    pub(crate) fn builder(&self) -> Builder {
        Inotify::builder().backend(self.backend)
    }

    pub(crate) fn inotify(&self) -> Inotify {
        self.builder().build().expect("an instance")
    }

    /// With a budget far below what the kernel's queue holds.
    pub(crate) fn small(&self) -> Inotify {
        let builder = self.builder().buffers(2).buffer_size(4096);
        builder.build().expect("an instance")
    }

    /// Begins to read. The stream reads from now on, the reader only when it is asked.
    pub(crate) fn read(&self, inotify: Inotify) -> Recorder {
        let half = match self.half {
            Half::Stream => ReadingHalf::Stream(inotify.stream().expect("a stream")),
            Half::Reader => ReadingHalf::Reader(inotify.reader().expect("a reader")),
        };
        let pending = VecDeque::new();
        Recorder { inotify, half, pending }
    }

    pub(crate) fn recorder(&self) -> Recorder {
        self.read(self.inotify())
    }

    /// Whether nothing is read but when it is asked for.
    pub(crate) fn reads_in_place(&self) -> bool {
        matches!(self.half, Half::Reader)
    }
}

/// An instance and its reading half.
pub(crate) struct Recorder {
    pub(crate) inotify: Inotify,
    half: ReadingHalf,
    /// Events of a batch that was not asked for to its end.
    pending: VecDeque<OwnedEvent>,
}

enum ReadingHalf {
    Stream(EventStream),
    Reader(Reader),
}

impl Recorder {
    pub(crate) fn watch(&self, path: impl AsRef<Path>, mask: Mask) -> Watch {
        self.inotify.add_watch(path, mask).expect("a watch")
    }

    /// The next batch, with its events not taken yet.
    pub(crate) fn batch(&mut self) -> EventBatch {
        assert!(
            self.pending.is_empty(),
            "events of the batch before are left: {:?}",
            self.pending
        );
        self.next_batch().expect("reading goes on")
    }

    fn next_batch(&mut self) -> Result<EventBatch> {
        let next = match &mut self.half {
            ReadingHalf::Stream(stream) => stream.wait_timeout(PATIENCE),
            ReadingHalf::Reader(reader) => reader.wait_timeout(PATIENCE),
        };
        let missing = || {
            let (stats, backend) = (self.inotify.stats(), self.inotify.backend());
            panic!("a batch that was due did not come: {stats:?}, {backend}")
        };
        next.map(|batch| batch.unwrap_or_else(missing))
    }

    /// Whether no batch comes for so long.
    pub(crate) fn nothing_for(&mut self, time: Duration) -> bool {
        let next = match &mut self.half {
            ReadingHalf::Stream(stream) => stream.wait_timeout(time),
            ReadingHalf::Reader(reader) => reader.wait_timeout(time),
        };
        next.expect("reading goes on").is_none()
    }

    /// The next batch, however long that takes, or none at the end.
    pub(crate) fn wait(&mut self) -> Option<EventBatch> {
        let next = match &mut self.half {
            ReadingHalf::Stream(stream) => stream.wait(),
            ReadingHalf::Reader(reader) => reader.wait(),
        };
        next.map(|batch| batch.expect("reading goes on"))
    }

    /// All events up to the barrier, and that.
    pub(crate) fn until(&mut self, barrier: Barrier) -> Vec<OwnedEvent> {
        let mut events = Vec::new();
        loop {
            while let Some(event) = self.pending.pop_front() {
                let here = event.barrier() == Some(barrier);
                events.push(event);
                if here {
                    return events;
                }
            }
            let batch = self.next_batch().expect("reading goes on");
            self.pending.extend(batch.iter().map(|event| event.to_owned()));
        }
    }

    /// Reads all that was caused before this call, and forgets it. An overflow may be among it.
    pub(crate) fn skip_to_now(&mut self) {
        let barrier = self.inotify.barrier().expect("a barrier");
        self.pending.clear();
        while !self.batch().iter().any(|event| event.barrier() == Some(barrier)) {}
    }

    /// All events that were caused before this call.
    pub(crate) fn events(&mut self) -> Vec<OwnedEvent> {
        let barrier = self.inotify.barrier().expect("a barrier");
        let mut events = self.until(barrier);
        events.pop();
        events
    }
}

/// Between two looks at what no event tells of. Not `yield_now`: some threads that did nothing else kept all others from a CPU,
/// the kernel's own as well, for a minute (Linux 6.18).
pub(crate) fn pause() {
    thread::sleep(Duration::from_micros(100));
}

/// Waits for what no event tells, such as that another thread has read.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "what was due did not happen");
        pause();
    }
}

/// The masks and names of events; `""` stands for no name.
pub(crate) fn seen(events: &[OwnedEvent]) -> Vec<(Mask, &str)> {
    let text = |name: Option<_>| name.map_or("", |name: &std::ffi::OsStr| name.to_str().expect("a name in UTF-8"));
    let pair = |event| (OwnedEvent::mask(event), text(OwnedEvent::name(event)));
    events.iter().map(pair).collect()
}

pub(crate) fn file(path: impl AsRef<Path>) -> File {
    File::create(path).expect("a file")
}

/// Causes events without end: two files of a watched directory, written in turn, since equal events in a row become one.
pub(crate) struct Flood {
    files: [File; 2],
    written: usize,
}

/// Bytes of one of these events: a header and a short name, padded.
pub(crate) const FLOOD_EVENT: usize = 16 + 16;

impl Flood {
    /// Makes its files in a directory, which is to be watched for [`Mask::MODIFY`].
    pub(crate) fn new(dir: &Path) -> Self {
        Self::across(dir, dir)
    }

    /// With a file in each of two directories.
    pub(crate) fn across(one: &Path, other: &Path) -> Self {
        Self {
            files: [one.join("flood-0"), other.join("flood-1")].map(file),
            written: 0,
        }
    }

    pub(crate) fn cause(&mut self, events: usize) {
        for _ in 0..events {
            let file = &self.files[self.written % 2];
            file.write_at(b"x", 0).expect("a byte written");
            self.written += 1;
        }
    }

    /// Fails unless these are the events of a flood, from its first on, none missing.
    pub(crate) fn assert_caused(events: &[OwnedEvent]) {
        let names = ["flood-0", "flood-1"].into_iter().cycle();
        for (number, (event, name)) in seen(events).into_iter().zip(names).enumerate() {
            assert_eq!(event, (Mask::MODIFY, name), "at {number}");
        }
    }

    /// Fills an empty queue, and more. Answers how many events it holds.
    pub(crate) fn overflow(&mut self) -> usize {
        let limit = queue_limit();
        self.cause(limit + 10);
        limit
    }
}

pub(crate) fn queue_limit() -> usize {
    // Where it can't be had, nobody makes queues small.
    let _alone = kernel::alone_with_queues();
    Limits::read().expect("limits").max_queued_events as usize
}

/// Everything that opens a descriptor.
pub(crate) fn everything(backend: Backend, dir: &Path) -> ringwatch::Result<()> {
    let inotify = Inotify::builder().backend(backend).build()?;
    inotify.add_watch(dir, Mask::CREATE)?;
    inotify.barrier()?;
    let mut reader = inotify.reader()?;
    while reader
        .wait()
        .expect("it is not closed")?
        .iter()
        .all(|event| event.barrier().is_none())
    {}
    drop(reader);
    let mut stream = inotify.stream()?;
    inotify.barrier()?;
    while stream
        .wait()
        .expect("it is not closed")?
        .iter()
        .all(|event| event.barrier().is_none())
    {}
    let tree = ringwatch::tree::Tree::builder(dir).backend(backend).open()?;
    tree.barrier()?;
    Ok(())
}

/// An error says what mends it.
pub(crate) fn assert_names(error: &ringwatch::Error, kind: ringwatch::ErrorKind, remedy: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.remedy().is_some_and(|text| text.contains(remedy)), "{error}");
}

/// So that a failure does not wait for threads that go on until they are told to stop.
pub(crate) struct Stopping<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
