//! Allocate (RFC 8656 section 7).

use core::net::SocketAddr;

use weft_noise::legacy::LongTermKey;
use weft_wire::stun::{
    ADDITIONAL_ADDRESS_FAMILY, ADDRESS_ERROR_CODE, ALLOCATE, ALTERNATE_SERVER, Algorithm, Class,
    DONT_FRAGMENT, EVEN_PORT, FINGERPRINT, Family, LIFETIME, MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256, Message, NONCE, REALM, REQUESTED_ADDRESS_FAMILY, REQUESTED_TRANSPORT,
    RESERVATION_TOKEN, TransactionId, UDP, USERNAME, XOR_RELAYED_ADDRESS, code, kind_of,
};

use super::auth::Identity;
use super::ports::Kind;
use super::table::Bucket;
use super::{Asked, Client, Command, MAX_MESSAGE, Now, Opened, Output, Relay, Turn, compose};

/// Lifetime of an allocation that asks for none, and the least that is given.
const DEFAULT_LIFETIME_S: u32 = 600;
/// How long a reserved port waits.
const RESERVED_MS: u64 = 30_000;
/// Most ports that wait.
const MAX_RESERVED: usize = 256;
/// How many ports are tried that somebody else may have.
const TRIES: u8 = 16;

const KNOWN: &[u16] = &[
    USERNAME,
    REALM,
    NONCE,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    REQUESTED_TRANSPORT,
    REQUESTED_ADDRESS_FAMILY,
    EVEN_PORT,
    RESERVATION_TOKEN,
    DONT_FRAGMENT,
    LIFETIME,
];

/// A port that was reserved beside an even one.
pub(super) struct Reservation {
    token: [u8; 8],
    port: u16,
    family: Family,
    pub(super) until_ms: u64,
}

/// An Allocate whose sockets are being opened.
pub(super) struct Pending {
    pub(super) place: u32,
    client: Client,
    transaction: TransactionId,
    key: LongTermKey,
    algorithm: Algorithm,
    fingerprint: bool,
    lifetime_s: u32,
    token: Option<[u8; 8]>,
    /// The additional family has an error instead of an address.
    family_error: Option<(Family, u16)>,
    /// Which of the two is not essential.
    additional: bool,
    kind: Kind,
    tries: u8,
}

/// What an Allocate asks for, when it asks for something that makes sense.
struct Wanted {
    family: Family,
    additional: bool,
    kind: Kind,
    token: Option<[u8; 8]>,
}

fn wanted(message: &Message<'_>) -> Result<Wanted, u16> {
    match message.get(REQUESTED_TRANSPORT).map(|_| message.requested_transport()) {
        Some(Some(UDP)) => {}
        Some(Some(_)) => return Err(code::UNSUPPORTED_TRANSPORT),
        _ => return Err(code::BAD_REQUEST),
    }
    let family = match message.get(REQUESTED_ADDRESS_FAMILY) {
        None => None,
        Some(_) => {
            let known = message.requested_family();
            Some(known.ok_or(code::ADDRESS_FAMILY_NOT_SUPPORTED)?)
        }
    };
    let additional = match message.get(ADDITIONAL_ADDRESS_FAMILY) {
        None => false,
        // Only IPv6 may be added to IPv4, and to nothing else (section 7.2).
        Some(_) if message.family(ADDITIONAL_ADDRESS_FAMILY) == Some(2) => true,
        Some(_) => return Err(code::BAD_REQUEST),
    };
    let even = match message.get(EVEN_PORT) {
        None => None,
        Some(_) => Some(message.even_port().ok_or(code::BAD_REQUEST)?),
    };
    let token = match message.get(RESERVATION_TOKEN) {
        None => None,
        Some(_) => Some(message.reservation_token().ok_or(code::BAD_REQUEST)?),
    };
    let alone = !(additional && (family.is_some() || token.is_some() || even == Some(true)));
    if !alone || (token.is_some() && (even.is_some() || family.is_some())) {
        return Err(code::BAD_REQUEST);
    }
    let kind = match even {
        None => Kind::Any,
        Some(false) => Kind::Even,
        Some(true) => Kind::Pair,
    };
    Ok(Wanted { family: family.unwrap_or(Family::V4), additional, kind, token })
}

