//! What the tap has seen: frames to send again, sessions to reset, handshakes to
//! count.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use weft_wire::frame::{FRAME_VERSION, FrameKind, Hello, PskKind, PskSelector, RecordHeader, kind};
use weft_wire::id::Inbox;
use weft_wire::topic::Topic;

use super::REPLICA;
use crate::dice::Dice;

/// Frames of one device and direction that are kept; older ones go.
const KEPT: usize = 1_024;

/// One device as the broker sees it.
#[derive(Default)]
struct Device {
    up: VecDeque<(Topic, Vec<u8>)>,
    down: VecDeque<Vec<u8>>,
    /// The session that it sends in.
    session: Option<u32>,
    /// A HELLO was sent and no session has come of it yet.
    shaking: bool,
    handshakes: Vec<Instant>,
}

/// Everything.
#[derive(Default)]
pub(super) struct Records(BTreeMap<[u8; 16], Device>);

/// What is sent again: a frame of the device's own, and one of another's.
type Pair<T> = (Option<T>, Option<T>);

impl Records {
    /// Takes a frame that a device sent or was sent.
    pub(super) fn note(&mut self, topic: &str, frame: &[u8], up: bool, now: Instant) -> bool {
        let Some(topic) = Topic::parse(topic) else { return false };
        let (Topic::Hello(inbox) | Topic::Record(_, inbox) | Topic::Down(inbox)) = topic;
        let device = self.0.entry(inbox.0).or_default();
        if up {
            device.sent(frame, now);
            keep(&mut device.up, (topic, frame.to_vec()));
        } else {
            keep(&mut device.down, frame.to_vec());
        }
        true
    }

    pub(super) fn session(&self, inbox: Inbox) -> Option<u32> {
        self.0.get(&inbox.0)?.session
    }

    pub(super) fn handshakes(&self) -> BTreeMap<[u8; 16], Vec<Instant>> {
        self.0.iter().map(|(inbox, device)| (*inbox, device.handshakes.clone())).collect()
    }

    /// Frames to a device: one of its own, one of another's.
    pub(super) fn down(&self, inbox: Inbox, turn: u64) -> Pair<Vec<u8>> {
        self.pick(inbox, turn, |device| &device.down)
    }

    /// Frames from a device: one of its own, one of another's.
    pub(super) fn up(&self, inbox: Inbox, turn: u64) -> Pair<(Topic, Vec<u8>)> {
        self.pick(inbox, turn, |device| &device.up)
    }

    fn pick<T: Clone>(
        &self,
        inbox: Inbox,
        turn: u64,
        of: impl Fn(&Device) -> &VecDeque<T>,
    ) -> Pair<T> {
        let at = |device: &Device| {
            let frames = of(device);
            frames.get(turn as usize % frames.len().max(1)).cloned()
        };
        let own = self.0.get(&inbox.0).and_then(at);
        let others: Vec<_> = self
            .0
            .iter()
            .filter(|(other, _)| **other != inbox.0)
            .map(|(_, device)| device)
            .collect();
        let another = others.get(turn as usize % others.len().max(1)).and_then(|device| at(device));
        (own, another)
    }
}

fn keep<T>(frames: &mut VecDeque<T>, frame: T) {
    if frames.len() == KEPT {
        frames.pop_front();
    }
    frames.push_back(frame);
}

impl Device {
    /// The device sent a frame: of a handshake that begins, that is repeated, or
    /// that has come to its end.
    fn sent(&mut self, frame: &[u8], now: Instant) {
        match kind(frame) {
            Ok(FrameKind::Hello) if !self.shaking => {
                self.shaking = true;
                self.handshakes.push(now);
            }
            Ok(FrameKind::Record) => {
                let session = RecordHeader::parse(frame).ok().map(|header| header.session);
                if session != self.session {
                    self.session = session;
                    self.shaking = false;
                }
            }
            _ => {}
        }
    }
}

/// A frame that nobody sent, from an inbox that nobody has: a HELLO or a RECORD
/// by its first bytes, up to the longest that there is.
pub(super) fn stranger(turn: u64, number: usize) -> (Topic, Vec<u8>) {
    // Any numbers will do, as long as they do not come again soon.
    let mut dice = Dice(turn.wrapping_mul(1_000).wrapping_add(number as u64));
    let mut random = || dice.roll().to_le_bytes();
    let inbox: [u8; 16] = [random(), random()].concat().try_into().unwrap_or_default();
    let len = if number == 0 { 3_840 } else { 240 };
    let mut frame: Vec<u8> = (0..len / 8).flat_map(|_| random()).collect();
    let is_hello = number.is_multiple_of(2);
    let (reference, inbox) = (random(), Inbox(inbox));
    match frame.first_chunk_mut() {
        // Right in all that is checked before its mac1.
        Some(prologue) if is_hello => {
            let selector = PskSelector { kind: PskKind::Enrolment, master: 1 };
            Hello::emit_prologue(selector, reference, inbox, prologue);
        }
        _ => frame[..2].copy_from_slice(&[FRAME_VERSION, FrameKind::Record as u8]),
    }
    (if is_hello { Topic::Hello(inbox) } else { Topic::Record(REPLICA, inbox) }, frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const A: Inbox = Inbox([1; 16]);
    const B: Inbox = Inbox([2; 16]);

    fn record(session: u32) -> Vec<u8> {
        let mut frame = RecordHeader { session, counter: 0 }.to_bytes().to_vec();
        frame.resize(64, 0);
        frame
    }

    #[test]
    fn a_handshake_is_counted_when_it_begins() {
        let mut records = Records::default();
        let hello = [FRAME_VERSION, FrameKind::Hello as u8];
        let topic = Topic::Hello(A).text();
        let now = clock::now();
        for _ in 0..3 {
            assert!(records.note(&topic, &hello, true, now));
        }
        assert_eq!(records.session(A), None);
        let up = Topic::Record(REPLICA, A).text();
        records.note(&up, &record(7), true, now);
        records.note(&up, &record(7), true, now);
        assert_eq!(records.session(A), Some(7));
        assert_eq!(records.handshakes()[&A.0].len(), 1);
        records.note(&topic, &hello, true, now);
        assert_eq!(records.handshakes()[&A.0].len(), 2);
    }

    #[test]
    fn frames_are_sent_again_to_their_own_and_to_others() {
        let mut records = Records::default();
        let now = clock::now();
        records.note(&Topic::Down(A).text(), b"of a", false, now);
        assert_eq!(records.down(A, 5), (Some(b"of a".to_vec()), None));
        records.note(&Topic::Down(B).text(), b"of b", false, now);
        assert_eq!(records.down(A, 6), (Some(b"of a".to_vec()), Some(b"of b".to_vec())));
        let (first, second) = (stranger(1, 1), stranger(1, 2));
        assert_ne!(first.0.text(), second.0.text());
    }
}
