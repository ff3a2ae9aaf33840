//! Tokens of RETRY: under load the coordinator answers a HELLO with a token
//! instead of work, and the device repeats its HELLO with it, which proves that
//! it receives at its inbox. No state is kept; the token is a MAC.

use weft_wire::frame::{Hello, Retry, TAG_LEN};
use weft_wire::id::{Inbox, Secret};

use super::hello_hash;
use crate::hash::mac16;
use crate::mac;

/// The token of an inbox in one bucket of time, for instance the Unix minute.
/// `secret` is drawn at start and is held in memory only.
pub fn token(secret: &Secret, inbox: &Inbox, bucket: u64) -> [u8; TAG_LEN] {
    mac16(&secret.0, &[b"weft retry v1", &inbox.0, &bucket.to_le_bytes()])
}

/// Whether a HELLO carries the token of its inbox of this bucket or the one
/// before.
#[must_use]
pub fn verify(secret: &Secret, hello: &Hello<'_>, bucket: u64) -> bool {
    let (inbox, token_sent) = (hello.inbox(), hello.token());
    let current = mac::verify(&token(secret, &inbox, bucket), &token_sent);
    let previous = mac::verify(&token(secret, &inbox, bucket.wrapping_sub(1)), &token_sent);
    current | previous
}

/// The RETRY that answers a HELLO.
pub fn answer(secret: &Secret, hello: &Hello<'_>, bucket: u64) -> Retry {
    Retry { hello_hash: hello_hash(hello.frame()), token: token(secret, &hello.inbox(), bucket) }
}
