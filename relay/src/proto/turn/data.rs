//! Packets on their way: from clients to peers, from peers to clients, and from
//! one allocation to another inside the server.

use core::net::SocketAddr;

use weft_wire::stun::{
    ChannelData, DATA_ATTRIBUTE, DATA_INDICATION, Family, MessageWriter, XOR_PEER_ADDRESS,
};

use super::policy::Verdict;
use super::{Client, Command, Hop, Now, Output, Prefix, Relay, Run, Turn};

/// The longest head of a Data indication: header, an IPv6 address, the type and
/// length of DATA.
const MAX_HEAD: usize = 20 + 24 + 4;

impl Turn {
    /// What one of the server's sockets received from a client: `bytes` holds
    /// packets of `segment` bytes one after the other, the last may be shorter.
    /// Over a stream, one frame.
    pub fn handle_client(
        &mut self,
        client: &Client,
        bytes: &[u8],
        segment: usize,
        now: Now,
        out: &mut Output,
    ) {
        let mut run: Option<(u16, Run)> = None;
        let mut at = 0;
        for packet in bytes.chunks(segment.max(1)) {
            let here = at;
            at += packet.len() as u32;
            match packet.first().map(|first| first >> 6) {
                Some(1) => {
                    let Ok(frame) = ChannelData::parse(packet) else {
                        self.counters.malformed += 1;
                        continue;
                    };
                    let (start, len) = (here + 4, frame.data.len() as u16);
                    if let Some((channel, run)) = &mut run
                        && *channel == frame.channel
                        && run.extend(start, len)
                    {
                        continue;
                    }
                    let mut next = Run::one(start, len);
                    next.stride = packet.len() as u32;
                    if let Some((channel, run)) = run.replace((frame.channel, next)) {
                        self.relay_channel(client, channel, run, now, out);
                    }
                }
                Some(0) => {
                    if let Some((channel, run)) = run.take() {
                        self.relay_channel(client, channel, run, now, out);
                    }
                    self.handle_message(client, packet, here, now, out);
                }
                _ => self.counters.malformed += 1,
            }
        }
        if let Some((channel, run)) = run {
            self.relay_channel(client, channel, run, now, out);
        }
    }

    fn relay_channel(
        &mut self,
        client: &Client,
        channel: u16,
        run: Run,
        now: Now,
        out: &mut Output,
    ) {
        let Some(place) = self.table.of_client(client, now.ms) else {
            self.counters.dropped_no_allocation += u64::from(run.count);
            return;
        };
        match self.table.channel(place, channel, now.ms) {
            Some(channel) => self.relay_to_peer(place, channel.peer, run, now, out),
            None => self.counters.dropped_no_channel += u64::from(run.count),
        }
    }

    /// From an allocation's client to a peer.
    pub(super) fn relay_to_peer(
        &mut self,
        place: u32,
        peer: SocketAddr,
        run: Run,
        now: Now,
        out: &mut Output,
    ) {
        if !self.table.permits(place, peer.ip(), now.ms) {
            self.counters.dropped_no_permission += u64::from(run.count);
            return;
        }
        let Some(run) = self.within_bandwidth(place, run, now) else { return };
        let family = Family::of(peer.ip());
        let Some(allocation) = self.table.live(place, now.ms) else { return };
        let own = allocation.port(family);
        if own == 0 {
            self.counters.dropped_no_permission += u64::from(run.count);
            return;
        }
        let relay_ip = self.relay_ip(family);
        if relay_ip == Some(peer.ip()) {
            let source = SocketAddr::new(peer.ip(), own);
            if let Some(other) = self.table.of_port(family, peer.port()) {
                self.count_to_peer(&run);
                self.counters.packets_inside += u64::from(run.count);
                return self.relay_to_client(other, source, run, now, out);
            }
            // Behind the address stands this machine, and not an allocation.
            if self.judge(peer.ip()) != Verdict::Open {
                self.counters.dropped_forbidden += u64::from(run.count);
                return;
            }
        }
        self.count_to_peer(&run);
        let to = Hop::Peer { from: Relay { allocation: place, family }, to: peer };
        out.commands.push(Command::Forward { to, prefix: Prefix::None, run });
    }

