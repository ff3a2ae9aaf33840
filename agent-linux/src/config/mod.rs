//! What an operator decides: flags, then environment, then `weft.toml`, then
//! defaults. The reader beside this says what is wrong in a file; this module
//! says which keys there are and what they may hold.

pub(crate) mod reader;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use weft_wire::WIREGUARD_PORT;

use crate::config::reader::{Document, Section};
use crate::failure::{Code, Failure, Result};
use crate::net::nat64::Prefix;

/// Where everything is when nobody says otherwise.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/weft";
pub(crate) const DEFAULT_SOCKET: &str = "/run/weft.sock";
pub(crate) const DEFAULT_FILE: &str = "/etc/weft/weft.toml";
const DEFAULT_INTERFACE: &str = "weft0";
/// Members of this group may read the daemon's state, where the group exists.
const DEFAULT_GROUP: &str = "weft";
/// The most addresses that an operator may announce.
const MAX_ENDPOINTS: usize = 4;

/// The least severe lines that the daemon writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How a host that has IPv6 alone gets to IPv4 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Translator {
    /// The network's name server is asked (RFC 7050).
    #[default]
    Find,
    /// Not at all.
    Off,
    /// They lie under this prefix.
    Prefix(Prefix),
}

/// `auto`, `off`, `64:ff9b::/96`.
fn parse_translator(text: &str) -> Option<Translator> {
    match text {
        "auto" => Some(Translator::Find),
        "off" => Some(Translator::Off),
        other => {
            let (address, len) = other.split_once('/')?;
            Prefix::new(address.parse().ok()?, len.parse().ok()?).map(Translator::Prefix)
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) state: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) interface: Option<String>,
    /// Bytes per day, as in `weft.toml`.
    pub(crate) data_budget: Option<String>,
    /// Bytes of this uplink cost money.
    pub(crate) metered: bool,
    /// 1: debug lines, more: all.
    pub(crate) verbose: u8,
}

/// A port that somebody asked for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedPort {
    pub(crate) port: u16,
    /// `weft.toml:3`, `WEFT_LISTEN_PORT`.
    pub(crate) source: String,
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Folder of identity, stamp and cache.
    pub(crate) state: PathBuf,
    /// The daemon's socket.
    pub(crate) socket: PathBuf,
    /// The file that was read, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// Name of the mesh interface.
    pub(crate) interface: String,
    /// A port that must be had; else the usual one or the next free.
    pub(crate) listen_port: Option<WantedPort>,
    /// Addresses at which this machine can be reached, known by the operator.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Names of peers to which a way is kept open.
    pub(crate) keep_warm: Vec<String>,
    /// Bytes of this uplink cost money: nothing is sent that only might help.
    pub(crate) metered: bool,
    /// Bytes per day for everything but payload; binds where bytes cost money.
    pub(crate) data_budget: Option<u64>,
    /// Whether the router may be asked to let packets in.
    pub(crate) port_mapping: bool,
    /// Whether a way to a hard NAT may be searched for, by many small packets.
    pub(crate) port_search: bool,
    /// The way to IPv4 addresses on a host that has none.
    pub(crate) translator: Translator,
    /// Seconds after which a session is renewed; for tests only.
    pub(crate) rekey_after_s: Option<u16>,
    /// Group that may read the daemon's state.
    pub(crate) socket_group: String,
    /// Whether the group was asked for (then it must exist).
    pub(crate) socket_group_wanted: bool,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
    /// Whether endpoint addresses appear in lines of level info.
    pub(crate) log_addresses: bool,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// Flags or the environment say something that the system's unit does not
    /// know of.
    pub(crate) is_overridden: bool,
}

