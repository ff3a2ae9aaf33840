//! `weft down`: the daemon takes everything back and ends.

use std::time::Duration;

use crate::cli::{Context, peer};
use crate::failure::Result;
use crate::ipc::client::unexpected;
use crate::ipc::protocol::{Answer, Request, Stopped};
use crate::output::units;

/// How long the daemon may take to take everything back.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn run(context: &mut Context) -> Result<u8> {
    let mut client = peer::connect(&context.config, "down")?;
    let Some(Answer::Stopped(stopped)) = client.end(Request::Down, PATIENCE)? else {
        return Err(unexpected());
    };
    context.ui.answer(&format!("down: {}; still enrolled", removed(stopped)));
    Ok(0)
}

/// `interface, 2 routes removed`.
pub(super) fn removed(stopped: Stopped) -> String {
    match (stopped.interface, stopped.routes) {
        (false, _) => "there was no interface yet".to_owned(),
        (true, 0) => "interface removed".to_owned(),
        (true, routes) => format!("interface, {} removed", units::count(routes, "route")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_counted() {
        let removed = |interface, routes| removed(Stopped { interface, routes });
        assert_eq!(removed(true, 2), "interface, 2 routes removed");
        assert_eq!(removed(true, 1), "interface, 1 route removed");
        assert_eq!(removed(false, 0), "there was no interface yet");
    }
}
