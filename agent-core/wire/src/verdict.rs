//! Codes that travel between programs and become sentences at the edge.
//!
//! Why a pair is reached as it is has a catalogue: [`catalogue`] holds every
//! verdict with its number, its code and its sentence in both languages, so that
//! what a device, the coordinator and a panel say of a pair are the same words.

pub mod catalogue;
pub mod nat;
pub mod value;

/// About what a way that is kept open costs each side, in kB a day: a ping and its
/// answer, 184 bytes with what is around them, every 96 s.
pub const WARM_KB: u64 = 170;

pub use catalogue::{Advice, Language, Verdict};
pub use value::{Value, fill};

/// Why a [`crate::item::Register`] was refused. Texts: `weft join` errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum Refusal {
    /// `join.key-expired`; `at_ms` = when, `text` = the key's name.
    KeyExpired = 1,
    /// `join.key-used-up`; numbers = uses, most uses; `text` = the key's name.
    KeyUsedUp = 2,
    /// `join.key-revoked`; `at_ms` = when, `text` = the key's name.
    KeyRevoked = 3,
    /// `join.rejected`; `text` = an operator's sentence.
    Rejected = 4,
    /// `join.network-full`; numbers = used, capacity; `text` = the network.
    NetworkFull = 5,
    /// The device was deleted and not forgotten yet; a key does not bring it back.
    Tombstoned = 6,
    /// The name or abilities are not possible.
    Malformed = 7,
    /// The coordinator cannot write now (`serve.disk-full`); try later.
    Unavailable = 8,
    /// The WireGuard key belongs to another device.
    KeyInUse = 9,
    /// The device was blocked by an operator.
    Blocked = 10,
    /// `join.clone`; another machine uses this identity and is the device.
    Cloned = 11,
}

impl Refusal {
    /// Reads a code; `None` for one of a newer coordinator.
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::KeyExpired,
            2 => Self::KeyUsedUp,
            3 => Self::KeyRevoked,
            4 => Self::Rejected,
            5 => Self::NetworkFull,
            6 => Self::Tombstoned,
            7 => Self::Malformed,
            8 => Self::Unavailable,
            9 => Self::KeyInUse,
            10 => Self::Blocked,
            11 => Self::Cloned,
            _ => return None,
        })
    }
}

/// Why a call was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum CallFailure {
    /// The callee holds no session.
    Offline = 1,
    /// No rule joins the two, or there is no such device.
    Denied = 2,
    /// More than one call per pair and 5 s.
    TooMany = 3,
}

impl CallFailure {
    /// Reads a code; `None` for one of a newer coordinator.
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Offline,
            2 => Self::Denied,
            3 => Self::TooMany,
            _ => return None,
        })
    }
}

/// How looking for a direct way to a peer ended ([`crate::path::Attempt`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum AttemptEnd {
    /// An address answered, or the peer came.
    Found = 1,
    /// What the peer named was tried, and nothing answered.
    NoAnswer = 2,
    /// The peer did not answer the call.
    NoAck = 3,
    /// The coordinator could not forward the call: the peer holds no session.
    Offline = 4,
    /// The coordinator did not forward the call: no rule joins the two.
    Denied = 5,
    /// The peer named no address that could be tried, and did not come.
    NoCandidate = 6,
    /// Addresses answered or not: the tunnel's handshake was not answered.
    NoHandshake = 7,
    /// A direct way was there and stopped answering.
    Lost = 8,
    /// As [`AttemptEnd::Found`], at a port that was reckoned; the number of probes
    /// says which after the last known one it was.
    Predicted = 9,
    /// As [`AttemptEnd::Found`], by a search among many ports; the number of probes
    /// is that of the search.
    Searched = 10,
    /// As [`AttemptEnd::NoAnswer`], and ports that could be searched are not: the
    /// reporter's network is paid by the byte.
    NotSearched = 11,
    /// As [`AttemptEnd::NoAnswer`], and relays refuse the reporter.
    Refused = 12,
}

impl AttemptEnd {
    /// Reads a code; `None` for one of a newer device.
    pub const fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Found,
            2 => Self::NoAnswer,
            3 => Self::NoAck,
            4 => Self::Offline,
            5 => Self::Denied,
            6 => Self::NoCandidate,
            7 => Self::NoHandshake,
            8 => Self::Lost,
            9 => Self::Predicted,
            10 => Self::Searched,
            11 => Self::NotSearched,
            12 => Self::Refused,
            _ => return None,
        })
    }

    /// The word in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::NoAnswer => "no_answer",
            Self::NoAck => "no_ack",
            Self::Offline => "offline",
            Self::Denied => "denied",
            Self::NoCandidate => "no_candidate",
            Self::NoHandshake => "no_handshake",
            Self::Lost => "lost",
            Self::Predicted => "predicted",
            Self::Searched => "searched",
            Self::NotSearched => "not_searched",
            Self::Refused => "refused",
        }
    }

    /// Whether there was a way then.
    pub const fn is_found(self) -> bool {
        matches!(self, Self::Found | Self::Predicted | Self::Searched)
    }

    /// Whether pings went to what the peer named, and nothing answered.
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Self::NoAnswer | Self::NotSearched | Self::Refused)
    }
}
