//! A round of the replay with several roots that come and go, in one another and beside, directories and files.

use std::env::set_current_dir;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::acts::Random;
use crate::known::{ANCHOR, Follower};
use crate::round::{PROBE, allow, open, set};
use crate::setting::Round;
use crate::start::Start;

const ROOTS: [&str; 7] = [
    "root",
    "root/a",
    "root/b/c",
    "root/.skip",
    "beside",
    "beside/a",
    "beside/b",
];

pub(crate) fn consume(round: &Round, base: &Path, start: &Start, finished: &AtomicBool) -> Result<(), String> {
    fs::create_dir(base.join(ANCHOR)).expect("a directory");
    if round.relative {
        set_current_dir(base).expect("it is there");
    }
    if round.early {
        start.begin();
    }
    let base = if round.relative { Path::new("") } else { base };
    let opened = |builder| open(round, set(round, builder));
    // One that is not waited for has to be there.
    let first = if round.awaits() { ROOTS[0] } else { ANCHOR };
    let mut follower = Follower::new(base, first, round.recovery, round.filter, round.early, opened);
    if !round.awaits() {
        follower.add(ROOTS[0])?;
    }
    if !round.early {
        start.begin();
    }
    let outcome = follow(round, base, &mut follower, finished);
    outcome.map_err(|fault| format!("{}\n{fault}", follower.known.log()))
}

fn follow(round: &Round, base: &Path, follower: &mut Follower, finished: &AtomicBool) -> Result<(), String> {
    let mut random = Random::new(round.seed ^ 77);
    while !finished.load(Ordering::Acquire) {
        follower.take_one(Duration::from_millis(1))?;
        if random.one_in(6) {
            follower.barriers.extend(follower.watched.tree.barrier());
        }
        if round.slow {
            thread::sleep(Duration::from_micros(random.below(3000)));
        }
        match random.below(24) {
            0..3 => {
                let root = ROOTS[random.below(ROOTS.len() as u64) as usize];
                match follower.has(root) {
                    true => follower.remove(root)?,
                    false => follower.add(root)?,
                }
            }
            3 if round.filter => follower.refilter()?,
            4 => follower.retry()?,
            _ => {}
        }
    }
    for root in ["root", "beside"] {
        allow(&base.join(root));
    }
    follower.calm()?;
    // What the kernel does not tell is found out.
    follower.retry()?;
    follower.check()?;
    for dir in follower.on_disk().1 {
        fs::write(dir.join(PROBE), "").expect("a probe");
    }
    follower.check().map_err(|fault| format!("with probes: {fault}"))
}
