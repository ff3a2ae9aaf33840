//! A relay that joins, reports, and hears what it has to know.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::relay::{NewRegistration, Relay};
use weft_coordinator::domain::relay_health::{Check, MISSES, RETURN};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::random::Random;
use weft_coordinator::service::relay_link::{Parts, RelayLink};
use weft_coordinator::service::relays::Relays;
use weft_coordinator::service::seams::RelayView as _;
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::store::SharedStore;
use weft_coordinator::store::sqlite::{self, NewInstallation, SqliteStore};
use weft_noise::key::StaticSecret;
use weft_noise::legacy::hmac_sha1;
use weft_noise::sealed::Session;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_wire::frame::{FrameKind, MAX_FRAME, PskKind, PskSelector, kind};
use weft_wire::id::{Epoch, Inbox, Instance, KeyId, PublicKey, Revision, Secret};
use weft_wire::item::{
    HelloInfo, Item, ItemWriter, Items, Refused, Register, Unsupported, WelcomeInfo,
};
use weft_wire::relay_link::{
    RelayDenials, RelayHeard, RelayPlace, RelayRegister, RelayRegistered, RelayReport,
    RelaySettings, RelayUnknown,
};
use weft_wire::verdict::Refusal;

mod common;

use common::TempDir;
use common::fleet::{NOW, by, enrol, first_network, key, new_key, unique};

const HOME: Option<IpAddr> = Some(IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 10)));
const ANSWER: Check = Check::Answered(Duration::from_millis(9));

struct Still;

impl Clock for Still {
    fn unix_ms(&self) -> u64 {
        NOW.0
    }
}

fn random(out: &mut [u8]) {
    getrandom::fill(out).unwrap();
}

struct World {
    store: SharedStore,
    secrets: Arc<Secrets>,
    link: Arc<RelayLink>,
    dir: Arc<TempDir>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new();
        let secrets = Arc::new(Secrets::from_seed(&Secret([5; 32])));
        let new = NewInstallation {
            epoch: Epoch(7),
            coordinator: secrets.public(),
            network: first_network(),
        };
        sqlite::create(&dir.path().join("weft.db"), &new, NOW).unwrap();
        Self::open(Arc::new(dir), secrets)
    }

    fn open(dir: Arc<TempDir>, secrets: Arc<Secrets>) -> Self {
        let store: SharedStore =
            Arc::new(SqliteStore::open(&dir.path().join("weft.db"), NOW).unwrap());
        let link = Arc::new(RelayLink::new(Parts {
            store: Arc::clone(&store),
            secrets: Arc::clone(&secrets),
            clock: Arc::new(Still),
            random: Random(random),
            inside: None,
        }));
        let (running, changes) = (Arc::clone(&link), store.changes());
        tokio::spawn(async move { running.run(changes).await });
        Self { store, secrets, link, dir }
    }

    /// The same installation, served by another process.
    fn restarted(&self) -> Self {
        Self::open(Arc::clone(&self.dir), Arc::clone(&self.secrets))
    }

    async fn add(&self, name: &str) -> KeyId {
        let key = KeyId::from_random(unique());
        let new = NewRegistration {
            name: name.to_owned(),
            region: "fra".to_owned(),
            key,
            key_expires: Some(UnixMs(NOW.0 + 1_000)),
            master: 0,
        };
        self.store.add_relay(new, by(NOW)).await.unwrap();
        key
    }

    async fn relay(&self, name: &str) -> Relay {
        let relays = self.store.relays().await.unwrap();
        relays.into_iter().find(|relay| relay.is.name == name).unwrap()
    }

    async fn checked(&self, name: &str, checks: &[Check]) -> Vec<bool> {
        let number = self.relay(name).await.number;
        let mut told = Vec::new();
        for check in checks {
            self.link.checked(number, *check).await;
            told.push(self.relay(name).await.told);
        }
        told
    }
}

