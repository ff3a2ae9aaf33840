//! The filter: rules, connections, flows, fragments, ICMP.

mod packets;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packets::{echo, icmp, ip, ipv4, ipv6, tcp, udp};
use weft_agent_core::event::{DropReason, PeerSlot};
use weft_agent_core::filter::{Filter, Masks};
use weft_agent_core::ip::Packet;
use weft_agent_core::time::{Duration, Instant};
use weft_wire::map::Rule;

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 80, 1, 1));
const THEM: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 80, 1, 2));
const US6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, 1));
const THEM6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, 2));
const PEER: PeerSlot = PeerSlot(3);
const NOW: Instant = Instant::from_secs(500);

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

const fn rule(number: u8, protocol: u8, first_port: u16, last_port: u16) -> Rule {
    Rule { number, protocol, first_port, last_port }
}

/// SSH, DNS, ping, and everything: rules 0 to 3.
const RULES: [Rule; 4] =
    [rule(0, 6, 22, 22), rule(1, 17, 53, 60), rule(2, 1, 0, 65_535), rule(3, 0, 0, 65_535)];

const fn masks(inbound: u64, outbound: u64) -> Masks {
    Masks { inbound, outbound }
}

struct Judge {
    filter: Filter<32>,
    masks: Masks,
    now: Instant,
}

impl Judge {
    fn new(inbound: u64, outbound: u64) -> Self {
        let mut filter = Filter::new(42);
        filter.set_rules(&RULES);
        Self { filter, masks: masks(inbound, outbound), now: NOW }
    }

