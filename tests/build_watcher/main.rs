//! The example `build_watcher` as its users meet it: on a real cargo project in a real git checkout. Each burst of
//! changes must give one run of the command, which adds a line to a file outside the tree.
//!
//! That nothing more has run is shown without waiting: another change must bring the next run, and that one only.

// Of the example, what is best tested by itself.
#[path = "../../examples/build_watcher/rounds.rs"]
mod rounds;
#[path = "../support/mod.rs"]
mod support;

mod beneath;
mod editors;
mod ends;
mod faults;
mod git;
mod hostile;
mod ignored;
mod limits;
mod loops;
mod project;
mod runs;
mod sources;
mod terminal;
