//! The settings of a broker that is not ours: all of them, or none.

use std::path::PathBuf;

use weft_wire::join::ACCOUNT_LEN;

use super::Resolved;
use super::public::Public;
use crate::failure::{Code, Failure, Label};

/// The port of MQTT over TCP (IANA).
pub const PORT: u16 = 1883;

/// One account at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// The file that holds the password.
    pub password_file: PathBuf,
}

/// A broker that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Where the coordinator reaches it.
    pub address: Public,
    /// The coordinator's own account.
    pub own: Login,
    /// Where devices reach it.
    pub device_address: Public,
    /// The account that all devices share.
    pub devices: Login,
}

/// Whether a text is a user name that fits into a join string.
pub(super) fn is_user(text: &str) -> bool {
    (1..=ACCOUNT_LEN).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Puts the values together, which are each known to be right.
///
/// # Errors
///
/// `config.missing`.
pub(super) fn assemble(resolved: &[Resolved]) -> Result<Option<Broker>, Failure> {
    let find = |key: &str| {
        let name = format!("broker.{key}");
        resolved.iter().find(|one| one.name == name)
    };
    let value = |key: &str| find(key).map_or("", |one| one.value.as_str());
    let address = |key: &str| Public::parse(value(key), PORT).ok();
    let Some(broker) = address("address") else {
        let stray =
            resolved.iter().find(|one| one.name.starts_with("broker.") && !one.value.is_empty());
        return stray.map_or(Ok(None), |stray| {
            let message = format!("{} is set and broker.address is not", stray.name);
            Err(Failure::new(Code::ConfigMissing, message)
                .with(Label::From, stray.source.to_string()))
        });
    };
    let login = |user: &str, file: &str, whose: &str| {
        let missing = [user, file].into_iter().find(|key| value(key).is_empty());
        match missing {
            None => Ok(Login { user: value(user).to_owned(), password_file: value(file).into() }),
            Some(key) => Err(Failure::new(
                Code::ConfigMissing,
                format!("broker.{key} is needed: {whose} at the broker"),
            )),
        }
    };
    let own = login("user", "password_file", "the coordinator has an account of its own")?;
    let devices = login("device_user", "device_password_file", "devices share an account")?;
    if own.user == devices.user {
        let message = format!(
            "broker.user and broker.device_user are both \"{}\": devices could read everything",
            own.user
        );
        return Err(Failure::new(Code::ConfigValue, message));
    }
    let device_address = address("device_address").unwrap_or_else(|| broker.clone());
    Ok(Some(Broker { address: broker, own, device_address, devices }))
}
