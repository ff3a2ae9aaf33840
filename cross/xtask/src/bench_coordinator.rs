//! `cargo xtask bench coordinator`: what one device costs the coordinator, and
//! whether it costs more among ten thousand than among a thousand.
//!
//! `weft-fleet` runs as a second process on the same machine: real control
//! sessions over plain TCP, sites of 49 devices and a gateway, the policy "each
//! device with its site's gateway only". Figures, from start to end:
//!
//! - **enrolled/s**: the first device's first connection is asked for; every
//!   device has a session and the whole map.
//! - **idle**: nobody comes, goes or changes. Heartbeats come as often as from a
//!   fleet that began hours ago (one in 900 s each), MQTT pings ten times as
//!   often as from real devices, every 30 s: the figure is above the true one.
//! - **back**: the coordinator is told to end; the last device's first record
//!   was answered in a session with the process that came after it.
//! - **change**: a device that is no gateway is renamed over the REST API, one
//!   after the other. CPU of the coordinator until device and gateway have
//!   answered, and the messages by which it tells of the change (announcements
//!   and pages); mean. What the coordinator does anyhow in that time (pings and
//!   heartbeats of ten thousand lines, as while idle) belongs to no change and is
//!   taken off; behind the bar stands the CPU with it. Behind the other bar all
//!   that it sends meanwhile: the heartbeats by which devices report what they
//!   hold have answers too.
//!
//! CPU and memory are `/proc`'s. The fleet shares the machine: its CPU is printed
//! beside the coordinator's.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use crate::out;
use crate::source::target;

/// What is asked of the coordinator at every size.
struct Goals {
    enrolled_per_s: f64,
    idle_core_pct: f64,
    idle_rss_mb: f64,
    back_s: f64,
    change_cpu_ms: f64,
    change_messages: f64,
}

const GOALS: Goals = Goals {
    enrolled_per_s: 300.0,
    idle_core_pct: 5.0,
    idle_rss_mb: 200.0,
    back_s: 60.0,
    change_cpu_ms: 5.0,
    change_messages: 3.0,
};

/// Beside the number of devices: enrolments are asked for faster than any are
/// answered, so that the coordinator sets the pace.
const ARGUMENTS: &[&str] = &[
    "--rate",
    "2000",
    "--steady",
    "30",
    "--keepalive",
    "30",
    "--singles",
    "200",
    "--restarts",
    "1",
    "--storms",
    "0",
    "--churn",
    "0",
    "--json",
];

/// What one run found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    devices: u64,
    enrolled_per_s: f64,
    enrol_cpu_ms: f64,
    idle_core_pct: f64,
    idle_rss_mb: f64,
    back_s: f64,
    back_cpu_ms: f64,
    change_cpu_ms: f64,
    /// With what the coordinator does anyhow in that time.
    change_cpu_ms_all: f64,
    change_messages: f64,
    change_messages_all: f64,
    /// Seconds of CPU of the whole run.
    coordinator_cpu_s: f64,
    fleet_cpu_s: f64,
}

/// Runs the fleet at each size and prints what it found; fails beyond a goal.
pub(crate) fn run(root: &Path, devices: &[u32], json: bool) -> ExitCode {
    let measured = build(root).and_then(|()| {
        devices.iter().map(|devices| measure(root, *devices)).collect::<Result<Vec<_>, _>>()
    });
    let rows = match measured {
        Ok(rows) => rows,
        Err(error) => {
            let document =
                json!({"error": {"code": "bench.coordinator", "message": error, "exit": 1}});
            out::line(&if json { document.to_string() } else { format!("error: {error}") });
            return ExitCode::FAILURE;
        }
    };
    if json {
        out::line(&document(&rows).to_string());
    } else {
        table(&rows).iter().for_each(|line| out::line(line));
    }
    let missed: Vec<String> = rows.iter().flat_map(missed).collect();
    missed.iter().for_each(|sentence| out::error(sentence));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn build(root: &Path) -> Result<(), String> {
    let status = Command::new("cargo")
        .args(["build", "--release", "-p", "weft-fleet", "-p", "weft-coordinator"])
        .current_dir(root)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo build --release: {status}")) }
}

fn measure(root: &Path, devices: u32) -> Result<Row, String> {
    let output = Command::new(target(root).join("release/weft-fleet"))
        .args(["--devices", &devices.to_string()])
        .args(ARGUMENTS)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("weft-fleet: {error}"))?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("weft-fleet printed no document: {error}"))?;
    if !output.status.success() {
        let reason = document["error"]["message"].as_str().unwrap_or("no reason given");
        return Err(format!("weft-fleet --devices {devices}: {reason}"));
    }
    row(&document).ok_or_else(|| format!("weft-fleet --devices {devices} left figures out"))
}

