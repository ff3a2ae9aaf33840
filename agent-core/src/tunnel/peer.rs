//! One peer: its keys, its pending handshake, its sessions and timers, and what
//! is still to be told about it.

use heapless::Vec;
use weft_noise::wg::cookie::Jar;
use weft_noise::wg::{RemoteKey, Tai64n};

use super::indices::Indices;
use super::keys::PeerKeys;
use super::session::{Gone, SLOTS, Sessions};
use super::table::Ready;
use crate::config::implementation::REKEY_TIMEOUT_JITTER;
use crate::config::specification::{
    ERASE_AFTER_TIME, KEEPALIVE_TIMEOUT, NO_ANSWER_TIME, REKEY_TIMEOUT,
};
use crate::entropy::Entropy;
use crate::event::{Activity, Source};
use crate::time::{Duration, Instant};
use crate::timer::{Reason, TimerKey, TimerTable};

/// The timers of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Send an initiation: the first, or the next of an attempt.
    Initiate,
    /// Read the peer's activity: something may have to be answered, kept alive
    /// or given up.
    Check,
    /// Erase all sessions.
    Erase,
    /// Erase the second key.
    SecondKey,
}

impl TimerKey for Timer {
    const ALL: &'static [Self] = &[Self::Initiate, Self::Check, Self::Erase, Self::SecondKey];

    fn index(self) -> usize {
        self as usize
    }

    fn reason(self) -> Reason {
        Reason::new(match self {
            Self::Initiate => "tunnel: send a handshake initiation",
            Self::Check => "tunnel: look for unanswered packets",
            Self::Erase => "tunnel: erase sessions",
            Self::SecondKey => "tunnel: erase a second key",
        })
    }
}

/// What the data path was told to seal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealing {
    /// Told.
    pub(super) told: Option<u32>,
    /// To be told.
    pub(super) wanted: Option<u32>,
}

/// Events that wait to be polled. One of each kind suffices: a later one replaces an
/// earlier. Those of a place speak of [`Peer::source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Whether we initiated.
    pub(super) established: Option<bool>,
    pub(super) endpoint: bool,
    pub(super) keepalive: bool,
    pub(super) failed: bool,
    pub(super) expired: bool,
}

/// What a look at the activity asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Nothing,
    Keepalive,
    Handshake,
}

pub(super) struct Peer {
    pub(super) keys: PeerKeys,
    /// The active key as our active key sees it.
    pub(super) remote: RemoteKey,
    /// The greatest timestamp; carries over a rotation of the peer's keys.
    pub(super) greatest: Tai64n,
    pub(super) initiation_received_at: Option<Instant>,
    /// While a handshake is wanted: since when it is tried.
    pub(super) attempt_since: Option<Instant>,
    pub(super) initiated_at: Option<Instant>,
    /// Initiations of this attempt.
    pub(super) tries: u8,
    /// Waits for the clock to have a stamp.
    pub(super) waits_for_stamp: bool,
    /// Waits for another peer's handshake to end.
    pub(super) waits_for_place: bool,
    pub(super) jar: Jar,
    pub(super) sessions: Sessions,
    pub(super) sealing: Sealing,
    /// Sessions that the data path still holds. It is told before it gets a new
    /// one, so it never holds more than there are slots.
    pub(super) drops: Vec<u32, SLOTS>,
    /// The source of the newest authenticated packet or confirmed session.
    pub(super) source: Option<Source>,
    pub(super) timers: TimerTable<Timer, 4>,
    /// Added to the 15 s without an answer, so that two sides do not give up on
    /// each other in the same instant. Milliseconds, drawn per session.
    jitter: u16,
    pub(super) query: bool,
    pub(super) waiting: Waiting,
    pub(super) handshakes: u32,
}

/// A random span up to the kernel's jitter.
pub(super) fn jitter(entropy: &mut dyn Entropy) -> Duration {
    Duration::from_millis(jitter_millis(entropy).into())
}

fn jitter_millis(entropy: &mut dyn Entropy) -> u16 {
    let most = REKEY_TIMEOUT_JITTER.as_millis() as u32 + 1;
    (entropy.number() % most) as u16
}

impl Peer {
    pub(super) fn new(keys: PeerKeys, remote: RemoteKey) -> Self {
        Self {
            keys,
            remote,
            greatest: Tai64n::ZERO,
            initiation_received_at: None,
            attempt_since: None,
            initiated_at: None,
            tries: 0,
            waits_for_stamp: false,
            waits_for_place: false,
            jar: Jar::new(),
            sessions: Sessions::default(),
            sealing: Sealing { told: None, wanted: None },
            drops: Vec::new(),
            source: None,
            timers: TimerTable::new(),
            jitter: 0,
            query: false,
            waiting: Waiting::default(),
            handshakes: 0,
        }
    }

