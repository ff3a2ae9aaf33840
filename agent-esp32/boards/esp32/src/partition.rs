//! The partition `weft` of the flash memory.

use core::fmt;

use embedded_storage_async::nor_flash::{ErrorType, MultiwriteNorFlash, NorFlash, ReadNorFlash};
use esp_bootloader_esp_idf::partitions::{
    PARTITION_TABLE_MAX_LEN, PartitionEntry, read_partition_table,
};
use esp_hal::peripherals::FLASH;
use esp_storage::{FlashStorage, FlashStorageError};

/// Its label in the partition table.
const LABEL: &str = "weft";

/// The partition. The chip waits while its flash memory works, so nothing here is ever
/// pending.
pub(crate) struct Partition {
    flash: FlashStorage<'static>,
    first: u32,
    len: u32,
}

/// There is no such partition, or it is one that flash encryption covers.
pub(crate) struct NoPartition;

impl fmt::Display for NoPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the partition table has no partition {LABEL} that is not encrypted")
    }
}

impl Partition {
    /// Looks it up.
    pub(crate) fn open(flash: FLASH<'static>) -> Result<Self, NoPartition> {
        let mut flash = FlashStorage::new(flash);
        let mut table = [0; PARTITION_TABLE_MAX_LEN];
        let table = read_partition_table(&mut flash, &mut table).map_err(|_| NoPartition)?;
        let is_ours = |entry: &PartitionEntry| entry.label_as_str() == LABEL;
        let entry = table.iter().find(is_ours).filter(|entry| !entry.is_encrypted());
        let entry = entry.ok_or(NoPartition)?;
        let (first, len) = (entry.offset(), entry.len());
        Ok(Self { flash, first, len })
    }

    /// Where in the flash memory something lies that is in the partition.
    fn place(&self, offset: u32, len: usize) -> Result<u32, FlashStorageError> {
        let is_inside =
            (offset as usize).checked_add(len).is_some_and(|end| end <= self.capacity());
        is_inside.then_some(self.first + offset).ok_or(FlashStorageError::OutOfBounds)
    }
}

impl ErrorType for Partition {
    type Error = FlashStorageError;
}

impl ReadNorFlash for Partition {
    const READ_SIZE: usize = FlashStorage::READ_SIZE;

    async fn read(&mut self, offset: u32, out: &mut [u8]) -> Result<(), FlashStorageError> {
        self.flash.read_nor(self.place(offset, out.len())?, out)
    }

    fn capacity(&self) -> usize {
        self.len as usize
    }
}

impl NorFlash for Partition {
    const WRITE_SIZE: usize = FlashStorage::WRITE_SIZE;
    const ERASE_SIZE: usize = FlashStorage::ERASE_SIZE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashStorageError> {
        let len = to.checked_sub(from).ok_or(FlashStorageError::OutOfBounds)?;
        let from = self.place(from, len as usize)?;
        self.flash.erase(from, from + len)
    }

    async fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), FlashStorageError> {
        self.flash.write_nor(self.place(offset, data.len())?, data)
    }
}

impl MultiwriteNorFlash for Partition {}
