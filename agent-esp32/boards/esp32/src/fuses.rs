//! The key in the fuses that no software reads: what records in flash memory are wrapped
//! with is the HMAC of a text with it.

use core::convert::Infallible;

use esp_hal::hmac::{Hmac, HmacPurpose, KeyId};
use esp_hal::peripherals::HMAC;

const TEXT: &[u8] = b"weft records at rest v1";
const KEYS: [KeyId; 6] =
    [KeyId::Key0, KeyId::Key1, KeyId::Key2, KeyId::Key3, KeyId::Key4, KeyId::Key5];

/// Of the first key that was burned for this purpose (`HMAC_UP`); `None` if there is none.
pub(crate) fn secret(hmac: HMAC<'_>) -> Option<[u8; 32]> {
    let mut hmac = Hmac::new(hmac);
    KEYS.into_iter().find(|key| {
        hmac.init();
        nb::block!(hmac.configure(HmacPurpose::ToUser, *key)).is_ok()
    })?;
    let mut secret = [0; 32];
    let made = compute(&mut hmac, &mut secret);
    made.ok().map(|()| secret)
}

fn compute(hmac: &mut Hmac<'_>, out: &mut [u8; 32]) -> Result<(), Infallible> {
    let mut text = TEXT;
    while !text.is_empty() {
        text = nb::block!(hmac.update(text))?;
    }
    nb::block!(hmac.finalize(out))
}
