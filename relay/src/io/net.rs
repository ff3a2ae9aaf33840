//! Datagrams in batches: many per system call, and bursts to one address as one
//! (udp(7) `UDP_SEGMENT`, `UDP_GRO`).
//!
//! Traversing the network stack is what a relayed packet costs, so packets that
//! came together go through it together, and so do packets that were waiting
//! when we came to read them.
#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and epoll")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::socket::{read_address, write_address};

/// Messages per receiving call.
const BATCH: usize = 32;
/// What the kernel joins at most.
const ROOM: usize = 65_536;
/// Messages per sending call.
const SENDS: usize = 64;
/// Parts of all messages of a sending call.
const PARTS: usize = 2_048;
/// The most packets of a burst, also for kernels before 6.9.
const MAX_SEGMENTS: u16 = 64;
/// The most bytes of a burst: what one IPv4 datagram might hold.
const MAX_BURST: usize = 65_000;
/// Bytes that are not in what was received: headers, answers.
const ARENA: usize = 32_768;

/// Room for packet information and a segment's size.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 96]);

/// A UDP socket.
pub(super) struct Datagrams {
    fd: OwnedFd,
    is_v6: bool,
    /// The bound address, unless that is a wildcard.
    bound: Option<IpAddr>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, `value` is a c_int and lives through the call.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })?;
    Ok(())
}

impl Datagrams {
    /// Binds. `buffer` bytes are asked for; the system gives what it allows.
    pub(super) fn bind(address: SocketAddr, buffer: Option<libc::c_int>) -> io::Result<Self> {
        let is_v6 = address.is_ipv6();
        let family = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket() takes no pointers; what it returns is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(family, kind, 0))?) };
        let raw = fd.as_raw_fd();
        let is_wildcard = address.ip().is_unspecified();
        if is_v6 {
            option(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, libc::c_int::from(!is_wildcard))?;
        }
        if is_wildcard {
            let (level, name) = if is_v6 {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
            } else {
                (libc::IPPROTO_IP, libc::IP_PKTINFO)
            };
            option(raw, level, name, 1)?;
        }
        if let Some(bytes) = buffer {
            option(raw, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
            option(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)?;
        }
        // A kernel before 5.0 does not know it, and hands packets in one by one.
        let _ = option(raw, libc::SOL_UDP, libc::UDP_GRO, 1);
        let (name, len) = write_address(address);
        // SAFETY: `name` holds an address of `len` bytes and lives through the call.
        check(unsafe { libc::bind(raw, (&raw const name).cast(), len) })?;
        Ok(Self { fd, is_v6, bound: (!is_wildcard).then(|| address.ip()) })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        // SAFETY: all-zero is a value of this C structure.
        let mut name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut len = size_of_val(&name) as libc::socklen_t;
        // SAFETY: both pointers are to live locals, `len` says how large `name` is.
        check(unsafe { libc::getsockname(self.raw(), (&raw mut name).cast(), &raw mut len) })?;
        read_address(&name).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// What was received in one call. Its pointers are to its own boxes, which stay
/// where they are.
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    _parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

/// One message: a packet, or several that the kernel joined.
pub(super) struct Received<'a> {
    pub(super) source: SocketAddr,
    /// The own address that it was sent to.
    pub(super) local: Option<IpAddr>,
    pub(super) bytes: &'a [u8],
    /// Bytes of each packet but the last.
    pub(super) segment: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let mut bytes = vec![0; BATCH * ROOM].into_boxed_slice();
        // SAFETY: all-zero is a value of these C structures.
        let (name, header): (libc::sockaddr_storage, libc::mmsghdr) = unsafe { mem::zeroed() };
        let mut names = vec![name; BATCH].into_boxed_slice();
        let mut controls = vec![Control([0; 96]); BATCH].into_boxed_slice();
        let mut parts: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(ROOM)
            .map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM })
            .collect();
        let mut headers = vec![header; BATCH].into_boxed_slice();
        for (index, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_name = (&raw mut names[index]).cast();
            header.msg_hdr.msg_iov = &raw mut parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut controls[index]).cast();
            header.msg_hdr.msg_namelen = size_of_val(&names[index]) as libc::socklen_t;
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        Self { bytes, names, controls, _parts: parts, headers }
    }

    /// Takes what waits, at most [`BATCH`] messages; returns how many.
    pub(super) fn receive(&mut self, socket: &Datagrams) -> io::Result<usize> {
        // SAFETY: every pointer in the headers is to a box of ours of the stated
        // length, which nobody else borrows during the call.
        let count = check(unsafe {
            libc::recvmmsg(
                socket.raw(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        })?;
        Ok(count as usize)
    }

    /// Message `index` of the last call; `None` for one without a source.
    pub(super) fn get(&mut self, index: usize, socket: &Datagrams) -> Option<Received<'_>> {
        let header = &mut self.headers[index];
        let source = read_address(&self.names[index]);
        let len = header.msg_len as usize;
        let mut local = socket.bound;
        let mut segment = 0;
        // SAFETY: the kernel filled the control buffer that the header describes;
        // the CMSG macros stay inside it, and data is read unaligned.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
            while let Some(control) = at.as_ref() {
                let data = libc::CMSG_DATA(at);
                match (control.cmsg_level, control.cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        segment = data.cast::<libc::c_int>().read_unaligned() as usize;
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        let bits = u32::from_be(info.ipi_spec_dst.s_addr);
                        local = Some(std::net::Ipv4Addr::from_bits(bits).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        local = Some(IpAddr::V6(ip).to_canonical());
                    }
                    _ => {}
                }
                at = libc::CMSG_NXTHDR(&raw const header.msg_hdr, at);
            }
        }
        // For the next call.
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_hdr.msg_controllen = size_of::<Control>() as _;
        let _ = &self.controls;
        let source = source?;
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let bytes = &self.bytes[index * ROOM..index * ROOM + len.min(ROOM)];
        let segment = if segment == 0 { bytes.len() } else { segment };
        Some(Received { source, local, bytes, segment })
    }
}

