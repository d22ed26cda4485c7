//! Credit grants in units of a meter: what they cover of what is used, before it is priced.
//!
//! Owns: which use a grant may cover, in which order it comes, and the lines of what is covered. Leaves to others: the order
//! in which grants burn, lots, expiry, rollover and restoring (`rating::credits`), what the rest costs (`position`).
//!
//! Use comes in the order of slices, then of subscription, window and group. A unit is covered once, however many
//! prices its meter has. The line of a draw has the key of the use, with the component `covered` and the lot as its term:
//! `tokens`, `tokens#3`. It has units and no amount.
//!
//! Use below zero reverses other use of its window and group, the latest first: a grant covers what is left of it.
//!
//! Invariants: no slice is covered beyond what was used in it; what a closed period covered is taken as it is.

use std::collections::{BTreeMap, BTreeSet};

use domain::{AccountId, Exact, MeterId, Span, Timestamp, Zone};

use super::credits::{grant_of, lot_of, pieces_of, term_of_lot};
use super::{BillLine, Reason};
use crate::catalog::CreditGrant;
use crate::charges::LineKey;
use crate::rating::credits::{self, Grant, draw};
use crate::rating::status::RatingStatus;

/// What a subscription used of a meter in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitUse {
    /// The key of its lines, without a term.
    pub key: LineKey,
    /// The meter.
    pub meter: MeterId,
    /// The tier window.
    pub window: Span,
    /// The slice.
    pub slice: Span,
    /// The units.
    pub quantity: Exact,
}

/// Units that a closed period covered: a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenUnits {
    /// Key of its line.
    pub key: LineKey,
    /// The tier window.
    pub window: Span,
    /// First instant after the slice in which it covered, as that was then.
    pub until: Timestamp,
    /// The units.
    pub units: Exact,
}

/// What grants cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoveredUnits {
    /// Lines of draws, in the order of their keys.
    pub lines: Vec<BillLine>,
    units: BTreeMap<(MeterId, LineKey), Exact>,
}

impl CoveredUnits {
    /// Units of a use that are covered; `key` is that of the use.
    pub fn of(&self, meter: &MeterId, key: &LineKey) -> Exact {
        // No grant covers nothing, and most accounts have none.
        if self.units.is_empty() {
            return Exact::ZERO;
        }
        self.units.get(&(meter.clone(), key.clone())).copied().unwrap_or(Exact::ZERO)
    }

    /// Whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }
}

/// Covers use with grants in units, each with its place in the order of creation; those of `pool` hold for all accounts.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If a closed draw names no grant.
pub fn cover_units(
    pool: &AccountId,
    grants: &[(u64, &CreditGrant)],
    mut uses: Vec<UnitUse>,
    frozen: &[FrozenUnits],
    zone: &Zone,
    as_of: Timestamp,
) -> Result<CoveredUnits, RatingStatus> {
    let of_units: Vec<&(u64, &CreditGrant)> =
        grants.iter().filter(|(_, grant)| grant.meter.is_some()).collect();
    let index_of = |term: &str| {
        let index = of_units.iter().position(|(_, grant)| grant.id.as_str() == grant_of(term));
        index.expect("a draw names a grant")
    };
    let meter_of = |index: usize| of_units[index].1.meter.clone().expect("a grant in units names its meter");
    add_frozen_uses(&mut uses, frozen, |term| meter_of(index_of(term)));
    uses.sort_by(|a, b| {
        (a.slice.from, a.key.in_pool(), &a.meter).cmp(&(b.slice.from, b.key.in_pool(), &b.meter))
    });
    let due = net_of_reversals(&uses)?;
    let mut closed: BTreeMap<(MeterId, LineKey), Vec<credits::FrozenDraw>> = BTreeMap::new();
    let mut pieces = pieces_by_use(&uses, frozen, |term| meter_of(index_of(term)));
    for one in frozen {
        let (grant, lot) = (index_of(&one.key.term), lot_of(&one.key.term));
        let use_key = (meter_of(grant), LineKey { term: String::new(), ..one.key.clone() });
        closed.entry(use_key).or_default().push(credits::FrozenDraw { grant, lot, amount: one.units });
    }
    let dues = uses.iter().zip(due).map(|(one, amount)| credits::Due {
        at: one.slice.from,
        amount,
        grants: Some(coverers_of(pool, &of_units, one)),
        frozen: closed.remove(&(one.meter.clone(), one.key.clone())).unwrap_or_default(),
        pieces: pieces.remove(&(one.meter.clone(), one.key.clone())).unwrap_or_default(),
    });
    let dues: Vec<credits::Due> = dues.collect();
    let to_grant = |(created, grant): &&(u64, &CreditGrant)| grant.to_grant(*created, Exact::from);
    let lots: Vec<Grant> = of_units.iter().map(to_grant).collect();
    let drawn = draw(&lots, &dues, zone, as_of)?;
    let mut balances = vec![Exact::ZERO; of_units.len()];
    for lot in &drawn.lots {
        balances[lot.grant] = balances[lot.grant].add(lot.balance)?;
    }
    let mut covered = CoveredUnits::default();
    for (order, draw) in drawn.draws.into_iter().enumerate() {
        let ((_, grant), one) = (of_units[draw.grant], &uses[draw.due]);
        let sum = covered.units.entry((one.meter.clone(), one.key.clone())).or_insert(Exact::ZERO);
        *sum = sum.add(draw.amount)?;
        covered.lines.push(BillLine {
            key: LineKey { term: term_of_lot(grant, draw.lot), ..one.key.clone() },
            window: one.window,
            slice: one.slice,
            quantity: draw.amount,
            precise: Exact::ZERO,
            rounded: 0,
            event_count: 0,
            event_digest: 0,
            reason: Reason::Covered {
                grant: grant.id.to_string(),
                meter: one.meter.to_string(),
                used: one.quantity,
                balance: balances[draw.grant],
                order,
            },
        });
    }
    covered.lines.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(covered)
}

