//! Headers of the five frames of the sealed control channel
//! (`Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s`). All integers little-endian.
//!
//! ```text
//! HELLO    0 version  1 type  2 psk kind  3 psk ref 8  11 inbox 16  27 e 32
//!          59 sealed static 48  107 sealed payload n+16  … token 16  mac1 16
//! WELCOME  0 version  1 type  2 hello hash 8  10 e 32  42 sealed payload n+16
//! RECORD   0 version  1 type  2 session u32  6 counter u64  14 sealed n+16
//! RETRY    0 version  1 type  2 hello hash 8  10 token 16
//! RESET    0 version  1 type  2 session u32  6 hello hash 8
//! ```
//!
//! The Noise prologue is the first [`PROLOGUE_LEN`] bytes of HELLO, so a frame
//! moved to another inbox, PSK or version fails. The first 14 bytes of RECORD
//! are its associated data. This module checks lengths and fixed fields and
//! touches no key.

use crate::id::Inbox;

/// The first byte of every frame.
pub const FRAME_VERSION: u8 = 1;
/// An AEAD tag, a MAC, and a retry token have this many bytes.
pub const TAG_LEN: usize = 16;
/// A HELLO's first bytes, bound as the Noise prologue.
pub const PROLOGUE_LEN: usize = 27;
/// Bytes of a HELLO beside its payload's plain text.
pub const HELLO_OVERHEAD: usize = PROLOGUE_LEN + 32 + 48 + TAG_LEN + TAG_LEN + TAG_LEN;
/// Bytes of a WELCOME beside its payload's plain text.
pub const WELCOME_OVERHEAD: usize = 2 + 8 + 32 + TAG_LEN;
/// A RECORD's header, bound as associated data.
pub const RECORD_HEADER_LEN: usize = 14;
/// Bytes of a RECORD beside its plain text.
pub const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + TAG_LEN;
/// A RETRY has exactly this many bytes.
pub const RETRY_LEN: usize = 26;
/// A RESET has exactly this many bytes.
pub const RESET_LEN: usize = 14;
/// The longest frame any device takes: one MQTT packet of 4,096 B holds it.
pub const MAX_FRAME: usize = 3_840;
/// The longest frame a chip takes.
pub const MAX_FRAME_CHIP: usize = 1_024;
/// Records are padded with zero bytes to a multiple of this.
pub const PADDING: usize = 64;

/// The second byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Device to coordinator: message one of the handshake.
    Hello = 1,
    /// Coordinator to device: message two.
    Welcome = 2,
    /// Either way: sealed items.
    Record = 3,
    /// Coordinator to device: repeat the HELLO with this token.
    Retry = 4,
    /// Coordinator to device: unauthenticated hint that a session is unknown.
    Reset = 5,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// Shorter or longer than any frame of its kind.
    Length,
    /// The first byte names a frame version that this side does not speak.
    Version(u8),
    /// The second byte is no known kind.
    Kind(u8),
    /// A fixed field holds a value that is not allowed.
    Field,
}

/// Which PSK a HELLO is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PskKind {
    /// An enrolment key's, named by the PSK reference.
    Enrolment,
    /// The device's own; the reference is zero.
    Device,
}

/// The byte at offset 2 of HELLO: kind in the low 4 bits, version of the PSK
/// master in the high 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PskSelector {
    /// Which PSK.
    pub kind: PskKind,
    /// Version of the master that it is derived from, 0 to 15.
    pub master: u8,
}

impl PskSelector {
    /// The byte on the wire.
    pub const fn to_byte(self) -> u8 {
        let kind = match self.kind {
            PskKind::Enrolment => 1,
            PskKind::Device => 2,
        };
        (self.master << 4) | kind
    }

    /// Reads the byte.
    ///
    /// # Errors
    ///
    /// [`FrameError::Field`] for an unknown kind.
    pub const fn from_byte(byte: u8) -> Result<Self, FrameError> {
        let kind = match byte & 0x0F {
            1 => PskKind::Enrolment,
            2 => PskKind::Device,
            _ => return Err(FrameError::Field),
        };
        Ok(Self { kind, master: byte >> 4 })
    }
}

/// The kind of a frame, after its version byte was checked.
///
/// # Errors
///
/// [`FrameError`] for an empty, foreign or unknown frame.
pub fn kind(frame: &[u8]) -> Result<FrameKind, FrameError> {
    match frame {
        [FRAME_VERSION, 1, ..] => Ok(FrameKind::Hello),
        [FRAME_VERSION, 2, ..] => Ok(FrameKind::Welcome),
        [FRAME_VERSION, 3, ..] => Ok(FrameKind::Record),
        [FRAME_VERSION, 4, ..] => Ok(FrameKind::Retry),
        [FRAME_VERSION, 5, ..] => Ok(FrameKind::Reset),
        [FRAME_VERSION, kind, ..] => Err(FrameError::Kind(*kind)),
        [version, _, ..] => Err(FrameError::Version(*version)),
        _ => Err(FrameError::Length),
    }
}

