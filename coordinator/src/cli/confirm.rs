//! Dangerous actions: the effect is said, then the name is asked for.

use crate::failure::{Code, Failure};

use super::ui;

/// What is about to happen.
pub(crate) struct Effect<'a> {
    /// `blocks gw-a (100.93.0.2): 3 devices lose it`.
    pub(crate) sentence: String,
    /// A command that takes it back.
    pub(crate) undo: Option<&'a str>,
    /// What has to be typed: a name, or the number of those without one.
    pub(crate) name: &'a str,
}

/// Goes on only if somebody wants it: by `--yes`, or by typing the name.
///
/// # Errors
///
/// `confirm.needed` where nobody can be asked, `confirm.declined`.
pub(crate) fn confirm(effect: &Effect<'_>, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !ui::can_ask() {
        let message = format!("{}; nobody can be asked here", effect.sentence);
        return Err(
            Failure::new(Code::ConfirmNeeded, message).attempt(format!("{} --yes", own_command()))
        );
    }
    ui::note(&effect.sentence);
    if let Some(undo) = effect.undo {
        ui::note(format!("undo:  {undo}"));
    }
    // Many have no name: then their number is asked for.
    let is_number = effect.name.bytes().all(|byte| byte.is_ascii_digit());
    let what = if is_number { "number" } else { "name" };
    let typed = ui::ask(&format!("type the {what} to go on: "));
    if typed.as_deref() == Some(effect.name) {
        return Ok(());
    }
    let message = format!("nothing was done: the {what} was not typed");
    Err(Failure::new(Code::ConfirmDeclined, message))
}

/// This very command, fit to be pasted.
fn own_command() -> String {
    let quoted = std::env::args_os().map(|argument| quoted(&argument.to_string_lossy()));
    quoted.collect::<Vec<_>>().join(" ")
}

fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("--reason=lost"), "--reason=lost");
        assert_eq!(quoted("stolen 2026"), "'stolen 2026'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
