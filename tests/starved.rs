//! Limits that are reached and places that are missing: each gives an error that names what is lacking and what mends it, and
//! what there was before goes on.
//!
//! Each test runs in a child, most in a user namespace with limits of its own, so that nothing of the machine is touched.

mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringwatch::tree::Tree;
use ringwatch::{Backend, BackendKind, Error, ErrorKind, Inotify, Limits, Mask, OwnedEvent};
use support::child::{in_child, in_namespaces, mount_memory, mount_memory_as};
use support::kernel::{QueueLimit, alone_with_queues};
use support::{Flood, assert_names, backends, everything, on_every_backend, queue_limit, seen, skip};

/// Sets a limit of this user namespace. False if that is not allowed.
fn limit(name: &str, value: usize) -> bool {
    let written = fs::write(Path::new("/proc/sys/user").join(name), value.to_string());
    if let Err(denied) = &written {
        skip("a limit of its own", "RINGWATCH_REQUIRE_NAMESPACES", denied);
    }
    written.is_ok()
}

#[test]
fn no_watch_is_left() {
    in_namespaces("no_watch_is_left", || {
        on_every_backend(|setup| {
            let dir = tempfile::tempdir().expect("a directory");
            let dirs: Vec<PathBuf> = (0..4).map(|number| dir.path().join(number.to_string())).collect();
            dirs.iter().for_each(|dir| fs::create_dir(dir).expect("a directory"));
            if !limit("max_inotify_watches", 1_000) {
                return;
            }
            let mut recorder = setup.read(setup.small());
            assert!(limit("max_inotify_watches", 3));
            let watch = recorder.watch(&dirs[0], Mask::CREATE);
            dirs[1..3]
                .iter()
                .for_each(|dir| drop(recorder.watch(dir, Mask::CREATE)));
            let remedy = "user.max_inotify_watches of this user namespace is 3; raise it with sysctl \
                          user.max_inotify_watches=N";
            let refused = recorder.inotify.add_watch(&dirs[3], Mask::CREATE).unwrap_err();
            assert_names(&refused, ErrorKind::WatchLimit, remedy);
            assert_eq!(refused.path(), Some(&*dirs[3]));
            // The first mark needs one too, which is kept for those behind it.
            assert_names(&recorder.inotify.barrier().unwrap_err(), ErrorKind::WatchLimit, remedy);
            // What is watched is watched on, and may be changed.
            recorder.watch(&dirs[1], Mask::CREATE | Mask::DELETE);
            fs::write(dirs[1].join("a"), "").expect("a file");
            recorder.inotify.rm_watch(&watch).expect("it had not ended");
            let events = recorder.events();
            assert_eq!(seen(&events), [(Mask::CREATE, "a"), (Mask::IGNORED, "")]);
            assert_eq!(recorder.inotify.watches().len(), 2);
            let refused = recorder.inotify.add_watch(&dirs[3], Mask::CREATE).unwrap_err();
            assert_names(&refused, ErrorKind::WatchLimit, remedy);
            // A mark that an overflow has dropped is set again without one more, though nothing else happens.
            let mut flood = Flood::new(&dirs[1]);
            recorder.watch(&dirs[1], Mask::MODIFY);
            // As much as the buffers hold, and more than the queue does.
            flood.cause(2 * 4096 / 16 + queue_limit() + 10);
            let barrier = recorder.inotify.barrier().expect("a barrier");
            let events = recorder.until(barrier);
            assert!(events.iter().any(|event| event.mask() == Mask::Q_OVERFLOW));
            limit("max_inotify_watches", 1_000);
        });
    });
}

#[test]
fn no_instance_is_left() {
    in_namespaces("no_instance_is_left", || {
        if !limit("max_inotify_instances", 2) {
            return;
        }
        let remedy = "user.max_inotify_instances of this user namespace is 2; raise it with sysctl";
        for &backend in [&[Backend::Auto], backends()].concat().iter() {
            let build = || Inotify::builder().backend(backend).build();
            let (first, second) = (build().expect("an instance"), build().expect("an instance"));
            for _ in 0..3 {
                assert_names(&build().unwrap_err(), ErrorKind::InstanceLimit, remedy);
                assert_names(
                    &Tree::new("/proc").map(drop).unwrap_err(),
                    ErrorKind::InstanceLimit,
                    remedy,
                );
            }
            drop(first);
            let third = build().expect("an instance");
            drop((second, third));
        }
    });
}