    const fn count_to_peer(&mut self, run: &Run) {
        self.counters.packets_to_peers += run.count as u64;
        self.counters.bytes_to_peers += run.bytes();
    }

    /// What an allocation's socket received: as in [`Turn::handle_client`].
    pub fn handle_peer(
        &mut self,
        relay: Relay,
        source: SocketAddr,
        bytes: &[u8],
        segment: usize,
        now: Now,
        out: &mut Output,
    ) {
        let segment = segment.clamp(1, bytes.len().max(1));
        let count = bytes.len().div_ceil(segment).max(1);
        let (Ok(len), Ok(count)) = (u16::try_from(segment.min(bytes.len())), u16::try_from(count))
        else {
            self.counters.malformed += 1;
            return;
        };
        let last = (bytes.len() - (usize::from(count) - 1) * segment) as u16;
        let run = Run { at: 0, stride: u32::from(len), len, last, count };
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let port_is_its_own = self.table.live(relay.allocation, now.ms).is_some_and(|allocation| {
            allocation.port(relay.family) != 0 && allocation.opening == 0
        });
        if port_is_its_own {
            self.relay_to_client(relay.allocation, source, run, now, out);
        } else {
            self.counters.dropped_no_allocation += u64::from(count);
        }
    }

    /// From a peer to an allocation's client.
    fn relay_to_client(
        &mut self,
        place: u32,
        source: SocketAddr,
        run: Run,
        now: Now,
        out: &mut Output,
    ) {
        if !self.table.permits(place, source.ip(), now.ms) {
            self.counters.dropped_no_permission += u64::from(run.count);
            return;
        }
        let Some(run) = self.within_bandwidth(place, run, now) else { return };
        let Some(client) = self.table.live(place, now.ms).map(|row| row.client) else {
            self.counters.dropped_no_allocation += u64::from(run.count);
            return;
        };
        self.counters.packets_to_clients += u64::from(run.count);
        self.counters.bytes_to_clients += run.bytes();
        if let Some(channel) = self.table.channel_to(place, source, now.ms) {
            let prefix = Prefix::Channel(channel.number);
            out.commands.push(Command::Forward { to: Hop::Client(client), prefix, run });
            return;
        }
        for index in 0..run.count {
            let range = run.range(index);
            self.indicate(client, source, range.start as u32, range.len() as u16, out);
        }
    }

    /// A Data indication around one packet.
    fn indicate(
        &mut self,
        client: Client,
        source: SocketAddr,
        at: u32,
        len: u16,
        out: &mut Output,
    ) {
        let mut transaction = [0; 12];
        // Only tells messages apart; nobody has to guess wrong.
        transaction[4..].copy_from_slice(&self.counters.packets_to_clients.to_be_bytes());
        transaction[..4].copy_from_slice(&at.to_be_bytes());
        let mut head = [0; MAX_HEAD];
        let written =
            MessageWriter::new(DATA_INDICATION, transaction, &mut head).and_then(|mut writer| {
                writer.xor_address(XOR_PEER_ADDRESS, source)?;
                Ok(writer.finish_bare())
            });
        let Ok(end) = written else { return };
        let whole = end + 4 + usize::from(len).next_multiple_of(4) - 20;
        let Ok(whole) = u16::try_from(whole) else {
            self.counters.malformed += 1;
            return;
        };
        head[2..4].copy_from_slice(&whole.to_be_bytes());
        head[end..end + 2].copy_from_slice(&DATA_ATTRIBUTE.to_be_bytes());
        head[end + 2..end + 4].copy_from_slice(&len.to_be_bytes());
        let head = out.keep(&head[..end + 4]);
        out.commands.push(Command::Forward {
            to: Hop::Client(client),
            prefix: Prefix::Head(head),
            run: Run::one(at, len),
        });
    }

    /// As much of a run as the allocation's bandwidth allows.
    fn within_bandwidth(&mut self, place: u32, run: Run, now: Now) -> Option<Run> {
        let rate = self.settings.bytes_per_s;
        if rate == 0 {
            return Some(run);
        }
        let allocation = self.table.get_mut(place)?;
        let fit = allocation.bucket.take(rate, u64::from(run.len), run.count, now.ms);
        self.counters.dropped_bandwidth += u64::from(run.count - fit);
        (fit > 0).then(|| run.cut(fit))
    }
}
