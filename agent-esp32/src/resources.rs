//! Memory of an agent: all that it ever uses, handed in once.

use core::mem::MaybeUninit;

use embassy_net::StackResources;
use embassy_net::udp::PacketMetadata;
use weft_agent_core::agent::ChipAgentOf;
use weft_agent_core::agent::trace::NoTrace;

use crate::cable::{BUFFER_LEN, Cable};
use crate::exchange::Exchange;
use crate::line::LineBuffers;
use crate::parts::{News, SharedAgent};

/// Datagrams that wait to be read, and to be sent.
const RECEIVED: usize = 3;
const SENT: usize = 2;

/// Packets' places in the buffers of the tunnel's socket.
pub(crate) type Places = ([PacketMetadata; RECEIVED], [PacketMetadata; SENT]);

/// Everything that an agent needs beside the stack of its task: put it into a `static`
/// (`static_cell::ConstStaticCell`, for one).
///
/// As it begins it is zeros and bytes that nobody has written, so it costs nothing of the
/// flash memory, and nothing is made on the stack first.
///
///
/// - `E`: where the board's random bytes come from.
/// - `PEERS`: peers at once. Of a network of thousands the last ones stay that were talked
///   to; another one takes the place of the one that was silent for longest.
/// - `ROUTES`: routes of each address family: one for each peer, and one for each range
///   behind a peer.
/// - `SOCKETS`: sockets on the mesh, one of them the resolver's.
pub struct Resources<
    E: 'static,
    const PEERS: usize = 8,
    const ROUTES: usize = 16,
    const SOCKETS: usize = 4,
> {
    /// Written when the agent is made, and never read from here; so are the next ones.
    pub(crate) agent: MaybeUninit<ChipAgentOf<E, NoTrace, PEERS, ROUTES>>,
    /// What its users share. Not around the agent, which would then be moved once more.
    pub(crate) shared: MaybeUninit<SharedAgent<'static, E, PEERS, ROUTES>>,
    pub(crate) exchange: MaybeUninit<Exchange>,
    pub(crate) news: MaybeUninit<News>,
    pub(crate) places: MaybeUninit<Places>,
    pub(crate) cable: Cable,
    pub(crate) received: [u8; RECEIVED * BUFFER_LEN],
    pub(crate) sent: [u8; SENT * BUFFER_LEN],
    pub(crate) line: LineBuffers,
    pub(crate) mesh: StackResources<SOCKETS>,
}

impl<E, const PEERS: usize, const ROUTES: usize, const SOCKETS: usize>
    Resources<E, PEERS, ROUTES, SOCKETS>
{
    /// Memory that nobody uses yet.
    pub const fn new() -> Self {
        Self {
            agent: MaybeUninit::uninit(),
            shared: MaybeUninit::uninit(),
            exchange: MaybeUninit::uninit(),
            news: MaybeUninit::uninit(),
            places: MaybeUninit::uninit(),
            cable: Cable::new(),
            received: [0; RECEIVED * BUFFER_LEN],
            sent: [0; SENT * BUFFER_LEN],
            line: LineBuffers::new(),
            mesh: StackResources::new(),
        }
    }
}

/// Where no datagram lies yet.
pub(crate) const EMPTY: Places = ([PacketMetadata::EMPTY; RECEIVED], [PacketMetadata::EMPTY; SENT]);

impl<E, const PEERS: usize, const ROUTES: usize, const SOCKETS: usize> Default
    for Resources<E, PEERS, ROUTES, SOCKETS>
{
    fn default() -> Self {
        Self::new()
    }
}
