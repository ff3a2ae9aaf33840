//! The table of sessions and the command queue, without a network.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::bus::{Bus, Delivery};
use weft_coordinator::service::channel::sessions::Sessions;
use weft_coordinator::service::channel::table::{
    Agreed, ENROLMENT, Entry, Limits, MAX_AGE, PREVIOUS, Table, Who,
};
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::commands::CommandQueue;
use weft_coordinator::service::seams::{CommandResult, Commands as _, Task};
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_wire::frame::{Hello, PskKind, PskSelector};
use weft_wire::id::{
    CommandId, DeviceId, Inbox, Instance, KeyId, NetworkId, OrganisationId, PublicKey, Secret,
};
use weft_wire::item::{Command, CommandDone, Item as _, Items, Outcome};

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

const INBOX: Inbox = Inbox([1; 16]);

/// Both ends of a session with this id.
fn session(id: u32) -> (Session, Session) {
    let mut entropy = Counting(u64::from(id));
    let key = CoordinatorKey::new(StaticSecret::generate(&mut entropy));
    let device = Initiator::new(StaticSecret::generate(&mut entropy), key.public()).unwrap();
    let head = HelloHead {
        selector: PskSelector { kind: PskKind::Device, master: 0 },
        reference: [0; 8],
        inbox: INBOX,
        token: None,
    };
    let psk = Secret([5; 32]);
    let (mut frame, mut out) = ([0; 512], [0; 512]);
    let (len, mut pending) = device.hello(&head, &psk, b"", &mut entropy, &mut frame).unwrap();
    let hello = Hello::parse(&frame[..len]).unwrap();
    let opened = key.open_hello(&hello).unwrap();
    let (_, verified) = opened.verify(&key, &hello, &psk, &mut out).unwrap();
    let mut welcome = [0; 512];
    let (len, ours) = verified.welcome(id, b"", &mut entropy, &mut welcome).unwrap();
    let (_, accepted) = pending.welcome(&device, &welcome[..len], &mut out).unwrap();
    (ours, accepted.into_session(id))
}

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn agreed(who: Who, inbox: Inbox, instance: u8, born: Instant) -> Agreed {
    Agreed {
        who,
        identity: PublicKey([2; 32]),
        inbox,
        max_rx: 1_024,
        instance: Instance([instance; 8]),
        on_demand: 0,
        named: weft_wire::id::Revision(0),
        held: (weft_wire::id::Epoch(0), weft_wire::id::Revision(0)),
        ahead: None,
        born,
    }
}

fn device(id: u32) -> Who {
    Who::Device { id: DeviceId(id), network: NetworkId(1), organisation: OrganisationId(1) }
}

fn enrolling() -> Who {
    Who::Enrolling { key: KeyId::from_random([3; 8]) }
}

fn inbox(n: u8) -> Inbox {
    Inbox([n; 16])
}

fn entry(id: u32, agreed: Agreed) -> Arc<Entry> {
    Arc::new(Entry::new(session(id).0, agreed))
}

#[test]
fn a_pending_session_touches_no_other_until_it_is_confirmed() {
    let (mut table, now) = (Table::default(), origin());
    table.insert(entry(1, agreed(device(9), inbox(1), 1, now)));
    assert!(table.current(DeviceId(9)).is_none());
    assert!(table.confirm(1, now).unwrap().superseded.is_none());
    assert!(table.confirm(1, now).is_none(), "once");
    table.insert(entry(2, agreed(device(9), inbox(1), 1, now)));
    assert_eq!(table.current(DeviceId(9)).unwrap().id, 1);
    assert_eq!(table.confirm(2, now).unwrap().superseded.unwrap().id, 1);
    assert_eq!(table.current(DeviceId(9)).unwrap().id, 2);
    assert_eq!(table.devices(), 1);
}

#[test]
fn the_session_before_is_heard_for_a_minute_if_it_is_the_same_process() {
    let (mut table, now) = (Table::default(), origin());
    for id in [1, 2] {
        table.insert(entry(id, agreed(device(9), inbox(1), 1, now)));
        table.confirm(id, now).unwrap();
    }
    assert!(table.find(1, now + PREVIOUS - Duration::from_millis(1)).is_some());
    // A third session: there is one before it, not two.
    table.insert(entry(3, agreed(device(9), inbox(1), 1, now)));
    table.confirm(3, now).unwrap();
    assert!(table.find(1, now).is_none());
    assert!(table.find(2, now + PREVIOUS).is_none());
    // Another process of the device: the session before it ends at once.
    table.insert(entry(4, agreed(device(9), inbox(1), 2, now)));
    table.confirm(4, now).unwrap();
    assert!(table.find(3, now).is_none());
    assert_eq!(table.len(), 1);
}

