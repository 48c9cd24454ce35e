//! What can be asked for.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ringwatch::Backend;

const AFTER: &str = "\
Ignored are what .gitignore, .ignore, .git/info/exclude and git's global excludes name, hidden files, version control, \
target beside Cargo.toml, and node_modules beside package.json. No watch is spent on ignored directories.

The command gets BUILD_WATCHER_RUN (its number), BUILD_WATCHER_REASON (start, change or overflow), BUILD_WATCHER_COUNT \
(paths that changed; both of a rename) and BUILD_WATCHER_PATHS (those paths, one a line, as far as they fit; not those \
with a line break in them). Its input is empty. No shell runs it; for pipes and the like: -- sh -c 'COMMAND | COMMAND'.

Exit codes: 1 if watching fails, 2 for a wrong argument, 126 and 127 if the command can't be run or found, 130 after \
Ctrl-C (128 and the signal's number). With --once: that of the command.";

/// Reruns a command when sources change
#[derive(Parser)]
#[command(name = "build_watcher", after_long_help = AFTER, max_term_width = 120)]
pub(crate) struct Options {
    /// Directories to watch with all below them, and single files
    #[arg(value_name = "PATH", default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,
    /// The command to run, and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(crate) command: Vec<OsString>,

    /// Wait for the first change before the first run
    #[arg(long)]
    pub(crate) postpone: bool,
    /// Run once, and exit as the command does
    #[arg(long)]
    pub(crate) once: bool,
    /// What a change does while the command runs
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnBusy::Restart)]
    pub(crate) on_busy: OnBusy,
    /// How long nothing must change before the command is run
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = time)]
    pub(crate) settle: Duration,
    /// How long a command that is asked to end may take before it is killed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) grace: Duration,

    /// Heed no ignore files, and no habits: watch target and node_modules too
    #[arg(long, help_heading = "Which paths count")]
    pub(crate) no_ignore: bool,
    /// Hidden files and directories count too; version control never does
    #[arg(long, help_heading = "Which paths count")]
    pub(crate) hidden: bool,
    /// Leave out what matches, in the language of .gitignore; may be repeated
    #[arg(long, value_name = "GLOB", help_heading = "Which paths count")]
    pub(crate) exclude: Vec<String>,
    /// Leave out files that match none of these; may be repeated
    #[arg(long, value_name = "GLOB", help_heading = "Which paths count")]
    pub(crate) only: Vec<String>,
    /// Changes of permissions, owners and times count too
    #[arg(long, help_heading = "Which paths count")]
    pub(crate) metadata: bool,

    /// Clear the screen before each run; what changed is said again
    #[arg(long, help_heading = "What is said")]
    pub(crate) clear: bool,
    /// Say only what goes wrong
    #[arg(long, short, help_heading = "What is said")]
    pub(crate) quiet: bool,
    /// One JSON object a line on stdout; the command's own output goes to stderr
    #[arg(long, help_heading = "What is said")]
    pub(crate) json: bool,
    /// At the end, print what the library did
    #[arg(long, help_heading = "What is said")]
    pub(crate) stats: bool,
    /// How to read the kernel's events: auto, uring or epoll
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "What is said")]
    pub(crate) backend: Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBusy {
    /// End it, and run it again
    Restart,
    /// Run it again when it has finished
    Queue,
    /// Nothing
    Ignore,
}

/// More can't be added to every point in time, and means for ever.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// `50ms`, `1.5s`, `2m`.
fn time(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("write a number and ms, s or m, as in 50ms".into()),
    };
    let time = Duration::try_from_secs_f64(digits.trim().parse::<f64>()? * scale)?;
    Ok(time.min(LONGEST))
}
