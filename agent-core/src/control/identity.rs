//! Who a device is: what it must not lose.

use serde::{Deserialize, Serialize};
use weft_noise::key::StaticSecret;
use weft_noise::mac;
use weft_wire::body::{Body, Reader, Writer};
use weft_wire::id::{
    DeviceId, Inbox, KeyId, Name, NetworkId, OrganisationId, PublicKey, Secret, ShortSecret,
};
use weft_wire::join::JoinString;
use weft_wire::login::{self, PasswordText};
use weft_wire::map::SecondKind;
use weft_wire::topic::{self, USER_LEN};

use crate::entropy::Entropy;

/// Everything about a device that survives restarts and is secret: both private
/// keys, the coordinator's pin, and what enrolment gave. About 350 bytes in
/// postcard; where and how it is stored is the shell's business.
///
/// No `Debug`, no `Clone`; keys are erased when it is dropped.
#[derive(Serialize, Deserialize)]
pub struct Identity {
    /// X25519 private key of the control channel, for the device's life.
    pub identity_key: Secret,
    /// X25519 private key of the tunnel.
    pub wireguard_key: Secret,
    /// The coordinator's static key: the pin.
    pub coordinator: PublicKey,
    /// The coordinator's next static key, when a change was announced.
    pub next_coordinator: Option<PublicKey>,
    /// Taken in already, or not yet.
    pub membership: Membership,
    /// A second private key of the tunnel while it rotates. Files from before
    /// there was a rotation end before it.
    pub second_wireguard: Option<SecondWireguard>,
}

weft_wire::body!(struct Identity {
    identity_key, wireguard_key, coordinator, next_coordinator, membership, second_wireguard,
});

/// A second private key of the tunnel.
#[derive(Serialize, Deserialize)]
pub struct SecondWireguard {
    /// The key.
    pub key: Secret,
    /// Next or previous.
    pub kind: SecondKind,
}

weft_wire::body!(struct SecondWireguard { key, kind });

/// How a device stands towards its network.
#[derive(Serialize, Deserialize)]
pub enum Membership {
    /// Has a join string and asks to be taken in.
    Enrolling(Enrolment),
    /// Was taken in (or waits for an operator's yes).
    Member(Member),
}

impl Body for Membership {
    fn put(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Enrolling(enrolment) => {
                writer.byte(0);
                enrolment.put(writer);
            }
            Self::Member(member) => {
                writer.byte(1);
                member.put(writer);
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Self {
        match reader.number(32) {
            0 => Self::Enrolling(Body::take(reader)),
            1 => Self::Member(Body::take(reader)),
            _ => {
                reader.fail();
                Self::Member(Body::take(reader))
            }
        }
    }
}

/// What of a join string is needed to enrol.
#[derive(Serialize, Deserialize)]
pub struct Enrolment {
    /// The enrolment key's public reference.
    pub key: KeyId,
    /// The enrolment key's secret.
    pub psk: Secret,
    /// Unix time in seconds after which the broker refuses the token.
    pub token_expiry: u32,
    /// The broker's token.
    pub token: ShortSecret,
    /// Host number that the device held before, or 0.
    pub host: u32,
}

weft_wire::body!(struct Enrolment { key, psk, token_expiry, token, host });

/// What enrolment gave.
#[derive(Serialize, Deserialize)]
pub struct Member {
    /// The device's id.
    pub device: DeviceId,
    /// Its network.
    pub network: NetworkId,
    /// Its organisation.
    pub organisation: OrganisationId,
    /// Its name.
    pub name: Name,
    /// The network's name.
    pub network_name: Name,
    /// Where it receives.
    pub inbox: Inbox,
    /// MQTT password for that inbox.
    pub password: ShortSecret,
    /// Unix time in seconds after which the broker refuses the password.
    pub password_expiry: u32,
    /// PSK of HELLO with kind "device".
    pub psk: Secret,
    /// Version of the master that the PSK is derived from.
    pub master: u8,
}

weft_wire::body!(struct Member {
    device, network, organisation, name, network_name, inbox, password, password_expiry, psk,
    master,
});

impl Identity {
    /// A new device with new keys that will enrol with this join string. Keep
    /// the join string's addresses too: they are not part of the identity.
    pub fn generate(join: &JoinString, entropy: &mut dyn Entropy) -> Self {
        Self {
            identity_key: StaticSecret::generate(entropy).to_secret(),
            wireguard_key: StaticSecret::generate(entropy).to_secret(),
            coordinator: join.coordinator,
            next_coordinator: None,
            membership: Membership::Enrolling(Enrolment {
                key: join.key,
                psk: join.psk.duplicate(),
                token_expiry: join.token.expiry,
                token: join.token.mac.duplicate(),
                host: 0,
            }),
            second_wireguard: None,
        }
    }

    /// Which machine this is, by what tells it from others (an id, a serial number),
    /// without saying which to anybody who knows it from elsewhere: salted with the
    /// coordinator's key. One that has nothing of the kind is told apart by its own key.
    pub fn fingerprint(&self, machine: &[u8]) -> [u8; 32] {
        let key = StaticSecret::from_bytes(self.identity_key.0).public();
        let machine = if machine.is_empty() { &key.0[..] } else { machine };
        mac::keyed_hash(&self.coordinator.0, &[b"weft machine v1", machine])
    }

    /// What enrolment gave, if it is done.
    pub const fn member(&self) -> Option<&Member> {
        match &self.membership {
            Membership::Member(member) => Some(member),
            Membership::Enrolling(_) => None,
        }
    }
}

/// What the MQTT line is opened with. A shell that uses a foreign broker puts
/// that broker's account in place of user and password; the client id stays.
pub struct Credentials {
    /// Client id, and the inbox to subscribe to (`weft/v1/d/<inbox>`).
    pub inbox: Inbox,
    /// User name.
    pub user: heapless::String<USER_LEN>,
    /// Password. A secret: not to be logged.
    pub password: PasswordText,
}

impl Credentials {
    pub(super) fn enrolling(inbox: Inbox, enrolment: &Enrolment) -> Self {
        Self {
            inbox,
            user: topic::enrolment_user(enrolment.key),
            password: login::password(enrolment.token_expiry, &enrolment.token),
        }
    }

    pub(super) fn member(member: &Member) -> Self {
        Self {
            inbox: member.inbox,
            user: member.inbox.text(),
            password: login::password(member.password_expiry, &member.password),
        }
    }
}