/// Splits a fixed-size array off the front.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = bytes.get(at..at + N) {
        out.copy_from_slice(part);
    }
    out
}

/// A view of a HELLO whose length and fixed fields were checked.
#[derive(Clone, Copy)]
pub struct Hello<'a> {
    frame: &'a [u8],
    selector: PskSelector,
}

impl<'a> Hello<'a> {
    /// Checks length and fixed fields.
    ///
    /// # Errors
    ///
    /// [`FrameError`] names the first thing that is wrong.
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        if kind(frame)? != FrameKind::Hello {
            return Err(FrameError::Kind(frame[1]));
        }
        if frame.len() < HELLO_OVERHEAD || frame.len() > MAX_FRAME {
            return Err(FrameError::Length);
        }
        let selector = PskSelector::from_byte(frame[2])?;
        if selector.kind == PskKind::Device && field::<8>(frame, 3) != [0; 8] {
            return Err(FrameError::Field);
        }
        Ok(Self { frame, selector })
    }

    /// Writes the prologue of a HELLO (its first [`PROLOGUE_LEN`] bytes).
    pub fn emit_prologue(
        selector: PskSelector,
        reference: [u8; 8],
        inbox: Inbox,
        out: &mut [u8; PROLOGUE_LEN],
    ) {
        out[0] = FRAME_VERSION;
        out[1] = FrameKind::Hello as u8;
        out[2] = selector.to_byte();
        out[3..11].copy_from_slice(&reference);
        out[11..27].copy_from_slice(&inbox.0);
    }

    /// The whole frame.
    pub const fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Which PSK.
    pub const fn selector(&self) -> PskSelector {
        self.selector
    }

    /// The enrolment key's reference, or zero.
    pub fn reference(&self) -> [u8; 8] {
        field(self.frame, 3)
    }

    /// Where the answer goes.
    pub fn inbox(&self) -> Inbox {
        Inbox(field(self.frame, 11))
    }

    /// The bytes bound as Noise prologue.
    pub fn prologue(&self) -> &'a [u8] {
        &self.frame[..PROLOGUE_LEN]
    }

    /// The device's ephemeral public key.
    pub fn ephemeral(&self) -> [u8; 32] {
        field(self.frame, PROLOGUE_LEN)
    }

    /// The device's static key, sealed: 32 bytes and a tag.
    pub fn sealed_static(&self) -> [u8; 48] {
        field(self.frame, PROLOGUE_LEN + 32)
    }

    /// The sealed payload, tag included.
    pub fn sealed_payload(&self) -> &'a [u8] {
        &self.frame[PROLOGUE_LEN + 80..self.frame.len() - 2 * TAG_LEN]
    }

    /// The token of an earlier RETRY, or zero.
    pub fn token(&self) -> [u8; TAG_LEN] {
        field(self.frame, self.frame.len() - 2 * TAG_LEN)
    }

    /// What mac1 is taken over: everything before it.
    pub fn before_mac1(&self) -> &'a [u8] {
        &self.frame[..self.frame.len() - TAG_LEN]
    }

    /// The MAC that only holders of the coordinator's public key can make.
    pub fn mac1(&self) -> [u8; TAG_LEN] {
        field(self.frame, self.frame.len() - TAG_LEN)
    }
}

/// A view of a WELCOME whose length was checked.
#[derive(Clone, Copy)]
pub struct Welcome<'a>(&'a [u8]);

impl<'a> Welcome<'a> {
    /// Checks kind and length.
    ///
    /// # Errors
    ///
    /// [`FrameError`] names the first thing that is wrong.
    pub fn parse(frame: &'a [u8]) -> Result<Self, FrameError> {
        if kind(frame)? != FrameKind::Welcome {
            return Err(FrameError::Kind(frame[1]));
        }
        if frame.len() < WELCOME_OVERHEAD || frame.len() > MAX_FRAME {
            return Err(FrameError::Length);
        }
        Ok(Self(frame))
    }

    /// The first 8 bytes of the hash of the HELLO that this answers.
    pub fn hello_hash(&self) -> [u8; 8] {
        field(self.0, 2)
    }

    /// The coordinator's ephemeral public key.
    pub fn ephemeral(&self) -> [u8; 32] {
        field(self.0, 10)
    }

    /// The sealed payload, tag included.
    pub fn sealed_payload(&self) -> &'a [u8] {
        &self.0[42..]
    }
}

/// The header of a RECORD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The session's id, drawn by the coordinator.
    pub session: u32,
    /// The sender's counter: the AEAD nonce.
    pub counter: u64,
}

