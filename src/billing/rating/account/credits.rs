//! Credit grants of an account: what they pay of what is due.
//!
//! Owns: which lines a grant may pay, in which order they come, and the lines of its draws. Leaves to others: the order
//! in which grants burn, lots, expiry and restoring (`rating::credits`).
//!
//! What a term added to a window that has not ended is due when it ends: nothing pays for it before.
//! Dues come in the order of their instant, then of their keys as if all were of one account: a charge at the start of its slice, what a term added at
//! the end of its window. The line of a draw has the key of the line that it pays for, with the component `credit` and
//! the lot as its term: `wallet`, `wallet#3` (its third lot), `wallet/minimum` (paid for a minimum),
//! `wallet/true_up/annual` (for the shortfall of a commitment).
//!
//! What is below zero reverses what else is due of its window, of its price first: a grant pays what is left of it.
//!
//! A draw of a closed period paid for a slice as it was then. What that slice is now, in however many pieces and at whatever
//! version of its price, keeps the draw as far as it is due; the rest is given back.
//!
//! Invariants: draws are whole minor units and never exceed what is due; draws of a closed period are taken as they are.

use std::collections::{BTreeMap, BTreeSet};

use domain::{AccountId, Exact, PriceId, Span, SubscriptionId, Timestamp};

use super::{AccountTerms, Bill, Due, Reason};
use crate::catalog::{Belonging, CreditGrant};
use crate::charges::{Component, LineKey};
use crate::rating::credits::{self, Grant, draw};
use crate::rating::status::RatingStatus;

/// The grant that a credit line's term names.
pub fn grant_of(term: &str) -> &str {
    let end = term.find(['#', '/']).unwrap_or(term.len());
    &term[..end]
}

/// Whether a credit line paid for a charge, and not for what a term added.
pub fn is_of_charge(term: &str) -> bool {
    !term.contains('/')
}

/// The name of a lot of a grant.
pub(super) fn term_of_lot(grant: &CreditGrant, lot: usize) -> String {
    if lot == 0 { grant.id.to_string() } else { format!("{}#{}", grant.id, lot + 1) }
}

/// The number of the lot that a term names.
pub(super) fn lot_of(term: &str) -> usize {
    let lot = term.split('/').next().and_then(|lot| lot.split_once('#'));
    lot.and_then(|(_, number)| number.parse().ok()).unwrap_or(1usize).saturating_sub(1)
}

/// The term of a draw: which lot paid, and for what.
fn term_of(grant: &CreditGrant, lot: usize, due: &LineKey) -> String {
    let mut term = term_of_lot(grant, lot);
    let paid_for = match due.component {
        Component::Minimum => "/minimum",
        Component::Overage => "/overage",
        Component::TrueUp => "/true_up",
        _ => return term,
    };
    term.push_str(paid_for);
    if !due.term.is_empty() {
        term.push('/');
        term.push_str(&due.term);
    }
    term
}

/// Dues of one subscription (or of one account without) and window, of one price or of all.
type Pool = (AccountId, Option<SubscriptionId>, Span, Option<PriceId>);

/// The key of the line that a draw paid for, and the number of its lot.
fn due_of(key: &LineKey) -> (LineKey, usize) {
    let mut parts = key.term.splitn(3, '/');
    let component = match parts.nth(1) {
        Some("minimum") => Component::Minimum,
        Some("overage") => Component::Overage,
        Some("true_up") => Component::TrueUp,
        _ => Component::Charge,
    };
    let due = LineKey { component, term: parts.next().unwrap_or_default().to_string(), ..key.clone() };
    (due, lot_of(&key.term))
}

