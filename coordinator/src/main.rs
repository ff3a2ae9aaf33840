//! The program `weft-coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_coordinator::app::main()
}
