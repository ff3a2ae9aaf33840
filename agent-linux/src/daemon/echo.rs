//! Echo requests that the daemon sends for `weft ping` and `weft join`, where a
//! caller may open no such socket: into the data path, like any packet.

use std::net::IpAddr;

use crate::ipc::server::ClientId;
use crate::net::icmp::{self, Echo};

/// Requests under way.
const OPEN: usize = 64;

struct Pending {
    client: ClientId,
    to: IpAddr,
    echo: Echo,
    sent_us: u64,
    until_us: u64,
}

/// All echoes under way.
pub(super) struct Echoes {
    /// Tells our replies from those of the host's own programs: drawn at start.
    identifier: u16,
    sequence: u16,
    pending: Vec<Pending>,
}

impl Echoes {
    pub(super) const fn new(identifier: u16) -> Self {
        Self { identifier, sequence: 0, pending: Vec::new() }
    }

    /// Begins one: the packet to put into the data path. `None` when too many
    /// are under way, or the two addresses are of different families.
    pub(super) fn begin(
        &mut self,
        client: ClientId,
        (from, to): (IpAddr, IpAddr),
        bytes: usize,
        (now_us, until_us): (u64, u64),
    ) -> Option<Vec<u8>> {
        if self.pending.len() == OPEN {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let echo = Echo { identifier: self.identifier, sequence: self.sequence };
        let packet = icmp::packet(from, to, echo, bytes)?;
        self.pending.push(Pending { client, to, echo, sent_us: now_us, until_us });
        Some(packet)
    }

    /// Forgets the one that was begun last: nobody will answer it.
    pub(super) fn forget_last(&mut self) {
        self.pending.pop();
    }

    /// Whether a packet from a peer is an answer to one of ours: who waits for
    /// it, from where it came, and after how many microseconds.
    pub(super) fn take(&mut self, packet: &[u8], now_us: u64) -> Option<(ClientId, IpAddr, u64)> {
        if self.pending.is_empty() {
            return None;
        }
        let (from, echo) = icmp::read_reply(packet)?;
        let ours = |pending: &Pending| pending.echo == echo && pending.to == from;
        let at = self.pending.iter().position(ours)?;
        let done = self.pending.swap_remove(at);
        Some((done.client, from, now_us.saturating_sub(done.sent_us)))
    }

    /// Takes out those whose time is over.
    pub(super) fn expire(&mut self, now_us: u64) -> Vec<(ClientId, IpAddr)> {
        let mut over = Vec::new();
        self.pending.retain(|pending| {
            let lives = pending.until_us > now_us;
            if !lives {
                over.push((pending.client, pending.to));
            }
            lives
        });
        over
    }

    /// When the next one is over, in microseconds since boot.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.pending.iter().map(|pending| pending.until_us).min()
    }
}
