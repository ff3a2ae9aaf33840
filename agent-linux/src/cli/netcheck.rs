//! `weft netcheck`: what this network does to UDP, and how relays are reached.
//! With a daemon its map says whom to ask, else the cached map, else where the
//! coordinator is.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::Args;
use weft_wire::item::{Item, Items};
use weft_wire::map::Servers;
use weft_wire::relay::{RelayNames, Relays};

use crate::cli::{Context, peer};
use crate::daemon::view;
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, unexpected};
use crate::ipc::protocol::{Answer, Request};
use crate::net::host;
use crate::netcheck::document::{Here, document};
use crate::netcheck::{self, Known, LIVES_S, Plan};
use crate::output::{paint, style};
use crate::store::folder::Folder;
use crate::store::{cache, identity};

/// STUN's own port.
const STUN_PORT: u16 = 3_478;

#[derive(Args)]
pub(super) struct Arguments {
    /// Ask this STUN server and no other; may be given more than once
    #[arg(long, value_name = "HOST[:PORT]")]
    server: Vec<String>,
    /// Measure how long a binding lives, by default at 15, 30, 60, 120 and 180 s;
    /// takes as long as the longest
    #[arg(
        long,
        value_name = "SECONDS,…",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "15,30,60,120,180",
        value_delimiter = ','
    )]
    lifetime: Vec<u16>,
    /// Bytes cost money here: ask only whether and how UDP works
    #[arg(long)]
    pub(super) metered: bool,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    netcheck::check_lives(&arguments.lifetime).map_err(|possible| {
        let given: Vec<String> = arguments.lifetime.iter().map(ToString::to_string).collect();
        Failure::new(Code::CliUsage, format!("--lifetime={}; {possible}", given.join(",")))
    })?;
    let known = known(context, arguments)?;
    let metered = context.config.metered;
    let plan = Plan { known, lives_s: arguments.lifetime.clone(), metered };
    if let Some(longest) = plan.lives_s.last() {
        let words = format!("measuring for {longest} s … Ctrl-C stops it");
        context.ui.note(&paint(style::DIM, words));
    }
    let report = netcheck::run(&plan)?;
    let interface = host::way_out(&context.config.interface);
    let here = Here { metered, interface, lives: !plan.lives_s.is_empty() };
    if context.ui.json {
        context.ui.document(&document(&report, &here));
    } else {
        for line in netcheck::describe(&report, &here, context.ui.symbols) {
            context.ui.answer(&line);
        }
    }
    let reached = report.relays.iter().any(|relay| relay.answered().is_some());
    Ok(u8::from(!report.udp() && !reached))
}

fn known(context: &Context, arguments: &Arguments) -> Result<Known> {
    if !arguments.server.is_empty() {
        let servers = arguments.server.iter().map(|text| named(text));
        let servers = servers.collect::<Result<Vec<_>>>()?.concat();
        return Ok(Known { servers, ..Known::default() });
    }
    let failure = match peer::connect(&context.config, "netcheck") {
        Ok(client) => return of_daemon(client),
        Err(failure) if failure.is(Code::CliNoDaemon) => failure,
        Err(failure) => return Err(failure),
    };
    let folder = Folder::new(&context.config.state);
    if !peer::has_identity(&folder, "netcheck")? {
        return Err(Failure::new(
            Code::NetcheckNobody,
            "this machine is in no network, so it knows no server to ask",
        )
        .try_command("weft netcheck --server HOST[:PORT]"));
    }
    let known = of_cache(&folder);
    if known == Known::default() { of_identity(&folder, failure) } else { Ok(known) }
}

fn of_daemon(mut client: Client) -> Result<Known> {
    match client.ask(Request::Servers)? {
        Answer::Servers(known) => Ok(known),
        _ => Err(unexpected()),
    }
}

/// What the daemon's last run wrote down. A cache that cannot be read is one that
/// is not there: something else knows enough.
fn of_cache(folder: &Folder) -> Known {
    let mut known = Known::default();
    let Ok(Some(bytes)) = cache::read(folder) else { return known };
    let mut names = heapless::Vec::new();
    for item in Items::new(&bytes).flatten() {
        if item.tag == Servers::TAG
            && let Ok(servers) = item.decode::<Servers>()
        {
            known.servers = servers.stun.to_vec();
        } else if item.tag == Relays::TAG
            && let Ok(relays) = item.decode::<Relays>()
        {
            known.relays =
                relays.relays.iter().map(|relay| view::relay(relay, None, None, None)).collect();
        } else if item.tag == RelayNames::TAG
            && let Ok(told) = item.decode::<RelayNames>()
        {
            names = told.names;
        }
    }
    for relay in &mut known.relays {
        let named = names.iter().find(|named| named.relay == relay.number);
        relay.name = named.map(|named| named.name.as_str().to_owned());
    }
    known
}

/// The coordinator answers at the same port by UDP.
fn of_identity(folder: &Folder, no_daemon: Failure) -> Result<Known> {
    let Ok((_, home)) = identity::read(folder) else { return Err(no_daemon) };
    let mut servers = Vec::new();
    for way in home.ways() {
        servers.extend(named(&way.authority)?);
    }
    Ok(Known { servers, ..Known::default() })
}

fn named(text: &str) -> Result<Vec<SocketAddr>> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse() {
        return Ok(vec![SocketAddr::new(ip, STUN_PORT)]);
    }
    let with_port =
        if text.contains(':') { text.to_owned() } else { format!("{text}:{STUN_PORT}") };
    let failure = |cause: String| {
        Failure::new(Code::NetcheckServer, format!("the server {text} cannot be asked"))
            .cause(cause)
            .try_command("weft netcheck --server 203.0.113.10:3478")
    };
    let found = with_port.to_socket_addrs().map_err(|error| failure(error.to_string()))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.dedup();
    if found.is_empty() { Err(failure("the name has no address".to_owned())) } else { Ok(found) }
}

const _: () = assert!(LIVES_S.len() == 5, "as the help says");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_port_or_stuns() {
        for (text, expected) in [
            ("203.0.113.10", "203.0.113.10:3478"),
            ("203.0.113.10:7420", "203.0.113.10:7420"),
            ("2001:db8::1", "[2001:db8::1]:3478"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:19302", "[2001:db8::1]:19302"),
        ] {
            assert_eq!(named(text).unwrap(), [expected.parse().unwrap()], "{text}");
        }
        assert_eq!(named("203.0.113.10:99999").unwrap_err().code(), "netcheck.server");
    }
}
