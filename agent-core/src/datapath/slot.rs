//! One peer in the data path: its clocks, what it may do, which session seals.

use super::sessions::{Place, Session};
use weft_noise::wg::{self, OpenError, REKEY_AFTER_MESSAGES, SealError};

use crate::config::implementation::{HEADROOM, MTU_DEFAULT, TAILROOM};
use crate::event::{Activity, Counters, DropReason, Edges, SessionTimes, Source};
use crate::filter::Masks;
use crate::time::Instant;

// The buffers' room is what sealing in place needs.
const _: () = assert!(HEADROOM == wg::HEADER_LEN && TAILROOM == wg::TAILROOM);

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSealed {
    NoSession,
    NoRoom,
}

/// One peer.
pub(super) struct Slot {
    /// The session to seal with.
    pub(super) current: Option<Place>,
    /// Largest packet that the peer takes.
    pub(super) mtu: u16,
    pub(super) masks: Masks,
    pub(super) endpoint: Option<Source>,
    /// As [`Activity`] has them.
    sent_at: Option<Instant>,
    received_at: Option<Instant>,
    data_sent_at: Option<Instant>,
    data_received_at: Option<Instant>,
    first_unanswered_at: Option<Instant>,
    first_unreplied_at: Option<Instant>,
    /// Where the newest authenticated packet came from, in the current session.
    heard_from: Option<Source>,
    /// `heard_from` changed.
    roamed: bool,
    /// A data packet while nothing was waited for.
    active: bool,
    rekey_due: Option<u32>,
    /// The session whose first packet came, which is the newest of its session, so that it
    /// came from [`Slot::heard_from`]. One place suffices: it is told after each packet.
    first: Option<u32>,
    /// Nothing is waited for: the next data packet is an edge.
    quiet: bool,
    pub(super) counters: Counters,
}

impl Slot {
    /// In a function of its own, as [`crate::empty::nothing`].
    #[inline(never)]
    pub(super) const fn all<const PEERS: usize>() -> [Self; PEERS] {
        [const { Self::new() }; PEERS]
    }

    pub(super) const fn new() -> Self {
        Self {
            current: None,
            mtu: MTU_DEFAULT,
            masks: Masks { inbound: 0, outbound: 0 },
            endpoint: None,
            sent_at: None,
            received_at: None,
            data_sent_at: None,
            data_received_at: None,
            first_unanswered_at: None,
            first_unreplied_at: None,
            heard_from: None,
            roamed: false,
            active: false,
            rekey_due: None,
            first: None,
            quiet: true,
            counters: Counters {
                sent_packets: 0,
                sent_bytes: 0,
                received_packets: 0,
                received_bytes: 0,
            },
        }
    }

    /// A new session lies at this place.
    pub(super) fn installed(&mut self, place: Place, send: bool) {
        if send {
            self.current = Some(place);
        }
        // The handshake may have moved the endpoint: the next newest packet
        // tells where it comes from, even if that is where it came from before.
        // Not while a first packet is to be reported, which came from there.
        if self.first.is_none() {
            self.heard_from = None;
        }
        if send {
            // The handshake was an answer: nothing before it is waited for. An initiation
            // of the peer's is none, for it may come where nothing that we send gets
            // through; the first packet of its session is one.
            self.first_unanswered_at = None;
        }
        self.first_unreplied_at = None;
        self.quiet = self.first_unanswered_at.is_none();
    }

    /// A session is erased.
    pub(super) fn dropped(&mut self, place: Place, index: u32) {
        self.current.take_if(|current| *current == place);
        self.first.take_if(|first| *first == index);
    }

    /// All sessions are erased.
    pub(super) const fn dropped_all(&mut self) {
        self.current = None;
        self.first = None;
    }

    /// Seals `len` bytes at the headroom of `buffer`; 0 makes a keepalive.
    pub(super) fn seal<const WORDS: usize>(
        &mut self,
        session: Option<&mut Session<WORDS>>,
        buffer: &mut [u8],
        len: usize,
        mtu: u16,
        now: Instant,
    ) -> Result<usize, NotSealed> {
        let session = session.ok_or(NotSealed::NoSession)?;
        if now >= session.sealing.expires_at {
            return Err(NotSealed::NoSession);
        }
        let sealed =
            session.sealer.seal(buffer, len, usize::from(mtu)).map_err(|error| match error {
                SealError::NoRoom => NotSealed::NoRoom,
                _ => NotSealed::NoSession,
            })?;
        let used_up = session.sealer.counter() >= REKEY_AFTER_MESSAGES;
        let used_up = used_up && !core::mem::replace(&mut session.used_up, used_up);
        let rekey = session.sealing.take_rekey(now) || used_up;
        self.sent(len, now);
        if rekey {
            self.rekey_due = Some(session.index);
        }
        Ok(sealed)
    }

    fn sent(&mut self, len: usize, now: Instant) {
        self.sent_at = Some(now);
        self.first_unreplied_at = None;
        if len > 0 {
            self.data_sent_at = Some(now);
            self.first_unanswered_at.get_or_insert(now);
            self.wake();
            self.counters.sent_packets += 1;
            self.counters.sent_bytes += len as u64;
        }
    }

    fn wake(&mut self) {
        if self.quiet {
            self.quiet = false;
            self.active = true;
        }
    }

