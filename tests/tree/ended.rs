//! What is asked of a tree that has ended is answered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use ringwatch::ErrorKind;
use ringwatch::tree::{Tree, TreeStream};
use tempfile::tempdir;

use crate::model::opened;
use crate::support::{PATIENCE, backends};

/// What `ask` answers; fails if it waits for ever.
fn in_time<T: Send + 'static>(what: &str, ask: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(ask()));
    told.recv_timeout(PATIENCE).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => panic!("{what} is never answered"),
        RecvTimeoutError::Disconnected => panic!("{what} panicked"),
    })
}

fn assert_answers(tree: &Tree, root: &Path) {
    type Ask = fn(&Tree, &Path) -> ringwatch::Result<()>;
    let asks: [(&str, Ask); 5] = [
        ("add_root", |tree, root| tree.add_root(root)),
        ("remove_root", |tree, root| tree.remove_root(root)),
        ("refilter", |tree, _| tree.refilter()),
        ("retry_uncovered", |tree, _| tree.retry_uncovered()),
        ("barrier", |tree, _| tree.barrier().map(drop)),
    ];
    for (name, ask) in asks {
        let (tree, root) = (tree.clone(), root.to_owned());
        let error = in_time(name, move || ask(&tree, &root)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{name}: {error}");
    }
    let (one, other) = (tree.clone(), tree.clone());
    assert!(in_time("roots", move || one.roots()).is_empty());
    assert!(in_time("uncovered", move || other.uncovered()).is_empty());
}

fn until_the_end(stream: &mut TreeStream) {
    while stream.wait_timeout(PATIENCE).is_ok_and(|batch| batch.is_some()) {}
    assert!(stream.wait().is_none());
}

#[test]
fn a_closed_tree_answers_whatever_is_asked_of_it() {
    for &backend in backends() {
        let dir = tempdir().unwrap();
        let tree = opened(Tree::builder(dir.path()).backend(backend));
        let mut stream = tree.stream().unwrap();
        tree.close();
        assert_answers(&tree, dir.path());
        until_the_end(&mut stream);
        assert_answers(&tree, dir.path());
    }
}

/// A tree whose filter panics once it is told to.
fn panicking(root: &Path) -> (Tree, Arc<AtomicBool>) {
    let panics = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&panics);
    let tree = Tree::builder(root).filter(move |_| {
        assert!(!told.load(Ordering::Relaxed), "asked to");
        true
    });
    (opened(tree), panics)
}

#[test]
fn a_tree_whose_thread_panicked_answers_whatever_is_asked_of_it() {
    let dir = tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let (tree, panics) = panicking(dir.path());
    let mut stream = tree.stream().unwrap();
    panics.store(true, Ordering::Relaxed);
    // Whoever asks at that moment is answered as well.
    let asking = tree.clone();
    let error = in_time("refilter", move || asking.refilter()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let error = loop {
        match stream.wait_timeout(PATIENCE) {
            Ok(batch) => drop(batch.expect("it goes on or ends")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ReaderFailed, "{error}");
    assert_answers(&tree, dir.path());
    let cause = tree.barrier().unwrap_err().to_string();
    assert!(cause.contains("asked to"), "{cause}");
    until_the_end(&mut stream);
    assert_answers(&tree, dir.path());
}
