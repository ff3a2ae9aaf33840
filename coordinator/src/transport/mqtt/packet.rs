//! MQTT packets as this broker sees them, and where one ends in a stream.
//!
//! The types are ours, so that the decoder behind [`super::codec::Codec`] can
//! be replaced; they hold only what the broker acts on.

use std::time::Duration;

use bytes::Bytes;

/// The version of the protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// Quality of service. 2 is never spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// At most once.
    Zero,
    /// At least once.
    One,
}

/// What a CONNECT says.
#[derive(Clone, Default)]
pub struct Connect {
    /// Client id.
    pub client_id: String,
    /// User name, empty when none was sent.
    pub user: String,
    /// Password, empty when none was sent.
    pub password: String,
    /// Seconds between packets that the client promises; 0 = none.
    pub keep_alive_s: u16,
    /// Whether it holds a last will.
    pub will: bool,
    /// Whether it asks for MQTT 5's extended authentication.
    pub extended_authentication: bool,
    /// How many unacknowledged QoS 1 packets the client takes.
    pub receive_maximum: Option<u16>,
    /// The longest packet that the client takes, in bytes.
    pub maximum_packet: Option<u32>,
}

/// What a PUBLISH says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Quality of service as sent, 0 to 2.
    pub qos: u8,
    /// Packet id; 0 with QoS 0.
    pub id: u16,
    /// Whether it is to be kept.
    pub retain: bool,
    /// Whether it carries an MQTT 5 property that is refused here: topic alias,
    /// response topic, correlation data, user properties, subscription ids.
    pub foreign_properties: bool,
    /// Topic; never an alias.
    pub topic: Bytes,
    /// Payload. It is a view into the connection's read buffer: copy before
    /// keeping it.
    pub payload: Bytes,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The topic filter.
    pub path: String,
    /// Requested quality of service, 0 to 2.
    pub qos: u8,
}

/// A packet from a client.
pub enum In {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK: the client has this packet.
    PubAck(u16),
    /// SUBSCRIBE.
    Subscribe {
        /// Packet id.
        id: u16,
        /// Filters, at least one.
        filters: Vec<Filter>,
        /// Whether it carries a subscription id, which is refused.
        subscription_id: bool,
    },
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect,
}

/// Why a CONNECT was not accepted, as far as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// Welcome.
    Success,
    /// The client id is not allowed.
    ClientId,
    /// User name or password do not fit.
    Credentials,
    /// Understood and not permitted.
    NotAuthorized,
    /// Too many at once; try later.
    Busy,
}

/// Why the server ends a connection, as far as an MQTT 5 client is told
/// (3.14.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DisconnectCode {
    /// Malformed packet.
    Malformed = 0x81,
    /// Protocol error.
    Protocol = 0x82,
    /// Not authorised.
    NotAuthorized = 0x87,
    /// Server shutting down.
    ShuttingDown = 0x8B,
    /// Keep alive time-out.
    KeepAlive = 0x8D,
    /// Session taken over.
    TakenOver = 0x8E,
    /// Topic filter invalid.
    TopicFilter = 0x8F,
    /// Topic name invalid.
    TopicName = 0x90,
    /// Topic alias invalid.
    TopicAlias = 0x94,
    /// Packet too large.
    PacketTooLarge = 0x95,
    /// Administrative action.
    Administrative = 0x98,
    /// Retain not supported.
    Retain = 0x9A,
    /// QoS not supported.
    Qos = 0x9B,
    /// Maximum connect time.
    MaximumConnectTime = 0xA0,
}

/// A packet to a client.
pub enum Out<'a> {
    /// CONNACK; the session is never present.
    ConnAck(ConnectCode),
    /// CONNACK for a client that is to promise a packet this often, in seconds,
    /// and not as it wanted: MQTT 3.1.1 has no word for that.
    Admitted(u16),
    /// PUBLISH.
    Publish {
        /// Topic.
        topic: &'a str,
        /// Packet id for QoS 1.
        id: Option<u16>,
        /// Payload.
        payload: &'a [u8],
    },
    /// PUBACK: this packet was taken.
    PubAck(u16),
    /// SUBACK: granted, one per filter.
    SubAck {
        /// Packet id.
        id: u16,
        /// One per filter.
        granted: &'a [Qos],
    },
    /// PINGRESP.
    PingResp,
    /// DISCONNECT (MQTT 5 only; nothing is written for 3.1.1).
    Disconnect(DisconnectCode),
}

