//! Which peer a person means, and how one is shown.

use std::net::IpAddr;

use anstyle::Style;

use crate::config::Config;
use crate::config::reader::nearest;
use crate::daemon::texts;
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::Client;
use crate::ipc::protocol::{Device, Path, Peer, Status};
use crate::output::style;
use crate::store::folder::Folder;
use crate::store::identity;

/// Characters of an id's beginning that are enough, after the underscore.
const PREFIX: usize = 4;

/// Finds a peer by name, `name.network`, address, id or the beginning of one.
///
/// # Errors
///
/// `peer.self`, `peer.not-mesh`, `peer.ambiguous`, `peer.unknown`.
pub(super) fn find<'s>(status: &'s Status, wanted: &str) -> Result<&'s Peer> {
    let device = status.device.as_ref().ok_or_else(not_joined)?;
    if is_device(device, wanted) {
        let message = format!("{} is this machine", device.name);
        return Err(Failure::new(Code::PeerSelf, message));
    }
    if let Ok(address) = wanted.parse() {
        return by_address(status, device, address);
    }
    let name = wanted.strip_suffix(&format!(".{}", device.network)).unwrap_or(wanted);
    if let Some(peer) = status.peers.iter().find(|peer| peer.name == name) {
        return Ok(peer);
    }
    let long_enough = wanted.strip_prefix("dev_").is_some_and(|rest| rest.len() >= PREFIX);
    let by_id = status.peers.iter().filter(|peer| long_enough && peer.id.starts_with(wanted));
    let by_id: Vec<&Peer> = by_id.collect();
    match by_id.as_slice() {
        [peer] => Ok(peer),
        [] => Err(unknown(status, device, wanted)),
        several => {
            let several: Vec<String> =
                several.iter().map(|peer| format!("{} ({})", peer.name, peer.id)).collect();
            let count = several.len();
            let message = format!("{wanted} fits {count} peers: {}", several.join(", "));
            Err(Failure::new(Code::PeerAmbiguous, message))
        }
    }
}

/// Before this machine is a member there are no peers to find.
pub(super) fn not_joined() -> Failure {
    Failure::new(Code::UpNotJoined, "this machine is in no network").try_command("weft join …")
}

/// Connects to the daemon for this command. Where none runs because this machine
/// never joined, starting one is no advice.
///
/// # Errors
///
/// As [`Client::connect`].
pub(super) fn connect(config: &Config, command: &str) -> Result<Client> {
    Client::connect(&config.socket, command).map_err(|failure| {
        let joined = has_identity(&Folder::new(&config.state), command);
        if failure.is(Code::CliNoDaemon) && matches!(joined, Ok(false)) {
            failure
                .without_commands()
                .cause("this machine is in no network")
                .try_command("sudo weft join WEFT1…")
        } else {
            failure
        }
    })
}

/// Whether there is an identity in the state folder.
///
/// # Errors
///
/// `up.state-denied` where this user may not know, with `command` as root.
pub(super) fn has_identity(folder: &Folder, command: &str) -> Result<bool> {
    identity::exists(folder)
        .map_err(|error| texts::state_read(folder, identity::KIND.name, command, &error))
}

fn is_device(device: &Device, wanted: &str) -> bool {
    let address = |(v4, v6)| wanted.parse().is_ok_and(|ip: IpAddr| ip == v4 || ip == v6);
    device.name == wanted
        || device.id == wanted
        || format!("{}.{}", device.name, device.network) == wanted
        || device
            .addresses
            .map(|(v4, v6)| (IpAddr::from(v4), IpAddr::from(v6)))
            .is_some_and(address)
}

fn by_address<'s>(status: &'s Status, device: &Device, address: IpAddr) -> Result<&'s Peer> {
    let has = |peer: &&Peer| {
        let (v4, v6) = peer.addresses;
        address == v4 || address == v6
    };
    if let Some(peer) = status.peers.iter().find(has) {
        return Ok(peer);
    }
    let inside = match (address, device.range) {
        (IpAddr::V4(address), Some((first, len))) => {
            let differ = address.to_bits() ^ first.to_bits();
            differ.checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), _) => {
            device.addresses.is_some_and(|(_, own)| own.octets()[..6] == address.octets()[..6])
        }
        _ => false,
    };
    if inside {
        return Err(unknown(status, device, &address.to_string()));
    }
    let range = device.range.map_or_else(String::new, |(first, len)| format!(" ({first}/{len})"));
    let behind = status.peers.iter().find(|peer| !peer.routes.is_empty());
    let behind = behind.map_or_else(String::new, |peer| {
        let (are, routes) = (if peer.routes.len() == 1 { "is" } else { "are" }, &peer.routes);
        format!("; behind {} there {are} {}", peer.name, routes.join(", "))
    });
    let message = format!("{address} is not an address of {}{range}{behind}", device.network);
    Err(Failure::new(Code::PeerNotMesh, message))
}

