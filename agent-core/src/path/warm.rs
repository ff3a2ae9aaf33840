//! A way that is kept open while nobody talks: the first packet then costs one
//! round trip, and the peer can be reached while the coordinator is away.
//!
//! The session may lapse meanwhile; only the NATs on the way have to remember it.
//! How long they do is learned on the way itself: the pauses between pings grow
//! for as long as each is answered, and a pause after which nothing came back is
//! not made again in this network.
//!
//! A ping and its answer remind the routers of both sides. Where both keep the way
//! open the device with the lower id pings; the other one waits a little longer,
//! counts what it hears as if it had asked, and asks only when it hears nothing.

use super::peer::PeerPath;
use super::silence::ANSWER_WITHIN;
use crate::entropy::Entropy;
use crate::meter::Allowance;
use crate::time::{Duration, Instant};

/// Pauses that are tried: four fifths of what routers keep a flow for, 20 s, 30 s, a
/// minute, 2 minutes and more (RFC 4787 section 4.3 asks for 2 minutes at least).
const PAUSES: [Duration; 5] = [
    Duration::from_secs(15),
    Duration::from_secs(25),
    Duration::from_secs(50),
    Duration::from_secs(96),
    Duration::from_secs(170),
];
/// Where the search begins: a router that forgets sooner is rare.
const FIRST: u8 = 1;
/// How long a pause that was too long is not tried.
const LIMITED_FOR: Duration = Duration::from_secs(86_400);
/// How much longer whoever does not lead waits for the other's ping. Routers that
/// remember for 20 s, or for 30 s, remember the pause for them and this.
const FOLLOWS_AFTER: Duration = Duration::from_secs(2);
/// A peer without a way is called again after this long.
const CALL_EVERY: Duration = Duration::from_secs(60);

/// What is known of keeping a way open.
pub(super) struct Warm {
    is_wanted: bool,
    /// Index of the pause that is made, and of the longest one that may be.
    pause: u8,
    most: u8,
    /// Since when there is no longer one.
    limited_at: Instant,
    /// The last ping was answered, and there was nothing but a pause since.
    has_paused: bool,
    /// A ping is on its way.
    is_asked: bool,
    /// A budget is used up.
    is_held: bool,
    /// When the pause began.
    since: Instant,
    at: Instant,
}

impl Warm {
    pub(super) const fn new() -> Self {
        let most = PAUSES.len() as u8 - 1;
        Self {
            is_wanted: false,
            pause: FIRST,
            most,
            limited_at: Instant::ZERO,
            has_paused: false,
            is_asked: false,
            is_held: false,
            since: Instant::ZERO,
            at: Instant::FAR_FUTURE,
        }
    }

    /// Whether the way is kept open now.
    pub(super) const fn is_kept(&self) -> bool {
        self.is_wanted && !self.is_held
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        (self.at != Instant::FAR_FUTURE).then_some(self.at)
    }

    /// Another network has other routers.
    pub(super) const fn forget(&mut self, now: Instant) {
        if self.is_wanted {
            *self = Self { is_wanted: true, at: now, ..Self::new() };
        }
    }

    /// Data or a handshake went this way: a pause begins.
    pub(super) fn handle_way(&mut self, leads: bool, now: Instant) {
        if self.is_kept() {
            (self.is_asked, self.has_paused) = (false, true);
            self.begin_pause(leads, now);
        }
    }

    /// The peer has asked this way, and is answered: all routers on it know it as
    /// well as if we had.
    pub(super) fn handle_ping(&mut self, leads: bool, now: Instant) {
        // Our own question stands until it is answered.
        if !self.is_kept() || self.is_asked {
            return;
        }
        // Of several pings after a pause the first one counts.
        if now + FOLLOWS_AFTER - self.since >= self.pause() {
            self.lengthen(now);
        }
        self.begin_pause(leads, now);
    }

    fn begin_pause(&mut self, leads: bool, now: Instant) {
        let longer = if leads { Duration::ZERO } else { FOLLOWS_AFTER };
        self.since = now;
        self.at = now + self.pause() + longer;
    }

    /// A pause was too long, as far as anybody can tell: the peer may have been
    /// away, so a longer one is tried again after a day.
    fn shorten(&mut self, now: Instant) {
        self.has_paused = false;
        // A peer that was away once is no reason to ping at the highest rate for a day.
        let is_proven = self.pause != FIRST || self.most == FIRST;
        self.most = if is_proven { self.pause.saturating_sub(1) } else { FIRST };
        // A flow that begins anew is forgotten sooner than one that goes on.
        self.pause = FIRST.min(self.most);
        self.limited_at = now;
    }

    fn lengthen(&mut self, now: Instant) {
        if now - self.limited_at >= LIMITED_FOR {
            self.most = PAUSES.len() as u8 - 1;
        }
        if core::mem::replace(&mut self.has_paused, true) {
            self.pause = (self.pause + 1).min(self.most);
        }
    }

    fn pause(&self) -> Duration {
        PAUSES.get(usize::from(self.pause)).copied().unwrap_or(CALL_EVERY)
    }
}

/// Who wants a way kept open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whoever set this device up.
    Device = 1,
    /// An operator of the network, by its policy.
    Network = 2,
}

impl PeerPath {
    /// The way to this peer is to be kept open, or need not be.
    pub(super) fn keep_warm(&mut self, whose: Wish, is_wanted: bool, now: Instant) {
        let bit = whose as u8;
        self.wishes = if is_wanted { self.wishes | bit } else { self.wishes & !bit };
        let is_wanted = self.wishes != 0;
        if self.warm.is_wanted != is_wanted {
            self.warm = Warm::new();
            self.warm.is_wanted = is_wanted;
            self.warm.at = if is_wanted { now } else { Instant::FAR_FUTURE };
            // A way over a relay that nobody uses is given up, as any other.
            if !is_wanted {
                self.listening.begin(now);
            }
        }
    }

    /// Whether probes on the way in use are there to keep it open: nobody looks for
    /// another one.
    pub(super) fn is_kept_warm(&self) -> bool {
        self.warm.is_kept() && self.confirmed_at.is_some() && self.history.began().is_none()
    }

    /// The way may be kept open again, from then on.
    pub(super) fn resume_warm(&mut self, at: Instant) {
        if core::mem::take(&mut self.warm.is_held) {
            self.warm.at = at;
        }
    }

    pub(super) fn handle_warm_timeout(
        &mut self,
        allowance: Allowance,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if self.warm.at > now {
            return;
        }
        if !allowance.allows_round() {
            self.warm = Warm { is_wanted: true, is_held: true, ..Warm::new() };
            // An allocation that nobody uses is given back.
            return self.listening.begin(now);
        }
        let Some(selected) = self.selected.filter(|_| self.confirmed_at.is_some()) else {
            (self.warm.is_asked, self.warm.has_paused) = (false, false);
            self.warm.at = now + CALL_EVERY;
            return self.call_at(now, entropy, now);
        };
        if !core::mem::replace(&mut self.warm.is_asked, true) {
            self.warm.at = now + ANSWER_WITHIN;
            return self.ask_once(entropy, now);
        }
        self.warm.is_asked = false;
        if self.checks.answers(selected.route, now) {
            self.warm.lengthen(now);
        } else {
            self.warm.shorten(now);
            self.doubt(entropy, now);
        }
        self.warm.begin_pause(self.leads, now);
    }
}
