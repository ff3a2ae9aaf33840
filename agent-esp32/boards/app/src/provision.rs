//! What a device was provisioned with: lines of text in the first block of its flash
//! memory, written there when it was made.
//!
//! ```text
//! join=WEFT1…
//! name=sensor-17
//! ```

use core::fmt;

use embedded_storage_async::nor_flash::ReadNorFlash;

/// The longest text, in bytes.
pub const PAGE: usize = 1_536;

/// What is wrong with it.
pub(crate) enum Problem {
    Unreadable,
    NoText,
    Missing(&'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the flash memory cannot be read"),
            Self::NoText => f.write_str("the first block of the flash memory holds no text"),
            Self::Missing(key) => {
                write!(f, "the first block of the flash memory has no line {key}=…")
            }
        }
    }
}

pub(crate) struct Provisioned<'a> {
    pub(crate) join: &'a str,
    pub(crate) name: &'a str,
}

pub(crate) async fn read<'a>(
    flash: &mut impl ReadNorFlash,
    text: &'a mut [u8; PAGE],
) -> Result<Provisioned<'a>, Problem> {
    flash.read(0, text).await.map_err(|_| Problem::Unreadable)?;
    // Erased flash memory is all ones, which is no text.
    let text = text.split(|byte| matches!(byte, 0 | 0xFF)).next().unwrap_or_default();
    let text = core::str::from_utf8(text).map_err(|_| Problem::NoText)?;
    let value = |key: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.ok_or(if text.is_empty() { Problem::NoText } else { Problem::Missing(key) })
    };
    Ok(Provisioned { join: value("join")?, name: value("name")? })
}
