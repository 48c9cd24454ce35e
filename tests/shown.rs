//! What is shown of names that are made to do harm: whoever prints an event or an error has no terminal obey it.

mod support;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use ringwatch::tree::{Tree, TreeStream};
use ringwatch::{Backend, Barrier, Error, ErrorKind, Mask};
use support::hostile::{NAME, UNSEEN};
use support::{PATIENCE, on_every_backend};

/// Every control byte, the controls that are longer, letters that reorder, and some that can't be seen.
fn names() -> Vec<Vec<u8>> {
    let controls = (1..0x20).chain([0x7f]).collect();
    let longer = ('\u{80}'..='\u{9f}').collect::<String>();
    let reordering = "\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{61c}";
    let unseen = "\u{ad}\u{200b}\u{200d}\u{2028}\u{2029}\u{2060}\u{feff}\u{e0041}\u{e000}";
    let names = [
        NAME.to_vec(),
        controls,
        longer.into(),
        reordering.into(),
        unseen.into(),
        UNSEEN.into(),
    ];
    // Something that may be shown, by which it is seen that the name was.
    names.map(|name| [b"shown", &*name].concat()).into()
}

/// Nothing but letters, digits and signs of ASCII, and blanks.
#[track_caller]
fn assert_plain(shown: &str) {
    let bad = shown.chars().find(|letter| !matches!(letter, ' '..='~'));
    assert_eq!(bad, None, "{shown:?}");
}

/// As [`assert_plain`], and that the name is in it.
#[track_caller]
fn assert_escaped(shown: &dyn Debug) {
    let text = format!("{shown:?}");
    assert_plain(&text);
    assert!(text.contains("shown"), "{text}");
    format!("{shown:#?}").lines().for_each(assert_plain);
}

#[track_caller]
fn assert_error_escaped(error: &Error) {
    assert_escaped(error);
    for text in [error.to_string(), io::Error::from(error.clone()).to_string()] {
        assert_plain(&text);
        assert!(text.contains("shown"), "{text}");
    }
    error.remedy().into_iter().for_each(assert_plain);
}

#[test]
fn what_is_shown_of_a_name_obeys_nobody() {
    on_every_backend(|setup| {
        for name in names() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(OsStr::from_bytes(&name));
            let inotify = setup.inotify();
            assert_error_escaped(&inotify.add_watch(&path, Mask::ALL).unwrap_err());
            fs::create_dir(&path).unwrap();
            assert_error_escaped(&inotify.add_watch(&path, Mask::empty()).unwrap_err());
            let watch = inotify.add_watch(&path, Mask::CHANGES).unwrap();
            assert_escaped(&watch);
            assert_escaped(&inotify.watches());
            assert_error_escaped(&setup.inotify().rm_watch(&watch).unwrap_err());
            let mut recorder = setup.read(inotify);
            let below = path.join(OsStr::from_bytes(&name));
            fs::write(&below, "").unwrap();
            fs::rename(&below, below.with_extension("renamed")).unwrap();
            let batch = recorder.batch();
            assert_escaped(&batch);
            assert_escaped(&batch.iter());
            for event in &batch {
                assert_escaped(&event);
                assert_escaped(&event.to_owned());
            }
            drop(batch);
            recorder.inotify.rm_watch(&watch).unwrap();
            assert_escaped(&watch);
            assert_error_escaped(&recorder.inotify.rm_watch(&watch).unwrap_err());
        }
    });
}

#[test]
fn a_backend_that_there_is_not_is_named_and_obeys_nobody() {
    for name in names() {
        let name = String::from_utf8_lossy(&name).replace('\u{fffd}', "");
        assert_error_escaped(&name.parse::<Backend>().unwrap_err());
    }
}

#[test]
fn letters_that_can_be_seen_are_shown_as_they_are() {
    let name = "/no/such/Ж漢é ñ'ﷺ🦀";
    let error = Tree::new(name).unwrap_err();
    assert!(error.to_string().contains(&format!("\"{name}\"")), "{error}");
}

/// Holds what is shown of all changes up to the barrier. Answers how many there were, of renames and of what is not covered.
fn show(stream: &mut TreeStream, barrier: Barrier) -> [usize; 3] {
    let mut counts = [0; 3];
    loop {
        let batch = stream.wait_timeout(PATIENCE).unwrap().expect("a batch that is due");
        let only_a_barrier = batch.iter().all(|change| change.barrier().is_some());
        if !only_a_barrier {
            assert_escaped(&batch);
            assert_escaped(&batch.iter());
        }
        for change in &batch {
            if change.barrier() == Some(barrier) {
                return counts;
            }
            assert_escaped(&change);
            assert_escaped(&change.to_owned());
            change.uncovered().into_iter().for_each(assert_error_escaped);
            let kinds = [true, change.renamed_from().is_some(), change.uncovered().is_some()];
            counts
                .iter_mut()
                .zip(kinds)
                .for_each(|(count, is)| *count += usize::from(is));
        }
    }
}

#[test]
fn what_a_tree_shows_of_a_name_obeys_nobody() {
    for name in names() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::from_bytes(&name);
        let root = dir.path().join(name);
        assert_error_escaped(&Tree::new(&root).unwrap_err());
        fs::create_dir(&root).unwrap();
        // What is behind the link is watched already, which is said.
        symlink(&root, root.join("link")).unwrap();
        let builder = Tree::builder(&root).follow_symlinks(true).await_missing_roots(true);
        assert_escaped(&builder);
        let tree = builder.open().unwrap();
        let mut stream = tree.stream().unwrap();
        assert_escaped(&tree.uncovered());
        let inner = root.join(name);
        let to = inner.with_extension("renamed");
        fs::create_dir_all(inner.join(name)).unwrap();
        fs::write(inner.join(name).join(name), "").unwrap();
        // What is not known under its old name has no rename.
        let [made, ..] = show(&mut stream, tree.barrier().unwrap());
        fs::rename(&inner, &to).unwrap();
        symlink(&to, &inner).unwrap();
        tree.add_root(dir.path().join(name).join("missing")).unwrap();
        let [changes, renames, uncovered] = show(&mut stream, tree.barrier().unwrap());
        assert!(made > 2 && changes > 2 && renames > 0 && uncovered > 0);
        let uncovered = tree.uncovered();
        assert!(uncovered.iter().any(|one| one.error.kind() == ErrorKind::NotFound));
        for one in &uncovered {
            assert_escaped(one);
            assert_error_escaped(&one.error);
        }
        assert_error_escaped(&tree.remove_root(Path::new(name)).unwrap_err());
        drop(stream);
        drop(tree);
    }
}
