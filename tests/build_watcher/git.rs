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
