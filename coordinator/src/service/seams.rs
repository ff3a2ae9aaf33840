//! What the part that faces devices gives to the part that faces operators,
//! and back.

use core::future::Future;
use core::net::IpAddr;
use core::pin::Pin;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use weft_wire::id::{CommandId, DeviceId, PublicKey};
use weft_wire::item::Outcome;
use weft_wire::network::NetworkReport;

use crate::domain::enrolment::Refused;
use crate::domain::relay::Relay;
use crate::domain::relay_health::Health;
use crate::domain::time::UnixMs;

/// What is known of a device's presence, in memory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it holds a confirmed session and was heard in time.
    pub online: bool,
    /// When it was last heard.
    pub last_seen: UnixMs,
    /// From where, as the carrier saw it.
    pub address: Option<IpAddr>,
    /// Its last heartbeat.
    pub report: Option<Report>,
}

/// What a device said of itself in its last heartbeat. What is counted, is
/// counted since the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When it came.
    pub at: UnixMs,
    /// Starts of the device since it was made.
    pub boot_count: u32,
    /// Seconds since its agent started.
    pub uptime_s: u32,
    /// Peers with a session.
    pub active_peers: u16,
    /// Of these, on a direct path.
    pub direct_peers: u16,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u32,
    /// Inner packets received.
    pub rx_packets: u32,
    /// Handshakes completed.
    pub handshakes: u32,
    /// Handshake attempts that ended without an answer.
    pub handshake_failures: u32,
    /// Packets and datagrams dropped, in the order of the agent's reasons.
    pub drops: Vec<u32>,
}

/// Who is there.
pub trait PresenceView: Send + Sync {
    /// What is known of one device; `None` = not heard since this coordinator
    /// started.
    fn presence(&self, device: DeviceId) -> Option<Presence>;
}

/// How much a relay has to do, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLoad {
    /// Allocations at that moment.
    pub allocations: u32,
    /// The most that it makes.
    pub max_allocations: u32,
    /// Users who have some.
    pub users: u32,
    /// Whether somebody at its machine wants it to take no new clients.
    pub is_draining: bool,
}

/// What is known of a relay at this moment, in memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayLive {
    /// What its checks say.
    pub health: Health,
    /// When it was last checked.
    pub checked: Option<UnixMs>,
    /// Its last report.
    pub load: Option<RelayLoad>,
    /// When that came.
    pub reported: Option<UnixMs>,
    /// From where.
    pub seen: Option<IpAddr>,
    /// Whether it waits for news now.
    pub is_connected: bool,
    /// Whether it runs in this process.
    pub is_inside: bool,
}

/// Looks at relays, and speaks to them.
pub trait RelayView: Send + Sync {
    /// What is known of one.
    fn live(&self, relay: &Relay) -> RelayLive;
    /// An operator changed or removed one: it hears so, and devices too where
    /// that concerns them.
    fn changed(&self, number: u16) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What a device is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Restart its agent.
    Restart,
    /// Look at its network.
    Netcheck,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandResult {
    /// The device holds no session.
    Absent,
    /// The device said this.
    Answered(Outcome),
    /// The device looked at its network.
    Looked(Box<NetworkReport>),
    /// It was sent, and no word came before it expired.
    Unanswered,
}

/// Brings commands to devices.
pub trait Commands: Send + Sync {
    /// Sends a command and waits for the device's word, at most until
    /// `expires`.
    fn deliver(
        &self,
        device: DeviceId,
        id: CommandId,
        task: Task,
        expires: UnixMs,
    ) -> Pin<Box<dyn Future<Output = CommandResult> + Send + '_>>;
}

/// Refusals that `why-not` looks back on.
const REFUSALS: usize = 256;

/// One refused registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who asked.
    pub identity: PublicKey,
    /// When.
    pub at: UnixMs,
    /// Why it was refused.
    pub reason: Refused,
}

/// The latest refusals, in memory only; one per identity.
#[derive(Default)]
pub struct Refusals(Mutex<VecDeque<Refusal>>);

impl Refusals {
    /// Remembers a refusal.
    pub fn note(&self, refusal: Refusal) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.identity != refusal.identity);
        if known.len() == REFUSALS {
            known.pop_front();
        }
        known.push_back(refusal);
    }

    /// The latest refusal for which `wanted` is true.
    pub fn find(&self, wanted: impl Fn(&Refusal) -> bool) -> Option<Refusal> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().rev().find(|one| wanted(one)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_one_per_identity() {
        let refusals = Refusals::default();
        let refusal = |n: u16, at: u64| {
            let mut identity = PublicKey([0; 32]);
            identity.0[..2].copy_from_slice(&n.to_be_bytes());
            Refusal { identity, at: UnixMs(at), reason: Refused::KeyUnknown }
        };
        for n in 0..=300 {
            refusals.note(refusal(n, 1));
        }
        refusals.note(refusal(300, 2));
        let find = |n: u16| refusals.find(|one| one.identity == refusal(n, 0).identity);
        assert_eq!(find(300).unwrap().at, UnixMs(2));
        assert_eq!(find(0), None);
        assert!(find(45).is_some() && find(44).is_none());
    }
}
