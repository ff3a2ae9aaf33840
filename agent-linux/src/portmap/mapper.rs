//! Which protocol a router speaks, and a mapping that lives as long as the daemon:
//! PCP, else NAT-PMP, else UPnP. Decides; sends nothing itself and reads no clock.
//!
//! Deviations: requests are repeated after 250 ms and not seconds (RFC 6887 section
//! 8.1.1, RFC 6886 section 3.1): a router is on the same link. Announcements of a
//! router that has restarted are not listened for (RFC 6887 section 14): they come
//! to a port that another program of this host may have; a router that forgot a
//! mapping has it again at half of its life.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::http::Response;
use super::pcp::{self, Answer, Nonce};
use super::upnp::{self, Action, Service, Url};

/// What is asked for, in seconds.
const LEASE_S: u32 = 7_200;
/// The longest that is believed.
const LONGEST_S: u32 = 86_400;
/// A request is sent so long after the first, in microseconds …
const SENDS_US: [u64; 3] = [0, 250_000, 750_000];
/// … and given up after this.
const GIVE_UP_US: u64 = 1_750_000;
/// A connection to a router may take this long.
const HTTP_US: u64 = 5_000_000;
/// After a search that found nothing; four times as long after each …
const REST_US: u64 = 300_000_000;
/// … up to this where a router has mapped something, …
const LONGEST_REST_US: u64 = 3_600_000_000;
/// … and up to this where none ever did: a search in vain is 1.4 kB, and routers do
/// not learn.
const LONGEST_VAIN_US: u64 = 12 * 3_600_000_000;
/// Renewals are no closer than this.
const CLOSEST_US: u64 = 30_000_000;
/// Outer ports that are asked for where one is taken.
const PORTS: usize = 4;

/// By what a router was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Pcp,
    NatPmp,
    Upnp,
}

impl Protocol {
    /// As people know it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }

    /// As programs know it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat_pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// A router, and this machine's address towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) router: Ipv4Addr,
    pub(crate) local: Ipv4Addr,
}

/// Packets that come to `external` come to our port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    pub(crate) router: Ipv4Addr,
    pub(crate) external: SocketAddrV4,
    /// 0 = until it is taken back.
    pub(crate) lease_s: u32,
}

impl Mapping {
    /// Whether peers elsewhere can use it: behind another NAT, or a carrier's, the
    /// router's own address is no place in the world.
    pub(crate) fn is_public(&self) -> bool {
        let ip = self.external.ip();
        let [first, second, ..] = ip.octets();
        let is_shared = first == 100 && (64..128).contains(&second);
        !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Datagram {
        to: SocketAddrV4,
        bytes: Vec<u8>,
    },
    /// One request on a connection of its own; its answer, or its failure, is
    /// handed back. One at a time.
    Request {
        to: SocketAddrV4,
        bytes: Vec<u8>,
    },
}

#[derive(Clone, Debug)]
enum Step {
    /// There is no router, or nothing to do before `due`.
    Idle,
    Pcp,
    /// NAT-PMP: the router's address.
    Address,
    /// NAT-PMP: a mapping.
    Port(Ipv4Addr),
    Search,
    Describe(Url),
    Add(Adding),
    /// UPnP: the router's address.
    Where(Adding),
}

#[derive(Clone, Debug)]
struct Adding {
    service: Service,
    external: u16,
    lease_s: u32,
    tries: usize,
}

struct Kept {
    mapping: Mapping,
    /// `None` = it has no end.
    until_us: Option<u64>,
    service: Option<Service>,
}

/// Keeps one mapping.
pub(crate) struct Mapper {
    nonce: Nonce,
    port: u16,
    gateway: Option<Gateway>,
    step: Step,
    /// Of this step.
    began_us: u64,
    sends: usize,
    /// When an idle one goes on.
    due_us: Option<u64>,
    rest_us: u64,
    /// This router has mapped something.
    has_given: bool,
    kept: Option<Kept>,
    outputs: VecDeque<Output>,
    changed: bool,
}

impl Mapper {
    /// Of the UDP port `port`. The nonce is the same at every start: a router gives
    /// a mapping to nobody but who made it.
    pub(crate) const fn new(nonce: Nonce, port: u16) -> Self {
        Self {
            nonce,
            port,
            gateway: None,
            step: Step::Idle,
            began_us: 0,
            sends: 0,
            due_us: None,
            rest_us: REST_US,
            has_given: false,
            kept: None,
            outputs: VecDeque::new(),
            changed: false,
        }
    }

