//! Which paths count, and that no watch is spent on the others.

use std::fs;

use crate::project::{Project, Watcher};
use crate::support::kernel::watches_of;

/// Has a rule about `src/kept` come and go. What nothing ignores any more counts as new, and is watched.
fn holds_at_once(watcher: &mut Watcher, project: &Project, write_rule: impl Fn(&str)) {
    for round in ["1", "2"] {
        write_rule("kept/\n");
        watcher.runs_once(&["changed main.rs"], || {
            project.write("src/kept/one.rs", round);
            project.write("src/kept/two.rs", round);
            project.write("src/main.rs", round);
        });
        watcher.runs_once(&["created one.rs", "created two.rs"], || write_rule("else/\n"));
        watcher.runs_once(&["changed one.rs"], || {
            project.write("src/kept/one.rs", "somebody cares")
        });
    }
    assert_eq!(project.lines().len(), 7);
}

#[test]
fn no_watch_is_spent_on_what_is_ignored() {
    let project = Project::new();
    let ignored = [
        "target/debug/deps/x",
        "web/node_modules/left-pad/lib/index.js",
        ".cache/a/b/c",
        "made/by/hand",
        "private/of/mine",
        "kept/from/elsewhere",
        "excluded/by/option",
    ];
    ignored.iter().for_each(|path| project.write(path, "x"));
    project.write("web/package.json", "{}");
    project.write(".ignore", "/made\n");
    project.write(".git/info/exclude", "/private\n");
    project.write_home(".config/git/ignore", "kept/\n");
    let mut watcher = project.begin(&["--exclude", "excluded"], &project.counting("true"));
    // The project, src, src/part, web; .git/info and the directory of the global excludes; the library's own marker.
    assert_eq!(watcher.await_event("ready")["directories"], 4 + 2);
    assert_eq!(watches_of(watcher.id()), 4 + 2 + 1);
    watcher.await_event("finished");
    watcher.runs_once(&["changed main.rs"], || {
        ignored.iter().for_each(|path| project.write(path, "y"));
        project.write("src/main.rs", "fn main() { }\n");
    });
    assert_eq!(watches_of(watcher.id()), 4 + 2 + 1);
}

#[test]
fn ignore_files_hold_at_once() {
    for name in [".gitignore", ".ignore"] {
        let project = Project::new();
        project.write("src/kept/one.rs", "");
        let mut watcher = project.watch(&[], "true");
        holds_at_once(&mut watcher, &project, |rule| project.write(name, rule));
    }
}

#[test]
fn ignore_files_above_what_is_watched_hold_at_once() {
    for name in [".gitignore", ".ignore"] {
        let project = Project::new();
        project.write("src/kept/one.rs", "");
        let mut watcher = project.watch(&["src"], "true");
        holds_at_once(&mut watcher, &project, |rule| project.write(name, rule));
    }
}

#[test]
fn the_excludes_of_the_repository_hold_at_once() {
    for is_there in [true, false] {
        let project = Project::new();
        project.write("src/kept/one.rs", "");
        if !is_there {
            fs::remove_dir_all(project.path(".git/info")).expect("removed");
        }
        let mut watcher = project.watch(&[], "true");
        holds_at_once(&mut watcher, &project, |rule| {
            // As an editor replaces it.
            project.write(".git/info/new", rule);
            project.rename(".git/info/new", ".git/info/exclude");
        });
    }
}

#[test]
fn work_trees_share_the_excludes_of_their_repository() {
    let project = Project::new();
    let added = project.outside.path().join("added");
    project.git(&["worktree", "add", "--quiet", added.to_str().expect("a path")]);
    let mut watcher = project.watch(&[added.to_str().expect("a path")], "true");
    project.write(".git/info/exclude", "*.private\n");
    watcher.runs_once(&["changed Cargo.toml"], || {
        fs::write(added.join("a.private"), "x").expect("written");
        fs::write(added.join("Cargo.toml"), "[package]\n").expect("written");
    });
}

#[test]
fn the_users_excludes_hold_at_once() {
    let project = Project::new();
    project.write("src/kept/one.rs", "");
    let mut watcher = project.watch(&[], "true");
    // Not even its directory is there yet.
    holds_at_once(&mut watcher, &project, |rule| {
        project.write_home(".config/git/ignore", rule)
    });
}

