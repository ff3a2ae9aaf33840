//! The join string: everything a device needs to enrol, in one line.
//!
//! `WEFT1` and the upper-case base32 of: flags u8, coordinator key 32, key id 8,
//! PSK 32, enrol token (expiry u32, MAC 16), count u8 ≤ 4 of addresses (kind u8,
//! length u8, `host:port` text), then by flags the SPKI hash 32 (bit 0) and a
//! foreign broker's account (bit 1: length, user, length, password), and the
//! CRC-32 of all before. Bit 2 says that it lets in a relay and not a device.
//! Integers little-endian. Other flag bits must be 0.
//!
//! The CRC finds typing errors. A wrong *key* is found by the handshake, and is
//! another sentence to the person who typed it.

use zeroize::Zeroize;

use crate::base32::{self, Base32Error, Case};
use crate::crc::crc32;
use crate::id::{KeyId, PublicKey, Secret, ShortSecret};

/// What every join string starts with; the digit is the format.
pub const PREFIX: &str = "WEFT1";
/// The most addresses in one string.
pub const ADDRESSES: usize = 4;
/// The longest `host:port` text, in bytes.
pub const ADDRESS_LEN: usize = 96;
/// The longest user name or password of a foreign broker, in bytes.
pub const ACCOUNT_LEN: usize = 64;

const FIXED_LEN: usize = 1 + 32 + 8 + 32 + 4 + 16 + 1;
/// The longest decoded form, in bytes.
pub const MAX_BYTES: usize =
    FIXED_LEN + ADDRESSES * (2 + ADDRESS_LEN) + 32 + 2 * (1 + ACCOUNT_LEN) + 4;
/// The longest text, in characters.
pub const MAX_TEXT: usize = PREFIX.len() + base32::encoded_len(MAX_BYTES);

const FLAG_SPKI: u8 = 1;
const FLAG_ACCOUNT: u8 = 2;
const FLAG_RELAY: u8 = 4;

/// How to reach the coordinator at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Carrier {
    /// MQTT over TCP.
    Mqtt = 1,
    /// MQTT over TLS.
    Mqtts = 2,
    /// MQTT over WebSocket over TLS.
    Wss = 3,
    /// The same frames in HTTPS posts.
    Https = 4,
}

impl Carrier {
    /// The carrier of this number in a join string.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Mqtt),
            2 => Some(Self::Mqtts),
            3 => Some(Self::Wss),
            4 => Some(Self::Https),
            _ => None,
        }
    }

    /// The scheme people see: `mqtt`, `mqtts`, `wss`, `https`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Wss => "wss",
            Self::Https => "https",
        }
    }
}

/// One address of the coordinator or its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// How to talk there.
    pub carrier: Carrier,
    /// `host:port`; an IPv6 host stands in brackets.
    pub authority: heapless::String<ADDRESS_LEN>,
}

/// Account at a broker that is not the coordinator's.
pub struct BrokerAccount {
    /// User name.
    pub user: heapless::String<ACCOUNT_LEN>,
    /// Password. Erased when dropped.
    pub password: heapless::String<ACCOUNT_LEN>,
}

impl Drop for BrokerAccount {
    fn drop(&mut self) {
        // heapless 0.9 keeps no Zeroize: overwrite through the only safe way.
        let len = self.password.len();
        self.password.clear();
        for _ in 0..len {
            let _ = self.password.push('\0');
        }
    }
}

/// The token that lets an MQTT client in to enrol, and nothing else.
pub struct EnrolToken {
    /// Unix time in seconds after which the broker refuses it.
    pub expiry: u32,
    /// `MAC(broker secret, "enrol", key id, expiry)`: the MQTT password.
    pub mac: ShortSecret,
}

