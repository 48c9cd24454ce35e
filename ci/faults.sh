#!/usr/bin/env bash
# Makes every system call of the library fail, with each error that tests/faults/errors.rs has for it, at more places than
# `cargo test` does: once each, and from there on for ever. Thousands of processes, some minutes. Whatever hangs, spins,
# panics, ends in silence or leaves something behind is named with the number of the call, the error and the place;
# tests/faults/main.rs says how to read that.
set -euo pipefail
cd "$(dirname "$0")/.."

RINGWATCH_FAULTS=all cargo test --release --all-features --test faults -- --nocapture