impl Turn {
    pub(super) fn allocate(&mut self, asked: &mut Asked<'_, '_>, identity: Identity<'_>) {
        let now = asked.now;
        if let Some(place) = self.table.of_client(&asked.client, now.ms) {
            let again = self.table.live(place, now.ms).is_some_and(|row| {
                row.transaction == asked.message.transaction()
                    && self.users.find(identity.name) == Some(row.user)
            });
            if again {
                return self.repeat(place, asked, &identity);
            }
            return self.refuse(asked, code::ALLOCATION_MISMATCH, Some(&identity));
        }
        if let Some(place) = self.table.any_of_client(&asked.client) {
            // Expired, and the timer has not come to it yet.
            self.end(place, asked.out);
        }
        if self.unknown(asked, KNOWN, Some(&identity)) {
            return;
        }
        let wanted = match wanted(&asked.message) {
            Ok(wanted) => wanted,
            Err(number) => return self.refuse(asked, number, Some(&identity)),
        };
        if self.relay_ip(wanted.family).is_none() {
            return self.refuse(asked, code::ADDRESS_FAMILY_NOT_SUPPORTED, Some(&identity));
        }
        if self.draining {
            return self.redirect(asked, &identity);
        }
        let settings = &self.settings;
        let (own, all) = (settings.max_per_user, settings.max_per_organisation);
        if !self.users.has_room(identity.name, own, all) {
            return self.refuse(asked, code::QUOTA_REACHED, Some(&identity));
        }
        if self.table.len() >= settings.max_allocations {
            return self.refuse(asked, code::INSUFFICIENT_CAPACITY, Some(&identity));
        }
        self.admit(asked, identity, &wanted);
    }

    fn redirect(&mut self, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) {
        let Some(alternate) = self.settings.alternate else {
            return self.refuse(asked, code::INSUFFICIENT_CAPACITY, Some(identity));
        };
        self.counters.refused += 1;
        Self::reply(asked, Class::Error, Some(identity), |writer| {
            writer.error(code::TRY_ALTERNATE)?;
            writer.address(ALTERNATE_SERVER, alternate)
        });
    }

    /// Everything is in order: takes ports and has their sockets opened.
    fn admit(&mut self, asked: &mut Asked<'_, '_>, identity: Identity<'_>, wanted: &Wanted) {
        let now = asked.now;
        let port = match wanted.token {
            Some(token) => self.claim(token, now),
            None => self
                .port(identity.name, wanted.family, wanted.kind)
                .map(|port| (port, wanted.family)),
        };
        let Some((port, family)) = port else {
            return self.refuse(asked, code::INSUFFICIENT_CAPACITY, Some(&identity));
        };
        let lifetime_s = self.lifetime(asked.message.lifetime());
        let user = self.users.add(identity.name);
        let place = self.table.insert(
            asked.client,
            user,
            asked.message.transaction(),
            now.ms + u64::from(lifetime_s) * 1_000,
            Bucket::full(self.settings.bytes_per_s, now.ms),
        );
        self.counters.allocations_made += 1;
        let mut pending = Pending {
            place,
            client: asked.client,
            transaction: asked.message.transaction(),
            key: identity.key,
            algorithm: identity.algorithm,
            fingerprint: asked.message.get(FINGERPRINT).is_some(),
            lifetime_s,
            token: (wanted.kind == Kind::Pair)
                .then(|| self.reserve(port + 1, family, now))
                .flatten(),
            family_error: None,
            additional: wanted.additional,
            kind: wanted.kind,
            tries: TRIES,
        };
        self.open(place, family, port, asked.out);
        if wanted.additional {
            let free = match self.relay_ip(Family::V6) {
                None => Err(code::ADDRESS_FAMILY_NOT_SUPPORTED),
                Some(_) => self
                    .port(identity.name, Family::V6, Kind::Any)
                    .ok_or(code::INSUFFICIENT_CAPACITY),
            };
            match free {
                Ok(port) => self.open(place, Family::V6, port, asked.out),
                Err(number) => pending.family_error = Some((Family::V6, number)),
            }
        }
        self.pending.push(pending);
    }

