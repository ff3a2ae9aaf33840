//! Why there is no connection to the broker, in words.

use std::io;
use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

use super::Account;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The name could not be resolved, or no way leads there.
    Unreachable(String),
    /// The machine is up and nothing listens.
    Refused,
    /// No answer in time.
    Silent,
    /// The account is not let in: CONNACK's code (3.1.1, table 3.1).
    Denied(u8),
    /// The broker takes nobody now, or not with our protocol or client id.
    NotTaken(u8),
    /// Something answers that does not speak MQTT, or closes at once.
    NotMqtt,
    /// The subscription to this topic was refused.
    NotSubscribed(String),
    /// What was published to these topics did not come back.
    Deaf(Vec<String>),
    /// The connection stood and ended.
    Lost(String),
    /// A packet that no broker sends.
    Malformed,
}

/// An error of the system in words, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

fn of_io(error: &io::Error, stood: bool) -> Trouble {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Trouble::Refused,
        io::ErrorKind::TimedOut => Trouble::Silent,
        _ if stood => Trouble::Lost(words(error)),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe => Trouble::NotMqtt,
        _ => Trouble::Unreachable(words(error)),
    }
}

impl Trouble {
    /// Sorts what rumqttc says. `answered`: the broker had taken CONNECT.
    pub(super) fn of(error: &ConnectionError, answered: bool) -> Self {
        match error {
            ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => {
                of_io(error, answered)
            }
            ConnectionError::ConnectionRefused(code) => match code {
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                    Self::Denied(*code as u8)
                }
                code => Self::NotTaken(*code as u8),
            },
            ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout if !answered => {
                Self::Silent
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) if answered => {
                Self::Lost("closed by the broker".to_owned())
            }
            ConnectionError::NotConnAck(_) | ConnectionError::MqttState(_) if !answered => {
                Self::NotMqtt
            }
            ConnectionError::MqttState(StateError::AwaitPingResp) => {
                Self::Lost("no answer to its ping".to_owned())
            }
            other => Self::Lost(other.to_string()),
        }
    }

    /// One sentence about the broker.
    pub fn sentence(&self, user: &str) -> String {
        match self {
            Self::Unreachable(cause) => format!("cannot be reached: {cause}"),
            Self::Refused => "cannot be reached: nothing listens there".to_owned(),
            Self::Silent => "does not answer within 10 s".to_owned(),
            Self::Denied(code) => {
                format!("refuses the account {user}: wrong user or password ({code})")
            }
            Self::NotTaken(code) => format!("takes no connection ({code})"),
            Self::NotMqtt => "closes or answers something that is not MQTT".to_owned(),
            Self::NotSubscribed(topic) => format!("does not let {user} subscribe to {topic}"),
            Self::Deaf(topics) => format!(
                "takes what {user} publishes to {} and does not deliver it: its access list lacks \
                 a line",
                topics.join(", ")
            ),
            Self::Lost(cause) => format!("is lost: {cause}"),
            Self::Malformed => "sent a packet that no broker sends".to_owned(),
        }
    }

    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Refused | Self::Silent => {
                "check broker.address, and that the broker runs"
            }
            Self::Denied(_) => "check broker.user and broker.password_file",
            Self::NotMqtt => "check broker.address: plain MQTT is expected there",
            Self::NotSubscribed(_) | Self::Deaf(_) => {
                "give the account the topics that weft.acl of the package gives it"
            }
            Self::NotTaken(_) | Self::Lost(_) | Self::Malformed => "read the broker's log",
        }
    }

    pub(super) fn log(&self, account: &Account, stood: bool, pause: Duration) {
        let (broker, next) = (account.authority(), format!("{:.1} s", pause.as_secs_f64()));
        let (cause, fix) = (self.sentence(&account.user), self.fix());
        let effect = if stood { "devices there are out of reach" } else { "devices cannot report" };
        tracing::warn!(broker, cause, effect, next, fix, "serve.bus-unreachable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_says_what_and_what_to_do() {
        let io = |kind, text: &str| ConnectionError::Io(io::Error::new(kind, text));
        let refused = io(io::ErrorKind::ConnectionRefused, "Connection refused (os error 111)");
        assert_eq!(Trouble::of(&refused, false), Trouble::Refused);
        let name = io(
            io::ErrorKind::Other,
            "failed to lookup address information: Name or service not known",
        );
        assert_eq!(
            Trouble::of(&name, false).sentence("u"),
            "cannot be reached: name or service not known"
        );
        let denied = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        let denied = Trouble::of(&denied, false);
        assert_eq!(denied.sentence("weft"), "refuses the account weft: wrong user or password (5)");
        assert_eq!(denied.fix(), "check broker.user and broker.password_file");
        let closed = || ConnectionError::MqttState(StateError::ConnectionAborted);
        assert_eq!(Trouble::of(&closed(), false), Trouble::NotMqtt);
        assert_eq!(Trouble::of(&closed(), true), Trouble::Lost("closed by the broker".to_owned()));
        assert_eq!(Trouble::of(&ConnectionError::NetworkTimeout, false), Trouble::Silent);
    }
}
