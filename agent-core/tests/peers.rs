//! Slots, states and eviction of peers.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::collections::HashMap;

use weft_agent_core::event::PeerSlot;
use weft_agent_core::peers::{IDLE_AFTER, PeerState, Peers, UpsertError};
use weft_agent_core::time::{Duration, Instant};
use weft_wire::id::{DeviceId, Name, PublicKey, Secret};
use weft_wire::map::{PeerUpsert, Prefix};

type Table = Peers<4, 8>;

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn peer(id: u32, routes: usize) -> PeerUpsert {
    let route = |n: usize| Prefix::V4([10, 0, n as u8, 0].into(), 24);
    PeerUpsert {
        device: DeviceId(id),
        name: Name::try_from(format!("gw-{id}").as_str()).unwrap(),
        key: PublicKey([id as u8; 32]),
        psk: Secret([9; 32]),
        second: None,
        host: id,
        mtu: 1280,
        flags: 0,
        rules_in: 1,
        rules_out: 1,
        routes: (0..routes).map(route).collect(),
        endpoint: None,
        attestation: None,
    }
}

fn add(table: &mut Table, id: u32, now: u64) -> Result<PeerSlot, UpsertError> {
    table.upsert(peer(id, 0), |_| None, at(now)).map(|upserted| upserted.slot)
}

#[test]
fn a_peer_keeps_its_slot_and_state_when_the_map_changes_it() {
    let mut table = Table::new(false);
    let slot = add(&mut table, 7, 0).unwrap();
    assert!(table.handle_wanted(slot));
    table.handle_established(slot, at(1));
    let again = table.upsert(peer(7, 3), |_| None, at(2)).unwrap();
    assert_eq!((again.slot, again.dropped), (slot, None));
    assert_eq!(table.state(slot), Some(PeerState::Active));
    assert_eq!(table.routes(slot).count(), 3);
    assert_eq!(table.to_upsert(slot).unwrap().routes.len(), 3);
    assert_eq!(table.remove(DeviceId(7)), Some(slot));
    assert_eq!(table.routes(slot).count(), 0);
    assert_eq!(table.remove(DeviceId(7)), None);
}

#[test]
fn states_follow_a_peers_life() {
    let mut table = Table::new(false);
    let slot = add(&mut table, 7, 0).unwrap();
    let states = |table: &mut Table| {
        core::iter::from_fn(|| table.poll_change().map(|c| (c.from, c.to))).collect::<Vec<_>>()
    };
    assert_eq!(states(&mut table), []);
    assert!(table.handle_wanted(slot));
    assert!(!table.handle_wanted(slot));
    assert_eq!(states(&mut table), [(PeerState::Known, PeerState::Calling)]);
    table.handle_failed(slot);
    assert_eq!(states(&mut table), [(PeerState::Calling, PeerState::Known)]);
    assert!(table.handle_wanted(slot));
    table.handle_established(slot, at(10));
    assert_eq!(states(&mut table), [(PeerState::Known, PeerState::Active)]);

    // Data keeps it active, without an event per packet.
    let (due, _) = table.poll_timeout().unwrap();
    assert_eq!(due, at(10) + IDLE_AFTER);
    table.handle_timeout();
    assert_eq!(table.poll_query(due), Some(slot));
    assert_eq!(table.poll_query(due), None);
    table.handle_used(slot, Some(at(100)), due);
    assert_eq!(states(&mut table), []);
    let (due, _) = table.poll_timeout().unwrap();
    assert_eq!(due, at(100) + IDLE_AFTER);
    table.handle_used(slot, Some(at(100)), due);
    assert_eq!(states(&mut table), [(PeerState::Active, PeerState::Idle)]);
    assert_eq!(table.poll_timeout(), None);
    assert!(table.handle_wanted(slot));
    table.handle_failed(slot);
    assert_eq!(table.state(slot), Some(PeerState::Idle));
}

#[test]
fn who_wants_all_peers_refuses_what_does_not_fit() {
    let mut table = Table::new(false);
    for id in 0..4 {
        add(&mut table, id, 0).unwrap();
    }
    assert_eq!(add(&mut table, 9, 100), Err(UpsertError::Full));
    assert_eq!(table.upsert(peer(2, 9), |_| None, at(1)).unwrap_err(), UpsertError::Routes);
    let slot = table.slot_of(DeviceId(2)).unwrap();
    assert_eq!(table.routes(slot).count(), 0);
    table.upsert(peer(2, 8), |_| None, at(1)).unwrap();
    // Its own routes make room for its new ones.
    table.upsert(peer(2, 8), |_| None, at(1)).unwrap();
    assert!(table.upsert(peer(1, 1), |_| None, at(1)).is_err());
}

