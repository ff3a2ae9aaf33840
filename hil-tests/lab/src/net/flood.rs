//! Datagrams by the ten thousand from addresses that nobody has: Ethernet
//! frames made beforehand and handed to the kernel in batches.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::check;
use crate::clock;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Bytes before the datagram.
const HEADERS: usize = ETHERNET + IPV4 + UDP;
/// Datagrams of one system call.
const BATCH: usize = 64;

/// Where the frames of a flood go.
pub(crate) struct Target {
    /// The interface that they leave by.
    pub(crate) interface: &'static str,
    /// MAC addresses, of the sender and of the receiver.
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) to: SocketAddrV4,
    /// Sources are drawn from this address on.
    pub(crate) from: Ipv4Addr,
    /// How many addresses.
    pub(crate) sources: u32,
}

/// Frames that are ready, and a socket that takes them.
pub(crate) struct Flood {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
    next: usize,
    source: u32,
    /// Addresses that frames come from by turns, where they are not sent as they are.
    sources: Option<(Ipv4Addr, u32)>,
}

impl Flood {
    /// Makes a frame of each datagram, in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// What the system says about the socket or the interface.
    pub(crate) fn new(target: &Target, datagrams: &[Vec<u8>]) -> io::Result<Self> {
        let frames = datagrams.iter().map(|datagram| frame(target, datagram)).collect();
        let socket = open(target.interface)?;
        let sources = Some((target.from, target.sources));
        Ok(Self { socket, frames, next: 0, source: 0, sources })
    }

    /// Sends these frames as they are, from the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// What the system says about the socket or the interface.
    pub(crate) fn of_frames(interface: &str, frames: Vec<Vec<u8>>) -> io::Result<Self> {
        Ok(Self { socket: open(interface)?, frames, next: 0, source: 0, sources: None })
    }

    /// Sends at a rate per second, or as fast as the kernel takes it, for a
    /// time. How many were sent, and how long it took.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn run(&mut self, rate: Option<u32>, time: Duration) -> io::Result<(u64, Duration)> {
        let began: Instant = clock::now();
        let mut sent = 0;
        loop {
            let passed = began.elapsed();
            if passed >= time {
                return Ok((sent, passed));
            }
            let due = rate.map(|rate| (passed.as_secs_f64() * f64::from(rate)) as u64);
            if due.is_some_and(|due| due < sent + BATCH as u64) {
                std::thread::park_timeout(Duration::from_micros(100));
                continue;
            }
            sent += self.send()? as u64;
        }
    }

    /// Sends one batch, each frame from another source than before.
    fn send(&mut self) -> io::Result<usize> {
        let first = self.next;
        let count = BATCH.min(self.frames.len() - first);
        self.next = (first + count) % self.frames.len();
        if let Some((from, sources)) = self.sources {
            for frame in &mut self.frames[first..first + count] {
                self.source = self.source.wrapping_add(1);
                let address = u32::from(from) + self.source % sources;
                set_source(frame, address.into(), self.source as u16 | 1_024);
            }
        }
        // SAFETY: all-zero is a value of these structures.
        let (mut vectors, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        for (at, frame) in self.frames[first..first + count].iter_mut().enumerate() {
            vectors[at].iov_base = frame.as_mut_ptr().cast();
            vectors[at].iov_len = frame.len();
            headers[at].msg_hdr.msg_iov = &raw mut vectors[at];
            headers[at].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to a vector, and every vector to a frame,
        // that outlive the call.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, 0)
        };
        match check(sent) {
            Ok(sent) => Ok(sent as usize),
            // The receiver has no room: that too is a flood.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the string ends with a zero byte and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket takes integers; the descriptor is new and owned by us
    // alone. Protocol 0: it receives nothing.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            0,
        ))?)
    };
    let bypass: libc::c_int = 1;
    // SAFETY: the value is a live local of the stated length.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const bypass).cast(),
            size_of_val(&bypass) as libc::socklen_t,
        )
    })?;
    // SAFETY: all-zero is a value of this structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the address is a live local of the stated length.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// A UDP datagram in IPv4 in Ethernet. The UDP checksum may be left out
/// (RFC 768); the source is set before each use.
fn frame(target: &Target, datagram: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADERS + datagram.len()];
    frame[..6].copy_from_slice(&target.macs.1);
    frame[6..12].copy_from_slice(&target.macs.0);
    frame[12..14].copy_from_slice(&[8, 0]);
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let ip = &mut frame[ETHERNET..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&length(IPV4 + UDP + datagram.len()));
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[16..20].copy_from_slice(&target.to.ip().octets());
    let udp = &mut ip[IPV4..];
    udp[2..4].copy_from_slice(&target.to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length(UDP + datagram.len()));
    udp[UDP..].copy_from_slice(datagram);
    set_source(&mut frame, target.from, 1_024);
    frame
}

fn set_source(frame: &mut [u8], address: Ipv4Addr, port: u16) {
    let ip = &mut frame[ETHERNET..];
    ip[12..16].copy_from_slice(&address.octets());
    ip[10..12].fill(0);
    let sum = super::echo::checksum(&ip[..IPV4]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[IPV4..IPV4 + 2].copy_from_slice(&port.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_whatever_its_source() {
        let target = Target {
            interface: "eth1",
            macs: ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            to: SocketAddrV4::new([192, 0, 2, 1].into(), 51_871),
            from: [198, 18, 0, 0].into(),
            sources: 1 << 16,
        };
        let mut frame = frame(&target, b"datagram");
        set_source(&mut frame, [198, 18, 3, 4].into(), 4_242);
        assert_eq!(super::super::echo::checksum(&frame[ETHERNET..ETHERNET + IPV4]), 0);
        assert_eq!(frame[ETHERNET + 12..ETHERNET + 16], [198, 18, 3, 4]);
        assert_eq!(frame[ETHERNET + IPV4..ETHERNET + IPV4 + 4], [0x10, 0x92, 0xCA, 0x9F]);
        assert_eq!(frame[HEADERS..], *b"datagram");
    }
}
