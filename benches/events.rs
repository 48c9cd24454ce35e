//! The same work through io_uring and epoll, in wall time: draining a full queue, looking at a batch, one event's way from
//! the call that causes it to the consumer.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwatch::{Backend, EventBatch, Inotify, Mask};

/// Within the default `max_queued_events`.
const QUEUE: usize = 16_000;

fn backends() -> Vec<(&'static str, Backend)> {
    [("io_uring", Backend::Uring), ("epoll", Backend::Epoll)]
        .into_iter()
        .filter(|(name, backend)| match Inotify::builder().backend(*backend).build() {
            Ok(_) => true,
            Err(refusal) => {
                eprintln!("{name} is left out: {refusal}");
                false
            }
        })
        .collect()
}

/// Directories with files of 24-byte names, below one that costs little.
struct Files {
    dir: tempfile::TempDir,
    files: Vec<File>,
}

impl Files {
    fn new(dirs: usize) -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::tempdir_in(place).expect("a directory");
        let files = (0..dirs.max(64)).map(|number| {
            let dir = dir.path().join((number % dirs).to_string());
            fs::create_dir_all(&dir).expect("a directory");
            File::create(dir.join(format!("{number:024}"))).expect("a file")
        });
        let files = files.collect();
        Self { dir, files }
    }

    fn watched(&self, backend: Backend) -> Inotify {
        let builder = Inotify::builder().backend(backend).batch_window(Duration::ZERO);
        let inotify = builder.build().expect("an instance");
        for dir in fs::read_dir(self.dir.path()).expect("directories") {
            inotify
                .add_watch(dir.expect("a directory").path(), Mask::MODIFY)
                .expect("a watch");
        }
        inotify
    }

    /// Writes to each file in turn, so that the kernel merges nothing.
    fn cause(&self, events: usize) {
        for number in 0..events {
            self.files[number % self.files.len()]
                .write_at(b"x", 0)
                .expect("a byte written");
        }
    }
}

/// Looks at all there is to an event but its path.
fn look(batch: &EventBatch) -> usize {
    let mut events = 0;
    for event in batch {
        assert!(!event.mask().contains(Mask::Q_OVERFLOW), "events were lost");
        black_box((event.mask(), event.name(), event.watch()));
        events += 1;
    }
    events
}

fn draining_a_full_queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("drain");
    group.throughput(Throughput::Elements(QUEUE as u64)).sample_size(20);
    for dirs in [1, 1_000] {
        let files = Files::new(dirs);
        for (name, backend) in backends() {
            let inotify = files.watched(backend);
            let mut reader = inotify.reader().expect("a reader");
            group.bench_function(BenchmarkId::new(name, format!("{dirs} directories")), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut time = Duration::ZERO;
                    for _ in 0..rounds {
                        files.cause(QUEUE);
                        let since = Instant::now();
                        let mut events = 0;
                        while events < QUEUE {
                            events += look(&reader.wait().expect("it goes on").expect("a batch"));
                        }
                        time += since.elapsed();
                        assert_eq!(events, QUEUE);
                    }
                    time
                });
            });
        }
    }
    group.finish();
}

fn looking_at_a_batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for dirs in [1, 1_000] {
        let files = Files::new(dirs);
        let inotify = files.watched(Backend::Epoll);
        files.cause(300);
        let mut reader = inotify.reader().expect("a reader");
        let batch = reader.wait().expect("it goes on").expect("a batch");
        assert_eq!(batch.len(), 300);
        group.throughput(Throughput::Elements(batch.len() as u64));
        group.bench_function(
            BenchmarkId::new("masks, names, watches", format!("{dirs} directories")),
            |bencher| {
                bencher.iter(|| assert_eq!(look(&batch), 300));
            },
        );
        group.bench_function(
            BenchmarkId::new("write_path", format!("{dirs} directories")),
            |bencher| {
                let mut path = PathBuf::new();
                bencher.iter(|| {
                    for event in &batch {
                        assert!(event.write_path(&mut path));
                        black_box(&path);
                    }
                });
            },
        );
    }
    group.finish();
}

fn one_events_way(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("latency");
    group.sample_size(20);
    let files = Files::new(1);
    for (name, backend) in backends() {
        for half in ["reader", "stream"] {
            let inotify = files.watched(backend);
            let mut next: Box<dyn FnMut() -> EventBatch> = match half {
                "reader" => {
                    let mut reader = inotify.reader().expect("a reader");
                    Box::new(move || reader.wait().expect("it goes on").expect("a batch"))
                }
                _ => {
                    let mut stream = inotify.stream().expect("a stream");
                    Box::new(move || stream.wait().expect("it goes on").expect("a batch"))
                }
            };
            group.bench_function(BenchmarkId::new(name, half), |bencher| {
                bencher.iter_custom(|rounds| {
                    let (tell, told) = mpsc::channel::<()>();
                    let (caused, causes) = mpsc::channel();
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            for () in told {
                                // The consumer is asleep again by then.
                                thread::sleep(Duration::from_micros(200));
                                let since = Instant::now();
                                files.cause(1);
                                caused.send(since).expect("someone listens");
                            }
                        });
                        let mut time = Duration::ZERO;
                        for _ in 0..rounds {
                            tell.send(()).expect("someone listens");
                            assert_eq!(look(&next()), 1);
                            let now = Instant::now();
                            time += now.duration_since(causes.recv().expect("an instant"));
                        }
                        drop(tell);
                        time
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, draining_a_full_queue, looking_at_a_batch, one_events_way);
criterion_main!(benches);
