//! Relaying, until somebody ends the program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_relay::config::{self, Flags};
use weft_relay::io::control::{Ask, Control};
use weft_relay::io::session::{Keeper, Start, View};
use weft_relay::{RelayAddress, Server, StartError};
use weft_wire::relay_link::RelayPlace;

use super::{Failure, exit, join, say};

pub(crate) fn run(flags: &Flags, only_check: bool) -> Result<ExitCode, Failure> {
    let loaded = config::load(flags)?;
    let folder = loaded.state();
    let mut joined = join::known(&folder)?;
    let (socket, is_wanted) = loaded.socket();
    let join_file = loaded.join_file().filter(|_| joined.is_none() && !only_check);
    if let Some(file) = join_file {
        joined = Some(join::from_file(&folder, file)?);
    }
    let config = loaded.config(joined.as_ref())?;
    if only_check {
        say("ok      the settings can be used");
        return Ok(ExitCode::SUCCESS);
    }
    let relay = config.relay.clone();
    let (udp, tcp, most) = (config.listen.len(), config.tcp.len(), config.turn.max_allocations);
    raise_files(u64::from(most));
    let server = Arc::new(Server::start(config).map_err(|error| failed(&error))?);
    let doors = Doors {
        udp: server.addresses().get(..udp).unwrap_or_default().to_vec(),
        tcp: server.stream_addresses().get(..tcp).unwrap_or_default().to_vec(),
        tls: server.stream_addresses().get(tcp..).unwrap_or_default().to_vec(),
    };
    say_where(&server, &doors, &relay);
    let keeper = match joined {
        None => None,
        Some(membership) => {
            let start = Start {
                membership,
                folder: folder.clone(),
                server: Arc::clone(&server),
                place: doors.place(&relay),
                max_allocations: most,
                tell: |line| say(line),
            };
            Some(Arc::new(Keeper::start(start).map_err(|error| unusable(&folder, &error))?))
        }
    };
    let _control = listen(&socket, is_wanted, most, &server, keeper)?;
    // SIGTERM and SIGINT end the program at once; otherwise whoever restarts it
    // mends what has ended the relay's thread.
    server.wait();
    Err(Failure::new("failed", "the relay's thread ended by itself", exit::BUG)
        .attempt("weft-relay, once more; and tell us what it said before"))
}

/// Where it listens.
struct Doors {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
}

impl Doors {
    /// Where clients find the relay: at the addresses that it relays from, as far as
    /// something listens there.
    fn place(&self, relay: &[RelayAddress]) -> RelayPlace {
        let any = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
        let all = || self.udp.iter().chain(&self.tcp).chain(&self.tls).map(SocketAddr::ip);
        let is_heard =
            |public: &IpAddr| all().any(|ip| ip == any || ip.is_ipv4() == public.is_ipv4());
        let mut place = RelayPlace::default();
        for public in relay.iter().map(|address| address.public).filter(is_heard) {
            match public {
                IpAddr::V4(ip) => place.v4 = Some(ip),
                IpAddr::V6(ip) => place.v6 = Some(ip),
            }
        }
        let mut ports: Vec<u16> = self.udp.iter().map(SocketAddr::port).collect();
        ports.dedup();
        for (to, port) in place.udp.iter_mut().zip(ports) {
            *to = port;
        }
        place.tcp = self.tcp.first().map_or(0, SocketAddr::port);
        place.tls = self.tls.first().map_or(0, SocketAddr::port);
        place
    }
}

fn say_where(server: &Server, doors: &Doors, relay: &[RelayAddress]) {
    for address in server.addresses() {
        say(format_args!("stun    {address}"));
    }
    doors.tcp.iter().for_each(|address| say(format_args!("tcp     {address}")));
    doors.tls.iter().for_each(|address| say(format_args!("tls     {address}")));
    for address in relay {
        say(format_args!("turn    relays from {}", address.public));
    }
    if let Some(address) = server.metrics() {
        say(format_args!("metrics http://{address}/metrics"));
    }
}

/// Hears commands of this machine. Where the usual place cannot be used and nobody
/// asked for it, the relay does without.
fn listen(
    path: &Path,
    is_wanted: bool,
    most: u32,
    server: &Arc<Server>,
    keeper: Option<Arc<Keeper>>,
) -> Result<Option<Control>, Failure> {
    let server = Arc::clone(server);
    let answer = move |ask| {
        if ask != Ask::Status {
            let draining = ask == Ask::Drain;
            match &keeper {
                Some(keeper) => keeper.drain(draining),
                None => server.drain(draining),
            }
        }
        document(&server, most, keeper.as_ref().map(|keeper| keeper.view())).to_string()
    };
    match Control::start(path, answer) {
        Ok(control) => Ok(Some(control)),
        Err(error) if !is_wanted => {
            say(format_args!("warning[relay.socket]: {} cannot be made: {error}", path.display()));
            say("  try:    weft-relay --socket PATH; status and drain need it");
            Ok(None)
        }
        Err(error) => {
            let taken = error.kind() == io::ErrorKind::AddrInUse;
            let status = if taken { exit::CONFLICT } else { exit::DENIED };
            let message = format!("the socket {} cannot be made", path.display());
            Err(Failure::new("socket", message, status)
                .cause(error)
                .attempt("weft-relay --socket PATH"))
        }
    }
}

