//! Which address a peer is sent to: candidates, calls, crossing calls, caches.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod ends;

use std::net::SocketAddr;

use weft_agent_core::event::{DropReason, Sockets, Source};
use weft_agent_core::path::{NoPath, PathEvent, PathSignal, Paths, PeerKind, Route, Selected, Why};
use weft_agent_core::time::{Duration, Instant};
use weft_wire::id::DeviceId;
use weft_wire::map::Overlay;
use weft_wire::probe::PING_LEN;
use weft_wire::relay::Relay;
use weft_wire::signal::{Call, CallAck, Candidate, CandidateKind, NatReport};
use weft_wire::verdict::CallFailure;

use ends::{Counter, Key, SLOT, SOCKET, address, at};

const KIND: PeerKind =
    PeerKind { device: DeviceId(0), wireguard_only: false, endpoint: None, hints: [0; 2] };

fn host(text: &str) -> Candidate {
    Candidate { kind: CandidateKind::Host, address: address(text) }
}

fn direct(text: &str) -> Route {
    Route::Direct { socket: SOCKET, address: address(text) }
}

struct Side {
    paths: Paths<4>,
    entropy: Counter,
    /// Came before they were asked for.
    kept: Vec<PathEvent>,
    /// Where STUN servers see this side from; answered at once.
    seen: Vec<SocketAddr>,
    gathered: usize,
}

impl Side {
    fn new(own: u32, peer: u32, local: &str) -> Self {
        let mut paths = Paths::new(Sockets::both(SOCKET));
        paths.set_own(DeviceId(own));
        paths.set_local(&[host(local)]);
        let kind = PeerKind { device: DeviceId(peer), ..KIND };
        paths.set_peer(SLOT, kind, &mut Counter(9), at(0));
        let entropy = Counter(u64::from(own) << 32);
        Self { paths, entropy, kept: vec![], seen: vec![], gathered: 0 }
    }

    fn events(&mut self, now: Instant) -> Vec<PathEvent> {
        self.serve(now);
        std::mem::take(&mut self.kept)
    }

    fn serve(&mut self, now: Instant) {
        while let Some(event) = self.paths.poll_event(now) {
            if matches!(event, PathEvent::Relay | PathEvent::Changed) {
                continue;
            }
            if event == PathEvent::Gather {
                self.gathered += 1;
                let nat = NatReport { age_ms: 0, ..NatReport::default() };
                let seen = self.seen.iter().copied();
                self.paths.handle_gathered(seen, nat, &mut self.entropy, now);
            } else {
                self.kept.push(event);
            }
        }
    }

    fn signals(&mut self, now: Instant) -> Vec<PathSignal> {
        self.serve(now);
        core::iter::from_fn(|| self.paths.poll_signal(now)).collect()
    }

    /// Probes that are to be sent now, and where to.
    fn probes(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut out = [0; PING_LEN];
        std::iter::from_fn(|| {
            let sent = self.paths.poll_probe(&mut out, &mut Key(7), now)?;
            let Route::Direct { address, .. } = sent.route else { return None };
            Some((address, out[..sent.len].to_vec()))
        })
        .collect()
    }

    fn hear(&mut self, from: &str, probe: &[u8], now: Instant) -> Result<(), DropReason> {
        let source = Source { socket: SOCKET, address: address(from) };
        let heard = self.paths.handle_probe(source, probe, &mut Key(7), &mut self.entropy, now);
        heard.map(|slot| assert_eq!(slot, SLOT)).map_err(|(_, reason)| reason)
    }

    fn call(&mut self, now: Instant) -> Call {
        match self.signals(now).pop() {
            Some(PathSignal::Call(call)) => call,
            _ => panic!("no call"),
        }
    }

    fn wanted(&mut self, now: Instant) {
        self.paths.handle_wanted(SLOT, &mut self.entropy, now);
    }
}

/// What the coordinator does: the callee hears who calls.
fn forwarded(call: Call, from: u32) -> Call {
    Call { peer: DeviceId(from), ..call }
}

fn ack(signal: PathSignal, from: u32) -> CallAck {
    match signal {
        PathSignal::CallAck(ack) => CallAck { peer: DeviceId(from), ..ack },
        PathSignal::Call(_) => panic!("a call"),
    }
}

