//! Who asks: long-term credentials of time-limited users (RFC 8489 section 9.2,
//! coturn's `use-auth-secret`), and nonces that nobody has to remember.
//!
//! A user's name is `EXPIRY:NAME`, its password the MAC of that under one of the
//! secrets. The part of NAME behind `@` is its organisation. Deviation: a
//! request with a fresher EXPIRY and the same NAME comes from the same user, so
//! that an allocation outlives the credentials that it was made with.

use core::net::IpAddr;
use std::collections::HashMap;

use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_noise::mac;
use weft_wire::base64;
use weft_wire::stun::{Algorithm, Message, NONCE, REALM, USERNAME, code};

use super::{Now, SharedSecret};

/// Characters of a nonce: 3 bytes of time, 6 of MAC.
pub(super) const NONCE_LEN: usize = 12;
/// The longest user's name.
const MAX_USER: usize = 128;
/// The most users that are remembered as denied.
const MAX_DENIED: usize = 65_536;

/// Who asked, and how the answer is signed.
pub(super) struct Identity<'a> {
    /// The name without its expiry.
    pub(super) name: &'a str,
    pub(super) key: LongTermKey,
    pub(super) algorithm: Algorithm,
}

/// Why a request is not looked at.
pub(super) enum Refusal<'a> {
    /// 401 or 438, with realm and nonce, unsigned.
    Challenge(u16),
    /// Another error, unsigned.
    Plain(u16),
    /// An error to somebody who is known, signed.
    Signed(u16, Identity<'a>),
}

pub(super) struct Auth {
    nonce_key: [u8; 32],
    nonce_s: u32,
    pub(super) realm: String,
    secrets: Vec<SharedSecret>,
    /// Denied users, and when that was: the oldest goes when there is no room.
    denied: HashMap<Box<str>, u64>,
}

impl Auth {
    pub(super) fn new(
        nonce_key: [u8; 32],
        nonce_s: u32,
        realm: &str,
        secrets: Vec<SharedSecret>,
    ) -> Self {
        let realm = realm.to_owned();
        Self { nonce_key, nonce_s, realm, secrets, denied: HashMap::new() }
    }

