//! What the day's bytes were for.

use serde::Serialize;

use crate::ipc::protocol::Data;
use crate::output::{Symbols, style, units};

use super::labelled;

/// When the next day begins.
pub(in crate::cli) const MIDNIGHT: &str = "00:00 UTC";

#[derive(Serialize)]
pub(super) struct DataDocument {
    day: Option<String>,
    budget_bytes: Option<u64>,
    metered: bool,
    used_up: bool,
    bytes: u64,
    by_cause: Causes,
    payload_bytes: u64,
}

#[derive(Serialize)]
struct Causes {
    control: u64,
    keepalive: u64,
    probe: u64,
    relay_overhead: u64,
}

pub(super) fn document(data: &Data) -> DataDocument {
    DataDocument {
        day: data.day.map(units::date),
        budget_bytes: data.budget,
        metered: data.metered,
        used_up: data.used_up,
        bytes: data.overhead(),
        by_cause: Causes {
            control: data.control,
            keepalive: data.keepalive,
            probe: data.probe,
            relay_overhead: data.relay_overhead,
        },
        payload_bytes: data.payload,
    }
}

/// `data today  18.2 kB of 1 MB (control 9.1, keepalive 4.0, probes 5.1)`: causes in
/// the unit of the sum.
pub(super) fn line(data: &Data, symbols: Symbols) -> String {
    let sum = data.overhead();
    let causes = [
        ("control", Some(data.control)),
        ("keepalive", Some(data.keepalive)),
        ("probes", Some(data.probe)),
        ("relay", Some(data.relay_overhead).filter(|bytes| *bytes > 0)),
    ];
    let causes = causes
        .into_iter()
        .filter_map(|(name, bytes)| Some(format!("{name} {}", units::traffic_as(bytes?, sum))));
    let causes = causes.collect::<Vec<_>>().join(", ");
    let budget = data.budget.map(|budget| format!(" of {}", units::size(budget)));
    let since = if data.day.is_some() { "" } else { "; since the start" };
    let text = format!("{}{} ({causes}){since}", units::traffic(sum), budget.unwrap_or_default());
    if data.used_up {
        let text = format!("{text}; used up: better ways are looked for from {MIDNIGHT} on");
        return labelled("data today", symbols.warn, style::WARN, text);
    }
    format!("{:<11} {text}", "data today")
}
