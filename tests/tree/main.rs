//! Trees: what is reported, under which path, and what is watched.

#[path = "../support/mod.rs"]
mod support;

mod model;
mod replay;
mod scenarios;
