//! What a run measured, for a person and as JSON.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Throughput and latencies of one target.
pub(crate) struct Measured {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// From the intended send time to the ack, in microseconds.
    pub(crate) latencies: Histogram<u64>,
}

impl Measured {
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    fn to_json(&self) -> Value {
        let percentile = |percentile: f64| self.latencies.value_at_percentile(percentile);
        json!({
            "events": self.events, "bytes": self.bytes, "seconds": self.seconds, "events_per_second": self.rate(),
            "bytes_per_event": self.bytes as f64 / self.events as f64,
            "ack_microseconds": {
                "p50": percentile(50.0), "p90": percentile(90.0), "p99": percentile(99.0), "p999": percentile(99.9),
                "max": self.latencies.max(),
            },
        })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let milliseconds = |percentile: f64| self.latencies.value_at_percentile(percentile) as f64 / 1e3;
        writeln!(
            f,
            "{name:8} {:>9} events  {:>6.2} s  {:>10.0} events/s  {:>7.1} MB/s  {:>5.1} B/event",
            self.events,
            self.seconds,
            self.rate(),
            self.bytes_per_second() / 1e6,
            self.bytes as f64 / self.events as f64
        )?;
        writeln!(
            f,
            "         ack p50 {:.2} ms  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
            milliseconds(50.0),
            milliseconds(90.0),
            milliseconds(99.0),
            milliseconds(99.9),
            self.latencies.max() as f64 / 1e3
        )
    }
}

/// What verification found.
pub(crate) struct Verified {
    pub(crate) rows: usize,
    pub(crate) differences: Vec<String>,
    pub(crate) charged: String,
}

/// Everything that a run found.
pub struct Report {
    pub(crate) server: Measured,
    pub(crate) sink: Option<Measured>,
    pub(crate) refused: u64,
    pub(crate) reconnects: u64,
    pub(crate) foreign_cpu: Option<f64>,
    pub(crate) verified: Option<Verified>,
}

impl Report {
    /// Whether verification succeeded, or was not asked for.
    pub fn is_verified(&self) -> bool {
        self.verified.as_ref().is_none_or(|verified| verified.differences.is_empty())
    }

    /// Bytes per second as a share of the sink's.
    pub fn share_of_sink(&self) -> Option<f64> {
        self.sink.as_ref().map(|sink| self.server.bytes_per_second() / sink.bytes_per_second())
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        json!({
            "server": self.server.to_json(),
            "sink": self.sink.as_ref().map(Measured::to_json),
            "share_of_sink": self.share_of_sink(),
            "refused": self.refused,
            "reconnects": self.reconnects,
            "foreign_cpu_percent": self.foreign_cpu,
            "verified": self.verified.as_ref().map(|verified| json!({
                "rows": verified.rows, "differences": verified.differences, "charged": verified.charged,
            })),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sink) = &self.sink {
            sink.write(f, "sink")?;
        }
        self.server.write(f, "server")?;
        if let Some(share) = self.share_of_sink() {
            writeln!(f, "share of the sink's bytes: {:.1} %", share * 100.0)?;
        }
        if self.refused + self.reconnects > 0 {
            writeln!(f, "refused events {}, reconnects {}", self.refused, self.reconnects)?;
        }
        if let Some(foreign) = self.foreign_cpu {
            writeln!(f, "other programs used {foreign:.0} % of a core while the server was loaded")?;
        }
        match &self.verified {
            None => Ok(()),
            Some(verified) if verified.differences.is_empty() => writeln!(
                f,
                "VERIFIED: {} monthly charges equal the oracle to the last digit, {} in all",
                verified.rows, verified.charged
            ),
            Some(verified) => {
                writeln!(
                    f,
                    "NOT VERIFIED: {} of {} monthly charges differ",
                    verified.differences.len(),
                    verified.rows
                )?;
                verified.differences.iter().take(20).try_for_each(|difference| writeln!(f, "  {difference}"))
            }
        }
    }
}
