//! Reads TOML so that a mistake is shown where it is: file, line, column, the
//! line itself with a caret, and the nearest name that exists. All mistakes of a
//! file are found in one run.

use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::failure::{Code, Failure};
pub(crate) use weft_wire::size::parse as size;

/// The most mistakes shown of one file.
const MOST: usize = 10;

/// Bytes of the file's text.
type Span = Range<usize>;

/// The text of a file, to draw places in it.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// Line and column of an offset, from 1; columns count characters.
    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }

    fn file_name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// ```text
    ///   --> /etc/weft/weft.toml:7:1
    ///    |
    ///  7 | lisen_port = 41641
    ///    | ^^^^^^^^^^
    /// ```
    fn draw(&self, span: &Span) -> String {
        let (line, column) = self.place(span.start);
        let text = self.text.lines().nth(line - 1).unwrap_or("");
        let marked = self.text.get(span.clone()).unwrap_or("");
        let marked = marked.lines().next().unwrap_or("").chars().count();
        let room = (text.chars().count() + 1).saturating_sub(column).max(1);
        let carets = "^".repeat(marked.clamp(1, room));
        let number = line.to_string();
        let pad = " ".repeat(number.len());
        // A tab stays a tab, so that the caret stands below its character.
        let indent: String = text
            .chars()
            .take(column - 1)
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        format!(
            "  --> {}:{line}:{column}\n {pad} |\n {number} | {text}\n {pad} | {indent}{carets}",
            self.path.display()
        )
    }
}

/// A file being read: what was taken out of it, and what was wrong.
pub(crate) struct Document<'a> {
    source: Source<'a>,
    table: DeTable<'a>,
    sections: Vec<&'static str>,
    failures: Vec<Failure>,
}

/// One `[section]` being read.
pub(crate) struct Section<'d, 'a> {
    name: &'static str,
    table: DeTable<'a>,
    known: Vec<&'static str>,
    source: &'d Source<'a>,
    failures: &'d mut Vec<Failure>,
}

impl<'a> Document<'a> {
    /// Reads the text.
    ///
    /// # Errors
    ///
    /// What is wrong with its form, at most ten failures.
    pub(crate) fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, Vec<Failure>> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return Err(vec![encoding(path, bytes, error.valid_up_to())]),
        };
        let source = Source { path, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        let table = table.into_inner();
        let mut failures: Vec<Failure> = Vec::new();
        for error in errors {
            failures.push(syntax(&source, &table, &error));
        }
        if failures.is_empty() {
            Ok(Self { source, table, sections: Vec::new(), failures })
        } else {
            failures.truncate(MOST);
            Err(failures)
        }
    }

    /// Reads one section, if it is there.
    pub(crate) fn section(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_, 'a>)) {
        self.sections.push(name);
        let table = match take(&mut self.table, name) {
            None => DeTable::new(),
            Some((span, value)) => match value.into_inner() {
                DeValue::Table(table) => table,
                other => {
                    let message =
                        format!("{name} is a section, found {}; write [{name}]", found(&other));
                    self.failures.push(
                        Failure::new(Code::ConfigType, message).excerpt(self.source.draw(&span)),
                    );
                    return;
                }
            },
        };
        let mut section = Section {
            name,
            table,
            known: Vec::new(),
            source: &self.source,
            failures: &mut self.failures,
        };
        read(&mut section);
        section.finish();
    }

    /// Ends the reading: sections that nobody asked for are mistakes.
    ///
    /// # Errors
    ///
    /// Everything that was wrong, at most ten failures.
    pub(crate) fn finish(mut self) -> Result<(), Vec<Failure>> {
        for (key, value) in &self.table {
            let name = key.get_ref();
            let (code, message) = if value.get_ref().is_table() {
                let there = nearest(name, &self.sections);
                let there = there.map_or_else(String::new, |near| format!("; there is [{near}]"));
                (Code::ConfigUnknownSection, format!("unknown section [{name}]{there}"))
            } else {
                let message = format!("unknown key \"{name}\" outside of a section");
                (Code::ConfigUnknownKey, message)
            };
            let drawn = self.source.draw(&key.span());
            self.failures.push(Failure::new(code, message).excerpt(drawn));
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        self.failures.truncate(MOST);
        Err(self.failures)
    }
}

fn take<'a>(table: &mut DeTable<'a>, name: &str) -> Option<(Span, Spanned<DeValue<'a>>)> {
    let span = table.keys().find(|key| key.get_ref() == name).map(Spanned::span)?;
    table.remove(name).map(|value| (span, value))
}

/// `the string "1420"`.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{text}\""),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(moment) => format!("the date {moment}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
    }
}

fn encoding(path: &Path, bytes: &[u8], at: usize) -> Failure {
    let before = &bytes[..at];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let start = before.iter().rposition(|&byte| byte == b'\n');
    let start = start.map_or(0, |newline| newline + 1);
    let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
    let byte = bytes.get(at).copied().unwrap_or(0);
    Failure::new(Code::ConfigEncoding, format!("not UTF-8: byte 0x{byte:02X} at column {column}"))
        .excerpt(format!("  --> {}:{line}:{column}", path.display()))
}

