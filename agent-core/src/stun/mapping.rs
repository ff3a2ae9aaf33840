//! How a NAT chooses ports, told from what several servers saw (RFC 5780
//! section 4.3, with more words than "dependent").

use core::net::{IpAddr, SocketAddr};

use heapless::Vec;
use weft_wire::map::SERVERS;
use weft_wire::signal::Mapping;

/// Server and what it saw, in the order in which they were asked.
pub(super) type Seen = Vec<(SocketAddr, SocketAddr), SERVERS>;

/// A step beyond this is no step, of so many ports: two of a block of 512 lie within the
/// last one as often as once in sixteen times, three once in two hundred.
const fn longest_step(ports: usize) -> i16 {
    match ports {
        ..=2 => 2,
        3 => 4,
        _ => 16,
    }
}
/// Carriers give blocks of 64 to 2,048 ports; a few samples of a block of 512
/// often lie closer together.
const BLOCKS: [u16; 2] = [512, 2_048];

/// The servers, those with an address that was not named yet first: two
/// destinations with one address cannot show a NAT that maps by address. Which of them
/// is second goes by turns, so that by and by it is known how far each is.
pub(super) fn spread<'a, const N: usize>(
    servers: impl Iterator<Item = &'a SocketAddr>,
    turn: usize,
) -> impl Iterator<Item = SocketAddr> {
    let (mut first, mut later) = (Vec::<_, N>::new(), Vec::<_, N>::new());
    for &server in servers.take(N) {
        let known = first.iter().any(|one: &SocketAddr| one.ip() == server.ip());
        let list = if known { &mut later } else { &mut first };
        // Cannot fail: as many are taken as there are places.
        let _ = list.push(server);
    }
    if let Some((_, others)) = first.split_first_mut()
        && !others.is_empty()
    {
        others.rotate_left(turn % others.len());
    }
    first.into_iter().chain(later)
}

pub(super) fn classify(seen: &[(SocketAddr, SocketAddr)]) -> Mapping {
    let Some(&(_, first)) = seen.first() else {
        return Mapping::Unknown;
    };
    if seen.iter().all(|&(_, address)| address == first) {
        // One server tells nothing.
        return if seen.len() > 1 { Mapping::EndpointIndependent } else { Mapping::Unknown };
    }
    if seen.iter().any(|&(_, address)| address.ip() != first.ip()) {
        return Mapping::Random;
    }
    step(seen)
        .map(Mapping::Sequential)
        .or_else(|| block(seen).map(Mapping::Window))
        .unwrap_or(Mapping::Random)
}

/// The ports that a NAT was seen to give, of all rounds in one network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    of: IpAddr,
    least: u16,
    most: u16,
}

impl Span {
    fn new(seen: &[(SocketAddr, SocketAddr)]) -> Option<Self> {
        let of = seen.first()?.1.ip();
        let ports = || seen.iter().map(|(_, address)| address.port());
        Some(Self { of, least: ports().min()?, most: ports().max()? })
    }

    fn with(self, before: Self) -> Self {
        if before.of != self.of {
            return self;
        }
        Self { least: self.least.min(before.least), most: self.most.max(before.most), ..self }
    }

    /// The block that all of them lie in; where it begins is the carrier's choice.
    fn block(&self) -> Option<u16> {
        BLOCKS.into_iter().find(|&block| self.most - self.least < block)
    }
}

/// What a round says of a NAT, and those before it. Two ports of no pattern lie in a
/// block of 512 by chance once in sixty rounds, and the search that this leads to
/// hardly ever meets: ports outside, in whatever round, are the proof that there is no
/// such block.
pub(super) fn judge(before: &mut Option<Span>, seen: &[(SocketAddr, SocketAddr)]) -> Mapping {
    if let Some(now) = Span::new(seen) {
        *before = Some(before.map_or(now, |before| now.with(before)));
    }
    match classify(seen) {
        Mapping::Window(_) => {
            let block = before.as_ref().and_then(Span::block);
            block.map_or(Mapping::Random, Mapping::Window)
        }
        mapping => mapping,
    }
}

/// Ports that lie close together one behind the other. The smallest distance counts, as
/// other flows may have begun in between; and not in which order servers were asked: what
/// is sent at once may pass a box in another. Two ports go up, as hardly a box counts down.
fn step(seen: &[(SocketAddr, SocketAddr)]) -> Option<i16> {
    let (_, first) = seen.first()?;
    let from_first = |port: u16| port.wrapping_sub(first.port()).cast_signed();
    let asked = || seen.iter().map(|(_, address)| from_first(address.port()));
    let mut sorted: Vec<i16, SERVERS> = asked().collect();
    sorted.sort_unstable();
    let distances =
        || sorted.iter().zip(sorted.iter().skip(1)).map(|(one, next)| next.saturating_sub(*one));
    let most = longest_step(seen.len());
    let is_step = distances().all(|distance| (1..=most).contains(&distance));
    let goes_up = seen.len() < 3 || asked().zip(asked().skip(1)).any(|(one, next)| next > one);
    let least = distances().min().filter(|_| is_step)?;
    Some(if goes_up { least } else { -least })
}

