//! What a day costs the flash memory of a chip: an agent of a chip's size and what the
//! chip's crate writes of it, on the memory that counts.
#![allow(missing_docs, reason = "a test")]

#[path = "../../../agent-esp32/tests/nor/mod.rs"]
mod nor;

use std::cell::{RefCell, RefMut};
use std::net::SocketAddr;
use std::rc::Rc;

use embassy_futures::block_on;
use nor::{BLOCK, Nor};
use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::time::Duration;
use weft_agent_esp32::flash::Flash;
use weft_agent_esp32::shelf::Shelf;
use weft_sim::mesh;
use weft_sim::nat::Kind;
use weft_sim::net::GatewayId;
use weft_sim::rng::Rng;
use weft_wire::signal::{Candidate, CandidateKind};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
/// Minutes of a day.
const DAY: u64 = 24 * 60;
/// The flash memory of an agent: 16 KB.
const BLOCKS: usize = 4;
/// Records that may be written in a day.
const WRITES: u32 = 24;
/// Peers of the chip, and there is room for no more.
const PEERS: usize = 8;

type Mesh = mesh::Mesh<NoTrace, PEERS, 16>;

/// A peer that has two sites: at each another address, behind a box of its own.
struct Peer {
    node: usize,
    sites: [(SocketAddr, GatewayId); 2],
    is_away: bool,
}

impl Peer {
    fn new(mesh: &mut Mesh, number: usize) -> Self {
        let kinds = [Kind::Prc, Kind::AdCone, Kind::SymRand, Kind::Cgnat];
        let node = mesh.add("gw");
        let last = 1 + node as u8;
        let sites = [[198, 51, 100, last], [192, 0, 2, last]].map(|outer| {
            let address = SocketAddr::from(([10, outer[0], 0, last], 51_871));
            let kind = kinds[number % kinds.len()];
            let area = kind.site(&mut mesh.network, outer.into(), address.ip(), u64::from(last));
            (address, area)
        });
        let mut peer = Self { node, sites, is_away: true };
        peer.roam(mesh);
        peer
    }

    /// Goes to the other site; its agent is told, as a shell does it.
    fn roam(&mut self, mesh: &mut Mesh) {
        self.is_away = !self.is_away;
        let (address, area) = self.sites[usize::from(self.is_away)];
        mesh.place_at(self.node, address, Some(area));
        let candidate = Candidate { kind: CandidateKind::Host, address };
        mesh.input(self.node, |agent, now| agent.set_local_addresses(&[candidate], now));
    }
}

/// A chip with eight peers, of which each is behind a box of its own.
struct Chip {
    mesh: Mesh,
    chip: usize,
    peers: Vec<Peer>,
    shelf: Rc<RefCell<Shelf<Flash<Nor>>>>,
    rng: Rng,
    minute: u64,
    /// Questions that were answered.
    answered: u64,
}

impl Chip {
    /// Everybody has joined, and the chip has a relay at hand.
    fn new(seed: u64, lease_s: u32) -> Self {
        let mut mesh = Mesh::of(seed);
        mesh.coordinator.lease_s = lease_s;
        mesh.coordinator.relay_lifetime_s = lease_s;
        mesh.add_stun_servers();
        mesh.add_relay([203, 0, 113, 30].into());
        let coordinator = mesh.coordinator.join_string().coordinator;
        let nor = Flash::new(Nor::new(BLOCKS), 0..(BLOCKS * BLOCK) as u32).expect("whole blocks");
        let shelf = Rc::new(RefCell::new(Shelf::empty(nor, coordinator)));
        mesh.extra_sockets = 0;
        let chip = mesh.add_on_demand("chip");
        let keeper = Rc::clone(&shelf);
        mesh.nodes[chip].keep = Some(Box::new(move |agent, what, now| {
            block_on(keeper.borrow_mut().persist(&RefCell::new(agent), what, now)).expect("room");
        }));
        mesh.site(chip, Kind::Prc);
        let peers: Vec<Peer> = (0..PEERS).map(|number| Peer::new(&mut mesh, number)).collect();
        mesh.run_for(10 * MINUTE);
        Self { mesh, chip, peers, shelf, rng: Rng::new(seed ^ 1), minute: 0, answered: 0 }
    }

