//! A soak that notices nothing would be worth nothing: each of these is broken on purpose, and must be caught.

use std::process::Command;

/// What a short soak says of this fault. Descriptors are given some seconds to settle.
fn caught(fault: &str) -> String {
    let arguments = ["soak", "--minutes", "2", "--phase", "2", "--fault", fault];
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
    for (fault, expected) in [
        ("forget", "was to come, unsaid"),
        ("repeat", "events, the end of"),
        ("overlook", "tree-"),
        ("descriptor", "descriptors: "),
    ] {
        let error = caught(fault);
        assert!(error.contains(expected), "{fault}: {error}");
    }
}
