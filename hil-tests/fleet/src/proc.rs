//! What `/proc` says of a process: CPU time and memory.

use std::fs;

use serde_json::{Value, json};

use crate::failure::{During, Failure, Result};

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds of CPU, in user and kernel.
    pub(crate) cpu_s: f64,
    /// Resident memory now, in KiB.
    pub(crate) rss_kib: u64,
    /// The most of it so far.
    pub(crate) peak_kib: u64,
}

impl Usage {
    /// Reads it for a process of this machine.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).during(&format!("read {path}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let ticks = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, &status, ticks).ok_or_else(|| {
            Failure::new("fleet.system", format!("/proc/{pid} does not say what it should"))
        })
    }

    /// `stat` by proc(5): after the name in brackets field 3 follows; 14 and 15
    /// are the ticks in user and kernel.
    fn parse(stat: &str, status: &str, ticks: u64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks_of = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let used = ticks_of(14)? + ticks_of(15)?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self {
            cpu_s: used as f64 / ticks.max(1) as f64,
            rss_kib: kib("VmRSS:")?,
            peak_kib: kib("VmHWM:")?,
        })
    }

    /// What a span of time cost: CPU since `before`, memory at its end.
    pub(crate) fn since(&self, before: &Self, wall_s: f64) -> Cost {
        let cpu_s = (self.cpu_s - before.cpu_s).max(0.0);
        Cost { cpu_s, core_pct: 100.0 * cpu_s / wall_s.max(1e-3), rss_kib: self.rss_kib }
    }
}

/// What a phase cost a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) cpu_s: f64,
    /// Of one core, in percent.
    pub(crate) core_pct: f64,
    pub(crate) rss_kib: u64,
}

impl Cost {
    pub(crate) fn json(&self) -> Value {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        json!({
            "cpu_s": round(self.cpu_s), "core_pct": round(self.core_pct), "rss_kib": self.rss_kib,
        })
    }

    pub(crate) fn text(&self) -> String {
        let mib = self.rss_kib as f64 / 1_024.0;
        format!("{:.2} s of CPU ({:.1} % of a core), {mib:.1} MiB", self.cpu_s, self.core_pct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tweft\nVmHWM:\t   9000 kB\nVmRSS:\t    8000 kB\n";

    #[test]
    fn a_name_with_brackets_and_spaces_moves_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 0 0 0 0 250 150 0 0 20 0 4 0 99 1 2";
        let usage = Usage::parse(stat, STATUS, 100).unwrap();
        assert_eq!(usage, Usage { cpu_s: 4.0, rss_kib: 8_000, peak_kib: 9_000 });
        let cost = usage.since(&Usage { cpu_s: 3.0, ..Usage::default() }, 4.0);
        assert_eq!(cost, Cost { cpu_s: 1.0, core_pct: 25.0, rss_kib: 8_000 });
        assert_eq!(Usage::parse("7 (a) S 1", STATUS, 100), None);
        assert_eq!(Usage::parse(stat, "Name: weft", 100), None);
    }

    #[test]
    fn this_process_is_found() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_kib > 0 && usage.peak_kib >= usage.rss_kib);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
