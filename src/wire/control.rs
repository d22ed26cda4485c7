//! Records of the control log: everything besides usage that can change a verdict, an amount or a journal.
//!
//! Owns: the shape of each record and its bytes, canonical JSON, so that a person can read the log.
//! Leaves to others: when a record is written (`machine::control_writer`), what it means (`machine::control`).
//!
//! Invariants: records are only ever added to this enum; unknown records and unknown fields are refused, never skipped.

use std::fmt;

use domain::time::DAY;
use domain::{AccountId, EntityId, PriceId, Span, SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::correction::{EventRestated, EventTakenBack};

/// Which clock a data directory runs on; fixed by its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockKind {
    /// The machine's clock.
    Real,
    /// A clock that only moves by record, for demonstrations and tests.
    Scenario,
}

/// The first record of a control log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Tenant of the directory; 0 today.
    pub tenant: u32,
    /// Counts restorations of old backups; part of external ids from 1 on.
    pub incarnation: u32,
    /// Secret key of event identities, 32 hex digits.
    pub identity_key: String,
    /// The clock that the directory runs on.
    pub clock: ClockKind,
    /// Rating semantics and time-zone data that amounts are derived with.
    pub epoch: String,
    /// Version of the program that made the directory.
    pub made_by: String,
}

/// Settings that decide verdicts and finality. Durations in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRecord {
    /// Events older than this at arrival are quarantined as `too_old`.
    pub horizon: i64,
    /// Events further ahead than this at arrival are quarantined as `future`.
    pub future_max: i64,
    /// Pending events of one source in one slot.
    pub pending_per_slot_max: u32,
    /// Time after a window's or a period's end in which late usage still belongs to it.
    pub grace: i64,
    /// Events that arrived longer ago than this are corrected no more; never less than `horizon`.
    #[serde(default = "correction_horizon_default")]
    pub correction_horizon: i64,
}

/// What was in force before policies said it: 400 days.
pub const fn correction_horizon_default() -> i64 {
    400 * DAY
}

/// A version of a catalog resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Resource kind as in URL paths: `accounts`, `prices`, ...
    pub kind: String,
    /// Id of the resource.
    pub id: String,
    /// Version that this record makes, from 1.
    pub version: u32,
    /// SHA-256 of the canonical JSON of `body`.
    pub digest: String,
    /// The resource.
    pub body: Value,
    /// Who asked for it: a token's name, or `catalog-file`.
    pub actor: String,
}

/// Where rating happens: a barrier in the usage partition, and a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Number of the cut, from 1.
    pub number: u64,
    /// Offset of the barrier record in usage partition 0.
    pub barrier: u64,
    /// Terms known, silence and finality are judged as of this instant.
    pub at: Timestamp,
    /// Who or what asked for it: `timer`, `catalog`, a token's name.
    pub reason: String,
}

/// Makes a charge batch final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Number of the batch, from 1, without gaps.
    pub batch: u64,
    /// The cut that it came from.
    pub cut: u64,
    /// Chain digest: SHA-256 over the previous batch's digest, a newline and the batch's bytes.
    pub digest: String,
    /// Digest of the previous batch; empty for the first.
    pub previous: String,
    /// Rating semantics and time-zone data.
    pub epoch: String,
    /// Charge lines in the batch.
    pub lines: u64,
}

/// A charge that could not be computed: its whole account stays out of the batch, and is rated again at the next cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatingFailure {
    /// The account.
    pub account: AccountId,
    /// The subscription of the charge; none if it is the account's own.
    pub subscription: Option<SubscriptionId>,
    /// The price of the charge; none if it is the account's own.
    pub price: Option<PriceId>,
    /// First instant of the tier window; none if it is the account's own.
    pub window_from: Option<Timestamp>,
    /// The broken rule, in words.
    pub status: String,
}

impl fmt::Display for RatingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}", self.account)?;
        if let Some(subscription) = &self.subscription {
            write!(f, ", subscription {subscription}")?;
        }
        if let Some(price) = &self.price {
            write!(f, ", price {price}")?;
        }
        if let Some(window_from) = &self.window_from {
            write!(f, ", window from {window_from}")?;
        }
        write!(f, ": {}", self.status)
    }
}

/// Failures that one record names; a cut with more of them makes several records.
pub const FAILURES_MAX: usize = 4_096;

/// Accounts that a cut could not rate: the next cut rates all of them as a whole. Stands between the cut and its seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unrated {
    /// Number of the cut.
    pub cut: u64,
    /// One failure of each account, in order of accounts.
    pub failures: Vec<RatingFailure>,
}

/// Asks for the journals of an entity over a range of sealed batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalRun {
    /// The legal entity.
    pub entity: EntityId,
    /// Number of the first journal of the run; journals of an entity are numbered without gaps.
    pub first_run: u64,
    /// First and last sealed batch, inclusive.
    pub batches: [u64; 2],
    /// Posting dates are derived from this instant.
    pub at: Timestamp,
    /// Who or what asked for it.
    pub reason: String,
}

