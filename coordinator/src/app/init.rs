//! `init`: an installation comes into being.

use core::net::IpAddr;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use weft_wire::COORDINATOR_PORT;
use weft_wire::id::{Epoch, Secret, is_name};
use weft_wire::map::Overlay;
use zeroize::Zeroizing;

use crate::cli::ui;
use crate::config::public::Public;
use crate::config::{self, Overrides};
use crate::domain::network::{
    DEFAULT_LEASE_S, DEFAULT_MTU, NewNetwork, is_mesh_range, random_overlay,
};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::random::Random;
use crate::service::recovery;
use crate::service::secrets::Secrets;
use crate::store::keyfile;
use crate::store::sqlite::{self, NewInstallation};

use super::place::{self, Lock, Place, fingerprint};

/// What `init` is asked for.
#[derive(Clone, Debug)]
pub(crate) struct InitRequest {
    pub(crate) overrides: Overrides,
    pub(crate) network: String,
    pub(crate) ipv4: Option<String>,
    pub(crate) allow_private: bool,
}

/// What `init` made.
pub(crate) struct Initialised {
    pub(crate) config: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) network: String,
    pub(crate) overlay: Overlay,
    pub(crate) fingerprint: String,
    pub(crate) recovery: Zeroizing<String>,
    pub(crate) port: u16,
    pub(crate) config_was_there: bool,
}

/// An installation that lies beside its place: the database moves there last,
/// when its recovery key was shown. Dropped before, nothing of it stays.
pub(crate) struct Pending {
    pub(crate) made: Initialised,
    place: Place,
    // Undone before the folder is free again.
    undo: Undo,
    _lock: Lock,
}

impl Pending {
    /// Puts the database in its place: from here on there is an installation.
    ///
    /// # Errors
    ///
    /// `init.write`; then there is none.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let Place { fresh, database, data, .. } = &self.place;
        std::fs::rename(fresh, database).map_err(|error| cannot_write(database, &error))?;
        self.undo.0.clear();
        keyfile::sync_folder(data).map_err(|error| cannot_write(data, &error))
    }
}

/// What this run made and takes away again unless it comes to its end.
#[derive(Default)]
struct Undo(Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                ui::note(format!("warning: {} stays behind: {error}", path.display()));
            }
        }
    }
}

/// Prepares an installation.
///
/// # Errors
///
/// `init.…`, `config.…`, `data.denied`, `serve.db-locked`.
pub(crate) fn prepare(
    request: &InitRequest,
    random: Random,
    now: UnixMs,
) -> Result<Pending, Vec<Failure>> {
    let config = config::load(&request.overrides)?;
    make(request, &config, random, now).map_err(|failure| vec![failure])
}

fn make(
    request: &InitRequest,
    config: &config::Config,
    random: Random,
    now: UnixMs,
) -> Result<Pending, Failure> {
    let place = Place::new(&config.data);
    if place.is_taken() {
        return Err(exists(&place));
    }
    let public = config.public.as_ref().ok_or_else(no_public)?;
    if public.is_private() && !request.allow_private {
        let message = format!(
            "--public {public} is a private address: devices outside this network could not reach it"
        );
        let failure = Failure::new(Code::InitPrivatePublic, message);
        return Err(failure.attempt("add --allow-private if all devices are inside"));
    }
    let (file, _) = request.overrides.file();
    let config_was_there = file.exists();
    if config_was_there {
        check_kept(&file, config, public)?;
    }
    let overlay = overlay(request.ipv4.as_deref(), random)?;
    if !is_name(&request.network) {
        let message =
            format!("--network {}: 1 to 32 of a-z 0-9 and - are possible", request.network);
        return Err(Failure::new(Code::InitNetwork, message));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place.data)
        .map_err(|error| cannot_write(&place.data, &error))?;
    let lock = place.lock(now)?;
    // Another one may have come to its end meanwhile.
    if place.is_taken() {
        return Err(exists(&place));
    }
    place.remove_unfinished().map_err(|error| cannot_write(&place.data, &error))?;

    let mut undo = Undo::default();
    if !config_was_there {
        write_config(&file, config, request, &mut undo)?;
    }
    let seed = Secret::take(&mut random.bytes());
    let secrets = Secrets::from_seed(&seed);
    write_state(&place, &secrets, request, overlay, (random, now), &mut undo)?;
    let made = Initialised {
        config: file,
        key: place.key.clone(),
        database: place.database.clone(),
        network: request.network.clone(),
        overlay,
        fingerprint: fingerprint(&secrets).to_string(),
        recovery: recovery::to_text(&seed),
        port: config.listen.first().map_or(COORDINATOR_PORT, core::net::SocketAddr::port),
        config_was_there,
    };
    Ok(Pending { made, place, undo, _lock: lock })
}

