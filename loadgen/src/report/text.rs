//! The report in a terminal.

use std::fmt;

use super::Report;
use crate::workers::Measured;

/// Differences that are shown; all are counted.
const DIFFERENCES_MAX: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let send = &self.scenario.send;
        writeln!(f, "{}: {}", self.name, self.about())?;
        writeln!(
            f,
            "to {}, {} connections of {} processes, {} events a {}",
            self.receiver,
            send.connections,
            send.processes,
            self.scenario.batch(),
            if self.measured.counts.statuses.is_empty() { "batch" } else { "request" }
        )?;
        for (name, sink) in self.sinks() {
            write_measured(f, sink, name)?;
        }
        write_measured(f, &self.measured, "receiver")?;
        if let Some(share) = self.share_of_sink() {
            writeln!(f, "share of the sink's bytes: {:.1} %", share * 100.0)?;
        }
        if self.measured.counts.reconnects > 0 {
            writeln!(f, "{} reconnects", self.measured.counts.reconnects)?;
        }
        for warning in self.warnings() {
            writeln!(f, "WARNING: {warning}")?;
        }
        self.write_verified(f)
    }
}

impl Report {
    fn write_verified(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(verified) = &self.verified else { return Ok(()) };
        if verified.differences.is_empty() {
            return writeln!(
                f,
                "VERIFIED: {} monthly charges equal the oracle to the last digit, {} in all",
                verified.rows, verified.charged
            );
        }
        let count = verified.differences.len();
        writeln!(f, "NOT VERIFIED: {count} differences in {} monthly charges", verified.rows)?;
        verified
            .differences
            .iter()
            .take(DIFFERENCES_MAX)
            .try_for_each(|difference| writeln!(f, "  {difference}"))
    }
}

fn write_measured(f: &mut fmt::Formatter<'_>, measured: &Measured, name: &str) -> fmt::Result {
    let milliseconds = |percentile: f64| measured.latencies.value_at_percentile(percentile) as f64 / 1e3;
    writeln!(
        f,
        "{name:11} {:>10} events  {:>6.2} s  {:>10.0} events/s  {:>8.0} requests/s  {:>7.1} MB/s  {:>6.1} B/event",
        measured.counts.events,
        measured.seconds,
        measured.rate(),
        measured.requests_per_second(),
        measured.bytes_per_second() / 1e6,
        measured.bytes_per_event()
    )?;
    writeln!(
        f,
        "            latency p50 {:.2} ms  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
        milliseconds(50.0),
        milliseconds(90.0),
        milliseconds(99.0),
        milliseconds(99.9),
        measured.latencies.max() as f64 / 1e3
    )?;
    let Some(cpu) = &measured.cpu else { return Ok(()) };
    let cores = |seconds: f64| seconds / cpu.seconds;
    write!(f, "            of {} cores: generator {:.2}", cpu.cores, cores(cpu.generator))?;
    if let (Some(receiver), Some(ns)) = (cpu.receiver, measured.receiver_ns_per_event()) {
        write!(f, ", receiver {:.2} ({ns:.0} ns an event)", cores(receiver))?;
    }
    if let Some(foreign) = cpu.foreign {
        write!(f, ", other programs {:.2}", cores(foreign))?;
    }
    writeln!(f, ", stolen {:.2}", cores(cpu.stolen))
}
