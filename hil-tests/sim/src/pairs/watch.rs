//! What is promised of one direction of a pair, checked packet by packet.

use std::time::Duration;

use weft_agent_core::time::Instant;

use super::Outcome;

/// The longest time without a way while there is one.
pub const WITHOUT_WAY: Duration = Duration::from_secs(10);
/// The same while a relay answers its users and passes nothing on: whatever breaks
/// beside that, the relay has to be found out first.
pub const WITHOUT_WAY_NOR_WORD: Duration = Duration::from_secs(20);
/// The longest time over a relay while it would go directly.
pub const ON_RELAY: Duration = Duration::from_secs(300);

/// What broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing has arrived for longer than [`WITHOUT_WAY`].
    NoWay(Duration),
    /// Data has taken a relay for longer than [`ON_RELAY`].
    Relayed(Duration),
    /// The coordinator is there, and a device does not come back to it.
    Offline(Duration),
}

/// One direction.
#[derive(Default)]
pub(super) struct Watch {
    /// The first packet since the last arrival that has not arrived.
    lost_since: Option<Instant>,
    /// Since when everything takes a relay and need not.
    relayed_since: Option<Instant>,
    /// So far.
    pub(super) outcome: Outcome,
}

impl Watch {
    /// Nobody sends any more.
    pub(super) const fn rest(&mut self) {
        self.lost_since = None;
        self.relayed_since = None;
    }

    /// Whatever was sent last has arrived, or nothing is sent.
    pub(super) fn flows(&self) -> bool {
        self.lost_since.is_none()
    }

    /// A packet goes. `way` says how soon one has to be found, if one exists,
    /// `direct` whether one without a relay does and can be found.
    pub(super) fn sent(
        &mut self,
        way: Option<Duration>,
        direct: bool,
        now: Instant,
    ) -> Option<Broken> {
        self.outcome.sent += 1;
        if !direct {
            self.relayed_since = None;
        }
        let Some(limit) = way else {
            self.lost_since = None;
            return None;
        };
        let since = *self.lost_since.get_or_insert(now);
        self.outcome.without_way = self.outcome.without_way.max(now - since);
        (now - since > limit).then(|| Broken::NoWay(now - since))
    }

    /// A packet has arrived.
    pub(super) fn arrived(&mut self, relayed: bool, direct: bool, at: Instant) -> Option<Broken> {
        self.outcome.arrived += 1;
        self.outcome.relayed += u32::from(relayed);
        self.lost_since = None;
        if !relayed || !direct {
            self.relayed_since = None;
            return None;
        }
        let since = *self.relayed_since.get_or_insert(at);
        self.outcome.on_relay = self.outcome.on_relay.max(at - since);
        (at - since > ON_RELAY).then(|| Broken::Relayed(at - since))
    }
}
