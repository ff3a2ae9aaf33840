//! Calls over ways of two devices: what is answered, with how much, and what is not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod ends;

use std::net::SocketAddr;

use weft_agent_core::event::{DropReason, RELAY, Sockets, Source};
use weft_agent_core::path::{Paths, PeerKind, ProbeMac, Route};
use weft_agent_core::time::Instant;
use weft_wire::id::DeviceId;
use weft_wire::probe::{Line, PROBE_LEN, Probe, ProbeKind};
use weft_wire::relay::Relay;
use weft_wire::signal::{Candidate, CandidateKind};

use ends::{Counter, Key, SLOT, SOCKET, address, at};

/// What a side sends: which way, and the bytes.
type Sent = Vec<(Route, Vec<u8>)>;

struct Side {
    paths: Paths<4>,
    entropy: Counter,
}

impl Side {
    /// A device whose coordinator is away, with an allocation and a line of the
    /// other's that it was told of.
    fn new(own: u32, peer: u32) -> Self {
        let mut entropy = Counter(u64::from(own) << 32);
        let mut paths = Paths::new(Sockets::both(SOCKET));
        paths.set_own(DeviceId(own));
        paths.set_hint(own);
        let host = address(&format!("10.0.0.{own}:1"));
        paths.set_local(&[Candidate { kind: CandidateKind::Host, address: host }]);
        let kind = PeerKind {
            device: DeviceId(peer),
            wireguard_only: false,
            endpoint: None,
            hints: [peer, 0],
        };
        paths.set_peer(SLOT, kind, &mut entropy, at(0));
        let relay = Relay {
            number: 1,
            v4: Some([203, 0, 113, 20].into()),
            v6: None,
            udp: [3_478, 0],
            tcp: 0,
            tls: 0,
        };
        paths.set_relays(&[relay]);
        paths.set_online(false, &mut entropy, at(0));
        paths.handle_timeout(&mut entropy, at(20_000));
        let mapped = address(&format!("198.51.100.{own}:4000"));
        paths.handle_allocated([line_of(own)].into_iter(), Some(mapped), &mut entropy, at(20_000));
        paths.set_line(SLOT, Line::new([line_of(peer)]));
        let mut side = Self { paths, entropy };
        side.serve(at(20_000));
        side
    }

    fn serve(&mut self, now: Instant) {
        while self.paths.poll_event(now).is_some() {}
        // No server answers.
        self.paths.handle_timeout(
            &mut self.entropy,
            now + weft_agent_core::time::Duration::from_millis(150),
        );
        while self.paths.poll_event(now).is_some() {}
    }

    fn sent(&mut self, now: Instant) -> Sent {
        self.serve(now);
        let mut out = [0; PROBE_LEN];
        std::iter::from_fn(|| {
            let sent = self.paths.poll_probe(&mut out, &mut Key(7), now)?;
            Some((sent.route, out[..sent.len].to_vec()))
        })
        .collect()
    }

    fn hear(&mut self, from: Source, probe: &[u8], now: Instant) -> Result<(), DropReason> {
        let heard = self.paths.handle_probe(from, probe, &mut Key(7), &mut self.entropy, now);
        heard.map(|slot| assert_eq!(slot, SLOT)).map_err(|(_, reason)| reason)
    }

    fn rings(&mut self, now: Instant) -> Vec<u8> {
        self.paths.handle_wanted(SLOT, &mut self.entropy, now);
        let sent = of(self.sent(now), ProbeKind::Call);
        assert_eq!(sent.len(), 1);
        assert!(sent[0].0.is_ours());
        sent[0].1.clone()
    }
}

/// Where a relay keeps a line to a device.
fn line_of(device: u32) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 20], 50_000 + device as u16))
}

/// Through a side's allocation, from the line of a device.
fn over(device: u32) -> Source {
    Source { socket: RELAY, address: line_of(device) }
}

fn of(sent: Sent, kind: ProbeKind) -> Sent {
    let is_it = |bytes: &[u8]| Probe::parse(bytes).unwrap().kind() == kind;
    sent.into_iter().filter(|(_, bytes)| is_it(bytes)).collect()
}

