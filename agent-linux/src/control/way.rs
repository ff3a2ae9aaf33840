//! The ways to the coordinator, as the join string lists them.

use core::fmt;

use weft_wire::join::Carrier;

/// One way: how to talk, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// How.
    pub(crate) carrier: Carrier,
    /// `mesh.example.net:7420`.
    pub(crate) authority: String,
}

impl Way {
    /// Whether it is wrapped in TLS.
    pub(crate) const fn is_tls(&self) -> bool {
        !matches!(self.carrier, Carrier::Mqtt)
    }

    /// The host without its port; an IPv6 host without brackets.
    pub(crate) fn host(&self) -> &str {
        split(&self.authority).0
    }

    /// The port as text.
    pub(crate) fn port(&self) -> &str {
        split(&self.authority).1
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.carrier.scheme(), self.authority)
    }
}

/// `host:port` in two; an IPv6 host loses its brackets.
fn split(authority: &str) -> (&str, &str) {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (bare.unwrap_or(host), port)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        assert_eq!(split("mesh.example.net:7420"), ("mesh.example.net", "7420"));
        assert_eq!(split("[2001:db8::1]:7420"), ("2001:db8::1", "7420"));
        assert_eq!(split("mesh"), ("mesh", ""));
    }

    #[test]
    fn a_way_is_shown_as_people_write_it() {
        let way = Way { carrier: Carrier::Wss, authority: "[2001:db8::1]:443".to_owned() };
        assert_eq!(way.to_string(), "wss://[2001:db8::1]:443");
        assert!(way.is_tls());
    }
}
