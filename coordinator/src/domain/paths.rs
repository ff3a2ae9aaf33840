//! How devices reach each other, as each of them reports it.

use core::net::SocketAddr;
use core::time::Duration;

use weft_wire::id::DeviceId;
pub use weft_wire::path::{Rung, Way};
pub use weft_wire::signal::Mapping;
pub use weft_wire::verdict::AttemptEnd;

use super::time::UnixMs;

/// What is kept of one device's reports on one peer: the newest.
pub const KEPT: u32 = 8;
/// Peers of one device of which reports are kept: those last reported on.
pub const PEERS: u32 = 512;
/// Reports are kept this long.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Spans travel in whole seconds: two reports of one moment differ by no more.
const ROUNDED: Duration = Duration::from_secs(2);

/// What a device said of its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatState {
    /// When it said so.
    pub at: UnixMs,
    /// When its agent started: what was said of peers before holds no more.
    pub started: UnixMs,
    /// How its NAT chooses ports.
    pub mapping: Mapping,
    /// When that was found out; `None` = it was not.
    pub mapped: Option<UnixMs>,
    /// How long an idle binding lives; `None` = not measured.
    pub lifetime: Option<Duration>,
    /// Where servers see it from, one address of each family.
    pub seen: Vec<SocketAddr>,
}

/// How looking for a direct way ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How; `None` = in a way that a newer device knows.
    pub end: Option<AttemptEnd>,
    /// When.
    pub at: UnixMs,
    /// Attempts in a row that found nothing.
    pub failed: u16,
    /// How the reporter's NAT chose ports.
    pub own: Mapping,
    /// What the peer said of its own.
    pub peer: Mapping,
    /// Addresses that were tried.
    pub tried: u8,
    /// Addresses that answered.
    pub answered: u8,
    /// Probes sent, or initiations.
    pub sent: u16,
    /// How long it took.
    pub took: Duration,
}

/// One device's word on one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Whose word.
    pub device: DeviceId,
    /// On whom.
    pub peer: DeviceId,
    /// When it said so last.
    pub at: UnixMs,
    /// The way its data takes.
    pub way: Way,
    /// Since when.
    pub since: UnixMs,
    /// Round trip on it.
    pub rtt: Option<Duration>,
    /// The last attempt at a direct way.
    pub attempt: Option<Attempt>,
    /// When the next one comes; `None` = with a packet or another network.
    pub next: Option<UnixMs>,
}

/// Everything that one report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Whose report.
    pub device: DeviceId,
    /// Its network.
    pub nat: NatState,
    /// What has changed, one word on each peer.
    pub connections: Vec<Connection>,
}

fn is_same(a: UnixMs, b: UnixMs) -> bool {
    a.since(b).max(b.since(a)) <= ROUNDED
}

impl Connection {
    /// Whether a later word of the same device on the same peer tells of the same
    /// events: it takes this one's place.
    pub fn is_repeated_by(&self, later: &Self) -> bool {
        let attempts = match (&self.attempt, &later.attempt) {
            (None, None) => true,
            (Some(a), Some(b)) => is_same(a.at, b.at) && a.end == b.end,
            _ => false,
        };
        attempts && self.way == later.way && is_same(self.since, later.since)
    }
}

/// How ports are chosen, as the database and documents write it:
/// `endpoint_independent`, `sequential 2`, `window 512`, `random`, `blocked`.
pub fn mapping_text(mapping: Mapping) -> String {
    match mapping {
        Mapping::Unknown => "unknown".to_owned(),
        Mapping::EndpointIndependent => "endpoint_independent".to_owned(),
        Mapping::Sequential(step) => format!("sequential {step}"),
        Mapping::Window(ports) => format!("window {ports}"),
        Mapping::Random => "random".to_owned(),
        Mapping::Blocked => "blocked".to_owned(),
    }
}

/// Reads what [`mapping_text`] writes.
pub fn mapping_from_text(text: &str) -> Option<Mapping> {
    Some(match text.split_once(' ') {
        Some(("sequential", step)) => Mapping::Sequential(step.parse().ok()?),
        Some(("window", ports)) => Mapping::Window(ports.parse().ok()?),
        Some(_) => return None,
        None => match text {
            "unknown" => Mapping::Unknown,
            "endpoint_independent" => Mapping::EndpointIndependent,
            "random" => Mapping::Random,
            "blocked" => Mapping::Blocked,
            _ => return None,
        },
    })
}

/// One word for a way.
pub const fn way_word(way: Way) -> &'static str {
    match way {
        Way::Idle => "idle",
        Way::Nowhere => "none",
        Way::Direct(_) => "direct",
        Way::Relay { .. } => "relay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn at(second: u64) -> UnixMs {
        NOW.after(Duration::from_secs(second))
    }

    fn word() -> Connection {
        let attempt = Attempt {
            end: Some(AttemptEnd::NoAnswer),
            at: at(60),
            failed: 12,
            own: Mapping::Random,
            peer: Mapping::Random,
            tried: 4,
            answered: 0,
            sent: 28,
            took: Duration::from_millis(1_300),
        };
        Connection {
            device: DeviceId(1),
            peer: DeviceId(2),
            at: at(90),
            way: Way::Nowhere,
            since: at(50),
            rtt: None,
            attempt: Some(attempt),
            next: None,
        }
    }

    #[test]
    fn the_same_events_are_the_same_whenever_they_are_told() {
        let mut again = Connection {
            at: at(120),
            since: at(51),
            rtt: Some(Duration::from_millis(20)),
            ..word()
        };
        if let Some(attempt) = &mut again.attempt {
            attempt.at = at(58);
        }
        assert!(word().is_repeated_by(&again));
        assert!(!word().is_repeated_by(&Connection { since: at(53), ..word() }), "other events");
        assert!(!word().is_repeated_by(&Connection { way: Way::Idle, ..word() }));
        assert!(!word().is_repeated_by(&Connection { attempt: None, ..word() }));
        if let Some(attempt) = &mut again.attempt {
            attempt.at = at(90);
        }
        assert!(!word().is_repeated_by(&again), "another attempt");
    }

    #[test]
    fn mappings_have_texts() {
        for mapping in [
            Mapping::Unknown,
            Mapping::EndpointIndependent,
            Mapping::Sequential(-2),
            Mapping::Window(512),
            Mapping::Random,
            Mapping::Blocked,
        ] {
            assert_eq!(mapping_from_text(&mapping_text(mapping)), Some(mapping));
        }
        for wrong in ["", "window", "window x", "sequential 70000", "cone"] {
            assert_eq!(mapping_from_text(wrong), None, "{wrong}");
        }
    }
}
