//! Trees: what is reported, under which path, and what is watched.

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod coverage;
mod deep;
mod ended;
mod halves;
mod hostile;
mod inner_roots;
mod known;
mod large;
mod limits;
mod links;
mod load;
mod memory;
mod model;
mod mounts;
mod moved_roots;
mod one_cpu;
mod opening;
mod overflow;
mod relative;
mod replay;
mod root_files;
mod root_links;
mod roots;
mod round;
mod scenarios;
mod setting;
mod several;
mod start;
mod unheard;
