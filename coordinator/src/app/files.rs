//! How many files may be open, and what that is enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::format::{count, grouped};
use crate::cli::ui;
use crate::transport::listen::Limits;

/// Raises the limit of open files as far as this user may, and says how many
/// there may be now; `None` = any number.
pub(crate) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // What cannot be raised stays, and is said when it is too low.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// Warns if the devices that are enrolled hardly fit.
pub(crate) fn warn(files: Option<u64>, limits: &Limits, enrolled: usize) {
    let Some(files) = files.filter(|_| enrolled.saturating_mul(2) > limits.mqtt) else { return };
    let fit = count(limits.mqtt, "device");
    let verb = if limits.mqtt == 1 { "fits" } else { "fit" };
    let are = if enrolled == 1 { "is" } else { "are" };
    ui::warning(
        "serve.files-limit",
        &format!(
            "open files are limited to {}; about {fit} {verb}, {} {are} enrolled",
            grouped(files),
            grouped(enrolled as u64)
        ),
        "LimitNOFILE=65536 in the unit (the packaged unit has it)",
    );
}