/// Two, one of which has called the other and had its answer after 20 ms.
fn acquainted() -> (Side, Side) {
    let (mut a, mut b) = (Side::new(1, 2, "10.0.0.1:1"), Side::new(2, 1, "10.0.0.2:1"));
    a.wanted(at(0));
    b.paths.handle_call(&forwarded(a.call(at(0)), 1), &mut b.entropy, at(10));
    let answer = ack(b.signals(at(10)).pop().unwrap(), 2);
    a.paths.handle_call_ack(&answer, &mut a.entropy, at(20));
    (a, b)
}

#[test]
fn peers_are_told_where_servers_see_us_and_that_is_asked_when_it_is_old() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.seen = vec![address("198.51.100.1:4000")];
    a.wanted(at(0));
    let reflexive =
        |text| Candidate { kind: CandidateKind::ServerReflexive, address: address(text) };
    let call = a.call(at(0));
    assert_eq!(call.candidates[..], [host("10.0.0.1:1"), reflexive("198.51.100.1:4000")]);
    assert_eq!((call.nat.age_ms, a.gathered), (0, 1));
    // It is repeated: what was heard 2 s ago still holds.
    a.paths.handle_timeout(&mut a.entropy, at(1_500));
    assert_eq!((a.call(at(1_500)).nat.age_ms, a.gathered), (1_500, 1));
    // A peer's call later on: the mapping may have ended since.
    a.seen = vec![address("198.51.100.1:4999")];
    a.paths.handle_call(&forwarded(call, 2), &mut a.entropy, at(30_000));
    let answer = ack(a.signals(at(30_000)).remove(0), 1);
    assert_eq!(answer.candidates[1], reflexive("198.51.100.1:4999"));
    assert_eq!(a.gathered, 2);
    // Another network: whatever was heard holds no more, however new it is.
    a.paths.handle_servers_change();
    a.seen.clear();
    a.paths.handle_call(&forwarded(answer_as_call(&answer), 2), &mut a.entropy, at(30_010));
    let answer = ack(a.signals(at(30_010)).remove(0), 1);
    assert_eq!((answer.candidates[..].to_vec(), a.gathered), (vec![host("10.0.0.1:1")], 3));
}

fn answer_as_call(ack: &CallAck) -> Call {
    let CallAck { call, peer, receiver, nat, rtt_ms, candidates } = ack;
    let candidates = candidates.clone();
    Call {
        call: call + 1,
        peer: *peer,
        receiver: *receiver,
        nat: *nat,
        rtt_ms: *rtt_ms,
        candidates,
    }
}

#[test]
fn a_silent_server_holds_a_call_for_150_ms() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.wanted(at(0));
    assert_eq!(a.paths.poll_event(at(0)), Some(PathEvent::Gather));
    assert_eq!(a.paths.poll_event(at(0)), None);
    assert!(a.paths.poll_signal(at(0)).is_none());
    a.paths.handle_timeout(&mut a.entropy, at(0));
    assert_eq!(a.paths.poll_timeout().unwrap().0, at(150));
    a.paths.handle_timeout(&mut a.entropy, at(149));
    assert!(a.paths.poll_signal(at(149)).is_none());
    a.paths.handle_timeout(&mut a.entropy, at(150));
    assert_eq!(a.paths.poll_event(at(150)), None, "once is enough");
    assert!(matches!(a.paths.poll_signal(at(150)), Some(PathSignal::Call(_))));
    // The answer comes after all, and the peer is told at once.
    let seen = [address("198.51.100.1:4000")];
    a.paths.handle_reflexive(seen.into_iter(), &mut a.entropy, at(170));
    assert_eq!(a.call(at(170)).candidates.len(), 2);
}

/// An address that is new is no other one, and neither is a port; and where each look
/// finds one of several, nobody is told each time.
#[test]
fn another_address_is_told_once_a_minute() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let mut told = |seen: &str, second: u64| {
        let (seen, now) = ([address(seen)], at(1_000 * second));
        a.paths.handle_reflexive(seen.into_iter(), &mut a.entropy, now);
        let mut events = core::iter::from_fn(|| a.paths.poll_event(now));
        events.any(|event| event == PathEvent::Elsewhere)
    };
    let (one, other) = ("198.51.100.1:4000", "198.51.100.2:4000");
    assert!(!told(one, 0) && !told("198.51.100.1:4001", 1));
    assert!(!told("[2001:db8::1]:4000", 2));
    assert!(!told(one, 3) && told(other, 4));
    assert!(!told(one, 5) && !told(other, 63) && told(one, 64));
}

