//! Completion: three small scripts that ask `weft-relay complete`, which knows the
//! commands from the parser.

use clap::{CommandFactory as _, ValueEnum};

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Which script.
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

/// What was typed.
#[derive(clap::Args)]
pub(crate) struct Words {
    /// The words after `weft-relay`, the last one unfinished
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

const BASH: &str = r#"_weft_relay() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$(weft-relay complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _weft_relay weft-relay"#;
const ZSH: &str = r#"#compdef weft-relay
_weft_relay() {
    compadd -- ${(f)"$(weft-relay complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}
}
compdef _weft_relay weft-relay"#;
const FISH: &str = r#"complete -c weft-relay -a '(weft-relay complete -- (commandline -opc)[2..] "$(commandline -ct)" 2>/dev/null)'"#;

/// Prints a shell's script.
pub(crate) fn script(completions: &Completions) {
    println!(
        "{}",
        match completions.shell {
            Shell::Bash => BASH,
            Shell::Zsh => ZSH,
            Shell::Fish => FISH,
        }
    );
}

/// Prints what may stand where the last word stands, a line each.
pub(crate) fn complete(words: &Words) {
    let (current, before) = match words.words.split_last() {
        Some((current, before)) => (current.as_str(), before),
        None => ("", &[][..]),
    };
    for word in candidates(before, current) {
        println!("{word}");
    }
}

fn candidates(before: &[String], current: &str) -> Vec<String> {
    let cli = crate::Arguments::command();
    let command = before.iter().find_map(|word| cli.find_subcommand(word));
    let mut found: Vec<String> = if current.starts_with('-') {
        let own = command.unwrap_or(&cli).get_arguments();
        let global = cli.get_arguments().filter(|option| option.is_global_set());
        own.chain(global).filter_map(|one| Some(format!("--{}", one.get_long()?))).collect()
    } else if let Some(command) = command {
        let values = command.get_positionals().flat_map(clap::Arg::get_possible_values);
        values.map(|value| value.get_name().to_owned()).collect()
    } else {
        let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
        commands.map(|one| one.get_name().to_owned()).collect()
    };
    found.retain(|word| word.starts_with(current));
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_flags_come_from_the_parser() {
        crate::Arguments::command().debug_assert();
        let after = |before: &[&str], current| {
            let before: Vec<_> = before.iter().map(ToString::to_string).collect();
            candidates(&before, current)
        };
        assert_eq!(after(&[], ""), ["completions", "drain", "join", "status"]);
        assert_eq!(after(&["completions"], ""), ["bash", "fish", "zsh"]);
        assert_eq!(after(&["drain"], "--"), ["--config", "--json", "--off", "--socket", "--state"]);
        assert!(after(&[], "--rel").contains(&"--relay-address".to_owned()));
    }
}
