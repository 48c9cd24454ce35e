//! When the command runs, and what a change does while it runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::project::{Project, wait_until};

#[test]
fn restart_ends_the_run_and_begins_another() {
    let project = Project::new();
    let mut watcher = project.begin(&[], &project.counting("exec sleep 1000"));
    watcher.await_event("started");
    project.write("src/main.rs", "fn main() { }\n");
    assert_eq!(watcher.next()["event"], "settled");
    assert_eq!(watcher.next()["event"], "restart");
    let finished = watcher.next();
    assert_eq!(
        (&finished["event"], &finished["run"], &finished["signal"]),
        (&"finished".into(), &1.into(), &15.into())
    );
    assert_eq!(watcher.next()["event"], "started");
    wait_until("the second run", || project.lines() == ["start", "change"]);
    watcher.signal(libc::SIGINT);
    let finished = watcher.next();
    assert_eq!(
        (&finished["event"], &finished["run"], &finished["signal"]),
        (&"finished".into(), &2.into(), &15.into())
    );
}

#[test]
fn queue_runs_once_more_behind_the_run() {
    let project = Project::new();
    let gate = project.outside.path().join("gate");
    let then = format!("while ! [ -e {} ]; do sleep 0.01; done", gate.display());
    let mut watcher = project.begin(&["--on-busy", "queue"], &project.counting(&then));
    watcher.await_event("started");
    project.write("src/main.rs", "fn main() { /* 1 */ }\n");
    watcher.await_event("queued");
    project.write("src/part/mod.rs", "// 2\n");
    watcher.await_event("queued");
    std::fs::write(&gate, "open").expect("written");
    for expected in ["finished", "started", "finished"] {
        assert_eq!(watcher.next()["event"], expected);
    }
    watcher.runs_once(&["changed main.rs"], || {
        project.write("src/main.rs", "fn main() { /* 3 */ }\n")
    });
    assert_eq!(project.lines().len(), 3);
}

#[test]
fn ignore_drops_what_changes_during_the_run() {
    let project = Project::new();
    let gate = project.outside.path().join("gate");
    let then = format!("while ! [ -e {} ]; do sleep 0.01; done", gate.display());
    let mut watcher = project.begin(&["--on-busy", "ignore"], &project.counting(&then));
    watcher.await_event("started");
    project.write("src/main.rs", "fn main() { /* 1 */ }\n");
    watcher.await_event("ignored");
    std::fs::write(&gate, "open").expect("written");
    watcher.await_event("finished");
    watcher.runs_once(&["changed mod.rs"], || project.write("src/part/mod.rs", "// 2\n"));
    assert_eq!(project.lines().len(), 2);
}

#[test]
fn postpone_waits_and_once_ends_with_the_commands_code() {
    let project = Project::new();
    let mut watcher = project.begin(&["--postpone", "--once"], &project.counting("exit 42"));
    watcher.await_event("ready");
    project.write("src/main.rs", "fn main() { }\n");
    assert_eq!(watcher.next()["event"], "settled");
    assert_eq!(watcher.next()["event"], "started");
    assert_eq!(watcher.await_event("finished")["code"], 42);
    assert_eq!(watcher.wait().code(), Some(42));
    assert_eq!(project.lines(), ["change"]);

    let mut watcher = project.begin(&["--once"], &project.counting("kill -SEGV $$"));
    assert_eq!(watcher.await_event("finished")["signal"], 11);
    assert_eq!(watcher.wait().code(), Some(139));
}

#[test]
fn changes_without_end_are_cut_off_and_run_the_command() {
    let project = Project::new();
    let mut watcher = project.watch(&[], "true");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                project.write("src/main.rs", &format!("fn main() {{ /* {number} */ }}\n"));
                std::thread::sleep(Duration::from_millis(1));
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let _over = Over(&over);
        watcher.await_event("settled");
        watcher.await_event("started");
    });
}

/// Set when a test ends, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_command_learns_what_changed() {
    let project = Project::new();
    let told = project.outside.path().join("told");
    let then = format!(
        r#"echo "$BUILD_WATCHER_COUNT: $BUILD_WATCHER_PATHS" > {}"#,
        told.display()
    );
    let mut watcher = project.watch(&[], &then);
    watcher.runs_once(&["changed mod.rs", "changed more.rs"], || {
        project.write("src/part/mod.rs", "// 1\n");
        project.write("src/part/more.rs", "// 1\n");
    });
    let part = project.path("src/part").canonicalize().expect("a path");
    let (first, second) = (part.join("mod.rs"), part.join("more.rs"));
    let expected = format!("2: {}\n{}\n", first.display(), second.display());
    assert_eq!(std::fs::read_to_string(&told).expect("written"), expected);
    watcher.runs_once(&["renamed mod.rs other.rs"], || {
        project.rename("src/part/mod.rs", "src/part/other.rs")
    });
    let expected = format!("2: {}\n{}\n", first.display(), part.join("other.rs").display());
    assert_eq!(std::fs::read_to_string(told).expect("written"), expected);
}
