//! Which paths count, and that no watch is spent on the others.

use std::fs;

use crate::project::{Project, Watcher};
use crate::support::kernel::watches_of;

/// The first change is ignored and the second is not.
fn ignores(watcher: &mut Watcher, project: &Project, ignored: &str) {
    watcher.runs_once(&["changed main.rs"], || {
        project.write(ignored, &format!("// ignored at {:?}\n", project.lines().len()));
        project.write("src/main.rs", &format!("// run {}\n", project.lines().len()));
    });
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
        let before = fs::read_to_string(project.path(name)).unwrap_or_default();
        project.write("made/one.rs", "// one\n");
        let mut watcher = project.watch(&[], "true");
        watcher.runs_once(&["changed main.rs"], || {
            project.write(name, &format!("{before}/made\n"));
            project.write("src/main.rs", "fn main() { /* 1 */ }\n");
        });
        watcher.runs_once(&["changed main.rs"], || {
            project.write("made/one.rs", "// nobody cares\n");
            project.write("made/two.rs", "// nobody cares\n");
            project.write("src/main.rs", "fn main() { /* 2 */ }\n");
        });
        // What is not ignored any more counts as new.
        watcher.runs_once(&["created one.rs", "created two.rs"], || project.write(name, &before));
        watcher.runs_once(&["changed one.rs"], || {
            project.write("made/one.rs", "// somebody cares\n");
        });
        assert_eq!(project.lines().len(), 5);
    }
}

#[test]
fn the_excludes_of_the_repository_hold_at_once() {
    for is_there in [true, false] {
        let project = Project::new();
        match is_there {
            true => project.write(".git/info/exclude", "*.old\n"),
            false => fs::remove_dir_all(project.path(".git/info")).expect("removed"),
        }
        let mut watcher = project.watch(&[], "true");
        project.write(".git/info/exclude", "*.private\n");
        ignores(&mut watcher, &project, "a.private");
        // As an editor replaces it.
        project.write(".git/info/new", "*.secret\n");
        project.rename(".git/info/new", ".git/info/exclude");
        ignores(&mut watcher, &project, "a.secret");
        // What nothing ignores any more.
        watcher.runs_once(&["changed a.private"], || project.write("a.private", "x"));
        assert_eq!(project.lines().len(), 4);
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
    for (config, excludes) in [
        (None, ".config/git/ignore"),
        (Some("[core]\n\texcludesFile = ~/my-excludes\n"), "my-excludes"),
    ] {
        let project = Project::new();
        if let Some(config) = config {
            project.write_home(".gitconfig", config);
            project.write_home(excludes, "*.mine\n");
        }
        let mut watcher = project.watch(&[], "true");
        if config.is_some() {
            ignores(&mut watcher, &project, "a.mine");
        }
        // In the first round nothing of it is there yet, nor the directory it is in.
        project.write_home(excludes, "*.other\n");
        ignores(&mut watcher, &project, "a.other");
        project.write_home("unheard", "x");
        fs::remove_file(project.home().join(excludes)).expect("removed");
        watcher.runs_once(&["changed a.other"], || project.write("a.other", "x"));
    }
}

#[test]
fn the_users_excludes_may_be_a_link() {
    let project = Project::new();
    project.write_home("dotfiles/excludes", "*.mine\n");
    project.write_home(".config/git/config", "");
    let link = project.home().join(".config/git/ignore");
    std::os::unix::fs::symlink(project.home().join("dotfiles/excludes"), link).expect("a link");
    let mut watcher = project.watch(&[], "true");
    ignores(&mut watcher, &project, "a.mine");
    project.write_home("dotfiles/excludes", "*.other\n");
    ignores(&mut watcher, &project, "a.other");
}

#[test]
fn ignore_files_above_what_is_watched_hold_at_once() {
    let project = Project::new();
    let mut watcher = project.watch(&["src"], "true");
    ignores(&mut watcher, &project, "src/a.log");
    project.write(".gitignore", "*.other\n");
    ignores(&mut watcher, &project, "src/a.other");
    project.write(".ignore", "*.more\n");
    ignores(&mut watcher, &project, "src/a.more");
    watcher.runs_once(&["changed a.log"], || project.write("src/a.log", "x"));
}

#[test]
fn another_directory_of_the_same_name_has_its_own_rules() {
    let project = Project::new();
    project.write("src/part/.gitignore", "*.made\n");
    let mut watcher = project.watch(&[], "true");
    ignores(&mut watcher, &project, "src/part/a.made");
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
