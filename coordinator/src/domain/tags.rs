//! Tags on devices, and the selectors by which policy speaks of them.

use core::fmt;
use core::str::FromStr;
use std::collections::HashMap;

/// The most tags on one device.
pub const TAGS: usize = 16;
/// The longest key of a tag, in bytes.
pub const KEY_LEN: usize = 32;
/// The longest value of a tag, in bytes.
pub const VALUE_LEN: usize = 64;

/// Why a text is not a tag, a set of tags or a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagError {
    /// Not `key=value` of the allowed characters.
    Form(String),
    /// A key stands twice with different values.
    Twice(String),
    /// More than [`TAGS`].
    TooMany,
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(text) => {
                write!(
                    f,
                    "'{text}' is not a tag; write key=value in a-z 0-9 . _ - (value also : /)"
                )
            }
            Self::Twice(key) => write!(f, "the tag {key} has two values"),
            Self::TooMany => write!(f, "at most {TAGS} tags fit on a device"),
        }
    }
}

impl core::error::Error for TagError {}

fn is_key(text: &str) -> bool {
    (1..=KEY_LEN).contains(&text.len())
        && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

fn is_value(text: &str) -> bool {
    (1..=VALUE_LEN).contains(&text.len())
        && text.bytes().all(
            |c| matches!(c, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b':' | b'/'),
        )
}

/// The tags of one device: each key once, in rising order. Devices with equal
/// tags are equal to every policy, so a `TagSet` is also the class by which
/// edges are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagSet(Vec<(String, String)>);

impl TagSet {
    /// Reads `key=value` texts.
    ///
    /// # Errors
    ///
    /// [`TagError`] names the first text that is wrong.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, TagError> {
        let mut tags: Vec<(String, String)> = Vec::new();
        for text in texts {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, value)| is_key(key) && is_value(value))
                .ok_or_else(|| TagError::Form(text.to_owned()))?;
            match tags.binary_search_by(|(known, _)| known.as_str().cmp(key)) {
                Ok(at) if tags[at].1 == value => {}
                Ok(_) => return Err(TagError::Twice(key.to_owned())),
                Err(_) if tags.len() == TAGS => return Err(TagError::TooMany),
                Err(at) => tags.insert(at, (key.to_owned(), value.to_owned())),
            }
        }
        Ok(Self(tags))
    }

    /// `key=value` texts in rising order of the keys.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(key, value)| format!("{key}={value}"))
    }

    /// Whether there is no tag.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }
}

impl fmt::Display for TagSet {
    /// `key=value` texts with a space between: the one text of a set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{key}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for TagSet {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        Self::parse(text.split_whitespace())
    }
}

/// One condition of a selector: the tag is there, with this value if one is
/// named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    key: String,
    value: Option<String>,
}

/// Which devices a side of a rule means: `any`, or conditions that all hold,
/// `site=bench role=plc`; a key alone means "has this tag".
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(Vec<Term>);

impl Selector {
    /// Every device of the network.
    pub const ANY: Self = Self(Vec::new());

    /// Whether devices with these tags are meant.
    pub fn matches(&self, tags: &TagSet) -> bool {
        self.0.iter().all(|term| {
            let found = tags.value(&term.key);
            found.is_some_and(|found| term.value.as_deref().is_none_or(|value| value == found))
        })
    }
}

/// Numbers of selectors that fit the same condition of a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfKey {
    /// Whatever the tag's value.
    any: Vec<usize>,
    by_value: HashMap<String, Vec<usize>>,
}

/// Many selectors, each filed under that of its conditions which fewest others
/// have: whom a device may fit is found by its tags, without a look at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectorIndex {
    everybody: Vec<usize>,
    by_key: HashMap<String, OfKey>,
}

