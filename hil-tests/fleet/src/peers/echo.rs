//! Echo requests (RFC 862) as packets of the mesh: UDP over IPv4, without options.

use std::net::Ipv4Addr;

use weft_agent_core::ip::checksum::Sum;
use weft_agent_core::ip::{IPV4_HEADER_LEN, Packet, protocol};

/// RFC 862.
const ECHO: u16 = 7;
/// Of whoever asks.
const PORT: u16 = 49_152;
const UDP_HEADER_LEN: usize = 8;
/// The request's number.
const PAYLOAD_LEN: usize = 4;
/// Of a request, in bytes.
pub(super) const LEN: usize = IPV4_HEADER_LEN + UDP_HEADER_LEN + PAYLOAD_LEN;

/// A request from one device to another.
pub(super) fn request(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> [u8; LEN] {
    let mut packet = [0; LEN];
    let (ip, udp) = packet.split_at_mut(IPV4_HEADER_LEN);
    let len = udp.len();
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(LEN as u16).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, protocol::UDP]);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = Sum::new().bytes(ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    udp[..2].copy_from_slice(&PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&ECHO.to_be_bytes());
    udp[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    udp[UDP_HEADER_LEN..].copy_from_slice(&number.to_be_bytes());
    let sum = Sum::new().pseudo_header(from.into(), to.into(), protocol::UDP, len);
    let sum = sum.bytes(udp).finish();
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Who answers which request with this packet, if it is an answer.
pub(super) fn answer(packet: &[u8]) -> Option<(std::net::IpAddr, u32)> {
    let packet = Packet::parse(packet).ok()?;
    let udp = packet.upper_bytes();
    let (header, payload) = udp.split_at_checked(UDP_HEADER_LEN)?;
    let ports = [header[..2] == ECHO.to_be_bytes(), header[2..4] == PORT.to_be_bytes()];
    let is_answer = packet.protocol == protocol::UDP && ports == [true; 2];
    let number = payload.first_chunk().filter(|_| is_answer)?;
    Some((packet.source, u32::from_be_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(100, 93, 0, 2);
    const B: Ipv4Addr = Ipv4Addr::new(100, 93, 0, 3);

    #[test]
    fn a_request_is_whole_and_its_answer_is_known() {
        let mut packet = request(A, B, 0x0102_0304);
        assert_eq!(Sum::new().bytes(&packet[..IPV4_HEADER_LEN]).finish(), 0);
        let udp = &packet[IPV4_HEADER_LEN..];
        let sum = Sum::new().pseudo_header(A.into(), B.into(), protocol::UDP, udp.len());
        assert_eq!(sum.bytes(udp).finish(), 0);
        assert_eq!(answer(&packet), None, "a request is no answer");
        let ports: [u8; 4] = core::array::from_fn(|at| packet[IPV4_HEADER_LEN + (at + 2) % 4]);
        packet[IPV4_HEADER_LEN..IPV4_HEADER_LEN + 4].copy_from_slice(&ports);
        assert_eq!(answer(&packet), Some((A.into(), 0x0102_0304)));
        assert_eq!(answer(&packet[..LEN - 1]), None);
    }
}
