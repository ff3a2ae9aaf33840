//! The view of IP packets: what is read, what is refused, what is answered.

mod packets;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use packets::{echo, icmp, ip, ipv4, ipv6, tcp, udp};
use proptest::prelude::*;
use weft_agent_core::ip::checksum::Sum;
use weft_agent_core::ip::icmp::{Problem, answer, answer_bytes, quoted};
use weft_agent_core::ip::{Fragment, Packet, Upper, stated_len};

const A4: Ipv4Addr = Ipv4Addr::new(100, 80, 1, 1);
const B4: Ipv4Addr = Ipv4Addr::new(100, 80, 1, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 0, 0, 0, 0, 2);

fn parse(bytes: &[u8]) -> Packet<'_> {
    Packet::parse(bytes).expect("a good packet")
}

fn refused(bytes: &[u8]) {
    assert!(Packet::parse(bytes).is_err(), "{:?}", Packet::parse(bytes));
}

#[test]
fn ipv4_is_read_behind_its_options() {
    for options in [0, 4, 40] {
        let bytes = ipv4(A4, B4, &vec![1; options], 0x4000, 6, &tcp(1000, 22, 0x02));
        let packet = parse(&bytes);
        assert_eq!((packet.source, packet.destination), (A4.into(), B4.into()));
        assert_eq!(packet.upper_at, 20 + options);
        assert_eq!(packet.upper, Upper::Tcp { source: 1000, destination: 22, flags: 2 });
        assert!(packet.opens_tcp());
        assert_eq!(packet.fragment, Fragment::Whole);
    }
}

#[test]
fn what_follows_the_packet_is_cut_off() {
    let mut bytes = ipv4(A4, B4, &[], 0, 17, &udp(1, 2, b"payload"));
    let len = bytes.len();
    bytes.extend_from_slice(&[0; 9]);
    assert_eq!(parse(&bytes).bytes.len(), len);
    assert_eq!(stated_len(&bytes), Some(len));
    let mut bytes = ipv6(A6, B6, 17, &udp(1, 2, b"payload"));
    let len = bytes.len();
    bytes.extend_from_slice(&[0; 9]);
    assert_eq!(parse(&bytes).bytes.len(), len);
}

#[test]
fn lengths_that_lie_are_refused() {
    let good = ipv4(A4, B4, &[], 0, 17, &udp(1, 2, b"payload"));
    for cut in 0..good.len() {
        refused(&good[..cut]);
    }
    let mut longer = good.clone();
    longer[3] += 1;
    refused(&longer);
    let mut header = good.clone();
    header[0] = 0x44;
    refused(&header);
    header[0] = 0x4F;
    refused(&header);
    let mut shorter = good.clone();
    shorter[2..4].copy_from_slice(&19u16.to_be_bytes());
    refused(&shorter);
    for version in [0, 3, 5, 7, 15] {
        let mut other = good.clone();
        other[0] = version << 4 | 5;
        refused(&other);
    }
    let good = ipv6(A6, B6, 17, &udp(1, 2, b"payload"));
    for cut in 0..good.len() {
        refused(&good[..cut]);
    }
    let mut jumbogram = good;
    jumbogram[4..6].copy_from_slice(&[0, 0]);
    refused(&jumbogram);
}

#[test]
fn fragments_are_told_apart() {
    let upper = tcp(1000, 22, 0x02);
    let first = ipv4(A4, B4, &[], 0x2000, 6, &upper);
    assert_eq!(parse(&first).fragment, Fragment::First);
    assert!(parse(&first).opens_tcp());
    for word in [0x2001, 0x0001, 0x1FFF] {
        let later = ipv4(A4, B4, &[], word, 6, &upper);
        assert_eq!(parse(&later).fragment, Fragment::Later);
        assert_eq!(parse(&later).upper, Upper::Opaque, "no header to believe");
    }
}

#[test]
fn a_header_split_over_fragments_is_refused() {
    for (protocol, upper) in
        [(6, tcp(1, 2, 2)), (17, udp(1, 2, &[])), (1, echo(8, 7)[..8].to_vec())]
    {
        for cut in 0..upper.len() {
            refused(&ipv4(A4, B4, &[], 0x2000, protocol, &upper[..cut]));
            refused(&ipv4(A4, B4, &[], 0, protocol, &upper[..cut]));
        }
        parse(&ipv4(A4, B4, &[], 0x2000, protocol, &upper));
    }
}

/// An extension header of 8 bytes that names the next one.
fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// A fragment header.
fn fragment(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [next, 0, high, low, 0, 0, 0, 9]
}

