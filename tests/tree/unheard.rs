//! The tree looks at what it watches, and whoever asks for that hears of all who look: but not of the tree.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringwatch::Mask;
use ringwatch::tree::{OwnedChange, Recovery, Tree};
use tempfile::{TempDir, tempdir};

use crate::coverage::mode;
use crate::model::{Watched, opened};
use crate::overflow::BUDGET;
use crate::scenarios::paths;
use crate::support::child::without_capabilities;
use crate::support::{Flood, queue_limit, wait_until};

/// What a look causes.
const LOOKS: Mask = Mask::OPEN.union(Mask::ACCESS).union(Mask::CLOSE_NOWRITE);

/// How a tree is opened.
#[derive(Clone, Copy, Debug)]
struct Manner {
    recovery: Recovery,
    follows: bool,
    existing: bool,
}

impl Manner {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|number| Self {
            recovery: [Recovery::Mark, Recovery::Diff][number % 2],
            follows: number & 2 != 0,
            existing: number & 4 != 0,
        })
    }
}

struct Place {
    _dir: TempDir,
    root: PathBuf,
    /// A root that is a file.
    single: PathBuf,
    /// What a link in the root leads to.
    outside: PathBuf,
    /// Directories with a file in each, to be moved in.
    stock: PathBuf,
}

fn place() -> Place {
    let dir = tempdir().expect("a directory");
    let [root, beside, outside, stock] = ["root", "beside", "outside", "stock"].map(|name| dir.path().join(name));
    let made = ["a/b", "floods", "locked", "filtered/deep"].map(|name| root.join(name));
    let stocked = ["one", "two"].map(|name| stock.join(name));
    for dir in made.iter().chain(&stocked).chain([&beside, &outside]) {
        fs::create_dir_all(dir).expect("directories");
        fs::write(dir.join("file"), "text").expect("a file");
    }
    fs::write(beside.join("single"), "text").expect("a file");
    symlink(&outside, root.join("link")).expect("a link");
    Place {
        _dir: dir,
        root,
        single: beside.join("single"),
        outside,
        stock,
    }
}

/// What was reported, of which no look may be.
fn unheard(watched: &mut Watched) -> Vec<OwnedChange> {
    let changes = watched.changes();
    let heard = changes.iter().find(|change| change.mask().intersects(LOOKS));
    assert!(heard.is_none(), "{heard:?} of {changes:?}");
    changes
}

/// What the test looks at is reported, each step of it, and nothing else is.
fn assert_heard(watched: &mut Watched, file: &Path, shown: &Path) {
    let text = File::open(file).expect("a file").read(&mut [0; 16]).expect("a text");
    assert_eq!(text, 4);
    let expected = [Mask::OPEN, Mask::ACCESS, Mask::CLOSE_NOWRITE].map(|mask| (mask, Some(shown.to_owned())));
    let mut heard = Vec::new();
    // A process that another test begins just now has it open too, for a moment.
    wait_until(|| {
        let changes = watched.changes();
        heard.extend(changes.iter().map(|change| (change.mask(), change.path())));
        heard.len() >= expected.len()
    });
    assert_eq!(heard, expected);
}

fn open(place: &Place, manner: Manner, wanted: &Arc<AtomicBool>) -> Watched {
    let wanted = Arc::clone(wanted);
    let builder = Tree::builder(&place.root)
        .root(&place.single)
        .mask(Mask::ALL)
        .recovery(manner.recovery)
        .follow_symlinks(manner.follows)
        .report_existing(manner.existing)
        .filter(move |dir| dir != Path::new("filtered") || wanted.load(Ordering::Relaxed))
        .buffers(2)
        .buffer_size(4096);
    Watched::new(without_capabilities(|| opened(builder)))
}

/// Whatever has the tree look, more than once. What is looked at anew is reported, so it was.
fn have_it_look(place: &Place, watched: &mut Watched, manner: Manner, wanted: &AtomicBool) {
    let root = &place.root;
    let reports = |changes: &[OwnedChange], path: &str| {
        let made = paths(changes, Mask::CREATE | Mask::MOVED_TO);
        assert!(made.contains(&root.join(path)), "{path}: {changes:?}");
    };
    let changes = unheard(watched);
    if manner.existing {
        reports(&changes, "a/b/file");
    }
    fs::create_dir_all(root.join("new/deep")).unwrap();
    reports(&unheard(watched), "new/deep");
    fs::rename(place.stock.join("one"), root.join("one")).unwrap();
    reports(&unheard(watched), "one/file");
    fs::rename(root.join("one"), root.join("a/one")).unwrap();
    reports(&unheard(watched), "a/one");
    // It is in the way the first time.
    for allowed in [0o000, 0o755] {
        watched.tree.retry_uncovered().unwrap();
        unheard(watched);
        mode(&root.join("locked"), allowed);
        watched.tree.retry_uncovered().unwrap();
        let changes = unheard(watched);
        if allowed != 0 {
            reports(&changes, "locked/file");
        }
    }
    for wants in [true, false, true] {
        wanted.store(wants, Ordering::Relaxed);
        watched.tree.refilter().unwrap();
        let changes = unheard(watched);
        if wants {
            reports(&changes, "filtered/deep/file");
        }
    }
    // The file that is a root is another.
    fs::rename(place.stock.join("two/file"), &place.single).unwrap();
    let changes = unheard(watched);
    assert!(paths(&changes, Mask::MOVED_TO).contains(&place.single), "{changes:?}");
    watched.tree.add_root(place.outside.join("file")).unwrap();
    unheard(watched);
    watched.tree.remove_root(place.outside.join("file")).unwrap();
    unheard(watched);
}

#[test]
fn the_looks_of_a_tree_are_not_reported_and_those_of_others_are() {
    for manner in Manner::all() {
        let place = place();
        let root = &place.root;
        let wanted = Arc::new(AtomicBool::new(false));
        let mut flood = Flood::new(&root.join("floods"));
        mode(&root.join("locked"), 0o000);
        let mut watched = open(&place, manner, &wanted);
        assert_eq!(watched.tree.uncovered().len(), 1, "{manner:?}");
        have_it_look(&place, &mut watched, manner, &wanted);
        let hear = |watched: &mut Watched| {
            for file in ["a/b/file", "a/one/file", "locked/file", "filtered/deep/file"] {
                assert_heard(watched, &root.join(file), &root.join(file));
            }
            assert_heard(watched, &place.single, &place.single);
            // Of directories no look is reported, whoever looks, and of others' files none.
            let beside = place.single.with_file_name("file");
            fs::read(&beside).unwrap();
            fs::read_dir(root.join("a/b")).unwrap().count();
            fs::read_dir(root).unwrap().count();
            assert!(unheard(watched).is_empty());
            let linked = place.outside.join("file");
            match manner.follows {
                true => assert_heard(watched, &linked, &root.join("link/file")),
                false => {
                    fs::read(&linked).unwrap();
                    assert!(unheard(watched).is_empty());
                }
            }
        };
        hear(&mut watched);
        flood.cause(queue_limit() + BUDGET);
        fs::create_dir_all(root.join("lost/deep")).unwrap();
        let changes = unheard(&mut watched);
        assert!(changes.iter().any(OwnedChange::is_overflow), "{manner:?}");
        let found = paths(&changes, Mask::CREATE).contains(&root.join("lost/deep"));
        assert_eq!(found, manner.recovery == Recovery::Diff);
        hear(&mut watched);
    }
}
