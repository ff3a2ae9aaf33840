//! Places for sessions: the data path has one for each peer and `HANDSHAKES` more, of which
//! whoever makes a new session has the next. Full, it takes that of a session that is missed
//! least: the oldest that is only for packets which others overtook. It has been so for as
//! long as it took for all other places to be taken, which a chip that answers 25
//! handshakes a second fills in 160 ms, and a gateway in a quarter of a second.
//!
//! What a peer may still seal with is given up only when there is nothing else, and by an
//! answer only after a second: until then initiations stay in their queue.

use super::indices::Indices;
use super::pending::{LEAST, Pendings};
use super::session::Spare;
use super::table::PeerTable;
use crate::event::PeerSlot;
use crate::time::Instant;

fn is_full<const PEERS: usize, const HANDSHAKES: usize>(
    indices: &Indices<PEERS, HANDSHAKES>,
    pendings: &Pendings<HANDSHAKES>,
) -> bool {
    // Each index is a session's or an initiation's.
    indices.len() >= PEERS + HANDSHAKES + pendings.len()
}

fn spare<const PEERS: usize>(peers: &PeerTable<PEERS>) -> Option<(Spare, PeerSlot)> {
    let spares = peers.slots().filter_map(|slot| Some((peers.get(slot)?.sessions.spare()?, slot)));
    spares.min()
}

/// Until when an answer is to wait for a place; `None` = there is one.
pub(super) fn free_at<const PEERS: usize, const HANDSHAKES: usize>(
    peers: &PeerTable<PEERS>,
    indices: &Indices<PEERS, HANDSHAKES>,
    pendings: &Pendings<HANDSHAKES>,
    now: Instant,
) -> Option<Instant> {
    if !is_full(indices, pendings) {
        return None;
    }
    let (spare, _) = spare(peers)?;
    let at = spare.since + LEAST;
    (spare.in_use && at > now).then_some(at)
}

/// Makes a place for one session more, if there is none. One is found: of more sessions than
/// there are peers some are not current.
pub(super) fn make<const PEERS: usize, const HANDSHAKES: usize>(
    peers: &mut PeerTable<PEERS>,
    indices: &mut Indices<PEERS, HANDSHAKES>,
    pendings: &Pendings<HANDSHAKES>,
) {
    if is_full(indices, pendings)
        && let Some((spare, slot)) = spare(peers)
        && let Some(peer) = peers.get_mut(slot)
    {
        let gone = peer.sessions.give_up(spare.index);
        peer.drop_sessions(&gone, indices);
        peers.settle(slot);
    }
}
