//! The coordinator behind its carriers, and an enrolled device that holds every
//! key it should and sends what it likes. A second device, beside it, loses
//! nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use weft_coordinator::domain::audit::Actor;
use weft_coordinator::domain::key::NewKey;
use weft_coordinator::domain::network::NewNetwork;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::bus::{Answer, Bus, Carrier, Class, Delivery, Inbound, Uplink};
use weft_coordinator::service::channel::{Channel, FrameDrop, Parts};
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::random::Random;
use weft_coordinator::service::seams::Refusals;
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::store::sqlite::{self, NewInstallation, SqliteStore};
use weft_coordinator::store::{By, SharedStore};
use weft_noise::entropy::Entropy as _;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_sim::Rng;
use weft_wire::PROTOCOL;
use weft_wire::frame::{FrameKind, MAX_FRAME, PskKind, PskSelector, kind};
use weft_wire::id::{Epoch, Inbox, Instance, KeyId, NetworkId, Revision, Secret};
use weft_wire::item::{
    Abilities, Backend, HelloInfo, Item, Items, Ping, Register, Registered, WelcomeInfo,
};
use weft_wire::map::Overlay;

use crate::agent::items;
use crate::script::Script;

const OPS: usize = 24;
/// In which a rate limit of HELLOs lets the next one through, and some.
const REFILL: Duration = Duration::from_millis(2_100);
const NOW: UnixMs = UnixMs(1_800_000_000_000);
const NETWORK: NetworkId = NetworkId(1);

struct Still;

impl Clock for Still {
    fn unix_ms(&self) -> u64 {
        NOW.0
    }
}

fn secrets() -> Secrets {
    Secrets::from_seed(&Secret([0x42; 32]))
}

/// The same bytes in every run, so that one that fails can be run again.
fn random(out: &mut [u8]) {
    static STATE: Mutex<Option<Rng>> = Mutex::new(None);
    let mut state = STATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    state.get_or_insert_with(|| Rng::new(6)).fill(out);
}

/// Frames on their way down.
#[derive(Default)]
struct Outbox(Mutex<Vec<(Inbox, Bytes)>>);

impl Outbox {
    fn take(&self, inbox: Inbox) -> Vec<Bytes> {
        let mut all = self.0.lock().expect("no panic yet");
        let (mine, others) =
            std::mem::take(&mut *all).into_iter().partition(|(to, _)| *to == inbox);
        *all = others;
        let mine: Vec<(Inbox, Bytes)> = mine;
        mine.into_iter().map(|(_, frame)| frame).collect()
    }
}

impl Bus for Outbox {
    fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        let mut all = self.0.lock().expect("no panic yet");
        assert!(frame.len() <= MAX_FRAME && all.len() < 4_096);
        all.push((inbox, frame));
        Delivery::Queued
    }

    fn disconnect(&self, _inbox: Inbox) {}

    fn reachable(&self, _inbox: Inbox) -> bool {
        true
    }
}

/// A device with weft-noise's device side.
struct Device {
    initiator: Initiator,
    inbox: Inbox,
    psk: Secret,
    selector: PskSelector,
    reference: [u8; 8],
    rng: Rng,
    pending: Option<Pending>,
    session: Option<Session>,
}

impl Device {
    fn enrolling(number: u8, key: KeyId) -> Self {
        let secrets = secrets();
        let identity = StaticSecret::from_bytes([0x60 + number; 32]);
        let master = secrets.master_version();
        Self {
            initiator: Initiator::new(identity, &secrets.public()).expect("a strong key"),
            inbox: Inbox([0x60 + number; 16]),
            psk: secrets.enrolment_psk(key, master).expect("the master is there"),
            selector: PskSelector { kind: PskKind::Enrolment, master },
            reference: key.to_bytes(),
            rng: Rng::new(u64::from(number)),
            pending: None,
            session: None,
        }
    }

    fn member(number: u8, place: &Place) -> Self {
        Self {
            inbox: place.inbox,
            psk: place.psk.duplicate(),
            selector: PskSelector { kind: PskKind::Device, master: place.master },
            reference: [0; 8],
            ..Self::enrolling(number, place.key)
        }
    }

    fn hello(&mut self, payload: &[u8]) -> Vec<u8> {
        let head = HelloHead {
            selector: self.selector,
            reference: self.reference,
            inbox: self.inbox,
            token: None,
        };
        let mut frame = vec![0; MAX_FRAME];
        let made = self.initiator.hello(&head, &self.psk, payload, &mut self.rng, &mut frame);
        let (len, pending) = made.expect("a short payload");
        self.pending = Some(pending);
        frame.truncate(len);
        frame
    }