/// Before anything of io_uring was found out, which takes an instance as well.
#[test]
fn no_instance_is_left_from_the_beginning() {
    in_namespaces("no_instance_is_left_from_the_beginning", || {
        if !limit("max_inotify_instances", 0) {
            return;
        }
        for backend in [Backend::Uring, Backend::Auto, Backend::Epoll] {
            let refused = Inotify::builder().backend(backend).build().unwrap_err();
            if backend == Backend::Uring && refused.raw_os_error() != Some(libc::EMFILE) {
                // io_uring itself is refused here.
                continue;
            }
            assert_names(
                &refused,
                ErrorKind::InstanceLimit,
                "user.max_inotify_instances of this user namespace is 0",
            );
        }
        limit("max_inotify_instances", 10);
        let inotify = Inotify::new().expect("an instance");
        assert_eq!(
            Some(inotify.backend().kind()),
            Inotify::new().ok().map(|other| other.backend().kind())
        );
    });
}

#[test]
fn proc_is_missing() {
    in_namespaces("proc_is_missing", || {
        let dir = tempfile::tempdir().expect("a directory");
        if let Err(denied) = mount_memory(Path::new("/proc")) {
            return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
        }
        assert!(!Path::new("/proc/self").exists());
        assert_names_proc(&Limits::read().unwrap_err());
        on_every_backend(|setup| {
            let mut recorder = setup.recorder();
            recorder.watch(dir.path(), Mask::CREATE);
            fs::write(dir.path().join("a"), "").expect("a file");
            let names: Vec<_> = recorder.batch().iter().map(|event| event.to_owned()).collect();
            assert_eq!(seen(&names), [(Mask::CREATE, "a")]);
            let barrier = recorder.inotify.barrier().unwrap_err();
            assert_names(&barrier, ErrorKind::NotFound, "mount /proc");
            assert_eq!(recorder.inotify.watches().len(), 1);
            fs::remove_file(dir.path().join("a")).expect("the file removed");
        });
        for &backend in backends() {
            let refused = Tree::builder(dir.path()).backend(backend).open().map(drop).unwrap_err();
            assert_names(&refused, ErrorKind::NotFound, "mount /proc");
        }
    });
}

fn assert_names_proc(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.path().is_some_and(|path| path.starts_with("/proc")), "{error}");
}

#[test]
fn shared_memory_and_temporary_files_are_missing() {
    in_namespaces("shared_memory_and_temporary_files_are_missing", || {
        let dir = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir_in("/"));
        let dir = dir.expect("a directory");
        for place in ["/dev", "/tmp"] {
            if let Err(denied) = mount_memory_as(Path::new(place), c"mode=000,nr_inodes=1") {
                return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
            }
        }
        assert!(!Path::new("/dev/shm").exists() && fs::write("/tmp/file", "").is_err());
        for &backend in backends() {
            everything(backend, dir.path()).expect("none of it is needed");
        }
    });
}

/// A watcher writes nothing, so a full disk is nothing to it.
#[test]
fn the_disk_is_full() {
    in_namespaces("the_disk_is_full", || {
        let dir = tempfile::tempdir().expect("a directory");
        if let Err(denied) = mount_memory_as(dir.path(), c"size=16k,nr_inodes=12") {
            return skip("a mount", "RINGWATCH_REQUIRE_NAMESPACES", &denied);
        }
        let full = dir.path().join("full");
        fs::create_dir(&full).expect("a directory");
        while fs::write(full.join("filling"), vec![0; 64 << 10]).is_ok() {}
        let mut names = (0..).map(|number| full.join(number.to_string()));
        let refused = names.find_map(|name| fs::write(name, "").err()).expect("an error");
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        for &backend in backends() {
            everything(backend, &full).expect("none of it writes");
        }
        on_every_backend(|setup| {
            let mut recorder = setup.recorder();
            recorder.watch(&full, Mask::CHANGES);
            fs::rename(full.join("0"), full.join("renamed")).expect("renamed");
            fs::rename(full.join("renamed"), full.join("0")).expect("renamed");
            let events = recorder.events();
            let names: Vec<_> = seen(&events).into_iter().map(|(_, name)| name).collect();
            assert_eq!(names, ["0", "renamed", "renamed", "0"]);
        });
        let tree = Tree::new(&full).expect("a tree");
        let mut stream = tree.stream().expect("a stream");
        fs::remove_file(full.join("0")).expect("removed");
        fs::create_dir(full.join("dir")).expect("there is room again");
        let barrier = tree.barrier().expect("a barrier");
        let mut paths = Vec::new();
        'all: for batch in stream.blocking() {
            for change in &batch.expect("it goes on") {
                if change.barrier() == Some(barrier) {
                    break 'all;
                }
                paths.extend(change.path());
            }
        }
        assert!(
            paths.contains(&full.join("0")) && paths.contains(&full.join("dir")),
            "{paths:?}"
        );
    });
}

