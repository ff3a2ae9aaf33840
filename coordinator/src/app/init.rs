//! `init` and `recover`: an installation comes into being, or gets its key file
//! back.

use core::net::IpAddr;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use weft_wire::COORDINATOR_PORT;
use weft_wire::id::{Epoch, Secret, is_name};
use weft_wire::map::Overlay;
use zeroize::Zeroizing;

use crate::config::public::Public;
use crate::config::{self, Overrides};
use crate::domain::network::{DEFAULT_LEASE_S, DEFAULT_MTU, NewNetwork, random_overlay};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::random::Random;
use crate::service::recovery::{self, RecoveryError};
use crate::service::secrets::Secrets;
use crate::store::keyfile;
use crate::store::sqlite::{self, NewInstallation};

use super::place::{Place, fingerprint};

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

/// Makes an installation.
///
/// # Errors
///
/// `init.…`, `config.…`.
pub(crate) fn init(
    request: &InitRequest,
    random: Random,
    now: UnixMs,
) -> Result<Initialised, Vec<Failure>> {
    let config = config::load(&request.overrides)?;
    make(request, &config, random, now).map_err(|failure| vec![failure])
}

fn make(
    request: &InitRequest,
    config: &config::Config,
    random: Random,
    now: UnixMs,
) -> Result<Initialised, Failure> {
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
    let _lock = place.lock(now)?;

    let seed = Secret::take(&mut random.bytes());
    let secrets = Secrets::from_seed(&seed);
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
    // The key file last but one: with a database alone, `recover` helps; with
    // neither, nothing was made.
    if let Err(error) = sqlite::create(&place.database, &new, now) {
        remove_database(&place.database);
        return Err(cannot_write(&place.database, &error));
    }
    if let Err(error) = keyfile::create(&place.key, &secrets.to_bytes()) {
        remove_database(&place.database);
        return Err(cannot_write(&place.key, &error));
    }
    let (file, _) = request.overrides.file();
    let config_was_there = file.exists();
    if !config_was_there {
        write_config(&file, config, request)?;
    }
    Ok(Initialised {
        config: file,
        key: place.key.clone(),
        database: place.database.clone(),
        network: request.network.clone(),
        overlay,
        fingerprint: fingerprint(&secrets).to_string(),
        recovery: recovery::to_text(&seed),
        port: config.listen.first().map_or(COORDINATOR_PORT, core::net::SocketAddr::port),
        config_was_there,
    })
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
    if address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240
    {
        return Err(wrong(format!("--ipv4 \"{text}\" is no range for machines")));
    }
    Ok(Overlay { ipv4: address, ipv4_len: len, ..drawn })
}

fn write_config(
    file: &Path,
    config: &config::Config,
    request: &InitRequest,
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
        .and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()));
    written.map_err(|error| cannot_write(file, &error))
}

/// A database that nobody used yet.
fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // What is not there need not go.
        let _ = std::fs::remove_file(&name);
    }
}

fn cannot_write(path: &Path, error: &dyn core::fmt::Display) -> Failure {
    Failure::new(Code::InitWrite, format!("cannot write {}", path.display()))
        .with(Label::Cause, error.to_string())
}

/// Writes the key file anew from the recovery key.
///
/// # Errors
///
/// `recover.…`.
pub(crate) fn recover(data: &Path, text: &str) -> Result<(PathBuf, String), Failure> {
    let place = Place::new(data);
    let seed = recovery::from_text(text).map_err(|error| {
        let message = match error {
            RecoveryError::NotARecoveryKey => "that is no recovery key; those start with WREC1",
            RecoveryError::Damaged => {
                "the recovery key was typed or copied wrongly: its checksum differs"
            }
        };
        Failure::new(Code::RecoverForm, message)
    })?;
    if place.key.exists() {
        let message = format!("{} is there; it was not touched", place.key.display());
        return Err(Failure::new(Code::RecoverExists, message));
    }
    let secrets = Secrets::from_seed(&seed);
    let own = fingerprint(&secrets);
    match place.key_of_database() {
        Some((key, _)) if key == secrets.public() => {}
        Some((key, _)) => {
            let database = weft_noise::mac::fingerprint(&key);
            let message =
                format!("the recovery key is that of {own}, the database belongs to {database}");
            return Err(Failure::new(Code::RecoverMismatch, message));
        }
        None => {
            let message = format!("no database in {}", data.display());
            return Err(Failure::new(Code::ServeNotInitialised, message)
                .attempt("weft-coordinator recover --data DIR --recovery-key WREC1-…"));
        }
    }
    keyfile::create(&place.key, &secrets.to_bytes())
        .map_err(|error: io::Error| cannot_write(&place.key, &error))?;
    Ok((place.key, own.to_string()))
}
