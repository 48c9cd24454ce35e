//! A small service on tokio-uring: reads each file once it was written.
//!
//! ```sh
//! cargo run --features tokio --example tokio_uring            # writes some files itself, and ends
//! cargo run --features tokio --example tokio_uring -- DIR     # serves DIR, until Ctrl-C
//! ```
//!
//! It shows a thread-per-core service: `Reader::into_stream` reads the events on the thread of the runtime, which does
//! all the rest too, so an event costs no second wake-up.

#![forbid(unsafe_code)]

#[path = "../src/letters.rs"]
mod letters;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, io};

use futures_util::StreamExt;
use ringwatch::{Inotify, Mask};
use tokio_uring::fs::File;

use crate::letters::printable;

const FILES: [(&str, usize); 3] = [("small", 12), ("empty", 0), ("large", 1_000_000)];

fn main() -> Result<(), Box<dyn Error>> {
    let inotify = Inotify::new()?;
    // `close` ends the stream, from whatever thread it is called.
    let closing = inotify.clone();
    ctrlc::set_handler(move || closing.close())?;
    tokio_uring::start(async {
        // A file that is opened for reading is not reported again when it is closed.
        let events = Mask::CLOSE_WRITE | Mask::ONLYDIR;
        if let Some(dir) = env::args_os().nth(1) {
            inotify.add_watch(&dir, events)?;
            println!("serving until Ctrl-C");
            return serve(&inotify, usize::MAX).await;
        }
        let dir = tempfile::tempdir()?;
        inotify.add_watch(dir.path(), events)?;
        let writer = tokio_uring::spawn(write_files(dir.path().to_owned()));
        serve(&inotify, FILES.len()).await?;
        Ok(writer.await??)
    })
}

/// Prints the size of each file that was written and closed, and ends after so many.
async fn serve(inotify: &Inotify, files: usize) -> Result<(), Box<dyn Error>> {
    let mut batches = inotify.reader()?.into_stream()?;
    let mut served = 0;
    while let Some(batch) = batches.next().await {
        for event in &batch? {
            match event.path() {
                Some(path) if event.mask().contains(Mask::CLOSE_WRITE) => {
                    match size(&path).await {
                        Ok(size) => println!("{} has {size} bytes", shown(&path)),
                        // It may be gone again.
                        Err(error) => println!("{} can't be read: {error}", shown(&path)),
                    }
                    served += 1;
                }
                Some(dir) => return Err(format!("{} is gone", shown(&dir)).into()),
                None => println!("the kernel's queue overflowed: some files are not served"),
            }
        }
        if served >= files {
            inotify.close();
        }
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    printable(&format!("{path:?}"))
}

/// Reads a file to its end, which a real service would make use of.
async fn size(path: &Path) -> io::Result<u64> {
    let file = File::open(path).await?;
    let mut size = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // The kernel writes to the buffer while we wait, so it is handed over and comes back.
        let (read, returned) = file.read_at(buffer, size).await;
        buffer = returned;
        match read? {
            0 => break,
            read => size += read as u64,
        }
    }
    file.close().await?;
    Ok(size)
}

async fn write_files(dir: PathBuf) -> io::Result<()> {
    for (name, size) in FILES {
        let file = File::create(dir.join(name)).await?;
        let (written, _) = file.write_all_at(vec![b'.'; size], 0).await;
        written?;
        file.close().await?;
    }
    Ok(())
}
