//! Which backend to use, which one is in use, and why not the better one.

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;

use crate::error::Error;
use crate::shown::Shown;

/// Which way the descriptor is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// io_uring if every step of setting it up works, else epoll, whatever the reason.
    #[default]
    Auto,
    /// io_uring, or an error that says why not. Never falls back.
    Uring,
    /// epoll.
    Epoll,
}

/// Parses `auto`, `uring` (or `io_uring`) and `epoll`.
impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" | "io_uring" => Ok(Self::Uring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(Error::text(
                crate::ErrorKind::InvalidInput,
                "choose backend",
                format!("no backend is named {:?}", Shown(text)),
            )
            .mended_by("choose auto, uring or epoll")),
        }
    }
}

/// The way the descriptor is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum BackendKind {
    /// io_uring reads into a ring of provided buffers.
    Uring,
    /// epoll and `read(2)`.
    Epoll,
}

bitflags! {
    /// What the io_uring backend found in this kernel and uses. Empty for epoll.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize))]
    pub struct Features: u32 {
        /// The ring defers its work to the thread that waits, so that one read brings many events. Always there:
        /// without it (before Linux 6.1) the backend is epoll.
        #[doc(alias = "IORING_SETUP_DEFER_TASKRUN")]
        const DEFER_TASKRUN = 1 << 0;
        /// One read request serves for ever (Linux 6.7, and verified by a self-test). Without it a request is submitted
        /// for each read, in the system call that waits for it.
        #[doc(alias = "IORING_OP_READ_MULTISHOT")]
        const MULTISHOT = 1 << 1;
        /// The kernel keeps the batch window (Linux 6.12). Without it we sleep until the window ends.
        #[doc(alias = "IORING_FEAT_MIN_TIMEOUT")]
        const MIN_WAIT = 1 << 2;
        /// A waiting reader is not accounted as waiting for a disk (Linux 6.15).
        #[doc(alias = "IORING_ENTER_NO_IOWAIT")]
        const NO_IOWAIT = 1 << 3;
    }
}

/// Which backend an instance uses, and why not the better one.
///
/// ```
/// let inotify = ringwatch::Inotify::new()?;
/// println!("{}", inotify.backend());
/// // io_uring (defer-taskrun, multishot, min-wait, no-iowait)
/// // epoll, as io_uring was refused: set up io_uring: operation not permitted (os error 1); …
/// # Ok::<(), ringwatch::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BackendReport {
    pub(crate) kind: BackendKind,
    pub(crate) features: Features,
    pub(crate) refusal: Option<Error>,
}

impl BackendReport {
    pub(crate) fn uring(features: Features) -> Self {
        Self {
            kind: BackendKind::Uring,
            features,
            refusal: None,
        }
    }

    pub(crate) fn epoll(refusal: Option<Error>) -> Self {
        Self {
            kind: BackendKind::Epoll,
            features: Features::empty(),
            refusal,
        }
    }

    /// The backend in use.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// What it uses of this kernel.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Why [`Backend::Auto`] did not take io_uring. None if it did, or if epoll was asked for by name.
    pub fn refusal(&self) -> Option<&Error> {
        self.refusal.as_ref()
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

impl fmt::Display for BackendReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if !self.features.is_empty() {
            let names: Vec<_> = self
                .features
                .iter_names()
                .map(|(name, _)| name.to_lowercase().replace('_', "-"))
                .collect();
            write!(f, " ({})", names.join(", "))?;
        }
        match &self.refusal {
            Some(refusal) => write!(f, ", as io_uring was refused: {refusal}"),
            None => Ok(()),
        }
    }
}
