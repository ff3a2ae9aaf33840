//! A TURN client (RFC 8656) as far as the laboratory needs one: one allocation, and
//! whether it lives.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_noise::legacy::{LongTermKey, hmac_sha1};
use weft_wire::base64;
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, Message, MessageWriter, NONCE, REALM, REFRESH_REQUEST, SOFTWARE,
    USERNAME,
};

use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;

/// A relay on the simulated internet answers in far less.
const PATIENCE: Duration = Duration::from_secs(2);
/// The transport of allocations: UDP.
const UDP: u8 = 17;
/// Lets the first answer be as long as it is: no challenge is longer than what its
/// source has sent.
const PADDING: [u8; 64] = [b'x'; 64];

/// A user of relays: a name that begins with its expiry.
pub(crate) struct User {
    name: String,
}

impl User {
    /// Good for longer than any laboratory stands.
    pub(crate) fn new(device: &str, organisation: &str) -> Self {
        Self { name: format!("{}:{device}@{organisation}", u32::MAX) }
    }

    /// The password that a relay with this secret expects.
    fn password(&self, secret: &str) -> String {
        let mut password = String::new();
        // Writing into a string does not fail.
        let _ =
            base64::write(&hmac_sha1(secret.as_bytes(), &[self.name.as_bytes()]), &mut password);
        password
    }
}

/// An allocation, or what would like to be one.
pub(crate) struct Client {
    socket: UdpSocket,
    user: String,
    password: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    number: u8,
}

impl Client {
    /// Asks for an allocation; `None` = it was given, else the error's code.
    pub(crate) fn allocate(
        namespace: &Namespace,
        relay: SocketAddr,
        user: &User,
        secret: &str,
    ) -> Result<(Self, Option<u16>)> {
        let socket =
            namespace.within(|| UdpSocket::bind("0.0.0.0:0")).during("enter a namespace")?;
        let socket = socket.during("bind a socket")?;
        socket.connect(relay).during("connect a socket")?;
        socket.set_read_timeout(Some(PATIENCE)).during("set a time limit")?;
        let (user, password) = (user.name.clone(), user.password(secret));
        let (realm, nonce) = (Vec::new(), Vec::new());
        let mut client = Self { socket, user, password, realm, nonce, number: 0 };
        // The first is answered with what the second has to hold.
        client.request(ALLOCATE_REQUEST)?;
        let code = client.request(ALLOCATE_REQUEST)?;
        Ok((client, code))
    }

    /// Whether the allocation still stands.
    pub(crate) fn lives(&mut self) -> Result<bool> {
        Ok(self.request(REFRESH_REQUEST)?.is_none())
    }

    fn request(&mut self, kind: u16) -> Result<Option<u16>> {
        self.number += 1;
        let wrong = |_| Failure::new("lab.internal", "a STUN message cannot be written");
        let mut buffer = [0; 1_024];
        let mut writer = MessageWriter::new(kind, [self.number; 12], &mut buffer).map_err(wrong)?;
        if kind == ALLOCATE_REQUEST {
            writer.requested_transport(UDP).map_err(wrong)?;
        }
        writer.attribute(SOFTWARE, &PADDING).map_err(wrong)?;
        if !self.nonce.is_empty() {
            writer.attribute(USERNAME, self.user.as_bytes()).map_err(wrong)?;
            writer.attribute(REALM, &self.realm).map_err(wrong)?;
            writer.attribute(NONCE, &self.nonce).map_err(wrong)?;
            let key = LongTermKey::new(self.user.as_bytes(), &self.realm, self.password.as_bytes());
            key.sign(Algorithm::Sha1, &mut writer).map_err(wrong)?;
        }
        let len = writer.finish().map_err(wrong)?;
        self.socket.send(&buffer[..len]).during("send to a relay")?;
        let mut answer = [0; 1_024];
        let len = self.socket.recv(&mut answer).during("hear a relay")?;
        let message = Message::parse(&answer[..len])
            .map_err(|error| Failure::expectation(format!("a relay says {error:?}")))?;
        for (attribute, place) in [(REALM, &mut self.realm), (NONCE, &mut self.nonce)] {
            if let Some(value) = message.get(attribute) {
                place.clear();
                place.extend_from_slice(value);
            }
        }
        Ok(message.error().map(|(code, _)| code))
    }
}
