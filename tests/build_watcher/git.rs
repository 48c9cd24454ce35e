//! What git does to a work tree is one burst, and what it does to itself none.

use crate::project::Project;

#[test]
fn another_branch_a_stash_and_a_rebase_run_the_command_once_each() {
    let project = Project::new();
    project.git(&["checkout", "--quiet", "-b", "topic"]);
    for number in 1..=5 {
        project.write(&format!("src/part/topic{number}.rs"), "// topic\n");
        project.git(&["add", "."]);
        project.git(&["commit", "--quiet", "--message", "more"]);
    }
    project.git(&["checkout", "--quiet", "main"]);
    project.write("src/main.rs", "mod part;\nfn main() { /* main */ }\n");
    project.git(&["commit", "--quiet", "--all", "--message", "main"]);

    let mut watcher = project.watch(&[], "true");
    project.git(&["status"]);
    project.git(&["checkout", "--quiet", "topic"]);
    let topics = ["topic1.rs", "topic2.rs", "topic3.rs", "topic4.rs", "topic5.rs"];
    let created = topics.map(|name| format!("created {name}"));
    let mut all = vec!["changed main.rs"];
    all.extend(created.iter().map(String::as_str));
    watcher.expect_run(&all);

    project.write("src/main.rs", "mod part;\nfn main() { /* a change to put away */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    project.git(&["stash", "--quiet"]);
    watcher.expect_run(&["changed main.rs"]);
    project.git(&["stash", "drop", "--quiet"]);

    // It takes the five away and puts them back one by one.
    project.git(&["rebase", "--quiet", "main"]);
    let settled = watcher.next();
    assert_eq!(settled["event"], "settled");
    assert_eq!(watcher.next()["event"], "started");
    assert_eq!(watcher.next()["event"], "finished");

    project.write("src/main.rs", "fn main() {}\n");
    watcher.expect_run(&["changed main.rs"]);
    assert_eq!(project.lines().len(), 6);
}

#[test]
fn ignore_files_hold_at_once() {
    let project = Project::new();
    project.write("made/one.rs", "// one\n");
    let mut watcher = project.watch(&[], "true");
    project.write(".gitignore", "/target\n*.log\n/made\n");
    project.write("src/main.rs", "fn main() { /* 1 */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    project.write("made/one.rs", "// nobody cares\n");
    project.write("made/two.rs", "// nobody cares\n");
    project.write("src/main.rs", "fn main() { /* 2 */ }\n");
    watcher.expect_run(&["changed main.rs"]);
    // What is not ignored any more counts as new.
    project.write(".gitignore", "/target\n*.log\n");
    watcher.expect_run(&["created one.rs", "created two.rs"]);
    project.write("made/one.rs", "// somebody cares\n");
    watcher.expect_run(&["changed one.rs"]);
    assert_eq!(project.lines().len(), 5);
}

#[test]
fn options_and_the_excludes_of_the_repository_hold() {
    let project = Project::new();
    project.write(".git/info/exclude", "*.private\n");
    let mut watcher = project.watch(&["--exclude", "docs/**", "--exclude", "*.md"], "true");
    project.write("a.private", "x");
    project.write("docs/deep/text", "x");
    project.write("README.md", "x");
    project.write("src/main.rs", "fn main() { }\n");
    watcher.expect_run(&["created docs", "changed main.rs"]);
    drop(watcher);
    let mut watcher = project.watch(&["--only", "*.toml"], "true");
    project.write("src/main.rs", "fn main() {}\n");
    project.write("Cargo.toml", "[package]\nname = \"small\"\n");
    watcher.expect_run(&["changed Cargo.toml"]);
    drop(watcher);
    let mut watcher = project.watch(&["--no-ignore", "--hidden"], "true");
    project.write("a.log", "x");
    project.write(".env", "x");
    watcher.expect_run(&["created .env", "created a.log"]);
}
