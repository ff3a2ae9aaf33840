//! `relay add`, `relay list`, `relay show`, `relay drain`, `relay remove`.

use core::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use zeroize::Zeroizing;

use crate::api;
use crate::failure::{Code, Failure, Label};

use super::client::segment;
use super::confirm::{Effect, confirm};
use super::format::{Column, NOTHING, age, count, grouped, millis, moment, print_table};
use super::keys::{Expiry, parse_expiry};
use super::remote::Context;
use super::ui;

const PATH: &str = "/api/v1/relays";

/// What to do with relays.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Let a relay join, and show its join string, once
    Add(Add),
    /// Show all relays
    List,
    /// Show one relay
    Show(Named),
    /// Take a relay out of devices' lists; who uses it may finish
    Drain(Drain),
    /// Remove a relay that joined, or may join
    Remove(Remove),
}

/// Flags of `relay add`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
On the relay's machine:  sudo weft-relay join WEFT1…
Devices with a tag region=REGION try the relays of their region first.")]
pub(crate) struct Add {
    /// Its name
    name: String,
    /// Where it stands
    #[arg(long, value_name = "REGION", default_value = "")]
    region: String,
    /// When its join string ends, like 7d, or "never"
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse_expiry)]
    expires: Expiry,
}

/// Which relay.
#[derive(Debug, ClapArgs)]
pub(crate) struct Named {
    /// Its name
    relay: String,
}

/// Flags of `relay drain`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Drain {
    /// Its name
    relay: String,
    /// Let it take new clients again
    #[arg(long)]
    off: bool,
}

/// Flags of `relay remove`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Remove {
    /// Its name
    relay: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(context: &Context<'_>, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Add(add) => self::add(context, add).await,
        Command::List => list(context).await,
        Command::Show(named) => show(context, &named.relay).await,
        Command::Drain(drain) => self::drain(context, drain).await,
        Command::Remove(remove) => self::remove(context, remove).await,
    }
}

async fn add(context: &Context<'_>, add: &Add) -> Result<u8, Failure> {
    let new = api::NewRelay {
        name: add.name.clone(),
        region: add.region.clone(),
        expires_after_s: add.expires.0.map(|span| span.as_secs()),
    };
    let mut added: api::AddedRelay = context.client.post(PATH, &new).await?;
    let name = added.relay.name.clone();
    if context.json {
        ui::json_once("weft.relay-added/1", &added).map_err(|error| unseen(&name, &error))?;
        return Ok(0);
    }
    let join = Zeroizing::new(core::mem::take(&mut added.join_string));
    if context.quiet {
        ui::out_once(&join).map_err(|error| unseen(&name, &error))?;
        return Ok(0);
    }
    let until = added.relay.join_expires_at.as_deref();
    let until =
        until.map_or_else(|| "without end".to_owned(), |at| format!("until {}", moment(at)));
    ui::out(format!("relay \"{name}\"  one relay may join, {until}"));
    ui::note("treat the next line like a password: it is shown once and stored nowhere");
    ui::out("");
    ui::out_once(&join).map_err(|error| unseen(&name, &error))?;
    ui::out("");
    ui::note("on its machine:  sudo weft-relay join WEFT1…");
    Ok(0)
}

/// The join string reached nobody.
fn unseen(name: &str, error: &std::io::Error) -> Failure {
    let message =
        format!("standard output takes no join string; relay \"{name}\" was made and cannot join");
    Failure::new(Code::OutputLost, message)
        .with(Label::Cause, error.to_string())
        .attempt(format!("weft-coordinator relay remove {name} --yes"))
}

async fn list(context: &Context<'_>) -> Result<u8, Failure> {
    let page: api::Page<api::Relay> = context.client.get(PATH).await?;
    if context.json {
        ui::json("weft.relays/1", &page);
        return Ok(0);
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "REGION", rank: 2 },
        Column { head: "STATE", rank: 0 },
        Column { head: "CLIENTS", rank: 1 },
        Column { head: "ADDRESS", rank: 1 },
        Column { head: "VERSION", rank: 3 },
    ];
    let rows: Vec<_> = page.items.iter().map(|relay| row(relay, context.now)).collect();
    print_table(&columns, &rows);
    if page.items.is_empty() && !context.quiet {
        ui::note("there is no relay; let one join:  weft-coordinator relay add NAME");
    }
    Ok(0)
}

fn row(relay: &api::Relay, now: u64) -> Vec<String> {
    let or_nothing = |text: &str| if text.is_empty() { NOTHING } else { text }.to_owned();
    let clients =
        relay.allocations.map_or_else(|| NOTHING.to_owned(), |many| allocations(many.into()));
    vec![
        relay.name.clone(),
        or_nothing(&relay.region),
        state(relay, now),
        clients,
        or_nothing(&relay.addresses.join(" ")),
        or_nothing(relay.version.as_deref().unwrap_or_default()),
    ]
}

fn allocations(many: u64) -> String {
    match many {
        0 => "no allocations".to_owned(),
        1 => "1 allocation".to_owned(),
        many => format!("{} allocations", grouped(many)),
    }
}