impl Bill<'_, '_> {
    /// Draws what is due from the account's grants.
    pub(super) fn credits(&mut self) -> Result<(), RatingStatus> {
        let terms = self.terms;
        let of_money: Vec<&(u64, &CreditGrant)> = terms.money_grants().collect();
        if of_money.is_empty() {
            return Ok(());
        }
        let minor = |amount| Exact::from_integer(self.minor(amount));
        let grants: Vec<Grant> =
            of_money.iter().map(|(created, grant)| grant.to_grant(*created, minor)).collect();
        self.add_frozen_dues();
        self.dues.sort_by(|a, b| (a.at, a.key.in_pool()).cmp(&(b.at, b.key.in_pool())));
        let of_subscription = |key: &LineKey| (key.account.clone(), key.subscription.clone(), key.window);
        self.net_reversals(|key| {
            let (account, subscription, window) = of_subscription(key);
            (account, subscription, window, key.price.clone())
        });
        self.net_reversals(|key| {
            let (account, subscription, window) = of_subscription(key);
            (account, subscription, window, None)
        });
        let mut frozen = self.frozen_by_due(&of_money);
        let mut pieces = self.pieces_by_due();
        let is_due = |due: &Due| due.at <= terms.as_of || due.key.component == Component::Charge;
        let dues: Vec<credits::Due> = self
            .dues
            .iter()
            .map(|due| credits::Due {
                at: if is_due(due) { due.at } else { terms.as_of },
                amount: if is_due(due) { Exact::from_integer(due.amount.max(0)) } else { Exact::ZERO },
                grants: payers_of(terms, &of_money, due),
                frozen: frozen.remove(&due.key).unwrap_or_default(),
                pieces: pieces.remove(&due.key).unwrap_or_default(),
            })
            .collect();
        assert!(frozen.is_empty(), "every closed draw paid for a due of the account");
        let drawn = draw(&grants, &dues, self.terms.zone, self.terms.as_of)?;
        let mut balances: BTreeMap<usize, Exact> = BTreeMap::new();
        for lot in &drawn.lots {
            let balance = balances.entry(lot.grant).or_insert(Exact::ZERO);
            *balance = balance.add(lot.balance)?;
        }
        for (order, draw) in drawn.draws.into_iter().enumerate() {
            let (_, grant) = of_money[draw.grant];
            let due = &self.dues[draw.due];
            let key = LineKey {
                component: Component::Credit,
                term: term_of(grant, draw.lot, &due.key),
                ..due.key.clone()
            };
            let balance = balances.get(&draw.grant).copied().unwrap_or(Exact::ZERO).round_to(0)?;
            let reason = Reason::Credit { grant: grant.id.to_string(), due: due.amount, balance, order };
            let (window, slice, amount) = (due.window, due.slice, draw.amount.round_to(0)?);
            assert_eq!(Exact::from_integer(amount), draw.amount, "a draw is whole minor units");
            self.slice_line(key, window, slice, -amount, reason)?;
        }
        Ok(())
    }

    /// Takes what was reversed off what else is due of the same pool, the latest first: what a window does not cost,
    /// credits do not pay.
    fn net_reversals(&mut self, pool_of: impl Fn(&LineKey) -> Pool) {
        let mut reversed: BTreeMap<Pool, Vec<usize>> = BTreeMap::new();
        for (index, due) in self.dues.iter().enumerate().filter(|(_, due)| due.amount < 0) {
            reversed.entry(pool_of(&due.key)).or_default().push(index);
        }
        if reversed.is_empty() {
            return;
        }
        for index in (0..self.dues.len()).rev() {
            let Some(reversals) = reversed.get_mut(&pool_of(&self.dues[index].key)) else { continue };
            while let Some(reversal) = reversals.last().copied().filter(|_| self.dues[index].amount > 0) {
                // Between zero and the amount.
                let taken = self.dues[index].amount.min(-self.dues[reversal].amount);
                self.dues[index].amount -= taken;
                self.dues[reversal].amount += taken;
                if self.dues[reversal].amount == 0 {
                    reversals.pop();
                }
            }
        }
    }

