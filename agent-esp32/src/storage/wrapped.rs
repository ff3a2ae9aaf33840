//! Secrets sealed under a key that the board has outside of its flash memory.

use weft_noise::rest::{OVERHEAD, RestKey};
use zeroize::Zeroize;

use super::{PIECE_LEN, Record, Storage};

/// The longest record as it is kept.
pub(crate) const WRAPPED_LEN: usize = PIECE_LEN + OVERHEAD;

/// A storage in which the identity and the cache are sealed, 32 bytes longer each; stamps
/// and the index are no secrets, and stay as they are.
///
/// Who reads the flash memory out then has nothing without this very chip. Whoever runs code
/// on the chip has everything, and who can write the memory can put older records back.
pub struct Wrapped<S> {
    storage: S,
    key: Option<RestKey>,
    buffer: [u8; WRAPPED_LEN],
}

impl<S: Storage> Wrapped<S> {
    /// `secret`: what the board's hardware makes of a key that no software reads, the same
    /// after every start: on an ESP32-C3 or C6 the HMAC of some text with a key in the fuses.
    /// With `None` everything is kept as plain text; say so where a person reads it.
    ///
    /// What was kept without a key is not read with one: have it from the first start on.
    pub fn new(storage: S, secret: Option<&[u8; 32]>) -> Self {
        Self { storage, key: secret.map(RestKey::new), buffer: [0; WRAPPED_LEN] }
    }

    /// The storage in it, as it is.
    pub fn into_inner(self) -> S {
        self.storage
    }
}

/// Why a record cannot be kept, or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrapError<E> {
    /// The storage in it said so.
    Storage(E),
    /// The record is longer than any should be.
    TooLong,
}

impl Record {
    const fn is_secret(self) -> bool {
        matches!(self, Self::Identity | Self::Piece(_))
    }
}

impl<S: Storage> Storage for Wrapped<S> {
    type Error = WrapError<S::Error>;

    /// An identity that does not open is read as one of no bytes: the agent does not begin
    /// with it, and does not put a new one in its place.
    async fn read(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, Self::Error> {
        let Some(key) = self.key.as_ref().filter(|_| record.is_secret()) else {
            return self.storage.read(record, out).await.map_err(WrapError::Storage);
        };
        let read = self.storage.read(record, &mut self.buffer).await;
        let Some(len) = read.map_err(WrapError::Storage)? else {
            return Ok(None);
        };
        let sealed = self.buffer.get_mut(..len).unwrap_or_default();
        let opened = key.open(record.number(), sealed);
        let plain = opened.and_then(|len| self.buffer.get(..len));
        let copied = plain.and_then(|plain| {
            out.get_mut(..plain.len())?.copy_from_slice(plain);
            Some(plain.len())
        });
        self.buffer.zeroize();
        Ok(copied.or_else(|| matches!(record, Record::Identity).then_some(0)))
    }

    async fn write(&mut self, record: Record, data: &[u8]) -> Result<(), Self::Error> {
        let Some(key) = self.key.as_ref().filter(|_| record.is_secret()) else {
            return self.storage.write(record, data).await.map_err(WrapError::Storage);
        };
        if data.len() > PIECE_LEN {
            return Err(WrapError::TooLong);
        }
        let place = self.buffer.get_mut(..data.len()).ok_or(WrapError::TooLong)?;
        place.copy_from_slice(data);
        let sealed = key.seal(record.number(), &mut self.buffer, data.len());
        let sealed = sealed.and_then(|len| self.buffer.get(..len)).ok_or(WrapError::TooLong)?;
        let written = self.storage.write(record, sealed).await;
        self.buffer.zeroize();
        written.map_err(WrapError::Storage)
    }

    async fn erase(&mut self) -> Result<(), Self::Error> {
        self.storage.erase().await.map_err(WrapError::Storage)
    }
}
