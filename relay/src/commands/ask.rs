//! `weft-relay status`, `weft-relay drain`: questions to the running relay.

use std::io;
use std::process::ExitCode;

use serde_json::Value;
use weft_relay::config::{self, Flags};
use weft_relay::io::control::{Ask, ask};

use super::{Failure, exit};

/// Flags of `status`.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Flags of `drain`.
#[derive(clap::Args)]
pub(crate) struct Drain {
    /// Let it take new clients again
    #[arg(long)]
    off: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(flags: &Flags, wanted: &Status) -> Result<ExitCode, Failure> {
    let document = speak(flags, Ask::Status)?;
    if wanted.json {
        println!("{document}");
    } else {
        lines(&document).iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn drain(flags: &Flags, wanted: &Drain) -> Result<ExitCode, Failure> {
    let document = speak(flags, if wanted.off { Ask::Undrain } else { Ask::Drain })?;
    let still = document["draining"] == Value::Bool(true);
    if wanted.json {
        println!("{document}");
    } else if !wanted.off {
        let left = allocations(&document);
        println!("drains: it takes no new clients; {left} left");
        println!("how far it is:  weft-relay status");
    } else if still {
        println!("it still drains: {}", whoever(&document));
    } else {
        println!("it takes new clients again");
    }
    Ok(ExitCode::SUCCESS)
}

fn speak(flags: &Flags, question: Ask) -> Result<Value, Failure> {
    let (path, _) = config::load(flags)?.socket();
    let answer = ask(&path, question).map_err(|error| {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::new("socket", format!("{path} is not yours"), exit::DENIED)
                    .attempt("sudo weft-relay status")
            }
            _ => Failure::new(
                "not-running",
                format!("no relay answers at {path}"),
                exit::UNREACHABLE,
            )
            .cause(error)
            .attempt("systemctl status weft-relay"),
        }
    })?;
    serde_json::from_str(&answer).map_err(|error| {
        Failure::new("socket", format!("{} says something else", path.display()), exit::UNREACHABLE)
            .cause(error)
    })
}

fn number(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_default()
}

fn allocations(document: &Value) -> String {
    match number(document, "allocations") {
        0 => "no allocations".to_owned(),
        1 => "1 allocation".to_owned(),
        many => format!("{many} allocations"),
    }
}

/// Who wants it to drain.
fn whoever(document: &Value) -> String {
    let reasons = [
        ("operator", "an operator of the coordinator wants it"),
        ("here", "somebody at this machine wants it"),
        ("unknown", "the coordinator does not know it any more"),
    ];
    let by = &document["drained_by"];
    let all: Vec<_> =
        reasons.iter().filter(|(name, _)| by[name] == true).map(|(_, words)| *words).collect();
    all.join(", ")
}

fn lines(document: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    if document["draining"] == true {
        lines.push(format!("draining     {}", whoever(document)));
    } else {
        lines.push("relaying     takes new clients".to_owned());
    }
    lines.push(format!(
        "load         {} of {}, {} users, {} connections",
        allocations(document),
        number(document, "max_allocations"),
        number(document, "users"),
        number(document, "connections"),
    ));
    let listen = document["listen"].as_array().cloned().unwrap_or_default();
    let listen: Vec<_> = listen.iter().map(text).collect();
    lines.push(format!("listens      {} udp", listen.join(" ")));
    let coordinator = &document["coordinator"];
    if coordinator.is_null() {
        lines.push("coordinator  none: it did not join".to_owned());
        return lines;
    }
    let (name, address) = (text(&coordinator["name"]), text(&coordinator["address"]));
    let heard = match coordinator["heard_s"].as_u64() {
        None => "not heard yet".to_owned(),
        Some(seconds) => format!("heard {seconds} s ago"),
    };
    lines.push(format!("coordinator  {address}, as {name}, {heard}"));
    if let Some(trouble) = coordinator["trouble"].as_str() {
        lines.push(format!("trouble      {trouble}"));
    }
    lines.push(format!("denied       {} devices", number(coordinator, "denied")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_says_who_wants_what() {
        let mut document = json!({
            "draining": false, "allocations": 1, "max_allocations": 10, "users": 1,
            "connections": 0, "listen": ["[::]:3478"], "coordinator": null,
            "drained_by": {"operator": false, "here": false, "unknown": false},
        });
        assert_eq!(
            lines(&document),
            [
                "relaying     takes new clients",
                "load         1 allocation of 10, 1 users, 0 connections",
                "listens      [::]:3478 udp",
                "coordinator  none: it did not join",
            ]
        );
        document["draining"] = true.into();
        document["drained_by"]["operator"] = true.into();
        document["coordinator"] = json!({
            "name": "fra1", "address": "mesh.example.net:7420", "heard_s": 3, "trouble": "x",
            "denied": 2,
        });
        let lines = lines(&document);
        assert_eq!(lines[0], "draining     an operator of the coordinator wants it");
        assert_eq!(lines[3], "coordinator  mesh.example.net:7420, as fra1, heard 3 s ago");
        assert_eq!(lines[4..], ["trouble      x", "denied       2 devices"]);
    }
}
