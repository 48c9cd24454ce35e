//! Makes system calls of one thread, and of those it starts, fail on purpose.
//!
//! A seccomp filter hands each call to a supervisor (seccomp_unotify(2), Linux 5.5), which answers the one that is to fail
//! with an error, and lets all others pass. It counts them as well. The thread that supervises, and whatever other thread
//! was there before, are not filtered.
//!
//! While a call waits for its answer, the thread may hold a lock of the allocator: the supervisor allocates nothing and
//! takes no lock.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::thread;

use crate::support::pause;

/// System calls have numbers below this.
pub(crate) const CALLS: usize = 512;

/// Calls that are none of the library's own: the C library's and std's, for memory, locks and the end of threads.
const NOT_OURS: [libc::c_long; 16] = [
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_brk,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_prctl,
    libc::SYS_getrandom,
];

/// Which call is to fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) call: libc::c_long,
    pub(crate) errno: i32,
    /// The first that fails, counted from 1.
    pub(crate) from: u32,
    /// How many fail.
    pub(crate) count: u32,
}

pub(crate) struct Injector {
    listener: AtomicI32,
    faults: Vec<Fault>,
    counts: [AtomicU32; CALLS],
    /// Whether faults are made: not while what they did is looked at.
    armed: AtomicBool,
    last: AtomicI64,
}

impl Injector {
    pub(crate) fn new(faults: Vec<Fault>) -> &'static Self {
        Box::leak(Box::new(Self {
            listener: AtomicI32::new(-1),
            faults,
            counts: [const { AtomicU32::new(0) }; CALLS],
            armed: AtomicBool::new(true),
            last: AtomicI64::new(-1),
        }))
    }

    /// Supervises, on a thread of its own, whoever calls [`enter`](Self::enter).
    pub(crate) fn start(&'static self) {
        let supervisor = thread::Builder::new().name("supervisor".into());
        let started = supervisor.spawn(|| {
            while self.listener.load(Ordering::Acquire) < 0 {
                pause();
            }
            while self.answer_one() {}
        });
        started.expect("a thread");
    }

    pub(crate) fn stop_failing(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Calls that were made so far, by number.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (libc::c_long, u32)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        (0..).zip(counts).filter(|&(_, count)| count > 0)
    }

    pub(crate) fn total(&self) -> u32 {
        self.counts().map(|(_, count)| count).sum()
    }

    pub(crate) fn last(&self) -> i64 {
        self.last.load(Ordering::Relaxed)
    }

    /// From now on the calls of this thread, and of those it starts, are supervised.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let program = program();
        let filter = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: no pointers are passed.
        let quiet = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        assert_eq!(quiet, 0);
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        // SAFETY: the program lives through the call, which copies it.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const filter,
            )
        };
        if listener < 0 {
            return Err(io::Error::last_os_error());
        }
        self.listener.store(listener as i32, Ordering::Release);
        Ok(())
    }

    fn answer_one(&self) -> bool {
        let listener = self.listener.load(Ordering::Relaxed);
        // SAFETY: zeroed is what the kernel wants it to be.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one notification to it.
        let received = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        if received < 0 {
            // The thread was killed meanwhile, or a signal came.
            let error = io::Error::last_os_error().raw_os_error();
            return matches!(error, Some(libc::ENOENT | libc::EINTR));
        }
        let number = call.data.nr;
        self.last.store(number.into(), Ordering::Relaxed);
        let count = usize::try_from(number).ok().and_then(|number| self.counts.get(number));
        let before = count.map_or(0, |count| count.fetch_add(1, Ordering::Relaxed));
        let fault = self.faults.iter().find(|fault| {
            let range = fault.from..fault.from.saturating_add(fault.count);
            fault.call == number.into() && range.contains(&(before + 1)) && self.armed.load(Ordering::SeqCst)
        });
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        if let Some(fault) = fault {
            answer.error = -fault.errno;
            answer.flags = 0;
        }
        // SAFETY: the kernel reads one answer from it. It fails if the thread was killed meanwhile.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
        true
    }
}

/// Hands every call over but those that are none of ours.
fn program() -> Vec<libc::sock_filter> {
    let statement = |code: u32, jt: usize, k: u32| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: 0,
        k,
    };
    // The number of the call is the first field of `struct seccomp_data`.
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (place, call) in NOT_OURS.iter().enumerate() {
        let to_allow = NOT_OURS.len() - place;
        program.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            to_allow,
            *call as u32,
        ));
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    program.push(statement(answer, 0, libc::SECCOMP_RET_USER_NOTIF));
    program.push(statement(answer, 0, libc::SECCOMP_RET_ALLOW));
    program
}
