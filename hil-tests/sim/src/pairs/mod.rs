//! Two devices behind random NATs, and everything that may happen to them: the
//! great test of paths.
//!
//! A seed draws the places, links, relays, the traffic and a script of events
//! ([`run`]). Two things are promised of each pair: it is not without a way for
//! longer than [`WITHOUT_WAY`] while there is one, and not on a relay for longer than
//! [`ON_RELAY`] while it would go directly. Whether there is one is decided
//! here, outside of the agents, from what stands between the two and what is cut;
//! whether it works, by numbered packets through the overlay.
//!
//! Where nobody could know better, nothing is promised:
//! - while a device is off or its line loses a fifth of everything or more;
//! - while there is neither a relay that passes things on nor a direct way that
//!   needs no luck;
//! - while the coordinator is away, unless everything that was sent arrived when it
//!   went, and nothing has happened since: nobody could tell the peer. It has to be
//!   found again within [`BACK_WITHIN`] when it returns.

mod many;
mod script;
mod site;
mod watch;

use std::fmt::Write as _;
use std::net::SocketAddr;

use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::time::{Duration, Instant};
use weft_wire::signal::{Candidate, CandidateKind};

use crate::mesh::{Coordinator, Mesh, echo};
use crate::net::Link;
use crate::rng::Rng;
pub use many::{Summary, many};
use script::{Event, Script};
use site::{Addresses, Builder, Site};
use watch::Watch;
pub use watch::{Broken, ON_RELAY, WITHOUT_WAY};

/// How soon both devices are at the coordinator again.
pub const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Nobody is promised a way over a line that loses more, in a million.
const BEARABLE_PPM: u32 = 50_000;
/// The port of every agent.
const PORT: u16 = 51_871;

/// A mesh of two, without traces.
type PairMesh = Mesh<NoTrace, 2, 8>;

/// How a story went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Packets handed to the two agents.
    pub sent: u32,
    /// Of them arrived.
    pub arrived: u32,
    /// Of them over a relay.
    pub relayed: u32,
    /// The longest time without a way while there was one.
    pub without_way: Duration,
    /// The longest time over a relay while it was not needed.
    pub on_relay: Duration,
    /// Time that passed for the pair.
    pub lived: Duration,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.arrived += other.arrived;
        self.relayed += other.relayed;
        self.without_way = self.without_way.max(other.without_way);
        self.on_relay = self.on_relay.max(other.on_relay);
        self.lived += other.lived;
    }
}

/// A promise that was not held.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The pair.
    pub seed: u64,
    /// What broke.
    pub what: Broken,
    /// Everything that happened until then.
    pub story: String,
}

/// Plays one pair.
///
/// # Errors
///
/// [`Failure`] with the whole story, which the seed plays again.
pub fn run(seed: u64) -> Result<Outcome, Failure> {
    play(seed, false).or_else(|_| play(seed, true))
}

/// The same, with its story.
pub fn tell(seed: u64) -> String {
    let mut pair = Pair::new(seed, true);
    let verdict = pair.play();
    format!("{}\n{verdict:?}", pair.story.unwrap_or_default())
}

fn play(seed: u64, told: bool) -> Result<Outcome, Failure> {
    let mut pair = Pair::new(seed, told);
    pair.play().map_err(|what| {
        let story = pair.story.unwrap_or_default();
        Failure { seed, what, story }
    })
}

struct Pair {
    mesh: PairMesh,
    rng: Rng,
    addresses: Addresses,
    sites: [Site; 2],
    links: [Link; 2],
    hosts: [u32; 2],
    watches: [Watch; 2],
    /// Who sends, and how often.
    senders: [bool; 2],
    period: Duration,
    next_at: [Option<Instant>; 2],
    sequence: u16,
    is_cut: bool,
    /// The coordinator is away, and everything is as it was before.
    holds_on: bool,
    /// Since when a device is missing at a coordinator that is there.
    missing_since: Option<Instant>,
    story: Option<String>,
    told: [String; 2],
}

