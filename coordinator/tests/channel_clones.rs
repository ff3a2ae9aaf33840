//! Two machines with one identity, end to end: who is kept, who is quarantined,
//! what each is told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::net::IpAddr;
use std::time::Duration;

use endpoint::Credentials;
use proptest::prelude::*;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::service::bus::{Answer, Carrier, Class, Inbound as _, Uplink};
use weft_coordinator::service::seams::PresenceView as _;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::device::Initiator;
use weft_wire::frame::{FrameKind, Reset, kind};
use weft_wire::id::{Instance, Revision};
use weft_wire::item::{Done, Duplicate, Leave, Ping, Stamps, Standing, State};
use weft_wire::login;
use weft_wire::map::MapNext;
use weft_wire::relay::{RelayAsk, RelayGrant};
use world::{Device, EPOCH, Held, World, enrolment_psk, find, unique};

/// What a process keeps between its starts, and so what a copy takes with it.
struct Machine {
    device: Device,
    address: IpAddr,
}

impl Machine {
    fn new(mut device: Device, number: u8) -> Self {
        device.inbox = device.registered.as_ref().unwrap().inbox;
        Self { device, address: [203, 0, 113, number].into() }
    }

    /// The state folder, copied to another machine.
    fn copy(&self, world: &World, number: u8) -> Self {
        let of = &self.device;
        let mut device = Device::new(world, &of.name);
        device.identity = of.identity.duplicate();
        let identity = StaticSecret::from_bytes(of.identity.duplicate().0);
        device.initiator = Initiator::new(identity, &world.secrets.public()).unwrap();
        device.wg_key = of.wg_key;
        device.inbox = of.inbox;
        device.registered = of.registered.as_ref().map(world::same);
        Self { device, address: [203, 0, 113, number].into() }
    }

    /// Starts anew.
    fn restart(&mut self) {
        self.device.instance = Instance(unique());
        self.device.session = None;
    }

    async fn give(&self, world: &World, frame: &[u8]) -> Answer {
        let (inbox, class) = (self.device.inbox, Class::Device);
        let uplink =
            Uplink { inbox, class, carrier: Carrier::Mqtt, address: Some(self.address), frame };
        world.channel.handle_uplink(uplink).await
    }

    /// HELLO and WELCOME; `false` = no answer.
    async fn hello(&mut self, world: &World) -> bool {
        // The inbox's bucket fills.
        tokio::time::advance(Duration::from_secs(2)).await;
        let (hello, pending) = self.device.hello(&self.device.device_psk(), None);
        let answer = self.give(world, &hello).await;
        let Some(welcome) = answer.frames.first() else { return false };
        self.device.take_welcome(pending, welcome);
        true
    }

    fn ping_frame(&mut self) -> Vec<u8> {
        self.device.seal(|writer| writer.put(&Ping { request: 1 }).unwrap())
    }

    /// Everything that a Ping is answered with; `None` = the session is of no
    /// use.
    async fn ping(&mut self, world: &World) -> Option<Vec<Held>> {
        let frame = self.ping_frame();
        let answer = self.give(world, &frame).await;
        let records = answer.frames.iter().filter(|frame| kind(frame) == Ok(FrameKind::Record));
        let records: Vec<_> = records.cloned().collect();
        let mut items = Vec::new();
        for record in records {
            items.extend(self.device.open(&record));
        }
        (!items.is_empty()).then_some(items)
    }

    /// A session, confirmed, and what was said first in it.
    async fn come(&mut self, world: &World) -> Vec<Held> {
        for _ in 0..3 {
            assert!(self.hello(world).await, "a WELCOME");
            if let Some(items) = self.ping(world).await {
                if let Some(moved) = find::<Duplicate>(&items).and_then(|other| other.moved) {
                    self.device.inbox = moved.inbox;
                }
                return items;
            }
        }
        panic!("three sessions of no use");
    }
}

fn standing(items: &[Held]) -> Option<Standing> {
    find::<State>(items).map(|state| state.standing)
}

