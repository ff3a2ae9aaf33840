//! The relay: STUN (RFC 8489), its NAT discovery (RFC 5780) and TURN (RFC 8656)
//! for UDP allocations, without a socket and without a clock.
//!
//! The shell hands in what a socket gave, a whole burst at once as the kernel
//! joins them, and does the [`Command`]s of [`Output`] in their order. A burst
//! stays together: its packets leave as one [`Run`].
//!
//! Deviations from RFC 8656, beside those of [`weft_wire::stun`]:
//! - a user is the name behind the expiry (see `auth`);
//! - a challenge (401, 438) is never longer than what its source has sent, so a
//!   client whose first request is short is answered at its repetition;
//! - DONT-FRAGMENT is taken and means nothing: the socket never fragments on
//!   purpose, and the kernel decides;
//! - ChannelData is relayed only while the peer's permission lives;
//! - channels of RFC 5766's range are bound too;
//! - nothing is relayed from ICMP.

mod allocate;
mod auth;
mod binding;
mod data;
mod output;
mod policy;
mod ports;
mod requests;
mod settings;
mod table;
mod users;

use core::net::IpAddr;

use weft_noise::mac;
use weft_wire::stun::{
    Algorithm, Class, FINGERPRINT, Family, Message, MessageWriter, NONCE, REALM, StunError,
    TransactionId, UNKNOWN_ATTRIBUTES, code, kind_of,
};

use super::limit::SourceLimit;
use auth::{Auth, Identity, Refusal};
use ports::{Chance, Ports};
use table::{Allocation, Table};
use users::Users;

pub use output::{Client, Command, Hop, Output, Prefix, Relay, Run, Via};
pub use policy::{NotAPrefix, Policy, Prefix as AddressPrefix};
pub use settings::{Alternates, Settings, SharedSecret};

/// The longest message of ours.
const MAX_MESSAGE: usize = 512;
/// How many unknown attributes an error names.
const MAX_UNKNOWN: usize = 8;

/// The time, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that only goes on.
    pub ms: u64,
    /// Unix time in seconds, for what credentials say.
    pub unix_s: u64,
}

/// How the shell fared with [`Command::Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The socket is there.
    Open,
    /// Somebody else has the port; another one may do.
    Taken,
    /// No port will do: no descriptor, no memory, no right.
    Failed,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What happened so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Names, descriptions and values.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($name), concat!($($doc),*), self.$name)),*].into_iter()
            }

            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// All values, in order.
            pub const fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// The counters of these values.
            pub const fn from_values(values: [u64; Self::COUNT]) -> Self {
                let [$($name),*] = values;
                Self { $($name),* }
            }
        }
    };
}

counters! {
    /// Allocations made.
    allocations_made,
    /// Allocations that ended.
    allocations_ended,
    /// Binding success responses.
    bindings,
    /// Error responses to Binding requests.
    bindings_refused,
    /// Challenges: 401 and 438.
    challenges,
    /// Other error responses.
    refused,
    /// Allocations ended because their user was denied.
    denied,
    /// Packets relayed from clients to peers.
    packets_to_peers,
    /// Bytes relayed from clients to peers.
    bytes_to_peers,
    /// Packets relayed from peers to clients.
    packets_to_clients,
    /// Bytes relayed from peers to clients.
    bytes_to_clients,
    /// Packets that went from one allocation to another inside the server.
    packets_inside,
    /// Packets dropped: no allocation.
    dropped_no_allocation,
    /// Packets dropped: no permission for the peer.
    dropped_no_permission,
    /// Packets dropped: no such channel.
    dropped_no_channel,
    /// Packets dropped: beyond the allocation's bandwidth.
    dropped_bandwidth,
    /// Packets dropped: a peer that may not be sent to.
    dropped_forbidden,
    /// Datagrams that were neither STUN nor ChannelData, or did not hold together.
    malformed,
    /// Requests without an answer: beyond their source's share.
    limited,
}

/// The relay.
pub struct Turn {
    settings: Settings,
    auth: Auth,
    table: Table,
    users: Users,
    ports: [Ports; 2],
    chance: Chance,
    limit: SourceLimit,
    counters: Counters,
    draining: bool,
    reservations: Vec<allocate::Reservation>,
    pending: Vec<allocate::Pending>,
}

/// A request with what its answer needs.
struct Asked<'m, 'b> {
    message: Message<'m>,
    client: Client,
    now: Now,
    out: &'b mut Output,
}

