//! The mob: threads on one host with many addresses, each hostile in its way
//! until it is told to stop.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_wire::http::{CONTENT_TYPE, INBOX_HEADER, METRICS};
use weft_wire::id::Inbox;
use weft_wire::join::JoinString;

use super::mqtt::{self, Noise, Who};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;
use crate::net::tcp::connect_from;

/// Connections that say nothing, that say half a CONNECT, and that say one byte
/// a second.
const SILENT: usize = 500;
const HALF: usize = 1_000;
const SLOW: usize = 100;
/// Offered per second.
const CONNECTS: u64 = 5_000;
const HELLOS_MQTT: u64 = 16_000;
const HELLOS_POST: u64 = 4_000;
/// As many as may enrol with one key at once.
const ENROLLING: usize = 64;
const POSTING: usize = 16;
/// Those that listen for what is not theirs.
const SPIES: usize = 4;
/// A turn of every thread.
const TURN: Duration = Duration::from_millis(2);
/// How long a refused CONNECT's answer is waited for.
const ANSWER: Duration = Duration::from_millis(200);

/// What was done.
#[derive(Default)]
pub(super) struct Done {
    pub(super) connects: AtomicU64,
    /// CONNECTs that got an answer.
    pub(super) refused: AtomicU64,
    pub(super) hellos: AtomicU64,
    pub(super) posts: AtomicU64,
    /// Rounds of every malice there is.
    pub(super) malices: AtomicU64,
    /// Messages that came to somebody they were not for.
    pub(super) foreign: AtomicU64,
    pub(super) held: AtomicU64,
}

/// Where and as whom.
struct Target {
    address: SocketAddr,
    /// Addresses of the mob's host, one after the other.
    from: Vec<Ipv4Addr>,
    /// The key that the flood of HELLOs uses up.
    flooded: JoinString,
    /// That of everybody else.
    join: JoinString,
}

impl Target {
    /// Connections of one thread come from one address after the other.
    fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let from = self.from[number % self.from.len()];
        connect_from(from, self.address, Duration::from_secs(2))
    }
}

/// All its threads.
pub(super) struct Mob {
    pub(super) done: Arc<Done>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

type Way = fn(&Target, &Done, &AtomicBool) -> io::Result<()>;

impl Mob {
    pub(super) fn start(
        namespace: &Namespace,
        address: SocketAddr,
        from: Vec<Ipv4Addr>,
        [flooded, join]: [JoinString; 2],
    ) -> Result<Self> {
        let ways: [(&str, Way); 7] = [
            ("silent", hold),
            ("loud-1", shout),
            ("loud-2", shout),
            ("hello", flood),
            ("post", post),
            ("malice", be_malicious),
            ("spy", spy),
        ];
        let (done, stop) = (Arc::new(Done::default()), Arc::new(AtomicBool::new(false)));
        let target = Arc::new(Target { address, from, flooded, join });
        let name = namespace.name().to_owned();
        let threads = ways.into_iter().map(|(word, way)| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let (target, name) = (Arc::clone(&target), name.clone());
            thread::Builder::new().name(format!("mob-{word}")).spawn(move || {
                Namespace::open(&name)?.enter()?;
                way(&target, &done, &stop)
            })
        });
        let threads = threads.collect::<io::Result<_>>().during("start a thread")?;
        Ok(Self { done, stop, threads })
    }

    /// Ends it. A thread that failed did less than it says.
    pub(super) fn end(self) -> Result<Arc<Done>> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            let ended = thread
                .join()
                .map_err(|_| Failure::new("lab.internal", format!("{name} panicked")))?;
            ended.during(&format!("be hostile as {name}"))?;
        }
        Ok(self.done)
    }
}

/// Calls until told to stop, with the number of things that are due in a turn
/// to come to `rate` per second.
fn paced(
    stop: &AtomicBool,
    rate: u64,
    mut turn: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let began = clock::now();
    let mut made = 0;
    while !stop.load(Ordering::Acquire) {
        let due = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) * rate / 1_000_000;
        // What could not be offered in time is not made up for in a burst.
        let now = due.saturating_sub(made).min(rate / 20 + 1);
        made = due;
        turn(now)?;
        thread::park_timeout(TURN);
    }
    Ok(())
}

