//! Packets from and to bytes, behind one trait.
//!
//! The decoder is rumqttd's (`protocol::v4`, `protocol::v5`). What is known of
//! it and dealt with here: its v5 decoder panics on packets that only servers
//! send, so [`super::packet::frame`] lets none through; `Publish.qos` and
//! `.pkid` are private, so they are read from the raw bytes; its v5 DISCONNECT
//! writer emits a byte more than the remaining length says, and its PUBLISH
//! writer cannot do QoS 1, so both are written here.

use bytes::{Bytes, BytesMut};
use rumqttd::protocol as mqtt;

use super::packet::{
    Connect, ConnectCode, Filter, IN_FLIGHT, In, Kind, Level, MAX_PACKET, Out, Publish, Qos,
};

/// A whole packet that does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Decodes and encodes one level of the protocol.
pub trait Codec: Send + Sync {
    /// Decodes `packet`, exactly one packet whose type is `kind`, as
    /// [`super::packet::frame`] found it.
    ///
    /// # Errors
    ///
    /// [`Malformed`] whatever is wrong.
    fn decode(&self, kind: Kind, packet: BytesMut) -> Result<In, Malformed>;

    /// Appends a packet.
    fn encode(&self, packet: &Out<'_>, buffer: &mut BytesMut);
}

/// The codec for a level.
pub fn for_level(level: Level) -> &'static dyn Codec {
    match level {
        Level::V4 => &V4,
        Level::V5 => &V5,
    }
}

/// The protocol level of a CONNECT, without decoding it; `None` for levels and
/// protocol names that are not spoken here (3.1.2.1, 3.1.2.2).
pub fn level(packet: &[u8]) -> Option<Level> {
    match variable_header(packet)? {
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Some(Level::V4),
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Level::V5),
        _ => None,
    }
}

/// What follows the fixed header.
fn variable_header(packet: &[u8]) -> Option<&[u8]> {
    let length = packet.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    packet.get(length + 2..)
}

/// Offset of the connect flags in the variable header.
const CONNECT_FLAGS: usize = 7;

/// rumqttd's CONNECT decoder looks at neither the reserved flag (3.1.2.3) nor
/// the form of the will.
fn connect_flags(packet: &[u8]) -> Result<u8, Malformed> {
    let flags =
        *variable_header(packet).and_then(|header| header.get(CONNECT_FLAGS)).ok_or(Malformed)?;
    if flags & 1 == 0 { Ok(flags) } else { Err(Malformed) }
}

/// Quality of service and packet id from a PUBLISH's raw bytes.
fn publish_head(packet: &[u8]) -> Result<(u8, u16), Malformed> {
    let qos = (packet.first().ok_or(Malformed)? >> 1) & 3;
    if qos == 0 {
        return Ok((0, 0));
    }
    let header = variable_header(packet).ok_or(Malformed)?;
    let (length, rest) = header.split_first_chunk::<2>().ok_or(Malformed)?;
    let id = rest
        .get(usize::from(u16::from_be_bytes(*length))..)
        .and_then(<[u8]>::first_chunk::<2>)
        .ok_or(Malformed)?;
    Ok((qos, u16::from_be_bytes(*id)))
}

fn connect(
    connect: mqtt::Connect,
    properties: Option<mqtt::ConnectProperties>,
    login: Option<mqtt::Login>,
    flags: u8,
) -> In {
    let (user, password) = login.map_or_else(Default::default, |l| (l.username, l.password));
    In::Connect(Box::new(Connect {
        client_id: connect.client_id,
        user,
        password,
        keep_alive_s: connect.keep_alive,
        will: flags & 4 != 0,
        extended_authentication: properties
            .as_ref()
            .is_some_and(|p| p.authentication_method.is_some() || p.authentication_data.is_some()),
        receive_maximum: properties.as_ref().and_then(|p| p.receive_maximum),
        maximum_packet: properties.as_ref().and_then(|p| p.max_packet_size),
    }))
}

/// The properties of a PUBLISH that are answered by closing. The payload format
/// indicator, the expiry and the content type say nothing about the payload's
/// bytes and do no harm.
fn foreign(properties: &mqtt::PublishProperties) -> bool {
    properties.topic_alias.is_some()
        || properties.response_topic.is_some()
        || properties.correlation_data.is_some()
        || !properties.user_properties.is_empty()
        || !properties.subscription_identifiers.is_empty()
}

