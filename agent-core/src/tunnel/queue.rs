//! Initiations that wait for their Diffie-Hellmans, and who may wait.
//!
//! Whoever knows our public key can make us compute. So initiations are not
//! answered when they come in but served from a short queue at a bounded rate,
//! and *under load* means that the queue is half full, now or within the last
//! second: not that some counter of all the world's messages was passed. Then a
//! stranger must first prove its address with a cookie (section 5.3), after
//! which its address has a bucket of its own. The address that last carried
//! authenticated data of a peer keeps a place without a cookie, so that a flood
//! from elsewhere does not delay known peers.

use core::net::{IpAddr, SocketAddr};

use heapless::Vec;
use weft_noise::wg::INITIATION_LEN;

use crate::config::implementation::{SOURCE_BURST, SOURCE_RATE};
use crate::event::{DropReason, Source};
use crate::time::{Duration, Instant};

/// How long after the queue was half full we still ask for cookies.
const LOAD_HOLD: Duration = Duration::from_secs(1);

/// Initiations of one address in the queue at once.
const PER_SOURCE: usize = 2;

/// What is known of an initiation's source, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Anybody; the source may be forged.
    Unknown,
    /// Claims the source that last carried a peer's authenticated data.
    Known,
    /// A valid mac2: hears what is sent to its address.
    Proven,
    /// Both.
    ProvenKnown,
}

/// What becomes of an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It waits in the queue.
    Queued,
    /// A cookie reply is to be sent instead.
    Cookie,
    /// It is dropped.
    Dropped(DropReason),
}

/// An initiation whose mac1 is right.
pub(super) struct Waiting {
    pub(super) source: Source,
    standing: Standing,
    pub(super) message: [u8; INITIATION_LEN],
}

/// The queue. About 200 bytes per place.
pub(super) struct InitiationQueue<const QUEUE: usize> {
    waiting: Vec<Waiting, QUEUE>,
    loaded_until: Instant,
    /// The earliest time of the next service, were the queue never idle.
    served_until: Instant,
    /// Nothing is served before, see [`InitiationQueue::hold_until`].
    held_until: Instant,
    /// Between two services.
    interval: Duration,
    buckets: Buckets<QUEUE>,
}

impl<const QUEUE: usize> InitiationQueue<QUEUE> {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            waiting: Vec::new(),
            loaded_until: Instant::ZERO,
            served_until: Instant::ZERO,
            held_until: Instant::ZERO,
            interval,
            buckets: Buckets::new(),
        }
    }

    /// Whether cookies are asked for.
    pub(super) fn is_under_load(&self, now: Instant) -> bool {
        now < self.loaded_until || self.is_half_full()
    }

    fn is_half_full(&self) -> bool {
        self.waiting.len() >= (QUEUE / 2).max(1)
    }

    /// Takes an initiation in, if it may.
    pub(super) fn push(
        &mut self,
        source: Source,
        standing: Standing,
        message: &[u8; INITIATION_LEN],
        now: Instant,
    ) -> Admission {
        if self.is_half_full() {
            self.loaded_until = now + LOAD_HOLD;
        }
        let loaded = self.is_under_load(now);
        let same = Network::of(source.address);
        // A forger in a peer's name does not use up the places of the peer that
        // has proved its address.
        let least = standing.min(Standing::Proven);
        let of_source = self
            .waiting
            .iter()
            .filter(|waiting| {
                Network::of(waiting.source.address) == same
                    && (least < Standing::Proven || waiting.standing >= least)
            })
            .count();
        let crowd = of_source >= PER_SOURCE;
        match standing {
            Standing::Unknown if loaded || crowd => return Admission::Cookie,
            Standing::Known if crowd => return Admission::Cookie,
            Standing::Proven | Standing::ProvenKnown
                if crowd || loaded && !self.buckets.take(same, now) =>
            {
                return Admission::Dropped(DropReason::RateLimited);
            }
            _ => {}
        }
        if self.waiting.is_full() && !self.displace(standing) {
            // With a cookie it can come before those that fill the queue now.
            return match standing {
                Standing::Unknown | Standing::Known => Admission::Cookie,
                _ => Admission::Dropped(DropReason::QueueFull),
            };
        }
        let waiting = Waiting { source, standing, message: *message };
        match self.waiting.push(waiting) {
            Ok(()) => Admission::Queued,
            Err(_) => Admission::Dropped(DropReason::QueueFull),
        }
    }

    /// Gives up the newest initiation of the worst standing below `standing`.
    fn displace(&mut self, standing: Standing) -> bool {
        let worst = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiting)| waiting.standing < standing)
            .min_by_key(|(position, waiting)| (waiting.standing, usize::MAX - position))
            .map(|(position, _)| position);
        if let Some(position) = worst {
            self.waiting.remove(position);
        }
        worst.is_some()
    }

    /// When the next initiation may be served.
    pub(super) fn next_service(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.held_until.max(self.served_until - self.burst()))
    }

    /// The next service is not before this: what it needs is not there.
    pub(super) const fn hold_until(&mut self, at: Instant) {
        self.held_until = at;
    }

    fn burst(&self) -> Duration {
        self.interval.saturating_mul(u32::try_from(QUEUE / 2).unwrap_or(u32::MAX))
    }

    /// The oldest initiation, if the rate allows to serve one now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiting> {
        if self.next_service()? > now {
            return None;
        }
        self.served_until = self.served_until.max(now) + self.interval;
        Some(self.waiting.remove(0))
    }
}

