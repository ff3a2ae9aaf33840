//! Echo requests and replies.

use std::net::Ipv4Addr;

use weft_agent_core::ip::checksum::Sum;

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const HEADERS: usize = 28;

fn echo(kind: u8, from: Ipv4Addr, to: Ipv4Addr, sequence: u16, payload: usize) -> Vec<u8> {
    let len = HEADERS + payload;
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = Sum::new().bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20] = kind;
    packet[24..26].copy_from_slice(&7u16.to_be_bytes());
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let sum = Sum::new().bytes(&packet[20..]).finish();
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An ICMP echo request with a payload of zeroes.
pub fn request(from: Ipv4Addr, to: Ipv4Addr, sequence: u16, payload: usize) -> Vec<u8> {
    echo(REQUEST, from, to, sequence, payload)
}

/// An echo reply that nobody asked for: a packet of a flow that goes one way.
pub fn unasked(from: Ipv4Addr, to: Ipv4Addr, sequence: u16) -> Vec<u8> {
    echo(REPLY, from, to, sequence, 0)
}

fn is(packet: &[u8], kind: u8) -> bool {
    packet.len() >= HEADERS && packet[0] == 0x45 && packet[9] == 1 && packet[20] == kind
}

/// The reply to an echo request; `None` for every other packet.
pub fn reply(packet: &[u8]) -> Option<Vec<u8>> {
    let address = |at: usize| {
        let octets = packet[at..at + 4].first_chunk::<4>().copied();
        Ipv4Addr::from(octets.unwrap_or_default())
    };
    let sequence = || u16::from_be_bytes([packet[26], packet[27]]);
    is(packet, REQUEST)
        .then(|| echo(REPLY, address(16), address(12), sequence(), packet.len() - HEADERS))
}

/// Whether this is an echo reply.
pub fn is_reply(packet: &[u8]) -> bool {
    is(packet, REPLY)
}

/// The number of an echo reply.
pub fn sequence(packet: &[u8]) -> Option<u16> {
    is_reply(packet).then(|| u16::from_be_bytes([packet[26], packet[27]]))
}
