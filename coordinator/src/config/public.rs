//! The name or address under which devices find the coordinator.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use weft_wire::COORDINATOR_PORT;
use weft_wire::join::{ADDRESS_LEN, Address, Carrier};

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
    /// Not a name, address, or either with a port; the port that need not be
    /// written.
    Form(u16),
    /// Longer than a join string can hold.
    Length,
}

impl fmt::Display for PublicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(port) => {
                write!(f, "a name or an address is needed, with a port if it is not {port}")
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
        Self::parse(text, COORDINATOR_PORT)
    }
}

impl Public {
    /// Reads a place whose port, if it names none, is this one.
    ///
    /// # Errors
    ///
    /// [`PublicError`].
    pub fn parse(text: &str, usual: u16) -> Result<Self, PublicError> {
        let (host, port) = split(text, usual).ok_or(PublicError::Form(usual))?;
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
            return Err(PublicError::Form(usual));
        }
        let public = Self { host: host.to_ascii_lowercase(), port };
        if public.authority().len() > ADDRESS_LEN {
            return Err(PublicError::Length);
        }
        Ok(public)
    }
}

/// One way to the coordinator as a join string offers it: `wss://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How to talk there.
    pub carrier: Carrier,
    /// Where.
    pub place: Public,
}

/// Why a text is no [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferError {
    /// It begins with no carrier that there is.
    Carrier,
    /// What follows is no place.
    Place(PublicError),
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Carrier => {
                f.write_str("mqtt://, mqtts://, wss:// or https:// and a host is needed")
            }
            Self::Place(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OfferError {}

impl FromStr for Offer {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, OfferError> {
        const HTTPS: u16 = 443;
        let (scheme, place) = text.split_once("://").ok_or(OfferError::Carrier)?;
        let all = [Carrier::Mqtt, Carrier::Mqtts, Carrier::Wss, Carrier::Https];
        let carrier = all.into_iter().find(|carrier| carrier.scheme() == scheme);
        let carrier = carrier.ok_or(OfferError::Carrier)?;
        let usual = match carrier {
            Carrier::Mqtt | Carrier::Mqtts => COORDINATOR_PORT,
            Carrier::Wss | Carrier::Https => HTTPS,
        };
        let place = Public::parse(place, usual).map_err(OfferError::Place)?;
        Ok(Self { carrier, place })
    }
}

impl Offer {
    /// As join strings hold it; `None` = the host is too long for one.
    pub fn address(&self) -> Option<Address> {
        let authority = heapless::String::try_from(self.place.authority().as_str()).ok()?;
        Some(Address { carrier: self.carrier, authority })
    }
}

fn split(text: &str, usual: u16) -> Option<(&str, u16)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, usual));
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
        "" if !text.ends_with(':') => usual,
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
    fn offers_name_their_carrier() {
        for (text, carrier, authority) in [
            ("mqtt://mesh.example.net", Carrier::Mqtt, "mesh.example.net:7420"),
            ("mqtts://[2001:db8::1]:8883", Carrier::Mqtts, "[2001:db8::1]:8883"),
            ("wss://mesh.example.net", Carrier::Wss, "mesh.example.net:443"),
            ("https://203.0.113.10:8443", Carrier::Https, "203.0.113.10:8443"),
        ] {
            let address = text.parse::<Offer>().unwrap().address().unwrap();
            assert_eq!((address.carrier, address.authority.as_str()), (carrier, authority));
        }
        for text in ["mesh.example.net", "ws://mesh.example.net", "://a", ""] {
            assert_eq!(text.parse::<Offer>(), Err(OfferError::Carrier), "{text}");
        }
        let path = "wss://mesh.example.net/mqtt".parse::<Offer>();
        assert_eq!(path, Err(OfferError::Place(PublicError::Form(443))));
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
            assert_eq!(text.parse::<Public>(), Err(PublicError::Form(COORDINATOR_PORT)), "{text}");
        }
        let long = vec!["a".repeat(60); 2].join(".");
        assert_eq!(long.parse::<Public>(), Err(PublicError::Length));
    }

    #[test]
    fn another_port_may_be_the_usual_one() {
        let authority = |text| Public::parse(text, 1883).unwrap().authority();
        assert_eq!(authority("mqtt.example.net"), "mqtt.example.net:1883");
        assert_eq!(authority("::1"), "[::1]:1883");
        assert_eq!(authority("10.0.0.1:7420"), "10.0.0.1:7420");
        assert_eq!(Public::parse("a:", 1883), Err(PublicError::Form(1883)));
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
