//! Relays that devices may use:
//!
//! ```toml
//! [[relays]]
//! name        = "fra1"
//! address     = ["203.0.113.10", "2001:db8::10"]
//! udp         = [3478, 443]
//! tcp         = 443
//! tls         = 5349
//! secret_file = "/etc/weft/relay-fra1.secret"
//! region      = "fra"
//! ```

use core::net::IpAddr;
use core::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};
use weft_wire::id::is_name;
use weft_wire::relay::RELAYS;

use super::document::{Document, Value, type_word};
use super::{Resolved, Source};
use crate::domain::relay::NewRelay;
use crate::failure::{Code, Failure, nearest};

/// The section's name.
pub(super) const SECTION: &str = "relays";

const KEYS: &[&str] = &["name", "address", "udp", "tcp", "tls", "secret_file", "region"];
/// The port of STUN and TURN (RFC 8489, 8656).
const PORT: u16 = 3_478;

/// What `init` writes about them.
pub(super) const TEMPLATE: &str = "
# Relays for devices that find no direct path: TURN servers that take a shared
# secret (coturn: use-auth-secret), up to 4, tried in this order. Each is a
# section like this one; udp is [3478] and tcp and tls are not used where they
# are left out. The file holds the secret alone and is its owner's alone.
#[[relays]]
#name = \"fra1\"
#address = [\"203.0.113.10\", \"2001:db8::10\"]
#udp = [3478, 443]
#tcp = 443
#tls = 5349
#secret_file = \"/etc/weft/relay-fra1.secret\"
#region = \"fra\"
";

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// What devices are told, and by which name people know it.
    pub relay: NewRelay,
    /// The file that holds the secret that it shares with us.
    pub secret_file: PathBuf,
    /// Its values with their sources.
    pub(super) resolved: Vec<Resolved>,
}

/// What one `[[relays]]` says, while its mistakes are gathered.
struct Reader<'a> {
    document: &'a Document,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    failures: &'a mut Vec<Failure>,
    /// Key, value and where it stands.
    said: Vec<(&'static str, String, Source)>,
}

/// Reads the list that the file holds under [`SECTION`].
pub(super) fn read(
    document: &Document,
    value: &Value<'_>,
    key: &Range<usize>,
    failures: &mut Vec<Failure>,
) -> Vec<RelaySettings> {
    let DeValue::Array(items) = value.get_ref() else {
        let message = "relays is a list of sections; write [[relays]]";
        failures.push(document.complain(Code::ConfigType, message, key));
        return Vec::new();
    };
    let mut relays: Vec<RelaySettings> = Vec::new();
    for item in items.iter() {
        let DeValue::Table(table) = item.get_ref() else {
            let message = format!("a relay is a section, found {}", type_word(item.get_ref()));
            failures.push(document.complain(Code::ConfigType, message, &item.span()));
            continue;
        };
        let said = Vec::new();
        let Some(read) = Reader { document, table, span: item.span(), failures, said }.relay()
        else {
            continue;
        };
        if relays.iter().any(|other| other.relay.name == read.relay.name) {
            let message = format!("two relays are called \"{}\"", read.relay.name);
            let place = table.get("name").map_or_else(|| item.span(), toml::Spanned::span);
            failures.push(document.complain(Code::ConfigDuplicate, message, &place));
        } else if relays.len() == RELAYS {
            let message = format!("{} relays; {RELAYS} are possible", items.len());
            failures.push(document.complain(Code::ConfigRange, message, &item.span()));
            break;
        } else {
            relays.push(read);
        }
    }
    relays
}

impl<'a> Reader<'a> {
    fn complain(&mut self, code: Code, message: impl Into<String>, span: &Range<usize>) {
        self.failures.push(self.document.complain(code, message, span));
    }

    fn said(&mut self, key: &'static str, value: String, span: Option<&Range<usize>>) {
        let source = span.map_or(Source::Default, |span| {
            Source::File(self.document.path().to_owned(), self.document.line(span))
        });
        self.said.push((key, value, source));
    }

    /// `None` = a mistake was found.
    fn relay(mut self) -> Option<RelaySettings> {
        let before = self.failures.len();
        self.unknown_keys();
        let name = self.name();
        let (v4, v6) = self.addresses();
        let udp = self.udp();
        let [tcp, tls] = ["tcp", "tls"].map(|key| self.port(key));
        if self.failures.len() == before && udp == [0; 2] && tcp == 0 && tls == 0 {
            let message = "this relay has no port: name one of udp, tcp and tls";
            let span = self.span.clone();
            self.complain(Code::ConfigMissing, message, &span);
        }
        let secret_file = self.secret_file();
        let region = self.text("region").map_or_else(String::new, |(text, span)| {
            if !text.is_empty() && !is_name(&text) {
                let message = format!("region \"{text}\": 1 to 32 of a-z, 0-9 and - are possible");
                self.complain(Code::ConfigValue, message, &span);
            }
            self.said("region", text.clone(), Some(&span));
            text
        });
        if self.failures.len() > before {
            return None;
        }
        let resolved = self.said.into_iter().map(|(key, value, source)| Resolved {
            name: format!("{SECTION}.{name}.{key}"),
            value,
            source,
        });
        let resolved = resolved.collect();
        let relay = NewRelay { name, region, v4, v6, udp, tcp, tls };
        Some(RelaySettings { relay, secret_file, resolved })
    }