/// The database under its first name, then the key file: where both are, and no
/// database in its place, a run was cut short and the next one starts anew.
fn write_state(
    place: &Place,
    secrets: &Secrets,
    request: &InitRequest,
    overlay: Overlay,
    (random, now): (Random, UnixMs),
    undo: &mut Undo,
) -> Result<(), Failure> {
    let new = NewInstallation {
        epoch: Epoch(u32::from_le_bytes(random.bytes()).max(1)),
        coordinator: secrets.public(),
        network: NewNetwork {
            name: request.network.clone(),
            overlay,
            mtu: DEFAULT_MTU,
            lease_s: DEFAULT_LEASE_S,
        },
    };
    // Nothing is there under these names, and the folder is ours.
    undo.0.extend(place.fresh_files());
    sqlite::create(&place.fresh, &new, now).map_err(|error| match error {
        sqlite::OpenError::File(error) => cannot_write(&place.fresh, &error),
        error => Failure::new(Code::InitWrite, format!("cannot write {}", place.fresh.display()))
            .with(Label::Cause, error.to_string()),
    })?;
    keyfile::create(&place.key, secrets.format(), &secrets.to_bytes())
        .map_err(|error| cannot_write(&place.key, &error))?;
    undo.0.push(place.key.clone());
    Ok(())
}

fn exists(place: &Place) -> Failure {
    let data = place.data.display();
    let (key, devices) = match (place.secrets(), place.key_of_database()) {
        (Ok(secrets), owner) => {
            (fingerprint(&secrets).to_string(), owner.map(|(_, devices)| devices))
        }
        (Err(_), Some((key, devices))) => {
            (weft_noise::mac::fingerprint(&key).to_string(), Some(devices))
        }
        (Err(_), None) => ("unknown".to_owned(), None),
    };
    let devices = match devices {
        Some(1) => "1 device".to_owned(),
        Some(count) => format!("{count} devices"),
        None => "devices unknown".to_owned(),
    };
    let message =
        format!("{data} holds a coordinator (key {key}, {devices}); init would orphan them");
    Failure::new(Code::InitExists, message)
        .attempt("weft-coordinator serve")
        .attempt("weft-coordinator init --data DIR")
}

/// A file that is there is not changed, and `serve` has no other word than its:
/// a flag that says otherwise would be forgotten.
fn check_kept(file: &Path, config: &config::Config, public: &Public) -> Result<(), Failure> {
    let flagged = |one: &config::Resolved| {
        one.name == "server.public" && matches!(one.source, config::Source::Flag(_))
    };
    if !config.resolved.iter().any(flagged) {
        return Ok(());
    }
    let shown = file.display().to_string();
    let alone = Overrides { file: Some(file.to_owned()), ..Overrides::default() };
    // It was read without a complaint a moment ago.
    let kept = config::load(&alone).ok().and_then(|kept| kept.public);
    if kept.as_ref() == Some(public) {
        return Ok(());
    }
    let says = match kept {
        Some(kept) => format!("says public = \"{kept}\""),
        None => "does not name public".to_owned(),
    };
    let message = format!("{shown} is there and {says}; init does not change it");
    Err(Failure::new(Code::InitConfig, message).with(Label::From, "--public").attempt(format!(
        "write  public = \"{public}\"  below [server] in {shown}, then init again"
    )))
}