    /// Lines that a closed draw paid for and that are worth nothing any more are dues of nothing: the draw is given back.
    fn add_frozen_dues(&mut self) {
        let known: BTreeSet<LineKey> = self.dues.iter().map(|due| due.key.clone()).collect();
        let mut missing: BTreeMap<LineKey, ()> = BTreeMap::new();
        for frozen in &self.terms.frozen_draws {
            let (key, _) = due_of(&frozen.key);
            if !known.contains(&key) {
                missing.insert(key, ());
            }
        }
        for key in missing.into_keys() {
            let window = key.window;
            // The end of its slice is no longer known.
            let (slice, at) = (Span::new(key.slice_from, window.until), window.until.plus(-1));
            let belongs = Belonging::Slice(slice.from);
            self.dues.push(Due { at, key, window, belongs, slice, amount: 0, is_usage: false });
        }
    }

    /// Indexes of what was a part of each due that a closed draw paid for, in order of time.
    fn pieces_by_due(&self) -> BTreeMap<LineKey, Vec<usize>> {
        let drawn = self.terms.frozen_draws.iter().filter(|frozen| frozen.amount > 0);
        let ends: BTreeMap<LineKey, Timestamp> =
            drawn.map(|frozen| (due_of(&frozen.key).0, frozen.until)).collect();
        if ends.is_empty() {
            return BTreeMap::new();
        }
        let dues = self.dues.iter().enumerate().map(|(index, due)| (due.key.clone(), index));
        pieces_of(&ends, &dues.collect())
    }

    fn frozen_by_due(
        &self,
        of_money: &[&(u64, &CreditGrant)],
    ) -> BTreeMap<LineKey, Vec<credits::FrozenDraw>> {
        let indexes: BTreeMap<&str, usize> =
            of_money.iter().enumerate().map(|(index, (_, grant))| (grant.id.as_str(), index)).collect();
        let mut by_due: BTreeMap<LineKey, Vec<credits::FrozenDraw>> = BTreeMap::new();
        for frozen in self.terms.frozen_draws.iter().filter(|frozen| frozen.amount > 0) {
            let (key, lot) = due_of(&frozen.key);
            let grant = indexes.get(grant_of(&frozen.key.term)).copied();
            let grant = grant.expect("a draw names a grant of the account");
            let amount = Exact::from_integer(frozen.amount);
            by_due.entry(key).or_default().push(credits::FrozenDraw { grant, lot, amount });
        }
        by_due
    }
}

/// What lies in the same slices as they were when something was drawn for them, in order of time: of what was drawn for
/// `ends`, each with the end of its slice then, among the lines `now`.
pub(super) fn pieces_of(
    ends: &BTreeMap<LineKey, Timestamp>,
    now: &BTreeMap<LineKey, usize>,
) -> BTreeMap<LineKey, Vec<usize>> {
    let pieces_of = |(key, until): (&LineKey, &Timestamp)| {
        // Keys order by slice before version, and pieces have the same component and term.
        let first = LineKey { price_version: 0, ..key.clone() };
        let later = now.range(first..).take_while(|(other, _)| {
            (&other.account, &other.subscription, other.window, &other.price, &other.group)
                == (&key.account, &key.subscription, key.window, &key.price, &key.group)
                && other.slice_from < *until
        });
        let pieces = later.filter(|(other, _)| {
            *other != key && (other.component, &other.term) == (key.component, &key.term)
        });
        (key.clone(), pieces.map(|(_, index)| *index).collect())
    };
    ends.iter().map(pieces_of).collect()
}

