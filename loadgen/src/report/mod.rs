//! What a run measured: for a person, for programs, and as a page.
//!
//! Owns: ratios and warnings. Leaves to others: the terminal (`text`), the page (`html`), measuring (`workers`).
//!
//! Invariants: every form is made of the same figures.

mod html;
mod svg;
mod text;

use domain::Timestamp;
use serde_json::{Value, json};

use crate::cpu::CpuUse;
use crate::scenario::Scenario;
use crate::verify::Verified;
use crate::workers::{Measured, Second};

/// Foreign use, in percent of a core, above which a run's figures are not to be trusted.
const FOREIGN_PERCENT_MAX: f64 = 5.0;

/// Everything that a run found.
pub struct Report {
    pub(crate) name: String,
    /// Whether flags stood above the scenario.
    pub(crate) is_changed: bool,
    pub(crate) receiver: String,
    pub(crate) started_at: Timestamp,
    pub(crate) scenario: Scenario,
    pub(crate) measured: Measured,
    pub(crate) sink_before: Option<Measured>,
    pub(crate) sink_after: Option<Measured>,
    pub(crate) verified: Option<Verified>,
}

impl Measured {
    pub(crate) fn rate(&self) -> f64 {
        self.counts.events as f64 / self.seconds
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.counts.requests as f64 / self.seconds
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.counts.bytes as f64 / self.seconds
    }

    pub(crate) fn bytes_per_event(&self) -> f64 {
        self.counts.bytes as f64 / (self.counts.events + self.counts.refused).max(1) as f64
    }

    /// The receiver's processor time for an event, in nanoseconds.
    pub(crate) fn receiver_ns_per_event(&self) -> Option<f64> {
        let seconds = self.cpu?.receiver?;
        Some(seconds * 1e9 / self.counts.events.max(1) as f64)
    }

    fn to_json(&self) -> Value {
        let percentile = |percentile: f64| self.latencies.value_at_percentile(percentile);
        let counts = &self.counts;
        json!({
            "events": counts.events, "requests": counts.requests, "bytes": counts.bytes, "seconds": self.seconds,
            "events_per_second": self.rate(), "requests_per_second": self.requests_per_second(),
            "bytes_per_event": self.bytes_per_event(),
            "refused": counts.refused, "first_refusal": counts.first_refusal,
            "retries": counts.retries, "reconnects": counts.reconnects, "http_statuses": counts.statuses,
            "latency_microseconds": {
                "p50": percentile(50.0), "p90": percentile(90.0), "p99": percentile(99.0), "p999": percentile(99.9),
                "p9999": percentile(99.99), "max": self.latencies.max(), "count": self.latencies.len(),
            },
            "ended_early": self.broken,
            "seconds_in_turn": self.series.iter().map(second_json).collect::<Vec<_>>(),
            "cpu_seconds": self.cpu.as_ref().map(cpu_json),
            "receiver_ns_per_event": self.receiver_ns_per_event(),
        })
    }
}

fn second_json(second: &Second) -> Value {
    json!({
        "events": second.counts.events, "bytes": second.counts.bytes, "refused": second.counts.refused,
        "p50": second.p50, "p99": second.p99, "max": second.max,
    })
}

fn cpu_json(cpu: &CpuUse) -> Value {
    json!({
        "cores": cpu.cores, "elapsed": cpu.seconds, "generator": cpu.generator, "receiver": cpu.receiver,
        "receiver_was_replaced": cpu.is_receiver_gone,
        "foreign": cpu.foreign, "stolen": cpu.stolen, "foreign_percent": cpu.foreign_percent(),
    })
}

impl Report {
    /// Whether the run went to its end, something was taken, and verification succeeded or was not asked for.
    pub fn is_good(&self) -> bool {
        let counts = &self.measured.counts;
        let is_all_refused = counts.events == 0 && counts.refused > 0;
        let is_verified = self.verified.as_ref().is_none_or(|verified| verified.differences.is_empty());
        self.measured.broken.is_none() && !is_all_refused && is_verified
    }

    /// Bytes per second as a share of the sink's, of the runs before and after it together.
    pub fn share_of_sink(&self) -> Option<f64> {
        let sinks: Vec<&Measured> = self.sinks().map(|(_, sink)| sink).collect();
        let bytes: u64 = sinks.iter().map(|sink| sink.counts.bytes).sum();
        let seconds: f64 = sinks.iter().map(|sink| sink.seconds).sum();
        (!sinks.is_empty()).then(|| self.measured.bytes_per_second() / (bytes as f64 / seconds))
    }

    pub(crate) fn sinks(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        let before = self.sink_before.iter().map(|sink| ("sink before", sink));
        before.chain(self.sink_after.iter().map(|sink| ("sink after", sink)))
    }

    /// What the scenario says of itself.
    pub(crate) fn about(&self) -> String {
        let changed = if self.is_changed { " (changed by flags)" } else { "" };
        format!("{}{changed}", self.scenario.about)
    }

    /// What makes the figures doubtful.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(why) = &self.measured.broken {
            warnings.push(format!("the run ended early, and its figures are of a part of it: {why}"));
        }
        if self.measured.cpu.is_some_and(|cpu| cpu.is_receiver_gone) {
            warnings.push(
                "a process of the receiver ended during the run: its processor time is not known, nor that of other programs"
                    .to_string(),
            );
        }
        let foreign = self.measured.cpu.and_then(|cpu| cpu.foreign_percent()).unwrap_or(0.0);
        if foreign > FOREIGN_PERCENT_MAX {
            warnings.push(format!(
                "other programs used {foreign:.0} % of a core while the receiver was loaded: run again on a quiet machine"
            ));
        }
        if self.measured.counts.refused > 0 {
            let why = self.measured.counts.first_refusal.as_deref().unwrap_or("the acks say so");
            warnings.push(format!("{} events were refused; the first: {why}", self.measured.counts.refused));
        }
        if self.measured.counts.retries > 0 {
            warnings.push(format!("{} requests were sent again", self.measured.counts.retries));
        }
        warnings
    }

    /// The report as one page that loads nothing.
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "loadgen": env!("CARGO_PKG_VERSION"),
            "name": self.name,
            "receiver": self.receiver,
            "started_at": self.started_at,
            "scenario": self.scenario,
            "measured": self.measured.to_json(),
            "sink_before": self.sink_before.as_ref().map(Measured::to_json),
            "sink_after": self.sink_after.as_ref().map(Measured::to_json),
            "share_of_sink": self.share_of_sink(),
            "warnings": self.warnings(),
            "verified": self.verified.as_ref().map(|verified| json!({
                "rows": verified.rows, "differences": verified.differences, "charged": verified.charged,
            })),
        })
    }
}
