//! What holds for every NAT box, whatever is sent through it.
//!
//! The judge keeps a list of all that passed and knows nothing of tables.
#![allow(missing_docs, reason = "a test")]

use std::net::SocketAddr;

use proptest::prelude::*;
use weft_agent_core::time::{Duration, Instant};
use weft_sim::nat::{Filtering, Mapping, Nat, Ports, Rules};
use weft_sim::{Datagram, Middlebox};

const OUTER: [u8; 4] = [203, 0, 113, 50];

fn inside(number: u8) -> SocketAddr {
    // Hosts that share ports, ports that share hosts.
    SocketAddr::from(([10, 0, 0, 2 + number % 3], 5_000 + u16::from(number / 3)))
}

fn far(number: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, number % 3], 7_000 + u16::from(number / 3)))
}

#[derive(Clone, Debug)]
enum Step {
    Out {
        inside: u8,
        far: u8,
    },
    /// To the public port that was seen that many packets ago.
    In {
        ago: usize,
        far: u8,
    },
    Wait {
        millis: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, 0..6_u8).prop_map(|(inside, far)| Step::Out { inside, far }),
        4 => (0..12_usize, 0..6_u8).prop_map(|(ago, far)| Step::In { ago, far }),
        2 => (0..15_000_u64).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Wait { millis: 10_000 }),
    ];
    prop::collection::vec(step, 1..120)
}

fn rules() -> impl Strategy<Value = Rules> {
    let mapping = prop_oneof![
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent),
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent),
    ];
    let ports = prop_oneof![
        Just(Ports::Kept),
        Just(Ports::Hashed),
        Just(Ports::Random),
        (1..3_u16).prop_map(|step| Ports::Sequential { first: 30_000, step }),
        any::<bool>().prop_map(|random| Ports::Block { first: 20_480, size: 16, random }),
    ];
    (mapping, filtering, ports, any::<bool>()).prop_map(|(mapping, filtering, ports, firewall)| {
        let (unreplied, stream) = (Duration::from_secs(10), Duration::from_secs(10));
        Rules { mapping, filtering, ports, firewall, unreplied, stream, ..Rules::HOME }
    })
}

/// A datagram that passed.
#[derive(Clone, Copy, Debug)]
struct Passed {
    at: Instant,
    inside: SocketAddr,
    port: u16,
    far: SocketAddr,
    out: bool,
}

/// With both lives equal a flow lives 10 s after its last packet, and a mapping
/// as long as a flow that the inside has sent on.
struct Judge {
    rules: Rules,
    passed: Vec<Passed>,
}

impl Judge {
    /// Whether a flow that the inside has sent on is alive at a moment.
    fn asked(&self, now: Instant, inside: SocketAddr, port: u16, far: SocketAddr) -> bool {
        let mut alive_until = None;
        let mut asked = false;
        let own = |one: &&Passed| (one.inside, one.port, one.far) == (inside, port, far);
        for one in self.passed.iter().filter(own) {
            if alive_until.is_some_and(|until| until <= one.at) {
                asked = false;
            }
            asked |= one.out;
            alive_until = Some(one.at + self.rules.unreplied);
        }
        asked && alive_until.is_some_and(|until| until > now)
    }

    /// Inner addresses that hold a public port, with the far ends they hold it for.
    fn holders(&self, now: Instant, port: u16) -> Vec<(SocketAddr, SocketAddr)> {
        let mut all: Vec<_> = self
            .passed
            .iter()
            .filter(|one| one.port == port && self.asked(now, one.inside, port, one.far))
            .map(|one| (one.inside, one.far))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn may_enter(&self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let holders = self.holders(now, port);
        let matches = |to: SocketAddr| match self.rules.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => to.ip() == from.ip(),
            Filtering::AddressAndPortDependent => to == from,
        };
        holders.iter().find(|(_, to)| matches(*to)).map(|(inside, _)| *inside)
    }
}

fn play(rules: Rules, seed: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut nat = Nat::new(rules, seed);
    nat.set_addresses(&[OUTER.into()]);
    let mut now = Instant::from_secs(1_000);
    let mut judge = Judge { rules, passed: Vec::new() };
    let mut seen = vec![5_000_u16];
    for step in steps {
        match *step {
            Step::Wait { millis } => now += Duration::from_millis(millis),
            Step::Out { inside: from, far: to } => {
                let (inside, far) = (inside(from), far(to));
                let datagram = Datagram { source: inside, destination: far, bytes: vec![] };
                let Some(out) = nat.outbound(datagram, now) else {
                    // Only a block may be used up.
                    let block = matches!(rules.ports, Ports::Block { .. });
                    prop_assert!(block, "nothing is refused");
                    continue;
                };
                let port = out.source.port();
                for (holder, to) in judge.holders(now, port) {
                    prop_assert_eq!(holder, inside, "port {} is somebody's", port);
                    let shared = match rules.mapping {
                        Mapping::EndpointIndependent => true,
                        Mapping::AddressDependent => to.ip() == far.ip(),
                        Mapping::AddressAndPortDependent => to == far,
                    };
                    prop_assert!(shared, "port {} is for {}, not for {}", port, to, far);
                }
                judge.passed.push(Passed { at: now, inside, port, far, out: true });
                seen.push(port);
            }
            Step::In { ago, far: from } => {
                let port = seen[seen.len().saturating_sub(1 + ago)];
                let (far, to) = (far(from), SocketAddr::from((OUTER, port)));
                let datagram = Datagram { source: far, destination: to, bytes: vec![] };
                let arrived = nat.inbound(datagram, now).map(|datagram| datagram.destination);
                let may = judge.may_enter(now, port, far);
                // A box without a firewall may be in a conversation of its own
                // with that far end; then it is not let in, and never too much.
                if rules.firewall || arrived.is_some() {
                    prop_assert_eq!(arrived, may, "{} to {}", far, port);
                }
                if let Some(inside) = arrived {
                    judge.passed.push(Passed { at: now, inside, port, far, out: false });
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No public port stands for two things at once; exactly what the filter
    /// lets in arrives, for exactly as long as a flow lives.
    #[test]
    fn mappings_do_not_collide_and_filters_hold(
        rules in rules(),
        seed in any::<u64>(),
        steps in steps(),
    ) {
        play(rules, seed, &steps)?;
    }
}