    /// Opens a datagram in place; gives the length of the padded packet.
    pub(super) fn open<const WORDS: usize>(
        &mut self,
        session: &mut Session<WORDS>,
        source: Source,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        if now >= session.opening.expires_at {
            return Err(DropReason::Expired);
        }
        let opened = session.opener.open(datagram).map_err(|error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::Exhausted => DropReason::Expired,
            OpenError::Malformed => DropReason::Malformed,
            _ => DropReason::Unauthentic,
        })?;
        if opened.first {
            self.first = Some(session.index);
        }
        if session.opening.take_rekey(now) {
            self.rekey_due = Some(session.index);
        }
        if opened.newest && self.heard_from != Some(source) {
            self.heard_from = Some(source);
            self.roamed = true;
        }
        self.received_at = Some(now);
        self.first_unanswered_at = None;
        if opened.len > 0 {
            self.data_received_at = Some(now);
            self.first_unreplied_at.get_or_insert(now);
            self.wake();
        }
        Ok(opened.len)
    }

    /// Whether [`Slot::take_activity`] has an edge to tell.
    pub(super) fn has_edges(&self) -> bool {
        self.active || self.roamed || self.rekey_due.is_some() || self.first.is_some()
    }

    /// What the tunnel's timers read. With nothing unanswered on either side the
    /// tunnel waits for nothing, so the next data packet is an edge again.
    pub(super) fn take_activity(&mut self) -> Activity {
        let mut activity = self.activity();
        activity.edges = Edges {
            active: core::mem::take(&mut self.active),
            rekey_due: self.rekey_due.take(),
            first_packet: self.first.take().and_then(|index| Some((index, self.heard_from?))),
            roamed: self.heard_from.filter(|_| core::mem::take(&mut self.roamed)),
        };
        self.quiet = self.first_unanswered_at.is_none() && self.first_unreplied_at.is_none();
        activity
    }

    /// The times as they are, for people.
    pub(super) const fn activity(&self) -> Activity {
        Activity {
            sent_at: self.sent_at,
            received_at: self.received_at,
            data_sent_at: self.data_sent_at,
            data_received_at: self.data_received_at,
            first_unanswered_at: self.first_unanswered_at,
            first_unreplied_at: self.first_unreplied_at,
            heard_from: self.heard_from,
            edges: Edges::NONE,
        }
    }
}

impl SessionTimes {
    /// Whether the session is to be replaced; true once.
    fn take_rekey(&mut self, now: Instant) -> bool {
        let due = now >= self.rekey_at;
        if due {
            self.rekey_at = Instant::FAR_FUTURE;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use weft_noise::entropy::Entropy;
    use weft_noise::key::StaticSecret;
    use weft_noise::wg::{INITIATION_LEN, LocalKey, RESPONSE_LEN, SessionKeys, Tai64n};
    use weft_wire::id::Secret;

    use super::super::sessions::Sessions;
    use super::*;
    use crate::event::{PeerSlot, SocketId};

    struct Count(u8);

    impl Entropy for Count {
        fn fill(&mut self, out: &mut [u8]) {
            out.iter_mut().for_each(|byte| {
                self.0 = self.0.wrapping_mul(5).wrapping_add(1);
                *byte = self.0;
            });
        }
    }

    /// The two ends of a session; the responder's index is this.
    fn session(index: u32) -> (SessionKeys, SessionKeys) {
        let (mut rng, psk) = (Count(index as u8), Secret([7; 32]));
        let [a, b] = [1, 2].map(|key| LocalKey::new(StaticSecret::from_bytes([key; 32])));
        let (a_sees_b, b_sees_a) = (a.remote(b.public()).unwrap(), b.remote(a.public()).unwrap());
        let mut initiation = [0; INITIATION_LEN];
        let stamp = Tai64n::from_steps(1);
        let mut sent = a.initiate(&a_sees_b, 100 + index, stamp, &mut rng, &mut initiation);
        let received = b.receive_initiation(&b.check_mac1(&initiation).unwrap()).unwrap();
        let mut response = [0; RESPONSE_LEN];
        let authentic = received.authenticate(&b_sees_a).unwrap();
        let theirs = authentic.respond(index, &psk, &mut rng, &mut response);
        let checked = a.check_mac1(&response).unwrap();
        (sent.receive_response(&a, &checked, &[&psk]).unwrap().keys, theirs)
    }

    #[test]
    fn a_first_packet_is_reported_whatever_is_installed_meanwhile() {
        const ALWAYS: SessionTimes =
            SessionTimes { rekey_at: Instant::FAR_FUTURE, expires_at: Instant::FAR_FUTURE };
        let (mut slot, mut sessions) = (Slot::new(), Sessions::<1, 1, 4>::new());
        let (first, next) = (session(1), session(2));
        let place = sessions.put(PeerSlot(0), first.1, ALWAYS, ALWAYS).unwrap();
        slot.installed(place, false);
        let (mut sealer, _) = first.0.split::<4>();
        let mut keepalive = [0; 32];
        let len = sealer.seal(&mut keepalive, 0, 0).unwrap();
        let address = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let source = Source { socket: SocketId(0), address };
        let opens = sessions.get_mut(place).unwrap();
        slot.open(opens, source, &mut keepalive[..len], Instant::from_secs(1)).unwrap();
        let place = sessions.put(PeerSlot(0), next.1, ALWAYS, ALWAYS).unwrap();
        slot.installed(place, false);
        assert!(slot.has_edges());
        assert_eq!(slot.take_activity().edges.first_packet, Some((1, source)));
        assert!(!slot.has_edges());
    }
}
