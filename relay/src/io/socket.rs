//! A UDP socket that answers from the address it was asked on.
//!
//! With a wildcard address the system would choose the source of an answer by
//! its routes, and a client drops what comes from an address it did not ask.
//! So the packet information of each datagram goes back with its answer
//! (ip(7) `IP_PKTINFO`, RFC 3542 section 6.2).
#![allow(unsafe_code, reason = "recvmsg and sendmsg with control messages")]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

/// Room for one `in6_pktinfo` control message, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Where a datagram came from, and which own address it was sent to.
pub(super) struct Meta {
    pub(super) source: SocketAddr,
    local: Option<Local>,
}

#[derive(Clone, Copy)]
enum Local {
    V4(libc::in_addr),
    V6(libc::in6_addr),
}

/// The socket.
pub(super) struct Socket(UdpSocket);

impl Socket {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, `on` is a c_int and lives through the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        check(result as isize)?;
        Ok(Self(socket))
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for one datagram; what does not fit `buffer` is cut off.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Meta)> {
        // SAFETY: all-zero is a value of these C structures.
        let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut control = Control([0; 64]);
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: as above.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        // SAFETY: every pointer in `message` is to a live local of the stated length.
        let len = check(unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) })?;
        let source = read_address(&name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no source address"))?;
        let local = read_local(&message);
        Ok((len, Meta { source, local }))
    }

    /// Answers a datagram.
    pub(super) fn send(&self, bytes: &[u8], meta: &Meta) -> io::Result<()> {
        let (name, name_len) = write_address(meta.source);
        let mut control = Control([0; 64]);
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a value of this C structure.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw const name).cast_mut().cast();
        message.msg_namelen = name_len;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if let Some(local) = meta.local {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
            message.msg_controllen = write_local(&message, local) as _;
        }
        // SAFETY: every pointer in `message` is to a live local of the stated
        // length; sendmsg only reads through them.
        check(unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, 0) })?;
        Ok(())
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn read_local(message: &libc::msghdr) -> Option<Local> {
    // SAFETY: the kernel filled the control buffer that `message` describes;
    // the CMSG macros stay inside it, and data is read unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            let data = libc::CMSG_DATA(header);
            match (control.cmsg_level, control.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = data.cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Local::V4(info.ipi_spec_dst));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Local::V6(info.ipi6_addr));
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    None
}

/// Writes the control message; returns its length. The interface stays open:
/// the answer may leave by another one.
fn write_local(message: &libc::msghdr, local: Local) -> usize {
    // SAFETY: the control buffer has 64 bytes, enough for either structure and
    // its header; CMSG_FIRSTHDR is not null because msg_controllen says so.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        let data = libc::CMSG_DATA(header);
        let len = match local {
            Local::V4(address) => {
                let mut info: libc::in_pktinfo = mem::zeroed();
                info.ipi_spec_dst = address;
                (*header).cmsg_level = libc::IPPROTO_IP;
                (*header).cmsg_type = libc::IP_PKTINFO;
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
                size_of::<libc::in_pktinfo>()
            }
            Local::V6(address) => {
                let mut info: libc::in6_pktinfo = mem::zeroed();
                info.ipi6_addr = address;
                (*header).cmsg_level = libc::IPPROTO_IPV6;
                (*header).cmsg_type = libc::IPV6_PKTINFO;
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
                size_of::<libc::in6_pktinfo>()
            }
        };
        (*header).cmsg_len = libc::CMSG_LEN(len as u32) as _;
        libc::CMSG_SPACE(len as u32) as usize
    }
}

pub(super) fn read_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel wrote here.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

pub(super) fn write_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a value of this C structure.
    let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let len = match address {
        SocketAddr::V4(address) => {
            let place = (&raw mut name).cast::<libc::sockaddr_in>();
            // SAFETY: sockaddr_storage is large enough and aligned for it.
            unsafe {
                (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                (*place).sin_port = address.port().to_be();
                (*place).sin_addr.s_addr = address.ip().to_bits().to_be();
            }
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let place = (&raw mut name).cast::<libc::sockaddr_in6>();
            // SAFETY: as above.
            unsafe {
                (*place).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*place).sin6_port = address.port().to_be();
                (*place).sin6_flowinfo = address.flowinfo();
                (*place).sin6_scope_id = address.scope_id();
                (*place).sin6_addr.s6_addr = address.ip().octets();
            }
            size_of::<libc::sockaddr_in6>()
        }
    };
    (name, len as libc::socklen_t)
}
