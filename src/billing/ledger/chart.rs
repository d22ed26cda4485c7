//! The ledger accounts that Tallymark posts to.
//!
//! Owns: their names, and the revenue account of each posting class. Leaves to others: their numbers in an ERP.

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
}

impl LedgerAccount {
    /// The revenue account of a posting class.
    pub fn revenue_of(class: PostingClass) -> Self {
        match class {
            PostingClass::EarnedUsage => LedgerAccount::RevenueUsage,
            PostingClass::EarnedSubscription => LedgerAccount::RevenueSubscription,
        }
    }

    /// The name that journals and exports use.
    pub fn as_str(self) -> &'static str {
        match self {
            LedgerAccount::UnbilledReceivable => "UnbilledReceivable",
            LedgerAccount::RevenueUsage => "Revenue:Usage",
            LedgerAccount::RevenueSubscription => "Revenue:Subscription",
        }
    }
}

impl fmt::Display for LedgerAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
