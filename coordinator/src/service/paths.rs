//! What devices report of the ways to each other: from spans to moments.

use core::time::Duration;

use weft_wire::id::DeviceId;
use weft_wire::path::{self, PathReport, PeerReport};
use weft_wire::verdict::AttemptEnd;

use crate::domain::paths::{Attempt, Connection, Mapping, NatState, Reported};
use crate::domain::time::UnixMs;

/// The moment so many seconds before another.
fn ago(now: UnixMs, seconds: u32) -> UnixMs {
    UnixMs(now.0.saturating_sub(u64::from(seconds) * 1_000))
}

fn attempt(told: &path::Attempt, now: UnixMs) -> Attempt {
    Attempt {
        end: AttemptEnd::from_code(told.end),
        at: ago(now, told.ago_s),
        failed: told.failed,
        own: told.own,
        peer: told.peer,
        tried: told.tried,
        answered: told.answered,
        sent: told.sent,
        took: Duration::from_millis(u64::from(told.took_ms)),
    }
}

/// What a report that came at `now` says. Of two words on one peer the later
/// counts, and none on the reporter itself.
pub(super) fn reported(device: DeviceId, report: &PathReport, now: UnixMs) -> Reported {
    let nat = &report.nat;
    // A device that does not know says the longest age there is.
    let mapped = (nat.age_ms != u32::MAX && nat.mapping != Mapping::Unknown)
        .then(|| UnixMs(now.0.saturating_sub(u64::from(nat.age_ms))));
    let lifetime = (nat.lifetime_s > 0).then(|| Duration::from_secs(nat.lifetime_s.into()));
    let connection = |told: &PeerReport| Connection {
        device,
        peer: told.peer,
        at: now,
        way: told.way,
        since: ago(now, told.since_s),
        rtt: (told.rtt_ms > 0).then(|| Duration::from_millis(told.rtt_ms.into())),
        attempt: told.attempt.as_ref().map(|told| attempt(told, now)),
        next: told.next_s.map(|s| now.after(Duration::from_secs(s.into()))),
    };
    let mut connections: Vec<Connection> = Vec::new();
    for told in report.peers.iter().filter(|told| told.peer != device) {
        connections.retain(|known| known.peer != told.peer);
        connections.push(connection(told));
    }
    Reported {
        device,
        nat: NatState {
            at: now,
            started: ago(now, report.uptime_s),
            mapping: nat.mapping,
            mapped,
            lifetime,
            seen: report.seen.to_vec(),
        },
        connections,
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::path::Way;
    use weft_wire::signal::NatReport;

    use super::*;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn told(peer: u32) -> PeerReport {
        let attempt = path::Attempt {
            end: AttemptEnd::NoAnswer as u16,
            ago_s: 240,
            failed: 12,
            own: Mapping::Random,
            peer: Mapping::EndpointIndependent,
            tried: 4,
            answered: 0,
            sent: 28,
            took_ms: 1_300,
        };
        PeerReport {
            peer: DeviceId(peer),
            way: Way::Nowhere,
            since_s: 300,
            rtt_ms: 0,
            attempt: Some(attempt),
            next_s: Some(60),
        }
    }

    fn report(peers: &[PeerReport]) -> PathReport {
        PathReport {
            request: 1,
            uptime_s: 3_600,
            nat: NatReport { mapping: Mapping::Random, lifetime_s: 0, age_ms: 900 },
            seen: heapless::Vec::new(),
            peers: peers.iter().copied().collect(),
        }
    }

    #[test]
    fn spans_become_moments() {
        let reported = reported(DeviceId(1), &report(&[told(2)]), NOW);
        assert_eq!(reported.nat.started, UnixMs(NOW.0 - 3_600_000));
        assert_eq!(reported.nat.mapped, Some(UnixMs(NOW.0 - 900)));
        assert_eq!(reported.nat.lifetime, None);
        let [one] = &reported.connections[..] else { panic!("one connection") };
        assert_eq!((one.since, one.next), (UnixMs(NOW.0 - 300_000), Some(UnixMs(NOW.0 + 60_000))));
        let attempt = one.attempt.as_ref().unwrap();
        assert_eq!(
            (attempt.at, attempt.end),
            (UnixMs(NOW.0 - 240_000), Some(AttemptEnd::NoAnswer))
        );
        assert_eq!(one.rtt, None);
    }

    #[test]
    fn a_peer_has_one_word_and_the_reporter_none() {
        let later = PeerReport { way: Way::Idle, ..told(2) };
        let reported = reported(DeviceId(1), &report(&[told(2), told(1), later]), NOW);
        let words: Vec<_> = reported.connections.iter().map(|one| (one.peer.0, one.way)).collect();
        assert_eq!(words, [(2, Way::Idle)]);
    }
}
