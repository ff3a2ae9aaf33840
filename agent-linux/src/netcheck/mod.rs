//! What this machine's network does to UDP, found out on the spot: by the command
//! line, or by the daemon on a thread of its own. What is asked and what answers
//! mean is decided in [`weft_agent_core::stun::discovery`]; here are sockets, and
//! the ways to relays that are connections.

pub(crate) mod document;
mod lines;
mod look;
mod stream;
pub(crate) mod told;
pub(crate) mod verdict;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_agent_core::stun::discovery::{
    Discovery, FilteringBehaviour, Judged, LIVES, Lifetime, MappingBehaviour, TARGETS,
};

use crate::failure::{Failure, Result};
use crate::ipc::protocol::Relay;
use crate::net::tcp;

pub(crate) use lines::describe;

/// Seconds that bindings rest when nobody says otherwise: the lives that routers
/// have lie between them.
pub(crate) const LIVES_S: [u16; 5] = [15, 30, 60, 120, 180];

/// What the daemon's router gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PortMapping {
    /// No daemon was asked.
    #[default]
    Untold,
    /// A setting switches it off.
    Off(String),
    /// No router gave anything.
    Nothing,
    Mapped {
        /// `pcp`, `nat_pmp`, `upnp`.
        protocol: String,
        /// `PCP`, `NAT-PMP`, `UPnP`.
        name: String,
        router: Ipv4Addr,
        external: SocketAddrV4,
        /// 0 = until it is taken back.
        lease_s: u32,
        /// Whether `external` is a place in the world.
        public: bool,
    },
}

/// Whom one may ask, and what is known already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// STUN servers.
    pub(crate) servers: Vec<SocketAddr>,
    /// Relays, which are STUN servers too.
    pub(crate) relays: Vec<Relay>,
    pub(crate) port_mapping: PortMapping,
}

/// What is to be found out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) known: Known,
    /// Bindings rest for so many seconds; none = that is not tested.
    pub(crate) lives_s: Vec<u16>,
    /// Bytes cost money: only what says whether and how UDP works.
    pub(crate) metered: bool,
}

/// One family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// No server has an address of it.
    Unasked,
    /// This machine has no way into it.
    NoRoute,
    /// Nobody answered.
    Silent,
    /// Servers see this machine there.
    Seen {
        public: IpAddr,
        /// The public port at each server that answered.
        ports: Vec<u16>,
        /// The address is this machine's own: no NAT.
        own: bool,
    },
}

impl Family {
    const fn works(&self) -> bool {
        matches!(self, Self::Seen { .. })
    }
}

/// How a relay is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Udp,
    Tcp,
    Tls,
}

impl Rung {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// One way to a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) rung: Rung,
    pub(crate) address: SocketAddr,
    /// A round trip, or why there is none.
    pub(crate) outcome: core::result::Result<Duration, String>,
}

/// A relay, and its ways in the order in which an agent tries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayReport {
    pub(crate) number: u16,
    /// What people call it; `None` = nobody has told.
    pub(crate) name: Option<String>,
    pub(crate) ways: Vec<Way>,
}

impl RelayReport {
    /// The first way that answered, and its round trip.
    pub(crate) fn answered(&self) -> Option<(&Way, Duration)> {
        self.ways.iter().find_map(|way| Some((way, *way.outcome.as_ref().ok()?)))
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) v4: Family,
    pub(crate) v6: Family,
    pub(crate) mapping: Option<Judged<MappingBehaviour>>,
    pub(crate) filtering: Option<Judged<FilteringBehaviour>>,
    pub(crate) hairpin: Option<bool>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) relays: Vec<RelayReport>,
    pub(crate) port_mapping: PortMapping,
}

impl Report {
    pub(crate) const fn udp(&self) -> bool {
        self.v4.works() || self.v6.works()
    }

    /// Whether servers see an address of this machine itself.
    pub(crate) fn has_no_nat(&self) -> bool {
        let decides = if self.v4.works() { &self.v4 } else { &self.v6 };
        matches!(decides, Family::Seen { own: true, .. })
    }
}

/// Looks. Takes 2 s, and as long as the longest rest.
///
/// # Errors
///
/// Sockets and threads that cannot be had.
pub(crate) fn run(plan: &Plan) -> Result<Report> {
    let [v4, v6] = [true, false].map(|v4| targets(&plan.known, v4));
    // Connections are timed beside the rest: they disturb nothing.
    let streams = if plan.metered { Vec::new() } else { stream::begin(&plan.known.relays)? };
    let looks = look::both(v4, v6, plan).map_err(Failure::internal)?;
    let streams = stream::end(streams);
    let relays = plan.known.relays.iter().map(|relay| report_relay(relay, &looks, &streams));
    let [v4, v6] = &looks;
    // IPv6 hardly ever has a NAT: IPv4 is what decides, where there is any.
    let decides = if family(v4).works() { v4 } else { v6 };
    let decides = decides.as_ref().ok();
    Ok(Report {
        v4: family(v4),
        v6: family(v6),
        mapping: decides.and_then(Discovery::mapping),
        filtering: decides.and_then(Discovery::filtering),
        hairpin: decides.and_then(Discovery::hairpin),
        lifetime: decides.and_then(Discovery::lifetime),
        relays: relays.collect(),
        port_mapping: plan.known.port_mapping.clone(),
    })
}

/// Why a family was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlooked {
    NobodyToAsk,
    NoRoute,
}

type Look = core::result::Result<Discovery, Unlooked>;

