//! What a device was provisioned with: lines of text in the first block of its flash
//! memory, written there when it was made.
//!
//! ```text
//! join=WEFT1…
//! name=sensor-17
//! ssid=Workshop
//! password=correct horse battery staple
//! ```
//!
//! The last two are for boards with Wi-Fi; a network without a password is open.

use core::fmt;

use embedded_storage_async::nor_flash::ReadNorFlash;

/// The longest text, in bytes.
pub const PAGE: usize = 1_536;

/// What is wrong with it.
pub enum Problem {
    /// The flash memory gives an error.
    Unreadable,
    /// The block is erased, or is not UTF-8.
    NoText,
    /// It has no line with this key.
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

/// What is there.
pub struct Provisioned<'a> {
    /// The join string.
    pub join: &'a str,
    /// The name that the device would like on the mesh.
    pub name: &'a str,
    wifi: Option<Wifi<'a>>,
}

impl<'a> Provisioned<'a> {
    /// The wireless network to use, for a board that has nothing else.
    ///
    /// # Errors
    ///
    /// [`Problem::Missing`].
    pub fn wifi(&self) -> Result<Wifi<'a>, Problem> {
        self.wifi.ok_or(Problem::Missing("ssid"))
    }
}

/// A wireless network.
#[derive(Clone, Copy)]
pub struct Wifi<'a> {
    /// Its name.
    pub ssid: &'a str,
    /// `None`: it is open.
    pub password: Option<&'a str>,
}

/// Reads what is there into `text`.
///
/// # Errors
///
/// [`Problem`].
pub async fn read<'a>(
    flash: &mut impl ReadNorFlash,
    text: &'a mut [u8; PAGE],
) -> Result<Provisioned<'a>, Problem> {
    flash.read(0, text).await.map_err(|_| Problem::Unreadable)?;
    // Erased flash memory is all ones, which is no text.
    let text = text.split(|byte| matches!(byte, 0 | 0xFF)).next().unwrap_or_default();
    let text = core::str::from_utf8(text).map_err(|_| Problem::NoText)?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let wanted = |key: &'static str| {
        let problem = if text.is_empty() { Problem::NoText } else { Problem::Missing(key) };
        value(key).ok_or(problem)
    };
    let password = value("password").filter(|password| !password.is_empty());
    let wifi = value("ssid").map(|ssid| Wifi { ssid, password });
    Ok(Provisioned { join: wanted("join")?, name: wanted("name")?, wifi })
}
