//! What the laboratory asks of the kernel: namespaces, packet sockets, echo
//! requests, signals. The only module with `unsafe`, each behind a safe call.
#![allow(unsafe_code, reason = "system calls without a wrapper in std")]

pub(crate) mod capture;
pub(crate) mod door;
pub(crate) mod echo;
pub(crate) mod flood;
pub(crate) mod namespace;
pub(crate) mod packet;
pub(crate) mod signal;
pub(crate) mod tcp;
pub(crate) mod wire;

use std::io;

/// Hour, minute and second here, of seconds since 1970.
pub(crate) fn local_time(seconds: u64) -> (i32, i32, i32) {
    let seconds = seconds as libc::time_t;
    // SAFETY: all-zero is a value of this structure; both pointers are to live
    // locals.
    let time = unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut time);
        time
    };
    (time.tm_hour, time.tm_min, time.tm_sec)
}

/// Puts the calling thread before every ordinary one that wants the processor.
fn hurry() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure is a live local; 0 means the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) })?;
    Ok(())
}

/// As many open files as the system lets this process have.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is a live local.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(())
}

/// A system call's result as std's.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