/// The other end: a relay's keys, and its session.
struct Peer {
    initiator: Initiator,
    selector: PskSelector,
    reference: [u8; 8],
    psk: Secret,
    session: Option<Session>,
}

impl Peer {
    fn new(world: &World, key: KeyId) -> Self {
        let secret = StaticSecret::from_bytes(unique());
        Self {
            initiator: Initiator::new(secret, &world.secrets.public()).unwrap(),
            selector: PskSelector { kind: PskKind::Enrolment, master: 0 },
            reference: key.to_bytes(),
            psk: world.secrets.relay_enrolment_psk(key, 0).unwrap(),
            session: None,
        }
    }

    fn identity(&self) -> PublicKey {
        *self.initiator.public()
    }

    /// Whether the coordinator answers.
    async fn shake_hands(&mut self, world: &World) -> bool {
        let info = HelloInfo {
            wire_min: 1,
            wire_max: 1,
            instance: Instance(unique()),
            boot_count: 0,
            max_rx: MAX_FRAME as u16,
            on_demand: 0,
            epoch: Epoch(0),
            revision: Revision(0),
        };
        let mut plain = [0; 256];
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&info).unwrap();
        let len = writer.finish();
        let head = HelloHead {
            selector: self.selector,
            reference: self.reference,
            inbox: Inbox(unique()),
            token: None,
        };
        let mut frame = [0; 512];
        let mut random = Random(random);
        let made = self.initiator.hello(&head, &self.psk, &plain[..len], &mut random, &mut frame);
        let (len, mut pending) = made.unwrap();
        let answer = world.link.handle(HOME, &frame[..len]).await;
        let [welcome] = &answer[..] else { return false };
        let mut out = [0; 512];
        let (len, accepted) = pending.welcome(&self.initiator, welcome, &mut out).unwrap();
        let info: WelcomeInfo = find(&out[..len]).unwrap();
        self.session = Some(accepted.into_session(info.session));
        true
    }

    fn seal<T: Item>(&mut self, item: &T) -> Vec<u8> {
        let mut plain = [0; 512];
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(item).unwrap();
        let len = writer.finish();
        let mut frame = [0; 1_024];
        let len = self.session.as_mut().unwrap().seal(&plain[..len], &mut frame).unwrap();
        frame[..len].to_vec()
    }

    fn open(&mut self, frames: &[Bytes]) -> Vec<u8> {
        let mut all = Vec::new();
        for frame in frames {
            let mut plain = [0; MAX_FRAME];
            let len = self.session.as_mut().unwrap().open(frame, &mut plain).unwrap();
            let items = Items::new(&plain[..len]).map(Result::unwrap);
            let mut copy = vec![0; len + 16];
            let mut writer = ItemWriter::new(&mut copy);
            items.for_each(|item| writer.put_raw(&item).unwrap());
            let len = writer.len();
            all.extend_from_slice(&copy[..len]);
        }
        all
    }

    /// Says something and gives the items that answer it.
    async fn say<T: Item>(&mut self, world: &World, item: &T) -> Vec<u8> {
        let frame = self.seal(item);
        let answer = world.link.handle(HOME, &frame).await;
        self.open(&answer)
    }

    async fn join(&mut self, world: &World) -> Result<RelayRegistered, Refused> {
        assert!(self.shake_hands(world).await);
        let version = heapless::String::try_from("0.1.0").unwrap();
        let answer = self.say(world, &RelayRegister { request: 9, version }).await;
        find::<RelayRegistered>(&answer).ok_or_else(|| find(&answer).unwrap())
    }

    /// Joins, and comes back as the relay that it is now.
    async fn member(world: &World, name: &str) -> (Self, RelayRegistered) {
        let key = world.add(name).await;
        let mut peer = Self::new(world, key);
        let Ok(registered) = peer.join(world).await else { panic!("refused") };
        peer.selector = PskSelector { kind: PskKind::Device, master: registered.master };
        peer.reference = [0; 8];
        peer.psk = Secret(registered.psk.0);
        assert!(peer.shake_hands(world).await);
        (peer, registered)
    }
}

