//! The rules of a scenario.
//!
//! Owns: bounds, and what goes together with what. Leaves to others: what a mistake is called (`status`).
//!
//! Invariants: the first mistake in the order of the file's sections is told, with the section and key that it is in.

use domain::limits::{EVENT_DIMENSIONS_MAX, PROPERTY_BYTES_MAX};

use super::{FORMAT, IdShape, Scenario, ScenarioError, ScenarioStatus, Target};

/// Largest batch of each target: frames have their own bounds, and a JSON body of 100,000 events stays below 64 MiB.
const QUIC_BATCH_MAX: u64 = 16_384;
const HTTP_BATCH_MAX: u64 = 100_000;
const EVENTS_MAX: u64 = 1_000_000_000_000;
const DISTINCT_MAX: u64 = 100_000;

/// A broken rule, and the field that broke it.
pub(crate) struct Mistake {
    /// Name of the section; empty for the top of the file.
    section: &'static str,
    key: &'static str,
    /// Which of several sections of that name, from 0.
    nth: usize,
    pub(crate) status: ScenarioStatus,
}

impl Mistake {
    pub(crate) fn in_file(self, name: &str, text: &str) -> ScenarioError {
        let line = Some(self.line_in(text));
        ScenarioError { scenario: name.to_string(), line, status: self.status }
    }

    /// A mistake that only came about by flags.
    pub(crate) fn by_flags(self, name: &str) -> ScenarioError {
        let scenario = format!("{name} with these flags, `{}`", self.key);
        ScenarioError { scenario, line: None, status: self.status }
    }

    /// The line of the key; if it is left out, that of its section; else the first.
    fn line_in(&self, text: &str) -> usize {
        let (mut section, mut nth, mut best) = ("", 0, 1);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(head) = line.strip_prefix('[') {
                let name = head.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
                nth = if name == section { nth + 1 } else { 0 };
                section = name;
                if section == self.section && nth == self.nth {
                    best = index + 1;
                }
                continue;
            }
            let key = line.split('=').next().unwrap_or_default().trim();
            if section == self.section && nth == self.nth && key == self.key {
                return index + 1;
            }
        }
        best
    }
}

impl Scenario {
    /// Checks every rule.
    pub(crate) fn check(&self) -> Result<(), Mistake> {
        self.check_load()?;
        self.check_events()?;
        self.check_sending()?;
        self.check_disturbances()
    }

    fn check_load(&self) -> Result<(), Mistake> {
        let load = &self.load;
        rule(self.scenario == FORMAT, "", "scenario", ScenarioStatus::FormatMustBeKnown(self.scenario))?;
        rule(
            load.events.is_some() != load.seconds.is_some(),
            "load",
            "seconds",
            ScenarioStatus::EndMustBeOne,
        )?;
        bound("load", "events", load.events.unwrap_or(1), 1, EVENTS_MAX)?;
        bound("load", "seconds", load.seconds.unwrap_or(1), 1, 86_400)?;
        bound("load", "rate", load.rate, 0, 1_000_000_000)?;
        bound("load", "accounts", load.accounts.into(), 1, 1_000_000)?;
        bound("load", "subjects", self.subjects().into(), 1, 10_000_000)?;
        let is_covered = self.subjects() >= load.accounts;
        rule(is_covered, "load", "subjects", ScenarioStatus::SubjectsMustCoverAccounts)?;
        rule((0.0..=5.0).contains(&load.skew), "load", "skew", ScenarioStatus::SkewMustFit)
    }

