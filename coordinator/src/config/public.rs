//! The name or address under which devices find the coordinator.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use weft_wire::COORDINATOR_PORT;
use weft_wire::join::ADDRESS_LEN;

/// `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// A name, or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Why a text is not a place where devices find the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicError {
    /// Not a name, address, or either with a port.
    Form,
    /// Longer than a join string can hold.
    Length,
}

impl fmt::Display for PublicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => {
                f.write_str("a name or an address is needed, with a port if it is not 7420")
            }
            Self::Length => write!(f, "at most {ADDRESS_LEN} characters fit into a join string"),
        }
    }
}

impl core::error::Error for PublicError {}

impl Public {
    /// The address, if it is one and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether only devices inside one network can reach it.
    pub fn is_private(&self) -> bool {
        match self.address() {
            Some(IpAddr::V4(v4)) => {
                v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()
            }
            Some(IpAddr::V6(v6)) => {
                v6.is_unique_local()
                    || v6.is_loopback()
                    || v6.is_unicast_link_local()
                    || v6.is_unspecified()
            }
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    /// `host:port` as join strings hold it; an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        match self.address() {
            Some(IpAddr::V6(v6)) => format!("[{v6}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == COORDINATOR_PORT {
            f.write_str(&self.host)
        } else {
            f.write_str(&self.authority())
        }
    }
}

impl FromStr for Public {
    type Err = PublicError;

    fn from_str(text: &str) -> Result<Self, PublicError> {
        let (host, port) = split(text).ok_or(PublicError::Form)?;
        let is_name = |host: &str| {
            let label = |label: &str| {
                let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
                (1..=63).contains(&label.len())
                    && label.bytes().all(plain)
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            // Only digits and dots that are no address are a mistyped address.
            host.split('.').all(label) && !host.bytes().all(|c| c.is_ascii_digit() || c == b'.')
        };
        if host.parse::<IpAddr>().is_err() && !is_name(host) {
            return Err(PublicError::Form);
        }
        let public = Self { host: host.to_ascii_lowercase(), port };
        if public.authority().len() > ADDRESS_LEN {
            return Err(PublicError::Length);
        }
        Ok(public)
    }
}

fn split(text: &str) -> Option<(&str, u16)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, COORDINATOR_PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if !text.ends_with(':') => COORDINATOR_PORT,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_addresses() {
        for (text, authority, shown) in [
            ("mesh.example.net", "mesh.example.net:7420", "mesh.example.net"),
            ("Mesh.Example.net:443", "mesh.example.net:443", "mesh.example.net:443"),
            ("203.0.113.10", "203.0.113.10:7420", "203.0.113.10"),
            ("2001:db8::1", "[2001:db8::1]:7420", "2001:db8::1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[2001:db8::1]", "[2001:db8::1]:7420", "2001:db8::1"),
        ] {
            let public: Public = text.parse().unwrap();
            assert_eq!(public.authority(), authority);
            assert_eq!(public.to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_no_device_could_use() {
        for text in [
            "",
            ":",
            "a:",
            "a:0",
            "a:70000",
            "a b",
            "http://a",
            "300.1.1.1",
            "1.2.3",
            "-a",
            "a..b",
            "[a]:1",
            "[::1",
            "::1]:5",
            "[::1]x",
        ] {
            assert_eq!(text.parse::<Public>(), Err(PublicError::Form), "{text}");
        }
        let long = vec!["a".repeat(60); 2].join(".");
        assert_eq!(long.parse::<Public>(), Err(PublicError::Length));
    }

    #[test]
    fn knows_what_is_private() {
        let private = |text: &str| text.parse::<Public>().unwrap().is_private();
        for text in
            ["10.0.0.4", "192.168.1.1", "127.0.0.1", "fd00::1", "::1", "fe80::1", "localhost"]
        {
            assert!(private(text), "{text}");
        }
        for text in ["203.0.113.10", "100.64.0.1", "2001:db8::1", "mesh.example.net"] {
            assert!(!private(text), "{text}");
        }
    }
}