/// The decoded join string. No `Debug`: it holds a secret.
pub struct JoinString {
    /// The coordinator's static X25519 key: the pin.
    pub coordinator: PublicKey,
    /// The enrolment key's public reference.
    pub key: KeyId,
    /// The enrolment key's secret.
    pub psk: Secret,
    /// The broker's token.
    pub token: EnrolToken,
    /// Where the coordinator is, best first.
    pub addresses: heapless::Vec<Address, ADDRESSES>,
    /// SHA-256 of the SubjectPublicKeyInfo that TLS must show, if pinned.
    pub spki: Option<[u8; 32]>,
    /// Account at a foreign broker.
    pub account: Option<BrokerAccount>,
}

/// Why a text is not a join string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// Does not start with `WEFT` and a digit.
    NotAJoinString,
    /// Starts with `WEFT` and another format's digit.
    Format(u8),
    /// The character at this offset (bytes of the text) is not base32.
    Character(usize),
    /// The checksum differs: typed or copied wrongly.
    Checksum,
    /// Too short, too long or ending inside a field.
    Length,
    /// The checksum is right but a field is not allowed: made by a newer or
    /// broken program.
    Field,
    /// It is for the other kind: a relay's read as a device's, or a device's read
    /// as a relay's.
    Kind,
}

/// Whom a join string lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// A device.
    Device,
    /// A relay, and no device: the broker's token in it is empty.
    Relay,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], JoinError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(JoinError::Length)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], JoinError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, JoinError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn text<const N: usize>(&mut self) -> Result<heapless::String<N>, JoinError> {
        let len = usize::from(self.byte()?);
        let text = core::str::from_utf8(self.take(len)?).map_err(|_| JoinError::Field)?;
        if text.chars().any(char::is_control) {
            return Err(JoinError::Field);
        }
        heapless::String::try_from(text).map_err(|_| JoinError::Field)
    }
}

/// Decodes the text to bytes in `out` and checks prefix, alphabet and CRC.
/// Returns the bytes before the CRC. Host tools that look for the place of a
/// typing error use this on changed texts.
///
/// # Errors
///
/// As [`JoinString::parse`], without [`JoinError::Field`].
pub fn decode<'a>(text: &str, out: &'a mut [u8; MAX_BYTES]) -> Result<&'a [u8], JoinError> {
    let trimmed = text.trim();
    let lead = text.len() - text.trim_start().len();
    let (prefix, body) = trimmed.split_at_checked(PREFIX.len()).ok_or(JoinError::NotAJoinString)?;
    let prefix = prefix.as_bytes();
    if !prefix[..4].eq_ignore_ascii_case(&PREFIX.as_bytes()[..4]) {
        return Err(JoinError::NotAJoinString);
    }
    match prefix[4] {
        b'1' => {}
        digit @ b'0'..=b'9' => return Err(JoinError::Format(digit - b'0')),
        _ => return Err(JoinError::NotAJoinString),
    }
    let len = base32::decode(body.as_bytes(), out).map_err(|error| match error {
        Base32Error::Character(at) => JoinError::Character(lead + PREFIX.len() + at),
        Base32Error::NoRoom => JoinError::Length,
        // A cut or doubled character shows as a wrong tail: say it as such.
        Base32Error::Length => JoinError::Checksum,
    })?;
    let (data, crc) = out[..len].split_last_chunk::<4>().ok_or(JoinError::Length)?;
    if crc32(data) != u32::from_le_bytes(*crc) {
        return Err(JoinError::Checksum);
    }
    Ok(data)
}

