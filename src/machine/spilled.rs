//! Single events that were spilled, and that rating an account reads.
//!
//! Owns: which of them are read before accounts are rated. Leaves to others: where they are (`engine::shard::spill`).
//!
//! Invariants: rating finds in memory all that it folds; what was read goes when it is done.

use domain::Timestamp;
use engine::shard::sequence::ItemsRead;
use engine::shard::spill::SpillError;

use crate::cut::{PooledAccount, Rater};

impl Rater<'_> {
    /// Reads what rating the windows of a pool folds; it is in memory as long as what this gives.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(crate) fn read_items(&self, pool: &[PooledAccount<'_>]) -> Result<Vec<ItemsRead>, SpillError> {
        let mut read = Vec::new();
        if !self.cells.has_items() {
            return Ok(read);
        }
        let windows = pool.iter().flat_map(|member| member.windows.iter());
        let from = windows.map(|(_, window)| window.from).min().unwrap_or(Timestamp::END);
        let is_carried = |program: u32| self.plan.programs[program as usize].aggregation.is_carried();
        for member in pool {
            let subscriptions = self.catalog.subscriptions_of_account(&member.terms.id);
            for subject in subscriptions.flat_map(|of| self.catalog.subjects_of_subscription(of.id())) {
                self.cells.read_items(subject, from, is_carried, &mut read)?;
            }
        }
        Ok(read)
    }
}
