//! Everything that goes to standard output and standard error.
//!
//! stdout holds the answer only. Colour is never the only carrier of meaning;
//! `anstream` takes it away where nobody can see it.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Label};

/// Writes a line of the answer.
pub(crate) fn out(line: impl AsRef<str>) {
    // A reader that went away (`| head`) is no failure of ours.
    let _ = writeln!(anstream::stdout(), "{}", line.as_ref());
}

/// Writes a part of the answer that is shown this once: whoever does not get it
/// must hear so.
///
/// # Errors
///
/// What the system says, also of a reader that went away.
pub(crate) fn out_once(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// [`json`] for an answer that is shown this once.
///
/// # Errors
///
/// What the system says.
pub(crate) fn json_once<T: Serialize>(schema: &str, body: &T) -> io::Result<()> {
    out_once(&zeroize::Zeroizing::new(text(&Document { schema, body })))
}

/// Writes bytes of the answer as they are, colour and all.
pub(crate) fn out_raw(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a line beside the answer.
pub(crate) fn note(line: impl AsRef<str>) {
    let _ = writeln!(anstream::stderr(), "{}", line.as_ref());
}

/// Writes a warning: it goes on, and here is what is affected.
pub(crate) fn warning(code: &str, sentence: &str, attempt: &str) {
    note(format!("\x1b[1;33mwarning[{code}]:\x1b[0m {sentence}\n  try:  {attempt}"));
}

/// Writes a prompt and reads a line; `None` = there was none.
pub(crate) fn ask(prompt: &str) -> Option<String> {
    let mut stderr = anstream::stderr();
    let _ = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim().to_owned())
}

/// Whether a person can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Columns and rows of the terminal that shows the answer.
pub(crate) fn terminal() -> Option<(usize, usize)> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let (width, height) = terminal_size::terminal_size()?;
    Some((width.0.into(), height.0.into()))
}

/// Whether the terminal shows colours.
pub(crate) fn has_colour() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// A document with its schema, the first key.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// Writes the one JSON document of an answer: pretty on a terminal, one line in
/// a pipe.
pub(crate) fn json<T: Serialize>(schema: &str, body: &T) {
    out(text(&Document { schema, body }));
}

fn text<T: Serialize>(value: &T) -> String {
    let text = if io::stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    // Our own types always have a text.
    text.unwrap_or_default()
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    params: std::collections::BTreeMap<&'a str, &'a str>,
    r#try: Vec<&'a str>,
    exit: u8,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

/// Writes failures: for people on stderr, and with `as_json` the first as a
/// document on stdout.
pub(crate) fn failures(failures: &[Failure], as_json: bool) {
    for failure in failures {
        let shown = failure.to_string();
        let head = format!("error[{}]:", failure.code.text());
        note(shown.replacen(&head, &format!("\x1b[1;31m{head}\x1b[0m"), 1));
    }
    if let (Some(failure), true) = (failures.first(), as_json) {
        let tries =
            failure.labels.iter().filter(|(label, _)| matches!(label, Label::Try | Label::Or));
        out(text(&ErrorDocument {
            error: ErrorBody {
                code: failure.code.text(),
                message: &failure.message,
                params: failure.params.iter().map(|(name, value)| (&**name, &**value)).collect(),
                r#try: tries.map(|(_, text)| text.as_str()).collect(),
                exit: failure.exit(),
            },
        }));
    }
}
