//! `device approve`: one device, or all that wait and fit a search.

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::api;
use crate::failure::Failure;

use super::confirm::{Effect, confirm};
use super::devices::{act, approved, every, report};
use super::format::{Column, NOTHING, age, count, millis, print_table};
use super::remote::Context;
use super::{CONFIRM_WAIT, ui};

/// Names in a sentence before "and N more".
const NAMED: usize = 3;

/// Who is let in.
#[derive(Debug, ClapArgs)]
pub(crate) struct Approve {
    /// Name, address or id
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    device: Option<String>,
    /// All that wait and fit a search, like `key:factory7`; nothing = all
    #[arg(long, num_args = 0.., value_name = "SEARCH", allow_hyphen_values = false)]
    all: Option<Vec<String>>,
    /// Show who would be let in, with the fingerprints to compare
    #[arg(long, requires = "all", conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask
    #[arg(long, requires = "all")]
    yes: bool,
}

/// What became of many.
#[derive(Serialize)]
struct Actions {
    items: Vec<api::Action>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    subject: String,
    name: String,
    message: String,
}

pub(super) async fn run(context: &Context<'_>, wanted: &Approve) -> Result<u8, Failure> {
    if let Some(device) = &wanted.device {
        let action = act(context, device, "approve", "", CONFIRM_WAIT).await?;
        report(context, &action, &approved(&action));
        return Ok(0);
    }
    let search = wanted.all.iter().flatten().map(String::as_str);
    let search: Vec<_> = ["status:pending"].into_iter().chain(search).collect();
    let waiting = every(context, &search.join(" ")).await?;
    if wanted.dry_run {
        show(context, &waiting);
        return Ok(0);
    }
    if waiting.items.is_empty() {
        if context.json {
            ui::json("weft.actions/1", &Actions { items: Vec::new(), failed: Vec::new() });
        } else {
            ui::note("no device waits");
        }
        return Ok(0);
    }
    let number = waiting.items.len().to_string();
    let effect = Effect { sentence: effect(&waiting.items), undo: None, name: &number };
    confirm(&effect, wanted.yes)?;
    Ok(approve(context, waiting.items).await)
}

/// `lets in 12 devices: plc-1, plc-2, plc-3 and 9 more`
fn effect(devices: &[api::Device]) -> String {
    let mut names: Vec<_> = devices.iter().take(NAMED).map(|device| device.name.as_str()).collect();
    let last = if devices.len() > NAMED {
        format!("{} more", devices.len() - NAMED)
    } else {
        names.pop().unwrap_or_default().to_owned()
    };
    let and = if names.is_empty() { "" } else { " and " };
    format!("lets in {}: {}{and}{last}", count(devices.len(), "device"), names.join(", "))
}

fn show(context: &Context<'_>, waiting: &api::Page<api::Device>) {
    if context.json {
        ui::json("weft.devices/1", waiting);
        return;
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "FINGERPRINT", rank: 0 },
        Column { head: "KEY", rank: 1 },
        Column { head: "FROM", rank: 2 },
        Column { head: "WAITS SINCE", rank: 3 },
    ];
    let row = |device: &api::Device| {
        let nothing = || NOTHING.to_owned();
        let key = device.enrolled_by.as_ref().map(|key| key.name.clone());
        let since = millis(&device.created_at).map(|then| age(context.now, then));
        vec![
            device.name.clone(),
            device.fingerprint.clone().unwrap_or_else(nothing),
            key.unwrap_or_else(nothing),
            device.enrolled_from.clone().unwrap_or_else(nothing),
            since.unwrap_or_else(nothing),
        ]
    };
    let rows: Vec<_> = waiting.items.iter().map(row).collect();
    print_table(&columns, &rows);
    ui::note(format!("{} would be let in; nothing was done", count(rows.len(), "device")));
}

/// One after the other: who cannot be let in keeps nobody out.
async fn approve(context: &Context<'_>, devices: Vec<api::Device>) -> u8 {
    let mut actions = Actions { items: Vec::new(), failed: Vec::new() };
    for device in devices {
        match act(context, &device.id, "approve", "", core::time::Duration::ZERO).await {
            Ok(action) => {
                if !context.json {
                    let address = action.addresses.first().map_or(NOTHING, String::as_str);
                    ui::out(format!("{} approved: {address}", action.name));
                }
                actions.items.push(action);
            }
            Err(failure) => {
                let message = failure.to_string();
                if !context.json {
                    ui::note(format!("{} not approved: {message}", device.name));
                }
                actions.failed.push(Failed { subject: device.id, name: device.name, message });
            }
        }
    }
    let failed = actions.failed.len();
    if context.json {
        ui::json("weft.actions/1", &actions);
    } else {
        let not = if failed > 0 { format!(", {failed} not") } else { String::new() };
        ui::note(format!("{} approved{not}", count(actions.items.len(), "device")));
    }
    u8::from(failed > 0)
}
