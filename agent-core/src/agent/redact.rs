//! What a trace keeps of control items: structure and numbers, no secret.
//!
//! A public key becomes a handle: 8 bytes of a hash keyed with a salt that is
//! drawn at start and forgotten at the end, and one bit that the agent's
//! decisions hang on (which of two keys is greater, when handshakes cross).
//! PSKs, inboxes and passwords become such handles too: what matters of them is
//! whether they change. Names become the device's number.
//!
//! What is not known to be harmless keeps its tag alone: an item of a newer
//! coordinator may hold anything.

use core::fmt::Write as _;

use weft_noise::mac::keyed_hash;
use weft_wire::id::{DeviceId, Inbox, Name, PublicKey, Secret, ShortSecret};
use weft_wire::item::{
    Command, Done, Duplicate, Item, ItemError, ItemWriter, Items, NewInbox, Ping, RawItem, Refused,
    Registered, Stamps, State, Unsupported, WelcomeInfo,
};
use weft_wire::map::{
    DataBudget, Lease, MapReady, OwnKeys, Page, PeerKey, PeerRemove, PeerUpsert, Rules, SecondKey,
    Servers, Settings,
};
use weft_wire::network::Netcheck;
use weft_wire::relay::{RelayGrant, RelayLogin, RelayMac, RelayName, RelayNames, Relays};
use weft_wire::signal::{Call, CallAck, CallFailed, Go};

use super::cache::{CacheEndpoint, CacheUsage};
use crate::control::CacheHead;

/// Items that are kept as they came: numbers and addresses only.
const HARMLESS: &[u32] = &[
    Call::TAG,
    CallAck::TAG,
    CallFailed::TAG,
    Go::TAG,
    CacheEndpoint::TAG,
    CacheHead::TAG,
    CacheUsage::TAG,
    Command::TAG,
    DataBudget::TAG,
    Done::TAG,
    Lease::TAG,
    MapReady::TAG,
    Netcheck::TAG,
    PeerRemove::TAG,
    Ping::TAG,
    Relays::TAG,
    Rules::TAG,
    Servers::TAG,
    Stamps::TAG,
    Unsupported::TAG,
];

/// What makes handles.
pub(super) struct Redactor {
    /// Keeps handles of one trace from meaning anything elsewhere.
    pub(super) salt: Secret,
    /// The agent's own WireGuard key.
    pub(super) own: PublicKey,
}

impl Redactor {
    fn handle(&self, bytes: &[u8]) -> [u8; 8] {
        let mut handle = [0; 8];
        handle.copy_from_slice(&keyed_hash(&self.salt.0, &[bytes])[..8]);
        handle
    }

    /// A handle in 16 bytes.
    pub(super) fn short(&self, bytes: &[u8; 16]) -> [u8; 16] {
        let mut redacted = [0; 16];
        redacted[..8].copy_from_slice(&self.handle(bytes));
        redacted
    }

    /// Bytes 0 to 7 the handle, byte 8 whether the key is greater than ours.
    pub(super) fn key(&self, key: &PublicKey) -> PublicKey {
        let mut redacted = [0; 32];
        redacted[..8].copy_from_slice(&self.handle(&key.0));
        redacted[8] = u8::from(*key > self.own);
        PublicKey(redacted)
    }

    fn psk(&self, psk: &Secret) -> Secret {
        let mut redacted = Secret([0; 32]);
        if !psk.is_none() {
            redacted.0[..8].copy_from_slice(&self.handle(&psk.0));
        }
        redacted
    }

    fn second(&self, second: Option<SecondKey>) -> Option<SecondKey> {
        second.map(|second| SecondKey {
            key: self.key(&second.key),
            psk: self.psk(&second.psk),
            ..second
        })
    }

    fn grant(&self, grant: RelayGrant) -> RelayGrant {
        let logins = grant.logins.iter().map(|login| self.login(login)).collect();
        RelayGrant { logins, ..grant }
    }

    fn login(&self, login: &RelayLogin) -> RelayLogin {
        let mut mac = [0; 20];
        mac[..8].copy_from_slice(&self.handle(&login.mac.0));
        RelayLogin { relay: login.relay, mac: RelayMac(mac) }
    }

    /// Writes the items again without secrets and returns their length. Of items
    /// that are unknown or do not decode the tag is kept, with an empty body.
    pub(super) fn redact(&self, items: &[u8], out: &mut [u8]) -> Result<usize, ItemError> {
        let mut writer = ItemWriter::new(out);
        for raw in Items::new(items).map_while(Result::ok) {
            self.item(&raw, &mut writer)?;
        }
        Ok(writer.len())
    }

