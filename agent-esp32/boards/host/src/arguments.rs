//! The command line.

use std::path::PathBuf;

/// What is said where nothing fits.
pub(crate) const USAGE: &str = "\
usage: weft-board-host --tap NAME [--flash FILE] [--join WEFT1… [--name NAME]]

  --tap NAME     a TAP interface that is up, in a network with DHCP
  --flash FILE   the chip's flash memory; made if it is not there [flash.bin]
  --join WEFT1…  what the chip is provisioned with; once, since the flash memory keeps it
  --name NAME    the name that it would like on the mesh [sensor]";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) tap: String,
    pub(crate) flash: PathBuf,
    pub(crate) join: Option<String>,
    pub(crate) name: Option<String>,
}

impl Arguments {
    /// What is wrong is said in a sentence.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut tap, mut flash, mut join, mut name) = (None, None, None, None);
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let place = match word.as_str() {
                "--tap" => &mut tap,
                "--flash" => &mut flash,
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
            flash: flash.unwrap_or_else(|| "flash.bin".to_owned()).into(),
            join,
            name,
        })
    }
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
        for (line, named) in [
            ("--tap", "--tap wants a value"),
            ("", "--tap is missing"),
            ("--tape tap0", "--tape is not known"),
            ("--tap tap0 --name a", "--name goes with --join"),
        ] {
            assert!(parse(line).unwrap_err().starts_with(named), "{line}");
        }
    }
}
