//! Internet sockets: addresses as the kernel writes them, options, and the mark.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::os::check;

/// Every packet of the agent itself carries this mark, so that a rule can keep
/// it out of the mesh (an exit route would send the tunnel through the tunnel).
pub(crate) const MARK: u32 = 0x57;

/// An address as system calls take it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl RawAddress {
    /// Room for an address that a system call writes.
    pub(crate) const fn empty() -> Self {
        Self {
            // SAFETY: all bytes zero is a valid sockaddr_storage.
            storage: unsafe { core::mem::zeroed() },
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    /// The address to read, or `None` for another family.
    pub(crate) fn get(&self) -> Option<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that a sockaddr_in was written here,
                // and the storage is longer and aligned for every address.
                let raw: &libc::sockaddr_in = unsafe { &*(&raw const self.storage).cast() };
                let address = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                let port = u16::from_be(raw.sin_port);
                Some(SocketAddr::V4(SocketAddrV4::new(address, port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, with a sockaddr_in6.
                let raw: &libc::sockaddr_in6 = unsafe { &*(&raw const self.storage).cast() };
                let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    address,
                    u16::from_be(raw.sin6_port),
                    raw.sin6_flowinfo,
                    raw.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                // SAFETY: the storage is longer than a sockaddr_in and aligned
                // for it.
                let out: &mut libc::sockaddr_in = unsafe { &mut *(&raw mut raw.storage).cast() };
                out.sin_family = libc::AF_INET as libc::sa_family_t;
                out.sin_port = address.port().to_be();
                out.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                raw.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(address) => {
                // SAFETY: as above, with a sockaddr_in6.
                let out: &mut libc::sockaddr_in6 = unsafe { &mut *(&raw mut raw.storage).cast() };
                out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                out.sin6_port = address.port().to_be();
                out.sin6_flowinfo = address.flowinfo();
                out.sin6_addr.s6_addr = address.ip().octets();
                out.sin6_scope_id = address.scope_id();
                raw.len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        raw
    }
}

/// Opens a non-blocking socket for the family of `address`.
///
/// # Errors
///
/// What `socket(2)` reports.
pub(crate) fn open(
    address: &SocketAddr,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::socket(family, kind, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets an option whose value is a number.
///
/// # Errors
///
/// What `setsockopt(2)` reports.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is one int, as its length says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// Reads an option whose value is a number.
///
/// # Errors
///
/// What `getsockopt(2)` reports.
pub(crate) fn get_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one int, as its length says.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    };
    check(result).map(|_| value)
}

/// What the kernel has counted of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Bytes sent, those that were sent again too; before Linux 4.19 those that
    /// were acknowledged.
    pub(crate) bytes_sent: u64,
    /// Bytes received, each once.
    pub(crate) bytes_received: u64,
    /// Segments, those without data too.
    pub(crate) segments_out: u32,
    pub(crate) segments_in: u32,
}

/// Reads `TCP_INFO` (`struct tcp_info` of `linux/tcp.h`, which grows at its end).
///
/// # Errors
///
/// What `getsockopt(2)` reports, `Unsupported` before Linux 4.2.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    const ACKNOWLEDGED: usize = 120;
    const RECEIVED: usize = 128;
    const OUT: usize = 136;
    const IN: usize = 140;
    const SENT: usize = 200;
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    check(result)?;
    let info = info.get(..len as usize).unwrap_or(&info);
    let long = |at: usize| {
        let bytes = info.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map(|bytes| u64::from_ne_bytes(*bytes))
    };
    let short = |at: usize| {
        let bytes = info.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map(|bytes| u32::from_ne_bytes(*bytes))
    };
    let read = || {
        Some(TcpInfo {
            bytes_sent: long(SENT).or_else(|| long(ACKNOWLEDGED))?,
            bytes_received: long(RECEIVED)?,
            segments_out: short(OUT)?,
            segments_in: short(IN)?,
        })
    };
    read().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Reads and clears the pending error of a socket.
///
/// # Errors
///
/// The pending error, or what `getsockopt(2)` reports.
pub(crate) fn take_error(socket: BorrowedFd<'_>) -> io::Result<()> {
    let code = get_option(socket, libc::SOL_SOCKET, libc::SO_ERROR)?;
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Marks a socket as the agent's own ([`MARK`]). Without the right to (a
/// rootless container) the socket works unmarked.
pub(crate) fn mark(socket: BorrowedFd<'_>) {
    drop(set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, MARK as libc::c_int));
}

/// Binds a socket to an address.
///
/// # Errors
///
/// What `bind(2)` reports.
pub(crate) fn bind(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::from(address);
    // SAFETY: the address has the length that `len` says.
    let result =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw.storage).cast(), raw.len) };
    check(result).map(drop)
}

/// Begins to connect a non-blocking socket; `Ok(false)` while it is under way.
///
/// # Errors
///
/// What `connect(2)` reports.
pub(crate) fn connect(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<bool> {
    let raw = RawAddress::from(address);
    // SAFETY: the address has the length that `len` says.
    let result =
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw.storage).cast(), raw.len) };
    match check(result) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The address that a socket is bound to.
///
/// # Errors
///
/// What `getsockname(2)` reports, `InvalidData` for a family of another kind.
pub(crate) fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut raw = RawAddress::empty();
    // SAFETY: the storage has the length that `len` says.
    let result = unsafe {
        libc::getsockname(socket.as_raw_fd(), (&raw mut raw.storage).cast(), &raw mut raw.len)
    };
    check(result)?;
    raw.get().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["203.0.113.9:51871", "[2001:db8::7]:1", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::from(address).get(), Some(address));
        }
        assert_eq!(RawAddress::empty().get(), None);
    }
}
