//! Making an agent, and running it.

use core::cell::RefCell;
use core::pin::pin;

use embassy_futures::join::join3;
use embassy_net::Stack;
use embassy_net::udp::UdpSocket;
use heapless::{String, Vec};
use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::agent::{AgentConfig, Beginning, ChipAgentOf};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::config::implementation::{MTU_MAX, STAGED_CHIP};
use weft_agent_core::control::Identity;
use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::Sockets;
use weft_wire::id::{Name, is_name};
use weft_wire::item::{Abilities, Backend, family};
use weft_wire::join::{Carrier, JoinString};
use weft_wire::map::PEER_ROUTES;
use zeroize::Zeroizing;

use crate::apart::Apart;
use crate::cable::Plug;
use crate::clock;
use crate::exchange::Exchange;
use crate::keeper::Keeper;
use crate::line::{self, LineBuffers};
use crate::log::Code;
use crate::mesh::Mesh;
use crate::parts::{News, Parts, SharedAgent};
use crate::resources::{EMPTY, Resources};
use crate::settings::{Place, Settings, StartError};
use crate::shelf::Shelf;
use crate::storage::{self, Index, PIECE_LEN, Stamp, Storage};
use crate::underlay::{SOCKET_V4, SOCKET_V6, Underlay};

/// Filter rules that are asked for, of what a map may have.
const CHIP_RULES: u8 = 32;

/// Drives an agent: everything that it does happens while [`Runner::run`] is polled.
pub struct Runner<'d, E, S, const PEERS: usize = 8, const ROUTES: usize = 16> {
    underlay: Underlay<'d, E, S, PEERS, ROUTES>,
    mesh: embassy_net::Runner<'d, Plug<'d>>,
    place: Place,
    buffers: &'d mut LineBuffers,
}

impl<E: Entropy, S: Storage, const P: usize, const R: usize> Runner<'_, E, S, P, R> {
    /// For ever.
    pub async fn run(&mut self) -> ! {
        let Self { underlay, mesh, place, buffers } = self;
        let (parts, lan) = (underlay.parts, underlay.lan);
        let underlay = pin!(underlay.run());
        let mesh = pin!(mesh.run());
        let line = pin!(line::run(parts, lan, place, buffers));
        join3(Apart(underlay), Apart(mesh), Apart(line)).await.0
    }
}

/// Reads what storage has and makes an agent of it: a new device that is going to join, or
/// the member that it was before the reboot. Nothing is sent before [`Runner::run`].
///
/// # Errors
///
/// [`StartError`], each with a sentence that says what to do.
pub async fn new<E, S, const P: usize, const R: usize, const SOCKETS: usize>(
    settings: &Settings<'_>,
    mut storage: S,
    mut entropy: E,
    lan: Stack<'static>,
    resources: &'static mut Resources<E, P, R, SOCKETS>,
) -> Result<(Mesh<'static>, Runner<'static, E, S, P, R>), StartError<S::Error>>
where
    E: Entropy + 'static,
    S: Storage,
{
    let mut join = JoinString::parse(settings.join).map_err(StartError::Join)?;
    let place = Place::of(&mut join).ok_or(StartError::NoMqttAddress)?;
    let kept = storage::identity(&mut storage, &join.coordinator).await?;
    let mut stamp = Stamp::read(&mut storage).await.map_err(StartError::Storage)?;
    let index = if kept.is_some() {
        Index::read(&mut storage).await
    } else {
        // Nobody has seen a stamp of a new device's keys.
        stamp.floor.get_or_insert(0);
        Index::forget(&mut storage).await
    };
    let index = index.map_err(StartError::Storage)?;
    let identity = kept.unwrap_or_else(|| Identity::generate(&join, &mut entropy));
    stamp.starts = stamp.starts.saturating_add(1);
    let mut seed = [0; 8];
    entropy.fill(&mut seed);
    let Resources { agent, shared, exchange, news, places, cable, received, sent, line, mesh } =
        resources;
    let (exchange, news) = (&*exchange.write(Exchange::new()), &*news.write(News::new()));
    news.log().put(Code::Start, stamp.starts, None);
    let places = places.write(EMPTY);
    let mut socket = UdpSocket::new(lan, &mut places.0, received, &mut places.1, sent);
    // With port 0 the stack chooses one; a socket that was just made is not bound.
    let _ = socket.bind(settings.port);
    let (coordinator, starts) = (join.coordinator, stamp.starts);
    drop(join);
    let config = config(settings, &identity, stamp, R.saturating_sub(P))?;
    let beginning = Beginning::new(config, identity).map_err(|_| StartError::WeakKey)?;
    let agent = ChipAgentOf::place(agent, beginning, entropy, NoTrace, clock::now());
    let agent = &*shared.write(RefCell::new(agent));
    restore(agent, &mut storage, index).await.map_err(StartError::Storage)?;
    let parts = Parts { agent, cable, exchange, news };
    let seed = u64::from_le_bytes(seed);
    let (stack, mesh) = embassy_net::new(Plug(cable), embassy_net::Config::default(), mesh, seed);
    let shelf = Shelf::new(storage, coordinator, (starts, index));
    let keeper = Keeper::new(parts, stack, shelf);
    let underlay = Underlay::new(parts, lan, socket, keeper);
    let runner = Runner { underlay, mesh, place, buffers: line };
    Ok((Mesh { stack, agent, news }, runner))
}

fn config<S>(
    settings: &Settings<'_>,
    identity: &Identity,
    stamp: Stamp,
    routes: usize,
) -> Result<AgentConfig, StartError<S>> {
    let name = Name::try_from(settings.name).ok().filter(|name| is_name(name));
    let name = name.ok_or(StartError::Name)?;
    let text = |text: &str| text.chars().take(16).collect::<String<16>>();
    Ok(AgentConfig {
        boot_count: stamp.starts,
        on_demand: true,
        page_window: 1,
        staged_per_peer: STAGED_CHIP,
        fingerprint: identity.fingerprint(settings.serial),
        name,
        abilities: Abilities {
            families: family::IPV4 | family::IPV6,
            carriers: 1 << (Carrier::Mqtt as u8 - 1),
            mtu: MTU_MAX,
            backend: Backend::Chip,
            // The agent fills in how many it has.
            peer_slots: 0,
            peer_routes: routes.min(PEER_ROUTES) as u8,
            rules: CHIP_RULES,
            agent: text(env!("CARGO_PKG_VERSION")),
            platform: settings.platform.chars().take(32).collect(),
            endpoints: Vec::new(),
        },
        sockets: Sockets { v4: Some(SOCKET_V4), v6: Some(SOCKET_V6) },
        extra_sockets: 0,
        tunnel: TunnelConfig::new(),
        stamp_floor: stamp.floor,
    })
}

/// Gives the agent back what it knew. A cache that cannot be read is none: everything in
/// it comes again from the coordinator.
async fn restore<E: Entropy, S: Storage, const P: usize, const R: usize>(
    agent: &SharedAgent<'_, E, P, R>,
    storage: &mut S,
    index: Index,
) -> Result<(), S::Error> {
    let mut piece = Zeroizing::new([0; PIECE_LEN]);
    for record in index.records() {
        let Some(len) = storage.read(record, &mut *piece).await? else {
            return Ok(());
        };
        let bytes = piece.get(..len).unwrap_or_default();
        if agent.borrow_mut().restore(bytes, clock::now()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