#[test]
fn ipv6_is_read_behind_its_extension_headers() {
    let syn = tcp(1000, 22, 2);
    let plain = ipv6(A6, B6, 6, &syn);
    assert_eq!(parse(&plain).upper_at, 40);
    // Hop-by-hop, destination, routing of another type than 0, authentication.
    let mut routing = extension(51);
    routing[2] = 4;
    let authentication = [6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let chain = [&extension(60)[..], &extension(43), &routing, &authentication, &syn].concat();
    let packet = ipv6(A6, B6, 0, &chain);
    let packet = parse(&packet);
    assert_eq!((packet.protocol, packet.upper_at), (6, 40 + 24 + 12));
    assert!(packet.opens_tcp());
}

#[test]
fn ipv6_headers_that_hide_something_are_refused() {
    let syn = tcp(1000, 22, 2);
    // Hop-by-hop options behind another header.
    refused(&ipv6(A6, B6, 60, &[&extension(0)[..], &extension(6), &syn].concat()));
    // Routing header type 0.
    let mut routing = extension(6);
    routing[2] = 0;
    refused(&ipv6(A6, B6, 43, &[&routing[..], &syn].concat()));
    // A chain without end, and one that leaves the packet.
    let chain = extension(60).repeat(9);
    refused(&ipv6(A6, B6, 60, &[&chain[..], &syn].concat()));
    refused(&ipv6(A6, B6, 60, &[60, 255, 0, 0, 0, 0, 0, 0]));
    refused(&ipv6(A6, B6, 60, &[60]));
    // Two fragment headers.
    let twice = [&fragment(44, 0, true)[..], &fragment(6, 0, true), &syn].concat();
    refused(&ipv6(A6, B6, 44, &twice));
    // A first fragment that does not reach the upper layer (RFC 7112).
    refused(&ipv6(A6, B6, 44, &[&fragment(60, 0, true)[..], &extension(6)].concat()));
    // A later fragment that is cut off.
    refused(&ipv6(A6, B6, 44, &fragment(6, 3, true)[..6]));
}

#[test]
fn ipv6_fragments_are_told_apart() {
    let syn = tcp(1000, 22, 2);
    let with = |offset, more| ipv6(A6, B6, 44, &[&fragment(6, offset, more)[..], &syn].concat());
    assert_eq!(parse(&with(0, true)).fragment, Fragment::First);
    assert!(parse(&with(0, true)).opens_tcp());
    assert_eq!(parse(&with(0, false)).fragment, Fragment::Whole, "an atomic fragment");
    for (offset, more) in [(1, true), (1, false), (0x1FFF, false)] {
        assert_eq!(parse(&with(offset, more)).fragment, Fragment::Later);
        assert_eq!(parse(&with(offset, more)).upper, Upper::Opaque);
    }
    assert_eq!(parse(&ipv6(A6, B6, 59, &[])).upper, Upper::Opaque, "no next header");
}

fn is_sound_v4(answer: &[u8]) {
    assert_eq!(Sum::new().bytes(&answer[..20]).finish(), 0);
    assert_eq!(Sum::new().bytes(&answer[20..]).finish(), 0);
}

fn is_sound_v6(answer: &[u8]) {
    let packet = parse(answer);
    let icmp = packet.upper_bytes();
    let sum = Sum::new().pseudo_header(packet.source, packet.destination, 58, icmp.len());
    assert_eq!(sum.bytes(icmp).finish(), 0);
}

#[test]
fn a_packet_too_big_is_answered_in_both_families() {
    let problem = Problem::TooBig { mtu: 1280 };
    let mut out = [0xAA; 2_000];
    let packet = ipv4(A4, B4, &[1; 8], 0x4000, 17, &udp(5000, 53, &[0; 1_300]));
    let len = answer_bytes(&packet, problem, &mut out).expect("an answer");
    let answer = parse(&out[..len]);
    assert_eq!((answer.source, answer.destination), (B4.into(), A4.into()));
    assert_eq!((len, out[20], out[21]), (576, 3, 4));
    assert_eq!(out[24..28], [0, 0, 5, 0]);
    is_sound_v4(&out[..len]);
    let about = quoted(&answer).expect("the quote is readable");
    assert_eq!((about.source, about.destination, about.protocol), (A4.into(), B4.into(), 17));
    assert_eq!(about.upper, Upper::Ports { source: 5000, destination: 53 });

    let packet = ipv6(A6, B6, 6, &[tcp(1, 2, 0x10), vec![0; 1_300]].concat());
    let len = answer_bytes(&packet, problem, &mut out).expect("an answer");
    assert_eq!((len, out[40], out[41]), (1280, 2, 0));
    assert_eq!(out[44..48], [0, 0, 5, 0]);
    is_sound_v6(&out[..len]);
}

#[test]
fn other_problems_have_their_codes() {
    let mut out = [0; 600];
    let v4 = ipv4(A4, B4, &[], 0, 6, &tcp(1, 2, 2));
    let v6 = ipv6(A6, B6, 6, &tcp(1, 2, 2));
    for (problem, four, six) in
        [(Problem::Prohibited, [3, 13], [1, 1]), (Problem::Unreachable, [3, 1], [1, 3])]
    {
        let len = answer_bytes(&v4, problem, &mut out).expect("an answer");
        assert_eq!((out[20..22].to_vec(), len), (four.to_vec(), 28 + v4.len()));
        is_sound_v4(&out[..len]);
        let len = answer_bytes(&v6, problem, &mut out).expect("an answer");
        assert_eq!((out[40..42].to_vec(), len), (six.to_vec(), 48 + v6.len()));
        is_sound_v6(&out[..len]);
    }
}

#[test]
fn errors_beget_no_errors() {
    let mut out = [0; 600];
    let silent = |packet: &[u8], out: &mut [u8]| {
        assert_eq!(answer(&parse(packet), Problem::Prohibited, out), None);
    };
    let inner = ipv4(B4, A4, &[], 0, 17, &udp(1, 2, &[]));
    for kind in [3, 4, 5, 11, 12] {
        silent(&ipv4(A4, B4, &[], 0, 1, &icmp(kind, 0, [0; 4], &inner)), &mut out);
    }
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        silent(&ipv6(A6, B6, 58, &icmp(kind, 0, [0; 4], &[0; 48])), &mut out);
    }
    silent(&ipv4(A4, B4, &[], 7, 17, &udp(1, 2, &[])), &mut out);
    for (from, to) in [
        ([0, 0, 0, 0], [100, 80, 1, 2]),
        ([224, 0, 0, 1], [100, 80, 1, 2]),
        ([127, 0, 0, 1], [100, 80, 1, 2]),
        ([100, 80, 1, 1], [224, 0, 0, 251]),
        ([100, 80, 1, 1], [255, 255, 255, 255]),
    ] {
        silent(&ipv4(from.into(), to.into(), &[], 0, 17, &udp(1, 2, &[])), &mut out);
    }
    // An echo request is no error.
    let ping = ipv4(A4, B4, &[], 0, 1, &echo(8, 3));
    assert!(answer(&parse(&ping), Problem::Prohibited, &mut out).is_some());
}