fn row(document: &Value) -> Option<Row> {
    let number = |path: &str| document.pointer(path)?.as_f64();
    let devices = document["devices"].as_u64().filter(|devices| *devices > 0)?;
    let changes = number("/singles/changes").filter(|changes| *changes > 0.0)?;
    let each = |seconds: f64| seconds * 1e3 / devices as f64;
    let phases = ["ramp", "steady", "singles", "restart"];
    let all = |who: &str| -> Option<f64> {
        phases.iter().map(|phase| number(&format!("/{phase}/{who}/cpu_s"))).sum()
    };
    let change_cpu_s = number("/singles/coordinator/cpu_s")?;
    let anyhow_s =
        number("/steady/coordinator/core_pct")? / 100.0 * number("/singles/took_ms")? / 1e3;
    Some(Row {
        devices,
        enrolled_per_s: number("/ramp/enrolled_per_s")?,
        enrol_cpu_ms: each(number("/ramp/coordinator/cpu_s")?),
        idle_core_pct: number("/steady/coordinator/core_pct")?,
        idle_rss_mb: number("/steady/coordinator/rss_kib")? * 1_024.0 / 1e6,
        back_s: number("/restart/took_ms")? / 1e3,
        back_cpu_ms: each(number("/restart/coordinator/cpu_s")?),
        change_cpu_ms: (change_cpu_s - anyhow_s).max(0.0) * 1e3 / changes,
        change_cpu_ms_all: change_cpu_s * 1e3 / changes,
        change_messages: number("/singles/map_frames_down")? / changes,
        change_messages_all: number("/singles/frames_down")? / changes,
        coordinator_cpu_s: all("coordinator")?,
        fleet_cpu_s: all("fleet")?,
    })
}

/// A sentence for each goal that a row misses.
fn missed(row: &Row) -> Vec<String> {
    let devices = row.devices;
    let mut missed = Vec::new();
    if row.enrolled_per_s < GOALS.enrolled_per_s {
        let (got, goal) = (row.enrolled_per_s, GOALS.enrolled_per_s);
        missed.push(format!("{devices} devices: {got:.0} enrolments per second, at least {goal}"));
    }
    for (what, got, goal) in [
        ("% of a core while idle", row.idle_core_pct, GOALS.idle_core_pct),
        ("MB of memory while idle", row.idle_rss_mb, GOALS.idle_rss_mb),
        ("s until all were back", row.back_s, GOALS.back_s),
        ("ms of CPU for one change", row.change_cpu_ms, GOALS.change_cpu_ms),
        ("messages for one change", row.change_messages, GOALS.change_messages),
    ] {
        if got > goal {
            missed.push(format!("{devices} devices: {got:.1} {what}, at most {goal}"));
        }
    }
    missed
}

