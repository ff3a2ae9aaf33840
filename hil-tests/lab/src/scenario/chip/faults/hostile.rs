//! What somebody in a chip's local network may send to it.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_wire::WIREGUARD_PORT;
use weft_wire::id::PublicKey;

use super::super::super::flood;
use crate::dice::Dice;
use crate::failure::{During, Failure, Result};
use crate::net::flood::{Flood, Target};
use crate::net::namespace::Namespace;

/// Different packets of a flood.
const PACKETS: usize = 2_048;
/// The longest datagram that an Ethernet frame takes.
const DATAGRAM: usize = 1_472;
const ETHERNET: usize = 14;
/// Where the box is in the local network, and whom it claims to pass on for.
const INTERFACE: &str = "lan";
const BOX: [u8; 6] = [2, 0, 0, 0, 3, 40];
const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// What a flood consists of.
pub(super) enum Hostile {
    /// Datagrams of any bytes and any length, to the tunnel's port.
    Garbage,
    /// Beginnings of WireGuard's four messages, of probes and of STUN.
    Truncated,
    /// Initiations by keys that nobody knows, each with a right mac1.
    Forged,
    /// Parts of IP packets, most of which fit no other.
    Fragments,
    /// Ethernet frames of any kind: ARP, IPv4, IPv6, others, cut anywhere.
    Frames,
}

impl Hostile {
    /// Packets that are ready, from the namespace where the chip's cable ends.
    pub(super) fn flood(
        &self,
        home: &Namespace,
        mac: &str,
        to: Ipv4Addr,
        key: &PublicKey,
    ) -> Result<Flood> {
        let mac = address(mac)?;
        let mut dice = Dice(self.seed());
        let all = |make: &mut dyn FnMut(usize) -> Vec<u8>| (0..PACKETS).map(make).collect();
        let target = Target {
            interface: INTERFACE,
            macs: (BOX, mac),
            to: SocketAddrV4::new(to, WIREGUARD_PORT),
            from: SOURCES,
            sources: 1 << 16,
        };
        let packets: Vec<Vec<u8>> = match self {
            Self::Garbage => all(&mut |_| bytes(&mut dice, DATAGRAM)),
            Self::Truncated => all(&mut |number| truncated(&mut dice, number)),
            Self::Forged => flood::forged(key, PACKETS / 4)?,
            Self::Fragments => all(&mut |_| fragment(&mut dice, mac, to)),
            Self::Frames => all(&mut |_| frame(&mut dice, mac)),
        };
        let made = home.within(|| match self {
            Self::Fragments | Self::Frames => Flood::of_frames(INTERFACE, packets),
            _ => Flood::new(&target, &packets),
        });
        made.during("enter a chip's home")?.during("make a flood")
    }

    const fn seed(&self) -> u64 {
        match self {
            Self::Garbage => 1,
            Self::Truncated => 2,
            Self::Forged => 3,
            Self::Fragments => 4,
            Self::Frames => 5,
        }
    }
}

/// `02:00:00:c0:00:01`
fn address(mac: &str) -> Result<[u8; 6]> {
    let parts: Vec<u8> =
        mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts.try_into().map_err(|_| Failure::new("lab.internal", format!("{mac} is no MAC address")))
}

/// Any bytes, at most so many.
fn bytes(dice: &mut Dice, most: usize) -> Vec<u8> {
    let len = dice.roll() as usize % (most + 1);
    (0..len).map(|_| dice.roll() as u8).collect()
}

fn truncated(dice: &mut Dice, number: usize) -> Vec<u8> {
    // Whole messages among them, and what is a byte longer.
    let (head, whole): (&[u8], usize) = match number % 6 {
        0 => (&[1, 0, 0, 0], 148),
        1 => (&[2, 0, 0, 0], 92),
        2 => (&[3, 0, 0, 0], 64),
        3 => (&[4, 0, 0, 0], 128),
        4 => (&[weft_wire::probe::PROBE], 64),
        // A Binding answer with its cookie (RFC 8489 section 5).
        _ => (&[1, 1, 0, 12, 0x21, 0x12, 0xA4, 0x42], 32),
    };
    let mut datagram = head.to_vec();
    datagram.extend((head.len()..whole + 1).map(|_| dice.roll() as u8));
    datagram.truncate(dice.roll() as usize % (whole + 2));
    datagram
}

/// A part of an IPv4 packet: more may follow, it may lie anywhere, and its stated length
/// is its own three times of four.
fn fragment(dice: &mut Dice, mac: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(mac, [8, 0]);
    let payload = bytes(dice, 1_400);
    let len =
        if dice.roll().is_multiple_of(4) { dice.roll() as u16 } else { 20 + payload.len() as u16 };
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    // Few packets, so that some parts do fit.
    ip[5] = dice.roll() as u8 % 4;
    ip[6..8].copy_from_slice(&(dice.roll() as u16 & 0x3FFF).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, [1, 6, 17, dice.roll() as u8][dice.roll() as usize % 4]]);
    ip[12..16].copy_from_slice(&(u32::from(SOURCES) + dice.roll() as u32 % 4).to_be_bytes());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = crate::net::echo::checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(payload);
    frame
}

fn frame(dice: &mut Dice, mac: [u8; 6]) -> Vec<u8> {
    let kinds = [[8, 0], [8, 6], [0x86, 0xDD], [dice.roll() as u8, dice.roll() as u8]];
    let to = if dice.roll().is_multiple_of(4) { [0xFF; 6] } else { mac };
    let mut frame = ethernet(to, kinds[dice.roll() as usize % 4]);
    frame.extend(bytes(dice, 1_500));
    // A beginning that a parser goes on from.
    let first = [0x45, 0x4F, 0x60, 0x00][dice.roll() as usize % 4];
    if let Some(byte) = frame.get_mut(ETHERNET) {
        *byte = first;
    }
    frame
}

fn ethernet(to: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &BOX, &kind].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_fit_their_frames() {
        let (mut dice, mac, to) = (Dice(1), [2; 6], Ipv4Addr::new(10, 40, 0, 2));
        for number in 0..PACKETS {
            assert!(truncated(&mut dice, number).len() <= 149);
            let lens = [fragment(&mut dice, mac, to).len(), frame(&mut dice, mac).len()];
            assert!(lens.iter().all(|len| (ETHERNET..=ETHERNET + 1_500).contains(len)));
        }
        assert_eq!(address("02:00:00:c0:00:01").unwrap(), [2, 0, 0, 0xC0, 0, 1]);
        assert!(address("02:00").is_err());
    }
}
