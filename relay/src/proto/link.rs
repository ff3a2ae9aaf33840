//! The relay's end of its session with the coordinator: frames in, frames out, as
//! `weft_wire::relay_link` lays them down.

use weft_noise::entropy::Entropy;
use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_noise::sealed::{SealedError, Session};
use weft_wire::PROTOCOL;
use weft_wire::frame::{FrameKind, HELLO_OVERHEAD, MAX_FRAME, PskKind, PskSelector, kind};
use weft_wire::http::Frames;
use weft_wire::id::{Epoch, Inbox, Instance, KeyId, PublicKey, Revision, Secret};
use weft_wire::item::{HelloInfo, Item, ItemWriter, Items, Refused, WelcomeInfo};
use weft_wire::relay_link::{
    RelayDenials, RelayHeard, RelayRegistered, RelaySettings, RelayUnknown,
};
use zeroize::Zeroizing;

/// Room for the items of HELLO, WELCOME and a report.
const ROOM: usize = 512;

/// With what a relay proves who it is.
pub enum Proof {
    /// The join string's key.
    String(KeyId, Secret),
    /// Its own PSK, and the version of the master that it is derived from.
    Own(Secret, u8),
}

/// What the coordinator said.
pub enum Said {
    /// This is a relay now.
    Registered(Box<RelayRegistered>),
    /// The request was refused.
    Refused(Box<Refused>),
    /// What is wanted of it.
    Settings(Box<RelaySettings>),
    /// Who is denied.
    Denials(Box<RelayDenials>),
    /// The report was taken, at this Unix time in milliseconds.
    Heard(u64),
    /// It is no relay any more.
    Unknown,
}

/// What an answer was.
#[derive(Default)]
pub struct Answer {
    /// What was said, in order.
    pub said: Vec<Said>,
    /// The coordinator does not know the session: shake hands again.
    pub is_reset: bool,
}

/// The session, and what makes it anew.
pub struct Link {
    /// Towards each key that the coordinator may have, the likeliest first.
    initiators: Vec<Initiator>,
    proof: Proof,
    inbox: Inbox,
    instance: Instance,
    pending: Option<Pending>,
    session: Option<Session>,
}