    /// A port for this user: its own one, if it has no other allocation and nobody
    /// else is there. Who was told of it can reach it there again.
    fn port(&mut self, name: &str, family: Family, kind: Kind) -> Option<u16> {
        let ports = &mut self.ports[family as usize];
        let own = self.auth.place(name).filter(|_| kind == Kind::Any);
        own.and_then(|place| ports.claim(place)).or_else(|| ports.choose(&mut self.chance, kind))
    }

    fn open(&mut self, place: u32, family: Family, port: u16, out: &mut Output) {
        self.table.set_port(place, family, port);
        if let Some(allocation) = self.table.get_mut(place) {
            allocation.opening += 1;
        }
        out.commands.push(Command::Open { relay: Relay { allocation: place, family }, port });
    }

    /// The lifetime that is given to a wish, in seconds.
    pub(super) fn lifetime(&self, wish: Option<u32>) -> u32 {
        let most = self.settings.max_lifetime_s.max(DEFAULT_LIFETIME_S);
        wish.unwrap_or(DEFAULT_LIFETIME_S).clamp(DEFAULT_LIFETIME_S, most)
    }

    /// How the shell fared with opening a socket.
    pub fn handle_opened(&mut self, relay: Relay, opened: Opened, now: Now, out: &mut Output) {
        let place = relay.allocation;
        let Some(at) = self.pending.iter().position(|pending| pending.place == place) else {
            return;
        };
        let Some(allocation) = self.table.get_mut(place).filter(|row| row.opening > 0) else {
            return;
        };
        let port = allocation.port(relay.family);
        allocation.opening -= 1;
        if opened != Opened::Open {
            self.set_back(at, relay, port, opened, now, out);
        }
        let is_done = self.table.get_mut(place).is_some_and(|row| row.opening == 0);
        if is_done && let Some(at) = self.pending.iter().position(|pending| pending.place == place)
        {
            let pending = self.pending.swap_remove(at);
            self.finish(&pending, now, out);
        }
    }

    /// A port could not be had: another one is tried, or the error is told.
    fn set_back(
        &mut self,
        at: usize,
        relay: Relay,
        port: u16,
        opened: Opened,
        now: Now,
        out: &mut Output,
    ) {
        let (place, family) = (relay.allocation, relay.family);
        let pending = &mut self.pending[at];
        let kind = if pending.kind == Kind::Any { Kind::Any } else { Kind::Even };
        let may_try = opened == Opened::Taken && pending.tries > 0 && pending.token.is_none();
        pending.tries = pending.tries.saturating_sub(1);
        // The port stays marked for as long as the next one is chosen.
        let other = may_try.then(|| self.ports[family as usize].choose(&mut self.chance, kind));
        self.ports[family as usize].give_back(port);
        if let Some(other) = other.flatten() {
            self.table.set_port(place, family, 0);
            return self.open(place, family, other, out);
        }
        let pending = &mut self.pending[at];
        self.table.set_port(place, family, 0);
        if pending.additional && family == Family::V6 {
            pending.family_error = Some((family, code::INSUFFICIENT_CAPACITY));
            return;
        }
        let pending = self.pending.swap_remove(at);
        self.counters.refused += 1;
        self.end(place, out);
        let reserved = pending.token.and_then(|token| self.claim(token, now));
        if let Some((port, family)) = reserved {
            self.ports[family as usize].give_back(port);
        }
        self.tell(&pending, Class::Error, out, |writer| writer.error(code::INSUFFICIENT_CAPACITY));
    }