#[test]
fn the_users_excludes_are_where_git_is_told() {
    let project = Project::new();
    project.write("src/kept/one.rs", "");
    project.write_home(".gitconfig", "[core]\n\texcludesFile = ~/my-excludes\n");
    project.write_home("my-excludes", "");
    let mut watcher = project.watch(&[], "true");
    project.write_home("unheard", "x");
    holds_at_once(&mut watcher, &project, |rule| project.write_home("my-excludes", rule));
}

#[test]
fn the_users_excludes_may_be_a_link() {
    let project = Project::new();
    project.write("src/kept/one.rs", "");
    project.write_home("dotfiles/excludes", "");
    project.write_home(".config/git/config", "");
    let link = project.home().join(".config/git/ignore");
    std::os::unix::fs::symlink(project.home().join("dotfiles/excludes"), link).expect("a link");
    let mut watcher = project.watch(&[], "true");
    holds_at_once(&mut watcher, &project, |rule| {
        project.write_home("dotfiles/excludes", rule)
    });
}

#[test]
fn another_directory_of_the_same_name_has_its_own_rules() {
    let project = Project::new();
    project.write("src/part/.gitignore", "*.made\n");
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/part/a.made", "x");
        project.write("src/main.rs", "fn main() { }\n");
    });
    watcher.runs_once(&["renamed part gone"], || project.rename("src/part", "src/gone"));
    watcher.runs_once(&["created part", "created a.made"], || {
        project.write("src/part/a.made", "x");
    });
}

#[test]
fn options_choose() {
    let project = Project::new();
    let mut watcher = project.watch(&["--exclude", "docs/**", "--exclude", "*.md"], "true");
    watcher.runs_once(&["created docs", "changed main.rs"], || {
        project.write("docs/deep/text", "x");
        project.write("README.md", "x");
        project.write("src/main.rs", "fn main() { }\n");
    });
    drop(watcher);
    let mut watcher = project.watch(&["--only", "*.toml"], "true");
    watcher.runs_once(&["changed Cargo.toml"], || {
        project.write("src/main.rs", "fn main() {}\n");
        project.write("Cargo.toml", "[package]\nname = \"small\"\n");
    });
    drop(watcher);
    let mut watcher = project.watch(&["--no-ignore", "--hidden"], "true");
    watcher.runs_once(&["created .env", "created a.log"], || {
        project.write("a.log", "x");
        project.write(".env", "x");
        project.write(".git/config.lock", "x");
    });
}

#[test]
fn what_was_asked_for_by_name_is_never_left_out() {
    let project = Project::new();
    project.write(".github/workflows/ci.yml", "");
    project.write("target/made/one.rs", "");
    let mut watcher = project.watch(&[".", ".github", "target"], "true");
    watcher.runs_once(&["changed ci.yml", "changed main.rs", "changed one.rs"], || {
        project.write(".github/workflows/ci.yml", "on: push");
        project.write("target/made/one.rs", "x");
        project.write(".cache", "x");
        project.write("src/main.rs", "fn main() { }\n");
    });
    // It is waited for, and found.
    project.rename(".github", "else");
    watcher.await_event("finished");
    project.write(".github/workflows/ci.yml", "on: push");
    watcher.await_event("finished");
    watcher.runs_once(&["changed ci.yml"], || project.write(".github/workflows/ci.yml", ""));
}

#[test]
fn what_belongs_to_one_root_costs_nothing_for_another() {
    let project = Project::new();
    project.write("web/package.json", "{}");
    project.write("web/node_modules/left-pad/lib/index.js", "x");
    project.write("web/made/x", "x");
    project.write("web/.gitignore", "/made\n");
    project.write("docs/text", "x");
    let mut watcher = project.begin(&["web", "docs", "src"], &project.counting("true"));
    // The roots, src/part; for ignore files outside, the project, .git/info and the user's; the library's own marker.
    let watches = 4 + 3 + 1;
    watcher.await_event("finished");
    assert_eq!(watches_of(watcher.id()), watches);
    watcher.runs_once(&["created new", "created text"], || {
        project.write("web/made/deep/x", "x");
        project.write("web/node_modules/right-pad/lib/index.js", "x");
        project.write("docs/new/text", "x");
    });
    assert_eq!(watches_of(watcher.id()), watches + 1);
}
