//! The network map: which peers a device may talk to, and how.
//!
//! A map is state, not a log: a page moves a device from revision `from` to
//! `to`, every op is idempotent and applied at once, removals first. `to` counts
//! only after the last page; an interruption resumes from `from`; `from = 0` is
//! a snapshot (the device drops what the pages do not name).

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize as De, Serialize as Ser};

use crate::body::{Body, Reader, Writer};
use crate::id::{DeviceId, Epoch, Name, PublicKey, Revision, Secret};
use crate::item::{RequestId, item};

/// An address range. Bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Ser, De)]
pub enum Prefix {
    /// IPv4 and a length of at most 32.
    V4(Ipv4Addr, u8),
    /// IPv6 and a length of at most 128.
    V6(Ipv6Addr, u8),
}

crate::body!(enum Prefix, else Self::V4(Ipv4Addr::UNSPECIFIED, 0); { 0 = V4(value, len), 1 = V6(value, len) });

/// A network's addresses. A device is one number `host`; both its addresses
/// follow from it. Does not decode with another length than 8 to 28.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
#[serde(try_from = "OverlayFields")]
pub struct Overlay {
    /// The IPv4 range's first address.
    pub ipv4: Ipv4Addr,
    /// Its length, 8 to 28.
    pub ipv4_len: u8,
    /// The first 48 bits of the IPv6 ULA range (RFC 4193); subnet 0 is used.
    pub ipv6: [u8; 6],
}

/// An [`Overlay`] as it travels.
#[derive(De)]
struct OverlayFields {
    ipv4: Ipv4Addr,
    ipv4_len: u8,
    ipv6: [u8; 6],
}

impl TryFrom<OverlayFields> for Overlay {
    type Error = &'static str;

    fn try_from(fields: OverlayFields) -> Result<Self, Self::Error> {
        let OverlayFields { ipv4, ipv4_len, ipv6 } = fields;
        if (8..=28).contains(&ipv4_len) {
            Ok(Self { ipv4, ipv4_len, ipv6 })
        } else {
            Err("an overlay's length is 8 to 28")
        }
    }
}

/// Reads the fields as they travel, and refuses another length as serde does.
impl Body for Overlay {
    fn put(&self, writer: &mut Writer<'_>) {
        self.ipv4.put(writer);
        self.ipv4_len.put(writer);
        self.ipv6.put(writer);
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        let (ipv4, ipv4_len) = Body::take(reader);
        let ipv6 = Body::take(reader);
        Self::try_from(OverlayFields { ipv4, ipv4_len, ipv6 }).unwrap_or_else(|_| {
            reader.fail();
            Self { ipv4: Ipv4Addr::UNSPECIFIED, ipv4_len: 8, ipv6 }
        })
    }
}

impl Overlay {
    /// Hosts 0, 1 and the last are never given.
    pub const fn hosts(&self) -> core::ops::RangeInclusive<u32> {
        let size = 1u64 << (32 - self.ipv4_len as u32);
        2..=(size - 2) as u32
    }

    /// The IPv4 address of a host.
    pub const fn address_v4(&self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.ipv4.to_bits() | host)
    }

    /// The IPv6 address of a host: prefix, subnet 0, host.
    pub fn address_v6(&self, host: u32) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.ipv6);
        octets[12..].copy_from_slice(&host.to_be_bytes());
        octets.into()
    }

    /// The IPv6 range is a /48.
    pub fn prefix_v6(&self) -> (Ipv6Addr, u8) {
        (self.address_v6(0), 48)
    }
}

item!(
    /// Request: the next page of the map.
    20 MapNext {
        /// Epoch that the device knows; another one than the coordinator's is
        /// answered from revision 0.
        epoch: Epoch,
        /// Revision that the device has committed.
        from: Revision,
        /// Page to send, from 0.
        page: u16,
    }
);

item!(
    /// Head of a page; its ops follow as items inside the same body.
    21 Page {
        /// Epoch of `to`.
        epoch: Epoch,
        /// What the ops build on; 0 = nothing.
        from: Revision,
        /// What holds after the last page.
        to: Revision,
        /// This page's number, from 0.
        page: u16,
        /// Pages in all, at least 1.
        of: u16,
    }
);

