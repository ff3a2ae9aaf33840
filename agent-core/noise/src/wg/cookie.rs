//! Cookies against floods (section 5.3, 5.4.4 and 5.4.7).
//!
//! Under load a responder spends no Diffie-Hellman on a sender that has not
//! proved to receive at its address: it answers with a cookie (hashes only),
//! and the sender repeats its message with a MAC under that cookie (mac2).
//! Who is under load is the tunnel's decision.

use core::net::{IpAddr, SocketAddr};

use zeroize::{Zeroize, Zeroizing};

use super::keys::{LocalKey, Mac1Checked, RemoteKey};
use super::{COOKIE_REPLY_LEN, HandshakeError, Kind, field, kind};
use crate::aead;
use crate::entropy::Entropy;
use crate::hash::{mac16, mac16_short};
use crate::mac;

/// The responder's secret and the initiator's cookie live this long, in
/// microseconds.
pub const COOKIE_LIFE_US: u64 = 120_000_000;

/// The responder's side: makes cookies and recognises them.
pub struct Checker {
    secret: Zeroizing<[u8; 32]>,
    /// When the secret was drawn; `None` before the first reply.
    drawn_at_us: Option<u64>,
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    /// A checker without a secret: it draws one when it first replies.
    pub fn new() -> Self {
        Self { secret: Zeroizing::new([0; 32]), drawn_at_us: None }
    }

    fn is_fresh(&self, now_us: u64) -> bool {
        self.drawn_at_us.is_some_and(|drawn| now_us.saturating_sub(drawn) < COOKIE_LIFE_US)
    }

    /// Address and port, so that a neighbour behind the same address cannot
    /// use another's cookie.
    fn cookie(&self, source: SocketAddr) -> Zeroizing<[u8; 16]> {
        let port = source.port().to_be_bytes();
        Zeroizing::new(match source.ip() {
            IpAddr::V4(address) => mac16(&self.secret, &[&address.octets(), &port]),
            IpAddr::V6(address) => mac16(&self.secret, &[&address.octets(), &port]),
        })
    }

    /// Whether mac2 is made with the cookie of this source. False while no
    /// secret is in force.
    pub fn verify_mac2(&self, message: &Mac1Checked<'_>, source: SocketAddr, now_us: u64) -> bool {
        self.is_fresh(now_us) && {
            let expected = mac16_short(&self.cookie(source), message.before_mac2());
            mac::verify(&expected, &message.mac2())
        }
    }

    /// Writes a cookie reply to `message`, which came from `source` and was
    /// checked with `local`. Draws a new secret every [`COOKIE_LIFE_US`].
    pub fn reply(
        &mut self,
        local: &LocalKey,
        message: &Mac1Checked<'_>,
        source: SocketAddr,
        now_us: u64,
        entropy: &mut dyn Entropy,
        out: &mut [u8; COOKIE_REPLY_LEN],
    ) {
        if !self.is_fresh(now_us) {
            entropy.fill(&mut *self.secret);
            self.drawn_at_us = Some(now_us);
        }
        let mut nonce = [0; 24];
        entropy.fill(&mut nonce);
        let cookie = self.cookie(source);
        out[..4].copy_from_slice(&[Kind::CookieReply as u8, 0, 0, 0]);
        out[4..8].copy_from_slice(&message.sender().to_le_bytes());
        out[8..32].copy_from_slice(&nonce);
        let sealed = aead::seal_cookie(local.cookie_key(), &nonce, &message.mac1(), &cookie);
        out[32..].copy_from_slice(&sealed);
    }
}

/// The initiator's side, one per peer: the last mac1 sent, and the cookie that
/// answered it.
pub struct Jar {
    /// Sender index and mac1 of the last message, until a reply to it came.
    sent: Option<(u32, [u8; 16])>,
    cookie: [u8; 16],
    /// When the cookie came; `None` without one.
    received_at_us: Option<u64>,
}

impl Default for Jar {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Jar {
    fn drop(&mut self) {
        self.cookie.zeroize();
    }
}

impl Jar {
    /// An empty jar.
    pub const fn new() -> Self {
        Self { sent: None, cookie: [0; 16], received_at_us: None }
    }

    /// The last step before an initiation or response is sent: remembers its
    /// mac1 and writes mac2 if there is a fresh cookie.
    pub fn attach(&mut self, message: &mut [u8], now_us: u64) {
        if !matches!(kind(message), Ok(Kind::Initiation | Kind::Response)) {
            return;
        }
        let end = message.len() - 16;
        self.sent = Some((u32::from_le_bytes(field(message, 4)), field(message, end - 16)));
        let fresh = self
            .received_at_us
            .is_some_and(|received| now_us.saturating_sub(received) < COOKIE_LIFE_US);
        if fresh {
            let mac2 = mac16_short(&self.cookie, &message[..end]);
            message[end..].copy_from_slice(&mac2);
        }
    }

    /// Takes the cookie of a cookie reply. The caller found this peer by the
    /// reply's receiver index. Nothing else of the handshake changes: neither
    /// endpoint nor timer, and the message is repeated when its timer says so.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Unexpected`] when no message of this index waits
    /// for one, or [`HandshakeError::Unauthentic`]; the jar is as it was.
    pub fn receive(
        &mut self,
        remote: &RemoteKey,
        datagram: &[u8],
        now_us: u64,
    ) -> Result<(), HandshakeError> {
        if kind(datagram)? != Kind::CookieReply {
            return Err(HandshakeError::Malformed);
        }
        let (sender, mac1) = self.sent.ok_or(HandshakeError::Unexpected)?;
        if super::receiver(datagram) != Some(sender) {
            return Err(HandshakeError::Unexpected);
        }
        let nonce = field(datagram, 8);
        let cookie = aead::open_cookie(&remote.cookie_key(), &nonce, &mac1, &field(datagram, 32))
            .ok_or(HandshakeError::Unauthentic)?;
        self.cookie = *cookie;
        self.received_at_us = Some(now_us);
        self.sent = None;
        Ok(())
    }
}
