//! Reads a join string, and where it was typed wrongly, finds the place: the
//! checksum that finds the error also tells, of all texts one slip away, the one
//! that was meant.

use weft_wire::join::{self, JoinError, JoinString, MAX_BYTES};
use zeroize::Zeroize;

use crate::failure::{Code, Failure, Result};

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// How much of a text that is no join string is shown: it may be a secret of
/// something else.
const SHOWN: usize = 24;

/// Reads a join string.
///
/// # Errors
///
/// `join.typo`, `join.damaged`, `join.not-a-string`, `join.newer-format`.
pub(super) fn read(text: &str) -> Result<JoinString> {
    let text = text.trim();
    JoinString::parse(text).map_err(|error| match error {
        JoinError::NotAJoinString => not_a_string(text),
        JoinError::Format(format) => {
            let version = env!("CARGO_PKG_VERSION");
            let message =
                format!("the join string has format {format}, this weft {version} reads format 1");
            Failure::new(Code::JoinNewerFormat, message).try_command("update weft on this machine")
        }
        JoinError::Field => {
            let version = env!("CARGO_PKG_VERSION");
            let message =
                format!("the join string holds a field that this weft {version} does not know");
            Failure::new(Code::JoinNewerFormat, message).try_command("update weft on this machine")
        }
        JoinError::Kind => {
            let message = "this join string lets in a relay, and no device".to_owned();
            Failure::new(Code::JoinNotAString, message)
                .try_command("weft-coordinator key create        (on the coordinator)")
        }
        _ => locate(text).map_or_else(|| damaged(text), |slip| slip.failure()),
    })
}

fn not_a_string(text: &str) -> Failure {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let message = if text.is_empty() {
        "the join string is empty; it should start with WEFT1".to_owned()
    } else {
        format!("'{shown}' is not a join string; those start with WEFT1")
    };
    Failure::new(Code::JoinNotAString, message)
        .try_command("weft-coordinator key create        (on the coordinator)")
}

fn damaged(text: &str) -> Failure {
    let characters = text.chars().count();
    let message = format!("the join string is damaged: {characters} characters, checksum differs");
    Failure::new(Code::JoinDamaged, message)
        .try_command("copy the whole line that key create printed (usually 180 to 250 characters)")
}

/// What was typed at one place and what was meant.
#[derive(Debug, PartialEq, Eq)]
struct Slip {
    /// From 1.
    place: usize,
    typed: String,
    meant: String,
}

impl Slip {
    fn failure(&self) -> Failure {
        let Self { place, typed, meant } = self;
        Failure::new(
            Code::JoinTypo,
            format!(
                "the join string has a typo at character {place}: '{typed}' should probably be '{meant}'"
            ),
        )
        .param("character", *place as u64)
        .try_command("copy it again, or scan the QR code")
    }
}

/// Finds the one substitution or swap of neighbours that makes the checksum
/// right; `None` when there is none or more than one.
fn locate(text: &str) -> Option<Slip> {
    let typed: Vec<char> = text.chars().collect();
    let start = join::PREFIX.len();
    let mut out = [0; MAX_BYTES];
    let mut right = |characters: &[char]| {
        let text: String = characters.iter().collect();
        let right = join::decode(&text, &mut out).is_ok();
        out.zeroize();
        right
    };
    let mut found = Vec::new();
    let mut trial = typed.clone();
    for at in start..typed.len() {
        if typed[at] == ' ' || typed[at] == '-' {
            continue;
        }
        for &letter in ALPHABET {
            let letter = char::from(letter);
            if letter == typed[at].to_ascii_uppercase() {
                continue;
            }
            trial[at] = letter;
            if right(&trial) {
                found.push(Slip {
                    place: at + 1,
                    typed: typed[at].to_string(),
                    meant: letter.to_string(),
                });
            }
        }
        trial[at] = typed[at];
        if at + 1 < typed.len() && typed[at] != typed[at + 1] {
            trial.swap(at, at + 1);
            if right(&trial) {
                found.push(Slip {
                    place: at + 1,
                    typed: typed[at..at + 2].iter().collect(),
                    meant: trial[at..at + 2].iter().collect(),
                });
            }
            trial.swap(at, at + 1);
        }
    }
    found.pop().filter(|_| found.is_empty())
}

