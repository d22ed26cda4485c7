//! Groups of usage, by the texts of their dimensions.
//!
//! Owns: the texts of a meter's group, and which group of a price they count in. Leaves to others: rows of a matrix
//! (`billing::catalog`), what a group adds up to (`cells`).

use std::sync::Arc;

use billing::catalog::{PriceTimeline, PricingModel};
use billing::rating::RatingStatus;
use domain::Span;
use engine::shard::cell::Group;

use domain::GroupTexts;

/// The group of a price that usage with some texts counts in, in a slice; `None` if it is set aside.
///
/// # Errors
/// [`RatingStatus::RowMustMatch`].
pub(crate) fn counted_texts(
    price: &PriceTimeline,
    slice: Span,
    texts: impl FnOnce() -> GroupTexts,
) -> Result<Option<GroupTexts>, RatingStatus> {
    // The dimensions of a capacity are counted together, whatever their groups.
    let is_together = price.model() == PricingModel::Capacity;
    price.counted_group(slice.from, if is_together { GroupTexts::NONE } else { texts() })
}

/// The texts of a group of named dimensions; those that events did not have are left out.
pub(crate) fn texts_of_group(names: &[Arc<str>], group: &Group) -> GroupTexts {
    let texts = names.iter().zip(group.iter());
    texts.filter_map(|(name, text)| Some((name.clone(), text.clone()?))).collect()
}