/// Indexes of the grants that may pay a due; all, if `None`.
fn payers_of(
    terms: &AccountTerms<'_>,
    of_money: &[&(u64, &CreditGrant)],
    due: &Due,
) -> Option<BTreeSet<usize>> {
    let pays = |grant: &CreditGrant| {
        let of_subscription = grant.subscriptions.is_empty()
            || due.key.subscription.as_ref().is_some_and(|id| grant.subscriptions.contains(id));
        let of_price =
            grant.prices.is_empty() || due.key.price.as_ref().is_some_and(|id| grant.prices.contains(id));
        of_subscription && of_price && terms.holds_for(&grant.account, &due.key.account)
    };
    // Most grants pay for anything: no set is made for those.
    if of_money.iter().all(|(_, grant)| pays(grant)) {
        return None;
    }
    let payers = of_money.iter().enumerate().filter(|(_, (_, grant))| pays(grant));
    Some(payers.map(|(index, _)| index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cases;
    use domain::time::DAY;
    use proptest::prelude::*;

    fn day(day: i64) -> Timestamp {
        Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus((day - 1) * DAY)
    }

    /// The key of a line of a slice that starts on a day of January, at a version of the price.
    fn key(from: i64, price_version: u32) -> LineKey {
        LineKey {
            account: AccountId::new("acme").unwrap(),
            subscription: Some(SubscriptionId::new("s").unwrap()),
            window: Span::new(day(1), day(32)),
            price: Some(PriceId::new("calls").unwrap()),
            group: domain::GroupTexts::NONE,
            slice_from: day(from),
            price_version,
            component: Component::Charge,
            term: String::new(),
        }
    }

    #[test]
    fn pieces_are_what_lies_in_the_slice_now_at_any_version_and_nothing_else() {
        let drawn = key(10, 2);
        let minimum = LineKey { component: Component::Minimum, ..key(12, 2) };
        let numbered = LineKey { term: "1".to_string(), ..key(12, 2) };
        let grouped = LineKey { group: domain::GroupTexts::from([("region", "eu")]), ..key(12, 2) };
        let other = LineKey { subscription: Some(SubscriptionId::new("t").unwrap()), ..key(12, 2) };
        let later = LineKey { window: Span::new(day(32), day(60)), ..key(12, 2) };
        let now =
            [key(9, 2), key(10, 1), drawn.clone(), key(12, 2), minimum, numbered, key(14, 3), key(15, 2)];
        let now = now.into_iter().chain([grouped, other, later]).enumerate();
        let now: BTreeMap<LineKey, usize> = now.map(|(index, key)| (key, index)).collect();
        let ends = BTreeMap::from([(drawn.clone(), day(15))]);
        assert_eq!(pieces_of(&ends, &now), BTreeMap::from([(drawn, vec![1, 3, 6])]));
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn the_term_of_a_draw_names_its_grant_its_lot_and_what_it_paid(
            lot in 0usize..40,
            paid in prop::sample::select(vec![
                (Component::Charge, "", ""), (Component::Minimum, "", "/minimum"),
                (Component::Overage, "annual", "/overage/annual"), (Component::TrueUp, "annual", "/true_up/annual"),
            ]),
        ) {
            let (component, of, suffix) = paid;
            let grant: CreditGrant = toml::from_str(
                r#"id = "g"
                account = "acme"
                kind = "paid"
                amount = "1"
                from = "2026-01-01T00:00:00Z""#,
            ).unwrap();
            let due = LineKey {
                account: AccountId::new("acme").unwrap(),
                subscription: None,
                price: None,
                window: Span::new(Timestamp::MIN, Timestamp::END),
                group: domain::GroupTexts::NONE,
                slice_from: Timestamp::MIN,
                price_version: 1,
                component,
                term: of.to_string(),
            };
            let term = term_of(&grant, lot, &due);
            let number = if lot == 0 { String::new() } else { format!("#{}", lot + 1) };
            prop_assert_eq!(&term, &format!("g{number}{suffix}"));
            prop_assert_eq!(grant_of(&term), "g");
            prop_assert_eq!(is_of_charge(&term), component == Component::Charge);
            let key = LineKey { component: Component::Credit, term, ..due.clone() };
            prop_assert_eq!(due_of(&key), (due, lot));
        }
    }
}
