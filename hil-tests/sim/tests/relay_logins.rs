//! Relays of the map and the credentials at them: asked for in time, kept over
//! restarts, forgotten with the map.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::agent::{Agent, AgentConfig, ChipAgent};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::control::CacheHead;
use weft_agent_core::event::{SocketId, Sockets};
use weft_agent_core::relay::{Rung, Way};
use weft_sim::Rng;
use weft_sim::mesh::{Coordinator, Mesh, MeshAgent, abilities};
use weft_sim::nat::Kind;
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::Revision;
use weft_wire::item::{Item as _, ItemWriter, Items, Standing};
use weft_wire::relay::{Relay, RelayGrant, RelayLogin, RelayName, RelayNames, Relays};

const HOUR: u64 = 3_600_000;
const LIFE_S: u32 = 3_600;

fn relay(number: u16) -> Relay {
    let v4 = Some([203, 0, 113, 10].into());
    Relay { number, v4, v6: None, udp: [3_478, 443], tcp: 443, tls: 0 }
}

/// One device in a mesh with these relays, whose credentials last an hour.
fn mesh(seed: u64, relays: &[Relay]) -> (Mesh, usize) {
    let mut mesh = Mesh::new(seed);
    mesh.coordinator.relay_lifetime_s = LIFE_S;
    mesh.coordinator.relays = relays.to_vec();
    let a = mesh.add("gw-a");
    mesh.run_for(5_000);
    (mesh, a)
}

fn agent(mesh: &Mesh, node: usize) -> &MeshAgent {
    mesh.agent(node)
}

/// The credentials that a device holds, which are those that it was given.
fn held(mesh: &Mesh, node: usize) -> Option<(String, Vec<u16>)> {
    let grant = agent(mesh, node).relay_grant()?;
    for RelayLogin { mac, .. } in &grant.logins {
        assert_eq!(mac.0, Coordinator::relay_mac(&grant.user));
    }
    let numbers = grant.logins.iter().map(|login| login.relay).collect();
    Some((grant.user.as_str().to_owned(), numbers))
}

#[test]
fn who_has_no_relays_asks_for_nothing() {
    let (mut mesh, a) = mesh(1, &[]);
    mesh.run_for(10 * HOUR);
    assert_eq!(mesh.coordinator.relay_asks, []);
    assert!(agent(&mesh, a).settings().relays().is_empty());
    assert_eq!(held(&mesh, a), None);
    assert_eq!(mesh.coordinator.unknown, []);
}

#[test]
fn credentials_are_renewed_at_half_of_their_life() {
    let (mut mesh, a) = mesh(2, &[relay(1), relay(300)]);
    assert_eq!(agent(&mesh, a).settings().relays(), [relay(1), relay(300)]);
    let (first, numbers) = held(&mesh, a).unwrap();
    assert_eq!(numbers, [1, 300]);
    mesh.run_for(HOUR / 2 - 60_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 1, "not before");
    mesh.run_for(120_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
    assert_ne!(held(&mesh, a).unwrap().0, first);
    mesh.run_for(10 * HOUR);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2 + 20);
}

#[test]
fn a_lost_request_is_repeated_and_an_answer_counts_once() {
    let mut mesh = Mesh::new(3);
    mesh.coordinator.relay_asks_lost = 2;
    mesh.coordinator.relays = vec![relay(1)];
    let a = mesh.add("gw-a");
    mesh.run_for(4_000);
    assert_eq!(held(&mesh, a), None);
    // After 5 and 10 s, up to a quarter longer each.
    mesh.run_for(20_000);
    assert!(held(&mesh, a).is_some());
    assert_eq!(mesh.coordinator.relay_asks.len(), 3);
    // What nobody asked for is not taken.
    let before = held(&mesh, a);
    let id = mesh.id(a);
    let user = heapless::String::try_from("9:x").unwrap();
    let stray = RelayGrant { request: 1, user, lifetime_s: 60, logins: heapless::Vec::new() };
    let frames = mesh.coordinator.tell(id, |writer| writer.put(&stray));
    mesh.send(frames);
    mesh.run_for(1_000);
    assert_eq!(held(&mesh, a), before);
}

#[test]
fn another_list_is_asked_for_at_once_and_none_forgets_all() {
    let (mut mesh, a) = mesh(4, &[relay(1)]);
    let frames = mesh.coordinator.set_relays(&[relay(2), relay(1)]);
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
    assert_eq!(held(&mesh, a).unwrap().1, [2, 1]);
    // A change that is none of relays asks for nothing.
    let frames = mesh.coordinator.changed(mesh.id(a), None);
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
    let frames = mesh.coordinator.set_relays(&[]);
    mesh.send(frames);
    mesh.run_for(2 * HOUR);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
    assert_eq!(held(&mesh, a), None);
}

