//! What a run found: lines for people while it goes on, one document at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::board::Figures;
use crate::failure::Failure;
use crate::plan::Layout;
use crate::proc::{Cost, Usage};
use crate::ui;

/// One phase that is over.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) figures: Figures,
    /// The coordinator's cost; `None` = its process is not known.
    pub(crate) coordinator: Option<Cost>,
    /// This process's.
    pub(crate) fleet: Cost,
    /// Counts of the phase's own.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Phase {
    fn spans(&self) -> Vec<(String, &crate::samples::Samples)> {
        let figures = &self.figures;
        let fixed = [
            ("enrolment", &figures.enrolment),
            ("session", &figures.session),
            ("map", &figures.map),
            ("pause", &figures.pause),
            ("back", &figures.back),
        ];
        let fixed = fixed.into_iter().map(|(name, samples)| (name.to_owned(), samples));
        let arrivals = figures.arrival.iter();
        let arrivals = arrivals.map(|(kind, samples)| (format!("arrival_{kind}"), samples));
        fixed.chain(arrivals).filter(|(_, samples)| samples.len() > 0).collect()
    }

    fn json(&self) -> Value {
        let took_s = self.took.as_secs_f64();
        let mut document = json!({
            "took_ms": self.took.as_millis() as u64,
            "fleet": self.fleet.json(),
            "coordinator": self.coordinator.map_or(Value::Null, |cost| cost.json()),
        });
        for (name, samples) in self.spans() {
            document[name] = samples.json();
        }
        let per_s = |count: usize| (count as f64 / took_s.max(1e-3) * 10.0).round() / 10.0;
        if self.figures.enrolment.len() > 0 {
            document["enrolled_per_s"] = per_s(self.figures.enrolment.len()).into();
        }
        if self.figures.session.len() > 0 {
            document["sessions_per_s"] = per_s(self.figures.session.len()).into();
        }
        document["frames_up"] = self.figures.frames_up.into();
        document["frames_down"] = self.figures.frames_down.into();
        document["map_frames_down"] = self.figures.map_frames_down.into();
        if !self.figures.lost.is_empty() {
            document["lost"] = json!(self.figures.lost);
        }
        if !self.figures.dropped.is_empty() {
            document["dropped"] = json!(self.figures.dropped);
        }
        for (name, count) in &self.counts {
            document[*name] = (*count).into();
        }
        document
    }

    /// Says what it found.
    fn tell(&self, json: bool) {
        let say = |text: &str| ui::story(json, text);
        let took_s = self.took.as_secs_f64();
        say(&format!("{:<7} {took_s:.1} s", self.name));
        for (name, samples) in self.spans() {
            say(&format!("  {name:<18} {}", samples.text()));
        }
        for (name, count) in &self.counts {
            say(&format!("  {name:<18} {count:>6}"));
        }
        for (words, count) in &self.figures.lost {
            say(&format!("  lost               {count:>6} times   {words}"));
        }
        for (reason, count) in &self.figures.dropped {
            say(&format!("  frames dropped     {count:>6} times   {reason}"));
        }
        let (up, down) = (self.figures.frames_up, self.figures.frames_down);
        let maps = self.figures.map_frames_down;
        say(&format!("  frames             {up:>6} up      {down:>6} down, {maps} of maps"));
        if let Some(cost) = self.coordinator {
            say(&format!("  coordinator        {}", cost.text()));
        }
        say(&format!("  fleet              {}", self.fleet.text()));
    }
}

/// Everything that was found so far.
pub(crate) struct Report {
    json: bool,
    layout: Layout,
    phases: Vec<Phase>,
    passed: usize,
    broken: Vec<String>,
    /// Of the coordinator at the end.
    pub(crate) usage: Option<Usage>,
}

impl Report {
    pub(crate) const fn new(layout: Layout, json: bool) -> Self {
        Self { json, layout, phases: Vec::new(), passed: 0, broken: Vec::new(), usage: None }
    }

    pub(crate) fn add(&mut self, phase: Phase) {
        phase.tell(self.json);
        self.phases.push(phase);
    }

    /// Something that must hold.
    pub(crate) fn expect(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if holds {
            self.passed += 1;
        } else {
            let sentence = sentence();
            ui::story(self.json, &format!("  broken             {sentence}"));
            self.broken.push(sentence);
        }
    }

    /// What did not hold, as one failure.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        match self.broken.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => {
                let failure = Failure::expectation(first.clone());
                Err(rest.iter().fold(failure, |failure, more| failure.line("also", more.clone())))
            }
        }
    }

    /// The document; `failure` is what ended the run early or did not hold.
    pub(crate) fn json(&self, failure: Option<&Failure>) -> Value {
        let mut document = json!({
            "devices": self.layout.devices,
            "sites": self.layout.sites(),
            "passed": self.passed,
            "failed": self.broken.len().max(usize::from(failure.is_some())),
        });
        for phase in &self.phases {
            document[phase.name] = phase.json();
        }
        if let Some(usage) = self.usage {
            document["coordinator"] = json!({
                "cpu_s": usage.cpu_s, "rss_kib": usage.rss_kib, "peak_kib": usage.peak_kib,
            });
        }
        if let Some(failure) = failure {
            document["error"] = failure.json();
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase() -> Phase {
        let mut figures = Figures::default();
        for _ in 0..200 {
            figures.enrolment.add(Duration::from_millis(5));
        }
        figures.arrival.entry("rename").or_default().add(Duration::from_millis(3));
        figures.lost.insert("closed".to_owned(), 2);
        figures.dropped.insert("Unexpected".to_owned(), 3);
        let fleet = Cost { cpu_s: 1.0, core_pct: 50.0, rss_kib: 10 };
        let counts = BTreeMap::from([("deferred", 1)]);
        let took = Duration::from_secs(2);
        Phase { name: "ramp", took, figures, coordinator: None, fleet, counts }
    }

    #[test]
    fn a_document_has_what_was_measured_and_nothing_else() {
        let mut report = Report::new(Layout { devices: 200 }, true);
        report.add(phase());
        report.expect(true, || unreachable!("it holds"));
        let document = report.json(report.verdict().err().as_ref());
        let ramp = &document["ramp"];
        assert_eq!((&document["sites"], &ramp["enrolled_per_s"]), (&json!(4), &json!(100.0)));
        assert_eq!(ramp["arrival_rename"]["p99_ms"], json!(3.0));
        assert_eq!((&ramp["lost"]["closed"], &ramp["deferred"]), (&json!(2), &json!(1)));
        assert_eq!(ramp["dropped"]["Unexpected"], json!(3));
        assert!(ramp.get("back").is_none() && document.get("error").is_none());
        assert_eq!((&document["passed"], &document["failed"]), (&json!(1), &json!(0)));
    }

    #[test]
    fn what_did_not_hold_fails_the_run() {
        let mut report = Report::new(Layout { devices: 1 }, true);
        report.expect(false, || "two lines were lost".to_owned());
        report.expect(false, || "one was refused".to_owned());
        let failure = report.verdict().unwrap_err();
        let document = report.json(Some(&failure));
        assert_eq!(document["failed"], json!(2));
        assert_eq!(document["error"]["message"], json!("two lines were lost"));
        assert!(failure.to_string().contains("also:  one was refused"));
        // A run that was cut short failed, whatever it had found by then.
        let early = Report::new(Layout { devices: 1 }, true);
        assert_eq!(early.json(Some(&Failure::expectation("cut")))["failed"], json!(1));
    }
}
