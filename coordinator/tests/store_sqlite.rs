//! The store's conformance suite on SQLite, and what only SQLite has.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::path::PathBuf;
use std::sync::Arc;

use weft_coordinator::store::SharedStore;
use weft_coordinator::store::sqlite::{self, NewInstallation, OpenError, SqliteStore};
use weft_wire::id::{Epoch, PublicKey};

mod common;
mod conformance;

use common::TempDir;
use common::fleet::{NOW, enrol, first_network, key, new_key};

struct Home {
    store: SharedStore,
    path: PathBuf,
    _dir: TempDir,
}

fn home() -> Home {
    let dir = TempDir::new();
    let path = dir.path().join("weft.db");
    let new = NewInstallation {
        epoch: Epoch(7),
        coordinator: PublicKey([9; 32]),
        network: first_network(),
    };
    sqlite::create(&path, &new, NOW).unwrap();
    let store = Arc::new(SqliteStore::open(&path, NOW).unwrap());
    Home { store, path, _dir: dir }
}

macro_rules! conformance {
    ($module:ident: $($name:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $name() {
                let home = super::home();
                super::conformance::$module::$name(&*home.store).await;
            })*
        }
    };
    (shared $module:ident as $local:ident: $($name:ident)*) => {
        mod $local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let home = super::home();
                super::conformance::$module::$name(&home.store).await;
            })*
        }
    };
}

conformance!(shared enrol as enrol_at_once:
    one_use_is_one_device
    one_identity_at_once_is_one_device
);
conformance!(enrol:
    the_same_device_gets_the_same_answer
    each_reason_has_its_refusal
    a_wireguard_key_is_one_devices
    a_known_identity_may_bring_a_new_key
    a_new_key_needs_a_good_enrolment_key
    abilities_are_renewed
    rules_must_fit_the_device
    names_are_made_unique
    hosts_are_unique_and_never_reserved
    a_free_host_is_given_as_asked
    a_freed_address_rests
    approval_comes_before_the_address
    a_deleted_device_stays_out
    a_lost_device_waits_with_its_address
    a_lost_device_finds_its_address_taken
    a_blocked_device_hears_it
);
conformance!(denials:
    each_decision_has_a_revision
    who_was_never_denied_is_not_named
    a_long_list_comes_in_parts
    who_is_gone_is_forgotten_at_last
);
conformance!(devices:
    decisions_follow_the_standing
    names_stay_unique
    versions_guard_decisions
    wireguard_peers_are_devices
    devices_are_found_by_what_people_type
    keys_are_made_listed_and_ended
    a_key_goes_with_its_devices
    commands_are_numbered
    changes_are_told_after_the_commit
);
conformance!(clones:
    a_restart_is_no_clone
    the_first_of_two_is_kept_and_moves
    who_starts_anew_before_is_not_judged
    a_copy_hears_once_for_the_first_time
    a_release_forgets_what_two_did
    a_copy_does_not_enrol_again
    who_is_out_is_not_judged
    a_deleted_device_is_forgotten
);
conformance!(maps:
    everyone_sees_everyone_by_default
    policy_decides_who_is_told
    a_change_reaches_its_edges_only
    who_is_out_is_not_told_of
    who_comes_back_gets_a_snapshot
    a_revision_of_another_life_gets_a_snapshot
    wireguard_peers_are_told_of
    servers_are_told_to_all
    servers_at_relays_are_told_by_region
    relays_are_told_to_all_and_keep_their_numbers
    relays_that_joined_are_told_while_they_are_listed
    a_warm_pair_is_told_to_both
    a_budget_is_told_to_its_device
);
conformance!(paths:
    words_are_kept
    words_on_a_peer_are_bounded
    peers_of_a_device_are_bounded
    words_go_with_their_devices
);
conformance!(usage:
    days_are_kept
    days_are_bounded
);
conformance!(audit: every_action_leaves_a_row);

#[tokio::test]
async fn the_database_is_its_owners_and_knows_whose_it_is() {
    let home = home();
    let installation = home.store.installation().await.unwrap();
    assert_eq!((installation.epoch, installation.coordinator), (Epoch(7), PublicKey([9; 32])));
    assert_eq!(sqlite::peek_schema(&home.path).unwrap(), sqlite::SCHEMA);
}

#[tokio::test]
async fn a_damaged_page_is_seen_at_the_start() {
    let Home { store, path, _dir } = home();
    let key = key(&*store, new_key()).await;
    for n in 0..40 {
        enrol(&*store, key.id, &format!("gw-{n}")).await;
    }
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    // The last page came last: it holds rows, nothing of the schema.
    let last = bytes.len() - 4_096;
    bytes[last..last + 8].fill(0xEE);
    std::fs::write(&path, bytes).unwrap();
    let error = SqliteStore::open(&path, NOW).err().unwrap();
    assert!(matches!(error, OpenError::Corrupt(_)), "{error}");
}
