//! `weft logs`: what the daemon wrote since it started, as far as it keeps it.

use clap::Args;

use crate::cli::{Context, peer};
use crate::failure::Result;
use crate::ipc::client::unexpected;
use crate::ipc::protocol::{Answer, Request};

#[derive(Args)]
pub(super) struct Arguments {
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only lines that are not older, as 90s, 15m, 1h or 2d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    since: Option<u64>,
    /// Only lines about this peer
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
}

/// Seconds of `90s`, `15m`, `1h`, `2d`.
fn span(text: &str) -> core::result::Result<u64, String> {
    let wrong = || "a span like 90s, 15m, 1h or 2d is needed".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
    number.and_then(|number| number.checked_mul(each)).ok_or_else(wrong)
}

/// Whether a line of either form is about the peer.
fn is_about(line: &str, peer: &str) -> bool {
    let text = format!(" peer={peer}");
    let in_text = line
        .match_indices(&text)
        .any(|(at, found)| matches!(line.as_bytes().get(at + found.len()), None | Some(b' ')));
    in_text || line.contains(&format!("\"peer\":\"{peer}\""))
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = peer::connect(&context.config, "logs")?;
    let follow = arguments.follow;
    client.send(Request::Logs { follow, since_s: arguments.since })?;
    loop {
        match client.receive(None)? {
            Some(Answer::Lines(lines)) => {
                let wanted = |line: &&String| match &arguments.peer {
                    Some(peer) => is_about(line, peer),
                    None => true,
                };
                for line in lines.iter().filter(wanted) {
                    context.ui.answer(line);
                }
            }
            _ => return Err(unexpected()),
        }
        if !follow {
            return Ok(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("2d", 172_800)] {
            assert_eq!(span(text), Ok(seconds));
        }
        for text in ["", "h", "1", "1 h", "-1h", "1w", "99999999999999999999s", "1é"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_about_a_peer_are_told_from_those_about_its_neighbour() {
        let line = "2026-11-23T10:00:00.000Z INFO  peer.up  peer=gw-b path=direct";
        assert!(is_about(line, "gw-b") && !is_about(line, "gw") && !is_about(line, "w-b"));
        assert!(is_about("INFO peer.down peer=gw-b", "gw-b"));
        assert!(is_about("{\"event\":\"peer.up\",\"peer\":\"gw-b\"}", "gw-b"));
    }
}