/// So that a late record of a process that is gone proves nothing: what it had
/// begun ends when another takes over.
#[test]
fn what_another_process_has_begun_ends_with_it() {
    let (mut table, now) = (Table::default(), origin());
    table.insert(entry(1, agreed(device(9), inbox(1), 1, now)));
    table.confirm(1, now).unwrap();
    // The old process asks for a new session, at another inbox; so does the same
    // process as the one that takes over, and another device.
    table.insert(entry(2, agreed(device(9), inbox(2), 1, now)));
    table.insert(entry(3, agreed(device(9), inbox(3), 2, now)));
    table.insert(entry(4, agreed(device(8), inbox(4), 1, now)));
    table.insert(entry(5, agreed(device(9), inbox(5), 2, now)));
    assert_eq!(table.confirm(5, now).unwrap().superseded.unwrap().id, 1);
    assert!(table.find(1, now).is_none() && table.find(2, now).is_none());
    assert!(table.confirm(2, now).is_none());
    assert!(table.find(3, now).is_some() && table.find(4, now).is_some());
    // What the old process begins afterwards shows that it lives.
    table.insert(entry(6, agreed(device(9), inbox(1), 1, now)));
    assert_eq!(table.confirm(6, now).unwrap().superseded.unwrap().id, 5);
    assert!(table.find(3, now).is_none());
    assert_eq!((table.len(), table.devices()), (2, 1));
}

#[test]
fn a_copy_never_speaks_for_the_device() {
    let copy = Who::Quarantined { id: DeviceId(9) };
    let (mut table, now) = (Table::default(), origin());
    table.insert(entry(1, agreed(device(9), inbox(1), 1, now)));
    table.confirm(1, now).unwrap();
    for id in [2, 3] {
        table.insert(entry(id, agreed(copy, inbox(2), 2, now)));
        assert!(table.confirm(id, now).unwrap().superseded.is_none());
    }
    assert_eq!(table.current(DeviceId(9)).unwrap().id, 1);
    assert_eq!(table.copy(DeviceId(9)).unwrap().id, 3);
    assert!(table.find(2, now).is_none(), "one per device");
    assert!(table.find(3, now + MAX_AGE).is_none() && table.copy(DeviceId(9)).is_none());
    table.insert(entry(4, agreed(copy, inbox(2), 2, now)));
    table.confirm(4, now).unwrap();
    assert_eq!(table.remove_device(DeviceId(9)), [inbox(1), inbox(2)]);
    assert!(table.is_empty());
}

#[test]
fn an_inbox_has_one_pending_session_and_the_oldest_make_room() {
    let now = origin();
    let mut table = Table::new(Limits { pending: 3, enrolling: 2 });
    table.insert(entry(1, agreed(device(1), inbox(1), 1, now)));
    table.insert(entry(2, agreed(device(1), inbox(1), 1, now)));
    assert!(table.find(1, now).is_none(), "one per inbox");
    for n in 3..=5 {
        table.insert(entry(n, agreed(device(n), inbox(n as u8), 1, now)));
    }
    assert!(table.find(2, now).is_none(), "the oldest");
    assert_eq!(table.len(), 3);
    table.remove_pending(inbox(3));
    assert_eq!(table.len(), 2);
    // Confirmed sessions do not count among those that wait.
    table.confirm(4, now).unwrap();
    table.confirm(5, now).unwrap();
    for n in 6..=8 {
        table.insert(entry(n, agreed(enrolling(), inbox(n as u8), 1, now)));
        table.confirm(n, now).unwrap();
    }
    assert!(table.find(6, now).is_none(), "two may enrol at once here");
    assert_eq!(table.len(), 4);
    assert_eq!(table.all_current().len(), 2);
}

