//! What sealed batches already charged, by line.
//!
//! Owns: the sum of issued lines per key, and the difference to a position. Leaves to others: the position (`cut`).
//!
//! Invariants: issued is the sum of all sealed lines of a key; after a batch is issued, position − issued is nothing.

use std::collections::{BTreeMap, BTreeSet};

use billing::charges::{ChargeLine, Component, LineKey};
use domain::{AccountId, Exact, ExactStatus, GroupTexts, Span, SubscriptionId, Timestamp};

/// What a line is worth, or what was charged for it so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worth {
    pub(crate) quantity: Exact,
    pub(crate) precise: Exact,
    pub(crate) rounded: i128,
    pub(crate) event_count: i64,
    pub(crate) event_digest: u128,
}

impl Worth {
    pub(crate) const NOTHING: Worth =
        Worth { quantity: Exact::ZERO, precise: Exact::ZERO, rounded: 0, event_count: 0, event_digest: 0 };
}

/// Everything that was issued.
#[derive(Default)]
pub(crate) struct Issued {
    lines: BTreeMap<LineKey, Worth>,
    /// Ends of the slices of draws, as they were when the draws were last charged.
    draw_ends: BTreeMap<LineKey, Timestamp>,
}

impl Issued {
    /// What was charged for the lines of a subscription in one window.
    pub(crate) fn of_window(
        &self,
        account: &AccountId,
        subscription: &SubscriptionId,
        window: Span,
    ) -> impl Iterator<Item = (&LineKey, &Worth)> {
        let low = lowest_key(account, Some(subscription.clone()), window);
        let prefix = low.clone();
        self.lines.range(low..).take_while(move |(key, _)| {
            (&key.account, &key.subscription, key.window)
                == (&prefix.account, &prefix.subscription, prefix.window)
        })
    }

    /// Windows, by subscription, of an account that were ever charged.
    pub(crate) fn windows_of(&self, account: &AccountId) -> BTreeSet<(SubscriptionId, Span)> {
        let lines = self.of_account(account);
        lines.filter_map(|(key, _)| Some((key.subscription.clone()?, key.window))).collect()
    }

    /// What was charged for the lines of an account.
    pub(crate) fn of_account(&self, account: &AccountId) -> impl Iterator<Item = (&LineKey, &Worth)> {
        let account = account.clone();
        let first = Timestamp::from_nanoseconds(i64::MIN);
        let low = lowest_key(&account, None, Span::new(first, first));
        self.lines.range(low..).take_while(move |(key, _)| key.account == account)
    }

    /// Everything that was charged, in key order.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&LineKey, &Worth)> {
        self.lines.iter()
    }

    /// What was charged for one line.
    pub(crate) fn worth_of(&self, key: &LineKey) -> Worth {
        self.lines.get(key).copied().unwrap_or(Worth::NOTHING)
    }

    /// Adds a sealed line.
    ///
    /// # Errors
    /// [`ExactStatus`] if a sum no longer fits; impossible for lines that were differences of positions that fit.
    pub(crate) fn issue(&mut self, line: &ChargeLine) -> Result<(), ExactStatus> {
        let key = line.key();
        if matches!(line.component, Component::Credit | Component::Covered) {
            self.draw_ends.insert(key.clone(), line.slice.until);
        }
        let worth = self.lines.entry(key).or_insert(Worth::NOTHING);
        worth.quantity = line.quantity_after;
        worth.precise = worth.precise.add(line.precise)?;
        worth.rounded = worth.rounded.checked_add(line.rounded_minor()).ok_or(ExactStatus::AmountMustFit)?;
        worth.event_count += line.event_count;
        worth.event_digest = line.event_digest.0;
        Ok(())
    }

    /// The first instant after the slice that a draw paid for, as that was when the draw was last charged.
    pub(crate) fn end_of_draw(&self, key: &LineKey) -> Timestamp {
        self.draw_ends.get(key).copied().unwrap_or(key.slice_from)
    }

    /// First instants of the slices that were ever charged of a subscription's windows.
    pub(crate) fn slices_of(
        &self,
        account: &AccountId,
    ) -> BTreeMap<(Option<SubscriptionId>, Span), BTreeSet<Timestamp>> {
        let mut slices: BTreeMap<_, BTreeSet<Timestamp>> = BTreeMap::new();
        for (key, _) in self.of_account(account) {
            let window = (key.subscription.clone(), key.window);
            slices.entry(window).or_default().insert(key.slice_from);
        }
        slices
    }

    /// Events that issued lines of a window of an account's subscriptions count, and the digest of their set. What is of no
    /// subscription counts none.
    pub(crate) fn completeness<'s>(
        &self,
        account: &AccountId,
        subscriptions: impl Iterator<Item = &'s SubscriptionId>,
        window: Span,
    ) -> (i64, u128) {
        let lines = subscriptions.flat_map(|subscription| self.of_window(account, subscription, window));
        lines.fold((0, 0u128), |(count, digest), (_, worth)| {
            (count + worth.event_count, digest.wrapping_add(worth.event_digest))
        })
    }

    /// Lines held.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }
}

/// A key below every line of an account, or of one of its subscriptions, from a window on.
fn lowest_key(account: &AccountId, subscription: Option<SubscriptionId>, window: Span) -> LineKey {
    LineKey {
        account: account.clone(),
        subscription,
        price: None,
        window,
        group: GroupTexts::NONE,
        slice_from: Timestamp::from_nanoseconds(i64::MIN),
        price_version: 0,
        component: Component::Charge,
        term: String::new(),
    }
}
