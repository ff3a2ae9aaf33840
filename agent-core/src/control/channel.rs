//! The sealed channel as it lives: which handshake waits, which session sends,
//! which one still receives, and when the next handshake is due.
//!
//! RETRY and RESET are forgeable hints. Together with unanswered requests they
//! cause at most one handshake per 30 s, and nothing is torn down for them: the
//! session stays until the next one is confirmed.

use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_noise::sealed::{SealedError, Session};
use weft_wire::frame::{PskSelector, RecordHeader, Reset, TAG_LEN};
use weft_wire::id::{Inbox, PublicKey, ReplicaId, Secret};

use super::identity::Identity;
use super::repeat::{Repeat, jittered};
use crate::entropy::Entropy;
use crate::time::{Duration, Instant};

/// A session is replaced after this long.
const REKEY_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// The replaced session receives this long after its successor is confirmed.
const PREVIOUS_FOR: Duration = Duration::from_secs(60);
/// Hints cause at most one handshake in this time.
const HINT_INTERVAL: Duration = Duration::from_secs(30);
/// Waiting time for a WELCOME once the first three have passed.
const LATE_WAIT: Duration = Duration::from_secs(60);
/// A token is sent this long after its RETRY.
const TOKEN_FOR: Duration = Duration::from_secs(60);

/// A session that sends.
struct Current {
    session: Session,
    replica: ReplicaId,
    rekey_at: Instant,
}

/// A session that only receives.
struct Previous {
    session: Session,
    until: Option<Instant>,
}

/// A HELLO on its way.
struct Waiting {
    pending: Pending,
    /// Made with the next pin.
    next_pin: bool,
    sent_at: Instant,
}

/// What was learned from an accepted WELCOME before its payload is read.
pub(super) struct Welcomed {
    /// Bytes of the payload.
    pub(super) len: usize,
    /// The coordinator used its next key: the current pin is history.
    pub(super) next_pin: bool,
    /// When the HELLO was made.
    pub(super) sent_at: Instant,
    accepted: weft_noise::sealed::device::Accepted,
}

/// What an authenticated record is worth beside its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// Bytes of plain text.
    pub(super) len: usize,
}

/// How a HELLO is to be made.
pub(super) struct HelloPlan<'a> {
    pub(super) selector: PskSelector,
    pub(super) reference: [u8; 8],
    pub(super) inbox: Inbox,
    pub(super) psk: &'a Secret,
}

/// Handshakes and sessions with the coordinator.
pub(crate) struct Channel {
    initiator: Initiator,
    next: Option<Initiator>,
    waiting: Option<Waiting>,
    /// Armed = a handshake is wanted.
    hello: Option<Repeat>,
    /// No hint is followed before.
    hint_after: Instant,
    token: Option<([u8; TAG_LEN], Instant)>,
    current: Option<Current>,
    previous: Option<Previous>,
}

impl Channel {
    /// With the coordinator's key, and its next one where that is known: two X25519 each.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the coordinator's key has low order.
    pub(crate) fn of(identity: &Identity) -> Result<Self, WeakKey> {
        let secret = StaticSecret::from_bytes(identity.identity_key.0);
        let mut channel = Self {
            initiator: Initiator::new(secret, &identity.coordinator)?,
            next: None,
            waiting: None,
            hello: None,
            hint_after: Instant::ZERO,
            token: None,
            current: None,
            previous: None,
        };
        channel.set_next_pin(&identity.identity_key, identity.next_coordinator.as_ref());
        Ok(channel)
    }

    /// The key that the device knows the coordinator will use next.
    pub(super) fn set_next_pin(&mut self, identity: &Secret, pin: Option<&PublicKey>) {
        self.next =
            pin.and_then(|pin| Initiator::new(StaticSecret::from_bytes(identity.0), pin).ok());
        if self.waiting.as_ref().is_some_and(|waiting| waiting.next_pin) {
            self.waiting = None;
        }
    }

    /// The line is up: a handshake is due at once.
    pub(super) const fn handle_connected(&mut self) {
        self.hello = Some(Repeat::now());
    }

    /// The line is down: nothing can be answered any more.
    pub(super) fn handle_disconnected(&mut self) {
        self.hello = None;
        self.waiting = None;
    }

    /// Forgets every session: the device has become somebody else.
    pub(super) fn clear(&mut self) {
        self.handle_disconnected();
        self.current = None;
        self.previous = None;
        self.token = None;
    }

    /// Something says that the session may be dead on the other side. Follows
    /// it unless another hint was followed lately.
    pub(super) fn handle_hint(&mut self, now: Instant, entropy: &mut dyn Entropy) {
        if self.hello.is_none() && self.hint_after <= now {
            self.hint_after = now + jittered(HINT_INTERVAL, entropy);
            self.hello = Some(Repeat::now());
        }
    }

