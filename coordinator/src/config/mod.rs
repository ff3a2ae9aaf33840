//! Settings: flags, then environment, then the file, then defaults. An unknown
//! key is an error that names its line.

use core::net::SocketAddr;
use core::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeValue;
use weft_wire::COORDINATOR_PORT;
use weft_wire::join::{ADDRESSES, Carrier};

use crate::failure::{Code, Failure, nearest};

pub mod broker;
pub mod document;
pub mod policy_file;
pub mod public;
pub mod relays;

use broker::Broker;
use document::{COMPLAINTS, Document, Value, type_word};
use public::{Offer, Public};
use relays::RelaySettings;

/// Where the configuration is, if nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/weft/coordinator.toml";
/// Where the state is, if nobody says otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/weft";
/// Where commands reach the server, if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft-coordinator.sock";

/// The variable that names the file.
const CONFIG_VARIABLE: &str = "WEFT_COORDINATOR_CONFIG";

/// What a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Path,
    /// A path, or nothing.
    Optional,
    Public,
    Broker,
    User,
    Listen,
    Offers,
    Number(u32, u32),
    Word(&'static [&'static str]),
}

/// One setting: the only place where its names, default and meaning stand.
struct Setting {
    section: &'static str,
    key: &'static str,
    env: &'static str,
    shape: Shape,
    default: &'static str,
    about: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        section: "server",
        key: "public",
        env: "WEFT_COORDINATOR_PUBLIC",
        shape: Shape::Public,
        default: "",
        about: "Name or address that devices use, with a port if it is not 7420.",
    },
    Setting {
        section: "server",
        key: "data",
        env: "WEFT_COORDINATOR_DATA",
        shape: Shape::Path,
        default: DEFAULT_DATA,
        about: "Folder of the key file and the database.",
    },
    Setting {
        section: "server",
        key: "listen",
        env: "WEFT_COORDINATOR_LISTEN",
        shape: Shape::Listen,
        default: "[::]:7420",
        about: "Addresses for devices: MQTT and HTTP on TCP, STUN on UDP.",
    },
    Setting {
        section: "server",
        key: "socket",
        env: "WEFT_COORDINATOR_SOCKET",
        shape: Shape::Path,
        default: DEFAULT_SOCKET,
        about: "Unix socket for commands on this machine; its owner's alone.",
    },
    Setting {
        section: "server",
        key: "threads",
        env: "WEFT_COORDINATOR_THREADS",
        shape: Shape::Number(1, 64),
        default: "2",
        about: "Threads that serve devices.",
    },
    Setting {
        section: "server",
        key: "addresses",
        env: "WEFT_COORDINATOR_ADDRESSES",
        shape: Shape::Offers,
        default: "",
        about: "What join strings offer, best first: up to 4 like \"wss://HOST[:PORT]\" (mqtt, mqtts, \
                wss, https). Empty: mqtt at the broker of others; without one all four at public, \
                the last two at port 443 where that is listened on.",
    },
    Setting {
        section: "tls",
        key: "certificate",
        env: "WEFT_COORDINATOR_TLS_CERTIFICATE",
        shape: Shape::Optional,
        default: "",
        about: "PEM file with an own certificate and its chain, read at the start. Empty: one is made.",
    },
    Setting {
        section: "tls",
        key: "key",
        env: "WEFT_COORDINATOR_TLS_KEY",
        shape: Shape::Optional,
        default: "",
        about: "PEM file with the certificate's private key.",
    },
    Setting {
        section: "tls",
        key: "pin",
        env: "WEFT_COORDINATOR_TLS_PIN",
        shape: Shape::Word(&["auto", "yes", "no"]),
        default: "auto",
        about: "Whether join strings pin the certificate's key: auto pins the one that is made here; \
                behind a proxy that ends TLS it is no.",
    },
    Setting {
        section: "broker",
        key: "address",
        env: "WEFT_COORDINATOR_BROKER_ADDRESS",
        shape: Shape::Broker,
        default: "",
        about: "A broker of yours that carries the frames, with a port if it is not 1883.",
    },
    Setting {
        section: "broker",
        key: "user",
        env: "WEFT_COORDINATOR_BROKER_USER",
        shape: Shape::User,
        default: "",
        about: "The coordinator's own account there.",
    },
    Setting {
        section: "broker",
        key: "password_file",
        env: "WEFT_COORDINATOR_BROKER_PASSWORD_FILE",
        shape: Shape::Optional,
        default: "",
        about: "File with that account's password; its owner's alone.",
    },
    Setting {
        section: "broker",
        key: "device_address",
        env: "WEFT_COORDINATOR_BROKER_DEVICE_ADDRESS",
        shape: Shape::Broker,
        default: "",
        about: "Where devices reach it, if not by the same address or by server.addresses.",
    },
    Setting {
        section: "broker",
        key: "device_user",
        env: "WEFT_COORDINATOR_BROKER_DEVICE_USER",
        shape: Shape::User,
        default: "",
        about: "The account that all devices share there.",
    },
    Setting {
        section: "broker",
        key: "device_password_file",
        env: "WEFT_COORDINATOR_BROKER_DEVICE_PASSWORD_FILE",
        shape: Shape::Optional,
        default: "",
        about: "File with its password, which goes into join strings.",
    },
    Setting {
        section: "devices",
        key: "key_days",
        env: "WEFT_COORDINATOR_KEY_DAYS",
        shape: Shape::Number(0, 3650),
        default: "90",
        about: "Days after which a device changes its WireGuard key; 0: only when told.",
    },
    Setting {
        section: "devices",
        key: "heartbeat_s",
        env: "WEFT_COORDINATOR_HEARTBEAT_S",
        shape: Shape::Number(5, 3600),
        default: "900",
        about: "Seconds between two signs of life of a device; below 60 for tests.",
    },
    Setting {
        section: "devices",
        key: "ping_s",
        env: "WEFT_COORDINATOR_PING_S",
        shape: Shape::Number(5, 1200),
        default: "1200",
        about: "Seconds of silence, at most, after which a device asks whether its line stands.",
    },
    Setting {
        section: "log",
        key: "level",
        env: "WEFT_COORDINATOR_LOG_LEVEL",
        shape: Shape::Word(&["error", "warn", "info", "debug", "trace"]),
        default: "info",
        about: "How much is logged.",
    },
    Setting {
        section: "log",
        key: "format",
        env: "WEFT_COORDINATOR_LOG_FORMAT",
        shape: Shape::Word(&["text", "json"]),
        default: "text",
        about: "How it is logged.",
    },
];