/// A message that is being put together.
#[derive(Clone, Copy)]
struct Message {
    to: SocketAddr,
    local: Option<IpAddr>,
    first_part: usize,
    parts: usize,
    /// Bytes of each packet but the last, and of the last.
    segment: usize,
    last: usize,
    count: u16,
    bytes: usize,
}

/// Packets for one socket, sent in one call. What they are made of has to stay
/// where it is until [`Outbox::flush`].
pub(super) struct Outbox {
    fd: RawFd,
    is_v6: bool,
    messages: Vec<Message>,
    parts: Vec<libc::iovec>,
    arena: Box<[u8]>,
    used: usize,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
    /// Packets that the system did not take.
    pub(super) lost: u64,
}

impl Outbox {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a value of these C structures.
        let (name, header): (libc::sockaddr_storage, libc::mmsghdr) = unsafe { mem::zeroed() };
        Self {
            fd: -1,
            is_v6: false,
            messages: Vec::with_capacity(SENDS),
            parts: Vec::with_capacity(PARTS),
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            names: vec![name; SENDS].into_boxed_slice(),
            controls: vec![Control([0; 96]); SENDS].into_boxed_slice(),
            headers: vec![header; SENDS].into_boxed_slice(),
            lost: 0,
        }
    }

    /// Adds a packet of these parts, out of `socket` to `to`: copied ones, then
    /// `body`, which is borrowed until [`Outbox::flush`], then `padding` zeros.
    ///
    /// # Safety
    ///
    /// `body` must stay where it is, unchanged, until the next `flush`.
    pub(super) unsafe fn push(
        &mut self,
        socket: &Datagrams,
        to: SocketAddr,
        local: Option<IpAddr>,
        head: &[u8],
        body: &[u8],
        padding: usize,
    ) {
        let copied = head.len() + padding;
        let is_full = self.messages.len() == SENDS
            || self.parts.len() + 3 > PARTS
            || self.used + copied > ARENA;
        if self.fd != socket.raw() || is_full {
            self.flush();
            self.fd = socket.raw();
            self.is_v6 = socket.is_v6;
        }
        let local = if socket.bound.is_some() { None } else { local };
        let size = copied + body.len();
        let begins =
            !self.messages.last_mut().is_some_and(|message| message.extend(to, local, size));
        if begins {
            let first_part = self.parts.len();
            let (segment, last, count, bytes) = (size, size, 1, size);
            let parts = 0;
            self.messages.push(Message {
                to,
                local,
                first_part,
                parts,
                segment,
                last,
                count,
                bytes,
            });
        }
        let before = self.parts.len();
        self.copy(head);
        if !body.is_empty() {
            let part =
                libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() };
            self.parts.push(part);
        }
        self.copy(&[0; 4][..padding.min(4)]);
        let added = self.parts.len() - before;
        if let Some(message) = self.messages.last_mut() {
            message.parts += added;
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let room = &mut self.arena[self.used..self.used + bytes.len()];
        room.copy_from_slice(bytes);
        let part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.parts.push(part);
        self.used += bytes.len();
    }

    /// Sends everything. What the system does not take is lost, as datagrams are.
    pub(super) fn flush(&mut self) {
        for index in 0..self.messages.len() {
            self.prepare(index);
        }
        let mut sent = 0;
        while sent < self.messages.len() {
            let rest = &mut self.headers[sent..self.messages.len()];
            // SAFETY: the headers point to names, controls and parts of ours, and
            // the parts to the arena or to bodies that `push` was promised.
            let result = check(unsafe {
                libc::sendmmsg(
                    self.fd,
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            });
            match result {
                Ok(count) => sent += count.max(1) as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.one_by_one(sent, &error);
                    sent += 1;
                }
            }
        }
        self.messages.clear();
        self.parts.clear();
        self.used = 0;
        self.fd = -1;
    }

    fn prepare(&mut self, index: usize) {
        let message = self.messages[index];
        let to = match (self.is_v6, message.to) {
            (true, SocketAddr::V4(to)) => {
                SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port())
            }
            (_, to) => to,
        };
        let (name, len) = write_address(to);
        self.names[index] = name;
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.names[index]).cast();
        header.msg_namelen = len;
        header.msg_iov = self.parts[message.first_part..].as_mut_ptr();
        header.msg_iovlen = message.parts as _;
        header.msg_control = std::ptr::null_mut();
        header.msg_controllen = 0;
        if message.count == 1 && message.local.is_none() {
            return;
        }
        header.msg_control = (&raw mut self.controls[index]).cast();
        header.msg_controllen = size_of::<Control>() as _;
        let segment = (message.count > 1).then_some(message.segment as u16);
        header.msg_controllen = write_control(header, message.local, self.is_v6, segment) as _;
    }

    /// A burst that the system does not take as one (longer than the route's
    /// MTU, no support) goes packet by packet.
    fn one_by_one(&mut self, index: usize, error: &io::Error) {
        let message = self.messages[index];
        let refused =
            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE));
        if message.count == 1 || !refused {
            self.lost += u64::from(message.count);
            return;
        }
        let mut header = self.headers[index].msg_hdr;
        header.msg_controllen = 0;
        header.msg_control = std::ptr::null_mut();
        if message.local.is_some() {
            header.msg_control = (&raw mut self.controls[index]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_controllen = write_control(&header, message.local, self.is_v6, None) as _;
        }
        let mut at = message.first_part;
        let end = at + message.parts;
        for packet in 0..message.count {
            let size = if packet + 1 == message.count { message.last } else { message.segment };
            let (mut bytes, first) = (0, at);
            while at < end && bytes < size {
                bytes += self.parts[at].iov_len;
                at += 1;
            }
            header.msg_iov = self.parts[first..at].as_mut_ptr();
            header.msg_iovlen = (at - first) as _;
            // SAFETY: as in `flush`; the parts are those of one packet.
            let sent = unsafe { libc::sendmsg(self.fd, &raw const header, libc::MSG_DONTWAIT) };
            self.lost += u64::from(sent < 0);
        }
    }
}

