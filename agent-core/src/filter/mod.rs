//! Who may pass: a packet and the rules of the map give a verdict.
//!
//! - No rules came, an empty list came, or none of them concerns the peer:
//!   nothing passes.
//! - **TCP** is judged by its first segment only: SYN without ACK needs a rule,
//!   everything else belongs to a connection that a rule or we ourselves began.
//! - **UDP, ICMP and others** need a rule, or an entry of the flow table that
//!   our own packet made within the last 60 s.
//! - **ICMP errors** pass when they are about such a flow or about TCP. Redirects
//!   never pass: they would change our routes.
//! - **Later fragments** name no ports: they need a rule that admits every port.
//!
//! A rule for ICMP (protocol 1) admits ICMPv6 as well: nobody who allows ping
//! means one family only.

mod flows;

use core::net::IpAddr;

use weft_wire::map::{RULES, Rule};

use self::flows::{Flow, FlowTable};
use crate::event::{DropReason, PeerSlot};
use crate::ip::{Fragment, Packet, Upper, icmp, protocol};
use crate::time::Instant;

/// Which rules hold between us and one peer: bit n stands for the rule with
/// number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// Rules that admit packets from the peer.
    pub inbound: u64,
    /// The peer's rules that admit packets from us. The peer judges; here they
    /// only save a packet that would be denied.
    pub outbound: u64,
}

/// The rules of this device and its flows. `FLOWS` is a multiple of 8; about 56
/// bytes per flow, 8 per rule.
pub struct Filter<const FLOWS: usize> {
    rules: heapless::Vec<Rule, RULES>,
    flows: FlowTable<FLOWS>,
}

impl<const FLOWS: usize> Filter<FLOWS> {
    /// A filter that lets nothing pass. `seed` is random and spreads the flows.
    #[inline(never)]
    pub const fn new(seed: u64) -> Self {
        Self { rules: heapless::Vec::new(), flows: FlowTable::new(seed) }
    }

    /// Takes the rules of the map. More than [`RULES`], or a number above 63,
    /// cannot come out of a decoded map; what exceeds is left out, so it denies.
    pub fn set_rules(&mut self, rules: &[Rule]) {
        let kept = rules.iter().filter(|rule| rule.number < 64).take(RULES);
        self.rules = kept.copied().collect();
    }

    /// Forgets all rules: nothing passes.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Forgets the flows of a peer.
    pub fn forget(&mut self, slot: PeerSlot) {
        self.flows.forget(slot);
    }

    /// Judges a packet to a peer, and notes that its answer is expected.
    ///
    /// # Errors
    ///
    /// [`DropReason::Denied`] while there are no rules,
    /// [`DropReason::DeniedByPeer`] when the peer would deny the packet.
    pub fn outbound(
        &mut self,
        slot: PeerSlot,
        masks: Masks,
        packet: &Packet<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let rules = holding(&self.rules, masks)?;
        // Only what cannot be an answer: the peer may have begun all else.
        let begins = packet.opens_tcp() || is_echo_request(packet);
        if begins && !admitted(rules, masks.outbound, packet) {
            return Err(DropReason::DeniedByPeer);
        }
        if let Some(flow) = outbound_flow(slot, packet) {
            self.flows.note(flow, now);
        }
        Ok(())
    }

    /// Judges a packet from a peer.
    ///
    /// # Errors
    ///
    /// [`DropReason::Denied`].
    pub fn inbound(
        &mut self,
        slot: PeerSlot,
        masks: Masks,
        packet: &Packet<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        if is_redirect(packet) {
            return Err(DropReason::Denied);
        }
        let rules = holding(&self.rules, masks)?;
        let passes = admitted(rules, masks.inbound, packet)
            || match (packet.fragment, packet.upper) {
                (Fragment::Later, _) => false,
                (_, Upper::Tcp { .. }) => !packet.opens_tcp(),
                _ => answered_flow(slot, packet).is_some_and(|answered| match answered {
                    Answered::Tcp => true,
                    Answered::Flow(flow) => self.flows.expects(&flow, now),
                }),
            };
        if passes { Ok(()) } else { Err(DropReason::Denied) }
    }
}