fn find<T: Item>(items: &[u8]) -> Option<T> {
    let found = Items::new(items).map(Result::unwrap).find(|item| item.tag == T::TAG)?;
    Some(found.decode().unwrap())
}

fn report(settings: u32, denials: (Epoch, u64)) -> RelayReport {
    RelayReport {
        wait_s: 0,
        version: heapless::String::try_from("0.1.0").unwrap(),
        place: RelayPlace {
            v4: Some([203, 0, 113, 10].into()),
            udp: [3_478, 443],
            tcp: 443,
            ..RelayPlace::default()
        },
        allocations: 12,
        max_allocations: 100,
        users: 3,
        draining: false,
        settings,
        epoch: denials.0,
        denials: denials.1,
    }
}

const NOTHING: (Epoch, u64) = (Epoch(0), 0);

#[tokio::test]
async fn a_string_lets_in_one_relay_and_no_device() {
    let world = World::new();
    let key = world.add("fra1").await;
    let mut peer = Peer::new(&world, key);
    assert!(peer.shake_hands(&world).await);
    // Neither a device's request nor a report is heard in its session.
    let answer = peer.say(&world, &report(0, NOTHING)).await;
    assert_eq!(find::<Unsupported>(&answer).unwrap().tag, RelayReport::TAG);
    let Ok(registered) = peer.join(&world).await else { panic!("refused") };
    assert_eq!((registered.request, registered.name.as_str()), (9, "fra1"));
    assert_eq!(registered.seen, HOME);
    let identity = peer.identity();
    assert_eq!(registered.psk.0, world.secrets.relay_psk(&identity, 0).unwrap().0);
    // Its answer was lost: the same again.
    assert_eq!(peer.join(&world).await.ok().unwrap().psk.0, registered.psk.0);
    let mut second = Peer::new(&world, key);
    let refused = second.join(&world).await.err().unwrap();
    assert_eq!((refused.code, refused.text.as_str()), (Refusal::KeyUsedUp as u16, "fra1"));
    assert!(world.store.devices().await.unwrap().is_empty());
    assert!(!world.relay("fra1").await.told, "it has not said where it is");
    // Each relay's secret is its own.
    let (_, other) = Peer::member(&world, "fra2").await;
    assert_ne!(other.secret.0, registered.secret.0);
}

#[tokio::test]
async fn who_knows_too_little_is_not_answered() {
    let world = World::new();
    let key = world.add("fra1").await;
    let mut wrong = Peer { psk: Secret([9; 32]), ..Peer::new(&world, key) };
    assert!(!wrong.shake_hands(&world).await);
    // A device's enrolment key is none of a relay's.
    let devices = common::fleet::key(&*world.store, new_key()).await;
    let psk = world.secrets.enrolment_psk(devices.id, 0).unwrap();
    let mut device = Peer { psk, ..Peer::new(&world, devices.id) };
    assert!(!device.shake_hands(&world).await);
    // An identity that never joined, with a PSK of a device.
    let mut peer = Peer::new(&world, key);
    peer.selector = PskSelector { kind: PskKind::Device, master: 0 };
    peer.reference = [0; 8];
    peer.psk = world.secrets.device_psk(&peer.identity(), 0).unwrap();
    assert!(!peer.shake_hands(&world).await);
    assert!(world.link.handle(HOME, &[1, 1, 2, 3]).await.is_empty());
    // A string that has ended.
    let new = NewRegistration {
        name: "late".to_owned(),
        region: String::new(),
        key: KeyId::from_random(unique()),
        key_expires: Some(NOW),
        master: 0,
    };
    let late = new.key;
    world.store.add_relay(new, by(NOW)).await.unwrap();
    let refused = Peer::new(&world, late).join(&world).await.err().unwrap();
    assert_eq!((refused.code, refused.at_ms), (Refusal::KeyExpired as u16, NOW.0));
}