#[test]
fn where_servers_see_us_always_has_a_place() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let hosts: Vec<_> = (1..=8).map(|last| host(&format!("10.0.0.{last}:1"))).collect();
    a.paths.set_local(&hosts);
    a.seen = vec![address("198.51.100.1:4000"), address("[2001:db8::1]:4000")];
    a.wanted(at(0));
    let told = a.call(at(0)).candidates;
    assert_eq!(told.len(), 8);
    assert_eq!(told[..6], hosts[..6]);
    assert_eq!(told[6].address, a.seen[0]);
    // An address of our own that servers see too is told once.
    a.seen = vec![address("10.0.0.2:1"), address("127.0.0.1:1")];
    let (seen, nat) = (a.seen.clone().into_iter(), NatReport::default());
    a.paths.handle_gathered(seen, nat, &mut a.entropy, at(1_500));
    a.paths.handle_timeout(&mut a.entropy, at(1_500));
    let told = a.call(at(1_500)).candidates;
    assert_eq!(told[..], hosts[..]);
}

const READY: PathEvent = PathEvent::Ready { slot: SLOT, renew: false };

#[test]
fn a_call_finds_candidates_and_the_handshake_starts_at_once() {
    let (mut a, mut b) = (Side::new(1, 2, "10.0.0.1:1"), Side::new(2, 1, "10.0.0.2:1"));
    a.wanted(at(0));
    assert_eq!(a.events(at(0)), []);
    let call = a.call(at(0));
    assert_eq!(call.candidates[..], [host("10.0.0.1:1")]);
    b.paths.handle_call(&forwarded(call, 1), &mut b.entropy, at(10));
    let answer = ack(b.signals(at(10)).pop().unwrap(), 2);
    a.paths.handle_call_ack(&answer, &mut a.entropy, at(20));
    assert_eq!((a.events(at(20)), b.events(at(20))), (vec![], vec![]));
    // Its ping is answered: that way the handshake goes, and the callee waits.
    let pings = a.probes(at(20));
    assert_eq!(pings.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [address("10.0.0.2:1")]);
    b.hear("10.0.0.1:1", &pings[0].1, at(25)).unwrap();
    let pongs = b.probes(at(25));
    a.hear("10.0.0.2:1", &pongs[0].1, at(30)).unwrap();
    assert_eq!((a.events(at(30)), b.events(at(30))), (vec![READY], vec![]));
    assert_eq!(a.paths.targets(SLOT, at(30))[..], [direct("10.0.0.2:1")]);

    let source = Source { socket: SOCKET, address: address("10.0.0.2:1") };
    a.paths.handle_authenticated(SLOT, source, at(30));
    let selected = Selected {
        route: direct("10.0.0.2:1"),
        why: Why::Authenticated,
        since: at(30),
        relayed: false,
    };
    assert_eq!(
        a.events(at(30)),
        [PathEvent::CacheChanged, PathEvent::Selected { slot: SLOT, selected }]
    );
    assert_eq!(a.paths.targets(SLOT, at(30))[..], [direct("10.0.0.2:1")]);
    assert_eq!(a.paths.poll_timeout(), None);
}

/// The peer's key has just changed, say: its probes fail, its tunnel may not.
#[test]
fn without_an_answer_to_any_probe_initiations_go_everywhere() {
    let (mut a, mut b) = (Side::new(1, 2, "10.0.0.1:1"), Side::new(2, 1, "10.0.0.2:1"));
    b.paths.set_local(&[host("10.0.0.2:1"), host("10.0.0.3:1")]);
    a.wanted(at(0));
    b.paths.handle_call(&forwarded(a.call(at(0)), 1), &mut b.entropy, at(10));
    let answer = ack(b.signals(at(10)).pop().unwrap(), 2);
    a.paths.handle_call_ack(&answer, &mut a.entropy, at(20));
    let mut ready = [vec![], vec![]];
    for now in (20..=2_000).map(at) {
        for (side, ready) in [&mut a, &mut b].into_iter().zip(&mut ready) {
            side.paths.handle_timeout(&mut side.entropy, now);
            side.probes(now);
            ready.extend(side.events(now).into_iter().map(|event| (now.as_millis(), event)));
        }
    }
    assert_eq!(ready, [vec![(420, READY)], vec![(410, READY)]]);
    let everywhere = [direct("10.0.0.2:1"), direct("10.0.0.3:1")];
    assert_eq!(a.paths.targets(SLOT, at(420))[..], everywhere);
    assert_eq!(b.paths.targets(SLOT, at(410))[..], [direct("10.0.0.1:1")]);
}

