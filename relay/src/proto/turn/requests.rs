//! Messages: Refresh, CreatePermission, ChannelBind, Send (RFC 8656 sections 8
//! to 12), and which method is whose.

use weft_wire::stun::{
    ALLOCATE, BINDING, CHANNEL_BIND, CHANNEL_NUMBER, CREATE_PERMISSION, Class, DATA_ATTRIBUTE,
    DONT_FRAGMENT, LEGACY_CHANNELS, LIFETIME, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, Message,
    NONCE, REALM, REFRESH, REQUESTED_ADDRESS_FAMILY, SEND, USERNAME, XOR_PEER_ADDRESS, code,
};

use super::auth::Identity;
use super::policy::Verdict;
use super::{Allocation, Asked, Client, Family, Now, Output, Run, Turn};

/// How long a permission lives.
const PERMISSION_MS: u64 = 300_000;
/// How long a channel lives.
const CHANNEL_MS: u64 = 600_000;
/// Most peers in one CreatePermission.
const MAX_PEERS: usize = 32;

const CREDENTIALS: [u16; 5] = [USERNAME, REALM, NONCE, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256];

impl Turn {
    /// One STUN message; `at` is its place in what the shell handed in.
    pub(super) fn handle_message(
        &mut self,
        client: &Client,
        bytes: &[u8],
        at: u32,
        now: Now,
        out: &mut Output,
    ) {
        let Ok(message) = Message::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let mut asked = Asked { message, client: *client, now, out };
        match (message.class(), message.method()) {
            (Class::Request, BINDING) => self.binding(&mut asked, bytes.len()),
            (Class::Request, ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND) => {
                let Some(identity) = self.authenticate(&mut asked, bytes.len()) else { return };
                match message.method() {
                    ALLOCATE => self.allocate(&mut asked, identity),
                    REFRESH => self.refresh(&mut asked, &identity),
                    CREATE_PERMISSION => self.create_permission(&mut asked, &identity),
                    _ => self.channel_bind(&mut asked, &identity),
                }
            }
            (Class::Indication, SEND) => self.send(&mut asked, bytes, at),
            // Never answered, so that two servers can not be made to talk.
            _ => self.counters.malformed += 1,
        }
    }

    fn refresh(&mut self, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) {
        let known = [&CREDENTIALS[..], &[LIFETIME, REQUESTED_ADDRESS_FAMILY]].concat();
        if self.unknown(asked, &known, Some(identity)) {
            return;
        }
        let Some(place) = self.owned(asked, identity) else { return };
        let has = |family: Family| {
            self.table.live(place, asked.now.ms).is_some_and(|row| row.port(family) != 0)
        };
        if asked.message.get(REQUESTED_ADDRESS_FAMILY).is_some()
            && !asked.message.requested_family().is_some_and(has)
        {
            return self.refuse(asked, code::PEER_FAMILY_MISMATCH, Some(identity));
        }
        let granted_s = match asked.message.lifetime() {
            Some(0) => 0,
            wish => self.lifetime(wish),
        };
        if granted_s == 0 {
            self.end(place, asked.out);
        } else {
            self.table.refresh(place, asked.now.ms + u64::from(granted_s) * 1_000);
        }
        Self::success(asked, identity, |writer| writer.lifetime(granted_s));
    }

    /// Whether an allocation may have this peer.
    fn may_reach(&self, allocation: &Allocation, peer: core::net::SocketAddr) -> Result<(), u16> {
        if allocation.port(Family::of(peer.ip())) == 0 {
            return Err(code::PEER_FAMILY_MISMATCH);
        }
        match self.judge(peer.ip()) {
            Verdict::Closed => Err(code::FORBIDDEN),
            Verdict::Open | Verdict::Allocations => Ok(()),
        }
    }

