//! How long the line over MQTT may be silent before it asks whether it still
//! stands. A router that forgets connections sooner makes this device deaf until
//! its next ping, so a silence that a connection did not outlive is halved, for a
//! day and in this network alone.
//!
//! [`Pauses`] sees what one connection outlives; [`Keepalive`] learns from it. Not
//! everything that ends a connection is a router's doing: a broker that goes says
//! so, one that is gone lets nobody in at once, a network that was changed has
//! other routers, a machine that slept was silent for longer than it meant to be,
//! and what held once in a connection was not too long for it.

use crate::store::ways::Stood;

/// Networks that are remembered.
const NETWORKS: usize = 8;
/// After so many seconds the longest is tried again.
const HOLDS_S: u64 = 86_400;
/// A line that opens within this time was open to everybody while it was lost, in
/// microseconds.
const AT_ONCE_US: u64 = 5_000_000;
/// What a line of the file `ways` begins with; seconds and when that was learned, in
/// Unix time, follow.
const WORD: &str = "keepalive";

/// Between what the keepalive is learned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) longest_s: u16,
    pub(super) floor_s: u16,
}

impl Bounds {
    pub(super) const USUAL: Self = Self { longest_s: 300, floor_s: 60 };
}

/// The silences of one connection, by the bytes that its protocol says and hears.
/// Moments are in microseconds since boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// When something was last said or heard.
    last_us: u64,
    /// The longest silence before what was said and not followed by anything.
    open_us: u64,
    /// The longest silence after which something was heard.
    held_us: u64,
    /// The other side closed it.
    is_closed: bool,
}

impl Pauses {
    pub(super) const fn new(now_us: u64) -> Self {
        Self { last_us: now_us, open_us: 0, held_us: 0, is_closed: false }
    }

    pub(super) fn handle_said(&mut self, now_us: u64) {
        self.open_us = self.open_us.max(now_us.saturating_sub(self.last_us));
        self.last_us = now_us;
    }

    pub(super) fn handle_heard(&mut self, now_us: u64) {
        let silence = now_us.saturating_sub(self.last_us);
        // An answer may take its time; what counts is the silence before the question.
        let silence = if self.open_us > 0 { self.open_us } else { silence };
        self.held_us = self.held_us.max(silence);
        (self.open_us, self.last_us) = (0, now_us);
    }

    /// The other side ended the connection in order, so it knew of it.
    pub(super) const fn handle_closed(&mut self) {
        self.is_closed = true;
    }

    /// Of a connection that has failed: the silence that it may not have outlived.
    pub(super) fn lapse(&self) -> Option<u64> {
        // Silences of one length differ by a little.
        let is_new = self.open_us / 8 * 7 > self.held_us;
        (is_new && !self.is_closed).then_some(self.open_us)
    }
}

/// What was learned in one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    network: u64,
    seconds: u16,
    /// Unix time in seconds.
    at_s: u64,
}

impl Learned {
    fn read((network, text): &Stood, bounds: Bounds) -> Option<Self> {
        let (seconds, at_s) = text.strip_prefix(WORD)?.strip_prefix(' ')?.split_once(' ')?;
        let seconds = seconds.parse().ok()?;
        let learned = Self { network: *network, seconds, at_s: at_s.parse().ok()? };
        (bounds.floor_s..bounds.longest_s).contains(&seconds).then_some(learned)
    }

    fn write(&self) -> Stood {
        (self.network, format!("{WORD} {} {}", self.seconds, self.at_s))
    }

    /// For how long it still counts, in seconds. A clock that was set back says
    /// nothing of how old it is.
    fn left_s(&self, now_s: u64) -> Option<u64> {
        HOLDS_S.checked_sub(now_s.checked_sub(self.at_s)?).filter(|left| *left > 0)
    }
}

/// See the module.
pub(super) struct Keepalive {
    bounds: Bounds,
    network: u64,
    /// The newest last.
    learned: Vec<Learned>,
    /// What the connection that stands has promised, if it began in this network.
    promised: Option<u16>,
    /// What was promised before and may have been too long.
    doubted: Option<u16>,
    opened_us: u64,
    /// When a longer one is tried again, beside a line that stands.
    again_at: Option<u64>,
}

