//! The ghosts of peers.

use std::collections::HashMap;

use weft_agent_core::agent::trace::{DatagramVerdict, Entry, FrameVerdict};
use weft_agent_core::event::PeerSlot;
use weft_noise::key::StaticSecret;
use weft_noise::wg::{
    INITIATION_LEN, InitiationSent, Kind, LocalKey, RESPONSE_LEN, SessionKeys, Tai64n, bind_psk,
    kind,
};
use weft_wire::id::{PublicKey, Secret};
use weft_wire::item::{Item as _, ItemError, ItemWriter, Items, RawItem};
use weft_wire::map::{Page, PeerKey, PeerUpsert, SecondKey, Settings};
use weft_wire::probe::PROBE_MAC_LEN;

use super::control::GhostCoordinator;
use super::{Counters, Sessions, padded};
use crate::rng::Rng;

/// One ghost.
struct Ghost {
    local: LocalKey,
    psk: Secret,
}

/// What a transport datagram held: headers, and length with padding.
type Inner = (Vec<u8>, u16);

/// Substitute keys for every handle, and what was made with them.
pub(super) struct GhostPeers {
    own: LocalKey,
    own_secret: Secret,
    /// By handle.
    ghosts: HashMap<PublicKey, Ghost>,
    sessions: Sessions,
    /// What came in the session with our index, by counter.
    inner: HashMap<u32, HashMap<u64, Inner>>,
    counters: HashMap<u32, Counters>,
    /// Initiations of the agent, by sender index.
    heard: HashMap<u32, Vec<u8>>,
    /// Initiations of ghosts that wait for an answer, by sender index.
    waiting: HashMap<u32, (PublicKey, InitiationSent)>,
    /// Handshake messages made, by header.
    made: HashMap<Vec<u8>, Vec<u8>>,
    /// Transport data made, by our index and counter.
    sealed: HashMap<(u32, u64), Vec<u8>>,
    stamp: u64,
    rng: Rng,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn counter(head: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*head.get(8..)?.first_chunk()?))
}

/// Keys are ordered by their bytes; a handle's byte 8 says how the recorded key
/// stood to the agent's own.
fn is_greater(handle: &PublicKey) -> bool {
    handle.0[8] != 0
}

/// The coordinator's pins that items announce.
pub(super) fn pins(items: &[u8]) -> Vec<PublicKey> {
    let mut found = vec![];
    walk(items, &mut |raw| {
        if let Ok(settings) = raw.decode::<Settings>() {
            found.extend(settings.next_pin);
        }
    });
    found
}

