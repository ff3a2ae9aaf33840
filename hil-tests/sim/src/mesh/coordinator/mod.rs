//! A coordinator in memory: the real sealed channel, maps with pages, calls.
//! No policy but "everybody may talk to everybody"; what it does wrong, a test
//! asked for.

mod keys;
mod maps;
mod operator;
mod requests;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use weft_noise::entropy::Entropy as _;
use weft_noise::key::StaticSecret;
use weft_noise::legacy::hmac_sha1;
use weft_noise::mac;
use weft_noise::sealed::Session;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_wire::frame::PskKind;
use weft_wire::id::{
    CommandId, DeviceId, Epoch, Inbox, KeyId, Name, NetworkId, PublicKey, Revision, Secret,
    ShortSecret,
};
use weft_wire::item::*;
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString};
use weft_wire::map::*;
use weft_wire::network::NetworkReport;
use weft_wire::path::PathReport;
use weft_wire::relay::*;
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::verdict::Refusal;

use crate::rng::Rng;

/// Unix time in milliseconds at the mesh's zero.
/// What relays and the coordinator share.
pub(super) const RELAY_SECRET: &[u8] = b"a secret of sixteen";
/// The coordinator's Unix time when virtual time began, in milliseconds.
pub const UNIX_MS: u64 = 1_795_000_000_000;

/// Frames with the inboxes that they go to.
pub type Frames = Vec<(Inbox, Vec<u8>)>;

#[derive(Clone)]
/// A registered device.
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its identity key.
    pub identity: PublicKey,
    /// Its WireGuard key.
    pub wg_key: PublicKey,
    /// Its second WireGuard key.
    pub second: Option<OwnSecond>,
    /// Number of the rotation that is asked for, or 0.
    pub wanted: u32,
    /// Rotations asked for so far.
    pub rotations: u32,
    /// Its name.
    pub name: Name,
    /// Its host number.
    pub host: u32,
    /// Where it receives.
    pub inbox: Inbox,
    /// How it stands.
    pub standing: Standing,
    /// Revision of its map.
    pub revision: u64,
    /// (revision, who changed; `None` = the settings)
    changes: Vec<(u64, Option<DeviceId>)>,
    /// What it said that it has applied.
    pub applied: Option<Held>,
    /// What it holds as far as is known: a push builds on it.
    held: Option<Held>,
    /// Its confirmed session.
    pub session: Option<u32>,
}

impl Device {
    /// Whether peers accept a key that is not in use yet.
    pub fn has_next(&self) -> bool {
        self.second.is_some_and(|second| second.kind == SecondKind::Next)
    }
}

/// Epoch and revision of a map.
pub type Held = (Epoch, Revision);

struct Live {
    session: Session,
    identity: PublicKey,
    enrolment: Option<KeyId>,
    /// Its row is lost, and it was not told so yet.
    lost: bool,
    /// What it said in its HELLO that it holds, if that was the newest.
    held: Option<Held>,
    inbox: Inbox,
    max_rx: usize,
    on_demand: bool,
}

/// See the module.
pub struct Coordinator {
    key: CoordinatorKey,
    next_key: Option<CoordinatorKey>,
    master: Secret,
    retry_secret: Secret,
    enrolment: KeyId,
    /// All devices.
    pub devices: Vec<Device>,
    sessions: HashMap<u32, Live>,
    /// The life of its database.
    pub epoch: Epoch,
    /// Length of the lease in seconds.
    pub lease_s: u32,
    /// The STUN servers that the map names.
    pub stun: Vec<SocketAddr>,
    /// Seconds between heartbeats.
    pub heartbeat_s: u16,
    /// Earliest and latest reconnection after a loss, in seconds.
    pub reconnect_s: (u16, u16),
    /// New devices wait for an operator.
    pub needs_approval: bool,
    /// New devices are refused for this reason.
    pub refuse: Option<Refusal>,
    /// Answers HELLOs without a token by RETRY.
    pub under_load: bool,
    /// Sends a small change along with its announcement.
    pub pushes: bool,
    /// Hears HELLOs and does not answer them.
    pub silent: bool,
    /// The hash of the last HELLO, as RETRY names it.
    pub hello_hash: [u8; 8],
    /// Devices of the map that no agent stands behind.
    pub extra_peers: Vec<(DeviceId, PublicKey)>,
    /// The relays of every map.
    pub relays: Vec<Relay>,
    /// Ops of a newer coordinator in every snapshot and change, as items.
    pub newer_ops: Vec<u8>,
    /// Life of credentials at relays, in seconds.
    pub relay_lifetime_s: u32,
    /// Who asked for credentials at relays, in order.
    pub relay_asks: Vec<DeviceId>,
    /// Requests for credentials that are to be lost.
    pub relay_asks_lost: u32,
    /// Reports on paths, in order.
    pub path_reports: Vec<(DeviceId, PathReport)>,
    /// Reports whose answer is to be lost.
    pub path_answers_lost: u32,
    /// The key that it will have next.
    pub next_pin: Option<PublicKey>,
    /// HELLOs with a right mac1.
    pub hellos: u32,
    /// WELCOMEs sent.
    pub welcomes: u32,
    /// `Register`s received.
    pub registers: u32,
    /// Pages asked for.
    pub pages: u32,
    /// Tags that it did not expect.
    pub unknown: Vec<u32>,
    /// Tags that devices do not know.
    pub unsupported: Vec<u32>,
    /// Heartbeats received.
    pub heartbeats: Vec<Heartbeat>,
    /// Pairs that keep the way between them open, the lower id first.
    pub warm: BTreeSet<(DeviceId, DeviceId)>,
    /// Bytes a day of devices that have a budget.
    pub budgets: BTreeMap<DeviceId, u64>,
    /// Calls that devices sent, repeated ones too.
    pub calls: u32,
    /// What devices said of their bytes.
    pub usages: Vec<(PublicKey, DataUsage)>,
    /// Commands answered.
    pub done: Vec<(CommandId, Outcome)>,
    /// What devices found out about their networks.
    pub looked: Vec<(CommandId, Outcome, Option<NetworkReport>)>,
    rng: Rng,
    /// Milliseconds since the mesh's zero.
    pub now_ms: u64,
}

