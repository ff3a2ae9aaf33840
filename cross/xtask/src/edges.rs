//! Who depends on whom among packages, read from `cargo metadata`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::report::Report;
use crate::tables::{CIPHERS, EDGES, PEERS, TESTERS};

/// One declared dependency: package, what it names, whether a shipped build sees it.
struct Edge {
    from: String,
    to: String,
    ours: bool,
    shipped: bool,
}

/// Checks the edges that the workspace declares.
pub(crate) fn check(root: &Path) -> Report {
    let mut report = Report::default();
    match read(root) {
        Ok(edges) => {
            report.examined = edges.len();
            report.errors = edges.iter().filter_map(judge).collect();
        }
        Err(error) => report.errors.push(error),
    }
    report
}

fn read(root: &Path) -> Result<Vec<Edge>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("metadata: {error}"))?;
    Ok(edges(&metadata))
}

fn edges(metadata: &Value) -> Vec<Edge> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list(&metadata["packages"])
        .iter()
        .flat_map(|package| {
            let from = text(&package["name"]);
            list(&package["dependencies"]).into_iter().map(move |dependency| Edge {
                from: from.clone(),
                to: text(&dependency["name"]),
                ours: dependency["path"].is_string(),
                shipped: dependency["kind"].as_str() != Some("dev"),
            })
        })
        .collect()
}

fn judge(edge: &Edge) -> Option<String> {
    let Edge { from, to, .. } = edge;
    if TESTERS.contains(&from.as_str()) && edge.ours {
        return None;
    }
    if edge.ours {
        let Some((_, allowed)) = EDGES.iter().find(|(package, _)| package == from) else {
            return Some(format!("package {from} has no row in cross/xtask/src/tables.rs"));
        };
        return (!allowed.contains(&to.as_str()))
            .then(|| format!("{from} depends on {to}; it may depend on {allowed:?}"));
    }
    if let Some((_, allowed)) = PEERS.iter().find(|(peer, _)| peer == to) {
        return (!allowed.contains(&from.as_str()))
            .then(|| format!("{from} depends on {to}, which is for {allowed:?}"));
    }
    let cipher = CIPHERS.contains(&to.as_str()) && edge.shipped;
    (cipher
        && !["weft-noise", "weft-aead"].contains(&from.as_str())
        && !TESTERS.contains(&from.as_str()))
    .then(|| format!("{from} depends on {to}; only weft-noise names a cipher"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(from: &str, to: &str, ours: bool, shipped: bool) -> bool {
        judge(&Edge { from: from.to_owned(), to: to.to_owned(), ours, shipped }).is_some()
    }

    #[test]
    fn arrows_point_one_way() {
        assert!(!wrong("weft-agent-core", "weft-noise", true, true));
        assert!(wrong("weft-coordinator", "weft-agent-core", true, true));
        assert!(wrong("weft-wire", "weft-noise", true, true));
        assert!(wrong("weft-agent-core", "weft-sim", true, false));
        assert!(!wrong("weft-oracles", "weft-sim", true, true));
        assert!(wrong("stranger", "weft-wire", true, true));
    }

    #[test]
    fn ciphers_and_peers_have_one_home() {
        assert!(wrong("weft-coordinator", "ring", false, true));
        assert!(!wrong("weft-noise", "ring", false, true));
        assert!(!wrong("weft-coordinator", "tokio", false, true));
        assert!(wrong("weft-agent-linux", "boringtun", false, false));
        assert!(!wrong("xtask", "boringtun", false, true));
        assert!(wrong("xtask", "gotatun", false, true));
    }

    #[test]
    fn metadata_becomes_edges() {
        let metadata = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "path": "/b", "kind": null},
            {"name": "c", "kind": "dev"},
        ]}]});
        let edges = edges(&metadata);
        assert!(edges[0].ours && edges[0].shipped && !edges[1].ours && !edges[1].shipped);
        assert_eq!(edges[1].to, "c");
    }
}