async fn member(world: &World) -> Machine {
    let key = world.key(|_| {}).await;
    let mut device = Device::new(world, "gw-a");
    // Without a carrier: time is virtual here.
    let give = async |inbox, frame: Vec<u8>| {
        let (class, carrier) = (Class::Enrolling(key.id), Carrier::Mqtt);
        let uplink = Uplink { inbox, class, carrier, address: None, frame: &frame };
        world.channel.handle_uplink(uplink).await.frames.remove(0)
    };
    let (hello, pending) = device.hello(&enrolment_psk(world, &key), None);
    let welcome = give(device.inbox, hello).await;
    device.take_welcome(pending, &welcome);
    let register = device.register();
    let frame = device.seal(|writer| writer.put(&register).unwrap());
    let answer = give(device.inbox, frame).await;
    device.registered = find(&device.open(&answer));
    Machine::new(device, 21)
}

async fn no_clone(world: &World) -> bool {
    let devices = world.store.devices().await.unwrap();
    let rows = world.store.audit(devices[0].organisation, 0, 1_000).await.unwrap();
    world.store.quarantines(None).await.unwrap().is_empty()
        && !rows.iter().any(|row| row.action == "device.clone")
}

/// The kept one, already where only it knows, and its quarantined copy.
async fn separated(world: &World) -> (Machine, Machine) {
    let mut first = member(world).await;
    first.come(world).await;
    let mut second = first.copy(world, 22);
    second.come(world).await;
    first.come(world).await;
    first.come(world).await;
    assert_eq!(standing(&second.come(world).await), Some(Standing::Quarantined));
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn the_later_of_two_is_quarantined_and_both_are_told() {
    let world = World::new().await;
    let mut first = member(&world).await;
    let old = first.device.inbox;
    let said = first.come(&world).await;
    assert!(standing(&said).is_none() && find::<Duplicate>(&said).is_none());
    let mut second = first.copy(&world, 22);
    assert!(find::<Duplicate>(&second.come(&world).await).is_none(), "a restart is normal");
    assert!(first.ping(&world).await.is_none(), "its session ended");
    assert!(no_clone(&world).await);
    // The first comes back: both live.
    let said = first.come(&world).await;
    let other: Duplicate = find(&said).unwrap();
    assert_eq!((other.name.as_str(), other.address), ("gw-a", Some(second.address)));
    assert!(find::<Stamps>(&said).is_some_and(|stamps| stamps.ahead_s > 86_400));
    assert_ne!(first.device.inbox, old);
    // It is the device, there as before.
    let current = world.channel.sessions().current(first.device.id()).unwrap();
    assert_eq!(current.agreed.instance, first.device.instance);
    // The later one is told so, and gets nothing of what only the first knows.
    let said = second.come(&world).await;
    assert_eq!(standing(&said), Some(Standing::Quarantined));
    let other: Duplicate = find(&said).unwrap();
    assert_eq!((other.name.as_str(), other.address), ("gw-a", Some(first.address)));
    assert!(other.moved.is_none());
    let welcome = second.device.welcome.as_ref().unwrap();
    assert_eq!((welcome.inbox, welcome.revision), (old, Revision(0)));
    // No relay takes it.
    let frame = second.device.seal(|writer| writer.put(&RelayAsk { request: 8 }).unwrap());
    let answer = second.give(&world, &frame).await;
    let grant: RelayGrant = find(&second.device.open(&answer.frames[0])).unwrap();
    assert!(grant.request == 8 && grant.logins.is_empty());
    // It asks for the map in vain, may leave, and the device stays.
    let next = MapNext { epoch: EPOCH, from: Revision(0), page: 0 };
    let frame = second.device.seal(|writer| writer.put(&next).unwrap());
    assert!(second.give(&world, &frame).await.frames.is_empty());
    let frame = second.device.seal(|writer| writer.put(&Leave { request: 9 }).unwrap());
    let answer = second.give(&world, &frame).await;
    assert!(answer.close);
    assert_eq!(find::<Done>(&second.device.open(&answer.frames[0])).unwrap().request, 9);
    let device = world.store.device(first.device.id()).await.unwrap().unwrap();
    assert!(device.is_active());
    // The first goes on at its new place, and hears what became of the other.
    let said = first.come(&world).await;
    assert!(find::<Duplicate>(&said).is_some_and(|other| other.moved.is_none()));
    let presence = world.channel.presence().presence(device.id).unwrap();
    assert_eq!(presence.address, Some(first.address));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_knows_outlives_the_coordinator() {
    let world = World::new().await;
    let mut first = member(&world).await;
    first.come(&world).await;
    let mut second = first.copy(&world, 22);
    second.come(&world).await;
    // Between the take-over and the proof.
    let world = world.restarted().await;
    let said = first.come(&world).await;
    assert!(find::<Duplicate>(&said).unwrap().moved.is_some());
    // Between the proof and what follows from it.
    let world = world.restarted().await;
    assert_eq!(standing(&second.come(&world).await), Some(Standing::Quarantined));
    assert!(standing(&first.come(&world).await).is_none());
    let world = world.restarted().await;
    assert_eq!(standing(&second.come(&world).await), Some(Standing::Quarantined));
}

/// All three processes start anew: the copy by that is not the device.
#[tokio::test(start_paused = true)]
async fn a_copy_stays_one_however_often_it_starts() {
    let world = World::new().await;
    let (mut first, mut second) = separated(&world).await;
    let world = world.restarted().await;
    for _ in 0..20 {
        second.restart();
        assert_eq!(standing(&second.come(&world).await), Some(Standing::Quarantined));
    }
    first.restart();
    assert!(standing(&first.come(&world).await).is_none());
    assert_eq!(world.store.quarantines(None).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_ends_it_and_two_that_go_on_are_found_again() {
    let world = World::new().await;
    let (mut first, mut second) = separated(&world).await;
    let id = first.device.id();
    let release =
        |is_there| world.store.decide(id, Decision::Release { is_there }, None, world.by());
    // The kept one is away. The copy's session ends with the release.
    release(false).await.unwrap();
    while world.channel.sessions().table().copy(id).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(second.ping(&world).await.is_none());
    let said = second.come(&world).await;
    assert!(standing(&said).is_none());
    assert!(find::<Stamps>(&said).is_some(), "beyond what the other used");
    second.device.inbox = second.device.welcome.as_ref().unwrap().inbox;
    second.come(&world).await;
    // The other one is there again: now it is the later.
    first.come(&world).await;
    let said = second.come(&world).await;
    assert!(find::<Duplicate>(&said).unwrap().moved.is_some());
    assert_eq!(standing(&first.come(&world).await), Some(Standing::Quarantined));
    // Both are there: the kept one stays the first.
    second.come(&world).await;
    release(true).await.unwrap();
    while world.channel.sessions().table().copy(id).is_some() {
        tokio::task::yield_now().await;
    }
    first.come(&world).await;
    let said = second.come(&world).await;
    assert!(find::<Duplicate>(&said).unwrap().moved.is_some());
    // Before the kept one has come to its new inbox, from one that is no copy's
    // any more: it is known for what it is.
    assert_eq!(standing(&first.come(&world).await), Some(Standing::Quarantined));
    assert!(standing(&second.come(&world).await).is_none());
}

/// However two that were released come back, it is soon settled who is the device.
#[tokio::test(start_paused = true)]
async fn two_that_go_on_after_a_release_do_not_go_round() {
    for (is_there, copy_first) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::new().await;
        let (mut first, mut second) = separated(&world).await;
        let id = first.device.id();
        let release = Decision::Release { is_there };
        world.store.decide(id, release, None, world.by()).await.unwrap();
        while world.channel.sessions().table().copy(id).is_some() {
            tokio::task::yield_now().await;
        }
        if copy_first {
            std::mem::swap(&mut first, &mut second);
        }
        let mut out = [false; 2];
        for _ in 0..6 {
            let said = [first.come(&world).await, second.come(&world).await];
            out = said.map(|said| standing(&said) == Some(Standing::Quarantined));
        }
        assert_eq!(out.iter().filter(|out| **out).count(), 1, "{is_there} {copy_first}");
        let organisation = world.store.device(id).await.unwrap().unwrap().organisation;
        let rows = world.store.audit(organisation, 0, 1_000).await.unwrap();
        let found = rows.iter().filter(|row| row.action == "device.clone").count();
        assert_eq!(found, 2, "the first time, and once after the release");
    }
}

/// After a release the two are at different inboxes, so neither takes the other's
/// line. In real time and on carriers: it is about what is sent unasked.
#[tokio::test]
async fn who_is_superseded_behind_its_back_hears_it_at_once() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut enrolled = Device::new(&world, "gw-a");
    enrolled.enrol(&world, &key).await.unwrap();
    let id = enrolled.id();
    let first = Machine::new(enrolled, 21);
    let mut second = first.copy(&world, 22).device;
    let mut first = first.device;
    for device in [&mut first, &mut second] {
        device.come_back(&world).await;
        device.shake_hands(&world).await;
    }
    // The first comes back, is kept, and goes where only it knows.
    first.come_back(&world).await;
    let said = first.shake_hands(&world).await;
    let moved = find::<Duplicate>(&said).unwrap().moved.unwrap();
    let password = login::password(moved.password_expiry, &moved.password);
    let user = moved.inbox.to_string();
    let credentials =
        Credentials { client_id: user.clone(), user, password: password.as_str().to_owned() };
    first.inbox = moved.inbox;
    first.connect(&world, &credentials).await;
    first.shake_hands(&world).await;
    second.come_back(&world).await;
    assert_eq!(standing(&second.shake_hands(&world).await), Some(Standing::Quarantined));
    // It is released while the first is away, and is the device at the old inbox.
    first.client = None;
    let release = Decision::Release { is_there: false };
    world.store.decide(id, release, None, world.by()).await.unwrap();
    while world.channel.sessions().table().copy(id).is_some() {
        tokio::task::yield_now().await;
    }
    second.come_back(&world).await;
    assert!(standing(&second.shake_hands(&world).await).is_none());
    first.connect(&world, &credentials).await;
    first.shake_hands(&world).await;
    let frame = second.read().await;
    let session = second.welcome.as_ref().unwrap().session;
    assert_eq!(Reset::parse(&frame).unwrap().session, session);
    // So it shakes hands, and that both live is out.
    let said = second.shake_hands(&world).await;
    assert!(find::<Duplicate>(&said).unwrap().moved.is_some());
}

/// What one machine does that crashes again and again.
#[derive(Clone, Debug)]
enum Step {
    /// A HELLO whose WELCOME arrives, or not.
    Hello {
        arrives: bool,
    },
    /// A record that arrives, or is on its way still.
    Record {
        arrives: bool,
    },
    /// An old record arrives at last.
    Late(usize),
    Crash,
    /// The coordinator starts anew.
    Coordinator,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|arrives| Step::Hello { arrives }),
        4 => any::<bool>().prop_map(|arrives| Step::Record { arrives }),
        3 => any::<usize>().prop_map(Step::Late),
        4 => Just(Step::Crash),
        1 => Just(Step::Coordinator),
    ]
}

