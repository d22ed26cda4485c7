//! Credits: grants that burn, wallets that pay.
//!
//! Owns: which grants and usage of a case make which input of `billing::rating::credits`, and what only other systems do: a
//! wallet that absorbs the rest, a floor under what rolls over. Leaves to others: the order in which grants burn and what
//! they pay, grants that are reset (`burndown`).

use std::collections::BTreeMap;

use billing::rating::credits::{Due, Grant, LotState, Recurrence, draw};
use billing::rating::models::PerUnit;
use domain::time::DAY;
use domain::{Exact, Timestamp, Zone};

use crate::case::{Case, Stop, list_of};
use crate::json::any_text;
use crate::numbers::{Precision, percent_of, quotient_or_zero, sum_of};
use crate::time::maybe_instant;
use crate::values::Values;

/// After everything.
pub(crate) const NEVER: Timestamp = Timestamp::from_nanoseconds(i64::MAX);

/// When balances without dates start, and are used.
const START: Timestamp = Timestamp::MIN;

/// A balance that burns in the order of its place.
fn balance(place: u32, amount: Exact) -> Grant {
    Grant {
        id: String::new(),
        priority: place,
        created: u64::from(place),
        amount,
        from: START,
        until: None,
        recurrence: None,
        rollover_max: Exact::ZERO,
        voided_at: None,
    }
}

/// Something to be paid by whatever there is.
pub(crate) fn due(at: Timestamp, amount: Exact) -> Due {
    Due { at, amount, grants: None, frozen: Vec::new(), pieces: Vec::new() }
}

/// What balances pay of an amount, in the order of the list.
pub(crate) fn paid_in_order(amount: Exact, balances: &[Exact]) -> Result<Vec<Exact>, Stop> {
    let mut grants = Vec::with_capacity(balances.len());
    for (place, amount) in balances.iter().enumerate() {
        grants.push(balance(place as u32, amount.max(Exact::ZERO)?));
    }
    let mut paid = vec![Exact::ZERO; balances.len()];
    for one in draw(&grants, &[due(START, amount)], &Zone::utc(), START)?.draws {
        paid[one.grant] = one.amount;
    }
    Ok(paid)
}

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
        dues.push(due(step_at(step), amount));
    }
    let drawn = draw(&grants, &dues, &Zone::utc(), step_at(dues.len()))?;
    let mut balances = BTreeMap::new();
    for lot in &drawn.lots {
        balances.insert(grants[lot.grant].id.clone(), lot.balance);
    }
    Ok(Values::new().with("balances", balances).with("overage", sum_of(&drawn.unpaid)?))
}

/// A grant without an expiry ends last.
pub(crate) fn expiry_of(grant: &Case<'_>) -> Result<Timestamp, Stop> {
    Ok(maybe_instant(grant, "expires_at")?.unwrap_or(NEVER))
}

/// Priorities in their order; they may be below zero.
pub(crate) fn priority_of(grant: &Case<'_>) -> Result<u32, Stop> {
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
        let paid = paid_in_order(usage, &wallets)?;
        overage = overage.add(usage.subtract(sum_of(&paid)?)?)?;
        for ((id, wallet), paid) in active.into_iter().zip(wallets).zip(paid) {
            balances.insert(id, wallet.subtract(paid)?);
        }
    }
    Ok(Values::new().with("balances", balances).with("overage", overage))
}

pub(crate) fn rollover(case: &Case<'_>) -> Result<Values, Stop> {
    let (balance, least) = (case.number("balance")?, case.number_or_zero("rollover_min")?);
    let left = balance.max(least)?;
    let most = case.maybe("rollover_max")?.unwrap_or(left);
    let rolled = if left.is_positive() { rolled_of(left, most)? } else { left.min(most)? };
    Ok(Values::new().with("balance", rolled.subtract(case.number_or_zero("carry_overage")?)?))
}

/// What goes on into the next lot of a grant that is given again and has so much left.
fn rolled_of(left: Exact, rollover_max: Exact) -> Result<Exact, Stop> {
    let grant = Grant { recurrence: Some(Recurrence::Days(1)), rollover_max, ..balance(0, left) };
    let drawn = draw(&[grant], &[], &Zone::utc(), START.plus(DAY))?;
    Ok(drawn.lots.first().map_or(Exact::ZERO, |lot| lot.rolled))
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
    let least = case.number_or_zero("min_unit")?;
    // What is below the least that a wallet pays stays in it.
    let usable = |wallet: &Exact| if *wallet < least { Exact::ZERO } else { *wallet };
    let applied = paid_in_order(due, &wallets.iter().map(usable).collect::<Vec<_>>())?;
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
    let (due, wallets) = (case.number("gross")?, case.numbers("wallets")?);
    // What absorbs the rest leaves nothing to those behind it.
    let last = topped_up.into_iter().min().unwrap_or(usize::MAX).min(wallets.len().saturating_sub(1));
    let mut applied = paid_in_order(due, &wallets[..last.min(wallets.len())])?;
    let rest = due.subtract(sum_of(&applied)?)?;
    if !wallets.is_empty() {
        applied.push(rest);
    }
    applied.resize(wallets.len(), Exact::ZERO);
    Ok(Values::new().with("applied", applied))
}

/// Many equal grants in no order; one expires earlier than the others.
pub(crate) fn credit_burndown_scale(case: &Case<'_>) -> Result<Values, Stop> {
    let count: usize = case.integer("grants")?.unwrap_or(0);
    let (amount, early) = (case.number("amount")?, case.word("early_grant")?);
    let days = |name: &str| Ok::<i64, Stop>(case.integer(name)?.unwrap_or(0));
    let (expiry, early_expiry) = (days("expiry_days")?, days("early_expiry_days")?);
    let mut grants = Vec::with_capacity(count);
    for number in shuffled(count) {
        let id = format!("grant-{number}");
        let life = if id == early { early_expiry } else { expiry };
        let until = Some(START.plus(life.saturating_mul(DAY)));
        grants.push(Grant { id, until, ..balance(0, amount) });
    }
    let drawn = draw(&grants, &[due(START, case.number("usage")?)], &Zone::utc(), START)?;
    let is_early = |lot: &&LotState| grants[lot.grant].id == early;
    let early_balance = drawn.lots.iter().find(is_early).map(|lot| lot.balance);
    let other_balance = drawn.lots.iter().find(|lot| !is_early(lot)).map(|lot| lot.balance);
    Ok(Values::new()
        .with("early_grant_balance", early_balance)
        .with("other_balances", other_balance)
        .with("overage", sum_of(&drawn.unpaid)?))
}

/// The numbers below a count in a mixed, always equal order: steps that share no factor with the count.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    let shares_factor =
        |step: usize| (2..=step).any(|factor| step.is_multiple_of(factor) && count.is_multiple_of(factor));
    let step = (count / 3 + 1..).find(|step| !shares_factor(*step)).unwrap_or(1);
    (0..count).map(move |index| (index * step + count / 2) % count)
}