#[test]
fn nobodys_probe_is_answered() {
    let (mut a, mut b) = acquainted();
    let ping = a.probes(at(20)).remove(0).1;
    b.probes(at(20));
    let hear = |b: &mut Side, from: &str, bytes: &[u8]| b.hear(from, bytes, at(25));
    for len in 0..ping.len() {
        assert!(hear(&mut b, "10.0.0.1:1", &ping[..len]).is_err(), "cut to {len}");
    }
    for at in 0..ping.len() * 8 {
        let mut forged = ping.clone();
        forged[at / 8] ^= 1 << (at % 8);
        assert!(hear(&mut b, "10.0.0.1:1", &forged).is_err(), "bit {at}");
    }
    // A handle that was given to nobody, from a tunnel's inside, and twice.
    let mut stranger = ping.clone();
    stranger[4..8].fill(0);
    assert_eq!(hear(&mut b, "10.0.0.1:1", &stranger), Err(DropReason::UnknownIndex));
    assert_eq!(hear(&mut b, "127.0.0.1:1", &ping), Err(DropReason::NoPath));
    assert!(b.probes(at(25)).is_empty(), "nothing of that is answered");
    assert_eq!(hear(&mut b, "10.0.0.1:1", &ping), Ok(()));
    assert_eq!(hear(&mut b, "10.0.0.66:1", &ping), Err(DropReason::Replayed));
    let answers = b.probes(at(25));
    assert!(answers.iter().all(|(to, _)| *to == address("10.0.0.1:1")));
    let sizes: usize =
        answers.iter().filter(|(_, bytes)| bytes[1] & 15 == 2).map(|(_, b)| b.len()).sum();
    assert_eq!(sizes, ping.len(), "an answer is as long as its question");
    // An answer from elsewhere makes no way of it.
    assert_eq!(a.hear("10.0.0.66:1", &answers[0].1, at(30)), Err(DropReason::Unsolicited));
    assert_eq!(a.events(at(30)), []);
    assert_eq!(a.hear("10.0.0.2:1", &answers[0].1, at(30)), Ok(()));
    assert_eq!(a.events(at(30)), [READY]);
}

/// What a peer calls its own in another home is somebody else in ours, until its data
/// comes from there all the same.
#[test]
fn a_peer_in_another_home_is_tried_where_servers_see_it() {
    let seen = |text| Candidate { kind: CandidateKind::ServerReflexive, address: address(text) };
    let mut b = Side::new(2, 1, "192.168.1.5:1");
    b.seen = vec![address("198.51.100.2:1")];
    b.paths.handle_reflexive(b.seen.clone().into_iter(), &mut b.entropy, at(0));
    let own = host("192.168.7.9:1");
    let mut tried = |call: u32, now: u64, named: &[Candidate]| {
        let candidates = named.iter().copied().collect();
        let nat = NatReport::default();
        let call = Call { call, peer: DeviceId(1), receiver: 7, nat, rtt_ms: 0, candidates };
        b.paths.handle_call(&call, &mut b.entropy, at(now));
        b.signals(at(now));
        let tried = b.probes(at(now + 10)).into_iter().map(|(to, _)| to.ip().to_string());
        let tried: std::collections::BTreeSet<String> = tried.collect();
        b.paths.handle_authenticated(SLOT, direct("192.168.7.9:1").source(), at(now + 20));
        b.events(at(now + 20));
        tried.into_iter().collect::<Vec<_>>()
    };
    let elsewhere = [own, seen("198.51.100.1:1")];
    assert_eq!(tried(70, 1_000, &elsewhere), ["198.51.100.1"]);
    assert_eq!(tried(71, 9_000, &elsewhere), ["192.168.7.9", "198.51.100.1"]);
}

