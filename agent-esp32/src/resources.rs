//! Memory of an agent: all that it ever uses, handed in once.

use core::cell::RefCell;
use core::mem::MaybeUninit;

use embassy_net::StackResources;
use embassy_net::udp::PacketMetadata;

use crate::cable::{BUFFER_LEN, Cable};
use crate::exchange::Exchange;
use crate::line::LineBuffers;
use crate::parts::{ChipAgent, News};

/// Datagrams that wait to be read, and to be sent.
const RECEIVED: usize = 3;
const SENT: usize = 2;

/// The tunnel's socket in the local network.
pub(crate) struct SocketBuffers {
    pub(crate) received: ([PacketMetadata; RECEIVED], [u8; RECEIVED * BUFFER_LEN]),
    pub(crate) sent: ([PacketMetadata; SENT], [u8; SENT * BUFFER_LEN]),
}

/// Everything that an agent needs beside the stack of its task: put it into a `static`
/// (`StaticCell`, for one).
///
/// - `E`: where the board's random bytes come from.
/// - `PEERS`: peers at once. Of a network of thousands the last ones stay that were talked
///   to; another one takes the place of the one that was silent for longest.
/// - `ROUTES`: routes of each address family: one for each peer, and one for each range
///   behind a peer.
/// - `SOCKETS`: sockets on the mesh, one of them the resolver's.
pub struct Resources<E, const PEERS: usize = 8, const ROUTES: usize = 16, const SOCKETS: usize = 4>
{
    /// Written when the agent is made, and never read from here. No `Option`: this says
    /// nothing of bytes that nobody has written, so that nothing has to be kept in flash
    /// memory for them.
    pub(crate) agent: MaybeUninit<RefCell<ChipAgent<E, PEERS, ROUTES>>>,
    pub(crate) cable: Cable,
    pub(crate) exchange: Exchange,
    pub(crate) news: News,
    pub(crate) socket: SocketBuffers,
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
            cable: Cable::new(),
            exchange: Exchange::new(),
            news: News::new(),
            socket: SocketBuffers {
                received: ([PacketMetadata::EMPTY; RECEIVED], [0; RECEIVED * BUFFER_LEN]),
                sent: ([PacketMetadata::EMPTY; SENT], [0; SENT * BUFFER_LEN]),
            },
            line: LineBuffers::new(),
            mesh: StackResources::new(),
        }
    }
}

impl<E, const PEERS: usize, const ROUTES: usize, const SOCKETS: usize> Default
    for Resources<E, PEERS, ROUTES, SOCKETS>
{
    fn default() -> Self {
        Self::new()
    }
}
