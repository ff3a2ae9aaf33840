//! The WireGuard sockets: one for IPv4, one for IPv6, one port. Datagrams come
//! and go in batches, one system call each.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use weft_agent_core::event::SocketId;

use crate::net::nat64::Prefix;
use crate::net::socket::{self, RawAddress};
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::{check, would_block};

/// Datagrams of one system call.
pub(crate) const BATCH: usize = 32;

/// The longest datagram: an inner packet of 1,420 B with its header, tag and
/// padding, with room to see that something is longer. Longer ones are dropped.
pub(crate) const DATAGRAM_LEN: usize = 2_048;

/// What may go before a datagram: a relay's channel.
const BEFORE: usize = 4;
/// The longest datagram that is sent.
pub(crate) const SENT_LEN: usize = DATAGRAM_LEN - BEFORE;

/// The IPv4 socket's number for the agent.
pub(crate) const SOCKET_V4: SocketId = SocketId(0);
/// The IPv6 socket's.
pub(crate) const SOCKET_V6: SocketId = SocketId(1);
/// Sockets that may be open beside these, see [`UdpPair::extra`].
pub(crate) const EXTRA_SOCKETS: u8 = 250;

/// How many ports beyond the usual one are tried.
const PORTS_TRIED: u16 = 64;

/// Bytes of kernel buffer that each direction should have: about 50 ms of
/// 1 Gbit/s. Granted in full only with the right to.
const KERNEL_BUFFER: libc::c_int = 7 * 1024 * 1024;

/// One UDP socket.
pub(crate) struct UdpSocket {
    fd: OwnedFd,
}

