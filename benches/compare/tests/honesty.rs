//! A run in which an event goes missing unsaid must not become a figure.

use std::process::{Command, Output};

fn compare(arguments: &[&str]) -> Output {
    let common = [
        "--only",
        "bare-epoll",
        "--rates",
        "1000",
        "--rounds",
        "1",
        "--seconds",
        "0.1",
    ];
    let program = env!("CARGO_BIN_EXE_ringwatch-compare");
    Command::new(program).args(arguments).args(common).output().unwrap()
}

#[test]
fn a_consumer_that_keeps_an_event_to_itself_is_refused() {
    for (scenario, consumer, produced) in [
        ("cpu", "forgetful-bare-read", 100),
        ("latency", "forgetful-stream-epoll", 100),
        ("instances", "forgetful-bare-threads", 100),
    ] {
        let output = compare(&[scenario, "--also", consumer]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{scenario}: {error}");
        let expected = format!(
            "{consumer} saw {} of {produced} events at 1000/s and 0 overflows",
            produced - 1
        );
        assert!(error.contains(&expected), "{scenario}: {error}");
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains(consumer),
            "{scenario}"
        );
    }
}

#[test]
fn a_consumer_that_is_honest_is_reported() {
    // Not the instances too: a user may have 128, and the other test has 100 of them.
    for scenario in ["cpu", "latency"] {
        let output = compare(&[scenario]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("bare-epoll"));
    }
}
