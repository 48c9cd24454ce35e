//! A process that may have no more descriptors or threads: what is asked for fails with an error that names the limit, and what
//! there was before goes on.

mod support;

use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use ringwatch::tree::{Tree, TreeStream};
use ringwatch::{Backend, Error, ErrorKind, EventBatch, EventStream, Inotify, Mask, Reader};
use support::child::{deny_calls, in_child, in_namespaces, mount_memory};
use support::{assert_names, backends, everything, skip, wait_until};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count() - 1
}

fn allow_descriptors(count: usize) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is writable and lives through the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    // The most there may ever be stays: not everybody may raise it.
    limit.rlim_cur = count as libc::rlim_t;
    // SAFETY: the limit lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// Ways to read that were there before, and go on.
struct Kept {
    dir: PathBuf,
    stream: EventStream,
    reader: Reader,
    tree: Watched,
    _inotifies: [Inotify; 2],
    renamed: usize,
}

type Watched = (Tree, TreeStream);

impl Kept {
    fn new(backend: Backend) -> Self {
        let dir = tempfile::tempdir().expect("a directory").keep();
        fs::write(dir.join("0"), "").expect("a file");
        let inotifies = [(); 2].map(|()| {
            let inotify = Inotify::builder().backend(backend).build().expect("an instance");
            inotify.add_watch(&dir, Mask::MOVED_TO).expect("a watch");
            inotify
        });
        let tree = Tree::builder(&dir).backend(backend).open().expect("a tree");
        let mut kept = Self {
            stream: inotifies[0].stream().expect("a stream"),
            reader: inotifies[1].reader().expect("a reader"),
            tree: (tree.clone(), tree.stream().expect("a stream")),
            _inotifies: inotifies,
            dir,
            renamed: 0,
        };
        kept.hear();
        kept
    }

    /// All three hear of a rename, which takes no descriptor.
    fn hear(&mut self) {
        self.renamed += 1;
        let [old, new] = [self.renamed - 1, self.renamed].map(|number| self.dir.join(number.to_string()));
        fs::rename(old, &new).expect("a rename");
        let name = new.file_name();
        let heard = |batch: EventBatch| batch.iter().any(|event| event.name() == name);
        while !heard(self.stream.wait().expect("it goes on").expect("a batch")) {}
        while !heard(self.reader.wait().expect("it goes on").expect("a batch")) {}
        loop {
            let batch = self.tree.1.wait().expect("it goes on").expect("a batch");
            if batch
                .iter()
                .any(|change| change.path().as_ref() == Some(&new) && change.mask() == Mask::MOVED_TO)
            {
                break;
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // No descriptor may be left for it.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn assert_names_threads(error: &Error) {
    assert_names(error, ErrorKind::Other, "RLIMIT_NPROC");
    assert_names(error, ErrorKind::Other, "ulimit -u, or pids.max of the cgroup");
}

#[test]
fn no_thread_is_left() {
    in_child(
        "no_thread_is_left",
        |_| {},
        || {
            let mut kept: Vec<_> = backends().iter().map(|&backend| Kept::new(backend)).collect();
            deny_calls(&[libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
            for kept in &mut kept {
                assert_names_threads(&Tree::new(&kept.dir).map(drop).unwrap_err());
                kept.hear();
            }
        },
    );
}

/// All streams share one, which may not be had.
#[test]
fn not_even_a_first_thread_is_left() {
    in_child(
        "not_even_a_first_thread_is_left",
        |_| {},
        || {
            let dir = tempfile::tempdir().expect("a directory");
            deny_calls(&[libc::SYS_clone3, libc::SYS_clone], libc::EAGAIN);
            for &backend in backends() {
                let inotify = Inotify::builder().backend(backend).build().expect("an instance");
                inotify.add_watch(dir.path(), Mask::CREATE).expect("a watch");
                assert_names_threads(&inotify.stream().map(drop).unwrap_err());
                // A reader needs none.
                let mut reader = inotify.reader().expect("a reader");
                let file = dir.path().join("file");
                fs::write(&file, "").expect("a file");
                let batch = reader.wait().expect("it goes on").expect("a batch");
                assert_eq!(batch.iter().next().and_then(|event| event.name()), file.file_name());
                fs::remove_file(file).expect("a file less");
            }
        },
    );
}

/// The thread that waits for mounts may not wait for two descriptors any more. It spun.
#[test]
fn a_tree_whose_process_may_have_no_descriptors_any_more_goes_on_and_does_not_spin() {
    in_namespaces(
        "a_tree_whose_process_may_have_no_descriptors_any_more_goes_on_and_does_not_spin",
        || {
            let mounted = tempfile::tempdir().expect("a directory");
            const OWN: u64 = 100;
            let mut kept = Kept::new(Backend::Auto);
            // A thread takes its name itself, when it begins.
            let waits = || {
                let tasks = fs::read_dir("/proc/self/task").expect("/proc");
                let mut tasks = tasks.map(|task| task.expect("a task").path());
                let name = |task: &Path| fs::read_to_string(task.join("comm")).unwrap_or_default();
                tasks.find(|task| name(task).trim() == "ringwatch-mount")
            };
            wait_until(|| waits().is_some());
            let waits = waits().expect("it does not end");
            let mut ticks = {
                let mut stat = fs::File::open(waits.join("stat")).expect("/proc");
                move || {
                    let mut text = String::new();
                    stat.rewind().expect("/proc");
                    stat.read_to_string(&mut text).expect("/proc");
                    let fields: Vec<_> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
                    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
                    ticks(11) + ticks(12)
                }
            };
            allow_descriptors(1);
            // So that it waits anew.
            if let Err(denied) = mount_memory(mounted.path()) {
                return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
            }
            let begun = ticks();
            // A thread that spins takes as much as this one, which is at work all the time.
            while own_ticks() < OWN {
                kept.hear();
                for number in 0..5_000_000_u64 {
                    std::hint::black_box(number);
                }
            }
            let took = ticks() - begun;
            assert!(took < OWN / 4, "{took} ticks while another takes {OWN}: it spins");
        },
    );
}

/// What this thread has taken, in ticks of a hundredth of a second.
fn own_ticks() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable and lives through the call.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0);
    time.tv_sec.cast_unsigned() * 100 + time.tv_nsec.cast_unsigned() / 10_000_000
}

#[test]
fn no_descriptor_is_left() {
    in_child(
        "no_descriptor_is_left",
        |_| {},
        || {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(dir.path().join("a/b")).expect("directories");
            for &backend in backends() {
                let mut kept = Kept::new(backend);
                let before = descriptors();
                everything(backend, dir.path()).expect("enough of everything");
                support::wait_until(|| descriptors() <= before);
                let mut refused = 0;
                for more in 0..40 {
                    allow_descriptors(before + more);
                    match everything(backend, dir.path()) {
                        Ok(()) => break,
                        Err(error) => {
                            let limit = format!("RLIMIT_NOFILE is {}; raise it with ulimit -n", before + more);
                            assert_names(&error, ErrorKind::DescriptorLimit, &limit);
                        }
                    }
                    kept.hear();
                    refused += 1;
                }
                assert!((3..40).contains(&refused), "{refused}");
                allow_descriptors(1_000);
                everything(backend, dir.path()).expect("enough of everything");
                support::wait_until(|| descriptors() <= before);
            }
        },
    );
}
