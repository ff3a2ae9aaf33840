//! The group that runs real programs in network namespaces.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Outcome, cargo};
use crate::source::target;

/// Exit status of a scenario that cannot run here.
const SKIPPED: i32 = 77;
/// Exit status without the rights it needs.
const NOT_PERMITTED: i32 = 4;

/// Scenarios with a short form for `make test`.
const SHORTENED: &[&str] = &[
    "outage",
    "revoke",
    "clock",
    "crash",
    "hostile",
    "carriers",
    "clone",
    "flood",
    "broker",
    "rotate",
    "roam",
    "failover",
    "near",
    "idle-day",
    "chip",
    "chip-faults",
    "chip-many",
    "chip-relay",
];

/// Cells of the path matrix that IPv6 is for.
const WITH_IPV6: &str = "six-open:six-fw,six-fw:six-fw,nat64:prc,nat64:cgnat,nat64:nat64";

/// Those of which there is a form in which everything is relayed.
const RELAYED: &[&str] = &["outage", "revoke"];

/// The scenarios of `make test`, or the long form of each.
pub(super) fn run(root: &Path, full: bool) -> Outcome {
    let interop: &[&str] = if full { &["interop"] } else { &["interop", "--short"] };
    let mut outcome = Outcome::default();
    // First the ground that everything stands on.
    let ground: &[&str] = if full { &["wire", "nats", "reference"] } else { &["wire", "nats"] };
    for name in ground {
        outcome.merge(scenario(root, &[name]));
    }
    outcome.merge(scenario(root, &["demo", "--once"]));
    outcome.merge(scenario(root, &["pair"]));
    outcome.merge(scenario(root, &["remove"]));
    outcome.merge(scenario(root, &["disk"]));
    outcome.merge(scenario(root, &["restore"]));
    outcome.merge(scenario(root, &["key-change"]));
    outcome.merge(scenario(root, &["turn"]));
    outcome.merge(scenario(root, &["coturn"]));
    outcome.merge(scenario(root, &["relays"]));
    outcome.merge(scenario(root, &["netcheck"]));
    outcome.merge(scenario(root, &["portmap"]));
    outcome.merge(scenario(root, &["why"]));
    for name in SHORTENED {
        let arguments: &[&str] = if full { &[name] } else { &[name, "--short"] };
        outcome.merge(scenario(root, arguments));
    }
    for name in RELAYED {
        let short: &[&str] = if full { &[] } else { &["--short"] };
        outcome.merge(scenario(root, &[&[*name, "--relayed"], short].concat()));
    }
    // The same application as firmware developers run it on their machines.
    if full {
        outcome.merge(scenario(root, &["chip", "--host"]));
    }
    // The short form leaves out what is left to chance.
    let matrix: &[&str] = if full { &["nat-matrix"] } else { &["nat-matrix", "--short"] };
    outcome.merge(scenario(root, matrix));
    let six: &[&str] = if full { &[] } else { &["--cells", WITH_IPV6] };
    outcome.merge(scenario(root, &[&["nat-matrix", "--ipv6"], six].concat()));
    if full {
        outcome.merge(scenario(root, &["footprint"]));
    }
    outcome.merge(scenario(root, interop));
    outcome
}

/// Simulated devices against a real coordinator, on loopback and without root:
/// two hundred for a change, a thousand for a release.
pub(super) fn fleet(root: &Path, full: bool) -> Outcome {
    const SHORT: &[&str] =
        &["--devices", "200", "--rate", "100", "--steady", "2", "--churn", "4", "--limit", "60"];
    const FULL: &[&str] =
        &["--devices", "1000", "--steady", "30", "--singles", "200", "--churn", "30"];
    let arguments = if full { FULL } else { SHORT };
    let mut outcome = program(root, "weft-fleet", "fleet", arguments);
    if outcome.failed == 0 {
        let seen = if full { "1,000 devices" } else { "200 devices" };
        outcome.detail = Some(format!("{seen}, {} expectations hold", outcome.passed));
    }
    outcome
}

fn scenario(root: &Path, arguments: &[&str]) -> Outcome {
    let words: Vec<&str> = ["run"].iter().chain(arguments).copied().collect();
    let has = |flag: &str| arguments.contains(&flag);
    let form = if has("--relayed") { "-relayed" } else { "" };
    let form = if has("--ipv6") { "-ipv6" } else { form };
    let form = if has("--host") { "-host" } else { form };
    program(root, "weft-lab", &format!("lab-{}{form}", arguments[0]), &words)
}

/// One program of the laboratory, which answers with one document.
fn program(root: &Path, program: &str, log: &str, arguments: &[&str]) -> Outcome {
    let path = cargo::path(root, log);
    let output = Command::new(target(root).join("release").join(program))
        .args(arguments)
        .arg("--json")
        .current_dir(root)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Outcome::fail(vec![format!("{program}: {error}")]),
    };
    let story = String::from_utf8_lossy(&output.stderr);
    let answer = String::from_utf8_lossy(&output.stdout);
    if let Err(error) = cargo::keep(root, log, &format!("{story}{answer}")) {
        return Outcome::fail(vec![format!("{}: {error}", path.display())]);
    }
    let document: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
    let name = log.strip_prefix("lab-").unwrap_or(log);
    let mut outcome = read_document(name, &document, output.status.code());
    if outcome.failed > 0 {
        outcome.trouble.extend(cargo::tail(&story));
        outcome.trouble.push(format!("all of it: {}", path.display()));
    }
    outcome
}

/// A scenario with cells counts them; one without counts as one test.
fn read_document(name: &str, document: &Value, status: Option<i32>) -> Outcome {
    let reason = || document["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
    match status {
        Some(SKIPPED | NOT_PERMITTED) => return Outcome::skip(name, &reason()),
        Some(0) if document.is_object() => {}
        _ => return Outcome::fail(vec![format!("{name}: {}", reason())]),
    }
    let count = |field: &str| document[field].as_u64().map(|count| count as usize);
    let mut outcome = Outcome { passed: count("passed").unwrap_or(1), ..Outcome::default() };
    let skipped = document["skipped"].as_array().cloned().unwrap_or_default();
    for entry in skipped {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        outcome.skipped.push((text("name"), text("reason")));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scenario_without_cells_is_one_test() {
        let outcome = read_document("pair", &json!({"ping_loss_pct": 0}), Some(0));
        assert_eq!((outcome.passed, outcome.failed), (1, 0));
    }

    #[test]
    fn cells_and_skips_are_counted() {
        let document = json!({"passed": 2, "failed": 0,
            "skipped": [{"name": "kernel-wireguard", "reason": "qemu missing"}]});
        let outcome = read_document("interop", &document, Some(0));
        assert_eq!((outcome.passed, outcome.skipped.len()), (2, 1));
    }

    #[test]
    fn missing_rights_skip_and_anything_else_fails() {
        let document = json!({"error": {"message": "needs root"}});
        for (status, failed, skipped) in
            [(Some(4), 0, 1), (Some(77), 0, 1), (Some(1), 1, 0), (None, 1, 0)]
        {
            let outcome = read_document("pair", &document, status);
            assert_eq!((outcome.failed, outcome.skipped.len()), (failed, skipped));
        }
        let silent = read_document("pair", &Value::Null, Some(0));
        assert_eq!((silent.passed, silent.failed), (0, 1));
    }
}
