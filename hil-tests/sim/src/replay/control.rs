//! The ghost of the coordinator.

use std::collections::HashMap;

use weft_agent_core::agent::trace::{Entry, FrameVerdict, Start};
use weft_agent_core::control::{Enrolment, Identity, Member, Membership};
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_wire::frame::{FrameKind, Hello, MAX_FRAME, PskKind, RecordHeader, Retry, kind};
use weft_wire::id::{
    Inbox, KeyId, Name, NetworkId, OrganisationId, PublicKey, Secret, ShortSecret,
};
use weft_wire::item::{Item as _, Items, Registered, WelcomeInfo};

use super::padded;
use super::peers::GhostPeers;
use crate::rng::Rng;

/// The PSK of enrolment, and of a device that was enrolled before the trace.
const PSK: [u8; 32] = [0x9A; 32];

/// Coordinator keys with their handles, PSKs, and the records of all sessions.
pub(super) struct GhostCoordinator {
    keys: Vec<(PublicKey, CoordinatorKey)>,
    device_psk: Secret,
    /// The HELLO that waits for an answer.
    hello: Vec<u8>,
    /// Redacted items by session and counter.
    recorded: HashMap<u32, Vec<(u64, Vec<u8>)>>,
    /// Records made, by session and counter.
    made: HashMap<(u32, u64), Vec<u8>>,
    rng: Rng,
}

/// Session and counter of a record's header.
fn header(head: &[u8]) -> Option<RecordHeader> {
    // The parser wants a whole record: give it one of zeroes.
    RecordHeader::parse(&padded(head, 64)).ok()
}

