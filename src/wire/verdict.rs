//! What becomes of an event, by precedence, with codes that never change.
//!
//! Owns: the verdicts, the refusals and the reasons of quarantine, their codes and their texts.
//! Leaves to others: reaching a verdict (`usage` for refusals, `engine` for all others).
//!
//! Invariants: the first verdict in the order of [`Verdict`] that holds is the one that an event gets; code 0 is never
//! used, so a buffer that nobody wrote to holds no verdict.

use std::fmt;

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident: $repr:ident, $count:literal { $($(#[$variant_doc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)*
        }

        impl $name {
            /// Every one, in order of precedence.
            pub const ALL: [$name; $count] = [$($name::$variant,)*];

            /// The code on the wire; never reused.
            pub const fn code(self) -> $repr {
                self as $repr
            }

            /// The one with a code.
            pub const fn from_code(code: $repr) -> Option<Self> {
                match code {
                    $($code => Some($name::$variant),)*
                    _ => None,
                }
            }

            /// The text, as APIs and metrics show it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

coded! {
    /// Why an event of a sound batch is refused, known from the frame alone. It is never counted; the others go on.
    RefusalCode: u16, 6 {
        /// The id is empty or longer than 256 bytes.
        IdMustFit = 1, "id_must_fit";
        /// The id is not UTF-8.
        IdMustBeUtf8 = 2, "id_must_be_utf8";
        /// The subject is empty or longer than 256 bytes.
        SubjectMustFit = 3, "subject_must_fit";
        /// The time is outside the years 2000 to 2099.
        TimeMustBeInRange = 4, "time_must_be_in_range";
        /// A value has more than 38 digits.
        ValueDigitsMustFit = 5, "value_digits_must_fit";
        /// The text of a dimension is empty or longer than 256 bytes.
        DimensionMustFit = 6, "dimension_must_fit";
    }
}

coded! {
    /// Why an event is set aside until a person or a record decides.
    QuarantineReason: u8, 7 {
        /// Older than the dedup horizon can prove.
        TooOld = 1, "too_old";
        /// Further ahead of its arrival than policy allows.
        Future = 2, "future";
        /// A meter sums a value that the event does not have.
        MissingValue = 3, "missing_value";
        /// The value is negative and the meter rejects that.
        NegativeUsage = 4, "negative_usage";
        /// The value has more fraction digits than the meter keeps.
        ValueScale = 5, "value_scale";
        /// The value does not fit the meter's range.
        ValueRange = 6, "value_range";
        /// No owner is known, and no more events of the source may wait for one.
        PendingFull = 7, "pending_full";
    }
}

impl QuarantineReason {
    /// Place of the reason in [`QuarantineReason::ALL`].
    pub const fn ordinal(self) -> usize {
        self as usize - 1
    }
}

/// What became of an event, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Refused from the frame alone; not counted.
    Rejected(RefusalCode),
    /// Same id, content and time as an earlier event; counted once, with that one.
    Duplicate,
    /// Same id and content as an earlier event, other time; the first is kept.
    DuplicateRestamped,
    /// Same id as an earlier event, other content; both are kept, the first counts.
    Conflict,
    /// Set aside with a reason.
    Quarantined(QuarantineReason),
    /// Accepted and counted by at least one meter.
    Accepted,
    /// Accepted; no meter takes it.
    Unmetered,
    /// Accepted; its subject has no owner yet.
    Pending,
}

const ACCEPTED: u8 = 1;
const UNMETERED: u8 = 2;
const PENDING: u8 = 3;
const DUPLICATE: u8 = 16;
const DUPLICATE_RESTAMPED: u8 = 17;
const CONFLICT: u8 = 32;
const QUARANTINED_BASE: u8 = 48;
const REJECTED_BASE: u8 = 64;

const _: () = assert!(QUARANTINED_BASE as usize + QuarantineReason::ALL.len() < REJECTED_BASE as usize);

impl Verdict {
    /// The code on the wire; never reused, never zero.
    pub const fn code(self) -> u8 {
        match self {
            Verdict::Rejected(refusal) => REJECTED_BASE + refusal.code() as u8, // codes are below 64
            Verdict::Duplicate => DUPLICATE,
            Verdict::DuplicateRestamped => DUPLICATE_RESTAMPED,
            Verdict::Conflict => CONFLICT,
            Verdict::Quarantined(reason) => QUARANTINED_BASE + reason.code(),
            Verdict::Accepted => ACCEPTED,
            Verdict::Unmetered => UNMETERED,
            Verdict::Pending => PENDING,
        }
    }

    /// The verdict with a code.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            ACCEPTED => Verdict::Accepted,
            UNMETERED => Verdict::Unmetered,
            PENDING => Verdict::Pending,
            DUPLICATE => Verdict::Duplicate,
            DUPLICATE_RESTAMPED => Verdict::DuplicateRestamped,
            CONFLICT => Verdict::Conflict,
            QUARANTINED_BASE..REJECTED_BASE => {
                Verdict::Quarantined(QuarantineReason::from_code(code - QUARANTINED_BASE)?)
            }
            REJECTED_BASE.. => Verdict::Rejected(RefusalCode::from_code(u16::from(code - REJECTED_BASE))?),
            _ => return None,
        })
    }

    /// The verdict without its reason, as APIs and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Rejected(_) => "rejected",
            Verdict::Duplicate => "duplicate",
            Verdict::DuplicateRestamped => "duplicate_restamped",
            Verdict::Conflict => "conflict",
            Verdict::Quarantined(_) => "quarantined",
            Verdict::Accepted => "accepted",
            Verdict::Unmetered => "unmetered",
            Verdict::Pending => "pending",
        }
    }

    /// The reason of a rejection or a quarantine.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Verdict::Rejected(refusal) => Some(refusal.as_str()),
            Verdict::Quarantined(reason) => Some(reason.as_str()),
            _ => None,
        }
    }

    /// Whether the event is counted by a meter: itself, or as the earlier one that it repeats.
    pub const fn is_counted(self) -> bool {
        matches!(self, Verdict::Accepted | Verdict::Duplicate | Verdict::DuplicateRestamped)
    }

    /// Whether the event counts: metered, unmetered or pending.
    pub const fn is_accepted(self) -> bool {
        matches!(self, Verdict::Accepted | Verdict::Unmetered | Verdict::Pending)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        self.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_verdicts() -> Vec<Verdict> {
        let mut all: Vec<Verdict> = RefusalCode::ALL.map(Verdict::Rejected).to_vec();
        all.extend([Verdict::Duplicate, Verdict::DuplicateRestamped, Verdict::Conflict]);
        all.extend(QuarantineReason::ALL.map(Verdict::Quarantined));
        all.extend([Verdict::Accepted, Verdict::Unmetered, Verdict::Pending]);
        all
    }

    #[test]
    fn codes_are_those_of_the_table_in_wire_md() {
        let table: Vec<String> =
            all_verdicts().iter().map(|verdict| format!("{} {verdict}", verdict.code())).collect();
        assert_eq!(
            table,
            [
                "65 rejected: id_must_fit",
                "66 rejected: id_must_be_utf8",
                "67 rejected: subject_must_fit",
                "68 rejected: time_must_be_in_range",
                "69 rejected: value_digits_must_fit",
                "70 rejected: dimension_must_fit",
                "16 duplicate",
                "17 duplicate_restamped",
                "32 conflict",
                "49 quarantined: too_old",
                "50 quarantined: future",
                "51 quarantined: missing_value",
                "52 quarantined: negative_usage",
                "53 quarantined: value_scale",
                "54 quarantined: value_range",
                "55 quarantined: pending_full",
                "1 accepted",
                "2 unmetered",
                "3 pending",
            ]
        );
    }

    #[test]
    fn every_code_is_a_verdict_or_none_and_precedence_is_the_declared_order() {
        let all = all_verdicts();
        assert!(all.is_sorted());
        let known = (0..=u8::MAX).filter_map(Verdict::from_code).count();
        assert_eq!(known, all.len());
        for verdict in all {
            assert_eq!(Verdict::from_code(verdict.code()), Some(verdict));
        }
        for (ordinal, reason) in QuarantineReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.ordinal(), ordinal);
        }
        assert_eq!(Verdict::from_code(0), None, "a buffer that nobody wrote to holds no verdict");
    }
}