/// Somebody on the path catches the peer's pings and sends them first, under the
/// address of whom it wants to harm: who is sent no more than was sent in that name.
#[test]
fn a_caught_ping_makes_no_more_of_itself() {
    let (mut a, mut b) = acquainted();
    let (mut caught, mut drawn) = (0, 0);
    for now in (20..2_000).map(at) {
        for (to, ping) in a.probes(now) {
            assert_eq!(to, address("10.0.0.2:1"));
            b.hear("203.0.113.66:1", &ping, now).unwrap();
            caught += ping.len();
        }
        let harmed = |(to, bytes): (SocketAddr, Vec<u8>)| {
            (to == address("203.0.113.66:1")).then_some(bytes.len())
        };
        drawn += b.probes(now).into_iter().filter_map(harmed).sum::<usize>();
        assert!(drawn <= caught, "{now:?}: {drawn} bytes for {caught}");
    }
    assert_eq!((caught, drawn), (7 * 64, 7 * 64));
}

/// A NAT gave the peer another port towards us than servers saw: its ping tells,
/// and ours goes there.
#[test]
fn an_address_that_nobody_named_is_found_by_its_ping() {
    let (mut a, mut b) = acquainted();
    a.probes(at(20));
    let ping = b.probes(at(20)).remove(0).1;
    a.hear("10.0.0.2:999", &ping, at(25)).unwrap();
    let new = address("10.0.0.2:999");
    let sent = a.probes(at(25));
    assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [new, new], "pong and ping");
    assert_eq!(a.events(at(25)), [], "that it could speak from there is not enough");
    b.hear("10.0.0.1:1", &sent[1].1, at(30)).unwrap();
    let pong = b.probes(at(30)).remove(0).1;
    a.hear("10.0.0.2:999", &pong, at(35)).unwrap();
    assert_eq!(a.events(at(35)), [READY]);
    assert_eq!(a.paths.targets(SLOT, at(35))[..], [Route::Direct { socket: SOCKET, address: new }]);
}

#[test]
fn a_host_that_nobody_named_is_found_by_its_pings() {
    let (mut a, mut b) = acquainted();
    a.probes(at(20));
    let ping = b.probes(at(20)).remove(0).1;
    // Its carrier has more addresses than one.
    let (new, route) =
        (address("10.0.0.3:999"), |address| Route::Direct { socket: SOCKET, address });
    a.hear("10.0.0.3:999", &ping, at(25)).unwrap();
    let asked = a.probes(at(25));
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [new], "a ping alone");
    // It knows us: it answers, and pings again at once.
    b.hear("10.0.0.1:1", &asked[0].1, at(30)).unwrap();
    let said = b.probes(at(30));
    assert_eq!(said.len(), 2);
    for (_, probe) in said {
        a.hear("10.0.0.3:999", &probe, at(35)).unwrap();
    }
    assert_eq!(a.events(at(35)), [READY]);
    assert_eq!(a.paths.targets(SLOT, at(35))[..], [route(new)]);
    let answers = a.probes(at(35));
    assert_eq!(answers.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [new]);
    b.hear("10.0.0.1:1", &answers[0].1, at(40)).unwrap();
    assert_eq!(b.paths.targets(SLOT, at(40))[..], [route(address("10.0.0.1:1"))]);
}

#[test]
fn of_two_that_call_each_other_the_lower_id_begins() {
    let (mut a, mut b) = (Side::new(1, 2, "10.0.0.1:1"), Side::new(2, 1, "10.0.0.2:1"));
    a.wanted(at(0));
    b.wanted(at(0));
    let (from_a, from_b) = (a.call(at(0)), b.call(at(0)));
    let (id_a, id_b) = (from_a.call, from_b.call);
    a.paths.handle_call(&forwarded(from_b, 2), &mut a.entropy, at(10));
    b.paths.handle_call(&forwarded(from_a, 1), &mut b.entropy, at(10));
    assert_eq!((a.events(at(10)), b.events(at(10))), (vec![], vec![]));
    // Both answer; the answers change nothing any more.
    let (to_b, to_a) = (a.signals(at(10)), b.signals(at(10)));
    assert_eq!((to_a.len(), to_b.len()), (1, 1));
    let (to_b, to_a) = (to_b.into_iter().next().unwrap(), to_a.into_iter().next().unwrap());
    let (to_b, to_a) = (ack(to_b, 1), ack(to_a, 2));
    assert_eq!((to_b.call, to_a.call), (id_b, id_a));
    b.paths.handle_call_ack(&to_b, &mut b.entropy, at(20));
    a.paths.handle_call_ack(&to_a, &mut a.entropy, at(20));
    // Both try each other, and one of them begins.
    let (from_a, from_b) = (a.probes(at(20)).remove(0).1, b.probes(at(20)).remove(0).1);
    b.hear("10.0.0.1:1", &from_a, at(25)).unwrap();
    a.hear("10.0.0.2:1", &from_b, at(25)).unwrap();
    let (from_a, from_b) = (a.probes(at(25)).remove(0).1, b.probes(at(25)).remove(0).1);
    b.hear("10.0.0.1:1", &from_a, at(30)).unwrap();
    a.hear("10.0.0.2:1", &from_b, at(30)).unwrap();
    assert_eq!((a.events(at(30)), b.events(at(30))), (vec![READY], vec![]));
}