impl JoinString {
    /// Reads a join string; case, spaces and dashes do not matter.
    ///
    /// # Errors
    ///
    /// [`JoinError`] says what is wrong and, for a foreign character, where.
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        Self::parse_for(Joins::Device, text)
    }

    /// The same for a device or a relay.
    ///
    /// # Errors
    ///
    /// As [`JoinString::parse`].
    pub fn parse_for(joins: Joins, text: &str) -> Result<Self, JoinError> {
        let mut bytes = [0; MAX_BYTES];
        let parsed = decode(text, &mut bytes).and_then(|data| Self::from_bytes(joins, data));
        bytes.zeroize();
        parsed
    }

    fn from_bytes(joins: Joins, data: &[u8]) -> Result<Self, JoinError> {
        let mut reader = Reader(data);
        let flags = reader.byte()?;
        if flags & !(FLAG_SPKI | FLAG_ACCOUNT | FLAG_RELAY) != 0 {
            return Err(JoinError::Field);
        }
        if (flags & FLAG_RELAY != 0) != (joins == Joins::Relay) {
            return Err(JoinError::Kind);
        }
        let coordinator = PublicKey(reader.array()?);
        let key = KeyId::from_bytes(reader.array()?).map_err(|_| JoinError::Field)?;
        let psk = Secret::take(&mut reader.array()?);
        let token = EnrolToken {
            expiry: u32::from_le_bytes(reader.array()?),
            mac: ShortSecret(reader.array()?),
        };
        let mut addresses = heapless::Vec::new();
        for _ in 0..reader.byte()? {
            let carrier = Carrier::from_byte(reader.byte()?).ok_or(JoinError::Field)?;
            let authority = reader.text()?;
            addresses.push(Address { carrier, authority }).map_err(|_| JoinError::Field)?;
        }
        let spki = (flags & FLAG_SPKI != 0).then(|| reader.array()).transpose()?;
        let account = (flags & FLAG_ACCOUNT != 0)
            .then(|| Ok(BrokerAccount { user: reader.text()?, password: reader.text()? }))
            .transpose()?;
        if !reader.0.is_empty() || addresses.is_empty() {
            return Err(JoinError::Field);
        }
        Ok(Self { coordinator, key, psk, token, addresses, spki, account })
    }

    /// Writes the text into `out` and returns its length in characters.
    ///
    /// # Errors
    ///
    /// [`JoinError::Field`] without an address.
    pub fn emit(&self, out: &mut [u8; MAX_TEXT]) -> Result<usize, JoinError> {
        self.emit_for(Joins::Device, out)
    }

    /// The same for a device or a relay.
    ///
    /// # Errors
    ///
    /// As [`JoinString::emit`].
    pub fn emit_for(&self, joins: Joins, out: &mut [u8; MAX_TEXT]) -> Result<usize, JoinError> {
        if self.addresses.is_empty() {
            return Err(JoinError::Field);
        }
        let mut bytes = heapless::Vec::<u8, MAX_BYTES>::new();
        let flags = if self.spki.is_some() { FLAG_SPKI } else { 0 }
            | if self.account.is_some() { FLAG_ACCOUNT } else { 0 }
            | if joins == Joins::Relay { FLAG_RELAY } else { 0 };
        let mut put = |part: &[u8]| {
            // Cannot fail: MAX_BYTES is the longest form.
            let _ = bytes.extend_from_slice(part);
        };
        put(&[flags]);
        put(&self.coordinator.0);
        put(&self.key.to_bytes());
        put(&self.psk.0);
        put(&self.token.expiry.to_le_bytes());
        put(&self.token.mac.0);
        put(&[self.addresses.len() as u8]);
        for address in &self.addresses {
            put(&[address.carrier as u8, address.authority.len() as u8]);
            put(address.authority.as_bytes());
        }
        if let Some(spki) = &self.spki {
            put(spki);
        }
        if let Some(account) = &self.account {
            for text in [&account.user, &account.password] {
                put(&[text.len() as u8]);
                put(text.as_bytes());
            }
        }
        let crc = crc32(&bytes).to_le_bytes();
        let _ = bytes.extend_from_slice(&crc);
        out[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
        let written = base32::encode(&bytes, Case::Upper, &mut out[PREFIX.len()..]);
        bytes.as_mut_slice().zeroize();
        written.map(|len| PREFIX.len() + len).ok_or(JoinError::Length)
    }
}

