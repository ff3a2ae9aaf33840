//! Rights: what the process has, and giving away what it does not need.

use std::io;

use crate::os::check;

/// `CAP_NET_ADMIN` of `linux/capability.h`: the mesh interface, routes, marks.
const CAP_NET_ADMIN: u32 = 12;
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn effective() -> io::Result<u64> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes one header and writes two data records.
    let result = unsafe {
        libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr().cast::<libc::c_void>())
    };
    check(result as libc::c_int)?;
    Ok(u64::from(data[0].effective) | u64::from(data[1].effective) << 32)
}

fn has(capability: u32) -> bool {
    // Without an answer the honest guess is "no": the text then names the right.
    effective().is_ok_and(|set| set >> capability & 1 == 1)
}

/// Whether this process may make interfaces and routes.
pub(crate) fn has_net_admin() -> bool {
    has(CAP_NET_ADMIN)
}

/// The effective user id.
pub(crate) fn uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Keeps `CAP_NET_ADMIN` alone, for ever: nothing this process runs later can
/// gain a right, and no other process may read its memory. Called once
/// everything that needs more is open.
///
/// # Errors
///
/// What `capset(2)` reports; the bounding set is reduced as far as allowed.
pub(crate) fn drop_to_net_admin() -> io::Result<()> {
    // SAFETY: prctl with these options takes plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Keys are in this memory: no core file, no ptrace by the same user.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        for capability in (0..64).filter(|&capability| capability != CAP_NET_ADMIN) {
            // Needs CAP_SETPCAP and ends at the last capability the kernel
            // knows; without either, the capset below is what counts.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    }
    let keep = 1 << CAP_NET_ADMIN & (effective()? as u32);
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [Data { effective: keep, permitted: keep, inheritable: 0 }, Data::default()];
    // SAFETY: version 3 takes one header and two data records.
    let result = unsafe {
        libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr().cast::<libc::c_void>())
    };
    check(result as libc::c_int).map(drop)
}
