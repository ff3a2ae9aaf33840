//! Routing netlink (rtnetlink(7)), as far as an agent needs it: one request and
//! its acknowledgement, dumps, and a socket that hears of changes.
//!
//! Written by hand because the crates for it bring an async runtime or a model
//! of the whole protocol; this is a header, a payload and attributes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::os::{check, check_len};

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// One dump datagram of the kernel is at most 32 KiB (`NLMSG_GOODSIZE` grows
/// with the reader's buffer up to that).
const BUFFER_LEN: usize = 32 * 1024;

/// Rounds up to netlink's alignment of 4 bytes.
const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// A message on its way to the kernel.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of this kind (`RTM_*`) and flags (`NLM_F_*`) with its fixed
    /// payload (`ifinfomsg`, `ifaddrmsg`, `rtmsg`).
    pub(crate) fn new(kind: u16, flags: libc::c_int, payload: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(align(bytes.len()), 0);
        Self { bytes }
    }

    /// Appends an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (ATTRIBUTE_HEADER_LEN + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nested(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let inner = inner(Self { bytes: Vec::new() });
        self.attribute(kind, &inner.bytes)
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a> {
    /// `RTM_*`.
    pub(crate) kind: u16,
    /// Everything after the header.
    pub(crate) payload: &'a [u8],
    sequence: u32,
}

impl<'a> Reply<'a> {
    /// The attributes after a fixed payload of `fixed` bytes.
    pub(crate) fn attributes(&self, fixed: usize) -> Attributes<'a> {
        Attributes(self.payload.get(align(fixed)..).unwrap_or(&[]))
    }
}

/// Iterates over attributes; ends at the first that is not whole.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Attributes inside an attribute.
    pub(crate) const fn nested(value: &'a [u8]) -> Self {
        Self(value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (len, rest) = self.0.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or(&[]);
        // The two upper bits are flags (nested, byte order).
        Some((u16::from_ne_bytes(*kind) & 0x3FFF, value))
    }
}

/// Iterates over the messages of one datagram.
struct Replies<'a>(&'a [u8]);

impl<'a> Iterator for Replies<'a> {
    type Item = Reply<'a>;

    fn next(&mut self) -> Option<Reply<'a>> {
        let header = self.0.first_chunk::<HEADER_LEN>()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = self.0.get(HEADER_LEN..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or(&[]);
        Some(Reply {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            payload,
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
        })
    }
}

/// A routing netlink socket.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket for requests.
    ///
    /// # Errors
    ///
    /// What `socket(2)` reports.
    pub(crate) fn open() -> io::Result<Self> {
        Self::subscribe(0)
    }

    /// Opens a socket that hears of changes in `groups` (`RTMGRP_*`).
    ///
    /// # Errors
    ///
    /// What `socket(2)` or `bind(2)` reports.
    pub(crate) fn subscribe(groups: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new descriptor; the address is a valid sockaddr_nl.
        unsafe {
            let fd = check(libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            ))?;
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_nl = core::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            address.nl_groups = groups as u32;
            check(libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            ))?;
            Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_LEN] })
        }
    }

    fn send(&mut self, request: Request) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        // SAFETY: the pointer and length describe `bytes`.
        let result =
            unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        check_len(result)?;
        Ok(self.sequence)
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: the pointer and length describe the buffer.
        let result = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                flags,
            )
        };
        check_len(result)
    }

    /// Sends a request and waits for its acknowledgement (the kernel answers
    /// at once).
    ///
    /// # Errors
    ///
    /// The error that the kernel answered.
    pub(crate) fn execute(&mut self, mut request: Request) -> io::Result<()> {
        let flags = u16::from_ne_bytes([request.bytes[6], request.bytes[7]]);
        let flags = flags | libc::NLM_F_ACK as u16;
        request.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.exchange(request, |_| {})
    }

    /// Sends a request and hands every message of the answer to `each`.
    ///
    /// # Errors
    ///
    /// The error that the kernel answered.
    pub(crate) fn dump(&mut self, request: Request, each: impl FnMut(Reply<'_>)) -> io::Result<()> {
        self.exchange(request, each)
    }

    fn exchange(&mut self, request: Request, mut each: impl FnMut(Reply<'_>)) -> io::Result<()> {
        let sequence = self.send(request)?;
        loop {
            let len = self.receive(0)?;
            for reply in Replies(&self.buffer[..len]) {
                if reply.sequence != sequence {
                    continue;
                }
                match libc::c_int::from(reply.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = reply.payload.first_chunk().map_or(0, |code| {
                            // The kernel writes -errno, and 0 for "done".
                            -i32::from_ne_bytes(*code)
                        });
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(code))
                        };
                    }
                    _ => each(reply),
                }
            }
        }
    }

    /// Reads what a subscribed socket heard, without waiting (an overrun counts
    /// as everything: something changed then).
    pub(crate) fn drain(&mut self) -> Heard {
        let mut heard = Heard::Nothing;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(len) => heard = Replies(&self.buffer[..len]).map(judge).fold(heard, Heard::max),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = Heard::Links,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return heard,
            }
        }
    }
}

