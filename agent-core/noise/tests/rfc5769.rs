//! STUN's test vectors (RFC 5769), and coturn's time-limited users.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use weft_noise::legacy::{self, LongTermKey, SharedPassword};
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, BINDING_REQUEST, BINDING_SUCCESS, Message, MessageWriter, NONCE,
    REALM, USERNAME,
};

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// Section 2.1.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
    802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36\
    000600096576746a3a68367659202020\
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
/// Section 2.2.
const IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae\
    8022000b7465737420766563746f7220002000080001a147e112a643\
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// Section 2.3.
const IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae\
    8022000b7465737420766563746f7220\
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
    00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// Section 2.4.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e\
    00060012e3839ee38388e383aae38383e382afe382b90000\
    0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341\
    0014000b6578616d706c652e6f726700\
    00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";
const NAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn short_term_vectors_verify_and_no_changed_bit_does() {
    for vector in [REQUEST, IPV4, IPV6] {
        let bytes = unhex(vector);
        let integrity = Message::parse(&bytes).unwrap().integrity(Algorithm::Sha1).unwrap();
        assert!(legacy::verify(PASSWORD, Algorithm::Sha1, &integrity));
        assert!(!legacy::verify(b"another", Algorithm::Sha1, &integrity));
        // Without FINGERPRINT, which would find a changed bit before the MAC does.
        let mut bare = bytes[..bytes.len() - 8].to_vec();
        bare[3] -= 8;
        let end = bare.len();
        for bit in (8 * 8..20 * 8).chain((end - 20) * 8..end * 8) {
            bare[bit / 8] ^= 1 << (bit % 8);
            let changed = Message::parse(&bare).unwrap().integrity(Algorithm::Sha1).unwrap();
            assert!(!legacy::verify(PASSWORD, Algorithm::Sha1, &changed), "bit {bit}");
            bare[bit / 8] ^= 1 << (bit % 8);
        }
        let whole = Message::parse(&bare).unwrap().integrity(Algorithm::Sha1).unwrap();
        assert!(legacy::verify(PASSWORD, Algorithm::Sha1, &whole), "the length was adjusted");
    }
}

#[test]
fn the_answers_name_their_address() {
    for (vector, address) in
        [(IPV4, "192.0.2.1:32853"), (IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = unhex(vector);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.kind(), BINDING_SUCCESS);
        assert_eq!(message.mapped_address(), Some(address.parse().unwrap()));
    }
}

#[test]
fn the_long_term_vector_is_read_and_written() {
    let bytes = unhex(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let (user, realm) = (message.get(USERNAME).unwrap(), message.get(REALM).unwrap());
    assert_eq!((user, realm), (NAME.as_bytes(), &b"example.org"[..]));
    let key = LongTermKey::new(user, realm, b"TheMatrIX");
    assert!(key.verify(Algorithm::Sha1, &message.integrity(Algorithm::Sha1).unwrap()));

    let mut out = [0; 128];
    let mut writer = MessageWriter::new(BINDING_REQUEST, message.transaction(), &mut out).unwrap();
    writer.attribute(USERNAME, user).unwrap();
    writer.attribute(NONCE, message.get(NONCE).unwrap()).unwrap();
    writer.attribute(REALM, realm).unwrap();
    key.sign(Algorithm::Sha1, &mut writer).unwrap();
    let len = writer.finish_bare();
    assert_eq!(out[..len], bytes);
}

#[test]
fn the_longer_mac_may_be_cut() {
    let key = LongTermKey::new(b"user", b"realm", b"password");
    let mut out = [0; 128];
    let mut writer = MessageWriter::new(ALLOCATE_REQUEST, [7; 12], &mut out).unwrap();
    writer.attribute(USERNAME, b"user").unwrap();
    key.sign(Algorithm::Sha256, &mut writer).unwrap();
    let len = writer.finish().unwrap();
    let whole = Message::parse(&out[..len]).unwrap().integrity(Algorithm::Sha256).unwrap();
    assert!(key.verify(Algorithm::Sha256, &whole));
    // A cut one covers another length field (RFC 8489 section 14.6).
    let mut cut = out[..len - 8 - 16].to_vec();
    cut[3] = (cut.len() - 20) as u8;
    let at = cut.len() - 16;
    cut[at - 1] = 16;
    let mac = legacy::hmac_sha256(&md5_of(b"user:realm:password"), &[&cut[..at - 4]]);
    cut[at..].copy_from_slice(&mac[..16]);
    let short = Message::parse(&cut).unwrap().integrity(Algorithm::Sha256).unwrap();
    assert!(key.verify(Algorithm::Sha256, &short));
    cut[at] ^= 1;
    let wrong = Message::parse(&cut).unwrap().integrity(Algorithm::Sha256).unwrap();
    assert!(!key.verify(Algorithm::Sha256, &wrong));
}

fn md5_of(text: &[u8]) -> [u8; 16] {
    // `printf user:realm:password | md5sum`
    assert_eq!(text, b"user:realm:password");
    unhex("ebbc0ff9a121dbb6789bbe5f82174fa0").try_into().unwrap()
}

#[test]
fn macs_are_those_of_rfc_2202_and_rfc_4231() {
    let question = [&b"what do ya want "[..], b"for nothing?"];
    let sha1 = unhex("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    assert_eq!(legacy::hmac_sha1(b"Jefe", &question)[..], sha1);
    let sha256 = unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_eq!(legacy::hmac_sha256(b"Jefe", &question)[..], sha256);
    let long = unhex("aa4ae5e15272d00e95705637ce8a3b55ed402112");
    let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
    assert_eq!(legacy::hmac_sha1(&[0xAA; 80], &[text])[..], long);
}

#[test]
fn a_time_limited_users_password_is_coturns() {
    // printf 1764230400:dev | openssl dgst -sha1 -hmac secret -binary | base64
    let password = SharedPassword::new(b"secret", b"1764230400:dev");
    assert_eq!(core::str::from_utf8(password.as_bytes()), Ok("+uxd4IO/lE5INBPz665dM1nL4U8="));
}