item!(
    /// The coordinator holds a newer revision: ask for it.
    22 MapReady {
        /// Epoch of the map.
        epoch: Epoch,
        /// Newest revision.
        revision: Revision,
    }
);

/// Which key of a rotation the second one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum SecondKind {
    /// To be accepted now, and used once the coordinator says so.
    Next,
    /// Still accepted.
    Previous,
}

crate::body!(enum SecondKind, else Self::Next; { 0 = Next, 1 = Previous });

/// A peer's second key during a rotation.
#[derive(Ser, De)]
pub struct SecondKey {
    /// The WireGuard key; the first one again while only the secret changes.
    pub key: PublicKey,
    /// The secret of the pair with this key, see [`PeerUpsert::psk`].
    pub psk: Secret,
    /// Next or previous.
    pub kind: SecondKind,
    /// Dropped at this Unix time in milliseconds; 0 = when told.
    pub until_ms: u64,
}

crate::body!(struct SecondKey { key, psk, kind, until_ms });

/// Bits of [`PeerUpsert::flags`].
pub mod peer_flags {
    /// May be reached through a relay.
    pub const RELAY: u8 = 1;
    /// Holds its tunnels on demand: may answer "busy".
    pub const ON_DEMAND: u8 = 2;
    /// Speaks plain WireGuard only: no probes, no calls.
    pub const WIREGUARD_ONLY: u8 = 4;
    /// The way to it is to be kept open while nobody talks.
    pub const KEEP_WARM: u8 = 8;
}

/// The most routes behind one peer on any device.
pub const PEER_ROUTES: usize = 64;

/// 64 bytes in two halves (serde's arrays end at 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

crate::body!(struct Signature { 0, 1 });

item!(
    /// Op: this peer is as follows, whatever was known before.
    40 PeerUpsert {
        /// Who.
        device: DeviceId,
        /// Its name.
        name: Name,
        /// Its WireGuard key.
        key: PublicKey,
        /// The secret of this pair; zero = none. Both devices derive the PSK of
        /// two of their keys from it, so that each pair of keys has a PSK of its
        /// own without being told. With a peer that speaks WireGuard only it is
        /// the PSK itself.
        psk: Secret,
        /// A second key while it rotates.
        second: Option<SecondKey>,
        /// Host number in the overlay.
        host: u32,
        /// Largest packet it takes through the tunnel, in bytes.
        mtu: u16,
        /// Bits of [`peer_flags`].
        flags: u8,
        /// Which of this device's [`Rules`] admit packets *from* the peer: bit n
        /// for rule n.
        rules_in: u64,
        /// Which of the *peer's* rules admit packets from this device, numbered
        /// as in this device's own [`Rules`]. Advisory: an early "denied".
        rules_out: u64,
        /// Ranges behind the peer beside its own two addresses.
        routes: heapless::Vec<Prefix, PEER_ROUTES>,
        /// Where a WireGuard-only peer listens, if it has a fixed place.
        endpoint: Option<SocketAddr>,
        /// Reserved for the membership lock.
        attestation: Option<Signature>,
    }
);

item!(
    /// Op: forget this peer and every key of it.
    41 PeerRemove {
        /// Who.
        device: DeviceId,
    }
);

item!(
    /// Op: a peer's second key came, changed or went (`None`).
    42 PeerKey {
        /// Who.
        device: DeviceId,
        /// The second key.
        second: Option<SecondKey>,
    }
);

/// One thing that may pass. Protocol numbers are IANA's; 0 = any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Ser, De)]
pub struct Rule {
    /// Bit of the peers' masks, 0 to 63.
    pub number: u8,
    /// IP protocol, 0 = any.
    pub protocol: u8,
    /// First destination port; 0 with `last_port` 65535 = any.
    pub first_port: u16,
    /// Last destination port.
    pub last_port: u16,
}

crate::body!(struct Rule { number, protocol, first_port, last_port });