#[tokio::test]
async fn devices_are_told_of_it_while_it_answers() {
    let world = World::new();
    let key = key(&*world.store, new_key()).await;
    let device = enrol(&*world.store, key.id, "gw-a").await;
    let (mut peer, registered) = Peer::member(&world, "fra1").await;
    peer.say(&world, &report(0, NOTHING)).await;
    let relay = world.relay("fra1").await;
    assert_eq!(relay.is.to_string(), "fra1 203.0.113.10 3478/udp 443/udp 443/tcp");
    assert!(!relay.told, "nobody has asked it yet");
    let due = world.link.due().await.unwrap();
    assert_eq!(
        (due[0].number, due[0].addresses[0].to_string()),
        (1, "203.0.113.10:3478".to_owned())
    );
    assert_eq!(world.checked("fra1", &[ANSWER]).await, [true]);
    assert!(world.link.due().await.unwrap().is_empty(), "it was just asked");

    // Who has the relay's secret can check what a device is given.
    let relays = Relays::new(
        Arc::clone(&world.store),
        weft_coordinator::service::relays::RelaySecrets::default(),
        Arc::clone(&world.secrets),
    );
    let grant = relays.grant(device.id, 1, NOW).await.unwrap().unwrap();
    let secret = weft_wire::base64::encode(&registered.secret.0).to_string();
    let expected = hmac_sha1(secret.as_bytes(), &[grant.user.as_bytes()]);
    assert_eq!((grant.logins[0].relay, grant.logins[0].mac.0), (1, expected));

    let mut checks = vec![Check::Silent; MISSES as usize];
    checks.extend(vec![ANSWER; RETURN as usize]);
    assert_eq!(world.checked("fra1", &checks).await, [true, true, false, false, false, true]);
    // Another place is asked anew, and told as soon as it is known.
    let mut moved = report(0, NOTHING);
    moved.place.v4 = Some([203, 0, 113, 11].into());
    peer.say(&world, &moved).await;
    assert_eq!(world.link.due().await.unwrap()[0].addresses[0].ip().to_string(), "203.0.113.11");
    // One that can be nobody's is not taken.
    moved.place.v4 = Some([127, 0, 0, 1].into());
    peer.say(&world, &moved).await;
    assert_eq!(world.relay("fra1").await.is.v4, Some([203, 0, 113, 11].into()));
}

#[tokio::test]
async fn draining_takes_it_out_whoever_wants_it() {
    let world = World::new();
    let (mut peer, _) = Peer::member(&world, "fra1").await;
    let settings: RelaySettings = find(&peer.say(&world, &report(0, NOTHING)).await).unwrap();
    assert!(!settings.draining);
    assert_eq!(world.checked("fra1", &[ANSWER]).await, [true]);
    // Somebody at its machine.
    let drains = RelayReport { draining: true, ..report(settings.print, NOTHING) };
    peer.say(&world, &drains).await;
    assert!(!world.relay("fra1").await.told);
    peer.say(&world, &report(settings.print, NOTHING)).await;
    assert!(world.relay("fra1").await.told, "and back at once");
    // An operator: the relay that waits hears it.
    let waits = RelayReport { wait_s: 50, ..report(settings.print, (Epoch(7), 0)) };
    let frame = peer.seal(&waits);
    let number = world.relay("fra1").await.number;
    let operator = async {
        tokio::task::yield_now().await;
        world.store.drain_relay(number, true, by(NOW)).await.unwrap();
        world.link.changed(number).await;
    };
    let (answer, ()) = tokio::join!(world.link.handle(HOME, &frame), operator);
    assert!(find::<RelaySettings>(&peer.open(&answer)).unwrap().draining);
    assert!(!world.relay("fra1").await.told);
}

