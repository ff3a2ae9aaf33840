//! Packet sockets: whole Ethernet frames of one interface, both ways.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// `virtio_net_hdr`: travels before each frame and carries what segmentation
/// and checksums are still to be done, so that large segments stay whole.
pub(super) const OFFLOAD_HEADER: usize = 10;

/// The largest frame with its header: 64 KiB of segments and Ethernet.
pub(super) const MAX_FRAME: usize = OFFLOAD_HEADER + 65_536 + 64;

/// Bytes that one interface may have waiting for us.
const RECEIVE_BUFFER: libc::c_int = 8 * 1024 * 1024;

/// A socket on one interface of the calling thread's namespace.
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Takes what arrives at the interface.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        Self::of(interface, false)
    }

    /// Takes what arrives there and what leaves.
    pub(super) fn both_ways(interface: &str) -> io::Result<Self> {
        Self::of(interface, true)
    }

    fn of(interface: &str, both_ways: bool) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: the string ends with a zero byte and lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let every = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket takes integers; the descriptor is new and owned by us alone.
        let socket = unsafe {
            OwnedFd::from_raw_fd(check(libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                0,
            ))?)
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        let ignored = i32::from(!both_ways);
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, ignored)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        // SAFETY: all-zero is a value of this structure.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = every;
        address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
        // SAFETY: the address is a live local of the stated length.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        })?;
        Ok(Self(socket))
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next frame with its header, or `None` when none waits.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: the buffer is live and of the stated length.
        let len =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        nothing_yet(len)
    }

    /// The same, and whether it leaves.
    pub(super) fn receive_from(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        // SAFETY: all-zero is a value of this structure.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut address_len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the buffer and the address are live and of the stated lengths.
        let len = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut address).cast(),
                &raw mut address_len,
            )
        };
        let leaves = address.sll_pkttype == libc::PACKET_OUTGOING;
        Ok(nothing_yet(len)?.map(|len| (len, leaves)))
    }

    /// Hands a frame to the interface; `false` if it had no room.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        // SAFETY: the buffer is live and of the stated length.
        let len = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        match nothing_yet(len) {
            Ok(sent) => Ok(sent.is_some()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn nothing_yet(result: isize) -> io::Result<Option<usize>> {
    match usize::try_from(result) {
        Ok(len) => Ok(Some(len)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: i32) -> io::Result<()> {
    // SAFETY: the value is a live local of the stated length.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Waits until one of the descriptors is readable or the time is over.
pub(super) fn wait(descriptors: &[RawFd], time: Option<std::time::Duration>) -> io::Result<()> {
    let mut entries: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd { fd: *descriptor, events: libc::POLLIN, revents: 0 })
        .collect();
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos()),
    });
    let pointer = time.as_ref().map_or(std::ptr::null(), |time| &raw const *time);
    // SAFETY: the array and the time live through the call; a null time means none.
    let result = unsafe {
        libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, pointer, std::ptr::null())
    };
    match check(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
