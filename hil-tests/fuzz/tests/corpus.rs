//! Every stored input goes through its target: what once was found stays mended.

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(corpus().join(target)) else { return vec![] };
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries.map(|entry| file(entry.expect("an entry"))).collect()
}

#[test]
fn stored_inputs_replay() {
    let mut replayed = 0;
    for target in weft_fuzz::ALL {
        let files = files(target.name);
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for (name, input) in files {
            let run = target.run;
            let held = catch_unwind(|| run(&input)).is_ok();
            assert!(held, "corpus/{}/{name} breaks a promise", target.name);
            replayed += 1;
        }
    }
    println!("{replayed} inputs replayed");
}

/// The shortest inputs, and what follows from a stored one that is cut.
#[test]
fn cut_inputs_replay() {
    for target in weft_fuzz::ALL {
        (target.run)(&[]);
        for byte in [0, 1, 0x7F, 0x80, 0xFF] {
            (target.run)(&[byte]);
        }
        if let Some((_, longest)) = files(target.name).iter().max_by_key(|(_, input)| input.len()) {
            for part in 1..4 {
                (target.run)(&longest[..longest.len() * part / 4]);
            }
        }
    }
}

#[test]
fn every_folder_is_a_target_and_all_are_small() {
    let mut bytes = 0;
    for entry in fs::read_dir(corpus()).expect("the corpora") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        assert!(weft_fuzz::find(&name).is_some(), "corpus/{name} belongs to no target");
        bytes += files(&name).iter().map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(bytes < 1 << 20, "{bytes} bytes are too many for a repository");
}
