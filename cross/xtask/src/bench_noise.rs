//! `cargo xtask bench noise`: weft-noise against boringtun, both with ring's
//! AEAD, in one process.
//!
//! What is measured, from start to end, is the same on both sides:
//!
//! - **seal**: a packet lies in one buffer; its datagram lies in another.
//! - **open**: a datagram lies in one buffer; its packet lies in another,
//!   authenticated and not seen before.
//! - **handshake**: initiation, response and the keepalive that confirms the
//!   session, written and read; fresh ephemeral keys from the system on both
//!   sides, the static-static secret computed before.
//!
//! A round alternates short slices of ours and theirs and takes the median
//! slice of each; the figure is the median of the rounds' ratios, ours by
//! theirs in work per second. boringtun is its real `Tunn` on the real clock.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::wg::cookie::Jar;
use weft_noise::wg::{
    GATEWAY_WINDOW_WORDS, HEADER_LEN, INITIATION_LEN, KEEPALIVE_LEN, LocalKey, Opener,
    RESPONSE_LEN, RemoteKey, Sealer, TAILROOM, Tai64n,
};
use weft_wire::id::{PublicKey, Secret};

use crate::{clock, out};

const ROUNDS: usize = 21;
/// Slices of each side in a round.
const SLICES: usize = 15;
const MTU: usize = 1_420;
const BUFFER_LEN: usize = HEADER_LEN + MTU + TAILROOM;
const GOAL: f64 = 0.95;
const KEY_A: [u8; 32] = [0xA1; 32];
const KEY_B: [u8; 32] = [0xB2; 32];
const PSK: [u8; 32] = [0xC3; 32];

/// One thing that both sides do; `slice` does it a fixed number of times and
/// returns the time.
trait Work {
    /// How often one slice does it.
    const REPEATS: u32;
    fn slice(&mut self) -> Duration;
}

/// A figure: nanoseconds each, and the ratio of work per second.
struct Figure {
    name: &'static str,
    ours_ns: f64,
    theirs_ns: f64,
    ratio: f64,
}

