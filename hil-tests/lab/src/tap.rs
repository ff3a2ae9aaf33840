//! A broker that cannot be trusted: everybody's way to Mosquitto leads through
//! here. It reads MQTT as far as it must, and once it is told to be hostile it
//! does what the owner of a broker can do: it records everything, sends it
//! again, in other inboxes and in another order, leaves frames out, forges
//! RESETs, and makes up frames of strangers.
//!
//! What it makes up goes straight to the coordinator and to the devices: no
//! access list of the real broker stands between.

mod line;
mod packet;
mod record;

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_wire::frame::Reset;
use weft_wire::id::{Inbox, ReplicaId};
use weft_wire::topic::Topic;

use crate::clock;
use crate::failure::{During, Result};
use crate::net::namespace::Namespace;
use crate::ui;

use line::Line;
use record::Records;

/// Between two blows: 100 RESETs a second to each device.
const BLOW: Duration = Duration::from_millis(10);
/// What a busy machine held up is made up for, up to so much.
const LATE: Duration = Duration::from_secs(1);
/// Frames of strangers with each blow.
const STRANGERS: usize = 20;

/// What was done to whom.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) recorded: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) swapped: AtomicU64,
    pub(crate) reordered: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) strangers: AtomicU64,
}

impl Counts {
    /// All, by name.
    pub(crate) fn all(&self) -> [(&'static str, u64); 7] {
        [
            ("recorded", &self.recorded),
            ("replayed", &self.replayed),
            ("swapped", &self.swapped),
            ("reordered", &self.reordered),
            ("dropped", &self.dropped),
            ("resets", &self.resets),
            ("strangers", &self.strangers),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// What the threads share.
struct Shared {
    hostile: AtomicBool,
    over: AtomicBool,
    /// Where the next connection's dice begin.
    seed: AtomicU64,
    lines: Mutex<Vec<Arc<Line>>>,
    records: Mutex<Records>,
    counts: Counts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tap; closed when dropped.
pub(crate) struct Tap {
    shared: Arc<Shared>,
    namespace: Namespace,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Tap {
    /// Listens at `address` and hands on to `broker`, honestly at first.
    pub(crate) fn start(
        namespace: &Namespace,
        address: SocketAddr,
        broker: SocketAddr,
    ) -> Result<Self> {
        let listener = namespace
            .within(|| TcpListener::bind(address))
            .during("enter the broker's namespace")?
            .during(&format!("listen on {address}"))?;
        let namespace = Namespace::open(namespace.name()).during("open the broker's namespace")?;
        let inside = Namespace::open(namespace.name()).during("open the broker's namespace")?;
        let shared = Arc::new(Shared {
            hostile: AtomicBool::new(false),
            over: AtomicBool::new(false),
            seed: AtomicU64::new(1),
            lines: Mutex::default(),
            records: Mutex::default(),
            counts: Counts::default(),
        });
        let (accepting, attacking) = (Arc::clone(&shared), Arc::clone(&shared));
        let accept = thread::Builder::new()
            .name("tap".to_owned())
            .spawn(move || {
                // Without the namespace there is no way to the broker, and the
                // first who connects finds it out.
                if inside.enter().is_ok() {
                    accept(&accepting, &listener, broker);
                }
            })
            .during("start a thread")?;
        let attack = thread::Builder::new()
            .name("attack".to_owned())
            .spawn(move || attack(&attacking))
            .during("start a thread")?;
        Ok(Self { shared, namespace, address, threads: vec![accept, attack] })
    }

    /// From now on hostile, or honest again.
    pub(crate) fn set_hostile(&self, hostile: bool) {
        self.shared.hostile.store(hostile, Ordering::Release);
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// When each device began to shake hands, by its inbox.
    pub(crate) fn handshakes(&self) -> BTreeMap<[u8; 16], Vec<Instant>> {
        lock(&self.shared.records).handshakes()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        for line in lock(&self.shared.lines).iter() {
            line.close();
        }
        // Wakes the thread that accepts; whoever answers does not matter.
        let address = self.address;
        let _woken = self.namespace.within(|| TcpStream::connect(address).map(drop));
        for thread in self.threads.drain(..) {
            // A panic was printed by its thread.
            let _ended = thread.join();
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, broker: SocketAddr) {
    let mut threads = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        if shared.over.load(Ordering::Acquire) {
            break;
        }
        match line::open(shared, client, broker) {
            Ok(both) => threads.extend(both),
            Err(error) => ui::note(&format!("tap: {error}")),
        }
    }
    for thread in threads {
        // A panic was printed by its thread.
        let _ended = thread.join();
    }
}

/// Strikes at a steady pace while hostile.
fn attack(shared: &Shared) {
    let mut due = clock::now();
    let mut turn = 0_u64;
    while !shared.over.load(Ordering::Acquire) {
        if !shared.hostile.load(Ordering::Acquire) {
            due = clock::now();
        }
        due += BLOW;
        let left = due.saturating_duration_since(clock::now());
        if !left.is_zero() {
            thread::park_timeout(left);
        } else if due + LATE < clock::now() {
            due = clock::now();
        }
        if shared.hostile.load(Ordering::Acquire) {
            turn += 1;
            blow(shared, turn);
        }
    }
}

/// One of everything, to everybody.
fn blow(shared: &Shared, turn: u64) {
    let lines: Vec<Arc<Line>> = lock(&shared.lines).clone();
    let devices: Vec<_> = lines.iter().filter_map(|line| Some((line, line.inbox()?))).collect();
    let coordinator = lines.iter().find(|line| line.is_coordinator());
    let counts = &shared.counts;
    for (line, inbox) in &devices {
        let session = lock(&shared.records).session(*inbox);
        if let Some(session) = session {
            let reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
            inject(line, Topic::Down(*inbox), &reset, &counts.resets);
        }
        let (own, anothers) = lock(&shared.records).down(*inbox, turn);
        if let Some(frame) = own {
            inject(line, Topic::Down(*inbox), &frame, &counts.replayed);
        }
        if let Some(frame) = anothers {
            inject(line, Topic::Down(*inbox), &frame, &counts.swapped);
        }
    }
    let Some(coordinator) = coordinator else { return };
    for (_, inbox) in &devices {
        let (own, anothers) = lock(&shared.records).up(*inbox, turn);
        if let Some((topic, frame)) = own {
            inject(coordinator, topic, &frame, &counts.replayed);
        }
        if let Some((topic, frame)) = anothers {
            inject(coordinator, moved(topic, *inbox), &frame, &counts.swapped);
        }
    }
    for number in 0..STRANGERS {
        let (topic, frame) = record::stranger(turn, number);
        inject(coordinator, topic, &frame, &counts.strangers);
    }
}

/// The same kind of topic with another inbox.
const fn moved(topic: Topic, inbox: Inbox) -> Topic {
    match topic {
        Topic::Hello(_) => Topic::Hello(inbox),
        Topic::Record(replica, _) => Topic::Record(replica, inbox),
        Topic::Down(_) => Topic::Down(inbox),
    }
}

fn inject(line: &Line, topic: Topic, frame: &[u8], count: &AtomicU64) {
    // A line that has just ended is no news: its threads say so.
    if line.publish(&topic.text(), frame).is_ok() {
        add(count);
    }
}

/// Both directions of a stream.
fn shut(stream: &TcpStream) {
    match stream.shutdown(Shutdown::Both) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
            ui::note(&format!("tap: {error}"));
        }
        _ => {}
    }
}

/// The one replica that there is.
const REPLICA: ReplicaId = ReplicaId(0);
