//! The messages of PCP's MAP (RFC 6887) and of NAT-PMP (RFC 6886), which share a
//! port and are told apart by their first byte.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where a router listens for both.
pub(super) const PORT: u16 = 5_351;
/// A request or an answer of PCP's MAP for one mapping, in bytes.
pub(super) const MAP_LEN: usize = 60;

const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;
const UDP: u8 = 17;

/// Names one mapping to a router, so that only who made it may change it.
pub(super) type Nonce = [u8; 12];

/// What a router said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// PCP: packets to there come to us, for so many seconds.
    Mapped { external: Ipv4Addr, port: u16, lease_s: u32 },
    /// NAT-PMP: the router's address.
    Address(Ipv4Addr),
    /// NAT-PMP: packets to this port of the router come to us.
    Port { port: u16, lease_s: u32 },
    /// It speaks the other of the two.
    OtherVersion,
    /// It will not, by this number; PCP also says for how long it will go on not to.
    Refused { code: u8, for_s: u32 },
}

/// PCP's request for a mapping of UDP; a lease of 0 ends it.
pub(super) fn map(
    nonce: &Nonce,
    local: Ipv4Addr,
    (port, external): (u16, u16),
    lease_s: u32,
) -> [u8; MAP_LEN] {
    let mut out = [0; MAP_LEN];
    out[0] = PCP;
    out[1] = MAP;
    out[4..8].copy_from_slice(&lease_s.to_be_bytes());
    out[8..24].copy_from_slice(&local.to_ipv6_mapped().octets());
    out[24..36].copy_from_slice(nonce);
    out[36] = UDP;
    out[40..42].copy_from_slice(&port.to_be_bytes());
    out[42..44].copy_from_slice(&external.to_be_bytes());
    // Any address of IPv4 (RFC 6887 section 11.1).
    out[44..60].copy_from_slice(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// NAT-PMP's request for the router's address.
pub(super) const fn address() -> [u8; 2] {
    [NAT_PMP, 0]
}

/// NAT-PMP's request for a mapping of UDP; a lease of 0 ends it.
pub(super) fn port((port, external): (u16, u16), lease_s: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = 1;
    out[4..6].copy_from_slice(&port.to_be_bytes());
    // The end of a mapping names no outer port (RFC 6886 section 3.4).
    let external = if lease_s == 0 { 0 } else { external };
    out[6..8].copy_from_slice(&external.to_be_bytes());
    out[8..12].copy_from_slice(&lease_s.to_be_bytes());
    out
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Reads an answer about our mapping; `None` for anything else.
pub(super) fn read(bytes: &[u8], nonce: &Nonce, own_port: u16) -> Option<Answer> {
    match *bytes.first()? {
        PCP => read_pcp(bytes, nonce, own_port),
        NAT_PMP => read_nat_pmp(bytes, own_port),
        _ => None,
    }
}

fn read_pcp(bytes: &[u8], nonce: &Nonce, own_port: u16) -> Option<Answer> {
    const UNSUPPORTED_VERSION: u8 = 1;
    let (kind, code, lease_s) = (*bytes.get(1)?, *bytes.get(3)?, u32_at(bytes, 4)?);
    if kind != ANSWER | MAP {
        return None;
    }
    if code == UNSUPPORTED_VERSION {
        return Some(Answer::OtherVersion);
    }
    // An answer of an error brings back what was asked.
    let is_ours = bytes.get(24..36)? == nonce && *bytes.get(36)? == UDP;
    if !is_ours || u16_at(bytes, 40)? != own_port {
        return None;
    }
    if code != 0 {
        return Some(Answer::Refused { code, for_s: lease_s });
    }
    let external: [u8; 16] = *bytes.get(44..60)?.first_chunk()?;
    let external = Ipv6Addr::from(external).to_ipv4_mapped()?;
    Some(Answer::Mapped { external, port: u16_at(bytes, 42)?, lease_s })
}

fn read_nat_pmp(bytes: &[u8], own_port: u16) -> Option<Answer> {
    const UNSUPPORTED_VERSION: u16 = 1;
    let (kind, code) = (*bytes.get(1)?, u16_at(bytes, 2)?);
    if kind & ANSWER == 0 {
        return None;
    }
    match (kind & !ANSWER, code) {
        // Also how a router without PCP answers to PCP (RFC 6886 section 3.5).
        (_, UNSUPPORTED_VERSION) => Some(Answer::OtherVersion),
        (0, 0) => u32_at(bytes, 8).map(|address| Answer::Address(address.into())),
        (1, 0) if u16_at(bytes, 8)? == own_port => {
            Some(Answer::Port { port: u16_at(bytes, 10)?, lease_s: u32_at(bytes, 12)? })
        }
        (0 | 1, 1..) => {
            Some(Answer::Refused { code: u8::try_from(code).unwrap_or(u8::MAX), for_s: 0 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = [7; 12];

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn requests_are_those_of_the_standards() {
        let local = Ipv4Addr::new(192, 168, 1, 20);
        assert_eq!(
            map(&NONCE, local, (51_871, 51_872), 7_200).to_vec(),
            hex("02 01 0000 00001c20 00000000000000000000ffffc0a80114 \
                 070707070707070707070707 11 000000 ca9f caa0 \
                 00000000000000000000ffff00000000")
        );
        assert_eq!(address(), [0, 0]);
        assert_eq!(port((51_871, 51_872), 7_200).to_vec(), hex("00 01 0000 ca9f caa0 00001c20"));
        assert_eq!(port((51_871, 51_872), 0).to_vec(), hex("00 01 0000 ca9f 0000 00000000"));
    }

    #[test]
    fn answers_are_read_and_those_about_others_are_not() {
        let mapped = "02 81 00 00 00000e10 00000064 000000000000000000000000 \
             070707070707070707070707 11 000000 ca9f 1234 00000000000000000000ffffcb007132";
        let external = Ipv4Addr::new(203, 0, 113, 50);
        let expected = Answer::Mapped { external, port: 0x1234, lease_s: 3_600 };
        for (text, answer) in [
            (mapped, Some(expected)),
            (
                &mapped.replacen("02 81 00 00", "02 81 00 08", 1),
                Some(Answer::Refused { code: 8, for_s: 3_600 }),
            ),
            // Another nonce, another port, TCP, an IPv6 address, a request, half of it.
            (&mapped.replacen("0707", "0708", 1), None),
            (&mapped.replacen("ca9f", "ca9e", 1), None),
            (&mapped.replacen("11 000000", "06 000000", 1), None),
            (&mapped.replacen("ffffcb", "fffecb", 1), None),
            (&mapped.replacen("02 81", "02 01", 1), None),
            (&mapped[..mapped.len() - 8], None),
            ("02 81 00 01 00000000 00000000 000000000000000000000000", Some(Answer::OtherVersion)),
            ("00 81 0001 00000064", Some(Answer::OtherVersion)),
            ("00 80 0000 00000064 cb007132", Some(Answer::Address(external))),
            (
                "00 81 0000 00000064 ca9f 1234 00000e10",
                Some(Answer::Port { port: 0x1234, lease_s: 3_600 }),
            ),
            ("00 81 0000 00000064 ca9e 1234 00000e10", None),
            ("00 81 0002 00000064 ca9f 0000 00000000", Some(Answer::Refused { code: 2, for_s: 0 })),
            ("00 81 0000 00000064", None),
            ("00 01 0000 ca9f caa0 00001c20", None),
            ("01 81 0000", None),
            ("", None),
        ] {
            assert_eq!(read(&hex(text), &NONCE, 51_871), answer, "{text}");
        }
    }
}