    fn seal(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME];
        let len = self.session.as_mut()?.seal(plain, &mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    /// Takes a frame from the coordinator; the items of a record.
    fn take(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; MAX_FRAME];
        match kind(frame) {
            Ok(FrameKind::Welcome) => {
                let Some(pending) = &mut self.pending else { return vec![] };
                let Ok((len, accepted)) = pending.welcome(&self.initiator, frame, &mut plain)
                else {
                    return vec![];
                };
                let info: WelcomeInfo = find(&plain[..len]).expect("a WELCOME says who");
                self.session = Some(accepted.into_session(info.session));
                vec![]
            }
            Ok(FrameKind::Record) => {
                let Some(session) = &mut self.session else { return vec![] };
                let Ok(len) = session.open(frame, &mut plain) else { return vec![] };
                plain.truncate(len);
                assert!(Items::new(&plain).all(|item| item.is_ok()));
                plain
            }
            Ok(FrameKind::Retry | FrameKind::Reset) => vec![],
            other => panic!("a coordinator sends {other:?}"),
        }
    }
}

fn find<T: Item>(plain: &[u8]) -> Option<T> {
    Items::new(plain).flatten().find(|item| item.tag == T::TAG)?.decode().ok()
}

fn info() -> HelloInfo {
    HelloInfo {
        wire_min: PROTOCOL,
        wire_max: PROTOCOL,
        instance: Instance([1; 8]),
        boot_count: 1,
        max_rx: MAX_FRAME as u16,
        on_demand: 0,
        epoch: Epoch(0),
        revision: Revision(0),
    }
}

/// What device `number` asks when it enrols.
pub fn register(number: u8) -> Register {
    Register {
        request: 1,
        wg_key: StaticSecret::from_bytes([0x70 + number; 32]).public(),
        fingerprint: [number; 32],
        name: "device".try_into().expect("a name"),
        host: 0,
        abilities: Abilities {
            families: 3,
            carriers: 1,
            mtu: 1_280,
            backend: Backend::User,
            peer_slots: 256,
            peer_routes: 64,
            rules: 64,
            agent: heapless::String::new(),
            platform: heapless::String::new(),
            endpoints: heapless::Vec::new(),
        },
    }
}

/// What enrolment gave a device.
struct Place {
    key: KeyId,
    inbox: Inbox,
    psk: Secret,
    master: u8,
}

/// A database with a key and two members, made once; every run has a copy.
struct Ground {
    database: Vec<u8>,
    places: [Place; 2],
}

static GROUND: LazyLock<Ground> = LazyLock::new(lay);

/// A database file of this thread; gone when dropped.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        // In memory where there is such a place: nothing here is to last.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let thread = std::thread::current().id();
        let file = Self(base.join(format!("weft-fuzz-{}-{thread:?}.db", std::process::id())));
        file.remove();
        file
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            // What is not there is removed already.
            drop(std::fs::remove_file(name));
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.remove();
    }
}

