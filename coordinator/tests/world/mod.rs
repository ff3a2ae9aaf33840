//! A whole coordinator on loopback, and devices made of weft-noise's device side
//! and raw MQTT.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::net::TcpStream;
use weft_coordinator::domain::audit::Actor;
use weft_coordinator::domain::key::{EnrolmentKey, NewKey};
use weft_coordinator::domain::network::NewNetwork;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::bus::{Bus, Inbound};
use weft_coordinator::service::channel::{Channel, Parts};
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::random::Random;
use weft_coordinator::service::relay_link::{self, RelayLink};
use weft_coordinator::service::relays::RelaySecrets;
use weft_coordinator::service::seams::Refusals;
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::store::sqlite::{self, NewInstallation, SqliteStore};
use weft_coordinator::store::{By, SharedStore};
use weft_coordinator::transport::external::{Account, External, Joined};
use weft_coordinator::transport::listen::{Behind, Front, Limits, Listener, Places, Stats};
use weft_coordinator::transport::mqtt::hub::Hub;
use weft_coordinator::transport::mqtt::{Broker, Embedded};
use weft_coordinator::transport::{post, relay_post};
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_wire::frame::{FrameKind, MAX_FRAME, PskKind, PskSelector, kind};
use weft_wire::id::{Epoch, Inbox, Instance, KeyId, NetworkId, ReplicaId, Revision, Secret};
use weft_wire::item::{
    Abilities, Backend, HelloInfo, Item, ItemError, ItemWriter, Items, RawItem, Refused, Register,
    Registered, WelcomeInfo,
};
use weft_wire::map::Overlay;
use weft_wire::topic::Topic;
use weft_wire::{PROTOCOL, login};
use zeroize::Zeroizing;

use super::common::TempDir;
use super::endpoint::{Client, Credentials, NOW_MS, connect, enrolling, publish, soon, subscribe};

pub const EPOCH: Epoch = Epoch(7);
pub const NETWORK: NetworkId = NetworkId(1);

/// Relays with the secrets that they share with the coordinator.
pub const RELAYS: [(u16, &str); 2] = [(1, "north"), (2, "south")];

/// Bytes that no other call gives.
pub fn unique<const N: usize>() -> [u8; N] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0x5A; N];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

pub struct TestRandom;

impl Entropy for TestRandom {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).unwrap();
    }
}

pub struct TestClock;

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        NOW_MS
    }
}

pub struct World {
    pub store: SharedStore,
    pub secrets: Arc<Secrets>,
    pub channel: Arc<Channel>,
    pub link: Arc<RelayLink>,
    pub hub: Arc<Hub>,
    pub broker: Arc<Broker>,
    pub refusals: Arc<Refusals>,
    /// Where devices connect.
    pub address: SocketAddr,
    /// The way to a foreign broker, and the account that devices share there.
    pub foreign: Option<(External, Login)>,
    pub behind: Arc<Behind>,
    dir: Arc<TempDir>,
}

/// User name and password.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl Login {
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    /// The coordinator's way to a broker on this machine.
    pub fn external(&self, address: SocketAddr) -> External {
        let account = Account {
            host: address.ip().to_string(),
            port: address.port(),
            user: self.user.clone(),
            password: Zeroizing::new(self.password.clone()),
        };
        External::new(account, Random(|out| getrandom::fill(out).unwrap()))
    }
}

impl World {
    pub async fn new() -> Self {
        Self::build(None).await
    }

    /// One whose devices come over a foreign broker at `address`.
    pub async fn behind(address: SocketAddr, own: &Login, devices: &Login) -> Self {
        let foreign = (own.external(address), devices.clone());
        Self { address, ..Self::build(Some(foreign)).await }
    }

