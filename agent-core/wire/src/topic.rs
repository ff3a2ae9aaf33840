//! Every MQTT topic, built and read here and nowhere else.
//!
//! Up `weft/v1/h/<inbox>` (HELLO) and `weft/v1/r/<replica>/<inbox>` (RECORD),
//! down `weft/v1/d/<inbox>`. No retained messages and no wills; wildcards only
//! for a coordinator at a foreign broker.

use core::fmt::Write as _;

use crate::id::{Inbox, ReplicaId};

/// The longest topic: `weft/v1/r/65535/` and 26 characters.
pub const TOPIC_LEN: usize = 48;

/// A topic's text.
pub type TopicText = heapless::String<TOPIC_LEN>;

/// The longest MQTT user name or client id that Weft uses: `e.key_` + 12.
pub const USER_LEN: usize = 26;

/// What a topic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A device's HELLO, to whichever replica is free.
    Hello(Inbox),
    /// A device's RECORD, to the replica that its WELCOME named.
    Record(ReplicaId, Inbox),
    /// Any frame to a device.
    Down(Inbox),
}

impl Topic {
    /// The text on the wire.
    pub fn text(&self) -> TopicText {
        let mut text = TopicText::new();
        // Cannot fail: TOPIC_LEN is the longest form.
        let _ = match self {
            Self::Hello(inbox) => write!(text, "weft/v1/h/{inbox}"),
            Self::Record(replica, inbox) => write!(text, "weft/v1/r/{}/{inbox}", replica.0),
            Self::Down(inbox) => write!(text, "weft/v1/d/{inbox}"),
        };
        text
    }

    /// Reads a topic; `None` for every text that [`Topic::text`] does not write.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("weft/v1/")?;
        let (kind, rest) = rest.split_once('/')?;
        match kind {
            "h" => rest.parse().ok().map(Self::Hello),
            "d" => rest.parse().ok().map(Self::Down),
            "r" => {
                let (replica, inbox) = rest.split_once('/')?;
                let canonical = replica == "0" || !replica.starts_with(['0', '+']);
                let replica = replica.parse().ok().filter(|_| canonical)?;
                Some(Self::Record(ReplicaId(replica), inbox.parse().ok()?))
            }
            _ => None,
        }
    }
}

/// What a coordinator subscribes to at a broker that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Every device's HELLO.
    Hellos,
    /// The RECORDs for one replica.
    Records(ReplicaId),
}

impl Filter {
    /// The text on the wire.
    pub fn text(&self) -> TopicText {
        let mut text = TopicText::new();
        // Cannot fail: a filter is shorter than the topics that it takes.
        let _ = match self {
            Self::Hellos => write!(text, "weft/v1/h/+"),
            Self::Records(replica) => write!(text, "weft/v1/r/{}/+", replica.0),
        };
        text
    }
}

/// The MQTT user name of a device that enrols: `e.<key id>`.
pub fn enrolment_user(key: crate::id::KeyId) -> heapless::String<USER_LEN> {
    let mut text = heapless::String::new();
    let _ = write!(text, "e.{key}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_the_round_trip() {
        let inbox = Inbox([7; 16]);
        for topic in [
            Topic::Hello(inbox),
            Topic::Down(inbox),
            Topic::Record(ReplicaId(0), inbox),
            Topic::Record(ReplicaId(u16::MAX), inbox),
        ] {
            assert_eq!(Topic::parse(&topic.text()), Some(topic));
        }
    }

    #[test]
    fn refuses_every_other_text() {
        let inbox = Inbox([7; 16]).text();
        for text in [
            "".to_owned(),
            "weft/v1/h/".to_owned(),
            format!("weft/v2/h/{inbox}"),
            format!("weft/v1/x/{inbox}"),
            format!("weft/v1/h/{inbox}/"),
            format!("/weft/v1/h/{inbox}"),
            format!("weft/v1/r/+/{inbox}"),
            format!("weft/v1/r/01/{inbox}"),
            format!("weft/v1/r/65536/{inbox}"),
            format!("weft/v1/d/{}", inbox.to_uppercase()),
            "weft/v1/d/#".to_owned(),
        ] {
            assert_eq!(Topic::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn filters_are_topics_with_any_inbox() {
        let inbox = Inbox([7; 16]);
        let any = |topic: Topic| topic.text().replace(inbox.text().as_str(), "+");
        assert_eq!(any(Topic::Hello(inbox)), Filter::Hellos.text().as_str());
        let replica = ReplicaId(u16::MAX);
        assert_eq!(any(Topic::Record(replica, inbox)), Filter::Records(replica).text().as_str());
    }

    #[test]
    fn the_enrolment_user_fits() {
        let user = enrolment_user(crate::id::KeyId::from_random([0xFF; 8]));
        assert!(user.starts_with("e.key_"));
        assert_eq!(user.len(), 18);
    }
}