fn lay() -> Ground {
    let network = NewNetwork {
        name: "home".to_owned(),
        overlay: Overlay { ipv4: [100, 93, 0, 0].into(), ipv4_len: 20, ipv6: [0xfd; 6] },
        mtu: 1_280,
        lease_s: 3_600,
    };
    let new = NewInstallation { epoch: Epoch(7), coordinator: secrets().public(), network };
    let file = File::new();
    let path = &file.0;
    sqlite::create(path, &new, NOW).expect("a database");
    let places = runtime().block_on(async {
        let world = World::open(path).await;
        let key = KeyId::from_random([1; 8]);
        let by = By { actor: Actor::socket(0), at: NOW };
        let new = NewKey {
            id: key,
            network: NETWORK,
            name: None,
            master: secrets().master_version(),
            max_uses: None,
            expires: None,
            tags: "".parse().expect("no tags"),
            needs_approval: false,
            generation: 0,
        };
        world.store.create_key(new, by).await.expect("a key");
        [world.enrol(0, key).await, world.enrol(1, key).await]
    });
    assert!(!path.with_extension("db-wal").exists(), "all of it is in the file");
    Ground { database: std::fs::read(path).expect("the database"), places }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

struct World {
    store: SharedStore,
    channel: Arc<Channel>,
    outbox: Arc<Outbox>,
}

impl World {
    async fn open(path: &Path) -> Self {
        let store: SharedStore = Arc::new(SqliteStore::open(path, NOW).expect("the database"));
        let outbox = Arc::new(Outbox::default());
        let parts = Parts {
            store: Arc::clone(&store),
            secrets: Arc::new(secrets()),
            bus: Arc::clone(&outbox) as _,
            clock: Arc::new(Still),
            refusals: Arc::new(Refusals::default()),
            random: Random(random),
            relays: weft_coordinator::service::relays::RelaySecrets::default(),
            handshakes: 2,
            heartbeat_s: 900,
        };
        let now = tokio::time::Instant::now().into_std();
        let channel = Arc::new(Channel::new(parts, now).await.expect("the database is read"));
        Self { store, channel, outbox }
    }

    async fn up(&self, inbox: Inbox, class: Class, frame: &[u8]) -> Answer {
        let carrier = if class == Class::Unknown { Carrier::Http } else { Carrier::Mqtt };
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let answer =
            self.channel.handle_uplink(Uplink { inbox, class, carrier, address, frame }).await;
        assert!(answer.frames.iter().all(|frame| frame.len() <= MAX_FRAME));
        answer
    }

    /// Sends a frame of a device and takes all answers; their items.
    async fn say(&self, device: &mut Device, class: Class, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = self.up(device.inbox, class, frame).await.frames;
        frames.extend(self.outbox.take(device.inbox));
        frames.iter().map(|frame| device.take(frame)).collect()
    }

    async fn enrol(&self, number: u8, key: KeyId) -> Place {
        let mut device = Device::enrolling(number, key);
        let class = Class::Enrolling(key);
        let hello = device.hello(&items(&[&info()]));
        self.say(&mut device, class, &hello).await;
        let frame = device.seal(&items(&[&register(number)])).expect("a session");
        let answers = self.say(&mut device, class, &frame).await;
        let registered = answers.iter().find_map(|plain| find::<Registered>(plain));
        let registered = registered.expect("the device is taken in");
        Place {
            key,
            inbox: registered.inbox,
            psk: registered.psk.duplicate(),
            master: registered.master,
        }
    }

    /// A device that behaves is served.
    async fn serves(&self, device: &mut Device) {
        let hello = device.hello(&items(&[&info()]));
        self.say(device, Class::Device, &hello).await;
        if device.session.is_none() {
            // One pair of inboxes in 16,384 shares a rate limit: what the hostile
            // one used up comes back with time.
            assert!(self.channel.stats().dropped(FrameDrop::HelloRate).get() > 0);
            tokio::time::sleep(REFILL).await;
            let hello = device.hello(&items(&[&info()]));
            self.say(device, Class::Device, &hello).await;
        }
        let frame = device.seal(&items(&[&Ping { request: 77 }])).expect("a session");
        let answers = self.say(device, Class::Device, &frame).await;
        let pong = answers.iter().find_map(|plain| find::<Ping>(plain));
        assert_eq!(pong.map(|pong| pong.request), Some(77), "the other device is served");
    }

    async fn step(&self, op: u8, script: &mut Script<'_>, device: &mut Device) {
        let class = match op >> 6 {
            0 | 1 => Class::Device,
            2 => Class::Unknown,
            _ => Class::Enrolling(KeyId::from_random([1; 8])),
        };
        let frame = match op & 7 {
            0 => device.hello(&items(&[&info()])),
            1 => device.hello(script.bytes(512)),
            2..=4 => match device.seal(script.bytes(3_700)) {
                Some(frame) => frame,
                None => return,
            },
            5 => script.bytes(MAX_FRAME + 1).to_vec(),
            6 => {
                let mut frame = device.hello(&items(&[&info()]));
                let at = usize::from(script.short()) % (8 * frame.len());
                frame[at / 8] ^= 1 << (at % 8);
                let answer = self.up(device.inbox, class, &frame).await;
                // A bit of its type makes a record of no session of it.
                let is_hint = |frame: &Bytes| kind(frame) == Ok(FrameKind::Reset);
                assert!(answer.frames.iter().all(is_hint), "what was changed is not answered");
                return;
            }
            _ => {
                self.channel.handle_gone(device.inbox);
                return;
            }
        };
        self.say(device, class, &frame).await;
    }
}

pub(crate) fn run(data: &[u8]) {
    let ground = &*GROUND;
    let file = File::new();
    std::fs::write(&file.0, &ground.database).expect("a copy of the database");
    runtime().block_on(async {
        let world = World::open(&file.0).await;
        let mut script = Script::new(data);
        let mut hostile = Device::member(0, &ground.places[0]);
        if script.byte() & 1 == 1 {
            hostile = Device::enrolling(2, ground.places[0].key);
        }
        for _ in 0..OPS {
            let Some(op) = script.op() else { break };
            world.step(op, &mut script, &mut hostile).await;
        }
        let mut other = Device::member(1, &ground.places[1]);
        world.outbox.take(other.inbox);
        world.serves(&mut other).await;
    });
}