/// Use that a closed draw covered and that is no longer there is use of nothing: the draw is given back.
fn add_frozen_uses(uses: &mut Vec<UnitUse>, frozen: &[FrozenUnits], meter_of: impl Fn(&str) -> MeterId) {
    let mut known: BTreeSet<(MeterId, LineKey)> =
        uses.iter().map(|one| (one.meter.clone(), one.key.clone())).collect();
    for one in frozen {
        let (meter, key) = (meter_of(&one.key.term), LineKey { term: String::new(), ..one.key.clone() });
        if known.insert((meter.clone(), key.clone())) {
            // The end of its slice is no longer known.
            let slice = Span::new(key.slice_from, one.window.until);
            uses.push(UnitUse { key, meter, window: one.window, slice, quantity: Exact::ZERO });
        }
    }
}

/// Indexes of what was a part of each use that a closed draw covered, in order of time.
fn pieces_by_use(
    uses: &[UnitUse],
    frozen: &[FrozenUnits],
    meter_of: impl Fn(&str) -> MeterId,
) -> BTreeMap<(MeterId, LineKey), Vec<usize>> {
    let mut ends: BTreeMap<MeterId, BTreeMap<LineKey, Timestamp>> = BTreeMap::new();
    for one in frozen {
        let key = LineKey { term: String::new(), ..one.key.clone() };
        ends.entry(meter_of(&one.key.term)).or_default().insert(key, one.until);
    }
    let mut found = BTreeMap::new();
    for (meter, ends) in ends {
        let of_meter = uses.iter().enumerate().filter(|(_, one)| one.meter == meter);
        let now = of_meter.map(|(index, one)| (one.key.clone(), index)).collect();
        found.extend(pieces_of(&ends, &now).into_iter().map(|(key, pieces)| ((meter.clone(), key), pieces)));
    }
    found
}

/// What of each use there is to cover: what was reversed is taken off other use of its window and group, the latest first.
fn net_of_reversals(uses: &[UnitUse]) -> Result<Vec<Exact>, RatingStatus> {
    let mut due: Vec<Exact> = uses.iter().map(|one| one.quantity).collect();
    let pool_of = |one: &UnitUse| {
        let slice_from = one.key.window.from;
        (one.meter.clone(), LineKey { slice_from, ..one.key.clone() })
    };
    let mut reversed: BTreeMap<(MeterId, LineKey), Exact> = BTreeMap::new();
    for one in uses.iter().filter(|one| one.quantity.is_negative()) {
        let sum = reversed.entry(pool_of(one)).or_insert(Exact::ZERO);
        *sum = sum.subtract(one.quantity)?;
    }
    if reversed.is_empty() {
        return Ok(due);
    }
    for (one, due) in uses.iter().zip(&mut due).rev() {
        let Some(left) = reversed.get_mut(&pool_of(one)) else { continue };
        let taken = (*due).max(Exact::ZERO)?.min(*left)?;
        *left = left.subtract(taken)?;
        *due = due.subtract(taken)?;
    }
    Ok(due)
}

