//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What is said where nothing fits.
pub(crate) const USAGE: &str = "\
usage: weft-board-host --tap NAME [--mac ADDRESS] [--flash FILE] [--join WEFT1… [--name NAME]]
       [--broker ADDRESS:PORT]

  --tap NAME     a TAP interface that is up, in a network with DHCP
  --mac ADDRESS  the card's own address [one for each flash memory]
  --flash FILE   the chip's flash memory; made if it is not there [flash.bin]
  --join WEFT1…  what the chip is provisioned with; once, since the flash memory keeps it
  --broker ADDRESS:PORT  publish uptime to this MQTT broker on the mesh, each 10 s
  --name NAME    the name that it would like on the mesh [sensor]";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) tap: String,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) flash: PathBuf,
    pub(crate) join: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) broker: Option<SocketAddr>,
}

impl Arguments {
    /// What is wrong is said in a sentence.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let [mut tap, mut mac, mut flash, mut join, mut name, mut broker] = [const { None }; 6];
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let place = match word.as_str() {
                "--tap" => &mut tap,
                "--mac" => &mut mac,
                "--flash" => &mut flash,
                "--broker" => &mut broker,
                "--join" => &mut join,
                "--name" => &mut name,
                _ => return Err(format!("{word} is not known")),
            };
            *place = Some(words.next().ok_or_else(|| format!("{word} wants a value"))?);
        }
        if name.is_some() && join.is_none() {
            return Err(
                "--name goes with --join: both are what the chip is provisioned with".into()
            );
        }
        Ok(Self {
            tap: tap.ok_or("--tap is missing")?,
            mac: mac.map(|text| address(&text)).transpose()?,
            flash: flash.unwrap_or_else(|| "flash.bin".to_owned()).into(),
            join,
            name,
            broker: broker
                .map(|text| text.parse().map_err(|_| format!("--broker {text} is no ADDRESS:PORT")))
                .transpose()?,
        })
    }
}

/// `02:00:00:00:00:01`, the address of a single card.
fn address(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> =
        text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let bytes = <[u8; 6]>::try_from(bytes).ok().filter(|[first, ..]| first % 2 == 0);
    bytes.ok_or_else(|| format!("--mac {text} is no address of a single card"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_is_read_and_mistakes_are_named() {
        let read = parse("--join WEFT1 --tap tap0 --name a").unwrap();
        assert_eq!((read.tap.as_str(), read.join.as_deref()), ("tap0", Some("WEFT1")));
        assert_eq!(read.flash, PathBuf::from("flash.bin"));
        let read = parse("--tap tap0 --mac 02:00:00:c0:00:1f").unwrap();
        assert_eq!(read.mac, Some([2, 0, 0, 0xC0, 0, 0x1F]));
        for (line, named) in [
            ("--tap", "--tap wants a value"),
            ("", "--tap is missing"),
            ("--tape tap0", "--tape is not known"),
            ("--tap tap0 --mac 02:00", "--mac 02:00 is no address"),
            ("--tap tap0 --mac 01:00:00:00:00:00", "--mac 01"),
            ("--tap tap0 --broker here", "--broker here is no"),
            ("--tap tap0 --name a", "--name goes with --join"),
        ] {
            assert!(parse(line).unwrap_err().starts_with(named), "{line}");
        }
    }
}
