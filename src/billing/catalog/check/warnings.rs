//! What a server takes, and what is probably not meant.
//!
//! Owns: the warnings, one function each, listed in [`of`]. Leaves to others: mistakes (`super`).
//!
//! Invariants: a warning says what happens as it is written, in units or amounts, and what to write if that is not meant.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Decimal, Exact, GroupTexts, MeterId, PlanId, Timestamp};

use super::Finding;
use super::entry::{Entry, Step};
use crate::catalog::price::{Price, PriceRow, PricingModel};
use crate::catalog::resource::{Meter, Resource, Subscription};
use crate::rating::grouped;
use crate::rating::models::Model;

use Step::{Field, Index};

/// All warnings about a file. What nothing uses is said of a file without mistakes only: one may have kept it from use.
pub(super) fn of(entries: &[Entry<'_>], has_mistakes: bool) -> Vec<Finding> {
    let file = File::of(entries);
    let mut findings = Vec::new();
    for (entry, price) in &file.prices {
        falling(entry, price, &mut findings);
        bounds_of_other_notations(entry, price, &mut findings);
        amounts(entry, price, &mut findings);
        rows(entry, price, &file, &mut findings);
        steps(entry, price, &mut findings);
        caps_of_steps(entry, price, &mut findings);
        out_of_reach(entry, price, &file, &mut findings);
    }
    discounts(entries, &mut findings);
    never_charged(entries, &mut findings);
    if !has_mistakes {
        unused(entries, &file, &mut findings);
    }
    findings
}

/// The resources of a file that warnings look at, as far as they can be read.
struct File<'a, 'i> {
    prices: Vec<(&'a Entry<'i>, &'a Price)>,
    meters: BTreeMap<&'a MeterId, &'a Meter>,
    subscriptions: Vec<&'a Subscription>,
}

impl<'a, 'i> File<'a, 'i> {
    fn of(entries: &'a [Entry<'i>]) -> Self {
        let mut file = Self { prices: Vec::new(), meters: BTreeMap::new(), subscriptions: Vec::new() };
        for entry in entries {
            match &entry.resource {
                Some(Resource::Price(price)) => file.prices.push((entry, price)),
                Some(Resource::Meter(meter)) => {
                    file.meters.insert(&meter.id, meter);
                }
                Some(Resource::Subscription(subscription)) => file.subscriptions.push(subscription),
                _ => {}
            }
        }
        file
    }
}

/// Bounds at which one more unit makes the whole cheaper.
fn falling(entry: &Entry<'_>, price: &Price, findings: &mut Vec<Finding>) {
    let Ok(terms) = price.terms() else { return };
    let bound = match &terms.model {
        Model::Volume(model) => model.falls_at().ok().flatten(),
        Model::Stairstep(model) => {
            let pairs = model.tiers.as_slice().windows(2);
            pairs
                .into_iter()
                .find(|pair| pair[1].flat_amount < pair[0].flat_amount)
                .and_then(|pair| pair[0].up_to)
        }
        _ => None,
    };
    let Some(bound) = bound else { return };
    let tiers = price.tiers.iter().flatten();
    let index = tiers.into_iter().position(|tier| tier.up_to.map(Exact::from) == Some(bound)).unwrap_or(0);
    let group = GroupTexts::NONE;
    let at = terms.model.amount(&group, bound, true);
    let beyond =
        bound.add(Exact::ONE).map_err(Into::into).and_then(|more| terms.model.amount(&group, more, true));
    let (Ok(at), Ok(beyond)) = (at, beyond) else { return };
    let text = |number: Exact| grouped(&number.to_string());
    let what =
        format!("more units cost less: {} cost {}, and one more {}", text(bound), text(at), text(beyond));
    let remedy = match price.model {
        PricingModel::Volume => "with `graduated` each unit keeps the amount of its own tier",
        _ => "let the amounts rise from step to step",
    };
    findings.push(entry.warning(
        "amount_falls",
        &[Field("tiers"), Index(index), Field("up_to")],
        &what,
        remedy,
    ));
}

/// Bounds that other notations write for the unit before the next tier.
fn bounds_of_other_notations(entry: &Entry<'_>, price: &Price, findings: &mut Vec<Finding>) {
    let ten = Exact::from_integer(10);
    for (index, tier) in price.tiers.iter().flatten().enumerate() {
        let Some(up_to) = tier.up_to.map(Exact::from) else { continue };
        let Ok(next) = up_to.add(Exact::ONE) else { continue };
        let is_round =
            next.divide(ten).and_then(|tens| tens.round(domain::Rounding::Floor, 0).map(|r| r == tens));
        if is_round != Ok(true) {
            continue;
        }
        let what = format!(
            "bounds are inclusive and nothing lies between tiers: all beyond {up_to} is in the next tier, {up_to}.5 as well as {next}"
        );
        let remedy = format!(
            "if the next tier starts after {next} units, as `from 0 to {up_to}, from {next}` often means, write up_to = \"{next}\""
        );
        findings.push(entry.warning(
            "bound_looks_exclusive",
            &[Field("tiers"), Index(index), Field("up_to")],
            &what,
            &remedy,
        ));
        return;
    }
}

/// Amounts of zero, where they make the price useless, and below zero, anywhere.
fn amounts(entry: &Entry<'_>, price: &Price, findings: &mut Vec<Finding>) {
    let own: [(&str, Option<Decimal>); 4] = [
        ("unit_amount", price.unit_amount),
        ("rate_percent", price.rate_percent),
        ("multiplier", price.multiplier),
        ("fixed_amount", price.fixed_amount),
    ];
    let is_useful_at_zero =
        |field: &str| field == "fixed_amount" || (field == "rate_percent" && price.fixed_amount.is_some());
    for (field, amount) in own {
        if amount.is_some_and(Decimal::is_zero) && !is_useful_at_zero(field) {
            let remedy = "leave the price out, or use `included` for units that are free";
            findings.push(entry.warning(
                "amount_is_zero",
                &[Field(field)],
                "nothing is ever owed for it",
                remedy,
            ));
        }
        if amount.is_some_and(Decimal::is_negative) {
            negative(entry, &[Field(field)], findings);
        }
    }
    for (index, tier) in price.tiers.iter().flatten().enumerate() {
        let fields = [
            ("unit_amount", tier.unit_amount),
            ("flat_amount", tier.flat_amount),
            ("rate_percent", tier.rate_percent),
        ];
        for (field, _) in fields.into_iter().filter(|(_, amount)| amount.is_some_and(Decimal::is_negative)) {
            negative(entry, &[Field("tiers"), Index(index), Field(field)], findings);
        }
    }
    for (index, row) in price.rows.iter().flatten().enumerate() {
        let tiers = row.tiers.iter().flatten().flat_map(|tier| [tier.unit_amount, tier.flat_amount]);
        if tiers.chain([row.unit_amount]).flatten().any(Decimal::is_negative) {
            negative(entry, &[Field("rows"), Index(index)], findings);
        }
    }
    for (index, step) in price.steps.iter().flatten().enumerate() {
        if step.amount.is_negative() {
            negative(entry, &[Field("steps"), Index(index), Field("amount")], findings);
        }
    }
}

fn negative(entry: &Entry<'_>, path: &[Step<'_>], findings: &mut Vec<Finding>) {
    let (what, remedy) = ("usage is paid out, not charged", "use `discounts` for what is taken off");
    findings.push(entry.warning("amount_is_negative", path, what, remedy));
}