/// `healthy 3 s ago`, `silent, last 2 min ago`, `draining`, `waits for its relay`.
fn state(relay: &api::Relay, now: u64) -> String {
    let answered = relay.answered_at.as_deref().and_then(millis).map(|at| age(now, at));
    match (relay.state.as_str(), answered) {
        ("healthy", Some(age)) => format!("healthy {age}"),
        ("silent", Some(age)) => format!("silent, last {age}"),
        ("waiting", _) => "waits for its relay".to_owned(),
        ("inside", _) => "in the coordinator".to_owned(),
        (word, _) => word.to_owned(),
    }
}

async fn show(context: &Context<'_>, name: &str) -> Result<u8, Failure> {
    let relay: api::Relay = context.client.get(&format!("{PATH}/{}", segment(name))).await?;
    if context.json {
        ui::json("weft.relay/1", &relay);
    } else {
        lines(&relay, context.now).iter().for_each(ui::out);
    }
    Ok(0)
}

fn lines(relay: &api::Relay, now: u64) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", relay.name, state(relay, now))];
    let mut line = |label: &str, text: String| lines.push(format!("{label:10} {text}"));
    let ago = |at: &Option<String>| at.as_deref().and_then(millis).map(|at| age(now, at));
    if !relay.region.is_empty() {
        line("region", relay.region.clone());
    }
    line("devices", if relay.told { "are told of it" } else { "are not told of it" }.to_owned());
    if !relay.addresses.is_empty() {
        line("address", relay.addresses.join("  "));
        let udp = relay.udp.iter().map(|port| format!("{port}/udp"));
        let tcp = relay.tcp.iter().map(|port| format!("{port}/tcp"));
        let tls = relay.tls.iter().map(|port| format!("{port}/tls"));
        line("ports", udp.chain(tcp).chain(tls).collect::<Vec<_>>().join("  "));
    }
    if let Some(seen) = &relay.seen_from
        && !relay.addresses.contains(seen)
    {
        line("comes from", format!("{seen}, which is not among its addresses"));
    }
    if let Some(checked) = ago(&relay.checked_at) {
        let answer = match (ago(&relay.answered_at), relay.rtt_us) {
            (Some(answered), Some(rtt)) => {
                let rtt = super::format::span(Duration::from_micros(rtt));
                format!("answered {answered} after {rtt}, asked {checked}")
            }
            _ => format!("no answer yet, asked {checked}"),
        };
        line("checked", answer);
    }
    if let (Some(many), Some(users)) = (relay.allocations, relay.users) {
        let most = relay.max_allocations.map(|most| grouped(most.into())).unwrap_or_default();
        let users = count(usize::try_from(users).unwrap_or(usize::MAX), "user");
        let reported = ago(&relay.reported_at).unwrap_or_else(|| NOTHING.to_owned());
        line(
            "load",
            format!("{} of {most}, {users}, reported {reported}", allocations(many.into())),
        );
    }
    if relay.kind == "registered" && relay.joined_at.is_some() {
        let held = if relay.connected { "open" } else { "none: it hears of no decision" };
        line("session", held.to_owned());
    }
    if let Some(version) = &relay.version {
        line("version", version.clone());
    }
    match (&relay.joined_at, &relay.join_expires_at) {
        (Some(at), _) => line("joined", moment(at)),
        (None, Some(until)) => line("join until", moment(until)),
        (None, None) => {}
    }
    lines
}

async fn drain(context: &Context<'_>, drain: &Drain) -> Result<u8, Failure> {
    let path = format!("{PATH}/{}/drain", segment(&drain.relay));
    let wanted = api::DrainRelay { draining: !drain.off };
    let relay: api::Relay = context.client.post(&path, &wanted).await?;
    if context.json {
        ui::json("weft.relay/1", &relay);
    } else if drain.off {
        ui::out(format!("{} takes new clients again", relay.name));
    } else {
        ui::out(format!("{} drains: devices are told of it no more", relay.name));
        if let Some(many) = relay.allocations.filter(|many| *many > 0 && !context.quiet) {
            ui::note(format!("it has {} still", allocations(many.into())));
        }
    }
    Ok(0)
}

async fn remove(context: &Context<'_>, remove: &Remove) -> Result<u8, Failure> {
    let path = format!("{PATH}/{}", segment(&remove.relay));
    let found: api::Relay = context.client.get(&path).await?;
    let using = found.allocations.filter(|many| *many > 0);
    let using = using.map_or_else(String::new, |many| {
        format!("; its {} go on until their devices move", allocations(many.into()))
    });
    let sentence = format!("removes relay \"{}\"{using}", found.name);
    confirm(&Effect { sentence, undo: None, name: &found.name }, remove.yes)?;
    let removed: api::Relay = context.client.delete(&path, None).await?;
    if context.json {
        ui::json("weft.relay/1", &removed);
    } else {
        ui::out(format!("removed relay \"{}\"", removed.name));
    }
    Ok(0)
}

/// Names for the shell, while somebody presses Tab.
pub(super) async fn names(context: &Context<'_>) -> Option<Vec<String>> {
    let page: api::Page<api::Relay> = context.client.get(PATH).await.ok()?;
    Some(page.items.into_iter().map(|relay| relay.name).collect())
}