/// Where a value came from, as `config check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag of the command line.
    Flag(&'static str),
    /// An environment variable.
    Environment(&'static str),
    /// A line of the file.
    File(String, usize),
    /// Nobody said otherwise.
    Default,
}

impl core::fmt::Display for Source {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{path}:{line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One value as text, checked, with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// `server.public`.
    pub name: String,
    /// Its value; lists have a comma between.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// The certificate that the port shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain; `None` = one is made.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Whether join strings pin the key; `None` = if the certificate is ours.
    pub pin: Option<bool>,
}

/// How much is logged, how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `error` to `trace`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Config {
    /// What join strings offer, best first: what was set, or MQTT at the broker
    /// of others, or every carrier at `public`. A network that lets only the web
    /// through knows port 443.
    pub fn offers(&self, public: &Public) -> Vec<Offer> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        if let Some(broker) = &self.broker {
            let place = broker.device_address.clone();
            return vec![Offer { carrier: Carrier::Mqtt, place }];
        }
        let web = self.web(public);
        [
            (Carrier::Mqtt, public),
            (Carrier::Mqtts, public),
            (Carrier::Wss, &web),
            (Carrier::Https, &web),
        ]
        .map(|(carrier, place)| Offer { carrier, place: place.clone() })
        .to_vec()
    }

    /// Where posts come, best first: also with a broker that is not ours, since
    /// the own port stays open.
    pub fn posts(&self, public: &Public) -> Vec<Offer> {
        let is_post = |offer: &&Offer| offer.carrier == Carrier::Https;
        let posts: Vec<_> = self.addresses.iter().filter(is_post).cloned().collect();
        let own = || vec![Offer { carrier: Carrier::Https, place: self.web(public) }];
        if posts.is_empty() { own() } else { posts }
    }

    /// The public name, with HTTPS's own port if that is listened on.
    fn web(&self, public: &Public) -> Public {
        const HTTPS: u16 = 443;
        let web_port = self.listen.iter().any(|address| address.port() == HTTPS);
        Public { port: if web_port { HTTPS } else { public.port }, ..public.clone() }
    }
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name or address that devices use.
    pub public: Option<Public>,
    /// Folder of the key file and the database.
    pub data: PathBuf,
    /// Addresses for devices.
    pub listen: Vec<SocketAddr>,
    /// Unix socket for commands.
    pub socket: PathBuf,
    /// Threads that serve devices.
    pub threads: usize,
    /// What join strings offer, best first; empty = what follows from the rest.
    pub addresses: Vec<Offer>,
    /// The certificate.
    pub tls: TlsFiles,
    /// A broker that is not ours, if one is to carry the frames.
    pub broker: Option<Broker>,
    /// Relays that devices may use, those to be tried first come first.
    pub relays: Vec<RelaySettings>,
    /// Days after which a device's key is rotated; 0 = only when told.
    pub key_days: u16,
    /// Seconds between two heartbeats of a device.
    pub heartbeat_s: u16,
    /// Seconds of silence on a line after which its device asks.
    pub ping_s: u16,
    /// What is logged.
    pub log: Log,
    /// Every value with its source.
    pub resolved: Vec<Resolved>,
}