#[tokio::test]
async fn a_decision_reaches_a_relay_that_waits_and_one_that_was_away() {
    let world = World::new();
    let key = key(&*world.store, new_key()).await;
    let a = enrol(&*world.store, key.id, "gw-a").await.id;
    let b = enrol(&*world.store, key.id, "gw-b").await.id;
    let (mut peer, _) = Peer::member(&world, "fra1").await;
    let settings: RelaySettings = find(&peer.say(&world, &report(0, NOTHING)).await).unwrap();
    let waits = RelayReport { wait_s: 50, ..report(settings.print, (Epoch(7), 0)) };
    let frame = peer.seal(&waits);
    let block = || Decision::Block { reason: String::new() };
    let operator = async {
        tokio::task::yield_now().await;
        world.store.decide(a, block(), None, by(NOW)).await.unwrap();
    };
    let (answer, ()) = tokio::join!(world.link.handle(HOME, &frame), operator);
    let items = peer.open(&answer);
    assert!(find::<RelaySettings>(&items).is_none(), "it knows them");
    let told: RelayDenials = find(&items).unwrap();
    assert_eq!(find::<RelayHeard>(&items).unwrap().time_ms, NOW.0);
    let list = |told: &RelayDenials| -> Vec<_> {
        told.denials.iter().map(|one| (one.device, one.denied)).collect()
    };
    assert_eq!((told.from, told.to, list(&told)), (0, 1, vec![(a, true)]));
    assert_eq!(told.denials[0].organisation.0, 1);

    // Decided while it was away, and by another process.
    world.store.decide(b, Decision::Delete, None, by(NOW)).await.unwrap();
    world.store.decide(a, Decision::Unblock, None, by(NOW)).await.unwrap();
    let world = world.restarted();
    let frame = peer.seal(&report(settings.print, (told.epoch, told.to)));
    let answer = world.link.handle(HOME, &frame).await;
    assert_eq!(kind(&answer[0]), Ok(FrameKind::Reset), "it knows no session");
    assert!(peer.shake_hands(&world).await);
    let items = peer.say(&world, &report(settings.print, (told.epoch, told.to))).await;
    let told: RelayDenials = find(&items).unwrap();
    assert_eq!((told.from, told.to, list(&told)), (1, 3, vec![(b, true), (a, false)]));
    let items = peer.say(&world, &report(settings.print, (told.epoch, told.to))).await;
    assert!(find::<RelayDenials>(&items).is_none() && find::<RelayHeard>(&items).is_some());
}

#[tokio::test]
async fn one_that_was_removed_hears_so_and_nothing_else() {
    let world = World::new();
    let (mut peer, _) = Peer::member(&world, "fra1").await;
    peer.say(&world, &report(0, NOTHING)).await;
    assert_eq!(world.checked("fra1", &[ANSWER]).await, [true]);
    let number = world.relay("fra1").await.number;
    world.store.remove_relay(number, by(NOW)).await.unwrap();
    world.link.changed(number).await;
    let items = peer.say(&world, &report(0, NOTHING)).await;
    assert!(find::<RelayUnknown>(&items).is_some() && find::<RelaySettings>(&items).is_none());
    // It proves that it was one, and is told so.
    assert!(peer.shake_hands(&world).await);
    let items = peer.say(&world, &report(0, NOTHING)).await;
    assert!(find::<RelayUnknown>(&items).is_some());
    assert!(world.link.due().await.unwrap().is_empty());
}

/// A HELLO that somebody kept and sends again takes no session's place.
#[tokio::test]
async fn a_hello_alone_ends_no_session() {
    let world = World::new();
    let (mut peer, _) = Peer::member(&world, "fra1").await;
    peer.say(&world, &report(0, NOTHING)).await;
    let session = peer.session.take();
    for _ in 0..30 {
        assert!(peer.shake_hands(&world).await);
    }
    peer.session = session;
    let items = peer.say(&world, &report(0, NOTHING)).await;
    assert!(find::<RelayHeard>(&items).is_some());
    let mut device = Peer::new(&world, world.add("fra2").await);
    assert!(device.shake_hands(&world).await);
    let register = Unsupported { tag: Register::TAG };
    assert!(find::<Unsupported>(&device.say(&world, &register).await).is_some());
}
