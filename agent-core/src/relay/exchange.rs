//! One request and its answer: when it is sent, sent again and given up.

use crate::time::{Duration, Instant};

/// From each sending to the next, and from the last to giving up: 3.75 s.
const WAITS_MS: [u64; 4] = [250, 500, 1_000, 2_000];
/// What a connection that delivers has to wait for its answer.
const STREAM_WAIT_MS: u64 = 3_750;
/// What a 401 adds to [`Exchange::challenges`], …
const UNAUTHENTICATED: u8 = 4;
/// … and where no further one is followed: at the second 401, or when nonces
/// are stale before they can be used.
const TOO_MANY: u8 = 8;

/// A request that is scheduled or open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    /// When it is sent, sent again, or given up.
    pub(super) due: Instant,
    /// The end of its transaction id.
    pub(super) counter: u32,
    /// How often it was sent; 0 while it is only scheduled.
    sends: u8,
    challenges: u8,
}

impl Exchange {
    /// Nothing is asked.
    pub(super) const NONE: Self = Self::at(Instant::FAR_FUTURE);

    /// Asks at this instant.
    pub(super) const fn at(due: Instant) -> Self {
        Self { due, counter: 0, sends: 0, challenges: 0 }
    }

    /// Whether an answer is waited for.
    pub(super) const fn is_open(&self) -> bool {
        self.sends > 0
    }

    /// Whether the answer to this transaction is waited for.
    pub(super) const fn is_answered_by(&self, counter: u32) -> bool {
        self.is_open() && self.counter == counter
    }

    /// How long the answer that has just come was on its way, where that can be told:
    /// of one that was asked for twice nobody knows for which request it is.
    pub(super) fn round_trip(&self, now: Instant) -> Option<Duration> {
        let first = Duration::from_millis(WAITS_MS[0]);
        (self.sends == 1).then(|| now - self.due.before(first))
    }

    /// Whether something is to be sent.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now && usize::from(self.sends) < WAITS_MS.len()
    }

    /// Whether nobody answered.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.due <= now && usize::from(self.sends) >= WAITS_MS.len()
    }

    /// It is being sent; `fresh` is its counter if it has none yet.
    pub(super) fn send(&mut self, fresh: u32, is_stream: bool, now: Instant) {
        if self.sends == 0 {
            self.counter = fresh;
        }
        let wait = WAITS_MS.get(usize::from(self.sends)).copied().unwrap_or_default();
        self.sends += 1;
        self.due = now + Duration::from_millis(wait);
        if is_stream {
            self.sends = u8::try_from(WAITS_MS.len()).unwrap_or(u8::MAX);
            self.due = now + Duration::from_millis(STREAM_WAIT_MS);
        }
    }

    /// Waits for an answer without asking again.
    pub(super) fn only_listen(&mut self, now: Instant) {
        self.sends = u8::try_from(WAITS_MS.len()).unwrap_or(u8::MAX);
        self.due = now + Duration::from_millis(STREAM_WAIT_MS);
    }

    /// A challenge came: asks at once in a new transaction. Says no when there
    /// were too many.
    #[must_use]
    pub(super) const fn follow(&mut self, is_stale: bool, now: Instant) -> bool {
        self.challenges += if is_stale { 1 } else { UNAUTHENTICATED };
        self.sends = 0;
        self.due = now;
        self.challenges < TOO_MANY
    }

    /// Other credentials are there: what those before were refused counts no more.
    pub(super) const fn forgive(&mut self) {
        self.challenges = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_four_times_in_one_transaction_and_given_up() {
        let mut exchange = Exchange::at(Instant::ZERO);
        let mut at = vec![];
        let mut now = Instant::ZERO;
        while exchange.is_due(now) {
            exchange.send(7 + at.len() as u32, false, now);
            at.push(now.as_millis());
            assert!(exchange.is_answered_by(7) && !exchange.is_due(now));
            now = exchange.due;
        }
        assert_eq!(at, [0, 250, 750, 1_750]);
        assert_eq!(exchange.round_trip(now), None);
        assert!(exchange.is_given_up(now) && now.as_millis() == 3_750);
    }

    #[test]
    fn the_round_trip_of_a_single_request_is_known() {
        let mut exchange = Exchange::at(Instant::from_millis(5));
        assert_eq!(exchange.round_trip(Instant::from_millis(25)), None, "not sent");
        for (is_stream, known) in [(false, Some(Duration::from_millis(20))), (true, None)] {
            exchange = Exchange::at(Instant::from_millis(5));
            exchange.send(1, is_stream, Instant::from_millis(5));
            assert_eq!(exchange.round_trip(Instant::from_millis(25)), known);
        }
    }

    #[test]
    fn one_401_is_followed_and_a_few_stale_nonces() {
        let mut exchange = Exchange::at(Instant::ZERO);
        assert!(exchange.follow(false, Instant::ZERO));
        assert!((0..3).all(|_| exchange.follow(true, Instant::ZERO)));
        assert!(!exchange.follow(false, Instant::ZERO));
        exchange.forgive();
        assert!((0..7).all(|_| exchange.follow(true, Instant::ZERO)));
        assert!(!exchange.follow(true, Instant::ZERO), "a server whose nonces are always stale");
    }
}