impl UdpSocket {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let fd = socket::open(&address, libc::SOCK_DGRAM, 0)?;
        let borrowed = fd.as_fd();
        socket::mark(borrowed);
        if address.is_ipv6() {
            socket::set_option(borrowed, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        // An outer packet that is too long is better cut into fragments than
        // lost: the kernel's WireGuard does not set "don't fragment" either.
        let (level, name) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        socket::set_option(borrowed, level, name, libc::IP_PMTUDISC_DONT)?;
        for (forced, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if socket::set_option(borrowed, libc::SOL_SOCKET, forced, KERNEL_BUFFER).is_err() {
                // Without the right the kernel caps it; smaller is only slower.
                drop(socket::set_option(borrowed, libc::SOL_SOCKET, plain, KERNEL_BUFFER));
            }
        }
        socket::bind(borrowed, address)?;
        Ok(Self { fd })
    }

    /// Receives up to [`BATCH`] datagrams without waiting; `Ok(0)` when there
    /// are none.
    ///
    /// # Errors
    ///
    /// What `recvmmsg(2)` reports.
    pub(crate) fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        batch.prepare();
        // SAFETY: every header points into buffers of the same batch, which
        // outlive the call.
        let result = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                core::ptr::null_mut(),
            )
        };
        match check(result) {
            Ok(count) => Ok(count as usize),
            Err(error) if would_block(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Sends part of a batch. Returns how many the kernel took.
    fn send(&self, headers: &mut [libc::mmsghdr]) -> usize {
        let mut sent = 0;
        let mut at = 0;
        while let Some(rest) = headers.get_mut(at..).filter(|rest| !rest.is_empty()) {
            // SAFETY: every header points into buffers of its batch, which
            // outlive the call.
            let result = unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match check(result) {
                Ok(count) => {
                    sent += count as usize;
                    at += count as usize;
                }
                // The first of the rest cannot be sent; the others may.
                Err(_) => at += 1,
            }
        }
        sent
    }

    /// The port in use.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` reports.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(socket::local_address(self.fd.as_fd())?.port())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Both sockets of the agent.
pub(crate) struct UdpPair {
    pub(crate) v4: UdpSocket,
    /// `None` on a host without IPv6.
    pub(crate) v6: Option<UdpSocket>,
    pub(crate) port: u16,
    /// At other ports, for a while: of IPv4, or of IPv6 where that is translated.
    pub(crate) extra: BTreeMap<SocketId, UdpSocket>,
    /// Where IPv4 addresses lie, on a host that has IPv6 alone: what is sent from the
    /// IPv4 socket goes there from the IPv6 socket.
    pub(crate) translator: Option<Prefix>,
}

impl UdpPair {
    fn bind_port(port: u16) -> io::Result<Self> {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let port = v4.port()?;
        let v6 = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port).into()) {
            Ok(socket) => Some(socket),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6, port, extra: BTreeMap::new(), translator: None })
    }

    /// Binds `port` and nothing else.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when another program has it.
    pub(crate) fn bind_exactly(port: u16) -> io::Result<Self> {
        Self::bind_port(port)
    }

    /// Binds `first` or the next port that is free for both families; after
    /// some tries any free port.
    ///
    /// # Errors
    ///
    /// What `bind(2)` reports, if it is not that a port is taken.
    pub(crate) fn bind_from(first: u16) -> io::Result<Self> {
        let last = first.saturating_add(PORTS_TRIED);
        for port in first..=last {
            match Self::bind_port(port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other,
            }
        }
        Self::bind_port(0)
    }

    /// Opens a socket at any port, for what is sent to IPv4 addresses.
    ///
    /// # Errors
    ///
    /// What `socket(2)` or `bind(2)` reports: the process may have no descriptor
    /// left.
    pub(crate) fn open_extra(&mut self, number: SocketId) -> io::Result<()> {
        let any = match self.translator {
            None => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Some(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        self.extra.insert(number, UdpSocket::bind(any)?);
        Ok(())
    }

    /// The socket, and the address, by which a datagram goes.
    pub(crate) fn outwards(&self, from: SocketId, to: SocketAddr) -> (SocketId, SocketAddr) {
        match self.translator.filter(|_| to.is_ipv4()) {
            None => (from, to),
            Some(prefix) if from == SOCKET_V4 => (SOCKET_V6, prefix.outwards(to)),
            Some(prefix) => (from, prefix.outwards(to)),
        }
    }

    /// Where a datagram came in, and from whom, as if nobody translated.
    pub(crate) fn inwards(&self, at: SocketId, from: SocketAddr) -> (SocketId, SocketAddr) {
        let Some(prefix) = self.translator else { return (at, from) };
        let source = prefix.inwards(from);
        if at == SOCKET_V6 && source.is_ipv4() { (SOCKET_V4, source) } else { (at, source) }
    }

    /// Adds the sockets at other ports to the next wait.
    pub(crate) fn register_extra(&self, set: &mut PollSet) -> Vec<(SocketId, Place)> {
        let add = |(&number, socket): (&SocketId, &UdpSocket)| {
            (number, set.add(socket.as_fd(), Interest::READ))
        };
        self.extra.iter().map(add).collect()
    }

    /// The socket with a number; `None` if there is none.
    pub(crate) fn socket(&self, number: SocketId) -> Option<&UdpSocket> {
        match number {
            SOCKET_V4 => Some(&self.v4),
            SOCKET_V6 => self.v6.as_ref(),
            other => self.extra.get(&other),
        }
    }

    /// Sends a batch, each datagram from its socket. Returns how
    /// many the kernel took; the rest is lost (a full queue or an unreachable
    /// network loses datagrams, as any network does).
    pub(crate) fn send(&self, batch: &mut SendBatch) -> usize {
        let mut sent = 0;
        let mut start = 0;
        while start < batch.len {
            let from = batch.from[start];
            let same = batch.from[start..batch.len].iter().take_while(|&&other| other == from);
            let end = start + same.count();
            let socket = self.socket(from);
            if let Some(socket) = socket {
                sent += socket.send(&mut batch.headers[start..end]);
            }
            start = end;
        }
        sent
    }
}

/// Buffers for [`UdpSocket::receive`].
pub(crate) struct ReceiveBatch {
    buffers: Box<[[u8; DATAGRAM_LEN]; BATCH]>,
    addresses: Box<[RawAddress; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

/// Makes a zeroed array on the heap without a copy of it on the stack.
fn zeroed_buffers() -> Box<[[u8; DATAGRAM_LEN]; BATCH]> {
    let buffers = vec![[0u8; DATAGRAM_LEN]; BATCH].into_boxed_slice();
    match buffers.try_into() {
        Ok(buffers) => buffers,
        // The vector has just been made with this length.
        Err(_) => unreachable!("the length is BATCH"),
    }
}

impl ReceiveBatch {
    pub(crate) fn new() -> Self {
        // SAFETY: all bytes zero is a valid iovec and a valid mmsghdr.
        let (vectors, headers) = unsafe {
            (
                Box::new(core::mem::zeroed::<[libc::iovec; BATCH]>()),
                Box::new(core::mem::zeroed::<[libc::mmsghdr; BATCH]>()),
            )
        };
        Self {
            buffers: zeroed_buffers(),
            addresses: Box::new([RawAddress::empty(); BATCH]),
            vectors,
            headers,
        }
    }

    fn prepare(&mut self) {
        for at in 0..BATCH {
            self.vectors[at] = libc::iovec {
                iov_base: self.buffers[at].as_mut_ptr().cast(),
                iov_len: DATAGRAM_LEN,
            };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.addresses[at].storage).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_flags = 0;
        }
    }

    /// Datagram number `at` of the last receive, with its source; `None` when it
    /// was too long for the buffer.
    pub(crate) fn get(&mut self, at: usize) -> Option<(SocketAddr, &mut [u8])> {
        let header = self.headers.get(at)?;
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let source = self.addresses[at].get()?;
        let datagram = self.buffers[at].get_mut(..header.msg_len as usize)?;
        Some((source, datagram))
    }
}

// SAFETY: the pointers in the headers point into the boxes beside them, which
// move with their owner and stay where they are on the heap.
unsafe impl Send for ReceiveBatch {}

/// Buffers for [`UdpPair::send`].
pub(crate) struct SendBatch {
    buffers: Box<[[u8; DATAGRAM_LEN]; BATCH]>,
    addresses: Box<[RawAddress; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    from: [SocketId; BATCH],
    len: usize,
}

impl SendBatch {
    pub(crate) fn new() -> Self {
        // SAFETY: all bytes zero is a valid iovec and a valid mmsghdr.
        let (vectors, headers) = unsafe {
            (
                Box::new(core::mem::zeroed::<[libc::iovec; BATCH]>()),
                Box::new(core::mem::zeroed::<[libc::mmsghdr; BATCH]>()),
            )
        };
        Self {
            buffers: zeroed_buffers(),
            addresses: Box::new([RawAddress::empty(); BATCH]),
            vectors,
            headers,
            from: [SOCKET_V4; BATCH],
            len: 0,
        }
    }

    /// The buffer of the next datagram; `None` when the batch is full. There is
    /// room before it.
    pub(crate) fn buffer(&mut self) -> Option<&mut [u8; SENT_LEN]> {
        let buffer = self.buffers.get_mut(self.len)?;
        buffer.last_chunk_mut()
    }

    /// Takes the first `len` bytes of the last [`Self::buffer`], and `before` in
    /// front of them, as a datagram between the two.
    pub(crate) fn commit(
        &mut self,
        before: Option<[u8; BEFORE]>,
        len: usize,
        (from, to): (SocketId, SocketAddr),
    ) {
        let at = self.len;
        let Some(buffer) = self.buffers.get_mut(at) else {
            return;
        };
        let start = if let Some(before) = before {
            buffer[..BEFORE].copy_from_slice(&before);
            0
        } else {
            BEFORE
        };
        let Some(bytes) = buffer.get_mut(start..BEFORE + len) else {
            return;
        };
        self.vectors[at] =
            libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.addresses[at] = to.into();
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = (&raw mut self.addresses[at].storage).cast();
        header.msg_namelen = self.addresses[at].len;
        header.msg_iov = &raw mut self.vectors[at];
        header.msg_iovlen = 1;
        self.from[at] = from;
        self.len += 1;
    }

    /// Datagrams in the batch.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Whether [`Self::buffer`] has no more room.
    pub(crate) const fn is_full(&self) -> bool {
        self.len == BATCH
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

// SAFETY: as for `ReceiveBatch`.
unsafe impl Send for SendBatch {}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::os::poll::wait_one;

    #[test]
    fn a_batch_crosses_the_loopback_and_a_taken_port_is_skipped() {
        let first = UdpPair::bind_port(0).unwrap();
        let second = UdpPair::bind_from(first.port).unwrap();
        assert_ne!(first.port, second.port);
        assert_eq!(
            UdpPair::bind_exactly(first.port).err().map(|e| e.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, second.port));
        let mut batch = SendBatch::new();
        for len in 1..=BATCH {
            batch.buffer().unwrap()[..len].fill(len as u8);
            let before = (len % 2 == 0).then_some([len as u8; BEFORE]);
            batch.commit(before, len, (SOCKET_V4, to));
        }
        assert!(batch.buffer().is_none());
        assert_eq!(first.send(&mut batch), BATCH);
        let mut received = ReceiveBatch::new();
        let mut seen = 0;
        while seen < BATCH {
            assert!(wait_one(second.v4.as_fd(), Interest::READ, Some(5_000_000)).unwrap());
            let count = second.v4.receive(&mut received).unwrap();
            for at in 0..count {
                let (source, datagram) = received.get(at).unwrap();
                seen += 1;
                assert_eq!(source.port(), first.port);
                let before = if seen % 2 == 0 { BEFORE } else { 0 };
                assert_eq!(datagram, vec![seen as u8; before + seen]);
            }
        }
        assert_eq!(second.v4.receive(&mut received).unwrap(), 0);
    }

    #[test]
    fn what_is_for_ipv4_goes_by_the_translator() {
        let mut pair = UdpPair::bind_port(0).unwrap();
        let four: SocketAddr = "203.0.113.7:51871".parse().unwrap();
        let there: SocketAddr = "[2001:db8:64::203.0.113.7]:51871".parse().unwrap();
        let other: SocketAddr = "[2001:db8::7]:51871".parse().unwrap();
        assert_eq!(pair.outwards(SOCKET_V4, four), (SOCKET_V4, four));
        assert_eq!(pair.inwards(SOCKET_V6, there), (SOCKET_V6, there));
        pair.translator = Prefix::new("2001:db8:64::".parse().unwrap(), 96);
        let extra = SocketId(7);
        for (from, sent) in [(SOCKET_V4, SOCKET_V6), (extra, extra)] {
            assert_eq!(pair.outwards(from, four), (sent, there));
            assert_eq!(pair.inwards(sent, there), (from, four));
        }
        assert_eq!(pair.outwards(SOCKET_V6, other), (SOCKET_V6, other));
        assert_eq!(pair.inwards(SOCKET_V6, other), (SOCKET_V6, other));
    }

    #[test]
    fn one_bad_destination_does_not_stop_the_batch() {
        let pair = UdpPair::bind_port(0).unwrap();
        let good = SocketAddr::from((Ipv4Addr::LOCALHOST, pair.port));
        // No route leads to the unspecified address with port 0.
        let bad = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut batch = SendBatch::new();
        assert!(!batch.is_full());
        for to in [good, bad, good] {
            batch.buffer().unwrap()[0] = 1;
            batch.commit(None, 1, (SOCKET_V4, to));
        }
        assert_eq!(pair.send(&mut batch), 2);
    }
}
