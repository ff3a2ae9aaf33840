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
    let options = || command.get_arguments().chain(cli.get_arguments());
    let shown = |command: &&clap::Command| !command.is_hide_set();
    let mut found: Vec<String> = Vec::new();
    let valued = before.last().and_then(|word| {
        let mut options = options();
        options.find(|option| is_called(option, word) && option.get_action().takes_values())
    });
    if let Some(option) = valued {
        let values = option.get_possible_values();
        found.extend(values.iter().map(|value| value.get_name().to_owned()));
        if names_a_file(option) {
            found.extend(files(current));
        }
    } else if current.starts_with('-') {
        let options = options().filter(|option| !option.is_hide_set());
        found.extend(options.filter_map(|option| Some(format!("--{}", option.get_long()?))));
        found.push("--help".to_owned());
    } else if typed.is_none() || typed.is_some_and(|typed| typed.get_name() == "help") {
        let commands = cli.get_subcommands().filter(shown);
        found.extend(commands.map(|command| command.get_name().to_owned()));
        if typed.is_none() {
            found.push("help".to_owned());
        }
    } else if matches!(command.get_name(), "ping" | "why") {
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

/// Whether the word is this option, long or short.
fn is_called(option: &clap::Arg, word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => word
            .strip_prefix('-')
            .is_some_and(|short| option.get_short().is_some_and(|own| short == own.to_string())),
    }
}

fn names_a_file(option: &clap::Arg) -> bool {
    matches!(option.get_id().as_str(), "file" | "state" | "config" | "socket")
}

/// Names below the folder that was typed so far; a folder ends with a slash.
fn files(current: &str) -> Vec<String> {
    let typed = current.rfind('/').map_or("", |end| &current[..=end]);
    let folder = if typed.is_empty() { "." } else { typed };
    let Ok(entries) = std::fs::read_dir(folder) else {
        // A folder that cannot be read has nothing to offer.
        return Vec::new();
    };
    let names = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let end = if entry.path().is_dir() { "/" } else { "" };
        Some(format!("{typed}{name}{end}"))
    });
    names.collect()
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
        assert_eq!(complete(&["why", "gw"]), ["gw-a", "gw-b"]);
        assert_eq!(complete(&["completions", ""]), ["bash", "fish", "zsh"]);
        assert_eq!(complete(&["status", "--js"]), ["--json"]);
        assert!(complete(&["join", "--"]).contains(&"--state".to_owned()));
        assert!(complete(&["join", "--"]).contains(&"--help".to_owned()));
        assert!(!complete(&["up", "--d"]).contains(&"--detached".to_owned()));
        assert_eq!(complete(&["status", "--color", ""]), ["always", "auto", "never"]);
        assert_eq!(complete(&["help", "pi"]), ["ping"]);
        assert!(complete(&["he"]).contains(&"help".to_owned()));
        assert_eq!(complete(&["join", "--file", "src/ma"]), ["src/main.rs"]);
        assert_eq!(complete(&["up", "--state", "sr"]), ["src/"]);
        assert!(!complete(&[""]).contains(&"complete".to_owned()));
    }
}