/// What the command line and the environment say.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `(setting's key, value)` of flags; lists have a comma between.
    pub flags: Vec<(&'static str, String)>,
    /// The environment's variables that begin with `WEFT_COORDINATOR_`.
    pub environment: Vec<(String, String)>,
}

impl Overrides {
    fn flag(&self, key: &str) -> Option<&(&'static str, String)> {
        self.flags.iter().find(|(known, _)| *known == key)
    }

    fn variable(&self, name: &str) -> Option<&String> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Variables that look like a setting's and are none, each with the one that
    /// was probably meant. They are no error: whoever starts containers sets
    /// variables of his own by a service's name.
    pub fn unknown(&self) -> Vec<(&str, Option<&'static str>)> {
        let known = || SETTINGS.iter().map(|setting| setting.env).chain([CONFIG_VARIABLE]);
        let names = self.environment.iter().map(|(name, _)| name.as_str());
        let unknown = names.filter(|name| !known().any(|known| known == *name));
        unknown.map(|name| (name, nearest(name, known()))).collect()
    }

    /// The configuration file to read, and who named it; `None` in the second
    /// place = it need not exist.
    pub fn file(&self) -> (PathBuf, Option<&'static str>) {
        if let Some(path) = &self.file {
            return (path.clone(), Some("--config"));
        }
        if let Some(path) = self.variable(CONFIG_VARIABLE) {
            return (path.into(), Some(CONFIG_VARIABLE));
        }
        // Whoever keeps the state elsewhere keeps its configuration there too.
        let data = self.flag("data").map(|(_, value)| value);
        match data.or_else(|| self.variable("WEFT_COORDINATOR_DATA")) {
            Some(data) => (Path::new(data).join("coordinator.toml"), None),
            None => (DEFAULT_FILE.into(), None),
        }
    }
}

/// Reads all settings.
///
/// # Errors
///
/// Every complaint, at most [`COMPLAINTS`].
pub fn load(overrides: &Overrides) -> Result<Config, Vec<Failure>> {
    let (path, named_by) = overrides.file();
    match Document::read(&path, named_by.unwrap_or("default")) {
        Ok(document) => resolve(overrides, Some(&document)),
        Err(failure) if failure.code == Code::ConfigNotFound && named_by.is_none() => {
            resolve(overrides, None)
        }
        Err(failure) => Err(vec![failure]),
    }
}