impl Message {
    /// Takes another packet in, if it can be a segment of this message.
    fn extend(&mut self, to: SocketAddr, local: Option<IpAddr>, size: usize) -> bool {
        let fits = size > 0
            && size <= self.segment
            && self.last == self.segment
            && self.count < MAX_SEGMENTS
            && self.bytes + size <= MAX_BURST
            && self.to == to
            && self.local == local;
        if fits {
            self.last = size;
            self.count += 1;
            self.bytes += size;
        }
        fits
    }
}

/// Writes source address and segment size; returns the length of both. The
/// interface stays open: the answer may leave by another one.
fn write_control(
    header: &libc::msghdr,
    local: Option<IpAddr>,
    is_v6: bool,
    segment: Option<u16>,
) -> usize {
    let mut used = 0;
    // SAFETY: the control buffer has 96 bytes, enough for `in6_pktinfo` (40) and a
    // segment's size (24) with their headers; CMSG_FIRSTHDR is not null because
    // msg_controllen says so, and the second header lies `used` bytes behind it.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        let mut put = |level, kind, data: *const u8, len: usize| {
            let at = first.cast::<u8>().add(used).cast::<libc::cmsghdr>();
            (*at).cmsg_level = level;
            (*at).cmsg_type = kind;
            (*at).cmsg_len = libc::CMSG_LEN(len as u32) as _;
            std::ptr::copy_nonoverlapping(data, libc::CMSG_DATA(at), len);
            used += libc::CMSG_SPACE(len as u32) as usize;
        };
        match local {
            Some(IpAddr::V4(ip)) if !is_v6 => {
                let mut info: libc::in_pktinfo = mem::zeroed();
                info.ipi_spec_dst.s_addr = ip.to_bits().to_be();
                let len = size_of_val(&info);
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, (&raw const info).cast(), len);
            }
            Some(ip) => {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                let mut info: libc::in6_pktinfo = mem::zeroed();
                info.ipi6_addr.s6_addr = ip.octets();
                let len = size_of_val(&info);
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, (&raw const info).cast(), len);
            }
            None => {}
        }
        if let Some(segment) = segment {
            put(libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), 2);
        }
    }
    used
}

