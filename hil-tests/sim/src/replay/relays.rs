//! Ghosts of relays: what they said is signed anew for the credentials that the
//! replayed agent has.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_noise::legacy::SharedPassword;
use weft_wire::relay::{Relay, RelayGrant};
use weft_wire::stun::{
    Algorithm, FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, Message, MessageWriter,
    REALM,
};

/// Realms, by what is said to be a relay's number.
#[derive(Default)]
pub(super) struct GhostRelays(HashMap<u16, Vec<u8>>);

/// Which relay is at an address.
fn at(relays: &[Relay], address: SocketAddr) -> Option<u16> {
    let is_at = |relay: &&Relay| match address {
        SocketAddr::V4(address) => relay.v4 == Some(*address.ip()),
        SocketAddr::V6(address) => relay.v6 == Some(*address.ip()),
    };
    relays.iter().find(is_at).map(|relay| relay.number)
}

impl GhostRelays {
    /// A message as the relay would have sent it to the replayed agent.
    pub(super) fn message(
        &mut self,
        from: SocketAddr,
        recorded: &[u8],
        relays: &[Relay],
        grant: Option<&RelayGrant>,
    ) -> Vec<u8> {
        self.signed(from, recorded, relays, grant).unwrap_or_else(|| recorded.to_vec())
    }

    fn signed(
        &mut self,
        from: SocketAddr,
        recorded: &[u8],
        relays: &[Relay],
        grant: Option<&RelayGrant>,
    ) -> Option<Vec<u8>> {
        let message = Message::parse(recorded).ok()?;
        let number = at(relays, from)?;
        if let Some(realm) = message.get(REALM) {
            self.0.insert(number, realm.to_vec());
        }
        message.get(MESSAGE_INTEGRITY)?;
        let (grant, realm) = (grant?, self.0.get(&number)?);
        let login = grant.logins.iter().find(|login| login.relay == number)?;
        let key = SharedPassword::from_mac(&login.mac.0).key(grant.user.as_bytes(), realm);
        let mut out = vec![0; recorded.len() + 64];
        let mut writer =
            MessageWriter::new(message.kind(), message.transaction(), &mut out).ok()?;
        let ends = [MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, FINGERPRINT];
        for (kind, value) in message.attributes().filter(|(kind, _)| !ends.contains(kind)) {
            writer.attribute(kind, value).ok()?;
        }
        key.sign(Algorithm::Sha1, &mut writer).ok()?;
        let len = writer.finish_bare();
        out.truncate(len);
        Some(out)
    }
}
