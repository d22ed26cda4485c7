//! Credits: grants that burn down, wallets that pay.
//!
//! Owns: which grants and usage of a case make which input of `billing::rating::credits`. Leaves to others: the order in
//! which grants burn, what a wallet pays.

use std::collections::BTreeMap;

use billing::rating::credits::{
    self, BurndownGrant, Due, Grant, Use, burndown, draw, pay_in_order, roll_over,
};
use billing::rating::models::PerUnit;
use domain::time::DAY;
use domain::{Exact, Span, Timestamp, Zone};

use crate::case::{Case, Stop, fields_of, list_of};
use crate::json::any_text;
use crate::numbers::{Precision, percent_of, quotient_or_zero, sum_of};
use crate::time::{instant_of, maybe_instant, span_of};
use crate::values::Values;

/// After everything.
const NEVER: Timestamp = Timestamp::from_nanoseconds(i64::MAX);

/// Usage without an instant: all grants are usable. A void after so many units cuts the usage there.
pub(crate) fn burn(case: &Case<'_>) -> Result<Values, Stop> {
    let rows = case.rows("grants")?;
    let usage = case.number("usage")?;
    let mut cuts = vec![Exact::ZERO, usage];
    for grant in &rows {
        cuts.extend(grant.maybe("voided_after_usage")?.filter(|cut| cut.is_positive() && *cut < usage));
    }
    cuts.sort_by(|a, b| a.partial_cmp(b).expect("numbers of a case compare"));
    cuts.dedup();
    // Before every expiry; one step of time for each part of the usage.
    let step_at = |step: usize| Timestamp::from_nanoseconds(i64::MIN / 2).plus(step as i64);
    let mut grants = Vec::with_capacity(rows.len());
    for (index, grant) in rows.iter().enumerate() {
        let voided_after = grant.maybe("voided_after_usage")?;
        let voided_at = voided_after.map(|after| {
            let parts = cuts.iter().filter(|cut| cut.is_positive() && **cut <= after).count();
            if after > usage { NEVER } else { step_at(parts) }
        });
        grants.push(Grant {
            id: grant.word("id")?.to_string(),
            priority: priority_of(grant)?,
            created: index as u64,
            amount: grant.number("amount")?,
            from: step_at(0),
            until: Some(expiry_of(grant)?),
            recurrence: None,
            rollover_max: Exact::ZERO,
            voided_at,
        });
    }
    let mut dues = Vec::with_capacity(cuts.len());
    for (step, ends) in cuts.windows(2).enumerate() {
        let amount = ends[1].subtract(ends[0])?;
        dues.push(Due { at: step_at(step), amount, grants: None, frozen: Vec::new(), pieces: Vec::new() });
    }
    let drawn = draw(&grants, &dues, &Zone::utc(), step_at(dues.len()))?;
    let mut balances = BTreeMap::new();
    for lot in &drawn.lots {
        balances.insert(grants[lot.grant].id.clone(), lot.balance);
    }
    Ok(Values::new().with("balances", balances).with("overage", sum_of(&drawn.unpaid)?))
}

/// A grant without an expiry ends last.
fn expiry_of(grant: &Case<'_>) -> Result<Timestamp, Stop> {
    Ok(maybe_instant(grant, "expires_at")?.unwrap_or(NEVER))
}

/// Priorities in their order; they may be below zero.
fn priority_of(grant: &Case<'_>) -> Result<u32, Stop> {
    let priority: i32 = grant.integer("priority")?.unwrap_or(0);
    Ok(priority.wrapping_sub(i32::MIN).cast_unsigned())
}

pub(crate) fn burn_phases(case: &Case<'_>) -> Result<Values, Stop> {
    let mut balances = BTreeMap::new();
    for grant in case.rows("grants")? {
        balances.insert(grant.word("id")?, grant.number("amount")?);
    }
    let mut overage = Exact::ZERO;
    for phase in case.rows("phases")? {
        let active = phase.list("active")?.iter().filter_map(any_text).collect::<Vec<_>>();
        let balance_of = |id: &&str| balances.get(id).copied();
        let wallets = active.iter().map(balance_of).collect::<Option<Vec<_>>>();
        let wallets =
            wallets.ok_or_else(|| Stop::Broken("a phase names a grant that is not there".to_string()))?;
        let usage = phase.number("usage")?;
        let paid = pay_in_order(usage, &wallets, Exact::ZERO)?;
        overage = overage.add(usage.subtract(sum_of(&paid)?)?)?;
        for ((id, wallet), paid) in active.into_iter().zip(wallets).zip(paid) {
            balances.insert(id, wallet.subtract(paid)?);
        }
    }
    Ok(Values::new().with("balances", balances).with("overage", overage))
}

