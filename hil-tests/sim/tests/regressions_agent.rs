//! Mistakes that other implementations made at the border of the whole agent,
//! each a test. Numbers are those of the project's list.
#![allow(missing_docs, reason = "a test")]

use std::net::SocketAddr;

use weft_agent_core::entropy::Entropy as _;
use weft_agent_core::event::{DropReason, SocketId, Source, Via};
use weft_noise::key::StaticSecret;
use weft_noise::wg::{COOKIE_REPLY_LEN, INITIATION_LEN, LocalKey, Tai64n};
use weft_sim::Rng;
use weft_sim::mesh::{Mesh, MeshAgent};
use weft_wire::id::PublicKey;

/// Initiations with a right mac1, of keys that the agent does not know.
fn strangers_initiation(to: &PublicKey, rng: &mut Rng) -> [u8; INITIATION_LEN] {
    let local = LocalKey::new(StaticSecret::generate(rng));
    let remote = local.remote(to).expect("a strong key");
    let mut message = [0; INITIATION_LEN];
    let index = rng.next() as u32;
    let _ = local.initiate(&remote, index, Tai64n::from_steps(1), rng, &mut message);
    message
}

fn drain(agent: &mut MeshAgent) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = [0; 2_048];
    core::iter::from_fn(|| {
        let transmit = agent.poll_transmit(&mut out)?;
        let Via::Udp { to, .. } = transmit.via else { panic!("{transmit:?}") };
        Some((to, out[..transmit.len].to_vec()))
    })
    .collect()
}

#[test]
fn regression_09_cookies_go_through_every_entry_point_of_the_agent() {
    let (mut mesh, a, b) = Mesh::pair(90);
    let own = mesh.coordinator.devices[a].wg_key;
    let mut rng = Rng::new(90);
    let addresses = |number: u8| -> [SocketAddr; 2] {
        [
            SocketAddr::from(([198, 18, 0, number], 4_000)),
            SocketAddr::from(([0x2001, 0xDB8, 0, 0, 0, 0, 0, u16::from(number)], 4_000)),
        ]
    };
    let mut asked = vec![];
    let mut answers = vec![];
    for number in 0..100u8 {
        for address in addresses(number) {
            let mut message = strangers_initiation(&own, &mut rng);
            let source = Source { socket: SocketId(0), address };
            mesh.raw_input(a, |agent, now| {
                let _ = agent.handle_datagram(source, &mut message, now);
                answers.extend(drain(agent));
            });
            asked.push(address);
        }
    }
    let cookies: Vec<_> =
        answers.iter().filter(|(_, bytes)| bytes[0] == 3).map(|(to, _)| *to).collect();
    assert!(answers.iter().all(|(_, bytes)| bytes.len() == COOKIE_REPLY_LEN), "nothing longer");
    assert!(cookies.len() > 180, "{} of 200", cookies.len());
    assert!(cookies.iter().any(SocketAddr::is_ipv4) && cookies.iter().any(SocketAddr::is_ipv6));
    // Each goes to who asked, in the order of asking.
    let mut rest = asked.iter();
    assert!(cookies.iter().all(|cookie| rest.any(|asked| asked == cookie)));
    assert!(mesh.agent(a).drops().get(DropReason::UnderLoad) > 180);
    // A known peer comes through meanwhile.
    let host = mesh.host(a);
    mesh.ping(b, host, 1);
    mesh.run_to(6_000, |mesh| mesh.replies(b) == 1);
}

#[test]
fn regression_26_the_agent_survives_datagrams_of_every_length() {
    let (mut mesh, a, b) = Mesh::pair(260);
    let mut rng = Rng::new(260);
    let mut bytes = vec![0; 65_535];
    rng.fill(&mut bytes);
    let source = Source { socket: SocketId(0), address: SocketAddr::from(([198, 18, 0, 1], 9)) };
    for len in 0..=65_535usize {
        let at = (rng.next() % 64) as usize;
        let mut datagram = bytes[..len].to_vec();
        if let Some(head) = datagram.get_mut(..4) {
            head.copy_from_slice(&[1 + (at % 5) as u8, 0, 0, 0]);
        }
        mesh.raw_input(a, |agent, now| {
            assert!(agent.handle_datagram(source, &mut datagram, now).is_err(), "{len}");
            assert!(drain(agent).is_empty());
        });
    }
    // Short frames from the line, likewise.
    for len in 0..=4_200usize {
        let frame = bytes[..len].to_vec();
        mesh.inject(a, &frame);
    }
    let host = mesh.host(a);
    mesh.ping(b, host, 1);
    mesh.run_to(6_000, |mesh| mesh.replies(b) == 1);
}