    /// Bits of [`Ready`]: what of this peer waits to be polled.
    pub(super) fn ready(&self) -> u8 {
        let installs = self.sealing.told != self.sealing.wanted
            || self.sessions.iter().any(|session| !session.held);
        let bit = |ready: bool, kind: Ready| if ready { kind as u8 } else { 0 };
        bit(!self.drops.is_empty(), Ready::Drop)
            | bit(installs, Ready::Install)
            | bit(self.waiting != Waiting::default(), Ready::Event)
            | bit(self.query, Ready::Query)
    }

    /// Wants a handshake: at once, or when the last initiation is 5 s old. A
    /// handshake under way gets its 90 s anew (section 6.4).
    pub(super) fn want_handshake(&mut self, now: Instant) {
        let first = self.attempt_since.is_none();
        self.attempt_since = Some(now);
        if first {
            self.timers.set(Timer::Initiate, self.initiation_at(now));
        }
    }

    /// The earliest time of the next initiation.
    fn initiation_at(&self, now: Instant) -> Instant {
        self.initiated_at.map_or(now, |last| now.max(last.min(now) + REKEY_TIMEOUT))
    }

    /// The handshake is over, well or not. An initiation under way is to be ended too.
    pub(super) fn end_attempt(&mut self) {
        self.attempt_since = None;
        self.tries = 0;
        self.waits_for_stamp = false;
        self.waits_for_place = false;
        self.timers.stop(Timer::Initiate);
    }

    /// Sessions that left their slots are to be dropped by the data path too.
    pub(super) fn drop_sessions<const PEERS: usize, const HANDSHAKES: usize>(
        &mut self,
        gone: &Gone,
        indices: &mut Indices<PEERS, HANDSHAKES>,
    ) {
        for left in gone {
            indices.remove(left.index);
            if left.held {
                // There is room, see `drops`.
                let _ = self.drops.push(left.index);
            }
            if self.sealing.wanted == Some(left.index) {
                self.sealing.wanted = None;
            }
        }
    }

    /// A session was made: its keys are erased three reject times from now.
    pub(super) fn established(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.handshakes = self.handshakes.saturating_add(1);
        self.jitter = jitter_millis(entropy);
        self.timers.set(Timer::Erase, now + ERASE_AFTER_TIME);
    }

    /// Our own session, or the peer's after its first packet, is now sealed with.
    pub(super) fn seal_with(&mut self, index: u32) {
        self.sealing.wanted = Some(index);
    }

    /// Whether data can be sealed.
    pub(super) fn can_send(&self, now: Instant) -> bool {
        self.sealing.wanted.is_some()
            && self
                .sessions
                .current
                .as_ref()
                .is_some_and(|session| now < session.sealing(Duration::ZERO).expires_at)
    }

    /// Looks at the activity: who has waited too long for what? Sets the timer
    /// for the next look; without anything to wait for there is none.
    pub(super) fn judge(&mut self, activity: &Activity, now: Instant) -> Demand {
        let mut demand = Demand::Nothing;
        let mut next = Instant::FAR_FUTURE;
        let mut due = |at: Instant, asks: Demand, again: Duration| {
            if at <= now {
                demand = asks;
                next = next.min(now + again);
            } else {
                next = next.min(at);
            }
        };
        let can_send = self.can_send(now);
        if can_send && let Some(first) = activity.first_unreplied_at {
            due(first + KEEPALIVE_TIMEOUT, Demand::Keepalive, KEEPALIVE_TIMEOUT);
        }
        if let Some(every) = self.keys.keepalive() {
            let asks = if can_send { Demand::Keepalive } else { Demand::Handshake };
            let since = activity.sent_at.map_or(now, |sent| sent + every);
            due(if can_send { since } else { now }, asks, every);
        }
        if self.attempt_since.is_none()
            && self.sealing.wanted.is_some()
            && let Some(first) = activity.first_unanswered_at
        {
            let jitter = Duration::from_millis(self.jitter.into());
            due(first + NO_ANSWER_TIME + jitter, Demand::Handshake, NO_ANSWER_TIME);
        }
        self.timers.set(Timer::Check, next);
        demand
    }
}
