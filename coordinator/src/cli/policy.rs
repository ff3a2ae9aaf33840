//! `policy set`, `policy show`, `policy warm`, `policy unwarm`.

mod warm;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};

use crate::api;
use crate::config::document::Document;
use crate::config::policy_file;
use crate::domain::policy::{Policy, Rule, parse_traffic};
use crate::failure::{Code, Failure, Label};

use super::client::segment;
use super::format::{count, moment};
use super::remote::Context;
use super::ui;

/// What to do with policy.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put a policy in force
    Set(Set),
    /// Keep the way between two devices open while nobody talks; without names, list
    /// such pairs
    Warm {
        /// Name, address or id of both
        #[arg(num_args = 0..=2, value_name = "DEVICE")]
        pair: Vec<String>,
    },
    /// Let the way between two devices close again
    Unwarm {
        /// Name, address or id of one
        a: String,
        /// And of the other
        b: String,
    },
    /// Show the policy in force, as a file
    Show {
        /// Which network
        #[arg(long)]
        network: Option<String>,
    },
}

/// Flags of `policy set`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Set {
    /// The policy as TOML; `-` reads standard input
    file: PathBuf,
    /// Which network
    #[arg(long)]
    network: Option<String>,
    /// Only say what it would change
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context<'_>, command: &Command) -> Result<u8, Vec<Failure>> {
    match command {
        Command::Set(set) => {
            let policy = policy_file::parse(&read(&set.file).map_err(|failure| vec![failure])?)?;
            self::set(context, set, &policy).await
        }
        Command::Warm { pair } => match &pair[..] {
            [] => warm::list(context).await,
            [a, b] => warm::set(context, a, b, true).await,
            _ => Err(Failure::new(Code::WarmPair, "a way has two ends: name both devices")),
        },
        Command::Unwarm { a, b } => warm::set(context, a, b, false).await,
        Command::Show { network } => show(context, network.as_deref()).await,
    }
    .map_err(|failure| vec![failure])
}

fn read(file: &Path) -> Result<Document, Failure> {
    if file.as_os_str() != "-" {
        return Document::read(file, "the command line");
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|error| {
        Failure::new(Code::ConfigFileDenied, "standard input cannot be read")
            .with(Label::Cause, error.to_string())
    })?;
    Document::from_bytes("-".to_owned(), bytes)
}

/// The path of a network's policy; without a name the only network's.
async fn path(context: &Context<'_>, network: Option<&str>) -> Result<String, Failure> {
    let name = match network {
        Some(name) => name.to_owned(),
        None => {
            let networks: Vec<api::Network> = context.client.get("/api/v1/networks").await?;
            match &networks[..] {
                [one] => one.id.clone(),
                many => {
                    let message =
                        format!("there are {} networks; name one with --network", many.len());
                    return Err(Failure::new(Code::NetworkNotFound, message)
                        .attempt("weft-coordinator network"));
                }
            }
        }
    };
    Ok(format!("/api/v1/networks/{}/policy", segment(&name)))
}

async fn set(context: &Context<'_>, set: &Set, policy: &Policy) -> Result<u8, Failure> {
    let path = path(context, set.network.as_deref()).await?;
    let before: api::Policy = context.client.get(&path).await?;
    let rules = policy.rules.iter().map(|rule| api::Rule {
        name: rule.name.clone(),
        from: rule.from.iter().map(ToString::to_string).collect(),
        to: rule.to.iter().map(ToString::to_string).collect(),
        allow: rule.allow_texts(),
    });
    let new = api::NewPolicy { rules: rules.collect() };
    let target = if set.dry_run { format!("{path}?dry_run=true") } else { path };
    let done: api::PolicySet = context.client.put(&target, before.revision, &new).await?;
    if context.json {
        ui::json("weft.policy-set/1", &done);
        return Ok(0);
    }
    let network = &before.network.name;
    let (rules, devices) = (count(new.rules.len(), "rule"), count(done.devices_affected, "device"));
    ui::out(match (done.revision == before.revision, set.dry_run) {
        (true, _) => format!("policy of {network} is that already, {rules}; nothing changes"),
        (false, true) => {
            format!("policy of {network} would change for {devices}, {rules}; nothing was done")
        }
        (false, false) => format!("policy of {network} set, {rules}; it changes for {devices}"),
    });
    Ok(0)
}

async fn show(context: &Context<'_>, network: Option<&str>) -> Result<u8, Failure> {
    let policy: api::Policy = context.client.get(&path(context, network).await?).await?;
    if context.json {
        ui::json("weft.policy/1", &policy);
        return Ok(0);
    }
    let rules = policy.rules.iter().map(from_api).collect::<Result<_, _>>()?;
    ui::out(format!(
        "# policy of {}, version {}, since {}",
        policy.network.name,
        policy.revision,
        moment(&policy.since)
    ));
    ui::out(policy_file::write(&Policy { rules }).trim_end());
    Ok(0)
}

fn from_api(rule: &api::Rule) -> Result<Rule, Failure> {
    let wrong =
        |error: &dyn core::fmt::Display| Failure::new(Code::SocketAnswer, error.to_string());
    let selectors = |texts: &[String]| {
        texts
            .iter()
            .map(|text| text.parse().map_err(|error: crate::domain::tags::TagError| wrong(&error)))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut allow = Vec::new();
    for text in &rule.allow {
        allow.extend(parse_traffic(text).map_err(|error| wrong(&error))?);
    }
    Ok(Rule {
        name: rule.name.clone(),
        from: selectors(&rule.from)?,
        to: selectors(&rule.to)?,
        allow,
    })
}