/// Indexes of the grants that may cover a use.
fn coverers_of(pool: &AccountId, grants: &[&(u64, &CreditGrant)], one: &UnitUse) -> BTreeSet<usize> {
    let covers = |grant: &CreditGrant| {
        let subscription = one.key.subscription.as_ref();
        let is_of_subscription = grant.subscriptions.is_empty()
            || subscription.is_some_and(|subscription| grant.subscriptions.contains(subscription));
        let is_of_account = grant.account == *pool || grant.account == one.key.account;
        grant.meter.as_ref() == Some(&one.meter) && is_of_subscription && is_of_account
    };
    grants.iter().enumerate().filter(|(_, (_, grant))| covers(grant)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charges::Component;
    use domain::SubscriptionId;
    use domain::time::DAY;

    fn day(day: i64) -> Timestamp {
        Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus((day - 1) * DAY)
    }

    fn grant(id: &str, amount: &str, terms: &str) -> CreditGrant {
        let text = format!(
            "id = \"{id}\"\naccount = \"acme\"\nkind = \"paid\"\nmeter = \"tokens\"\namount = \"{amount}\"\n\
             from = \"2026-01-01T00:00:00Z\"\n{terms}"
        );
        toml::from_str(&text).unwrap()
    }

    fn key(slice_from: Timestamp, term: &str) -> LineKey {
        LineKey {
            account: AccountId::new("acme").unwrap(),
            subscription: Some(SubscriptionId::new("s").unwrap()),
            window: Span::new(day(1), day(32)),
            price: None,
            group: domain::GroupTexts::NONE,
            slice_from,
            price_version: 0,
            component: Component::Covered,
            term: term.to_string(),
        }
    }

    fn used(first_day: i64, units: &str) -> UnitUse {
        let slice = Span::new(day(first_day), day(first_day + 1));
        let window = Span::new(day(1), day(32));
        let meter = MeterId::new("tokens").unwrap();
        UnitUse { key: key(slice.from, ""), meter, window, slice, quantity: Exact::parse(units).unwrap() }
    }

    /// Lines as `day lot: what the customer reads`.
    fn check(grants: &[CreditGrant], uses: &[UnitUse], frozen: &[(i64, &str, &str)], expected: &[&str]) {
        let frozen: Vec<FrozenUnits> = frozen
            .iter()
            .map(|(first_day, term, units)| FrozenUnits {
                key: key(day(*first_day), term),
                window: Span::new(day(1), day(32)),
                until: day(first_day + 3),
                units: Exact::parse(units).unwrap(),
            })
            .collect();
        let grants: Vec<(u64, &CreditGrant)> =
            grants.iter().enumerate().map(|(index, grant)| (index as u64, grant)).collect();
        let acme = AccountId::new("acme").unwrap();
        let covered = cover_units(&acme, &grants, uses.to_vec(), &frozen, &Zone::utc(), day(32)).unwrap();
        let usd = domain::Currency::from_code("USD").unwrap();
        let shown: Vec<String> = covered
            .lines
            .iter()
            .map(|line| {
                format!(
                    "{} {}: {}",
                    &line.slice.from.to_string()[8..10],
                    line.key.term,
                    line.explanation(usd)
                )
            })
            .collect();
        assert_eq!(shown, expected);
        assert_eq!(covered.is_empty(), expected.is_empty());
        let sum =
            uses.iter().fold(Exact::ZERO, |sum, one| sum.add(covered.of(&one.meter, &one.key)).unwrap());
        let lines = covered.lines.iter().fold(Exact::ZERO, |sum, line| sum.add(line.quantity).unwrap());
        assert_eq!(sum, lines, "lines say what is covered of each use");
    }

    #[test]
    fn units_are_covered_by_priority_in_order_of_time_and_the_rest_is_not() {
        let grants = [grant("late", "5", "priority = 2"), grant("first", "1000", "priority = 1")];
        check(
            &grants,
            &[used(3, "4"), used(2, "999.5"), used(4, "7")],
            &[],
            &[
                "02 first: grant first covers 999.5 of 999.5 tokens; the grant has 0 left after all draws",
                "03 first: grant first covers 0.5 of 4 tokens; the grant has 0 left after all draws",
                "03 late: grant late covers 3.5 of 4 tokens; the grant has 0 left after all draws",
                "04 late: grant late covers 1.5 of 7 tokens; the grant has 0 left after all draws",
            ],
        );
    }

    #[test]
    fn use_that_was_reversed_is_not_covered() {
        check(
            &[grant("g", "10", "")],
            &[used(2, "6"), used(3, "-4"), used(5, "3")],
            &[],
            // The latest use goes first.
            &["02 g: grant g covers 5 of 6 tokens; the grant has 5 left after all draws"],
        );
    }

    #[test]
    fn what_a_closed_period_covered_of_a_slice_stays_with_its_pieces() {
        // Of a slice of three days, which a void splits.
        let grants = [grant("g", "10", r#"voided_at = "2026-01-03T00:00:00Z""#), grant("h", "10", "")];
        check(
            &grants,
            &[used(2, "6"), used(3, "5"), used(4, "1")],
            &[(2, "g", "9")],
            &[
                "02 g: grant g covers 6 of 6 tokens; the grant has 0 left after all draws",
                "03 g: grant g covers 3 of 5 tokens; the grant has 0 left after all draws",
                "03 h: grant h covers 2 of 5 tokens; the grant has 7 left after all draws",
                "04 h: grant h covers 1 of 1 tokens; the grant has 7 left after all draws",
            ],
        );
    }

    #[test]
    fn what_a_closed_period_covered_stays_and_is_given_back_where_its_use_is_gone() {
        let grants = [grant("g", "10", "every = { days = 20 }"), grant("h", "10", "")];
        // The second lot of the first grant covers what the others would have.
        check(
            &grants,
            &[used(25, "12")],
            &[(25, "g#2", "9"), (26, "h", "3")],
            &[
                "25 g#2: grant g covers 10 of 12 tokens; the grant has 0 left after all draws",
                "25 h: grant h covers 2 of 12 tokens; the grant has 8 left after all draws",
            ],
        );
    }
    #[test]
    fn what_a_closed_period_covered_of_a_slice_that_starts_with_no_use_any_more_stays_with_the_rest_of_it() {
        // Of three days; what was used on the first one was taken back. The grant is voided, and covers nothing more.
        let grants = [grant("g", "10", r#"voided_at = "2026-01-03T00:00:00Z""#), grant("h", "10", "")];
        check(
            &grants,
            &[used(3, "5"), used(4, "3"), used(5, "1")],
            &[(2, "g", "9")],
            &[
                "03 g: grant g covers 5 of 5 tokens; the grant has 0 left after all draws",
                "04 g: grant g covers 3 of 3 tokens; the grant has 0 left after all draws",
                "05 h: grant h covers 1 of 1 tokens; the grant has 9 left after all draws",
            ],
        );
    }

    #[test]
    fn nothing_is_covered_without_a_grant_or_without_use() {
        check(&[], &[used(3, "5")], &[], &[]);
        check(&[grant("g", "10", "")], &[], &[], &[]);
    }

    #[test]
    fn a_grant_covers_its_meter_for_the_accounts_and_subscriptions_that_it_holds_for() {
        let of = |id: &str, account: &str, terms: &str| CreditGrant {
            account: AccountId::new(account).unwrap(),
            ..grant(id, "1", terms)
        };
        let grants = [
            of("pool", "acme", ""),
            of("named", "acme", r#"subscriptions = ["t", "u"]"#),
            of("own", "north", ""),
        ];
        let grants: Vec<(u64, &CreditGrant)> = grants.iter().map(|grant| (0, grant)).collect();
        let grants: Vec<&(u64, &CreditGrant)> = grants.iter().collect();
        let covering = |account: &str, subscription: Option<&str>, meter: &str| {
            let mut one = used(3, "1");
            one.key.account = AccountId::new(account).unwrap();
            one.key.subscription = subscription.map(|id| SubscriptionId::new(id).unwrap());
            one.meter = MeterId::new(meter).unwrap();
            let covering = coverers_of(&AccountId::new("acme").unwrap(), &grants, &one);
            covering.into_iter().map(|index| grants[index].1.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(covering("acme", Some("s"), "tokens"), ["pool"]);
        assert_eq!(covering("acme", Some("t"), "tokens"), ["pool", "named"]);
        assert_eq!(covering("acme", None, "tokens"), ["pool"]);
        assert_eq!(covering("north", Some("s"), "tokens"), ["pool", "own"]);
        assert_eq!(covering("south", Some("u"), "tokens"), ["pool", "named"]);
        assert!(covering("acme", Some("s"), "calls").is_empty());
    }
}