/// How a join string may be shown: its first 8 and last 4 characters.
pub fn shortened(text: &str) -> heapless::String<16> {
    let mut out = heapless::String::new();
    let text = text.trim();
    if let (Some(head), Some(tail)) =
        (text.get(..8), text.len().checked_sub(4).and_then(|at| text.get(at..)))
    {
        let _ = out.push_str(head);
        let _ = out.push('…');
        let _ = out.push_str(tail);
    } else {
        let _ = out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinString {
        let mut addresses = heapless::Vec::new();
        for (carrier, authority) in
            [(Carrier::Mqtt, "mesh.example.net:7420"), (Carrier::Https, "[2001:db8::1]:7420")]
        {
            let authority = heapless::String::try_from(authority).unwrap();
            addresses.push(Address { carrier, authority }).unwrap();
        }
        JoinString {
            coordinator: PublicKey([0x11; 32]),
            key: KeyId::from_random([0x22; 8]),
            psk: Secret([0x33; 32]),
            token: EnrolToken { expiry: 0x4444_4444, mac: ShortSecret([0x55; 16]) },
            addresses,
            spki: Some([0x66; 32]),
            account: Some(BrokerAccount {
                user: heapless::String::try_from("fleet").unwrap(),
                password: heapless::String::try_from("pass word").unwrap(),
            }),
        }
    }

    fn text(join: &JoinString) -> String {
        let mut out = [0; MAX_TEXT];
        let len = join.emit(&mut out).unwrap();
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn survives_the_round_trip_in_any_dress() {
        let line = text(&sample());
        let dressed = format!("  {}-{} \n", line[..20].to_lowercase(), &line[20..]);
        let back = JoinString::parse(&dressed).ok().unwrap();
        assert_eq!(text(&back), line);
        assert_eq!(back.addresses, sample().addresses);
        assert_eq!(back.account.as_ref().unwrap().password, "pass word");
    }

    #[test]
    fn every_substitution_and_cut_is_seen() {
        let line = text(&sample());
        for at in PREFIX.len()..line.len() {
            let mut wrong = line.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(matches!(JoinString::parse(&wrong), Err(JoinError::Checksum)), "{at}");
            assert!(JoinString::parse(&line[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| JoinString::parse(text).err();
        assert_eq!(error("mesh.example.net"), Some(JoinError::NotAJoinString));
        assert_eq!(error(""), Some(JoinError::NotAJoinString));
        assert_eq!(error("abcé"), Some(JoinError::NotAJoinString));
        assert_eq!(error("WEFT2AAAA"), Some(JoinError::Format(2)));
        assert_eq!(error(" WEFT1AA0A"), Some(JoinError::Character(8)));
        assert_eq!(error("WEFT1"), Some(JoinError::Length));
        assert_eq!(error("WEFT1é"), Some(JoinError::Character(5)));
    }

    #[test]
    fn unknown_flags_and_trailing_bytes_are_refused() {
        let mut bytes = [0; MAX_BYTES];
        let line = text(&sample());
        let data = decode(&line, &mut bytes).unwrap().to_vec();
        let mut newer = data.clone();
        newer[0] |= 8;
        let error = |data: &[u8]| JoinString::from_bytes(Joins::Device, data).err();
        assert_eq!(error(&newer), Some(JoinError::Field));
        let mut longer = data;
        longer.push(0);
        assert_eq!(error(&longer), Some(JoinError::Field));
    }

    #[test]
    fn no_device_takes_a_relays_string_and_no_relay_a_devices() {
        let mut out = [0; MAX_TEXT];
        let len = sample().emit_for(Joins::Relay, &mut out).unwrap();
        let relays = core::str::from_utf8(&out[..len]).unwrap();
        assert_eq!(JoinString::parse(relays).err(), Some(JoinError::Kind));
        let read = JoinString::parse_for(Joins::Relay, relays).ok().unwrap();
        assert_eq!((read.key, read.psk.0), (sample().key, sample().psk.0));
        let devices = text(&sample());
        assert_eq!(JoinString::parse_for(Joins::Relay, &devices).err(), Some(JoinError::Kind));
    }

    #[test]
    fn is_shown_without_its_secret() {
        assert_eq!(shortened("WEFT1ABCDEFGHRNDY").as_str(), "WEFT1ABC…RNDY");
        assert_eq!(shortened("x").as_str(), "…");
    }
}
