//! What a device's bytes are for.

use crate::api;
use crate::failure::Failure;

use super::super::format::{count, parse_size, traffic};
use super::super::remote::Context;
use super::{find, path_of, report};

/// A budget, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget(Option<u64>);

/// Reads `1MB` or `none`.
pub(super) fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(Budget(None));
    }
    match parse_size(text) {
        Some(bytes) => Ok(Budget(Some(bytes))),
        None => Err("write a number and B, kB, MB or GB, for example 1MB, or none".to_owned()),
    }
}

pub(super) async fn set(
    context: &Context<'_>,
    device: &str,
    Budget(bytes): Budget,
) -> Result<u8, Failure> {
    let device = find(context, device).await?;
    let path = format!("{}/data-budget", path_of(&device.id));
    let body = api::DataBudget { bytes };
    let action: api::Action = context.client.put(&path, device.revision, &body).await?;
    let name = &action.name;
    let sentence = match bytes {
        Some(bytes) => format!(
            "{name} may spend {} a day on all but payload where bytes cost money; its own \
             setting may be tighter",
            traffic(bytes)
        ),
        None => format!("{name} has no data budget from here"),
    };
    report(context, &action, &sentence);
    Ok(0)
}

/// `18 kB of 1.0 MB (control 9 kB, keepalive 4 kB, probes 5 kB), payload 12 MB`, and
/// the days before.
pub(super) fn facts(
    device: &api::Device,
    days: &[api::DataDay],
) -> impl Iterator<Item = (&'static str, String)> + use<> {
    let today = device.data_today.as_ref().map(|today| ("data today", day(today)));
    let budget = device
        .data_budget_bytes
        .map(|bytes| ("data budget", format!("{} a day, set here", traffic(bytes))));
    let before: Vec<_> = days
        .iter()
        .filter(|one| device.data_today.as_ref().is_none_or(|today| today.day != one.day))
        .collect();
    let most = before.iter().max_by_key(|one| one.bytes);
    let before = most.map(|most| {
        let all = before.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
        let payload = before.iter().fold(0_u64, |sum, one| sum.saturating_add(one.payload_bytes));
        let days = count(before.len(), "day");
        let text = format!(
            "{} in {days}, most on {} ({}); payload {}",
            traffic(all),
            most.day,
            traffic(most.bytes),
            traffic(payload)
        );
        ("data before", text)
    });
    budget.into_iter().chain(today).chain(before)
}

fn day(day: &api::DataDay) -> String {
    let budget = day.budget_bytes;
    let budget = budget.map_or_else(String::new, |bytes| format!(" of {}", traffic(bytes)));
    let causes = day.by_cause;
    let mut parts = vec![
        ("control", causes.control),
        ("keepalive", causes.keepalive),
        ("probes", causes.probe),
    ];
    parts.extend((causes.relay_overhead > 0).then_some(("relay", causes.relay_overhead)));
    let parts: Vec<_> =
        parts.into_iter().map(|(name, bytes)| format!("{name} {}", traffic(bytes))).collect();
    let end = if day.used_up { "; used up, no better ways are looked for today" } else { "" };
    format!(
        "{}{budget} ({}), payload {}{end}",
        traffic(day.bytes),
        parts.join(", "),
        traffic(day.payload_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_size_or_none() {
        assert_eq!(budget("1.5MB"), Ok(Budget(Some(1_500_000))));
        assert_eq!(budget("none"), Ok(Budget(None)));
        assert!(budget("1 meg").is_err_and(|told| told.contains("for example 1MB")));
    }

    #[test]
    fn a_day_is_told_by_cause() {
        let mut today = api::DataDay {
            day: "2026-11-27".to_owned(),
            reported_at: String::new(),
            budget_bytes: Some(1_000_000),
            metered: true,
            used_up: false,
            bytes: 18_211,
            by_cause: api::DataCauses {
                control: 9_120,
                keepalive: 4_032,
                probe: 5_059,
                relay_overhead: 0,
            },
            payload_bytes: 12_045_992,
        };
        let told = day(&today);
        assert!(told.starts_with("18"), "{told}");
        assert!(told.contains("(control 9") && !told.contains("relay"), "{told}");
        today.by_cause.relay_overhead = 600;
        today.used_up = true;
        let told = day(&today);
        assert!(told.contains("relay 600 B"), "{told}");
        assert!(told.ends_with("; used up, no better ways are looked for today"), "{told}");
    }
}
