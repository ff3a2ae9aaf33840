//! Why the line could not be opened, or was lost. Facts only; the sentences that
//! people see are made where the reason is known (joining, running).

use std::io;

use weft_wire::join::Address;

/// What went wrong at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The name could not be resolved; `None`: no answer in time.
    Name(Option<String>),
    /// No answer to TCP in time, or the network says it cannot get there.
    Silent(Option<String>),
    /// The machine is up and nothing listens.
    Refused,
    /// Something answers that is not MQTT; what its first bytes look like.
    NotMqtt(&'static str),
    /// The broker does not take user name and password.
    Denied,
    /// The broker takes nobody now.
    Busy,
    /// The connection was open and ended.
    Lost(String),
}

/// One address and what went wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// `mesh.example.net:7420`.
    pub(crate) authority: String,
    /// The IP address tried last, where a name was resolved.
    pub(crate) resolved: Option<String>,
    /// What happened.
    pub(crate) reason: Reason,
}

impl Attempt {
    /// The host without its port.
    pub(crate) fn host(&self) -> &str {
        split(&self.authority).0
    }

    /// The port as text.
    pub(crate) fn port(&self) -> &str {
        split(&self.authority).1
    }
}

/// `host:port` in two; an IPv6 host loses its brackets.
pub(crate) fn split(authority: &str) -> (&str, &str) {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port)
}

/// Every address failed, or the one that was open ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineFailure {
    /// In the order of the attempts; never empty.
    pub(crate) attempts: Vec<Attempt>,
}

impl LineFailure {
    /// The attempt that says most: whoever got furthest.
    pub(crate) fn furthest(&self) -> Option<&Attempt> {
        self.attempts.iter().rev().max_by_key(|attempt| match attempt.reason {
            Reason::Name(_) => 0,
            Reason::Silent(_) => 1,
            Reason::Refused => 2,
            Reason::NotMqtt(_) => 3,
            Reason::Busy => 4,
            Reason::Denied => 5,
            Reason::Lost(_) => 6,
        })
    }

    /// A few words for a log line: `timed out`, `refused`.
    pub(crate) fn words(&self) -> String {
        match self.furthest().map(|attempt| &attempt.reason) {
            None => "no address".to_owned(),
            Some(Reason::Name(None)) => "name not resolved in time".to_owned(),
            Some(Reason::Name(Some(cause))) => format!("name not resolved: {cause}"),
            Some(Reason::Silent(None)) => "timed out".to_owned(),
            Some(Reason::Silent(Some(cause)) | Reason::Lost(cause)) => cause.clone(),
            Some(Reason::Refused) => "refused".to_owned(),
            Some(Reason::NotMqtt(what)) => format!("answers {what}, not MQTT"),
            Some(Reason::Denied) => "password not accepted".to_owned(),
            Some(Reason::Busy) => "broker busy".to_owned(),
        }
    }
}

/// An error of the system in words, without its number:
/// "Network is unreachable (os error 101)" is "network is unreachable".
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

/// Sorts a TCP error.
pub(crate) fn connect_reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::TimedOut => Reason::Silent(None),
        _ => Reason::Silent(Some(words(error))),
    }
}

/// Addresses that this program can use, and the others.
pub(crate) fn usable(addresses: &[Address]) -> (Vec<String>, Vec<Address>) {
    let (mqtt, other): (Vec<&Address>, Vec<&Address>) =
        addresses.iter().partition(|address| address.carrier == weft_wire::join::Carrier::Mqtt);
    let mqtt = mqtt.iter().map(|address| address.authority.to_string());
    (mqtt.collect(), other.into_iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        assert_eq!(split("mesh.example.net:7420"), ("mesh.example.net", "7420"));
        assert_eq!(split("[2001:db8::1]:7420"), ("2001:db8::1", "7420"));
        assert_eq!(split("mesh"), ("mesh", ""));
    }

    #[test]
    fn the_furthest_attempt_speaks() {
        let attempt = |reason| Attempt { authority: "h:1".to_owned(), resolved: None, reason };
        let failure = LineFailure {
            attempts: vec![
                attempt(Reason::Silent(None)),
                attempt(Reason::Refused),
                attempt(Reason::Name(None)),
            ],
        };
        assert_eq!(failure.words(), "refused");
    }
}
