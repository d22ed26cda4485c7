//! An account's bill: its windows rated again, with every step.
//!
//! Owns: which windows are explained, and what belongs to each. Leaves to others: rating (`cut`), the structure and its text
//! (`explanation`).
//!
//! Invariants: what is explained is what a cut at the last cut's instant would find the windows to be worth.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use billing::rating::{RatingStatus, explain};
use domain::{AccountId, Span};
use wire::control::RatingFailure;

use crate::affected::Affected;
use crate::cut::{
    Charge, PooledAccount, RateError, RatedWindow, Rater, SetAside, elsewhere_of, measures_of, of_window,
};
use crate::explanation::{ExplainedPrice, ExplainedWindow};
use crate::owners::{ActiveSpan, Schedules, account_and_entity, active_spans};
use crate::windows::window_of;

impl Rater<'_> {
    /// How what an account's windows are worth comes about: those that start in a span, in order of time.
    pub(crate) fn explain(
        &self,
        account: &AccountId,
        windows: Span,
    ) -> Result<Vec<ExplainedWindow>, RateError> {
        let (terms, entity) = account_and_entity(self.catalog, account);
        let mut schedules = Schedules::default();
        let pooled = |account: &AccountId| {
            let (terms, _) = account_and_entity(self.catalog, account);
            let windows = self.windows_of(terms, &Affected { all: true, windows: BTreeSet::new() });
            PooledAccount {
                terms,
                windows: Cow::Owned(windows),
                issued: self.issued.of_account(account).collect(),
            }
        };
        let members = self.catalog.accounts_of_pool(self.catalog.pool_of(account));
        let pool: Vec<PooledAccount<'_>> = members.into_iter().map(pooled).collect();
        let _items = self.read_items(&pool)?;
        let (mut rated, mut explained) = (Vec::new(), BTreeMap::<Span, ExplainedWindow>::new());
        let failed = |status: RatingStatus| RatingFailure {
            account: account.clone(),
            subscription: None,
            price: None,
            window_from: None,
            status: status.to_string(),
        };
        let is_asked = |window: Span| windows.from <= window.from && window.from < windows.until;
        let covered = self.covered(&mut schedules, &pool, entity).map_err(failed)?;
        let of_pool =
            pool.iter().flat_map(|member| member.windows.iter().map(move |window| (member, window)));
        for (member, (subscription, window)) in of_pool {
            let window = *window;
            let charged = of_window(&member.issued, subscription, window);
            let of = RatedWindow { account: member.terms, subscription, window, covered: &covered };
            self.rate_window(&mut schedules, of, charged, &mut rated)?;
            if member.terms.id == *account && is_asked(window) {
                let prices = self.explain_prices(&mut schedules, of).map_err(failed)?;
                let whole =
                    explained.entry(window).or_insert_with(|| ExplainedWindow::new(window, terms.currency));
                whole.prices.extend(prices);
            }
        }
        let bill = self.pool_position(&pool, entity, true, &rated, covered).map_err(failed)?;
        for line in bill.into_iter().filter(|line| line.key.account == *account) {
            if is_asked(line.window) {
                // What is agreed may reach beyond all that is subscribed to.
                let nothing = || ExplainedWindow::new(line.window, terms.currency);
                explained.entry(line.window).or_insert_with(nothing).add(line);
            }
        }
        // Both passes over a window's prices find it.
        let set_aside: BTreeSet<SetAside> = self.set_aside.take().into_iter().collect();
        for waiting in set_aside.into_iter().filter(|waiting| waiting.account == *account) {
            let window = waiting.window;
            if is_asked(window) {
                let nothing = || ExplainedWindow::new(window, terms.currency);
                explained.entry(window).or_insert_with(nothing).set_aside.push(waiting);
            }
        }
        explained.values_mut().for_each(ExplainedWindow::complete);
        Ok(explained.into_values().filter(|window| !window.is_empty()).collect())
    }

    fn explain_prices(
        &self,
        schedules: &mut Schedules,
        RatedWindow { account, subscription, window, covered }: RatedWindow<'_>,
    ) -> Result<Vec<ExplainedPrice>, RatingStatus> {
        let active: Vec<ActiveSpan> = active_spans(self.catalog, subscription)
            .into_iter()
            .filter(|active| active.span.overlaps(window) && !active.is_trial)
            .collect();
        let plans: BTreeSet<_> = active.iter().map(|active| &active.plan).collect();
        let mut explained = Vec::new();
        let anchor = active.first().and_then(|active| active.anchor);
        let prices = plans.into_iter().flat_map(|plan| self.catalog.prices_of_plan(plan));
        let zone = &account.time_zone;
        for price in prices.filter(|price| window_of(price, anchor, zone, window.from) == window) {
            let charge = Charge { account, subscription, price, window, covered };
            let Some((counted, groups)) = self.groups(schedules, &charge, &active)? else { continue };
            let measures = measures_of(&groups);
            let elsewhere = elsewhere_of(price, &measures)?;
            for (index, (group, _)) in groups.iter().enumerate() {
                let terms = self.window_terms(&charge, &counted, group, elsewhere.get(index));
                let explanation = explain(&terms, &measures[index])?;
                explained.push(ExplainedPrice {
                    subscription: subscription.clone(),
                    price: price.id().clone(),
                    group: group.clone(),
                    explanation,
                });
            }
        }
        Ok(explained)
    }
}
