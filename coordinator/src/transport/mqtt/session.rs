//! One admitted client, without input or output: packets and instants in,
//! verdicts out.
//!
//! The rules are DESIGN's: exact topics of the own inbox only, no retain, no
//! QoS 2, no MQTT 5 properties that could smuggle state, a silence deadline that
//! only a *whole* packet moves, and buckets that slow a client down (its socket
//! is not read) instead of collecting what it sends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::Inbox;
use weft_wire::topic::{Topic, TopicText};

use super::codec::publish_len;
use super::connect::Admission;
use super::packet::{DisconnectCode, Filter, IN_FLIGHT, In, Level, Publish, Qos, silence};
use crate::service::bus::Class;
use crate::service::limit::{Bucket, Rate};

/// Messages a client may send: SUBSCRIBE and PUBLISH. PUBACK and PINGREQ are
/// not counted (an honest chip that receives much sends many).
pub const MESSAGES: Rate = Rate::per_second(20, 40);
/// Bytes a client may send, of whatever kind.
pub const BYTES: Rate = Rate::per_second(16 * 1_024, 64 * 1_024);
/// How long an enrolling client may stay.
pub const ENROLMENT: Duration = Duration::from_secs(120);
/// How long a device may stay without an authentic record. Its password alone
/// is good for a year and outlives a block: who was put out must not hold a
/// connection with it.
pub const UNPROVEN: Duration = Duration::from_secs(120);
/// The most filters in one SUBSCRIBE; one is enough.
pub const FILTERS: usize = 8;

/// Why a connection of an admitted client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Close {
    /// The client said DISCONNECT.
    Said,
    /// The client closed its end, or the network did.
    Lost,
    /// A type of packet, or flags, that no client may send.
    Kind,
    /// A length that does not end, or a packet that does not decode.
    Malformed,
    /// A packet beyond the limit.
    TooLong,
    /// A second CONNECT.
    SecondConnect,
    /// A topic that is not one of the own inbox.
    ForeignTopic,
    /// A filter that is not the own inbox's.
    ForeignFilter,
    /// A message to be retained.
    Retain,
    /// Quality of service 2.
    Qos,
    /// A topic alias or another property that is refused.
    Properties,
    /// A payload that is empty or longer than any frame.
    Payload,
    /// Silence for one and a half keep alives.
    KeepAlive,
    /// An enrolling client's time is over.
    EnrolmentOver,
    /// A device's connection brought no authentic record in time.
    Unproven,
    /// The client did not take what was written to it in time.
    SlowReader,
    /// Another connection of the same client id took its place.
    TakenOver,
    /// The coordinator has no more use for this connection, or an operator
    /// ended it.
    Ended,
    /// The coordinator stops.
    Stopping,
}

impl Close {
    /// How many reasons there are.
    pub const COUNT: usize = Self::Stopping as usize + 1;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Said,
        Self::Lost,
        Self::Kind,
        Self::Malformed,
        Self::TooLong,
        Self::SecondConnect,
        Self::ForeignTopic,
        Self::ForeignFilter,
        Self::Retain,
        Self::Qos,
        Self::Properties,
        Self::Payload,
        Self::KeepAlive,
        Self::EnrolmentOver,
        Self::Unproven,
        Self::SlowReader,
        Self::TakenOver,
        Self::Ended,
        Self::Stopping,
    ];

    /// What an MQTT 5 client is told, or `None` when nobody listens any more.
    pub const fn code(self) -> Option<DisconnectCode> {
        Some(match self {
            Self::Said | Self::Lost | Self::SlowReader => return None,
            Self::Malformed => DisconnectCode::Malformed,
            Self::Kind | Self::SecondConnect | Self::Payload => DisconnectCode::Protocol,
            Self::TooLong => DisconnectCode::PacketTooLarge,
            Self::ForeignTopic => DisconnectCode::TopicName,
            Self::ForeignFilter => DisconnectCode::TopicFilter,
            Self::Retain => DisconnectCode::Retain,
            Self::Qos => DisconnectCode::Qos,
            Self::Properties => DisconnectCode::TopicAlias,
            Self::KeepAlive => DisconnectCode::KeepAlive,
            Self::EnrolmentOver | Self::Unproven => DisconnectCode::MaximumConnectTime,
            Self::TakenOver => DisconnectCode::TakenOver,
            Self::Ended => DisconnectCode::Administrative,
            Self::Stopping => DisconnectCode::ShuttingDown,
        })
    }
}

/// What to do about a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Nothing,
    /// Hand this frame to the coordinator; then, if there is an id, acknowledge
    /// it.
    Up {
        /// The frame, a view into the read buffer.
        frame: Bytes,
        /// Packet id of a QoS 1 PUBLISH.
        acknowledge: Option<u16>,
    },
    /// Answer a SUBSCRIBE with this, once per filter.
    Subscribed {
        /// Packet id.
        id: u16,
        /// Granted.
        granted: Qos,
        /// Number of filters.
        filters: usize,
    },
    /// Answer a PINGREQ.
    Pong,
    /// End the connection.
    Close(Close),
}

/// What to do about a frame that waits for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Send it, with this packet id if QoS 1 was granted.
    Send(Option<u16>),
    /// Too much is unacknowledged: wait for a PUBACK.
    Hold,
    /// The client did not subscribe.
    NotSubscribed,
    /// Longer than the client takes.
    TooLong,
}

/// Packets to the client that wait for a PUBACK. Ids are 1 to [`IN_FLIGHT`], a
/// bit each.
#[derive(Clone, Copy, Debug)]
struct Window {
    waiting: u8,
    limit: u16,
}

const _: () = assert!(IN_FLIGHT <= u8::BITS as u16);