    /// What there is.
    pub(crate) fn mapping(&self) -> Option<Mapping> {
        self.kept.as_ref().map(|kept| kept.mapping)
    }

    /// Whether it has changed since this was asked.
    pub(crate) const fn poll_change(&mut self) -> bool {
        core::mem::replace(&mut self.changed, false)
    }

    /// The way into the world leads over this router now.
    pub(crate) fn set_gateway(&mut self, gateway: Option<Gateway>, now_us: u64) {
        if self.gateway == gateway {
            return;
        }
        // The old router may not be there any more, and has an end for all it gave.
        self.gateway = gateway;
        self.outputs.clear();
        self.drop_mapping();
        self.rest_us = REST_US;
        self.has_given = false;
        self.due_us = None;
        self.step = Step::Idle;
        if self.gateway.is_some() {
            self.go_on(Step::Pcp, now_us);
        }
    }

    /// The requests that take the mapping back.
    pub(crate) fn release(&mut self) -> Vec<Output> {
        self.outputs.clear();
        if let (Some(kept), Some(gateway)) = (self.kept.take(), self.gateway) {
            let external = kept.mapping.external.port();
            let ports = (self.port, external);
            match (kept.mapping.protocol, kept.service) {
                (Protocol::Pcp, _) => {
                    self.tell(gateway, &pcp::map(&self.nonce, gateway.local, ports, 0));
                }
                (Protocol::NatPmp, _) => self.tell(gateway, &pcp::port(ports, 0)),
                (Protocol::Upnp, Some(service)) => {
                    self.request(&service.control, service.post(Action::Delete { external }));
                }
                (Protocol::Upnp, None) => {}
            }
        }
        self.step = Step::Idle;
        (self.gateway, self.due_us) = (None, None);
        self.outputs.drain(..).collect()
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Mapper::handle_timeout`] has something to do, in microseconds.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        match self.step {
            Step::Idle => self.due_us,
            Step::Describe(_) | Step::Add(_) | Step::Where(_) => Some(self.began_us + HTTP_US),
            _ => {
                let after = SENDS_US.get(self.sends).copied().unwrap_or(GIVE_UP_US);
                Some(self.began_us + after)
            }
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now_us: u64) {
        let until = self.kept.as_ref().and_then(|kept| kept.until_us);
        if until.is_some_and(|until| until <= now_us) {
            self.drop_mapping();
        }
        if self.poll_timeout().is_none_or(|at| at > now_us) {
            return;
        }
        match self.step {
            Step::Idle => {
                self.due_us = None;
                self.renew(now_us);
            }
            Step::Describe(_) | Step::Add(_) | Step::Where(_) => self.fail(now_us),
            _ if self.sends < SENDS_US.len() => self.send(),
            _ => self.next_protocol(now_us),
        }
    }

    /// A datagram came.
    pub(crate) fn handle_datagram(&mut self, source: SocketAddrV4, bytes: &[u8], now_us: u64) {
        let Some(gateway) = self.gateway.filter(|gateway| gateway.router == *source.ip()) else {
            return;
        };
        if source.port() != pcp::PORT {
            // A search is answered from any port of the router.
            if matches!(self.step, Step::Search)
                && let Some(url) = upnp::location(bytes, gateway.router)
            {
                self.request(&url, upnp::get(&url));
                self.go_on(Step::Describe(url), now_us);
            }
            return;
        }
        let Some(answer) = pcp::read(bytes, &self.nonce, self.port) else { return };
        match (&self.step, answer) {
            (Step::Pcp, Answer::Mapped { external, port, lease_s }) if lease_s > 0 => {
                let external = SocketAddrV4::new(external, port);
                self.keep(Protocol::Pcp, external, (lease_s, None), now_us);
            }
            (Step::Address, Answer::Address(address)) => self.go_on(Step::Port(address), now_us),
            (Step::Port(address), Answer::Port { port, lease_s }) if lease_s > 0 => {
                let external = SocketAddrV4::new(*address, port);
                self.keep(Protocol::NatPmp, external, (lease_s, None), now_us);
            }
            (
                Step::Pcp | Step::Address | Step::Port(_),
                Answer::OtherVersion | Answer::Refused { .. },
            ) => self.next_protocol(now_us),
            // One that came twice, or too late.
            _ => {}
        }
    }

    /// The answer to the last request, or that there was none.
    pub(crate) fn handle_response(&mut self, response: Option<&Response>, now_us: u64) {
        let Some(response) = response else { return self.fail(now_us) };
        match core::mem::replace(&mut self.step, Step::Idle) {
            Step::Describe(url) => {
                let found = Some(&response.body).filter(|_| response.status == 200);
                match found.and_then(|body| upnp::service(body, &url)) {
                    Some(service) => {
                        let external = self.port;
                        let adding = Adding { service, external, lease_s: LEASE_S, tries: 1 };
                        self.add(adding, now_us);
                    }
                    None => self.fail(now_us),
                }
            }
            Step::Add(adding) => self.handle_added(adding, upnp::done(response), now_us),
            Step::Where(adding) => match upnp::address(response) {
                Some(address) => {
                    let external = SocketAddrV4::new(address, adding.external);
                    let lease = (adding.lease_s, Some(adding.service));
                    self.keep(Protocol::Upnp, external, lease, now_us);
                }
                None => self.fail(now_us),
            },
            other => self.step = other,
        }
    }

    fn handle_added(&mut self, adding: Adding, done: Result<(), u16>, now_us: u64) {
        match done {
            Ok(()) => {
                self.request(&adding.service.control, adding.service.post(Action::Address));
                self.go_on(Step::Where(adding), now_us);
            }
            Err(upnp::PERMANENT_ONLY) if adding.lease_s > 0 => {
                self.add(Adding { lease_s: 0, ..adding }, now_us);
            }
            Err(upnp::CONFLICT) if adding.tries < PORTS => {
                // Drawn once for all times: others are no likelier to be free.
                let at = 2 * (adding.tries - 1);
                let drawn = self.nonce.get(at..at + 2).and_then(|two| two.first_chunk());
                let drawn = drawn.map_or(0, |two| u16::from_be_bytes(*two));
                let external = 1_024 + drawn % (u16::MAX - 1_024);
                self.add(Adding { external, tries: adding.tries + 1, ..adding }, now_us);
            }
            Err(_) => self.fail(now_us),
        }
    }

    fn add(&mut self, adding: Adding, now_us: u64) {
        let Some(gateway) = self.gateway else { return };
        let mapping = upnp::Mapping {
            local: SocketAddrV4::new(gateway.local, self.port),
            external: adding.external,
            lease_s: adding.lease_s,
        };
        self.request(&adding.service.control, adding.service.post(Action::Add(mapping)));
        self.go_on(Step::Add(adding), now_us);
    }

    /// Begins a step. Steps of datagrams send at once.
    fn go_on(&mut self, step: Step, now_us: u64) {
        self.step = step;
        (self.began_us, self.sends) = (now_us, 0);
        if matches!(self.step, Step::Pcp | Step::Address | Step::Port(_) | Step::Search) {
            self.send();
        }
    }

    fn send(&mut self) {
        self.sends += 1;
        let Some(gateway) = self.gateway else { return };
        // A renewal asks for what there is.
        let external = self.mapping().map_or(self.port, |mapping| mapping.external.port());
        let ports = (self.port, external);
        match self.step {
            Step::Pcp => {
                self.tell(gateway, &pcp::map(&self.nonce, gateway.local, ports, LEASE_S));
            }
            Step::Address => self.tell(gateway, &pcp::address()),
            Step::Port(_) => self.tell(gateway, &pcp::port(ports, LEASE_S)),
            Step::Search => {
                let to = SocketAddrV4::new(gateway.router, upnp::SEARCH_PORT);
                let bytes = upnp::search(gateway.router).into_bytes();
                self.outputs.push_back(Output::Datagram { to, bytes });
            }
            _ => {}
        }
    }

    fn tell(&mut self, gateway: Gateway, bytes: &[u8]) {
        let to = SocketAddrV4::new(gateway.router, pcp::PORT);
        self.outputs.push_back(Output::Datagram { to, bytes: bytes.to_vec() });
    }

    fn request(&mut self, url: &Url, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Request { to: url.server, bytes });
    }

    /// Once more, by the protocol that worked.
    fn renew(&mut self, now_us: u64) {
        if self.gateway.is_none() {
            return;
        }
        let kept = self.kept.as_ref();
        match kept.map(|kept| (kept.mapping, kept.service.clone())) {
            Some((mapping, Some(service))) => {
                let (external, lease_s) = (mapping.external.port(), mapping.lease_s);
                self.add(Adding { service, external, lease_s, tries: PORTS }, now_us);
            }
            Some((Mapping { protocol: Protocol::NatPmp, .. }, None)) => {
                self.go_on(Step::Address, now_us);
            }
            _ => self.go_on(Step::Pcp, now_us),
        }
    }

    /// This protocol gave nothing.
    fn next_protocol(&mut self, now_us: u64) {
        match self.step {
            _ if self.kept.is_some() => self.fail(now_us),
            Step::Pcp => self.go_on(Step::Address, now_us),
            Step::Address | Step::Port(_) => self.go_on(Step::Search, now_us),
            _ => self.fail(now_us),
        }
    }

    fn fail(&mut self, now_us: u64) {
        self.step = Step::Idle;
        self.outputs.clear();
        let until = self.kept.as_ref().map(|kept| kept.until_us);
        self.due_us = Some(match until {
            // Between half of its life and its end, closer and closer; at its end
            // everything begins anew.
            Some(Some(until)) => {
                let half = until.saturating_sub(now_us) / 2;
                (now_us + half.max(CLOSEST_US)).min(until)
            }
            Some(None) | None => now_us + self.rest_us,
        });
        let longest = if self.has_given { LONGEST_REST_US } else { LONGEST_VAIN_US };
        self.rest_us = (self.rest_us * 4).min(longest);
    }

    fn keep(
        &mut self,
        protocol: Protocol,
        external: SocketAddrV4,
        (lease_s, service): (u32, Option<Service>),
        now_us: u64,
    ) {
        let Some(gateway) = self.gateway else { return };
        if external.ip().is_unspecified() || external.port() == 0 {
            // It has no way into the world itself.
            return self.fail(now_us);
        }
        self.rest_us = REST_US;
        self.has_given = true;
        let lease_s = lease_s.min(LONGEST_S);
        let mapping = Mapping { protocol, router: gateway.router, external, lease_s };
        let before = self.mapping().map(|mapping| mapping.external);
        self.changed |= before != Some(external);
        let life_us = u64::from(if lease_s == 0 { LEASE_S } else { lease_s }) * 1_000_000;
        let until_us = (lease_s > 0).then_some(now_us + life_us);
        self.kept = Some(Kept { mapping, until_us, service });
        self.step = Step::Idle;
        self.due_us = Some(now_us + (life_us / 2).max(CLOSEST_US).min(life_us));
    }

    fn drop_mapping(&mut self) {
        self.changed |= self.kept.take().is_some();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
