//! `weft join`: keys, daemon, enrolment, first peer.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use weft_agent_core::control::Identity;
use weft_noise::key::StaticSecret;
use weft_noise::mac;
use weft_wire::id::is_name;
use weft_wire::join::{JoinString, MAX_TEXT, shortened};
use zeroize::Zeroizing;

use crate::cli::story::{Keys, Story};
use crate::cli::{Context, down, peer, start, typo};
use crate::daemon::{self, Mode, texts};
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::Client;
use crate::ipc::protocol::{Request, Status};
use crate::net::tun;
use crate::os::signal::Signals;
use crate::os::{clock, entropy, privilege, process};
use crate::output::{Settings, Ui, units};
use crate::store::folder::{Folder, Lock};
use crate::store::identity::{self, Home};
use crate::store::{self, stamp};

#[derive(Args)]
#[group(id = "source", required = true, multiple = false)]
struct Source {
    /// The line that weft-coordinator key create printed; - reads it from standard input
    #[arg(value_name = "STRING")]
    string: Option<String>,
    /// Read it from a file
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Name in the network [default: the host's]
    #[arg(long)]
    name: Option<String>,
    /// Name of the mesh interface [default: weft0]
    #[arg(long, value_name = "NAME")]
    pub(super) interface: Option<String>,
    /// Bytes per day for all but payload, where they cost money, as 1MB
    #[arg(long, value_name = "SIZE")]
    pub(super) data_budget: Option<String>,
    /// Bytes of this uplink cost money: send nothing that only might help
    #[arg(long)]
    pub(super) metered: bool,
    /// Be the daemon, here (containers)
    #[arg(long)]
    foreground: bool,
    /// Do not wait for an operator's approval, nor for the first peer
    #[arg(long)]
    no_wait: bool,
    /// Leave the network that this machine is in first, without telling it
    #[arg(long)]
    replace: bool,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let started_us = clock::boot_micros();
    let join = read_source(&arguments.source)?;
    let name = wanted_name(arguments.name.as_deref())?;
    check_rights()?;
    let was_there = context.config.state.exists();
    let joining = lock_joining(&Folder::new(&context.config.state))?;
    let drawn = make_room(context, arguments.replace)
        .and_then(|(_lock, unfinished)| write_identity(context, &join, &name, unfinished));
    if drawn.is_err() && !was_there {
        // Only an empty folder goes; one with files is found by the next join.
        drop(std::fs::remove_dir(&context.config.state));
    }
    let fingerprint = drawn?;
    let keys_us = clock::boot_micros().saturating_sub(started_us);
    let story = Story {
        socket: context.config.socket.clone(),
        started_us,
        keys_us,
        fingerprint,
        no_wait: arguments.no_wait,
    };
    if arguments.foreground {
        return foreground(context, story, joining).map_err(|failure| about(failure, &join));
    }
    let (started, kept) = match start::start(context, true) {
        Ok(keeper) => (true, story.tell(&mut context.ui, Some(keeper))),
        Err(failure) => (false, Err(failure)),
    };
    undo_on_failure(context, started, kept).map_err(|failure| about(failure, &join))
}

/// Says which join string a failure is about, where that is the question.
fn about(failure: Failure, join: &JoinString) -> Failure {
    let code = failure.code();
    if !(code.starts_with("join.key-") || code == Code::JoinWrongCoordinator.text()) {
        return failure;
    }
    let mut text = Zeroizing::new([0; MAX_TEXT]);
    let shown = match join.emit(&mut text) {
        Ok(len) => shortened(&String::from_utf8_lossy(&text[..len])).to_string(),
        Err(_) => return failure,
    };
    failure.found_in(format!("the join string {shown}"))
}

/// A failed join leaves nothing: neither a daemon nor keys that nobody knows.
/// What has become a member meanwhile stays one, and that is said. A daemon that
/// `started` and is gone may have been taken in without having heard of it: its
/// keys stay, and the next join goes on with them.
fn undo_on_failure(context: &mut Context, started: bool, result: Result<bool>) -> Result<u8> {
    let Err(failure) = result else {
        return Ok(0);
    };
    let socket = &context.config.socket;
    let abandoned =
        Client::connect(socket, "join").and_then(|mut client| client.ask(Request::Abandon));
    if abandoned.is_err() && !started {
        erase_unless_member(&Folder::new(&context.config.state));
    }
    // A daemon that is still there has not ended: it is a member's.
    let status = Client::connect(socket, "join").and_then(|mut client| client.status());
    match status.ok().and_then(|status| status.device) {
        Some(device) if failure.is(Code::CliInterrupted) => Err(interrupted_as(&device.name)),
        Some(_) => Err(failure),
        None => {
            start::disable(context);
            Err(failure)
        }
    }
}

/// Ctrl-C, once this machine was taken in.
fn interrupted_as(name: &str) -> Failure {
    let message = format!("stopped; this machine is {name}, undo: weft leave");
    Failure::new(Code::CliInterrupted, message)
}

fn erase_unless_member(folder: &Folder) {
    let Ok(Some(_lock)) = folder.lock() else {
        // Somebody's daemon still works there.
        return;
    };
    let member = identity::read(folder).is_ok_and(|(identity, _)| identity.member().is_some());
    if !member {
        // What could not be erased is found by the next join, which says so.
        drop(store::erase(&mut folder.clone()));
    }
}

/// The daemon on this thread, the story on another.
fn foreground(context: &mut Context, story: Story, joining: Lock) -> Result<u8> {
    let json = context.ui.json;
    // Before any thread: none may take a signal that is meant for the loop.
    drop(Signals::block().map_err(Failure::internal)?);
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let teller = std::thread::Builder::new().name("story".to_owned()).spawn(move || {
        let mut ui = Ui::new(&Settings { json, ..Settings::default() });
        // The sender is dropped when the daemon could not start: it says why.
        if started.recv().is_err() {
            return Ok(true);
        }
        let told = story.tell(&mut ui, None);
        // The join is over; the daemon that goes on has a lock of its own.
        drop(joining);
        if told.is_err()
            && let Ok(mut client) = Client::connect(&story.socket, "join")
        {
            // The daemon ends by this, and the failure is shown afterwards.
            drop(client.ask(Request::Abandon));
        }
        told
    });
    let teller = teller.map_err(Failure::internal)?;
    let ran = daemon::run(&context.config, Mode::Joining(ready), None);
    let told = teller.join().map_err(|_| Failure::internal("the story ended early"))?;
    erase_unless_member(&Folder::new(&context.config.state));
    match (ran, told) {
        (Err(failure), _) => Err(failure),
        // The daemon was stopped while the story still waited.
        (Ok(ended), Err(failure)) if failure.is(Code::CliNoDaemon) => Ok(ended.exit()),
        (Ok(_), Err(failure)) => Err(failure),
        (Ok(ended), Ok(_)) => Ok(ended.exit()),
    }
}

fn read_source(source: &Source) -> Result<JoinString> {
    let text = match (&source.file, source.string.as_deref()) {
        (Some(path), _) => read_file(path)?,
        (None, Some("-") | None) => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().lock().take(64 * 1024).read_to_string(&mut text).map_err(|error| {
                Failure::new(Code::JoinRead, "standard input cannot be read").cause(error)
            })?;
            text
        }
        (None, Some(text)) => Zeroizing::new(text.to_owned()),
    };
    typo::read(&text)
}