pub(crate) fn rollover(case: &Case<'_>) -> Result<Values, Stop> {
    let (balance, least) = (case.number("balance")?, case.number_or_zero("rollover_min")?);
    let most = case.maybe("rollover_max")?.map_or_else(|| balance.max(least), Ok)?;
    let carried = case.number_or_zero("carry_overage")?;
    Ok(Values::new().with("balance", roll_over(balance, least, most, carried)?))
}

pub(crate) fn wallets_in_order(case: &Case<'_>) -> Result<Values, Stop> {
    let due = case.number("gross")?.subtract(case.number_or_zero("line_discount")?)?;
    let due = due.subtract(case.number_or_zero("invoice_discount")?)?;
    paid_by_wallets(case, due)
}

pub(crate) fn wallet_taxed(case: &Case<'_>) -> Result<Values, Stop> {
    let gross = case.number("gross")?;
    let tax = percent_of(gross, case.number_or_zero("tax_rate_percent")?)?;
    paid_by_wallets(case, gross.add(Precision::of(case)?.round(tax)?)?)
}

fn paid_by_wallets(case: &Case<'_>, due: Exact) -> Result<Values, Stop> {
    let wallets = case.numbers("wallets")?;
    let applied = pay_in_order(due, &wallets, case.number_or_zero("min_unit")?)?;
    let left = wallets.iter().zip(&applied).map(|(wallet, paid)| wallet.subtract(*paid));
    let balances = left.collect::<Result<Vec<_>, _>>()?;
    let amount = due.subtract(sum_of(&applied)?)?;
    Ok(Values::new().with("applied", applied).with("balances", balances).with("amount", amount))
}

/// Credits are never derived from a rounded amount; what a system that does it would show is `credits_after`.
pub(crate) fn per_unit_rate(case: &Case<'_>) -> Result<Values, Stop> {
    let price = PerUnit { unit_amount: case.number("rate_amount")? };
    let amount = Precision::of(case)?.round(price.amount(case.number("quantity")?)?)?;
    let credits_after = Precision::half_away(5).round(quotient_or_zero(amount, price.unit_amount)?)?;
    Ok(Values::new().with("amount", amount).with("credits_after", credits_after))
}

pub(crate) fn void_round(case: &Case<'_>) -> Result<Values, Stop> {
    let void = Precision::half_away(2).round(case.number("void")?)?;
    Ok(Values::new().with("balance", case.number("wallets_balance")?.subtract(void)?))
}

pub(crate) fn cascade(case: &Case<'_>) -> Result<Values, Stop> {
    let topped_up = match case.find("threshold_topup_wallets") {
        None => Vec::new(),
        Some(listed) => {
            let place_of = |place: &serde_json::Value| any_text(place).and_then(|text| text.parse().ok());
            let places = list_of(listed)?.iter().map(place_of).collect::<Option<Vec<usize>>>();
            places.ok_or_else(|| Stop::Broken("a position is a number from 0 on".to_string()))?
        }
    };
    let applied = credits::cascade(case.number("gross")?, &case.numbers("wallets")?, &topped_up)?;
    Ok(Values::new().with("applied", applied))
}

