//! Arithmetic of tax and of coupons before tax.
//!
//! Owns: one rounding of a tax, coupons spread over taxed fees, credit notes that add up to their invoice.
//! Leaves to others: tax itself. Which rate applies to whom, exemptions, returns and filing belong to the billing system;
//! no charge of Tallymark has tax in it. This is here to compute what such a system does, so that its numbers can be
//! checked.
//!
//! Invariants: amounts are minor units; a tax is rounded once, half away from zero, on the sum that it is owed on, and
//! what is rounded for display is never added up.

use billing::rating::RatingStatus;
use domain::Exact;

/// A fee of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fee {
    /// Its amount before coupons.
    pub(crate) amount: Exact,
    /// Its tax in percent.
    pub(crate) tax_percent: Exact,
}

/// A coupon over some fees of an invoice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coupon<'a> {
    /// The most that it takes.
    pub(crate) amount: Exact,
    /// Fees that it applies to, as indexes.
    pub(crate) fees: &'a [usize],
}

/// An invoice after coupons and tax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaxedInvoice {
    /// What each coupon takes of each fee, exactly: a row for each coupon, with a share for each fee.
    pub(crate) shares: Vec<Vec<Exact>>,
    /// Tax of each fee, for display.
    pub(crate) tax_by_fee: Vec<i128>,
    /// What all coupons take.
    pub(crate) coupons_total: Exact,
    /// Fees less coupons.
    pub(crate) sub_total: Exact,
    /// The tax, rounded once.
    pub(crate) tax: i128,
}

/// Applies coupons in order, each at most what is left of its fees and in proportion to that, then taxes what is left.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If a coupon names a fee that is not there.
pub(crate) fn tax_after_coupons(fees: &[Fee], coupons: &[Coupon<'_>]) -> Result<TaxedInvoice, RatingStatus> {
    let mut left: Vec<Exact> = fees.iter().map(|fee| fee.amount).collect();
    let mut shares = Vec::with_capacity(coupons.len());
    for coupon in coupons {
        shares.push(take_coupon(&mut left, coupon)?);
    }
    let mut invoice = TaxedInvoice {
        shares,
        tax_by_fee: Vec::with_capacity(fees.len()),
        coupons_total: Exact::ZERO,
        sub_total: Exact::ZERO,
        tax: 0,
    };
    let mut precise_tax = Exact::ZERO;
    for (fee, left) in fees.iter().zip(left) {
        let tax = exact_tax(left, fee.tax_percent)?;
        invoice.tax_by_fee.push(tax.round_to(0)?);
        invoice.coupons_total = invoice.coupons_total.add(fee.amount.subtract(left)?)?;
        invoice.sub_total = invoice.sub_total.add(left)?;
        precise_tax = precise_tax.add(tax)?;
    }
    invoice.tax = precise_tax.round_to(0)?;
    Ok(invoice)
}

/// Credit notes for the fees of an invoice with one tax, and the invoice's total: each note is rounded alone, and the
/// last takes what is left, so that they add up to it.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn credit_notes(fees: &[Exact], tax_percent: Exact) -> Result<(i128, Vec<i128>), RatingStatus> {
    let with_tax = |amount: Exact| -> Result<i128, RatingStatus> {
        Ok(amount.add(exact_tax(amount, tax_percent)?)?.round_to(0)?)
    };
    let sum = fees.iter().try_fold(Exact::ZERO, |sum, fee| sum.add(*fee))?;
    let total = with_tax(sum)?;
    let mut notes = fees.iter().map(|fee| with_tax(*fee)).collect::<Result<Vec<i128>, RatingStatus>>()?;
    let mut left = total;
    if let Some((last, earlier)) = notes.split_last_mut() {
        for note in earlier {
            left = left.checked_sub(*note).ok_or(RatingStatus::AmountMustFit)?;
        }
        *last = left;
    }
    Ok((total, notes))
}

fn exact_tax(base: Exact, percent: Exact) -> Result<Exact, RatingStatus> {
    Ok(base.multiply(percent)?.divide_by_power_of_ten(2))
}

