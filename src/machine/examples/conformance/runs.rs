//! Several runs over one window: differences, corrections by period, thresholds.
//!
//! Owns: the position of a cumulative quantity as the cases define it. Leaves to others: differences (`differences`),
//! thresholds (`billing::rating::progressive`), prices (`models`).

use billing::rating::models::Model;
use billing::rating::progressive::{Progress, Thresholds};
use billing::rating::proration::prorate;
use domain::Exact;

use crate::bounds::clamp_amount;
use crate::case::{Case, Stop, numbers_of};
use crate::differences::{RunUnits, differences, discount_units, period_corrections};
use crate::numbers::{Grid, Precision, exponent_of, percent_of, sum_of};
use crate::prices::{inner_price, price_amount};
use crate::proration::ratio_or_whole;
use crate::values::Values;

pub(crate) fn delta_runs(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = Terms::of(case)?;
    let mut positions = terms.positions(&case.numbers("runs")?)?;
    if case.flag("final_last") {
        terms.lift_last(&mut positions)?;
    }
    let grid = Grid::of(positions.iter().copied())?;
    let positions = positions.iter().map(|position| grid.units(*position)).collect::<Result<Vec<_>, _>>()?;
    Ok(Values::new().with("runs", grid.amounts(&differences(&positions)?)?))
}

pub(crate) fn period_preserving(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = Terms::of(case)?;
    let listed = case.list("snapshots")?;
    let mut snapshots = Vec::with_capacity(listed.len());
    for (index, snapshot) in listed.iter().enumerate() {
        let mut positions = terms.positions(&numbers_of(snapshot)?)?;
        if case.flag("final_last") && index + 1 == listed.len() {
            terms.lift_last(&mut positions)?;
        }
        snapshots.push(positions);
    }
    let grid = Grid::of(snapshots.iter().flatten().copied())?;
    let mut booked: Vec<i128> = Vec::new();
    let mut emitted = Vec::with_capacity(snapshots.len());
    for positions in snapshots {
        let positions =
            positions.iter().map(|position| grid.units(*position)).collect::<Result<Vec<_>, _>>()?;
        let corrections = period_corrections(&positions, &booked)?;
        booked.resize(booked.len().max(corrections.len()), 0);
        for (booked, correction) in booked.iter_mut().zip(&corrections) {
            *booked += correction;
        }
        emitted.push(grid.amounts(&corrections)?);
    }
    Ok(Values::new().with("snapshots", emitted))
}

/// What a cumulative quantity is worth: `P` in the contract.
struct Terms {
    price: Model,
    precision: Precision,
    usage_discount: Exact,
    percentage_discount: Exact,
    minimum: Option<Exact>,
    maximum: Option<Exact>,
}

impl Terms {
    fn of(case: &Case<'_>) -> Result<Self, Stop> {
        Ok(Self {
            price: inner_price(case)?,
            precision: Precision::of(case)?,
            usage_discount: case.number_or_zero("usage_discount")?,
            percentage_discount: case.number_or_zero("percentage_discount")?,
            minimum: case.maybe("min_spend")?,
            maximum: case.maybe("max_spend")?,
        })
    }

    fn positions(&self, quantities: &[Exact]) -> Result<Vec<Exact>, Stop> {
        quantities.iter().map(|quantity| self.position(*quantity)).collect()
    }

    fn position(&self, quantity: Exact) -> Result<Exact, Stop> {
        let units = RunUnits { before: Exact::ZERO, current: quantity };
        let units = discount_units(self.usage_discount, units)?.current;
        let has_nothing_left = units.is_zero() && !self.usage_discount.is_zero();
        let gross = match self.price {
            Model::Volume(_) if has_nothing_left => Exact::ZERO,
            _ => self.precision.round(price_amount(&self.price, units, true)?)?,
        };
        let discount = self.precision.round(percent_of(gross, self.percentage_discount)?)?;
        Ok(clamp_amount(gross.subtract(discount)?, None, self.maximum)?)
    }

    /// The minimum is due once, with the last position.
    fn lift_last(&self, positions: &mut [Exact]) -> Result<(), Stop> {
        if let Some(last) = positions.last_mut() {
            *last = clamp_amount(*last, self.minimum, None)?;
        }
        Ok(())
    }
}

pub(crate) fn threshold(case: &Case<'_>) -> Result<Values, Stop> {
    let (price, mut lifetime) = (case.number("unit_amount_minor")?, Exact::ZERO);
    let mut amounts = Vec::new();
    for step in case.numbers("steps")? {
        lifetime = lifetime.add(step)?;
        amounts.push(lifetime.multiply(price)?);
    }
    let mut fixed =
        if case.find("thresholds_minor").is_some() { case.numbers("thresholds_minor")? } else { vec![] };
    let recurring = case.maybe("recurring_threshold")?;
    let grid = Grid::of(amounts.iter().chain(&fixed).chain(&recurring).copied())?;
    fixed.sort_by(|a, b| a.partial_cmp(b).expect("amounts on one grid compare"));
    let units =
        |numbers: &[Exact]| numbers.iter().map(|number| grid.units(*number)).collect::<Result<Vec<_>, _>>();
    let fixed = units(&fixed)?;
    let thresholds =
        Thresholds { fixed: &fixed, recurring: recurring.map(|step| grid.units(step)).transpose()? };
    thresholds.check().map_err(|_| Stop::Refused)?;
    let (mut progress, mut bills) = (Progress::default(), Vec::with_capacity(amounts.len()));
    for amount in units(&amounts)? {
        let bill = progress.bill_at(&thresholds, amount)?;
        progress.advance(amount, bill.is_some());
        bills.push(bill);
    }
    let invoices = bills.iter().map(|bill| bill.map(|bill| grid.amount(bill)).transpose());
    let invoices = invoices.collect::<Result<Vec<_>, Stop>>()?;

    let usage = amounts.last().copied().unwrap_or(Exact::ZERO);
    let fees = usage.add(case.number_or_zero("subscription_fee")?)?;
    let credit = sum_of(&invoices.iter().flatten().copied().collect::<Vec<_>>())?;
    let last = Values::new().with("fees", fees).with("credit", credit).with("total", fees.subtract(credit)?);
    Ok(Values::new().with("invoices_minor", invoices).with("final", last))
}

pub(crate) fn pb_term(case: &Case<'_>) -> Result<Values, Stop> {
    let fee = prorate(case.number("subscription_fee")?, ratio_or_whole(case, "proration")?)?;
    let subscription = Precision::half_away(exponent_of(case)?).round(fee)?;
    let (usage, credit) = (case.number_or_zero("usage")?, case.number_or_zero("credit")?);
    Ok(Values::new()
        .with("subscription", subscription)
        .with("usage", usage)
        .with("credit", credit)
        .with("total", subscription.add(usage)?.subtract(credit)?))
}

pub(crate) fn usage_discount(case: &Case<'_>) -> Result<Values, Stop> {
    let units = RunUnits { before: case.number_or_zero("pre_quantity")?, current: case.number("quantity")? };
    let billed = discount_units(case.number("usage_discount")?, units)?;
    Ok(Values::new().with("billed_quantity", billed.current).with("billed_pre_quantity", billed.before))
}