fn secret(rng: &mut Rng) -> Secret {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    Secret(bytes)
}

fn text(name: &str) -> Name {
    Name::try_from(name).expect("a message of our own making")
}

impl Coordinator {
    /// Its keys follow from the seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let key = CoordinatorKey::new(StaticSecret::generate(&mut rng));
        Self {
            key,
            next_key: None,
            master: secret(&mut rng),
            retry_secret: secret(&mut rng),
            enrolment: KeyId::from_random(rng.next().to_be_bytes()),
            devices: Vec::new(),
            sessions: HashMap::new(),
            epoch: Epoch(rng.next() as u32 | 1),
            lease_s: 7 * 86_400,
            stun: vec![],
            heartbeat_s: 900,
            reconnect_s: (0, 1),
            needs_approval: false,
            refuse: None,
            under_load: false,
            pushes: false,
            silent: false,
            hello_hash: [0; 8],
            extra_peers: Vec::new(),
            relays: Vec::new(),
            newer_ops: Vec::new(),
            relay_lifetime_s: 7 * 86_400,
            relay_asks: Vec::new(),
            relay_asks_lost: 0,
            path_reports: vec![],
            path_answers_lost: 0,
            next_pin: None,
            hellos: 0,
            welcomes: 0,
            registers: 0,
            pages: 0,
            unknown: Vec::new(),
            unsupported: Vec::new(),
            heartbeats: Vec::new(),
            warm: BTreeSet::new(),
            budgets: BTreeMap::new(),
            calls: 0,
            usages: Vec::new(),
            done: Vec::new(),
            looked: vec![],
            rng,
            now_ms: 0,
        }
    }

    /// The join string of its enrolment key.
    pub fn join_string(&self) -> JoinString {
        let reference = self.enrolment.to_bytes();
        JoinString {
            coordinator: *self.key.public(),
            key: self.enrolment,
            psk: mac::psk(&self.master, 0, PskKind::Enrolment, &reference),
            token: EnrolToken { expiry: u32::MAX, mac: ShortSecret([7; 16]) },
            addresses: [Address {
                carrier: Carrier::Mqtt,
                authority: heapless::String::try_from("203.0.113.10:7420")
                    .expect("a message of our own making"),
            }]
            .into_iter()
            .collect(),
            spki: None,
            account: None,
        }
    }

    /// Its network's addresses.
    pub fn overlay() -> Overlay {
        Overlay {
            ipv4: Ipv4Addr::new(100, 93, 0, 0),
            ipv4_len: 16,
            ipv6: [0xfd, 0x5c, 0x7e, 0x0a, 0x91, 0xb3],
        }
    }

    /// The device with this identity key.
    pub fn device(&self, identity: &PublicKey) -> Option<&Device> {
        self.devices.iter().find(|device| device.identity == *identity)
    }

    fn by_id(&mut self, id: DeviceId) -> Option<&mut Device> {
        self.devices.iter_mut().find(|device| device.id == id)
    }

    /// A device's map has changed: it is told if it is there.
    pub fn changed(&mut self, device: DeviceId, who: Option<DeviceId>) -> Frames {
        let Some(device) = self.by_id(device) else { return vec![] };
        device.revision += 1;
        device.changes.push((device.revision, who));
        let id = device.id;
        self.push(id)
    }

    /// Everybody else's map gains or changes this device.
    pub fn announce(&mut self, who: DeviceId) -> Frames {
        let others: Vec<_> =
            self.devices.iter().map(|device| device.id).filter(|&id| id != who).collect();
        others.into_iter().flat_map(|id| self.changed(id, Some(who))).collect()
    }

    /// The MAC of a user's name at a relay.
    pub fn relay_mac(user: &str) -> [u8; 20] {
        hmac_sha1(RELAY_SECRET, &[user.as_bytes()])
    }

    /// The broker's password of whoever receives there.
    pub fn password(&self, inbox: &Inbox) -> ShortSecret {
        let mut password = ShortSecret([0; 16]);
        password.0.copy_from_slice(&mac::keyed_hash(&self.master.0, &[b"mqtt", &inbox.0])[..16]);
        password
    }

    /// The secret of two devices.
    pub fn pair_secret(&self, a: DeviceId, b: DeviceId) -> Secret {
        mac::pair_secret(&self.master, NetworkId(1), a, b, 0)
    }

    /// Sends items to a device if it has a session.
    pub fn tell(
        &mut self,
        id: DeviceId,
        fill: impl FnOnce(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Frames {
        let session = self.by_id(id).and_then(|device| device.session);
        let Some(session) = session else { return vec![] };
        self.record(session, fill).into_iter().collect()
    }

    fn record(
        &mut self,
        session: u32,
        fill: impl FnOnce(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Option<(Inbox, Vec<u8>)> {
        let live = self.sessions.get_mut(&session)?;
        let mut plain = vec![0; 3_800];
        let mut writer = ItemWriter::new(&mut plain);
        fill(&mut writer).expect("a message of our own making");
        let len = writer.finish();
        let mut frame = vec![0; len + 64];
        let len =
            live.session.seal(&plain[..len], &mut frame).expect("a message of our own making");
        assert!(len <= live.max_rx, "a record of {len} bytes for {}", live.max_rx);
        frame.truncate(len);
        Some((live.inbox, frame))
    }
}