    /// A number of this user's, of which nobody without the secret can tell
    /// anything: the same for as long as the secret is, over restarts too.
    pub(super) fn place(&self, name: &str) -> Option<u64> {
        let secret = self.secrets.first()?;
        let key = mac::keyed_hash(&[0; 32], &[b"weft relay places v1", secret.as_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = mac::keyed_hash(&key, &[name.as_bytes()]);
        Some(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    pub(super) fn set_secrets(&mut self, secrets: Vec<SharedSecret>) {
        self.secrets = secrets;
    }

    pub(super) fn deny(&mut self, name: &str, now: Now) {
        if self.denied.len() >= MAX_DENIED && !self.denied.contains_key(name) {
            let oldest =
                self.denied.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
            oldest.map(|name| self.denied.remove(&name));
        }
        self.denied.insert(name.into(), now.ms);
    }

    pub(super) fn allow(&mut self, name: &str) {
        self.denied.remove(name);
    }

    /// A nonce for this client, good for [`super::Settings::nonce_s`].
    pub(super) fn nonce(&self, client: IpAddr, now: Now) -> [u8; NONCE_LEN] {
        self.nonce_at((now.ms / 1_000) as u32 & 0xFF_FFFF, client)
    }

    fn nonce_at(&self, seconds: u32, client: IpAddr) -> [u8; NONCE_LEN] {
        let [_, time @ ..] = seconds.to_be_bytes();
        let ip = match client {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let tag = mac::keyed_hash(&self.nonce_key, &[b"weft relay nonce v1", &time, &ip.octets()]);
        let mut bytes = [0; 9];
        bytes[..3].copy_from_slice(&time);
        bytes[3..].copy_from_slice(&tag[..6]);
        let mut text = String::with_capacity(NONCE_LEN);
        // Writing into a string does not fail.
        let _ = base64::write(&bytes, &mut text);
        let mut out = [0; NONCE_LEN];
        out.copy_from_slice(text.as_bytes());
        out
    }

    fn is_fresh(&self, nonce: &[u8], client: IpAddr, now: Now) -> bool {
        let current = (now.ms / 1_000) as u32 & 0xFF_FFFF;
        let Some(made) = nonce.get(..4).and_then(three_bytes) else { return false };
        let age = current.wrapping_sub(made) & 0xFF_FFFF;
        age <= self.nonce_s && mac::verify(&self.nonce_at(made, client), nonce)
    }

    /// Judges a request.
    pub(super) fn check<'a>(
        &self,
        request: &Message<'a>,
        client: IpAddr,
        now: Now,
    ) -> Result<Identity<'a>, Refusal<'a>> {
        // Where both are there, the stronger one counts.
        let (algorithm, integrity) = [Algorithm::Sha256, Algorithm::Sha1]
            .into_iter()
            .find_map(|algorithm| Some((algorithm, request.integrity(algorithm)?)))
            .ok_or(Refusal::Challenge(code::UNAUTHENTICATED))?;
        let attribute = |kind| request.get(kind).ok_or(Refusal::Plain(code::BAD_REQUEST));
        let (user, nonce) = (attribute(USERNAME)?, attribute(NONCE)?);
        attribute(REALM)?;
        if !self.is_fresh(nonce, client, now) {
            return Err(Refusal::Challenge(code::STALE_NONCE));
        }
        let wrong = Refusal::Challenge(code::UNAUTHENTICATED);
        let Some((expiry, name)) = parse_user(user) else { return Err(wrong) };
        if expiry < now.unix_s {
            return Err(wrong);
        }
        let key = self
            .secrets
            .iter()
            .map(|secret| {
                SharedPassword::new(secret.as_bytes(), user).key(user, self.realm.as_bytes())
            })
            .find(|key| key.verify(algorithm, &integrity));
        let Some(key) = key else { return Err(wrong) };
        let identity = Identity { name, key, algorithm };
        if self.denied.contains_key(name) {
            return Err(Refusal::Signed(code::FORBIDDEN, identity));
        }
        Ok(identity)
    }
}

/// Splits `EXPIRY:NAME`.
fn parse_user(user: &[u8]) -> Option<(u64, &str)> {
    let user = core::str::from_utf8(user).ok().filter(|user| user.len() <= MAX_USER)?;
    let (expiry, name) = user.split_once(':')?;
    let digits = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !name.is_empty()).then_some((expiry.parse().ok()?, name))
}

/// The first three bytes behind four characters of base64.
fn three_bytes(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |bits, character| {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(bits << 6 | u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_time_and_its_client() {
        let auth = Auth::new([7; 32], 600, "weft", Vec::new());
        let at = |s: u64| Now { ms: s * 1_000, unix_s: 0 };
        let (client, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let nonce = auth.nonce(client, at(5));
        assert!(auth.is_fresh(&nonce, client, at(5)) && auth.is_fresh(&nonce, client, at(605)));
        assert!(!auth.is_fresh(&nonce, client, at(606)) && !auth.is_fresh(&nonce, client, at(4)));
        assert!(!auth.is_fresh(&nonce, other, at(5)));
        assert!(!Auth::new([8; 32], 600, "weft", Vec::new()).is_fresh(&nonce, client, at(5)));
        for at_byte in 0..NONCE_LEN {
            let mut changed = nonce;
            changed[at_byte] ^= 1;
            assert!(!auth.is_fresh(&changed, client, at(5)));
            assert!(!auth.is_fresh(&nonce[..at_byte], client, at(5)));
        }
    }

    #[test]
    fn users_have_an_expiry_and_a_name() {
        assert_eq!(parse_user(b"12:a:b@c"), Some((12, "a:b@c")));
        for wrong in
            [&b""[..], b":a", b"12", b"12:", b"+1:a", b"x:a", b"99999999999999999999:a", b"1:\xFF"]
        {
            assert_eq!(parse_user(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse_user(&[b'1'; 200]), None);
    }

    #[test]
    fn the_list_of_denied_is_bounded() {
        let mut auth = Auth::new([7; 32], 600, "weft", Vec::new());
        for number in 0..MAX_DENIED as u64 + 5 {
            auth.deny(&number.to_string(), Now { ms: number, unix_s: 0 });
        }
        assert_eq!(auth.denied.len(), MAX_DENIED);
        assert!(!auth.denied.contains_key("4") && auth.denied.contains_key("5"));
    }
}
