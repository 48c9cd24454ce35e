//! Directories that come, go and move; builds inside the tree.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use crate::project::{Project, Watcher, succeed, wait_until};
use crate::support::kernel::watches_of;
use crate::support::queue_limit;

#[test]
fn moved_removed_and_restored_directories_run_the_command_once_each() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["renamed part piece"], || project.rename("src/part", "src/piece"));
    watcher.runs_once(&["changed mod.rs"], || {
        project.write("src/piece/mod.rs", "// under its new path\n")
    });

    watcher.runs_once(&["removed piece", "removed mod.rs", "removed more.rs"], || {
        fs::remove_dir_all(project.path("src/piece")).expect("removed")
    });
    project.git(&["checkout", "--quiet", "."]);
    watcher.expect_run(&["created part", "created mod.rs", "created more.rs"]);
    watcher.runs_once(&["changed more.rs"], || {
        project.write("src/part/more.rs", "// watched again\n")
    });

    // Out of the tree, and back in.
    let away = project.outside.path().join("part");
    watcher.runs_once(&["removed part"], || {
        fs::rename(project.path("src/part"), &away).expect("renamed")
    });
    watcher.runs_once(&["created part", "created mod.rs", "created more.rs"], || {
        fs::rename(&away, project.path("src/part")).expect("renamed")
    });
    assert_eq!(project.lines().len(), 8);
}

#[test]
fn a_directory_that_is_removed_and_put_back_is_one_change() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["changed mod.rs", "changed more.rs"], || {
        fs::remove_dir_all(project.path("src/part")).expect("removed");
        project.write("src/part/mod.rs", "// again\n");
        project.write("src/part/more.rs", "// again\n");
    });
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
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "mod part;\nfn main() { /* 1 */ }\n");
    });
    cargo(&project);
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "mod part;\nfn main() { /* 2 */ }\n");
    });
    assert_eq!(project.lines().len(), 3);
    drop(watcher);

    let mut watcher = project.watch(&[], "unset CARGO_TARGET_DIR; cargo build --offline --quiet");
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "mod part;\nfn main() { /* 3 */ }\n");
    });
    assert_eq!(project.lines().len(), 5);
}

/// As cargo makes `target`: under another name, renamed when its first file is in it.
#[test]
fn what_is_renamed_to_an_ignored_name_has_left_nothing_to_run_for() {
    let project = Project::new();
    // So long that the rename comes before it is over.
    let mut watcher = project.begin_with(&["--settle", "3s"], &project.counting("true"));
    watcher.await_event("finished");
    let before = watches_of(watcher.id());
    fs::create_dir(project.path("targetAbCdEf")).expect("a directory");
    wait_until("a watch", || watches_of(watcher.id()) > before);
    project.write("targetAbCdEf/CACHEDIR.TAG", "x");
    project.rename("targetAbCdEf", "target");
    wait_until("no watch", || watches_of(watcher.id()) == before);
    project.write("src/main.rs", "fn main() { }\n");
    watcher.expect_run(&["changed main.rs"]);
    assert_eq!(project.lines().len(), 2);
}

#[test]
fn a_single_file_is_watched_by_its_name() {
    let project = Project::new();
    let mut watcher = project.watch(&["Cargo.toml"], "true");
    watcher.runs_once(&["changed Cargo.toml"], || {
        project.write("src/main.rs", "fn main() {}\n");
        project.write("other.txt", "x");
        project.write("new", "[package]\nname = \"small\"\n");
        project.rename("new", "Cargo.toml");
    });
    watcher.runs_once(&["removed Cargo.toml"], || project.remove("Cargo.toml"));
    assert_eq!(project.lines().len(), 3);
}

/// More events than the kernel keeps, while the watcher does not read them; then these changes, whose events are lost.
fn overflow(watcher: &Watcher, project: &Project, then: impl FnOnce()) {
    let open = |path| File::options().append(true).open(project.path(path)).expect("opened");
    watcher.signal(libc::SIGSTOP);
    project.write("src/part/flood.rs", "");
    let mut files = [open("src/part/flood.rs"), open("src/part/mod.rs")];
    // Equal events in a row would be one.
    for number in 0..2 * queue_limit() {
        files[number % 2].write_all(b"\n").expect("written");
    }
    then();
    watcher.signal(libc::SIGCONT);
}

#[test]
fn an_overflow_is_said_and_runs_the_command() {
    let project = Project::new();
    project.write("made/one.rs", "ignored at first");
    project.write(".ignore", "made\n");
    let mut watcher = project.watch(&[], "true");
    overflow(&watcher, &project, || {
        project.write("src/part/new/file.rs", "// its event is lost\n");
        project.write(".gitignore", "*.new\n");
        project.remove(".ignore");
    });
    assert_eq!(watcher.next()["event"], "overflow");
    watcher.await_event("settled");
    watcher.await_event("finished");
    // The new directory was found, and is watched; the new rule holds, and the old ones do not.
    watcher.runs_once(&["changed one.rs", "created some.log", "changed file.rs"], || {
        project.write("src/part/new/file.rs", "// changed\n");
        project.write("some.new", "x");
        project.write("some.log", "x");
        project.write("made/one.rs", "changed");
    });
    assert_eq!(project.lines(), ["start", "overflow", "change"]);
}

#[test]
fn an_overflow_while_the_command_runs_is_not_forgotten() {
    for on_busy in ["restart", "queue"] {
        let project = Project::new();
        let gate = project.outside.path().join("gate");
        let then = format!("while ! [ -e {} ]; do sleep 0.01; done", gate.display());
        let mut watcher = project.begin(&["--on-busy", on_busy, "src/part/more.rs"], &project.counting(&then));
        watcher.await_event("started");
        wait_until("its first line", || project.lines().len() == 1);
        // Nothing but the loss itself is to be told of what is watched.
        overflow(&watcher, &project, || {});
        watcher.await_event("overflow");
        if on_busy == "queue" {
            watcher.await_event("queued");
            fs::write(&gate, "open").expect("written");
        }
        wait_until("another run", || project.lines().len() == 2);
        fs::write(&gate, "open").expect("written");
        watcher.await_event("finished");
        assert_eq!(project.lines(), ["start", "overflow"]);
    }
}

#[test]
fn a_root_that_is_removed_and_put_back_is_watched_on() {
    let project = Project::new();
    let mut watcher = project.watch(&["src"], "true");
    fs::remove_dir_all(project.path("src")).expect("removed");
    watcher.await_event("finished");
    project.git(&["checkout", "--quiet", "."]);
    watcher.await_event("finished");
    watcher.runs_once(&["changed more.rs"], || {
        project.write("src/part/more.rs", "// watched again\n")
    });
    assert_eq!(project.lines().len(), 4);
}

#[test]
fn the_command_runs_in_the_current_directory_also_if_that_was_removed_and_put_back() {
    let project = Project::new();
    let options = ["--json", "--settle", "400ms", "--"].map(str::to_owned);
    let words = options.into_iter().chain(project.counting("test -e main.rs"));
    let mut command = project.command(words);
    command.current_dir(project.path("src"));
    let mut watcher = project.begin_as(command);
    assert_eq!(watcher.await_event("finished")["code"], 0);
    fs::remove_dir_all(project.path("src")).expect("removed");
    let failed = watcher.await_event("failed");
    assert!(
        failed["error"]
            .as_str()
            .is_some_and(|error| error.contains("which is gone")),
        "{failed}"
    );
    project.git(&["checkout", "--quiet", "."]);
    assert_eq!(watcher.await_event("finished")["code"], 0);
    assert_eq!(project.lines().len(), 2);
}
