//! `weft` alone: the commands, grouped.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::output::{Ui, paint, style};

const GROUPS: [(&str, &[&str]); 3] = [
    ("start", &["join", "up", "down", "leave"]),
    ("look", &["status", "peers", "ping", "why"]),
    ("mend", &["logs"]),
];

pub(super) fn print(ui: &mut Ui) {
    let cli = Cli::command();
    for (group, names) in GROUPS {
        ui.answer(&paint(style::BOLD, group));
        for name in names {
            let command = cli.find_subcommand(name);
            let about = command.and_then(|command| command.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            let name = paint(style::COMMAND, format_args!("{name:<8}"));
            ui.answer(&format!("  {name}{about}"));
        }
    }
    ui.answer("");
    ui.answer("  sudo weft join WEFT1…    the line that weft-coordinator key create printed");
    ui.answer("  weft ping gw-b           weft COMMAND --help says more");
}
