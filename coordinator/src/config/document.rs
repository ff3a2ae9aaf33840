//! A TOML file with places: every complaint names line and column.

use core::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::failure::{Code, Failure, Place};

/// The most complaints about one file.
pub const COMPLAINTS: usize = 10;

/// A file's text.
pub struct Document {
    path: String,
    text: String,
}

/// A value with its place.
pub type Value<'a> = Spanned<DeValue<'a>>;

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// `config.not-found`, `config.file-denied` or `config.encoding`. `from`
    /// says who named the file.
    pub fn read(path: &Path, from: &str) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(Code::ConfigNotFound, format!("no file {shown} (from {from})"))
            }
            _ => Failure::new(Code::ConfigFileDenied, format!("{shown} cannot be read: {error}")),
        })?;
        Self::from_bytes(shown, bytes)
    }

    /// Takes a file's bytes.
    ///
    /// # Errors
    ///
    /// `config.encoding`.
    pub fn from_bytes(path: String, bytes: Vec<u8>) -> Result<Self, Failure> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes()[at];
                let good = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
                let document = Self { path, text: good };
                let place = document.place(&(at..at));
                let message = format!("not UTF-8: byte 0x{byte:02X} at column {}", place.column);
                Err(Failure::new(Code::ConfigEncoding, message).at(place))
            }
        }
    }

    /// Parses the text. What can be read is read, whatever else is wrong.
    pub fn parse(&self) -> (Spanned<DeTable<'_>>, Vec<Failure>) {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let failures = errors.iter().map(|error| {
            let span = error.span().unwrap_or(0..0);
            match error.message() {
                "duplicate key" => self.duplicate(span),
                message => self.complain(Code::ConfigSyntax, message, &span),
            }
        });
        let failures = failures.collect();
        (table, failures)
    }

    fn duplicate(&self, span: Range<usize>) -> Failure {
        let key = self.text.get(span.clone()).unwrap_or_default();
        let first = self.first_of(key, span.start);
        let message = format!("\"{key}\" is set twice, first in line {first}");
        self.complain(Code::ConfigDuplicate, message, &span)
    }

    /// The line of the first of two equal keys: in the section that the second
    /// stands in, or of the section itself.
    fn first_of(&self, key: &str, second: usize) -> usize {
        let before = self.text.get(..second).unwrap_or_default();
        let is_head = |line: &str| line.trim_start().starts_with('[');
        let lines: Vec<&str> = before.split('\n').collect();
        let second_line = self.text[before.rfind('\n').map_or(0, |at| at + 1)..].lines().next();
        let is_section = second_line.is_some_and(is_head);
        // The last one is the second's own, cut off.
        let earlier = lines.len().saturating_sub(1);
        let start = if is_section {
            0
        } else {
            lines[..earlier].iter().rposition(|line| is_head(line)).map_or(0, |at| at + 1)
        };
        let is_same = |line: &&str| {
            if is_section {
                line.trim() == format!("[{key}]")
            } else {
                line.split('=').next().is_some_and(|name| name.trim() == key)
            }
        };
        lines[start..earlier].iter().position(is_same).map_or(1, |at| start + at + 1)
    }

    /// A complaint about a place.
    pub fn complain(&self, code: Code, message: impl Into<String>, span: &Range<usize>) -> Failure {
        Failure::new(code, message).at(self.place(span))
    }

    /// The line of a place, from 1.
    pub fn line(&self, span: &Range<usize>) -> usize {
        self.place(span).line
    }

    /// The file's path as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = self.text[line_start..].lines().next().unwrap_or_default();
        let column = before[line_start..].chars().count() + 1;
        let end = span.end.clamp(start, line_start + text.len().max(start - line_start));
        let width = self.text.get(start..end).map_or(1, |meant| meant.chars().count());
        Place {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column,
            // A tab is shown as one column, so that the caret stands below.
            text: text.replace('\t', " "),
            width: width.max(1),
        }
    }
}

/// What people call the type of a value.
pub fn type_word(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::from_bytes("x.toml".to_owned(), text.as_bytes().to_vec()).ok().unwrap()
    }

    #[test]
    fn places_are_where_they_are() {
        let text = "a = 1\n\tü = \"ö\" # c\n";
        let document = document(text);
        let start = text.find('ö').unwrap();
        let place = document.place(&(start..start + 'ö'.len_utf8()));
        assert_eq!((place.line, place.column, place.width), (2, 7, 1));
        assert_eq!(place.text, " ü = \"ö\" # c");
        let place = document.place(&(text.len()..text.len() + 9));
        assert_eq!((place.line, place.column, place.width), (3, 1, 1));
    }

    #[test]
    fn doubles_name_the_first() {
        let document = document("mtu = 1\nx = 2\nmtu = 3\n");
        let (_, failures) = document.parse();
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].message, "\"mtu\" is set twice, first in line 1");
        assert_eq!(failures[0].place.as_ref().unwrap().line, 3);
    }

    #[test]
    fn doubles_are_sought_in_their_own_section() {
        let rules = "[[rule]]\nname = \"a\"\n[[rule]]\nname = \"b\"\nfrom = 1\nname = \"c\"\n";
        let (document, other) = (document(rules), document("[a]\nx = 1\n[b]\n[a]\n"));
        let (_, failures) = document.parse();
        assert_eq!(failures[0].message, "\"name\" is set twice, first in line 4");
        let (_, failures) = other.parse();
        assert_eq!(failures[0].message, "\"a\" is set twice, first in line 1");
    }

    #[test]
    fn foreign_bytes_are_named() {
        let failure =
            Document::from_bytes("x.toml".to_owned(), b"a = \"\xe9\"".to_vec()).err().unwrap();
        assert_eq!(failure.message, "not UTF-8: byte 0xE9 at column 6");
    }
}
