//! Items on their way into records of one session.

use bytes::Bytes;
use weft_noise::sealed::{SealedError, Session};
use weft_wire::frame::{RECORD_HEADER_LEN, RECORD_OVERHEAD, TAG_LEN};
use weft_wire::item::{Item, ItemError, ItemWriter};
use zeroize::Zeroizing;

/// One record's plain text, with room around it for what sealing adds.
struct Plain {
    buffer: Zeroizing<Vec<u8>>,
    len: usize,
}

/// Collects items into as few records as the device's longest frame allows.
/// What it holds is erased when it goes.
pub struct Replies {
    max_plain: usize,
    records: Vec<Plain>,
}

impl Replies {
    /// For a device that takes frames of `max_rx` bytes.
    pub fn new(max_rx: u16) -> Self {
        Self { max_plain: usize::from(max_rx).saturating_sub(RECORD_OVERHEAD), records: Vec::new() }
    }

    /// Bytes of items that fit into one record.
    pub const fn capacity(&self) -> usize {
        self.max_plain
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends an item.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`] when it does not even fit into a record of its own.
    pub fn put<T: Item>(&mut self, item: &T) -> Result<(), ItemError> {
        self.write(|writer| writer.put(item))
    }

    /// Appends what `write` writes, all of it into one record. `write` may be
    /// called twice.
    ///
    /// # Errors
    ///
    /// What `write` returns for an empty record.
    pub fn write(
        &mut self,
        write: impl Fn(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        if let Some(last) = self.records.last_mut()
            && Self::write_into(last, self.max_plain, &write).is_ok()
        {
            return Ok(());
        }
        let buffer = Zeroizing::new(vec![0; RECORD_HEADER_LEN + self.max_plain + TAG_LEN]);
        let mut record = Plain { buffer, len: 0 };
        Self::write_into(&mut record, self.max_plain, &write)?;
        self.records.push(record);
        Ok(())
    }

    fn write_into(
        record: &mut Plain,
        max_plain: usize,
        write: impl Fn(&mut ItemWriter<'_>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        let room = RECORD_HEADER_LEN + record.len..RECORD_HEADER_LEN + max_plain;
        let mut writer = ItemWriter::new(record.buffer.get_mut(room).ok_or(ItemError::NoRoom)?);
        write(&mut writer)?;
        record.len += writer.len();
        Ok(())
    }

    /// Pads and seals every record.
    ///
    /// # Errors
    ///
    /// [`SealedError::Exhausted`] when the session is at its end.
    pub fn seal(self, session: &mut Session) -> Result<Vec<Bytes>, SealedError> {
        self.records
            .into_iter()
            .map(|mut record| {
                let padded = record.len.next_multiple_of(weft_wire::frame::PADDING);
                let padded = padded.min(self.max_plain);
                // What lies behind the items is zero still, or what a writer
                // left that found no room.
                let end = RECORD_HEADER_LEN + padded;
                if let Some(padding) = record.buffer.get_mut(RECORD_HEADER_LEN + record.len..end) {
                    padding.fill(0);
                }
                let len = session.seal_in_place(&mut record.buffer, padded)?;
                Ok(Bytes::copy_from_slice(record.buffer.get(..len).unwrap_or_default()))
            })
            .collect()
    }
}
