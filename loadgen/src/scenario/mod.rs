//! What a run sends, how, and for how long: a TOML file that a person writes, or one of those that are built in.
//!
//! Owns: the fields of a scenario and their defaults, reading a file, finding one by name.
//! Leaves to others: rules (`check`), what a mistake is called (`status`), flags (`flags`).
//!
//! Invariants: the fields and their meaning are those of `docs/loadgen.md`; a field that is unknown is a mistake.

mod builtin;
mod check;
pub(crate) mod flags;
mod status;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use self::builtin::BUILT_IN;
pub use self::status::{ScenarioError, ScenarioStatus};

/// Format of scenario files that is read here.
const FORMAT: u32 = 1;

/// A scenario.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Version of the format.
    pub(crate) scenario: u32,
    /// One line for a list.
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) load: Load,
    #[serde(default)]
    pub(crate) ids: Ids,
    #[serde(default)]
    pub(crate) time: Times,
    #[serde(default, rename = "dimension")]
    pub(crate) dimensions: Vec<Dimension>,
    #[serde(default)]
    pub(crate) send: Sending,
    pub(crate) bursts: Option<Bursts>,
    pub(crate) reconnects: Option<Reconnects>,
    pub(crate) slow: Option<Slow>,
    pub(crate) trace: Option<Trace>,
}

/// How much, from whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Load {
    /// Events in all, duplicates included.
    pub(crate) events: Option<u64>,
    /// Instead of `events`: for how long.
    pub(crate) seconds: Option<u64>,
    /// Events a second, open loop; 0 is as fast as answers allow.
    pub(crate) rate: u64,
    pub(crate) accounts: u32,
    /// As many as accounts unless said.
    pub(crate) subjects: Option<u32>,
    /// Zipf exponent of the subjects' shares; 0 is even.
    pub(crate) skew: f64,
    pub(crate) seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self { events: None, seconds: None, rate: 0, accounts: 1_000, subjects: None, skew: 1.0, seed: 1 }
    }
}

/// What ids look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IdShape {
    /// 16 hexadecimal digits that count upwards.
    Hex16,
    /// 36 characters without an order.
    Uuid,
    /// 26 characters that begin with the event's time.
    Ulid,
    /// 128 characters, most of them the same.
    Long,
    /// None: the client counts (QUIC only).
    Sequenced,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ids {
    pub(crate) shape: IdShape,
    /// Of 1,000 events, those that are sent again.
    pub(crate) duplicates: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self { shape: IdShape::Hex16, duplicates: 0 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Times {
    /// Of 1,000 events, those that are late.
    pub(crate) late: u32,
    pub(crate) late_hours: u32,
    /// Of 1,000 events, those that are out of order.
    pub(crate) disorder: u32,
    pub(crate) disorder_seconds: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self { late: 0, late_hours: 48, disorder: 0, disorder_seconds: 60 }
    }
}

/// A dimension of every event: its texts, or how many different ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dimension {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) values: Vec<String>,
    pub(crate) distinct: Option<u32>,
}

/// Where events go, and how they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Tallymark's own protocol, by its client library.
    Quic,
    /// One structured CloudEvent a request.
    HttpSingle,
    /// One binary CloudEvent a request: attributes as headers.
    HttpBinary,
    /// A JSON list of CloudEvents a request.
    HttpBatch,
    /// One CloudEvent a line, many lines a request.
    Ndjson,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sending {
    pub(crate) target: Target,
    pub(crate) connections: u32,
    pub(crate) processes: u32,
    /// Threads of each process.
    pub(crate) threads: u32,
    /// Events of a batch or request.
    pub(crate) batch: Option<u32>,
    /// Unanswered batches of a connection (QUIC only).
    pub(crate) in_flight: Option<u32>,
}

impl Default for Sending {
    fn default() -> Self {
        Self { target: Target::Quic, connections: 1, processes: 1, threads: 2, batch: None, in_flight: None }
    }
}

/// Every so often, for a while, more than the rate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bursts {
    pub(crate) every_seconds: u32,
    pub(crate) for_seconds: u32,
    pub(crate) factor: u32,
}

/// Every so often, connections end together and begin again together.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reconnects {
    pub(crate) every_seconds: u32,
    /// Of 1,000 connections, those that do.
    #[serde(default = "all")]
    pub(crate) connections: u32,
}

/// Connections that take their answers slowly; their latencies are not counted, their events are.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slow {
    /// Of 1,000 connections, those that are slow.
    pub(crate) connections: u32,
    /// Before each answer is read.
    pub(crate) milliseconds: u32,
}

/// A recorded load: a CSV file `TIMESTAMP,VALUE,…`, over and over.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    /// As seen from the scenario's folder.
    pub(crate) file: PathBuf,
    /// How much faster than it was.
    #[serde(default = "one")]
    pub(crate) speed: u64,
}

fn all() -> u32 {
    1_000
}

fn one() -> u64 {
    1
}

impl Scenario {
    /// Reads and checks the text of a file.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| ScenarioError {
            scenario: name.to_string(),
            line: error.span().map(|span| line_of(text, span.start)),
            status: ScenarioStatus::FileMustBeReadable(error.message().trim().replace('\n', "; ")),
        })?;
        scenario.check().map_err(|mistake| mistake.in_file(name, text))?;
        Ok(scenario)
    }

    /// The scenario of a name, or of a file.
    pub(crate) fn find(name: &str) -> Result<Self, ScenarioError> {
        if let Some(found) = BUILT_IN.iter().find(|built_in| built_in.name == name) {
            return Self::parse(name, found.text);
        }
        let path = Path::new(name);
        let failed = |status| ScenarioError { scenario: name.to_string(), line: None, status };
        let is_path = path.extension().is_some() || name.contains(std::path::MAIN_SEPARATOR);
        if !is_path {
            return Err(failed(ScenarioStatus::NameMustBeKnown));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(ScenarioStatus::FileMustBeThere(error.to_string())))?;
        let mut scenario = Self::parse(name, &text)?;
        if let (Some(trace), Some(folder)) = (&mut scenario.trace, path.parent()) {
            trace.file = folder.join(&trace.file);
        }
        Ok(scenario)
    }

    pub(crate) fn subjects(&self) -> u32 {
        self.load.subjects.unwrap_or(self.load.accounts)
    }

    /// Events of a batch or request.
    pub(crate) fn batch(&self) -> u32 {
        self.send.batch.unwrap_or(match self.send.target {
            Target::Quic => 4_096,
            Target::HttpSingle | Target::HttpBinary => 1,
            Target::HttpBatch => 1_000,
            Target::Ndjson => 50_000,
        })
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.send.in_flight.unwrap_or(16)
    }

    /// Whether events have a time to be sent at, whatever the answers do.
    pub(crate) fn is_open_loop(&self) -> bool {
        self.load.rate > 0 || self.trace.is_some()
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
