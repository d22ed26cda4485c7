//! Sums of invoices: discounts, tax, shares without a lost cent.
//!
//! Owns: which numbers of a case make which input of `billing::rating::{allocation, discount, tax}`. Leaves to others: how
//! amounts came about.

use billing::rating::allocation::{self, spread_discount};
use billing::rating::discount::{Discount, apply_discounts};
use domain::Exact;

use crate::case::{Case, Stop, list_of};
use crate::json::any_text;
use crate::numbers::{Grid, Precision, percent_of, sum_of};
use crate::tax::{Coupon, Fee, credit_notes, tax_after_coupons};
use crate::values::Values;

pub(crate) fn allocate(case: &Case<'_>) -> Result<Values, Stop> {
    let precision = Precision::of(case)?;
    let amount = precision.round(case.number("amount")?)?;
    let grid = precision.grid().map_or_else(|| Grid::of([amount]), Ok)?;
    let shares = allocation::allocate(grid.units(amount)?, &case.numbers("weights")?)?;
    Ok(Values::new().with("shares", grid.amounts(&shares)?))
}

pub(crate) fn distribute(case: &Case<'_>) -> Result<Values, Stop> {
    let subtotals = case.numbers("line_subtotals")?;
    let lines = subtotals.iter().map(|line| Grid::CENTS.units(*line)).collect::<Result<Vec<_>, _>>()?;
    let discount = Precision::half_away(2).round(case.number("discount")?)?;
    let taken = spread_discount(Grid::CENTS.units(discount)?, &lines)?;
    let left: Vec<i128> = lines.iter().zip(taken).map(|(line, taken)| line - taken).collect();
    Ok(Values::new().with("lines_after", Grid::CENTS.amounts(&left)?))
}

/// One discount after the other, each of what the one before left. Each is a list of one, so that what is not whole minor
/// units is rounded by the case's own rounding.
pub(crate) fn discounts(case: &Case<'_>) -> Result<Values, Stop> {
    let precision = Precision::of(case)?;
    let base = case.number("base")?;
    let mut remaining = base;
    for discount in case.rows("discounts")? {
        let value = discount.number("value")?;
        let value = match discount.word("type")? {
            "percentage" => percent_of(remaining, value)?,
            "fixed" => value,
            kind => return Err(Stop::Unsupported(format!("a discount {kind}"))),
        };
        let value = precision.round(value)?;
        let grid = Grid::of([remaining, value])?;
        let applied = apply_discounts(grid.units(remaining)?, &[Discount::Fixed(grid.units(value)?)])?;
        remaining = grid.amount(applied.remaining)?;
    }
    Ok(Values::new().with("discount", base.subtract(remaining)?))
}

pub(crate) fn coupon_tax(case: &Case<'_>) -> Result<Values, Stop> {
    let rows = case.rows("fees")?;
    let ids = rows.iter().map(|fee| fee.text("id")).collect::<Vec<_>>();
    let fee_of = |fee: &Case<'_>| {
        Ok::<_, Stop>(Fee { amount: fee.number("amount")?, tax_percent: fee.number_or_zero("tax_percent")? })
    };
    let fees = rows.iter().map(fee_of).collect::<Result<Vec<_>, _>>()?;
    let coupons = case.rows("coupons")?;
    let mut of_fees = Vec::with_capacity(coupons.len());
    for coupon in &coupons {
        let of = coupon.value("fees")?;
        if any_text(of) == Some("all") {
            of_fees.push((0..fees.len()).collect::<Vec<_>>());
            continue;
        }
        let place_of = |id: &serde_json::Value| ids.iter().position(|known| *known == any_text(id));
        let places = list_of(of)?.iter().map(place_of).collect::<Option<Vec<_>>>();
        of_fees
            .push(places.ok_or_else(|| Stop::Broken("a coupon names a fee that is not there".to_string()))?);
    }
    let coupon_of = |(coupon, fees)| Ok::<_, Stop>(Coupon { amount: Case::number(coupon, "amount")?, fees });
    let fees_of = of_fees.iter().map(Vec::as_slice);
    let coupons = coupons.iter().zip(fees_of).map(coupon_of).collect::<Result<Vec<_>, _>>()?;
    let invoice = tax_after_coupons(&fees, &coupons)?;

    let share_scale = case.integer("share_scale")?;
    let mut by_fee = Vec::with_capacity(fees.len());
    for fee in 0..fees.len() {
        let mut shares = Vec::with_capacity(coupons.len());
        for coupon in &invoice.shares {
            shares.push(
                share_scale
                    .map_or(Ok(coupon[fee]), |scale| Precision::half_away(scale).round(coupon[fee]))?,
            );
        }
        by_fee.push(sum_of(&shares)?);
    }
    let tax = Exact::from_integer(invoice.tax);
    Ok(Values::new()
        .with("precise_coupon_by_fee", by_fee)
        .with("tax_by_fee", invoice.tax_by_fee)
        .with("coupons_total", invoice.coupons_total)
        .with("sub_total", invoice.sub_total)
        .with("tax", tax)
        .with("total", invoice.sub_total.add(tax)?))
}

pub(crate) fn taxes(case: &Case<'_>) -> Result<Values, Stop> {
    let (precision, base) = (Precision::of(case)?, case.number("base")?);
    let tax_of = |rate: Exact| precision.round(percent_of(base, rate)?);
    let taxes = case.numbers("tax_rates_percent")?.into_iter().map(tax_of).collect::<Result<Vec<_>, _>>()?;
    Ok(Values::new().with("taxes", taxes))
}

pub(crate) fn round(case: &Case<'_>) -> Result<Values, Stop> {
    Ok(Values::new().with("rounded", Precision::of(case)?.round(case.number("quantity")?)?))
}

pub(crate) fn sum_rounded(case: &Case<'_>) -> Result<Values, Stop> {
    let sum = Precision::of(case)?.sum_of_rounded(&case.numbers("items")?)?;
    Ok(Values::new().with("sum_of_rounded", sum))
}

/// What rounding every line alone lost goes back to the lines, never into the credit.
pub(crate) fn drift(case: &Case<'_>) -> Result<Values, Stop> {
    let credit = case.number_or_zero("credit")?;
    let total = Precision::of(case)?.round(case.number("exact_usage_total")?.subtract(credit)?)?;
    let drift = total.add(credit)?.subtract(case.number("sum_of_rounded_lines")?)?;
    Ok(Values::new()
        .with("invoice_total", total)
        .with("credit_line", credit.negate())
        .with("drift_to_distribute", drift))
}

pub(crate) fn last_absorbs(case: &Case<'_>) -> Result<Values, Stop> {
    let (total, notes) = credit_notes(&case.numbers("fees_minor")?, case.number_or_zero("tax_percent")?)?;
    Ok(Values::new().with("invoice_total", total).with("credit_notes", notes))
}
