//! What whoever changes the tree is interrupted in, on a machine with one CPU.

use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringwatch::Mask;
use ringwatch::tree::Tree;

use crate::model::Watched;
use crate::scenarios::paths;
use crate::support::backends;
use crate::support::child::in_child;

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
            for &backend in backends() {
                let dir = tempfile::tempdir().unwrap();
                let tree = Tree::builder(dir.path()).backend(backend).batch_window(Duration::ZERO);
                let mut watched = Watched::new(tree.open().unwrap());
                for round in 0..ROUNDS {
                    removed_once(&mut watched, &dir.path().join(format!("d{round}")));
                }
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