async fn storm(steps: Vec<Step>) {
    let mut world = World::new().await;
    let mut machine = member(&world).await;
    let mut on_their_way: Vec<Vec<u8>> = Vec::new();
    let mut restarts = 0;
    for step in steps {
        match step {
            Step::Hello { arrives: true } => assert!(machine.hello(&world).await),
            Step::Hello { arrives: false } => {
                let (hello, _) = machine.device.hello(&machine.device.device_psk(), None);
                on_their_way.push(hello);
            }
            Step::Record { arrives } => {
                if machine.device.session.is_none() {
                    continue;
                }
                let frame = machine.ping_frame();
                if arrives {
                    machine.give(&world, &frame).await;
                } else {
                    on_their_way.push(frame);
                }
            }
            Step::Late(which) if !on_their_way.is_empty() => {
                let frame = on_their_way.remove(which % on_their_way.len());
                tokio::time::advance(Duration::from_secs(2)).await;
                machine.give(&world, &frame).await;
            }
            Step::Late(_) => {}
            Step::Crash => {
                machine.restart();
                restarts += 1;
            }
            Step::Coordinator => world = world.restarted().await,
        }
    }
    // Afterwards it is a member as ever, at its inbox.
    let said = machine.come(&world).await;
    assert!(standing(&said).is_none() && find::<Duplicate>(&said).is_none());
    assert!(machine.ping(&world).await.is_some());
    assert!(no_clone(&world).await, "after {restarts} restarts");
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn one_machine_is_never_taken_for_two(steps in prop::collection::vec(step(), 1..120)) {
        paused().block_on(storm(steps));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_restarts_with_records_on_their_way_are_one_machine() {
    let mut steps = Vec::new();
    for n in 0..100_usize {
        steps.extend([
            Step::Hello { arrives: true },
            Step::Record { arrives: n % 3 != 0 },
            Step::Record { arrives: false },
            Step::Hello { arrives: n % 2 == 0 },
            Step::Crash,
        ]);
        steps.extend([Step::Hello { arrives: true }, Step::Record { arrives: true }]);
        steps.extend((0..3).map(|_| Step::Late(n)));
    }
    storm(steps).await;
}
