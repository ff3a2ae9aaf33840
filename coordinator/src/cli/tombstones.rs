//! `device list --deleted` and `device forget`.

use crate::api;
use crate::failure::Failure;

use super::client::segment;
use super::format::{Column, NOTHING, moment, print_table};
use super::remote::Context;
use super::ui;

const PATH: &str = "/api/v1/tombstones";

pub(super) async fn list(context: &Context<'_>) -> Result<u8, Failure> {
    let page: api::Page<api::Tombstone> = context.client.get(PATH).await?;
    if context.json {
        ui::json("weft.tombstones/1", &page);
        return Ok(0);
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "DELETED", rank: 0 },
        Column { head: "NETWORK", rank: 2 },
        Column { head: "ID", rank: 1 },
        Column { head: "IDENTITY", rank: 3 },
    ];
    let row = |stone: &api::Tombstone| {
        let print = stone.fingerprint.clone().unwrap_or_else(|| NOTHING.to_owned());
        let (name, network) = (stone.name.clone(), stone.network.name.clone());
        vec![name, moment(&stone.deleted_at), network, stone.id.clone(), print]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    print_table(&columns, &rows);
    let word = if page.total == 1 { "device" } else { "devices" };
    ui::note(format!("{} deleted {word}; their identities do not come back", page.total));
    Ok(0)
}

pub(super) async fn forget(context: &Context<'_>, device: &str) -> Result<u8, Failure> {
    let path = format!("{PATH}/{}/forget", segment(device));
    let stone: api::Tombstone = context.client.post(&path, &api::Forget {}).await?;
    if context.json {
        ui::json("weft.tombstone/1", &stone);
    } else {
        ui::out(format!("{} forgotten: its identity may enrol again with a key", stone.name));
    }
    Ok(0)
}

/// Names for the shell, while somebody presses Tab.
pub(super) async fn names(context: &Context<'_>) -> Option<Vec<String>> {
    let page: api::Page<api::Tombstone> = context.client.get(PATH).await.ok()?;
    Some(page.items.into_iter().map(|stone| stone.name).collect())
}
