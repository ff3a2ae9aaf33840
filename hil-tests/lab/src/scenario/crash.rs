//! `kill -9` of the coordinator while devices enrol: what it answered is true
//! afterwards. The devices are `weft-fleet`'s, which also kills and checks.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::Stage;
use crate::failure::{During, Failure, Result};
use crate::mesh::program;
use crate::process::finish;
use crate::run::ip_batch;
use crate::ui;

/// Of `make test`: devices, kills, contests, seconds.
const SHORT: [&str; 4] = ["200", "60", "1", "90"];
/// Of a release.
const FULL: [&str; 4] = ["2000", "500", "5", "1500"];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let [devices, kills, contests, limit_s] = if stage.options.short { SHORT } else { FULL };
    // A namespace of its own: whatever happens here, its processes go with it.
    let namespace = stage.run.namespace("crash")?;
    let up = ip_batch(Some(&namespace), &["link set lo up".to_owned()]);
    up.during("set up the loopback")?;
    let mut fleet = Command::new(program("weft-fleet")?);
    fleet.args(["crash", "--json", "--devices", devices, "--kills", kills]);
    fleet.args(["--contests", contests, "--limit", limit_s]);
    if let Some(seed) = stage.options.seed {
        fleet.args(["--seed", &seed.to_string()]);
    }
    // Databases of a killed run go with the run's folder.
    fleet.env("TMPDIR", stage.run.folder());
    stage.story.done("crash", &format!("{devices} devices, {kills} kills"), None);
    let limit = Duration::from_secs(limit_s.parse().unwrap_or(60) + 30);
    let finished = finish("fleet", &namespace, stage.run.logs(), &mut fleet, limit)?;
    let document: Value = serde_json::from_str(&finished.stdout).unwrap_or_default();
    if !finished.success() {
        let message = document["error"]["message"].as_str().unwrap_or("weft-fleet failed");
        return Err(Failure::expectation(message).line("said", finished.stderr.trim()));
    }
    for line in finished.stderr.lines() {
        stage.story.line(&format!("  {line}"));
    }
    let enrolled = document["enrolled"].as_u64().unwrap_or(0);
    stage.story.done("crash", &ui::count(usize::try_from(enrolled).unwrap_or(0), "device"), None);
    Ok(document)
}
