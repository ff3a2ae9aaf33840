//! The simulated internet: a learning switch that delays every frame.
//!
//! One thread, one packet socket per link, one heap of frames by due time. So a
//! round trip of 20 ms needs no traffic shaping in the kernel, and large segments
//! pass whole: loss is by frame, and such a segment is one.
//!
//! What a link does to frames is changed while it runs. Jitter never reorders the
//! frames of one link. Chance comes from a seed; the order in which frames come
//! does not, so that a seed repeats how much is lost and not which.

use std::cmp::Ordering as Order;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::namespace::Namespace;
use super::packet::{MAX_FRAME, OFFLOAD_HEADER, PacketSocket, wait};
use crate::clock;
use crate::dice::Dice;

/// Frames under way; beyond it the newest is lost, as in a full router.
const UNDER_WAY: usize = 8_192;
/// Frames taken from one link before the others get their turn.
const BATCH: usize = 64;

/// Links at most: where one leads nowhere is a bit each.
const LINKS: usize = 64;

type Mac = [u8; 6];

/// What a link does to its frames, both ways.
struct Link {
    /// Up to this much later, in microseconds.
    jitter: AtomicU32,
    /// Lost, in a million.
    loss: AtomicU32,
    /// Links that it does not reach.
    cut: AtomicU64,
    /// When its first frame for each other link came, in nanoseconds of the
    /// wire's life; 0 is never.
    first: [AtomicU64; LINKS],
}