impl Keepalive {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            network: 0,
            learned: Vec::new(),
            promised: None,
            doubted: None,
            opened_us: 0,
            again_at: None,
        }
    }

    /// What the file says.
    pub(super) fn restore(&mut self, lines: &[Stood]) {
        let read = lines.iter().filter_map(|line| Learned::read(line, self.bounds));
        self.learned = read.take(NETWORKS).collect();
    }

    /// What the file is to say.
    pub(super) fn lines(&self) -> impl Iterator<Item = Stood> + '_ {
        self.learned.iter().map(Learned::write)
    }

    /// The host is on this network. What becomes of a connection that began on
    /// another says nothing of this one.
    pub(super) fn set_network(&mut self, network: u64) {
        if core::mem::replace(&mut self.network, network) != network {
            (self.promised, self.doubted) = (None, None);
        }
    }

    fn here(&self, now_s: u64) -> Option<(Learned, u64)> {
        let here = self.learned.iter().find(|one| one.network == self.network)?;
        Some((*here, here.left_s(now_s)?))
    }

    /// What the next connection promises.
    pub(super) fn seconds(&self, now_s: u64) -> u16 {
        let known = self.here(now_s).map_or(self.bounds.longest_s, |(here, _)| here.seconds);
        self.doubted.map_or(known, |doubted| self.halved(doubted).min(known))
    }

    /// Whether nobody promises so little who has not learned it.
    pub(super) const fn is_learned(&self, seconds: u16) -> bool {
        seconds < self.bounds.longest_s
    }

    fn halved(&self, seconds: u16) -> u16 {
        (seconds / 2).max(self.bounds.floor_s)
    }

    /// The line is to open.
    pub(super) const fn handle_open(&mut self, now_us: u64) {
        self.opened_us = now_us;
    }

    /// A connection stands that promised so many seconds; none by posts.
    pub(super) fn handle_stood(&mut self, promised: Option<u16>, now_us: u64, now_s: u64) {
        if let Some(doubted) = self.doubted.take()
            && now_us.saturating_sub(self.opened_us) <= AT_ONCE_US
        {
            self.learn(Learned {
                network: self.network,
                seconds: self.halved(doubted),
                at_s: now_s,
            });
        }
        self.promised = promised;
        let left_s = self.here(now_s).map_or(HOLDS_S, |(_, left_s)| left_s);
        let is_short = promised.is_some_and(|promised| self.is_learned(promised));
        self.again_at = is_short.then(|| now_us + left_s * 1_000_000);
    }

    fn learn(&mut self, new: Learned) {
        self.learned.retain(|one| one.network != new.network);
        if self.learned.len() == NETWORKS {
            self.learned.remove(0);
        }
        self.learned.push(new);
    }

    /// The connection that stood has failed; what [`Pauses::lapse`] says of it. A
    /// silence below the floor cannot be helped.
    pub(super) fn handle_lost(&mut self, lapse_us: Option<u64>) {
        let promised = self.promised.take().filter(|promised| *promised > self.bounds.floor_s);
        let of_router = |promised: &u16| {
            let range = u64::from(self.bounds.floor_s)..=u64::from(*promised);
            // The floor is asked for too: its pings come before it is over.
            lapse_us.is_some_and(|lapse| range.contains(&lapse.div_ceil(1_000_000)))
        };
        self.doubted = promised.filter(of_router);
    }

    /// Nobody let this device in: more than a connection was lost.
    pub(super) const fn handle_refused(&mut self) {
        self.doubted = None;
    }

    /// When a longer one is to be tried, in microseconds since boot.
    pub(super) const fn again_at(&self) -> Option<u64> {
        self.again_at
    }

    /// Whether it is time to; what was learned here is forgotten then.
    pub(super) fn take_again(&mut self, now_us: u64) -> bool {
        let is_due = self.again_at.is_some_and(|at| at <= now_us);
        if is_due {
            self.learned.retain(|one| one.network != self.network);
            self.again_at = Some(now_us + HOLDS_S * 1_000_000);
        }
        is_due
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_silence_counts_that_nothing_followed() {
        use Step::{Closed, Heard, Said};
        enum Step {
            Said(u64),
            Heard(u64),
            Closed,
        }
        // What happens after so many seconds each; then the connection fails.
        let cases: &[(&str, &[Step], Option<u64>)] = &[
            ("a ping without an answer", &[Heard(1), Said(295)], Some(295)),
            ("its repetition", &[Heard(1), Said(295), Said(3)], Some(295)),
            ("it was answered, late", &[Said(295), Heard(4)], None),
            ("a reset that nobody asked for", &[Said(1), Heard(1)], None),
            ("a broker that ends", &[Said(295), Closed], None),
            ("as long a silence held before", &[Said(295), Heard(1), Said(296)], None),
            ("a shorter one held", &[Said(100), Heard(1), Said(295)], Some(295)),
            ("so did one that the broker ended", &[Heard(290), Said(295)], None),
        ];
        for (what, steps, wanted) in cases {
            let mut now = 7 * S;
            let mut pauses = Pauses::new(now);
            for step in *steps {
                match step {
                    Said(after) => {
                        now += after * S;
                        pauses.handle_said(now);
                    }
                    Heard(after) => {
                        now += after * S;
                        pauses.handle_heard(now);
                    }
                    Closed => pauses.handle_closed(),
                }
            }
            assert_eq!(pauses.lapse(), wanted.map(|seconds| seconds * S), "{what}");
        }
    }

    /// Lost after a silence, and open again so much later.
    fn lost(keepalive: &mut Keepalive, lapse_s: Option<u64>, after_us: u64, now_s: u64) -> u16 {
        keepalive.handle_lost(lapse_s.map(|seconds| seconds * S));
        keepalive.handle_open(10 * S);
        let promised = keepalive.seconds(now_s);
        keepalive.handle_stood(Some(promised), 10 * S + after_us, now_s);
        promised
    }

    fn standing() -> Keepalive {
        let mut keepalive = Keepalive::new(Bounds::USUAL);
        keepalive.set_network(7);
        keepalive.handle_stood(Some(300), 0, 1_000);
        keepalive
    }

    #[test]
    fn what_counts_is_halved_down_to_the_floor() {
        let mut keepalive = standing();
        let steps = [295, 145, 70, 55].map(|silence| lost(&mut keepalive, Some(silence), S, 1_000));
        assert_eq!(steps, [150, 75, 60, 60]);
        assert_eq!(lost(&mut keepalive, None, S, 1_000), 60, "it is kept");
        // What is lost after how long a silence, and open how much later: then and next.
        let cases = [
            ("it stands at once", Some(295), AT_ONCE_US, (150, 150)),
            ("a heartbeat after a shorter one", Some(60), S, (150, 150)),
            ("no silence", None, S, (300, 300)),
            ("the floor would not have helped", Some(59), S, (300, 300)),
            ("the machine slept", Some(301), S, (300, 300)),
            ("nobody was let in for a while", Some(295), AT_ONCE_US + 1, (150, 300)),
        ];
        for (what, lapse_s, after_us, wanted) in cases {
            let mut keepalive = standing();
            let first = lost(&mut keepalive, lapse_s, after_us, 1_000);
            assert_eq!((first, keepalive.seconds(1_000)), wanted, "{what}");
        }
    }

    #[test]
    fn a_broker_that_is_gone_and_another_network_do_not_count() {
        let mut keepalive = standing();
        keepalive.handle_lost(Some(295 * S));
        keepalive.handle_refused();
        assert_eq!(lost(&mut keepalive, None, S, 1_000), 300, "gone");
        keepalive.set_network(8);
        assert_eq!(lost(&mut keepalive, Some(295), S, 1_000), 300, "changed before");
        keepalive.handle_lost(Some(295 * S));
        keepalive.set_network(7);
        assert_eq!(keepalive.seconds(1_000), 300, "changed after");
        keepalive.handle_stood(None, 0, 1_000);
        assert_eq!(lost(&mut keepalive, Some(295), S, 1_000), 300, "posts promise nothing");
    }

    #[test]
    fn each_network_has_its_own_over_a_restart_and_for_a_day() {
        let mut keepalive = standing();
        assert_eq!(keepalive.again_at(), None);
        assert_eq!(lost(&mut keepalive, Some(295), S, 1_000), 150);
        let mut lines = vec![(7, "mqtt://mesh.example.net:7420".to_owned())];
        lines.extend(keepalive.lines());
        assert_eq!(lines[1], (7, "keepalive 150 1000".to_owned()));
        keepalive.set_network(8);
        assert_eq!(keepalive.seconds(1_000), 300);
        let mut later = Keepalive::new(Bounds::USUAL);
        later.restore(&lines);
        later.set_network(7);
        let at = [999, 1_000, 999 + HOLDS_S, 1_000 + HOLDS_S].map(|now_s| later.seconds(now_s));
        assert_eq!(at, [300, 150, 150, 300]);
        let wrong =
            ["keepalive", "keepalive 150", "keepalive x 1", "keepalive 59 1", "keepalive 300 1"];
        later.restore(&wrong.map(|line| (7, line.to_owned())));
        assert_eq!(later.lines().count(), 0);
        for network in 1..=20 {
            later.set_network(network);
            later.handle_stood(Some(300), 0, network);
            lost(&mut later, Some(295), S, network);
        }
        let kept: Vec<u64> = later.lines().map(|(network, _)| network).collect();
        assert_eq!(kept, (13..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_stands_tries_the_longest_again_after_the_day() {
        let mut keepalive = standing();
        lost(&mut keepalive, Some(295), 0, 1_000);
        keepalive.handle_stood(Some(150), 500 * S, 1_400);
        let at = (500 + HOLDS_S - 400) * S;
        assert_eq!(keepalive.again_at(), Some(at));
        assert!(!keepalive.take_again(at - 1));
        assert!(keepalive.take_again(at));
        assert_eq!(keepalive.seconds(1_400), 300);
        assert_eq!(keepalive.again_at(), Some(at + HOLDS_S * S), "if that came to nothing");
        keepalive.handle_stood(Some(300), at, 1_400 + HOLDS_S);
        assert_eq!(keepalive.again_at(), None);
    }
}
