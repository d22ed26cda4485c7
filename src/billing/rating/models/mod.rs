//! Pricing models: one file each, listed here once.
//!
//! Owns: the cumulative amount of a quantity under one version of a price, and its portions.
//! Leaves to others: slices, versions and rounding (`super::position`).
//!
//! Laws, tested here and over whole histories (`super::histories`): the portions add up to the amount; splitting a
//! quantity changes nothing; one open tier without flat amount equals per unit; nothing rounds.

mod flat;
mod graduated;
mod per_unit;

use domain::{Decimal, Exact};

use super::status::RatingStatus;
use crate::catalog::{Price, PricingModel};

/// What one tier (or the whole price, where it has none) contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Index of the tier.
    pub tier: usize,
    /// Units below the portion.
    pub from: Exact,
    /// Last unit of the tier; open where there is none.
    pub up_to: Option<Decimal>,
    /// Units in the portion.
    pub quantity: Exact,
    /// Amount for `per` units.
    pub unit_amount: Decimal,
    /// Units that the amount is for.
    pub per: u64,
    /// Flat amount owed in this portion.
    pub flat_amount: Decimal,
    /// What the portion costs, exactly.
    pub amount: Exact,
}

/// Cumulative amount of a quantity; `is_owed_at_zero` says whether the first tier's flat amount is owed without usage.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If the price lacks what its model needs; [`Price::check`] refuses such a price.
pub fn amount(price: &Price, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, RatingStatus> {
    let mut sum = Exact::ZERO;
    for portion in portions(price, quantity, is_owed_at_zero)? {
        sum = sum.add(portion.amount)?;
    }
    Ok(sum)
}

/// How the amount of a quantity comes about.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// As [`amount`].
pub fn portions(price: &Price, quantity: Exact, is_owed_at_zero: bool) -> Result<Vec<Portion>, RatingStatus> {
    match price.model {
        PricingModel::PerUnit => per_unit::portions(price, quantity),
        PricingModel::Graduated => graduated::portions(price, quantity, is_owed_at_zero),
        PricingModel::Flat => Ok(flat::portions(price)),
    }
}

/// The flat amount of the first tier, if there is one.
pub fn first_flat_amount(price: &Price) -> Option<Decimal> {
    price.tiers.as_ref()?.first()?.flat_amount.filter(|flat| !flat.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Tier, Window};
    use domain::{MeterId, PlanId, PriceId};
    use proptest::prelude::*;

    pub(crate) fn price(
        model: PricingModel,
        unit_amount: Option<&str>,
        tiers: &[(&str, &str, &str)],
    ) -> Price {
        let decimal = |text: &str| Decimal::parse(text).unwrap();
        let tiers = tiers
            .iter()
            .map(|(up_to, unit, flat)| Tier {
                up_to: (!up_to.is_empty()).then(|| decimal(up_to)),
                unit_amount: decimal(unit),
                flat_amount: (!flat.is_empty()).then(|| decimal(flat)),
            })
            .collect::<Vec<_>>();
        Price {
            id: PriceId::new("p").unwrap(),
            plan: PlanId::new("plan").unwrap(),
            meter: (model != PricingModel::Flat).then(|| MeterId::new("m").unwrap()),
            model,
            unit_amount: unit_amount.map(decimal),
            tiers: (model == PricingModel::Graduated).then_some(tiers),
            per: None,
            window: Window::Month,
            effective_from: None,
            flat_at_zero: None,
        }
    }

    fn exact(text: &str) -> Exact {
        Decimal::parse(text).unwrap().into()
    }

    #[test]
    fn amounts_by_model_and_quantity() {
        use PricingModel::*;
        let tiers: &[(&str, &str, &str)] =
            &[("1000", "0.0100", ""), ("2000", "0.0075", "5"), ("", "0.005", "")];
        let first_flat: &[(&str, &str, &str)] = &[("10", "1", "7"), ("", "0.5", "")];
        let cases = [
            // model, unit amount, tiers, quantity, owed at zero, expected
            (PerUnit, Some("0.0375"), &[][..], "1.5", true, "0.05625"),
            (PerUnit, Some("2"), &[], "-3", true, "-6"),
            (PerUnit, Some("2"), &[], "0", true, "0"),
            (Graduated, None, tiers, "1000", true, "10"),
            (Graduated, None, tiers, "1000.5", true, "15.00375"),
            (Graduated, None, tiers, "2000", true, "22.5"),
            (Graduated, None, tiers, "2001", true, "22.505"),
            (Graduated, None, tiers, "-2", true, "-0.02"),
            (Graduated, None, first_flat, "0", true, "7"),
            (Graduated, None, first_flat, "0", false, "0"),
            (Graduated, None, first_flat, "0.1", false, "7.1"),
            (Graduated, None, first_flat, "12", true, "18"),
            (Flat, Some("49"), &[], "0", false, "49"),
            (Flat, Some("49"), &[], "1000", true, "49"),
        ];
        for (model, unit, tiers, quantity, owed, expected) in cases {
            let price = price(model, unit, tiers);
            assert_eq!(
                amount(&price, exact(quantity), owed),
                Ok(exact(expected)),
                "{model:?} {quantity} {owed}"
            );
        }
    }

    #[test]
    fn thirty_six_digits_compute_exactly_and_too_many_are_an_error() {
        let price = price(PricingModel::PerUnit, Some("0.000000000000000001"), &[]);
        let quantity = exact("999999999999999999999999999999999999");
        assert_eq!(
            amount(&price, quantity, true).unwrap().to_string(),
            "999999999999999999.999999999999999999"
        );
        assert_eq!(
            Decimal::parse("1000000000000000000000000000000000000000000000000"),
            Err(domain::DecimalStatus::DecimalDigitsMustFit),
            "49 digits are refused where they enter"
        );
        let huge = quantity.multiply(quantity).unwrap();
        let dear = self::price(PricingModel::PerUnit, Some("99999999999999999999"), &[]);
        assert_eq!(amount(&dear, huge, true), Err(RatingStatus::AmountMustFit));
    }

    proptest! {
        #![proptest_config(crate::testing::cases())]

        #[test]
        fn portions_add_up_to_the_amount_and_tile_the_quantity(
            quantity in -500i128..50_000, owed in any::<bool>(),
        ) {
            let tiers = price(PricingModel::Graduated, None, &[("10", "1", "7"), ("1000.5", "0.25", ""), ("", "0.1", "3")]);
            let quantity = Exact::new(quantity, 1);
            let portions = portions(&tiers, quantity, owed).unwrap();
            let add = |sum: Exact, part: Exact| sum.add(part).unwrap();
            let amounts = portions.iter().map(|portion| portion.amount).fold(Exact::ZERO, add);
            let quantities = portions.iter().map(|portion| portion.quantity).fold(Exact::ZERO, add);
            prop_assert_eq!((amounts, quantities), (amount(&tiers, quantity, owed).unwrap(), quantity));
        }

        #[test]
        fn one_open_tier_is_per_unit(quantity in -1_000_000i128..1_000_000_000, unit in 0i128..1_000_000) {
            let unit = Decimal::new(unit, 4).unwrap();
            let text = unit.to_string();
            let quantity = Exact::new(quantity, 3);
            let per_unit = price(PricingModel::PerUnit, Some(&text), &[]);
            let tiered = price(PricingModel::Graduated, None, &[("", &text, "")]);
            prop_assert_eq!(amount(&per_unit, quantity, true), amount(&tiered, quantity, true));
        }

        #[test]
        fn graduated_never_falls_as_usage_grows(a in 0i128..5_000, b in 0i128..5_000) {
            let tiers = price(PricingModel::Graduated, None, &[("10", "1", "7"), ("1000.5", "0.25", ""), ("", "0.1", "3")]);
            let (low, high) = (Exact::new(a.min(b), 1), Exact::new(a.max(b), 1));
            prop_assert!(amount(&tiers, low, true).unwrap() <= amount(&tiers, high, true).unwrap());
        }
    }
}
