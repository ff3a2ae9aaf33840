//! The policy as a file:
//!
//! ```toml
//! [[rule]]
//! name  = "ops to plc"
//! from  = "role=ops"
//! to    = ["line=7", "line=8"]
//! allow = ["icmp", "tcp/22"]
//! ```

use core::fmt;
use core::ops::Range;
use core::str::FromStr;

use toml::de::{DeTable, DeValue};

use crate::domain::policy::{POLICY_RULES, Policy, Rule, Traffic, parse_traffic};
use crate::domain::tags::Selector;
use crate::failure::{Code, Failure, nearest};

use super::document::{COMPLAINTS, Document, Value, type_word};

const KEYS: &[&str] = &["name", "from", "to", "allow"];
/// The longest name of a rule, in bytes.
const NAME_LEN: usize = 64;

/// Reads a policy.
///
/// # Errors
///
/// Every complaint with its place, at most [`COMPLAINTS`].
pub fn parse(document: &Document) -> Result<Policy, Vec<Failure>> {
    let (table, mut failures) = document.parse();
    let mut rules = Vec::new();
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("rule", DeValue::Array(items)) => {
                for item in items.iter() {
                    rules.extend(rule(document, item, &mut failures));
                }
            }
            ("rule", _) => {
                let message = "rule is a list of sections; write [[rule]]";
                failures.push(document.complain(Code::ConfigType, message, &key.span()));
            }
            (other, _) => {
                let mut message = format!("unknown key \"{other}\"");
                if nearest(other, ["rule"]).is_some() {
                    message.push_str("; there is [[rule]]");
                }
                failures.push(document.complain(Code::ConfigUnknownKey, message, &key.span()));
            }
        }
    }
    if rules.len() > POLICY_RULES {
        let message = format!("{} rules; {POLICY_RULES} are possible", rules.len());
        failures.push(Failure::new(Code::PolicyTooLarge, message));
    }
    if failures.is_empty() {
        return Ok(Policy { rules });
    }
    failures.sort_by_key(|failure| failure.place.as_ref().map(|place| (place.line, place.column)));
    failures.truncate(COMPLAINTS);
    Err(failures)
}

fn rule(document: &Document, item: &Value<'_>, failures: &mut Vec<Failure>) -> Option<Rule> {
    let DeValue::Table(table) = item.get_ref() else {
        let message = format!("a rule is a section, found {}", type_word(item.get_ref()));
        failures.push(document.complain(Code::ConfigType, message, &item.span()));
        return None;
    };
    let before = failures.len();
    for (key, _) in table {
        let name: &str = key.get_ref();
        if !KEYS.contains(&name) {
            let mut message = format!("unknown key \"{name}\" in [[rule]]");
            if let Some(known) = nearest(name, KEYS.iter().copied()) {
                message.push_str(&format!("; there is \"{known}\""));
            }
            failures.push(document.complain(Code::ConfigUnknownKey, message, &key.span()));
        }
    }
    let name = name(document, table, failures);
    let span = item.span();
    let from = values::<Selector>(document, table, "from", &span, failures);
    let to = values::<Selector>(document, table, "to", &span, failures);
    let allow = values::<Kinds>(document, table, "allow", &span, failures);
    let mut allow: Vec<Traffic> = allow.into_iter().flat_map(|kinds| kinds.0).collect();
    allow.sort();
    allow.dedup();
    (failures.len() == before).then_some(Rule { name, from, to, allow })
}

fn name(document: &Document, table: &DeTable<'_>, failures: &mut Vec<Failure>) -> String {
    let Some(value) = table.get("name") else { return String::new() };
    match value.get_ref() {
        DeValue::String(text) if text.len() > NAME_LEN || text.chars().any(char::is_control) => {
            let message = format!("name has at most {NAME_LEN} bytes and no control characters");
            failures.push(document.complain(Code::ConfigValue, message, &value.span()));
            String::new()
        }
        DeValue::String(text) => text.to_string(),
        other => {
            let message = format!("name is a string, found {}", type_word(other));
            failures.push(document.complain(Code::ConfigType, message, &value.span()));
            String::new()
        }
    }
}

/// What one text allows.
struct Kinds(Vec<Traffic>);

impl FromStr for Kinds {
    type Err = crate::domain::policy::TrafficError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_traffic(text).map(Self)
    }
}

/// A text or a list of texts.
fn values<T: FromStr<Err: fmt::Display>>(
    document: &Document,
    table: &DeTable<'_>,
    key: &str,
    rule: &Range<usize>,
    failures: &mut Vec<Failure>,
) -> Vec<T> {
    let Some(value) = table.get(key) else {
        let message = format!("\"{key}\" is missing in this [[rule]]");
        failures.push(document.complain(Code::ConfigMissing, message, rule));
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut read = |item: &Value<'_>| match item.get_ref() {
        DeValue::String(text) => match text.parse::<T>() {
            Ok(value) => found.push(value),
            Err(error) => {
                failures.push(document.complain(Code::PolicyRule, error.to_string(), &item.span()));
            }
        },
        other => {
            let message =
                format!("{key} is a string or a list of strings, found {}", type_word(other));
            failures.push(document.complain(Code::ConfigType, message, &item.span()));
        }
    };
    match value.get_ref() {
        DeValue::Array(items) => items.iter().for_each(read),
        _ => read(value),
    }
    if matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()) {
        let message = format!("{key} is empty: such a rule lets nothing pass");
        failures.push(document.complain(Code::ConfigValue, message, &value.span()));
    }
    found
}

/// Writes a policy as [`parse`] reads it.
pub fn write(policy: &Policy) -> String {
    let mut text = String::new();
    for rule in &policy.rules {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str("[[rule]]\n");
        if !rule.name.is_empty() {
            text.push_str(&format!("name  = {}\n", super::quoted(&rule.name)));
        }
        let selectors = |list: &[Selector]| list.iter().map(ToString::to_string).collect();
        for (key, values) in [
            ("from ", selectors(&rule.from)),
            ("to   ", selectors(&rule.to)),
            ("allow", rule.allow_texts()),
        ] {
            text.push_str(&format!("{key} = {}\n", list(&values)));
        }
    }
    text
}

fn list(values: &[String]) -> String {
    match values {
        [one] => super::quoted(one),
        many => {
            let quoted: Vec<_> = many.iter().map(|value| super::quoted(value)).collect();
            format!("[{}]", quoted.join(", "))
        }
    }
}