/// All settings, with this file's or without one.
///
/// # Errors
///
/// Every complaint, at most [`COMPLAINTS`].
pub fn resolve(overrides: &Overrides, document: Option<&Document>) -> Result<Config, Vec<Failure>> {
    let mut failures = Vec::new();
    let mut resolved = Vec::with_capacity(SETTINGS.len());
    let path = document.map_or("", Document::path);
    let FromFile { values: from_file, relays } =
        document.map_or_else(FromFile::default, |document| read_file(document, &mut failures));
    for setting in SETTINGS {
        let name = format!("{}.{}", setting.section, setting.key);
        let (value, source) = if let Some((flag, value)) = overrides.flag(setting.key) {
            (value.clone(), Source::Flag(flag))
        } else if let Some(value) = overrides.variable(setting.env) {
            (value.clone(), Source::Environment(setting.env))
        } else if let Some((_, value, line)) = from_file.iter().find(|(key, ..)| *key == name) {
            (value.clone(), Source::File(path.to_owned(), *line))
        } else {
            (setting.default.to_owned(), Source::Default)
        };
        if !matches!(source, Source::File(..) | Source::Default) {
            failures.extend(
                check(setting, &value).err().map(|(code, message)| blame(code, message, &source)),
            );
        }
        resolved.push(Resolved { name, value, source });
    }
    if failures.is_empty() {
        return assemble(resolved, relays).map_err(|failure| vec![failure]);
    }
    failures.truncate(COMPLAINTS);
    Err(failures)
}

fn blame(code: Code, message: String, source: &Source) -> Failure {
    match source {
        Source::Environment(name) => {
            Failure::new(Code::ConfigEnvironment, format!("{name}: {message} (environment)"))
        }
        source => Failure::new(code, message).with(crate::failure::Label::From, source.to_string()),
    }
}