impl Window {
    fn take(&mut self) -> Option<u16> {
        let id = self.waiting.trailing_ones() as u16;
        if id >= IN_FLIGHT || self.waiting.count_ones() >= u32::from(self.limit) {
            return None;
        }
        self.waiting |= 1 << id;
        Some(id + 1)
    }

    const fn acknowledge(&mut self, id: u16) {
        if id >= 1 && id <= IN_FLIGHT {
            self.waiting &= !(1 << (id - 1));
        }
    }
}

/// An admitted client.
#[derive(Debug)]
pub struct Session {
    inbox: Inbox,
    level: Level,
    keep_alive_s: u16,
    maximum_packet: u32,
    subscribed: Option<Qos>,
    window: Window,
    messages: Bucket,
    bytes: Bucket,
    heard_at: Instant,
    /// Ends at this instant whatever the client says, and why.
    ends: Option<(Instant, Close)>,
}

impl Session {
    /// Starts with the CONNECT that was just admitted.
    pub fn new(admission: &Admission, level: Level, now: Instant) -> Self {
        let ends = match admission.class {
            Class::Enrolling(_) => Some((now + ENROLMENT, Close::EnrolmentOver)),
            Class::Device => Some((now + UNPROVEN, Close::Unproven)),
            Class::Unknown => None,
        };
        Self {
            inbox: admission.inbox,
            level,
            keep_alive_s: admission.keep_alive_s,
            maximum_packet: admission.maximum_packet,
            subscribed: None,
            window: Window { waiting: 0, limit: admission.receive_maximum },
            messages: Bucket::new(now),
            bytes: Bucket::new(now),
            heard_at: now,
            ends,
        }
    }

    /// Where frames to this client go.
    pub fn down_topic(&self) -> TopicText {
        Topic::Down(self.inbox).text()
    }

    /// Counts `len` bytes that were read.
    pub fn handle_bytes(&mut self, len: usize, now: Instant) {
        self.bytes.charge(BYTES, u32::try_from(len).unwrap_or(u32::MAX), now);
    }

    /// A frame of this client was an authentic record of its device: it stays.
    pub fn handle_authentic(&mut self) {
        self.ends.take_if(|(_, why)| *why == Close::Unproven);
    }

    /// Judges one whole packet.
    #[must_use]
    pub fn handle_packet(&mut self, packet: In, now: Instant) -> Verdict {
        self.heard_at = now;
        match packet {
            In::Connect(_) => Verdict::Close(Close::SecondConnect),
            In::Disconnect => Verdict::Close(Close::Said),
            In::PingReq => Verdict::Pong,
            In::PubAck(id) => {
                self.window.acknowledge(id);
                Verdict::Nothing
            }
            In::Publish(publish) => {
                self.messages.charge(MESSAGES, 1, now);
                self.handle_publish(publish).unwrap_or_else(Verdict::Close)
            }
            In::Subscribe { id, filters, subscription_id } => {
                self.messages.charge(MESSAGES, 1, now);
                self.handle_subscribe(id, &filters, subscription_id).unwrap_or_else(Verdict::Close)
            }
        }
    }

    fn handle_publish(&self, publish: Publish) -> Result<Verdict, Close> {
        if publish.retain {
            return Err(Close::Retain);
        }
        if publish.qos > 1 {
            return Err(Close::Qos);
        }
        if publish.foreign_properties {
            return Err(Close::Properties);
        }
        let topic = std::str::from_utf8(&publish.topic).ok().and_then(Topic::parse);
        // A record names the replica of its WELCOME. One that is not this
        // process's is an unknown session, not a crime.
        match topic {
            Some(Topic::Hello(inbox) | Topic::Record(_, inbox)) if inbox == self.inbox => {}
            _ => return Err(Close::ForeignTopic),
        }
        if publish.payload.is_empty() || publish.payload.len() > MAX_FRAME {
            return Err(Close::Payload);
        }
        Ok(Verdict::Up {
            frame: publish.payload,
            acknowledge: (publish.qos == 1).then_some(publish.id),
        })
    }

    fn handle_subscribe(
        &mut self,
        id: u16,
        filters: &[Filter],
        subscription_id: bool,
    ) -> Result<Verdict, Close> {
        if subscription_id {
            return Err(Close::Properties);
        }
        let own = self.down_topic();
        if filters.len() > FILTERS || filters.iter().any(|filter| filter.path != own.as_str()) {
            return Err(Close::ForeignFilter);
        }
        let asked = filters.iter().map(|filter| filter.qos).max().unwrap_or(0);
        let granted = if asked == 0 { Qos::Zero } else { Qos::One };
        self.subscribed = Some(granted);
        Ok(Verdict::Subscribed { id, granted, filters: filters.len() })
    }

    /// Judges a frame of `len` bytes that waits for the client.
    #[must_use]
    pub fn handle_down(&mut self, len: usize) -> Down {
        let Some(qos) = self.subscribed else {
            return Down::NotSubscribed;
        };
        let whole = publish_len(self.level, &self.down_topic(), qos, len);
        if u32::try_from(whole).is_ok_and(|whole| whole <= self.maximum_packet) {
            match qos {
                Qos::Zero => Down::Send(None),
                Qos::One => self.window.take().map_or(Down::Hold, |id| Down::Send(Some(id))),
            }
        } else {
            Down::TooLong
        }
    }

    /// When the client's socket may be read again.
    #[must_use]
    pub fn readable_at(&self) -> Instant {
        self.messages.ready_at(MESSAGES).max(self.bytes.ready_at(BYTES))
    }

    /// When the connection ends by itself, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, Close) {
        let silent = (self.heard_at + silence(self.keep_alive_s), Close::KeepAlive);
        match self.ends {
            Some(end) if end.0 <= silent.0 => end,
            _ => silent,
        }
    }
}
