//! How new what servers say of us is, and how long a call waits for it.

use weft_wire::signal::{Mapping, NatReport};

use super::ladder;
use crate::time::{Duration, Instant};

/// A mapping that nobody uses lives 30 s on most routers (RFC 4787 asks for
/// 120 s and Linux keeps an unanswered one 30 s): what is older than four fifths
/// of that is asked for again before a peer is told.
const FRESH_FOR: Duration = Duration::from_secs(24);
/// Where ports are counted, each new destination moves them on.
const COUNTED_FOR: Duration = Duration::from_secs(2);
/// The same when a way has broken: a NAT that has started anew, or has another
/// address, knows nothing of before.
const DOUBTED_FOR: Duration = Duration::from_secs(1);
/// A call or its answer waits this long for a server and for a relay, and then
/// goes without.
const HOLD_FOR: Duration = Duration::from_millis(150);

pub(super) struct Gathering {
    known_at: Option<Instant>,
    hold_until: Option<Instant>,
    /// A server has not answered yet.
    awaits_server: bool,
    /// The same, and nobody waits for that any more.
    is_late: bool,
    /// An allocation at a relay has not come yet.
    awaits_relay: bool,
    nat: NatReport,
    nat_at: Instant,
    /// A relay has answered a datagram.
    passes: bool,
}

impl Gathering {
    pub(super) const fn new() -> Self {
        let nat = NatReport { mapping: Mapping::Unknown, lifetime_s: 0, age_ms: u32::MAX };
        Self {
            known_at: None,
            hold_until: None,
            awaits_server: false,
            is_late: false,
            awaits_relay: false,
            nat,
            nat_at: Instant::ZERO,
            passes: false,
        }
    }

    /// A relay has answered a datagram, whatever has become of servers.
    pub(super) const fn handle_passed(&mut self) {
        self.passes = true;
    }

    /// The network changed.
    pub(super) const fn forget(&mut self) {
        *self = Self::new();
    }

    /// Whether servers are to be asked before a peer is told of us.
    pub(super) fn is_stale(&self, doubted: bool, now: Instant) -> bool {
        let fresh_for = match (doubted, self.is_hard()) {
            (true, _) => DOUBTED_FOR,
            (false, true) => COUNTED_FOR,
            (false, false) => FRESH_FOR,
        };
        !self.awaits_server && self.known_at.is_none_or(|at| now - at >= fresh_for)
    }

    /// Every destination sees another port of ours.
    pub(super) const fn is_hard(&self) -> bool {
        ladder::is_hard(self.nat.mapping)
    }

    pub(super) const fn mapping(&self) -> Mapping {
        self.nat.mapping
    }

    /// They are being asked. Where nothing came back the last time nobody waits
    /// for them.
    pub(super) fn begin(&mut self, now: Instant) {
        self.awaits_server = self.nat.mapping != Mapping::Blocked;
        self.is_late = self.awaits_server;
        self.known_at = Some(now);
        self.hold_until = Some(now + HOLD_FOR);
    }

    /// An allocation is being asked for.
    pub(super) fn begin_relay(&mut self, now: Instant) {
        self.awaits_relay = true;
        self.hold_until = Some(now + HOLD_FOR);
    }

    /// A server has answered, or none will.
    pub(super) const fn end(&mut self, now: Instant) {
        self.awaits_server = false;
        self.is_late = false;
        self.known_at = Some(now);
    }

    /// Whether a server may still say something else than what peers are told.
    pub(super) const fn is_late(&self) -> bool {
        self.is_late
    }

    /// There is an allocation, or there will be none.
    pub(super) const fn end_relay(&mut self) {
        self.awaits_relay = false;
    }

    pub(super) const fn set_nat(&mut self, nat: NatReport, now: Instant) {
        self.nat = nat;
        self.nat_at = now;
    }

    /// No datagram comes back in this network.
    pub(super) fn is_blocked(&self) -> bool {
        self.nat.mapping == Mapping::Blocked && !self.passes
    }

    /// Whether calls and their answers wait.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let awaits = self.awaits_server || self.awaits_relay;
        awaits && self.hold_until.is_some_and(|until| now < until)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.hold_until.filter(|_| self.awaits_server || self.awaits_relay)
    }

    /// Nobody answered in time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
            self.awaits_server = false;
            self.awaits_relay = false;
        }
    }

    /// What peers are told.
    pub(super) fn nat(&self, now: Instant) -> NatReport {
        let passed = u32::try_from((now - self.nat_at).as_millis()).unwrap_or(u32::MAX);
        NatReport { age_ms: self.nat.age_ms.saturating_add(passed), ..self.nat }
    }
}
