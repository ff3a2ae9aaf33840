use std::collections::BTreeMap;
use std::string::{String, ToString as _};
use std::vec::Vec;

use embassy_futures::block_on;
use weft_agent_core::control::{Member, Membership, SecondWireguard};
use weft_wire::id::{
    DeviceId, Inbox, NAME_LEN, Name, NetworkId, OrganisationId, Secret, ShortSecret,
};
use weft_wire::map::SecondKind;

use super::*;

/// Records in memory, and power that goes before the write with a number.
#[derive(Clone, Default)]
struct Memory {
    records: BTreeMap<u8, Vec<u8>>,
    writes: usize,
    power: Option<usize>,
}

impl Storage for Memory {
    type Error = ();

    async fn read(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, ()> {
        let Some(data) = self.records.get(&record.number()) else { return Ok(None) };
        let Some(place) = out.get_mut(..data.len()) else { return Ok(None) };
        place.copy_from_slice(data);
        Ok(Some(data.len()))
    }

    async fn write(&mut self, record: Record, data: &[u8]) -> Result<(), ()> {
        if self.power == Some(self.writes) {
            return Err(());
        }
        self.writes += 1;
        self.records.insert(record.number(), data.to_vec());
        Ok(())
    }

    async fn erase(&mut self) -> Result<(), ()> {
        self.records.clear();
        Ok(())
    }
}

fn write(memory: &mut Memory, pieces: &[&str]) -> Result<Index, ()> {
    block_on(async {
        let before = Index::read(memory).await?;
        let mut writer = CacheWriter::new(memory, before);
        for piece in pieces {
            writer.put(piece.as_bytes(), &mut [0; 64]).await?;
        }
        Ok(writer.finish().await?.0)
    })
}

/// As a start reads them.
fn read(memory: &mut Memory) -> Vec<String> {
    block_on(async {
        let index = Index::read(memory).await.unwrap();
        let mut pieces = Vec::new();
        for record in index.records() {
            let mut out = [0; 64];
            let len = memory.read(record, &mut out).await.unwrap().expect("it is in force");
            pieces.push(core::str::from_utf8(&out[..len]).unwrap().to_string());
        }
        pieces
    })
}

#[test]
fn a_cache_is_the_old_one_or_the_new_one_wherever_power_goes() {
    let caches: [&[&str]; 7] = [
        &["map 1"],
        &["map 2", "a", "b"],
        &["map 2", "a", "c"],
        &["map 3"],
        &["map 3", "d", "c"],
        &["map 4", "c", "d", "e"],
        &[],
    ];
    let mut memory = Memory::default();
    for (old, new) in core::iter::once(&[][..]).chain(caches).zip(caches) {
        for power in 0.. {
            let mut cut = memory.clone();
            (cut.writes, cut.power) = (0, Some(power));
            let result = write(&mut cut, new);
            cut.power = None;
            let now = read(&mut cut);
            assert_eq!(now, if result.is_ok() { new } else { old }, "power gone at {power}");
            write(&mut cut, new).unwrap();
            assert_eq!(read(&mut cut), new, "and it goes on from there");
            if result.is_ok() {
                memory = cut;
                break;
            }
        }
    }
}

#[test]
fn what_does_not_change_is_not_written() {
    let mut memory = Memory::default();
    write(&mut memory, &["map", "a", "b"]).unwrap();
    assert_eq!(memory.writes, 4);
    write(&mut memory, &["map", "a", "b"]).unwrap();
    assert_eq!(memory.writes, 4);
    write(&mut memory, &["map", "c", "b"]).unwrap();
    assert_eq!(memory.writes, 6, "a piece and the index");
}

/// Another coordinator's map is nothing that a new device may begin with.
#[test]
fn a_new_device_begins_without_the_cache_of_the_old_one() {
    let mut memory = Memory::default();
    write(&mut memory, &["map", "a"]).unwrap();
    assert_eq!(block_on(Index::forget(&mut memory)), Ok(Index::default()));
    assert_eq!(read(&mut memory), [""; 0]);
    let writes = memory.writes;
    block_on(Index::forget(&mut memory)).unwrap();
    assert_eq!(memory.writes, writes, "once");
}

pub(crate) fn longest() -> Identity {
    let name = Name::try_from("n".repeat(NAME_LEN).as_str()).unwrap();
    Identity {
        identity_key: Secret([1; 32]),
        wireguard_key: Secret([2; 32]),
        coordinator: PublicKey([3; 32]),
        next_coordinator: Some(PublicKey([4; 32])),
        membership: Membership::Member(Member {
            device: DeviceId(u32::MAX),
            network: NetworkId(u32::MAX),
            organisation: OrganisationId(u32::MAX),
            name: name.clone(),
            network_name: name,
            inbox: Inbox([5; 16]),
            password: ShortSecret([6; 16]),
            password_expiry: u32::MAX,
            psk: Secret([7; 32]),
            master: u8::MAX,
        }),
        second_wireguard: Some(SecondWireguard { key: Secret([8; 32]), kind: SecondKind::Next }),
    }
}

#[test]
fn the_longest_identity_fits_and_comes_back_to_its_coordinator_alone() {
    let (of, mut memory) = (PublicKey([3; 32]), Memory::default());
    let kept = KeptIdentity::new(&of, &longest()).expect("it fits");
    block_on(kept.write(&mut memory)).unwrap();
    let found = block_on(identity(&mut memory, &of)).ok().flatten().expect("it is there");
    assert_eq!(found.wireguard_key.0, [2; 32]);
    let other = block_on(identity(&mut memory, &PublicKey([9; 32])));
    assert!(matches!(other, Ok(None)));
}

#[test]
fn what_is_no_identity_is_not_taken_for_a_new_device() {
    let mut memory = Memory::default();
    let of = PublicKey([3; 32]);
    assert!(matches!(block_on(identity(&mut memory, &of)), Ok(None)));
    for bytes in [&[][..], &[0xAA; 40], &[3; 448]] {
        memory.records.insert(Record::Identity.number(), bytes.to_vec());
        let read = block_on(identity(&mut memory, &of));
        assert!(matches!(read, Err(StartError::Identity)), "{} bytes", bytes.len());
    }
}

/// A memory of which every record is sealed under this chip's key.
fn chip(memory: Memory, secret: u8) -> Wrapped<Memory> {
    Wrapped::new(memory, Some(&[secret; 32]))
}

#[test]
fn a_wrapped_identity_is_of_use_to_its_chip_alone() {
    let of = PublicKey([3; 32]);
    let kept = KeptIdentity::new(&of, &longest()).expect("it fits");
    let mut first = chip(Memory::default(), 1);
    block_on(kept.write(&mut first)).unwrap();
    let found = block_on(identity(&mut first, &of)).ok().flatten().expect("it is there");
    assert_eq!(found.wireguard_key.0, [2; 32]);
    let memory = first.into_inner();
    let raw = &memory.records[&Record::Identity.number()];
    assert!(!raw.windows(4).any(|part| part == [2; 4]), "a key shows through");
    // Another chip with this memory, the same without its key, and a key that came late:
    // none of them goes on, and none makes a new device of it.
    let mut plain = Memory::default();
    block_on(kept.write(&mut plain)).unwrap();
    for mut other in [chip(memory.clone(), 9), Wrapped::new(memory, None), chip(plain, 1)] {
        let read = block_on(identity(&mut other, &of));
        assert!(matches!(read, Err(StartError::Identity)));
    }
}

#[test]
fn a_wrapped_cache_is_lost_where_it_was_changed_or_moved() {
    let mut storage = chip(Memory::default(), 1);
    let longest = [7; PIECE_LEN];
    block_on(storage.write(Record::Piece(3), &longest)).unwrap();
    let mut out = [0; PIECE_LEN];
    let read = |storage: &mut Wrapped<Memory>, piece, out: &mut [u8]| {
        block_on(storage.read(Record::Piece(piece), out)).unwrap()
    };
    assert_eq!(read(&mut storage, 3, &mut out), Some(PIECE_LEN));
    assert_eq!(out, longest);
    let too_long = block_on(storage.write(Record::Piece(3), &[7; PIECE_LEN + 1]));
    assert_eq!(too_long, Err(WrapError::TooLong));
    let mut memory = storage.into_inner();
    let moved = memory.records[&Record::Piece(3).number()].clone();
    memory.records.insert(Record::Piece(4).number(), moved);
    memory.records.get_mut(&Record::Piece(3).number()).expect("it is there")[40] ^= 1;
    let mut storage = chip(memory, 1);
    assert_eq!(read(&mut storage, 3, &mut out), None);
    assert_eq!(read(&mut storage, 4, &mut out), None);
}

#[test]
fn what_is_no_secret_is_kept_as_it_is() {
    let stamp = Stamp { floor: Some(77), starts: 3 };
    let mut storage = chip(Memory::default(), 1);
    block_on(stamp.write(&mut storage)).unwrap();
    assert_eq!(block_on(Stamp::read(&mut storage.into_inner())), Ok(stamp));
}
