//! Power cuts: every write of the store is cut at every step and every byte,
//! under a model of a file system that keeps only what was synced.

use std::collections::BTreeMap;
use std::io;

use super::envelope::{self, Kind, ReadError};
use super::folder::Folder;
use super::{Disk, replace, stamp, temporary_name, ways};

const KIND: Kind = Kind { name: "identity", magic: b"WEFTTEST", format: 2 };

/// One thing done to the disk since the last cut.
#[derive(Clone, Debug)]
enum Step {
    Write(String, u64, Vec<u8>, bool),
    Sync(String),
    Rename(String, String),
    Remove(String),
    SyncFolder,
}

/// A disk that remembers what was asked of it, in order.
#[derive(Clone, Default)]
struct Recorder {
    files: BTreeMap<String, Vec<u8>>,
    steps: Vec<Step>,
}

impl Recorder {
    fn apply(files: &mut BTreeMap<String, Vec<u8>>, step: &Step) {
        match step {
            Step::Write(name, offset, data, truncate) => {
                let file = files.entry(name.clone()).or_default();
                if *truncate {
                    file.clear();
                }
                let end = *offset as usize + data.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset as usize..end].copy_from_slice(data);
            }
            Step::Rename(from, to) => {
                if let Some(file) = files.remove(from) {
                    files.insert(to.clone(), file);
                }
            }
            Step::Remove(name) => {
                files.remove(name);
            }
            Step::Sync(_) | Step::SyncFolder => {}
        }
    }

    fn note(&mut self, step: Step) {
        Self::apply(&mut self.files, &step);
        self.steps.push(step);
    }
}

impl Disk for Recorder {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.files.get(name).cloned();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.note(Step::Write(name.to_owned(), 0, data.to_vec(), true));
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Step::Write(name.to_owned(), offset, data.to_vec(), false));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.note(Step::Sync(name.to_owned()));
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.note(Step::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.note(Step::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.note(Step::SyncFolder);
        Ok(())
    }
}

/// Every state in which the disk may be after the power went during `steps`:
/// each synced step is there; of the others since, each prefix of the order
/// may be, and a write may be cut after any byte. (Renames reach the disk in
/// order with each other, and data that was synced before a rename is there.)
fn states(before: &Recorder, steps: &[Step]) -> Vec<Recorder> {
    let mut found = Vec::new();
    for done in 0..=steps.len() {
        let mut disk = before.clone();
        for step in &steps[..done] {
            Recorder::apply(&mut disk.files, step);
        }
        found.push(disk.clone());
        if let Some(Step::Write(name, offset, data, truncate)) = steps.get(done) {
            for cut in 0..data.len() {
                let mut torn = disk.clone();
                let part = Step::Write(name.clone(), *offset, data[..cut].to_vec(), *truncate);
                Recorder::apply(&mut torn.files, &part);
                found.push(torn.clone());
                // A sector can also come back with the rest as noise.
                let mut noise = data.clone();
                noise[cut..].fill(0xA5);
                let part = Step::Write(name.clone(), *offset, noise, *truncate);
                Recorder::apply(&mut torn.files, &part);
                found.push(torn);
            }
        }
        // A rename that was not synced yet may be undone by the cut.
        let unsynced = steps[..done].iter().rev();
        let mut unsynced = unsynced.take_while(|step| !matches!(step, Step::SyncFolder));
        if unsynced.any(|step| matches!(step, Step::Rename(..))) {
            let mut lost = before.clone();
            let kept = steps[..done].iter().filter(|step| !matches!(step, Step::Rename(..)));
            for step in kept {
                Recorder::apply(&mut lost.files, step);
            }
            found.push(lost);
        }
    }
    found
}

/// Without a sync before the rename, the new name may hold nothing: the model
/// must find such a mistake, or it proves nothing.
fn synced_before_rename(steps: &[Step]) -> bool {
    let mut synced = None;
    for step in steps {
        match step {
            Step::Write(name, ..) if synced == Some(name) => synced = None,
            Step::Sync(name) => synced = Some(name),
            Step::Rename(from, _) if synced != Some(from) => return false,
            _ => {}
        }
    }
    matches!(steps.last(), Some(Step::SyncFolder))
}

#[test]
fn a_cut_replacement_leaves_the_old_file_or_the_new_one() {
    let (old, new) = (vec![1u8; 90], vec![2u8; 130]);
    let mut disk = Recorder::default();
    envelope::write(&mut disk, KIND, &old).unwrap();
    disk.steps.clear();
    let before = disk.clone();
    envelope::write(&mut disk, KIND, &new).unwrap();
    assert!(synced_before_rename(&disk.steps), "{:?}", disk.steps);
    let (mut saw_old, mut saw_new) = (0, 0);
    for state in states(&before, &disk.steps) {
        let (_, content) = envelope::read(&state, KIND).unwrap();
        if *content == old {
            saw_old += 1;
        } else {
            assert_eq!(*content, new);
            saw_new += 1;
        }
    }
    assert!(saw_old > 130 && saw_new > 0, "{saw_old} {saw_new}");
}