#[test]
fn sessions_end_by_age() {
    let (mut table, now) = (Table::default(), origin());
    table.insert(entry(1, agreed(device(1), inbox(1), 1, now)));
    table.insert(entry(2, agreed(enrolling(), inbox(2), 1, now)));
    table.confirm(1, now).unwrap();
    table.confirm(2, now).unwrap();
    assert!(table.find(1, now + MAX_AGE - Duration::from_secs(1)).is_some());
    assert!(table.find(2, now + ENROLMENT - Duration::from_secs(1)).is_some());
    assert!(table.find(1, now + MAX_AGE).is_none());
    assert!(table.find(2, now + ENROLMENT).is_none());
    assert!(table.is_empty() && table.devices() == 0);
    assert!(!table.is_free(0));
}

#[test]
fn a_device_that_is_gone_leaves_no_session() {
    let (mut table, now) = (Table::default(), origin());
    for id in [1, 2] {
        table.insert(entry(id, agreed(device(9), inbox(id as u8), 1, now)));
        table.confirm(id, now).unwrap();
    }
    table.insert(entry(3, agreed(device(8), inbox(3), 1, now)));
    table.confirm(3, now).unwrap();
    assert_eq!(table.remove_device(DeviceId(9)), [inbox(2), inbox(1)]);
    assert_eq!(table.remove_device(DeviceId(9)), []);
    assert_eq!((table.len(), table.devices()), (1, 1));
}

/// A bus that keeps what is sent.
#[derive(Default)]
struct Keeping(Mutex<Vec<Bytes>>);

impl Bus for Keeping {
    fn send(&self, _inbox: Inbox, frame: Bytes) -> Delivery {
        self.0.lock().unwrap().push(frame);
        Delivery::Queued
    }

    fn disconnect(&self, _inbox: Inbox) {}

    fn reachable(&self, _inbox: Inbox) -> bool {
        true
    }
}

/// Goes with tokio's virtual time.
struct VirtualClock(tokio::time::Instant, AtomicU64);

impl Clock for VirtualClock {
    fn unix_ms(&self) -> u64 {
        self.1.load(Ordering::Relaxed) + self.0.elapsed().as_millis() as u64
    }
}

#[tokio::test(start_paused = true)]
async fn commands_are_repeated_until_the_word_comes_or_their_time_is_over() {
    let bus = Arc::new(Keeping::default());
    let sessions = Arc::new(Sessions::new(Arc::clone(&bus) as Arc<dyn Bus>));
    let (ours, mut theirs) = session(1);
    let now = tokio::time::Instant::now();
    let entry = Entry::new(ours, agreed(device(9), INBOX, 1, now.into_std()));
    sessions.table().insert(Arc::new(entry));
    sessions.table().confirm(1, now.into_std()).unwrap();
    let clock = Arc::new(VirtualClock(now, AtomicU64::new(1_000)));
    let queue = CommandQueue::new(Arc::clone(&sessions), clock);

    let (id, until) = (CommandId(5), UnixMs(1_000 + 23_000));
    let result = queue.deliver(DeviceId(9), id, Task::Restart, until).await;
    assert_eq!(result, CommandResult::Unanswered);
    assert_eq!(now.elapsed(), Duration::from_secs(23));
    let frames = std::mem::take(&mut *bus.0.lock().unwrap());
    assert_eq!(frames.len(), 5, "at once and after 5, 10, 15, 20 s");
    for frame in frames {
        let mut plain = [0; 1_024];
        let len = theirs.open(&frame, &mut plain).unwrap();
        let item = Items::new(&plain[..len]).next().unwrap().unwrap();
        assert_eq!(item.tag, Command::TAG);
        assert_eq!(item.decode::<Command>().unwrap().id, id);
    }
    assert!(queue.outstanding(DeviceId(9)).is_empty());

    // Given and not waited for: it goes on, and a word ends it.
    let until = UnixMs(1_000 + 3_600_000);
    drop(queue.deliver(DeviceId(9), id, Task::Restart, until));
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(bus.0.lock().unwrap().len(), 3);
    assert_eq!(queue.outstanding(DeviceId(9)).len(), 1);
    assert!(queue.done(DeviceId(9), &CommandDone { id, outcome: Outcome::Accepted }));
    assert!(!queue.done(DeviceId(9), &CommandDone { id, outcome: Outcome::Accepted }));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bus.0.lock().unwrap().len(), 3);
}
