//! One peer in the data path: its sessions, its clocks, what it may do.

use weft_noise::wg::{
    self, OpenError, Opener, REKEY_AFTER_MESSAGES, SealError, Sealer, SessionKeys,
};

use crate::config::implementation::{HEADROOM, MTU_DEFAULT, TAILROOM};
use crate::event::{Activity, Counters, DropReason, Edges, SessionTimes, Source};
use crate::filter::Masks;
use crate::time::Instant;

// The buffers' room is what sealing in place needs.
const _: () = assert!(HEADROOM == wg::HEADER_LEN && TAILROOM == wg::TAILROOM);

/// Sessions of one peer: previous, current, next.
pub(super) const SESSIONS: usize = 3;

/// A session: both directions, and until when each is used.
pub(super) struct Session<const WORDS: usize> {
    pub(super) index: u32,
    sealer: Sealer,
    opener: Opener<WORDS>,
    sealing: SessionTimes,
    opening: SessionTimes,
    /// The counter has reached where either side replaces the session.
    used_up: bool,
    /// The first packet came, which is the newest of its session, so that it came from
    /// [`Slot::heard_from`]; it is to be reported.
    first: bool,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSealed {
    NoSession,
    NoRoom,
}

/// One peer.
pub(super) struct Slot<const WORDS: usize> {
    pub(super) sessions: [Option<Session<WORDS>>; SESSIONS],
    /// The session to seal with.
    pub(super) current: Option<u32>,
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
    /// Nothing is waited for: the next data packet is an edge.
    quiet: bool,
    pub(super) counters: Counters,
}

impl<const WORDS: usize> Slot<WORDS> {
    pub(super) const fn new() -> Self {
        Self {
            sessions: [const { None }; SESSIONS],
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
            quiet: true,
            counters: Counters {
                sent_packets: 0,
                sent_bytes: 0,
                received_packets: 0,
                received_bytes: 0,
            },
        }
    }

    /// Takes a new session. `false` when there is no place, which the tunnel's
    /// order of drops and installs rules out.
    pub(super) fn install(
        &mut self,
        keys: SessionKeys,
        sealing: SessionTimes,
        opening: SessionTimes,
        send: bool,
    ) -> bool {
        let index = keys.local_index();
        let Some(place) = self.sessions.iter_mut().find(|place| place.is_none()) else {
            return false;
        };
        let (sealer, opener) = keys.split();
        *place =
            Some(Session { index, sealer, opener, sealing, opening, used_up: false, first: false });
        if send {
            self.current = Some(index);
        }
        // The handshake may have moved the endpoint: the next newest packet
        // tells where it comes from, even if that is where it came from before.
        // Not while a first packet is to be reported, which came from there.
        if !self.has_first() {
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
        true
    }

    /// Erases a session; `false` when it is not there.
    pub(super) fn drop_session(&mut self, index: u32) -> bool {
        if self.current == Some(index) {
            self.current = None;
        }
        let place = self
            .sessions
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(|session| session.index == index));
        place.is_some_and(|place| place.take().is_some())
    }

    fn session(&mut self, index: u32) -> Option<&mut Session<WORDS>> {
        self.sessions.iter_mut().flatten().find(|session| session.index == index)
    }

    /// Whether something can be sealed now.
    pub(super) fn can_seal(&self, now: Instant) -> bool {
        self.sessions
            .iter()
            .flatten()
            .any(|session| self.current == Some(session.index) && now < session.sealing.expires_at)
    }

    /// Seals `len` bytes at the headroom of `buffer`; 0 makes a keepalive.
    pub(super) fn seal(
        &mut self,
        buffer: &mut [u8],
        len: usize,
        mtu: u16,
        now: Instant,
    ) -> Result<usize, NotSealed> {
        let index = self.current.ok_or(NotSealed::NoSession)?;
        let session = self.session(index).ok_or(NotSealed::NoSession)?;
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
            self.rekey_due = Some(index);
        }
        Ok(sealed)
    }

    /// Leaves counters of the current session out.
    pub(super) fn skip(&mut self, counters: u64) {
        if let Some(session) = self.current.and_then(|index| self.session(index)) {
            session.sealer.skip(counters);
        }
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
    pub(super) fn open(
        &mut self,
        index: u32,
        source: Source,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        let session = self.session(index).ok_or(DropReason::UnknownIndex)?;
        if now >= session.opening.expires_at {
            return Err(DropReason::Expired);
        }
        let opened = session.opener.open(datagram).map_err(|error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::Exhausted => DropReason::Expired,
            OpenError::Malformed => DropReason::Malformed,
            _ => DropReason::Unauthentic,
        })?;
        session.first |= opened.first;
        if session.opening.take_rekey(now) {
            self.rekey_due = Some(index);
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
        self.active || self.roamed || self.rekey_due.is_some() || self.has_first()
    }

    /// Whether a session's first packet is to be reported.
    fn has_first(&self) -> bool {
        self.sessions.iter().flatten().any(|session| session.first)
    }

    /// What the tunnel's timers read. With nothing unanswered on either side the
    /// tunnel waits for nothing, so the next data packet is an edge again.
    pub(super) fn take_activity(&mut self) -> Activity {
        let mut activity = self.activity();
        let first = self.sessions.iter_mut().flatten().find(|session| session.first);
        activity.edges = Edges {
            active: core::mem::take(&mut self.active),
            rekey_due: self.rekey_due.take(),
            first_packet: first.and_then(|session| {
                session.first = false;
                Some((session.index, self.heard_from?))
            }),
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
    use weft_noise::wg::{INITIATION_LEN, LocalKey, RESPONSE_LEN, Tai64n};
    use weft_wire::id::Secret;

    use super::*;
    use crate::event::SocketId;

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
        let mut slot = Slot::<4>::new();
        let (first, next) = (session(1), session(2));
        assert!(slot.install(first.1, ALWAYS, ALWAYS, false));
        let (mut sealer, _) = first.0.split::<4>();
        let mut keepalive = [0; 32];
        let len = sealer.seal(&mut keepalive, 0, 0).unwrap();
        let address = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let source = Source { socket: SocketId(0), address };
        slot.open(1, source, &mut keepalive[..len], Instant::from_secs(1)).unwrap();
        assert!(slot.install(next.1, ALWAYS, ALWAYS, false));
        assert!(slot.has_edges());
        assert_eq!(slot.take_activity().edges.first_packet, Some((1, source)));
        assert!(!slot.has_edges());
    }
}