fn read_file(path: &Path) -> Result<Zeroizing<String>> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| {
        let message = format!("{} cannot be read", path.display());
        Failure::new(Code::JoinRead, message).cause(error)
    })
}

fn wanted_name(asked: Option<&str>) -> Result<String> {
    match asked {
        Some(name) if is_name(name) => Ok(name.to_owned()),
        Some(name) => Err(Failure::new(
            Code::JoinName,
            format!("--name \"{name}\" is not possible: 1 to 32 of a-z, 0-9 and '-' are"),
        )),
        None => Ok(label(&process::host_name())),
    }
}

/// A host's name as a label: `GW-A.example.net` is `gw-a`.
fn label(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let usual = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label: String = first.chars().map(usual).take(32).collect();
    let label = label.trim_matches('-');
    if is_name(label) { label.to_owned() } else { "device".to_owned() }
}

fn check_rights() -> Result<()> {
    if !privilege::has_net_admin() {
        let uid = privilege::uid();
        if uid == 0 {
            return Err(texts::no_net_admin());
        }
        let message = format!("joining makes a network interface and needs root (uid is {uid})");
        return Err(Failure::new(Code::JoinNeedsRoot, message).try_command("sudo weft join …"));
    }
    if !Path::new(tun::DEVICE).exists() {
        return Err(texts::no_tun().with_code(Code::JoinNoTun));
    }
    Ok(())
}