#[test]
fn the_least_recently_used_gives_up_its_slot() {
    let mut table = Table::new(true);
    let slots: Vec<_> = (0..4).map(|id| add(&mut table, id, 0).unwrap()).collect();
    // All new: nobody may be replaced before 5 s.
    assert_eq!(add(&mut table, 9, 1), Err(UpsertError::Busy(at(5))));
    for &slot in &slots {
        table.handle_established(slot, at(1));
    }
    // Established: replaced at once, but not within 1 s of its data.
    let mut used: HashMap<_, _> = slots.iter().map(|&slot| (slot, at(9))).collect();
    used.insert(slots[2], at(8));
    let upserted = table.upsert(peer(9, 0), |slot| used.get(&slot).copied(), at(9)).unwrap();
    assert_eq!((upserted.slot, upserted.dropped), (slots[2], Some(slots[2])));
    assert_eq!(table.slot_of(DeviceId(2)), None);
    assert_eq!(table.state(slots[2]), Some(PeerState::Known));
    let busy = at(9) + Duration::from_millis(500);
    let error = table.upsert(peer(10, 0), |slot| used.get(&slot).copied(), busy).unwrap_err();
    assert_eq!(error, UpsertError::Busy(at(10)));
}

/// A table whose four peers carried data at 9 s, and a fifth that came half a second later.
fn full_for_a_moment(routes: usize) -> Table {
    let mut table = Table::new(true);
    for id in 0..4 {
        let slot = add(&mut table, id, 0).unwrap();
        table.handle_established(slot, at(1));
    }
    let busy = at(9) + Duration::from_millis(500);
    let error = table.upsert(peer(9, routes), |_| Some(at(9)), busy).unwrap_err();
    assert_eq!(error, UpsertError::Busy(at(10)));
    table
}

#[test]
fn who_meets_a_full_table_has_the_next_place_that_is_free() {
    let mut table = full_for_a_moment(2);
    assert_eq!(table.poll_timeout().unwrap().0, at(10));
    assert_eq!(table.poll_waiting(|_| Some(at(9)), at(9)), None, "not yet");
    // Everybody goes on talking: it waits on.
    assert_eq!(table.poll_waiting(|_| Some(at(10)), at(10)), None);
    assert_eq!(table.poll_timeout().unwrap().0, at(11));
    let used = |slot| Some(if slot == PeerSlot(3) { at(10) } else { at(11) });
    let upserted = table.poll_waiting(used, at(11)).unwrap();
    assert_eq!((upserted.slot, upserted.dropped), (PeerSlot(3), Some(PeerSlot(3))));
    assert_eq!(table.slot_of(DeviceId(9)), Some(PeerSlot(3)));
    assert_eq!(table.routes(PeerSlot(3)).count(), 2);
    assert_eq!(table.poll_waiting(used, at(12)), None);
}

#[test]
fn nobody_waits_for_ever_or_after_the_map_changed() {
    let talking = |now| move |_| Some(now);
    let mut table = full_for_a_moment(0);
    for second in 10..=15 {
        assert_eq!(table.poll_waiting(talking(at(second)), at(second)), None);
    }
    assert_eq!(table.poll_waiting(|_| None, at(16)), None, "it gave up");
    let mut gone = full_for_a_moment(0);
    assert_eq!(gone.remove(DeviceId(9)), None);
    let mut renamed = full_for_a_moment(0);
    renamed.begin_snapshot();
    let mut many_routes = full_for_a_moment(3);
    for table in [&mut gone, &mut renamed, &mut many_routes] {
        assert_eq!(table.poll_waiting(|_| None, at(20)), None);
    }
    let mut again = full_for_a_moment(0);
    add(&mut again, 9, 20).unwrap();
    assert_eq!(again.poll_waiting(|_| None, at(20)), None, "it has a place");
}

#[test]
fn a_snapshot_drops_what_it_does_not_name() {
    let mut table = Table::new(false);
    for id in 0..3 {
        add(&mut table, id, 0).unwrap();
    }
    table.begin_snapshot();
    add(&mut table, 1, 1).unwrap();
    add(&mut table, 5, 1).unwrap();
    let gone: Vec<_> = core::iter::from_fn(|| table.poll_unnamed()).collect();
    assert_eq!(gone.len(), 2);
    let named = |id| table.slot_of(DeviceId(id)).is_some();
    assert_eq!([0, 1, 2, 5].map(named), [false, true, false, true]);
    assert_eq!(core::iter::from_fn(|| table.poll_any()).count(), 2);
    assert_eq!(table.slots().count(), 0);
}

#[test]
fn a_key_belongs_to_the_device_that_was_named_last() {
    let mut table = Table::new(false);
    let (a, b) = (add(&mut table, 1, 0).unwrap(), add(&mut table, 2, 0).unwrap());
    // A device that was deleted and came back has another id and the same key.
    let back = PeerUpsert { device: DeviceId(3), ..peer(1, 0) };
    let upserted = table.upsert(back, |_| None, at(1)).unwrap();
    assert_eq!((upserted.slot, upserted.dropped), (a, Some(a)));
    assert_eq!(table.slot_of(DeviceId(1)), None);
    // A known device takes the key of another over.
    let over = PeerUpsert { key: PublicKey([2; 32]), ..peer(3, 0) };
    let upserted = table.upsert(over, |_| None, at(1)).unwrap();
    assert_eq!((upserted.slot, upserted.dropped), (a, Some(b)));
    assert_eq!(table.slots().count(), 1);
    // Once more the same: nobody has to go.
    let again = PeerUpsert { key: PublicKey([2; 32]), ..peer(3, 0) };
    assert_eq!(table.upsert(again, |_| None, at(1)).unwrap().dropped, None);
}