fn decode(
    protocol: &mut impl mqtt::Protocol,
    kind: Kind,
    mut packet: BytesMut,
) -> Result<In, Malformed> {
    // These two have nothing to decode, and rumqttd refuses a legal DISCONNECT
    // of one byte (3.14.2.2.1).
    match kind {
        Kind::PingReq if packet.len() == 2 => return Ok(In::PingReq),
        Kind::PingReq => return Err(Malformed),
        Kind::Disconnect => return Ok(In::Disconnect),
        Kind::Connect | Kind::Publish | Kind::PubAck | Kind::Subscribe => {}
    }
    let flags = if kind == Kind::Connect { connect_flags(&packet)? } else { 0 };
    let (qos, id) = if kind == Kind::Publish { publish_head(&packet)? } else { (0, 0) };
    match protocol.read_mut(&mut packet, MAX_PACKET).map_err(|_| Malformed)? {
        mqtt::Packet::Connect(packet, properties, _, _, login) => {
            Ok(connect(packet, properties, login, flags))
        }
        mqtt::Packet::Publish(publish, properties) => Ok(In::Publish(Publish {
            qos,
            id,
            retain: publish.retain,
            foreign_properties: properties.as_ref().is_some_and(foreign),
            topic: publish.topic,
            payload: publish.payload,
        })),
        mqtt::Packet::PubAck(ack, _) => Ok(In::PubAck(ack.pkid)),
        mqtt::Packet::Subscribe(subscribe, properties) => Ok(In::Subscribe {
            id: subscribe.pkid,
            filters: subscribe
                .filters
                .into_iter()
                .map(|filter| Filter { path: filter.path, qos: filter.qos as u8 })
                .collect(),
            subscription_id: properties.is_some_and(|p| p.id.is_some()),
        }),
        _ => Err(Malformed),
    }
}

/// Writes what both levels share through rumqttd's encoder.
fn write(protocol: &impl mqtt::Protocol, packet: mqtt::Packet, buffer: &mut BytesMut) {
    let before = buffer.len();
    if let Err(error) = protocol.write(packet, buffer) {
        // Only a packet id of zero or 256 MiB can fail, and neither is made
        // here; half a packet must not stay.
        buffer.truncate(before);
        tracing::error!(%error, "mqtt.not-encoded");
    }
}

fn connack(code: mqtt::ConnectReturnCode) -> mqtt::ConnAck {
    mqtt::ConnAck { session_present: false, code }
}

fn suback(id: u16, granted: &[Qos]) -> mqtt::Packet {
    let return_codes = granted
        .iter()
        .map(|qos| match qos {
            Qos::Zero => mqtt::SubscribeReasonCode::QoS0,
            Qos::One => mqtt::SubscribeReasonCode::QoS1,
        })
        .collect();
    mqtt::Packet::SubAck(mqtt::SubAck { pkid: id, return_codes }, None)
}

fn puback(id: u16) -> mqtt::Packet {
    let reason = mqtt::PubAckReason::Success;
    mqtt::Packet::PubAck(mqtt::PubAck { pkid: id, reason }, None)
}

/// Bytes of a PUBLISH to a client, for the check against its longest packet.
pub fn publish_len(level: Level, topic: &str, qos: Qos, payload: usize) -> usize {
    let properties = usize::from(level == Level::V5);
    let id = if qos == Qos::One { 2 } else { 0 };
    let remaining = 2 + topic.len() + id + properties + payload;
    1 + length_len(remaining) + remaining
}

