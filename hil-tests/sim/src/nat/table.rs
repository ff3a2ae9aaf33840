//! Mappings and their flows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use weft_agent_core::time::{Duration, Instant};

use super::{Filtering, Mapping, Ports, Rules};
use crate::rng::Rng;

/// A flow that is younger is not a stream yet, answered or not.
const STREAM_AFTER: Duration = Duration::from_secs(2);
/// No box forgets a flow sooner: its table is looked through no more often.
const LEAST_LIFE: Duration = Duration::from_secs(1);
/// Ports of a sequence before it begins anew.
const SEQUENCE: u16 = 4_096;
/// Where [`Ports::Hashed`] takes from.
const HASHED: RangeInclusive<u16> = 30_000..=49_999;
/// Where [`Ports::Random`] takes from, and who must make room.
const ANY: RangeInclusive<u16> = 1_024..=65_535;

/// Why a datagram does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody inside has asked for it.
    Unasked,
    /// No room for a flow, or no port for a mapping.
    Full,
}

/// The far ends that share a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Anybody,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

impl Scope {
    const fn of(mapping: Mapping, far: SocketAddr) -> Self {
        match mapping {
            Mapping::EndpointIndependent => Self::Anybody,
            Mapping::AddressDependent => Self::Address(far.ip()),
            Mapping::AddressAndPortDependent => Self::Endpoint(far),
        }
    }
}

#[derive(Debug)]
struct Flow {
    began: Instant,
    until: Instant,
    answered: bool,
    /// The inside has sent on it: it holds its mapping, and whom it goes to may
    /// answer. A stranger's packets do neither.
    asked: bool,
}

impl Flow {
    const fn new(now: Instant, asked: bool) -> Self {
        Self { began: now, until: now, answered: false, asked }
    }

    fn refresh(&mut self, rules: &Rules, now: Instant) {
        let stream = self.answered && now.since(self.began) > STREAM_AFTER;
        self.until = now + if stream { rules.stream } else { rules.unreplied };
    }
}

#[derive(Debug)]
struct Entry {
    inside: SocketAddr,
    scope: Scope,
    flows: BTreeMap<SocketAddr, Flow>,
}

/// Everything that a box remembers.
#[derive(Debug)]
pub(super) struct Table {
    /// By public port.
    entries: BTreeMap<u16, Entry>,
    /// Public ports by what they stand for.
    index: BTreeMap<(SocketAddr, Scope), u16>,
    /// Flows of a box without a firewall with whoever came unasked, by port and
    /// far end.
    own: BTreeMap<(u16, SocketAddr), Instant>,
    /// No flow ends before this.
    lasts_until: Instant,
    /// Mappings of a sequence so far.
    given: u16,
    rng: Rng,
}

impl Table {
    pub(super) const fn new(rng: Rng) -> Self {
        Self {
            entries: BTreeMap::new(),
            index: BTreeMap::new(),
            own: BTreeMap::new(),
            lasts_until: Instant::ZERO,
            given: 0,
            rng,
        }
    }