impl Turn {
    /// Makes one; `seed` is 32 bytes of the system's randomness.
    pub fn new(mut settings: Settings, seed: &[u8; 32]) -> Self {
        let secrets = core::mem::take(&mut settings.secrets);
        let nonce_key = mac::keyed_hash(seed, &[b"weft relay nonce key v1"]);
        let limit_key = u64::from_be_bytes(Chance::new(*seed).draw());
        Self {
            auth: Auth::new(nonce_key, settings.nonce_s, &settings.realm, secrets),
            table: Table::new(),
            users: Users::default(),
            ports: [Ports::new(settings.ports.clone()), Ports::new(settings.ports.clone())],
            chance: Chance::new(mac::keyed_hash(seed, &[b"weft relay ports v1"])),
            limit: SourceLimit::new(limit_key),
            counters: Counters::default(),
            draining: false,
            reservations: Vec::new(),
            pending: Vec::new(),
            settings,
        }
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// How many allocations there are.
    pub fn allocations(&self) -> u32 {
        self.table.len()
    }

    /// Whether a client has an allocation.
    pub fn has_allocation(&self, client: &Client, now: Now) -> bool {
        self.table.of_client(client, now.ms).is_some()
    }

    /// How many users have allocations.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Takes other secrets; allocations stay.
    pub fn set_secrets(&mut self, secrets: Vec<SharedSecret>) {
        self.auth.set_secrets(secrets);
    }

    /// Whether new allocations are refused, so that this server can end when the
    /// last one has.
    pub const fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Ends a user's allocations at once and refuses the user from now on. `name`
    /// is what stands behind the expiry.
    pub fn handle_denied(&mut self, name: &str, now: Now, out: &mut Output) {
        self.auth.deny(name, now);
        let Some(user) = self.users.find(name) else { return };
        for place in self.table.of_user(user) {
            self.counters.denied += 1;
            self.end(place, out);
        }
    }

    /// Takes a denied user back.
    pub fn handle_allowed(&mut self, name: &str) {
        self.auth.allow(name);
    }

    /// A client's connection is gone: so is its allocation (RFC 8656 section 3.1).
    pub fn handle_closed(&mut self, client: &Client, out: &mut Output) {
        if let Some(place) = self.table.any_of_client(client) {
            self.end(place, out);
        }
    }

    /// When [`Turn::handle_timeout`] has something to do, in [`Now::ms`].
    pub fn poll_timeout(&self) -> Option<u64> {
        let reserved = self.reservations.iter().map(|reservation| reservation.until_ms).min();
        [self.table.deadline(), reserved].into_iter().flatten().min()
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Output) {
        while let Some(place) = self.table.expired(now.ms) {
            self.end(place, out);
        }
        self.expire_reservations(now);
    }

    /// Takes an allocation away and gives back what it had.
    fn end(&mut self, place: u32, out: &mut Output) {
        let Some(allocation) = self.table.remove(place) else { return };
        self.pending.retain(|pending| pending.place != place);
        self.users.remove(allocation.user);
        self.counters.allocations_ended += 1;
        for relay in Table::relays(place, &allocation) {
            self.ports[relay.family as usize].give_back(allocation.port(relay.family));
            out.commands.push(Command::Close(relay));
        }
    }

    /// The address of a family's allocations.
    fn relay_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.settings.relay_v4.map(IpAddr::V4),
            Family::V6 => self.settings.relay_v6.map(IpAddr::V6),
        }
    }

    fn judge(&self, ip: IpAddr) -> policy::Verdict {
        let relays = [self.relay_ip(Family::V4), self.relay_ip(Family::V6)];
        self.settings.policy.judge(ip, relays, &self.settings.own)
    }

    /// Answers with what `write` writes behind the header, signed for whom it is.
    fn reply(
        asked: &mut Asked<'_, '_>,
        class: Class,
        identity: Option<&Identity<'_>>,
        write: impl FnOnce(&mut MessageWriter<'_>) -> Result<(), StunError>,
    ) {
        let kind = kind_of(asked.message.method(), class);
        let signed = identity.map(|identity| (&identity.key, identity.algorithm));
        let fingerprint = asked.message.get(FINGERPRINT).is_some();
        let mut buffer = [0; MAX_MESSAGE];
        let written =
            compose(kind, asked.message.transaction(), signed, fingerprint, &mut buffer, write);
        // Every answer is shorter than the buffer.
        if let Ok(len) = written {
            asked.out.answer(asked.client, &buffer[..len]);
        }
    }

    fn success(
        asked: &mut Asked<'_, '_>,
        identity: &Identity<'_>,
        write: impl FnOnce(&mut MessageWriter<'_>) -> Result<(), StunError>,
    ) {
        Self::reply(asked, Class::Success, Some(identity), write);
    }

    fn refuse(&mut self, asked: &mut Asked<'_, '_>, number: u16, identity: Option<&Identity<'_>>) {
        self.counters.refused += 1;
        Self::reply(asked, Class::Error, identity, |writer| writer.error(number));
    }

    /// 401 or 438: the realm and a fresh nonce.
    fn challenge(&mut self, asked: &mut Asked<'_, '_>, number: u16, received: usize) {
        let ip = asked.client.address.ip();
        let nonce = self.auth.nonce(ip, asked.now);
        let fingerprint = if asked.message.get(FINGERPRINT).is_some() { 8 } else { 0 };
        let cost =
            20 + 8 + 4 + self.auth.realm.len().next_multiple_of(4) + 4 + nonce.len() + fingerprint;
        if !self.may_answer(asked, received, cost) {
            return;
        }
        self.counters.challenges += 1;
        let realm = self.auth.realm.as_bytes();
        Self::reply(asked, Class::Error, None, |writer| {
            writer.error(number)?;
            writer.attribute(REALM, realm)?;
            writer.attribute(NONCE, &nonce)
        });
    }

    /// Whether a stranger is answered with `cost` bytes. Over a connection always:
    /// whoever made it has the address that it says, and repeats nothing.
    fn may_answer(&mut self, asked: &Asked<'_, '_>, received: usize, cost: usize) -> bool {
        let allowed = match asked.client.via {
            Via::Stream(_) => true,
            Via::Udp { .. } => {
                let ip = asked.client.address.ip();
                self.limit.take_bytes(ip, received, cost, asked.now.ms)
            }
        };
        self.counters.limited += u64::from(!allowed);
        allowed
    }

    /// 420, with the types that must be understood and are not.
    fn unknown(
        &mut self,
        asked: &mut Asked<'_, '_>,
        known: &[u16],
        identity: Option<&Identity<'_>>,
    ) -> bool {
        let mut types = [0; 2 * MAX_UNKNOWN];
        let unknown = asked.message.attributes().map(|(kind, _)| kind);
        let unknown = unknown.filter(|kind| *kind < 0x8000 && !known.contains(kind));
        let mut len = 0;
        for (kind, place) in unknown.zip(types.chunks_exact_mut(2)) {
            place.copy_from_slice(&kind.to_be_bytes());
            len += 2;
        }
        if len > 0 {
            self.counters.refused += 1;
            Self::reply(asked, Class::Error, identity, |writer| {
                writer.error(code::UNKNOWN_ATTRIBUTE)?;
                writer.attribute(UNKNOWN_ATTRIBUTES, &types[..len])
            });
        }
        len > 0
    }

    /// Who asks; an answer is on its way if it is nobody.
    fn authenticate<'m>(
        &mut self,
        asked: &mut Asked<'m, '_>,
        received: usize,
    ) -> Option<Identity<'m>> {
        match self.auth.check(&asked.message, asked.client.address.ip(), asked.now) {
            Ok(identity) => return Some(identity),
            Err(Refusal::Challenge(number)) => self.challenge(asked, number, received),
            Err(Refusal::Plain(number)) => {
                // 28 bytes at most, to a request that had as many.
                if self.may_answer(asked, received, 36) {
                    self.refuse(asked, number, None);
                }
            }
            Err(Refusal::Signed(number, identity)) => self.refuse(asked, number, Some(&identity)),
        }
        None
    }

    /// The client's allocation, and whether this user made it; an answer is on
    /// its way if not.
    fn owned(&mut self, asked: &mut Asked<'_, '_>, identity: &Identity<'_>) -> Option<u32> {
        let number = match self.table.of_client(&asked.client, asked.now.ms) {
            None => code::ALLOCATION_MISMATCH,
            Some(place) => {
                let user = self.users.find(identity.name);
                let owner = self.table.live(place, asked.now.ms).map(|row| row.user);
                if user.is_some() && user == owner {
                    return Some(place);
                }
                code::WRONG_CREDENTIALS
            }
        };
        self.refuse(asked, number, Some(identity));
        None
    }
}

/// Writes one message; returns its length.
fn compose(
    kind: u16,
    transaction: TransactionId,
    signed: Option<(&weft_noise::legacy::LongTermKey, Algorithm)>,
    fingerprint: bool,
    buffer: &mut [u8],
    write: impl FnOnce(&mut MessageWriter<'_>) -> Result<(), StunError>,
) -> Result<usize, StunError> {
    let mut writer = MessageWriter::new(kind, transaction, buffer)?;
    write(&mut writer)?;
    if let Some((key, algorithm)) = signed {
        key.sign(algorithm, &mut writer)?;
    }
    if fingerprint { writer.finish() } else { Ok(writer.finish_bare()) }
}