#[test]
fn calls_are_repeated_and_given_up() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.wanted(at(0));
    let mut sent = vec![];
    let mut now = at(0);
    while let Some((due, _)) = {
        if !a.signals(now).is_empty() {
            sent.push(now.as_millis());
        }
        a.paths.poll_timeout()
    } {
        now = due;
        a.paths.handle_timeout(&mut a.entropy, now);
    }
    assert_eq!(sent, [0, 1_500, 6_000, 11_000]);
    assert_eq!(a.events(now), [PathEvent::Failed { slot: SLOT, why: NoPath::NoAnswer }]);
    // The next packet tries again.
    a.wanted(now);
    assert_eq!(a.signals(now).len(), 1);
    a.paths.handle_call_failed(0, DeviceId(2), Some(CallFailure::Offline), now);
    assert_eq!(a.events(now), [], "another call's failure");
}

fn a_call(call: u32) -> Call {
    Call {
        call,
        peer: DeviceId(2),
        receiver: 0,
        nat: NatReport::default(),
        rtt_ms: 0,
        candidates: [host("10.0.0.2:1")].into_iter().collect(),
    }
}

#[test]
fn a_failed_call_says_why_and_waits_five_seconds() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.wanted(at(0));
    let call = a.call(at(0)).call;
    a.paths.handle_call_failed(call, DeviceId(2), Some(CallFailure::Offline), at(5));
    let why = NoPath::Call(CallFailure::Offline);
    assert_eq!(a.events(at(5)), [PathEvent::Failed { slot: SLOT, why }]);
    a.wanted(at(10));
    assert!(a.signals(at(10)).is_empty());
    let (due, _) = a.paths.poll_timeout().unwrap();
    assert_eq!(due, at(5_000));
    a.paths.handle_timeout(&mut a.entropy, due);
    let again = a.call(due).call;
    assert_ne!(again, call);
    a.paths.handle_call_failed(again, DeviceId(2), Some(CallFailure::TooMany), due);
    assert_eq!(a.events(due), []);
    assert_eq!(a.paths.poll_timeout().unwrap().0, at(10_000));
}

#[test]
fn a_call_that_cannot_be_sent_wakes_nobody() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.wanted(at(0));
    a.paths.handle_timeout(&mut a.entropy, at(0));
    // No coordinator: nobody polls signals. The peer is given up in the end.
    let (due, _) = a.paths.poll_timeout().unwrap();
    assert_eq!(due, at(90_000));
    a.paths.handle_timeout(&mut a.entropy, due);
    assert_eq!(a.events(due), [PathEvent::Failed { slot: SLOT, why: NoPath::NoAnswer }]);
}

#[test]
fn a_call_may_come_before_the_map_names_its_caller() {
    let mut paths = Paths::<4>::new(Sockets::both(SOCKET));
    paths.set_own(DeviceId(1));
    paths.handle_call(&a_call(5), &mut Counter(9), at(0));
    let kind = PeerKind { device: DeviceId(2), ..KIND };
    paths.set_peer(SLOT, kind, &mut Counter(9), at(40));
    assert_eq!(paths.poll_event(at(40)), Some(PathEvent::Gather));
    paths.handle_gathered([].into_iter(), NatReport::default(), &mut Counter(9), at(40));
    let Some(PathSignal::CallAck(ack)) = paths.poll_signal(at(40)) else { panic!("no answer") };
    assert_eq!((ack.call, ack.peer), (5, DeviceId(2)));
    assert_eq!(paths.targets(SLOT, at(0))[..], [direct("10.0.0.2:1")]);

    let mut late = Paths::<4>::new(Sockets::both(SOCKET));
    late.handle_call(&a_call(5), &mut Counter(9), at(0));
    late.set_peer(SLOT, kind, &mut Counter(9), at(10_001));
    assert!(late.poll_signal(at(10_001)).is_none());
}

