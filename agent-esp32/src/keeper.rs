//! What the agent wants stored and shown.

use embassy_net::{ConfigV4, ConfigV6};
use embassy_net::{Ipv4Cidr, Ipv6Cidr, Stack, StaticConfigV4, StaticConfigV6};
use embassy_time::Instant;
use heapless::Vec;
use weft_agent_core::agent::{AgentEvent, InterfaceConfig};
use weft_agent_core::entropy::Entropy;
use weft_agent_core::peers::PeerState;

use crate::clock;
use crate::log::Code;
use crate::parts::Parts;
use crate::shelf::{Shelf, Unwritten};
use crate::status::Event;
use crate::storage::Storage;

/// See the module.
pub(crate) struct Keeper<'d, E, S, const P: usize, const R: usize> {
    parts: Parts<'d, E, P, R>,
    mesh: Stack<'d>,
    shelf: Shelf<S>,
}

impl<'d, E: Entropy, S: Storage, const P: usize, const R: usize> Keeper<'d, E, S, P, R> {
    pub(crate) const fn new(parts: Parts<'d, E, P, R>, mesh: Stack<'d>, shelf: Shelf<S>) -> Self {
        Self { parts, mesh, shelf }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.shelf.due_at().map(clock::embassy)
    }

    /// Writes what has waited, or could not be written.
    pub(crate) async fn handle_timeout(&mut self) {
        let written = self.shelf.handle_timeout(self.parts.agent, clock::now()).await;
        self.note(written);
    }

    fn note(&self, written: Result<(), Unwritten>) {
        self.parts.news.log().written().set(self.shelf.written());
        if written.is_err() {
            self.parts.news.tell(Event::Storage);
        }
    }

    pub(crate) async fn handle(&mut self, event: AgentEvent) {
        let told = match event {
            AgentEvent::Persist(what) => {
                let written = self.shelf.persist(self.parts.agent, what, clock::now()).await;
                return self.note(written);
            }
            AgentEvent::Interface(config) => self.set_interface(&config),
            AgentEvent::Refused(refused) => Event::from(&refused),
            AgentEvent::Standing(state) => Event::Standing(state.standing),
            AgentEvent::Online(is_online) => {
                if is_online {
                    self.parts.news.trouble().set(None);
                }
                Event::Online(is_online)
            }
            AgentEvent::MapDropped(_) => Event::MapDropped,
            AgentEvent::Peer(change) => {
                let is_active = change.to == PeerState::Active;
                let code = match change.to {
                    PeerState::Active => Code::PeerUp,
                    PeerState::Calling => Code::PeerCalling,
                    PeerState::Known | PeerState::Idle => Code::PeerDown,
                };
                let log = self.parts.news.log();
                log.put(code, change.device.0, Some(change.slot));
                if is_active == (change.from == PeerState::Active) {
                    return;
                }
                Event::Peer(change.device, is_active)
            }
            AgentEvent::KeyRotated => Event::KeyRotated,
            AgentEvent::Budget(is_used_up) => Event::Budget(is_used_up),
            AgentEvent::Netcheck => {
                // That wants more sockets than a chip has room for.
                let now = clock::now();
                return self.parts.agent.borrow_mut().handle_network_report(None, now);
            }
            AgentEvent::Restart => Event::Restart,
            AgentEvent::Left => {
                if self.shelf.erase().await.is_err() {
                    self.parts.news.tell(Event::Storage);
                }
                Event::Left
            }
            // `status` shows what comes of these.
            AgentEvent::Enrolled(enrolled) => {
                return self.parts.news.log().put(Code::Enrolled, enrolled.device.0, None);
            }
            AgentEvent::Duplicate(_) => {
                return self.parts.news.log().put(Code::Duplicate, 0, None);
            }
            AgentEvent::Routes => return,
        };
        self.parts.news.tell(told);
    }

    /// Everything that is not ours goes to the agent, which knows what lies behind peers.
    fn set_interface(&self, config: &InterfaceConfig) -> Event {
        let InterfaceConfig { overlay, host, mtu, .. } = config;
        let (v4, v6) = (overlay.address_v4(*host), overlay.address_v6(*host));
        self.parts.cable.set_up(*mtu);
        self.mesh.set_config_v4(ConfigV4::Static(StaticConfigV4 {
            address: Ipv4Cidr::new(v4, overlay.ipv4_len),
            gateway: Some(v4),
            dns_servers: Vec::new(),
        }));
        self.mesh.set_config_v6(ConfigV6::Static(StaticConfigV6 {
            address: Ipv6Cidr::new(v6, overlay.prefix_v6().1),
            gateway: Some(v6),
            dns_servers: Vec::new(),
        }));
        Event::Joined(v4, v6)
    }
}