impl GhostCoordinator {
    pub(super) fn new(start: &Start, entries: &[(u64, Entry<'_>)], rng: &mut Rng) -> Self {
        let mut recorded: HashMap<u32, Vec<(u64, Vec<u8>)>> = HashMap::new();
        let mut handles = vec![start.pin];
        handles.extend(start.next_pin);
        for (_, entry) in entries {
            let items = match entry {
                Entry::Frame(head, _, FrameVerdict::Opened(items)) => {
                    if let Some(header) = header(head) {
                        let records = recorded.entry(header.session).or_default();
                        records.push((header.counter, items.to_vec()));
                    }
                    items
                }
                Entry::Restored(items) => items,
                _ => continue,
            };
            handles.extend(super::peers::pins(items));
        }
        handles.sort_unstable();
        handles.dedup();
        let keys = handles
            .into_iter()
            .map(|handle| (handle, CoordinatorKey::new(StaticSecret::generate(rng))))
            .collect();
        Self {
            keys,
            device_psk: Secret(PSK),
            hello: vec![],
            recorded,
            made: HashMap::new(),
            rng: rng.fork(),
        }
    }

    /// The key that stands for a handle.
    pub(super) fn pin(&self, handle: &PublicKey) -> PublicKey {
        let found = self.keys.iter().find(|(known, _)| known == handle);
        found.map_or(PublicKey::ZERO, |(_, key)| *key.public())
    }

    /// An identity like the recorded one, with keys of its own.
    pub(super) fn identity(&self, start: &Start, wireguard: Secret, rng: &mut Rng) -> Identity {
        let membership = match start.member {
            None => Membership::Enrolling(Enrolment {
                key: KeyId::from_random([1; 8]),
                psk: Secret(PSK),
                token_expiry: 0,
                token: ShortSecret([0; 16]),
                host: 0,
            }),
            Some(member) => Membership::Member(Member {
                device: member.device,
                network: NetworkId(0),
                organisation: OrganisationId(0),
                name: Name::new(),
                network_name: Name::new(),
                inbox: Inbox(member.inbox.0),
                password: ShortSecret([0; 16]),
                password_expiry: member.password_expiry,
                psk: Secret(PSK),
                master: 0,
            }),
        };
        Identity {
            identity_key: StaticSecret::generate(rng).to_secret(),
            wireguard_key: wireguard,
            coordinator: self.pin(&start.pin),
            next_coordinator: start.next_pin.map(|handle| self.pin(&handle)),
            membership,
            second_wireguard: None,
        }
    }

    /// The agent has sent a HELLO.
    pub(super) fn hello(&mut self, frame: &[u8]) {
        self.hello = frame.to_vec();
    }

    /// RETRY and RESET.
    pub(super) fn hint(&self, head: &[u8]) -> Vec<u8> {
        if kind(head) == Ok(FrameKind::Retry) {
            let hello_hash = weft_noise::sealed::hello_hash(&self.hello);
            return Retry { hello_hash, token: [0; 16] }.to_bytes().to_vec();
        }
        head.to_vec()
    }

    /// A frame that was refused: the same one as before, if it was one of ours.
    pub(super) fn again(&self, head: &[u8], len: u16) -> Vec<u8> {
        let made = header(head).and_then(|header| self.made.get(&(header.session, header.counter)));
        made.cloned().unwrap_or_else(|| padded(head, len))
    }

    /// An authentic frame with these items.
    pub(super) fn frame(
        &mut self,
        head: &[u8],
        items: &[u8],
        peers: &GhostPeers,
    ) -> Result<Vec<u8>, String> {
        if kind(head) == Ok(FrameKind::Welcome) {
            return self.welcome(items, peers);
        }
        let header = header(head).ok_or("no record")?;
        self.learn(items);
        let made = self.made.get(&(header.session, header.counter));
        made.cloned().ok_or_else(|| format!("a record of no session: {header:?}"))
    }

    fn welcome(&mut self, items: &[u8], peers: &GhostPeers) -> Result<Vec<u8>, String> {
        let error = |what: &str| format!("the HELLO is not answered: {what}");
        let hello = Hello::parse(&self.hello).map_err(|_| error("none was sent"))?;
        let key = self.keys.iter().map(|(_, key)| key).find(|key| key.check_mac1(&hello));
        let key = key.ok_or_else(|| error("another pin"))?;
        let psk = match hello.selector().kind {
            PskKind::Enrolment => &Secret(PSK),
            PskKind::Device => &self.device_psk,
        };
        let mut plain = [0; 1_024];
        let opened = key.open_hello(&hello).map_err(|_| error("not opened"))?;
        let (_, verified) =
            opened.verify(key, &hello, psk, &mut plain).map_err(|_| error("another PSK"))?;
        let info = Items::new(items).filter_map(Result::ok).find(|i| i.tag == WelcomeInfo::TAG);
        let info = info.and_then(|raw| raw.decode::<WelcomeInfo>().ok());
        let id = info.ok_or_else(|| error("no WelcomeInfo"))?.session;
        let mut frame = vec![0; 1_024];
        let (len, session) = verified
            .welcome(id, items, &mut self.rng, &mut frame)
            .map_err(|_| error("too long"))?;
        frame.truncate(len);
        self.seal_all(id, session, peers);
        Ok(frame)
    }

    /// Seals every record that the session will have had, each under its own
    /// counter: what was lost is a gap, what was late is there.
    fn seal_all(&mut self, id: u32, mut session: Session, peers: &GhostPeers) {
        let records = self.recorded.get(&id).cloned().unwrap_or_default();
        let greatest = records.iter().map(|(counter, _)| *counter).max();
        for counter in 0..=greatest.unwrap_or_default() {
            let items = records.iter().find(|(of, _)| *of == counter);
            let plain = items.map_or_else(Vec::new, |(_, items)| peers.translate(items, self));
            let mut frame = vec![0; MAX_FRAME];
            let len = session.seal(&plain, &mut frame).expect("a record of recorded length");
            frame.truncate(len);
            if items.is_some() {
                self.made.insert((id, counter), frame);
            }
        }
    }

    /// From here on HELLOs are made with what the answer gave.
    fn learn(&mut self, items: &[u8]) {
        for raw in Items::new(items).filter_map(Result::ok) {
            if let Ok(answer) = raw.decode::<Registered>() {
                self.device_psk = answer.psk;
            }
        }
    }
}
