//! Records of an established session.

use weft_wire::frame::{MAX_FRAME, RECORD_HEADER_LEN, RECORD_OVERHEAD, RecordHeader, TAG_LEN};

use super::SealedError;
use crate::aead::Key;
use crate::replay::ReplayWindow;

/// After this many records in either direction a new handshake is due.
pub const REKEY_AFTER_RECORDS: u64 = 1 << 20;
/// No record is sealed or opened with this counter or a greater one.
pub const REJECT_AFTER_RECORDS: u64 = 1 << 32;

/// The keys as one side uses them.
pub(super) struct Direction {
    pub(super) send: Key,
    pub(super) receive: Key,
}

/// A session of the control channel, either side. No `Clone`; erased when
/// dropped. Never stored: a restored counter would use a nonce twice.
///
/// ```compile_fail
/// fn is_clone<T: Clone>() {}
/// is_clone::<weft_noise::sealed::Session>();
/// ```
pub struct Session {
    id: u32,
    keys: Direction,
    /// Of the next record sent.
    counter: u64,
    /// 64 records.
    window: ReplayWindow<2>,
}

impl Session {
    pub(super) const fn new(id: u32, keys: Direction) -> Self {
        Self { id, keys, counter: 0, window: ReplayWindow::new() }
    }

    /// The id in every record's header.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Whether a record was opened: on the coordinator's side this confirms
    /// the session.
    pub const fn is_confirmed(&self) -> bool {
        self.window.next() > 0
    }

    /// Whether a record with this counter would be refused as one that was opened
    /// before, or is older than the window. Says nothing about who sent it.
    pub fn has_opened(&self, counter: u64) -> bool {
        !self.window.check(counter)
    }

    /// Whether a new handshake is due by the number of records.
    pub const fn rekey_due(&self) -> bool {
        self.counter >= REKEY_AFTER_RECORDS || self.window.next() >= REKEY_AFTER_RECORDS
    }

    /// Seals `plain` (padded already, see `ItemWriter::finish`) into a record
    /// and returns the record's length.
    ///
    /// # Errors
    ///
    /// [`SealedError::NoRoom`] or [`SealedError::Exhausted`].
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, SealedError> {
        let text = RECORD_HEADER_LEN..RECORD_HEADER_LEN + plain.len();
        if text.end + TAG_LEN > out.len() {
            return Err(SealedError::NoRoom);
        }
        out[text].copy_from_slice(plain);
        self.seal_in_place(out, plain.len())
    }

    /// Seals in place: `buffer` holds [`RECORD_HEADER_LEN`] bytes of any
    /// content, then `len` bytes of plain text, then room for the tag. Returns
    /// the record's length.
    ///
    /// # Errors
    ///
    /// [`SealedError::NoRoom`] or [`SealedError::Exhausted`]; the buffer is as
    /// it was.
    pub fn seal_in_place(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SealedError> {
        let end = len
            .checked_add(RECORD_OVERHEAD)
            .filter(|end| *end <= MAX_FRAME)
            .ok_or(SealedError::NoRoom)?;
        let frame = buffer.get_mut(..end).ok_or(SealedError::NoRoom)?;
        if self.counter >= REJECT_AFTER_RECORDS {
            return Err(SealedError::Exhausted);
        }
        let header = RecordHeader { session: self.id, counter: self.counter }.to_bytes();
        let (start, rest) = frame.split_at_mut(RECORD_HEADER_LEN);
        let (text, tag) = rest.split_at_mut(len);
        start.copy_from_slice(&header);
        tag.copy_from_slice(&self.keys.send.seal(self.counter, &header, text));
        self.counter += 1;
        Ok(end)
    }

    /// Opens a record into `out` and returns the plain text's length: counter
    /// against the window, then decryption, then the mark.
    ///
    /// # Errors
    ///
    /// [`SealedError`]; the session is as it was, and `out` holds no plain
    /// text.
    pub fn open(&mut self, frame: &[u8], out: &mut [u8]) -> Result<usize, SealedError> {
        let header = RecordHeader::parse(frame)?;
        if header.session != self.id {
            return Err(SealedError::Unexpected);
        }
        if header.counter >= REJECT_AFTER_RECORDS {
            return Err(SealedError::Exhausted);
        }
        if !self.window.check(header.counter) {
            return Err(SealedError::Replayed);
        }
        let (sealed, tag) = frame[RECORD_HEADER_LEN..]
            .split_last_chunk::<TAG_LEN>()
            .ok_or(SealedError::Unauthentic)?;
        let text = out.get_mut(..sealed.len()).ok_or(SealedError::NoRoom)?;
        text.copy_from_slice(sealed);
        let associated = header.to_bytes();
        if !self.keys.receive.open(header.counter, &associated, text, tag) {
            text.fill(0);
            return Err(SealedError::Unauthentic);
        }
        if !self.window.mark(header.counter) {
            text.fill(0);
            return Err(SealedError::Replayed);
        }
        Ok(sealed.len())
    }
}
