//! A peer that is sent to and says nothing: is it the way, or the peer?
//!
//! Authenticated data decides, and silence alone proves nothing: many flows go
//! one way. So after a second of it the way itself is asked by a ping, whose
//! answer needs no program at the other end. Only without that one is the peer
//! called, as if there were no way. A NAT forgets a mapping after 30 s on many
//! networks, and WireGuard would notice after 15 s of sending.

use super::peer::PeerPath;
use super::{RelaySuspicion, Selected};
use crate::entropy::Entropy;
use crate::event::Activity;
use crate::meter::Allowance;
use crate::time::{Duration, Instant};

/// Data without an answer for this long makes us ask.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// The way has this long to answer; by then six pings went.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A way that answered is not asked again for this long.
const TRUSTED_FOR: Duration = Duration::from_secs(4);
/// The same where bytes cost money and the day's are used up.
const TRUSTED_FOR_LONGER: Duration = Duration::from_secs(30);
/// Without an answer everything is done again after this long for the first time: a
/// call, its answer and a round are over by then …
const FIRST_AGAIN_AFTER: Duration = Duration::from_millis(2_500);
/// … and then after this long each time.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// With whom nothing was exchanged for this long is not listened for. The data path
/// says when data goes again: the tunnel has looked at it twice by then, 10 s apart.
const IDLE_AFTER: Duration = Duration::from_secs(25);
/// A way over a relay is given up when nobody has talked for this long.
const RELAY_IDLE_AFTER: Duration = Duration::from_secs(120);
/// By whoever has the allocation, this much later.
const OURS_LONGER: Duration = Duration::from_secs(15);

/// Listening for one peer.
pub(super) struct Listening {
    /// When the data path is asked what it heard; `FAR_FUTURE` = not.
    at: Instant,
    /// Since when pings are on their way.
    asked_at: Option<Instant>,
}

impl Listening {
    pub(super) const fn new() -> Self {
        Self { at: Instant::FAR_FUTURE, asked_at: None }
    }

    /// Data went out, or came in, after a pause.
    pub(super) fn begin(&mut self, now: Instant) {
        // What is due later is the end of a way that nobody uses.
        self.at = self.at.min(now + ASK_AFTER);
    }

    pub(super) const fn end(&mut self) {
        *self = Self::new();
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        (self.at != Instant::FAR_FUTURE).then_some(self.at)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at <= now
    }
}

impl PeerPath {
    /// What the data path has heard of this peer.
    pub(super) fn handle_heard(
        &mut self,
        heard: &Activity,
        allowance: Allowance,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.follow(heard, now);
        let trusted_for = if allowance.allows_round() { TRUSTED_FOR } else { TRUSTED_FOR_LONGER };
        self.listening.at = match (heard.first_unanswered_at, self.listening.asked_at) {
            (None, _) => {
                self.is_heard();
                self.listen_on(heard, now)
            }
            // In a busy flow something is always on its way.
            (Some(since), _) if now - since < ASK_AFTER => {
                self.is_heard();
                since + ASK_AFTER
            }
            (Some(_), None) if self.unproven => {
                // The way works and the session does not: the peer started anew.
                self.unproven = false;
                self.ready = true;
                self.renews = true;
                now + AGAIN_AFTER
            }
            (Some(_), None) => self.ask_the_way(entropy, now),
            (Some(_), Some(asked_at)) => {
                self.listening.asked_at = None;
                let way = self.selected.map(|selected| selected.route);
                if way.is_some_and(|way| self.checks.answers(way, now)) {
                    asked_at + trusted_for
                } else {
                    let wait = if self.in_doubt { AGAIN_AFTER } else { FIRST_AGAIN_AFTER };
                    self.doubt(entropy, now);
                    now + wait
                }
            }
        };
    }

    /// Something authentic came within the last second.
    const fn is_heard(&mut self) {
        self.listening.asked_at = None;
        self.in_doubt = false;
        self.unproven = false;
    }

    /// When the data path is asked next what it has heard of a peer that answers.
    fn listen_on(&mut self, heard: &Activity, now: Instant) -> Instant {
        // Who only receives may begin to send at any time.
        let last = heard.data_sent_at.max(heard.data_received_at);
        if last.is_some_and(|at| now - at < IDLE_AFTER) {
            return now + ASK_AFTER;
        }
        let relayed = self.selected.is_some_and(|selected| selected.relayed);
        if !relayed || self.warm.is_kept() {
            return Instant::FAR_FUTURE;
        }
        // Whoever has the allocation keeps it for longer than the other sends to it.
        let longer = if self.uses_ours() { OURS_LONGER } else { Duration::ZERO };
        let limit = RELAY_IDLE_AFTER + longer;
        let last = last.unwrap_or(Instant::ZERO);
        if now - last < limit {
            return last + limit;
        }
        self.handle_failed();
        self.selected = None;
        self.is_idle = true;
        Instant::FAR_FUTURE
    }

    /// Nothing comes back this way: whatever is known is tried, and the peer is
    /// asked for more.
    pub(super) fn doubt(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        let again = core::mem::replace(&mut self.in_doubt, true);
        if again {
            self.history.set_lost();
        }
        // What the peer names no more is silent for another reason than its relay.
        let excused = again && self.disowned;
        self.suspects = match self.selected {
            Some(Selected { relayed: true, route, .. }) if !route.is_ours() && !excused => {
                Some(RelaySuspicion::Silent(Some(route.address().ip())))
            }
            // Everything was tried, ours too.
            _ if again && self.leans => Some(RelaySuspicion::Silent(None)),
            Some(Selected { relayed: true, .. }) => Some(RelaySuspicion::Unanswered),
            _ => self.leans.then_some(RelaySuspicion::Doubted),
        };
        self.call_now(entropy, now);
        self.retry(entropy, now);
    }

    /// Data has left a silent way: something has to come back on the new one.
    pub(super) fn doubt_moved(&mut self, now: Instant) {
        self.in_doubt = false;
        self.unproven = true;
        self.listening.asked_at = None;
        self.listening.at = now + ASK_AFTER;
    }

    /// A round has had time to be answered, and nobody has told of anything authentic
    /// since. Of the way in use nobody does: through another relay it is the same one,
    /// and the data path knows what has come.
    pub(super) fn doubt_session(&mut self, now: Instant) {
        if self.selected.is_some_and(|selected| self.checks.answers(selected.route, now)) {
            self.doubt_moved(now);
            self.listening.at = now;
        } else {
            self.renews = true;
        }
    }

    /// Pings go to every address that is known.
    pub(super) fn retry(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.checks.retry(transaction(entropy), now);
    }

    /// Returns when the answer must have come.
    fn ask_the_way(&mut self, entropy: &mut dyn Entropy, now: Instant) -> Instant {
        if self.selected.is_none() {
            return Instant::FAR_FUTURE;
        }
        if self.uses_ours() {
            self.suspects = Some(RelaySuspicion::Unanswered);
        }
        self.ask_once(entropy, now);
        self.listening.asked_at = Some(now);
        now + ANSWER_WITHIN
    }

    /// Pings the way that data takes, until it answers.
    pub(super) fn ask_once(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        // A round that is under way tries more than this.
        if let Some(Selected { route, relayed, .. }) = self.selected
            && self.checks.is_spent()
        {
            self.checks.ask(route, relayed, transaction(entropy), now);
        }
    }
}

fn transaction(entropy: &mut dyn Entropy) -> u64 {
    let mut transaction = [0; 8];
    entropy.fill(&mut transaction);
    u64::from_le_bytes(transaction)
}
