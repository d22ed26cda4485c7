//! The books: ledger accounts, journals, and checks between charges and journals.

mod chart;
mod journal;
mod reconcile;

pub use self::chart::LedgerAccount;
pub use self::journal::{Journal, JournalLine, LedgerStatus, accrue};
pub use self::reconcile::{TrialBalanceLine, trial_balance};
