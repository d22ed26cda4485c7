//! The books: ledger accounts, journals, and checks between charges and journals.
//!
//! Owns: what charges become in a ledger. Leaves to others: when journals are made (`machine::journals`), where they
//! are posted (`server::connectors`).

mod chart;
mod journal;
mod reconcile;

pub use self::chart::LedgerAccount;
pub use self::journal::{Journal, JournalLine, LedgerStatus, accrue};
pub use self::reconcile::{BridgeLine, TrialBalanceLine, charges_minus_journals, trial_balance};