/// A discount of an account that takes nothing.
fn discounts(entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    for entry in entries {
        let Some(Resource::Discount(discount)) = &entry.resource else { continue };
        for (field, takes) in [("percent", discount.percent), ("amount", discount.amount)] {
            if takes.is_some_and(Decimal::is_zero) {
                let (what, remedy) = ("it takes nothing off", "leave the discount out");
                findings.push(entry.warning("amount_is_zero", &[Field(field)], what, remedy));
            }
        }
    }
}

/// Rows of a matrix that no usage takes, or that share usage with another one.
fn rows(entry: &Entry<'_>, price: &Price, file: &File<'_, '_>, findings: &mut Vec<Finding>) {
    let Some(rows) = &price.rows else { return };
    let meter = price.meter.as_ref().and_then(|meter| file.meters.get(meter));
    for (index, row) in rows.iter().enumerate() {
        let path = [Field("rows"), Index(index)];
        if let Some(meter) = meter
            && let Some((what, remedy)) = unmetered(row, meter)
        {
            findings.push(entry.warning("row_never_fits", &path, &what, &remedy));
            continue;
        }
        for other in &rows[..index] {
            let Some(both) = shared(row, other) else { continue };
            if rows.iter().any(|row| row.when == both) {
                continue;
            }
            let text = |when: &BTreeMap<String, String>| {
                when.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(", ")
            };
            let what = format!(
                "usage with {} fits this row and an earlier one that is as specific ({}); the earlier one prices it",
                text(&both),
                text(&other.when)
            );
            findings.push(entry.warning(
                "rows_overlap",
                &path,
                &what,
                "add a row that names all of these texts",
            ));
        }
    }
}

