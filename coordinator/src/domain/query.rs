//! The search language for devices: `field:value`, `field:a,b` (or),
//! `-field:value`, bare words; a space joins with "and".

use core::fmt;

/// Fields that devices are searched by.
pub const FIELDS: &[&str] =
    &["ip", "key", "kind", "name", "network", "platform", "status", "tag", "v"];

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Whether it must not hold.
    pub negated: bool,
    /// A field, or `None` for a bare word.
    pub field: Option<&'static str>,
    /// Values; one suffices.
    pub values: Vec<String>,
}

/// A search; all terms hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(pub Vec<Term>);

/// A part of a search that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// There is no such field.
    Field(String),
    /// A field without a value.
    Value(&'static str),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field) => {
                write!(f, "there is no field \"{field}\"; there are {}", FIELDS.join(", "))
            }
            Self::Value(field) => write!(f, "{field}: has no value"),
        }
    }
}

impl core::error::Error for QueryError {}

impl core::str::FromStr for Query {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        text.split_whitespace().map(term).collect::<Result<_, _>>().map(Self)
    }
}

fn term(word: &str) -> Result<Term, QueryError> {
    let (negated, word) = match word.strip_prefix('-') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, word),
    };
    // A colon is also in IPv6 addresses: those are bare words.
    let split = word.split_once(':').filter(|_| word.parse::<core::net::IpAddr>().is_err());
    let Some((field, values)) = split else {
        return Ok(Term { negated, field: None, values: vec![word.to_lowercase()] });
    };
    let known = FIELDS.iter().find(|known| **known == field);
    let field = known.copied().ok_or_else(|| QueryError::Field(field.to_owned()))?;
    let values: Vec<String> =
        values.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect();
    if values.is_empty() {
        return Err(QueryError::Value(field));
    }
    Ok(Term { negated, field: Some(field), values })
}

impl Query {
    /// Whether something fits, given what says whether one condition holds.
    pub fn fits(&self, holds: impl Fn(Option<&str>, &str) -> bool) -> bool {
        self.0
            .iter()
            .all(|term| term.negated != term.values.iter().any(|value| holds(term.field, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_terms() {
        let query: Query = "status:online,pending -tag:site=bench GW fd00::2".parse().unwrap();
        let terms: Vec<_> =
            query.0.iter().map(|term| (term.negated, term.field, term.values.join("|"))).collect();
        assert_eq!(
            terms,
            [
                (false, Some("status"), "online|pending".to_owned()),
                (true, Some("tag"), "site=bench".to_owned()),
                (false, None, "gw".to_owned()),
                (false, None, "fd00::2".to_owned()),
            ]
        );
        assert_eq!("nat:easy".parse::<Query>(), Err(QueryError::Field("nat".to_owned())));
        assert_eq!("status:".parse::<Query>(), Err(QueryError::Value("status")));
        assert_eq!("-".parse::<Query>().unwrap().0[0].values, ["-"]);
    }

    #[test]
    fn all_terms_hold() {
        let fits = |query: &str| {
            query
                .parse::<Query>()
                .unwrap()
                .fits(|field, value| (field, value) == (Some("status"), "online"))
        };
        assert!(fits("") && fits("status:online") && fits("status:x,online"));
        assert!(!fits("-status:online") && !fits("status:online gw") && fits("-gw"));
    }
}
