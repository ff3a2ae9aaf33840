//! Starting the daemon: by systemd where its unit is installed, else by itself
//! in the background.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Context;
use crate::failure::{Code, Failure, Result};
use crate::os::poll::{Interest, wait_one};
use crate::os::process;

/// Where systemd looks for units.
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

const UNIT: &str = "weft.service";

/// How long the daemon may take to open its sockets, in microseconds.
const PATIENCE_US: u64 = 10_000_000;

/// Who keeps the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// systemd: it starts at boot.
    Unit,
    /// Nobody: it runs until the machine stops.
    Background,
}

/// What the daemon writes to its standard output, once, when it is told to say
/// how its start went.
pub(crate) const READY: &str = "ready";

/// Who would keep the daemon of this configuration.
pub(super) fn keeper(context: &Context) -> Keeper {
    let systemd = Path::new("/run/systemd/system").is_dir();
    let unit = || UNIT_FOLDERS.iter().any(|folder| Path::new(folder).join(UNIT).exists());
    if context.config.is_system() && systemd && unit() { Keeper::Unit } else { Keeper::Background }
}

/// Starts the daemon and waits until it can be talked to.
///
/// # Errors
///
/// Why it could not start, in its own words.
pub(super) fn start(context: &Context, at_boot: bool) -> Result<Keeper> {
    let keeper = keeper(context);
    match keeper {
        Keeper::Unit => unit(at_boot)?,
        Keeper::Background => background(context)?,
    }
    Ok(keeper)
}

fn unit(at_boot: bool) -> Result<()> {
    let failed = |cause: String| {
        Failure::new(Code::UpStart, "systemd could not start weft.service")
            .cause(cause)
            .try_command("journalctl -u weft -n 20")
    };
    if at_boot {
        systemctl(&["enable", UNIT]).map_err(failed)?;
    }
    // Not "start": a daemon that has just ended may still count as running.
    systemctl(&["restart", UNIT]).map_err(failed)
}

/// The first line of what went wrong.
fn systemctl(arguments: &[&str]) -> core::result::Result<(), String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next().unwrap_or("no reason given").to_owned())
}

/// A machine that is in no network starts nothing at boot.
pub(super) fn disable(context: &mut Context) {
    if keeper(context) == Keeper::Background {
        return;
    }
    if let Err(cause) = systemctl(&["disable", UNIT]) {
        context.ui.note(&format!("note: {UNIT} stays enabled: {cause}"));
    }
}

/// Where a panic of the background daemon is written.
fn error_file(socket: &Path) -> PathBuf {
    socket.with_extension("err")
}

fn background(context: &Context) -> Result<()> {
    let config = &context.config;
    let mut arguments: Vec<OsString> =
        ["up", "--foreground", "--detached", "--state"].map(OsString::from).to_vec();
    arguments.push(absolute(&config.state).into());
    arguments.push("--socket".into());
    arguments.push(absolute(&config.socket).into());
    arguments.push("--interface".into());
    arguments.push(config.interface.clone().into());
    if let Some(bytes) = config.data_budget {
        arguments.push("--data-budget".into());
        arguments.push(format!("{bytes}B").into());
    }
    if config.metered {
        arguments.push("--metered".into());
    }
    arguments.extend((0..config.verbose).map(|_| "-v".into()));
    if let Some(file) = &config.file {
        arguments.push("--config".into());
        arguments.push(absolute(file).into());
    }
    let errors = error_file(&config.socket);
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::new(Code::UpStart, "the daemon could not be started in the background")
            .cause(cause)
    };
    if let Some(folder) = errors.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    let said = first_words(&arguments, &errors);
    // A panic, if the daemon ended by one; afterwards nobody needs the file.
    let panic = std::fs::read_to_string(&errors).unwrap_or_default();
    let removed = std::fs::remove_file(&errors);
    let said = said.map_err(|cause| failed(&cause))?;
    removed.map_err(|error| failed(&error))?;
    if said.trim() == READY {
        return Ok(());
    }
    if let Ok(failure) = serde_json::from_str::<Failure>(&said) {
        return Err(failure);
    }
    Err(failed(&panic.lines().next().unwrap_or("it ended without a word")))
}

/// Starts the daemon and returns what it says about its start. One that says
/// nothing is ended.
fn first_words(arguments: &[OsString], errors: &Path) -> core::result::Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut child = process::spawn_background(arguments, errors).map_err(told)?;
    let mut said = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        if !wait_one(pipe.as_fd(), Interest::READ, Some(PATIENCE_US)).map_err(told)? {
            child.kill().and_then(|()| child.wait()).map_err(told)?;
            return Err("it said nothing for 10 s".to_owned());
        }
        pipe.read_to_end(&mut said).map_err(told)?;
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The daemon runs in the root folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