impl SelectorIndex {
    /// Files selectors under their numbers in this order.
    pub fn new(selectors: &[&Selector]) -> Self {
        let mut common: HashMap<&Term, usize> = HashMap::new();
        for term in selectors.iter().flat_map(|selector| &selector.0) {
            *common.entry(term).or_default() += 1;
        }
        let mut index = Self::default();
        for (number, selector) in selectors.iter().enumerate() {
            let rarest = selector.0.iter().min_by_key(|term| common.get(term));
            let Some(Term { key, value }) = rarest else {
                index.everybody.push(number);
                continue;
            };
            let of_key = index.by_key.entry(key.clone()).or_default();
            match value {
                None => of_key.any.push(number),
                Some(value) => of_key.by_value.entry(value.clone()).or_default().push(number),
            }
        }
        index
    }

    /// Numbers of the selectors that may mean devices with these tags: all that
    /// do, and few that do not.
    pub fn candidates(&self, tags: &TagSet) -> impl Iterator<Item = usize> {
        let of_tags = tags.0.iter().filter_map(|(key, value)| {
            let of_key = self.by_key.get(key)?;
            let by_value = of_key.by_value.get(value).map_or(&[][..], Vec::as_slice);
            Some(of_key.any.iter().chain(by_value))
        });
        self.everybody.iter().chain(of_tags.flatten()).copied()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any");
        }
        for (at, term) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            match &term.value {
                None => write!(f, "{gap}{}", term.key)?,
                Some(value) => write!(f, "{gap}{}={value}", term.key)?,
            }
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let wrong = |part: &str| TagError::Form(part.to_owned());
        if text.trim() == "any" {
            return Ok(Self::ANY);
        }
        let mut terms = text
            .split_whitespace()
            .map(|part| match part.split_once('=') {
                None if is_key(part) && part != "any" => {
                    Ok(Term { key: part.to_owned(), value: None })
                }
                Some((key, value)) if is_key(key) && is_value(value) => {
                    Ok(Term { key: key.to_owned(), value: Some(value.to_owned()) })
                }
                _ => Err(wrong(part)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if terms.is_empty() {
            return Err(wrong(text));
        }
        terms.sort();
        terms.dedup();
        Ok(Self(terms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> TagSet {
        text.parse().unwrap()
    }

    #[test]
    fn one_set_has_one_text() {
        assert_eq!(set("site=b  line=7 site=b").to_string(), "line=7 site=b");
        assert_eq!(set("").to_string(), "");
        assert_eq!(set("a=1").texts().collect::<Vec<_>>(), ["a=1"]);
    }

    #[test]
    fn refuses_what_is_no_tag() {
        for bad in ["a", "=b", "a=", "A=b", "a=b c", "a b=c", "a=ü"] {
            assert!(bad.parse::<TagSet>().is_err(), "{bad}");
        }
        assert_eq!("a=1 a=2".parse::<TagSet>(), Err(TagError::Twice("a".to_owned())));
        let many = (0..=TAGS).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(" ");
        assert_eq!(many.parse::<TagSet>(), Err(TagError::TooMany));
    }

    #[test]
    fn selectors_join_conditions() {
        let select = |text: &str| text.parse::<Selector>().unwrap();
        let tags = set("site=bench role=plc");
        for yes in ["any", "site=bench", "site", "role=plc site=bench"] {
            assert!(select(yes).matches(&tags), "{yes}");
        }
        for no in ["site=other", "line", "site=bench line=7"] {
            assert!(!select(no).matches(&tags), "{no}");
        }
        assert_eq!(select("role=plc  site").to_string(), "role=plc site");
        for bad in ["", "any site=a", "a=", "A"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_index_names_all_that_match_and_few_that_do_not() {
        let texts = ["any", "site=1", "role=gw site=1", "role=gw site=2", "role=gw site=3", "site"];
        let selectors: Vec<Selector> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let index = SelectorIndex::new(&selectors.iter().collect::<Vec<_>>());
        for tags in ["", "site=1", "role=gw site=1", "role=gw site=9", "line=3 role=gw site=3"] {
            let tags = set(tags);
            let found: Vec<usize> = index.candidates(&tags).collect();
            for (number, selector) in selectors.iter().enumerate() {
                assert!(!selector.matches(&tags) || found.contains(&number), "{selector}: {tags}");
            }
        }
        // Three rules name this role: each is filed under its site, not under it.
        assert_eq!(index.candidates(&set("role=gw")).collect::<Vec<_>>(), [0]);
    }
}
