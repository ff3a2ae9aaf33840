//! Why the line could not be opened, or was lost. Facts only; the sentences that
//! people see are made where the reason is known (joining, running).

use std::io;

use crate::control::way::Way;

/// What went wrong at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The name could not be resolved; `None`: no answer in time.
    Name(Option<String>),
    /// No answer to TCP in time, or the network says it cannot get there.
    Silent(Option<String>),
    /// The machine is up and nothing listens.
    Refused,
    /// Something answers that is not what was wanted; what it looks like.
    Foreign {
        /// `HTTP`, `a proxy that wants a password`.
        what: String,
        /// `MQTT`, `TLS`, `WebSocket`, `Weft`.
        wanted: &'static str,
    },
    /// The network answers in the coordinator's place, as networks do that want
    /// one to sign in; what it answers.
    Portal(String),
    /// TLS shows another key than the join string pins.
    WrongPin,
    /// The broker does not take user name and password.
    Denied,
    /// The broker takes nobody now.
    Busy,
    /// The connection was open and ended.
    Lost(String),
}

/// One way and what went wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// How and where.
    pub(crate) way: Way,
    /// The IP address tried last, where a name was resolved.
    pub(crate) resolved: Option<String>,
    /// What happened.
    pub(crate) reason: Reason,
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
            Reason::Foreign { .. } => 3,
            Reason::Portal(_) => 4,
            Reason::WrongPin => 5,
            Reason::Busy => 6,
            Reason::Denied => 7,
            Reason::Lost(_) => 8,
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
            Some(Reason::Foreign { what, wanted }) => format!("answers {what}, not {wanted}"),
            Some(Reason::Portal(what)) => format!("the network answers {what}"),
            Some(Reason::WrongPin) => "TLS shows another key than the pinned one".to_owned(),
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

/// A name of a program's in words: "HandshakeFailure" is "handshake failure".
pub(crate) fn spaced(name: &str) -> String {
    let mut out = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::join::Carrier;

    #[test]
    fn names_become_words() {
        assert_eq!(spaced("HandshakeFailure"), "handshake failure");
    }

    #[test]
    fn the_furthest_attempt_speaks() {
        let way = || Way { carrier: Carrier::Mqtt, authority: "h:1".to_owned() };
        let attempt = |reason| Attempt { way: way(), resolved: None, reason };
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