/// One join at a time: two would write their keys over each other's.
fn lock_joining(folder: &Folder) -> Result<Lock> {
    let locked = folder.create().and_then(|()| folder.lock_joining());
    let locked = locked.map_err(|error| texts::state_write(folder, &error))?;
    locked.ok_or_else(|| texts::state_busy(folder, "another weft join"))
}

/// Makes sure that no other membership is overwritten, and no daemon stopped
/// that runs for another one. Then the folder is ours until the lock goes.
fn make_room(context: &Context, replace: bool) -> Result<(Lock, Option<Unfinished>)> {
    let folder = Folder::new(&context.config.state);
    let client = Client::connect(&context.config.socket, "join");
    let exists = peer::has_identity(&folder, "join …")?;
    if !exists && client.is_err() {
        return Ok((texts::lock_state(&folder, "join …")?, None));
    }
    let present = if exists {
        match identity::read(&folder) {
            Ok((identity, home)) => identity.member().map(|member| {
                let since = units::rfc3339(home.since_ms);
                let day = since.split('T').next().unwrap_or_default().to_owned();
                (member.name.to_string(), member.network_name.to_string(), day)
            }),
            Err(_) if replace => None,
            Err(error) => return Err(texts::identity(&folder, error)),
        }
    } else {
        None
    };
    if let Some((name, network, day)) = present
        && !replace
    {
        let message = format!("this machine is {name} in network {network} since {day}");
        return Err(Failure::new(Code::JoinAlready, message)
            .try_command("weft leave")
            .try_command("weft join --replace …"));
    }
    if let Ok(mut client) = client {
        let stopped = client.status().and_then(|status| {
            if !replace {
                check_daemon(&status, exists, &context.config.socket)?;
            }
            client.end(Request::Down, down::PATIENCE)
        });
        match stopped {
            // One that was just ending; one that hangs still has its lock.
            Err(failure) if !failure.is(Code::CliNoDaemon) => return Err(failure),
            _ => {}
        }
    }
    let lock = texts::lock_state(&folder, "join …")?;
    let unfinished = Unfinished::read(&folder);
    store::erase(&mut folder.clone()).map_err(|error| texts::state_write(&folder, &error))?;
    Ok((lock, unfinished))
}

/// What a join that ended in the middle has left: the coordinator may know these
/// keys already. It takes the same device in again, with what it has.
struct Unfinished {
    identity: Identity,
    floor: u64,
    starts: u32,
}

impl Unfinished {
    fn read(folder: &Folder) -> Option<Self> {
        let (identity, _) = identity::read(folder).ok()?;
        let stamp::Stamp { floor, starts } = stamp::read(folder).ok()?;
        // Without its floor the WireGuard key could not be used at once.
        let floor = floor?;
        identity.member().is_none().then_some(Self { identity, floor, starts })
    }

    /// New keys, or those of the unfinished join at the same coordinator.
    fn go_on(unfinished: Option<Self>, join: &JoinString) -> Self {
        let mut identity = Identity::generate(join, &mut entropy::Kernel);
        match unfinished {
            Some(earlier) if earlier.identity.coordinator == join.coordinator => {
                identity.identity_key = earlier.identity.identity_key;
                identity.wireguard_key = earlier.identity.wireguard_key;
                Self { identity, ..earlier }
            }
            _ => Self { identity, floor: 0, starts: 0 },
        }
    }
}

