//! Tests of what a tree takes, counted and not timed: no name is kept that nothing has, and what happens to one directory costs
//! nothing for the others.

use super::harness::{DIR, Fed, ROOT};
use crate::mask::Mask;

fn name(number: u32, length: usize) -> &'static str {
    String::leak(format!("{number:0length$}"))
}

/// How often directories are looked up for a rename of one that has so many in it.
fn cost_of_a_rename(below: u32, filtered: bool) -> usize {
    let mut fed = Fed::new(true, false);
    let old = fed.dir(fed.root, "old", 2);
    for number in 0..below {
        fed.dir(old, name(number, 1), 100 + number.cast_signed());
    }
    if filtered {
        fed.tracker.manner.filter = Some(std::sync::Arc::new(|_| true));
    }
    let before = fed.tracker.nodes.lookups();
    let changes = fed.feed(&[&[
        (ROOT, Mask::MOVED_FROM | DIR, 7, "old"),
        (ROOT, Mask::MOVED_TO | DIR, 7, "new"),
    ]]);
    assert_eq!((changes.len(), fed.tracker.has_work()), (2, false));
    fed.tracker.nodes.lookups() - before
}

#[test]
fn a_rename_costs_as_much_whatever_is_below() {
    assert!(cost_of_a_rename(10_000, false) < 200);
    // But a filter is asked for each: this is counted.
    assert!(cost_of_a_rename(10_000, true) > 10_000);
}
