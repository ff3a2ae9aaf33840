//! Flash memory on a virtual disk, as a NOR flash behaves: erased in blocks of 4 KB to
//! ones, of which writes can only make zeroes.

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::mmio::MmioTransport;

use crate::virtio::{Pool, find};

/// What is erased at once.
const BLOCK: usize = 4_096;

/// The flash memory.
pub struct Disk {
    device: VirtIOBlk<Pool, MmioTransport<'static>>,
}

/// It did not do what it was asked.
#[derive(Clone, Copy, Debug)]
pub enum DiskError {
    /// Not there.
    Range,
    /// The host said no.
    Device,
}

impl NorFlashError for DiskError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Range => NorFlashErrorKind::OutOfBounds,
            Self::Device => NorFlashErrorKind::Other,
        }
    }
}

impl Disk {
    /// `None` if the machine has none.
    pub(crate) fn open() -> Option<Self> {
        let (_, transport) = find(DeviceType::Block)?;
        Some(Self { device: VirtIOBlk::new(transport).ok()? })
    }

    /// The disk's serial number.
    pub(crate) fn secret(&mut self) -> Option<[u8; 32]> {
        let mut id = [0; 20];
        let len = self.device.device_id(&mut id).ok().filter(|len| *len > 0)?;
        let mut secret = [0; 32];
        secret.iter_mut().zip(id.iter().take(len)).for_each(|(place, byte)| *place = *byte);
        Some(secret)
    }

    /// Hands the bytes from `offset` on to `look`, sector by sector: the sector, where in
    /// it they begin, how many they are. What `look` says is written back.
    fn each(
        &mut self,
        offset: u32,
        len: usize,
        mut look: impl FnMut(&mut [u8], usize) -> bool,
    ) -> Result<(), DiskError> {
        let end = offset as usize + len;
        if end > self.capacity() {
            return Err(DiskError::Range);
        }
        let mut at = offset as usize;
        let mut sector = [0; SECTOR_SIZE];
        while at < end {
            let (number, from) = (at / SECTOR_SIZE, at % SECTOR_SIZE);
            let more = (end - at).min(SECTOR_SIZE - from);
            self.device.read_blocks(number, &mut sector).map_err(|_| DiskError::Device)?;
            if look(&mut sector[from..from + more], at - offset as usize) {
                self.device.write_blocks(number, &sector).map_err(|_| DiskError::Device)?;
            }
            at += more;
        }
        Ok(())
    }
}

impl ErrorType for Disk {
    type Error = DiskError;
}

impl ReadNorFlash for Disk {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, out: &mut [u8]) -> Result<(), DiskError> {
        self.each(offset, out.len(), |sector, at| {
            out[at..at + sector.len()].copy_from_slice(sector);
            false
        })
    }

    fn capacity(&self) -> usize {
        usize::try_from(self.device.capacity()).unwrap_or(0) * SECTOR_SIZE
    }
}

impl NorFlash for Disk {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = BLOCK;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), DiskError> {
        self.each(from, (to - from) as usize, |sector, _| {
            sector.fill(0xFF);
            true
        })
    }

    async fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), DiskError> {
        self.each(offset, data.len(), |sector, at| {
            sector.iter_mut().zip(&data[at..]).for_each(|(old, new)| *old &= new);
            true
        })
    }
}

impl MultiwriteNorFlash for Disk {}