    fn comes(&mut self, bytes: &[u8]) -> bool {
        let packet = Packet::parse(bytes).expect("a good packet");
        match self.filter.inbound(PEER, self.masks, &packet, self.now) {
            Ok(()) => true,
            Err(DropReason::Denied) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn goes(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        let packet = Packet::parse(bytes).expect("a good packet");
        self.filter.outbound(PEER, self.masks, &packet, self.now)
    }
}

/// A packet from the peer to us.
fn inward(protocol: u8, upper: &[u8]) -> Vec<u8> {
    ip(THEM, US, protocol, upper)
}

/// A packet from us to the peer.
fn outward(protocol: u8, upper: &[u8]) -> Vec<u8> {
    ip(US, THEM, protocol, upper)
}

#[test]
fn without_rules_nothing_passes() {
    let mut judge = Judge::new(u64::MAX, u64::MAX);
    judge.filter.clear();
    for packet in [inward(6, &tcp(1, 2, ACK)), inward(17, &udp(1, 53, b"")), inward(50, &[0; 8])] {
        assert!(!judge.comes(&packet));
    }
    assert_eq!(judge.goes(&outward(17, &udp(1, 2, b""))), Err(DropReason::Denied));
    // An empty list is no rule, and so is a bit whose rule is not there.
    for rules in [&[][..], &[rule(9, 0, 0, 65_535)]] {
        let mut judge = Judge::new(u64::MAX ^ (1 << 9), u64::MAX ^ (1 << 9));
        judge.filter.set_rules(rules);
        assert!(!judge.comes(&inward(6, &tcp(1, 2, ACK))));
        assert_eq!(judge.goes(&outward(17, &udp(1, 2, b""))), Err(DropReason::Denied));
        assert!(!judge.comes(&inward(17, &udp(2, 1, b""))));
    }
    // Rules that do not concern this peer are as none.
    let mut judge = Judge::new(0, 0);
    assert!(!judge.comes(&inward(6, &tcp(1, 2, ACK))));
    assert_eq!(judge.goes(&outward(6, &tcp(1, 2, SYN))), Err(DropReason::Denied));
}

#[test]
fn tcp_is_judged_by_its_first_segment() {
    let mut judge = Judge::new(0b0001, 0);
    assert!(judge.comes(&inward(6, &tcp(9, 22, SYN))));
    assert!(!judge.comes(&inward(6, &tcp(9, 23, SYN))));
    assert!(!judge.comes(&inward(6, &tcp(9, 21, SYN))));
    for flags in [ACK, SYN | ACK, ACK | 0x08, ACK | 0x01, 0x04, 0x04 | ACK] {
        assert!(judge.comes(&inward(6, &tcp(9, 23, flags))), "{flags:#x}");
    }
    for flags in [SYN | 0x01, SYN | 0x04, SYN | 0x20, SYN | 0xC0] {
        assert!(!judge.comes(&inward(6, &tcp(9, 23, flags))), "{flags:#x} opens too");
    }
}

#[test]
fn the_mask_chooses_the_rules() {
    for (mask, ssh, dns) in
        [(0b0000, false, false), (0b0001, true, false), (0b0010, false, true), (0b1000, true, true)]
    {
        // An outbound bit keeps the peer a peer.
        let mut judge = Judge::new(mask, 0b0100);
        assert_eq!(judge.comes(&inward(6, &tcp(9, 22, SYN))), ssh);
        assert_eq!(judge.comes(&inward(17, &udp(9, 53, b""))), dns);
        assert_eq!(judge.comes(&inward(17, &udp(9, 60, b""))), dns);
        assert_eq!(judge.comes(&inward(17, &udp(9, 61, b""))), mask == 0b1000);
    }
    // A bit without a rule, and rule numbers that do not exist.
    let mut judge = Judge::new(1 << 63, 0);
    assert!(!judge.comes(&inward(6, &tcp(9, 22, SYN))));
    judge.filter.set_rules(&[rule(64, 0, 0, 65_535), rule(255, 0, 0, 65_535)]);
    judge.masks = masks(u64::MAX, u64::MAX);
    assert!(!judge.comes(&inward(6, &tcp(9, 22, SYN))));
}

#[test]
fn udp_comes_back_for_60_s() {
    let mut judge = Judge::new(0b0001, 0);
    let answer = inward(17, &udp(5_000, 40_000, b"answer"));
    assert!(!judge.comes(&answer));
    assert_eq!(judge.goes(&outward(17, &udp(40_000, 5_000, b"question"))), Ok(()));
    assert!(judge.comes(&answer));
    assert!(!judge.comes(&inward(17, &udp(5_001, 40_000, b""))), "another port");
    assert!(!judge.comes(&inward(17, &udp(5_000, 40_001, b""))), "another port of ours");
    assert!(!judge.comes(&inward(136, &udp(5_000, 40_000, b""))), "another protocol");
    let elsewhere: IpAddr = [100, 80, 1, 9].into();
    assert!(!judge.comes(&ip(elsewhere, US, 17, &udp(5_000, 40_000, b""))));
    // What comes in does not keep the flow alive, what goes out does.
    judge.now = NOW + Duration::from_millis(59_999);
    assert!(judge.comes(&answer));
    judge.now = NOW + Duration::from_secs(60);
    assert!(!judge.comes(&answer));
    assert_eq!(judge.goes(&outward(17, &udp(40_000, 5_000, b""))), Ok(()));
    judge.now = NOW + Duration::from_secs(119);
    assert!(judge.comes(&answer));
    // Another peer cannot answer, and a forgotten peer has no flows.
    let packet = Packet::parse(&answer).expect("a good packet");
    let all = masks(1, 1);
    let other = judge.filter.inbound(PeerSlot(4), all, &packet, judge.now);
    assert_eq!(other, Err(DropReason::Denied));
    judge.filter.forget(PEER);
    assert!(!judge.comes(&answer));
}

#[test]
fn a_full_flow_table_forgets_the_quietest() {
    let mut judge = Judge::new(0b0001, 0);
    for port in 0..2_000u16 {
        judge.now = NOW + Duration::from_millis(u64::from(port));
        assert_eq!(judge.goes(&outward(17, &udp(port, 7, b""))), Ok(()));
        assert!(judge.comes(&inward(17, &udp(7, port, b""))), "the newest is known");
    }
    let known = (0..2_000u16).filter(|&port| judge.comes(&inward(17, &udp(7, port, b"")))).count();
    assert_eq!(known, 32);
}

#[test]
fn ping_is_answered_but_needs_a_rule_to_be_asked() {
    let mut judge = Judge::new(0b0001, 0b0100);
    assert!(!judge.comes(&inward(1, &echo(8, 77))));
    assert!(!judge.comes(&inward(1, &echo(0, 77))));
    assert_eq!(judge.goes(&outward(1, &echo(8, 77))), Ok(()));
    assert!(judge.comes(&inward(1, &echo(0, 77))));
    assert!(!judge.comes(&inward(1, &echo(0, 78))));
    assert!(!judge.comes(&inward(1, &echo(8, 77))), "a request is no reply");
    // One rule for both families.
    let mut judge = Judge::new(0b0100, 0);
    assert!(judge.comes(&inward(1, &echo(8, 1))));
    assert!(judge.comes(&ip(THEM6, US6, 58, &echo(128, 1))));
    judge.filter.set_rules(&[rule(2, 58, 0, 65_535)]);
    assert!(!judge.comes(&inward(1, &echo(8, 1))), "ICMPv6 alone is ICMPv6 alone");
}

#[test]
fn errors_about_our_own_traffic_pass() {
    let mut judge = Judge::new(0b0001, 0);
    let question = outward(17, &udp(40_000, 5_000, b"question"));
    let about = |packet: &[u8]| inward(1, &icmp(3, 3, [0; 4], &packet[..28]));
    assert!(!judge.comes(&about(&question)));
    assert_eq!(judge.goes(&question), Ok(()));
    assert!(judge.comes(&about(&question)));
    // From a router behind the peer, too.
    let router: IpAddr = [10, 1, 1, 1].into();
    let far = ip(router, US, 1, &icmp(11, 0, [0; 4], &question[..28]));
    assert!(judge.comes(&far));
    assert!(judge.comes(&about(&outward(6, &tcp(40_000, 22, ACK)))), "TCP checks itself");
    assert!(!judge.comes(&about(&inward(6, &tcp(22, 40_000, ACK)))), "not ours");
    assert!(!judge.comes(&inward(1, &icmp(3, 3, [0; 4], &question[..24]))), "quote too short");

    let question = ip(US6, THEM6, 17, &udp(40_000, 5_000, b"question"));
    let too_big = ip(THEM6, US6, 58, &icmp(2, 0, [0, 0, 5, 0], &question));
    assert!(!judge.comes(&too_big));
    assert_eq!(judge.goes(&question), Ok(()));
    assert!(judge.comes(&too_big));
}

#[test]
fn redirects_never_pass() {
    let mut judge = Judge::new(0b1111, 0b1111);
    let inner = outward(17, &udp(1, 2, b""));
    assert!(!judge.comes(&inward(1, &icmp(5, 1, [10, 0, 0, 1], &inner))));
    assert!(!judge.comes(&ip(THEM6, US6, 58, &icmp(137, 0, [0; 4], &[0; 32]))));
}

#[test]
fn later_fragments_need_a_rule_for_every_port() {
    let later =
        |protocol| ipv4([100, 80, 1, 2].into(), [100, 80, 1, 1].into(), &[], 9, protocol, b"rest");
    let mut judge = Judge::new(0b0011, 0);
    assert_eq!(judge.goes(&outward(17, &udp(40_000, 5_000, b""))), Ok(()));
    assert!(!judge.comes(&later(6)));
    assert!(!judge.comes(&later(17)), "a flow names ports, a fragment does not");
    assert!(!judge.comes(&later(1)));
    judge.masks = masks(0b0100, 0);
    assert!(judge.comes(&later(1)));
    assert!(!judge.comes(&later(6)));
    judge.masks = masks(0b1000, 0);
    assert!(judge.comes(&later(6)));
    assert!(judge.comes(&later(17)));
    // The first fragment is judged as the packet.
    let first = |port| {
        ipv4([100, 80, 1, 2].into(), [100, 80, 1, 1].into(), &[], 0x2000, 6, &tcp(9, port, SYN))
    };
    judge.masks = masks(0b0001, 0);
    assert!(judge.comes(&first(22)));
    assert!(!judge.comes(&first(23)));
    // IPv6: the header before the fragment's rest names the protocol.
    let fragment = [[6, 0, 0, 9, 0, 0, 0, 1].as_slice(), b"rest"].concat();
    let (IpAddr::V6(them), IpAddr::V6(us)) = (THEM6, US6) else { unreachable!() };
    let later = ipv6(them, us, 44, &fragment);
    assert!(!judge.comes(&later));
    judge.masks = masks(0b1000, 0);
    assert!(judge.comes(&later));
}

#[test]
fn a_header_behind_extensions_is_still_judged() {
    let (IpAddr::V6(them), IpAddr::V6(us)) = (THEM6, US6) else { unreachable!() };
    let mut judge = Judge::new(0b0001, 0);
    let behind =
        |port| ipv6(them, us, 60, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &tcp(9, port, SYN)].concat());
    assert!(judge.comes(&behind(22)));
    assert!(!judge.comes(&behind(23)));
}

#[test]
fn protocols_without_ports_need_a_rule_or_our_own_packet() {
    let mut judge = Judge::new(0b0011, 0);
    let gre = inward(47, &[0; 12]);
    assert!(!judge.comes(&gre));
    assert_eq!(judge.goes(&outward(47, &[0; 12])), Ok(()));
    assert!(judge.comes(&gre));
    let mut judge = Judge::new(0b1000, 0);
    assert!(judge.comes(&gre));
}

#[test]
fn what_the_peer_would_deny_is_not_sent() {
    let mut judge = Judge::new(0b1000, 0b0001);
    assert_eq!(judge.goes(&outward(6, &tcp(40_000, 22, SYN))), Ok(()));
    let denied = Err(DropReason::DeniedByPeer);
    assert_eq!(judge.goes(&outward(6, &tcp(40_000, 23, SYN))), denied);
    assert_eq!(judge.goes(&outward(1, &echo(8, 1))), denied);
    // What may be an answer is left to the peer.
    assert_eq!(judge.goes(&outward(6, &tcp(80, 40_000, SYN | ACK))), Ok(()));
    assert_eq!(judge.goes(&outward(17, &udp(5_000, 40_000, b""))), Ok(()));
    assert_eq!(judge.goes(&outward(1, &echo(0, 1))), Ok(()));
}
