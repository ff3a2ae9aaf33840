//! Many measured spans and what is said of them.

use std::time::Duration;

use serde_json::{Value, json};

/// Spans in microseconds, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<u64>);

/// What is said of [`Samples`]; in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) worst: u64,
}

impl Samples {
    pub(crate) fn add(&mut self, span: Duration) {
        self.0.push(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Zero without a sample.
    pub(crate) fn median(&self) -> Duration {
        self.summary().map_or(Duration::ZERO, |summary| Duration::from_micros(summary.p50))
    }

    /// `None` without a sample.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        Some(Summary {
            count: sorted.len(),
            p50: percentile(&sorted, 50)?,
            p99: percentile(&sorted, 99)?,
            worst: *sorted.last()?,
        })
    }

    /// Milliseconds with one decimal; `null` without a sample.
    pub(crate) fn json(&self) -> Value {
        self.summary().map_or(Value::Null, |summary| {
            json!({
                "count": summary.count,
                "p50_ms": millis(summary.p50),
                "p99_ms": millis(summary.p99),
                "worst_ms": millis(summary.worst),
            })
        })
    }

    /// `1,000 times: 12 ms, p99 40 ms, worst 55 ms`.
    pub(crate) fn text(&self) -> String {
        self.summary().map_or_else(
            || "none".to_owned(),
            |summary| {
                format!(
                    "{:>6} times   p50 {:>9}   p99 {:>9}   worst {:>9}",
                    summary.count,
                    span(summary.p50),
                    span(summary.p99),
                    span(summary.worst)
                )
            },
        )
    }
}

/// The nearest rank: the smallest sample that at least `percent` of all do not
/// exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

fn millis(micros: u64) -> f64 {
    (micros as f64 / 100.0).round() / 10.0
}

/// `820 µs`, `20.4 ms`, `4.2 s`.
pub(crate) fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        micros.into_iter().for_each(|one| samples.add(Duration::from_micros(one)));
        samples
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        // Backwards: the order of arrival does not matter.
        let summary = of((1..=1_000).rev()).summary().unwrap();
        assert_eq!(summary, Summary { count: 1_000, p50: 500, p99: 990, worst: 1_000 });
        let summary = of([7]).summary().unwrap();
        assert_eq!(summary, Summary { count: 1, p50: 7, p99: 7, worst: 7 });
        let summary = of([1, 2, 3]).summary().unwrap();
        assert_eq!((summary.p50, summary.p99, summary.worst), (2, 3, 3));
        // One bad one among a hundred is the worst, and not yet the 99th.
        let summary = of((0..99).map(|_| 5).chain([9_000])).summary().unwrap();
        assert_eq!((summary.p99, summary.worst), (5, 9_000));
        // Two among a hundred are.
        let summary = of((0..98).map(|_| 5).chain([8_000, 9_000])).summary().unwrap();
        assert_eq!((summary.p99, summary.worst), (8_000, 9_000));
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(Samples::default().summary(), None);
        assert_eq!(Samples::default().json(), Value::Null);
        assert_eq!(Samples::default().text(), "none");
    }

    #[test]
    fn documents_have_milliseconds() {
        let document = of([1_240, 1_260]).json();
        assert_eq!(
            (&document["p50_ms"], &document["worst_ms"], &document["count"]),
            (&json!(1.2), &json!(1.3), &json!(2))
        );
        for (micros, text) in [(820, "820 µs"), (20_440, "20.4 ms"), (148_900, "148 ms")] {
            assert_eq!(span(micros), text);
        }
        assert_eq!(span(4_200_000), "4.2 s");
    }
}