/// Makes the journals of a run final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalSeal {
    /// The legal entity.
    pub entity: EntityId,
    /// Number of the first journal of the run.
    pub first_run: u64,
    /// Journals made by the run; zero when nothing moved.
    pub journals: u64,
    /// SHA-256 over the previous journal seal's digest, a newline and the journals' bytes.
    pub digest: String,
}

/// Billing says that it has a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchAck {
    /// Number of the batch.
    pub batch: u64,
    /// Its digest, so that an ack of another history is refused.
    pub digest: String,
    /// The consumer: the token's name.
    pub consumer: String,
}

/// Why ids are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForgottenBecause {
    /// They were remembered as long as the settings ask for.
    DedupDays,
    /// There are more of them than the settings allow, before that.
    IdsMax,
}

impl ForgottenBecause {
    /// The word in records and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            ForgottenBecause::DedupDays => "dedup_days",
            ForgottenBecause::IdsMax => "ids_max",
        }
    }
}

/// Ids of usage before a place in the usage log are forgotten from the next barrier on. Nothing else forgets an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdsForgotten {
    /// Ids of events before this offset of usage partition 0 are forgotten, if they were accepted as they arrived and
    /// nobody corrected them.
    pub before: u64,
    /// Every batch before that place arrived by this instant.
    pub arrived_until: Timestamp,
    /// Why.
    pub because: ForgottenBecause,
    /// Ids that were remembered when it was decided.
    pub ids: u64,
    /// No event that is forgotten with this record, and not with one before it, happened later; without it, that follows from
    /// `arrived_until` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_until: Option<Timestamp>,
}

/// A record of the control log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum ControlRecord {
    /// The first record.
    Genesis(Genesis),
    /// Settings that decide verdicts and finality.
    Policy(PolicyRecord),
    /// A version of a catalog resource.
    Put(Put),
    /// Where rating happens.
    Cut(Cut),
    /// Accounts that a cut could not rate.
    Unrated(Unrated),
    /// Makes a batch final.
    Seal(Seal),
    /// Billing has a batch.
    BatchAck(BatchAck),
    /// Asks for journals.
    JournalRun(JournalRun),
    /// Makes journals final.
    JournalSeal(JournalSeal),
    /// An event counts no more.
    EventVoid(EventTakenBack),
    /// An event counts with other content.
    EventAmend(EventRestated),
    /// An event that was set aside is judged again.
    EventRelease(EventRestated),
    /// An event that was set aside stays so for good.
    EventDiscard(EventTakenBack),
    /// Ids before a place are forgotten.
    IdsForgotten(IdsForgotten),
    /// Moves the scenario clock.
    ScenarioClock(ScenarioClock),
    /// A person accepted a step of the machine's clock.
    ClockAccepted(Accepted),
    /// A person accepted other rating semantics or time-zone data.
    EpochAccepted(EpochAccepted),
}

/// Moves the scenario clock forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioClock {
    /// The new present.
    pub now: Timestamp,
}

/// Somebody took responsibility for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Rating semantics or time-zone data changed, and a person accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochAccepted {
    /// The new epoch.
    pub epoch: String,
    /// Who accepted it.
    pub actor: String,
}

/// A window of an account is complete: later lines of it are corrections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowFinal {
    /// The account.
    pub account: AccountId,
    /// The tier window.
    pub window: Span,
    /// Events that the account's charges of this window count.
    pub event_count: u64,
    /// Digest of the set of those events, 32 hex digits.
    pub event_digest: String,
}

impl ControlRecord {
    /// The record as canonical JSON bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Through `Value`, whose objects are sorted; there are no floats in any record.
        let value = serde_json::to_value(self).expect("a control record is plain data");
        serde_json::to_vec(&value).expect("a JSON value always serializes")
    }

    /// Reads a record.
    ///
    /// # Errors
    /// If the bytes are not JSON, the record is unknown, or a field is unknown or missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_unknown_fields_are_refused() {
        let record = ControlRecord::Seal(Seal {
            batch: 1,
            cut: 2,
            digest: "d".into(),
            previous: String::new(),
            epoch: "1".into(),
            lines: 3,
        });
        let bytes = record.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"batch":1,"cut":2,"digest":"d","epoch":"1","lines":3,"previous":"","record":"seal"}"#
        );
        assert_eq!(ControlRecord::decode(&bytes).unwrap(), record);
        assert!(
            ControlRecord::decode(br#"{"record":"scenario_clock","now":"2026-01-01T00:00:00Z","x":1}"#)
                .is_err()
        );
        assert!(ControlRecord::decode(br#"{"record":"mystery"}"#).is_err());
    }

    #[test]
    fn what_a_cut_could_not_rate_says_which_charge_and_why() {
        let account = AccountId::new("acme").unwrap();
        let status = "a rule".to_string();
        let failure = RatingFailure { account, subscription: None, price: None, window_from: None, status };
        assert_eq!(failure.to_string(), "account acme: a rule");
        let record = ControlRecord::Unrated(Unrated { cut: 2, failures: vec![failure] });
        let bytes = record.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"cut":2,"failures":[{"account":"acme","price":null,"status":"a rule","subscription":null,"window_from":null}],"record":"unrated"}"#
        );
        assert_eq!(ControlRecord::decode(&bytes).unwrap(), record);
    }
}