#[test]
fn a_call_an_answer_and_go_begin_both_rounds_at_the_same_time() {
    let (mut a, mut b) = (Side::new(1, 2), Side::new(2, 1));
    let call = a.rings(at(30_000));
    assert_eq!(call.len(), PROBE_LEN, "no answer is longer");
    b.hear(over(1), &call, at(30_030)).unwrap();
    let acks = of(b.sent(at(30_040)), ProbeKind::CallAck);
    assert_eq!(acks.iter().map(|(way, _)| way.address()).collect::<Vec<_>>(), [line_of(1)]);
    assert!(b.sent(at(31_000)).is_empty(), "nobody is tried yet");
    a.hear(over(2), &acks[0].1, at(30_070)).unwrap();
    // 70 ms there and back, 10 of which the other waited: half of 60.
    let sent = a.sent(at(30_070));
    assert_eq!(of(sent.clone(), ProbeKind::Go).len(), 1);
    assert!(of(sent.clone(), ProbeKind::Ping).is_empty());
    assert!(of(a.sent(at(30_099)), ProbeKind::Ping).is_empty());
    let go = of(sent, ProbeKind::Go).remove(0).1;
    b.hear(over(1), &go, at(30_100)).unwrap();
    let [ours, theirs] = [a.sent(at(30_101)), b.sent(at(30_101))].map(|it| of(it, ProbeKind::Ping));
    assert!(!ours.is_empty() && !theirs.is_empty());
    assert_eq!(b.hear(over(1), &go, at(30_110)), Err(DropReason::Unsolicited), "once");
}

#[test]
fn what_is_forged_cut_or_a_strangers_is_not_answered() {
    let (mut a, mut b) = (Side::new(1, 2), Side::new(2, 1));
    let call = a.rings(at(30_000));
    let mut refused = |bytes: &[u8], reason| {
        assert_eq!(b.hear(over(1), bytes, at(30_010)), Err(reason));
        assert!(b.sent(at(30_010)).is_empty());
    };
    for len in 0..call.len() {
        // A shorter body is one that the MAC does not fit.
        let expected = if len < 45 { DropReason::Malformed } else { DropReason::Unauthentic };
        refused(&call[..len], expected);
    }
    for bit in 0..call.len() * 8 {
        let mut forged = call.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(b.hear(over(1), &forged, at(30_010)).is_err(), "bit {bit}");
        assert!(b.sent(at(30_010)).is_empty());
    }
    // Somebody else's key, and a name that nobody has.
    let mut stranger = Side::new(9, 2);
    let unknown = stranger.rings(at(30_000));
    assert_eq!(b.hear(over(9), &unknown, at(30_010)), Err(DropReason::UnknownIndex));
    assert!(b.sent(at(30_010)).is_empty());
    b.hear(over(1), &call, at(30_010)).unwrap();
    assert_eq!(of(b.sent(at(30_010)), ProbeKind::CallAck).len(), 1, "the true one is");
}

/// Somebody who has caught a call sends it again and again, from wherever.
#[test]
fn a_call_that_is_sent_again_gains_nothing() {
    let (mut a, mut b) = (Side::new(1, 2), Side::new(2, 1));
    let call = a.rings(at(30_000));
    let (mut spent, mut gained) = (0, 0);
    for copy in 0..2_000_u64 {
        let now = at(40_000 + copy * 5);
        let victim = SocketAddr::from(([192, 0, 2, copy as u8], 9));
        let from = Source { socket: SOCKET, address: victim };
        let _ = b.hear(from, &call, now);
        spent += call.len();
        for (way, bytes) in b.sent(now) {
            assert_eq!(Probe::parse(&bytes).unwrap().kind(), ProbeKind::CallAck);
            assert_eq!(way.address(), victim, "nobody is tried without `go`");
            assert!(bytes.len() <= call.len());
            gained += bytes.len();
        }
    }
    assert!(gained * 10 < spent, "{gained} bytes for {spent}");
    // An answer that is sent again, and a `go` for an answer that is not the last.
    let call = a.rings(at(60_000));
    b.hear(over(1), &call, at(60_000)).unwrap();
    let ack = of(b.sent(at(60_000)), ProbeKind::CallAck).remove(0).1;
    a.hear(over(2), &ack, at(60_010)).unwrap();
    assert_eq!(a.hear(over(2), &ack, at(60_010)), Err(DropReason::Unsolicited));
    let go = of(a.sent(at(60_010)), ProbeKind::Go).remove(0).1;
    let late = at(66_000);
    assert_eq!(b.hear(over(1), &go, late), Err(DropReason::Unsolicited), "too late");
    assert!(of(b.sent(late), ProbeKind::Ping).is_empty());
}

