//! `key create`, `key list`, `key revoke`.

use core::time::Duration;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use zeroize::Zeroizing;

use crate::api;
use crate::failure::{Code, Failure, Label};

use super::client::segment;
use super::confirm::{Effect, confirm};
use super::format::{Column, NOTHING, count, millis, moment, print_table, span};
use super::remote::Context;
use super::{parse_span, qr, ui};

const PATH: &str = "/api/v1/enrollment-keys";

/// What to do with enrolment keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key and show its join string, once
    Create(Create),
    /// Show all keys
    List,
    /// End a key
    Revoke(Revoke),
}

/// Flags of `key create`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Create {
    /// Its name
    #[arg(long)]
    name: Option<String>,
    /// Its network
    #[arg(long)]
    network: Option<String>,
    /// How many devices it lets in, or "unlimited"
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_uses)]
    uses: Uses,
    /// When it ends, like 7d, or "never"
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = parse_expiry)]
    expires: Expiry,
    /// A tag for its devices; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// Each device waits until an operator says yes
    #[arg(long)]
    needs_approval: bool,
    /// Write the QR code to a file
    #[arg(long, value_name = "FILE")]
    qr_svg: Option<PathBuf>,
}

/// Flags of `key revoke`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Revoke {
    /// Its name or id
    key: String,
    /// Block its devices too
    #[arg(long)]
    and_devices: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug)]
struct Uses(Option<u32>);

fn parse_uses(text: &str) -> Result<Uses, String> {
    if text == "unlimited" {
        return Ok(Uses(None));
    }
    let uses = text.parse::<u32>().ok().filter(|uses| *uses > 0);
    uses.map(|uses| Uses(Some(uses)))
        .ok_or_else(|| "write a number from 1, or \"unlimited\"".to_owned())
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(pub(super) Option<Duration>);

pub(super) fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry(None));
    }
    parse_span(text).map(|span| Expiry(Some(span)))
}

pub(super) async fn run(context: &Context<'_>, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Create(create) => self::create(context, create).await,
        Command::List => list(context).await,
        Command::Revoke(revoke) => self::revoke(context, revoke).await,
    }
}

async fn create(context: &Context<'_>, create: &Create) -> Result<u8, Failure> {
    let new = api::NewKey {
        name: create.name.clone(),
        network: create.network.clone(),
        max_uses: create.uses.0,
        expires_after_s: create.expires.0.map(|span| span.as_secs()),
        tags: create.tags.clone(),
        needs_approval: create.needs_approval,
    };
    let svg = create.qr_svg.as_deref().map(SvgFile::new).transpose()?;
    let mut created: api::CreatedKey = context.client.post(PATH, &new).await?;
    if context.json {
        ui::json_once("weft.key/1", &created).map_err(|error| unseen(&created.key, &error))?;
    }
    let join = Zeroizing::new(core::mem::take(&mut created.join_string));
    if !context.json {
        show(context, &created.key, &join)?;
    }
    // Last: whatever becomes of the file, the string was shown.
    svg.map_or(Ok(()), |file| file.fill(&join))?;
    Ok(0)
}

fn show(context: &Context<'_>, key: &api::EnrolmentKey, join: &str) -> Result<(), Failure> {
    if context.quiet {
        return ui::out_once(join).map_err(|error| unseen(key, &error));
    }
    ui::out(describe(key));
    ui::note("treat the next line like a password: it is shown once and stored nowhere");
    ui::out("");
    ui::out_once(join).map_err(|error| unseen(key, &error))?;
    ui::out("");
    let picture =
        ui::terminal().filter(|_| ui::has_colour()).and_then(|size| qr::terminal(join, size));
    match picture {
        Some(picture) => ui::out_raw(&picture),
        None if ui::terminal().is_some() => {
            ui::note("as a QR code:  weft-coordinator key create --qr-svg FILE");
        }
        None => {}
    }
    ui::note("on a device:   sudo weft join WEFT1…");
    Ok(())
}

