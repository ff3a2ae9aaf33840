//! Handshake timestamps.

/// A TAI64N label: 8 bytes of seconds and 4 of nanoseconds, big-endian, so
/// that the order of the bytes is the order in time (section 5.1).
///
/// All that WireGuard asks of it is that it rises with each initiation of a
/// static key; a device without a clock keeps a floor instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64n([u8; 12]);

/// 1970-01-01 00:00:00 as TAI64, with the 10 seconds TAI was ahead then; the
/// same constant as in other implementations.
const UNIX_EPOCH: u64 = 0x4000_0000_0000_000A;

impl Tai64n {
    /// Bytes on the wire.
    pub const LEN: usize = 12;
    /// Nanoseconds of one step, 16.8 ms: coarse, so that the label tells
    /// nobody the exact clock.
    pub const STEP_NS: u64 = 1 << 24;
    /// The smallest label.
    pub const ZERO: Self = Self([0; 12]);

    /// The label of a number of [`Tai64n::STEP_NS`] since 1970. Saturates in
    /// the year 2554.
    pub const fn from_steps(steps: u64) -> Self {
        let nanoseconds = steps.saturating_mul(Self::STEP_NS);
        let seconds = (UNIX_EPOCH + nanoseconds / 1_000_000_000).to_be_bytes();
        let rest = ((nanoseconds % 1_000_000_000) as u32).to_be_bytes();
        let mut label = [0; 12];
        let mut at = 0;
        while at < 12 {
            label[at] = if at < 8 { seconds[at] } else { rest[at - 8] };
            at += 1;
        }
        Self(label)
    }

    /// The steps of a Unix time in milliseconds.
    pub const fn steps_of_unix_ms(unix_ms: u64) -> u64 {
        unix_ms.saturating_mul(1_000_000) / Self::STEP_NS
    }

    /// Takes the bytes of a message.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    pub const fn to_bytes(self) -> [u8; 12] {
        self.0
    }
}