/// Whether a write may be tried again: the other side reads slowly, or closed.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Holds connections, and opens another for each that was closed.
fn hold(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(1);
    let mut held: Vec<Option<TcpStream>> = (0..SILENT + HALF + SLOW).map(|_| None).collect();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        for (place, stream) in held.iter_mut().enumerate() {
            if stream.as_mut().is_some_and(|stream| goes_on(stream, place)) {
                continue;
            }
            number += 1;
            *stream = target.connect(number).ok();
            let Some(stream) = stream else { continue };
            done.held.fetch_add(1, Ordering::Relaxed);
            let whole = mqtt::connect(&Who::forged(&target.join, noise.inbox()));
            if (SILENT..SILENT + HALF).contains(&place) {
                // It may be closed already.
                let _sent = stream.write(&whole[..whole.len() / 2]);
            }
            stream.set_nonblocking(true)?;
            if stop.load(Ordering::Acquire) {
                break;
            }
        }
        thread::park_timeout(Duration::from_secs(1));
    }
    Ok(())
}

/// Whether a held connection still stands; the slow ones say another byte.
fn goes_on(stream: &mut TcpStream, place: usize) -> bool {
    if place >= SILENT + HALF && stream.write(&[mqtt::CONNECT]).is_err() {
        return false;
    }
    matches!(stream.read(&mut [0; 64]), Err(error) if is_full(&error))
}

/// CONNECTs with a password that is not theirs.
fn shout(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(2);
    let mut waiting: VecDeque<(TcpStream, Instant)> = VecDeque::new();
    let mut number = 0;
    paced(stop, CONNECTS / 2, |now| {
        for _ in 0..now {
            number += 1;
            done.connects.fetch_add(1, Ordering::Relaxed);
            let Ok(mut stream) = target.connect(number) else { continue };
            let bytes = mqtt::connect(&Who::forged(&target.join, noise.inbox()));
            if stream.write_all(&bytes).is_ok() {
                stream.set_nonblocking(true)?;
                waiting.push_back((stream, clock::now() + ANSWER));
            }
        }
        waiting.retain_mut(|(stream, until)| {
            let mut answer = [0; 16];
            match stream.read(&mut answer) {
                Err(error) if is_full(&error) => clock::now() < *until,
                Ok(len) => {
                    let told = len > 3 && answer[0] == mqtt::CONNACK && answer[3] != 0;
                    done.refused.fetch_add(u64::from(told), Ordering::Relaxed);
                    false
                }
                Err(_) => false,
            }
        });
        Ok(())
    })
}

/// A client that was let in to enrol.
fn let_in(
    target: &Target,
    join: &JoinString,
    number: usize,
    inbox: Inbox,
) -> io::Result<TcpStream> {
    let mut stream = target.connect(number)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&mqtt::connect(&Who::enrolling(join, inbox)))?;
    match mqtt::read(&mut stream)? {
        (mqtt::CONNACK, body) if body.get(1) == Some(&0) => Ok(stream),
        _ => Err(io::Error::other("an enrolling client was not let in")),
    }
}

/// HELLOs with a wrong MAC over as many connections as may enrol at once.
fn flood(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(3);
    let mut clients: Vec<Option<(TcpStream, Vec<u8>)>> = (0..ENROLLING).map(|_| None).collect();
    let mut next = 0;
    paced(stop, HELLOS_MQTT, |now| {
        for _ in 0..now {
            next += 1;
            let place = next % ENROLLING;
            done.hellos.fetch_add(1, Ordering::Relaxed);
            if clients[place].is_none() {
                let inbox = noise.inbox();
                // Refused while too many are in: this one is offered in vain.
                let Ok(stream) = let_in(target, &target.flooded, next, inbox) else { continue };
                stream.set_nonblocking(true)?;
                let frame = mqtt::hello(&target.flooded, inbox, &mut noise);
                let bytes = mqtt::publish(&mqtt::hello_topic(inbox), &frame);
                clients[place] = Some((stream, bytes));
            }
            if let Some((stream, bytes)) = &mut clients[place] {
                match stream.write(bytes) {
                    Err(error) if is_full(&error) => {}
                    Ok(len) if len == bytes.len() => {}
                    // Half a packet, or a connection that is over.
                    _ => clients[place] = None,
                }
            }
        }
        Ok(())
    })
}

/// The same in posts.
fn post(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(4);
    let mut clients: Vec<Option<TcpStream>> = (0..POSTING).map(|_| None).collect();
    let mut next = 0;
    let mut answers = [0; 16_384];
    paced(stop, HELLOS_POST, |now| {
        for _ in 0..now {
            next += 1;
            let place = next % POSTING;
            done.posts.fetch_add(1, Ordering::Relaxed);
            if clients[place].is_none() {
                let Ok(stream) = target.connect(next) else { continue };
                stream.set_nonblocking(true)?;
                clients[place] = Some(stream);
            }
            let Some(stream) = &mut clients[place] else { continue };
            let inbox = noise.inbox();
            let frame = mqtt::hello(&target.join, inbox, &mut noise);
            let mut request = format!(
                "POST {METRICS} HTTP/1.1\r\nhost: weft\r\ncontent-type: {CONTENT_TYPE}\r\n\
                 {INBOX_HEADER}: {inbox}\r\ncontent-length: {}\r\n\r\n",
                frame.len()
            )
            .into_bytes();
            request.extend(frame);
            let drained = stream.read(&mut answers);
            let over = matches!(drained, Ok(0)) || drained.is_err_and(|error| !is_full(&error));
            match stream.write(&request) {
                Err(error) if is_full(&error) && !over => {}
                Ok(len) if len == request.len() && !over => {}
                _ => clients[place] = None,
            }
        }
        Ok(())
    })
}