/// The join string reached nobody.
fn unseen(key: &api::EnrolmentKey, error: &std::io::Error) -> Failure {
    let message = format!(
        "standard output takes no join string; key \"{}\" was made and nobody can use it",
        key.name
    );
    Failure::new(Code::OutputLost, message)
        .with(Label::Cause, error.to_string())
        .attempt(format!("weft-coordinator key revoke {} --yes", key.id))
}

/// The file for the QR code, made before the key is: it holds the key's secret,
/// so it is a new one, its owner's alone.
struct SvgFile<'a> {
    path: &'a Path,
    file: std::fs::File,
}

impl<'a> SvgFile<'a> {
    fn new(path: &'a Path) -> Result<Self, Failure> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let opened =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|error| {
            let message = format!("cannot make {}; no key was made", path.display());
            Failure::new(Code::OutputFile, message).with(Label::Cause, error.to_string())
        })?;
        Ok(Self { path, file })
    }

    fn fill(mut self, join: &str) -> Result<(), Failure> {
        use std::io::Write as _;
        let too_long =
            || Failure::new(Code::InternalFault, "the join string does not fit a QR code");
        let picture = Zeroizing::new(qr::svg(join).ok_or_else(too_long)?);
        self.file.write_all(picture.as_bytes()).map_err(|error| {
            let path = self.path.display();
            let message = format!("cannot write {path}; the join string above is good");
            Failure::new(Code::OutputFile, message).with(Label::Cause, error.to_string())
        })
    }
}

/// `key "lab"  key_mfrggzdf2kqw  10 uses, until 2026-11-30 16:00 +00:00, site=bench`
fn describe(key: &api::EnrolmentKey) -> String {
    let uses = key.max_uses.map_or_else(
        || "any number of uses".to_owned(),
        |uses| count(usize::try_from(uses).unwrap_or(usize::MAX), "use"),
    );
    let until = key
        .expires_at
        .as_deref()
        .map_or_else(|| "without end".to_owned(), |at| format!("until {}", moment(at)));
    let mut facts = vec![uses, until];
    facts.extend(key.tags.iter().cloned());
    if key.needs_approval {
        facts.push("each device needs approval".to_owned());
    }
    format!("key \"{}\"  {}  {}", key.name, key.id, facts.join(", "))
}

async fn list(context: &Context<'_>) -> Result<u8, Failure> {
    let page: api::Page<api::EnrolmentKey> = context.client.get(PATH).await?;
    if context.json {
        ui::json("weft.keys/1", &page);
        return Ok(0);
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "ID", rank: 3 },
        Column { head: "USES", rank: 0 },
        Column { head: "EXPIRES", rank: 1 },
        Column { head: "TAGS", rank: 2 },
        Column { head: "STATE", rank: 0 },
    ];
    let rows: Vec<_> = page.items.iter().map(|key| row(key, context.now)).collect();
    print_table(&columns, &rows);
    Ok(0)
}

fn row(key: &api::EnrolmentKey, now: u64) -> Vec<String> {
    let most = key.max_uses.map_or_else(|| NOTHING.to_owned(), |uses| uses.to_string());
    let expires = key.expires_at.as_deref().and_then(millis).map_or_else(
        || NOTHING.to_owned(),
        |at| match at.checked_sub(now) {
            Some(left) => format!("in {}", span(Duration::from_millis(left))),
            None => format!("{} ago", span(Duration::from_millis(now - at))),
        },
    );
    let tags = if key.tags.is_empty() { NOTHING.to_owned() } else { key.tags.join(" ") };
    let asks = if key.needs_approval { " (asks)" } else { "" };
    let state = format!("{}{asks}", key.state.replace('_', " "));
    vec![key.name.clone(), key.id.clone(), format!("{} of {most}", key.uses), expires, tags, state]
}