fn syntax(source: &Source<'_>, table: &DeTable<'_>, error: &toml::de::Error) -> Failure {
    let span = error.span().unwrap_or(0..0);
    let drawn = source.draw(&span);
    if error.message().contains("duplicate key") {
        let name = source.text.get(span.clone()).unwrap_or("");
        let first = first_place(table, name, span.start).map(|at| source.place(at).0);
        let first = first.map_or_else(String::new, |line| format!(", first in line {line}"));
        let message = format!("\"{name}\" is set twice{first}");
        return Failure::new(Code::ConfigDuplicate, message).excerpt(drawn);
    }
    let message = error.message().lines().next().unwrap_or("cannot be read");
    Failure::new(Code::ConfigSyntax, message).excerpt(drawn)
}

/// Where a key of this name stands last before `before`.
fn first_place(table: &DeTable<'_>, name: &str, before: usize) -> Option<usize> {
    let mut found = None;
    for (key, value) in table {
        let at = key.span().start;
        if key.get_ref() == name && at < before {
            found = found.max(Some(at));
        }
        if let DeValue::Table(inner) = value.get_ref() {
            found = found.max(first_place(inner, name, before));
        }
    }
    found
}

impl Section<'_, '_> {
    /// Notes a mistake at a place.
    pub(crate) fn refuse(&mut self, code: Code, span: Span, message: String) {
        let drawn = self.source.draw(&span);
        self.failures.push(Failure::new(code, message).excerpt(drawn));
    }

    fn wrong_type(&mut self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>, hint: &str) {
        let message = format!("{key} is {wanted}, found {}{hint}", found(value.get_ref()));
        self.refuse(Code::ConfigType, value.span(), message);
    }

    /// A text, with its place.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<(String, Span)> {
        self.known.push(key);
        let (_, value) = take(&mut self.table, key)?;
        if let DeValue::String(text) = value.get_ref() {
            return Some((text.to_string(), value.span()));
        }
        self.wrong_type(key, "a text", &value, "; write it in quotes");
        None
    }

    /// A list of texts, each with its place; one alone may stand without a list.
    pub(crate) fn texts(&mut self, key: &'static str) -> Vec<(String, Span)> {
        self.known.push(key);
        let Some((_, value)) = take(&mut self.table, key) else {
            return Vec::new();
        };
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().cloned().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for value in values {
            if let DeValue::String(text) = value.get_ref() {
                texts.push((text.to_string(), value.span()));
            } else {
                self.wrong_type(key, "a list of texts", &value, "; write them in quotes");
            }
        }
        texts
    }

    /// A number within a range.
    pub(crate) fn integer(&mut self, key: &'static str, range: RangeInclusive<u16>) -> Option<u16> {
        self.integer_at(key, range).map(|(number, _)| number)
    }

    /// A number within a range, and its place as `weft.toml:3`.
    pub(crate) fn integer_at(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u16>,
    ) -> Option<(u16, String)> {
        self.known.push(key);
        let (_, value) = take(&mut self.table, key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            let is_text = value.get_ref().is_str();
            let hint = if is_text { "; write it without quotes" } else { "" };
            self.wrong_type(key, "a number", &value, hint);
            return None;
        };
        let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        let fitting = parsed.ok().and_then(|number| u16::try_from(number).ok());
        match fitting.filter(|number| range.contains(number)) {
            Some(number) => {
                let (line, _) = self.source.place(value.span().start);
                Some((number, format!("{}:{line}", self.source.file_name())))
            }
            None => {
                let message = format!(
                    "{key} is {}; {} to {} is possible",
                    number.as_str(),
                    range.start(),
                    range.end()
                );
                self.refuse(Code::ConfigRange, value.span(), message);
                None
            }
        }
    }

    /// A number of bytes, `1MB`.
    pub(crate) fn size(&mut self, key: &'static str) -> Option<u64> {
        let (text, span) = self.text(key)?;
        let bytes = size(&text);
        if bytes.is_none() {
            self.refuse(Code::ConfigSize, span, not_a_size(key, &text));
        }
        bytes
    }

    /// Yes or no.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.known.push(key);
        let (_, value) = take(&mut self.table, key)?;
        if let DeValue::Boolean(value) = value.get_ref() {
            return Some(*value);
        }
        let hint = if value.get_ref().is_str() { "; write it without quotes" } else { "" };
        self.wrong_type(key, "true or false", &value, hint);
        None
    }

    /// One of some words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.text(key)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!("{key} is \"{text}\"; {} are possible", names.join(", "));
        self.refuse(Code::ConfigValue, span, message);
        None
    }

    fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref();
            let near = nearest(name, &self.known);
            let near = near.map_or_else(String::new, |near| format!("; there is \"{near}\""));
            let message = format!("unknown key \"{name}\" in [{}]{near}", self.name);
            let drawn = self.source.draw(&key.span());
            self.failures.push(Failure::new(Code::ConfigUnknownKey, message).excerpt(drawn));
        }
    }
}

/// What is said of a text that is none.
pub(crate) fn not_a_size(key: &str, text: &str) -> String {
    let text = crate::failure::printable(text);
    format!("{key} \"{text}\": write a number and B, kB, MB or GB, for example \"1MB\"")
}

/// The known name that takes the fewest changes, if it is near at all.
pub(crate) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let allowed = (name.chars().count() / 3).max(1);
    known
        .iter()
        .map(|&candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two
/// names (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let substitute = previous[j] + usize::from(from != to);
            let mut least = substitute.min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                let swapped: &Vec<usize> = &before;
                least = least.min(swapped[j - 1] + 1);
            }
            current.push(least);
        }
        before = core::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}
