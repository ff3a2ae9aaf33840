//! Which of several ways that work carries the data, and when a better one is
//! looked for.
//!
//! Of two devices the one with the lower id leads: it moves data to a way that
//! answered its ping, and the other mirrors, since it sends to where authentic
//! data came from. Whoever hears nothing on the way in use moves by itself. No
//! handshake is needed for either: a session does not care which way its packets
//! take.

use super::candidate::is_public;
use super::peer::PeerPath;
use super::{Route, Selected, Why};
use crate::entropy::Entropy;
use crate::event::Activity;
use crate::meter::Allowance;
use crate::time::{Duration, Instant};

/// When a way without a relay is looked for again, each after the one before; the
/// last one for ever: two of them fit into five minutes.
const WAITS: [Duration; 3] =
    [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(120)];
/// Whoever leads holds to its choice for this long, while the other still sends
/// the way before.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
/// An allocation is kept this long after the data has gone another way.
const LINGERS: Duration = Duration::from_secs(10);

/// What is remembered for choosing.
pub(super) struct Choice {
    /// When we moved data by our own choice.
    moved_at: Option<Instant>,
    /// We are somewhere else since the peer was last heard.
    moved: bool,
    /// Authentic data came another way meanwhile.
    strayed: Option<Route>,
    /// When a better way is looked for.
    upgrade_at: Instant,
    /// How often that was done in vain.
    upgrades: u8,
    /// Until when the allocation is kept that no data uses.
    lean_until: Instant,
}

impl Choice {
    pub(super) const fn new() -> Self {
        Self {
            moved_at: None,
            moved: false,
            strayed: None,
            upgrade_at: Instant::FAR_FUTURE,
            upgrades: 0,
            lean_until: Instant::FAR_FUTURE,
        }
    }

    /// When a better way is looked for next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (self.upgrade_at != Instant::FAR_FUTURE).then_some(self.upgrade_at)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let settled = self.strayed.and(self.moved_at).map(|at| at + SETTLES_WITHIN);
        let at = self.upgrade_at.min(self.lean_until);
        let at = at.min(settled.unwrap_or(Instant::FAR_FUTURE));
        (at != Instant::FAR_FUTURE).then_some(at)
    }
}

impl PeerPath {
    /// Whether a relay is on this way.
    pub(super) fn is_relayed(&self, route: Route) -> bool {
        let selected = self.selected.filter(|selected| selected.route == route);
        let named = self.checks.is_relayed(route);
        let kept = self.kept == Some(route.into());
        route.is_ours()
            || kept
            || named.or_else(|| selected.map(|one| one.relayed)).unwrap_or(false)
    }

    /// Whether data takes a way without a relay that works, as far as is known.
    pub(super) fn is_direct(&self) -> bool {
        let direct = self.selected.is_some_and(|selected| !selected.relayed);
        direct && self.confirmed_at.is_some() && !self.in_doubt
    }

    /// Data takes this way from now on.
    pub(super) fn select(&mut self, route: Route, why: Why, now: Instant) {
        let relayed = self.is_relayed(route);
        if relayed && self.selected.is_some_and(|before| !before.relayed) {
            self.end_direct(now);
        }
        if !relayed {
            self.end_found(route, now);
        }
        self.history.note();
        self.selected = Some(Selected { route, why, since: now, relayed });
        self.disowned = false;
        self.warm.handle_way(self.leads, now);
        self.choice.lean_until =
            if route.is_ours() || !self.leans { Instant::FAR_FUTURE } else { now + LINGERS };
        if !relayed {
            self.choice.upgrades = 0;
            self.choice.upgrade_at = Instant::FAR_FUTURE;
        } else if self.leads && self.choice.upgrade_at == Instant::FAR_FUTURE {
            self.wait_for_upgrade(now);
        }
    }

    /// Data takes a way of its own, as before: what was asked of a relay meanwhile is
    /// needed no more.
    pub(super) fn let_go(&mut self, now: Instant) {
        if self.leans && !self.uses_ours() && self.choice.lean_until == Instant::FAR_FUTURE {
            self.choice.lean_until = now + LINGERS;
        }
    }

    fn wait_for_upgrade(&mut self, now: Instant) {
        let wait = WAITS.get(usize::from(self.choice.upgrades)).or(WAITS.last());
        let wait = wait.copied().unwrap_or(Duration::ZERO);
        // Up to a fifth more or less, so that what fell to a relay together does
        // not come back together.
        self.choice.upgrade_at = now + wait * (800 + self.checks.own_handle % 401) / 1_000;
    }

    /// Authentic data came this way while another one is in use: whether that is
    /// to be ignored for now.
    pub(super) fn strays(&mut self, route: Route, now: Instant) -> bool {
        let settles = self.choice.moved_at.is_some_and(|at| now - at < SETTLES_WITHIN);
        let other = self.selected.is_some_and(|selected| selected.route != route);
        let strays = settles && self.leads && other;
        self.choice.strayed = strays.then_some(route);
        strays
    }

