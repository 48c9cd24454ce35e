//! When the operations of a round begin.

use std::sync::{Condvar, Mutex};

/// Told to all threads at once.
#[derive(Default)]
pub(crate) struct Start {
    has_begun: Mutex<bool>,
    begins: Condvar,
}

impl Start {
    pub(crate) fn begin(&self) {
        *self.has_begun.lock().expect("no panic") = true;
        self.begins.notify_all();
    }

    pub(crate) fn wait(&self) {
        let has_begun = self.has_begun.lock().expect("no panic");
        drop(
            self.begins
                .wait_while(has_begun, |has_begun| !*has_begun)
                .expect("no panic"),
        );
    }
}

/// Also if nobody has them begin, as where a tree does not open, they come to an end.
pub(crate) struct Begins<'a>(pub(crate) &'a Start);

impl Drop for Begins<'_> {
    fn drop(&mut self) {
        self.0.begin();
    }
}
