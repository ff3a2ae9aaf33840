//! IP packets: what a peer sends through the tunnel, and what a program on this
//! machine sends into it.

use weft_agent_core::event::PeerSlot;
use weft_agent_core::filter::{Filter, Masks};
use weft_agent_core::ip::icmp::{self, Problem};
use weft_agent_core::ip::{Packet, stated_len};
use weft_agent_core::time::Instant;
use weft_wire::map::Rule;

/// An answer is at most as long as IPv6's smallest MTU.
const ANSWER: usize = 1_280;

const RULES: [Rule; 3] = [
    Rule { number: 0, protocol: 6, first_port: 22, last_port: 22 },
    Rule { number: 1, protocol: 17, first_port: 0, last_port: u16::MAX },
    Rule { number: 2, protocol: 1, first_port: 0, last_port: u16::MAX },
];

pub(crate) fn packet(data: &[u8]) {
    if let Some(len) = stated_len(data) {
        assert!(len <= data.len());
    }
    for problem in [Problem::TooBig { mtu: 1_280 }, Problem::Prohibited, Problem::Unreachable] {
        let mut out = [0; ANSWER];
        let Some(len) = icmp::answer_bytes(data, problem, &mut out) else { continue };
        let answer = Packet::parse(&out[..len]).expect("an answer is a packet");
        let asked = Packet::parse(data).expect("only packets are answered");
        assert_eq!(answer.destination, asked.source);
        let again = icmp::answer_bytes(&out[..len], problem, &mut [0; ANSWER]);
        assert_eq!(again, None, "an error is never answered by an error");
    }
    let Ok(packet) = Packet::parse(data) else { return };
    assert!(packet.upper_at <= packet.bytes.len());
    let _ = (icmp::head_len(&packet), icmp::quoted(&packet));
    filter(&packet);
}

fn filter(packet: &Packet<'_>) {
    let now = Instant::from_secs(1);
    let mut filter = Filter::<8>::new(1);
    let masks = Masks { inbound: 7, outbound: 7 };
    let none = filter.inbound(PeerSlot(0), masks, packet, now);
    assert!(none.is_err(), "nothing passes without rules");
    filter.set_rules(&RULES);
    let before = filter.inbound(PeerSlot(0), masks, packet, now);
    let closed = filter.inbound(PeerSlot(0), Masks::default(), packet, now);
    assert!(closed.is_err(), "nothing passes to or from whom no rule concerns");
    let _ = filter.outbound(PeerSlot(0), masks, packet, now);
    // What went out may open the way for an answer, never close it.
    assert!(before.is_err() || filter.inbound(PeerSlot(0), masks, packet, now).is_ok());
}
