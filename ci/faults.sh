#!/usr/bin/env bash
# Makes every system call of the library fail, with every error that it can have, at more places than `cargo test` does:
# once each, and from there on for ever. Some 2,600 processes, four minutes. Whatever hangs, spins, panics, ends in silence or leaves
# something behind is named with the number of the call, the error and the place; tests/faults/main.rs says how to read that.
set -euo pipefail
cd "$(dirname "$0")/.."

RINGWATCH_FAULTS=all cargo test --release --all-features --test faults -- --nocapture
