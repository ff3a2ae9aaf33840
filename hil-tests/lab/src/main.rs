//! `weft-lab`: real programs in network namespaces on a simulated internet.

mod chip;
mod clock;
mod dice;
mod disk;
mod dns64;
mod echoes;
mod failure;
mod guest;
mod initramfs;
mod internet;
mod load;
mod measure;
mod mesh;
mod nat;
mod net;
mod process;
mod relay;
mod run;
mod scenario;
mod sight;
mod site;
mod tap;
mod turn;
mod ui;
mod wall;
mod watch;
mod wireguard;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use failure::{During, Failure, Result, status};

/// Real programs in network namespaces on a simulated internet
#[derive(Parser)]
#[command(name = "weft-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names every scenario and what it shows
    List,
    /// Runs one scenario; status 0 only if what it promises holds
    Run(RunArguments),
    /// Removes what killed runs left, and the logs of failed ones
    Clean,
}

#[derive(Args)]
struct RunArguments {
    /// One of `weft-lab list`
    name: String,
    #[command(flatten)]
    options: scenario::Options,
}

fn main() -> ExitCode {
    let (json, result) = match Arguments::parse().command {
        Command::List => (false, list()),
        Command::Run(arguments) => (arguments.options.json, run_scenario(&arguments)),
        Command::Clean => (false, clean()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.is_stop() {
                ui::note("stopped; nothing left behind");
            } else {
                ui::error(&failure);
            }
            if json {
                ui::document(&failure.json());
            }
            ExitCode::from(failure.status())
        }
    }
}

fn list() -> Result<()> {
    ui::answer("NAME        WHAT IT SHOWS");
    for scenario in scenario::ALL {
        ui::answer(&format!("{:<10}  {}", scenario.name, scenario.about));
    }
    Ok(())
}

fn run_scenario(arguments: &RunArguments) -> Result<()> {
    let name = arguments.name.as_str();
    let scenario =
        scenario::ALL.iter().find(|scenario| scenario.name == name).ok_or_else(|| {
            Failure::new("lab.unknown", format!("there is no scenario {name}"))
                .line("try", "weft-lab list")
                .exit(status::USAGE)
        })?;
    net::signal::catch().during("listen to Ctrl-C")?;
    scenario::run(scenario, &arguments.options)
}

fn clean() -> Result<()> {
    let said = run::sweep()?;
    let logs = run::remove_logs()?;
    if said.is_empty() && logs == 0 {
        ui::answer("nothing to clean up");
    }
    said.iter().for_each(|sentence| ui::answer(sentence));
    if logs > 0 {
        ui::answer(&format!("removed the logs of {}", ui::count(logs, "run")));
    }
    Ok(())
}
