//! What a charge batch asks billing for: an invoice before the month is over.
//!
//! Owns: the record, and which lines count towards a threshold. Leaves to others: when a threshold is reached
//! (`rating::progressive`), the invoice itself, which is billing's.

use domain::{AccountId, Currency};
use serde::{Deserialize, Serialize};

use super::charge::ChargeLine;
use super::component::Component;
use super::posting_class::PostingClass;

/// Asks billing to invoice an account's charges up to and with a batch.
///
/// The order of fields is the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceRequest {
    /// Who pays.
    pub account: AccountId,
    /// Currency of all amounts.
    pub currency: Currency,
    /// The greatest threshold that was reached.
    pub threshold: String,
    /// Usage that was ever charged, this batch included.
    pub usage: String,
    /// What of it was charged since the last request, or ever.
    pub amount: String,
}

impl ChargeLine {
    /// Whether a line counts towards a threshold: what usage costs after discounts, maximums and commitments. No recurring
    /// amount, no minimum or true-up, and no credit does.
    pub fn counts_towards_threshold(&self) -> bool {
        self.posting_class == PostingClass::EarnedUsage || self.component == Component::Drawdown
    }
}
