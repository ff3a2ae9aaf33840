//! Ctrl-C and its relatives, and signals to our own processes.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::check;
use crate::clock;

static ASKED_TO_STOP: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    // The second one ends at once: the next start cleans up.
    if ASKED_TO_STOP.fetch_add(1, Ordering::AcqRel) > 0 {
        // SAFETY: _exit may be called in a signal handler.
        unsafe { libc::_exit(130) }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP ask for an orderly end.
///
/// # Errors
///
/// What the system says.
pub(crate) fn catch() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zero is a value of this structure (no flags, empty mask);
        // no SA_RESTART, so that waits end early. The handler only touches an
        // atomic and _exit.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
        }
    }
    Ok(())
}

/// Whether somebody asked.
pub(crate) fn asked_to_stop() -> bool {
    ASKED_TO_STOP.load(Ordering::Acquire) > 0
}

/// The stop was the normal end of a part: the next one is the first again.
pub(crate) fn forget() {
    ASKED_TO_STOP.store(0, Ordering::Release);
}

/// Waits between two things that happen once a second; a signal ends it early.
pub(crate) fn rest(time: Duration) {
    let until = clock::now() + time;
    while !asked_to_stop() {
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left.min(Duration::from_millis(50)));
    }
}

/// Ends a process of ours: with time to clean up, or at once.
///
/// # Errors
///
/// What the system says; a process that is gone is no error.
pub(crate) fn end(pid: u32, at_once: bool) -> io::Result<()> {
    send(pid, if at_once { libc::SIGKILL } else { libc::SIGTERM })
}

/// Stops a process of ours in its place, or lets it go on.
///
/// # Errors
///
/// What the system says; a process that is gone is no error.
pub(crate) fn freeze(pid: u32, frozen: bool) -> io::Result<()> {
    send(pid, if frozen { libc::SIGSTOP } else { libc::SIGCONT })
}

fn send(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers.
    match check(unsafe { libc::kill(pid, signal) }) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
        _ => Ok(()),
    }
}

/// Whether a process is over: gone, or waiting for its parent to hear of it.
/// Its files are closed then, which is not so when it has left its namespaces.
pub(crate) fn has_ended(pid: u32) -> bool {
    // The name in brackets may hold anything; the state stands behind it.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('Z' | 'X') | None)
    })
}

/// The caller's effective user.
pub(crate) fn uid() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