#[cfg(test)]
mod tests {
    use weft_wire::id::{KeyId, PublicKey, Secret};
    use weft_wire::join::{Address, Carrier, EnrolToken, MAX_TEXT};

    use super::*;

    fn line() -> String {
        let address = Address {
            carrier: Carrier::Mqtt,
            authority: heapless::String::try_from("mesh.example.net:7420").unwrap(),
        };
        let join = JoinString {
            coordinator: PublicKey([0x5A; 32]),
            key: KeyId::from_random([0x31; 8]),
            psk: Secret(core::array::from_fn(|at| at as u8 * 7)),
            token: EnrolToken {
                expiry: 1_900_000_000,
                mac: weft_wire::id::ShortSecret([0xC4; 16]),
            },
            addresses: heapless::Vec::from_slice(&[address]).unwrap(),
            spki: None,
            account: None,
        };
        let mut out = [0; MAX_TEXT];
        let len = join.emit(&mut out).unwrap();
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    fn failure(text: &str) -> Failure {
        read(text).err().unwrap()
    }

    #[test]
    fn every_substitution_is_found_at_its_place() {
        let line = line();
        assert!(read(&line).is_ok());
        for at in (join::PREFIX.len()..line.len()).step_by(31) {
            let right = line.as_bytes()[at];
            let wrong = if right == b'X' { 'Q' } else { 'X' };
            let mut text: Vec<char> = line.chars().collect();
            text[at] = wrong;
            let text: String = text.into_iter().collect();
            assert_eq!(
                failure(&text).message(),
                format!(
                    "the join string has a typo at character {}: '{wrong}' should probably be '{}'",
                    at + 1,
                    char::from(right)
                )
            );
        }
    }

    #[test]
    fn a_digit_that_no_letter_is_and_swapped_neighbours_are_found() {
        let line = line();
        let at = line[10..].find('O').or_else(|| line[10..].find('B')).unwrap() + 10;
        let mut text = line.clone();
        let meant = text.remove(at);
        text.insert(at, '0');
        let found = failure(&text);
        assert!(found.is(Code::JoinTypo));
        assert!(found.message().ends_with(&format!("'0' should probably be '{meant}'")));
        let at = (20..line.len() - 1)
            .find(|&at| line.as_bytes()[at] != line.as_bytes()[at + 1])
            .unwrap();
        let mut bytes = line.clone().into_bytes();
        bytes.swap(at, at + 1);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            failure(&text).message(),
            format!(
                "the join string has a typo at character {}: '{}' should probably be '{}'",
                at + 1,
                &text[at..at + 2],
                &line[at..at + 2]
            )
        );
    }

    #[test]
    fn what_is_no_single_slip_is_damaged() {
        let line = line();
        let cut = &line[..line.len() - 9];
        assert_eq!(
            failure(cut).message(),
            format!("the join string is damaged: {} characters, checksum differs", cut.len())
        );
        let mut twice: Vec<char> = line.chars().collect();
        for at in [30, 60] {
            twice[at] = if twice[at] == 'A' { 'B' } else { 'A' };
        }
        assert!(failure(&twice.into_iter().collect::<String>()).is(Code::JoinDamaged));
        assert!(failure("WEFT1é").is(Code::JoinDamaged));
    }

    #[test]
    fn other_texts_are_told_apart_and_shown_in_part() {
        assert_eq!(
            failure("mesh.example.net").message(),
            "'mesh.example.net' is not a join string; those start with WEFT1"
        );
        let long = failure("a-very-long-password-that-is-something-else");
        assert!(long.message().starts_with("'a-very-long-password-tha…'"), "{}", long.message());
        assert!(failure("").message().contains("empty"));
        assert_eq!(
            failure("WEFT2ABC").message(),
            "the join string has format 2, this weft 0.1.0 reads format 1"
        );
    }
}