pub(crate) fn credit_burndown(case: &Case<'_>) -> Result<Values, Stop> {
    if case.text("aggregation").is_some_and(|aggregation| aggregation != "SUM") {
        return Err(Stop::Unsupported("usage that is no sum".to_string()));
    }
    let start_balances = case.find("start_balances").map(fields_of).transpose()?.map(Case::part);
    let rows = case.rows("grants")?;
    // A void is not known before it comes, so it does not change the order of what came before it.
    let mut order = Vec::with_capacity(rows.len());
    for (index, grant) in rows.iter().enumerate() {
        order.push((priority_of(grant)?, expiry_of(grant)?, index));
    }
    order.sort();
    let mut grants = Vec::with_capacity(rows.len());
    for (index, grant) in rows.iter().enumerate() {
        let (id, amount) = (grant.word("id")?, grant.number("amount")?);
        let rank = order.iter().position(|(_, _, of)| *of == index).expect("every grant has a place");
        let ended_at = maybe_instant(grant, "ended_at")?.unwrap_or(NEVER);
        grants.push(BurndownGrant {
            id: id.to_string(),
            priority: rank as i64,
            amount,
            effective_at: instant_of(grant, "effective_at")?,
            ends_at: Some(expiry_of(grant)?.min(ended_at)),
            recurrence: recurrence_of(grant)?,
            start_balance: start_balances
                .as_ref()
                .map_or(Ok(amount), |balances| balances.number_or_zero(id))?,
        });
    }
    let use_of =
        |one: &Case<'_>| Ok::<_, Stop>(Use { at: instant_of(one, "time")?, amount: one.number("value")? });
    let uses = case.rows("usage")?.iter().map(use_of).collect::<Result<Vec<_>, _>>()?;
    let span = span_of(case, "at", "until")?;
    let burnt = burndown(&grants, &uses, span, case.number_or_zero("start_overage")?)?;
    let mut values = Values::new().with("overage", burnt.overage).with("segments", burnt.segments.len());
    let mut balances = BTreeMap::new();
    for (index, grant) in grants.iter().enumerate() {
        balances.insert(&grant.id, burnt.balances[index]);
        let by_segment = burnt.balances_by_segment.iter().map(|balances| balances[index]).collect::<Vec<_>>();
        values.set(&format!("{}_balance_at_start_by_segment", grant.id), by_segment);
    }
    Ok(values.with("balances", balances))
}

/// The recurrence of a grant. Its anchor may lie inside the grant's life: it recurs before it as well as after it.
fn recurrence_of(grant: &Case<'_>) -> Result<Option<(Timestamp, i64)>, Stop> {
    let Some(recurrence) = grant.find("recurrence") else { return Ok(None) };
    let recurrence = Case::part(fields_of(recurrence)?);
    let days: i64 = recurrence.integer("every_days")?.unwrap_or(0);
    if days <= 0 {
        return Err(Stop::Refused);
    }
    let every = days.saturating_mul(DAY);
    let anchor =
        maybe_instant(&recurrence, "anchor")?.map_or_else(|| instant_of(grant, "effective_at"), Ok)?;
    let start = instant_of(grant, "effective_at")?;
    let after_start = (anchor.nanoseconds() - start.nanoseconds()).max(0);
    Ok(Some((anchor.plus(-(after_start / every) * every), every)))
}

/// Many equal grants in no order; one expires earlier than the others.
pub(crate) fn credit_burndown_scale(case: &Case<'_>) -> Result<Values, Stop> {
    let count: usize = case.integer("grants")?.unwrap_or(0);
    let (amount, early) = (case.number("amount")?, case.word("early_grant")?);
    let days = |name: &str| Ok::<i64, Stop>(case.integer(name)?.unwrap_or(0));
    let (expiry, early_expiry) = (days("expiry_days")?, days("early_expiry_days")?);
    let start = Timestamp::MIN;
    let mut grants = Vec::with_capacity(count);
    for number in shuffled(count) {
        let id = format!("grant-{number}");
        let life = if id == early { early_expiry } else { expiry };
        grants.push(BurndownGrant {
            id,
            priority: 0,
            amount,
            effective_at: start,
            ends_at: Some(start.plus(life.saturating_mul(DAY))),
            recurrence: None,
            start_balance: amount,
        });
    }
    let uses = [Use { at: start, amount: case.number("usage")? }];
    let burnt = burndown(&grants, &uses, Span::new(start, start.plus(1)), Exact::ZERO)?;
    let balances = || grants.iter().zip(&burnt.balances);
    let early_balance = balances().find(|(grant, _)| grant.id == early).map(|(_, balance)| *balance);
    let other_balance = balances().find(|(grant, _)| grant.id != early).map(|(_, balance)| *balance);
    Ok(Values::new()
        .with("early_grant_balance", early_balance)
        .with("other_balances", other_balance)
        .with("overage", burnt.overage))
}

/// The numbers below a count in a mixed, always equal order: steps that share no factor with the count.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    let shares_factor =
        |step: usize| (2..=step).any(|factor| step.is_multiple_of(factor) && count.is_multiple_of(factor));
    let step = (count / 3 + 1..).find(|step| !shares_factor(*step)).unwrap_or(1);
    (0..count).map(move |index| (index * step + count / 2) % count)
}
