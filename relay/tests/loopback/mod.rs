//! What the tests of a relay on real sockets share.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use std::net::SocketAddr;
use std::time::Duration;

use weft_noise::legacy::SharedPassword;
use weft_relay::proto::turn::{AddressPrefix, Policy, Settings, SharedSecret};
use weft_relay::{Config, RelayAddress};
use weft_wire::stun::{Algorithm, MessageWriter, NONCE, REALM, USERNAME};

const SECRET: &[u8] = b"a secret of sixteen";
/// How long any answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Any port of this machine.
pub fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A relay on loopback that lets its clients send there.
pub fn config() -> Config {
    let loopback: AddressPrefix = "127.0.0.0/8".parse().unwrap();
    let turn = Settings {
        secrets: vec![SharedSecret::new(SECRET)],
        policy: Policy { allow: vec![loopback], deny: Vec::new() },
        ..Settings::default()
    };
    let relay = vec![RelayAddress { bind: any().ip(), public: any().ip() }];
    Config { listen: vec![any()], relay, turn, ..Config::default() }
}

/// Signs as a device of this relay does.
pub fn sign(writer: &mut MessageWriter<'_>, nonce: &[u8]) {
    let user = b"99999999999:dev";
    writer.attribute(USERNAME, user).unwrap();
    writer.attribute(REALM, b"weft").unwrap();
    writer.attribute(NONCE, nonce).unwrap();
    let key = SharedPassword::new(SECRET, user).key(user, b"weft");
    key.sign(Algorithm::Sha1, writer).unwrap();
}
