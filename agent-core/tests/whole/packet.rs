//! Echo requests and replies.

use std::net::Ipv4Addr;

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// An ICMP echo request (type 8) or reply (type 0) with a sequence number.
pub fn echo(kind: u8, from: Ipv4Addr, to: Ipv4Addr, sequence: u16, payload: usize) -> Vec<u8> {
    let len = 28 + payload;
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20] = kind;
    packet[24..26].copy_from_slice(&7u16.to_be_bytes());
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The reply to an echo request; `None` for every other packet.
pub fn reply(packet: &[u8]) -> Option<Vec<u8>> {
    let request = packet.len() >= 28 && packet[0] == 0x45 && packet[9] == 1 && packet[20] == 8;
    request.then(|| {
        let address = |at: usize| Ipv4Addr::from_octets(packet[at..at + 4].try_into().unwrap());
        echo(0, address(16), address(12), sequence(packet), packet.len() - 28)
    })
}

/// The sequence number of an echo.
pub fn sequence(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[26], packet[27]])
}

/// Whether this is an echo reply.
pub fn is_reply(packet: &[u8]) -> bool {
    packet.len() >= 28 && packet[9] == 1 && packet[20] == 0
}