    /// A RESET: counts only if it names the session that we send in.
    pub(super) fn handle_reset(
        &mut self,
        frame: &[u8],
        now: Instant,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealedError> {
        let reset = Reset::parse(frame)?;
        let known =
            self.current.as_ref().is_some_and(|current| current.session.id() == reset.session);
        if !known {
            return Err(SealedError::Unexpected);
        }
        self.handle_hint(now, entropy);
        Ok(())
    }

    /// A RETRY: the next HELLO carries its token. It is made at once, under the
    /// same limit as every hint, else when it is due anyway.
    pub(super) fn handle_retry(
        &mut self,
        frame: &[u8],
        now: Instant,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealedError> {
        let waiting = self.waiting.as_ref().ok_or(SealedError::Unexpected)?;
        let token = waiting.pending.retry(frame)?;
        self.token = Some((token, now + TOKEN_FOR));
        if self.hint_after <= now {
            self.hint_after = now + jittered(HINT_INTERVAL, entropy);
            if let Some(hello) = &mut self.hello {
                hello.expedite();
            }
        }
        Ok(())
    }

    /// Whether a HELLO is to be sent now.
    pub(super) fn hello_due(&self, now: Instant) -> bool {
        self.hello.is_some_and(|hello| hello.is_due(now))
    }

    /// Writes the HELLO that is due; the one before it can be answered no more.
    /// Current and next pin take turns, the current one first.
    pub(super) fn hello(
        &mut self,
        plan: &HelloPlan<'_>,
        payload: &[u8],
        now: Instant,
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Result<usize, SealedError> {
        let mut repeat = self.hello.unwrap_or(Repeat::now());
        let next_pin = self.next.is_some() && repeat.times_sent() % 2 == 1;
        let initiator = match &self.next {
            Some(next) if next_pin => next,
            _ => &self.initiator,
        };
        let head = HelloHead {
            selector: plan.selector,
            reference: plan.reference,
            inbox: plan.inbox,
            token: self.token.filter(|&(_, until)| now <= until).map(|(token, _)| token),
        };
        let (len, pending) = initiator.hello(&head, plan.psk, payload, entropy, out)?;
        self.waiting = Some(Waiting { pending, next_pin, sent_at: now });
        if repeat.is_exhausted(now) {
            repeat.defer(now + jittered(LATE_WAIT, entropy));
        } else {
            repeat.sent(now, entropy);
        }
        self.hello = Some(repeat);
        Ok(len)
    }

    /// A WELCOME: its payload is written to `out`. A bad one changes nothing.
    pub(super) fn handle_welcome(
        &mut self,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<Welcomed, SealedError> {
        let waiting = self.waiting.as_mut().ok_or(SealedError::Unexpected)?;
        let initiator = match &self.next {
            Some(next) if waiting.next_pin => next,
            _ => &self.initiator,
        };
        let (len, accepted) = waiting.pending.welcome(initiator, frame, out)?;
        let (next_pin, sent_at) = (waiting.next_pin, waiting.sent_at);
        Ok(Welcomed { len, next_pin, sent_at, accepted })
    }

    /// The WELCOME's payload was read: its session sends from now on.
    pub(super) fn establish(
        &mut self,
        welcomed: Welcomed,
        session: u32,
        replica: ReplicaId,
        now: Instant,
        entropy: &mut dyn Entropy,
    ) {
        if welcomed.next_pin
            && let Some(next) = self.next.take()
        {
            self.initiator = next;
        }
        self.waiting = None;
        self.hello = None;
        self.token = None;
        let session = welcomed.accepted.into_session(session);
        let replaced = self.current.replace(Current {
            session,
            replica,
            rekey_at: now + jittered(REKEY_AFTER, entropy),
        });
        self.previous = replaced.map(|current| Previous { session: current.session, until: None });
    }

    /// A RECORD: its plain text is written to `out`.
    pub(super) fn handle_record(
        &mut self,
        frame: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<Opened, SealedError> {
        let header = RecordHeader::parse(frame)?;
        if let Some(current) = &mut self.current
            && current.session.id() == header.session
        {
            let len = current.session.open(frame, out)?;
            if let Some(previous) = &mut self.previous {
                previous.until.get_or_insert(now + PREVIOUS_FOR);
            }
            return Ok(Opened { len });
        }
        match &mut self.previous {
            Some(previous) if previous.until.is_none_or(|until| now <= until) => {
                let len = previous.session.open(frame, out)?;
                Ok(Opened { len })
            }
            _ => Err(SealedError::Unexpected),
        }
    }

    /// Where a record goes now; `None` without a session.
    pub(super) fn replica(&self) -> Option<ReplicaId> {
        self.current.as_ref().map(|current| current.replica)
    }

    /// Seals `len` bytes that lie in `buffer` behind the header.
    pub(super) fn seal(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SealedError> {
        match &mut self.current {
            Some(current) => current.session.seal_in_place(buffer, len),
            None => Err(SealedError::Unexpected),
        }
    }

    /// Lets go of what is over, and wants a new session when the current one is
    /// old.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self
            .previous
            .as_ref()
            .is_some_and(|previous| previous.until.is_some_and(|until| until <= now))
        {
            self.previous = None;
        }
        let old = self
            .current
            .as_ref()
            .is_some_and(|current| current.rekey_at <= now || current.session.rekey_due());
        if old && self.hello.is_none() {
            self.hello = Some(Repeat::now());
        }
    }

    /// The next instant at which something is due while the line is up.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let hello = self.hello.map(|hello| hello.due_at());
        let rekey =
            self.current.as_ref().filter(|_| self.hello.is_none()).map(|current| current.rekey_at);
        let previous = self.previous.as_ref().and_then(|previous| previous.until);
        [hello, rekey, previous].into_iter().flatten().min()
    }
}