/// Waits for many descriptors.
pub(super) struct Poll {
    fd: OwnedFd,
    events: Box<[libc::epoll_event]>,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; what it returns is ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let none = libc::epoll_event { events: 0, u64: 0 };
        Ok(Self { fd, events: vec![none; 128].into_boxed_slice() })
    }

    /// Tells of `fd` by this token while it can be read, and written, as asked.
    pub(super) fn set(
        &self,
        fd: RawFd,
        token: u64,
        read: bool,
        write: bool,
        is_new: bool,
    ) -> io::Result<()> {
        let [read, write] = [(read, libc::EPOLLIN), (write, libc::EPOLLOUT)]
            .map(|(on, bit)| if on { bit } else { 0 });
        let events = read | write;
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let what = if is_new { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        // SAFETY: both descriptors are open, `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits until something can be done or `ms` passed; returns tokens.
    pub(super) fn wait(&mut self, ms: Option<u64>) -> io::Result<usize> {
        let ms = ms.map_or(-1, |ms| ms.min(60_000) as libc::c_int);
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: `events` has room for that many.
        match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, room, ms) }) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The token of event `index` of the last wait, and whether it can be written.
    pub(super) fn token(&self, index: usize) -> (u64, bool) {
        let event = self.events[index];
        (event.u64, event.events & libc::EPOLLOUT as u32 != 0)
    }
}

/// Wakes a thread that waits in [`Poll`].
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
        // SAFETY: takes no pointers; what it returns is ours alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(check(libc::eventfd(0, flags))?) }))
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn wake(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes of a live local. It fails only when it is awake.
        let _ = unsafe { libc::write(self.raw(), (&raw const one).cast(), 8) };
    }

    pub(super) fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: eight bytes of a live local. It fails only when nobody woke it.
        let _ = unsafe { libc::read(self.raw(), (&raw mut count).cast(), 8) };
    }
}