impl Pair {
    fn new(seed: u64, told: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x5EED_0F9A_1125);
        let mut mesh = PairMesh::of(rng.next());
        mesh.logs_datagrams = told;
        for last in 10..11 + rng.below(2) as u8 {
            mesh.add_stun(([203, 0, 113, last], 3_478).into());
        }
        for last in 20..21 + rng.below(2) as u8 {
            mesh.add_relay([203, 0, 113, last].into());
        }
        let mut addresses = Addresses::default();
        let (network, one) = (&mut mesh.network, &mut addresses);
        let mut builder = Builder { network, addresses: one, rng: &mut rng };
        let sites = if builder.rng.chance(100_000) {
            builder.neighbours()
        } else {
            [builder.site(), builder.site()]
        };
        let links = [link(&mut rng), link(&mut rng)];
        mesh.line.latency = Duration::from_millis(5 + rng.below(60));
        mesh.line.jitter = Duration::from_millis(rng.below(20));
        let mut pair = Self {
            mesh,
            rng,
            addresses,
            sites,
            links,
            hosts: [0; 2],
            watches: Default::default(),
            senders: [false; 2],
            period: Duration::ZERO,
            next_at: [None; 2],
            sequence: 0,
            is_cut: false,
            holds_on: false,
            missing_since: None,
            story: told.then(String::new),
            told: Default::default(),
        };
        pair.join();
        pair
    }

    fn join(&mut self) {
        for name in ["gw-a", "gw-b"] {
            let node = self.mesh.add(name);
            *self.mesh.link_mut(node) = self.links[node];
            self.settle(node);
        }
        self.mesh.run_to(30_000, |mesh| mesh.knows(0, 1) && mesh.knows(1, 1));
        self.hosts = [self.mesh.host(0), self.mesh.host(1)];
        for node in 0..2 {
            self.say(|pair| format!("{node} at {}", pair.sites[node].name()));
        }
    }

    /// A device is at its place, and its agent knows.
    fn settle(&mut self, node: usize) {
        let site = &self.sites[node];
        let address = SocketAddr::new(site.host, PORT);
        self.mesh.place_at(node, address, site.area());
        if self.mesh.nodes[node].agent.is_some() {
            let host = Candidate { kind: CandidateKind::Host, address };
            self.mesh.input(node, |agent, now| agent.set_local_addresses(&[host], now));
        }
    }

    fn play(&mut self) -> Result<Outcome, Broken> {
        let script = Script::draw(&mut self.rng, self.mesh.relays.len());
        let start = self.mesh.now;
        let mut events = script.events.into_iter().peekable();
        let end = start + script.end;
        loop {
            let sends = self.next_at.iter().flatten().min().copied();
            let event = events.peek().map(|(after, _)| start + *after);
            let at = sends.into_iter().chain(event).min().map_or(end, |at| at.min(end));
            self.mesh.run_until(at);
            self.look()?;
            if at == end {
                break;
            }
            if event == Some(at)
                && let Some((_, event)) = events.next()
            {
                self.happen(event);
            } else {
                self.send()?;
            }
            if self.story.is_none() {
                self.forget();
            }
        }
        let mut outcome = Outcome { lived: end - start, ..Outcome::default() };
        self.watches.iter().for_each(|watch| outcome.add(&watch.outcome));
        Ok(outcome)
    }

    /// What nobody will look at.
    fn forget(&mut self) {
        self.mesh.log.clear();
        self.mesh.tapped.clear();
        self.mesh.nodes.iter_mut().for_each(|node| node.events.clear());
    }

    /// Packets that have arrived, and where the devices stand.
    fn look(&mut self) -> Result<(), Broken> {
        let direct = self.goes_directly();
        for node in 0..2 {
            let place = &mut self.mesh.nodes[node];
            let from = place.came_from.map(|from| from.ip());
            let relayed = self.mesh.relays.iter().any(|relay| Some(relay.ip().into()) == from);
            let arrived: Vec<_> = place.received.drain(..).collect();
            for (at, packet) in arrived {
                let Some(sequence) = echo::sequence(&packet) else { continue };
                self.say(|_| format!("  {node} gets {sequence} sent {at:?} relayed {relayed}"));
                if let Some(broken) = self.watches[1 - node].arrived(relayed, direct, at) {
                    self.say(|_| format!("{broken:?} towards {node}"));
                    return Err(broken);
                }
            }
        }
        self.tell_news();
        self.look_for_coordinator()
    }

    fn look_for_coordinator(&mut self) -> Result<(), Broken> {
        let now = self.mesh.now;
        if self.mesh.coordinator_down || self.is_online() || !self.are_on() {
            self.missing_since = None;
            return Ok(());
        }
        let since = *self.missing_since.get_or_insert(now);
        if now - since > BACK_WITHIN {
            return Err(Broken::Offline(now - since));
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Broken> {
        let now = self.mesh.now;
        let (way, direct) = (self.has_way(), self.goes_directly());
        for node in 0..2 {
            if self.next_at[node].is_none_or(|at| at > now) {
                continue;
            }
            self.next_at[node] = Some(now + self.period);
            if self.mesh.nodes[node].agent.is_none() {
                self.watches[node].rest();
                continue;
            }
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.say(|_| format!("  {node} sends {sequence}, way {way} direct {direct}"));
            if let Some(broken) = self.watches[node].sent(way, direct, now) {
                self.say(|_| format!("{broken:?} from {node}"));
                return Err(broken);
            }
            let overlay = Coordinator::overlay();
            let [from, to] = [node, 1 - node].map(|node| overlay.address_v4(self.hosts[node]));
            self.mesh.packet(node, &echo::unasked(from, to, sequence));
        }
        Ok(())
    }

    fn are_on(&self) -> bool {
        self.mesh.nodes.iter().all(|node| node.agent.is_some())
    }

    fn is_online(&self) -> bool {
        let now = self.mesh.now;
        let online = |node| self.mesh.agent(node).coordinator(now).online;
        self.are_on() && online(0) && online(1)
    }

    /// Whether the two can tell each other where they are, or need not.
    fn can_find(&self) -> bool {
        if self.mesh.coordinator_down { self.holds_on } else { self.is_online() }
    }

    fn is_bearable(&self) -> bool {
        (0..2).all(|node| self.mesh.link(node).loss_ppm <= BEARABLE_PPM)
    }

    /// Whether packets can go directly, and the two can find out.
    fn goes_directly(&self) -> bool {
        let [one, other] = &self.sites;
        self.can_find() && self.is_bearable() && !self.is_cut && one.reaches(other)
    }

    /// Whether there is a way, and the two can find it.
    fn has_way(&self) -> bool {
        let relay = self.mesh.relays.iter().any(|relay| !relay.is_dead && !relay.is_deaf);
        let relay = relay && !self.sites.iter().any(Site::is_blocked);
        let directly = !self.is_cut && self.sites[0].reaches(&self.sites[1]);
        self.can_find() && self.is_bearable() && (relay || directly)
    }

    fn happen(&mut self, event: Event) {
        self.say(|_| format!("{event:?}"));
        // Whatever it is, what worked before may work no more.
        let held_on = core::mem::take(&mut self.holds_on);
        let now = self.mesh.now;
        match event {
            Event::Talk { senders, period } => {
                (self.senders, self.period) = (senders, period);
                self.next_at = senders.map(|sends| sends.then_some(now));
                self.watches.iter_mut().for_each(Watch::rest);
            }
            Event::Silence => {
                self.next_at = [None; 2];
                self.watches.iter_mut().for_each(Watch::rest);
            }
            Event::Reboot(node) => {
                let gates = &self.sites[node].gates;
                gates.first().iter().for_each(|gate| self.mesh.network.reboot(gate.id));
            }
            Event::NewAddress(node) => self.readdress(node),
            Event::Move(node) => self.relocate(node),
            Event::MoveBoth => (0..2).for_each(|node| self.relocate(node)),
            Event::Stop(node) => self.stop(node),
            Event::Start(node) => self.start(node),
            Event::RelayDies(relay) => self.mesh.relays[relay].is_dead = true,
            Event::RelayDeaf(relay) => self.mesh.relays[relay].is_deaf = true,
            Event::RelayStarts(relay) => {
                let seed = self.rng.next() as u8;
                let relay = &mut self.mesh.relays[relay];
                relay.restart(seed);
                (relay.is_dead, relay.is_deaf) = (false, false);
            }
            Event::RelayWakes(relay) => self.mesh.relays[relay].is_deaf = false,
            Event::CoordinatorGone => {
                let sends = |(watch, at): (&Watch, &Option<Instant>)| at.is_none() || watch.flows();
                let flow = self.watches.iter().zip(&self.next_at).all(sends) && self.is_online();
                self.holds_on = if self.mesh.coordinator_down { held_on } else { flow };
                self.mesh.coordinator_down = true;
                self.mesh.cut_lines();
            }
            Event::CoordinatorBack => self.mesh.coordinator_down = false,
            Event::Cut => self.is_cut = true,
            Event::Heal => {
                self.is_cut = false;
                self.holds_on = held_on;
            }
            Event::Loss(node, loss_ppm) => {
                *self.mesh.link_mut(node) = Link { loss_ppm, ..self.links[node] };
            }
            Event::Calm(node) => {
                *self.mesh.link_mut(node) = self.links[node];
                self.holds_on = held_on;
            }
        }
        self.apply_cut();
        self.watches.iter_mut().for_each(Watch::happens);
    }

    fn stop(&mut self, node: usize) {
        if self.mesh.nodes[node].agent.is_some() {
            let _: NoTrace = self.mesh.stop(node);
        }
    }

    fn start(&mut self, node: usize) {
        if self.mesh.nodes[node].agent.is_none() {
            self.mesh.boot(node);
        }
    }

    /// The provider gives a site another address.
    fn readdress(&mut self, node: usize) {
        let Some(gate) = self.sites[node].gates.last().copied() else { return };
        let outer = self.addresses.public();
        self.mesh.network.move_gateway(gate.id, [outer]);
        // Both, if they are behind it.
        for site in &mut self.sites {
            let gates = site.gates.iter_mut().filter(|one| one.id == gate.id);
            gates.for_each(|one| one.outer = outer);
        }
    }

    fn relocate(&mut self, node: usize) {
        let (network, addresses) = (&mut self.mesh.network, &mut self.addresses);
        let mut builder = Builder { network, addresses, rng: &mut self.rng };
        self.sites[node] = builder.site();
        self.say(|pair| format!("{node} at {}", pair.sites[node].name()));
        self.settle(node);
    }

    fn apply_cut(&mut self) {
        self.mesh.network.allow_all();
        if self.is_cut {
            let [one, other] = [0, 1].map(|node: usize| &self.sites[node]);
            self.mesh.network.forbid(one.public(), other.public());
            self.mesh.network.forbid(one.host, other.host);
        }
    }

    fn say(&mut self, words: impl FnOnce(&Self) -> String) {
        if self.story.is_none() {
            return;
        }
        let words = words(self);
        let at = self.mesh.now;
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{at:?} {words}");
        }
    }

    /// What the agents have decided since the last look.
    fn tell_news(&mut self) {
        if self.story.is_none() {
            return;
        }
        for line in std::mem::take(&mut self.mesh.log) {
            self.say(|_| format!("    {line}"));
        }
        for node in 0..2 {
            let Some(agent) = &self.mesh.nodes[node].agent else { continue };
            let peers = agent.peers().map(|peer| format!("{:?} {:?}", peer.state, peer.selected));
            let news: String = peers.collect::<Vec<_>>().join("; ");
            let news = format!("{news} relay {:?}", agent.rung());
            if news != self.told[node] {
                self.say(|_| format!("    {node}: {news}"));
                self.told[node] = news;
            }
        }
    }
}

/// A device's line: two of them are between the devices.
fn link(rng: &mut Rng) -> Link {
    Link {
        latency: Duration::from_millis(1 + rng.below(60)),
        jitter: Duration::from_millis(rng.below(12)),
        loss_ppm: rng.below(15_000) as u32,
        duplicate_ppm: rng.below(2_000) as u32,
        ..Link::IDEAL
    }
}
