//! Each rule of the checker, shown to see what breaks it.

use super::*;

const IN: Told = Told::Taken { device: DeviceId(1), host: 2 };

fn who(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn key() -> KeyId {
    KeyId::from_random([9; 8])
}

/// A key for `max_uses` devices, made before anything else.
fn history(max_uses: u32) -> History {
    let mut history = History::default();
    let made = history.begin(Ask::MakeKey("wave".to_owned()));
    history.end(made, Told::KeyMade { key: key(), max_uses });
    history
}

fn enrol(history: &mut History, number: u8, told: Option<Told>) {
    let ticket = history.begin(Ask::Enrol { identity: who(number), key: key() });
    if let Some(told) = told {
        history.end(ticket, told);
    }
}

fn row(number: u8) -> DeviceRow {
    let (id, host) = (DeviceId(u32::from(number)), Some(u32::from(number) + 1));
    DeviceRow { id, identity: who(number), network: 1, host, key: key() }
}

/// What a database holds after these devices were taken in.
fn left(devices: &[u8], max_uses: u32) -> Left {
    let uses = u32::try_from(devices.len()).unwrap_or_default();
    let name = "wave".to_owned();
    let key = KeyRow { id: key(), name, uses, max_uses: Some(max_uses), revoked: false };
    let devices: Vec<_> = devices.iter().map(|number| row(*number)).collect();
    let enrolled = devices.iter().map(|row| (row.id.to_string(), 1)).collect();
    Left { devices, keys: vec![key], enrolled, broken: Vec::new() }
}

#[test]
fn what_is_as_it_must_be_passes() {
    let mut history = history(2);
    // Asked twice, answered the second time; one was never answered and is in.
    enrol(&mut history, 1, None);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 2, None);
    enrol(&mut history, 3, Some(Told::UsedUp));
    let findings = history.check(&left(&[1, 2], 2));
    assert!(findings.is_clean(), "{findings:?}");
    assert_eq!((findings.enrolled, history.len(), history.unanswered()), (1, 5, 2));
}

#[test]
fn an_acknowledged_device_that_is_gone_is_seen() {
    let mut history = history(9);
    enrol(&mut history, 1, Some(IN));
    assert_eq!(history.check(&left(&[], 9)).lost_acknowledged, 1);
    // There, and another than it was told.
    let mut other = left(&[1], 9);
    other.devices[0].host = Some(77);
    assert_eq!(history.check(&other).lost_acknowledged, 1);
    other.devices[0] = DeviceRow { id: DeviceId(5), ..row(1) };
    assert_eq!(history.check(&other).lost_acknowledged, 1);
}

#[test]
fn an_address_of_two_is_seen() {
    let mut history = history(9);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 2, Some(Told::Taken { device: DeviceId(2), host: 2 }));
    // By what they were told, although one of them is lost.
    assert_eq!(history.check(&left(&[1], 9)).double_addresses, 1);
    // And by the database alone.
    let mut double = left(&[1, 3], 9);
    double.devices[1].host = Some(2);
    enrol(&mut history, 3, None);
    assert_eq!(history.check(&double).double_addresses, 2);
    // The same number in another network is another address.
    double.devices[1].network = 2;
    assert_eq!(history.check(&double).double_addresses, 1);
}

#[test]
fn a_key_that_lets_too_many_in_is_seen() {
    let mut history = history(1);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 2, Some(Told::Taken { device: DeviceId(2), host: 3 }));
    assert_eq!(history.check(&left(&[1], 1)).overused_keys, 1, "by what they were told");
    let mut history = self::history(1);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 2, None);
    let mut over = left(&[1, 2], 1);
    assert_eq!(history.check(&over).overused_keys, 1, "by the database");
    over = left(&[1], 1);
    over.keys[0].max_uses = None;
    assert_eq!(history.check(&over).overused_keys, 1, "a limit that is gone");
}

#[test]
fn keys_that_were_made_or_ended_stay_so() {
    let mut history = history(3);
    let mut none = left(&[], 3);
    none.keys.clear();
    assert_eq!(history.check(&none).lost_acknowledged, 1);
    let ticket = history.begin(Ask::EndKey(key()));
    // Not answered: may have happened or not.
    assert!(history.check(&left(&[], 3)).is_clean());
    history.end(ticket, Told::KeyEnded);
    assert_eq!(history.check(&left(&[], 3)).lost_acknowledged, 1);
    let mut ended = left(&[], 3);
    ended.keys[0].revoked = true;
    assert!(history.check(&ended).is_clean());
}

#[test]
fn an_ended_key_lets_nobody_new_in() {
    let mut history = history(9);
    enrol(&mut history, 1, None);
    let ticket = history.begin(Ask::EndKey(key()));
    history.end(ticket, Told::KeyEnded);
    // Asked before its end: its use may have counted by then.
    enrol(&mut history, 1, Some(IN));
    let mut database = left(&[1], 9);
    database.keys[0].revoked = true;
    assert!(history.check(&database).is_clean());
    enrol(&mut history, 2, Some(Told::Taken { device: DeviceId(2), host: 3 }));
    let mut database = left(&[1, 2], 9);
    database.keys[0].revoked = true;
    assert_eq!(history.check(&database).other, 1);
}

#[test]
fn a_refusal_needs_its_reason() {
    let mut history = history(2);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 2, Some(Told::UsedUp));
    assert_eq!(history.check(&left(&[1], 2)).other, 1, "one use was left");
    let mut history = self::history(2);
    enrol(&mut history, 2, Some(Told::Ended));
    assert_eq!(history.check(&left(&[], 2)).other, 1, "nobody ended it");
    let mut history = self::history(2);
    enrol(&mut history, 2, Some(Told::Refused(7)));
    assert_eq!(history.check(&left(&[], 2)).other, 1);
}

#[test]
fn two_answers_to_one_device_are_seen() {
    let mut history = history(2);
    enrol(&mut history, 1, Some(IN));
    enrol(&mut history, 1, Some(Told::Taken { device: DeviceId(1), host: 3 }));
    assert_eq!(history.check(&left(&[1], 2)).other, 1);
}

#[test]
fn rows_that_contradict_each_other_are_seen() {
    let mut history = history(2);
    enrol(&mut history, 1, Some(IN));
    assert_eq!(history.check(&left(&[1, 2], 2)).other, 1, "nobody asked for the second");
    let mut database = left(&[1], 2);
    database.keys[0].uses = 0;
    assert_eq!(history.check(&database).other, 1, "a use was not counted");
    let mut database = left(&[1], 2);
    database.enrolled.insert(DeviceId(1).to_string(), 2);
    assert_eq!(history.check(&database).other, 1, "two rows of one enrolment");
    database.enrolled.clear();
    assert_eq!(history.check(&database).other, 1, "no row of it");
    let mut database = left(&[1], 2);
    database.broken.push("the audit chain is broken at 4".to_owned());
    assert_eq!(history.check(&database).other, 1);
}
