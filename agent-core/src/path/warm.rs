//! A way that is kept open while nobody talks: the first packet then costs one
//! round trip, and the peer can be reached while the coordinator is away.
//!
//! The session may lapse meanwhile; only the NATs on the way have to remember it.
//! How long they do is learned on the way itself: the pauses between pings grow
//! for as long as each is answered, and a pause after which nothing came back is
//! not made again in this network. Whoever remembers that over a restart gives it
//! back: the first pause is short all the same, since the flow is a new one.
//!
//! A ping and its answer remind the routers of both sides. Where both keep the way
//! open the device with the lower id pings; the other one waits a little longer,
//! counts what it hears as if it had asked, and asks only when it hears nothing.

use super::Paths;
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
const LAST: u8 = PAUSES.len() as u8 - 1;
/// How long a pause that was too long is not tried.
const LIMITED_FOR: Duration = Duration::from_secs(86_400);
/// How much longer whoever does not lead waits for the other's ping. Routers that
/// remember for 20 s, or for 30 s, remember the pause for them and this.
const FOLLOWS_AFTER: Duration = Duration::from_secs(2);
/// A peer without a way is called again after this long.
const CALL_EVERY: Duration = Duration::from_secs(60);

/// What was learned of pauses in this network, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// The longest that held.
    pub held_s: u16,
    /// The longest that may be made, and for how long no longer one is tried.
    pub most_s: u16,
    /// 0: there is no longer one, or it may be tried.
    pub limited_s: u32,
}

/// What a way that is to be kept open begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    held: u8,
    most: u8,
    limited_until: Instant,
}

impl Start {
    /// Nothing is known of this network.
    pub(super) const NOTHING: Self = Self { held: FIRST, most: LAST, limited_until: Instant::ZERO };

    pub(super) fn new(pauses: Pauses, now: Instant) -> Self {
        let index = |seconds: u16| {
            let fits = |pause: &Duration| pause.as_secs() <= seconds.into();
            PAUSES.iter().rposition(fits).unwrap_or_default() as u8
        };
        let is_limited = pauses.limited_s > 0;
        let most = if is_limited { index(pauses.most_s) } else { LAST };
        let limited = Duration::from_secs(pauses.limited_s.into()).min(LIMITED_FOR);
        Self { held: index(pauses.held_s).min(most), most, limited_until: now + limited }
    }
}

