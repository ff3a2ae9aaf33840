//! Wires and forwards, decides nothing.

use std::process::ExitCode;

use clap::Parser as _;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::{
    Args, Color, Command, Config as ConfigCommand, completions, coordinator_key, remote, ui,
};
use crate::config::{self, Config, Overrides};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::clock::Clock as _;

mod backup;
mod broker;
mod clock;
mod files;
mod holder;
mod init;
mod key_change;
mod log;
mod place;
mod recover;
mod relays;
mod secret_file;
mod serve;
mod stun;
mod tls;
mod with_relay;

use clock::{RANDOM, SystemClock};
use init::{InitRequest, Initialised};

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match args.common.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(failures) => {
            ui::failures(&failures, args.common.json);
            ExitCode::from(failures.first().map_or(70, Failure::exit))
        }
    }
}

fn run(args: &Args) -> Result<u8, Vec<Failure>> {
    let overrides = args.overrides();
    let now = SystemClock.unix_ms();
    if matches!(args.command, Command::Init(_) | Command::Serve(_) | Command::Config(_)) {
        warn_of_variables(&overrides);
    }
    match &args.command {
        Command::Init(wanted) => {
            let request = InitRequest {
                overrides,
                network: wanted.network.clone(),
                ipv4: wanted.ipv4.clone(),
                allow_private: wanted.allow_private,
            };
            let pending = init::prepare(&request, RANDOM, UnixMs(now))?;
            // Shown first: an installation whose recovery key nobody saw is
            // worse than none.
            say_made(&pending.made, args).map_err(|error| vec![unseen(&error)])?;
            pending.finish().map_err(|failure| vec![failure])?;
            Ok(0)
        }
        Command::Recover(wanted) => {
            let config = config::load(&overrides)?;
            recover::run(&config.data, wanted).map_err(|failure| vec![failure])
        }
        Command::CoordinatorKey(coordinator_key::Command::Switch(wanted)) => {
            let config = config::load(&overrides)?;
            let form = (args.common.json, args.common.quiet);
            key_change::switch(&config, wanted, UnixMs(now), form).map_err(|failure| vec![failure])
        }
        Command::Backup(_) | Command::Restore(_) => {
            let config = config::load(&overrides)?;
            backup::run(args, &config, UnixMs(now)).map_err(|failure| vec![failure])
        }
        Command::Config(ConfigCommand::Check) => {
            let config = config::load(&overrides)?;
            say_config(&config, &overrides, args);
            Ok(0)
        }
        Command::Completions(wanted) => {
            completions::script(wanted);
            Ok(0)
        }
        Command::Serve(wanted) => {
            let config = config::load(&overrides)?;
            log::start(&config.log);
            serve::serve(&config, wanted.with_relay).map_err(|failure| vec![failure])
        }
        Command::Key(_)
        | Command::CoordinatorKey(_)
        | Command::Device(_)
        | Command::Policy(_)
        | Command::Relay(_)
        | Command::Network(_)
        | Command::Sessions(_)
        | Command::Why(_)
        | Command::WhyNot(_)
        | Command::Audit(_)
        | Command::Metrics
        | Command::Complete(_) => {
            let config = config::load(&overrides)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| {
                vec![
                    Failure::new(Code::InternalFault, "no runtime")
                        .with(Label::Cause, error.to_string()),
                ]
            })?;
            runtime.block_on(remote::run(args, &config, now))
        }
    }
}

fn warn_of_variables(overrides: &Overrides) {
    for (name, near) in overrides.unknown() {
        let near = near.map_or_else(String::new, |near| format!("; there is {near}"));
        let sentence = format!("{name} is no setting and is ignored (environment){near}");
        ui::warning("config.env", &sentence, "weft-coordinator config check");
    }
}

#[derive(Serialize)]
struct Made<'a> {
    config: String,
    key_file: String,
    database: String,
    network: &'a str,
    ipv4: String,
    ipv6: String,
    fingerprint: &'a str,
    recovery_key: &'a str,
}

/// The recovery key reached nobody.
fn unseen(error: &std::io::Error) -> Failure {
    let message = "standard output takes no recovery key; nothing was made";
    Failure::new(Code::OutputLost, message).with(Label::Cause, error.to_string())
}

fn say_made(made: &Initialised, args: &Args) -> std::io::Result<()> {
    let overlay = &made.overlay;
    let ipv4 = format!("{}/{}", overlay.ipv4, overlay.ipv4_len);
    let (config, key, database) =
        (made.config.display(), made.key.display(), made.database.display());
    if args.common.json {
        let (address, len) = overlay.prefix_v6();
        let made = Made {
            config: config.to_string(),
            key_file: key.to_string(),
            database: database.to_string(),
            network: &made.network,
            ipv4,
            ipv6: format!("{address}/{len}"),
            fingerprint: &made.fingerprint,
            recovery_key: &made.recovery,
        };
        return ui::json_once("weft.init/1", &made);
    }
    if args.common.quiet {
        return ui::out_once(&made.recovery);
    }
    let paths = [config.to_string(), key.to_string(), database.to_string()];
    let width = paths.iter().map(String::len).max().unwrap_or(0);
    let [config, key, database] = paths;
    let config = if made.config_was_there {
        format!("kept     {config:width$}  it was there; its settings are in force")
    } else {
        format!("created  {config:width$}  settings, all of them, commented")
    };
    let text = format!(
        "{config}
created  {key:width$}  0600, root of trust, not in the database
created  {database:width$}  network {network}, {ipv4} and IPv6

coordinator key   {fingerprint}
recovery key      {recovery}
                  shown once; write it down: it saves a lost key file
open these ports  TCP {port} and UDP {port}
next              sudo systemctl enable --now weft-coordinator",
        network = made.network,
        fingerprint = made.fingerprint,
        recovery = &*made.recovery,
        port = made.port,
    );
    ui::out_once(&Zeroizing::new(text))
}

#[derive(Serialize)]
struct Settings<'a> {
    file: String,
    settings: Vec<Setting<'a>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    name: &'a str,
    value: &'a str,
    source: String,
}

fn say_config(config: &Config, overrides: &Overrides, args: &Args) {
    let (file, _) = overrides.file();
    if args.common.json {
        let settings = config.resolved.iter().map(|one| Setting {
            name: &one.name,
            value: &one.value,
            source: one.source.to_string(),
        });
        let file = file.display().to_string();
        ui::json("weft.config/1", &Settings { file, settings: settings.collect() });
        return;
    }
    for one in &config.resolved {
        let value = if one.value.is_empty() { crate::cli::format::NOTHING } else { &one.value };
        ui::out(format!("{:27}  {value:30}  {}", one.name, one.source));
    }
}
