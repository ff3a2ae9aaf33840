//! A hostile MQTT client beside a victim: what it sends reaches the service
//! under its own inbox only, what it reads was meant for it, and the victim
//! keeps its connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Instant, sleep};
use weft_coordinator::service::bus::{Answer, BoxFuture, Inbound, Lane, Uplink};
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::transport::listen::{INTRODUCTION, Limits, Places};
use weft_coordinator::transport::mqtt::Broker;
use weft_coordinator::transport::mqtt::hub::Hub;
use weft_wire::id::{Inbox, KeyId, ReplicaId, Secret};
use weft_wire::login;
use weft_wire::topic::{Topic, enrolment_user};

use crate::script::Script;

const OPS: usize = 48;
const EXPIRY: u32 = 1_900_000_000;
const ATTACKER: Inbox = Inbox([1; 16]);
const VICTIM: Inbox = Inbox([2; 16]);
/// What only the victim may read.
const PRIVATE: &[u8] = b"for the victim alone";

struct Recorder(Mutex<Vec<Inbox>>);

impl Inbound for Recorder {
    fn handle_uplink<'a>(&'a self, uplink: Uplink<'a>) -> BoxFuture<'a, Answer> {
        self.0.lock().expect("no panic yet").push(uplink.inbox);
        let frames = vec![Bytes::from_static(b"an answer")];
        // Only the victim has a session; who has none is ended after a while.
        let authentic = uplink.inbox == VICTIM;
        Box::pin(async move { Answer { frames, authentic, ..Answer::default() } })
    }

    fn handle_gone(&self, _inbox: Inbox) {}

    fn sort(&self, _inbox: Inbox, _frame: &[u8]) -> Option<Lane> {
        Some(Lane::Known)
    }

    fn handle_return(&self) {}
}

struct Still;

impl Clock for Still {
    fn unix_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

fn secrets() -> Secrets {
    Secrets::from_seed(&Secret([0x42; 32]))
}

/// A packet of MQTT 5 from its parts.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first];
    let mut remaining = body.len();
    while remaining >= 0x80 {
        out.push(remaining as u8 | 0x80);
        remaining >>= 7;
    }
    out.push(remaining as u8);
    out.extend(body);
    out
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out
}

/// A CONNECT with the password of a device, or of one that enrols with a key.
pub fn connect(level: u8, inbox: Inbox, key: Option<KeyId>) -> Vec<u8> {
    let id = inbox.to_string();
    let (user, mac) = match key {
        None => (id.clone(), secrets().broker_password(&inbox, EXPIRY)),
        Some(key) => (enrolment_user(key).to_string(), secrets().enrol_password(key, 0, EXPIRY)),
    };
    let password = login::password(EXPIRY, &mac);
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    packet(
        0x10,
        &[
            &text("MQTT"),
            &[level, 0xC2, 1, 0],
            properties,
            &text(&id),
            &text(&user),
            &text(password.as_str()),
        ],
    )
}

fn subscribe(level: u8, filter: &str, qos: u8) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    packet(0x82, &[&[0, 1], properties, &text(filter), &[qos]])
}

fn publish(level: u8, flags: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if flags & 6 == 0 { &[] } else { &[0, 9] };
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    packet(0x30 | flags, &[&text(topic), id, properties, payload])
}

struct Scene {
    recorder: Arc<Recorder>,
    hub: Arc<Hub>,
    broker: Arc<Broker>,
    places: Arc<Places>,
    attacker: DuplexStream,
    victim: DuplexStream,
    heard: Vec<u8>,
    level: u8,
}

impl Scene {
    async fn new() -> Self {
        let recorder = Arc::new(Recorder(Mutex::default()));
        let hub = Arc::new(Hub::default());
        let inbound: Arc<dyn Inbound> = Arc::clone(&recorder) as _;
        let passwords = Arc::new(secrets());
        let broker = Arc::new(Broker::new(Arc::clone(&hub), inbound, passwords, Arc::new(Still)));
        let places = Places::new(Limits::default());
        let (attacker, _) = duplex(1);
        let (victim, _) = duplex(1);
        let (heard, level) = (Vec::new(), 5);
        let mut scene = Self { recorder, hub, broker, places, attacker, victim, heard, level };
        scene.victim = scene.open();
        scene.attacker = scene.open();
        scene.victim.write_all(&connect(5, VICTIM, None)).await.expect("served");
        let own = Topic::Down(VICTIM).text();
        scene.victim.write_all(&subscribe(5, &own, 0)).await.expect("served");
        let up = Topic::Record(ReplicaId(0), VICTIM).text();
        scene.victim.write_all(&publish(5, 0, &up, b"a record")).await.expect("served");
        scene.settle().await;
        let heard = std::mem::take(&mut *scene.recorder.0.lock().expect("no panic"));
        assert_eq!(heard, [VICTIM], "the victim's own record");
        scene
    }

