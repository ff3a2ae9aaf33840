//! What survives a reboot, record by record.
//!
//! The identity and the floor of handshake stamps are one record each. The cache is
//! several: a piece for what the map says of this device, one for each peer. A piece that
//! changes is written beside the one in force, and then the index, which says of every
//! piece which of its two places is in force: whatever is cut, the cache is the old one or
//! the new one.

mod wrapped;

pub(crate) use wrapped::WRAPPED_LEN;
pub use wrapped::{WrapError, Wrapped};

use weft_agent_core::control::Identity;
use weft_wire::body::{Body as _, Reader, Writer};
use weft_wire::id::PublicKey;
use zeroize::Zeroizing;

use crate::settings::StartError;

/// The most pieces of a cache.
const PIECES: u8 = 16;
/// The longest piece, in bytes: what a full map says of this device is some hundred less.
pub(crate) const PIECE_LEN: usize = 1_280;

/// What is kept, each under its number ([`Record::number`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Private keys and membership; at most 448 bytes. A secret.
    Identity,
    /// Floor of handshake stamps, and starts of the device; 12 bytes. Written before
    /// handshakes need it: losing it silences the device until it hears the time.
    Stamp,
    /// Which pieces of the cache are in force; 3 bytes.
    Index,
    /// A piece of the cache; at most 1,280 bytes. Holds pre-shared keys. May be lost.
    Piece(u8),
}

impl Record {
    /// A number of its own: 1 to 3, or 16 to 47.
    pub const fn number(self) -> u8 {
        match self {
            Self::Identity => 1,
            Self::Stamp => 2,
            Self::Index => 3,
            Self::Piece(place) => 16 + place % (2 * PIECES),
        }
    }
}

/// Where records are kept. [`crate::flash::Flash`] keeps them in flash memory; a board
/// with something better brings its own.
pub trait Storage {
    /// What can go wrong.
    type Error: core::fmt::Debug;

    /// Reads a record into the front of `out`: its length, or `None` if there is none, or
    /// if it was damaged.
    ///
    /// # Errors
    ///
    /// What reads no record at all.
    fn read(
        &mut self,
        record: Record,
        out: &mut [u8],
    ) -> impl Future<Output = Result<Option<usize>, Self::Error>>;

    /// Replaces a record. It is safe there when this returns, and the old one is there
    /// until then.
    ///
    /// # Errors
    ///
    /// The record is as it was.
    fn write(
        &mut self,
        record: Record,
        data: &[u8],
    ) -> impl Future<Output = Result<(), Self::Error>>;

    /// Forgets everything.
    ///
    /// # Errors
    ///
    /// Something may be left.
    fn erase(&mut self) -> impl Future<Output = Result<(), Self::Error>>;
}

impl<S: Storage> Storage for &mut S {
    type Error = S::Error;

    fn read(
        &mut self,
        record: Record,
        out: &mut [u8],
    ) -> impl Future<Output = Result<Option<usize>, Self::Error>> {
        S::read(self, record, out)
    }

    fn write(
        &mut self,
        record: Record,
        data: &[u8],
    ) -> impl Future<Output = Result<(), Self::Error>> {
        S::write(self, record, data)
    }

    fn erase(&mut self) -> impl Future<Output = Result<(), Self::Error>> {
        S::erase(self)
    }
}

/// Longest [`Record::Identity`], in bytes.
const IDENTITY_LEN: usize = 448;

/// The identity, if it is one for this coordinator, which stands before it.
///
/// # Errors
///
/// [`StartError::Storage`]; [`StartError::Identity`] when something else is in its place: a
/// new one would overwrite what a person may still want to look at.
pub(crate) async fn identity<S: Storage>(
    storage: &mut S,
    of: &PublicKey,
) -> Result<Option<Identity>, StartError<S::Error>> {
    let mut buffer = Zeroizing::new([0; IDENTITY_LEN]);
    let len = storage.read(Record::Identity, &mut *buffer).await.map_err(StartError::Storage)?;
    let Some(bytes) = len.and_then(|len| buffer.get(..len)) else { return Ok(None) };
    let mut reader = Reader::new(bytes);
    let (kept_of, identity) = (PublicKey::take(&mut reader), Identity::take(&mut reader));
    reader.rest().ok_or(StartError::Identity)?;
    Ok((kept_of == *of).then_some(identity))
}

/// An identity as it is kept. A secret.
pub(crate) struct KeptIdentity {
    bytes: Zeroizing<[u8; IDENTITY_LEN]>,
    len: usize,
}

