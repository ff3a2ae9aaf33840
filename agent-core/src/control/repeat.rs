//! Repetition of what travels with QoS 0: after 5, 10 and 20 s without an
//! answer it is sent again, then a new handshake is due.

use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// Waiting times before the first, second and third repetition.
const WAITS: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20)];

/// `span`, up to a quarter longer: devices that lost the same message do not
/// repeat it together.
pub(super) fn jittered(span: Duration, entropy: &mut dyn Entropy) -> Duration {
    let quarter = span.as_micros() / 4;
    let share = u64::from(entropy.number());
    // The product needs 96 bits for spans beyond 4 hours: shift first there.
    let extra = match quarter.checked_mul(share) {
        Some(product) => product >> 32,
        None => (quarter >> 32).saturating_mul(share),
    };
    span.saturating_add(Duration::from_micros(extra))
}

/// One message that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    sent: u8,
    due_at: Instant,
}

impl Repeat {
    /// To be sent now.
    pub(super) const fn now() -> Self {
        Self { sent: 0, due_at: Instant::ZERO }
    }

    /// Sent once, at `now`.
    pub(super) fn waiting(now: Instant) -> Self {
        Self { sent: 1, due_at: now + WAITS[0] }
    }

    /// When it is to be sent (again).
    pub(super) const fn due_at(&self) -> Instant {
        self.due_at
    }

    /// Whether it is to be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at <= now
    }

    /// It was sent.
    pub(super) fn sent(&mut self, now: Instant, entropy: &mut dyn Entropy) {
        let wait = WAITS[usize::from(self.sent).min(WAITS.len() - 1)];
        self.defer(now + jittered(wait, entropy));
    }

    /// To be sent now instead of the last time.
    pub(super) const fn expedite(&mut self) {
        self.sent = self.sent.saturating_sub(1);
        self.due_at = Instant::ZERO;
    }

    /// Sent once more, and not again before `due_at`.
    pub(super) const fn defer(&mut self, due_at: Instant) {
        // Odd and even go on taking turns at the end of the range.
        self.sent = if self.sent == u8::MAX { u8::MAX - 1 } else { self.sent + 1 };
        self.due_at = due_at;
    }

    /// Whether the third waiting time passed too: the session is in doubt.
    pub(super) fn is_exhausted(&self, now: Instant) -> bool {
        usize::from(self.sent) >= WAITS.len() && self.is_due(now)
    }

    /// How often it was sent.
    pub(super) const fn times_sent(&self) -> u8 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u32);

    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            for (byte, value) in out.iter_mut().zip(self.0.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    #[test]
    fn repeats_after_five_ten_and_twenty_seconds() {
        let mut repeat = Repeat::now();
        let mut now = Instant::from_secs(100);
        assert!(repeat.is_due(now));
        for wait in [5, 10, 20] {
            assert!(!repeat.is_exhausted(now));
            repeat.sent(now, &mut Fixed(0));
            assert!(!repeat.is_due(now + Duration::from_secs(wait) - Duration::from_micros(1)));
            now += Duration::from_secs(wait);
            assert!(repeat.is_due(now));
        }
        assert!(repeat.is_exhausted(now));
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for span in [1, 5, 86_400, 1 << 40].map(Duration::from_secs) {
            assert_eq!(jittered(span, &mut Fixed(0)), span);
            let longest = jittered(span, &mut Fixed(u32::MAX));
            assert!(longest > span && longest <= span + span / 4, "{longest:?}");
        }
        assert_eq!(jittered(Duration::ZERO, &mut Fixed(9)), Duration::ZERO);
    }
}
