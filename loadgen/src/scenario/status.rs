//! What can be wrong with a scenario, where, and what to do about it.
//!
//! Invariants: every status says its remedy.

use std::fmt;

use super::{BUILT_IN, FORMAT};

/// Which rule a scenario broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScenarioStatus {
    /// No such built-in scenario.
    NameMustBeKnown,
    /// The file cannot be opened; the cause.
    FileMustBeThere(String),
    /// Not TOML, or not these fields; what the parser says.
    FileMustBeReadable(String),
    /// Another version of the format.
    FormatMustBeKnown(u32),
    /// A number outside its bounds.
    NumberMustFit {
        /// Smallest value.
        least: u64,
        /// Largest value.
        most: u64,
    },
    /// Neither `events` nor `seconds`, or both.
    EndMustBeOne,
    /// Fewer subjects than accounts.
    SubjectsMustCoverAccounts,
    /// The skew is negative, not a number, or beyond 5.
    SkewMustFit,
    /// Late and out-of-order events are more than all.
    SharesMustFit,
    /// A dimension without a usable name, or one that is there twice.
    DimensionMustBeNamed,
    /// A dimension with both or neither of `values` and `distinct`.
    DimensionMustHaveTexts,
    /// Ids that the client counts, over something else than QUIC.
    SequencedMustBeQuic,
    /// Ids that the client counts are never sent twice.
    SequencedMustBeUnique,
    /// Requests of a single event have no batch.
    SingleMustBeSingle,
    /// Only QUIC has several batches of a connection in flight.
    InFlightMustBeQuic,
    /// Every process has a connection.
    ProcessesMustHaveConnections,
    /// Bursts multiply a rate.
    BurstsMustHaveRate,
    /// A burst is shorter than the time between bursts.
    BurstMustEnd,
    /// A trace has a pace of its own.
    TraceMustPaceItself,
    /// The trace cannot be read; the cause.
    TraceMustBeReadable(String),
}

impl fmt::Display for ScenarioStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScenarioStatus::NameMustBeKnown => {
                let names: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
                return write!(
                    f,
                    "there is no scenario of that name; take one of {}, or the path of a file that ends with .toml",
                    names.join(", ")
                );
            }
            ScenarioStatus::FileMustBeThere(cause) => {
                return write!(f, "the file cannot be opened ({cause}); check the path");
            }
            ScenarioStatus::FileMustBeReadable(what) => {
                return write!(f, "{what}; docs/loadgen.md lists all fields");
            }
            ScenarioStatus::FormatMustBeKnown(format) => {
                return write!(f, "the format {format} is not known here; write `scenario = {FORMAT}`");
            }
            ScenarioStatus::NumberMustFit { least, most } => {
                return write!(f, "the number is out of bounds; take one from {least} to {most}");
            }
            ScenarioStatus::EndMustBeOne => {
                "a run needs one end; give either `events` or `seconds` under [load]"
            }
            ScenarioStatus::SubjectsMustCoverAccounts => {
                "every account has a subject; raise `subjects` or lower `accounts`"
            }
            ScenarioStatus::SkewMustFit => "the Zipf exponent is out of bounds; take one from 0.0 to 5.0",
            ScenarioStatus::SharesMustFit => {
                "late and out-of-order events are shares of the same 1,000; lower `late` or `disorder`"
            }
            ScenarioStatus::DimensionMustBeNamed => {
                "a dimension has a name of 1 to 256 bytes that no other has; rename it"
            }
            ScenarioStatus::DimensionMustHaveTexts => {
                "a dimension has either a list of texts of 1 to 256 bytes or a number of different ones; give `values` or \
                 `distinct`"
            }
            ScenarioStatus::SequencedMustBeQuic => {
                "only the client library counts events; take another `shape` under [ids], or `target = \"quic\"`"
            }
            ScenarioStatus::SequencedMustBeUnique => {
                "a client that counts never sends an event twice; set `duplicates = 0`, or take another `shape`"
            }
            ScenarioStatus::SingleMustBeSingle => {
                "a request of this target has one event; leave `batch` out, or take `target = \"http-batch\"`"
            }
            ScenarioStatus::InFlightMustBeQuic => {
                "a connection of HTTP/1.1 has one request in flight; leave `in_flight` out and raise `connections`"
            }
            ScenarioStatus::ProcessesMustHaveConnections => {
                "every process has a connection; lower `processes` or raise `connections`"
            }
            ScenarioStatus::BurstsMustHaveRate => "bursts multiply a rate; give `rate` under [load]",
            ScenarioStatus::BurstMustEnd => {
                "a burst ends before the next begins; lower `for_seconds` or raise `every_seconds`"
            }
            ScenarioStatus::TraceMustPaceItself => "a trace brings its own pace; leave `rate` out, and use `speed`",
            ScenarioStatus::TraceMustBeReadable(cause) => {
                return write!(
                    f,
                    "the trace cannot be used ({cause}); give the path of a CSV file whose first columns are a time and a \
                     whole number"
                );
            }
        })
    }
}

/// A mistake, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    /// Name or path of the scenario.
    pub scenario: String,
    /// Line of the file; a mistake of flags has none.
    pub line: Option<usize>,
    /// The rule.
    pub status: ScenarioStatus,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.scenario, self.status),
            None => write!(f, "{}: {}", self.scenario, self.status),
        }
    }
}

impl std::error::Error for ScenarioError {}