/// Every item, those inside pages too.
fn walk(items: &[u8], visit: &mut dyn FnMut(&RawItem<'_>)) {
    for raw in Items::new(items).map_while(Result::ok) {
        match raw.decode_nested::<Page>() {
            Ok((_, ops)) if raw.tag == Page::TAG => {
                ops.map_while(Result::ok).for_each(|op| visit(&op));
            }
            _ => visit(&raw),
        }
    }
}

impl GhostPeers {
    pub(super) fn new(entries: &[(u64, Entry<'_>)], rng: &mut Rng) -> Self {
        // In the middle, so that ghosts above and below it are soon found.
        let own_secret = loop {
            let secret = StaticSecret::generate(rng);
            if (64..192).contains(&secret.public().0[0]) {
                break secret.to_secret();
            }
        };
        let own = LocalKey::new(StaticSecret::from_bytes(own_secret.0));
        let mut peers = Self {
            own,
            own_secret,
            ghosts: HashMap::new(),
            sessions: Sessions::new(),
            inner: HashMap::new(),
            counters: HashMap::new(),
            heard: HashMap::new(),
            waiting: HashMap::new(),
            made: HashMap::new(),
            sealed: HashMap::new(),
            stamp: 0,
            rng: rng.fork(),
        };
        for (_, entry) in entries {
            peers.foresee(entry);
        }
        peers
    }

    /// The agent's own WireGuard key.
    pub(super) fn own_secret(&self) -> Secret {
        self.own_secret.duplicate()
    }

    /// Notes what will be needed: whose sessions, which counters, which keys.
    fn foresee(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Session(slot, ours, theirs, _) => {
                self.sessions.insert((*ours, *theirs), *slot);
            }
            Entry::Datagram(_, _, head, _, DatagramVerdict::Opened(inner, len)) => {
                if let (Some(index), Some(counter)) = (u32_at(head, 4), counter(head)) {
                    self.counters.entry(index).or_default().insert(counter);
                    let of_session = self.inner.entry(index).or_default();
                    of_session.insert(counter, (inner.to_vec(), *len));
                }
            }
            Entry::Restored(items) | Entry::Frame(_, _, FrameVerdict::Opened(items)) => {
                let mut keys = vec![];
                walk(items, &mut |raw| {
                    if let Ok(peer) = raw.decode::<PeerUpsert>() {
                        keys.push((peer.key, peer.psk));
                        keys.extend(peer.second.map(|second| (second.key, second.psk)));
                    } else if let Ok(PeerKey { second: Some(second), .. }) = raw.decode() {
                        keys.push((second.key, second.psk));
                    }
                });
                for (handle, psk) in keys {
                    self.add(handle, psk);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, handle: PublicKey, psk: Secret) {
        let own = *self.own.public();
        let rng = &mut self.rng;
        let ghost = self.ghosts.entry(handle).or_insert_with(|| {
            let secret = loop {
                let secret = StaticSecret::generate(rng);
                if (secret.public() > own) == is_greater(&handle) {
                    break secret;
                }
            };
            Ghost { local: LocalKey::new(secret), psk: psk.duplicate() }
        });
        ghost.psk = psk;
    }

    /// Items with the ghosts' keys in place of handles, padded like a record.
    pub(super) fn translate(&self, items: &[u8], coordinator: &GhostCoordinator) -> Vec<u8> {
        let mut out = vec![0; items.len() + 256];
        let mut writer = ItemWriter::new(&mut out);
        for raw in Items::new(items).map_while(Result::ok) {
            self.item(&raw, coordinator, &mut writer).expect("no longer than it was");
        }
        let len = writer.finish();
        out.truncate(len);
        out
    }

    fn key(&self, handle: &PublicKey) -> PublicKey {
        self.ghosts.get(handle).map_or(PublicKey::ZERO, |ghost| *ghost.local.public())
    }

    fn second(&self, second: Option<SecondKey>) -> Option<SecondKey> {
        second.map(|second| SecondKey { key: self.key(&second.key), ..second })
    }

    fn item(
        &self,
        raw: &RawItem<'_>,
        coordinator: &GhostCoordinator,
        writer: &mut ItemWriter<'_>,
    ) -> Result<(), ItemError> {
        match raw.tag {
            Page::TAG => {
                let (page, ops) = raw.decode_nested::<Page>()?;
                writer.put_nested(&page, |inner| {
                    ops.map_while(Result::ok).try_for_each(|op| self.item(&op, coordinator, inner))
                })
            }
            PeerUpsert::TAG => {
                let peer: PeerUpsert = raw.decode()?;
                let (key, second) = (self.key(&peer.key), self.second(peer.second));
                writer.put(&PeerUpsert { key, second, ..peer })
            }
            PeerKey::TAG => {
                let PeerKey { device, second } = raw.decode()?;
                writer.put(&PeerKey { device, second: self.second(second) })
            }
            Settings::TAG => {
                let settings: Settings = raw.decode()?;
                let next_pin = settings.next_pin.map(|handle| coordinator.pin(&handle));
                writer.put(&Settings { next_pin, ..settings })
            }
            _ => writer.put_raw(raw),
        }
    }

    fn ghost_of(&self, key: &PublicKey) -> Option<&Ghost> {
        self.ghosts.values().find(|ghost| ghost.local.public() == key)
    }

    /// A probe with the MAC of the ghost with this key; without one as it was.
    pub(super) fn probe(&self, probe: &[u8], key: Option<PublicKey>) -> Vec<u8> {
        let mut again = probe.to_vec();
        if let Some(ghost) = key.and_then(|key| self.ghost_of(&key))
            && let Ok(remote) = ghost.local.remote(self.own.public())
            && let Some(covered) = probe.len().checked_sub(PROBE_MAC_LEN)
        {
            let psk = bind_psk(&ghost.psk, ghost.local.public(), self.own.public());
            if again[4..8] == [0; 4] {
                let hint = weft_noise::probe::hint(ghost.local.public());
                again[8..12].copy_from_slice(&hint.to_le_bytes());
            }
            let mac = remote.probe_key(&psk).mac(&again[..covered]);
            again[covered..].copy_from_slice(&mac);
        }
        again
    }

    /// A handshake message with this header that the agent took. If it made a
    /// session, the ghost of the session's peer makes it.
    pub(super) fn handshake(
        &mut self,
        head: &[u8],
        len: u16,
        key_of: impl Fn(PeerSlot) -> Option<PublicKey>,
    ) -> Vec<u8> {
        if let Some(made) = self.made.get(head) {
            return made.clone();
        }
        let made = match kind(&padded(head, len)) {
            Ok(Kind::Initiation) => self.initiation(head, key_of),
            Ok(Kind::Response) => self.response(head, key_of),
            _ => None,
        };
        let Some(made) = made else {
            return padded(head, len);
        };
        self.made.insert(head.to_vec(), made.clone());
        made
    }

    fn initiation(
        &mut self,
        head: &[u8],
        key_of: impl Fn(PeerSlot) -> Option<PublicKey>,
    ) -> Option<Vec<u8>> {
        let theirs = u32_at(head, 4)?;
        let ((_, _), slot) = self.sessions.iter().find(|((_, of), _)| *of == theirs)?;
        let key = key_of(PeerSlot(*slot))?;
        self.stamp += 1;
        let stamp = Tai64n::from_steps(self.stamp);
        let mut rng = self.rng.fork();
        let ghost = self.ghost_of(&key)?;
        let remote = ghost.local.remote(self.own.public()).ok()?;
        let mut message = [0; INITIATION_LEN];
        let sent = ghost.local.initiate(&remote, theirs, stamp, &mut rng, &mut message);
        self.waiting.insert(theirs, (key, sent));
        Some(message.to_vec())
    }

    fn response(
        &mut self,
        head: &[u8],
        key_of: impl Fn(PeerSlot) -> Option<PublicKey>,
    ) -> Option<Vec<u8>> {
        let (theirs, ours) = (u32_at(head, 4)?, u32_at(head, 8)?);
        let key = key_of(PeerSlot(*self.sessions.get(&(ours, theirs))?))?;
        let initiation = self.heard.get(&ours)?.clone();
        let mut rng = self.rng.fork();
        let ghost = self.ghost_of(&key)?;
        let remote = ghost.local.remote(self.own.public()).ok()?;
        let checked = ghost.local.check_mac1(&initiation).ok()?;
        let received = ghost.local.receive_initiation(&checked).ok()?;
        let authentic = received.authenticate(&remote).ok()?;
        let mut message = [0; RESPONSE_LEN];
        let psk = bind_psk(&ghost.psk, ghost.local.public(), self.own.public());
        let keys = authentic.respond(theirs, &psk, &mut rng, &mut message);
        self.seal_all(keys);
        Some(message.to_vec())
    }

    /// The agent has sent this datagram.
    pub(super) fn overhear(&mut self, datagram: &[u8]) {
        match kind(datagram) {
            Ok(Kind::Initiation) => {
                if let Some(index) = u32_at(datagram, 4) {
                    self.heard.insert(index, datagram.to_vec());
                }
            }
            Ok(Kind::Response) => {
                let answered = u32_at(datagram, 8).and_then(|theirs| {
                    let (key, mut sent) = self.waiting.remove(&theirs)?;
                    let ghost = self.ghost_of(&key)?;
                    let checked = ghost.local.check_mac1(datagram).ok()?;
                    let psk = bind_psk(&ghost.psk, ghost.local.public(), self.own.public());
                    sent.receive_response(&ghost.local, &checked, &[&psk]).ok()
                });
                if let Some(answered) = answered {
                    self.seal_all(answered.keys);
                }
            }
            _ => {}
        }
    }

    /// Seals everything that the session will bring, each under its counter.
    fn seal_all(&mut self, keys: SessionKeys) {
        let ours = keys.remote_index();
        let (mut sealer, _) = keys.split::<2>();
        let counters = self.counters.get(&ours).cloned().unwrap_or_default();
        for counter in counters {
            let empty = (vec![], 0);
            let (inner, len) =
                self.inner.get(&ours).and_then(|of| of.get(&counter)).unwrap_or(&empty);
            sealer.skip(counter - sealer.counter());
            let len = usize::from(*len);
            let mut buffer = vec![0; len + 64];
            buffer[16..16 + inner.len()].copy_from_slice(inner);
            let sealed = sealer.seal(&mut buffer, len, len).expect("there is room");
            buffer.truncate(sealed);
            self.sealed.insert((ours, counter), buffer);
        }
    }

    /// Transport data with this header, authentic if it was.
    pub(super) fn transport(&self, head: &[u8], len: u16) -> Vec<u8> {
        let made = u32_at(head, 4)
            .zip(counter(head))
            .and_then(|index_and_counter| self.sealed.get(&index_and_counter));
        made.cloned().unwrap_or_else(|| padded(head, len))
    }
}