impl RecordHeader {
    /// Checks kind and length of a whole record and reads its header.
    ///
    /// # Errors
    ///
    /// [`FrameError`] names the first thing that is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        if kind(frame)? != FrameKind::Record {
            return Err(FrameError::Kind(frame[1]));
        }
        if frame.len() < RECORD_OVERHEAD || frame.len() > MAX_FRAME {
            return Err(FrameError::Length);
        }
        Ok(Self {
            session: u32::from_le_bytes(field(frame, 2)),
            counter: u64::from_le_bytes(field(frame, 6)),
        })
    }

    /// The 14 bytes on the wire.
    pub fn to_bytes(self) -> [u8; RECORD_HEADER_LEN] {
        let mut out = [0; RECORD_HEADER_LEN];
        out[0] = FRAME_VERSION;
        out[1] = FrameKind::Record as u8;
        out[2..6].copy_from_slice(&self.session.to_le_bytes());
        out[6..14].copy_from_slice(&self.counter.to_le_bytes());
        out
    }
}

/// A RETRY: "prove that you receive at that inbox".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first 8 bytes of the hash of the HELLO that this answers.
    pub hello_hash: [u8; 8],
    /// To be repeated in the next HELLO.
    pub token: [u8; TAG_LEN],
}

impl Retry {
    /// Checks kind and length.
    ///
    /// # Errors
    ///
    /// [`FrameError`] names the first thing that is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        if kind(frame)? != FrameKind::Retry {
            return Err(FrameError::Kind(frame[1]));
        }
        if frame.len() != RETRY_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self { hello_hash: field(frame, 2), token: field(frame, 10) })
    }

    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; RETRY_LEN] {
        let mut out = [0; RETRY_LEN];
        out[0] = FRAME_VERSION;
        out[1] = FrameKind::Retry as u8;
        out[2..10].copy_from_slice(&self.hello_hash);
        out[10..].copy_from_slice(&self.token);
        out
    }
}

/// A RESET: anybody on the way can make one, so it is a hint and never more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The session that is not known.
    pub session: u32,
    /// The first 8 bytes of the hash of the HELLO that made it, or zero.
    pub hello_hash: [u8; 8],
}

impl Reset {
    /// Checks kind and length.
    ///
    /// # Errors
    ///
    /// [`FrameError`] names the first thing that is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        if kind(frame)? != FrameKind::Reset {
            return Err(FrameError::Kind(frame[1]));
        }
        if frame.len() != RESET_LEN {
            return Err(FrameError::Length);
        }
        Ok(Self { session: u32::from_le_bytes(field(frame, 2)), hello_hash: field(frame, 6) })
    }

    /// The bytes on the wire.
    pub fn to_bytes(self) -> [u8; RESET_LEN] {
        let mut out = [0; RESET_LEN];
        out[0] = FRAME_VERSION;
        out[1] = FrameKind::Reset as u8;
        out[2..6].copy_from_slice(&self.session.to_le_bytes());
        out[6..].copy_from_slice(&self.hello_hash);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_survive_the_round_trip() {
        let retry = Retry { hello_hash: [1; 8], token: [2; 16] };
        assert_eq!(Retry::parse(&retry.to_bytes()), Ok(retry));
        let reset = Reset { session: 0xDEAD_BEEF, hello_hash: [3; 8] };
        assert_eq!(Reset::parse(&reset.to_bytes()), Ok(reset));
        let header = RecordHeader { session: 7, counter: u64::MAX };
        let mut record = [0; RECORD_OVERHEAD];
        record[..RECORD_HEADER_LEN].copy_from_slice(&header.to_bytes());
        assert_eq!(RecordHeader::parse(&record), Ok(header));
    }

    #[test]
    fn every_length_is_total() {
        let bytes = [FRAME_VERSION; 4_000];
        for kind_byte in 0..=255 {
            for len in (0..300).chain([MAX_FRAME, MAX_FRAME + 1, 4_000]) {
                let mut frame = bytes[..len].to_vec();
                if let Some(second) = frame.get_mut(1) {
                    *second = kind_byte;
                }
                if let Ok(hello) = Hello::parse(&frame) {
                    assert_eq!(hello.sealed_payload().len(), len - HELLO_OVERHEAD + TAG_LEN);
                }
                if let Ok(welcome) = Welcome::parse(&frame) {
                    assert!(welcome.sealed_payload().len() >= TAG_LEN);
                }
                let _ = (RecordHeader::parse(&frame), Retry::parse(&frame), Reset::parse(&frame));
            }
        }
    }

    #[test]
    fn a_device_hello_names_no_reference() {
        let mut frame = [0; HELLO_OVERHEAD];
        let mut prologue = [0; PROLOGUE_LEN];
        let selector = PskSelector { kind: PskKind::Device, master: 3 };
        Hello::emit_prologue(selector, [0; 8], Inbox([9; 16]), &mut prologue);
        frame[..PROLOGUE_LEN].copy_from_slice(&prologue);
        assert_eq!(Hello::parse(&frame).map(|h| h.selector()), Ok(selector));
        frame[3] = 1;
        assert_eq!(Hello::parse(&frame).map(|h| h.selector()), Err(FrameError::Field));
    }
}
