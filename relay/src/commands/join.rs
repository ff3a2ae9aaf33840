//! `weft-relay join`: becomes a relay of a coordinator.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use weft_relay::config::{self, Flags};
use weft_relay::io::control::{Ask, ask};
use weft_relay::io::session::{NotJoined, join, read};
use weft_relay::state::Membership;
use weft_wire::item::Refused;
use weft_wire::join::JoinError;
use weft_wire::verdict::Refusal;
use zeroize::Zeroizing;

use super::{Failure, exit};

/// What `join` is told.
#[derive(clap::Args)]
pub(crate) struct Join {
    /// The line that `weft-coordinator relay add` printed; `-` reads it from
    /// standard input
    #[arg(value_name = "WEFT1…")]
    string: String,
    /// Join although this machine is a relay of a coordinator already
    #[arg(long)]
    again: bool,
}

pub(crate) fn run(flags: &Flags, wanted: &Join) -> Result<ExitCode, Failure> {
    let loaded = config::load(flags)?;
    let folder = loaded.state();
    if let Some(known) = known(&folder)?
        && !wanted.again
    {
        let coordinator = known.addresses.first().map_or("a coordinator", String::as_str);
        let message = format!("this machine is the relay {} of {coordinator} already", known.name);
        return Err(Failure::new("joined", message, exit::CONFLICT)
            .attempt("weft-relay join --again WEFT1…"));
    }
    let text = if wanted.string == "-" {
        let mut text = Zeroizing::new(String::new());
        io::stdin().read_to_string(&mut text).map_err(|error| {
            Failure::new("join-string", "no join string on standard input", exit::WRONG)
                .cause(error)
        })?;
        text
    } else {
        Zeroizing::new(wanted.string.clone())
    };
    let joined = with(&folder, &text)?;
    println!("joined as {}, kept in {}", joined.name, folder.display());
    if let Some(seen) = joined.seen {
        println!("the coordinator sees this machine at {seen}");
    }
    let (socket, _) = loaded.socket();
    if ask(&socket, Ask::Status).is_ok() {
        println!("a relay runs here; it goes by this from its next start on:");
        println!("  sudo systemctl restart weft-relay");
    } else {
        println!("start it:  sudo systemctl enable --now weft-relay");
    }
    Ok(ExitCode::SUCCESS)
}

/// Who this relay is; `None` = it did not join.
pub(crate) fn known(folder: &Path) -> Result<Option<Membership>, Failure> {
    Membership::load(folder).map_err(|error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let status = if denied { exit::DENIED } else { exit::WRONG };
        let message = format!("what is kept in {} cannot be read", folder.display());
        Failure::new("state", message, status).cause(error).attempt(if denied {
            "sudo weft-relay"
        } else {
            "weft-relay join --again WEFT1…"
        })
    })
}

/// Joins with the string that a file holds.
pub(crate) fn from_file(folder: &Path, file: &Path) -> Result<Membership, Failure> {
    let text = fs::read_to_string(file).map(Zeroizing::new).map_err(|error| {
        Failure::new("join-file", format!("{} cannot be read", file.display()), exit::WRONG)
            .cause(error)
            .attempt(format!("ls -l {}", file.display()))
    })?;
    with(folder, &text)
}

fn with(folder: &Path, text: &str) -> Result<Membership, Failure> {
    let string = read(text).map_err(misread)?;
    let joined = join(&string).map_err(|error| refused(&error))?;
    joined.save(folder).map_err(|error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let status = if denied { exit::DENIED } else { 1 };
        let message = format!("{} joined, and {} cannot be written", joined.name, folder.display());
        Failure::new("state", message, status).cause(error).attempt(format!(
            "weft-coordinator relay remove {name}, relay add {name}, and join as root",
            name = joined.name
        ))
    })?;
    // Who was denied elsewhere is nobody here.
    let others: PathBuf = folder.join("denied");
    match fs::remove_file(&others) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let message = format!("{} cannot be removed", others.display());
            Err(Failure::new("state", message, 1).cause(error))
        }
        Ok(()) | Err(_) => Ok(joined),
    }
}

fn misread(error: JoinError) -> Failure {
    let relays = "weft-coordinator relay add NAME        (on the coordinator)";
    let (message, attempt) = match error {
        JoinError::NotAJoinString => {
            ("this is no join string; those start with WEFT1".to_owned(), relays)
        }
        JoinError::Format(format) => (
            format!("the join string has format {format}, this weft-relay reads format 1"),
            "update weft-relay on this machine",
        ),
        JoinError::Field => (
            "the join string holds a field that this weft-relay does not know".to_owned(),
            "update weft-relay on this machine",
        ),
        JoinError::Kind => ("this join string lets in a device, and no relay".to_owned(), relays),
        _ => (
            "the join string was typed or copied wrongly".to_owned(),
            "copy the whole line that relay add printed",
        ),
    };
    Failure::new("join-string", message, exit::WRONG).attempt(attempt)
}

fn refused(error: &NotJoined) -> Failure {
    let again = "weft-coordinator relay add NAME        (on the coordinator)";
    match error {
        NotJoined::Unreachable(all) => {
            let reasons = all.iter().map(|(address, error)| format!("{address}: {error}"));
            let reasons = reasons.collect::<Vec<_>>().join("\n");
            let address = all.first().map_or("the coordinator", |(address, _)| address.as_str());
            Failure::new("unreachable", "the coordinator is not reached", exit::UNREACHABLE)
                .cause(reasons)
                .attempt(format!("curl -k https://{address}/, and its firewall"))
        }
        NotJoined::NotAnswered(address) => Failure::new(
            "not-answered",
            format!("the coordinator at {address} does not know this join string"),
            exit::DENIED,
        )
        .cause("the relay was removed there, or the coordinator's key was changed since")
        .attempt(again),
        NotJoined::Unusable => Failure::new(
            "join-string",
            "the join string names no address that a relay could post to",
            exit::WRONG,
        )
        .attempt("set an https:// address in the coordinator's server.addresses"),
        NotJoined::Refused(refused) => {
            Failure::new("refused", sentence(refused), exit::DENIED).attempt(again)
        }
    }
}

fn sentence(refused: &Refused) -> String {
    let name = refused.text.as_str();
    match Refusal::from_code(refused.code) {
        Some(Refusal::KeyUsedUp) => {
            format!("the join string of \"{name}\" was used already: it lets in one relay")
        }
        Some(Refusal::KeyExpired) => format!("the join string of \"{name}\" has ended"),
        Some(Refusal::Unavailable) => "the coordinator cannot write now; try later".to_owned(),
        _ => "the coordinator does not take this relay in".to_owned(),
    }
}
