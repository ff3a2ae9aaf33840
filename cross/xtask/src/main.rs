//! `cargo xtask`: what the house checks and measures about itself.
//!
//! `layers` and `sizes` are also tests of this package, so that a plain
//! `cargo test` finds what they find.

mod bench_boards;
mod bench_chip;
mod bench_coordinator;
mod bench_noise;
mod bench_relay;
mod clock;
mod edges;
mod firmware;
mod footprint;
mod fuzz;
mod layers;
mod out;
mod report;
mod sizes;
mod source;
mod suite;
mod tables;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What the house checks and measures about itself")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Checks who imports whom: modules, crates, ciphers, SQL, unsafe code
    Layers,
    /// Checks the length of functions, files and inline tests
    Sizes,
    /// Measures
    Bench {
        #[command(subcommand)]
        what: Bench,
        /// One JSON document
        #[arg(long, global = true)]
        json: bool,
    },
    /// Makes a firmware crate from the template, with packages of the crates that it links
    Firmware {
        /// Where: a folder that is not there yet, or is empty
        folder: PathBuf,
    },
    /// Fuzzes decoders and state machine borders; fails if a promise breaks
    Fuzz {
        /// One of the folders in hil-tests/fuzz/corpus; all if not given
        target: Option<String>,
        /// How long each target runs
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u32,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Runs the tests in groups, one line each, and ends with a verdict
    Test {
        /// Also what is long: every interop cell, ignored tests, licences
        #[arg(long)]
        full: bool,
        /// Only the groups whose name begins so
        #[arg(long, value_name = "GROUP")]
        only: Option<String>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Image, sections and free RAM of the ESP32 boards' firmware
    Boards,
    /// Instructions, flash memory and RAM that the agent costs a microcontroller
    Chip,
    /// What a device costs the coordinator, in fleets of several sizes
    Coordinator {
        /// Devices of each fleet
        #[arg(long, value_name = "N,…", value_delimiter = ',')]
        #[arg(default_values_t = [1_000, 5_000, 10_000])]
        #[arg(value_parser = clap::value_parser!(u32).range(50..=12_000))]
        devices: Vec<u32>,
    },
    /// Size of `weft` on disk and in memory with two peers
    Footprint,
    /// Packets per CPU second of the relay and of coturn, memory per allocation
    Relay,
    /// WireGuard's ciphers and handshake against boringtun's, interleaved
    Noise,
}

fn main() -> ExitCode {
    let root = source::workspace_root();
    match Arguments::parse().task {
        Task::Layers => out::report("layers", &layers::check(&root)),
        Task::Sizes => out::report("sizes", &sizes::check(&root)),
        Task::Bench { what: Bench::Coordinator { devices }, json } => {
            bench_coordinator::run(&root, &devices, json)
        }
        Task::Bench { what: Bench::Boards, json } => bench_boards::run(&root, json),
        Task::Bench { what: Bench::Chip, json } => bench_chip::run(&root, json),
        Task::Bench { what: Bench::Footprint, json } => footprint::run(&root, json),
        Task::Bench { what: Bench::Relay, json } => bench_relay::run(&root, json),
        Task::Bench { what: Bench::Noise, json } => bench_noise::run(json),
        Task::Firmware { folder } => firmware::run(&root, &folder),
        Task::Fuzz { target, seconds, json } => fuzz::run(&root, target.as_deref(), seconds, json),
        Task::Test { full, only } => suite::run(&root, full, only.as_deref()),
    }
}