    async fn build(foreign: Option<(External, Login)>) -> Self {
        let dir = TempDir::new();
        let path = dir.path().join("weft.db");
        let secrets = Arc::new(super::endpoint::secrets());
        let network = NewNetwork {
            name: "home".to_owned(),
            overlay: Overlay { ipv4: [100, 93, 0, 0].into(), ipv4_len: 20, ipv6: [0xfd; 6] },
            mtu: 1_280,
            lease_s: 3_600,
        };
        let new = NewInstallation { epoch: EPOCH, coordinator: secrets.public(), network };
        sqlite::create(&path, &new, UnixMs(NOW_MS)).unwrap();
        Self::open(Arc::new(dir), secrets, foreign).await
    }

    /// The same installation, served by another process: only the store knows
    /// what was before.
    pub async fn restarted(&self) -> Self {
        self.broker.stop();
        Self::open(Arc::clone(&self.dir), Arc::clone(&self.secrets), None).await
    }

    /// The same with another key file.
    pub async fn restarted_with(&self, secrets: Secrets) -> Self {
        self.broker.stop();
        Self::open(Arc::clone(&self.dir), Arc::new(secrets), None).await
    }

    async fn open(
        dir: Arc<TempDir>,
        secrets: Arc<Secrets>,
        foreign: Option<(External, Login)>,
    ) -> Self {
        let path = dir.path().join("weft.db");
        let store: SharedStore = Arc::new(SqliteStore::open(&path, UnixMs(NOW_MS)).unwrap());
        let hub = Arc::new(Hub::default());
        let bus: Arc<dyn Bus> = match &foreign {
            Some((external, _)) => Arc::new(Joined::new(Arc::clone(&hub), external.clone())),
            None => Arc::new(Embedded::new(Arc::clone(&hub))),
        };
        let refusals = Arc::new(Refusals::default());
        let parts = Parts {
            store: Arc::clone(&store),
            secrets: Arc::clone(&secrets),
            bus,
            clock: Arc::new(TestClock),
            refusals: Arc::clone(&refusals),
            random: Random(|out| getrandom::fill(out).unwrap()),
            relays: RelaySecrets::new(
                RELAYS.map(|(number, secret)| (number, Zeroizing::new(secret.to_owned()))),
            ),
            handshakes: 2,
            heartbeat_s: 900,
        };
        let now = tokio::time::Instant::now().into_std();
        let channel = Arc::new(Channel::new(parts, now).await.unwrap());
        let running = Arc::clone(&channel);
        let changes = store.changes();
        tokio::spawn(async move { running.run(changes).await });
        let inbound: Arc<dyn Inbound> = Arc::clone(&channel) as _;
        if let Some((external, _)) = &foreign {
            tokio::spawn(external.clone().run(Arc::clone(&inbound), Arc::clone(&hub)));
        }
        let broker = Arc::new(Broker::new(
            Arc::clone(&hub),
            Arc::clone(&inbound),
            Arc::clone(&secrets) as _,
            Arc::new(TestClock),
        ));
        let link = Arc::new(RelayLink::new(relay_link::Parts {
            store: Arc::clone(&store),
            secrets: Arc::clone(&secrets),
            clock: Arc::new(TestClock),
            random: Random(|out| getrandom::fill(out).unwrap()),
            inside: None,
        }));
        let (told, changes) = (Arc::clone(&link), store.changes());
        tokio::spawn(async move { told.run(changes).await });
        let behind = Arc::new(Behind {
            broker: Arc::clone(&broker),
            front: Front::new(
                post::routes(inbound, Arc::clone(&hub))
                    .merge(relay_post::routes(Arc::clone(&link))),
            ),
            tls: super::endpoint::tls(),
            places: Places::new(Limits::default()),
            stats: Arc::new(Stats::default()),
        });
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listener.run(Arc::clone(&behind)));
        Self { store, secrets, channel, link, hub, broker, refusals, address, foreign, behind, dir }
    }

    pub fn by(&self) -> By {
        By { actor: Actor::socket(0), at: UnixMs(NOW_MS) }
    }

    pub async fn key(&self, change: impl FnOnce(&mut NewKey)) -> EnrolmentKey {
        let mut new = NewKey {
            id: KeyId::from_random(unique()),
            network: NETWORK,
            name: None,
            master: self.secrets.master_version(),
            max_uses: None,
            expires: None,
            tags: "".parse().unwrap(),
            needs_approval: false,
            generation: 0,
        };
        change(&mut new);
        self.store.create_key(new, self.by()).await.unwrap()
    }

    /// A device that enrolled, came back under its own inbox and shook hands.
    pub async fn member(&self, key: &EnrolmentKey, name: &str) -> Device {
        let mut device = Device::new(self, name);
        device.enrol(self, key).await.unwrap();
        device.come_back(self).await;
        device.shake_hands(self).await;
        device
    }
}

