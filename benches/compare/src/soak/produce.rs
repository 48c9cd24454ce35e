//! Causes the events of a soak, in a process of its own, and counts them.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::{CHURNED, Kind, LANES, NAMES, Phase, Random, Setup, Word};
use crate::job::say;

/// What was caused, lane by lane.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Caused {
    pub events: Vec<u64>,
    pub milliseconds: u64,
    /// Operations in the tree.
    pub operations: u64,
}

pub fn produce(setup: &Setup) -> Result<(), Box<dyn Error>> {
    make(setup)?;
    say("ready");
    let mut prepared = None;
    for line in io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Word::Prepare(phase) => {
                prepared = Some((prepare(setup, &phase)?, phase));
                say("ready");
            }
            Word::Go => {
                let (lanes, phase) = prepared.as_mut().ok_or("nothing was prepared")?;
                say(&serde_json::to_string(&go(setup, lanes, phase)?)?);
            }
            Word::Tidy => {
                prepared = None;
                tidy(setup)?;
                say("ready");
            }
            other => return Err(format!("{other:?} is not for the producer").into()),
        }
    }
    Ok(())
}

/// The directory whose files are written under changing paths.
fn sequence(tree: &Path, place: u64) -> PathBuf {
    tree.join(format!("p{place}")).join("seq")
}

/// How many places it has.
const PLACES: u64 = 3;

fn make(setup: &Setup) -> io::Result<()> {
    let tree = setup.tree();
    for number in 0..LANES.len() {
        fs::create_dir_all(setup.lane(number))?;
    }
    for number in 0..CHURNED {
        fs::create_dir_all(setup.churned(number))?;
    }
    for place in 0..PLACES {
        fs::create_dir_all(tree.join(format!("p{place}")))?;
    }
    fs::create_dir_all(sequence(&tree, 0))?;
    fs::create_dir_all(tree.join("random"))?;
    for number in 0..super::tree::STATIC {
        let dir = tree.join(format!("static/{}/{}", number % 6, number));
        fs::create_dir_all(&dir)?;
        File::create(dir.join("file"))?;
    }
    let modified = (0..LANES.len())
        .map(|number| setup.lane(number))
        .chain([sequence(&tree, 0)]);
    for dir in modified {
        for number in 0..NAMES {
            File::create(dir.join(Kind::Modify.name(number)))?;
        }
    }
    Ok(())
}

/// What a lane's events are caused with.
struct Source {
    kind: Kind,
    dir: PathBuf,
    files: Vec<File>,
    next: u32,
    caused: u64,
}

impl Source {
    fn new(kind: Kind, dir: PathBuf) -> io::Result<Self> {
        let file = |number| OpenOptions::new().write(true).open(dir.join(Kind::Modify.name(number)));
        let files = match kind {
            Kind::Modify => (0..NAMES).map(file).collect::<io::Result<_>>()?,
            _ => Vec::new(),
        };
        if kind == Kind::Rename {
            for number in 0..NAMES {
                let _ = fs::remove_file(dir.join(kind.name(number)));
            }
            File::create(dir.join(kind.name(0)))?;
        }
        Ok(Self {
            kind,
            dir,
            files,
            next: 0,
            caused: 0,
        })
    }

    /// One call, or two.
    fn cause(&mut self) -> io::Result<()> {
        let here = self.next;
        self.next = (here + 1) % NAMES;
        let path = |number| self.dir.join(self.kind.name(number));
        match self.kind {
            Kind::Modify => drop(self.files[here as usize].write_at(b"x", 0)?),
            Kind::Rename => fs::rename(path(here), path(self.next))?,
            Kind::Make => {
                File::create(path(here))?;
                fs::remove_file(path(here))?;
            }
        }
        self.caused += self.kind.events_a_call();
        Ok(())
    }
}

fn prepare(setup: &Setup, phase: &Phase) -> io::Result<Vec<Source>> {
    let lanes = (0..LANES.len()).map(|number| Source::new(phase.lanes[number].kind, setup.lane(number)));
    lanes
        .chain([Source::new(Kind::Modify, sequence(&setup.tree(), 0))])
        .collect()
}

fn go(setup: &Setup, lanes: &mut [Source], phase: &Phase) -> Result<Caused, Box<dyn Error>> {
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let operations = thread::scope(|scope| {
        let disturbed = scope.spawn(|| disturb(&setup.tree(), phase, &stop));
        let caused = cause(lanes, phase, begun);
        stop.store(true, Ordering::Relaxed);
        let operations = disturbed
            .join()
            .map_err(|_| io::Error::other("the thread of the tree panicked"))?;
        caused.and(operations)
    })?;
    Ok(Caused {
        events: lanes.iter().map(|lane| lane.caused).collect(),
        milliseconds: begun.elapsed().as_millis() as u64,
        operations,
    })
}

/// Some for each lane every millisecond, in turn. What is due and not done by the end of the time is left out.
fn cause(lanes: &mut [Source], phase: &Phase, begun: Instant) -> io::Result<()> {
    let length = Duration::from_millis(phase.milliseconds);
    let each = phase.rate / lanes.len() as u64;
    for tick in 1..=phase.milliseconds {
        let due = begun + Duration::from_millis(tick);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let due = each * tick / 1_000;
        while lanes.iter().any(|lane| lane.caused < due) {
            let mut behind = lanes.iter_mut().filter(|lane| lane.caused < due);
            behind.try_for_each(Source::cause)?;
            if begun.elapsed() >= length {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Renames, makes and removes directories of the tree while files in it are written. Answers how many operations that were.
fn disturb(tree: &Path, phase: &Phase, stop: &AtomicBool) -> io::Result<u64> {
    let mut random = Random::new(phase.seed);
    let place = tree.join("random");
    let (begun, mut done, mut at) = (Instant::now(), 0, 0);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
        if phase.operations == 0 {
            continue;
        }
        let to = random.below(PLACES);
        if to != at {
            fs::rename(sequence(tree, at), sequence(tree, to))?;
            at = to;
        }
        while done < begun.elapsed().as_millis() as u64 * phase.operations / 1_000 {
            // Most paths need not exist; then it fails, and nobody minds.
            let _ = operate(&place, &mut random);
            done += 1;
        }
    }
    Ok(done)
}

fn operate(place: &Path, random: &mut Random) -> io::Result<()> {
    let path = |random: &mut Random| {
        let mut path = place.to_owned();
        (0..=random.below(3)).for_each(|_| path.push(["a", "b", "c", "d"][random.below(4) as usize]));
        path
    };
    let one = path(random);
    match random.below(12) {
        0..=3 => fs::create_dir_all(&one),
        4..=5 => fs::write(&one, "content"),
        6 => fs::remove_file(&one).or_else(|_| fs::remove_dir(&one)),
        7 => fs::remove_dir_all(&one),
        8 => fs::rename(&one, one.with_file_name("d")).and_then(|()| fs::create_dir(&one)),
        _ => fs::rename(&one, path(random)),
    }
}

fn tidy(setup: &Setup) -> io::Result<()> {
    let tree = setup.tree();
    for place in 1..PLACES {
        if sequence(&tree, place).is_dir() {
            fs::rename(sequence(&tree, place), sequence(&tree, 0))?;
        }
    }
    for entry in fs::read_dir(tree.join("random"))? {
        let path = entry?.path();
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path))?;
    }
    Ok(())
}
