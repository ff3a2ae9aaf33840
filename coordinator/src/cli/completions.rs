//! Completion: three small scripts that ask `weft-coordinator complete`, which
//! knows the commands from the parser and the names from the running server.

use core::time::Duration;

use clap::{Args as ClapArgs, CommandFactory as _, ValueEnum};

use crate::api;

use super::remote::Context;
use super::{Args, relays, tombstones, ui};

/// A person who presses Tab waits no longer than this for names.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Which script.
#[derive(Debug, ClapArgs)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

/// What was typed.
#[derive(Debug, ClapArgs)]
pub(crate) struct Words {
    /// The words after `weft-coordinator`, the last one unfinished
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

const BASH: &str = r#"_weft_coordinator() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$(weft-coordinator complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _weft_coordinator weft-coordinator"#;
const ZSH: &str = r#"#compdef weft-coordinator
_weft_coordinator() {
    compadd -- ${(f)"$(weft-coordinator complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}
}
compdef _weft_coordinator weft-coordinator"#;
const FISH: &str = r#"complete -c weft-coordinator -f -a '(weft-coordinator complete -- (commandline -opc)[2..] "$(commandline -ct)" 2>/dev/null)'"#;

/// Prints a shell's script.
pub(crate) fn script(completions: &Completions) {
    ui::out(match completions.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    });
}

/// Names that only the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Devices,
    Deleted,
    Keys,
    Relays,
}

/// What may stand at a place.
#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    Known(Vec<String>),
    Names(Names),
}

/// Prints what may stand where the last word stands, a line each.
pub(super) async fn complete(context: &Context<'_>, words: &Words) {
    let (current, before) = match words.words.split_last() {
        Some((current, before)) => (current.as_str(), before),
        None => ("", &[][..]),
    };
    let mut found = match candidates(before, current) {
        Candidates::Known(found) => found,
        // No server, no names, and no error text either.
        Candidates::Names(wanted) => {
            let names = tokio::time::timeout(PATIENCE, names(context, wanted)).await;
            names.ok().flatten().unwrap_or_default()
        }
    };
    found.retain(|word| word.starts_with(current));
    found.sort_unstable();
    found.dedup();
    found.iter().for_each(ui::out);
}

async fn names(context: &Context<'_>, wanted: Names) -> Option<Vec<String>> {
    Some(match wanted {
        Names::Devices => {
            let path = "/api/v1/devices?limit=500&q=";
            let page: api::Page<api::Device> = context.client.get(path).await.ok()?;
            page.items.into_iter().map(|device| device.name).collect()
        }
        Names::Deleted => tombstones::names(context).await?,
        Names::Relays => relays::names(context).await?,
        Names::Keys => {
            let path = "/api/v1/enrollment-keys";
            let page: api::Page<api::EnrolmentKey> = context.client.get(path).await.ok()?;
            page.items.into_iter().map(|key| key.name).collect()
        }
    })
}

fn candidates(before: &[String], current: &str) -> Candidates {
    let cli = Args::command();
    let mut command = &cli;
    let mut path = Vec::new();
    for word in before {
        if let Some(found) = command.find_subcommand(word) {
            command = found;
            path.push(found.get_name());
        }
    }
    if current.starts_with('-') {
        let options = command.get_arguments().chain(cli.get_arguments());
        let options = options.filter_map(|option| Some(format!("--{}", option.get_long()?)));
        return Candidates::Known(options.collect());
    }
    if command.has_subcommands() {
        let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
        return Candidates::Known(commands.map(|one| one.get_name().to_owned()).collect());
    }
    match path[..] {
        ["device", "list" | "add-wireguard"] => Candidates::Known(Vec::new()),
        ["device", "forget"] => Candidates::Names(Names::Deleted),
        ["device", _] | ["sessions" | "why"] => Candidates::Names(Names::Devices),
        ["relay", "add" | "list"] => Candidates::Known(Vec::new()),
        ["relay", _] => Candidates::Names(Names::Relays),
        ["key", "revoke"] => Candidates::Names(Names::Keys),
        _ => {
            let values = command.get_positionals().flat_map(clap::Arg::get_possible_values);
            Candidates::Known(values.map(|value| value.get_name().to_owned()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &[&str]) -> Candidates {
        let words: Vec<String> = line.iter().map(ToString::to_string).collect();
        let (current, before) = words.split_last().unwrap();
        candidates(before, current)
    }

    fn known(line: &[&str]) -> Vec<String> {
        match after(line) {
            Candidates::Known(known) => known,
            names @ Candidates::Names(_) => panic!("{names:?}"),
        }
    }

    #[test]
    fn commands_come_from_the_parser_and_names_from_the_server() {
        let first = known(&[""]);
        for word in ["init", "serve", "key", "device", "completions"] {
            assert!(first.iter().any(|one| one == word), "{word}: {first:?}");
        }
        assert!(!first.iter().any(|one| one == "complete"), "it is the scripts' own");
        assert!(known(&["key", ""]).iter().any(|one| one == "revoke"));
        assert_eq!(known(&["completions", ""]), ["bash", "zsh", "fish"]);
        assert!(known(&["key", "create", "--"]).iter().any(|one| one == "--needs-approval"));
        assert!(known(&["key", "create", "--"]).iter().any(|one| one == "--json"));
        assert_eq!(after(&["key", "revoke", "l"]), Candidates::Names(Names::Keys));
        assert_eq!(after(&["relay", "drain", ""]), Candidates::Names(Names::Relays));
        assert_eq!(after(&["relay", "add", ""]), Candidates::Known(Vec::new()));
        assert_eq!(after(&["device", "show", ""]), Candidates::Names(Names::Devices));
        assert_eq!(after(&["why", "gw-a", ""]), Candidates::Names(Names::Devices));
        assert_eq!(after(&["sessions", ""]), Candidates::Names(Names::Devices));
        assert_eq!(after(&["device", "release", ""]), Candidates::Names(Names::Devices));
        assert_eq!(after(&["device", "forget", ""]), Candidates::Names(Names::Deleted));
        assert_eq!(after(&["device", "list", ""]), Candidates::Known(Vec::new()));
    }
}
