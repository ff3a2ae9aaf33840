//! The two clocks of the agent, and the only place that reads them.

use std::io;

/// Reads a clock that the kernel always has.
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    // Both clocks exist since Linux 2.6.39; only a broken sandbox refuses them,
    // and an agent without time cannot do anything.
    assert!(result == 0, "clock_gettime({clock}): {}", io::Error::last_os_error());
    time
}

/// Microseconds since boot, suspend included (`CLOCK_BOOTTIME`): a lease runs
/// out and a session grows old while the machine sleeps.
pub(crate) fn boot_micros() -> u64 {
    let time = read(libc::CLOCK_BOOTTIME);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Unix time in milliseconds as this machine believes it. Not trusted for any
/// decision about keys: only for log lines and for showing moments.
pub(crate) fn unix_millis() -> u64 {
    let time = read(libc::CLOCK_REALTIME);
    time.tv_sec.max(0) as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

/// Seconds east of UTC at `unix_s`, by this machine's time zone.
pub(crate) fn utc_offset(unix_s: i64) -> i32 {
    let time = unix_s as libc::time_t;
    // SAFETY: a zeroed tm is a valid tm; localtime_r writes only to it.
    unsafe {
        let mut parts: libc::tm = core::mem::zeroed();
        if libc::localtime_r(&raw const time, &raw mut parts).is_null() {
            return 0;
        }
        parts.tm_gmtoff as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_does_not_go_back() {
        let first = boot_micros();
        assert!(boot_micros() >= first);
        assert!(first > 0);
    }
}
