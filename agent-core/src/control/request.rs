//! Requests that wait for an answer. Each carries an id and means the same when
//! it is repeated.

use weft_wire::item::RequestId;

use super::repeat::Repeat;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// What a device asks. At most one of each kind is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Register,
    Leave,
    Ping,
    Heartbeat,
    Key,
    Relays,
    Paths,
}

/// When a coordinator that could not is asked again.
const LATER: Duration = Duration::from_secs(8);

const KINDS: [Ask; 7] =
    [Ask::Register, Ask::Leave, Ask::Ping, Ask::Heartbeat, Ask::Key, Ask::Relays, Ask::Paths];

#[derive(Clone, Copy, Debug)]
struct Open {
    id: RequestId,
    repeat: Repeat,
}

/// The open requests.
#[derive(Debug, Default)]
pub(super) struct Requests([Option<Open>; KINDS.len()]);

impl Requests {
    /// Opens a request; one of this kind that is open already stays.
    pub(super) fn open(&mut self, ask: Ask, entropy: &mut dyn Entropy) {
        self.0[ask as usize]
            .get_or_insert_with(|| Open { id: entropy.number(), repeat: Repeat::now() });
    }

    pub(super) const fn is_open(&self, ask: Ask) -> bool {
        self.0[ask as usize].is_some()
    }

    /// The id to be sent now, if the request is open and due.
    pub(super) fn due(&self, ask: Ask, now: Instant) -> Option<RequestId> {
        self.0[ask as usize].as_ref().filter(|open| open.repeat.is_due(now)).map(|open| open.id)
    }

    pub(super) fn sent(&mut self, ask: Ask, now: Instant, entropy: &mut dyn Entropy) {
        if let Some(open) = &mut self.0[ask as usize] {
            open.repeat.sent(now, entropy);
        }
    }

    /// Which open request has this id.
    pub(super) fn kind(&self, id: RequestId) -> Option<Ask> {
        KINDS.into_iter().find(|&ask| self.0[ask as usize].is_some_and(|open| open.id == id))
    }

    /// An answer came: closes the request it belongs to.
    pub(super) fn close(&mut self, id: RequestId) -> Option<Ask> {
        let ask = self.kind(id)?;
        self.0[ask as usize] = None;
        Some(ask)
    }

    /// The answer was "not now": asks again later. The session is not in doubt.
    pub(super) fn postpone(&mut self, ask: Ask, now: Instant) {
        if let Some(open) = &mut self.0[ask as usize] {
            open.repeat = Repeat::waiting(now);
            open.repeat.defer(now + LATER);
        }
    }

    /// Gives a request up.
    pub(super) const fn abandon(&mut self, ask: Ask) {
        self.0[ask as usize] = None;
    }

    /// A new session: what is open is sent in it at once.
    pub(super) fn restart(&mut self) {
        for open in self.0.iter_mut().flatten() {
            open.repeat = Repeat::now();
        }
    }

    /// Whether one waited through all its time-outs.
    pub(super) fn is_exhausted(&self, now: Instant) -> bool {
        self.0.iter().flatten().any(|open| open.repeat.is_exhausted(now))
    }

    /// When the next is to be sent.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.0.iter().flatten().map(|open| open.repeat.due_at()).min()
    }
}