    /// Forgets everything, and counts on where it was.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
        self.own.clear();
    }

    /// The public port for what the inside sends.
    pub(super) fn outbound(
        &mut self,
        rules: &Rules,
        inside: SocketAddr,
        far: SocketAddr,
        now: Instant,
    ) -> Result<u16, Refused> {
        self.expire(now);
        let port = self.port_for(rules, inside, far)?;
        let full = self.flows() >= rules.flows;
        let entry = self.entries.get_mut(&port).ok_or(Refused::Full)?;
        if full && !entry.flows.contains_key(&far) {
            self.drop_empty(port);
            return Err(Refused::Full);
        }
        let flow = entry.flows.entry(far).or_insert_with(|| Flow::new(now, true));
        flow.refresh(rules, now);
        // The inside may be answering a stranger.
        flow.answered |= !flow.asked;
        flow.asked = true;
        Ok(port)
    }

    /// Who gets what came to a public port. `own` is the box's own address as
    /// the far end: hairpinning, which nothing filters.
    pub(super) fn inbound(
        &mut self,
        rules: &Rules,
        port: u16,
        far: SocketAddr,
        own: bool,
        now: Instant,
    ) -> Result<SocketAddr, Refused> {
        self.expire(now);
        let room = self.flows() < rules.flows;
        // A flow of the box itself goes on as that.
        let unasked = match (self.own.contains_key(&(port, far)), self.entries.get_mut(&port)) {
            (false, Some(entry)) => {
                let invited = own || lets_in(rules.filtering, entry, far);
                match entry.flows.get_mut(&far) {
                    Some(flow) if flow.asked || invited => {
                        // An answer counts from the next packet on, as in the kernel.
                        flow.refresh(rules, now);
                        flow.answered |= flow.asked;
                        return Ok(entry.inside);
                    }
                    None if invited && !room => return Err(Refused::Full),
                    None if invited => {
                        let mut flow = Flow::new(now, false);
                        flow.refresh(rules, now);
                        entry.flows.insert(far, flow);
                        return Ok(entry.inside);
                    }
                    _ => {}
                }
                Refused::Unasked
            }
            (true, _) => Refused::Full,
            (false, None) => Refused::Unasked,
        };
        let spoils = !rules.firewall && rules.dmz.is_none() && !own;
        if spoils && (room || self.own.contains_key(&(port, far))) {
            self.own.insert((port, far), now + rules.unreplied);
        }
        Err(unasked)
    }

    /// A host takes what nobody asked for, at the port where it came.
    pub(super) fn exposed(
        &mut self,
        rules: &Rules,
        host: SocketAddr,
        far: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, Refused> {
        if self.flows() >= rules.flows {
            return Err(Refused::Full);
        }
        // Held by the rule that exposes it, as if the host had asked.
        let mut flow = Flow::new(now, true);
        flow.refresh(rules, now);
        if !self.entries.contains_key(&host.port()) {
            let scope = Scope::of(rules.mapping, far);
            if self.index.contains_key(&(host, scope)) {
                // Its answers leave by another port that they have already.
                return Ok(host);
            }
            self.insert(host.port(), host, scope);
        }
        match self.entries.get_mut(&host.port()) {
            Some(entry) if entry.inside == host => {
                entry.flows.insert(far, flow);
                Ok(host)
            }
            _ => Err(Refused::Unasked),
        }
    }

    fn flows(&self) -> usize {
        self.own.len() + self.entries.values().map(|entry| entry.flows.len()).sum::<usize>()
    }

    /// Forgets flows whose time is over, and mappings that no flow holds.
    fn expire(&mut self, now: Instant) {
        // A flow that goes on lasts longer, a new one at least this long.
        if now < self.lasts_until {
            return;
        }
        self.own.retain(|_, until| *until > now);
        let index = &mut self.index;
        self.entries.retain(|port, entry| {
            entry.flows.retain(|_, flow| flow.until > now);
            let held = entry.flows.values().any(|flow| flow.asked);
            let key = (entry.inside, entry.scope);
            if !held && index.get(&key) == Some(port) {
                index.remove(&key);
            }
            held
        });
        let ends = self.entries.values().flat_map(|entry| entry.flows.values());
        let ends = ends.map(|flow| flow.until).chain(self.own.values().copied());
        self.lasts_until = ends.min().map_or(now + LEAST_LIFE, |end| end.min(now + LEAST_LIFE));
    }

    fn insert(&mut self, port: u16, inside: SocketAddr, scope: Scope) {
        self.index.insert((inside, scope), port);
        self.entries.insert(port, Entry { inside, scope, flows: BTreeMap::new() });
    }

    fn drop_empty(&mut self, port: u16) {
        if let Some(entry) = self.entries.get(&port)
            && entry.flows.is_empty()
        {
            let key = (entry.inside, entry.scope);
            if self.index.get(&key) == Some(&port) {
                self.index.remove(&key);
            }
            self.entries.remove(&port);
        }
    }

    /// The port of a mapping that is there, or of a new one.
    fn port_for(
        &mut self,
        rules: &Rules,
        inside: SocketAddr,
        far: SocketAddr,
    ) -> Result<u16, Refused> {
        // A flow keeps its port, also when the mapping has moved since.
        if !rules.firewall
            && let Some(port) = self.port_of_flow(inside, far)
        {
            return Ok(port);
        }
        let scope = Scope::of(rules.mapping, far);
        let (port, fresh) = match self.index.get(&(inside, scope)) {
            Some(port) => (*port, false),
            None => (self.choose(rules, inside, scope)?, true),
        };
        if self.own.contains_key(&(port, far)) {
            // The kernel looks for a host's youngest mapping: whoever is sent to
            // for the first time from now on sees this port as well.
            let other = self.free(ANY, None)?;
            self.insert(other, inside, scope);
            return Ok(other);
        }
        if fresh {
            self.insert(port, inside, scope);
        }
        Ok(port)
    }

    fn port_of_flow(&self, inside: SocketAddr, far: SocketAddr) -> Option<u16> {
        let asked = |entry: &Entry| entry.flows.get(&far).is_some_and(|flow| flow.asked);
        let mut entries = self.entries.iter();
        entries.find(|(_, entry)| entry.inside == inside && asked(entry)).map(|(port, _)| *port)
    }

    fn choose(&mut self, rules: &Rules, inside: SocketAddr, scope: Scope) -> Result<u16, Refused> {
        match rules.ports {
            Ports::Kept if self.entries.contains_key(&inside.port()) => self.free(ANY, None),
            Ports::Kept => Ok(inside.port()),
            Ports::Hashed => self.free(HASHED, Some(hash(inside, scope))),
            Ports::Random => self.free(ANY, None),
            Ports::Sequential { first, step } => (0..SEQUENCE)
                .map(|_| {
                    let port = first.wrapping_add(step.wrapping_mul(self.given));
                    self.given = (self.given + 1) % SEQUENCE;
                    port
                })
                .find(|port| !self.entries.contains_key(port))
                .ok_or(Refused::Full),
            Ports::Block { first, size, random } => {
                let block = first..=first + (size - 1);
                self.free(block, (!random).then(|| hash(inside, scope)))
            }
        }
    }

    /// A port of a range that nobody has: the next one from a place in it, or
    /// any.
    fn free(&mut self, range: RangeInclusive<u16>, place: Option<u64>) -> Result<u16, Refused> {
        let size = u64::from(range.end() - range.start()) + 1;
        let place = place.unwrap_or_else(|| self.rng.next()) % size;
        (0..size)
            .map(|further| range.start() + ((place + further) % size) as u16)
            .find(|port| !self.entries.contains_key(port))
            .ok_or(Refused::Full)
    }
}

fn lets_in(filtering: Filtering, entry: &Entry, far: SocketAddr) -> bool {
    let asked = || entry.flows.iter().filter(|(_, flow)| flow.asked);
    match filtering {
        Filtering::EndpointIndependent => true,
        Filtering::AddressDependent => asked().any(|(to, _)| to.ip() == far.ip()),
        // Such a flow is there already.
        Filtering::AddressAndPortDependent => false,
    }
}

/// FNV-1a: the same in every run.
fn hash(inside: SocketAddr, scope: Scope) -> u64 {
    let text = match scope {
        Scope::Anybody => format!("{inside}"),
        Scope::Address(far) => format!("{inside} {far}"),
        Scope::Endpoint(far) => format!("{inside} {far}"),
    };
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}