const fn length_len(remaining: usize) -> usize {
    match remaining {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_publish(level: Level, topic: &str, id: Option<u16>, payload: &[u8], buffer: &mut BytesMut) {
    let id_len = if id.is_some() { 2 } else { 0 };
    let properties: &[u8] = if level == Level::V5 { &[0] } else { &[] };
    let mut remaining = 2 + topic.len() + id_len + properties.len() + payload.len();
    buffer.reserve(5 + remaining);
    buffer.extend_from_slice(&[if id.is_some() { 0x32 } else { 0x30 }]);
    while remaining >= 0x80 {
        buffer.extend_from_slice(&[remaining as u8 | 0x80]);
        remaining >>= 7;
    }
    buffer.extend_from_slice(&[remaining as u8]);
    buffer.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    buffer.extend_from_slice(topic.as_bytes());
    if let Some(id) = id {
        buffer.extend_from_slice(&id.to_be_bytes());
    }
    buffer.extend_from_slice(properties);
    buffer.extend_from_slice(payload);
}

/// MQTT 3.1.1.
struct V4;

impl Codec for V4 {
    fn decode(&self, kind: Kind, packet: BytesMut) -> Result<In, Malformed> {
        decode(&mut mqtt::v4::V4, kind, packet)
    }

    fn encode(&self, packet: &Out<'_>, buffer: &mut BytesMut) {
        use mqtt::ConnectReturnCode as Code;
        let packet = match packet {
            Out::ConnAck(code) => {
                // rumqttd panics on codes that 3.1.1 does not know.
                let code = match code {
                    ConnectCode::Success => Code::Success,
                    ConnectCode::ClientId => Code::ClientIdentifierNotValid,
                    ConnectCode::Credentials => Code::BadUserNamePassword,
                    ConnectCode::NotAuthorized => Code::NotAuthorized,
                    ConnectCode::Busy => Code::ServiceUnavailable,
                };
                mqtt::Packet::ConnAck(connack(code), None)
            }
            Out::Admitted(_) => {
                mqtt::Packet::ConnAck(connack(mqtt::ConnectReturnCode::Success), None)
            }
            Out::Publish { topic, id, payload } => {
                return put_publish(Level::V4, topic, *id, payload, buffer);
            }
            Out::PubAck(id) => puback(*id),
            Out::SubAck { id, granted } => suback(*id, granted),
            Out::PingResp => mqtt::Packet::PingResp(mqtt::PingResp),
            Out::Disconnect(_) => return,
        };
        write(&mqtt::v4::V4, packet, buffer);
    }
}

/// MQTT 5.
struct V5;

/// What the CONNACK of an admitted MQTT 5 client says (3.2.2.3). Topic alias
/// maximum is absent, which means 0.
fn limits() -> mqtt::ConnAckProperties {
    mqtt::ConnAckProperties {
        session_expiry_interval: Some(0),
        receive_max: Some(IN_FLIGHT),
        max_qos: Some(1),
        retain_available: Some(0),
        max_packet_size: Some(MAX_PACKET as u32),
        wildcard_subscription_available: Some(0),
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(0),
        ..Default::default()
    }
}

impl Codec for V5 {
    fn decode(&self, kind: Kind, packet: BytesMut) -> Result<In, Malformed> {
        decode(&mut mqtt::v5::V5, kind, packet)
    }

    fn encode(&self, packet: &Out<'_>, buffer: &mut BytesMut) {
        use mqtt::ConnectReturnCode as Code;
        let packet = match packet {
            Out::ConnAck(code) => {
                let properties = (*code == ConnectCode::Success).then(limits);
                let code = match code {
                    ConnectCode::Success => Code::Success,
                    ConnectCode::ClientId => Code::ClientIdentifierNotValid,
                    ConnectCode::Credentials => Code::BadUserNamePassword,
                    ConnectCode::NotAuthorized => Code::NotAuthorized,
                    ConnectCode::Busy => Code::ServerBusy,
                };
                mqtt::Packet::ConnAck(connack(code), properties)
            }
            Out::Admitted(keep_alive_s) => {
                let server_keep_alive = Some(*keep_alive_s);
                let properties = mqtt::ConnAckProperties { server_keep_alive, ..limits() };
                mqtt::Packet::ConnAck(connack(Code::Success), Some(properties))
            }
            Out::Publish { topic, id, payload } => {
                return put_publish(Level::V5, topic, *id, payload, buffer);
            }
            Out::PubAck(id) => puback(*id),
            Out::SubAck { id, granted } => suback(*id, granted),
            Out::PingResp => mqtt::Packet::PingResp(mqtt::PingResp),
            Out::Disconnect(code) => {
                return buffer.extend_from_slice(&[0xE0, 2, *code as u8, 0]);
            }
        };
        write(&mqtt::v5::V5, packet, buffer);
    }
}

/// A payload as its own memory, cut loose from the read buffer.
pub fn detach(view: &Bytes) -> Bytes {
    Bytes::copy_from_slice(view)
}
