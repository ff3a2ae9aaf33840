//! "Why does this device not get in?", by the fingerprint that it shows.

use weft_noise::mac::{self, Fingerprint};
use weft_wire::base32;

use crate::domain::device::{Device, Standing};
use crate::domain::enrolment::Refused;
use crate::failure::{Code, Failure};
use crate::store::Known;

use super::operator::{Operator, fault, printable};

/// The answer: whether it is in, one sentence, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyNot {
    /// Whether it is a member.
    pub member: bool,
    /// One sentence.
    pub sentence: String,
    /// A command that would help.
    pub attempt: Option<String>,
}

impl Operator {
    /// Says why the device with this fingerprint is not in, or that it is.
    ///
    /// # Errors
    ///
    /// `fingerprint.form`, `fingerprint.unknown`.
    pub async fn why_not(&self, text: &str) -> Result<WhyNot, Failure> {
        let fingerprint = parse(text).ok_or_else(|| {
            let text = printable(text);
            let message =
                format!("'{text}' is no fingerprint: 4 groups of 4 characters are needed");
            Failure::new(Code::FingerprintForm, message)
        })?;
        match self.store.known(fingerprint).await.map_err(fault)? {
            Some(Known::Device(device)) => {
                let has_copies = device.agent().is_some_and(|agent| agent.has_copies);
                let standing = self.standing(&device);
                return Ok(if has_copies { cloned(&device, standing) } else { standing });
            }
            Some(Known::Tombstone(tombstone)) => {
                let sentence = format!(
                    "{} was deleted on {}; its identity does not come back",
                    tombstone.name, tombstone.at
                );
                let attempt = Some(format!("weft-coordinator device forget {}", tombstone.name));
                return Ok(WhyNot { member: false, sentence, attempt });
            }
            None => {}
        }
        let refusal =
            self.refusals.find(|refusal| mac::fingerprint(&refusal.identity) == fingerprint);
        if let Some(refusal) = refusal {
            let (reason, attempt) = refused(&refusal.reason);
            let sentence = format!("it was refused on {}: {reason}", refusal.at);
            return Ok(WhyNot { member: false, sentence, attempt });
        }
        let message = format!(
            "nothing with the fingerprint {fingerprint} ever registered here: it did not get \
             through, or its join string is another coordinator's or that of an unknown key"
        );
        let failure = Failure::new(Code::FingerprintUnknown, message);
        let own = mac::fingerprint(&self.secrets.public());
        Err(failure.with(crate::failure::Label::Compare, format!("this coordinator is {own}")))
    }

    fn standing(&self, device: &Device) -> WhyNot {
        let (name, since) = (&device.name, device.standing_since);
        let reason = match device.standing_reason.as_str() {
            "" => String::new(),
            reason => format!(" (\"{reason}\")"),
        };
        let (sentence, attempt) = match device.standing {
            Standing::Active => {
                let presence = self.presence.presence(device.id);
                let heard = presence.map_or_else(
                    || "it was not heard since this coordinator started".to_owned(),
                    |one| format!("it was heard on {}", one.last_seen),
                );
                (format!("{name} is a member since {since}; {heard}"), None)
            }
            Standing::Pending => (
                format!("{name} waits for approval since {since}"),
                Some(format!("weft-coordinator device approve {name}")),
            ),
            Standing::Blocked => (
                format!("{name} was blocked on {since}{reason}"),
                Some(format!("weft-coordinator device unblock {name}")),
            ),
            // Copies are; the device itself never stands so.
            Standing::Quarantined => (format!("{name} is quarantined since {since}{reason}"), None),
            Standing::Rejected => (
                format!("{name} was rejected on {since}{reason}"),
                Some(format!("weft-coordinator device approve {name}")),
            ),
        };
        WhyNot { member: device.is_active(), sentence, attempt }
    }
}

/// Two machines show this fingerprint.
fn cloned(device: &Device, standing: WhyNot) -> WhyNot {
    let sentence = format!(
        "{}; another machine uses its identity and is quarantined: if this is that one, it is not in",
        standing.sentence
    );
    let attempt = format!("weft-coordinator device show {}", device.name);
    WhyNot { member: standing.member, sentence, attempt: Some(attempt) }
}

/// Reads `XMUG-3JSC-LGSF-7XZL`, in any case.
fn parse(text: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 10];
    let len = base32::decode(text.trim().as_bytes(), &mut bytes).ok()?;
    (len == bytes.len()).then_some(Fingerprint(bytes))
}

fn refused(reason: &Refused) -> (String, Option<String>) {
    let create = |key: &str| Some(format!("weft-coordinator key create --name {key}"));
    match reason {
        Refused::KeyUnknown => ("there is no such enrolment key".to_owned(), None),
        Refused::KeyExpired { key, at } => (format!("key \"{key}\" expired on {at}"), create(key)),
        Refused::KeyUsedUp { key, uses, max_uses } => {
            (format!("key \"{key}\" has been used {uses} of {max_uses} times"), create(key))
        }
        Refused::KeyRevoked { key, at } => {
            (format!("key \"{key}\" was revoked on {at}"), create(key))
        }
        Refused::Rejected { reason } => (format!("an operator rejected it (\"{reason}\")"), None),
        Refused::Blocked { at, reason } => {
            (format!("an operator blocked it on {at} (\"{reason}\")"), None)
        }
        Refused::NetworkFull { network, used, capacity } => (
            format!("network {network} has no free address: {used} of {capacity} used or resting"),
            None,
        ),
        Refused::Tombstoned { at } => (format!("the device was deleted on {at}"), None),
        Refused::Malformed => ("its name, keys or abilities are not possible".to_owned(), None),
        Refused::TooManyRules { holds, needs } => {
            (format!("it holds {holds} rules, the policy gives it {needs}"), None)
        }
        Refused::KeyInUse => ("its WireGuard key belongs to another device".to_owned(), None),
        Refused::Cloned => ("another machine uses its identity".to_owned(), None),
        Refused::NetworkGone => ("the restored backup does not know its network".to_owned(), None),
    }
}
