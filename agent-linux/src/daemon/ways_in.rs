//! The addresses at which peers may reach this machine, the router's included.

use weft_noise::mac;
use weft_wire::signal::{CANDIDATES, Candidate, CandidateKind};

use crate::config::Config;
use crate::daemon::{Daemon, now};
use crate::log::Event;
use crate::net::host::HostView;
use crate::netcheck::PortMapping as Told;
use crate::os::poll::PollSet;
use crate::portmap::PortMapping;

/// What the router is asked with.
pub(super) enum WayIn {
    /// Somebody switched it off: the setting that did.
    Off(&'static str),
    /// There was no socket to be had.
    Failed,
    On(Box<PortMapping>),
}

impl WayIn {
    /// `secret` makes the name of the mapping the same at every start, and nobody
    /// else's.
    pub(super) fn open(config: &Config, secret: &[u8; 32], port: u16) -> Self {
        match (config.port_mapping, config.metered) {
            (false, _) => return Self::Off("port_mapping"),
            (true, true) => return Self::Off("metered"),
            (true, false) => {}
        }
        let hash = mac::keyed_hash(secret, &[b"weft port mapping v1"]);
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&hash[..12]);
        PortMapping::open(nonce, port).map_or(Self::Failed, |on| Self::On(Box::new(on)))
    }

    fn on(&mut self) -> Option<&mut PortMapping> {
        match self {
            Self::On(mapping) => Some(mapping),
            _ => None,
        }
    }

    pub(super) fn register(&mut self, set: &mut PollSet) {
        if let Some(mapping) = self.on() {
            mapping.register(set);
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        match self {
            Self::On(mapping) => mapping.deadline(),
            _ => None,
        }
    }

    /// Takes back what the router gave.
    pub(super) fn release(&mut self) {
        if let Some(mapping) = self.on() {
            mapping.release();
        }
    }

    /// For whoever asks.
    pub(super) fn told(&self) -> Told {
        match self {
            Self::Off(setting) => Told::Off((*setting).to_owned()),
            Self::Failed => Told::Nothing,
            Self::On(on) => on.mapping().map_or(Told::Nothing, |mapping| Told::Mapped {
                protocol: mapping.protocol.word().to_owned(),
                name: mapping.protocol.name().to_owned(),
                router: mapping.router,
                external: mapping.external,
                lease_s: mapping.lease_s,
                public: mapping.is_public(),
            }),
        }
    }
}

impl Daemon {
    /// Lets the router's side go on.
    pub(super) fn drive_way_in(&mut self, set: &PollSet) {
        let Some(mapping) = self.way_in.on() else { return };
        mapping.handle(set);
        if !mapping.poll_change() {
            return;
        }
        match mapping.mapping() {
            Some(mapping) => {
                let mut fields = vec![("protocol", mapping.protocol.word().into())];
                if self.log.shows_addresses() {
                    fields.push(("external", mapping.external.to_string().into()));
                }
                fields.push(("public", mapping.is_public().to_string().into()));
                self.log.write(Event::PortMapped, &fields);
            }
            None => self.log.write(Event::PortUnmapped, &[]),
        }
        self.handle_network_change();
    }

    /// Tells the agent at which addresses peers may reach this machine.
    pub(super) fn tell_addresses(&mut self, view: &HostView) {
        let port = self.udp.port;
        let candidate = |kind| move |address| Candidate { kind, address };
        let configured = self.configured.iter().copied().map(candidate(CandidateKind::Configured));
        let mesh = self.mesh.name();
        let mapped = self.way_in.on().and_then(|mapping| {
            mapping.set_view(view, mesh);
            mapping.mapping().filter(|mapping| mapping.is_public())
        });
        let mapped = mapped.map(|mapping| mapping.external.into());
        let v6 = self.udp.v6.is_some();
        let own = view.candidates(mesh).into_iter();
        let own = own.filter(|address| v6 || address.is_ipv4());
        let own = own.map(|address| (address, port).into());
        let candidates: Vec<Candidate> = configured
            .chain(mapped.map(candidate(CandidateKind::Mapped)))
            .chain(own.map(candidate(CandidateKind::Host)))
            .take(CANDIDATES)
            .collect();
        self.agent.set_local_addresses(&candidates, now());
        self.log.write(Event::Candidates, &[("count", (candidates.len() as u64).into())]);
    }
}