impl Link {
    fn new() -> Self {
        Self {
            jitter: AtomicU32::new(0),
            loss: AtomicU32::new(0),
            cut: AtomicU64::new(0),
            first: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// A running forwarder; dropping it cuts the wire.
pub(crate) struct Wire {
    began: Instant,
    links: Arc<[Link]>,
    counters: Arc<Counters>,
    stop: UdpSocket,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Frames since the start.
#[derive(Default)]
struct Counters {
    forwarded: AtomicU64,
    lost: AtomicU64,
}

impl Wire {
    /// Connects interfaces of a namespace; each frame takes `delay` one way. What
    /// is left to chance follows from the seed.
    ///
    /// # Errors
    ///
    /// What the system says about sockets or the thread.
    pub(crate) fn start(
        namespace: &Namespace,
        interfaces: &[&str],
        delay: Duration,
        seed: u64,
    ) -> io::Result<Self> {
        if interfaces.len() > LINKS {
            return Err(io::Error::other(format!("{} links, at most {LINKS}", interfaces.len())));
        }
        let sockets = namespace.within(|| {
            interfaces
                .iter()
                .map(|name| {
                    PacketSocket::open(name)
                        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
                })
                .collect::<io::Result<Vec<_>>>()
        })??;
        // Closing our end of a connected pair would wake nobody: a datagram does.
        let stop = UdpSocket::bind("127.0.0.1:0")?;
        let stopped = UdpSocket::bind("127.0.0.1:0")?;
        stop.connect(stopped.local_addr()?)?;
        let counters = Arc::new(Counters::default());
        let links: Arc<[Link]> = interfaces.iter().map(|_| Link::new()).collect();
        let began = clock::now();
        let switch = Switch {
            began,
            latest: vec![began; sockets.len()],
            sockets,
            links: Arc::clone(&links),
            dice: Dice(seed),
            delay,
            ports: HashMap::new(),
            heap: BinaryHeap::new(),
            sequence: 0,
            spare: Vec::new(),
            counters: Arc::clone(&counters),
        };
        let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(move || {
            // The internet does not wait for our compilers. Without the
            // right to this it only measures worse on a busy machine.
            let _hurried = super::hurry();
            switch.run(&stopped)
        })?;
        Ok(Self { began, links, counters, stop, thread: Some(thread) })
    }

    /// Frames of a link come up to this much later.
    pub(crate) fn set_jitter(&self, link: usize, jitter: Duration) {
        let micros = u32::try_from(jitter.as_micros()).unwrap_or(u32::MAX);
        self.links[link].jitter.store(micros, Ordering::Relaxed);
    }

    /// So many in a million frames of a link are lost, each way.
    pub(crate) fn set_loss(&self, link: usize, ppm: u32) {
        self.links[link].loss.store(ppm, Ordering::Relaxed);
    }

    /// Cuts a link off from others, or mends it. Frames under way still arrive.
    pub(crate) fn set_cut(&self, link: usize, from: impl Iterator<Item = usize>, cut: bool) {
        let others = from.filter(|other| *other != link).fold(0, |bits, other| bits | 1 << other);
        let bits = &self.links[link].cut;
        if cut {
            bits.fetch_or(others, Ordering::Relaxed);
        } else {
            bits.fetch_and(!others, Ordering::Relaxed);
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // To a thread that has ended this goes nowhere.
        let told = self.stop.send(&[0]);
        if thread.is_finished() || told.is_ok() {
            return thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        told.map(drop)
    }

    /// When the first frame for one link came from another, since the last call of
    /// [`Wire::forget_first_frames`].
    pub(crate) fn first_frame(&self, from: usize, to: usize) -> Option<Instant> {
        let nanos = self.links[from].first[to].load(Ordering::Relaxed);
        (nanos != 0).then(|| self.began + Duration::from_nanos(nanos))
    }

    /// From now on the next frames are the first.
    pub(crate) fn forget_first_frames(&self) {
        let all = self.links.iter().flat_map(|link| &link.first);
        all.for_each(|first| first.store(0, Ordering::Relaxed));
    }

    /// Frames delivered, and frames lost: by chance, by a cut, for want of room.
    pub(crate) fn counters(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.counters.forwarded), load(&self.counters.lost))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            crate::ui::note(&format!("the wire broke: {error}"));
        }
    }
}

struct Frame {
    due: Instant,
    sequence: u64,
    link: usize,
    bytes: Vec<u8>,
}

impl Ord for Frame {
    /// Earliest first out of the heap, which gives its greatest.
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Frame {}

struct Switch {
    began: Instant,
    sockets: Vec<PacketSocket>,
    links: Arc<[Link]>,
    dice: Dice,
    /// When the last frame of each link is due: the next one is not before it.
    latest: Vec<Instant>,
    delay: Duration,
    /// Which link an address was seen on.
    ports: HashMap<Mac, usize>,
    heap: BinaryHeap<Frame>,
    sequence: u64,
    /// Buffers of delivered frames.
    spare: Vec<Vec<u8>>,
    counters: Arc<Counters>,
}

impl Switch {
    fn run(mut self, stopped: &UdpSocket) -> io::Result<()> {
        let mut descriptors: Vec<RawFd> =
            self.sockets.iter().map(PacketSocket::descriptor).collect();
        descriptors.push(stopped.as_raw_fd());
        stopped.set_nonblocking(true)?;
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            let next = self.heap.peek().map(|frame| frame.due);
            let time = next.map(|due| due.saturating_duration_since(clock::now()));
            wait(&descriptors, time)?;
            if stopped.recv(&mut [0; 1]).is_ok() {
                return Ok(());
            }
            for link in 0..self.sockets.len() {
                self.take_in(link, &mut buffer)?;
            }
            self.deliver()?;
        }
    }

    fn take_in(&mut self, link: usize, buffer: &mut [u8]) -> io::Result<()> {
        let now = clock::now();
        for _ in 0..BATCH {
            let len = match self.sockets[link].receive(buffer) {
                Ok(Some(len)) => len,
                // The far end of a link may go down: a host without power.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(()),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            };
            let frame = &buffer[..len];
            let Some((to, from)) = addresses(frame) else {
                continue;
            };
            self.ports.insert(from, link);
            match self.ports.get(&to).copied() {
                Some(known) if known == link => {}
                Some(known) => {
                    self.note(link, known, now);
                    self.queue(link, known, frame, now);
                }
                None => (0..self.sockets.len())
                    .filter(|other| *other != link)
                    .for_each(|other| self.queue(link, other, frame, now)),
            }
        }
        Ok(())
    }

    fn queue(&mut self, from: usize, link: usize, frame: &[u8], now: Instant) {
        if self.heap.len() >= UNDER_WAY || self.is_lost(from, link) {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let jitter = self.jitter(from) + self.jitter(link);
        let due = self.latest[from].max(now + self.delay + jitter);
        self.latest[from] = due;
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame);
        self.sequence += 1;
        self.heap.push(Frame { due, sequence: self.sequence, link, bytes });
    }

    fn note(&self, from: usize, to: usize, now: Instant) {
        let first = &self.links[from].first[to];
        if first.load(Ordering::Relaxed) == 0 {
            let nanos = u64::try_from((now - self.began).as_nanos()).unwrap_or(u64::MAX);
            first.store(nanos.max(1), Ordering::Relaxed);
        }
    }

    /// By a cut of either end, or by chance on either link.
    fn is_lost(&mut self, from: usize, to: usize) -> bool {
        let cut = |link: usize, other: usize| {
            self.links[link].cut.load(Ordering::Relaxed) & 1 << other != 0
        };
        if cut(from, to) || cut(to, from) {
            return true;
        }
        [from, to].into_iter().any(|link| {
            let loss = self.links[link].loss.load(Ordering::Relaxed);
            loss > 0 && self.dice.roll() % 1_000_000 < u64::from(loss)
        })
    }

    fn jitter(&mut self, link: usize) -> Duration {
        let most = self.links[link].jitter.load(Ordering::Relaxed);
        let micros = if most == 0 { 0 } else { self.dice.roll() % (u64::from(most) + 1) };
        Duration::from_micros(micros)
    }

    fn deliver(&mut self) -> io::Result<()> {
        let now = clock::now();
        while self.heap.peek().is_some_and(|frame| frame.due <= now) {
            let Some(frame) = self.heap.pop() else {
                return Ok(());
            };
            let counter = match self.sockets[frame.link].send(&frame.bytes) {
                Ok(true) => &self.counters.forwarded,
                Ok(false) => &self.counters.lost,
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => &self.counters.lost,
                Err(error) => return Err(error),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if self.spare.len() < UNDER_WAY / 8 {
                self.spare.push(frame.bytes);
            }
        }
        Ok(())
    }
}

/// Destination and source of a frame.
fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    let ethernet = frame.get(OFFLOAD_HEADER..)?;
    let to = *ethernet.first_chunk::<6>()?;
    let from = *ethernet.get(6..)?.first_chunk::<6>()?;
    // Groups are never learnt, so a frame to a group goes everywhere.
    (from[0] & 1 == 0).then_some((to, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(due: Instant, sequence: u64) -> Frame {
        Frame { due, sequence, link: 0, bytes: Vec::new() }
    }

    #[test]
    fn frames_leave_in_the_order_they_are_due() {
        let now = clock::now();
        let later = now + Duration::from_millis(1);
        let mut heap =
            BinaryHeap::from([frame(later, 1), frame(now, 3), frame(now, 2), frame(later, 4)]);
        let order: Vec<u64> =
            std::iter::from_fn(|| heap.pop().map(|frame| frame.sequence)).collect();
        assert_eq!(order, [2, 3, 1, 4]);
    }

    #[test]
    fn a_group_address_is_never_a_source() {
        let mut bytes = vec![0; OFFLOAD_HEADER + 14];
        bytes[OFFLOAD_HEADER + 6] = 2;
        assert!(addresses(&bytes).is_some());
        bytes[OFFLOAD_HEADER + 6] = 1;
        assert!(addresses(&bytes).is_none());
        assert!(addresses(&bytes[..OFFLOAD_HEADER + 11]).is_none());
    }
}
