//! Connections from an address of one's choice, which std cannot open.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::check;

/// Connects to an IPv4 address from one of this host's. Closing it says nothing
/// and leaves nothing behind: thousands a second would use up the ports.
///
/// # Errors
///
/// What the system says; IPv6 is not taken.
pub(crate) fn connect_from(
    from: Ipv4Addr,
    to: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let IpAddr::V4(address) = to.ip() else {
        return Err(io::Error::other("an IPv4 address is needed"));
    };
    // SAFETY: socket takes integers; the descriptor is new and owned by us alone.
    let socket = unsafe {
        let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, flags, 0))?)
    };
    let fd = socket.as_raw_fd();
    // The port is chosen by the whole connection and not by the address alone.
    set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32)?;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
    // Also bounds connect (socket(7)).
    let time = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)?;
    let (from, to) =
        (place(SocketAddrV4::new(from, 0)), place(SocketAddrV4::new(address, to.port())));
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both addresses are live locals of the length given.
    unsafe {
        check(libc::bind(fd, (&raw const from).cast(), len))?;
        check(libc::connect(fd, (&raw const to).cast(), len))?;
    }
    Ok(TcpStream::from(socket))
}

fn set<T>(fd: RawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is live and of the length given.
    check(unsafe { libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), len) })?;
    Ok(())
}

fn place(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_other_side_sees_the_address_that_was_chosen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let from = Ipv4Addr::new(127, 0, 0, 9);
        let stream = connect_from(from, to, Duration::from_secs(5)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!((peer.ip(), peer.port()), (from.into(), stream.local_addr().unwrap().port()));
    }
}