fn unknown(status: &Status, device: &Device, wanted: &str) -> Failure {
    let mut names: Vec<&str> = status.peers.iter().map(|peer| peer.name.as_str()).collect();
    names.sort_unstable();
    let there = match (nearest(wanted, &names), names.len()) {
        (_, 0) => "; it has no peers yet".to_owned(),
        (Some(near), _) => format!("; there is {near}"),
        (None, 1..=8) => format!("; there is {}", names.join(", ")),
        (None, _) => String::new(),
    };
    let network = &device.network;
    Failure::new(Code::PeerUnknown, format!("no peer named {wanted} in {network}{there}"))
        .param("peer", wanted)
        .try_command("weft peers")
}

/// The one word for a peer's path, and its detail.
pub(super) fn path(peer: &Peer) -> (&'static str, String) {
    match &peer.path {
        Path::Direct { remote } => ("direct", remote.clone()),
        Path::Relay { remote, name, rung, .. } => {
            let title = name.as_ref().unwrap_or(remote);
            // Without one the other side has the allocation.
            let rung = rung.as_ref().map_or_else(String::new, |rung| format!(" {rung}"));
            ("relay", format!("{title}{rung}"))
        }
        Path::Nowhere => ("none", "no way found".to_owned()),
        Path::Idle => ("idle", "rings on demand".to_owned()),
        Path::Connecting => ("idle", "ringing".to_owned()),
    }
}

/// The colour of a path.
pub(super) fn path_style(peer: &Peer) -> Style {
    match peer.path {
        Path::Direct { .. } => style::GOOD,
        Path::Relay { .. } => style::WARN,
        Path::Idle => style::DIM,
        Path::Connecting => style::WARN,
        Path::Nowhere => style::BAD,
    }
}

/// Direct first, then relayed, then what has no way, then idle; then by name.
pub(super) fn sorted(peers: &[Peer]) -> Vec<&Peer> {
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort_by_key(|peer| {
        let rank = match peer.path {
            Path::Direct { .. } => 0,
            Path::Relay { .. } => 1,
            Path::Connecting => 2,
            Path::Nowhere => 3,
            Path::Idle => 4,
        };
        (rank, peer.name.as_str())
    });
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::sample;

    #[test]
    fn a_peer_has_many_names() {
        let status = sample();
        for wanted in
            ["gw-b", "gw-b.home", "100.93.0.3", "fd5c:7e0a:91b3::3", "dev_uvcdtue5nvx5", "dev_uvcd"]
        {
            assert_eq!(find(&status, wanted).unwrap().name, "gw-b", "{wanted}");
        }
    }

    #[test]
    fn what_is_no_peer_is_told_apart() {
        let status = sample();
        for (wanted, exit, text) in [
            ("gw-a", 2, "gw-a is this machine"),
            ("100.93.0.2", 2, "gw-a is this machine"),
            ("gw-c", 5, "no peer named gw-c in home; there is gw-b"),
            ("x", 5, "no peer named x in home; there is gw-b, plc-7"),
            ("dev_u", 5, "no peer named dev_u in home; there is gw-b, plc-7"),
            ("100.93.9.9", 5, "no peer named 100.93.9.9 in home; there is gw-b, plc-7"),
            ("192.168.1.20", 5, "192.168.1.20 is not an address of home (100.93.0.0/16)"),
        ] {
            let failure = find(&status, wanted).unwrap_err();
            assert_eq!((failure.exit(), failure.message()), (exit, text));
        }
        let mut twins = status;
        twins.peers[0].routes = vec!["192.168.7.0/24".to_owned()];
        assert_eq!(
            find(&twins, "192.168.1.20").unwrap_err().message(),
            "192.168.1.20 is not an address of home (100.93.0.0/16); \
             behind plc-7 there is 192.168.7.0/24"
        );
        let mut twin = twins.peers[0].clone();
        twin.name = "gw-d".to_owned();
        twin.id = "dev_uvcdaaaaaaaa".to_owned();
        twins.peers.push(twin);
        let failure = find(&twins, "dev_uvcd").unwrap_err();
        assert_eq!(
            failure.message(),
            "dev_uvcd fits 2 peers: gw-b (dev_uvcdtue5nvx5), gw-d (dev_uvcdaaaaaaaa)"
        );
    }
}