#[test]
fn credentials_survive_a_restart_while_the_coordinator_is_away() {
    let (mut mesh, a) = mesh(5, &[relay(1)]);
    let before = held(&mesh, a);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.stop(a);
    mesh.run_for(60_000);
    mesh.boot(a);
    mesh.run_for(60_000);
    assert!(before.is_some());
    assert_eq!(held(&mesh, a), before);
    assert_eq!(agent(&mesh, a).settings().relays(), [relay(1)]);
    // They are young by the coordinator's clock, so it is not asked.
    mesh.coordinator_down = false;
    mesh.run_for(2 * 60_000);
    assert!(agent(&mesh, a).coordinator(mesh.now).online);
    assert_eq!(mesh.coordinator.relay_asks.len(), 1);
    // Half of their life is over at the time that was due before the restart.
    mesh.run_for(HOUR / 2 - 4 * 60_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
}

#[test]
fn old_credentials_of_the_cache_are_renewed_in_the_first_session() {
    let (mut mesh, a) = mesh(6, &[relay(1)]);
    mesh.stop(a);
    mesh.run_for(HOUR / 2 + 60_000);
    mesh.boot(a);
    mesh.run_for(5_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 2);
    // And those that do not cover the relays of the map, however young.
    mesh.stop(a);
    let cache = &mut mesh.nodes[a].storage.cache;
    *cache = rewritten(cache, |raw, writer| {
        if raw.tag == Relays::TAG {
            let relays = [relay(1), relay(7)].into_iter().collect();
            writer.put(&Relays { relays }).unwrap();
            return true;
        }
        false
    });
    mesh.boot(a);
    mesh.run_for(5_000);
    assert_eq!(mesh.coordinator.relay_asks.len(), 3);
}

#[test]
fn who_is_put_out_forgets_its_credentials() {
    let (mut mesh, a) = mesh(7, &[relay(1)]);
    assert!(held(&mesh, a).is_some());
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Blocked);
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(held(&mesh, a), None);
    let asked = |raw: &[u8]| Items::new(raw).any(|raw| raw.unwrap().tag == RelayGrant::TAG);
    assert!(!asked(&mesh.nodes[a].storage.cache), "nor does the cache hold them");
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    mesh.send(frames);
    mesh.run_for(10 * 60_000);
    assert!(held(&mesh, a).is_some());
}

/// A build that knew no relays has kept a map without them: the newest revision
/// says nothing new, and the relays are in it.
#[test]
fn a_cache_of_an_older_build_is_filled_up() {
    let (mut mesh, a) = mesh(8, &[relay(1)]);
    let revision = agent(&mesh, a).coordinator(mesh.now).held.revision;
    mesh.stop(a);
    let cache = &mut mesh.nodes[a].storage.cache;
    *cache = rewritten(cache, |raw, _| matches!(raw.tag, Relays::TAG | RelayGrant::TAG));
    assert!(Items::new(cache).any(|raw| raw.unwrap().tag == CacheHead::TAG));
    mesh.boot(a);
    assert!(agent(&mesh, a).settings().relays().is_empty());
    mesh.run_for(5_000);
    assert_eq!(agent(&mesh, a).settings().relays(), [relay(1)]);
    assert_eq!(agent(&mesh, a).coordinator(mesh.now).held.revision, revision);
    assert!(revision > Revision(0) && held(&mesh, a).is_some());
    // Once is enough.
    let pages = mesh.coordinator.pages;
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(5_000);
    assert_eq!(mesh.coordinator.pages, pages);
}

/// A restart asks the relay that answered before it, which need not be the map's first.
#[test]
fn the_relay_that_answered_before_is_asked_first() {
    let rung = |relay| Rung { relay, way: Way::UdpV4 };
    let used = |preferred: Option<Rung>| {
        let mut mesh = Mesh::new(11);
        for last in [10, 11] {
            mesh.add_stun(([203, 0, 113, last], 3_478).into());
            mesh.add_stun(([203, 0, 113, last], 3_479).into());
            mesh.add_relay([203, 0, 113, last + 20].into());
        }
        let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
        for node in [a, b] {
            mesh.site(node, Kind::SymRand);
        }
        mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
        assert_eq!(agent(&mesh, a).rung(), None, "nobody needs one yet");
        if let Some(rung) = preferred {
            mesh.input(a, |agent, now| agent.prefer_relay(rung, now));
        }
        let host = mesh.host(b);
        mesh.ping(a, host, 1);
        mesh.run_for(3_000);
        assert_eq!(mesh.replies(a), 1);
        agent(&mesh, a).rung()
    };
    assert_eq!(used(None), Some(rung(1)));
    assert_eq!(used(Some(rung(2))), Some(rung(2)));
    assert_eq!(used(Some(rung(9))), Some(rung(1)), "one that the map does not name");
}

