//! What two NATs have to do with pings that nobody answered.
//!
//! A label explains an attempt that failed. It never stands for one.

use crate::signal::Mapping;

/// Ports that a random mapping may be at, as far as NATs use them.
const PORTS: u32 = 64_512;

/// Why two sides did not meet, as far as their NATs tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nats {
    /// Neither could guess the other's port.
    BothHard,
    /// One of this side's `ports` had to be guessed, and the other side's NAT lets
    /// exact answers in only.
    Hard {
        /// Whether that is the first of the two.
        first: bool,
        /// Ports that it may be, at least.
        ports: u32,
    },
    /// This side's ports follow one another, and were reckoned in vain; the other's
    /// NAT lets exact answers in only.
    Counting {
        /// Whether that is the first of the two, or both are.
        first: bool,
    },
    /// Both use one port for every destination: something else drops pings.
    BothEasy,
    /// Not known well enough.
    Unclear,
}

/// Ports to guess from, of a NAT that gives each destination another one.
const fn ports(mapping: Mapping) -> Option<u32> {
    match mapping {
        Mapping::Random => Some(PORTS),
        Mapping::Window(ports) => Some(ports as u32),
        _ => None,
    }
}

/// Whether each destination sees another port.
pub const fn is_hard(mapping: Mapping) -> bool {
    matches!(mapping, Mapping::Random | Mapping::Window(_) | Mapping::Sequential(_))
}

/// What the NATs of two sides explain.
pub const fn explain(first: Mapping, second: Mapping) -> Nats {
    use Mapping::{EndpointIndependent as Easy, Sequential};
    match (ports(first), ports(second), first, second) {
        (Some(_), Some(_), ..) => Nats::BothHard,
        (Some(ports), None, _, Easy | Sequential(_)) => Nats::Hard { first: true, ports },
        (None, Some(ports), Easy | Sequential(_), _) => Nats::Hard { first: false, ports },
        (None, None, Sequential(_), Easy | Sequential(_)) => Nats::Counting { first: true },
        (None, None, Easy, Sequential(_)) => Nats::Counting { first: false },
        (None, None, Easy, Easy) => Nats::BothEasy,
        _ => Nats::Unclear,
    }
}

/// Pings of a search for a port that follows others.
pub const COUNTED: u32 = 128;

/// Pings of a search among so many ports.
pub const fn searches(ports: u32) -> u32 {
    if ports < 1_024 { ports } else { 1_024 }
}

/// How many pings it takes on average to guess one of so many ports.
pub const fn guesses(ports: u32) -> u32 {
    ports.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_explain_what_they_can() {
        use Mapping::{Blocked, EndpointIndependent as Easy, Random, Sequential, Unknown, Window};
        for (first, second, nats) in [
            (Random, Random, Nats::BothHard),
            (Window(512), Random, Nats::BothHard),
            (Random, Easy, Nats::Hard { first: true, ports: 64_512 }),
            (Easy, Window(512), Nats::Hard { first: false, ports: 512 }),
            (Easy, Easy, Nats::BothEasy),
            (Sequential(1), Easy, Nats::Counting { first: true }),
            (Easy, Sequential(-2), Nats::Counting { first: false }),
            (Sequential(1), Sequential(1), Nats::Counting { first: true }),
            (Sequential(1), Random, Nats::Hard { first: false, ports: 64_512 }),
            (Sequential(1), Unknown, Nats::Unclear),
            (Unknown, Random, Nats::Unclear),
            (Easy, Unknown, Nats::Unclear),
            (Blocked, Easy, Nats::Unclear),
        ] {
            assert_eq!(explain(first, second), nats, "{first:?} {second:?}");
        }
        assert_eq!(guesses(64_512), 32_256);
        assert!(is_hard(Sequential(1)) && is_hard(Random) && !is_hard(Easy) && !is_hard(Blocked));
    }
}