/// Who shares a bucket: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Network {
    fn of(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => match address.octets() {
                [a, b, c, d, e, f, g, h, ..] => Self::V6([a, b, c, d, e, f, g, h]),
            },
        }
    }
}

/// One bucket per source network: when it would be full again.
struct Buckets<const N: usize> {
    full_at: Vec<(Network, Instant), N>,
}

impl<const N: usize> Buckets<N> {
    const fn new() -> Self {
        Self { full_at: Vec::new() }
    }

    /// Takes one initiation out of the bucket; `false` when it is empty. The
    /// fullest bucket makes place for a new source.
    fn take(&mut self, network: Network, now: Instant) -> bool {
        let cost = Duration::from_secs(1) / SOURCE_RATE;
        let depth = cost.saturating_mul(SOURCE_BURST);
        if let Some((_, full_at)) = self.full_at.iter_mut().find(|(of, _)| *of == network) {
            let after = (*full_at).max(now) + cost;
            if after.since(now) > depth {
                return false;
            }
            *full_at = after;
            return true;
        }
        if self.full_at.is_full() {
            let fullest = self
                .full_at
                .iter()
                .enumerate()
                .min_by_key(|(_, (_, full_at))| *full_at)
                .map(|(position, _)| position);
            if let Some(position) = fullest {
                self.full_at.swap_remove(position);
            }
        }
        self.full_at.push((network, now + cost)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SocketId;

    fn source(last: u8, port: u16) -> Source {
        Source { socket: SocketId(0), address: SocketAddr::from(([192, 0, 2, last], port)) }
    }

    fn queue() -> InitiationQueue<8> {
        InitiationQueue::new(Duration::from_millis(10))
    }

    const MESSAGE: [u8; INITIATION_LEN] = [0; INITIATION_LEN];
    const NOW: Instant = Instant::from_secs(50);

    #[test]
    fn strangers_fill_half_the_queue_and_then_need_a_cookie() {
        let mut queue = queue();
        for last in 0..4 {
            let admission = queue.push(source(last, 1), Standing::Unknown, &MESSAGE, NOW);
            assert_eq!(admission, Admission::Queued);
        }
        let admission = queue.push(source(9, 1), Standing::Unknown, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Cookie);
        let admission = queue.push(source(9, 1), Standing::Known, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Queued);
        for last in 10..20 {
            let admission = queue.push(source(last, 1), Standing::Proven, &MESSAGE, NOW);
            let expected = match last {
                // 3 free places, then 4 strangers and the known one make room.
                10..18 => Admission::Queued,
                _ => Admission::Dropped(DropReason::QueueFull),
            };
            assert_eq!(admission, expected, "{last}");
        }
    }

    #[test]
    fn a_known_peer_comes_before_any_number_of_proven_strangers() {
        let mut queue = queue();
        for last in 10..18 {
            queue.push(source(last, 1), Standing::Proven, &MESSAGE, NOW);
        }
        let admission = queue.push(source(1, 1), Standing::Known, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Cookie, "it can prove itself");
        let admission = queue.push(source(1, 1), Standing::ProvenKnown, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Queued);
    }

    #[test]
    fn a_forger_does_not_use_up_the_places_of_who_it_names() {
        let mut queue = queue();
        for port in 0..4 {
            queue.push(source(1, port), Standing::Unknown, &MESSAGE, NOW);
        }
        let admission = queue.push(source(1, 9), Standing::Proven, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Queued);
    }

    #[test]
    fn one_source_cannot_fill_the_queue() {
        let mut queue = queue();
        for port in 0..2 {
            let admission = queue.push(source(1, port), Standing::Unknown, &MESSAGE, NOW);
            assert_eq!(admission, Admission::Queued);
        }
        let admission = queue.push(source(1, 9), Standing::Unknown, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Cookie);
        for _ in 0..2 {
            let admission = queue.push(source(1, 9), Standing::Proven, &MESSAGE, NOW);
            assert_eq!(admission, Admission::Queued);
        }
        let admission = queue.push(source(1, 9), Standing::Proven, &MESSAGE, NOW);
        assert_eq!(admission, Admission::Dropped(DropReason::RateLimited));
    }

    #[test]
    fn service_is_bounded_and_recovers() {
        let mut queue = queue();
        let mut served = 0;
        for millisecond in 0..1_000 {
            let now = NOW + Duration::from_millis(millisecond);
            let last = (millisecond % 200) as u8;
            queue.push(source(last, 1), Standing::Proven, &MESSAGE, now);
            while queue.pop(now).is_some() {
                served += 1;
            }
        }
        // One per 10 ms, and a burst of half the queue.
        assert!((100..=105).contains(&served), "{served}");
        assert!(queue.is_under_load(NOW + Duration::from_secs(1)));
        assert!(!{
            let later = NOW + Duration::from_secs(9);
            while queue.pop(later).is_some() {}
            queue.is_under_load(later)
        });
    }

    #[test]
    fn a_proven_source_has_a_bucket_of_its_own() {
        let mut buckets = Buckets::<4>::new();
        let (one, two) = (source(1, 1), source(2, 1));
        let mut taken = 0;
        for millisecond in 0..1_000 {
            let now = NOW + Duration::from_millis(millisecond);
            taken += u32::from(buckets.take(Network::of(one.address), now));
        }
        assert!((SOURCE_RATE..=SOURCE_RATE + SOURCE_BURST).contains(&taken), "{taken}");
        assert!(buckets.take(Network::of(two.address), NOW + Duration::from_secs(1)));
        for last in 3..30 {
            let network = Network::of(source(last, 1).address);
            assert!(buckets.take(network, NOW + Duration::from_secs(1)));
        }
    }
}
