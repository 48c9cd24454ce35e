//! What can't be written: each of these is refused by the compiler, and what is right beside it is not.
//!
//! A buffer is with one owner at a time, and whoever reads borrows from that owner. So nobody can give it back twice, nor
//! read it after it went back.
//!
//! An event is not used after its batch gave its buffer back:
//!
//! ```
//! fn right(batch: ringwatch::EventBatch) {
//!     let event = batch.iter().next().unwrap();
//!     println!("{:?}", event.name());
//!     drop(batch);
//! }
//! ```
//! ```compile_fail,E0505
//! fn wrong(batch: ringwatch::EventBatch) {
//!     let event = batch.iter().next().unwrap();
//!     drop(batch);
//!     println!("{:?}", event.name());
//! }
//! ```
//!
//! Nor is its name, which lies in the buffer; an owned event is a copy:
//!
//! ```
//! fn right(batch: ringwatch::EventBatch) -> Option<ringwatch::OwnedEvent> {
//!     batch.iter().next().map(|event| event.to_owned())
//! }
//! ```
//! ```compile_fail,E0515
//! fn wrong(batch: ringwatch::EventBatch) -> Option<&'static std::ffi::OsStr> {
//!     batch.iter().next()?.name()
//! }
//! ```
//!
//! Events are not gathered over batches:
//!
//! ```
//! fn right(mut reader: ringwatch::Reader) -> ringwatch::Result<()> {
//!     let mut kept = Vec::new();
//!     while let Some(batch) = reader.wait() {
//!         kept.extend(batch?.iter().map(|event| event.to_owned()));
//!     }
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0716
//! fn wrong(mut reader: ringwatch::Reader) -> ringwatch::Result<()> {
//!     let mut kept = Vec::new();
//!     while let Some(batch) = reader.wait() {
//!         kept.extend(batch?.iter());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! A batch is given back once, and is not there afterwards:
//!
//! ```
//! fn right(batch: ringwatch::EventBatch) -> usize {
//!     let len = batch.len();
//!     drop(batch);
//!     len
//! }
//! ```
//! ```compile_fail,E0382
//! fn wrong(batch: ringwatch::EventBatch) {
//!     drop(batch);
//!     drop(batch);
//! }
//! ```
//! ```compile_fail,E0382
//! fn wrong(batch: ringwatch::EventBatch) -> usize {
//!     drop(batch);
//!     batch.len()
//! }
//! ```
//!
//! There are not two of it:
//!
//! ```compile_fail,E0277
//! fn wrong(batch: &ringwatch::EventBatch) -> ringwatch::EventBatch {
//!     Clone::clone(batch)
//! }
//! ```
//!
//! The same is true of changes and their batches:
//!
//! ```
//! fn right(batch: ringwatch::TreeBatch) -> Option<ringwatch::tree::OwnedChange> {
//!     batch.iter().next().map(|change| change.to_owned())
//! }
//! ```
//! ```compile_fail,E0505
//! fn wrong(batch: ringwatch::TreeBatch) {
//!     let change = batch.iter().next().unwrap();
//!     drop(batch);
//!     println!("{:?}", change.path());
//! }
//! ```
//! ```compile_fail,E0515
//! fn wrong(batch: ringwatch::TreeBatch) -> Option<&'static std::path::Path> {
//!     batch.iter().next()?.dir()
//! }
//! ```
//! ```compile_fail,E0277
//! fn wrong(batch: &ringwatch::TreeBatch) -> ringwatch::TreeBatch {
//!     Clone::clone(batch)
//! }
//! ```