fn no_public() -> Failure {
    let found = local_addresses();
    let listed: Vec<_> = found.iter().map(ToString::to_string).collect();
    let mut message = "--public is missing: the name or address that devices will use".to_owned();
    if !listed.is_empty() {
        message.push_str(&format!("; found here: {}", listed.join(", ")));
    }
    let failure = Failure::new(Code::InitNoPublic, message);
    match listed.first() {
        Some(address) => failure.attempt(format!("weft-coordinator init --public {address}")),
        None => failure.attempt("weft-coordinator init --public mesh.example.net"),
    }
}

/// Addresses by which this machine reaches others, public ones first. A
/// connected UDP socket sends nothing, and knows its own address.
fn local_addresses() -> Vec<IpAddr> {
    let probes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let mut found: Vec<IpAddr> = probes
        .iter()
        .filter_map(|(own, other)| {
            let socket = std::net::UdpSocket::bind(own).ok()?;
            socket.connect(other).ok()?;
            Some(socket.local_addr().ok()?.ip())
        })
        .filter(|address| !address.is_unspecified())
        .collect();
    found.sort_by_key(|address| {
        Public { host: address.to_string(), port: COORDINATOR_PORT }.is_private()
    });
    found
}

fn overlay(ipv4: Option<&str>, random: Random) -> Result<Overlay, Failure> {
    let drawn = random_overlay(random.bytes());
    let Some(text) = ipv4 else { return Ok(drawn) };
    let wrong = |message: String| Failure::new(Code::InitNetwork, message);
    let parsed = text.split_once('/').and_then(|(address, len)| {
        Some((address.parse::<core::net::Ipv4Addr>().ok()?, len.parse::<u8>().ok()?))
    });
    let (address, len) = parsed.ok_or_else(|| {
        wrong(format!("--ipv4 \"{text}\": a range is needed, for example 10.77.0.0/16"))
    })?;
    if !(8..=28).contains(&len) {
        return Err(wrong(format!("--ipv4 \"{text}\": /8 to /28 is possible")));
    }
    let mask = u32::MAX << (32 - u32::from(len));
    let first = core::net::Ipv4Addr::from_bits(address.to_bits() & mask);
    if first != address {
        return Err(wrong(format!(
            "--ipv4 \"{text}\" has bits after the prefix; {first}/{len} is meant"
        )));
    }
    if !is_mesh_range(address, len) {
        return Err(wrong(format!(
            "--ipv4 \"{text}\" belongs to others; a private range is possible, or one out of \
             100.80.0.0 to 100.127.255.255"
        )));
    }
    Ok(Overlay { ipv4: address, ipv4_len: len, ..drawn })
}

fn write_config(
    file: &Path,
    config: &config::Config,
    request: &InitRequest,
    undo: &mut Undo,
) -> Result<(), Failure> {
    let chosen: Vec<(&str, String)> = config
        .resolved
        .iter()
        .filter(|one| one.source != config::Source::Default)
        .filter_map(|one| Some((one.name.split_once('.')?.1, one.value.clone())))
        .collect();
    let mut text = config::template(&chosen);
    text.push_str(&format!("\n# The network made by init: {}\n", request.network));
    let written = file
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::OpenOptions::new().write(true).create_new(true).open(file))
        .and_then(|mut opened| {
            undo.0.push(file.to_owned());
            opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all())
        });
    written.map_err(|error| cannot_write(file, &error))
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return place::denied(path, error).attempt("sudo weft-coordinator …");
    }
    Failure::new(Code::InitWrite, format!("cannot write {}", path.display()))
        .with(Label::Cause, error.to_string())
}
