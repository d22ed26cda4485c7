//! A charge line: the difference between what a slice is worth and what was charged for it before.

use std::collections::BTreeMap;

use domain::{AccountId, Currency, EntityId, Exact, MeterId, Period, PriceId, Span, SubscriptionId};
use serde::{Deserialize, Serialize};

use super::posting_class::PostingClass;

/// What a correction corrects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corrects {
    /// The accounting period that the usage belongs to.
    pub period: Period,
    /// The batch with which the window became final; none if it was not final yet, but its period was closed.
    pub window_final_batch: Option<u64>,
}

/// One priced line of a charge batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeLine {
    /// Number of the batch.
    pub batch: u64,
    /// Number of the line in it, from 1.
    pub line: u32,
    /// Who pays.
    pub account: AccountId,
    /// For which subscription.
    pub subscription: SubscriptionId,
    /// At which price.
    pub price: PriceId,
    /// In which version.
    pub price_version: u32,
    /// What was measured; none for a recurring amount.
    pub meter: Option<MeterId>,
    /// Texts of the group-by dimensions.
    pub group: BTreeMap<String, String>,
    /// The tier window.
    pub window: Span,
    /// The slice whose worth changed.
    pub slice: Span,
    /// Units of the slice that sealed batches had charged.
    pub quantity_before: Exact,
    /// Units of the slice as now known.
    pub quantity_after: Exact,
    /// The difference in amount, exactly.
    pub precise: Exact,
    /// The difference in rounded amount, with the currency's fraction digits.
    pub rounded: String,
    /// Currency of both.
    pub currency: Currency,
    /// The legal entity that sells.
    pub entity: EntityId,
    /// The accounting period that the line posts to.
    pub period: Period,
    /// What the charge is to the books.
    pub posting_class: PostingClass,
    /// Set if the window was final before, or the line posts to a later period than its usage belongs to.
    pub corrects: Option<Corrects>,
    /// Whether the window is final; otherwise the line is provisional.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Change in the number of events that the slice counts.
    pub event_count: i64,
    /// Digest of the set of events that the slice counts as now known, 32 hex digits.
    pub event_digest: String,
}

impl ChargeLine {
    /// The rounded amount in minor units.
    ///
    /// # Panics
    /// If the text is not an amount of the currency; lines are checked where they are read.
    pub fn rounded_minor(&self) -> i128 {
        self.currency.parse_minor(&self.rounded).expect("a line's rounded amount is in its currency")
    }

    /// Whether the texts of a line that was read say what they should.
    pub fn is_readable(&self) -> bool {
        let digest_fits =
            self.event_digest.len() == 32 && u128::from_str_radix(&self.event_digest, 16).is_ok();
        digest_fits && self.currency.parse_minor(&self.rounded).is_some()
    }
}
