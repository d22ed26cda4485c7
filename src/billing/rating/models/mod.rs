//! Pricing models: one file each, listed here once.
//!
//! Owns: what a quantity or a sequence of events costs under one version of a price, and how that comes about.
//! Leaves to others: slices, versions and rounding (`super::position`), what is done to a quantity before it is priced
//! (`super::quantity`).
//!
//! Laws, tested here and over whole histories (`super::histories`): the portions add up to the amount; splitting a
//! quantity changes nothing; one open tier without flat amount equals per unit, graduated and volume alike; graduated
//! never falls; nothing rounds.

mod capacity;
mod dynamic;
mod flat;
mod graduated;
mod graduated_percentage;
mod matrix;
mod package;
mod per_unit;
mod percentage;
mod portion;
mod stairstep;
mod tiers;
mod volume;

use domain::{Exact, GroupTexts};

pub use self::capacity::{Capacity, CapacityTier};
pub use self::dynamic::Dynamic;
pub use self::flat::{Flat, Payment};
pub use self::graduated::Graduated;
pub use self::graduated_percentage::GraduatedPercentage;
pub use self::matrix::{Matrix, Row, RowMatch, RowPrice, Unmatched};
pub use self::package::Package;
pub use self::per_unit::PerUnit;
pub use self::percentage::{Percentage, PercentageState};
pub use self::portion::{Basis, Portion};
pub use self::stairstep::Stairstep;
pub use self::tiers::{Tier, Tiers};
pub use self::volume::Volume;
use super::status::RatingStatus;

/// A pricing model with its terms: the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// The same for each unit.
    PerUnit(PerUnit),
    /// A recurring amount.
    Flat(Flat),
    /// Each unit by its tier.
    Graduated(Graduated),
    /// All units by the tier of the total.
    Volume(Volume),
    /// Started packages.
    Package(Package),
    /// One amount by the step of the total.
    Stairstep(Stairstep),
    /// One amount by the tier in which every dimension fits.
    Capacity(Capacity),
    /// A share of each event's amount.
    Percentage(Percentage),
    /// Shares of an amount by tier.
    GraduatedPercentage(GraduatedPercentage),
    /// By dimensions.
    Matrix(Matrix),
    /// The events' own amounts.
    Dynamic(Dynamic),
}

impl Model {
    /// Cumulative amount of a quantity; `is_owed_at_zero` says whether a first tier's flat amount is owed without usage.
    ///
    /// The group chooses the row of a matrix. A percentage prices the quantity as one event, a capacity as its first
    /// dimension; both have interfaces of their own.
    ///
    /// # Errors
    /// [`RatingStatus`].
    #[inline]
    pub fn amount(
        &self,
        group: &GroupTexts,
        quantity: Exact,
        is_owed_at_zero: bool,
    ) -> Result<Exact, RatingStatus> {
        match self {
            Model::PerUnit(model) => model.amount(quantity),
            Model::Flat(model) => Ok(model.amount),
            Model::Graduated(model) => model.amount(quantity, is_owed_at_zero),
            Model::Volume(model) => model.amount(quantity, is_owed_at_zero),
            Model::Package(model) => model.amount(quantity),
            Model::Stairstep(model) => model.amount(quantity, is_owed_at_zero),
            Model::Capacity(model) => model.amount(&vec![quantity; model.dimensions()]),
            Model::Percentage(model) => Ok(model.amounts(&[quantity])?.0.amount),
            Model::GraduatedPercentage(model) => model.amount(quantity, is_owed_at_zero),
            Model::Matrix(model) => match model.row_of(group)? {
                RowMatch::Row(row) => model.rows()[row].amount(quantity, is_owed_at_zero),
                RowMatch::Free | RowMatch::SetAside => Ok(Exact::ZERO),
            },
            Model::Dynamic(model) => model.amount(quantity),
        }
    }

    /// How the amount of a quantity comes about.
    ///
    /// # Errors
    /// As [`Model::amount`].
    pub fn portions(
        &self,
        group: &GroupTexts,
        quantity: Exact,
        is_owed_at_zero: bool,
    ) -> Result<Vec<Portion>, RatingStatus> {
        match self {
            Model::PerUnit(model) => model.portions(quantity),
            Model::Flat(model) => Ok(model.portions()),
            Model::Graduated(model) => model.portions(quantity, is_owed_at_zero),
            Model::Volume(model) => model.portions(quantity, is_owed_at_zero),
            Model::Package(model) => model.portions(quantity),
            Model::Stairstep(model) => model.portions(quantity, is_owed_at_zero),
            Model::Capacity(_) => Ok(vec![Portion::fixed(self.amount(group, quantity, is_owed_at_zero)?)]),
            Model::Percentage(model) => {
                let before = PercentageState::default();
                model.portions(&before, &model.amounts(&[quantity])?.0)
            }
            Model::GraduatedPercentage(model) => model.portions(quantity, is_owed_at_zero),
            Model::Matrix(model) => match model.row_of(group)? {
                RowMatch::Row(row) => model.rows()[row].portions(quantity, is_owed_at_zero),
                RowMatch::Free | RowMatch::SetAside => {
                    Ok(vec![Portion { quantity, basis: Basis::Free, ..Portion::fixed(Exact::ZERO) }])
                }
            },
            Model::Dynamic(model) => model.portions(quantity),
        }
    }

    /// The flat amount that is owed before any unit is used, if there is one.
    pub fn first_flat_amount(&self, group: &GroupTexts) -> Option<Exact> {
        let first = self.first_tier(group)?;
        let flat = first.capped(first.flat_amount).unwrap_or(first.flat_amount);
        Some(flat).filter(|flat| !flat.is_zero())
    }