/// An item cut loose from its record.
#[derive(Clone, Debug)]
pub struct Held {
    pub tag: u32,
    pub body: Vec<u8>,
}

impl Held {
    pub fn raw(&self) -> RawItem<'_> {
        RawItem { tag: self.tag, body: &self.body }
    }

    pub fn decode<T: Item>(&self) -> T {
        self.raw().decode().unwrap_or_else(|e| panic!("item {}: {e:?}", self.tag))
    }
}

pub fn held(plain: &[u8]) -> Vec<Held> {
    let item = |item: Result<RawItem<'_>, ItemError>| {
        let item = item.unwrap();
        Held { tag: item.tag, body: item.body.to_vec() }
    };
    Items::new(plain).map(item).collect()
}

/// The first item of a kind.
pub fn find<T: Item>(items: &[Held]) -> Option<T> {
    items.iter().find(|item| item.tag == T::TAG).map(Held::decode)
}

pub struct Device {
    pub name: String,
    pub identity: Secret,
    pub initiator: Initiator,
    pub wg_key: weft_wire::id::PublicKey,
    pub inbox: Inbox,
    pub instance: Instance,
    pub max_rx: u16,
    pub on_demand: u16,
    /// The map that it says it holds.
    pub holds: (Epoch, Revision),
    pub registered: Option<Registered>,
    pub welcome: Option<WelcomeInfo>,
    pub session: Option<Session>,
    pub client: Option<Client<TcpStream>>,
    request: u32,
}

/// What a refused device is told.
#[derive(Debug)]
pub struct Told {
    pub code: u16,
    pub at_ms: u64,
    pub numbers: (u32, u32),
    pub text: String,
}

/// Which PSK a HELLO is made with.
pub struct Psk {
    pub selector: PskSelector,
    pub reference: [u8; 8],
    pub secret: Secret,
}

pub fn enrolment_psk(world: &World, key: &EnrolmentKey) -> Psk {
    Psk {
        selector: PskSelector { kind: PskKind::Enrolment, master: key.master },
        reference: key.id.to_bytes(),
        secret: world.secrets.enrolment_psk(key.id, key.master).unwrap(),
    }
}

impl Device {
    pub fn new(world: &World, name: &str) -> Self {
        let identity = StaticSecret::generate(&mut TestRandom);
        Self {
            name: name.to_owned(),
            identity: identity.to_secret(),
            initiator: Initiator::new(identity, &world.secrets.public()).unwrap(),
            wg_key: StaticSecret::generate(&mut TestRandom).public(),
            inbox: Inbox(unique()),
            instance: Instance(unique()),
            max_rx: MAX_FRAME as u16,
            on_demand: 0,
            holds: (Epoch(0), Revision(0)),
            registered: None,
            welcome: None,
            session: None,
            client: None,
            request: 0,
        }
    }

    pub fn id(&self) -> weft_wire::id::DeviceId {
        self.registered.as_ref().unwrap().device
    }

    pub fn device_psk(&self) -> Psk {
        let registered = self.registered.as_ref().unwrap();
        Psk {
            selector: PskSelector { kind: PskKind::Device, master: registered.master },
            reference: [0; 8],
            secret: registered.psk.duplicate(),
        }
    }