    /// A way has answered: is it better than the one in use?
    pub(super) fn choose(&mut self, now: Instant) {
        let Some((route, relayed)) = self.checks.best(now) else { return };
        let Some(selected) = self.selected.filter(|_| self.confirmed_at.is_some()) else { return };
        let moved = self.choice.moved;
        if route == selected.route {
            self.let_go(now);
            // The peer does not know yet that we are somewhere else.
            self.greets |= moved;
            self.choice.moved = false;
            return;
        }
        let silent = (self.in_doubt || moved) && !self.checks.answers(selected.route, now);
        let shorter = self.turns && !is_public(route.address().ip());
        let better = self.leads && !relayed && (selected.relayed || shorter);
        if silent || better {
            self.select(route, Why::Answered, now);
            self.choice.moved_at = Some(now);
            self.choice.moved = false;
            self.choice.strayed = None;
            self.greets = true;
            if silent {
                self.doubt_moved(now);
            }
        }
    }

    /// The peer was heard another way than ours, long after we moved: what we sent
    /// there has not arrived, or it would be here too. Nothing on a way that works
    /// one way only tells whoever sends there.
    pub(super) fn follow(&mut self, heard: &Activity, now: Instant) {
        let Some(moved_at) = self.choice.moved_at.filter(|at| now - *at >= SETTLES_WITHIN) else {
            return;
        };
        let route = heard.heard_from.map(Route::from);
        let (Some(route), Some(received_at)) = (route, heard.received_at) else { return };
        if received_at - moved_at < SETTLES_WITHIN {
            return;
        }
        self.choice.moved_at = None;
        if self.selected.is_some_and(|selected| selected.route != route) {
            self.select(route, Why::Authenticated, now);
        }
    }

    /// A better way is looked for at this time, if data takes a relay and we lead.
    pub(super) fn look_at(&mut self, at: Instant) {
        if self.leads && self.selected.is_some_and(|selected| selected.relayed) {
            self.choice.upgrade_at = at;
        }
    }

    pub(super) fn handle_choice_timeout(
        &mut self,
        allowance: Allowance,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let settled = self.choice.moved_at.is_some_and(|at| now - at >= SETTLES_WITHIN);
        if let Some(route) = self.choice.strayed.take_if(|_| settled) {
            // The other side holds to that.
            self.select(route, Why::Authenticated, now);
        }
        if self.choice.lean_until <= now {
            // While a way is looked for the allocation may be the one.
            let is_sought = self.in_doubt || self.is_calling() || !self.checks.is_spent();
            self.choice.lean_until = if is_sought { now + LINGERS } else { Instant::FAR_FUTURE };
            self.leans &= is_sought || self.uses_ours();
        }
        if self.choice.upgrade_at <= now {
            self.choice.upgrade_at = Instant::FAR_FUTURE;
            if !allowance.allows_round() {
                self.look_at(allowance.until);
            } else if self.selected.is_some_and(|selected| selected.relayed) {
                self.choice.upgrades = self.choice.upgrades.saturating_add(1);
                self.wait_for_upgrade(now);
                self.call_insisting(now, entropy, now);
            }
        }
    }

    /// The network is another one, here or there: better ways are looked for at
    /// once, as if for the first time.
    pub(super) fn handle_moved(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.choice.upgrades = 0;
        self.choice.moved = true;
        if self.selected.is_some_and(|selected| selected.relayed) && self.leads {
            self.wait_for_upgrade(now);
        }
        self.call_insisting(now, entropy, now);
        self.retry(entropy, now);
    }

    /// Nobody talks: nothing more is looked for.
    pub(super) const fn rest(&mut self) {
        self.choice = Choice::new();
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use weft_wire::id::DeviceId;

    use super::*;
    use crate::event::SocketId;
    use crate::path::PeerKind;

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    #[test]
    fn an_allocation_is_kept_while_a_way_is_looked_for() {
        let kind =
            PeerKind { device: DeviceId(9), wireguard_only: false, endpoint: None, hints: [0; 2] };
        let mut peer = PeerPath::new(kind);
        let start = Instant::from_secs(100);
        let address = SocketAddr::from(([198, 51, 100, 9], 51_820));
        peer.leans = true;
        peer.select(Route::Direct { socket: SocketId(0), address }, Why::Authenticated, start);
        // It breaks just before the allocation would be given back.
        peer.in_doubt = true;
        let leans_at = |peer: &mut PeerPath, seconds| {
            peer.handle_choice_timeout(
                Allowance::UNLIMITED,
                &mut Fixed,
                start + Duration::from_secs(seconds),
            );
            peer.leans
        };
        assert!(leans_at(&mut peer, 10));
        peer.in_doubt = false;
        assert!(leans_at(&mut peer, 19) && !leans_at(&mut peer, 20));
    }
}