/// Why no usage of a meter fits a row.
fn unmetered(row: &PriceRow, meter: &Meter) -> Option<(String, String)> {
    if let Some(name) = row.when.keys().find(|name| !meter.group_by.contains(name)) {
        let what = format!("the meter {} does not group by {name:?}, so no usage ever has it", meter.id);
        return Some((what, format!("add {name:?} to the group_by of the meter, or take it out of the row")));
    }
    let excluded = |(name, text): &(&String, &String)| {
        let test = meter.filter.get(*name);
        test.is_some_and(|test| !test.tests().iter().all(|test| test.passes(Some(text))))
    };
    let (name, text) = row.when.iter().find(excluded)?;
    let what = format!("the filter of the meter {} lets nothing with {name}={text} through", meter.id);
    Some((what, "take the row out, or widen the filter".to_string()))
}

/// The texts of usage that fits two rows which are equally specific, if there is any.
fn shared(row: &PriceRow, other: &PriceRow) -> Option<BTreeMap<String, String>> {
    let is_compatible =
        row.when.iter().all(|(name, text)| other.when.get(name).is_none_or(|theirs| theirs == text));
    if row.when.len() != other.when.len() || row.when == other.when || !is_compatible {
        return None;
    }
    let both = row.when.iter().chain(&other.when);
    Some(both.map(|(name, text)| (name.clone(), text.clone())).collect())
}

/// Steps of a capacity that an earlier one always takes the place of, and steps that cost less than a smaller one.
fn steps(entry: &Entry<'_>, price: &Price, findings: &mut Vec<Finding>) {
    let (Some(steps), Some(meters)) = (&price.steps, &price.meters) else { return };
    let bound = |index: usize, meter: &MeterId| steps[index].up_to.get(meter).copied().map(Exact::from);
    for index in 0..steps.len() {
        let holds = |earlier: &usize| {
            meters.iter().all(|meter| match (bound(*earlier, meter), bound(index, meter)) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(earlier), Some(own)) => earlier >= own,
            })
        };
        if (0..index).any(|earlier| holds(&earlier)) {
            let what = "whatever fits this step fits an earlier one, which is taken";
            let remedy = "raise its bounds, or take it out";
            findings.push(entry.warning("step_never_fits", &[Field("steps"), Index(index)], what, remedy));
        }
    }
}

