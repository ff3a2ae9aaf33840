//! How many files may be open, and what that is enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::format::grouped;
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
    if let Some(sentence) = files.and_then(|files| sentence(files, limits, enrolled)) {
        let attempt = "LimitNOFILE=65536 in the unit (the packaged unit has it)";
        ui::warning("serve.files-limit", &sentence, attempt);
    }
}

fn sentence(files: u64, limits: &Limits, enrolled: usize) -> Option<String> {
    let (fit, word) = match limits.mqtt {
        1 => ("fits", "device"),
        _ => ("fit", "devices"),
    };
    let are = if enrolled == 1 { "is" } else { "are" };
    let number = |number: usize| grouped(number as u64);
    (enrolled.saturating_mul(2) > limits.mqtt).then(|| {
        format!(
            "open files are limited to {}; about {} {word} {fit}, {} {are} enrolled",
            grouped(files),
            number(limits.mqtt),
            number(enrolled)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_told_of_in_time() {
        let limits = Limits { mqtt: 900, ..Limits::within(1_024) };
        assert_eq!(
            sentence(1_024, &limits, 10_000).unwrap(),
            "open files are limited to 1,024; about 900 devices fit, 10,000 are enrolled"
        );
        assert!(sentence(1_024, &limits, 451).is_some(), "before the last one is refused");
        assert_eq!(sentence(1_024, &limits, 450), None);
    }
}