    /// All sockets are there.
    fn finish(&self, pending: &Pending, now: Now, out: &mut Output) {
        let Some(allocation) = self.table.live(pending.place, now.ms) else { return };
        let addresses = [Family::V4, Family::V6].map(|family| {
            let port = allocation.port(family);
            let ip = self.relay_ip(family).filter(|_| port != 0);
            ip.map(|ip| SocketAddr::new(ip, port))
        });
        self.tell(pending, Class::Success, out, |writer| {
            addresses
                .into_iter()
                .flatten()
                .try_for_each(|address| writer.xor_address(XOR_RELAYED_ADDRESS, address))?;
            writer.xor_mapped_address(pending.client.address)?;
            writer.lifetime(pending.lifetime_s)?;
            if let Some(token) = pending.token {
                writer.attribute(RESERVATION_TOKEN, &token)?;
            }
            if let Some((family, number)) = pending.family_error {
                let (class, number) = ((number / 100) as u8, (number % 100) as u8);
                writer.attribute(ADDRESS_ERROR_CODE, &[family.number(), 0, class, number])?;
            }
            Ok(())
        });
    }

    fn tell(
        &self,
        pending: &Pending,
        class: Class,
        out: &mut Output,
        write: impl FnOnce(
            &mut weft_wire::stun::MessageWriter<'_>,
        ) -> Result<(), weft_wire::stun::StunError>,
    ) {
        let mut buffer = [0; MAX_MESSAGE];
        let signed = Some((&pending.key, pending.algorithm));
        let kind = kind_of(ALLOCATE, class);
        let (transaction, fingerprint) = (pending.transaction, pending.fingerprint);
        // Every answer is shorter than the buffer.
        if let Ok(len) = compose(kind, transaction, signed, fingerprint, &mut buffer, write) {
            out.answer(pending.client, &buffer[..len]);
        }
    }

    /// The same request once more: the same answer (RFC 8656 section 7.2).
    fn repeat(&mut self, place: u32, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) {
        let Some(allocation) = self.table.live(place, asked.now.ms) else { return };
        if allocation.opening > 0 {
            return;
        }
        let left_s = (allocation.expires_ms - asked.now.ms).div_ceil(1_000) as u32;
        let addresses = [Family::V4, Family::V6].map(|family| {
            let port = allocation.port(family);
            let ip = self.relay_ip(family).filter(|_| port != 0);
            ip.map(|ip| SocketAddr::new(ip, port))
        });
        let port = allocation.ports[0].max(allocation.ports[1]);
        let reserved = self.reservations.iter().find(|reserved| reserved.port == port + 1);
        let token = reserved.map(|reserved| reserved.token);
        let client = asked.client.address;
        Self::success(asked, identity, |writer| {
            addresses
                .into_iter()
                .flatten()
                .try_for_each(|address| writer.xor_address(XOR_RELAYED_ADDRESS, address))?;
            writer.xor_mapped_address(client)?;
            writer.lifetime(left_s)?;
            token.map_or(Ok(()), |token| writer.attribute(RESERVATION_TOKEN, &token))
        });
    }

    /// Keeps a port, which is taken already, for who shows the token.
    fn reserve(&mut self, port: u16, family: Family, now: Now) -> Option<[u8; 8]> {
        if self.reservations.len() >= MAX_RESERVED {
            self.ports[family as usize].give_back(port);
            return None;
        }
        let token = self.chance.draw();
        let until_ms = now.ms + RESERVED_MS;
        self.reservations.push(Reservation { token, port, family, until_ms });
        Some(token)
    }

    fn claim(&mut self, token: [u8; 8], now: Now) -> Option<(u16, Family)> {
        let fits = |reserved: &Reservation| reserved.token == token && reserved.until_ms > now.ms;
        let at = self.reservations.iter().position(fits)?;
        let reserved = self.reservations.swap_remove(at);
        Some((reserved.port, reserved.family))
    }

    pub(super) fn expire_reservations(&mut self, now: Now) {
        let ports = &mut self.ports;
        self.reservations.retain(|reserved| {
            let waits = reserved.until_ms > now.ms;
            if !waits {
                ports[reserved.family as usize].give_back(reserved.port);
            }
            waits
        });
    }
}
