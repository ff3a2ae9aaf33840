//! Power that goes while flash memory is written or erased, at every word; records that
//! rot; memory that is full.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod nor;

use embassy_futures::block_on;
use nor::{BLOCK, Nor};
use weft_agent_esp32::flash::{BadRange, Flash};
use weft_agent_esp32::storage::{Record, Storage};

const BLOCKS: usize = 4;

fn open(nor: Nor) -> Flash<Nor> {
    Flash::new(nor, 0..(BLOCKS * BLOCK) as u32).unwrap()
}

fn read(flash: &mut Flash<Nor>, record: Record) -> Option<Vec<u8>> {
    let mut out = [0; 1_024];
    let len = block_on(flash.read(record, &mut out)).unwrap()?;
    Some(out[..len].to_vec())
}

/// What a device writes in its first years, in turns: an identity once, stamps, pieces.
fn work(round: u32) -> (Record, Vec<u8>) {
    let fill = |len: usize| vec![round as u8; len];
    match round % 8 {
        0 => (Record::Identity, fill(350)),
        1 | 4 | 6 => (Record::Stamp, [&u64::from(round).to_le_bytes()[..], &[0; 4]].concat()),
        2 => (Record::Index, fill(3)),
        piece => (Record::Piece(piece as u8), fill(100 + piece as usize * 60)),
    }
}

/// Writes everything up to `rounds`, and says what each record held last.
fn written(flash: &mut Flash<Nor>, rounds: std::ops::Range<u32>) -> Vec<(Record, Vec<u8>)> {
    let mut last: Vec<(Record, Vec<u8>)> = Vec::new();
    for round in rounds {
        let (record, data) = work(round);
        block_on(flash.write(record, &data)).unwrap();
        last.retain(|(other, _)| *other != record);
        last.push((record, data));
    }
    last
}

#[test]
fn a_record_is_the_old_one_or_the_new_one_wherever_power_goes() {
    // Enough for every block to have been erased once.
    let mut flash = open(Nor::new(BLOCKS));
    let mut last = written(&mut flash, 0..80);
    let mut nor = flash.into_inner();
    let mut cuts = 0;
    for round in 80..120 {
        let (record, data) = work(round);
        let before = nor.clone();
        let old = last.iter().find(|(other, _)| *other == record).map(|(_, data)| data.clone());
        for power in 1.. {
            let mut going = before.clone();
            (going.steps, going.power) = (0, power);
            let mut cut = open(going);
            let result = block_on(cut.write(record, &data));
            let mut left = cut.into_inner();
            (left.steps, left.power) = (0, usize::MAX);
            let mut after = open(left);
            let now = read(&mut after, record);
            assert!(
                now == old || now.as_ref() == Some(&data),
                "{record:?} in round {round}, power gone at step {power}: {now:?}"
            );
            for (other, data) in last.iter().filter(|(other, _)| *other != record) {
                assert_eq!(read(&mut after, *other).as_ref(), Some(data), "{other:?}");
            }
            // And it goes on from there.
            block_on(after.write(record, &data)).unwrap();
            assert_eq!(read(&mut after, record).as_ref(), Some(&data));
            cuts += 1;
            if result.is_ok() {
                nor = after.into_inner();
                break;
            }
        }
        last.retain(|(other, _)| *other != record);
        last.push((record, data));
    }
    assert!(cuts > 1_000, "{cuts} cuts");
}

