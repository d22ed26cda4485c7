//! Entitlements in units that are reset, and pay the overage so far at once.
//!
//! Owns: which grants and dues of `billing::rating::credits` say the same. Leaves to others: which lot pays what.
//!
//! Other systems set one balance back where the product gives a new lot, so a grant is what it has at first and, from its
//! first reset on, a grant that is given again and rolls nothing over. They carry overage to the next reset, which the
//! product bills: here it is due again at the reset, of the grants that are reset then.

use std::collections::BTreeMap;

use billing::rating::credits::{Drawn, Due, Grant, Recurrence, draw};
use domain::time::DAY;
use domain::{Exact, Span, Timestamp, Zone};

use crate::case::{Case, Stop, fields_of};
use crate::credits::{NEVER, due, expiry_of, priority_of};
use crate::numbers::sum_of;
use crate::time::{instant_of, maybe_instant, span_of};
use crate::values::Values;

pub(crate) fn credit_burndown(case: &Case<'_>) -> Result<Values, Stop> {
    if case.text("aggregation").is_some_and(|aggregation| aggregation != "SUM") {
        return Err(Stop::Unsupported("usage that is no sum".to_string()));
    }
    let span = span_of(case, "at", "until")?;
    let entitlements = entitlements_of(case, span)?;
    let mut uses = Vec::new();
    for one in case.rows("usage")? {
        let at = instant_of(&one, "time")?;
        if span.contains(at) {
            uses.push(due(at, one.number("value")?));
        }
    }
    let mut burning = Burning {
        grants: entitlements.iter().flat_map(|one| one.grants.clone()).collect(),
        uses,
        resets: Vec::new(),
        start_overage: case.number_or_zero("start_overage")?,
    };
    let mut instants: Vec<Timestamp> = entitlements.iter().flat_map(|one| one.changes(span)).collect();
    instants.sort_unstable();
    instants.dedup();
    let mut segments = vec![burning.at(span.from)?];
    for instant in instants {
        burning.reset(instant)?;
        if instant < span.until {
            segments.push(burning.at(instant)?);
        }
    }
    let last = burning.drawn(NEVER, span.until)?;
    let mut values = Values::new().with("overage", burning.overage(&last)?).with("segments", segments.len());
    let (mut balances, mut first) = (BTreeMap::new(), 0);
    for one in &entitlements {
        let grants = first..first + one.grants.len();
        first = grants.end;
        balances.insert(&one.id, balance_of(&last, grants.clone())?);
        let by_segment = segments.iter().map(|drawn| balance_of(drawn, grants.clone()));
        let by_segment = by_segment.collect::<Result<Vec<_>, _>>()?;
        values.set(&format!("{}_balance_at_start_by_segment", one.id), by_segment);
    }
    Ok(values.with("balances", balances))
}

/// An entitlement, as grants: what it has at first, and what it is reset to.
struct Entitlement {
    id: String,
    grants: Vec<Grant>,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

fn entitlements_of(case: &Case<'_>, span: Span) -> Result<Vec<Entitlement>, Stop> {
    let start_balances = case.find("start_balances").map(fields_of).transpose()?.map(Case::part);
    let rows = case.rows("grants")?;
    // A void is not known before it comes, so it does not change the order of what came before it.
    let mut order = Vec::with_capacity(rows.len());
    for (index, grant) in rows.iter().enumerate() {
        order.push((priority_of(grant)?, expiry_of(grant)?, index));
    }
    order.sort();
    let mut entitlements = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let (id, amount) = (row.word("id")?.to_string(), row.number("amount")?);
        let rank = order.iter().position(|(_, _, of)| *of == index).expect("every grant has a place");
        let starts_at = instant_of(row, "effective_at")?;
        let ends_at = expiry_of(row)?.min(maybe_instant(row, "ended_at")?.unwrap_or(NEVER));
        let from = starts_at.max(span.from);
        let amount_at_first = match &start_balances {
            Some(balances) if starts_at <= span.from => balances.number_or_zero(&id)?,
            _ => amount,
        };
        let lot = |amount, from, until, recurrence| Grant {
            id: id.clone(),
            priority: rank as u32,
            created: index as u64,
            amount,
            from,
            until: Some(until),
            recurrence,
            rollover_max: Exact::ZERO,
            voided_at: None,
        };
        let mut grants = Vec::new();
        let reset = reset_of(row, starts_at, from)?.filter(|(first, _)| *first < ends_at);
        if from < ends_at {
            let until = reset.map_or(ends_at, |(first, _)| first);
            grants.push(lot(amount_at_first, from, until, None));
        }
        if let Some((first, days)) = reset {
            grants.push(lot(amount, first, ends_at, Some(Recurrence::Days(days))));
        }
        entitlements.push(Entitlement { id, grants, starts_at, ends_at });
    }
    Ok(entitlements)
}