impl KeptIdentity {
    /// `None` for one that is too long, which none is.
    pub(crate) fn new(of: &PublicKey, identity: &Identity) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; IDENTITY_LEN]);
        let mut writer = Writer::new(&mut *bytes);
        of.put(&mut writer);
        identity.put(&mut writer);
        let len = writer.written()?;
        Some(Self { bytes, len })
    }

    pub(crate) async fn write<S: Storage>(&self, storage: &mut S) -> Result<(), S::Error> {
        storage.write(Record::Identity, self.bytes.get(..self.len).unwrap_or_default()).await
    }
}

/// The floor of handshake stamps; `None`: lost. And starts of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) floor: Option<u64>,
    pub(crate) starts: u32,
}

impl Stamp {
    pub(crate) async fn read<S: Storage>(storage: &mut S) -> Result<Self, S::Error> {
        let mut buffer = [0; 12 + 8];
        let Some(12) = storage.read(Record::Stamp, &mut buffer).await? else {
            return Ok(Self::default());
        };
        let floor = buffer.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let starts = buffer.get(8..).and_then(|rest| rest.first_chunk());
        Ok(Self { floor, starts: starts.map_or(0, |bytes| u32::from_le_bytes(*bytes)) })
    }

    pub(crate) async fn write<S: Storage>(self, storage: &mut S) -> Result<(), S::Error> {
        let mut bytes = [0; 12];
        let (floor, starts) = bytes.split_at_mut(8);
        floor.copy_from_slice(&self.floor.unwrap_or(0).to_le_bytes());
        starts.copy_from_slice(&self.starts.to_le_bytes());
        storage.write(Record::Stamp, &bytes).await
    }
}

/// How many pieces there are, and which place of each is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    count: u8,
    /// A bit for each.
    second: u16,
}

impl Index {
    pub(crate) const NONE: Self = Self { count: 0, second: 0 };

    pub(crate) async fn read<S: Storage>(storage: &mut S) -> Result<Self, S::Error> {
        let mut buffer = [0; 3 + 8];
        let Some(3) = storage.read(Record::Index, &mut buffer).await? else {
            return Ok(Self::default());
        };
        let [count, low, high, ..] = buffer;
        Ok(Self { count: count.min(PIECES), second: u16::from_le_bytes([low, high]) })
    }

    async fn write<S: Storage>(self, storage: &mut S) -> Result<(), S::Error> {
        let [low, high] = self.second.to_le_bytes();
        storage.write(Record::Index, &[self.count, low, high]).await
    }

    /// No piece is in force any more: they were another device's.
    pub(crate) async fn forget<S: Storage>(storage: &mut S) -> Result<Self, S::Error> {
        if Self::read(storage).await?.count > 0 {
            Self::default().write(storage).await?;
        }
        Ok(Self::default())
    }

    /// Pieces in force.
    pub(crate) fn records(self) -> impl Iterator<Item = Record> {
        (0..self.count).map(move |piece| self.record(piece))
    }

    const fn record(self, piece: u8) -> Record {
        Record::Piece(2 * piece + (self.second >> piece & 1) as u8)
    }
}

/// A cache on its way into storage, piece after piece.
pub(crate) struct CacheWriter<'a, S> {
    storage: &'a mut S,
    before: Index,
    next: Index,
    /// Records written.
    records: u8,
}

impl<'a, S: Storage> CacheWriter<'a, S> {
    pub(crate) const fn new(storage: &'a mut S, before: Index) -> Self {
        Self { storage, before, next: Index { count: 0, second: before.second }, records: 0 }
    }

    /// The next piece; `scratch` takes the one before it. What does not change is not
    /// written. Pieces beyond the last place are left out: the cache may be lost.
    pub(crate) async fn put(&mut self, data: &[u8], scratch: &mut [u8]) -> Result<(), S::Error> {
        let piece = self.next.count;
        if piece >= PIECES {
            return Ok(());
        }
        let mut is_same = false;
        if piece < self.before.count {
            let len = self.storage.read(self.before.record(piece), scratch).await?;
            is_same = len.is_some_and(|len| scratch.get(..len) == Some(data));
        }
        if !is_same {
            self.next.second ^= 1 << piece;
            self.storage.write(self.next.record(piece), data).await?;
            self.records += 1;
        }
        self.next.count += 1;
        Ok(())
    }

    /// Puts what was written in force, and says how many records that took.
    pub(crate) async fn finish(mut self) -> Result<(Index, u8), S::Error> {
        if self.records > 0 || self.next.count != self.before.count {
            self.next.write(self.storage).await?;
            self.records += 1;
        }
        Ok((self.next, self.records))
    }
}

#[cfg(test)]
pub(crate) mod tests;