    /// The same for one item.
    pub(super) fn redact_one(&self, raw: &RawItem<'_>, out: &mut [u8]) -> Result<usize, ItemError> {
        let mut writer = ItemWriter::new(out);
        self.item(raw, &mut writer)?;
        Ok(writer.len())
    }

    fn item(&self, raw: &RawItem<'_>, writer: &mut ItemWriter<'_>) -> Result<(), ItemError> {
        match self.decoded(raw, writer) {
            // The agent left it out as well.
            Err(ItemError::Body(_) | ItemError::Trailing(_)) => writer.put_raw(&tag_alone(raw)),
            written => written,
        }
    }

    fn decoded(&self, raw: &RawItem<'_>, writer: &mut ItemWriter<'_>) -> Result<(), ItemError> {
        match raw.tag {
            Page::TAG => {
                let (page, ops) = raw.decode_nested::<Page>()?;
                writer.put_nested(&page, |inner| {
                    ops.map_while(Result::ok).try_for_each(|op| self.item(&op, inner))
                })
            }
            PeerUpsert::TAG => {
                let peer: PeerUpsert = raw.decode()?;
                writer.put(&PeerUpsert {
                    name: number(peer.device),
                    key: self.key(&peer.key),
                    psk: self.psk(&peer.psk),
                    second: self.second(peer.second),
                    attestation: None,
                    ..peer
                })
            }
            PeerKey::TAG => {
                let PeerKey { device, second } = raw.decode()?;
                writer.put(&PeerKey { device, second: self.second(second) })
            }
            // A replayed agent has keys of its own: it is told nothing of them,
            // and follows a run up to the rotation of the recorded one's.
            OwnKeys::TAG => {
                raw.decode::<OwnKeys>()?;
                writer.put(&OwnKeys { active: PublicKey::ZERO, second: None, wanted: 0 })
            }
            Settings::TAG => {
                let settings: Settings = raw.decode()?;
                let next_pin = settings.next_pin.map(|pin| self.key(&pin));
                writer.put(&Settings { name: Name::new(), next_pin, ..settings })
            }
            Registered::TAG => {
                let answer: Registered = raw.decode()?;
                writer.put(&Registered {
                    name: number(answer.device),
                    network_name: Name::new(),
                    inbox: Inbox(self.short(&answer.inbox.0)),
                    password: ShortSecret(self.short(&answer.password.0)),
                    psk: self.psk(&answer.psk),
                    key_name: Name::new(),
                    ..answer
                })
            }
            WelcomeInfo::TAG => {
                let info: WelcomeInfo = raw.decode()?;
                writer.put(&WelcomeInfo {
                    inbox: Inbox(self.short(&info.inbox.0)),
                    password: ShortSecret(self.short(&info.password.0)),
                    ..info
                })
            }
            Refused::TAG => {
                let refused: Refused = raw.decode()?;
                writer.put(&Refused { text: heapless::String::new(), ..refused })
            }
            State::TAG => {
                let state: State = raw.decode()?;
                writer.put(&State { reason: heapless::String::new(), ..state })
            }
            Duplicate::TAG => {
                let other: Duplicate = raw.decode()?;
                let moved = other.moved.map(|moved| NewInbox {
                    inbox: Inbox(self.short(&moved.inbox.0)),
                    password: ShortSecret(self.short(&moved.password.0)),
                    ..moved
                });
                writer.put(&Duplicate { name: Name::new(), address: None, moved, ..other })
            }
            RelayGrant::TAG => writer.put(&self.grant(raw.decode()?)),
            RelayNames::TAG => writer.put(&unnamed(&raw.decode()?)),
            tag if HARMLESS.contains(&tag) => writer.put_raw(raw),
            _ => writer.put_raw(&tag_alone(raw)),
        }
    }
}

fn unnamed(RelayNames { names }: &RelayNames) -> RelayNames {
    let numbers = names.iter().map(|one| RelayName { name: Name::new(), ..*one });
    RelayNames { names: numbers.collect() }
}

const fn tag_alone(raw: &RawItem<'_>) -> RawItem<'static> {
    RawItem { tag: raw.tag, body: &[] }
}

fn number(device: DeviceId) -> Name {
    let mut name = Name::new();
    // Ten digits at most.
    let _ = write!(name, "d{}", device.0);
    name
}