/// Reads an environment variable; an empty one counts as unset.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Config {
    /// Merges flags, environment and file.
    ///
    /// # Errors
    ///
    /// The first error of the environment, or all errors of the file (at most
    /// ten), one failure each.
    pub(crate) fn load(flags: &Flags) -> core::result::Result<Self, Vec<Failure>> {
        Self::load_from(flags, environment)
    }

    fn load_from(
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> core::result::Result<Self, Vec<Failure>> {
        let path = |flag: &Option<PathBuf>, name| {
            flag.clone().or_else(|| environment(name).map(PathBuf::from))
        };
        let wanted = path(&flags.config, "WEFT_CONFIG");
        let from = if flags.config.is_some() { "--config" } else { "WEFT_CONFIG" };
        let mut config = Self::read(wanted.as_deref(), from)?;
        let mut known = ["WEFT_INTERFACE", "WEFT_LISTEN_PORT"].into_iter();
        config.is_overridden = wanted.is_some()
            || flags.interface.is_some()
            || flags.data_budget.is_some()
            || flags.metered
            || flags.verbose > 0
            || known.any(|name| environment(name).is_some());
        config.verbose = flags.verbose;
        config.metered |= flags.metered;
        config.log_level = config.log_level.max(match flags.verbose {
            0 => LogLevel::Error,
            1 => LogLevel::Debug,
            _ => LogLevel::Trace,
        });
        if let Some(state) = path(&flags.state, "WEFT_STATE") {
            config.state = state;
        }
        if let Some(socket) = path(&flags.socket, "WEFT_SOCKET") {
            config.socket = socket;
        }
        if let Some(name) = flags.interface.clone().or_else(|| environment("WEFT_INTERFACE")) {
            check_interface(&name).map_err(|message| {
                vec![Failure::new(Code::ConfigValue, format!("interface {message}"))]
            })?;
            config.interface = name;
        }
        if let Some(text) = &flags.data_budget {
            let bytes = reader::size(text).ok_or_else(|| {
                vec![Failure::new(Code::ConfigSize, reader::not_a_size("data_budget", text))]
            })?;
            config.data_budget = Some(bytes);
        }
        if let Some(text) = environment("WEFT_LISTEN_PORT") {
            let port = text.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
                let message = format!(
                    "WEFT_LISTEN_PORT is \"{text}\", a port number was expected (environment)"
                );
                vec![Failure::new(Code::ConfigEnvironment, message)]
            })?;
            config.listen_port = Some(WantedPort { port, source: "WEFT_LISTEN_PORT".to_owned() });
        }
        Ok(config)
    }

    fn defaults() -> Self {
        Self {
            state: DEFAULT_STATE.into(),
            socket: DEFAULT_SOCKET.into(),
            file: None,
            interface: DEFAULT_INTERFACE.to_owned(),
            listen_port: None,
            endpoints: Vec::new(),
            keep_warm: Vec::new(),
            metered: false,
            data_budget: None,
            port_mapping: true,
            port_search: true,
            translator: Translator::default(),
            rekey_after_s: None,
            socket_group: DEFAULT_GROUP.to_owned(),
            socket_group_wanted: false,
            log_level: LogLevel::default(),
            log_format: LogFormat::default(),
            log_addresses: false,
            verbose: 0,
            is_overridden: false,
        }
    }

    /// The file that was named must be there; the usual one may be missing.
    fn read(wanted: Option<&Path>, from: &str) -> core::result::Result<Self, Vec<Failure>> {
        let path = wanted.unwrap_or_else(|| Path::new(DEFAULT_FILE));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && wanted.is_none() => {
                return Ok(Self::defaults());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!("no file {} (from {from})", path.display());
                return Err(vec![Failure::new(Code::ConfigNotFound, message)]);
            }
            Err(error) => {
                let message = format!("{} cannot be read", path.display());
                return Err(vec![Failure::new(Code::ConfigDenied, message).cause(error)]);
            }
        };
        let mut config = Self::parse(path, &bytes)?;
        config.file = Some(path.to_owned());
        Ok(config)
    }

    /// Reads the file's text.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> core::result::Result<Self, Vec<Failure>> {
        let mut config = Self::defaults();
        let mut document = Document::parse(path, bytes)?;
        document.section("network", |section| config.network(section));
        document.section("tunnel", |section| {
            config.rekey_after_s = section.integer("rekey_after_s", 10..=120);
        });
        document.section("state", |section| {
            if let Some((folder, _)) = section.text("directory") {
                config.state = folder.into();
            }
        });
        document.section("socket", |section| {
            if let Some((path, _)) = section.text("path") {
                config.socket = path.into();
            }
            if let Some((group, _)) = section.text("group") {
                config.socket_group = group;
                config.socket_group_wanted = true;
            }
        });
        document.section("log", |section| config.log(section));
        document.finish()?;
        Ok(config)
    }

    fn network(&mut self, section: &mut Section<'_, '_>) {
        if let Some((name, span)) = section.text("interface") {
            match check_interface(&name) {
                Ok(()) => self.interface = name,
                Err(message) => {
                    section.refuse(Code::ConfigValue, span, format!("interface {message}"))
                }
            }
        }
        self.listen_port = section
            .integer_at("listen_port", 1..=65_535)
            .map(|(port, source)| WantedPort { port, source });
        if let Some(metered) = section.boolean("metered") {
            self.metered = metered;
        }
        self.data_budget = section.size("data_budget");
        if let Some(wanted) = section.boolean("port_mapping") {
            self.port_mapping = wanted;
        }
        if let Some(wanted) = section.boolean("port_search") {
            self.port_search = wanted;
        }
        if let Some((text, span)) = section.text("nat64") {
            match parse_translator(&text) {
                Some(wanted) => self.translator = wanted,
                None => {
                    let message = format!(
                        "nat64 \"{text}\": auto, off, or a prefix of 32, 40, 48, 56, 64 or 96 \
                         bits is needed, for example \"64:ff9b::/96\""
                    );
                    section.refuse(Code::ConfigValue, span, message);
                }
            }
        }
        self.keep_warm.extend(section.texts("keep_warm").into_iter().map(|(text, _)| text));
        for (text, span) in section.texts("endpoints") {
            match text.parse() {
                Ok(_) if self.endpoints.len() == MAX_ENDPOINTS => {
                    let message = format!("endpoints holds at most {MAX_ENDPOINTS} addresses");
                    section.refuse(Code::ConfigValue, span, message);
                    break;
                }
                Ok(endpoint) => self.endpoints.push(endpoint),
                Err(_) => {
                    let message = format!(
                        "endpoints \"{text}\": an address and a port are needed, \
                         for example \"203.0.113.22:{WIREGUARD_PORT}\""
                    );
                    section.refuse(Code::ConfigAddress, span, message);
                }
            }
        }
    }

    fn log(&mut self, section: &mut Section<'_, '_>) {
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        if let Some(level) = section.choice("level", &levels) {
            self.log_level = level;
        }
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        if let Some(format) = section.choice("format", &formats) {
            self.log_format = format;
        }
        let places = [("debug", false), ("info", true)];
        if let Some(shown) = section.choice("addresses", &places) {
            self.log_addresses = shown;
        }
    }

    /// Whether this is the one installation that the system's unit runs.
    pub(crate) fn is_system(&self) -> bool {
        self.state == Path::new(DEFAULT_STATE)
            && self.socket == Path::new(DEFAULT_SOCKET)
            && !self.is_overridden
    }
}

/// Whether the kernel takes this as an interface's name; else what is wrong.
fn check_interface(name: &str) -> core::result::Result<(), String> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let usual = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if fits && name.bytes().all(usual) && name != "." && name != ".." {
        Ok(())
    } else {
        Err(format!(
            "\"{}\" is not a name for an interface; 1 to 15 letters, digits, '-', '_' and '.' are",
            crate::failure::printable(name)
        ))
    }
}

/// Reads a `Result` of many failures as one of the first, for callers that print
/// one (the others are printed before).
pub(crate) fn load(flags: &Flags, print: impl FnMut(&Failure)) -> Result<Config> {
    Config::load(flags).map_err(|failures| {
        let (last, others) = match failures.split_last() {
            Some((last, others)) => (last.clone(), others),
            None => (Failure::internal("a configuration error without a text"), &[][..]),
        };
        others.iter().for_each(print);
        last
    })
}
