//! What is promised of one direction of a pair, checked packet by packet.

use weft_agent_core::time::{Duration, Instant};

use super::Outcome;

/// The longest time without a way while there is one.
pub const WITHOUT_WAY: Duration = Duration::from_secs(10);
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
    /// A packet was sent since the last event.
    has_sent: bool,
    /// One of those has arrived.
    is_proven: bool,
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

    /// Something happens: what has arrived before proves nothing any more.
    pub(super) const fn happens(&mut self) {
        (self.has_sent, self.is_proven) = (false, false);
    }

    /// Something has arrived since the last event, and whatever was sent last.
    pub(super) fn flows(&self) -> bool {
        self.is_proven && self.lost_since.is_none()
    }

    /// A packet goes. `way` says whether one exists and can be found, `direct` whether
    /// one without a relay does.
    pub(super) fn sent(&mut self, way: bool, direct: bool, now: Instant) -> Option<Broken> {
        self.outcome.sent += 1;
        self.has_sent = true;
        if !direct {
            self.relayed_since = None;
        }
        if !way {
            self.lost_since = None;
            return None;
        }
        let since = *self.lost_since.get_or_insert(now);
        self.outcome.without_way = self.outcome.without_way.max(now - since);
        (now - since > WITHOUT_WAY).then(|| Broken::NoWay(now - since))
    }

    /// A packet has arrived.
    pub(super) fn arrived(&mut self, relayed: bool, direct: bool, at: Instant) -> Option<Broken> {
        self.outcome.arrived += 1;
        self.outcome.relayed += u32::from(relayed);
        self.lost_since = None;
        // Each packet is there, or lost, before the next one is sent.
        self.is_proven |= self.has_sent;
        if !relayed || !direct {
            self.relayed_since = None;
            return None;
        }
        let since = *self.relayed_since.get_or_insert(at);
        self.outcome.on_relay = self.outcome.on_relay.max(at - since);
        (at - since > ON_RELAY).then(|| Broken::Relayed(at - since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Instant {
        Instant::from_secs(seconds)
    }

    #[test]
    fn a_way_that_is_missing_for_longer_than_it_may_is_told() {
        let mut watch = Watch::default();
        assert_eq!(watch.sent(true, false, at(0)), None);
        assert_eq!(watch.sent(true, false, at(10)), None);
        assert_eq!(watch.sent(true, false, at(11)), Some(Broken::NoWay(Duration::from_secs(11))));
        // While there is none nobody waits for one.
        assert_eq!(watch.sent(false, false, at(12)), None);
        assert_eq!(watch.sent(true, false, at(13)), None);
        assert_eq!(watch.arrived(false, false, at(14)), None);
        assert_eq!(watch.sent(true, false, at(24)), None);
    }

    #[test]
    fn a_flow_is_proven_by_what_was_sent_since_the_last_event() {
        let mut watch = Watch::default();
        assert!(!watch.flows());
        watch.sent(true, true, at(0));
        watch.arrived(false, true, at(1));
        assert!(watch.flows());
        watch.sent(true, true, at(2));
        assert!(!watch.flows(), "the last one has not arrived");
        watch.happens();
        watch.arrived(false, true, at(3));
        assert!(!watch.flows(), "it was sent before that");
        // To a device that is off: nothing is waited for, and nothing flows.
        watch.sent(false, false, at(4));
        assert!(!watch.flows());
        watch.arrived(false, true, at(5));
        assert!(watch.flows());
    }
}
