//! Ways that are kept open.

use weft_wire::verdict::WARM_KB;

use crate::api;
use crate::failure::Failure;

use super::super::client::segment;
use super::super::format::{Column, moment, print_table};
use super::super::remote::Context;
use super::super::ui;

const PATH: &str = "/api/v1/warm";

pub(super) async fn list(context: &Context<'_>) -> Result<u8, Failure> {
    let pairs: api::WarmPairs = context.client.get(PATH).await?;
    if context.json {
        ui::json("weft.warm/1", &pairs);
        return Ok(0);
    }
    let columns = ["DEVICE", "AND", "WARM SINCE"].map(|head| Column { head, rank: 0 });
    let row =
        |one: &api::WarmPair| vec![one.a.name.clone(), one.b.name.clone(), moment(&one.since)];
    let rows: Vec<_> = pairs.items.iter().map(row).collect();
    if rows.is_empty() {
        ui::note("no way is kept open");
    } else {
        print_table(&columns, &rows);
    }
    Ok(0)
}

pub(super) async fn set(
    context: &Context<'_>,
    a: &str,
    b: &str,
    is_wanted: bool,
) -> Result<u8, Failure> {
    let path = format!("{PATH}/{}/{}", segment(a), segment(b));
    let done: api::Warmed = if is_wanted {
        context.client.post(&path, &()).await?
    } else {
        context.client.delete(&path, None).await?
    };
    if context.json {
        ui::json("weft.warmed/1", &done);
        return Ok(0);
    }
    ui::out(sentence(&done));
    Ok(0)
}

fn sentence(done: &api::Warmed) -> String {
    let (a, b) = (&done.a.name, &done.b.name);
    match (done.warm, done.changed) {
        (true, true) => format!(
            "{a} and {b} keep the way between them open, about {WARM_KB} kB a day each; not \
             where a data budget is used up"
        ),
        (true, false) => format!("{a} and {b} keep the way between them open already"),
        (false, true) => format!("{a} and {b} let the way between them close when nobody talks"),
        (false, false) => format!("the way between {a} and {b} is not kept open; nothing changes"),
    }
}
