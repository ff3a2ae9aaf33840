//! The floor of the handshake stamps (TAI64N), written ahead of use, and beside
//! it how often the agent has started.
//!
//! Two slots, half a kilobyte apart so that one torn sector hits one slot:
//! sequence u64, floor u64, starts u32, CRC-32 of these, little-endian. They are
//! written in turns; the greater floor of the whole slots holds. A floor
//! therefore never falls, whatever was cut.

use std::io;

use weft_wire::crc::crc32;

use crate::store::{Disk, replace};

/// The file's name.
pub(crate) const NAME: &str = "stamp";

const SLOT_DISTANCE: usize = 512;
const SLOT_LEN: usize = 24;

/// What the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// No handshake stamp up to this one may be used again; `None`: a new
    /// device, or both slots are damaged (the agent then waits for the
    /// coordinator's time).
    pub(crate) floor: Option<u64>,
    /// Starts of the agent since the device was made.
    pub(crate) starts: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    sequence: u64,
    /// Which slot is the newer: the other is written next.
    newest: usize,
    stamp: Stamp,
}

fn slot(sequence: u64, floor: u64, starts: u32) -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    out[..8].copy_from_slice(&sequence.to_le_bytes());
    out[8..16].copy_from_slice(&floor.to_le_bytes());
    out[16..20].copy_from_slice(&starts.to_le_bytes());
    let crc = crc32(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Option<(u64, u64, u32)> {
    let bytes = bytes.first_chunk::<SLOT_LEN>()?;
    let (sequence, rest) = bytes.split_first_chunk::<8>()?;
    let (floor, rest) = rest.split_first_chunk::<8>()?;
    let (starts, crc) = rest.split_first_chunk::<4>()?;
    // Zeroes have a CRC that differs from zero, so an empty slot is no slot.
    (crc32(&bytes[..20]) == u32::from_le_bytes(*crc.first_chunk()?)).then(|| {
        (u64::from_le_bytes(*sequence), u64::from_le_bytes(*floor), u32::from_le_bytes(*starts))
    })
}

fn load(data: &[u8]) -> Slots {
    let mut slots = Slots::default();
    for number in 0..2 {
        let Some((sequence, floor, starts)) = data.get(number * SLOT_DISTANCE..).and_then(parse)
        else {
            continue;
        };
        if sequence >= slots.sequence {
            slots.sequence = sequence;
            slots.newest = number;
        }
        slots.stamp.floor = slots.stamp.floor.max(Some(floor));
        slots.stamp.starts = slots.stamp.starts.max(starts);
    }
    slots
}

/// Reads the file; one that is missing says nothing.
///
/// # Errors
///
/// As the file system says, if not that the file is missing.
pub(crate) fn read(disk: &impl Disk) -> io::Result<Stamp> {
    match disk.read(NAME) {
        Ok(data) => Ok(load(&data).stamp),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stamp::default()),
        Err(error) => Err(error),
    }
}

/// Raises the floor durably. A floor that is not higher than the file's is not
/// written.
///
/// # Errors
///
/// As the file system says; the floor must then not be used.
pub(crate) fn write(disk: &mut impl Disk, floor: u64, starts: u32) -> io::Result<()> {
    let data = match disk.read(NAME) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let slots = load(&data);
    if slots.stamp.floor.is_some_and(|present| present >= floor) {
        return Ok(());
    }
    // A sequence at its end was not written by us: the floors decide alone.
    let next = slot(slots.sequence.saturating_add(1), floor, starts);
    if data.len() != 2 * SLOT_DISTANCE {
        let mut whole = vec![0; 2 * SLOT_DISTANCE];
        whole[..SLOT_LEN].copy_from_slice(&next);
        return replace(disk, NAME, &whole);
    }
    let number = if slots.stamp.floor.is_some() { 1 - slots.newest } else { 0 };
    disk.write_at(NAME, (number * SLOT_DISTANCE) as u64, &next)?;
    disk.sync(NAME)
}
