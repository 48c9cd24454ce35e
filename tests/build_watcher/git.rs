//! What git does to a work tree is one burst, and what it does to itself none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::project::Project;

/// A branch with so many commits, each of a file, and a commit on that which it left.
fn branch(project: &Project, commits: usize) {
    project.git(&["checkout", "--quiet", "-b", "topic"]);
    for number in 1..=commits {
        project.write(&format!("src/part/topic{number}.rs"), "// topic\n");
        project.git(&["add", "."]);
        project.git(&["commit", "--quiet", "--message", "more"]);
    }
    project.git(&["checkout", "--quiet", "main"]);
    project.write("src/main.rs", "mod part;\nfn main() { /* main */ }\n");
    project.git(&["commit", "--quiet", "--all", "--message", "main"]);
}

#[test]
fn another_branch_a_stash_and_a_rebase_run_the_command_once_each() {
    let project = Project::new();
    branch(&project, 5);
    let mut watcher = project.watch(&[], "true");
    project.git(&["status"]);
    project.git(&["checkout", "--quiet", "topic"]);
    let topics = ["topic1.rs", "topic2.rs", "topic3.rs", "topic4.rs", "topic5.rs"];
    let created = topics.map(|name| format!("created {name}"));
    let mut all = vec!["changed main.rs"];
    all.extend(created.iter().map(String::as_str));
    watcher.expect_run(&all);

    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "mod part;\nfn main() { /* a change to put away */ }\n");
    });
    project.git(&["stash", "--quiet"]);
    watcher.expect_run(&["changed main.rs"]);
    project.git(&["stash", "drop", "--quiet"]);

    // It takes the five away and puts them back one by one.
    project.git(&["rebase", "--quiet", "main"]);
    let settled = watcher.next();
    assert_eq!(settled["event"], "settled");
    assert_eq!(watcher.next()["event"], "started");
    assert_eq!(watcher.next()["event"], "finished");

    watcher.runs_once(&["changed main.rs"], || project.write("src/main.rs", "fn main() {}\n"));
    assert_eq!(project.lines().len(), 6);
}

/// As it is used, with the short time to settle, while this machine may be busy: git itself tells when it is at work.
#[test]
fn a_rebase_is_one_burst_however_long_its_steps_take() {
    for how in ["--merge", "--apply"] {
        let project = Project::new();
        branch(&project, 4);
        for hook in ["post-commit", "post-applypatch"] {
            let path = project.path(".git/hooks").join(hook);
            project.write(&format!(".git/hooks/{hook}"), "#!/bin/sh\nsleep 0.3\n");
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
        }
        let mut watcher = project.begin_with(&[], &project.counting("true"));
        watcher.await_event("finished");
        project.git(&["rebase", "--quiet", how, "main", "topic"]);
        watcher.await_event("finished");
        project.write("src/main.rs", "fn main() {}\n");
        watcher.expect_run(&["changed main.rs"]);
        assert_eq!(project.lines().len(), 3, "{how}");
    }
}

#[test]
fn a_checkout_and_a_stash_are_one_burst_each_by_default() {
    let project = Project::new();
    project.git(&["checkout", "--quiet", "-b", "topic"]);
    (0..300).for_each(|number| project.write(&format!("src/part/topic{number}.rs"), "// topic\n"));
    project.git(&["add", "."]);
    project.git(&["commit", "--quiet", "--message", "more"]);
    project.git(&["checkout", "--quiet", "main"]);
    let words = ["--json", "--"]
        .map(str::to_owned)
        .into_iter()
        .chain(project.counting("true"));
    let mut watcher = project.begin_as(project.command(words));
    watcher.await_event("finished");
    project.git(&["checkout", "--quiet", "topic"]);
    watcher.await_event("finished");
    project.write("src/main.rs", "fn main() { /* a change to put away */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    project.git(&["stash", "--quiet"]);
    watcher.expect_run(&["changed main.rs"]);
    assert_eq!(project.lines().len(), 4);
}
