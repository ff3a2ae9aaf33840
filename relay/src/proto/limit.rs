//! Token buckets per source in a table of fixed size.

use core::hash::Hasher;
use core::net::IpAddr;
use core::time::Duration;
use std::hash::DefaultHasher;

use super::RATE;

/// Places that share a hash.
const WAYS: usize = 4;
/// Table size; 4,096 sources are far more than ask at once.
const SETS: usize = 1_024;

/// What a NAT, a house or a host has one of: an IPv4 address or an IPv6 /64.
type Prefix = u64;

#[derive(Clone, Copy)]
struct Bucket {
    prefix: Prefix,
    /// Answers left, in thousandths.
    tokens: u32,
    filled_at: Duration,
    /// Bytes that came from the source and were not paid back in challenges.
    credit: u32,
}

/// The most bytes of credit: a few challenges' worth.
const MAX_CREDIT: u32 = 1_024;

/// Who may still be answered. A source that lost its place to others starts
/// with a full bucket again: the table bounds memory, and a forger has to spray
/// its whole size to gain one burst.
pub(super) struct SourceLimit {
    seed: u64,
    buckets: Vec<Option<Bucket>>,
}

impl SourceLimit {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, buckets: vec![None; SETS * WAYS] }
    }

    /// Takes one answer out of the source's bucket.
    pub(super) fn take(&mut self, source: IpAddr, now: Duration) -> bool {
        self.spend(source, now, 0, 0)
    }

    /// The same for an answer of `cost` bytes to somebody who has sent
    /// `received`, which must have come from the source before: answers to
    /// forged requests are never longer than these.
    pub(super) fn take_bytes(
        &mut self,
        source: IpAddr,
        received: usize,
        cost: usize,
        now_ms: u64,
    ) -> bool {
        let bytes = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.spend(source, Duration::from_millis(now_ms), bytes(received), bytes(cost))
    }

    fn spend(&mut self, source: IpAddr, now: Duration, received: u32, cost: u32) -> bool {
        let prefix = prefix(source);
        let first = self.set_of(prefix) * WAYS;
        let set = &mut self.buckets[first..first + WAYS];
        let full = Bucket { prefix, tokens: RATE.1 * 1_000, filled_at: now, credit: 0 };
        let known =
            set.iter().position(|place| place.is_some_and(|bucket| bucket.prefix == prefix));
        let place = known.or_else(|| oldest(set)).unwrap_or(0);
        let bucket = match (known, set[place]) {
            (Some(_), Some(bucket)) => bucket.refilled(now),
            _ => full,
        };
        let credit = bucket.credit.saturating_add(received).min(MAX_CREDIT);
        let allowed = bucket.tokens >= 1_000 && credit >= cost;
        set[place] = Some(Bucket {
            tokens: bucket.tokens.saturating_sub(if allowed { 1_000 } else { 0 }),
            credit: if allowed { credit - cost } else { credit },
            ..bucket
        });
        allowed
    }

    fn set_of(&self, prefix: Prefix) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u64(prefix);
        (hasher.finish() % SETS as u64) as usize
    }
}

impl Bucket {
    fn refilled(self, now: Duration) -> Self {
        let elapsed = now.saturating_sub(self.filled_at).as_millis();
        let gained = u32::try_from(elapsed).unwrap_or(u32::MAX).saturating_mul(RATE.0);
        Self {
            tokens: self.tokens.saturating_add(gained).min(RATE.1 * 1_000),
            // Whole milliseconds were credited; the rest waits for the next call.
            filled_at: if gained == 0 { self.filled_at } else { now },
            ..self
        }
    }
}

/// An empty place, else the one that was asked for longest ago.
fn oldest(set: &[Option<Bucket>]) -> Option<usize> {
    (0..set.len()).min_by_key(|place| set[*place].map(|bucket| bucket.filled_at))
}

fn prefix(source: IpAddr) -> Prefix {
    match source {
        // No IPv6 /64 of the internet begins with 32 zero bits.
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0xCB00_7100 + number))
    }

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let mut limit = SourceLimit::new(1);
        let count = |limit: &mut SourceLimit, at: u64| {
            (0..1_000).filter(|_| limit.take(v4(1), Duration::from_millis(at))).count()
        };
        assert_eq!(count(&mut limit, 0), 100);
        assert_eq!(count(&mut limit, 1_000), 50);
        assert_eq!(count(&mut limit, 1_010), 0);
        assert_eq!(count(&mut limit, 1_020), 1);
        assert_eq!(count(&mut limit, 3_600_000), 100);
    }

    #[test]
    fn calls_closer_than_a_millisecond_lose_nothing() {
        let mut limit = SourceLimit::new(1);
        while limit.take(v4(1), Duration::ZERO) {}
        let allowed = (1..=10_000_u64)
            .filter(|step| limit.take(v4(1), Duration::from_micros(100 * step)))
            .count();
        assert_eq!(allowed, 50, "one second in steps of 0.1 ms");
    }

    #[test]
    fn an_answer_is_paid_with_what_came() {
        let mut limit = SourceLimit::new(1);
        assert!(!limit.take_bytes(v4(1), 28, 52, 0));
        assert!(limit.take_bytes(v4(1), 28, 52, 500), "56 bytes have come");
        assert!(!limit.take_bytes(v4(1), 28, 52, 1_000), "4 and 28 are left");
        assert!(limit.take_bytes(v4(2), 60, 52, 0));
        assert!((0..100).all(|_| !limit.take_bytes(v4(3), 0, 1, 0)));
    }

    #[test]
    fn one_source_does_not_spend_another_ones_share() {
        let mut limit = SourceLimit::new(7);
        while limit.take(v4(1), Duration::ZERO) {}
        assert!(limit.take(v4(2), Duration::ZERO));
        let host = |text: &str| text.parse::<IpAddr>().unwrap();
        while limit.take(host("2001:db8::1"), Duration::ZERO) {}
        assert!(!limit.take(host("2001:db8::2"), Duration::ZERO), "same /64");
        assert!(limit.take(host("2001:db8:0:1::1"), Duration::ZERO));
    }

    #[test]
    fn the_table_stays_as_large_as_it_is() {
        let mut limit = SourceLimit::new(3);
        for number in 0..100_000 {
            assert!(limit.take(IpAddr::V4(Ipv4Addr::from_bits(number << 8)), Duration::ZERO));
        }
        assert_eq!(limit.buckets.len(), SETS * WAYS);
    }
}