/// Whether the daemon at the socket may be stopped: one that still enrols the
/// identity that lies here (`here`), and no other.
fn check_daemon(status: &Status, here: bool, socket: &Path) -> Result<()> {
    let socket = socket.display();
    if let Some(device) = &status.device {
        let (name, network) = (&device.name, &device.network);
        let message = format!("the daemon at {socket} is {name} in network {network}");
        return Err(Failure::new(Code::JoinAlready, message)
            .try_command("weft join --state … --socket …")
            .try_command("weft join --replace …"));
    }
    if here {
        return Ok(());
    }
    let (pid, up) = (status.pid, units::span_s(status.up_s));
    let message = format!("the daemon is running at {socket} (pid {pid}, up {up})");
    Err(Failure::new(Code::UpRunning, message).try_command("weft status"))
}

/// Draws the keys and writes them; returns the fingerprint of the identity.
fn write_identity(
    context: &Context,
    join: &JoinString,
    name: &str,
    unfinished: Option<Unfinished>,
) -> Result<Keys> {
    let mut folder = Folder::new(&context.config.state);
    let Unfinished { identity: drawn, floor, starts } = Unfinished::go_on(unfinished, join);
    let home = Home::new(join, name, clock::unix_millis());
    folder
        .create()
        .and_then(|()| stamp::write(&mut folder, floor, starts))
        .and_then(|()| identity::write(&mut folder, &drawn, &home))
        .map_err(|error| texts::state_write(&folder, &error))?;
    let own = StaticSecret::from_bytes(drawn.identity_key.0).public();
    Ok(Keys {
        coordinator: mac::fingerprint(&join.coordinator).to_string(),
        device: mac::fingerprint(&own).to_string(),
        host: home.host().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use weft_wire::id::{KeyId, PublicKey, Secret, ShortSecret};
    use weft_wire::join::EnrolToken;

    use super::*;

    #[test]
    fn a_daemon_of_another_network_is_not_stopped() {
        let socket = Path::new("/run/weft.sock");
        let mut status = crate::cli::status::tests::sample();
        for here in [false, true] {
            let failure = check_daemon(&status, here, socket).unwrap_err();
            assert_eq!(failure.exit(), 6);
            assert_eq!(failure.message(), "the daemon at /run/weft.sock is gw-a in network home");
        }
        status.device = None;
        assert!(check_daemon(&status, false, socket).unwrap_err().is(Code::UpRunning));
        assert!(check_daemon(&status, true, socket).is_ok());
    }

    #[test]
    fn a_join_that_was_cut_is_gone_on_with() {
        let join = |coordinator: u8| JoinString {
            coordinator: PublicKey([coordinator; 32]),
            key: KeyId::from_random([1; 8]),
            psk: Secret([2; 32]),
            token: EnrolToken { expiry: 3, mac: ShortSecret([4; 16]) },
            addresses: Default::default(),
            spki: None,
            account: None,
        };
        let first = Unfinished::go_on(None, &join(9));
        assert_eq!((first.floor, first.starts), (0, 0));
        let keys = |of: &Unfinished| (of.identity.identity_key.0, of.identity.wireguard_key.0);
        let before = keys(&first);
        let cut = Unfinished { floor: 77, starts: 2, ..first };
        let again = Unfinished::go_on(Some(cut), &join(9));
        assert_eq!((keys(&again), again.floor, again.starts), (before, 77, 2));
        // Another coordinator never hears of these keys.
        let elsewhere = Unfinished::go_on(Some(again), &join(8));
        assert_ne!(keys(&elsewhere).0, before.0);
        assert_ne!(keys(&elsewhere).1, before.1);
        assert_eq!(elsewhere.floor, 0);
    }

    #[test]
    fn host_names_become_labels() {
        for (host, expected) in [
            ("GW-A.example.net", "gw-a"),
            ("box_7", "box-7"),
            ("-x-", "x"),
            ("", "device"),
            ("...", "device"),
            ("a23456789012345678901234567890123456", "a2345678901234567890123456789012"),
        ] {
            assert_eq!(label(host), expected);
        }
        assert!(wanted_name(Some("gw-a")).is_ok());
        assert_eq!(wanted_name(Some("GW A")).unwrap_err().exit(), 2);
    }
}
