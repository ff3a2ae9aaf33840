//! What answers say of a NAT.

use core::net::SocketAddr;

use super::ask::End;
use crate::stun::mapping;
use weft_wire::signal::Mapping;

/// What a NAT's public port depends on, and how it is chosen (RFC 4787 section
/// 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingBehaviour {
    /// Nobody but the sender.
    EndpointIndependent,
    /// The far address.
    Address,
    /// The far address and port; two answers show no pattern.
    AddressAndPort,
    /// The same with a constant step from one to the next.
    Sequential(i16),
    /// The same within a block of this many.
    Window(u16),
    /// The same without a pattern.
    Random,
}

/// Whose packets come in through a mapping (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilteringBehaviour {
    /// Everybody's.
    EndpointIndependent,
    /// Those of addresses that were sent to.
    Address,
    /// Those of addresses and ports that were sent to.
    AddressAndPort,
}

/// A behaviour, and whether it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged<T> {
    /// The behaviour.
    pub behaviour: T,
    /// Whether every other one is ruled out. A server with one address cannot
    /// show what depends on addresses: a mapping may be by address when it looks
    /// independent, filtering may let everybody in when it looks by address.
    pub exact: bool,
}

/// How long a binding lives that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The longest rest that one outlived, in seconds; 0 = not even the shortest.
    pub alive_s: u16,
    /// The shortest that none outlived; `None` = all were outlived.
    pub dead_s: Option<u16>,
}

/// Of servers and what they saw, in the order in which they were asked.
pub(super) fn mapping(seen: &[(SocketAddr, SocketAddr)]) -> Option<Judged<MappingBehaviour>> {
    let mut pairs = seen
        .iter()
        .enumerate()
        .flat_map(|(place, one)| seen.iter().skip(place + 1).map(move |other| (one, other)));
    // Whether there were two with one address, or with two; whether they differed.
    let (mut near, mut far, mut by_port, mut by_address) = (false, false, false, false);
    for (one, other) in pairs.by_ref() {
        let differ = one.1 != other.1;
        if one.0.ip() == other.0.ip() {
            near = true;
            by_port |= differ;
        } else {
            far = true;
            by_address |= differ;
        }
    }
    let judged = |behaviour, exact| Some(Judged { behaviour, exact });
    if !by_port && by_address && near {
        return judged(MappingBehaviour::Address, true);
    }
    match mapping::classify(seen) {
        Mapping::EndpointIndependent => judged(MappingBehaviour::EndpointIndependent, far),
        // Two ports that are close, or are not, may be so by chance.
        _ if by_port && seen.len() == 2 => judged(MappingBehaviour::AddressAndPort, true),
        Mapping::Sequential(step) => judged(MappingBehaviour::Sequential(step), by_port),
        Mapping::Window(block) => judged(MappingBehaviour::Window(block), by_port),
        Mapping::Random => judged(MappingBehaviour::Random, by_port),
        Mapping::Unknown | Mapping::Blocked => None,
    }
}

/// Of the answers from another address and port, and from another port.
pub(super) fn filtering(both: End, port: End) -> Option<Judged<FilteringBehaviour>> {
    let judged = |behaviour, exact| Some(Judged { behaviour, exact });
    match (both, port) {
        (End::Answered { .. }, _) => judged(FilteringBehaviour::EndpointIndependent, true),
        (End::Silent, End::Answered { .. }) => judged(FilteringBehaviour::Address, true),
        (End::Refused, End::Answered { .. }) => judged(FilteringBehaviour::Address, false),
        (_, End::Silent) => judged(FilteringBehaviour::AddressAndPort, true),
        (_, End::Refused) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MappingBehaviour as M;

    /// `a1` is the first port of the first address.
    fn seen(answers: &[(&str, u16)]) -> Vec<(SocketAddr, SocketAddr)> {
        let one = |&(server, port): &(&str, u16)| {
            let (address, number) = server.split_at(1);
            let last = address.as_bytes()[0];
            let number: u16 = number.parse().unwrap();
            (([203, 0, 113, last], 3_477 + number).into(), ([198, 51, 100, 1], port).into())
        };
        answers.iter().map(one).collect()
    }

    #[test]
    fn answers_tell_what_a_mapping_depends_on() {
        let exact = |behaviour| Some(Judged { behaviour, exact: true });
        let likely = |behaviour| Some(Judged { behaviour, exact: false });
        for (answers, expected) in [
            (&[][..], None),
            (&[("a1", 5)], None),
            (&[("a1", 5), ("a2", 5)], likely(M::EndpointIndependent)),
            (&[("a1", 5), ("b1", 5)], exact(M::EndpointIndependent)),
            (&[("a1", 5), ("a2", 5), ("b1", 900)], exact(M::Address)),
            (&[("a1", 5), ("b1", 6), ("a2", 5), ("b2", 6)], exact(M::Address)),
            (&[("a1", 5), ("a2", 6)], exact(M::AddressAndPort)),
            (&[("a1", 5), ("b1", 6)], likely(M::Sequential(1))),
            (&[("a1", 5), ("b1", 7), ("a2", 9)], exact(M::Sequential(2))),
            (&[("a1", 900), ("b1", 600), ("a2", 1_000)], exact(M::Window(512))),
            (&[("a1", 900), ("b1", 60_000), ("a2", 2_000)], exact(M::Random)),
        ] {
            assert_eq!(mapping(&seen(answers)), expected, "{answers:?}");
        }
    }

    #[test]
    fn what_a_server_cannot_ask_is_not_guessed() {
        use FilteringBehaviour as F;
        let came = End::Answered {
            mapped: ([198, 51, 100, 1], 5).into(),
            other: None,
            at: crate::time::Instant::ZERO,
        };
        for (both, port, expected) in [
            (came, came, Some((F::EndpointIndependent, true))),
            (came, End::Silent, Some((F::EndpointIndependent, true))),
            (End::Silent, came, Some((F::Address, true))),
            (End::Refused, came, Some((F::Address, false))),
            (End::Silent, End::Silent, Some((F::AddressAndPort, true))),
            (End::Refused, End::Silent, Some((F::AddressAndPort, true))),
            (End::Refused, End::Refused, None),
        ] {
            let judged = filtering(both, port).map(|judged| (judged.behaviour, judged.exact));
            assert_eq!(judged, expected, "{both:?} {port:?}");
        }
    }
}
