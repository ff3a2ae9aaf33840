//! A coordinator in memory: the real sealed channel, maps with pages, calls.
//! No policy but "everybody may talk to everybody"; what it does wrong, a test
//! asked for.

mod maps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use weft_noise::entropy::Entropy as _;
use weft_noise::key::StaticSecret;
use weft_noise::legacy::hmac_sha1;
use weft_noise::mac;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::{Session, retry};
use weft_wire::frame::{FrameKind, Hello, PskKind, RecordHeader, Reset};
use weft_wire::id::{
    CommandId, DeviceId, Epoch, Inbox, KeyId, Name, NetworkId, OrganisationId, PublicKey,
    ReplicaId, Revision, Secret, ShortSecret,
};
use weft_wire::item::*;
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString};
use weft_wire::map::*;
use weft_wire::network::{NetcheckDone, NetworkReport};
use weft_wire::path::PathReport;
use weft_wire::relay::*;
use weft_wire::signal::{Call, CallAck, CallFailed};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::verdict::{CallFailure, Refusal};

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

    /// Loses all sessions, as a restart does.
    pub fn restart(&mut self) {
        self.sessions.clear();
        self.devices.iter_mut().for_each(|device| device.session = None);
    }

    /// A backup is restored: another life of the database, revisions go back.
    pub fn restore_backup(&mut self) {
        self.restart();
        self.epoch = Epoch(self.rng.next() as u32 | 1);
        for device in &mut self.devices {
            device.revision = 1;
            device.changes = vec![(1, None)];
        }
    }

    /// From now on the coordinator has another key (announced before).
    pub fn announce_key(&mut self) -> Frames {
        let next = CoordinatorKey::new(StaticSecret::generate(&mut self.rng));
        self.next_pin = Some(*next.public());
        self.next_key = Some(next);
        let devices: Vec<_> = self.devices.iter().map(|device| device.id).collect();
        devices.into_iter().flat_map(|device| self.changed(device, None)).collect()
    }

    /// Uses the announced key, after a restart.
    pub fn switch_key(&mut self) {
        self.key = self.next_key.take().expect("a message of our own making");
        self.next_pin = None;
        self.restart();
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

    /// An operator's decision about a device.
    pub fn set_standing(&mut self, id: DeviceId, standing: Standing) -> Frames {
        let device = self.by_id(id).expect("a message of our own making");
        device.standing = standing;
        let reason = heapless::String::new();
        let mut frames =
            self.tell(id, |writer| writer.put(&State { standing, since_ms: 1, reason }));
        frames.extend(self.changed(id, None));
        frames.extend(self.announce(id));
        frames
    }

    /// Gives a device another inbox.
    pub fn move_device(&mut self, id: DeviceId, inbox: Inbox) -> NewInbox {
        self.by_id(id).expect("it is registered").inbox = inbox;
        NewInbox { inbox, password: self.password(&inbox), password_expiry: 1 << 31 }
    }

    /// A backup is restored that does not know this device.
    pub fn restore_backup_without(&mut self, id: DeviceId) {
        self.devices.retain(|device| device.id != id);
        self.restore_backup();
    }

    /// Two devices keep the way between them open, or need not.
    pub fn keep_warm(&mut self, a: DeviceId, b: DeviceId, is_wanted: bool) -> Frames {
        let pair = (a.min(b), a.max(b));
        if is_wanted {
            self.warm.insert(pair);
        } else {
            self.warm.remove(&pair);
        }
        [self.changed(a, Some(b)), self.changed(b, Some(a))].concat()
    }

    /// A device may spend so many bytes a day.
    pub fn set_budget(&mut self, id: DeviceId, bytes: Option<u64>) -> Frames {
        match bytes {
            Some(bytes) => self.budgets.insert(id, bytes),
            None => self.budgets.remove(&id),
        };
        self.changed(id, None)
    }

    /// Everybody's map names these relays from now on.
    pub fn set_relays(&mut self, relays: &[Relay]) -> Frames {
        self.relays = relays.to_vec();
        let devices: Vec<_> = self.devices.iter().map(|device| device.id).collect();
        devices.into_iter().flat_map(|device| self.changed(device, None)).collect()
    }

    /// The MAC of a user's name at a relay.
    pub fn relay_mac(user: &str) -> [u8; 20] {
        hmac_sha1(RELAY_SECRET, &[user.as_bytes()])
    }

    fn handle_relay_ask(&mut self, session: u32, identity: PublicKey, ask: &RelayAsk) -> Frames {
        let device = self.device(&identity).expect("it has a session").id;
        self.relay_asks.push(device);
        if self.relay_asks_lost > 0 {
            self.relay_asks_lost -= 1;
            return vec![];
        }
        let lifetime_s = self.relay_lifetime_s;
        let expiry_s = (UNIX_MS + self.now_ms) / 1_000 + u64::from(lifetime_s);
        let user = format!("{expiry_s}:{device}@org_1");
        let login = |relay: &Relay| RelayLogin {
            relay: relay.number,
            mac: RelayMac(Self::relay_mac(&user)),
        };
        let logins = self.relays.iter().map(login).collect();
        let user = heapless::String::try_from(user.as_str()).expect("it is short");
        let grant = RelayGrant { request: ask.request, user, lifetime_s, logins };
        self.record(session, |writer| writer.put(&grant)).into_iter().collect()
    }

    fn handle_call(&mut self, session: u32, identity: PublicKey, call: Call) -> Frames {
        self.calls += 1;
        let from = self.device(&identity).expect("a message of our own making").id;
        let (to, id) = (call.peer, call.call);
        let down = Call { peer: from, ..call };
        let caller = self.introduction(to, from);
        let frames = self.tell(to, |writer| {
            caller.iter().try_for_each(|caller| writer.put(caller))?;
            writer.put(&down)
        });
        if frames.is_empty() {
            let code = CallFailure::Offline as u16;
            let failed = CallFailed { call: id, peer: to, code };
            return self.record(session, |writer| writer.put(&failed)).into_iter().collect();
        }
        frames
    }

    fn handle_path_report(
        &mut self,
        session: u32,
        identity: PublicKey,
        report: PathReport,
    ) -> Frames {
        let device = self.device(&identity).expect("it has a session").id;
        let done = Done { request: report.request };
        self.path_reports.push((device, report));
        if self.path_answers_lost > 0 {
            self.path_answers_lost -= 1;
            return vec![];
        }
        self.record(session, |writer| writer.put(&done)).into_iter().collect()
    }

    /// Deletes a device.
    pub fn remove(&mut self, id: DeviceId) -> Frames {
        self.devices.retain(|device| device.id != id);
        self.announce(id)
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

    /// Asks a device for another WireGuard key.
    pub fn rotate(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        assert!(device.wanted == 0 && !device.has_next(), "one at a time");
        device.rotations += 1;
        device.wanted = device.rotations;
        self.changed(id, None)
    }

    /// A device says what key it has made.
    fn report(&mut self, id: DeviceId, report: &KeyReport) -> Frames {
        let device = self.by_id(id).expect("it has a session");
        if report.rotation == 0 {
            (device.wg_key, device.second) = (report.key, None);
        } else if report.rotation == device.wanted {
            device.wanted = 0;
            device.second = Some(OwnSecond { key: report.key, kind: SecondKind::Next });
        } else {
            return vec![];
        }
        self.keys_changed(id)
    }

    /// Whoever holds less than there is was not reached by its announcement.
    fn handle_heartbeat(
        &mut self,
        session: u32,
        identity: PublicKey,
        heartbeat: Heartbeat,
    ) -> Option<(Inbox, Vec<u8>)> {
        let done = Done { request: heartbeat.request };
        let epoch = self.epoch;
        let newest = self.device(&identity).filter(|device| device.standing == Standing::Active);
        let missed = newest
            .map(|device| MapReady { epoch, revision: Revision(device.revision) })
            .filter(|ready| (heartbeat.epoch, heartbeat.revision) != (epoch, ready.revision));
        self.heartbeats.push(heartbeat);
        self.record(session, |writer| {
            writer.put(&done)?;
            missed.iter().try_for_each(|ready| writer.put(ready))
        })
    }

    fn handle_leave(&mut self, session: u32, identity: PublicKey, leave: &Leave) -> Frames {
        let done = Done { request: leave.request };
        let answer = self.record(session, |writer| writer.put(&done));
        let id = self.device(&identity).expect("a message of our own making").id;
        let mut frames = self.remove(id);
        frames.extend(answer);
        frames
    }

    fn handle_key_report(
        &mut self,
        session: u32,
        identity: PublicKey,
        report: &KeyReport,
    ) -> Frames {
        let done = Done { request: report.request };
        let answer = self.record(session, |writer| writer.put(&done));
        let id = self.device(&identity).expect("a message of our own making").id;
        let mut frames: Frames = answer.into_iter().collect();
        frames.extend(self.report(id, report));
        frames
    }

    /// The next key of a device comes into use.
    pub fn activate(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        let next = device.second.expect("it has a next key");
        assert_eq!(next.kind, SecondKind::Next);
        device.second = Some(OwnSecond { key: device.wg_key, kind: SecondKind::Previous });
        device.wg_key = next.key;
        self.keys_changed(id)
    }

    /// A rotation is given up.
    pub fn withdraw(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        device.wanted = 0;
        device.second = device.second.filter(|second| second.kind == SecondKind::Previous);
        self.keys_changed(id)
    }

    /// The key before the active one is accepted no more.
    pub fn forget_previous(&mut self, id: DeviceId) -> Frames {
        let device = self.by_id(id).expect("it is registered");
        device.second = device.second.filter(|second| second.kind == SecondKind::Next);
        self.keys_changed(id)
    }

    fn keys_changed(&mut self, id: DeviceId) -> Frames {
        let mut frames = self.changed(id, None);
        frames.extend(self.announce(id));
        frames
    }

    /// Commands a device to restart.
    pub fn command(&mut self, id: DeviceId, command: u32, expires_ms: u64) -> Frames {
        let command = Command { id: CommandId(command), expires_ms, kind: CommandKind::Restart };
        self.tell(id, |writer| writer.put(&command))
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

    /// A frame that came from `inbox`.
    pub fn handle(&mut self, inbox: Inbox, frame: &[u8]) -> Frames {
        match weft_wire::frame::kind(frame) {
            Ok(FrameKind::Hello) => self.handle_hello(inbox, frame).into_iter().collect(),
            Ok(FrameKind::Record) => self.handle_record(inbox, frame),
            _ => vec![],
        }
    }

    fn handle_hello(&mut self, inbox: Inbox, frame: &[u8]) -> Option<(Inbox, Vec<u8>)> {
        let hello = Hello::parse(frame).ok()?;
        let next = self.next_key.as_ref().filter(|_| !self.key.check_mac1(&hello));
        let key = next.unwrap_or(&self.key);
        if !key.check_mac1(&hello) || hello.inbox() != inbox {
            return None;
        }
        self.hellos += 1;
        self.hello_hash = weft_noise::sealed::hello_hash(frame);
        if self.silent {
            return None;
        }
        let bucket = self.now_ms / 60_000;
        if self.under_load && !retry::verify(&self.retry_secret, &hello, bucket) {
            let answer = retry::answer(&self.retry_secret, &hello, bucket);
            return Some((inbox, answer.to_bytes().to_vec()));
        }
        let opened = key.open_hello(&hello).ok()?;
        let selector = hello.selector();
        let identity = *opened.device();
        let (psk, enrolment) = match selector.kind {
            PskKind::Enrolment => {
                let id = KeyId::from_bytes(hello.reference()).ok()?;
                let psk = mac::psk(&self.master, 0, PskKind::Enrolment, &id.to_bytes());
                (psk, Some(id))
            }
            PskKind::Device => {
                let psk = mac::psk(&self.master, selector.master, PskKind::Device, &identity.0);
                (psk, None)
            }
        };
        let mut plain = [0; 512];
        let (len, verified) = opened.verify(key, &hello, &psk, &mut plain).ok()?;
        let info: HelloInfo = Items::new(&plain[..len]).next()?.ok()?.decode().ok()?;
        let id = self.rng.next() as u32;
        let device = self.device(&identity);
        let lost = enrolment.is_none() && device.is_none();
        if lost && info.epoch == self.epoch {
            return None;
        }
        let welcome = WelcomeInfo {
            session: id,
            wire: 1,
            replica: ReplicaId(0),
            time_ms: UNIX_MS + self.now_ms,
            epoch: self.epoch,
            // Nobody else has a map.
            revision: Revision(
                device
                    .filter(|device| device.standing == Standing::Active)
                    .map_or(0, |device| device.revision),
            ),
            inbox: device.map_or(inbox, |device| device.inbox),
            password: self.password(&device.map_or(inbox, |device| device.inbox)),
            password_expiry: u32::MAX,
            reconnect_min_s: self.reconnect_s.0,
            reconnect_max_s: self.reconnect_s.1,
            heartbeat_s: self.heartbeat_s,
        };
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&welcome).expect("a message of our own making");
        let len = writer.len();
        let mut out = vec![0; 1_024];
        let (len, session) = verified
            .welcome(id, &plain[..len], &mut self.rng, &mut out)
            .expect("a message of our own making");
        out.truncate(len);
        self.welcomes += 1;
        let (max_rx, on_demand) = (usize::from(info.max_rx), info.on_demand > 0);
        let held = Some((info.epoch, info.revision))
            .filter(|held| *held == (welcome.epoch, welcome.revision));
        let live = Live { session, identity, enrolment, lost, held, inbox, max_rx, on_demand };
        self.sessions.insert(id, live);
        Some((inbox, out))
    }

    fn handle_record(&mut self, inbox: Inbox, frame: &[u8]) -> Frames {
        let Ok(header) = RecordHeader::parse(frame) else { return vec![] };
        let Some(live) = self.sessions.get_mut(&header.session) else {
            let reset = Reset { session: header.session, hello_hash: [0; 8] };
            return vec![(inbox, reset.to_bytes().to_vec())];
        };
        let mut plain = vec![0; 4_096];
        let Ok(len) = live.session.open(frame, &mut plain) else { return vec![] };
        let (identity, enrolment) = (live.identity, live.enrolment);
        let (lost, held) = (core::mem::take(&mut live.lost), live.held);
        let session = header.session;
        let mut frames = vec![];
        if enrolment.is_none()
            && let Some(device) = self.devices.iter_mut().find(|d| d.identity == identity)
            && device.session != Some(session)
        {
            (device.session, device.held) = (Some(session), held);
            let (id, standing) = (device.id, device.standing);
            if standing != Standing::Active {
                let reason = heapless::String::new();
                frames.extend(
                    self.tell(id, |writer| writer.put(&State { standing, since_ms: 1, reason })),
                );
            }
        }
        if lost {
            frames.extend(self.record(session, |writer| writer.put(&Lost {})));
        }
        for item in Items::new(&plain[..len]) {
            let item = item.expect("a message of our own making");
            if self.may_say(session, identity, item.tag) {
                frames.extend(self.handle_item(session, identity, &item));
            }
        }
        frames
    }

    /// Who is none of the devices may register. One that enrols knows that; one
    /// whose row is lost says what a member says until it has read so.
    fn may_say(&mut self, session: u32, identity: PublicKey, tag: u32) -> bool {
        let enrolling = self.sessions.get(&session).is_some_and(|live| live.enrolment.is_some());
        if enrolling && tag != Register::TAG {
            self.unknown.push(tag);
        }
        tag == Register::TAG || (!enrolling && self.device(&identity).is_some())
    }

    fn handle_item(&mut self, session: u32, identity: PublicKey, raw: &RawItem<'_>) -> Frames {
        let one = |frame: Option<_>| frame.into_iter().collect::<Frames>();
        match raw.tag {
            Register::TAG => {
                self.register(session, identity, raw.decode().expect("a message of our own making"))
            }
            MapNext::TAG => {
                let next = raw.decode().expect("a message of our own making");
                one(self.page(session, identity, &next))
            }
            MapApplied::TAG => {
                let applied: MapApplied = raw.decode().expect("a message of our own making");
                let device = self.devices.iter_mut().find(|d| d.identity == identity);
                if let Some(device) = device {
                    let applied = (applied.epoch, applied.revision);
                    device.applied = Some(applied);
                    // A newer one may be on its way already.
                    let newer = |held: &Held| held.0 == applied.0 && held.1 > applied.1;
                    device.held = device.held.filter(newer).or(Some(applied));
                }
                vec![]
            }
            Ping::TAG => {
                let ping: Ping = raw.decode().expect("a message of our own making");
                one(self.record(session, |writer| writer.put(&ping)))
            }
            Heartbeat::TAG => {
                let heartbeat = raw.decode().expect("a message of our own making");
                one(self.handle_heartbeat(session, identity, heartbeat))
            }
            DataUsage::TAG => {
                let usage = raw.decode().expect("a message of our own making");
                self.usages.push((identity, usage));
                vec![]
            }
            KeyReport::TAG => {
                let report = raw.decode().expect("a message of our own making");
                self.handle_key_report(session, identity, &report)
            }
            Leave::TAG => {
                let leave = raw.decode().expect("a message of our own making");
                self.handle_leave(session, identity, &leave)
            }
            RelayAsk::TAG => {
                let ask = raw.decode().expect("a message of our own making");
                self.handle_relay_ask(session, identity, &ask)
            }
            PathReport::TAG => {
                let report = raw.decode().expect("a message of our own making");
                self.handle_path_report(session, identity, report)
            }
            CommandDone::TAG => {
                let done: CommandDone = raw.decode().expect("a message of our own making");
                self.done.push((done.id, done.outcome));
                vec![]
            }
            NetcheckDone::TAG => {
                let done: NetcheckDone = raw.decode().expect("a message of our own making");
                self.looked.push((done.id, done.outcome, done.report));
                vec![]
            }
            Call::TAG => {
                let call = raw.decode().expect("a message of our own making");
                self.handle_call(session, identity, call)
            }
            CallAck::TAG => {
                let ack: CallAck = raw.decode().expect("a message of our own making");
                let from = self.device(&identity).expect("a message of our own making").id;
                let to = ack.peer;
                let down = CallAck { peer: from, ..ack };
                self.tell(to, |writer| writer.put(&down))
            }
            Unsupported::TAG => {
                self.unsupported.push(raw.decode::<Unsupported>().expect("an item").tag);
                vec![]
            }
            tag => {
                self.unknown.push(tag);
                vec![]
            }
        }
    }

    fn register(&mut self, session: u32, identity: PublicKey, request: Register) -> Frames {
        self.registers += 1;
        if let Some(code) = self.refuse {
            let refused = Refused {
                request: request.request,
                code: code as u16,
                at_ms: 0,
                numbers: (0, 0),
                text: heapless::String::new(),
            };
            return self.record(session, |writer| writer.put(&refused)).into_iter().collect();
        }
        let mut frames = vec![];
        if self.device(&identity).is_none() {
            let id = DeviceId(self.devices.iter().map(|d| d.id.0 + 1).max().unwrap_or(100));
            let taken = |host| self.devices.iter().any(|device| device.host == host);
            let next = self.devices.iter().map(|d| d.host + 1).max().unwrap_or(2);
            let host = if request.host == 0 || taken(request.host) { next } else { request.host };
            let mut inbox = Inbox([0; 16]);
            self.rng.fill(&mut inbox.0);
            let standing = if self.needs_approval { Standing::Pending } else { Standing::Active };
            self.devices.push(Device {
                id,
                identity,
                wg_key: request.wg_key,
                second: None,
                wanted: 0,
                rotations: 0,
                name: request.name.clone(),
                host,
                inbox,
                standing,
                revision: 1,
                changes: vec![(1, None)],
                applied: None,
                held: None,
                session: None,
            });
            frames = self.announce(id);
        }
        let device = self.device(&identity).expect("a message of our own making").clone();
        let answer = Registered {
            request: request.request,
            device: device.id,
            network: NetworkId(1),
            organisation: OrganisationId(1),
            name: device.name.clone(),
            network_name: text("home"),
            standing: device.standing,
            host: device.host,
            overlay: Self::overlay(),
            inbox: device.inbox,
            password: self.password(&device.inbox),
            password_expiry: u32::MAX,
            psk: mac::psk(&self.master, 0, PskKind::Device, &identity.0),
            master: 0,
            key_name: text("demo"),
            key_uses: 1,
            key_max_uses: 2,
        };
        frames.extend(self.record(session, |writer| writer.put(&answer)));
        frames
    }
}
