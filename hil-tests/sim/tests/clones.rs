//! Two machines with one identity, as agents and their peers see it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::control::Other;
use weft_agent_core::peers::PeerState;
use weft_sim::mesh::Mesh;
use weft_wire::id::{Inbox, Name};
use weft_wire::item::{Duplicate, NewInbox, Stamps, Standing, State};

const NEW: Inbox = Inbox([0x77; 16]);

fn duplicate(moved: Option<NewInbox>) -> Duplicate {
    let address = Some([203, 0, 113, 22].into());
    Duplicate { name: Name::try_from("gw-a").unwrap(), address, heard_ms: 5_000, moved }
}

/// A pair in use, and a copy of its first, in use as well: the peer talks to the
/// copy now.
fn cloned(seed: u64) -> (Mesh, [usize; 3]) {
    let (mut mesh, a, b) = Mesh::pair(seed);
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_to(1_000, |mesh| mesh.replies(a) == 1);
    // Long enough that a new handshake may be made at any time.
    mesh.run_for(30_000);
    let copy = mesh.copy(a);
    mesh.run_to(5_000, |mesh| mesh.knows(copy, 1));
    mesh.ping(copy, host, 2);
    mesh.run_to(1_000, |mesh| mesh.replies(copy) == 1);
    (mesh, [a, b, copy])
}

/// Lets the copy hear that it is one, as soon as its session is the newest: the
/// two displace each other meanwhile.
fn quarantine(mesh: &mut Mesh, copy: usize) {
    let (id, inbox) = (mesh.id(copy), mesh.agent(copy).identity().member().unwrap().inbox);
    for _ in 0..1_000 {
        if mesh.agent(copy).coordinator(mesh.now).standing == Standing::Quarantined {
            return;
        }
        if mesh.nodes[copy].inbox == Some(inbox) {
            let frames = mesh.coordinator.tell(id, |writer| {
                writer.put(&duplicate(None))?;
                let reason = heapless::String::new();
                writer.put(&State { standing: Standing::Quarantined, since_ms: 1, reason })
            });
            mesh.send(frames);
        }
        mesh.run_for(20);
    }
    panic!("the copy does not hear that it is one");
}

/// Lets the other hear that it is kept, and where it receives from now on.
fn keep(mesh: &mut Mesh, first: usize) {
    let (id, inbox) = (mesh.id(first), mesh.agent(first).identity().member().unwrap().inbox);
    for _ in 0..1_000 {
        if mesh.nodes[first].inbox == Some(NEW) {
            mesh.coordinator.move_device(id, NEW);
            return;
        }
        if mesh.nodes[first].inbox == Some(inbox) {
            let password = mesh.coordinator.password(&NEW);
            let frames = mesh.coordinator.tell(id, |writer| {
                writer.put(&Stamps { ahead_s: 29 * 3_600 })?;
                let moved = NewInbox { inbox: NEW, password, password_expiry: 1 << 31 };
                writer.put(&duplicate(Some(moved)))
            });
            mesh.send(frames);
        }
        mesh.run_for(20);
    }
    panic!("the kept one does not hear that it is to move");
}

#[test]
fn the_copy_drops_its_peers_and_the_other_is_heard_again_at_once() {
    for seed in 0..20 {
        let (mut mesh, [a, b, copy]) = cloned(seed);
        let host = mesh.host(b);
        quarantine(&mut mesh, copy);
        let told = mesh.agent(copy).coordinator(mesh.now);
        assert_eq!(told.standing, Standing::Quarantined);
        let address = Some([203, 0, 113, 22].into());
        assert_eq!(told.other, Some(Other { address, heard_ms: 5_000 }));
        assert_eq!(mesh.agent(copy).peers().count(), 0);
        // What the peer has is the copy's session, and its stamps are newer.
        let before = mesh.replies(a);
        mesh.ping(a, host, 3);
        mesh.run_for(1_000);
        assert_eq!(mesh.replies(a), before);
        // The first comes back, is kept and moves.
        keep(&mut mesh, a);
        mesh.run_for(300);
        let before = mesh.replies(a);
        for sequence in 10..20 {
            mesh.ping(a, host, sequence);
            mesh.run_for(100);
        }
        assert_eq!(mesh.replies(a), before + 10, "seed {seed}: none is lost");
        assert_eq!(mesh.state(a, mesh.id(b)), Some(PeerState::Active));
        assert_eq!(mesh.nodes[a].inbox, Some(NEW), "it receives where only it knows");
        let said = |event: &AgentEvent| matches!(event, AgentEvent::Duplicate(_)).then_some(());
        let known = mesh.events(a, said).len();
        assert!(known > 0);
        // Said again in a later session it is no news, and costs no handshakes.
        let id = mesh.id(a);
        let frames = mesh.coordinator.tell(id, |writer| writer.put(&duplicate(None)));
        mesh.send(frames);
        mesh.run_for(200);
        assert_eq!(mesh.events(a, said).len(), known);
        // And it remembers that over a restart.
        mesh.stop(a);
        mesh.boot(a);
        mesh.run_to(5_000, |mesh| mesh.nodes[a].inbox == Some(NEW));
    }
}

#[test]
fn a_copy_is_none_after_a_restart_without_the_coordinator_either() {
    let (mut mesh, [_, _, copy]) = cloned(3);
    quarantine(&mut mesh, copy);
    mesh.coordinator_down = true;
    mesh.stop(copy);
    mesh.boot(copy);
    mesh.run_for(60_000);
    assert_eq!(mesh.agent(copy).peers().count(), 0, "the map went with its standing");
}

/// A copy that is released while nobody can tell it learns it by the map.
#[test]
fn a_map_ends_what_was_said_against_it() {
    let (mut mesh, a, b) = Mesh::pair(4);
    let id = mesh.id(a);
    let frames = mesh.coordinator.set_standing(id, Standing::Quarantined);
    mesh.send(frames);
    mesh.run_to(1_000, |mesh| mesh.agent(a).peers().count() == 0);
    mesh.cut_lines();
    let _lost = mesh.coordinator.set_standing(id, Standing::Active);
    mesh.run_to(20_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    assert_eq!(mesh.agent(a).coordinator(mesh.now).standing, Standing::Active);
}