    fn unknown_keys(&mut self) {
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if !KEYS.contains(&name) {
                let mut message = format!("unknown key \"{name}\" in [[relays]]");
                if let Some(known) = nearest(name, KEYS.iter().copied()) {
                    message.push_str(&format!("; there is \"{known}\""));
                }
                self.complain(Code::ConfigUnknownKey, message, &key.span());
            }
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.get(key)
    }

    /// A key that has to be there.
    fn needed(&mut self, key: &str) -> Option<&'a Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let span = self.span.clone();
            let message = format!("\"{key}\" is missing in this [[relays]]");
            self.complain(Code::ConfigMissing, message, &span);
        }
        value
    }

    fn text(&mut self, key: &str) -> Option<(String, Range<usize>)> {
        let value = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            let message = format!("{key} is a string, found {}", type_word(value.get_ref()));
            self.complain(Code::ConfigType, message, &value.span());
            return None;
        };
        Some((text.to_owned(), value.span()))
    }

    fn name(&mut self) -> String {
        self.needed("name");
        let Some((name, span)) = self.text("name") else { return String::new() };
        if !is_name(&name) {
            let message = format!("name \"{name}\": 1 to 32 of a-z, 0-9 and - are possible");
            self.complain(Code::ConfigValue, message, &span);
        }
        name
    }

    fn secret_file(&mut self) -> PathBuf {
        self.needed("secret_file");
        let Some((path, span)) = self.text("secret_file") else { return PathBuf::new() };
        if path.is_empty() {
            self.complain(Code::ConfigValue, "secret_file is empty", &span);
        }
        self.said("secret_file", path.clone(), Some(&span));
        path.into()
    }

    /// The items of a list, or the one that stands there alone.
    fn items(value: &'a Value<'a>) -> Vec<&'a Value<'a>> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        }
    }

    fn addresses(&mut self) -> (Option<core::net::Ipv4Addr>, Option<core::net::Ipv6Addr>) {
        let (mut v4, mut v6) = (None, None);
        let Some(value) = self.needed("address") else { return (v4, v6) };
        let mut texts = Vec::new();
        for item in Self::items(value) {
            let Some(text) = item.get_ref().as_str() else {
                let found = type_word(item.get_ref());
                let message = format!("address is a string or a list of strings, found {found}");
                self.complain(Code::ConfigType, message, &item.span());
                continue;
            };
            let (code, message) = match text.parse::<IpAddr>() {
                Ok(address) if address.is_unspecified() || address.is_multicast() => {
                    (Code::ConfigAddress, format!("address \"{text}\" is no machine's"))
                }
                Ok(IpAddr::V4(address)) if v4.is_none() => {
                    v4 = Some(address);
                    texts.push(text);
                    continue;
                }
                Ok(IpAddr::V6(address)) if v6.is_none() => {
                    v6 = Some(address);
                    texts.push(text);
                    continue;
                }
                Ok(_) => {
                    let message = format!("address \"{text}\": one of each family is possible");
                    (Code::ConfigValue, message)
                }
                Err(_) => {
                    let hint = "an address without a port is needed, for example \"203.0.113.10\"";
                    (Code::ConfigAddress, format!("address \"{text}\": {hint}"))
                }
            };
            self.complain(code, message, &item.span());
        }
        if matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()) {
            self.complain(Code::ConfigValue, "address is empty", &value.span());
        }
        self.said("address", texts.join(","), Some(&value.span()));
        (v4, v6)
    }

    fn udp(&mut self) -> [u16; 2] {
        let Some(value) = self.get("udp") else {
            self.said("udp", PORT.to_string(), None);
            return [PORT, 0];
        };
        let items = Self::items(value);
        let mut ports = [0; 2];
        if items.len() > ports.len() {
            let message = format!("udp holds {} ports; 2 are possible", items.len());
            self.complain(Code::ConfigRange, message, &value.span());
        }
        for (place, item) in ports.iter_mut().zip(&items) {
            *place = self.port_value("udp", item);
        }
        let shown: Vec<_> = ports.iter().filter(|port| **port != 0).map(u16::to_string).collect();
        self.said("udp", shown.join(","), Some(&value.span()));
        ports
    }

    fn port(&mut self, key: &'static str) -> u16 {
        let Some(value) = self.get(key) else {
            self.said(key, String::new(), None);
            return 0;
        };
        let port = self.port_value(key, value);
        self.said(key, port.to_string(), Some(&value.span()));
        port
    }

    /// 0 = none, and why was said.
    fn port_value(&mut self, key: &str, value: &Value<'_>) -> u16 {
        let DeValue::Integer(number) = value.get_ref() else {
            let message = format!("{key} is a port's number, found {}", type_word(value.get_ref()));
            self.complain(Code::ConfigType, message, &value.span());
            return 0;
        };
        let text = number.as_str().replace('_', "");
        match text.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => {
                let message = format!("{key} is {text}; 1 to 65535 is possible");
                self.complain(Code::ConfigRange, message, &value.span());
                0
            }
        }
    }
}