/// Caps of steps: a step costs its flat amount.
fn caps_of_steps(entry: &Entry<'_>, price: &Price, findings: &mut Vec<Finding>) {
    if price.model != PricingModel::Stairstep {
        return;
    }
    for (index, _) in price.tiers.iter().flatten().enumerate().filter(|(_, tier)| tier.flat_cap.is_some()) {
        let path = [Field("tiers"), Index(index), Field("flat_cap")];
        let what = "a step costs its `flat_amount`, whatever its `flat_cap` is";
        findings.push(entry.warning(
            "cap_without_effect",
            &path,
            what,
            "leave it out, or lower the `flat_amount`",
        ));
    }
}

/// Subscriptions that are free for all of their time, and grants that never pay.
fn never_charged(entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    for entry in entries {
        match &entry.resource {
            Some(Resource::Subscription(of))
                if of.until.is_some_and(|until| of.trial_until > Some(until)) =>
            {
                let what = "the trial ends after the subscription: nothing of it is ever charged";
                let remedy = "end the trial before `until`, or leave the trial out";
                findings.push(entry.warning(
                    "trial_outlasts_subscription",
                    &[Field("trial_until")],
                    what,
                    remedy,
                ));
            }
            Some(Resource::Grant(of)) if of.voided_at.is_some_and(|at| at <= of.from) => {
                let what = "it is voided before anything may draw on it: it never pays";
                let remedy = "void it after `from`, or leave the grant out";
                findings.push(entry.warning("grant_never_drawn", &[Field("voided_at")], what, remedy));
            }
            _ => {}
        }
    }
}

/// A price that comes into force after every subscription of its plan has ended.
fn out_of_reach(entry: &Entry<'_>, price: &Price, file: &File<'_, '_>, findings: &mut Vec<Finding>) {
    let Some(from) = price.effective_from else { return };
    let mut ends = file.subscriptions.iter().filter(|s| s.plan == price.plan).map(|s| s.until).peekable();
    if ends.peek().is_some() && ends.all(|until| until.is_some_and(|until: Timestamp| until <= from)) {
        let what = "it comes into force when every subscription of its plan in the file has ended";
        let remedy = "move effective_from, or leave the price out";
        findings.push(entry.warning("price_never_reached", &[Field("effective_from")], what, remedy));
    }
}

/// Plans without prices or subscriptions, and meters without prices.
fn unused(entries: &[Entry<'_>], file: &File<'_, '_>, findings: &mut Vec<Finding>) {
    let priced_plans: BTreeSet<&PlanId> = file.prices.iter().map(|(_, price)| &price.plan).collect();
    let priced_meters: BTreeSet<&MeterId> =
        file.prices.iter().flat_map(|(_, price)| price.all_meters()).collect();
    let subscribed: BTreeSet<&PlanId> =
        file.subscriptions.iter().map(|subscription| &subscription.plan).collect();
    for entry in entries {
        match &entry.resource {
            Some(Resource::Plan(plan)) if !priced_plans.contains(&plan.id) => {
                let what = "no price is of this plan: it costs nothing";
                findings.push(entry.warning(
                    "plan_without_prices",
                    &[Field("id")],
                    what,
                    "add a [[price]] for it",
                ));
            }
            Some(Resource::Plan(plan))
                if !file.subscriptions.is_empty() && !subscribed.contains(&plan.id) =>
            {
                let what = "no subscription in the file is to this plan: its prices charge nobody";
                let remedy = "add a [[subscription]], if the server has none either";
                findings.push(entry.warning("plan_never_reached", &[Field("id")], what, remedy));
            }
            Some(Resource::Meter(meter)) if !file.prices.is_empty() && !priced_meters.contains(&meter.id) => {
                let what = "no price is of this meter: its usage is counted and costs nothing";
                findings.push(entry.warning(
                    "meter_not_priced",
                    &[Field("id")],
                    what,
                    "add a [[price]] for it",
                ));
            }
            _ => {}
        }
    }
}
