//! What a consumer is told, and what it answers.

use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::calls::Counter;
use crate::measure::{Figures, Meter, Seen};
use crate::producer::{self, Kind};

/// What a consumer does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub consumer: String,
    pub kind: Kind,
    pub dir: PathBuf,
    pub dirs: usize,
    /// An instance for each directory.
    pub instances: bool,
    /// Milliseconds the consumer stalls: after its first event, or the first of the instances in the middle of the run.
    pub stall: u64,
    /// Events to expect.
    pub count: u64,
    pub counter: Counter,
}

impl Order {
    pub fn mask(&self) -> u32 {
        // The mark at the end is a file that is made.
        libc::IN_CREATE
            | match self.kind {
                Kind::Modify => libc::IN_MODIFY,
                Kind::Create => 0,
                Kind::Rename => libc::IN_MOVE,
            }
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        producer::dirs(&self.dir, self.dirs)
    }

    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall)
    }

    pub fn meter(&self) -> Result<Meter, Box<dyn Error>> {
        if self.counter == Counter::Trace {
            // The tracer comes before there is more than one thread, and before anything waits that it could disturb.
            say("here");
            std::io::stdin().read_exact(&mut [0])?;
        }
        Meter::new(self.counter, self.count / 2)
    }
}

/// Tells the parent something.
pub fn say(what: &str) {
    println!("{what}");
    let _ = std::io::stdout().flush();
}

/// What a consumer needs to know, and what it saw.
pub struct Job {
    pub dirs: Vec<PathBuf>,
    pub mask: u32,
    stall: Duration,
    seen: Seen,
    meter: Meter,
    figures: Option<Figures>,
}

impl Job {
    pub fn new(order: &Order) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            dirs: order.paths(),
            mask: order.mask(),
            stall: order.stall(),
            meter: order.meter()?,
            seen: Seen::default(),
            figures: None,
        })
    }

    /// Everything is set up: tell the parent, and begin to measure.
    pub fn ready(&mut self) {
        say("ready");
        self.meter.begin();
    }

    #[inline]
    pub fn see(&mut self, mask: u32, name: &[u8]) {
        self.seen.see(mask, name);
    }

    /// The batch is done; now is the time to stall. Answers whether it was the last.
    #[inline]
    pub fn rest(&mut self) -> bool {
        self.meter.passed(self.seen.events);
        if !self.stall.is_zero() && self.seen.events > 0 {
            thread::sleep(std::mem::take(&mut self.stall));
        }
        if self.seen.ended && self.figures.is_none() {
            self.figures = Some(self.meter.end(&self.seen));
        }
        self.seen.ended
    }

    pub fn figures(self) -> Result<Figures, Box<dyn Error>> {
        self.figures.ok_or_else(|| "the consumer ended before the end".into())
    }
}
