//! Names and files that are made to do harm.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::project::{Project, program, succeed, wait_until};
use crate::support::hostile::{NAME, UNSEEN, assert_harmless};

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
        let mut command = Command::new(program());
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
        fs::write(project.path("src").join(UNSEEN), "").unwrap();
        wait_until("the second run", || project.lines().len() == 2);
        succeed(Command::new("kill").arg(watcher.id().to_string()));
        watcher.wait().unwrap();
        let shown = fs::read(project.outside.path().join("output")).unwrap();
        for letter in ["202e", "3164", "34f"] {
            let text = String::from_utf8_lossy(&shown);
            assert!(text.contains(letter), "{letter} in {text}");
        }
        assert_harmless(&shown);
    }
}

#[test]
fn what_can_t_be_watched_or_run_is_named_harmlessly() {
    let bad = "\u{1b}]0;owned\u{7}\nforged\u{202e}\u{3164}";
    let name = OsStr::from_bytes(NAME);
    let arguments = |text: &[&str]| text.iter().map(|&text| OsStr::new(text).to_owned()).collect::<Vec<_>>();
    let mut cases = vec![
        (vec![name.to_owned(), "--".into(), "true".into()], 2),
        (vec!["--".into(), name.to_owned()], 127),
        (arguments(&["--", &format!("{bad}  ")]), 127),
        (arguments(&["--exclude", "owned[\u{1b}-\u{7}]", "--", "true"]), 2),
    ];
    for option in ["--x", "--settle=", "--on-busy=", "--backend=", "--json=", "--postpo"] {
        cases.push((arguments(&[&format!("{option}{bad}"), "--", "true"]), 2));
    }
    for (arguments, code) in cases {
        let project = Project::new();
        let output = project.command(&arguments).output().expect("the example");
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        assert!(
            output.stdout.is_empty() && shown.contains("owned"),
            "{arguments:?}: {shown}"
        );
        assert!(!shown.contains("\nforged"), "{arguments:?}: {shown}");
        assert_harmless(&output.stderr);
    }
}

#[test]
fn a_place_to_run_in_that_is_gone_is_named_harmlessly() {
    let project = Project::new();
    let base = project.outside.path().join(OsStr::from_bytes(NAME));
    fs::create_dir(&base).unwrap();
    let said = project.outside.path().join("said");
    let mut command = project.command([project.dir.path().as_os_str(), "--".as_ref(), "true".as_ref()]);
    command.current_dir(&base).stderr(fs::File::create(&said).unwrap());
    let mut watcher = command.spawn().expect("the example");
    let has_said = |what: &str| String::from_utf8_lossy(&fs::read(&said).unwrap()).contains(what);
    wait_until("the first run", || has_said("Finished"));
    fs::remove_dir(&base).unwrap();
    project.write("src/main.rs", "fn main() { }\n");
    wait_until("what is in the way", || has_said("which is gone"));
    succeed(Command::new("kill").arg(watcher.id().to_string()));
    watcher.wait().unwrap();
    assert_harmless(&fs::read(&said).unwrap());
}

#[test]
fn help_is_no_error() {
    for option in ["-h", "--help"] {
        let output = Command::new(program()).arg(option).output().expect("the example");
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains("--on-busy"));
        assert_harmless(&output.stdout);
    }
}

#[test]
fn an_ignore_file_that_is_a_pipe_or_has_no_end_is_not_waited_for() {
    let project = Project::new();
    let pipe = project.path("src/part/.ignore");
    succeed(Command::new("mkfifo").arg(&pipe));
    symlink("/dev/zero", project.path("src/.ignore")).unwrap();
    let mut watcher = project.watch(&[], "true");
    project.write("src/main.rs", "fn main() { }\n");
    watcher.await_event("finished");
}

fn most_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a number")
}

/// Wherever git would have a file, somebody may put something else, and a watcher that reads it at its beginning, while it
/// looks at directories, or for each run must end on Ctrl-C all the same.
#[test]
fn a_file_of_git_s_that_is_a_pipe_or_has_no_end_is_not_waited_for() {
    let pipe = |place: &Path| succeed(Command::new("mkfifo").arg(place));
    let endless = |place: &Path| symlink("/dev/zero", place).expect("a link");
    for make in [&pipe as &dyn Fn(&Path), &endless] {
        for place in ["src/part/.git", "src/part/.git/commondir", ".git/commondir", ".git"] {
            let project = Project::new();
            let place = project.path(place);
            fs::create_dir_all(place.parent().expect("a directory")).expect("made");
            if place.is_dir() {
                fs::remove_dir_all(&place).expect("removed");
            }
            make(&place);
            let mut watcher = project.begin(&[], &project.counting("true"));
            let id = Pid::from_raw(watcher.id().cast_signed());
            let enough = Rlimit {
                current: Some(1 << 30),
                maximum: Some(1 << 30),
            };
            // Should it fail, this machine has memory left.
            prlimit(id, Resource::Data, enough).expect("a limit");
            watcher.await_event("finished");
            watcher.runs_once(&["changed main.rs", "changed more.rs"], || {
                project.write("src/main.rs", "fn main() { }\n");
                project.write("src/part/more.rs", "");
            });
            let most = most_memory(watcher.id());
            assert!(most < 128 << 10, "{most} kB for {}", place.display());
            assert_eq!(watcher.stop(libc::SIGINT).code(), Some(130));
        }
    }
}

#[test]
fn a_work_tree_whose_path_is_no_text_has_the_excludes_of_its_repository() {
    let project = Project::new();
    let moved = project.outside.path().join(OsStr::from_bytes(b"moved\xff"));
    fs::rename(project.path(".git"), &moved).expect("moved");
    let line = [b"gitdir: ", moved.as_os_str().as_bytes(), b"\n"].concat();
    fs::write(project.path(".git"), line).expect("written");
    fs::write(moved.join("info/exclude"), "*.private\n").expect("written");
    let mut watcher = project.watch(&[], "true");
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/one.private", "");
        project.write("src/main.rs", "fn main() { }\n");
    });
}
