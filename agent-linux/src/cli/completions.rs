//! Completion: three small scripts that ask `weft complete`, which knows the
//! commands from the parser and the peers from the daemon.

use std::time::Duration;

use clap::{Args, CommandFactory, ValueEnum};

use crate::cli::{Cli, Context};
use crate::failure::Result;
use crate::ipc::client::Client;
use crate::ipc::protocol::{Answer, Request};

/// A person who presses Tab waits no longer than this for names.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
pub(super) struct Arguments {
    /// Which shell
    shell: Shell,
}

#[derive(Args)]
pub(super) struct Words {
    /// The words after `weft`, the last one unfinished
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

const BASH: &str = r#"_weft() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$(weft complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _weft weft"#;
const ZSH: &str = r#"#compdef weft
_weft() {
    compadd -- ${(f)"$(weft complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}
}
compdef _weft weft"#;
const FISH: &str = r#"complete -c weft -f -a '(weft complete -- (commandline -opc)[2..] "$(commandline -ct)" 2>/dev/null)'"#;

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    context.ui.answer(match arguments.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    });
    Ok(0)
}

pub(super) fn complete(context: &mut Context, words: &Words) -> Result<u8> {
    let (current, before) = match words.words.split_last() {
        Some((current, before)) => (current.as_str(), before),
        None => ("", &[][..]),
    };
    let names = || peer_names(context).unwrap_or_default();
    for word in candidates(before, current, names) {
        context.ui.answer(&word);
    }
    Ok(0)
}

/// What may stand at the place of `current`.
fn candidates(
    before: &[String],
    current: &str,
    names: impl FnOnce() -> Vec<String>,
) -> Vec<String> {
    let cli = Cli::command();
    let typed = before.iter().find_map(|word| cli.find_subcommand(word));
    let command = typed.unwrap_or(&cli);
    let mut found: Vec<String> = Vec::new();
    if current.starts_with('-') {
        let options = command.get_arguments().chain(cli.get_arguments());
        found.extend(options.filter_map(|option| Some(format!("--{}", option.get_long()?))));
    } else if typed.is_none() {
        let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
        found.extend(commands.map(|command| command.get_name().to_owned()));
    } else if command.get_name() == "ping" {
        found.extend(names());
    } else {
        let places = command.get_positionals();
        let values = places.flat_map(clap::Arg::get_possible_values);
        found.extend(values.map(|value| value.get_name().to_owned()));
    }
    found.retain(|word| word.starts_with(current));
    found.sort_unstable();
    found.dedup();
    found
}

/// No daemon, no names, and no error text either.
fn peer_names(context: &Context) -> Option<Vec<String>> {
    let mut client = Client::connect(&context.config.socket, "status").ok()?;
    client.send(Request::Status).ok()?;
    match client.receive(Some(PATIENCE)).ok()?? {
        Answer::Status(status) => Some(status.peers.into_iter().map(|peer| peer.name).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &[&str]) -> Vec<String> {
        let words: Vec<String> = line.iter().map(ToString::to_string).collect();
        let (current, before) = words.split_last().unwrap();
        candidates(before, current, || vec!["gw-a".to_owned(), "gw-b".to_owned()])
    }

    #[test]
    fn commands_options_and_peers_complete() {
        assert_eq!(complete(&["p"]), ["peers", "ping"]);
        assert_eq!(complete(&["ping", "gw"]), ["gw-a", "gw-b"]);
        assert_eq!(complete(&["completions", ""]), ["bash", "fish", "zsh"]);
        assert_eq!(complete(&["status", "--js"]), ["--json"]);
        assert!(complete(&["join", "--"]).contains(&"--state".to_owned()));
        assert!(!complete(&[""]).contains(&"complete".to_owned()));
    }
}
