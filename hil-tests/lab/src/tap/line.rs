//! One client's way to the broker, and back.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weft_wire::id::Inbox;

use super::packet::{Connect, Next, Packet, Reader, publish};
use super::{Shared, add, lock, shut};
use crate::clock;
use crate::dice::Dice;

/// A frame that is held back goes on after this long at the latest.
const HELD: Duration = Duration::from_millis(200);
/// One of how many frames is left out, while hostile. By chance: whoever repeats
/// in step with a rhythm would never get through.
const DROP: u64 = 4;
/// One of how many waits for the next, while hostile.
const REORDER: u64 = 3;
/// How long somebody may take to read what is written to him.
const WRITE: Duration = Duration::from_secs(10);

/// One connection.
pub(super) struct Line {
    connect: OnceLock<Connect>,
    client: Mutex<TcpStream>,
    broker: TcpStream,
}

impl Line {
    /// The device's inbox, unless it is not a device's.
    pub(super) fn inbox(&self) -> Option<Inbox> {
        self.connect.get()?.client.parse().ok()
    }

    /// Whether the coordinator is at the other end.
    pub(super) fn is_coordinator(&self) -> bool {
        self.connect.get().is_some_and(|connect| connect.client.parse::<Inbox>().is_err())
    }

    fn level(&self) -> u8 {
        self.connect.get().map_or(0, |connect| connect.level)
    }

    /// Sends the client a message that the broker never had.
    pub(super) fn publish(&self, topic: &str, frame: &[u8]) -> io::Result<()> {
        lock(&self.client).write_all(&publish(self.level(), topic, frame))
    }

    pub(super) fn close(&self) {
        shut(&lock(&self.client));
        shut(&self.broker);
    }
}

/// Connects a client to the broker: two threads carry until either ends.
pub(super) fn open(
    shared: &Arc<Shared>,
    client: TcpStream,
    broker: SocketAddr,
) -> io::Result<[JoinHandle<()>; 2]> {
    let broker = TcpStream::connect(broker)?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HELD))?;
        stream.set_write_timeout(Some(WRITE))?;
    }
    let from_client = Reader::new(client.try_clone()?);
    let from_broker = Reader::new(broker.try_clone()?);
    let line = Arc::new(Line { connect: OnceLock::new(), client: Mutex::new(client), broker });
    lock(&shared.lines).push(Arc::clone(&line));
    let start = |name: &str, from: Reader, up: bool| {
        let (shared, line) = (Arc::clone(shared), Arc::clone(&line));
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Whichever way it ended: so does the other direction.
            let _ended = carry(&shared, &line, from, up);
            line.close();
            lock(&shared.lines).retain(|other| !Arc::ptr_eq(other, &line));
        })
    };
    Ok([start("tap-up", from_client, true)?, start("tap-down", from_broker, false)?])
}

/// What becomes of a device's frames of one direction while hostile.
struct Distortion {
    dice: Dice,
    held: Option<Vec<u8>>,
}

impl Distortion {
    /// What goes on now, in order.
    fn pass(&mut self, shared: &Shared, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if !shared.hostile.load(Ordering::Acquire) {
            return self.held.take().into_iter().chain([bytes]).collect();
        }
        if self.dice.roll().is_multiple_of(DROP) {
            add(&shared.counts.dropped);
            return self.held.take().into_iter().collect();
        }
        if let Some(held) = self.held.take() {
            add(&shared.counts.reordered);
            return vec![bytes, held];
        }
        if self.dice.roll().is_multiple_of(REORDER) {
            self.held = Some(bytes);
            return Vec::new();
        }
        vec![bytes]
    }
}

fn carry(shared: &Shared, line: &Line, mut from: Reader, up: bool) -> io::Result<()> {
    let dice = Dice(shared.seed.fetch_add(1, Ordering::Relaxed));
    let mut distortion = Distortion { dice, held: None };
    loop {
        let outgoing: Vec<Vec<u8>> = match from.next()? {
            Next::End => return Ok(()),
            Next::Quiet => distortion.held.take().into_iter().collect(),
            Next::Packet(packet) => {
                if up && let Some(connect) = packet.connect() {
                    // The first one counts; a second is the broker's to refuse.
                    let _kept = line.connect.set(connect);
                }
                if note(shared, line, &packet, up) {
                    distortion.pass(shared, packet.bytes)
                } else {
                    vec![packet.bytes]
                }
            }
        };
        for bytes in outgoing {
            if up {
                (&line.broker).write_all(&bytes)?;
            } else {
                lock(&line.client).write_all(&bytes)?;
            }
        }
    }
}

/// Records a frame of a device's; whether the packet is one. What the coordinator
/// sends and hears passes here a second time and goes on as it is: once left out
/// is left out.
fn note(shared: &Shared, line: &Line, packet: &Packet, up: bool) -> bool {
    if line.inbox().is_none() {
        return false;
    }
    let Some((topic, frame)) = packet.publish(line.level()) else { return false };
    let recorded = lock(&shared.records).note(topic, frame, up, clock::now());
    if recorded {
        add(&shared.counts.recorded);
    }
    recorded
}