/// The most rules on any device; a chip says how many it takes.
pub const RULES: usize = 64;

item!(
    /// Op: the complete rules of this device. No rules = nothing passes.
    43 Rules {
        /// In rising order of `number`.
        rules: heapless::Vec<Rule, RULES>,
    }
);

/// The most STUN servers in a map.
pub const SERVERS: usize = 4;

item!(
    /// Op: the complete list of STUN servers.
    44 Servers {
        /// Best first.
        stun: heapless::Vec<SocketAddr, SERVERS>,
    }
);

item!(
    /// Op: the network's settings.
    45 Settings {
        /// Addresses.
        overlay: Overlay,
        /// This device's host number.
        host: u32,
        /// This device's name.
        name: Name,
        /// MTU of mesh interfaces, 1280 to 1420 bytes.
        mtu: u16,
        /// The coordinator's next key, when a change is planned.
        next_pin: Option<PublicKey>,
    }
);

item!(
    /// Op: how long the map holds without word from the coordinator.
    46 Lease {
        /// Seconds of powered-on time.
        lease_s: u32,
    }
);

/// This device's second key, as its peers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct OwnSecond {
    /// The WireGuard key.
    pub key: PublicKey,
    /// Next or previous.
    pub kind: SecondKind,
}

crate::body!(struct OwnSecond { key, kind });

item!(
    /// Op: what peers know of this device's own WireGuard keys. State like every
    /// op: the device brings what it holds into line with it.
    47 OwnKeys {
        /// The key that peers use. [`PublicKey::ZERO`] says nothing: ignored.
        active: PublicKey,
        /// The second key that they accept.
        second: Option<OwnSecond>,
        /// Number of the rotation that the device is to make its next key for;
        /// 0 = none.
        wanted: u32,
    }
);

item!(
    /// Op: how many bytes a day this device may spend on all but payload where they
    /// cost money. Its own setting may be tighter.
    49 DataBudget {
        /// Bytes; `None` = as it likes.
        bytes: Option<u64>,
    }
);

item!(
    /// Request: this is the next WireGuard key. It is in the device's storage
    /// already. Answered by [`crate::item::Done`].
    24 KeyReport {
        /// Id of this request.
        request: RequestId,
        /// [`OwnKeys::wanted`]; 0 = the device holds this key and no other,
        /// whatever the coordinator knows.
        rotation: u32,
        /// The key.
        key: PublicKey,
    }
);

item!(
    /// The device has applied and persisted this revision.
    23 MapApplied {
        /// Of an answerable command, or 0.
        request: RequestId,
        /// Epoch of the map.
        epoch: Epoch,
        /// Committed revision.
        revision: Revision,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_the_host() {
        let overlay = Overlay {
            ipv4: Ipv4Addr::new(100, 93, 0, 0),
            ipv4_len: 16,
            ipv6: [0xfd, 0x5c, 0x7e, 0x0a, 0x91, 0xb3],
        };
        assert_eq!(overlay.hosts(), 2..=65_534);
        assert_eq!(overlay.address_v4(2), Ipv4Addr::new(100, 93, 0, 2));
        assert_eq!(overlay.address_v4(0x0102), Ipv4Addr::new(100, 93, 1, 2));
        assert_eq!(overlay.address_v6(2).to_string(), "fd5c:7e0a:91b3::2");
        assert_eq!(overlay.prefix_v6().0.to_string(), "fd5c:7e0a:91b3::");
    }

    #[test]
    fn an_overlay_of_no_possible_length_is_refused() {
        for len in 0..=u8::MAX {
            let overlay =
                Overlay { ipv4: Ipv4Addr::new(100, 93, 0, 0), ipv4_len: len, ipv6: [0xFD; 6] };
            let mut buffer = [0; 32];
            let bytes = postcard::to_slice(&overlay, &mut buffer).unwrap();
            let decoded = postcard::from_bytes::<Overlay>(bytes);
            assert_eq!(decoded.ok(), (8..=28).contains(&len).then_some(overlay));
        }
    }
}