    /// A HELLO and what waits for its WELCOME.
    pub fn hello(&self, psk: &Psk, token: Option<[u8; 16]>) -> (Vec<u8>, Pending) {
        let info = HelloInfo {
            wire_min: PROTOCOL,
            wire_max: PROTOCOL,
            instance: self.instance,
            boot_count: 1,
            max_rx: self.max_rx,
            on_demand: self.on_demand,
            epoch: self.holds.0,
            revision: self.holds.1,
        };
        let mut plain = [0; 128];
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&info).unwrap();
        let len = writer.finish();
        let head = HelloHead {
            selector: psk.selector,
            reference: psk.reference,
            inbox: self.inbox,
            token,
        };
        let mut frame = [0; 512];
        let (frame_len, pending) = self
            .initiator
            .hello(&head, &psk.secret, &plain[..len], &mut TestRandom, &mut frame)
            .unwrap();
        (frame[..frame_len].to_vec(), pending)
    }

    pub fn take_welcome(&mut self, mut pending: Pending, frame: &[u8]) {
        assert_eq!(kind(frame), Ok(FrameKind::Welcome));
        let mut plain = [0; 512];
        let (len, accepted) = pending.welcome(&self.initiator, frame, &mut plain).unwrap();
        let info: WelcomeInfo = find(&held(&plain[..len])).unwrap();
        self.session = Some(accepted.into_session(info.session));
        self.welcome = Some(info);
    }

    pub fn seal(&mut self, write: impl FnOnce(&mut ItemWriter<'_>)) -> Vec<u8> {
        let mut plain = vec![0; 2_048];
        let mut writer = ItemWriter::new(&mut plain);
        write(&mut writer);
        let len = writer.finish();
        let mut frame = vec![0; MAX_FRAME];
        let session = self.session.as_mut().unwrap();
        let len = session.seal(&plain[..len], &mut frame).unwrap();
        frame.truncate(len);
        frame
    }

    pub fn open(&mut self, frame: &[u8]) -> Vec<Held> {
        assert!(frame.len() <= usize::from(self.max_rx), "longer than the device takes");
        let mut plain = vec![0; MAX_FRAME];
        let len = self.session.as_mut().unwrap().open(frame, &mut plain).unwrap();
        held(&plain[..len])
    }

    pub fn next_request(&mut self) -> u32 {
        self.request += 1;
        self.request
    }

    pub fn register(&mut self) -> Register {
        Register {
            request: self.next_request(),
            wg_key: self.wg_key,
            fingerprint: [1; 32],
            name: self.name.as_str().try_into().unwrap(),
            host: 0,
            abilities: Abilities {
                families: 3,
                carriers: 1,
                mtu: 1_280,
                backend: Backend::User,
                peer_slots: 256,
                peer_routes: 64,
                rules: 64,
                agent: "0.1.0".try_into().unwrap(),
                platform: "linux-x86_64".try_into().unwrap(),
                endpoints: heapless::Vec::new(),
            },
        }
    }

    /// Connects to the broker and subscribes to the own inbox.
    pub async fn connect(&mut self, world: &World, credentials: &Credentials) {
        let mut client = Client::new(TcpStream::connect(world.address).await.unwrap());
        let shared = world.foreign.as_ref().map(|(_, login)| Credentials {
            client_id: credentials.client_id.clone(),
            user: login.user.clone(),
            password: login.password.clone(),
        });
        client.write(&connect(shared.as_ref().unwrap_or(credentials), 300, &[])).await;
        let (first, body) = soon(client.read()).await.expect("a CONNACK");
        assert_eq!((first, body[1]), (0x20, 0), "{body:02x?}");
        client.write(&subscribe(&Topic::Down(self.inbox).text(), 0)).await;
        assert_eq!(soon(client.read()).await.unwrap().0, 0x90);
        self.client = Some(client);
    }

    pub async fn send_hello(&mut self, frame: &[u8]) {
        let topic = Topic::Hello(self.inbox).text();
        self.client.as_mut().unwrap().write(&publish(&topic, frame)).await;
    }

    pub async fn send_record(&mut self, frame: &[u8]) {
        let topic = Topic::Record(ReplicaId(0), self.inbox).text();
        self.client.as_mut().unwrap().write(&publish(&topic, frame)).await;
    }

    pub async fn read(&mut self) -> Vec<u8> {
        let inbox = self.inbox;
        soon(self.client.as_mut().unwrap().read_frame(inbox)).await
    }

    /// The items of the next record.
    pub async fn items(&mut self) -> Vec<Held> {
        let frame = self.read().await;
        self.open(&frame)
    }

    /// Reads records until one holds an item of this kind.
    pub async fn wait_for<T: Item>(&mut self) -> T {
        loop {
            if let Some(found) = find(&self.items().await) {
                return found;
            }
        }
    }

    /// Sends a record of these items.
    pub async fn send(&mut self, write: impl FnOnce(&mut ItemWriter<'_>)) {
        let frame = self.seal(write);
        self.send_record(&frame).await;
    }

    /// Sends an item and reads the answering record.
    pub async fn ask<T: Item>(&mut self, item: &T) -> Vec<Held> {
        self.send(|writer| writer.put(item).unwrap()).await;
        self.items().await
    }

    /// Connects with the key's token, shakes hands and registers.
    pub async fn enrol(&mut self, world: &World, key: &EnrolmentKey) -> Result<(), Told> {
        self.connect(world, &enrolling(self.inbox, key.id)).await;
        let psk = enrolment_psk(world, key);
        let (hello, pending) = self.hello(&psk, None);
        self.send_hello(&hello).await;
        let welcome = self.read().await;
        self.take_welcome(pending, &welcome);
        let register = self.register();
        let answer = self.ask(&register).await;
        if let Some(refused) = find::<Refused>(&answer) {
            assert_eq!(refused.request, register.request);
            return Err(Told {
                code: refused.code,
                at_ms: refused.at_ms,
                numbers: refused.numbers,
                text: refused.text.as_str().to_owned(),
            });
        }
        let registered: Registered = find(&answer).expect("registered or refused");
        assert_eq!(registered.request, register.request);
        self.registered = Some(registered);
        Ok(())
    }

    pub fn credentials(&self) -> Credentials {
        let registered = self.registered.as_ref().unwrap();
        Credentials {
            client_id: registered.inbox.to_string(),
            user: registered.inbox.to_string(),
            password: login::password(registered.password_expiry, &registered.password)
                .as_str()
                .to_owned(),
        }
    }

    /// Connects anew under the inbox that it was given.
    pub async fn come_back(&mut self, world: &World) {
        self.inbox = self.registered.as_ref().unwrap().inbox;
        let credentials = self.credentials();
        self.connect(world, &credentials).await;
    }

    /// A session with the device's own PSK, confirmed by a Ping.
    pub async fn shake_hands(&mut self, _world: &World) -> Vec<Held> {
        let (hello, pending) = self.hello(&self.device_psk(), None);
        self.send_hello(&hello).await;
        let welcome = self.read().await;
        self.take_welcome(pending, &welcome);
        let request = self.next_request();
        self.ask(&weft_wire::item::Ping { request }).await
    }
}

/// The same once more.
pub fn same<T: Item>(item: &T) -> T {
    let mut plain = [0; 1_024];
    let mut writer = ItemWriter::new(&mut plain);
    writer.put(item).unwrap();
    let len = writer.len();
    Items::new(&plain[..len]).next().unwrap().unwrap().decode().unwrap()
}

/// As the hub sends it.
pub fn bytes(frame: &[u8]) -> Bytes {
    Bytes::copy_from_slice(frame)
}
