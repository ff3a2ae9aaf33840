//! The simulated internet without any program of ours: what it adds by itself.

use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, ONE_WAY};
use crate::measure::{pings, tcp_mbps};
use crate::ui;

/// How much longer than twice the delay the shortest round trip may take. Not
/// the median: on a busy machine that one measures the other programs.
const TOLERANCE: Duration = Duration::from_millis(4);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let internet =
        Internet::build(stage.run, "core", &[("a", 21), ("b", 22)], &[], Families::Both)?;
    stage.story.done("internet", "core, a, b", None);
    let (a, b) = (internet.host("a")?, internet.host("b")?);
    let mut document = json!({});
    for (family, address) in [("ipv4", b.ipv4()), ("ipv6", b.ipv6())] {
        let answers = pings(a.namespace(), address, 20, Duration::from_secs(1))?;
        let median = answers.median().unwrap_or_default();
        let shortest = answers.times.iter().min().copied().unwrap_or_default();
        let text = format!("{address}, {} of {}", answers.received(), answers.sent);
        stage.story.done(family, &text, Some(median));
        let floor = 2 * ONE_WAY;
        if answers.lost() > 0 || shortest < floor || shortest > floor + TOLERANCE {
            return Err(Failure::expectation(format!(
                "{family}: {} of {} answered, the shortest {}, expected {}",
                answers.received(),
                answers.sent,
                ui::span(shortest),
                ui::span(floor),
            )));
        }
        let mbps = tcp_mbps(a.namespace(), b.namespace(), address, Duration::from_secs(2))?;
        stage.story.done(family, &format!("one TCP stream {mbps:.0} Mbit/s"), None);
        document[family] = json!({
            "ping_loss_pct": answers.loss_pct(),
            "rtt_us": median.as_micros() as u64,
            "tcp_mbps": mbps.round(),
        });
    }
    let (forwarded, lost) = internet.counters();
    document["frames"] = json!({"forwarded": forwarded, "lost": lost});
    Ok(document)
}
