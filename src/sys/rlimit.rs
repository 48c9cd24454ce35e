//! The limits of this process, for errors that name them.

/// What a call says that asks for a limit. None if there is no limit, or it can't be told.
fn limit(ask: impl FnOnce(*mut libc::rlimit) -> libc::c_int) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    super::checked(ask(&raw mut limit)).ok()?;
    Some(limit.rlim_cur).filter(|&limit| limit != libc::RLIM_INFINITY)
}

fn remedy(name: &str, limit: Option<u64>, unit: &str, raised: &str) -> String {
    match limit {
        Some(limit) => format!("{name} is {limit}{unit}; raise it with {raised}"),
        None => format!("raise {name} with {raised}"),
    }
}

/// How to have more descriptors.
pub(crate) fn descriptors() -> String {
    // SAFETY: what it is given is writable and lives through the call.
    let limit = limit(|limit| unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit) });
    remedy("RLIMIT_NOFILE", limit, "", "ulimit -n")
}

/// How to have more threads.
pub(crate) fn threads() -> String {
    // SAFETY: as above.
    let limit = limit(|limit| unsafe { libc::getrlimit(libc::RLIMIT_NPROC, limit) });
    remedy("RLIMIT_NPROC", limit, "", "ulimit -u, or pids.max of the cgroup")
}

/// How to have more memory that is not swapped.
pub(crate) fn locked_memory() -> String {
    // SAFETY: as above.
    let limit = limit(|limit| unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit) });
    remedy("RLIMIT_MEMLOCK", limit, " bytes", "ulimit -l")
}