    fn check_events(&self) -> Result<(), Mistake> {
        let (ids, time) = (&self.ids, &self.time);
        bound("ids", "duplicates", ids.duplicates.into(), 0, 900)?;
        let is_sequenced = ids.shape == IdShape::Sequenced;
        let is_quic = self.send.target == Target::Quic;
        rule(!is_sequenced || is_quic, "ids", "shape", ScenarioStatus::SequencedMustBeQuic)?;
        let is_unique = !is_sequenced || ids.duplicates == 0;
        rule(is_unique, "ids", "duplicates", ScenarioStatus::SequencedMustBeUnique)?;
        bound("time", "late", time.late.into(), 0, 1_000)?;
        bound("time", "disorder", time.disorder.into(), 0, 1_000)?;
        rule(time.late + time.disorder <= 1_000, "time", "late", ScenarioStatus::SharesMustFit)?;
        bound("time", "late_hours", time.late_hours.into(), 1, 720)?;
        bound("time", "disorder_seconds", time.disorder_seconds.into(), 1, 3_600)?;
        let fits = |text: &String| (1..=PROPERTY_BYTES_MAX).contains(&text.len());
        for (nth, dimension) in self.dimensions.iter().enumerate() {
            let in_this = |key, status| Mistake { section: "dimension", key, nth, status };
            let is_known = self.dimensions[..nth].iter().any(|other| other.name == dimension.name);
            if !fits(&dimension.name) || is_known || nth == EVENT_DIMENSIONS_MAX {
                return Err(in_this("name", ScenarioStatus::DimensionMustBeNamed));
            }
            let is_listed = !dimension.values.is_empty() && dimension.values.iter().all(fits);
            if dimension.distinct.is_some() == is_listed {
                return Err(in_this("values", ScenarioStatus::DimensionMustHaveTexts));
            }
            let distinct = dimension.distinct.unwrap_or(1).into();
            bound("dimension", "distinct", distinct, 1, DISTINCT_MAX)
                .map_err(|mistake| Mistake { nth, ..mistake })?;
        }
        Ok(())
    }

    fn check_sending(&self) -> Result<(), Mistake> {
        let send = &self.send;
        bound("send", "connections", send.connections.into(), 1, 20_000)?;
        bound("send", "processes", send.processes.into(), 1, 64)?;
        let has_connections = send.processes <= send.connections;
        rule(has_connections, "send", "processes", ScenarioStatus::ProcessesMustHaveConnections)?;
        bound("send", "threads", send.threads.into(), 1, 64)?;
        match send.target {
            Target::Quic => bound("send", "batch", self.batch().into(), 1, QUIC_BATCH_MAX)?,
            Target::HttpSingle | Target::HttpBinary => {
                rule(self.batch() == 1, "send", "batch", ScenarioStatus::SingleMustBeSingle)?;
            }
            Target::HttpBatch | Target::Ndjson => {
                bound("send", "batch", self.batch().into(), 1, HTTP_BATCH_MAX)?;
            }
        }
        let fits = send.in_flight.is_none() || send.target == Target::Quic;
        rule(fits, "send", "in_flight", ScenarioStatus::InFlightMustBeQuic)?;
        bound("send", "in_flight", self.in_flight().into(), 1, 64)
    }

    fn check_disturbances(&self) -> Result<(), Mistake> {
        if let Some(bursts) = &self.bursts {
            rule(self.load.rate > 0, "bursts", "factor", ScenarioStatus::BurstsMustHaveRate)?;
            bound("bursts", "every_seconds", bursts.every_seconds.into(), 2, 3_600)?;
            bound("bursts", "for_seconds", bursts.for_seconds.into(), 1, 3_599)?;
            let ends = bursts.for_seconds < bursts.every_seconds;
            rule(ends, "bursts", "for_seconds", ScenarioStatus::BurstMustEnd)?;
            bound("bursts", "factor", bursts.factor.into(), 2, 1_000)?;
        }
        if let Some(reconnects) = &self.reconnects {
            bound("reconnects", "every_seconds", reconnects.every_seconds.into(), 1, 3_600)?;
            bound("reconnects", "connections", reconnects.connections.into(), 1, 1_000)?;
        }
        if let Some(slow) = &self.slow {
            bound("slow", "connections", slow.connections.into(), 1, 1_000)?;
            bound("slow", "milliseconds", slow.milliseconds.into(), 1, 9_000)?;
        }
        if let Some(trace) = &self.trace {
            rule(self.load.rate == 0, "load", "rate", ScenarioStatus::TraceMustPaceItself)?;
            bound("trace", "speed", trace.speed, 1, 1_000_000)?;
        }
        Ok(())
    }
}

fn rule(
    holds: bool,
    section: &'static str,
    key: &'static str,
    status: ScenarioStatus,
) -> Result<(), Mistake> {
    if holds { Ok(()) } else { Err(Mistake { section, key, nth: 0, status }) }
}

fn bound(section: &'static str, key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Mistake> {
    let fits = (least..=most).contains(&value);
    rule(fits, section, key, ScenarioStatus::NumberMustFit { least, most })
}