    fn create_permission(&mut self, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) {
        let known = [&CREDENTIALS[..], &[XOR_PEER_ADDRESS]].concat();
        if self.unknown(asked, &known, Some(identity)) {
            return;
        }
        let Some(place) = self.owned(asked, identity) else { return };
        let Some(allocation) = self.table.live(place, asked.now.ms) else { return };
        let mut peers = Vec::new();
        let mut number = None;
        for peer in asked.message.xor_addresses(XOR_PEER_ADDRESS) {
            let judged = match peer {
                Some(peer) if peers.len() < MAX_PEERS => {
                    self.may_reach(allocation, peer).map(|()| peers.push(peer.ip()))
                }
                _ => Err(code::BAD_REQUEST),
            };
            if let Err(refused) = judged {
                number = Some(refused);
                break;
            }
        }
        if peers.is_empty() {
            number = number.or(Some(code::BAD_REQUEST));
        }
        if let Some(number) = number {
            return self.refuse(asked, number, Some(identity));
        }
        let (until_ms, most) = (asked.now.ms + PERMISSION_MS, self.settings.max_permissions);
        // All or nothing would need a second look; a client that is at its bound
        // has some of them and is told that it has not all.
        if peers.iter().all(|ip| self.table.permit(place, *ip, until_ms, most)) {
            Self::success(asked, identity, |_| Ok(()));
        } else {
            self.refuse(asked, code::INSUFFICIENT_CAPACITY, Some(identity));
        }
    }

    fn channel_bind(&mut self, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) {
        let known = [&CREDENTIALS[..], &[XOR_PEER_ADDRESS, CHANNEL_NUMBER]].concat();
        if self.unknown(asked, &known, Some(identity)) {
            return;
        }
        let Some(place) = self.owned(asked, identity) else { return };
        let now_ms = asked.now.ms;
        let number =
            asked.message.channel_number().filter(|number| LEGACY_CHANNELS.contains(number));
        let peer = asked.message.xor_address(XOR_PEER_ADDRESS).filter(|peer| peer.port() != 0);
        let (Some(number), Some(peer)) = (number, peer) else {
            return self.refuse(asked, code::BAD_REQUEST, Some(identity));
        };
        let Some(allocation) = self.table.live(place, now_ms) else { return };
        if let Err(refused) = self.may_reach(allocation, peer) {
            return self.refuse(asked, refused, Some(identity));
        }
        // Neither the channel nor the peer may be bound to another.
        let other_peer = self.table.channel(place, number, now_ms).is_some_and(|c| c.peer != peer);
        let other_number =
            self.table.channel_to(place, peer, now_ms).is_some_and(|c| c.number != number);
        if other_peer || other_number {
            return self.refuse(asked, code::BAD_REQUEST, Some(identity));
        }
        let settings = &self.settings;
        let (permissions, channels) = (settings.max_permissions, settings.max_channels);
        let bound = self.table.permit(place, peer.ip(), now_ms + PERMISSION_MS, permissions)
            && self.table.bind(place, number, peer, now_ms + CHANNEL_MS, channels);
        if bound {
            Self::success(asked, identity, |_| Ok(()));
        } else {
            self.refuse(asked, code::INSUFFICIENT_CAPACITY, Some(identity));
        }
    }

    /// A Send indication: nothing of it is answered, wrong or right.
    fn send(&mut self, asked: &mut Asked<'_, '_>, bytes: &[u8], at: u32) {
        let Some(place) = self.table.of_client(&asked.client, asked.now.ms) else {
            self.counters.dropped_no_allocation += 1;
            return;
        };
        let known = [XOR_PEER_ADDRESS, DATA_ATTRIBUTE, DONT_FRAGMENT];
        let peer = asked.message.xor_address(XOR_PEER_ADDRESS);
        let data = asked.message.get(DATA_ATTRIBUTE);
        let understood = asked.message.unknown_required(&known).is_none();
        let (Some(peer), Some(data), true) = (peer, data, understood) else {
            self.counters.malformed += 1;
            return;
        };
        let inside = data.as_ptr() as usize - bytes.as_ptr() as usize;
        let run = Run::one(at + inside as u32, data.len() as u16);
        self.relay_to_peer(place, peer, run, asked.now, asked.out);
    }
}
