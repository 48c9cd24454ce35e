//! A live producer at fixed rates, in CPU time: what the whole process, user and system, spends on an event.
//!
//! The producer is a process of its own, pinned to the first CPU: this program again, told what to do on its standard input.

use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use ringwatch::{Backend, EventBatch, Inotify, Mask};

const PRODUCE_IN: &str = "RINGWATCH_BENCH_PRODUCE_IN";
const FILES: usize = 64;

fn main() {
    if let Some(dir) = std::env::var_os(PRODUCE_IN) {
        return produce(Path::new(&dir));
    }
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    live(&mut criterion);
    criterion.final_summary();
}

fn path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number:024}"))
}

/// Carries out orders: `RATE COUNT`, a line each. Spins, so that the rate is kept.
fn produce(dir: &Path) {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU 0 is within the set.
    unsafe { libc::CPU_SET(0, &mut cpus) };
    // SAFETY: the call reads the set, which lives through it.
    unsafe { libc::sched_setaffinity(0, size_of_val(&cpus), &raw const cpus) };
    let files: Vec<_> = (0..FILES)
        .map(|number| File::options().write(true).open(path(dir, number)))
        .collect();
    let files: Vec<File> = files.into_iter().collect::<Result<_, _>>().expect("files");
    for order in std::io::stdin().lock().lines() {
        let order = order.expect("an order");
        let (rate, count) = order.split_once(' ').expect("two numbers");
        let gap = Duration::from_secs(1) / rate.parse::<u32>().expect("a rate");
        let start = Instant::now();
        for number in 0..count.parse::<u32>().expect("a count") {
            while start.elapsed() < gap * number {
                std::hint::spin_loop();
            }
            files[number as usize % FILES]
                .write_at(b"x", 0)
                .expect("a byte written");
        }
    }
}

struct Producer {
    child: Child,
    dir: tempfile::TempDir,
}

impl Producer {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::tempdir_in(place).expect("a directory");
        (0..FILES).for_each(|number| fs::write(path(dir.path(), number), "").expect("a file"));
        let child = Command::new(std::env::current_exe().expect("this program"))
            .env(PRODUCE_IN, dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a child");
        Self { child, dir }
    }

    fn order(&mut self, rate: u64, count: u64) {
        let mut orders = self.child.stdin.as_ref().expect("a pipe");
        writeln!(orders, "{rate} {count}").expect("an order");
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn live(criterion: &mut Criterion<CpuTime>) {
    let mut producer = Producer::new();
    for rate in [10_000, 100_000, 300_000] {
        let mut group = criterion.benchmark_group(format!("{rate} events a second"));
        group
            .throughput(Throughput::Elements(1))
            .sampling_mode(SamplingMode::Flat)
            .sample_size(10)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(3));
        for (backend, name) in [(Backend::Uring, "io_uring"), (Backend::Epoll, "epoll")] {
            for half in ["reader", "stream"] {
                for window in [Duration::ZERO, Duration::from_millis(1)] {
                    let inotify = match Inotify::builder().backend(backend).batch_window(window).build() {
                        Ok(inotify) => inotify,
                        Err(refusal) => {
                            eprintln!("{name} is left out: {refusal}");
                            continue;
                        }
                    };
                    inotify.add_watch(producer.dir.path(), Mask::MODIFY).expect("a watch");
                    let mut next = consumer(&inotify, half);
                    group.bench_function(
                        BenchmarkId::new(format!("{name} {half}"), format!("{window:?}")),
                        |bencher| {
                            bencher.iter_custom(|events| {
                                let before = CpuTime.start();
                                producer.order(rate, events);
                                let mut seen = 0;
                                while seen < events {
                                    for event in &next() {
                                        assert_eq!(event.mask(), Mask::MODIFY, "events were lost");
                                        seen += 1;
                                    }
                                }
                                assert_eq!(seen, events);
                                CpuTime.end(before)
                            });
                        },
                    );
                }
            }
        }
        group.finish();
    }
}

fn consumer(inotify: &Inotify, half: &str) -> Box<dyn FnMut() -> EventBatch> {
    if half == "reader" {
        let mut reader = inotify.reader().expect("a reader");
        return Box::new(move || reader.wait().expect("it goes on").expect("a batch"));
    }
    let mut stream = inotify.stream().expect("a stream");
    Box::new(move || stream.wait().expect("it goes on").expect("a batch"))
}

/// CPU time of this process, of all its threads.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let mut time = MaybeUninit::uninit();
        // SAFETY: the call writes the whole struct, and can't fail for this clock.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, time.as_mut_ptr()) };
        // SAFETY: written above.
        let time: libc::timespec = unsafe { time.assume_init() };
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    }

    fn end(&self, before: Duration) -> Duration {
        self.start() - before
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Nanoseconds
    }
}

struct Nanoseconds;

impl ValueFormatter for Nanoseconds {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        "ns of CPU"
    }

    fn scale_throughputs(&self, _: f64, _: &Throughput, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|value| *value = 1e9 / *value);
        "events per second of CPU"
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}