    fn open(&self) -> DuplexStream {
        let (ours, theirs) = duplex(16 * 1_024);
        let broker = Arc::clone(&self.broker);
        let address = [192, 0, 2, 1].into();
        let waiting = self.places.wait(address);
        let deadline = Instant::now() + INTRODUCTION;
        tokio::spawn(broker.serve(theirs, address, waiting, deadline));
        ours
    }

    async fn settle(&mut self) {
        for _ in 0..24 {
            tokio::task::yield_now().await;
        }
    }

    /// What a hostile client writes next.
    fn malice(&mut self, op: u8, script: &mut Script<'_>) -> Vec<u8> {
        let level = self.level;
        let victim = Topic::Down(VICTIM).text();
        let own = Topic::Down(ATTACKER).text();
        match op {
            0 => script.bytes(5_000).to_vec(),
            1 => connect(level, ATTACKER, None),
            2 => connect(level, ATTACKER, Some(KeyId::from_random([script.byte(); 8]))),
            // An enrolling client chooses its client id itself.
            3 => connect(level, VICTIM, Some(KeyId::from_random([1; 8]))),
            4 => subscribe(level, &own, script.byte()),
            5 => subscribe(level, &victim, script.byte()),
            6 => subscribe(level, &String::from_utf8_lossy(script.bytes(128)), script.byte()),
            7 => {
                let topic = Topic::Hello(ATTACKER).text();
                publish(level, script.byte() & 0xF, &topic, script.bytes(4_000))
            }
            8 => {
                let topic = Topic::Record(ReplicaId(script.short()), VICTIM).text();
                publish(level, script.byte() & 0xF, &topic, script.bytes(64))
            }
            9 => {
                let topic = String::from_utf8_lossy(script.bytes(128)).into_owned();
                publish(level, script.byte() & 0xF, &topic, script.bytes(64))
            }
            10 => {
                let first = script.byte();
                packet(first, &[script.bytes(4_100)])
            }
            11 => packet(0x40, &[&script.short().to_be_bytes()]),
            12 => packet(0xC0, &[]),
            _ => packet(0xE0, &[]),
        }
    }

    async fn step(&mut self, op: u8, script: &mut Script<'_>) {
        match op % 20 {
            14 => self.attacker = self.open(),
            15 => self.level = if self.level == 5 { 4 } else { 5 },
            16 => sleep(Duration::from_millis(u64::from(script.short()) / 8)).await,
            17 => {
                let frame = Bytes::copy_from_slice(PRIVATE);
                self.hub.send(VICTIM, frame);
            }
            18 => {
                let frame = vec![0x55; usize::from(script.short() % 3_840)];
                self.hub.send(ATTACKER, frame.into());
            }
            // Reads what waits.
            19 => self.read().await,
            op => {
                let bytes = self.malice(op, script);
                // Whoever is not read from waits; a hostile client does not.
                let write = self.attacker.write_all(&bytes);
                let _unread = tokio::time::timeout(Duration::from_millis(1), write).await;
            }
        }
        self.settle().await;
    }

    async fn read(&mut self) {
        let mut buffer = [0; 4_096];
        let read = self.attacker.read(&mut buffer);
        if let Ok(Ok(len)) = tokio::time::timeout(Duration::from_millis(1), read).await {
            self.heard.extend_from_slice(&buffer[..len]);
        }
    }

    /// What must hold at the end.
    async fn judge(mut self) {
        for _ in 0..8 {
            self.read().await;
        }
        let foreign = self.heard.windows(PRIVATE.len()).any(|window| window == PRIVATE);
        assert!(!foreign, "a foreign frame was read");
        let heard = self.recorder.0.lock().expect("no panic").contains(&VICTIM);
        assert!(!heard, "a frame went up in the victim's name");
        assert_eq!(self.broker.stats().panics.get(), 0);
        // The victim is still served.
        assert!(self.hub.reachable(VICTIM, Instant::now().into_std()));
        self.victim.write_all(&packet(0xC0, &[])).await.expect("the victim is connected");
        let mut answer = Vec::new();
        let pong = async {
            while !answer.ends_with(&[0xD0, 0]) {
                let mut buffer = [0; 4_096];
                let len = self.victim.read(&mut buffer).await.expect("open");
                assert!(len > 0, "the victim's connection was ended");
                answer.extend_from_slice(&buffer[..len]);
            }
        };
        tokio::time::timeout(Duration::from_secs(5), pong).await.expect("the victim is served");
    }
}

pub(crate) fn run(data: &[u8]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut script = Script::new(data);
        let mut scene = Scene::new().await;
        let began = Instant::now();
        for _ in 0..OPS {
            let Some(op) = script.op() else { break };
            scene.step(op, &mut script).await;
            // The victim would be ended for its own silence.
            if began.elapsed() > Duration::from_secs(300) {
                break;
            }
        }
        scene.judge().await;
    });
}