impl Link {
    /// No session yet. `pins` are the keys that the coordinator may have.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when one of them is none.
    pub fn new(
        identity: &Secret,
        pins: &[PublicKey],
        proof: Proof,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, WeakKey> {
        let initiator = |pin| Initiator::new(StaticSecret::from_bytes(identity.0), pin);
        let (mut inbox, mut instance) = ([0; 16], [0; 8]);
        entropy.fill(&mut inbox);
        entropy.fill(&mut instance);
        Ok(Self {
            initiators: pins.iter().map(initiator).collect::<Result<_, _>>()?,
            proof,
            inbox: Inbox(inbox),
            instance: Instance(instance),
            pending: None,
            session: None,
        })
    }

    /// The key that the coordinator is believed to have.
    pub fn pin(&self) -> PublicKey {
        self.initiators.first().map_or(PublicKey::ZERO, |initiator| *initiator.coordinator())
    }

    /// Whether records can be sealed.
    pub const fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// The session is of no use any more.
    pub fn forget_session(&mut self) {
        self.session = None;
    }

    /// Nobody answered: the next HELLO is for the coordinator's other key.
    pub fn try_other_pin(&mut self) {
        if self.initiators.len() > 1 {
            self.initiators.rotate_left(1);
        }
    }

    /// A HELLO to be posted.
    ///
    /// # Errors
    ///
    /// [`SealedError`], which no HELLO of this length has.
    pub fn hello(&mut self, entropy: &mut dyn Entropy) -> Result<Vec<u8>, SealedError> {
        let initiator = self.initiators.first().ok_or(SealedError::WeakKey)?;
        let info = HelloInfo {
            wire_min: PROTOCOL,
            wire_max: PROTOCOL,
            instance: self.instance,
            boot_count: 0,
            max_rx: MAX_FRAME as u16,
            on_demand: 0,
            epoch: Epoch(0),
            revision: Revision(0),
        };
        let mut plain = [0; ROOM];
        let len = write(&info, &mut plain)?;
        let (selector, reference, psk) = match &self.proof {
            Proof::String(key, psk) => {
                (PskSelector { kind: PskKind::Enrolment, master: 0 }, key.to_bytes(), psk)
            }
            Proof::Own(psk, master) => {
                (PskSelector { kind: PskKind::Device, master: *master }, [0; 8], psk)
            }
        };
        let head = HelloHead { selector, reference, inbox: self.inbox, token: None };
        let mut frame = [0; ROOM + HELLO_OVERHEAD];
        let plain = plain.get(..len).unwrap_or_default();
        let (len, pending) = initiator.hello(&head, psk, plain, entropy, &mut frame)?;
        self.pending = Some(pending);
        Ok(frame.get(..len).unwrap_or_default().to_vec())
    }

    /// Takes the answer to a HELLO; whether there is a session now.
    pub fn welcome(&mut self, body: &[u8]) -> bool {
        let Some(mut pending) = self.pending.take() else { return false };
        let Some(initiator) = self.initiators.first() else { return false };
        for frame in Frames::new(body).map_while(Result::ok) {
            let mut plain = [0; MAX_FRAME];
            let Ok((len, accepted)) = pending.welcome(initiator, frame, &mut plain) else {
                continue;
            };
            let items = Items::new(plain.get(..len).unwrap_or_default()).map_while(Result::ok);
            let info = items.filter(|item| item.tag == WelcomeInfo::TAG);
            let info = info.filter_map(|item| item.decode::<WelcomeInfo>().ok()).next();
            if let Some(info) = info.filter(|info| info.wire == PROTOCOL) {
                self.session = Some(accepted.into_session(info.session));
            }
            return self.session.is_some();
        }
        false
    }

    /// A record around one item, to be posted.
    ///
    /// # Errors
    ///
    /// [`SealedError::Unexpected`] without a session; one that is at its end is
    /// forgotten.
    pub fn seal<T: Item>(&mut self, item: &T) -> Result<Vec<u8>, SealedError> {
        let mut plain = Zeroizing::new([0; ROOM]);
        let len = write(item, &mut *plain)?;
        let session = self.session.as_mut().ok_or(SealedError::Unexpected)?;
        let mut frame = [0; 2 * ROOM];
        let sealed = session.seal(plain.get(..len).unwrap_or_default(), &mut frame);
        if sealed.is_err() || session.rekey_due() {
            self.session = None;
        }
        Ok(frame.get(..sealed?).unwrap_or_default().to_vec())
    }

    /// Takes the answer to a record. What is not authentic is left out.
    pub fn open(&mut self, body: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let mut plain = Zeroizing::new([0; MAX_FRAME]);
        for frame in Frames::new(body).map_while(Result::ok) {
            if matches!(kind(frame), Ok(FrameKind::Reset)) {
                answer.is_reset = true;
                continue;
            }
            let Some(session) = self.session.as_mut() else { break };
            let Ok(len) = session.open(frame, &mut *plain) else { continue };
            let items = Items::new(plain.get(..len).unwrap_or_default());
            for item in items.map_while(Result::ok) {
                let said = match item.tag {
                    RelayRegistered::TAG => item.decode().map(Box::new).map(Said::Registered),
                    Refused::TAG => item.decode().map(Box::new).map(Said::Refused),
                    RelaySettings::TAG => item.decode().map(Box::new).map(Said::Settings),
                    RelayDenials::TAG => item.decode().map(Box::new).map(Said::Denials),
                    RelayHeard::TAG => {
                        item.decode::<RelayHeard>().map(|heard| Said::Heard(heard.time_ms))
                    }
                    RelayUnknown::TAG => item.decode::<RelayUnknown>().map(|_| Said::Unknown),
                    // Of a newer coordinator.
                    _ => continue,
                };
                answer.said.extend(said);
            }
        }
        answer
    }
}

fn write<T: Item>(item: &T, out: &mut [u8]) -> Result<usize, SealedError> {
    let mut writer = ItemWriter::new(out);
    writer.put(item).map_err(|_| SealedError::NoRoom)?;
    Ok(writer.finish())
}