#[test]
fn a_thousand_reboots_lose_nothing_and_wear_every_block_alike() {
    let mut nor = Nor::new(BLOCKS);
    let mut flash = open(nor);
    block_on(flash.write(Record::Identity, &[7; 350])).unwrap();
    nor = flash.into_inner();
    let mut floor = 0_u64;
    for boot in 1..=1_000_u64 {
        // Power goes somewhere in the middle of every third boot's write.
        (nor.steps, nor.power) = (0, if boot % 3 == 0 { (boot % 11) as usize } else { usize::MAX });
        let mut flash = open(nor);
        let stamp = [&(floor + 1).to_le_bytes()[..], &(boot as u32).to_le_bytes()].concat();
        let is_safe = block_on(flash.write(Record::Stamp, &stamp)).is_ok();
        nor = flash.into_inner();
        (nor.steps, nor.power) = (0, usize::MAX);
        let mut flash = open(nor);
        let kept = read(&mut flash, Record::Stamp).unwrap_or_else(|| vec![0; 12]);
        let kept = u64::from_le_bytes(*kept.first_chunk().unwrap());
        assert!(kept >= floor, "the floor fell from {floor} to {kept} in boot {boot}");
        assert!(!is_safe || kept == floor + 1, "what was confirmed is gone in boot {boot}");
        floor = kept;
        assert_eq!(read(&mut flash, Record::Identity), Some(vec![7; 350]), "boot {boot}");
        nor = flash.into_inner();
    }
    assert!(floor > 600, "{floor}");
    let (least, most) = (nor.erased.iter().min().unwrap(), nor.erased.iter().max().unwrap());
    assert!(most - least <= 1, "{:?}", nor.erased);
    assert!(*most <= 10, "{:?}", nor.erased);
}

#[test]
fn a_record_that_rots_is_none_and_spares_the_others() {
    let mut flash = open(Nor::new(BLOCKS));
    block_on(flash.write(Record::Identity, &[7; 350])).unwrap();
    block_on(flash.write(Record::Stamp, &[9; 12])).unwrap();
    let whole = flash.into_inner();
    let place = whole.bytes.windows(12).position(|bytes| bytes == [9; 12]).unwrap();
    for byte in place..place + 12 {
        let mut nor = whole.clone();
        nor.bytes[byte] ^= 0x01;
        let mut flash = open(nor);
        assert_eq!(read(&mut flash, Record::Stamp), None, "byte {byte}");
        assert_eq!(read(&mut flash, Record::Identity), Some(vec![7; 350]));
        block_on(flash.write(Record::Stamp, &[8; 12])).unwrap();
        assert_eq!(read(&mut flash, Record::Stamp), Some(vec![8; 12]));
    }
}

#[test]
fn a_full_memory_says_so_and_keeps_what_it_has() {
    let nor = Nor::new(2);
    let mut flash = Flash::new(nor, 0..(2 * BLOCK) as u32).unwrap();
    block_on(flash.write(Record::Identity, &[7; 350])).unwrap();
    let full =
        (0..32).find(|piece| block_on(flash.write(Record::Piece(*piece), &[*piece; 700])).is_err());
    assert!(full.is_some_and(|piece| piece > 2), "{full:?}");
    assert_eq!(read(&mut flash, Record::Identity), Some(vec![7; 350]));
    assert_eq!(read(&mut flash, Record::Piece(0)), Some(vec![0; 700]));
}

#[test]
fn a_range_of_no_whole_blocks_is_refused() {
    for range in [0..BLOCK as u32, 0..2 * BLOCK as u32 + 4, 4..3 * BLOCK as u32] {
        assert_eq!(Flash::new(Nor::new(BLOCKS), range).err(), Some(BadRange));
    }
}

#[test]
fn erasing_forgets_everything() {
    let mut flash = open(Nor::new(BLOCKS));
    block_on(flash.write(Record::Identity, &[7; 350])).unwrap();
    block_on(flash.erase()).unwrap();
    assert_eq!(read(&mut flash, Record::Identity), None);
}

/// The most that is written on a day of service (`weft-sim`'s tests count it), in the
/// longest records that there are.
#[test]
fn the_most_writes_of_every_day_leave_the_memory_whole_for_decades() {
    const WRITES: u32 = 24;
    const ERASES: u32 = 100_000;
    const DAYS: u32 = 365;
    let mut flash = open(Nor::new(BLOCKS));
    for day in 0..DAYS {
        for write in 0..WRITES {
            let record = Record::Piece((write % 4) as u8);
            block_on(flash.write(record, &[day as u8; 1_312])).unwrap();
        }
    }
    let erased = flash.into_inner().erased;
    let most = erased.iter().max().unwrap();
    println!("{most} erasures of a block in a year: {} years", ERASES / most);
    assert!(ERASES / most >= 20, "{erased:?}");
}