#[test]
fn a_cached_endpoint_is_tried_and_the_peer_called_in_parallel() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.paths.set_cached(SLOT, address("10.0.0.9:9"), at(0));
    a.wanted(at(1));
    assert!(a.events(at(1)).contains(&READY));
    assert_eq!(a.paths.selected(SLOT).unwrap().why, Why::Cached);
    let call = a.call(at(1)).call;
    let mut answer = a_call(call);
    answer.candidates = [host("10.0.0.2:1")].into_iter().collect();
    a.paths.handle_call_ack(
        &CallAck {
            call,
            peer: DeviceId(2),
            receiver: 0,
            nat: answer.nat,
            rtt_ms: 0,
            candidates: answer.candidates,
        },
        &mut a.entropy,
        at(9),
    );
    assert_eq!(a.events(at(9)), [], "what it names is tried first");
    assert_eq!(a.paths.targets(SLOT, at(0))[..], [direct("10.0.0.9:9"), direct("10.0.0.2:1")]);
}

#[test]
fn a_proven_endpoint_is_tried_alone_for_a_second() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let source = Source { socket: SOCKET, address: address("10.0.0.2:1") };
    a.paths.handle_authenticated(SLOT, source, at(0));
    a.events(at(0));
    a.wanted(at(100_000));
    assert!(a.signals(at(100_000)).is_empty());
    a.paths.handle_initiation(SLOT, &mut a.entropy, at(100_000));
    assert_eq!(a.paths.poll_timeout().unwrap().0, at(101_000));
    a.paths.handle_timeout(&mut a.entropy, at(101_000));
    a.call(at(101_000));
    // Long unused: called at once.
    a.paths.handle_authenticated(SLOT, source, at(101_100));
    a.wanted(at(400_000));
    a.call(at(400_000));
    assert_eq!(a.paths.cached(SLOT), Some(source.address));
}

#[test]
fn overlay_and_foolish_addresses_are_never_candidates() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.paths.set_overlay(Overlay {
        ipv4: [100, 93, 0, 0].into(),
        ipv4_len: 16,
        ipv6: [0xfd, 1, 2, 3, 4, 5],
    });
    let bad = [
        "100.93.7.7:1",
        "[fd01:203:405::9]:1",
        "127.0.0.1:1",
        "[::1]:1",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "169.254.1.1:1",
        "[fe80::1]:1",
        "[ff02::1]:1",
        "[::ffff:10.0.0.1]:1",
        "10.0.0.3:0",
    ];
    let good = ["100.94.0.1:1", "192.168.1.1:51871", "[2001:db8::1]:1", "[fd01:203:406::9]:1"];
    let all: Vec<_> = bad.iter().chain(&good).map(|text| host(text)).collect();
    a.paths.set_local(&all);
    a.wanted(at(0));
    let call = a.call(at(0));
    let told: Vec<_> = call.candidates.iter().map(|c| c.address.to_string()).collect();
    assert_eq!(told, good);

    for (part, usable) in [(&bad[..8], 0), (&good[..], 4)] {
        let mut peers = a_call(call.call);
        peers.candidates = part.iter().map(|text| host(text)).collect();
        let mut b = Side::new(1, 2, "10.0.0.1:1");
        b.paths.set_overlay(Overlay {
            ipv4: [100, 93, 0, 0].into(),
            ipv4_len: 16,
            ipv6: [0xfd, 1, 2, 3, 4, 5],
        });
        b.paths.handle_call(&peers, &mut b.entropy, at(0));
        assert_eq!(b.paths.targets(SLOT, at(0)).len(), usable);
    }
}

#[test]
fn a_wireguard_only_peer_is_never_called() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let endpoint = Some(address("192.0.2.7:51820"));
    let kind = PeerKind { device: DeviceId(3), wireguard_only: true, endpoint, ..KIND };
    a.paths.set_peer(SLOT, kind, &mut a.entropy, at(0));
    a.wanted(at(0));
    a.paths.handle_initiation(SLOT, &mut a.entropy, at(0));
    assert!(a.events(at(0)).contains(&READY));
    assert!(a.signals(at(5_000)).is_empty());
    assert_eq!(a.paths.selected(SLOT).unwrap().why, Why::Configured);
    assert_eq!(a.paths.cached(SLOT), None);
    let kind = PeerKind { endpoint: None, ..kind };
    a.paths.remove_peer(SLOT);
    a.paths.set_peer(SLOT, kind, &mut a.entropy, at(0));
    a.wanted(at(0));
    assert_eq!(a.events(at(0)), [PathEvent::Failed { slot: SLOT, why: NoPath::NoEndpoint }]);
}

