//! What whoever changes the tree is interrupted in, on a machine with one CPU.

use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringwatch::Mask;
use ringwatch::tree::Tree;

use crate::coverage::mode;
use crate::model::{Watched, opened};
use crate::scenarios::paths;
use crate::support::backends;
use crate::support::child::{in_child, without_capabilities};

const ROUNDS: usize = 50;

/// The kernel queues the end of a removed directory's watch first, and then what it tells of the entry above. In between it
/// may let others run; here it does, since they are more urgent.
#[test]
fn a_directory_whose_removal_is_interrupted_is_said_to_be_gone_once() {
    in_child(
        "one_cpu::a_directory_whose_removal_is_interrupted_is_said_to_be_gone_once",
        |_| {},
        || {
            stay_on_one_cpu().expect("a CPU to stay on");
            // Also where a tree may search and not list.
            for (&backend, permissions) in backends()
                .iter()
                .flat_map(|backend| [(backend, 0o700), (backend, 0o300)])
            {
                let dir = tempfile::tempdir().unwrap();
                let place = dir.path().join("place");
                fs::create_dir(&place).unwrap();
                let tree = Tree::builder(dir.path()).backend(backend).batch_window(Duration::ZERO);
                let mut watched = Watched::new(without_capabilities(|| opened(tree)));
                mode(&place, permissions);
                watched.changes();
                for round in 0..ROUNDS {
                    removed_once(&mut watched, &place.join(format!("d{round}")));
                }
                mode(&place, 0o700);
            }
        },
    );
}

fn removed_once(watched: &mut Watched, dir: &Path) {
    fs::create_dir(dir).unwrap();
    assert_eq!(paths(&watched.changes(), Mask::CREATE), [dir]);
    let mut gone = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            yield_to_all().expect("a thread may be less urgent");
            fs::remove_dir(dir).unwrap();
        });
        let batch = watched.stream.wait().expect("it goes on").expect("a batch");
        let changes: Vec<_> = batch.iter().map(|change| change.to_owned()).collect();
        gone.extend(paths(&changes, Mask::DELETE));
    });
    gone.extend(paths(&watched.changes(), Mask::DELETE));
    assert_eq!(gone, [dir]);
}

/// The kernel queues the first half of a rename, and then the second. In between it may let others run; here it does.
#[test]
fn a_rename_that_is_interrupted_between_its_halves_is_one() {
    in_child(
        "one_cpu::a_rename_that_is_interrupted_between_its_halves_is_one",
        |_| {},
        || {
            stay_on_one_cpu().expect("a CPU to stay on");
            for &backend in backends() {
                let dir = tempfile::tempdir().unwrap();
                let at = |place: usize| dir.path().join(["p", "q"][place % 2]).join("moved");
                fs::create_dir_all(at(0)).unwrap();
                fs::create_dir(dir.path().join("q")).unwrap();
                let tree = Tree::builder(dir.path()).backend(backend).batch_window(Duration::ZERO);
                let mut watched = Watched::open(tree);
                for round in 0..ROUNDS {
                    let (from, to) = (at(round), at(round + 1));
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            yield_to_all().expect("a thread may be less urgent");
                            fs::rename(&from, &to).unwrap();
                        });
                    });
                    let changes = watched.changes();
                    let moved: Vec<_> = changes
                        .iter()
                        .map(|change| (change.path(), change.renamed_from()))
                        .collect();
                    let (from, to) = (from.as_path(), to.as_path());
                    assert_eq!(
                        moved,
                        [(Some(from.into()), None), (Some(to.into()), Some(from))],
                        "{round}"
                    );
                }
            }
        },
    );
}

/// This thread, and those it starts, run on the first CPU they may run on.
fn stay_on_one_cpu() -> io::Result<()> {
    let size = mem::size_of::<libc::cpu_set_t>();
    let mut all = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the set has this size and lives through the call.
    done(unsafe { libc::sched_getaffinity(0, size, all.as_mut_ptr()) })?;
    // SAFETY: a set is an array of numbers, for which zeros will do.
    let all = unsafe { all.assume_init() };
    // SAFETY: as above.
    let mut one = unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() };
    let most = libc::CPU_SETSIZE as usize;
    // SAFETY: the numbers are below the size of the set.
    let first = (0..most).find(|&cpu| unsafe { libc::CPU_ISSET(cpu, &all) });
    // SAFETY: the number is below the size of the set.
    unsafe { libc::CPU_SET(first.unwrap_or(0), &mut one) };
    // SAFETY: the set has this size and lives through the call.
    done(unsafe { libc::sched_setaffinity(0, size, &raw const one) })
}

/// This thread runs when no other wants to.
fn yield_to_all() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter lives through the call.
    done(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) })
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