#[test]
fn a_first_write_that_was_cut_is_no_file() {
    let mut disk = Recorder::default();
    let before = disk.clone();
    envelope::write(&mut disk, KIND, &[7; 40]).unwrap();
    for state in states(&before, &disk.steps) {
        match envelope::read(&state, KIND) {
            Ok((2, content)) => assert_eq!(*content, [7; 40]),
            Err(ReadError::Missing) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_damaged_byte_and_every_cut_of_a_file_is_seen() {
    let mut disk = Recorder::default();
    envelope::write(&mut disk, KIND, &[7; 40]).unwrap();
    let whole = disk.files["identity"].clone();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            disk.files.insert("identity".to_owned(), bytes);
            let result = envelope::read(&disk, KIND);
            assert!(matches!(result, Err(ReadError::Corrupt { .. })), "{at}");
        }
        disk.files.insert("identity".to_owned(), whole[..at].to_vec());
        match envelope::read(&disk, KIND) {
            Err(ReadError::Corrupt { found, expected }) => {
                assert_eq!(found, at);
                assert!(expected > at);
            }
            other => panic!("cut at {at}: {other:?}"),
        }
    }
}

#[test]
fn a_newer_file_says_who_wrote_it() {
    let mut disk = Recorder::default();
    let newer = Kind { format: 9, ..KIND };
    envelope::write(&mut disk, newer, b"x").unwrap();
    match envelope::read(&disk, KIND) {
        Err(ReadError::Newer { version, format: 9 }) => {
            assert_eq!(version, envelope::own_version());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cut_stamp_never_falls_and_never_vanishes() {
    let mut disk = Recorder::default();
    stamp::write(&mut disk, 1_000, 1).unwrap();
    let mut floor = 1_000;
    for next in [1_001, 70_000, u64::MAX / 2, u64::MAX] {
        disk.steps.clear();
        let before = disk.clone();
        stamp::write(&mut disk, next, 1).unwrap();
        assert!(matches!(disk.steps.last(), Some(Step::Sync(_))));
        for state in states(&before, &disk.steps) {
            let found = stamp::read(&state).unwrap().floor.unwrap();
            assert!(found == floor || found == next, "{found}");
            // What comes next still rises, from every state.
            if next < u64::MAX {
                let mut state = state;
                stamp::write(&mut state, next + 1, 1).unwrap();
                assert_eq!(stamp::read(&state).unwrap().floor, Some(next + 1));
            }
        }
        floor = next;
        assert_eq!(stamp::read(&disk).unwrap().floor, Some(floor));
    }
}

#[test]
fn a_first_stamp_that_was_cut_is_none() {
    let mut disk = Recorder::default();
    let before = disk.clone();
    stamp::write(&mut disk, 5, 1).unwrap();
    for state in states(&before, &disk.steps) {
        assert!(matches!(stamp::read(&state).unwrap().floor, None | Some(5)));
    }
}

#[test]
fn ways_are_read_as_they_were_written_or_not_at_all() {
    let mut disk = Recorder::default();
    assert!(ways::read(&disk).unwrap().is_empty());
    let stood =
        [(7, "mqtt://mesh.example.net:7420".to_owned()), (u64::MAX, "https://h:1".to_owned())];
    ways::write(&mut disk, &stood).unwrap();
    assert_eq!(ways::read(&disk).unwrap(), stood);
    disk.steps.clear();
    let before = disk.clone();
    ways::write(&mut disk, &stood[1..]).unwrap();
    for state in states(&before, &disk.steps) {
        let found = ways::read(&state).unwrap();
        assert!(found == stood || found == stood[1..], "{found:?}");
    }
    // A checksum that fits around what does not.
    for content in [&[0; 8][..], &[0, 0, 0, 0, 0, 0, 0, 0, 3, b'x'], b"12345678\x01\xFF"] {
        envelope::write(&mut disk, ways::KIND, content).unwrap();
        assert!(matches!(ways::read(&disk), Err(ReadError::Corrupt { .. })), "{content:?}");
    }
}

#[test]
fn a_lower_floor_is_not_written() {
    let mut disk = Recorder::default();
    stamp::write(&mut disk, 10, 1).unwrap();
    disk.steps.clear();
    stamp::write(&mut disk, 9, 1).unwrap();
    assert!(disk.steps.is_empty());
    assert_eq!(stamp::read(&disk).unwrap().floor, Some(10));
}

#[test]
fn two_damaged_slots_are_a_lost_floor_and_heal() {
    let mut disk = Recorder::default();
    stamp::write(&mut disk, 10, 1).unwrap();
    disk.files.get_mut("stamp").unwrap().fill(0xFF);
    assert_eq!(stamp::read(&disk).unwrap().floor, None);
    stamp::write(&mut disk, 11, 1).unwrap();
    assert_eq!(stamp::read(&disk).unwrap().floor, Some(11));
}

/// Bits that flip in one slot cost that slot: the floor of the other holds, and
/// the next one written is above both.
#[test]
fn a_stamp_with_flipped_bits_is_read_from_its_other_slot() {
    let mut disk = Recorder::default();
    stamp::write(&mut disk, 10, 1).unwrap();
    stamp::write(&mut disk, 20, 2).unwrap();
    let whole = disk.files["stamp"].clone();
    let mut older = 0;
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            disk.files.insert("stamp".to_owned(), bytes);
            let found = stamp::read(&disk).unwrap().floor.unwrap();
            assert!(found == 10 || found == 20, "byte {at}: {found}");
            older += usize::from(found == 10);
            stamp::write(&mut disk, 21, 3).unwrap();
            assert_eq!(stamp::read(&disk).unwrap().floor, Some(21), "byte {at}");
        }
    }
    assert_eq!(older, 24 * 8, "the newer slot's own bytes and no others");
}

#[test]
fn a_stamp_of_any_length_is_read_and_written_over() {
    let mut disk = Recorder::default();
    stamp::write(&mut disk, 10, 1).unwrap();
    let whole = disk.files["stamp"].clone();
    for len in (0..whole.len()).chain([whole.len() + 1, 5_000]) {
        let mut bytes = whole.clone();
        bytes.resize(len, 0);
        disk.files.insert("stamp".to_owned(), bytes);
        let found = stamp::read(&disk).unwrap().floor;
        assert_eq!(found, (len >= 24).then_some(10), "{len} bytes");
        stamp::write(&mut disk, 11, 2).unwrap();
        assert_eq!(stamp::read(&disk).unwrap().floor, Some(11), "{len} bytes");
    }
}

/// What is read never changes what is there: nobody loses an identity by a start
/// of the daemon.
#[test]
fn reading_what_cannot_be_used_leaves_it_as_it_is() {
    let mut disk = Recorder::default();
    let newer = Kind { format: 9, ..KIND };
    envelope::write(&mut disk, newer, &[7; 40]).unwrap();
    let whole = disk.files["identity"].clone();
    disk.steps.clear();
    for bytes in [Vec::new(), vec![0; 400], vec![0xFF; 4_096], whole[..30].to_vec(), whole] {
        disk.files.insert("identity".to_owned(), bytes.clone());
        assert!(envelope::read(&disk, KIND).is_err());
        assert_eq!(disk.files["identity"], bytes);
    }
    assert!(disk.steps.is_empty());
}

#[test]
fn a_folder_that_is_missing_or_takes_nothing_is_said_and_not_made() {
    let path = std::env::temp_dir().join(format!("weft-store-none-{}", std::process::id()));
    let mut folder = Folder::new(&path);
    assert!(matches!(envelope::read(&folder, KIND), Err(ReadError::Missing)));
    assert_eq!(stamp::read(&folder).unwrap(), stamp::Stamp::default());
    let missing = envelope::write(&mut folder, KIND, b"x").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    assert_eq!(stamp::write(&mut folder, 1, 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!path.exists());
    // Something else of that name.
    std::fs::write(&path, b"a file").unwrap();
    assert!(envelope::write(&mut folder, KIND, b"x").is_err());
    assert!(matches!(envelope::read(&folder, KIND), Err(ReadError::Io(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    std::fs::remove_file(&path).unwrap();
}

/// A file that something made longer or shorter still holds a floor.
#[test]
fn a_stamp_of_another_length_keeps_its_floor() {
    for (more, kept) in [(6, 1_024), (0, 700)] {
        let mut disk = Recorder::default();
        stamp::write(&mut disk, 100, 1).unwrap();
        stamp::write(&mut disk, 200, 1).unwrap();
        let file = disk.files.get_mut("stamp").unwrap();
        file.truncate(kept);
        file.resize(kept + more, 0);
        stamp::write(&mut disk, 50, 1).unwrap();
        assert_eq!(stamp::read(&disk).unwrap().floor, Some(200));
        stamp::write(&mut disk, 300, 1).unwrap();
        assert_eq!(stamp::read(&disk).unwrap().floor, Some(300));
    }
}

#[test]
fn a_real_folder_keeps_files_to_its_owner_and_sweeps_left_overs() {
    let path = std::env::temp_dir().join(format!("weft-store-{}", std::process::id()));
    let mut folder = Folder::new(&path);
    folder.create().unwrap();
    std::fs::write(folder.path_of(&temporary_name("identity")), b"half").unwrap();
    assert_eq!(folder.sweep(&["identity", "cache"]), 1);
    replace(&mut folder, "identity", b"whole").unwrap();
    assert_eq!(folder.mode_of("identity").unwrap(), Some(0o600));
    assert_eq!(folder.read("identity").unwrap(), b"whole");
    stamp::write(&mut folder, 3, 1).unwrap();
    stamp::write(&mut folder, 4, 1).unwrap();
    assert_eq!(stamp::read(&folder).unwrap().floor, Some(4));
    folder.remove("identity").unwrap();
    folder.remove("identity").unwrap();
    assert_eq!(folder.mode_of("identity").unwrap(), None);
    std::fs::remove_dir_all(&path).unwrap();
}