/// Takes a coupon off what is left of its fees; the share of each fee of the invoice.
fn take_coupon(left: &mut [Exact], coupon: &Coupon<'_>) -> Result<Vec<Exact>, RatingStatus> {
    let mut shares = vec![Exact::ZERO; left.len()];
    let sum = coupon.fees.iter().try_fold(Exact::ZERO, |sum, fee| sum.add(left[*fee]))?;
    if !sum.is_positive() {
        return Ok(shares);
    }
    let part = coupon.amount.min(sum)?.max(Exact::ZERO)?.divide(sum)?;
    for fee in coupon.fees {
        shares[*fee] = left[*fee].multiply(part)?;
        left[*fee] = left[*fee].subtract(shares[*fee])?;
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Rounding;
    use proptest::prelude::*;

    fn exact(text: &str) -> Exact {
        Exact::parse(text).unwrap()
    }

    #[test]
    fn a_tax_is_rounded_once_half_away() {
        for (base, percent, expected) in [
            ("3871", "20", 774),
            ("19333", "25", 4_833),
            ("2571", "23.33", 600),
            ("-250", "1", -3),
            ("0", "20", 0),
        ] {
            let fee = Fee { amount: exact(base), tax_percent: exact(percent) };
            assert_eq!(tax_after_coupons(&[fee], &[]).unwrap().tax, expected, "{base} at {percent} %");
        }
    }

    /// The taxes shown with the fees add up to 1,887; the invoice owes 1,889.
    #[test]
    fn tax_is_owed_on_the_sum_and_not_on_what_is_shown() {
        let fee = |(amount, percent): (i128, i128)| Fee {
            amount: Exact::from_integer(amount),
            tax_percent: Exact::from_integer(percent),
        };
        let of_one = [(1_000, 10), (2_000, 20), (3_000, 10), (4_000, 10)].map(fee);
        let fees = [of_one, of_one].concat();
        let coupons: Vec<Coupon<'_>> =
            [(2_000, &[0, 1][..]), (1_000, &[4, 5, 6, 7]), (500, &[0, 1, 2, 3, 4, 5, 6, 7])]
                .map(|(amount, fees)| Coupon { amount: Exact::from_integer(amount), fees })
                .to_vec();
        let found = tax_after_coupons(&fees, &coupons).unwrap();
        // Each share is shown at five digits, and what is shown is added up.
        let shown = |fee: usize| {
            let shares = found.shares.iter().map(|shares| shares[fee].round(Rounding::HalfAway, 5).unwrap());
            shares.fold(Exact::ZERO, |sum, share| sum.add(share).unwrap()).to_string()
        };
        assert_eq!(
            (0..8).map(shown).collect::<Vec<_>>().join(" "),
            "676.47059 1352.94117 88.23529 117.64706 126.47059 252.94118 379.41176 505.88235"
        );
        assert_eq!(found.tax_by_fee, [32, 129, 291, 388, 87, 349, 262, 349]);
        assert_eq!((found.coupons_total, found.sub_total, found.tax), (exact("3500"), exact("16500"), 1_889));
    }

    #[test]
    fn a_coupon_takes_at_most_what_is_left() {
        let fee = Fee { amount: exact("100"), tax_percent: exact("20") };
        for (amounts, taken, tax) in [("150", "100", 0), ("60 60", "100", 0), ("-5", "0", 40), ("", "0", 40)]
        {
            let coupons: Vec<Coupon<'_>> = amounts
                .split_whitespace()
                .map(|amount| Coupon { amount: exact(amount), fees: &[0] })
                .collect();
            let found = tax_after_coupons(&[fee, Fee { amount: exact("0"), ..fee }, fee], &coupons).unwrap();
            assert_eq!(
                (found.coupons_total, found.tax),
                (exact(taken), tax + if taken == "0" { 0 } else { 20 })
            );
        }
    }

    /// Each note rounded alone made 33,500 of an invoice of 33,499.
    #[test]
    fn the_last_credit_note_takes_what_is_left() {
        let fees = ["6833", "5750", "8500", "6833"].map(exact);
        assert_eq!(credit_notes(&fees, exact("20")), Ok((33_499, vec![8_200, 6_900, 10_200, 8_199])));
        assert_eq!(credit_notes(&[], exact("20")), Ok((0, vec![])));
    }

    proptest! {
        #[test]
        fn coupons_and_what_is_left_make_the_fees(
            fees in prop::collection::vec((0i128..5_000, 0i128..30), 1..6),
            coupons in prop::collection::vec((0i128..4_000, prop::collection::btree_set(0usize..6, 1..6)), 0..3),
        ) {
            let taxed: Vec<Fee> = fees
                .iter()
                .map(|(amount, percent)| Fee {
                    amount: Exact::from_integer(*amount),
                    tax_percent: Exact::from_integer(*percent),
                })
                .collect();
            let lists: Vec<Vec<usize>> = coupons
                .iter()
                .map(|(_, list)| list.iter().copied().filter(|fee| *fee < fees.len()).collect())
                .collect();
            let coupons: Vec<Coupon<'_>> = coupons
                .iter()
                .zip(&lists)
                .map(|((amount, _), fees)| Coupon { amount: Exact::from_integer(*amount), fees })
                .collect();
            let found = tax_after_coupons(&taxed, &coupons).unwrap();
            let sum = Exact::from_integer(fees.iter().map(|(amount, _)| amount).sum());
            prop_assert_eq!(found.coupons_total.add(found.sub_total), Ok(sum));
            let limit = coupons.iter().try_fold(Exact::ZERO, |sum, coupon| sum.add(coupon.amount)).unwrap();
            prop_assert!(found.coupons_total <= limit && !found.sub_total.is_negative());
            let amounts: Vec<Exact> = taxed.iter().map(|fee| fee.amount).collect();
            let (total, notes) = credit_notes(&amounts, exact("19")).unwrap();
            prop_assert_eq!(notes.iter().sum::<i128>(), total);
        }
    }
}