/// What is known of keeping a way open.
pub(super) struct Warm {
    is_wanted: bool,
    /// Index of the pause that is made, of the longest one that held, and of the
    /// longest one that may be.
    pause: u8,
    held: u8,
    most: u8,
    /// Until when there is no longer one.
    limited_until: Instant,
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
        Self {
            is_wanted: false,
            pause: FIRST,
            held: FIRST,
            most: LAST,
            limited_until: Instant::ZERO,
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

    /// This was learned here before, by a run of the agent that is over.
    pub(super) fn remember(&mut self, start: Start) {
        if self.is_wanted && (self.held, self.most) == (FIRST, LAST) {
            let Start { held, most, limited_until } = start;
            (self.held, self.most, self.limited_until) = (held, most, limited_until);
            self.pause = FIRST.min(most);
        }
    }

    /// What is to be remembered; nothing as long as nothing is known.
    pub(super) fn learned(&self, now: Instant) -> Option<Pauses> {
        let seconds =
            |index: u8| PAUSES.get(usize::from(index)).map_or(0, Duration::as_secs) as u16;
        let is_news = self.is_wanted && (self.held, self.most) != (FIRST, LAST);
        let limited = if self.most < LAST { self.limited_until - now } else { Duration::ZERO };
        is_news.then(|| Pauses {
            held_s: seconds(self.held.min(self.most)),
            most_s: seconds(self.most),
            limited_s: u32::try_from(limited.as_secs()).unwrap_or(u32::MAX),
        })
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
        // What held is found out again.
        self.held = FIRST;
        // A flow that begins anew is forgotten sooner than one that goes on.
        self.pause = FIRST.min(self.most);
        self.limited_until = now + LIMITED_FOR;
    }

    fn lengthen(&mut self, now: Instant) {
        if now >= self.limited_until {
            self.most = LAST;
        }
        if core::mem::replace(&mut self.has_paused, true) {
            self.held = self.held.max(self.pause);
            self.pause = (self.pause + 1).max(self.held).min(self.most);
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

impl<const PEERS: usize> Paths<PEERS> {
    /// This was learned in this network before, by a run of the agent that is over.
    pub fn prefer_pauses(&mut self, pauses: Pauses, now: Instant) {
        let start = Start::new(pauses, now);
        self.warm_start = start;
        self.peers.iter_mut().flatten().for_each(|peer| peer.warm.remember(start));
    }

    /// What was learned of the ways that are kept open: what held on all of them, and
    /// the least of limits, since each peer has routers of its own.
    pub fn pauses(&self, now: Instant) -> Option<Pauses> {
        let learned = self.peers.iter().flatten().filter_map(|peer| peer.warm.learned(now));
        learned.reduce(|one, other| {
            let held_s = one.held_s.min(other.held_s);
            let freer = if one.most_s >= other.most_s { one } else { other };
            Pauses { held_s, ..freer }
        })
    }
}

impl PeerPath {
    /// The way to this peer is to be kept open, or need not be.
    pub(super) fn keep_warm(&mut self, whose: Wish, is_wanted: bool, start: Start, now: Instant) {
        let bit = whose as u8;
        self.wishes = if is_wanted { self.wishes | bit } else { self.wishes & !bit };
        let is_wanted = self.wishes != 0;
        if self.warm.is_wanted != is_wanted {
            self.warm = Warm::new();
            self.warm.is_wanted = is_wanted;
            self.warm.remember(start);
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

#[cfg(test)]
mod unit {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_secs(1_000 + seconds)
    }

    /// The pauses that are made when each is answered, in seconds.
    fn pauses(warm: &mut Warm, now: Instant) -> [u64; 5] {
        warm.has_paused = true;
        [(); 5].map(|()| {
            let made = warm.pause().as_secs();
            warm.lengthen(now);
            made
        })
    }

    fn begun(start: Start) -> Warm {
        let mut warm = Warm { is_wanted: true, ..Warm::new() };
        warm.remember(start);
        warm
    }

    #[test]
    fn what_was_learned_is_begun_with_after_a_short_pause() {
        let told =
            |held_s, most_s, limited_s| Start::new(Pauses { held_s, most_s, limited_s }, at(0));
        let cases = [
            (Start::NOTHING, [25, 50, 96, 170, 170]),
            (told(170, 170, 0), [25, 170, 170, 170, 170]),
            (told(96, 96, 3_600), [25, 96, 96, 96, 96]),
            (told(50, 170, 0), [25, 50, 96, 170, 170]),
            (told(15, 15, 3_600), [15, 15, 15, 15, 15]),
            // Pauses of other versions, and what nobody writes.
            (told(120, 120, 3_600), [25, 96, 96, 96, 96]),
            (told(170, 50, 3_600), [25, 50, 50, 50, 50]),
            (told(0, 0, 0), [25, 50, 96, 170, 170]),
        ];
        for (start, wanted) in cases {
            assert_eq!(pauses(&mut begun(start), at(60)), wanted, "{start:?}");
        }
        let day = told(96, 96, 86_400);
        assert_eq!(pauses(&mut begun(day), at(86_399)), [25, 96, 96, 96, 96]);
        assert_eq!(pauses(&mut begun(day), at(86_400)), [25, 96, 170, 170, 170], "a day is over");
        assert_eq!(told(96, 96, u32::MAX), day, "no longer than a day");
    }

    #[test]
    fn what_held_and_what_did_not_is_told() {
        let mut warm = begun(Start::NOTHING);
        assert_eq!(warm.learned(at(0)), None);
        pauses(&mut warm, at(0));
        assert_eq!(warm.learned(at(0)), Some(Pauses { held_s: 170, most_s: 170, limited_s: 0 }));
        warm.shorten(at(10));
        let limited = |held_s, limited_s| Some(Pauses { held_s, most_s: 96, limited_s });
        assert_eq!(warm.learned(at(10)), limited(25, 86_400));
        pauses(&mut warm, at(10));
        assert_eq!(warm.learned(at(3_610)), limited(96, 82_800));
        let again = begun(Start::new(warm.learned(at(3_610)).unwrap(), at(9)));
        assert_eq!(again.learned(at(9)), warm.learned(at(3_610)));
        warm.forget(at(20));
        assert_eq!(warm.learned(at(20)), None, "another network");
    }
}