/// Each value is known to be right here.
fn assemble(mut resolved: Vec<Resolved>, relays: Vec<RelaySettings>) -> Result<Config, Failure> {
    let broker = broker::assemble(&resolved)?;
    resolved.extend(relays.iter().flat_map(|relay| relay.resolved.iter().cloned()));
    let value = |name: &str| {
        resolved.iter().find(|one| one.name == name).map_or("", |one| one.value.as_str())
    };
    let path = |name: &str| Some(value(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
    Ok(Config {
        public: value("server.public").parse().ok(),
        data: value("server.data").into(),
        listen: list(value("server.listen")).filter_map(|text| text.parse().ok()).collect(),
        socket: value("server.socket").into(),
        threads: value("server.threads").parse().unwrap_or(2),
        key_days: value("devices.key_days").parse().unwrap_or(90),
        heartbeat_s: value("devices.heartbeat_s").parse().unwrap_or(900),
        ping_s: value("devices.ping_s").parse().unwrap_or(1_200),
        addresses: list(value("server.addresses")).filter_map(|text| text.parse().ok()).collect(),
        tls: TlsFiles {
            certificate: path("tls.certificate"),
            key: path("tls.key"),
            pin: match value("tls.pin") {
                "yes" => Some(true),
                "no" => Some(false),
                _ => None,
            },
        },
        broker,
        relays,
        log: Log { level: value("log.level").to_owned(), json: value("log.format") == "json" },
        resolved,
    })
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|text| !text.is_empty())
}

/// What of the file is sound.
#[derive(Default)]
struct FromFile {
    /// `(name, value, line)` of every setting.
    values: Vec<(String, String, usize)>,
    relays: Vec<RelaySettings>,
}

fn read_file(document: &Document, failures: &mut Vec<Failure>) -> FromFile {
    let (table, mut wrong) = document.parse();
    failures.append(&mut wrong);
    let sections = || SETTINGS.iter().map(|setting| setting.section);
    let (mut values, mut relays) = (Vec::new(), Vec::new());
    for (section, content) in table.get_ref() {
        let name: &str = section.get_ref();
        if name == relays::SECTION {
            relays = relays::read(document, content, &section.span(), failures);
            continue;
        }
        let DeValue::Table(content) = content.get_ref() else {
            failures.push(unknown_key(document, None, name, &section.span()));
            continue;
        };
        if !sections().any(|known| known == name) {
            let mut message = format!("unknown section [{name}]");
            match nearest(name, sections().chain([relays::SECTION])) {
                Some(relays::SECTION) => message.push_str("; there is [[relays]]"),
                Some(known) => message.push_str(&format!("; there is [{known}]")),
                None => {}
            }
            failures.push(document.complain(Code::ConfigUnknownSection, message, &section.span()));
            continue;
        }
        for (key, value) in content {
            let key_text: &str = key.get_ref();
            let setting = SETTINGS.iter().find(|one| one.section == name && one.key == key_text);
            let Some(setting) = setting else {
                failures.push(unknown_key(document, Some(name), key_text, &key.span()));
                continue;
            };
            match read_value(document, setting, value) {
                Ok(text) => {
                    values.push((format!("{name}.{key_text}"), text, document.line(&key.span())));
                }
                Err(failure) => failures.push(failure),
            }
        }
    }
    failures.sort_by_key(|failure| failure.place.as_ref().map(|place| (place.line, place.column)));
    FromFile { values, relays }
}

fn unknown_key(
    document: &Document,
    section: Option<&str>,
    key: &str,
    span: &Range<usize>,
) -> Failure {
    let mut message = format!("unknown key \"{key}\"");
    if let Some(section) = section {
        message.push_str(&format!(" in [{section}]"));
    }
    let known = SETTINGS.iter().filter(|setting| Some(setting.section) == section);
    if let Some(known) = nearest(key, known.map(|setting| setting.key)) {
        message.push_str(&format!("; there is \"{known}\""));
    } else if section.is_none() && nearest(key, [relays::SECTION]).is_some() {
        message.push_str("; there is [[relays]]");
    } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
        message.push_str(&format!("; \"{key}\" belongs to [{}]", setting.section));
    }
    document.complain(Code::ConfigUnknownKey, message, span)
}

fn read_value(
    document: &Document,
    setting: &Setting,
    value: &Value<'_>,
) -> Result<String, Failure> {
    let key = setting.key;
    let wants = match setting.shape {
        Shape::Number(..) => "a number",
        Shape::Listen | Shape::Offers => "a list of addresses",
        Shape::Path
        | Shape::Optional
        | Shape::Public
        | Shape::Broker
        | Shape::User
        | Shape::Word(_) => "a string",
    };
    let text = match (setting.shape, value.get_ref()) {
        (Shape::Number(..), DeValue::Integer(number)) => number.as_str().replace('_', ""),
        (Shape::Number(..), DeValue::String(text)) => {
            let message =
                format!("{key} is a number, found the string \"{text}\"; write it without quotes");
            return Err(document.complain(Code::ConfigType, message, &value.span()));
        }
        (_, DeValue::String(text)) => text.to_string(),
        (Shape::Listen | Shape::Offers, DeValue::Array(items)) => {
            let mut texts = Vec::new();
            for item in items.iter() {
                let text = item.get_ref().as_str().ok_or_else(|| {
                    let message = format!("{key} is {wants}, found {}", type_word(item.get_ref()));
                    document.complain(Code::ConfigType, message, &item.span())
                })?;
                check(setting, text)
                    .map_err(|(code, message)| document.complain(code, message, &item.span()))?;
                texts.push(text.to_owned());
            }
            texts.join(",")
        }
        (_, other) => {
            let message = format!("{key} is {wants}, found {}", type_word(other));
            return Err(document.complain(Code::ConfigType, message, &value.span()));
        }
    };
    match check(setting, &text) {
        Ok(()) => Ok(text),
        Err((code, message)) => Err(document.complain(code, message, &value.span())),
    }
}

