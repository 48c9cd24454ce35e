//! Directories that come, go and move; builds inside the tree.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use crate::project::{Project, succeed};

#[test]
fn moved_removed_and_restored_directories_run_the_command_once_each() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    project.rename("src/part", "src/piece");
    watcher.expect_run(&["renamed part piece"]);
    project.write("src/piece/mod.rs", "// under its new path\n");
    watcher.expect_run(&["changed mod.rs"]);

    fs::remove_dir_all(project.path("src/piece")).expect("removed");
    watcher.expect_run(&["removed piece", "removed mod.rs", "removed more.rs"]);
    project.git(&["checkout", "--quiet", "."]);
    watcher.expect_run(&["created part", "created mod.rs", "created more.rs"]);
    project.write("src/part/more.rs", "// watched again\n");
    watcher.expect_run(&["changed more.rs"]);

    // Out of the tree, and back in.
    let away = project.outside.path().join("part");
    fs::rename(project.path("src/part"), &away).expect("renamed");
    watcher.expect_run(&["removed part"]);
    fs::rename(&away, project.path("src/part")).expect("renamed");
    watcher.expect_run(&["created part", "created mod.rs", "created more.rs"]);
    assert_eq!(project.lines().len(), 8);
}

#[test]
fn a_directory_that_is_removed_and_put_back_is_one_change() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    fs::remove_dir_all(project.path("src/part")).expect("removed");
    project.write("src/part/mod.rs", "// again\n");
    project.write("src/part/more.rs", "// again\n");
    watcher.expect_run(&["changed mod.rs", "changed more.rs"]);
    assert_eq!(project.lines().len(), 2);
}

#[test]
fn a_build_inside_runs_nothing_and_as_the_command_does_not_loop() {
    let project = Project::new();
    let cargo = |project: &Project| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "--offline"])
            .current_dir(project.dir.path());
        succeed(build.env_remove("CARGO_TARGET_DIR").env_remove("RUSTC_WRAPPER"));
    };
    // The first one writes Cargo.lock.
    cargo(&project);
    let mut watcher = project.watch(&[], "true");
    cargo(&project);
    project.write("src/main.rs", "mod part;\nfn main() { /* 1 */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    cargo(&project);
    project.write("src/main.rs", "mod part;\nfn main() { /* 2 */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    assert_eq!(project.lines().len(), 3);
    drop(watcher);

    let mut watcher = project.watch(&[], "unset CARGO_TARGET_DIR; cargo build --offline --quiet");
    project.write("src/main.rs", "mod part;\nfn main() { /* 3 */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    assert_eq!(project.lines().len(), 5);
}

#[test]
fn a_single_file_is_watched_by_its_name() {
    let project = Project::new();
    let mut watcher = project.watch(&["Cargo.toml"], "true");
    project.write("src/main.rs", "fn main() {}\n");
    project.write("other.txt", "x");
    project.write("new", "[package]\nname = \"small\"\n");
    project.rename("new", "Cargo.toml");
    watcher.expect_run(&["changed Cargo.toml"]);
    assert_eq!(project.lines().len(), 2);
}

#[test]
fn an_overflow_is_said_and_runs_the_command() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    watcher.signal(libc::SIGSTOP);
    let queue = ringwatch::Limits::read().expect("limits").max_queued_events;
    let open = |path| File::options().append(true).open(project.path(path)).expect("opened");
    let mut files = [open("src/main.rs"), open("src/part/mod.rs")];
    // Equal events in a row would be one.
    for number in 0..2 * queue as usize {
        files[number % 2].write_all(b"\n").expect("written");
    }
    project.write("src/part/new/file.rs", "// its event is lost\n");
    watcher.signal(libc::SIGCONT);
    assert_eq!(watcher.next()["event"], "overflow");
    watcher.await_event("settled");
    watcher.await_event("finished");
    // It was found, and is watched.
    project.write("src/part/new/file.rs", "// changed\n");
    watcher.expect_run(&["changed file.rs"]);
    assert_eq!(project.lines(), ["start", "overflow", "change"]);
}

#[test]
fn a_root_that_is_removed_and_put_back_is_watched_on() {
    let project = Project::new();
    let mut watcher = project.watch(&["src"], "true");
    fs::remove_dir_all(project.path("src")).expect("removed");
    watcher.await_event("finished");
    project.git(&["checkout", "--quiet", "."]);
    watcher.await_event("finished");
    project.write("src/part/more.rs", "// watched again\n");
    watcher.expect_run(&["changed more.rs"]);
    assert_eq!(project.lines().len(), 4);
}
