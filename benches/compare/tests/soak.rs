//! A soak that notices nothing would be worth nothing: each of these is broken on purpose, and must be caught.

use std::process::Command;

/// What a short soak says of this fault, in phases of so many seconds. What is left behind is given some seconds to settle.
fn caught(fault: &str, phase: &str) -> String {
    let arguments = ["soak", "--minutes", "2", "--phase", phase, "--fault", fault];
    let program = env!("CARGO_BIN_EXE_ringwatch-compare");
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "{fault} was not noticed: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    error
}

// One after the other: each is a load of its own.
#[test]
fn what_is_broken_on_purpose_is_caught() {
    for (fault, phase, expected) in [
        ("forget", "2", "was to come, unsaid"),
        ("repeat", "2", "events, the end of"),
        ("overlook", "2", "tree-"),
        ("descriptor", "1", "not as many descriptors: "),
        ("thread", "1", "not as many threads: "),
        ("watch", "1", "not as many descriptors and watches: "),
        ("memory", "1", "what is allocated has grown"),
        ("buffers", "1", "what is mapped has grown"),
    ] {
        let error = caught(fault, phase);
        assert!(error.contains(expected), "{fault}: {error}");
    }
}
