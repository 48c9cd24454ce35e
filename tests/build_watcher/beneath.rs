//! What the library does underneath can be chosen and seen.

use std::process::Output;

use ringwatch::Backend;

use crate::project::Project;
use crate::support::backends;
use crate::support::child::{deny_uring, in_child};

fn run(project: &Project, arguments: &[&str]) -> (Option<i32>, String) {
    let output = project.command(arguments.iter().chain(&["--", "true"])).output();
    let Output { status, stderr, .. } = output.expect("the example; cargo test builds it");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The figure of that name in the text.
fn figure<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("Stats "));
    let figure = lines.find_map(|line| line.strip_prefix(name));
    figure.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[test]
fn the_backend_is_the_one_asked_for() {
    let project = Project::new();
    for &backend in backends() {
        let (asked, name) = match backend {
            Backend::Epoll => ("epoll", "epoll"),
            _ => ("uring", "io_uring"),
        };
        let (code, text) = run(&project, &["--once", "--stats", "--backend", asked]);
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.lines()
                .next()
                .is_some_and(|line| line.ends_with(&format!(", {name})"))),
            "{text}"
        );
        assert!(figure(&text, "backend").starts_with(name), "{text}");
    }
    let (code, text) = run(&project, &["--once", "--backend", "kqueue"]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("no backend is named \"kqueue\"; choose auto, uring or epoll"),
        "{text}"
    );
}

#[test]
fn where_io_uring_is_denied_it_uses_epoll_or_says_what_helps() {
    let body = || {
        deny_uring(libc::EPERM);
        let project = Project::new();
        let (code, text) = run(&project, &["--once", "--stats"]);
        assert_eq!(code, Some(0), "{text}");
        let backend = figure(&text, "backend");
        assert!(backend.starts_with("epoll, as io_uring was refused: "), "{text}");
        let (code, text) = run(&project, &["--once", "--backend", "uring"]);
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        assert!(
            text.starts_with("error: ") && text.contains("seccomp profile"),
            "{text}"
        );
    };
    in_child(
        "beneath::where_io_uring_is_denied_it_uses_epoll_or_says_what_helps",
        |_| {},
        body,
    );
}

#[test]
fn stats_are_those_of_the_library() {
    let project = Project::new();
    let mut watcher = project.watch(&["--stats"], "true");
    watcher.runs_once(&["changed main.rs"], || project.write("src/main.rs", "fn main() { }\n"));
    let text = watcher.end(libc::SIGINT);
    // The project, src, src/part, .git/info.
    assert_eq!(figure(&text, "directories"), "4");
    assert_eq!(figure(&text, "not covered"), "0");
    assert_eq!(figure(&text, "overflows"), "0");
    for name in [
        "changes",
        "batches",
        "reads",
        "wake-ups",
        "looks at the disk",
        "bytes kept",
    ] {
        let figure: u64 = figure(&text, name).parse().expect("a number");
        assert!(figure > 0, "{name} in {text}");
    }
}