/// Runs the benchmark and prints its figures.
pub(crate) fn run(json: bool) -> ExitCode {
    let figures = [
        compare("seal_64", &mut OurSeal::new(64), &mut TheirSeal::new(64)),
        compare("seal_1420", &mut OurSeal::new(MTU), &mut TheirSeal::new(MTU)),
        compare("open_64", &mut OurOpen::new(64), &mut TheirOpen::new(64)),
        compare("open_1420", &mut OurOpen::new(MTU), &mut TheirOpen::new(MTU)),
        compare("handshake", &mut OurHandshake::new(), &mut TheirHandshake::new()),
    ];
    if json {
        let members: Vec<_> =
            figures.iter().map(|f| format!("\"{}\":{:.3}", f.name, f.ratio)).collect();
        out::line(&format!("{{{}}}", members.join(",")));
    } else {
        print(&figures);
    }
    let below = below_goal(&figures);
    below.iter().for_each(|sentence| out::error(sentence));
    if below.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A sentence for each figure that misses the goal.
fn below_goal(figures: &[Figure]) -> Vec<String> {
    let below = figures.iter().filter(|figure| figure.ratio < GOAL);
    below
        .map(|f| {
            format!("{}: {:.3} of boringtun's work per second, the goal is {GOAL}", f.name, f.ratio)
        })
        .collect()
}

fn print(figures: &[Figure]) {
    out::line("weft-noise against boringtun 0.7.1, ring on both sides, one thread");
    out::line("");
    out::line("             ours          boringtun     ours/boringtun (work per second)");
    for figure in figures {
        let verdict = if figure.ratio >= GOAL { "" } else { "  below the goal" };
        out::line(&format!(
            "{:<11} {:>9.0} ns  {:>9.0} ns  {:>8.3}{verdict}",
            figure.name, figure.ours_ns, figure.theirs_ns, figure.ratio
        ));
    }
    out::line("");
    for line in [
        "seal: packet in one buffer to datagram in another. open: datagram in one buffer",
        "to authenticated packet in another. handshake: initiation, response and first",
        "keepalive, written and read. Median of rounds that alternate slices of both;",
    ] {
        out::line(line);
    }
    out::line(&format!("{ROUNDS} rounds of {SLICES} slices each. Goal: {GOAL} each."));
}

fn compare<A: Work, B: Work>(name: &'static str, ours: &mut A, theirs: &mut B) -> Figure {
    // Caches, branch predictors and the processor's clock settle.
    for _ in 0..SLICES {
        ours.slice();
        theirs.slice();
    }
    let rounds: Vec<_> = (0..ROUNDS).map(|round| one_round(ours, theirs, round % 2 == 0)).collect();
    Figure {
        name,
        ours_ns: median(rounds.iter().map(|(ours, _)| *ours)),
        theirs_ns: median(rounds.iter().map(|(_, theirs)| *theirs)),
        ratio: median(rounds.iter().map(|(ours, theirs)| theirs / ours)),
    }
}

/// Nanoseconds of one piece of work of each side.
fn one_round<A: Work, B: Work>(ours: &mut A, theirs: &mut B, ours_first: bool) -> (f64, f64) {
    let (mut our_slices, mut their_slices) = (Vec::new(), Vec::new());
    for _ in 0..SLICES {
        if ours_first {
            our_slices.push(each::<A>(ours.slice()));
        }
        their_slices.push(each::<B>(theirs.slice()));
        if !ours_first {
            our_slices.push(each::<A>(ours.slice()));
        }
    }
    (median(our_slices.into_iter()), median(their_slices.into_iter()))
}

fn each<W: Work>(slice: Duration) -> f64 {
    slice.as_secs_f64() * 1e9 / f64::from(W::REPEATS)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// An IPv4 packet of this length, which boringtun looks into when it opens it.
fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0xA5; len];
    let header = [69, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[..20].copy_from_slice(&header);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

/// The system's random bytes, by one call for each key, as boringtun does.
struct System(File);

impl System {
    fn new() -> Self {
        Self(File::open("/dev/urandom").expect("the system has random bytes"))
    }
}

impl Entropy for System {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.read_exact(out).expect("the system has random bytes");
    }
}

/// Both ends of our tunnel.
struct OurPair {
    entropy: System,
    a: LocalKey,
    b: LocalKey,
    a_sees_b: RemoteKey,
    b_sees_a: RemoteKey,
    psk: Secret,
    jars: (Jar, Jar),
    steps: u64,
}

impl OurPair {
    fn new() -> Self {
        let a = LocalKey::new(StaticSecret::from_bytes(KEY_A));
        let b = LocalKey::new(StaticSecret::from_bytes(KEY_B));
        let see = |from: &LocalKey, to: &PublicKey| from.remote(to).expect("a good key");
        let (a_sees_b, b_sees_a) = (see(&a, b.public()), see(&b, a.public()));
        let (psk, jars) = (Secret(PSK), (Jar::new(), Jar::new()));
        Self { entropy: System::new(), a, b, a_sees_b, b_sees_a, psk, jars, steps: 0 }
    }

    /// One whole handshake, up to the keepalive.
    fn handshake(&mut self) -> (Sealer, Opener<GATEWAY_WINDOW_WORDS>) {
        self.steps += 1;
        let (mut initiation, mut response) = ([0; INITIATION_LEN], [0; RESPONSE_LEN]);
        let stamp = Tai64n::from_steps(self.steps);
        let mut sent =
            self.a.initiate(&self.a_sees_b, 1, stamp, &mut self.entropy, &mut initiation);
        self.jars.0.attach(&mut initiation, 0);

        let checked = self.b.check_mac1(&initiation).expect("mac1");
        let received = self.b.receive_initiation(&checked).expect("an initiation");
        let authentic = received.authenticate(&self.b_sees_a).expect("authentic");
        let b_keys = authentic.respond(2, &self.psk, &mut self.entropy, &mut response);
        self.jars.1.attach(&mut response, 0);
        let (_, mut opener) = b_keys.split();

        let checked = self.a.check_mac1(&response).expect("mac1");
        let answered = sent.receive_response(&self.a, &checked, &[&self.psk]).expect("a response");
        let (mut sealer, _) = answered.keys.split::<GATEWAY_WINDOW_WORDS>();
        let mut keepalive = [0; KEEPALIVE_LEN];
        sealer.seal(&mut keepalive, 0, MTU).expect("room");
        opener.open(&mut keepalive).expect("authentic");
        (sealer, opener)
    }
}

/// Both ends of their tunnel.
struct TheirPair {
    a: Tunn,
    b: Tunn,
    buffers: [Vec<u8>; 2],
}

fn written(result: TunnResult<'_>) -> usize {
    match result {
        TunnResult::WriteToNetwork(datagram) => datagram.len(),
        other => panic!("boringtun writes nothing: {other:?}"),
    }
}

impl TheirPair {
    fn new() -> Self {
        let tunnel = |own: [u8; 32], peer: [u8; 32], index| {
            let own = x25519::StaticSecret::from(own);
            let peer = x25519::PublicKey::from(&x25519::StaticSecret::from(peer));
            let limiter = RateLimiter::new(&x25519::PublicKey::from(&own), u64::MAX);
            Tunn::new(own, peer, Some(PSK), None, index, Some(Arc::new(limiter)))
        };
        Self {
            a: tunnel(KEY_A, KEY_B, 1),
            b: tunnel(KEY_B, KEY_A, 2),
            buffers: [vec![0; BUFFER_LEN], vec![0; BUFFER_LEN]],
        }
    }

    fn handshake(&mut self) {
        let [one, two] = &mut self.buffers;
        let len = written(self.a.format_handshake_initiation(one, true));
        let len = written(self.b.decapsulate(None, &one[..len], two));
        let len = written(self.a.decapsulate(None, &two[..len], one));
        let confirmed = self.b.decapsulate(None, &one[..len], two);
        assert!(matches!(confirmed, TunnResult::Done));
    }
}

struct OurHandshake(OurPair);

impl OurHandshake {
    fn new() -> Self {
        Self(OurPair::new())
    }
}

impl Work for OurHandshake {
    const REPEATS: u32 = 4;

    fn slice(&mut self) -> Duration {
        let start = clock::now();
        for _ in 0..Self::REPEATS {
            std::hint::black_box(self.0.handshake());
        }
        start.elapsed()
    }
}

struct TheirHandshake(TheirPair);

impl TheirHandshake {
    fn new() -> Self {
        Self(TheirPair::new())
    }
}

impl Work for TheirHandshake {
    const REPEATS: u32 = 4;

    fn slice(&mut self) -> Duration {
        let start = clock::now();
        for _ in 0..Self::REPEATS {
            self.0.handshake();
        }
        start.elapsed()
    }
}

struct OurSeal {
    sealer: Sealer,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl OurSeal {
    fn new(len: usize) -> Self {
        let (sealer, _) = OurPair::new().handshake();
        Self { sealer, packet: packet(len), buffer: vec![0; BUFFER_LEN] }
    }
}

impl Work for OurSeal {
    const REPEATS: u32 = 500;

    fn slice(&mut self) -> Duration {
        let start = clock::now();
        for _ in 0..Self::REPEATS {
            let packet = std::hint::black_box(&self.packet[..]);
            self.buffer[HEADER_LEN..][..packet.len()].copy_from_slice(packet);
            let sealed = self.sealer.seal(&mut self.buffer, packet.len(), MTU);
            let len = sealed.expect("room");
            std::hint::black_box(&self.buffer[..len]);
        }
        start.elapsed()
    }
}

struct TheirSeal {
    tunnel: Tunn,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl TheirSeal {
    fn new(len: usize) -> Self {
        let mut pair = TheirPair::new();
        pair.handshake();
        Self { tunnel: pair.a, packet: packet(len), buffer: vec![0; BUFFER_LEN] }
    }
}

impl Work for TheirSeal {
    const REPEATS: u32 = 500;

    fn slice(&mut self) -> Duration {
        let start = clock::now();
        for _ in 0..Self::REPEATS {
            let packet = std::hint::black_box(&self.packet[..]);
            let len = written(self.tunnel.encapsulate(packet, &mut self.buffer));
            std::hint::black_box(&self.buffer[..len]);
        }
        start.elapsed()
    }
}

struct OurOpen {
    sealer: Sealer,
    opener: Opener<GATEWAY_WINDOW_WORDS>,
    packet: Vec<u8>,
    datagrams: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl OurOpen {
    fn new(len: usize) -> Self {
        let (sealer, opener) = OurPair::new().handshake();
        let buffer = vec![0; BUFFER_LEN];
        Self { sealer, opener, packet: packet(len), datagrams: Vec::new(), buffer }
    }
}

impl Work for OurOpen {
    const REPEATS: u32 = 500;

    fn slice(&mut self) -> Duration {
        self.datagrams.clear();
        for _ in 0..Self::REPEATS {
            let mut buffer = vec![0; BUFFER_LEN];
            buffer[HEADER_LEN..][..self.packet.len()].copy_from_slice(&self.packet);
            let len = self.sealer.seal(&mut buffer, self.packet.len(), MTU).expect("room");
            buffer.truncate(len);
            self.datagrams.push(buffer);
        }
        let start = clock::now();
        for datagram in &self.datagrams {
            let place = &mut self.buffer[..datagram.len()];
            place.copy_from_slice(datagram);
            let opened = self.opener.open(place).expect("authentic");
            std::hint::black_box(&place[opened.range()]);
        }
        let time = start.elapsed();
        assert_eq!(self.buffer[HEADER_LEN..][..self.packet.len()], self.packet);
        time
    }
}

struct TheirOpen {
    pair: TheirPair,
    packet: Vec<u8>,
    datagrams: Vec<Vec<u8>>,
}

impl TheirOpen {
    fn new(len: usize) -> Self {
        let mut pair = TheirPair::new();
        pair.handshake();
        Self { pair, packet: packet(len), datagrams: Vec::new() }
    }
}

impl Work for TheirOpen {
    const REPEATS: u32 = 500;

    fn slice(&mut self) -> Duration {
        self.datagrams.clear();
        for _ in 0..Self::REPEATS {
            let mut buffer = vec![0; BUFFER_LEN];
            let len = written(self.pair.a.encapsulate(&self.packet, &mut buffer));
            buffer.truncate(len);
            self.datagrams.push(buffer);
        }
        let (tunnel, buffer) = (&mut self.pair.b, &mut self.pair.buffers[0]);
        let start = clock::now();
        for datagram in &self.datagrams {
            match tunnel.decapsulate(None, datagram, buffer) {
                TunnResult::WriteToTunnelV4(packet, _) => {
                    std::hint::black_box(packet);
                }
                other => panic!("boringtun does not open: {other:?}"),
            }
        }
        let time = start.elapsed();
        assert_eq!(buffer[..self.packet.len()], self.packet);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_named() {
        let figure = |name, ratio| Figure { name, ours_ns: 1.0, theirs_ns: 1.0, ratio };
        assert_eq!(below_goal(&[figure("seal_64", GOAL)]), Vec::<String>::new());
        assert_eq!(
            below_goal(&[figure("seal_64", 1.2), figure("handshake", 0.9)]),
            ["handshake: 0.900 of boringtun's work per second, the goal is 0.95"]
        );
    }
}