/// Where the ports have got to, if they are counted.
pub(super) fn furthest(seen: &[(SocketAddr, SocketAddr)], step: i16) -> Option<SocketAddr> {
    let (_, first) = seen.first()?;
    let ahead = |address: &SocketAddr| {
        let distance = address.port().wrapping_sub(first.port()).cast_signed();
        i32::from(distance) * i32::from(step.signum())
    };
    seen.iter().map(|(_, address)| *address).max_by_key(ahead)
}

fn block(seen: &[(SocketAddr, SocketAddr)]) -> Option<u16> {
    // Of two ports of no pattern, one pair in sixteen lies as close as the larger one.
    let enough = |block: &u16| seen.len() > 2 || Some(block) == BLOCKS.first();
    Span::new(seen)?.block().filter(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ports: &[u16]) -> Seen {
        ports
            .iter()
            .zip(1..)
            .map(|(&port, server)| {
                (SocketAddr::from(([203, 0, 113, server], 3_478)), ([198, 51, 100, 1], port).into())
            })
            .collect()
    }

    #[test]
    fn a_block_that_ports_fit_into_by_chance_is_found_out() {
        let mut span = None;
        let mut round = |ports: &[u16]| judge(&mut span, &seen(ports));
        assert_eq!(round(&[500, 520]), Mapping::Window(512));
        assert_eq!(round(&[700, 900, 600]), Mapping::Window(512));
        assert_eq!(round(&[1_900, 1_990]), Mapping::Window(2_048), "a larger block");
        assert_eq!(round(&[40_000, 9_000]), Mapping::Random);
        assert_eq!(round(&[500, 520]), Mapping::Random);
        assert_eq!(round(&[500, 500]), Mapping::EndpointIndependent, "the box is another");
        let elsewhere = |address: &(SocketAddr, SocketAddr)| {
            (address.0, SocketAddr::from(([198, 51, 100, 2], address.1.port())))
        };
        let moved: Seen = seen(&[500, 520]).iter().map(elsewhere).collect();
        assert_eq!(judge(&mut span, &moved), Mapping::Window(512), "another address");
    }

    #[test]
    fn ports_tell_how_they_are_chosen() {
        for (ports, mapping) in [
            (&[][..], Mapping::Unknown),
            (&[4_000], Mapping::Unknown),
            (&[4_000, 4_000], Mapping::EndpointIndependent),
            (&[4_000, 4_001], Mapping::Sequential(1)),
            (&[4_000, 4_002, 4_004, 4_006], Mapping::Sequential(2)),
            (&[4_006, 4_003, 4_000], Mapping::Sequential(-3)),
            (&[4_000, 4_001, 4_003, 4_004], Mapping::Sequential(1)),
            (&[0, 65_535, 65_534], Mapping::Sequential(-1)),
            (&[65_535, 0, 1], Mapping::Sequential(1)),
            (&[4_001, 4_000], Mapping::Sequential(1)),
            (&[4_000, 4_002, 4_001, 4_004], Mapping::Sequential(1)),
            (&[0, 1, 65_535], Mapping::Sequential(1)),
            (&[4_100, 4_101, 4_101], Mapping::Window(512)),
            (&[4_100, 4_400, 4_200, 4_350], Mapping::Window(512)),
            (&[4_100, 4_700, 5_900], Mapping::Window(2_048)),
            (&[4_100, 9_000, 40_000], Mapping::Random),
            (&[511, 512], Mapping::Sequential(1)),
            (&[500, 502], Mapping::Sequential(2)),
            (&[500, 503], Mapping::Window(512)),
            (&[500, 520], Mapping::Window(512)),
            (&[500, 1_500], Mapping::Random),
            (&[500, 1_500, 900], Mapping::Window(2_048)),
            (&[511, 2_559, 600], Mapping::Random),
            (&[0, 32_767, 32_768], Mapping::Random),
        ] {
            assert_eq!(classify(&seen(ports)), mapping, "{ports:?}");
        }
    }

    #[test]
    fn the_port_that_was_given_last_is_told() {
        for (ports, step, last) in [
            (&[4_001, 4_000][..], 1, 4_001),
            (&[4_000, 4_002, 4_001], 1, 4_002),
            (&[4_006, 4_003, 4_000], -3, 4_000),
            (&[65_535, 1, 0], 1, 1),
        ] {
            let furthest = furthest(&seen(ports), step).map(|address| address.port());
            assert_eq!(furthest, Some(last), "{ports:?}");
        }
    }

    #[test]
    fn two_addresses_of_a_nat_have_no_pattern() {
        let mut seen = seen(&[4_000, 4_000]);
        seen[1].1.set_ip([198, 51, 100, 2].into());
        assert_eq!(classify(&seen), Mapping::Random);
    }

    #[test]
    fn another_address_is_asked_before_another_port() {
        let server = |last, port| SocketAddr::from(([203, 0, 113, last], port));
        let servers = [server(1, 3_478), server(1, 3_479), server(2, 3_478), server(2, 3_479)];
        let spread: std::vec::Vec<_> = spread::<SERVERS>(servers.iter(), 1).collect();
        assert_eq!(spread, [servers[0], servers[2], servers[1], servers[3]]);
    }
}
