//! A fleet to test with. Every test uses a part of it.

#![allow(dead_code, reason = "every test uses a part of it")]

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};

use weft_coordinator::domain::audit::Actor;
use weft_coordinator::domain::device::{Abilities, Backend, Device, NewWireGuard};
use weft_coordinator::domain::enrolment::{Enrolled, Enrolment, Refused};
use weft_coordinator::domain::key::{EnrolmentKey, NewKey};
use weft_coordinator::domain::network::NewNetwork;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::{By, Store};
use weft_wire::id::{Inbox, KeyId, NetworkId, PublicKey};
use weft_wire::map::Overlay;

/// The network of the installation that a backend gives.
pub(crate) const NETWORK: NetworkId = NetworkId(1);

/// The first network: room for 253 devices, so that "full" is near.
pub(crate) fn first_network() -> NewNetwork {
    NewNetwork {
        name: "home".to_owned(),
        overlay: Overlay { ipv4: Ipv4Addr::new(100, 93, 0, 0), ipv4_len: 24, ipv6: [0xfd; 6] },
        mtu: 1_280,
        lease_s: 3_600,
    }
}

/// A moment; tests count on from here.
pub(crate) const NOW: UnixMs = UnixMs(1_800_000_000_000);

pub(crate) fn by(at: UnixMs) -> By {
    By { actor: Actor::socket(0), at }
}

/// Bytes that no other call gives.
pub(crate) fn unique<const N: usize>() -> [u8; N] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0x5A; N];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

pub(crate) fn abilities() -> Abilities {
    Abilities {
        families: 3,
        carriers: 1,
        mtu: 1_280,
        backend: Backend::User,
        peer_slots: 256,
        peer_routes: 64,
        rules: 64,
        agent: "0.1.0".to_owned(),
        platform: "linux-x86_64".to_owned(),
        endpoints: vec!["192.0.2.1:51871".parse().unwrap()],
    }
}

pub(crate) fn new_key() -> NewKey {
    NewKey {
        id: KeyId::from_random(unique()),
        network: NETWORK,
        name: None,
        master: 1,
        max_uses: None,
        expires: None,
        tags: "".parse().unwrap(),
        needs_approval: false,
        generation: 0,
    }
}

pub(crate) async fn key(store: &dyn Store, new: NewKey) -> EnrolmentKey {
    store.create_key(new, by(NOW)).await.unwrap()
}

pub(crate) async fn key_with_tags(store: &dyn Store, tags: &str) -> EnrolmentKey {
    key(store, NewKey { tags: tags.parse().unwrap(), ..new_key() }).await
}

pub(crate) fn enrolment(key: KeyId, name: &str) -> Enrolment {
    Enrolment {
        key,
        identity: PublicKey(unique()),
        wg_key: PublicKey(unique()),
        fingerprint: unique(),
        name: name.to_owned(),
        host_hint: 0,
        abilities: abilities(),
        inbox: Inbox(unique()),
        master: 1,
        from: Some("203.0.113.80".to_owned()),
    }
}

pub(crate) async fn try_enrol(
    store: &dyn Store,
    enrolment: Enrolment,
) -> Result<Enrolled, Refused> {
    store.enrol(enrolment, NOW).await.unwrap()
}

/// Enrols a device that must be taken in.
pub(crate) async fn enrol(store: &dyn Store, key: KeyId, name: &str) -> Device {
    try_enrol(store, enrolment(key, name)).await.unwrap().device
}

pub(crate) fn wireguard(name: &str) -> NewWireGuard {
    NewWireGuard {
        network: NETWORK,
        name: name.to_owned(),
        wg_key: PublicKey(unique()),
        endpoint: None,
        psk: true,
        tags: "".parse().unwrap(),
    }
}