/// Every kind of wrong bytes, one connection after the other.
fn be_malicious(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(5);
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        for kind in 0..KINDS {
            number += 1;
            let own = noise.inbox();
            let bytes = malice(target, kind, own, &mut noise);
            // After the CONNECT that lets it in, or instead of one.
            let stream = if kind < BEFORE {
                target.connect(number)
            } else {
                let_in(target, &target.join, number, own)
            };
            let Ok(mut stream) = stream else { continue };
            stream.set_read_timeout(Some(ANSWER))?;
            if stream.write_all(&bytes).is_err() {
                continue;
            }
            while let Ok((first, _)) = mqtt::read(&mut stream) {
                // It subscribed to nothing that is its own.
                let foreign = first & 0xF0 == mqtt::PUBLISH;
                done.foreign.fetch_add(u64::from(foreign), Ordering::Relaxed);
            }
        }
        done.malices.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Kinds of malice; the first of them come before any CONNECT.
const KINDS: u64 = 16;
const BEFORE: u64 = 6;

fn malice(target: &Target, kind: u64, own: Inbox, noise: &mut Noise) -> Vec<u8> {
    let other = noise.inbox();
    let len = noise.number() as usize % 600;
    let whole = mqtt::connect(&Who::enrolling(&target.join, own));
    match kind {
        0 => noise.bytes(len),
        1 => whole[..len % whole.len()].to_vec(),
        // UNSUBACK, SUBACK, PINGRESP, AUTH as the first packet.
        2 => mqtt::packet([0xB0, 0x90, 0xD0, 0xF0][len % 4], &[0, 1, 0, 0]),
        // A CONNECT of 256 MB, and a length that does not end.
        3 => [&[mqtt::CONNECT, 0xFF, 0xFF, 0xFF, 0x7F][..], &whole[2..]].concat(),
        4 => vec![mqtt::CONNECT, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        5 => {
            let mut flipped = whole;
            let at = len % flipped.len();
            flipped[at] ^= 1 << (noise.number() % 8);
            flipped
        }
        6 => mqtt::packet(0xB0, &[0, 1, 0, 0]),
        7 => mqtt::publish_alias(),
        8 => mqtt::publish(&mqtt::hello_topic(other), b"forged"),
        9 => mqtt::publish(&mqtt::down_topic(other), b"forged"),
        10 => mqtt::subscribe(&mqtt::down_topic(other)),
        11 => mqtt::subscribe(["#", "weft/#", "weft/v1/d/+", "$share/g/weft/v1/h/+"][len % 4]),
        12 => mqtt::publish(&mqtt::hello_topic(own), &noise.bytes(60_000)),
        13 => vec![mqtt::PUBLISH, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4],
        14 => (0..20)
            .flat_map(|_| mqtt::packet(noise.number() as u8, &noise.bytes(len % 60)))
            .collect(),
        _ => whole,
    }
}

/// Listens on its own inbox, which nobody writes to: whatever comes is not its.
fn spy(target: &Target, done: &Done, stop: &AtomicBool) -> io::Result<()> {
    let mut noise = Noise::new(6);
    let mut spies: Vec<Option<TcpStream>> = (0..SPIES).map(|_| None).collect();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        for place in &mut spies {
            let Some(stream) = place else {
                number += 1;
                let own = noise.inbox();
                let Ok(mut stream) = let_in(target, &target.join, number, own) else { continue };
                stream.write_all(&mqtt::subscribe(&mqtt::down_topic(own)))?;
                stream.set_read_timeout(Some(Duration::from_millis(20)))?;
                *place = Some(stream);
                continue;
            };
            match mqtt::read(stream) {
                Ok((first, _)) => {
                    let foreign = first & 0xF0 == mqtt::PUBLISH;
                    done.foreign.fetch_add(u64::from(foreign), Ordering::Relaxed);
                }
                Err(error) if is_full(&error) => {}
                // Its time to enrol is over.
                Err(_) => *place = None,
            }
        }
    }
    Ok(())
}