/// A gateway for few peers: one of 256 is larger than a thread's stack.
type SmallGateway = Agent<Rng, NoTrace, 8, 8, 16, 64, 8, 8, MAX_FRAME, 1_536>;

/// A gateway keeps what relays are called, over restarts too; a chip has no room.
#[test]
fn a_gateway_knows_what_relays_are_called() {
    let (mut mesh, a) = mesh(10, &[relay(1), relay(300)]);
    assert_eq!(agent(&mesh, a).coordinator(mesh.now).counters.unknown_items, 0);
    mesh.stop(a);
    let storage = &mesh.nodes[a].storage;
    let name = |relay, name: &str| RelayName { relay, name: name.try_into().unwrap() };
    let names = RelayNames { names: [name(1, "fra1"), name(300, "")].into_iter().collect() };
    let mut item = [0; 64];
    let mut writer = ItemWriter::new(&mut item);
    writer.put(&names).unwrap();
    let len = writer.len();
    let told = [&storage.cache[..], &item[..len]].concat();
    let called = |cache: &[u8]| {
        let identity = postcard::from_bytes(&storage.identity).unwrap();
        let agent = SmallGateway::new(config(), identity, Rng::new(1), mesh.now);
        let mut agent = Box::new(agent.expect("the pin is a strong key"));
        agent.restore(cache, mesh.now).unwrap();
        let mut written = Vec::new();
        agent.write_cache(&mut [0; 4_096], |piece| written.extend_from_slice(piece)).unwrap();
        let names = [1, 300, 2].map(|number| agent.relay_name(number));
        (names.map(|name| name.map(|name| name.as_str().to_owned())), written)
    };
    let (none, unnamed) = called(&storage.cache);
    assert_eq!(none, [None, None, None]);
    assert!(!Items::new(&unnamed).any(|raw| raw.unwrap().tag == RelayNames::TAG));
    let (names, written) = called(&told);
    assert_eq!(names, [Some("fra1".to_owned()), None, None]);
    assert_eq!(called(&written), (names, written));
    let identity = postcard::from_bytes(&storage.identity).unwrap();
    let mut chip = ChipAgent::new(config(), identity, Rng::new(1), mesh.now).unwrap();
    chip.restore(&told, mesh.now).unwrap();
    assert_eq!(chip.relay_name(1), None);
}

fn config() -> AgentConfig {
    AgentConfig {
        boot_count: 2,
        on_demand: false,
        page_window: 4,
        staged_per_peer: 2,
        fingerprint: [0; 32],
        name: "gw-a".try_into().expect("a name"),
        abilities: abilities(),
        sockets: Sockets { v4: Some(SocketId(0)), v6: None },
        extra_sockets: 0,
        tunnel: TunnelConfig::default(),
        stamp_floor: Some(0),
    }
}

/// The cache with items left out or replaced: `change` says whether it did.
fn rewritten(
    cache: &[u8],
    mut change: impl FnMut(&weft_wire::item::RawItem<'_>, &mut ItemWriter<'_>) -> bool,
) -> Vec<u8> {
    let mut buffer = vec![0; cache.len() + 1_024];
    let mut writer = ItemWriter::new(&mut buffer);
    for raw in Items::new(cache) {
        let raw = raw.expect("an item");
        if !change(&raw, &mut writer) {
            writer.put_raw(&raw).expect("there is room");
        }
    }
    let len = writer.len();
    buffer.truncate(len);
    buffer
}

/// The chip's frame takes the longest answer.
#[test]
fn the_longest_answer_fits_a_chip() {
    let mut rng = Rng::new(9);
    let mut mac = [0; 20];
    weft_noise::entropy::Entropy::fill(&mut rng, &mut mac);
    let login = |relay| RelayLogin { relay, mac: weft_wire::relay::RelayMac(mac) };
    let grant = RelayGrant {
        request: u32::MAX,
        user: heapless::String::try_from("x".repeat(48).as_str()).unwrap(),
        lifetime_s: u32::MAX,
        logins: (0..4).map(|n| login(u16::MAX - n)).collect(),
    };
    let mut buffer = [0; 256];
    assert_eq!(ItemWriter::new(&mut buffer).put(&grant), Ok(()));
}
