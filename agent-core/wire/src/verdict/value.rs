//! Values in sentences, and sentences with their values.

use core::fmt::{self, Write};

use super::Language;

/// What stands for a value that is not known.
const UNKNOWN: &str = "–";

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A name, an address, a moment of the reader's own clock.
    Text(&'a str),
    /// Words of the language: English, Chinese.
    Words(&'a str, &'a str),
    /// How many.
    Count(u64),
    /// How long, in milliseconds: `233 ms`, `4.2 s`, `3 min 12 s`.
    Span(u64),
    /// How long ago, in milliseconds: `now`, `12 s ago`, `3 d ago`.
    Ago(u64),
    /// Not known.
    Unknown,
}

impl Value<'_> {
    /// Writes the value as people read it.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn write(self, language: Language, out: &mut dyn Write) -> fmt::Result {
        match self {
            Self::Text(text) => out.write_str(text),
            Self::Words(en, zh) => out.write_str(match language {
                Language::En => en,
                Language::Zh => zh,
            }),
            Self::Count(number) => count(number, out),
            Self::Span(ms) => span(ms, language, out),
            Self::Ago(ms) => ago(ms, language, out),
            Self::Unknown => out.write_str(UNKNOWN),
        }
    }
}

/// Writes a template; each `{name}` becomes its value.
///
/// # Errors
///
/// What the writer says.
pub fn fill<'v>(
    template: &str,
    language: Language,
    value: impl Fn(&str) -> Value<'v>,
    out: &mut dyn Write,
) -> fmt::Result {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.write_str(before)?;
        let Some((name, behind)) = after.split_once('}') else {
            return out.write_str(after);
        };
        value(name).write(language, out)?;
        rest = behind;
    }
    out.write_str(rest)
}

/// `1,234,567`.
fn count(number: u64, out: &mut dyn Write) -> fmt::Result {
    if number < 1_000 {
        return write!(out, "{number}");
    }
    count(number / 1_000, out)?;
    write!(out, ",{:03}", number % 1_000)
}

/// Seconds of each unit beyond the second, and its names.
const UNITS: [(u64, &str, &str); 3] =
    [(86_400, "d", "天"), (3_600, "h", "小时"), (60, "min", "分钟")];

const fn word(language: Language, en: &'static str, zh: &'static str) -> &'static str {
    match language {
        Language::En => en,
        Language::Zh => zh,
    }
}

/// Two units at most.
fn span(ms: u64, language: Language, out: &mut dyn Write) -> fmt::Result {
    let second = word(language, "s", "秒");
    let s = ms / 1_000;
    match s {
        0 => return write!(out, "{ms} {}", word(language, "ms", "毫秒")),
        1..60 => return write!(out, "{s}.{} {second}", ms % 1_000 / 100),
        _ => {}
    }
    let smaller = [("h", "小时", 3_600, 1), ("min", "分钟", 60, 2), (second, second, 1, 1)];
    for ((size, en, zh), (small_en, small_zh, small, digits)) in UNITS.into_iter().zip(smaller) {
        if s < size {
            continue;
        }
        write!(out, "{} {}", s / size, word(language, en, zh))?;
        let rest = s % size / small;
        if rest > 0 {
            write!(out, " {rest:0digits$} {}", word(language, small_en, small_zh))?;
        }
        return Ok(());
    }
    Ok(())
}

/// One unit.
fn ago(ms: u64, language: Language, out: &mut dyn Write) -> fmt::Result {
    let s = ms / 1_000;
    if s < 2 {
        return out.write_str(word(language, "now", "刚刚"));
    }
    let found = UNITS.into_iter().find(|(size, ..)| s >= *size);
    let (size, en, zh) = found.unwrap_or((1, "s", "秒"));
    write!(out, "{} {}{}", s / size, word(language, en, zh), word(language, " ago", "前"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: Value<'_>, language: Language) -> String {
        let mut out = String::new();
        value.write(language, &mut out).unwrap();
        out
    }

    #[test]
    fn values_read_as_in_both_languages() {
        for (value, en, zh) in [
            (Value::Text("gw-a"), "gw-a", "gw-a"),
            (Value::Words("or", "或"), "or", "或"),
            (Value::Unknown, "–", "–"),
            (Value::Count(0), "0", "0"),
            (Value::Count(64_512), "64,512", "64,512"),
            (Value::Count(1_000_007), "1,000,007", "1,000,007"),
            (Value::Span(233), "233 ms", "233 毫秒"),
            (Value::Span(4_200), "4.2 s", "4.2 秒"),
            (Value::Span(192_000), "3 min 12 s", "3 分钟 12 秒"),
            (Value::Span(180_000), "3 min", "3 分钟"),
            (Value::Span(7_500_000), "2 h 05 min", "2 小时 05 分钟"),
            (Value::Span(532_800_000), "6 d 4 h", "6 天 4 小时"),
            (Value::Ago(1_999), "now", "刚刚"),
            (Value::Ago(12_000), "12 s ago", "12 秒前"),
            (Value::Ago(200_000), "3 min ago", "3 分钟前"),
            (Value::Ago(259_200_000), "3 d ago", "3 天前"),
        ] {
            assert_eq!(text(value, Language::En), en);
            assert_eq!(text(value, Language::Zh), zh);
        }
    }

    #[test]
    fn parameters_become_values() {
        let value = |name: &str| match name {
            "a" => Value::Text("gw-a"),
            "n" => Value::Count(2),
            _ => Value::Unknown,
        };
        let write = |template| {
            let mut out = String::new();
            fill(template, Language::En, value, &mut out).unwrap();
            out
        };
        assert_eq!(write("{a} and {b}: {n}."), "gw-a and –: 2.");
        assert_eq!(write("none"), "none");
        assert_eq!(write(""), "");
        assert_eq!(write("{a"), "a", "a brace that does not close");
    }
}
