//! What two agents tell each other before they meet: `call`, `call_ack`, `go`.
//!
//! Over the broker they travel as items of sealed records, and the coordinator
//! turns `peer` from the callee into the caller. Over a relay path the same
//! bodies travel inside probes, so none exceeds [`SIGNAL_LEN`] bytes and none
//! holds a key, a PSK or a name.

use core::net::SocketAddr;

use serde::{Deserialize as De, Serialize as Ser};

use crate::body::{Reader, Writer};
use crate::id::DeviceId;
use crate::item::{Item, item};

/// The longest body, in bytes.
pub const SIGNAL_LEN: usize = 256;

/// The most candidates in one message.
pub const CANDIDATES: usize = 8;

/// What kind of address a candidate is (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Ser, De)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// Told by a port mapping protocol.
    Mapped,
    /// Seen by a STUN server.
    ServerReflexive,
    /// At a relay.
    Relayed,
    /// Written down by an operator.
    Configured,
}

crate::body!(enum CandidateKind, else Self::Host; {
    0 = Host, 1 = Mapped, 2 = ServerReflexive, 3 = Relayed, 4 = Configured,
});

/// An address where a device may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Ser, De)]
pub struct Candidate {
    /// How it is known.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

crate::body!(struct Candidate { kind, address });

/// How a NAT chooses ports (RFC 4787), as far as the device could tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Ser, De)]
pub enum Mapping {
    /// Not tested.
    #[default]
    Unknown,
    /// No NAT, or the same port for every destination.
    EndpointIndependent,
    /// A constant small step per destination.
    Sequential(i16),
    /// A block of this many ports.
    Window(u16),
    /// No pattern.
    Random,
    /// No UDP at all.
    Blocked,
}

crate::body!(enum Mapping, else Self::Unknown; {
    0 = Unknown, 1 = EndpointIndependent, 2 = Sequential(value), 3 = Window(value), 4 = Random,
    5 = Blocked,
});

/// What a device knows of its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Ser, De)]
pub struct NatReport {
    /// How ports are chosen.
    pub mapping: Mapping,
    /// How long an idle binding lives, in seconds; 0 = not measured.
    pub lifetime_s: u16,
    /// Age of this report, in milliseconds.
    pub age_ms: u32,
}

crate::body!(struct NatReport { mapping, lifetime_s, age_ms });

item!(
    /// "I have a packet for you; here is where I am."
    60 Call {
        /// Id of the call, drawn by the caller.
        call: u32,
        /// Up: the callee. Down: the caller.
        peer: DeviceId,
        /// Handle that probes to the sender carry.
        receiver: u32,
        /// The sender's network.
        nat: NatReport,
        /// Round trip to the coordinator, in milliseconds; 0 = not measured.
        rtt_ms: u16,
        /// Where the sender may be reached, best first.
        candidates: heapless::Vec<Candidate, CANDIDATES>,
    }
);

item!(
    /// "I heard your call; here is where I am."
    61 CallAck {
        /// Of the call.
        call: u32,
        /// Up: the caller. Down: the callee.
        peer: DeviceId,
        /// Handle that probes to the sender carry.
        receiver: u32,
        /// The sender's network.
        nat: NatReport,
        /// Round trip to the coordinator, in milliseconds; 0 = not measured.
        rtt_ms: u16,
        /// Where the sender may be reached, best first.
        candidates: heapless::Vec<Candidate, CANDIDATES>,
    }
);

item!(
    /// "Start the burst after this delay."
    62 Go {
        /// Of the call.
        call: u32,
        /// Up: the receiver. Down: the sender.
        peer: DeviceId,
        /// Milliseconds.
        delay_ms: u16,
    }
);

item!(
    /// The coordinator could not forward a call.
    63 CallFailed {
        /// Of the call.
        call: u32,
        /// The callee.
        peer: DeviceId,
        /// Why, see [`crate::verdict::CallFailure`].
        code: u16,
    }
);

/// Writes a signal as it travels in a probe; returns its length. `None` without
/// room.
pub fn put<T: Item>(signal: &T, room: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(room);
    signal.put(&mut writer);
    writer.written()
}

/// Reads what a probe carries: a signal, and zero bytes behind it.
pub fn take<T: Item>(body: &[u8]) -> Option<T> {
    let mut reader = Reader::new(body);
    let signal = T::take(&mut reader);
    reader.rest()?.iter().all(|byte| *byte == 0).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_call_fits_a_probe() {
        let address: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let candidate = Candidate { kind: CandidateKind::Configured, address };
        let call = Call {
            call: u32::MAX,
            peer: DeviceId(u32::MAX),
            receiver: u32::MAX,
            nat: NatReport {
                mapping: Mapping::Sequential(i16::MIN),
                lifetime_s: u16::MAX,
                age_ms: u32::MAX,
            },
            rtt_ms: u16::MAX,
            candidates: core::iter::repeat_n(candidate, CANDIDATES).collect(),
        };
        let mut buffer = [0; 512];
        let len = postcard::to_slice(&call, &mut buffer).unwrap().len();
        assert!(len <= SIGNAL_LEN, "{len}");
        let mut body = [0; SIGNAL_LEN];
        assert_eq!(put(&call, &mut body), Some(len));
        assert_eq!(take::<Call>(&body).map(|call| call.candidates.len()), Some(CANDIDATES));
        assert!(take::<Call>(&body[..len]).is_some());
        assert!(take::<Call>(&body[..len - 1]).is_none(), "cut");
        body[SIGNAL_LEN - 1] = 1;
        assert!(take::<Call>(&body).is_none(), "only zeroes fill it up");
    }
}