/// The keys that a machine may come back with whose device is put out: with new
/// keys of its own it is a new device. Nothing if no key lets anybody in unseen.
pub(super) async fn still_open(
    context: &Context<'_>,
    device: &api::Device,
) -> Result<Vec<String>, Failure> {
    if context.quiet {
        return Ok(Vec::new());
    }
    let page: api::Page<api::EnrolmentKey> = context.client.get(PATH).await?;
    Ok(doors(&page.items, device.enrolled_by.as_ref().map(|key| &*key.id)))
}

/// Two lines for whoever put a device out.
fn doors(keys: &[api::EnrolmentKey], own: Option<&str>) -> Vec<String> {
    let mut open: Vec<_> =
        keys.iter().filter(|key| key.state == "active" && !key.needs_approval).collect();
    // The one that it came with is the one that it may hold most likely.
    open.sort_by_key(|key| own != Some(&key.id));
    let Some(first) = open.first() else { return Vec::new() };
    let names: Vec<_> = open.iter().map(|key| format!("\"{}\"", key.name)).collect();
    let named = match names.as_slice() {
        [] | [_] | [_, _] | [_, _, _] => names.join(" or "),
        [a, b, rest @ ..] => format!("{a}, {b} or {} others", rest.len()),
    };
    vec![
        format!("its machine comes back as a new device if it holds a join string of {named}"),
        format!("end a key:  weft-coordinator key revoke {}", first.name),
    ]
}

async fn revoke(context: &Context<'_>, revoke: &Revoke) -> Result<u8, Failure> {
    let path = format!("{PATH}/{}/revoke", segment(&revoke.key));
    let dry_run = api::RevokeKey { dry_run: true, ..api::RevokeKey::default() };
    let found: api::RevokedKey = context.client.post(&path, &dry_run).await?;
    let name = found.key.name;
    let devices = count(found.devices, "device");
    let sentence = match (revoke.and_devices, found.devices) {
        (_, 0) => format!("revokes \"{name}\"; no device of it is left"),
        (true, _) => format!("revokes \"{name}\" and blocks its {devices}"),
        (false, _) => {
            format!("revokes \"{name}\"; its {devices} stay. To block them too: --and-devices")
        }
    };
    confirm(&Effect { sentence, undo: None, name: &name }, revoke.yes)?;
    // By id, so that it is the key that was shown.
    let path = format!("{PATH}/{}/revoke", segment(&found.key.id));
    let wanted = api::RevokeKey { and_devices: revoke.and_devices, dry_run: false };
    let revoked: api::RevokedKey = context.client.post(&path, &wanted).await?;
    if context.json {
        ui::json("weft.key-revoked/1", &revoked);
    } else if revoke.and_devices {
        ui::out(format!("revoked \"{name}\", blocked {}", count(revoked.devices, "device")));
    } else {
        ui::out(format!("revoked \"{name}\""));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, state: &str, needs_approval: bool) -> api::EnrolmentKey {
        api::EnrolmentKey {
            id: format!("key_{name}"),
            name: name.to_owned(),
            uses: 1,
            max_uses: None,
            expires_at: None,
            tags: Vec::new(),
            needs_approval,
            state: state.to_owned(),
            created_at: String::new(),
        }
    }

    #[test]
    fn keys_that_let_a_machine_back_in_are_named() {
        let closed =
            [key("a", "revoked", false), key("b", "used_up", false), key("c", "active", true)];
        assert_eq!(doors(&closed, Some("key_a")), [""; 0]);
        let keys = ["lab", "demo"].map(|name| key(name, "active", false));
        assert_eq!(
            doors(&keys, Some("key_demo")),
            [
                "its machine comes back as a new device if it holds a join string of \
                 \"demo\" or \"lab\"",
                "end a key:  weft-coordinator key revoke demo"
            ]
        );
        let many: Vec<_> = (0..5).map(|n| key(&format!("k{n}"), "active", false)).collect();
        let [first, second] = doors(&many, None).try_into().unwrap();
        assert!(first.ends_with("of \"k0\", \"k1\" or 3 others"), "{first}");
        assert!(second.ends_with(" k0"), "{second}");
    }
}