/// A cgroup with a limit of memory, which goes with it.
struct Cgroup {
    place: PathBuf,
    /// Of the second version, the figures of which have other names.
    unified: bool,
    /// It is removed when this is dropped.
    own: bool,
}

/// Whether memory is kept account of by the second version of cgroups.
fn is_unified() -> io::Result<bool> {
    fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes").map(|before| !before)
}

fn cgroups() -> io::Result<&'static Path> {
    is_unified().map(|unified| {
        Path::new(if unified {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/memory"
        })
    })
}

impl Cgroup {
    fn new(name: &str) -> io::Result<Self> {
        if is_unified()? {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
        }
        let place = cgroups()?.join(format!("ringwatch-{name}-{}", std::process::id()));
        fs::create_dir(&place)?;
        Ok(Self {
            place,
            unified: is_unified()?,
            own: true,
        })
    }

    fn file(&self, second: &str, first: &str) -> PathBuf {
        self.place.join(if self.unified { second } else { first })
    }

    fn enter(&self) {
        move_to(&self.place);
    }

    fn leave(&self) {
        move_to(self.place.parent().expect("it has one"));
    }

    fn limit(&self, bytes: Option<usize>) {
        let none = if self.unified { "max" } else { "-1" };
        let limit = bytes.map_or(none.to_owned(), |bytes| bytes.to_string());
        fs::write(self.file("memory.max", "memory.limit_in_bytes"), limit).expect("a limit");
    }

    fn usage(&self) -> usize {
        figure(&self.file("memory.current", "memory.usage_in_bytes"), "")
    }

    /// How often the limit was met.
    fn met(&self) -> usize {
        match self.unified {
            true => figure(&self.place.join("memory.events"), "max "),
            false => figure(&self.place.join("memory.failcnt"), ""),
        }
    }

    fn killed(&self) -> usize {
        figure(&self.file("memory.events", "memory.oom_control"), "oom_kill ")
    }
}

/// What a file of the kernel says behind `name`.
fn figure(path: &Path, name: &str) -> usize {
    let text = fs::read_to_string(path).expect("a figure");
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
    found.expect("a number")
}

fn move_to(group: &Path) {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).expect("moved");
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.own
            && let Err(error) = fs::remove_dir(&self.place)
        {
            eprintln!("{:?} could not be removed: {error}", self.place);
        }
    }
}

/// Runs the named test again in a child, and `body` there, with a cgroup that the child may enter.
fn with_cgroup(test: &str, body: impl FnOnce(&Cgroup)) {
    const PLACE: &str = "RINGWATCH_CGROUP";
    if let Some(place) = std::env::var_os(PLACE) {
        // It is its parent that removes it.
        let group = Cgroup {
            place: place.into(),
            unified: is_unified().expect("cgroups"),
            own: false,
        };
        return body(&group);
    }
    let group = match Cgroup::new(test) {
        Ok(group) => group,
        Err(denied) => return skip("a cgroup of its own", "RINGWATCH_REQUIRE_CGROUP", &denied),
    };
    let tell = |command: &mut Command| {
        command.env(PLACE, &group.place);
    };
    in_child(test, tell, || unreachable!("the child has its cgroup"));
}

