//! The format of a recorded run, and where it goes.
//!
//! A trace holds what is needed to run the same agent through the same
//! transitions elsewhere: types and times of inputs, headers, random handles,
//! and the map's structure. It holds **no key, no PSK, no password, no name and
//! no payload**: keys become handles that mean nothing outside the trace
//! (`agent/redact.rs`), a packet is its headers and its length.
//!
//! A trace is a sequence of `(microseconds since the entry before, Entry)` in
//! postcard, one after another. It begins at an agent's start; there is no way
//! into its middle, so a buffer that is full keeps the beginning and counts
//! what is lost.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_wire::id::{DeviceId, Epoch, Inbox, PublicKey, Revision};
use weft_wire::signal::{CANDIDATES, Candidate};

/// The version of the format.
pub const TRACE_FORMAT: u8 = 3;

/// Which output a shell took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// `poll_line`.
    Line,
    /// `poll_control`.
    Control,
    /// `poll_transmit`.
    Transmit,
    /// `poll_event`.
    Event,
    /// `poll_stream`.
    Stream,
    /// `poll_socket`.
    Socket,
    /// `poll_refusal`; one packet each.
    Refusal,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameVerdict<'a> {
    /// It was of no use.
    Refused,
    /// A hint that was followed or noted: RETRY, RESET.
    Taken,
    /// It was authentic; what it held, redacted.
    Opened(&'a [u8]),
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatagramVerdict<'a> {
    /// A handshake message that was taken, authentic or not: a session with its
    /// sender's index tells.
    Taken,
    /// Refused before or because it was not authentic; the number of the
    /// [`DropReason`](crate::event::DropReason).
    Refused(u8),
    /// Authentic: headers of the inner packet (none = keepalive) and its
    /// length.
    Opened(&'a [u8], u16),
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry<'a> {
    /// An agent was made.
    Start(Start),
    /// It took a piece of its cache back; redacted.
    Restored(#[serde(borrow)] &'a [u8]),
    /// A handle or jitter was drawn.
    Random(&'a [u8]),
    /// Input: the line is up.
    LineUp,
    /// Input: the line is down.
    LineDown,
    /// Input: a frame; its header and its length.
    Frame(&'a [u8], u16, FrameVerdict<'a>),
    /// Input: a datagram; its source, header (STUN: all of it) and length.
    Datagram(u8, SocketAddr, &'a [u8], u16, DatagramVerdict<'a>),
    /// Input: a packet from the mesh interface; its headers and length.
    Packet(&'a [u8], u16),
    /// Input: our own candidates.
    Local(heapless::Vec<Candidate, CANDIDATES>),
    /// Input: the socket of each family.
    Sockets(Option<u8>, Option<u8>),
    /// Input: the floor of stamps is stored.
    StoredStamp(u64),
    /// Input: the cache is stored.
    StoredCache(Epoch, Revision, u32),
    /// Input: leave.
    Leave,
    /// Input: time has passed.
    Timeout,
    /// An output was taken.
    Polled(Output),
    /// Transition: a peer stands elsewhere; slot, device, from, to.
    Peer(u16, DeviceId, u8, u8),
    /// Transition: a session was installed; slot, our index, theirs, sealing.
    Session(u16, u32, u32, bool),
    /// Transition: packets are sealed with this session from now on.
    Sealing(u16, u32),
    /// Transition: a session was erased.
    SessionEnd(u16, u32),
    /// Transition: another route carries a peer's data; slot, socket, address,
    /// why.
    Route(u16, u8, SocketAddr, u8),
    /// Transition: a revision of the map is complete.
    Map(Epoch, Revision),
    /// Transition: the session with the coordinator is up, or its line down.
    Online(bool),
    /// Transition: every peer was dropped.
    MapDropped,
    /// Input: the line wants a record to fetch with.
    Fetch,
    /// Input: a probe; its source, all of it but for its MAC, and whose it is if
    /// that was right.
    Probe(u8, SocketAddr, &'a [u8], Option<u16>),
    /// Input: a connection to a relay stands, or is closed.
    Stream(u16, bool),
    /// Input: the way to a device is to be kept open, or need not be.
    Warm(DeviceId, bool),
    /// Input: a message of a relay in a connection.
    Framed(u16, &'a [u8]),
    /// Input: whether the network was looked at; what was found is not kept.
    NetworkReport(bool),
    /// Input: bytes of the line to the coordinator.
    LineTraffic(u64),
    /// Input: whether bytes cost money, and the day's budget.
    Budget(bool, Option<u64>),
    /// Input: the rung of a relay that answered in this network before, by
    /// [`Rung::number`](crate::relay::Rung::number).
    PreferRelay(u32),
    /// Input: what was learned of pauses in this network before; see
    /// [`Pauses`](crate::path::Pauses).
    Pauses(u16, u16, u32),
}

impl Entry<'_> {
    /// Whether this is something that the agent decided: two runs are the same
    /// if these are.
    pub const fn is_transition(&self) -> bool {
        matches!(
            self,
            Self::Peer(..)
                | Self::Session(..)
                | Self::Sealing(..)
                | Self::SessionEnd(..)
                | Self::Route(..)
                | Self::Map(..)
                | Self::Online(_)
                | Self::MapDropped
        )
    }
}

/// How the agent was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`TRACE_FORMAT`].
    pub format: u8,
    /// The caller's clock, in microseconds.
    pub now_us: u64,
    /// [`AgentConfig::boot_count`](super::AgentConfig).
    pub boot_count: u32,
    /// [`AgentConfig::on_demand`](super::AgentConfig).
    pub on_demand: bool,
    /// [`AgentConfig::page_window`](super::AgentConfig).
    pub page_window: u8,
    /// [`AgentConfig::staged_per_peer`](super::AgentConfig).
    pub staged_per_peer: u16,
    /// The socket of each family, IPv4 first.
    pub sockets: (Option<u8>, Option<u8>),
    /// [`AgentConfig::extra_sockets`](super::AgentConfig).
    pub extra_sockets: u8,
    /// Seconds.
    pub rekey_after_s: u16,
    /// Microseconds between two answers to initiations, on average.
    pub handshake_interval_us: u32,
    /// [`AgentConfig::stamp_floor`](super::AgentConfig).
    pub stamp_floor: Option<u64>,
    /// The coordinator's key; a handle.
    pub pin: PublicKey,
    /// Its next key, if it was known; a handle.
    pub next_pin: Option<PublicKey>,
    /// What an enrolled device has.
    pub member: Option<StartMember>,
}

/// What an enrolled device has that its agent compares with what it hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartMember {
    /// Its id.
    pub device: DeviceId,
    /// Where it receives; a handle.
    pub inbox: Inbox,
    /// Its password's expiry.
    pub password_expiry: u32,
}

/// Where a trace goes. Which agent is recorded is fixed when it is built:
/// [`NoTrace`] costs nothing.
pub trait Trace {
    /// Whether anything is recorded at all.
    const ENABLED: bool = true;

    /// Adds what `fill` writes to the front of a free buffer; `None` means that
    /// the buffer is too short.
    fn write(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>);
}

/// Records nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    const ENABLED: bool = false;

    fn write(&mut self, _fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {}
}

impl<T: Trace + ?Sized> Trace for &mut T {
    fn write(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        (**self).write(fill);
    }
}

/// A trace in `N` bytes of memory: the beginning of the run.
pub struct TraceBuffer<const N: usize> {
    bytes: [u8; N],
    len: usize,
    lost: u32,
}

impl<const N: usize> TraceBuffer<N> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0, lost: 0 }
    }

    /// The trace so far.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Entries that found no room.
    pub const fn lost(&self) -> u32 {
        self.lost
    }
}

impl<const N: usize> Default for TraceBuffer<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Trace for TraceBuffer<N> {
    fn write(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        // After the first loss nothing is added: a gap could not be replayed.
        let free = self.bytes.get_mut(self.len..).filter(|_| self.lost == 0);
        match free.and_then(fill) {
            Some(len) => self.len += len,
            None => self.lost = self.lost.saturating_add(1),
        }
    }
}

/// Reads a trace.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// The entries of these bytes.
    pub const fn new(trace: &'a [u8]) -> Self {
        Self(trace)
    }
}

impl<'a> Iterator for Entries<'a> {
    /// Microseconds since the entry before; `None` ends a trace that is cut or
    /// of another format.
    type Item = Option<(u64, Entry<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let decoded = postcard::take_from_bytes(self.0).ok();
        self.0 = decoded.as_ref().map_or(&[], |(_, rest)| rest);
        Some(decoded.map(|(entry, _)| entry))
    }
}
