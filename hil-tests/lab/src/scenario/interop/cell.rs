//! One combination of partner, role, family and preshared key.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::KERNEL;
use crate::internet::{Host, ipv4, ipv6};
use crate::measure::Pings;

/// Whose WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Go,
    Kernel,
}

#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) kind: Kind,
    /// Whether our daemon starts the first handshake.
    pub(super) we_initiate: bool,
    pub(super) ipv6: bool,
    pub(super) preshared: bool,
    /// Tells cells of one partner apart: ports, interfaces, hosts.
    pub(super) index: u8,
}

/// What a cell showed.
pub(super) struct Found {
    pub(super) pings: Pings,
    pub(super) handshakes: usize,
    /// What was expected and did not happen.
    pub(super) wrong: Option<String>,
}

impl Cell {
    /// Every combination; the short form keeps roles, IPv4 and preshared keys.
    pub(super) fn all(short: bool) -> Vec<Self> {
        let mut cells = Vec::new();
        for kind in [Kind::Go, Kind::Kernel] {
            let first = cells.len();
            for ipv6 in [false, true] {
                for preshared in [true, false] {
                    for we_initiate in [true, false] {
                        let index = (cells.len() - first) as u8;
                        cells.push(Self { kind, we_initiate, ipv6, preshared, index });
                    }
                }
            }
        }
        if short {
            cells.retain(|cell| !cell.ipv6 && cell.preshared);
        }
        cells
    }

    /// A device's name.
    pub(super) fn name(&self) -> String {
        let kind = if self.kind == Kind::Go { "go" } else { "kernel" };
        let role = if self.we_initiate { "initiator" } else { "responder" };
        let family = if self.ipv6 { "6" } else { "4" };
        let preshared = if self.preshared { "-psk" } else { "" };
        format!("{kind}-{role}-{family}{preshared}")
    }

    /// wireguard-go has a host for each cell; the emulated machine is one.
    pub(super) fn host(&self) -> Option<(String, u8)> {
        (self.kind == Kind::Go).then(|| (format!("go-{}", self.index), 40 + self.index))
    }

    pub(super) const fn port(&self) -> u16 {
        51_820 + self.index as u16
    }

    /// Where the partner listens.
    pub(super) fn endpoint(&self, host: Option<&Host>) -> SocketAddr {
        let ip: IpAddr = match (host, self.ipv6) {
            (Some(host), false) => host.ipv4(),
            (Some(host), true) => host.ipv6(),
            (None, false) => ipv4(KERNEL.number).into(),
            (None, true) => ipv6(KERNEL.number).into(),
        };
        SocketAddr::new(ip, self.port())
    }
}

impl Found {
    pub(super) fn json(&self, cell: &Cell) -> Value {
        json!({
            "name": cell.name(),
            "partner": if cell.kind == Kind::Go { "wireguard-go" } else { "kernel" },
            "role": if cell.we_initiate { "initiator" } else { "responder" },
            "family": if cell.ipv6 { "ipv6" } else { "ipv4" },
            "psk": cell.preshared,
            "handshakes": self.handshakes,
            "sent": self.pings.sent,
            "lost": self.pings.lost(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_combination_has_a_name_of_its_own() {
        let names: BTreeSet<String> = Cell::all(false).iter().map(Cell::name).collect();
        assert_eq!(names.len(), 16);
        let short: Vec<String> = Cell::all(true).iter().map(Cell::name).collect();
        assert_eq!(
            short,
            [
                "go-initiator-4-psk",
                "go-responder-4-psk",
                "kernel-initiator-4-psk",
                "kernel-responder-4-psk"
            ]
        );
    }
}