/// A consumer that stalls in a cgroup which has little more than the budget: nothing is killed, and what did not fit is said.
#[test]
fn there_is_little_more_memory_than_the_budget() {
    with_cgroup("there_is_little_more_memory_than_the_budget", |group| {
        group.limit(Some(32 << 20));
        group.enter();
        for &backend in backends() {
            let dir = tempfile::tempdir().expect("a directory");
            let inotify = {
                // Whose queue is as small as that of all others.
                let _alone = alone_with_queues().expect("the lock");
                Inotify::builder().backend(backend).build().expect("an instance")
            };
            inotify.add_watch(dir.path(), Mask::MODIFY).expect("a watch");
            let mut stream = inotify.stream().expect("a stream");
            let mut flood = Flood::new(dir.path());
            // More than the budget and the kernel's queue hold.
            flood.cause(600_000);
            let barrier = inotify.barrier().expect("a barrier");
            let (mut before, mut lost) = (Vec::new(), 0);
            'all: for batch in stream.blocking() {
                for event in &batch.expect("it goes on") {
                    if event.barrier() == Some(barrier) {
                        break 'all;
                    }
                    lost += usize::from(event.mask().contains(Mask::Q_OVERFLOW));
                    if lost == 0 && before.len() < 100_000 {
                        before.push(event.to_owned());
                    }
                }
            }
            assert!(lost > 0 && before.len() >= 16_000, "{lost} and {}", before.len());
            Flood::assert_caused(&before);
            // And it goes on.
            flood.cause(10);
            let mut more = 0;
            while more < 10 {
                more += stream.wait().expect("it goes on").expect("a batch").len();
            }
        }
        assert_eq!(group.killed(), 0);
    });
}

/// The kernel charges the events it queues to the memory cgroup in which the instance was made, whoever causes them (since
/// Linux 4.19), and does not kill for them (since 5.1). What that has no room for is lost, and is said as when the queue itself
/// is full: by an overflow, behind what was queued. Whoever causes such an event waits while the kernel looks in vain for
/// memory to reclaim, on 6.18 for some half a millisecond.
///
/// The process is elsewhere by then. In a cgroup that is full, whatever else it asks memory for may have it killed, be it a
/// page of its stack: of six runs in which it stayed, on 6.18, with the events caused from outside, it lived through one.
#[test]
fn there_is_little_memory() {
    // Some 30,000 events with short names.
    const ROOM: usize = 2 << 20;
    // A hundred times what has room; a thirtieth of it is not reached.
    const QUEUE: usize = 3_000_000;
    const STEP: usize = 200;
    with_cgroup("there_is_little_memory", |group| {
        on_every_backend(|setup| {
            let dir = tempfile::tempdir().expect("a directory");
            group.limit(None);
            group.enter();
            let inotify = {
                let _queue = match QueueLimit::new(QUEUE as u64) {
                    Ok(queue) => queue,
                    Err(denied) => return skip("a longer queue", "RINGWATCH_REQUIRE_CGROUP", &denied),
                };
                setup.builder().buffers(16).build().expect("an instance")
            };
            group.leave();
            let mut recorder = setup.read(inotify);
            recorder.watch(dir.path(), Mask::MODIFY);
            let mut flood = Flood::new(dir.path());
            group.limit(Some(group.usage() + ROOM));
            let met = group.met();
            let queued = || recorder.inotify.stats().kernel_queue;
            let mut caused = 0;
            loop {
                let before = queued();
                flood.cause(STEP);
                caused += STEP;
                // While the limit was not met, a stream that reads may keep the queue as long as it was.
                if group.met() > met && queued() <= before {
                    break;
                }
                assert!(caused < QUEUE / 30, "the limit is not met");
            }
            let mut events: Vec<OwnedEvent> = Vec::new();
            let is_overflow = |event: &OwnedEvent| event.mask().contains(Mask::Q_OVERFLOW);
            let held = loop {
                events.extend(recorder.batch().iter().map(|event| event.to_owned()));
                if let Some(place) = events.iter().position(is_overflow) {
                    break place;
                }
            };
            assert!((16 << 10..caused).contains(&held), "{held} of {caused}");
            Flood::assert_caused(&events[..held]);
            // There is room again, and it goes on. What found some before may stand behind the overflow.
            recorder.skip_to_now();
            flood.cause(10);
            assert_eq!(recorder.events().len(), 10);
            assert_eq!(group.killed(), 0);
        });
    });
}

/// Whether io_uring works is tried with more events than it may hold.
#[test]
fn the_kernels_queue_is_short() {
    // In the child it is not known yet.
    if std::env::var_os(support::child::IN_CHILD).is_none() && !backends().contains(&Backend::Uring) {
        return;
    }
    in_child(
        "the_kernels_queue_is_short",
        |_| (),
        || {
            let _queue = match QueueLimit::new(8) {
                Ok(queue) => queue,
                Err(denied) => return skip("a shorter queue", "RINGWATCH_REQUIRE_CGROUP", &denied),
            };
            let by_name = Inotify::builder().backend(Backend::Uring).build();
            assert_eq!(by_name.expect("a ring").backend().kind(), BackendKind::Uring);
        },
    );
}