#[test]
fn a_fixed_endpoint_is_never_forgotten() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let endpoint = Some(address("192.0.2.7:51820"));
    let kind = PeerKind { device: DeviceId(3), wireguard_only: true, endpoint, ..KIND };
    a.paths.set_peer(SLOT, kind, &mut a.entropy, at(0));
    // It was elsewhere before our last start.
    a.paths.set_cached(SLOT, address("198.51.100.9:9"), at(0));
    a.wanted(at(0));
    let both = [direct("198.51.100.9:9"), direct("192.0.2.7:51820")];
    assert_eq!(*a.paths.targets(SLOT, at(0)), both);
    // It roams: data goes where it was heard, a handshake also to the place
    // that is written down.
    let source = Source { socket: SOCKET, address: address("203.0.113.5:5") };
    a.paths.handle_authenticated(SLOT, source, at(1));
    a.paths.handle_failed(SLOT, at(1));
    assert_eq!(*a.paths.targets(SLOT, at(0)), [direct("203.0.113.5:5"), direct("192.0.2.7:51820")]);
    // Somebody writes down another place.
    let _ = a.events(at(1));
    let kind = PeerKind { endpoint: Some(address("192.0.2.8:51820")), ..kind };
    a.paths.set_peer(SLOT, kind, &mut a.entropy, at(2));
    let selected = Selected {
        route: direct("192.0.2.8:51820"),
        why: Why::Configured,
        since: at(2),
        relayed: false,
    };
    assert_eq!(a.events(at(2)), [PathEvent::Selected { slot: SLOT, selected }]);
    assert_eq!(*a.paths.targets(SLOT, at(0)), [direct("192.0.2.8:51820")]);
    // The same entry again changes nothing.
    a.paths.handle_authenticated(SLOT, source, at(3));
    a.paths.set_peer(SLOT, kind, &mut a.entropy, at(4));
    assert_eq!(a.paths.selected(SLOT).unwrap().route, direct("203.0.113.5:5"));
}

#[test]
fn endpoints_are_written_at_most_every_ten_minutes() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let mut writes = 0;
    for step in 0..3_600u64 {
        let now = at(step * 1_000);
        let source = Source { socket: SOCKET, address: ([10, 0, 1, 1], 1 + step as u16).into() };
        a.paths.handle_authenticated(SLOT, source, now);
        writes += a.events(now).iter().filter(|e| **e == PathEvent::CacheChanged).count();
    }
    assert_eq!(writes, 6);
    assert_eq!(a.paths.poll_timeout().unwrap().0, at(0) + Duration::from_secs(3_600));
}

#[test]
fn a_peer_without_an_address_of_its_own_comes_to_ours() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    a.wanted(at(0));
    let call = a.call(at(0)).call;
    let nothing = CallAck {
        call,
        peer: DeviceId(2),
        receiver: 0,
        nat: NatReport::default(),
        rtt_ms: 0,
        candidates: heapless::Vec::new(),
    };
    a.paths.handle_call_ack(&nothing, &mut a.entropy, at(20));
    assert_eq!(a.events(at(20)), []);
    let (due, _) = a.paths.poll_timeout().unwrap();
    assert_eq!(due, at(5_020));
    a.paths.handle_timeout(&mut a.entropy, due);
    assert_eq!(a.events(due), [PathEvent::Failed { slot: SLOT, why: NoPath::NoCandidate }]);
    assert!(a.signals(due).is_empty());
}

/// Data may come from a relay before the call arrives that names what it keeps.
#[test]
fn a_relay_of_the_map_is_known_by_its_address() {
    let mut a = Side::new(1, 2, "10.0.0.1:1");
    let relay = Relay {
        number: 1,
        v4: Some([203, 0, 113, 20].into()),
        v6: None,
        udp: [3_478, 0],
        tcp: 0,
        tls: 0,
    };
    a.paths.set_relays(&[relay]);
    for (from, relayed) in [("203.0.113.20:50000", true), ("203.0.113.21:50000", false)] {
        let source = Source { socket: SOCKET, address: address(from) };
        a.paths.handle_authenticated(SLOT, source, at(10));
        assert_eq!(a.paths.selected(SLOT).unwrap().relayed, relayed, "{from}");
    }
}
