//! Groups of a price that count together: what the others used before each slice of one.
//!
//! Owns: the order in which units of several groups pass through the tiers of one price. Leaves to others: what they cost
//! (`position`), which prices count so (`catalog::TierScope`).
//!
//! Units pass through the tiers in order of time, those of slices that start together in order of their groups. With
//! `off_i` units of all groups before slice `i` of a group, its `n_i` units price `P(off_i + n_i) − P(off_i)`, where `P`
//! are the group's own tiers: those of its row in a matrix. So groups with the same tiers cost together what their sum
//! costs in one group. *Volume* prices every slice at the tier of the final total of all groups.

use domain::{Exact, ExactStatus, Timestamp};

use super::measure::SliceMeasure;

/// What other groups of a price count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Before each slice of the group.
    pub(super) before: Vec<Exact>,
    /// In the whole window.
    pub(super) total: Exact,
}

/// For each group of a price, in order: what the others count.
///
/// # Errors
/// [`ExactStatus::AmountMustFit`].
pub fn elsewhere(groups: &[Vec<SliceMeasure<'_>>]) -> Result<Vec<Elsewhere>, ExactStatus> {
    let mut order: Vec<(Timestamp, usize, Exact)> = Vec::new();
    for (group, slices) in groups.iter().enumerate() {
        for slice in slices {
            order.push((slice.slice.from, group, slice.measure.quantity()?));
        }
    }
    // Stable: slices of one group are in order of time already.
    order.sort_by_key(|(from, group, _)| (*from, *group));
    let mut found = vec![Elsewhere::default(); groups.len()];
    let (mut all, mut own) = (Exact::ZERO, vec![Exact::ZERO; groups.len()]);
    for (_, group, quantity) in order {
        found[group].before.push(all.subtract(own[group])?);
        all = all.add(quantity)?;
        own[group] = own[group].add(quantity)?;
    }
    for (found, own) in found.iter_mut().zip(own) {
        found.total = all.subtract(own)?;
    }
    Ok(found)
}
