//! The simulated internet without any program of ours: what it adds by itself.

use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, ONE_WAY, Plan};
use crate::measure::{Pings, pings, tcp_mbps};
use crate::ui;

/// How much longer than twice the delay the shortest round trip may take. Not
/// the median: on a busy machine that one measures the other programs.
const TOLERANCE: Duration = Duration::from_millis(4);

/// Echo requests where chance is looked at.
const ROUNDS: u32 = 100;
/// Up to this much later.
const JITTER: Duration = Duration::from_millis(10);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("a", 21), ("b", 22), ("c", 23)];
    let seed = stage.options.seed.unwrap_or(1);
    let plan = Plan { hosts: &hosts, seed, ..Plan::new("core", Families::Both) };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", "core, a, b, c", None);
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
    faults(stage, &internet)?;
    let (forwarded, lost) = internet.counters();
    document["frames"] = json!({"forwarded": forwarded, "lost": lost});
    Ok(document)
}

/// What links do to frames when they are told to.
fn faults(stage: &mut Stage<'_>, internet: &Internet) -> Result<()> {
    let ask = |to: &str, count: u32| -> Result<Pings> {
        let limit = if count > 5 { 3 * ONE_WAY + 2 * JITTER } else { 6 * ONE_WAY };
        pings(internet.host("a")?.namespace(), internet.host(to)?.ipv4(), count, limit)
    };
    let judge = |name: &str, holds: bool, answers: &Pings| {
        let text = format!("{} of {} answered", answers.received(), answers.sent);
        if holds { Ok(text) } else { Err(Failure::expectation(format!("{name}: {text}"))) }
    };
    // A request and its answer cross the link once each: 19 in 100.
    internet.set_loss("a", 100_000)?;
    let answers = ask("b", ROUNDS)?;
    internet.set_loss("a", 0)?;
    let text = judge("a loss of 10 % each way", (5..=38).contains(&answers.lost()), &answers)?;
    stage.story.done("loss", &text, None);

    internet.set_jitter("a", JITTER)?;
    let answers = ask("b", ROUNDS / 4)?;
    internet.set_jitter("a", Duration::ZERO)?;
    let shortest = answers.times.iter().min().copied().unwrap_or_default();
    let longest = answers.times.iter().max().copied().unwrap_or_default();
    let text = judge("jitter", shortest + JITTER / 2 < longest, &answers)?;
    let text = format!("{text}, {} to {}", ui::span(shortest), ui::span(longest));
    stage.story.done("jitter", &text, None);

    let states = [("cut", true), ("mended", false)];
    for (what, cut) in states {
        internet.set_cut_between(["a", "b"], cut)?;
        let (there, elsewhere) = (ask("b", 2)?, ask("c", 2)?);
        let text = judge("a cut between two", (there.received() == 0) == cut, &there)?;
        judge("a third", elsewhere.received() > 0, &elsewhere)?;
        stage.story.done(&format!("a and b {what}"), &text, None);
    }
    for (what, cut) in states {
        internet.set_cut("a", cut)?;
        let answers = ask("c", 2)?;
        let text = judge("a cut", (answers.received() == 0) == cut, &answers)?;
        stage.story.done(&format!("a {what}"), &text, None);
    }
    Ok(())
}
