//! Addresses, plain and masked (RFC 8489 sections 14.1 and 14.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

/// The longest address attribute's value.
pub(super) const MAX_LEN: usize = 20;

/// An address family, as REQUESTED-ADDRESS-FAMILY names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The number that stands for it.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    /// The family of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V4),
            2 => Some(Self::V6),
            _ => None,
        }
    }
}

/// What an address is masked with; nothing for a plain one.
fn mask(transaction: Option<TransactionId>) -> [u8; 16] {
    let mut mask = [0; 16];
    if let Some(id) = transaction {
        mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        mask[4..].copy_from_slice(&id);
    }
    mask
}

pub(super) fn read(value: &[u8], transaction: Option<TransactionId>) -> Option<SocketAddr> {
    let mask = mask(transaction);
    let unmask = |bytes: &mut [u8]| bytes.iter_mut().zip(mask).for_each(|(b, m)| *b ^= m);
    let (&[_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let address = match Family::from_number(family)? {
        Family::V4 => {
            let mut octets: [u8; 4] = address.try_into().ok()?;
            unmask(&mut octets);
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        Family::V6 => {
            let mut octets: [u8; 16] = address.try_into().ok()?;
            unmask(&mut octets);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    };
    Some(SocketAddr::new(address, port))
}

/// The attribute's value, and its length.
pub(super) fn write(
    address: SocketAddr,
    transaction: Option<TransactionId>,
) -> ([u8; MAX_LEN], usize) {
    let mask = mask(transaction);
    let mut value = [0; MAX_LEN];
    value[1] = Family::of(address.ip()).number();
    value[2..4].copy_from_slice(&address.port().to_be_bytes());
    let len = match address.ip() {
        IpAddr::V4(ip) => {
            value[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            value[4..].copy_from_slice(&ip.octets());
            20
        }
    };
    value[2] ^= mask[0];
    value[3] ^= mask[1];
    value[4..].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    (value, len)
}
