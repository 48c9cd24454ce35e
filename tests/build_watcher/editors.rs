//! A save is one change, however an editor does it.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use crate::project::{Project, succeed};

#[test]
fn saves_run_the_command_once_each() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    // In place, as VS Code does.
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "fn main() { /* in place */ }\n");
    });
    watcher.runs_once(&["changed main.rs"], || save_as_vim(&project));
    // Through a temporary file, as JetBrains' editors and many others do.
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs___jb_tmp___", "fn main() { /* renamed */ }\n");
        project.rename("src/main.rs", "src/main.rs___jb_old___");
        project.rename("src/main.rs___jb_tmp___", "src/main.rs");
        project.remove("src/main.rs___jb_old___");
    });
    // As sed -i does.
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/sedXYZ", "fn main() { /* replaced */ }\n");
        project.rename("src/sedXYZ", "src/main.rs");
    });
    assert_eq!(project.lines().len(), 5);
}

/// It tries whether it may make files, keeps the old one as a backup, and writes a new one.
fn save_as_vim(project: &Project) {
    project.write("src/.main.rs.swp", "swap");
    project.write("src/4913", "");
    project.remove("src/4913");
    project.rename("src/main.rs", "src/main.rs~");
    let mut file = File::create(project.path("src/main.rs")).expect("a new file");
    file.write_all(b"fn main() { /* vim */ }\n").expect("written");
    file.sync_all().expect("synced");
    drop(file);
    project.remove("src/main.rs~");
    project.remove("src/.main.rs.swp");
}

#[test]
fn what_is_made_and_gone_again_runs_nothing() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/scratch", "x");
        project.remove("src/scratch");
        project.write("src/build.log", "ignored");
        project.write(".hidden", "hidden");
        project.write("target/debug/x", "built");
        project.write("src/main.rs", "fn main() { }\n");
    });
    assert_eq!(project.lines(), ["start", "change"]);
}

#[test]
fn touch_counts_and_metadata_only_if_asked_for() {
    let project = Project::new();
    let mode = |path, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(project.path(path), permissions).expect("changed");
    };
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["changed Cargo.toml"], || {
        mode("src/main.rs", 0o600);
        mode("src/part", 0o700);
        mode(".", 0o711);
        succeed(Command::new("touch").arg(project.path("Cargo.toml")));
    });
    drop(watcher);
    let mut watcher = project.watch(&["--metadata"], "true");
    watcher.runs_once(&["changed main.rs", "changed part"], || {
        mode("src/main.rs", 0o644);
        mode("src/part", 0o755);
    });
    // What is put back as it was is no change of the directory.
    watcher.runs_once(&["changed mod.rs", "changed more.rs"], || {
        fs::remove_dir_all(project.path("src/part")).expect("removed");
        project.write("src/part/mod.rs", "// again\n");
        project.write("src/part/more.rs", "// again\n");
    });
    watcher.runs_once(&["changed src"], || mode("src", 0o700));
    mode(".", 0o755);
    assert_eq!(watcher.await_event("settled")["count"], 1);
    watcher.await_event("finished");
}