/// The keep alive a client may ask for, in seconds.
pub const KEEP_ALIVE_S: std::ops::RangeInclusive<u16> = 1..=1_200;
/// The longest packet taken once a client is admitted, in bytes.
pub const MAX_PACKET: usize = 4_096;
/// The longest CONNECT, in bytes.
pub const MAX_CONNECT: usize = 512;
/// Unacknowledged QoS 1 packets in each direction.
pub const IN_FLIGHT: u16 = 8;
/// A client may be silent for one and a half keep alives (3.1.2.10).
pub const fn silence(keep_alive_s: u16) -> Duration {
    Duration::from_millis(keep_alive_s as u64 * 1_500)
}

/// The control packet types of MQTT (2.1.2) that clients may send here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1, once.
    Connect,
    /// 3.
    Publish,
    /// 4.
    PubAck,
    /// 8.
    Subscribe,
    /// 12.
    PingReq,
    /// 14.
    Disconnect,
}

/// Why bytes do not begin an acceptable packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A type that no client may send here, or flags it must not have. The
    /// decoder never sees it: some decoders panic on packets for clients.
    Kind,
    /// The remaining length does not end within four bytes.
    Length,
    /// Longer than allowed at this point.
    TooLong,
}

/// Where the first packet of `bytes` ends: its type and whole length, or `None`
/// while the fixed header is incomplete. The packet itself may be incomplete.
///
/// # Errors
///
/// [`FrameError`], before more than five bytes were looked at.
pub fn frame(bytes: &[u8], limit: usize) -> Result<Option<(Kind, usize)>, FrameError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (kind, flags) = match first >> 4 {
        1 => (Kind::Connect, 0),
        3 => (Kind::Publish, first & 0x0F),
        4 => (Kind::PubAck, 0),
        8 => (Kind::Subscribe, 2),
        12 => (Kind::PingReq, 0),
        14 => (Kind::Disconnect, 0),
        _ => return Err(FrameError::Kind),
    };
    if first & 0x0F != flags {
        return Err(FrameError::Kind);
    }
    let mut remaining = 0usize;
    for (at, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let whole = 2 + at + remaining;
            return if whole > limit { Err(FrameError::TooLong) } else { Ok(Some((kind, whole))) };
        }
    }
    if rest.len() >= 4 { Err(FrameError::Length) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_clients_send_is_framed() {
        for first in 0..=255u8 {
            let framed = frame(&[first, 2, 0, 1], MAX_PACKET);
            let expected = match first {
                0x10 => Some(Kind::Connect),
                0x30..=0x3F => Some(Kind::Publish),
                0x40 => Some(Kind::PubAck),
                0x82 => Some(Kind::Subscribe),
                0xC0 => Some(Kind::PingReq),
                0xE0 => Some(Kind::Disconnect),
                _ => None,
            };
            match expected {
                Some(kind) => assert_eq!(framed, Ok(Some((kind, 4))), "{first:#x}"),
                None => assert_eq!(framed, Err(FrameError::Kind), "{first:#x}"),
            }
        }
    }

    #[test]
    fn lengths_are_judged_before_the_bytes_came() {
        assert_eq!(frame(&[], 512), Ok(None));
        assert_eq!(frame(&[0x10], 512), Ok(None));
        assert_eq!(frame(&[0x10, 0x80], 512), Ok(None));
        assert_eq!(frame(&[0x10, 0xFF, 0x03], 514), Ok(Some((Kind::Connect, 514))));
        assert_eq!(frame(&[0x10, 0xFF, 0x03], 513), Err(FrameError::TooLong));
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], MAX_PACKET), Err(FrameError::TooLong));
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], MAX_PACKET), Err(FrameError::Length));
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF], MAX_PACKET), Ok(None));
    }
}
