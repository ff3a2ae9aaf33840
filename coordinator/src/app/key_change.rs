//! `coordinator-key switch`: the next key becomes the current one.
//!
//! It is done while nothing serves, and the file goes first: a key file that is
//! ahead of its database names the key that the database knows, so that whoever
//! opens both brings the database after it. Cut short at any point, either
//! nothing was done, or the next start does what is left.

use serde::Serialize;
use weft_noise::mac;
use weft_wire::id::PublicKey;

use crate::cli::confirm::{Effect, confirm};
use crate::cli::coordinator_key::Switch;
use crate::cli::format::count;
use crate::cli::ui;
use crate::config::Config;
use crate::domain::audit::Actor;
use crate::domain::key_change::KeyChange;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::secrets::{Fit, NotSwitched, Secrets};
use crate::store::sqlite::SqliteStore;
use crate::store::{By, KeyChanges as _, StoreError, keyfile};

use super::place::{self, Place, fingerprint};
use super::recover::{recovery_key, seed};

/// Whether the database of this owner belongs to the key file, and (`true`) has
/// to be brought after it.
///
/// # Errors
///
/// `serve.key-mismatch`, `serve.key-older`.
pub(crate) fn check(place: &Place, secrets: &Secrets, owner: &PublicKey) -> Result<bool, Failure> {
    match secrets.fit(owner) {
        Fit::Same => Ok(false),
        Fit::Behind => Ok(true),
        Fit::Ahead => Err(older_file(place, secrets, owner)),
        Fit::Foreign => {
            let (own, owner) = (fingerprint(secrets), mac::fingerprint(owner));
            let message = format!(
                "the key file is {own}, the database belongs to {owner}: one of them is from \
                 another installation"
            );
            Err(Failure::new(Code::ServeKeyMismatch, message))
        }
    }
}

/// Somebody put a copy of the key file back that is from before a change.
pub(crate) fn older_file(place: &Place, secrets: &Secrets, owner: &PublicKey) -> Failure {
    let (path, owner) = (place.key.display(), mac::fingerprint(owner));
    let message = format!(
        "the key file is {} of generation {}, and the key was changed to {owner} since: it is an \
         older copy",
        fingerprint(secrets),
        secrets.generation
    );
    Failure::new(Code::ServeKeyOlder, message).attempt(format!(
        "mv {path} {path}.older && weft-coordinator recover --recovery-key WREC1-…"
    ))
}

#[derive(Serialize)]
struct Switched {
    generation: u32,
    before: String,
    after: String,
    next: String,
    heard: u32,
    cut_off: u32,
}

/// Changes the key.
///
/// # Errors
///
/// `coordinator-key.…`, `recover.form`, `serve.…`, `confirm.…`.
pub(crate) fn switch(
    config: &Config,
    wanted: &Switch,
    now: UnixMs,
    (json, quiet): (bool, bool),
) -> Result<u8, Failure> {
    let place = Place::new(&config.data);
    place.secrets()?;
    let _lock = place.lock(now).map_err(|failure| match failure.code {
        Code::ServeDbLocked => failure.attempt("sudo systemctl stop weft-coordinator"),
        _ => failure,
    })?;
    // Read once more: until now another one may have changed it.
    let secrets = place.secrets()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::new(Code::InternalFault, "no runtime").with(Label::Cause, error.to_string())
    })?;
    let store =
        SqliteStore::open(&place.database, now).map_err(|error| place.database_failure(&error))?;
    let unwritten = |error: StoreError| {
        Failure::new(Code::CoordinatorKeyWrite, "the database cannot take the change")
            .with(Label::Cause, error.to_string())
    };
    let by = || By { actor: Actor { who: place::user(), via: "switch" }, at: now };
    let change = runtime.block_on(async {
        let before = store.key_change().await.map_err(unwritten)?;
        if check(&place, &secrets, &before.current)? {
            let followed = store.key_switched(secrets.public(), secrets.generation, by());
            followed.await.map_err(unwritten)?;
        }
        store.key_change().await.map_err(unwritten)
    })?;
    may_switch(&secrets, &change, wanted.cut_off)?;
    let seed = seed(&recovery_key(&wanted.recovery_key)?)?;
    let after = secrets.switched(&seed).map_err(|why| not_switched(&secrets, why))?;
    let host = config.public.as_ref().map_or("coordinator", |public| &public.host);
    confirm(&Effect { sentence: effect(&change, &after), undo: None, name: host }, wanted.yes)?;
    keyfile::replace(&place.key, after.format(), &after.to_bytes()).map_err(|error| {
        let message = format!("cannot write {}; nothing was changed", place.key.display());
        Failure::new(Code::CoordinatorKeyWrite, message).with(Label::Cause, error.to_string())
    })?;
    let switched = store.key_switched(after.public(), after.generation, by());
    runtime.block_on(switched).map_err(|error| {
        unwritten(error).attempt("weft-coordinator serve        (does what is left)")
    })?;
    say(&place, &change, &after, json, quiet);
    Ok(0)
}

