//! Records in flash memory: a log over two pages or more (sequential-storage), in which a
//! write that power cuts leaves what was there before.

use core::ops::Range;

use embedded_storage_async::nor_flash::NorFlash;
use sequential_storage::Error;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::map::{MapConfig, MapConfigError, MapStorage};
use zeroize::Zeroize;

use crate::storage::{Record, Storage, WRAPPED_LEN};

/// Room for the longest record and its number, in words of flash memory.
const BUFFER_LEN: usize = WRAPPED_LEN + 8;

/// Records in the part `range` of a flash memory, in bytes from its beginning: whole
/// erase blocks, two at least. They are used in turn, so that more of them wear out later.
pub struct Flash<F: NorFlash> {
    map: MapStorage<u8, F, Cache<Uncached, Uncached, Uncached, u8>>,
    buffer: [u8; BUFFER_LEN],
    writes: u32,
}

/// The part of the flash memory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRange;

impl core::fmt::Display for BadRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the flash range must be two whole erase blocks or more")
    }
}

impl From<MapConfigError> for BadRange {
    fn from(_: MapConfigError) -> Self {
        Self
    }
}

impl<F: NorFlash> Flash<F> {
    /// Nothing is read or written yet.
    ///
    /// # Errors
    ///
    /// [`BadRange`].
    pub fn new(flash: F, range: Range<u32>) -> Result<Self, BadRange> {
        let config = MapConfig::try_new(range)?;
        let map = MapStorage::new(flash, config, Cache::new_uncached());
        Ok(Self { map, buffer: [0; BUFFER_LEN], writes: 0 })
    }

    /// The memory, as it is.
    pub fn into_inner(self) -> F {
        self.map.destroy().0
    }

    /// Records written since the start.
    pub const fn writes(&self) -> u32 {
        self.writes
    }
}

impl<F: NorFlash> Storage for Flash<F> {
    type Error = Error<F::Error>;

    async fn read(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, Self::Error> {
        let found = self.map.fetch_item::<&[u8]>(&mut self.buffer, &record.number()).await;
        let data = match found {
            Ok(data) => data,
            Err(Error::Corrupted { .. }) => None,
            Err(error) => return Err(error),
        };
        let len = data.and_then(|data| {
            out.get_mut(..data.len())?.copy_from_slice(data);
            Some(data.len())
        });
        self.buffer.zeroize();
        Ok(len)
    }

    async fn write(&mut self, record: Record, data: &[u8]) -> Result<(), Self::Error> {
        self.writes = self.writes.wrapping_add(1);
        let written = self.map.store_item(&mut self.buffer, &record.number(), &data).await;
        // Records are secrets, for the most part.
        self.buffer.zeroize();
        written
    }

    async fn erase(&mut self) -> Result<(), Self::Error> {
        self.map.erase_all().await
    }
}