/// The rules, if at least one of them holds between us and the peer. A bit of a
/// mask whose rule is not there (yet) admits nothing: a peer entry may come
/// before the rules that it speaks of.
fn holding(rules: &[Rule], masks: Masks) -> Result<&[Rule], DropReason> {
    let mask = masks.inbound | masks.outbound;
    let holds = rules.iter().any(|rule| mask & (1 << rule.number) != 0);
    if holds { Ok(rules) } else { Err(DropReason::Denied) }
}

fn is_echo_request(packet: &Packet<'_>) -> bool {
    matches!(packet.upper, Upper::Icmp { kind, .. } if icmp::is_echo_request(packet.protocol, kind))
}

fn is_redirect(packet: &Packet<'_>) -> bool {
    matches!(packet.upper, Upper::Icmp { kind, .. } if icmp::is_redirect(packet.protocol, kind))
}

/// Whether one of the rules in the mask admits the packet.
fn admitted(rules: &[Rule], mask: u64, packet: &Packet<'_>) -> bool {
    let port = match (packet.fragment, packet.upper) {
        (Fragment::Later, _) => None,
        (_, Upper::Tcp { destination, .. } | Upper::Ports { destination, .. }) => Some(destination),
        _ => None,
    };
    rules.iter().any(|rule| {
        let protocol = rule.protocol == 0
            || rule.protocol == packet.protocol
            || rule.protocol == protocol::ICMP && packet.protocol == protocol::ICMPV6;
        let any_port = rule.first_port == 0 && rule.last_port == u16::MAX;
        let ports =
            any_port || port.is_some_and(|port| (rule.first_port..=rule.last_port).contains(&port));
        mask & (1 << rule.number) != 0 && protocol && (ports || has_no_ports(rule))
    })
}

/// ICMP has no ports, whatever the rule says about them.
const fn has_no_ports(rule: &Rule) -> bool {
    matches!(rule.protocol, protocol::ICMP | protocol::ICMPV6)
}

/// The flow that our own packet begins or goes on with; TCP needs none.
fn outbound_flow(slot: PeerSlot, packet: &Packet<'_>) -> Option<Flow> {
    if packet.fragment == Fragment::Later {
        return None;
    }
    let (local_port, remote_port) = match packet.upper {
        Upper::Tcp { .. } => return None,
        Upper::Ports { source, destination } => (source, destination),
        Upper::Icmp { identifier, .. } if is_echo_request(packet) => (identifier, 0),
        Upper::Icmp { .. } => return None,
        Upper::Opaque => (0, 0),
    };
    Some(Flow {
        slot,
        protocol: packet.protocol,
        local: packet.source,
        remote: packet.destination,
        local_port,
        remote_port,
    })
}

/// What a packet answers.
enum Answered {
    /// An error about a TCP connection. It names our own port and sequence, and
    /// the stack checks them; there is no state to look up here.
    Tcp,
    /// This flow.
    Flow(Flow),
}

fn answered_flow(slot: PeerSlot, packet: &Packet<'_>) -> Option<Answered> {
    let of = |protocol, local: IpAddr, remote: IpAddr, local_port, remote_port| {
        Answered::Flow(Flow { slot, protocol, local, remote, local_port, remote_port })
    };
    let (local, remote) = (packet.destination, packet.source);
    match packet.upper {
        Upper::Tcp { .. } => None,
        Upper::Ports { source, destination } => {
            Some(of(packet.protocol, local, remote, destination, source))
        }
        Upper::Opaque => Some(of(packet.protocol, local, remote, 0, 0)),
        Upper::Icmp { kind, identifier, .. } => {
            if icmp::is_echo(packet.protocol, kind) && !is_echo_request(packet) {
                return Some(of(packet.protocol, local, remote, identifier, 0));
            }
            let quoted = icmp::quoted(packet).filter(|quoted| quoted.source == local)?;
            let (local, remote) = (quoted.source, quoted.destination);
            Some(match quoted.upper {
                Upper::Tcp { .. } => Answered::Tcp,
                Upper::Ports { source, destination } => {
                    of(quoted.protocol, local, remote, source, destination)
                }
                Upper::Icmp { identifier, .. } => of(quoted.protocol, local, remote, identifier, 0),
                Upper::Opaque => of(quoted.protocol, local, remote, 0, 0),
            })
        }
    }
}