    fn flash(&self) -> RefMut<'_, Shelf<Flash<Nor>>> {
        self.shelf.borrow_mut()
    }

    fn writes(&self) -> u32 {
        self.flash().storage().writes()
    }

    /// Lets two minutes pass in which a peer asks the chip something, again until it is
    /// answered, as programs do.
    fn ask(&mut self, peer: usize) {
        let (host, node) = (self.mesh.host(self.chip), self.peers[peer].node);
        let (until, replies) = (self.mesh.now + Duration::from_secs(120), self.mesh.replies(node));
        for sequence in 0..30 {
            self.mesh.ping(node, host, sequence);
            self.mesh.run_for(SECOND);
            if self.mesh.replies(node) > replies {
                self.answered += 1;
                break;
            }
        }
        self.minute += 2;
        self.mesh.run_until(until);
        let (shelf, now) = (Rc::clone(&self.shelf), self.mesh.now);
        if shelf.borrow().due_at().is_some_and(|at| at <= now) {
            self.mesh.input(self.chip, |agent, now| {
                block_on(shelf.borrow_mut().handle_timeout(&RefCell::new(agent), now))
                    .expect("room");
            });
        }
    }

    /// Minutes of service; the first peer asks in every fourth, the others for a few in each
    /// hour.
    fn serve(&mut self, minutes: u64, mut also: impl FnMut(&mut Self)) {
        for minute in (0..minutes).step_by(2) {
            let turn = (minute / 8 % PEERS as u64) as usize;
            self.ask(if minute % 4 == 0 { 0 } else { turn });
            also(self);
        }
    }

    /// Somebody's router gives it another address.
    fn roam(&mut self) {
        let peer = self.rng.below(PEERS as u64) as usize;
        self.peers[peer].roam(&mut self.mesh);
    }

    /// An operator changes what the chip's map says.
    fn change_map(&mut self) {
        let id = self.mesh.id(self.chip);
        let frames = self.mesh.coordinator.changed(id, None);
        self.mesh.send(frames);
    }
}

/// Days of service, and what each of them wrote but the first, in which it joined.
fn days(days: u32, lease_s: u32, mut also: impl FnMut(&mut Chip)) -> Vec<u32> {
    let mut chip = Chip::new(7, lease_s);
    let mut counted = vec![];
    for day in 0..=days {
        let before = chip.writes();
        chip.answered = 0;
        chip.serve(DAY, &mut also);
        assert!(chip.answered * 200 >= DAY * 95, "{} of {} questions", chip.answered, DAY / 2);
        if day > 0 {
            counted.push(chip.writes() - before);
        }
    }
    counted
}

#[test]
fn a_day_of_ordinary_service_costs_few_writes() {
    for (count, lease_s) in [(1, 7 * 86_400), (1, 3_600)] {
        let counted = days(count, lease_s, |chip| {
            if chip.minute.is_multiple_of(6 * 60) {
                chip.mesh.cut_lines();
            }
            if chip.minute.is_multiple_of(3 * 60) {
                chip.roam();
            }
            if chip.minute.is_multiple_of(12 * 60) {
                chip.change_map();
            }
        });
        println!("{counted:?} records a day, with a lease of {lease_s} s");
        assert!(counted.iter().all(|writes| *writes <= WRITES), "{counted:?} a day");
    }
}

#[test]
fn peers_that_move_all_day_cost_no_more() {
    let counted = days(1, 7 * 86_400, |chip| {
        if chip.minute.is_multiple_of(6) {
            chip.roam();
        }
    });
    println!("{counted:?} records a day");
    assert!(counted.iter().all(|writes| *writes <= WRITES), "{counted:?} a day");
}

#[test]
fn a_change_of_the_map_is_written_at_once_however_much_was_written() {
    let mut chip = Chip::new(9, 7 * 86_400);
    for _ in 0..20 {
        let before = chip.writes();
        chip.change_map();
        chip.mesh.run_for(SECOND);
        assert!(chip.writes() > before);
        let device = chip.mesh.id(chip.chip);
        let told = chip.mesh.coordinator.devices.iter().find(|other| other.id == device);
        assert_eq!(
            told.map(|device| device.applied.map(|held| held.1.0)),
            told.map(|device| Some(device.revision))
        );
    }
}
