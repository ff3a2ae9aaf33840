//! `recover`: an installation gets its key file back.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use weft_wire::id::{PublicKey, Secret};
use zeroize::Zeroizing;

use crate::cli::{Recover, ui};
use crate::failure::{Code, Failure, Label};
use crate::service::recovery::{self, RecoveryError};
use crate::service::secrets::{Fit, Secrets};
use crate::store::keyfile;

use super::init::cannot_write;
use super::place::{Place, fingerprint};

/// `recover`.
///
/// # Errors
///
/// `recover.…`, `serve.…`.
pub(crate) fn run(data: &Path, wanted: &Recover) -> Result<u8, Failure> {
    let text = recovery_key(&wanted.recovery_key)?;
    let made = recover(data, &text, wanted.generation)?;
    let (path, fingerprint, generation) = (made.path.display(), made.fingerprint, made.generation);
    ui::out(format!("recovered  {path}  0600, key {fingerprint}, generation {generation}"));
    Ok(0)
}

/// The recovery key as it stands on the command line; `-` reads it from standard
/// input, a line of it where somebody types.
///
/// # Errors
///
/// `recover.form`.
pub(crate) fn recovery_key(text: &str) -> Result<Zeroizing<String>, Failure> {
    // Large enough that it never moves and leaves a copy behind.
    let mut read = Zeroizing::new(String::with_capacity(1_024));
    if text != "-" {
        read.push_str(text);
        return Ok(read);
    }
    let stdin = std::io::stdin();
    let done = if stdin.is_terminal() {
        stdin.read_line(&mut read)
    } else {
        stdin.lock().take(1_024).read_to_string(&mut read)
    };
    done.map(|_| read).map_err(|error| {
        Failure::new(Code::RecoverForm, "standard input cannot be read")
            .with(Label::Cause, error.to_string())
    })
}

/// A key file that was written anew.
struct Recovered {
    path: PathBuf,
    fingerprint: String,
    generation: u32,
}

/// Reads a recovery key.
///
/// # Errors
///
/// `recover.form`.
pub(crate) fn seed(text: &str) -> Result<Secret, Failure> {
    recovery::from_text(text).map_err(|error| {
        let message = match error {
            RecoveryError::NotARecoveryKey => "that is no recovery key; those start with WREC1",
            RecoveryError::Damaged => {
                "the recovery key was typed or copied wrongly: its checksum differs"
            }
        };
        Failure::new(Code::RecoverForm, message)
    })
}

/// Writes the key file anew from the recovery key. How often the key was changed
/// is what the database says, or `generation` where it is lost or of before.
///
/// # Errors
///
/// `recover.…`.
fn recover(data: &Path, text: &str, generation: Option<u32>) -> Result<Recovered, Failure> {
    let place = Place::new(data);
    let seed = seed(text)?;
    if place.key.exists() {
        let message = format!("{} is there; it was not touched", place.key.display());
        return Err(Failure::new(Code::RecoverExists, message));
    }
    let generation = match (place.key_of_database(), generation) {
        (Some((owner, _)), wanted) => generation_with(&seed, &owner, wanted)?,
        (None, Some(wanted)) if !place.database.exists() => wanted,
        (None, _) => {
            let message = format!(
                "no database in {} says how often the coordinator's key was changed",
                data.display()
            );
            return Err(Failure::new(Code::ServeNotInitialised, message)
                .attempt("weft-coordinator restore LAST-BACKUP        (first)")
                .attempt("weft-coordinator recover --recovery-key WREC1-… --generation 0"));
        }
    };
    let secrets = Secrets::at_generation(&seed, generation);
    keyfile::create(&place.key, secrets.format(), &secrets.to_bytes())
        .map_err(|error| cannot_write(&place.key, &error))?;
    let fingerprint = fingerprint(&secrets).to_string();
    Ok(Recovered { path: place.key, fingerprint, generation })
}

/// The generation of a key file for the database of this owner.
fn generation_with(seed: &Secret, owner: &PublicKey, wanted: Option<u32>) -> Result<u32, Failure> {
    let database = weft_noise::mac::fingerprint(owner);
    let Some(known) = Secrets::generation_of(seed, owner) else {
        let own = fingerprint(&Secrets::from_seed(seed));
        let message =
            format!("the recovery key is that of {own}, the database belongs to {database}");
        return Err(Failure::new(Code::RecoverMismatch, message));
    };
    let wanted = wanted.unwrap_or(known);
    let fits = Secrets::at_generation(seed, wanted).fit(owner);
    if matches!(fits, Fit::Same | Fit::Behind) {
        return Ok(wanted);
    }
    let message = format!(
        "a key file of generation {wanted} does not open the database: that is of generation \
         {known}, key {database}"
    );
    Err(Failure::new(Code::RecoverMismatch, message)
        .attempt("weft-coordinator recover --recovery-key WREC1-…"))
}