#[test]
fn only_an_answer_to_our_own_question_says_where_a_line_is() {
    let (mut a, mut b) = (Side::new(1, 2), Side::new(2, 1));
    b.paths.set_line(SLOT, Line::NONE);
    // A peer with which data goes is asked and told.
    let direct = |own| Source { socket: SOCKET, address: address(&format!("10.0.0.{own}:1")) };
    a.paths.handle_authenticated(SLOT, direct(2), at(30_000));
    a.paths.handle_timeout(&mut a.entropy, at(36_000));
    let question = of(a.sent(at(36_000)), ProbeKind::Line).remove(0).1;
    b.hear(direct(1), &question, at(36_010)).unwrap();
    assert!(b.paths.line(SLOT).is_none(), "it may be an old one");
    // The other asks in its turn, since it has heard something new, and that is
    // answered.
    let theirs = only(of(b.sent(at(36_010)), ProbeKind::Line));
    assert_eq!(theirs.len(), question.len());
    a.hear(direct(2), &theirs, at(36_020)).unwrap();
    let answer = only(of(a.sent(at(36_020)), ProbeKind::Line));
    b.hear(direct(1), &answer, at(36_030)).unwrap();
    assert_eq!(b.paths.line(SLOT), Line::new([line_of(1)]));
    // Our own question is answered when it is repeated.
    a.paths.set_line(SLOT, Line::NONE);
    a.paths.handle_timeout(&mut a.entropy, at(37_100));
    let question = only(of(a.sent(at(37_100)), ProbeKind::Line));
    b.hear(direct(1), &question, at(37_110)).unwrap();
    let answer = only(of(b.sent(at(37_110)), ProbeKind::Line));
    a.hear(direct(2), &answer, at(37_120)).unwrap();
    assert_eq!(a.paths.line(SLOT), Line::new([line_of(2)]));
    // What was not asked is not believed.
    let mut other = Side::new(1, 2);
    assert_eq!(other.hear(direct(2), &answer, at(36_020)), Err(DropReason::Unsolicited));
    for side in [&mut a, &mut b] {
        side.paths.handle_timeout(&mut side.entropy, at(60_000));
        assert!(of(side.sent(at(60_000)), ProbeKind::Line).is_empty(), "both know");
    }
    let old = Source { socket: SOCKET, address: address("192.0.2.1:9") };
    let mut answered = 0;
    for copy in 0..1_000 {
        let now = at(70_000 + copy);
        let _ = b.hear(old, &question_of(&mut a), now);
        answered += of(b.sent(now), ProbeKind::Line).len();
    }
    assert!(answered <= 9, "{answered} answers in a second");
}

fn only(sent: Sent) -> Vec<u8> {
    let [(_, bytes)] = &sent[..] else { panic!("{} were sent", sent.len()) };
    bytes.clone()
}

/// A question of a side that was asked before: somebody has caught it.
fn question_of(side: &mut Side) -> Vec<u8> {
    let mut out = [0; PROBE_LEN];
    let head = weft_wire::probe::ProbeHead { epoch: 1, ..Default::default() };
    let body = *side.paths.line(SLOT).as_bytes();
    let len = weft_wire::probe::emit(ProbeKind::Line, &head, &body, &mut out, |covered| {
        Key(7).mac(SLOT, covered).unwrap()
    });
    out[..len.unwrap()].to_vec()
}
