//! The Internet checksum (RFC 1071).

use core::net::IpAddr;

/// A running one's-complement sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Zero.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes as big-endian words; an odd last byte is padded with zero, so
    /// only the last slice of a sum may be odd.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut chunks = bytes.chunks_exact(2);
        let mut sum = self.0;
        for word in &mut chunks {
            sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = chunks.remainder() {
            sum += u64::from(*last) << 8;
        }
        Self(sum)
    }

    /// Adds the pseudo header of TCP, UDP and ICMPv6 (RFC 8200 section 8.1, RFC
    /// 768). Addresses of two families add nothing useful.
    #[must_use]
    pub fn pseudo_header(
        self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        len: usize,
    ) -> Self {
        let with_address = |sum: Self, address: IpAddr| match address {
            IpAddr::V4(address) => sum.bytes(&address.octets()),
            IpAddr::V6(address) => sum.bytes(&address.octets()),
        };
        let sum = with_address(with_address(self, source), destination);
        Self(sum.0 + u64::from(protocol) + (len as u64 >> 16) + (len as u64 & 0xFFFF))
    }

    /// The checksum: the complement of the folded sum.
    pub const fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum >> 16) + (sum & 0xFFFF);
        }
        !(sum as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).finish(), !0xddf2);
    }

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        // An IPv4 header from RFC 1624's discussion, checksum filled in below.
        let mut header =
            [0x45, 0, 0, 84, 0x1c, 0x46, 0x40, 0, 64, 1, 0, 0, 100, 80, 0, 2, 100, 80, 0, 3];
        let checksum = Sum::new().bytes(&header).finish();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(Sum::new().bytes(&header).finish(), 0);
    }

    #[test]
    fn an_odd_byte_is_padded_with_zero() {
        assert_eq!(Sum::new().bytes(&[1, 2, 3]).finish(), Sum::new().bytes(&[1, 2, 3, 0]).finish());
    }
}
