//! What the shell is to do: commands, and the bytes of answers beside them.

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use weft_wire::stun::{ChannelData, Family};

/// By which of the server's sockets a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A UDP socket, by its place in the settings, and the own address that the
    /// datagram was sent to.
    Udp {
        /// Place in [`super::Settings::listeners`].
        listener: u8,
        /// The own address.
        local: IpAddr,
    },
    /// A connection, by the number that the shell gave it.
    Stream(u32),
}

/// Somebody who speaks STUN or TURN to the server: the five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The server's end.
    pub via: Via,
    /// The client's end.
    pub address: SocketAddr,
}

/// The socket of an allocation for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The allocation's place.
    pub allocation: u32,
    /// Its family.
    pub family: Family,
}

/// Packets that lie at equal distances in the bytes that were handed in, all but
/// the last of one length: what a burst is from the first byte to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first packet begins.
    pub at: u32,
    /// From one beginning to the next.
    pub stride: u32,
    /// Bytes of each packet but the last.
    pub len: u16,
    /// Bytes of the last packet, at most `len`.
    pub last: u16,
    /// How many packets, at least one.
    pub count: u16,
}

impl Run {
    /// One packet.
    pub const fn one(at: u32, len: u16) -> Self {
        Self { at, stride: len as u32, len, last: len, count: 1 }
    }

    /// Bytes of all packets.
    pub const fn bytes(&self) -> u64 {
        (self.count as u64 - 1) * self.len as u64 + self.last as u64
    }

    /// Where packet `index` lies.
    pub const fn range(&self, index: u16) -> Range<usize> {
        let at = self.at as usize + index as usize * self.stride as usize;
        let len = if index + 1 == self.count { self.last } else { self.len };
        at..at + len as usize
    }

    /// Whether a packet of `len` bytes at `at` goes on from here; if so it is
    /// taken in. Nothing goes on behind a shorter one.
    pub(super) const fn extend(&mut self, at: u32, len: u16) -> bool {
        let next = self.at + self.count as u32 * self.stride;
        if at != next || len > self.len || self.last != self.len || self.len == 0 {
            return false;
        }
        self.last = len;
        self.count += 1;
        true
    }

    /// The first `count` packets.
    pub(super) const fn cut(mut self, count: u16) -> Self {
        if count < self.count {
            self.count = count;
            self.last = self.len;
        }
        self
    }
}

/// What stands before each packet of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing: it goes to a peer.
    None,
    /// The header of ChannelData with this channel and the packet's length.
    Channel(u16),
    /// These bytes of [`Output::bytes`], and padding to 4 bytes behind: a Data
    /// indication, always of one packet.
    Head(Range<usize>),
}

/// Where a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out of an allocation's socket.
    Peer {
        /// The socket.
        from: Relay,
        /// The peer.
        to: SocketAddr,
    },
    /// To a client.
    Client(Client),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send these bytes of [`Output::bytes`] to a client.
    Answer {
        /// The client; its `via` may be another socket than it came by.
        to: Client,
        /// The message.
        bytes: Range<usize>,
    },
    /// Send packets on, out of the bytes that were handed in.
    Forward {
        /// Where to.
        to: Hop,
        /// What before each.
        prefix: Prefix,
        /// Which.
        run: Run,
    },
    /// Bind a UDP socket; [`super::Turn::handle_opened`] waits for the word.
    Open {
        /// What it is called from now on.
        relay: Relay,
        /// Its port, on the family's relay address.
        port: u16,
    },
    /// Close a socket.
    Close(Relay),
    /// Close a connection.
    Hangup(u32),
}

/// Commands of one input; the shell does them and clears it.
#[derive(Default)]
pub struct Output {
    /// In the order in which they are to be done.
    pub commands: Vec<Command>,
    /// What answers and heads point into.
    pub bytes: Vec<u8>,
}

impl Output {
    /// Forgets everything, and keeps its memory.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.bytes.clear();
    }

    /// What stands before a packet of `len` bytes, and how many zero bytes behind
    /// it. `channel` takes the header of ChannelData, which differs by packet.
    pub fn around<'a>(
        &'a self,
        prefix: &Prefix,
        len: usize,
        channel: &'a mut [u8; 4],
    ) -> (&'a [u8], usize) {
        match prefix {
            Prefix::None => (&[], 0),
            Prefix::Channel(number) => {
                // No datagram is longer.
                *channel = ChannelData::header(*number, len as u16);
                (channel, 0)
            }
            Prefix::Head(range) => {
                let head = self.bytes.get(range.clone()).unwrap_or_default();
                (head, len.next_multiple_of(4) - len)
            }
        }
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    pub(super) fn answer(&mut self, to: Client, bytes: &[u8]) {
        let bytes = self.keep(bytes);
        self.commands.push(Command::Answer { to, bytes });
    }
}