/// Everybody who answers Binding requests, in one family.
fn targets(known: &Known, v4: bool) -> Vec<SocketAddr> {
    let relays = known.relays.iter().flat_map(|relay| udp_ways(relay, v4));
    let mut targets = Vec::new();
    for target in known.servers.iter().copied().filter(|to| to.is_ipv4() == v4).chain(relays) {
        if !targets.contains(&target) && targets.len() < TARGETS {
            targets.push(target);
        }
    }
    targets
}

fn udp_ways(relay: &Relay, v4: bool) -> Vec<SocketAddr> {
    let ip = if v4 { relay.addresses.0.map(IpAddr::V4) } else { relay.addresses.1.map(IpAddr::V6) };
    ip.into_iter().flat_map(|ip| relay.udp.iter().map(move |&port| (ip, port).into())).collect()
}

fn family(look: &Look) -> Family {
    let look = match look {
        Ok(look) => look,
        Err(Unlooked::NobodyToAsk) => return Family::Unasked,
        Err(Unlooked::NoRoute) => return Family::NoRoute,
    };
    let mapped: Vec<SocketAddr> =
        look.seen().filter_map(|seen| seen.answer.map(|(mapped, _)| mapped)).collect();
    match mapped.first() {
        None => Family::Silent,
        Some(first) => Family::Seen {
            public: first.ip(),
            ports: mapped.iter().map(SocketAddr::port).collect(),
            own: tcp::is_local(*first),
        },
    }
}

fn report_relay(relay: &Relay, looks: &[Look; 2], streams: &[stream::Timed]) -> RelayReport {
    let mut ways = Vec::new();
    // The first port of both families, then the second.
    let [v4, v6] = [true, false].map(|v4| udp_ways(relay, v4));
    for place in 0..v4.len().max(v6.len()) {
        for (addresses, look) in [&v4, &v6].into_iter().zip(looks) {
            let Some(&address) = addresses.get(place) else { continue };
            let outcome = match look {
                Err(Unlooked::NoRoute) => Err("no route".to_owned()),
                Err(Unlooked::NobodyToAsk) => continue,
                Ok(look) => {
                    let answer = look.seen().find(|seen| seen.server == address);
                    let rtt = answer.and_then(|seen| seen.answer).map(|(_, rtt)| rtt.into());
                    rtt.ok_or_else(|| "no answer".to_owned())
                }
            };
            ways.push(Way { rung: Rung::Udp, address, outcome });
        }
    }
    let of_relay = streams.iter().filter(|timed| timed.relay == relay.number);
    ways.extend(of_relay.map(|timed| timed.way.clone()));
    RelayReport { number: relay.number, name: relay.name.clone(), ways }
}

/// What a person may ask for as lengths of rests: rising, and few.
pub(crate) fn check_lives(lives_s: &[u16]) -> core::result::Result<(), String> {
    let rises = lives_s.windows(2).all(|pair| pair[0] < pair[1]);
    let possible = lives_s.iter().all(|&seconds| (1..=600).contains(&seconds));
    if lives_s.len() <= LIVES && rises && possible {
        Ok(())
    } else {
        Err(format!("up to {LIVES} rising numbers of seconds from 1 to 600 are possible"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Relay {
        Relay {
            name: Some("fra1".to_owned()),
            number: 7,
            addresses: (Some([203, 0, 113, 11].into()), Some("2001:db8::11".parse().unwrap())),
            udp: vec![3_478, 443],
            tcp: None,
            tls: None,
            until_s: None,
            rtt_ms: None,
        }
    }

    #[test]
    fn everybody_is_asked_once() {
        let servers = ["203.0.113.10:7420", "203.0.113.11:443", "[2001:db8::10]:7420"];
        let servers = servers.map(|text| text.parse().unwrap()).to_vec();
        let known = Known { servers: servers.clone(), relays: vec![relay()], ..Known::default() };
        let first = "203.0.113.11:3478".parse().unwrap();
        assert_eq!(targets(&known, true), [servers[0], servers[1], first]);
        assert_eq!(targets(&known, false).len(), 3);
    }

    #[test]
    fn a_relays_ways_come_in_the_order_in_which_they_are_tried() {
        let timed = stream::Timed {
            relay: 7,
            way: Way {
                rung: Rung::Tcp,
                address: "203.0.113.11:443".parse().unwrap(),
                outcome: Ok(Duration::from_millis(40)),
            },
        };
        let looks = [Err(Unlooked::NoRoute), Err(Unlooked::NoRoute)];
        let report = report_relay(&relay(), &looks, &[timed]);
        let shown: Vec<String> =
            report.ways.iter().map(|way| format!("{} {}", way.rung.name(), way.address)).collect();
        assert_eq!(
            shown,
            [
                "udp 203.0.113.11:3478",
                "udp [2001:db8::11]:3478",
                "udp 203.0.113.11:443",
                "udp [2001:db8::11]:443",
                "tcp 203.0.113.11:443",
            ]
        );
        assert_eq!(report.name.as_deref(), Some("fra1"));
        let (way, rtt) = report.answered().unwrap();
        assert_eq!((way.rung, rtt), (Rung::Tcp, Duration::from_millis(40)));
    }

    #[test]
    fn rests_rise_and_are_few() {
        assert!(check_lives(&LIVES_S).is_ok());
        for wrong in [&[0][..], &[601], &[30, 15], &[15, 15], &[1, 2, 3, 4, 5, 6, 7]] {
            assert!(check_lives(wrong).is_err(), "{wrong:?}");
        }
    }
}
