//! Hostile clients of every kind at once, and honest ones beside them who lose
//! nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod endpoint;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use endpoint::{
    Client, Echo, Endpoint, Packet, connect, device, enrolling, inbox, key, publish, soon,
    subscribe,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use weft_coordinator::transport::listen::{Behind, Front, Limits, Listener, Stats};
use weft_coordinator::transport::mqtt::session::Close;
use weft_coordinator::transport::mqtt::stats::Early;
use weft_wire::topic::Topic;

const HONEST: u32 = 20;
const ROUNDS: usize = 30;
/// The hostile come from addresses of their own: limits are per address.
const HALF_OPEN: [u8; 4] = [127, 0, 0, 2];
const LOUD: [u8; 4] = [127, 0, 0, 3];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

async fn open(from: [u8; 4], to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((from, 0))).ok()?;
    socket.connect(to).await.ok()
}

/// What one hostile client writes before anything was read.
fn malice(random: &mut Random) -> Vec<u8> {
    let victim = inbox((random.next() % u64::from(HONEST)) as u32);
    let mut good = connect(&device(inbox(1_000 + random.next() as u32 % 50)), 300, &[]);
    match random.next() % 12 {
        0 => {
            let len = random.next() as usize % 300;
            random.bytes(len)
        }
        1 => {
            good.truncate(random.next() as usize % good.len());
            good
        }
        2 => vec![[0xB0, 0x20, 0x00, 0xF0][random.next() as usize % 4], 4, 0, 1, 0, 0],
        3 => vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4],
        4 => {
            // Another's inbox, with a password that is not its.
            let mut forged = device(victim);
            forged.password = device(inbox(999)).password;
            connect(&forged, 300, &[])
        }
        5 => {
            let flips = random.next() as usize % good.len();
            good[flips] ^= 1 << (random.next() % 8);
            good
        }
        6 => [good, subscribe("#", 0)].concat(),
        7 => [good, publish(&Topic::Hello(victim).text(), b"forged")].concat(),
        8 => [good, publish(&Topic::Down(victim).text(), b"forged")].concat(),
        9 => {
            let alias = Packet::new().text("").bytes(&[3, 35, 0, 1]).bytes(b"x").finish(0x30);
            [good, alias].concat()
        }
        10 => {
            let noise = (0..20).flat_map(|_| {
                let len = random.next() as usize % 60;
                let body = random.bytes(len);
                Packet::new().bytes(&body).finish(random.next() as u8)
            });
            good.extend(noise.collect::<Vec<_>>());
            good
        }
        _ => [good, vec![0x30, 0xFF, 0xFF, 0x7F]].concat(),
    }
}

/// One connection after another until told to stop.
async fn be_loud(to: SocketAddr, seed: u64, stop: Arc<AtomicBool>, tried: Arc<AtomicU64>) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let Some(mut stream) = open(LOUD, to).await else { continue };
        tried.fetch_add(1, Ordering::Relaxed);
        if stream.write_all(&malice(&mut random)).await.is_ok() {
            let mut answer = [0; 512];
            let _ = timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
        }
    }
}

/// Floods the own inbox and never reads.
async fn never_read(to: SocketAddr, n: u32) {
    let Some(mut stream) = open(LOUD, to).await else { return };
    let own = inbox(2_000 + n);
    let flood = publish(&Topic::Hello(own).text(), b"flood").repeat(1_000);
    let _ = stream.write_all(&connect(&device(own), 300, &[])).await;
    let _ = stream.write_all(&subscribe(&Topic::Down(own).text(), 0)).await;
    let _ = stream.write_all(&flood).await;
}

/// Each round one frame up and its echo down; the worst round trip.
async fn be_honest(to: SocketAddr, n: u32) -> Duration {
    let own = inbox(n);
    let mut client = Client::new(TcpStream::connect(to).await.unwrap());
    client.join(own).await;
    let mut pace = interval(Duration::from_millis(100));
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        pace.tick().await;
        let frame = format!("{n} {round}").into_bytes();
        let start = Instant::now();
        client.send(own, &frame).await;
        assert_eq!(soon(client.read_frame(own)).await, frame);
        worst = worst.max(start.elapsed());
    }
    client.write(&[0xE0, 0]).await;
    assert_eq!(soon(client.read()).await, None);
    worst
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_honest_lose_nothing() {
    let limits = Limits { waiting_per_address: 256, ..Limits::default() };
    let endpoint = Endpoint::new(Echo::default(), limits);
    let behind = Arc::new(Behind {
        broker: Arc::clone(&endpoint.broker),
        front: Front::new(axum::Router::new()),
        tls: endpoint::tls(),
        places: Arc::clone(&endpoint.places),
        stats: Arc::new(Stats::default()),
    });
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let to = listener.local_addr().unwrap();
    tokio::spawn(listener.run(Arc::clone(&behind)));

    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut hostile = JoinSet::new();
    for seed in 1..=4 {
        hostile.spawn(be_loud(to, seed, Arc::clone(&stop), Arc::clone(&tried)));
    }
    for n in 0..4 {
        hostile.spawn(never_read(to, n));
    }
    let mut half_open = Vec::new();
    for _ in 0..300 {
        half_open.push(open(HALF_OPEN, to).await.unwrap());
    }
    let token = enrolling(inbox(5_000), key(1));
    let mut enrolling = Client::new(open(LOUD, to).await.unwrap());
    enrolling.write(&connect(&token, 300, &[])).await;
    assert_eq!(soon(enrolling.read()).await.unwrap().1[1], 0, "a token lets in");

    let mut honest = JoinSet::new();
    for n in 0..HONEST {
        honest.spawn(be_honest(to, n));
    }
    let worst = honest.join_all().await.into_iter().max().unwrap();
    stop.store(true, Ordering::Relaxed);
    hostile.abort_all();
    while hostile.join_next().await.is_some() {}

    let stats = endpoint.broker.stats();
    println!(
        "{} hostile connections, {} half-open cut, worst honest round trip {} ms",
        tried.load(Ordering::Relaxed),
        stats.early(Early::Crowded).get(),
        worst.as_millis()
    );
    assert_eq!(stats.panics.get(), 0);
    // The address that held half-open connections displaced its own.
    assert!(stats.early(Early::Crowded).get() >= 300 - 256);
    for early in [Early::NotConnect, Early::Lost] {
        assert!(stats.early(early).get() > 0, "{early:?}");
    }
    for why in [Close::ForeignTopic, Close::ForeignFilter, Close::Properties, Close::TooLong] {
        assert!(stats.closed(why).get() > 0, "{why:?}");
    }
    // The honest said goodbye; of the others nothing is left once they closed.
    assert!(stats.closed(Close::Said).get() >= u64::from(HONEST));
    drop((half_open, enrolling));
    soon(async {
        while endpoint.places.counts() != (0, 0, 0) || !endpoint.hub.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