/// The first reset after an instant, and days from one to the next. An anchor may lie inside the grant's life: it is reset
/// before it as well as after it.
fn reset_of(
    row: &Case<'_>,
    starts_at: Timestamp,
    after: Timestamp,
) -> Result<Option<(Timestamp, u32)>, Stop> {
    let Some(recurrence) = row.find("recurrence") else { return Ok(None) };
    let recurrence = Case::part(fields_of(recurrence)?);
    let days: u32 = recurrence.integer("every_days")?.filter(|days| *days > 0).ok_or(Stop::Refused)?;
    let anchor = maybe_instant(&recurrence, "anchor")?.unwrap_or(starts_at);
    let every = i64::from(days).saturating_mul(DAY);
    let passed = (after.nanoseconds() - anchor.nanoseconds()).div_euclid(every);
    Ok(Some((anchor.plus((passed + 1) * every), days)))
}

impl Entitlement {
    /// Instants after the start of a span, and up to its end, at which it starts, ends or is reset.
    fn changes(&self, span: Span) -> Vec<Timestamp> {
        let mut changes = vec![self.starts_at, self.ends_at];
        for grant in &self.grants {
            if let Some(Recurrence::Days(days)) = grant.recurrence {
                let every = i64::from(days).saturating_mul(DAY);
                let end = self.ends_at.min(span.until.plus(1));
                changes
                    .extend((0..).map(|nth| grant.from.plus(nth * every)).take_while(|reset| *reset < end));
            }
        }
        changes.retain(|change| span.from < *change && *change <= span.until);
        changes
    }
}

/// What has burnt so far.
struct Burning {
    grants: Vec<Grant>,
    uses: Vec<Due>,
    /// Overage that resets were asked to pay.
    resets: Vec<Due>,
    start_overage: Exact,
}

impl Burning {
    /// What was drawn by uses before an instant, and by all resets, as known at another.
    fn drawn(&self, before: Timestamp, as_of: Timestamp) -> Result<Drawn, Stop> {
        let uses = self.uses.iter().filter(|one| one.at < before);
        let dues: Vec<Due> = self.resets.iter().chain(uses).cloned().collect();
        Ok(draw(&self.grants, &dues, &Zone::utc(), as_of)?)
    }

    fn at(&self, instant: Timestamp) -> Result<Drawn, Stop> {
        self.drawn(instant, instant)
    }

    /// What nobody has paid: each reset was asked for all of it.
    fn overage(&self, drawn: &Drawn) -> Result<Exact, Stop> {
        let (resets, uses) = drawn.unpaid.split_at(self.resets.len());
        let asked = sum_of(&self.resets.iter().map(|due| due.amount).collect::<Vec<_>>())?;
        let paid = asked.subtract(sum_of(resets)?)?;
        Ok(self.start_overage.add(sum_of(uses)?)?.subtract(paid)?)
    }

    /// Lets the grants that are reset at an instant pay the overage so far.
    fn reset(&mut self, at: Timestamp) -> Result<(), Stop> {
        let is_reset = |grant: &Grant| {
            let Some(Recurrence::Days(days)) = grant.recurrence else { return false };
            let since = at.nanoseconds() - grant.from.nanoseconds();
            since >= 0 && since % i64::from(days).saturating_mul(DAY) == 0 && grant.until > Some(at)
        };
        let payers = (0..self.grants.len()).filter(|index| is_reset(&self.grants[*index])).collect();
        let amount = self.overage(&self.at(at)?)?;
        self.resets.push(Due { grants: Some(payers), ..due(at, amount) });
        Ok(())
    }
}

fn balance_of(drawn: &Drawn, grants: std::ops::Range<usize>) -> Result<Exact, Stop> {
    let lots = drawn.lots.iter().filter(|lot| grants.contains(&lot.grant));
    sum_of(&lots.map(|lot| lot.balance).collect::<Vec<_>>())
}
