//! What this machine knows of how a peer is reached.

use weft_agent_core::path::Attempt;
use weft_agent_core::time::Instant;
use weft_wire::signal::Mapping;
use weft_wire::traffic::Traffic;

use crate::daemon::Daemon;
use crate::daemon::now;
use crate::ipc::protocol::{Evidence, RelayFailure, Tried};
use crate::netcheck::PortMapping as Told;

impl Daemon {
    /// The evidence on the peer with this id; `None` = there is none.
    pub(super) fn evidence(&self, id: &str) -> Option<Evidence> {
        let now = now();
        let peer = self.agent.peers().find(|peer| peer.device.to_string() == id)?;
        let attempts = self.agent.attempts(peer.slot)?;
        let nat = self.agent.nat(now);
        let seen = || self.agent.seen();
        let millis = |at: Instant| (now - at).as_millis();
        let tried = |attempt: &Attempt| {
            let (tried, answered) = attempt.addresses();
            Tried {
                end: attempt.end().map_or(0, |end| end as u16),
                ago_ms: attempt.age(now).as_millis(),
                took_ms: attempt.took_ms(),
                tried,
                answered,
                sent: attempt.sent(),
            }
        };
        Some(Evidence {
            seen: seen().map(|(address, _)| address.to_string()).collect(),
            open: seen().find(|(_, own)| *own).map(|(address, _)| address.to_string()),
            mapping: nat.mapping,
            // As old as can be: nobody was asked.
            mapped_ms: (nat.age_ms != u32::MAX && nat.mapping != Mapping::Unknown)
                .then_some(nat.age_ms.into()),
            peer_mapping: attempts.peer_mapping(),
            attempts: attempts.iter().map(tried).collect(),
            failed: attempts.failed(),
            trying_ms: attempts.began().map(millis),
            next_ms: attempts.next().map(|at| (at - now).as_millis()),
            mapped: match self.way_in.told() {
                Told::Mapped { name, external, public: true, .. } => Some((name, external.port())),
                _ => None,
            },
            relay_failure: self.agent.relay_failure().map(|(relay, why)| RelayFailure {
                relay,
                why: why.as_str().to_owned(),
                refused: why.is_refusal(),
            }),
            withdrawn: match self.agent.settings().relays() {
                [] => self.relays_before.clone(),
                _ => Vec::new(),
            },
            allowed: self
                .agent
                .allowed(peer.slot)?
                .map(|rules| rules.map(|rule| Traffic::from(rule).to_string()).collect()),
        })
    }
}
