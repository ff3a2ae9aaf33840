//! How this device stands, as those are told who wait for it.

use weft_wire::item::{Standing, State};

use crate::failure::{Code, Failure};
use crate::ipc::protocol::OtherMachine;
use crate::output::units;

/// `: "stolen"`, or nothing without a reason.
pub(super) fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": \"{reason}\"") }
}

/// `gw-a at 203.0.113.21, heard 10 s ago`.
pub(super) fn other_words(name: &str, other: &OtherMachine) -> String {
    let place = other.address.as_ref().map_or_else(String::new, |from| format!(" at {from}"));
    let heard = other.heard_ms.map(units::age_ms);
    let heard = heard.map_or_else(String::new, |age| format!(", heard {age}"));
    format!("{name}{place}{heard}")
}

/// Why this device has no peers; `None` while it may have some.
pub(super) fn failure(state: &State, name: &str, other: Option<&OtherMachine>) -> Option<Failure> {
    let because = because(&state.reason);
    match state.standing {
        Standing::Active | Standing::Pending => None,
        Standing::Blocked => {
            let message = format!("an operator blocked this device{because}");
            Some(Failure::new(Code::UpRevoked, message))
        }
        Standing::Rejected => {
            let message = format!("an operator rejected this device{because}");
            Some(Failure::new(Code::JoinRejected, message))
        }
        Standing::Quarantined => {
            let other = other.map_or_else(|| name.to_owned(), |other| other_words(name, other));
            let message = format!(
                "another machine uses this identity ({other}); this copy is quarantined until \
                 an operator decides"
            );
            let attempt = "weft leave --forget && weft join …        (on the copy)";
            let decide = format!("weft-coordinator device show {name}        (on the coordinator)");
            let failure = Failure::new(Code::JoinClone, message);
            Some(failure.try_command(attempt).try_command(decide))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(standing: Standing, reason: &str, other: Option<&OtherMachine>) -> Option<String> {
        let reason = reason.try_into().unwrap();
        let state = State { standing, since_ms: 0, reason };
        failure(&state, "gw-a", other).map(|failure| failure.message().to_owned())
    }

    #[test]
    fn each_standing_has_its_sentence() {
        assert_eq!(text(Standing::Active, "", None), None);
        assert_eq!(text(Standing::Pending, "", None), None);
        let said = |standing, reason| text(standing, reason, None).unwrap();
        assert_eq!(said(Standing::Blocked, ""), "an operator blocked this device");
        assert_eq!(
            said(Standing::Rejected, "serial not on the delivery note"),
            "an operator rejected this device: \"serial not on the delivery note\""
        );
        let other =
            OtherMachine { address: Some("203.0.113.21".to_owned()), heard_ms: Some(10_000) };
        assert_eq!(
            text(Standing::Quarantined, "", Some(&other)).unwrap(),
            "another machine uses this identity (gw-a at 203.0.113.21, heard 10 s ago); this copy \
             is quarantined until an operator decides"
        );
        assert!(said(Standing::Quarantined, "").contains("(gw-a)"));
    }
}
