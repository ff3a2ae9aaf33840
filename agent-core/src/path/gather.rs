//! How new what servers say of us is, and how long a call waits for it.

use weft_wire::signal::NatReport;

use crate::time::{Duration, Instant};

/// A mapping that nobody uses lives 30 s on most routers (RFC 4787 asks for
/// 120 s and Linux keeps an unanswered one 30 s): what is older than four fifths
/// of that is asked for again before a peer is told.
const FRESH_FOR: Duration = Duration::from_secs(24);
/// A call or its answer waits this long for a server, and then goes without.
const HOLD_FOR: Duration = Duration::from_millis(150);

pub(super) struct Gathering {
    known_at: Option<Instant>,
    hold_until: Option<Instant>,
    nat: NatReport,
    nat_at: Instant,
}

impl Gathering {
    pub(super) const fn new() -> Self {
        let nat = NatReport {
            mapping: weft_wire::signal::Mapping::Unknown,
            lifetime_s: 0,
            age_ms: u32::MAX,
        };
        Self { known_at: None, hold_until: None, nat, nat_at: Instant::ZERO }
    }

    /// The network changed.
    pub(super) const fn forget(&mut self) {
        *self = Self::new();
    }

    /// Whether servers are to be asked before a peer is told of us.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.hold_until.is_none() && self.known_at.is_none_or(|at| now - at >= FRESH_FOR)
    }

    /// They are being asked.
    pub(super) fn begin(&mut self, now: Instant) {
        self.hold_until = Some(now + HOLD_FOR);
    }

    /// One has answered, or none will.
    pub(super) const fn end(&mut self, now: Instant) {
        self.hold_until = None;
        self.known_at = Some(now);
    }

    pub(super) const fn set_nat(&mut self, nat: NatReport, now: Instant) {
        self.nat = nat;
        self.nat_at = now;
    }

    /// Whether calls and their answers wait.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.hold_until.is_some_and(|until| now < until)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.hold_until
    }

    /// Nobody answered in time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.end(now);
        }
    }

    /// What peers are told.
    pub(super) fn nat(&self, now: Instant) -> NatReport {
        let passed = u32::try_from((now - self.nat_at).as_millis()).unwrap_or(u32::MAX);
        NatReport { age_ms: self.nat.age_ms.saturating_add(passed), ..self.nat }
    }
}
