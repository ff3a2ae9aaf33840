//! CRC-32 (IEEE 802.3, reflected, polynomial 0xEDB88320): finds typing and
//! copying errors. It is no protection against anybody.

const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

const TABLE: [u32; 256] = table();

/// The CRC-32 of `data`.
pub const fn crc32(data: &[u8]) -> u32 {
    let mut value = !0u32;
    let mut index = 0;
    while index < data.len() {
        value = (value >> 8) ^ TABLE[(value as u8 ^ data[index]) as usize];
        index += 1;
    }
    !value
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