    /// The first tier of a model whose units pass through tiers.
    pub(super) fn first_tier(&self, group: &GroupTexts) -> Option<&Tier> {
        let tiers = match self {
            Model::Graduated(model) => &model.tiers,
            Model::GraduatedPercentage(model) => model.tiers(),
            Model::Matrix(model) => match model.row_of(group) {
                Ok(RowMatch::Row(row)) => match &model.rows()[row].price {
                    RowPrice::Graduated(model) => &model.tiers,
                    RowPrice::PerUnit(_) => return None,
                },
                _ => return None,
            },
            _ => return None,
        };
        Some(tiers.first())
    }
}

#[cfg(test)]
mod tests {
    use super::tiers::tests::{exact, tiers};
    use super::*;
    use proptest::prelude::*;

    const LADDER: &[(&str, &str, &str)] = &[("10", "1", "7"), ("1000.5", "0.25", ""), ("", "0.1", "3")];

    /// Every model that prices a quantity, by name.
    fn models() -> Vec<(&'static str, Model)> {
        let ladder = || tiers(LADDER).unwrap();
        let row =
            Row { dimensions: GroupTexts::NONE, price: RowPrice::Graduated(Graduated { tiers: ladder() }) };
        vec![
            ("per_unit", Model::PerUnit(PerUnit { unit_amount: exact("0.0375") })),
            ("flat", Model::Flat(Flat { amount: exact("49"), payment: Payment::InArrears })),
            ("graduated", Model::Graduated(Graduated { tiers: ladder() })),
            ("volume", Model::Volume(Volume { tiers: ladder() })),
            ("package", Model::Package(Package::new(exact("7"), exact("2.5"), exact("3"), true).unwrap())),
            ("stairstep", Model::Stairstep(Stairstep { tiers: ladder() })),
            ("percentage", Model::Percentage(Percentage { rate: exact("0.013"), ..Percentage::default() })),
            (
                "graduated_percentage",
                Model::GraduatedPercentage(GraduatedPercentage::new(ladder().as_slice().to_vec()).unwrap()),
            ),
            ("matrix", Model::Matrix(Matrix::new(vec![row], Unmatched::Reject).unwrap())),
            ("dynamic", Model::Dynamic(Dynamic { multiplier: exact("1.2") })),
        ]
    }

    #[test]
    fn thirty_six_digits_compute_exactly_and_too_many_are_an_error() {
        let cheap = PerUnit { unit_amount: exact("0.000000000000000001") };
        let quantity = exact("999999999999999999999999999999999999");
        assert_eq!(cheap.amount(quantity).unwrap().to_string(), "999999999999999999.999999999999999999");
        let huge = quantity.multiply(quantity).unwrap();
        let dear = PerUnit { unit_amount: exact("99999999999999999999") };
        assert_eq!(dear.amount(huge), Err(RatingStatus::AmountMustFit));
    }

    proptest! {
        #![proptest_config(crate::testing::cases())]

        #[test]
        fn portions_add_up_to_the_amount(quantity in -500i128..50_000, owed in any::<bool>()) {
            let quantity = Exact::new(quantity, 1);
            let group = GroupTexts::NONE;
            for (name, model) in models() {
                let portions = model.portions(&group, quantity, owed).unwrap();
                let sum = portions.iter().fold(Exact::ZERO, |sum, portion| sum.add(portion.amount).unwrap());
                prop_assert_eq!(sum, model.amount(&group, quantity, owed).unwrap(), "{}", name);
                let units = portions.iter().fold(Exact::ZERO, |sum, portion| sum.add(portion.quantity).unwrap());
                prop_assert!(name == "flat" || units == quantity, "{} tiles {}", name, quantity);
            }
        }

        #[test]
        fn one_open_tier_is_per_unit(quantity in -1_000_000i128..1_000_000_000, unit in 0i128..1_000_000) {
            let unit_amount = Exact::new(unit, 4);
            let quantity = Exact::new(quantity, 3);
            let one = || tiers(&[("", &unit_amount.to_string(), "")]).unwrap();
            let expected = PerUnit { unit_amount }.amount(quantity);
            prop_assert_eq!(Graduated { tiers: one() }.amount(quantity, true), expected);
            prop_assert_eq!(Volume { tiers: one() }.amount(quantity, true), expected);
        }

        #[test]
        fn more_units_never_cost_less_but_under_volume(a in 0i128..20_000, b in 0i128..20_000) {
            let (low, high) = (Exact::new(a.min(b), 1), Exact::new(a.max(b), 1));
            let group = GroupTexts::NONE;
            for (name, model) in models().into_iter().filter(|(name, _)| !["volume", "stairstep"].contains(name)) {
                let (low, high) = (model.amount(&group, low, true), model.amount(&group, high, true));
                prop_assert!(low.unwrap() <= high.unwrap(), "{}", name);
            }
        }

        #[test]
        fn graduated_without_flat_amounts_is_continuous_at_every_bound(step in 1i128..1_000_000) {
            let ladder = tiers(&[("10", "1", ""), ("1000.5", "0.25", ""), ("", "0.1", "")]).unwrap();
            let graduated = Graduated { tiers: ladder.clone() };
            let step = Exact::new(step, 9);
            for bound in ladder.as_slice().iter().filter_map(|tier| tier.up_to) {
                let at = graduated.amount(bound, true).unwrap();
                let above = graduated.amount(bound.add(step).unwrap(), true).unwrap();
                prop_assert!(above.subtract(at).unwrap() <= step, "no unit costs more than the dearest tier");
            }
        }
    }
}
