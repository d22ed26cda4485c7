//! The ledger accounts that Tallymark posts to.
//!
//! Owns: their names, and which one stands against the receivable for each posting class. Leaves to others: their numbers in an ERP.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::charges::PostingClass;

/// A ledger account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LedgerAccount {
    /// Earned; only the invoice is missing. An asset.
    UnbilledReceivable,
    /// Income from usage.
    #[serde(rename = "Revenue:Usage")]
    RevenueUsage,
    /// Income from recurring amounts.
    #[serde(rename = "Revenue:Subscription")]
    RevenueSubscription,
    /// Income from shortfalls of minimums and commitments.
    #[serde(rename = "Revenue:TrueUp")]
    RevenueTrueUp,
    /// Usage that was given away: less income.
    #[serde(rename = "Revenue:Promotional")]
    RevenuePromotional,
    /// Charged but not earned yet. A liability.
    DeferredRevenue,
    /// Prepaid credits and commitments that were not used yet. A liability.
    CustomerCredits,
}

impl LedgerAccount {
    /// The account that stands against the receivable for a posting class.
    pub fn counter_account_of(class: PostingClass) -> Self {
        match class {
            PostingClass::EarnedUsage => LedgerAccount::RevenueUsage,
            PostingClass::EarnedSubscription => LedgerAccount::RevenueSubscription,
            PostingClass::Deferred => LedgerAccount::DeferredRevenue,
            PostingClass::TrueUp => LedgerAccount::RevenueTrueUp,
            PostingClass::PrepaidDraw => LedgerAccount::CustomerCredits,
            PostingClass::Promotional => LedgerAccount::RevenuePromotional,
        }
    }

    /// The name that journals and exports use.
    pub fn as_str(self) -> &'static str {
        match self {
            LedgerAccount::UnbilledReceivable => "UnbilledReceivable",
            LedgerAccount::RevenueUsage => "Revenue:Usage",
            LedgerAccount::RevenueSubscription => "Revenue:Subscription",
            LedgerAccount::RevenueTrueUp => "Revenue:TrueUp",
            LedgerAccount::RevenuePromotional => "Revenue:Promotional",
            LedgerAccount::DeferredRevenue => "DeferredRevenue",
            LedgerAccount::CustomerCredits => "CustomerCredits",
        }
    }
}

impl fmt::Display for LedgerAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