/// What `status` shows.
fn document(server: &Server, most: u32, view: Option<View>) -> Value {
    let status = server.status();
    let coordinator = view.as_ref().map(|view| {
        json!({
            "name": view.name,
            "address": view.coordinator,
            "connected": view.is_connected,
            "heard_s": view.heard_s,
            "trouble": view.trouble,
            "known": !view.is_unknown,
            "denied": view.denied,
        })
    });
    let drains = |of: fn(&View) -> bool| view.as_ref().is_some_and(of);
    json!({
        "schema": "weft.relay-status/1",
        "version": env!("CARGO_PKG_VERSION"),
        "draining": status.is_draining,
        "drained_by": {
            "operator": drains(|view| view.operator_drains),
            "here": view.as_ref().map_or(status.is_draining, |view| view.local_drains),
            "unknown": drains(|view| view.is_unknown),
        },
        "listen": server.addresses(),
        "allocations": status.allocations,
        "max_allocations": most,
        "users": status.users,
        "connections": status.connections,
        "lost": status.lost,
        "coordinator": coordinator,
    })
}

fn unusable(folder: &Path, error: &io::Error) -> Failure {
    let message = format!("what is kept in {} cannot be used", folder.display());
    Failure::new("state", message, exit::WRONG)
        .cause(error)
        .attempt("weft-coordinator relay add NAME, and weft-relay join --again WEFT1…")
}

/// Every allocation is a descriptor, and the usual limit is far below the most
/// allocations.
fn raise_files(allocations: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    // Dual allocations have two, connections and listeners come on top.
    let wanted = 2 * allocations + 8_192;
    let most = limit.maximum.unwrap_or(wanted);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = Some(wanted.min(most));
    if setrlimit(Resource::Nofile, limit).is_err() || most < allocations {
        say(format_args!(
            "warning[relay.files]: {most} files may be open, {wanted} are needed for all allocations"
        ));
        say(format_args!(
            "  try:    LimitNOFILE={wanted} in the unit, or fewer [limits] allocations"
        ));
    }
}

fn failed(error: &StartError) -> Failure {
    let address = error.address.map(|address| format!(" {address}")).unwrap_or_default();
    let status = match error.cause.kind() {
        io::ErrorKind::AddrInUse => exit::CONFLICT,
        io::ErrorKind::PermissionDenied => exit::DENIED,
        _ => 1,
    };
    Failure::new("start", format!("cannot {}{address}", error.what), status)
        .cause(&error.cause)
        .attempt(attempt(error))
}

fn attempt(error: &StartError) -> String {
    let port = error.address.map_or(3_478, |address| address.port());
    match error.cause.kind() {
        io::ErrorKind::AddrInUse => format!("ss -lnp sport = :{port}"),
        io::ErrorKind::PermissionDenied => {
            format!("sudo setcap cap_net_bind_service=+ep weft-relay, or a port above {port}")
        }
        io::ErrorKind::AddrNotAvailable => "ip address, for the addresses that are here".to_owned(),
        _ => "weft-relay --listen 0.0.0.0:3478".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(udp: &[&str], relay: &[&str]) -> RelayPlace {
        let parse = |text: &&str| text.parse().unwrap();
        let doors = Doors {
            udp: udp.iter().map(parse).collect(),
            tcp: vec!["[::]:443".parse().unwrap()],
            tls: Vec::new(),
        };
        let doors =
            if udp.contains(&"0.0.0.0:1") { Doors { tcp: Vec::new(), ..doors } } else { doors };
        let of = |text: &&str| {
            let public = text.parse().unwrap();
            RelayAddress { bind: public, public }
        };
        doors.place(&relay.iter().map(of).collect::<Vec<_>>())
    }

    #[test]
    fn a_relay_is_where_it_listens_and_relays_from() {
        let both = place(&["[::]:3478", "[::]:443"], &["203.0.113.10", "2001:db8::10"]);
        assert_eq!(
            (both.v4, both.v6),
            (Some([203, 0, 113, 10].into()), Some("2001:db8::10".parse().unwrap()))
        );
        assert_eq!((both.udp, both.tcp, both.tls), ([3_478, 443], 443, 0));
        let v4 = place(&["0.0.0.0:1"], &["203.0.113.10", "2001:db8::10"]);
        assert_eq!((v4.v4.is_some(), v4.v6, v4.tcp), (true, None, 0));
        // The same port of two addresses is one port.
        let one = place(&["203.0.113.10:3478", "[2001:db8::10]:3478"], &["203.0.113.10"]);
        assert_eq!(one.udp, [3_478, 0]);
    }
}
