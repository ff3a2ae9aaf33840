//! A broker that is not ours: its settings become parts, its passwords are read.

use weft_wire::join::ACCOUNT_LEN;

use crate::config::broker::Broker;
use crate::failure::{Code, Failure};
use crate::service::operator::SharedAccount;
use crate::transport::external::{Account, External};

use super::clock::RANDOM;
use super::secret_file::{self, Kind};

const PASSWORD: Kind = Kind {
    word: "password",
    longest: ACCOUNT_LEN,
    unreadable: Code::BrokerPassword,
    denied: Code::BrokerPasswordDenied,
    open: Code::BrokerPasswordOpen,
};

/// The coordinator's way to the broker, and what devices log in with.
pub(super) struct Parts {
    pub(super) external: External,
    pub(super) devices: SharedAccount,
}

/// Makes the parts.
///
/// # Errors
///
/// `broker.password…`.
pub(super) fn parts(broker: &Broker) -> Result<Parts, Failure> {
    let Broker { address, own, devices, .. } = broker;
    let account = Account {
        host: address.host.clone(),
        port: address.port,
        user: own.user.clone(),
        password: secret_file::line(&PASSWORD, "broker.password_file", &own.password_file)?,
    };
    let devices = SharedAccount {
        user: devices.user.clone(),
        password: secret_file::line(
            &PASSWORD,
            "broker.device_password_file",
            &devices.password_file,
        )?,
    };
    Ok(Parts { external: External::new(account, RANDOM), devices })
}