#[test]
fn an_answer_needs_room_for_the_quote() {
    let packet = ipv4(A4, B4, &[], 0, 17, &udp(1, 2, &[0; 100]));
    for room in 0..56 {
        assert_eq!(answer_bytes(&packet, Problem::Prohibited, &mut vec![0; room]), None);
    }
    assert_eq!(answer_bytes(&packet, Problem::Prohibited, &mut [0; 56]), Some(56));
    assert_eq!(answer_bytes(&packet, Problem::Prohibited, &mut [0; 60]), Some(60));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(first) = bytes.first_mut() {
            *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
        }
        let fits = u16::try_from(bytes.len().saturating_sub(40)).unwrap_or(0);
        if let Some(len) = bytes.get_mut(4..6) {
            len.copy_from_slice(&fits.to_be_bytes());
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert!(packet.bytes.len() <= bytes.len());
            prop_assert!(packet.upper_at <= packet.bytes.len());
            let mut out = [0; 300];
            if let Some(len) = answer(&packet, Problem::Unreachable, &mut out) {
                prop_assert!(Packet::parse(&out[..len]).is_ok());
            }
            let _ = quoted(&packet);
        }
    }

    #[test]
    fn addresses_and_ports_survive_the_round_trip(
        from in any::<[u8; 16]>(), to in any::<[u8; 16]>(), ports in any::<(u16, u16)>(), six: bool,
    ) {
        let address = |octets: [u8; 16]| -> IpAddr {
            if six { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() }
        };
        let (from, to) = (address(from), address(to));
        let bytes = ip(from, to, 17, &udp(ports.0, ports.1, b"x"));
        let packet = Packet::parse(&bytes).expect("a good packet");
        prop_assert_eq!((packet.source, packet.destination), (from, to));
        prop_assert_eq!(packet.upper, Upper::Ports { source: ports.0, destination: ports.1 });
    }
}
