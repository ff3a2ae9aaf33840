//! What the agent wants stored and shown.

use embassy_net::{ConfigV4, ConfigV6};
use embassy_net::{Ipv4Cidr, Ipv6Cidr, Stack, StaticConfigV4, StaticConfigV6};
use embassy_time::{Duration, Instant};
use heapless::Vec;
use weft_agent_core::agent::{AgentEvent, InterfaceConfig, Persist};
use weft_agent_core::entropy::Entropy;
use weft_agent_core::peers::PeerState;
use weft_wire::id::PublicKey;
use zeroize::Zeroizing;

use crate::clock;
use crate::parts::Parts;
use crate::status::Event;
use crate::storage::{CacheWriter, Index, KeptIdentity, PIECE_LEN, Stamp, Storage};

/// What could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Keeper<'d, E, S, const P: usize, const R: usize> {
    parts: Parts<'d, E, P, R>,
    mesh: Stack<'d>,
    storage: S,
    /// The coordinator that the join string named.
    coordinator: PublicKey,
    starts: u32,
    index: Index,
    /// Writes that failed.
    unwritten: Vec<Persist, 3>,
    retry_at: Option<Instant>,
}

impl<'d, E: Entropy, S: Storage, const P: usize, const R: usize> Keeper<'d, E, S, P, R> {
    pub(crate) fn new(
        parts: Parts<'d, E, P, R>,
        mesh: Stack<'d>,
        storage: S,
        coordinator: PublicKey,
        (starts, index): (u32, Index),
    ) -> Self {
        let (unwritten, retry_at) = (Vec::new(), None);
        Self { parts, mesh, storage, coordinator, starts, index, unwritten, retry_at }
    }

    /// When [`Self::retry`] has something to do.
    pub(crate) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries again what could not be written.
    pub(crate) async fn retry(&mut self) {
        if self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.retry_at = None;
        for what in core::mem::take(&mut self.unwritten) {
            self.persist(what).await;
        }
    }

    pub(crate) async fn handle(&mut self, event: AgentEvent) {
        let told = match event {
            AgentEvent::Persist(what) => return self.persist(what).await,
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
                if self.storage.erase().await.is_err() {
                    self.parts.news.tell(Event::Storage);
                }
                Event::Left
            }
            // `status` shows them.
            AgentEvent::Enrolled(_) | AgentEvent::Duplicate(_) | AgentEvent::Routes => return,
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

    async fn persist(&mut self, what: Persist) {
        let written = match what {
            Persist::Identity => self.write_identity().await,
            Persist::Stamp(floor) => {
                let stamp = Stamp { floor: Some(floor), starts: self.starts };
                stamp.write(&mut self.storage).await.is_ok()
            }
            Persist::Cache(..) => self.write_cache().await.is_some(),
        };
        if written {
            self.parts.agent.borrow_mut().handle_persisted(what, clock::now());
            return;
        }
        self.parts.news.tell(Event::Storage);
        let kind = core::mem::discriminant::<Persist>;
        self.unwritten.retain(|other| kind(other) != kind(&what));
        // There is a place for each kind.
        let _ = self.unwritten.push(what);
        self.retry_at = Some(Instant::now() + RETRY);
    }

    async fn write_identity(&mut self) -> bool {
        let kept = {
            let agent = self.parts.agent.borrow();
            KeptIdentity::new(&self.coordinator, agent.identity())
        };
        match kept {
            Some(kept) => kept.write(&mut self.storage).await.is_ok(),
            None => false,
        }
    }

    /// Writes what has changed of the cache; `None`, and the old one holds, when that
    /// fails or a piece is too long.
    async fn write_cache(&mut self) -> Option<()> {
        let mut writer = CacheWriter::new(&mut self.storage, self.index);
        let mut piece = Zeroizing::new([0; PIECE_LEN]);
        let mut scratch = Zeroizing::new([0; PIECE_LEN]);
        for number in 0.. {
            let (mut at, mut len) = (0, None);
            let written = self.parts.agent.borrow().write_cache(&mut *scratch, |bytes| {
                // As long as `scratch` at most.
                if at == number
                    && let Some(place) = piece.get_mut(..bytes.len())
                {
                    place.copy_from_slice(bytes);
                    len = Some(bytes.len());
                }
                at += 1;
            });
            written.ok()?;
            let Some(len) = len else { break };
            writer.put(piece.get(..len)?, &mut *scratch).await.ok()?;
        }
        self.index = writer.finish().await.ok()?;
        Some(())
    }
}