/// Nobody follows a key that was not announced.
fn may_switch(secrets: &Secrets, change: &KeyChange, cut_off: bool) -> Result<(), Failure> {
    let next = mac::fingerprint(&secrets.next.public());
    if change.announced.is_none() || change.next != Some(secrets.next.public()) {
        let message = format!("no device was told the next key {next}: none could follow");
        return Err(Failure::new(Code::CoordinatorKeyUnannounced, message)
            .attempt("sudo systemctl start weft-coordinator")
            .attempt("weft-coordinator coordinator-key announce"));
    }
    let unheard = &change.unheard;
    if unheard.active == 0 || cut_off {
        return Ok(());
    }
    let (all, verb) =
        (change.heard + unheard.active, if unheard.active == 1 { "has" } else { "have" });
    let message = format!(
        "{} of {} {verb} not heard of the next key {next} and would have to join anew: {}",
        unheard.active,
        devices(all),
        unheard.listed()
    );
    Err(Failure::new(Code::CoordinatorKeyUnheard, message)
        .attempt("sudo systemctl start weft-coordinator        (and wait for them)")
        .attempt("weft-coordinator coordinator-key switch --cut-off --recovery-key -"))
}

fn devices(number: u32) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "active device")
}

fn not_switched(secrets: &Secrets, why: NotSwitched) -> Failure {
    match why {
        NotSwitched::OtherSeed => {
            let message = format!(
                "the recovery key is not that of this coordinator ({}); nothing was changed",
                fingerprint(secrets)
            );
            Failure::new(Code::RecoverMismatch, message)
        }
        NotSwitched::LastGeneration => {
            let message = "the coordinator's key was changed as often as it can be";
            Failure::new(Code::CoordinatorKeyUnannounced, message)
        }
    }
}

fn effect(change: &KeyChange, after: &Secrets) -> String {
    let cut_off = match change.unheard.active {
        0 => String::new(),
        number => format!("; {} cut off: {}", devices(number), change.unheard.listed()),
    };
    format!(
        "makes {} the coordinator's key: {} follow{cut_off}; join strings from before the \
         announcement end; there is no way back",
        fingerprint(after),
        devices(change.heard)
    )
}

fn say(place: &Place, change: &KeyChange, after: &Secrets, json: bool, quiet: bool) {
    let switched = Switched {
        generation: after.generation,
        before: mac::fingerprint(&change.current).to_string(),
        after: fingerprint(after).to_string(),
        next: mac::fingerprint(&after.next.public()).to_string(),
        heard: change.heard,
        cut_off: change.unheard.active,
    };
    if json {
        ui::json("weft.coordinator-key-switched/1", &switched);
        return;
    }
    if quiet {
        ui::out(&switched.after);
        return;
    }
    let Switched { generation, before, after, heard, cut_off, .. } = &switched;
    ui::out(format!("switched    {before} to {after}, generation {generation}"));
    ui::out(format!("devices     {heard} follow, {cut_off} are cut off and have to join anew"));
    ui::out(format!(
        "key file    {}  copies of it are out of date; the recovery key stays good",
        place.key.display()
    ));
    ui::out("next        sudo systemctl start weft-coordinator");
}