/// What a subscribed socket heard of; the later includes the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heard {
    /// Nothing that matters here.
    Nothing,
    /// Routes of the main table: a routing daemon may change many, and often.
    Routes,
    /// Links or addresses.
    Links,
}

/// Of routes only those count that [`crate::net::host::HostView`] reads.
fn judge(reply: Reply<'_>) -> Heard {
    match reply.kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => match reply.payload.first_chunk::<8>() {
            Some(head) if head[4] == libc::RT_TABLE_MAIN && head[7] == libc::RTN_UNICAST => {
                Heard::Routes
            }
            _ => Heard::Nothing,
        },
        _ => Heard::Links,
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_and_a_cut_one_ends_the_walk() {
        let request = Request::new(16, 0, &[0; 16])
            .attribute(3, b"weft0\0")
            .nested(26, |inner| inner.attribute(10, &[1]));
        let bytes = request.finish(7);
        assert_eq!(bytes.len() % 4, 0);
        let reply = Replies(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.sequence), (16, 7));
        let all: Vec<_> = reply.attributes(16).collect();
        assert_eq!(all[0], (3, &b"weft0\0"[..]));
        assert_eq!(Attributes::nested(all[1].1).next(), Some((10, &[1][..])));
        assert_eq!(Attributes::nested(&[9, 0, 1, 0, 5]).next(), None);
        assert_eq!(Replies(&bytes[..20]).count(), 0);
    }

    #[test]
    fn only_routes_of_the_main_table_matter() {
        let heard = |kind, payload: &[u8]| judge(Reply { kind, payload, sequence: 0 });
        let route = |table, kind| [0, 24, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        let main = route(libc::RT_TABLE_MAIN, libc::RTN_UNICAST);
        assert_eq!(heard(libc::RTM_NEWROUTE, &main), Heard::Routes);
        assert_eq!(heard(libc::RTM_DELROUTE, &main), Heard::Routes);
        let local = route(libc::RT_TABLE_LOCAL, libc::RTN_LOCAL);
        assert_eq!(heard(libc::RTM_NEWROUTE, &local), Heard::Nothing);
        assert_eq!(heard(libc::RTM_NEWROUTE, &route(42, libc::RTN_UNICAST)), Heard::Nothing);
        assert_eq!(heard(libc::RTM_NEWADDR, &[0; 8]), Heard::Links);
        assert!(Heard::Nothing < Heard::Routes && Heard::Routes < Heard::Links);
    }

    #[test]
    fn the_kernel_lists_the_loopback_interface() {
        let mut netlink = Netlink::open().unwrap();
        let mut names = Vec::new();
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]);
        netlink
            .dump(request, |reply| {
                names.extend(
                    reply
                        .attributes(16)
                        .filter(|&(kind, _)| kind == libc::IFLA_IFNAME)
                        .map(|(_, name)| name.to_vec()),
                );
            })
            .unwrap();
        assert!(names.contains(&b"lo\0".to_vec()), "{names:?}");
    }
}