/// Whether a text is a value of the setting.
fn check(setting: &Setting, text: &str) -> Result<(), (Code, String)> {
    let key = setting.key;
    match setting.shape {
        Shape::Path if text.is_empty() => Err((Code::ConfigValue, format!("{key} is empty"))),
        Shape::Path | Shape::Optional => Ok(()),
        // As good as not set: without a broker of others nothing is missing.
        Shape::Broker | Shape::User if text.is_empty() => Ok(()),
        Shape::Public | Shape::Broker => {
            let usual =
                if setting.shape == Shape::Broker { broker::PORT } else { COORDINATOR_PORT };
            Public::parse(text, usual)
                .map(|_| ())
                .map_err(|error| (Code::ConfigAddress, format!("{key} \"{text}\": {error}")))
        }
        Shape::User if broker::is_user(text) => Ok(()),
        Shape::User => {
            let most = weft_wire::join::ACCOUNT_LEN;
            Err((Code::ConfigValue, format!("{key} is a name of 1 to {most} bytes")))
        }
        Shape::Listen => {
            if list(text).next().is_none() {
                return Err((Code::ConfigValue, format!("{key} is empty")));
            }
            let wrong = list(text).find(|text| text.parse::<SocketAddr>().is_err());
            wrong.map_or(Ok(()), |wrong| {
                let port = wrong.parse::<u16>().unwrap_or(COORDINATOR_PORT);
                let hint =
                    format!("an address and a port are needed, for example \"0.0.0.0:{port}\"");
                Err((Code::ConfigAddress, format!("{key} \"{wrong}\": {hint}")))
            })
        }
        Shape::Offers => {
            let wrong = list(text).find_map(|text| Some((text, text.parse::<Offer>().err()?)));
            match wrong {
                Some((wrong, error)) => {
                    Err((Code::ConfigAddress, format!("{key} \"{wrong}\": {error}")))
                }
                None if list(text).count() > ADDRESSES => {
                    let message = format!("{key} holds more than {ADDRESSES} addresses");
                    Err((Code::ConfigValue, message))
                }
                None => Ok(()),
            }
        }
        Shape::Number(least, most) => match text.parse::<u32>() {
            Ok(number) if (least..=most).contains(&number) => Ok(()),
            Ok(_) => {
                Err((Code::ConfigRange, format!("{key} is {text}; {least} to {most} is possible")))
            }
            Err(_) => {
                Err((Code::ConfigType, format!("{key} is \"{text}\", a number was expected")))
            }
        },
        Shape::Word(words) if words.contains(&text) => Ok(()),
        Shape::Word(words) => {
            let message = format!("{key} is \"{text}\"; {} are possible", words.join(", "));
            Err((Code::ConfigValue, message))
        }
    }
}

/// The file that `init` writes: every setting, with its meaning; only what was
/// chosen is not a comment.
pub fn template(chosen: &[(&str, String)]) -> String {
    let mut text = String::from(
        "# Weft coordinator. What is a comment shows its default. Check a change with\n\
         # weft-coordinator config check.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        let value = chosen.iter().find(|(key, _)| *key == setting.key).map(|(_, value)| value);
        let mark = if value.is_some() { "" } else { "# " };
        let value = value.map_or(setting.default, String::as_str);
        let value = match setting.shape {
            Shape::Number(..) => value.to_owned(),
            Shape::Listen | Shape::Offers => {
                format!("[{}]", list(value).map(quoted).collect::<Vec<_>>().join(", "))
            }
            Shape::Path
            | Shape::Optional
            | Shape::Public
            | Shape::Broker
            | Shape::User
            | Shape::Word(_) => quoted(value),
        };
        text.push_str(&format!("# {}\n{mark}{} = {value}\n", setting.about, setting.key));
    }
    text.push_str(relays::TEMPLATE);
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
