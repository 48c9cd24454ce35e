//! Names and files that are made to do harm.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::project::{Project, succeed, wait_until};
use crate::support::hostile::{NAME, assert_harmless};

#[test]
fn names_are_printed_harmlessly_and_no_name_passes_for_two_paths() {
    let project = Project::new();
    let told = project.outside.path().join("told");
    let script = format!(r#"printf '%s' "$BUILD_WATCHER_PATHS" > {}"#, told.display());
    let mut watcher = project.watch(&[], &script);
    fs::write(project.path("src").join(OsStr::from_bytes(NAME)), "").unwrap();
    fs::write(project.path("src").join("b\u{202e}\u{1b}[31m"), "").unwrap();
    project.write("src/main.rs", "fn main() { }\n");
    let settled = watcher.await_event("settled");
    assert_eq!(settled["count"], 3, "{settled}");
    watcher.await_event("finished");
    wait_until("the paths", || told.exists());
    let told = fs::read_to_string(told).unwrap();
    let mut paths: Vec<_> = told.lines().map(|path| path.rsplit('/').next().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["b\u{202e}\u{1b}[31m", "main.rs"]);
}

#[test]
fn people_and_tools_are_told_of_such_names_harmlessly() {
    for json in [false, true] {
        let project = Project::new();
        let runs = project.outside.path().join("runs");
        let mut command = Command::new(crate::project::program());
        if json {
            command.arg("--json");
        }
        command
            .args(["--settle", "200ms", "--", "sh", "-c", "echo run >> \"$0\""])
            .arg(&runs);
        let output = fs::File::create(project.outside.path().join("output")).unwrap();
        let also = output.try_clone().unwrap();
        command.current_dir(project.dir.path()).stdout(output).stderr(also);
        let mut watcher = command.spawn().expect("the example");
        wait_until("the first run", || project.lines().len() == 1);
        fs::write(project.path("src").join(OsStr::from_bytes(NAME)), "").unwrap();
        fs::write(project.path("src").join("b\u{202e}\u{1b}[31m"), "").unwrap();
        wait_until("the second run", || project.lines().len() == 2);
        succeed(Command::new("kill").arg(watcher.id().to_string()));
        watcher.wait().unwrap();
        let shown = fs::read(project.outside.path().join("output")).unwrap();
        assert!(
            shown.windows(4).any(|part| part == b"202e"),
            "{}",
            String::from_utf8_lossy(&shown)
        );
        assert_harmless(&shown);
    }
}

#[test]
fn an_ignore_file_that_is_a_pipe_or_has_no_end_is_not_waited_for() {
    let project = Project::new();
    let pipe = project.path("src/part/.ignore");
    succeed(Command::new("mkfifo").arg(&pipe));
    std::os::unix::fs::symlink("/dev/zero", project.path("src/.ignore")).unwrap();
    let mut watcher = project.watch(&[], "true");
    project.write("src/main.rs", "fn main() { }\n");
    watcher.await_event("finished");
}
