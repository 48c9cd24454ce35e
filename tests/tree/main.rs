//! Trees: what is reported, under which path, and what is watched.

#[path = "../support/mod.rs"]
mod support;

mod acts;
mod coverage;
mod deep;
mod hostile;
mod large;
mod limits;
mod links;
mod model;
mod mounts;
mod one_cpu;
mod overflow;
mod replay;
mod roots;
mod round;
mod scenarios;
mod setting;