/// How much more the largest fleet costs than the smallest, per device.
fn growth(rows: &[Row]) -> Option<[(&'static str, f64); 4]> {
    let (first, last) = (rows.first()?, rows.last()?);
    let ratio = |of: fn(&Row) -> f64| of(last) / of(first).max(1e-9);
    (rows.len() > 1).then(|| {
        [
            ("enrol_cpu", ratio(|row| row.enrol_cpu_ms)),
            ("back_cpu", ratio(|row| row.back_cpu_ms)),
            ("change_cpu", ratio(|row| row.change_cpu_ms)),
            ("idle_rss", ratio(|row| row.idle_rss_mb / row.devices as f64)),
        ]
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn document(rows: &[Row]) -> Value {
    let each = |row: &Row| {
        json!({
            "devices": row.devices,
            "enrolled_per_s": round(row.enrolled_per_s),
            "enrol_cpu_ms": round(row.enrol_cpu_ms),
            "idle_core_pct": round(row.idle_core_pct),
            "idle_rss_mb": round(row.idle_rss_mb),
            "back_s": round(row.back_s),
            "back_cpu_ms": round(row.back_cpu_ms),
            "change_cpu_ms": round(row.change_cpu_ms),
            "change_cpu_ms_all": round(row.change_cpu_ms_all),
            "change_messages": round(row.change_messages),
            "change_messages_all": round(row.change_messages_all),
            "coordinator_cpu_s": round(row.coordinator_cpu_s),
            "fleet_cpu_s": round(row.fleet_cpu_s),
        })
    };
    let mut document = json!({"sizes": rows.iter().map(each).collect::<Vec<_>>()});
    if let Some(growth) = growth(rows) {
        for (name, ratio) in growth {
            document["growth"][name] = round(ratio).into();
        }
    }
    document
}

fn table(rows: &[Row]) -> Vec<String> {
    let mut lines = vec![
        "devices  enrolled   CPU each      idle             all back   CPU each   one change                             CPU: coordinator, fleet"
            .to_owned(),
    ];
    for row in rows {
        lines.push(format!(
            "{:>7}  {:>6.0}/s  {:>6.2} ms  {:>5.2} % {:>6.1} MB  {:>7.1} s  {:>6.2} ms  {:>5.2} | {:.2} ms {:>4.1} | {:.1} messages  {:>7.1} s {:>7.1} s",
            row.devices,
            row.enrolled_per_s,
            row.enrol_cpu_ms,
            row.idle_core_pct,
            row.idle_rss_mb,
            row.back_s,
            row.back_cpu_ms,
            row.change_cpu_ms,
            row.change_cpu_ms_all,
            row.change_messages,
            row.change_messages_all,
            row.coordinator_cpu_s,
            row.fleet_cpu_s,
        ));
    }
    lines.push(format!(
        "goals    {:>6.0}/s             {:>5.2} % {:>6.1} MB  {:>7.1} s             {:>5.2} ms {:>4.1} messages",
        GOALS.enrolled_per_s,
        GOALS.idle_core_pct,
        GOALS.idle_rss_mb,
        GOALS.back_s,
        GOALS.change_cpu_ms,
        GOALS.change_messages,
    ));
    if let Some(growth) = growth(rows) {
        let texts: Vec<_> =
            growth.iter().map(|(name, ratio)| format!("{name} {ratio:.2}")).collect();
        lines.push(format!(
            "growth from the first size to the last, 1 = none: {}",
            texts.join(", ")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(devices: u64) -> Value {
        json!({
            "devices": devices,
            "ramp": {"enrolled_per_s": 500.0, "coordinator": {"cpu_s": 2.0}, "fleet": {"cpu_s": 1.0}},
            "steady": {
                "coordinator": {"cpu_s": 0.1, "core_pct": 1.5, "rss_kib": 50_000},
                "fleet": {"cpu_s": 0.2},
            },
            "singles": {
                "changes": 200, "frames_down": 800, "map_frames_down": 400, "took_ms": 4_000,
                "coordinator": {"cpu_s": 0.26}, "fleet": {"cpu_s": 0.1},
            },
            "restart": {"took_ms": 4_200, "coordinator": {"cpu_s": 0.7}, "fleet": {"cpu_s": 0.3}},
        })
    }

    #[test]
    fn figures_are_per_device_and_per_change() {
        let row = row(&fleet(1_000)).unwrap();
        assert_eq!((row.enrol_cpu_ms, row.change_messages), (2.0, 2.0));
        // 4 s at 1.5 % of a core belong to no change.
        assert_eq!((round(row.change_cpu_ms), round(row.change_cpu_ms_all)), (1.0, 1.3));
        assert_eq!((row.back_s, row.idle_rss_mb), (4.2, 51.2));
        assert_eq!((round(row.coordinator_cpu_s), round(row.fleet_cpu_s)), (3.06, 1.6));
        assert_eq!(missed(&row), Vec::<String>::new());
        let mut without = fleet(1_000);
        without["singles"] = Value::Null;
        assert_eq!(super::row(&without), None);
    }

    #[test]
    fn each_goal_that_is_missed_is_said() {
        let row = row(&fleet(1_000)).unwrap();
        let slow = Row { enrolled_per_s: 120.0, back_s: 61.0, change_messages: 6.0, ..row };
        let missed = missed(&slow);
        assert_eq!(missed.len(), 3);
        assert_eq!(missed[0], "1000 devices: 120 enrolments per second, at least 300");
        assert_eq!(missed[1], "1000 devices: 61.0 s until all were back, at most 60");
    }

    #[test]
    fn growth_is_per_device_and_needs_two_sizes() {
        let small = row(&fleet(1_000)).unwrap();
        assert_eq!(growth(&[small]), None);
        let large = row(&fleet(10_000)).unwrap();
        let [(_, enrol), _, (_, change), _] = growth(&[small, large]).unwrap();
        assert!((enrol - 0.1).abs() < 1e-9 && (change - 1.0).abs() < 1e-9);
        assert_eq!(document(&[small, large])["growth"]["enrol_cpu"], json!(0.1));
        assert_eq!(table(&[small, large]).len(), 5);
    }
}
