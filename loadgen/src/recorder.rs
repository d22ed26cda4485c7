//! What the connections of a process measured since the last tick.
//!
//! Owns: histograms as lists of buckets, so that processes can hand them over and be added up exactly.
//!
//! Invariants: adding up histograms of the same bounds loses nothing; what is taken is counted in no later tick.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Microseconds, from one to ten minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants")
}

/// Counts of a second, or of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Events that were answered well.
    pub(crate) events: u64,
    /// Batches or requests that were answered well.
    pub(crate) requests: u64,
    /// Bytes of batches or requests, sent again included.
    pub(crate) bytes: u64,
    /// Events that the receiver refused.
    pub(crate) refused: u64,
    /// Requests sent again after a lost connection or a busy answer.
    pub(crate) retries: u64,
    pub(crate) reconnects: u64,
    /// HTTP answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// What the receiver said of the first refusal.
    pub(crate) first_refusal: Option<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.refused += other.refused;
        self.retries += other.retries;
        self.reconnects += other.reconnects;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        if self.first_refusal.is_none() {
            self.first_refusal.clone_from(&other.first_refusal);
        }
    }
}

/// A second of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) counts: Counts,
    /// Latency buckets: microseconds, count.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// When the last answer came, in microseconds since the start; saying goodbye is no part of a run.
    pub(crate) last_answer: u64,
}

impl Tick {
    pub(crate) fn add_latencies_to(&self, histogram: &mut Histogram<u64>) {
        for (microseconds, count) in &self.latencies {
            histogram.saturating_record_n(*microseconds, *count);
        }
    }
}

/// Where connections report to.
pub(crate) struct Recorder(Mutex<Recorded>);

struct Recorded {
    counts: Counts,
    latencies: Histogram<u64>,
    last_answer: Option<Instant>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let recorded = Recorded { counts: Counts::default(), latencies: histogram(), last_answer: None };
        Self(Mutex::new(recorded))
    }

    /// Changes the counts, and records a latency if there is one.
    pub(crate) fn record(&self, latency: Option<Duration>, change: impl FnOnce(&mut Counts)) {
        let Recorded { counts, latencies, last_answer } =
            &mut *self.0.lock().expect("nothing panics while it counts");
        let answered = counts.events + counts.refused;
        change(counts);
        if counts.events + counts.refused > answered {
            *last_answer = Some(Instant::now());
        }
        if let Some(latency) = latency {
            let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
            latencies.saturating_record(microseconds);
        }
    }

    /// What was recorded since the last call, of a run that began at `start`.
    pub(crate) fn take(&self, start: Instant) -> Tick {
        let Recorded { counts, latencies, last_answer } =
            &mut *self.0.lock().expect("nothing panics while it counts");
        let buckets =
            latencies.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()));
        let last_answer = last_answer.take().map_or(0, |last| last.duration_since(start).as_micros() as u64);
        let tick = Tick { counts: std::mem::take(counts), latencies: buckets.collect(), last_answer };
        latencies.reset();
        tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn histograms_of_processes_add_up_to_what_one_would_have_seen() {
        let mut random = Random::new(3, 0);
        let mut whole = histogram();
        let mut merged = histogram();
        for _ in 0..3 {
            let recorder = Recorder::new();
            for _ in 0..20_000 {
                let magnitude = 1 + random.below(28);
                let microseconds = 1 + random.below(1 << magnitude);
                recorder.record(Some(Duration::from_micros(microseconds)), |_| {});
                whole.saturating_record(microseconds);
            }
            let tick = recorder.take(Instant::now());
            let tick: Tick = serde_json::from_str(&serde_json::to_string(&tick).unwrap()).unwrap();
            tick.add_latencies_to(&mut merged);
            assert_eq!(recorder.take(Instant::now()), Tick::default());
        }
        assert_eq!(merged.len(), whole.len());
        for percentile in [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0] {
            assert_eq!(merged.value_at_percentile(percentile), whole.value_at_percentile(percentile));
        }
    }
}
