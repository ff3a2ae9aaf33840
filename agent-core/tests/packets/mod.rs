//! IP packets, built field by field.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_agent_core::ip::checksum::Sum;

/// An IPv4 packet with options, fragment word, protocol and upper layer.
pub(crate) fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    options: &[u8],
    fragment: u16,
    protocol: u8,
    upper: &[u8],
) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4) && options.len() <= 40);
    let header = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + upper.len()) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, protocol]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet.extend_from_slice(options);
    let checksum = Sum::new().bytes(&packet).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(upper);
    packet
}

/// An IPv6 packet; `next` is the first next header of `rest`.
pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&[next, 64]);
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet.extend_from_slice(rest);
    packet
}

/// An IP packet of the addresses' family.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, upper: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, &[], 0, protocol, upper),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, upper),
        _ => panic!("two families"),
    }
}

pub(crate) fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut upper = vec![0; 20];
    upper[0..2].copy_from_slice(&from.to_be_bytes());
    upper[2..4].copy_from_slice(&to.to_be_bytes());
    upper[12] = 0x50;
    upper[13] = flags;
    upper
}

pub(crate) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut upper = vec![0; 8];
    upper[0..2].copy_from_slice(&from.to_be_bytes());
    upper[2..4].copy_from_slice(&to.to_be_bytes());
    upper[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    upper.extend_from_slice(payload);
    upper
}

/// ICMP or ICMPv6 with the second word given.
pub(crate) fn icmp(kind: u8, code: u8, word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut upper = vec![kind, code, 0, 0];
    upper.extend_from_slice(&word);
    upper.extend_from_slice(rest);
    upper
}

/// An echo with an identifier.
pub(crate) fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    icmp(kind, 0, [high, low, 0, 1], b"ping")
}
