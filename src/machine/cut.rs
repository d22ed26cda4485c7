//! A cut: rates the accounts that changed or fell due, and makes a batch of what differs from what was issued.
//!
//! Owns: which windows are rated, the join of cells and terms, the difference to issued, finality and periods.
//! Leaves to others: what a window is worth (`billing::rating`), sealing and serving (`server`).
//!
//! Invariants:
//! - A batch is position − issued over the affected windows; a previous balance is never an input.
//! - Rating a window that did not change gives no line, so rating more windows than needed changes nothing.
//! - A charge that cannot be computed keeps its whole account out of the batch and is reported by name.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::{Account, Catalog, Entity, PricingModel};
use billing::charges::{ChargeLine, Corrects, LineKey, PostingClass};
use billing::rating::{ActiveTerm, Measure, PositionLine, RatingStatus, SliceMeasure, WindowTerms, position};
use domain::plan::MeteringPlan;
use domain::{AccountId, Exact, ExactStatus, MeterId, Period, PriceId, Span, SubscriptionId, Timestamp};
use engine::shard::cell::Fold;
use wire::control::{Cut, WindowFinal};

use crate::cells::{Cells, MergedCell};
use crate::due::DueIndex;
use crate::issued::{GroupTexts, Issued, Worth};
use crate::metering_plan::program_index;
use crate::owners::{ActiveSpan, Schedules, account_and_entity, active_spans, slice_of};

/// A charge that could not be computed: its account is not charged until its terms or usage change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RatingFailure {
    /// The account that stays out of the batch.
    pub account: AccountId,
    /// The subscription of the charge.
    pub subscription: SubscriptionId,
    /// The price of the charge.
    pub price: PriceId,
    /// First instant of the tier window.
    pub window_from: Timestamp,
    /// The broken rule.
    pub status: String,
}

/// What rating reads.
pub(crate) struct Rater<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) plan: &'a MeteringPlan,
    pub(crate) grace: i64,
    pub(crate) cells: &'a Cells,
    pub(crate) issued: &'a Issued,
    pub(crate) finals: &'a BTreeMap<(AccountId, Timestamp), u64>,
    pub(crate) final_until: &'a BTreeMap<AccountId, Timestamp>,
    pub(crate) cut: &'a Cut,
    pub(crate) batch: u64,
}

/// Which windows of an account are rated.
#[derive(Default)]
pub(crate) struct Affected {
    /// All windows: its terms changed.
    pub(crate) all: bool,
    /// First instants of single windows, by subscription.
    pub(crate) windows: BTreeSet<(SubscriptionId, Timestamp)>,
}

/// What a cut found.
pub(crate) struct CutOutcome {
    pub(crate) lines: Vec<ChargeLine>,
    pub(crate) window_finals: Vec<WindowFinal>,
    pub(crate) failures: Vec<RatingFailure>,
}

/// Accounts that have a changed cell, a changed term, or a due instant since the last cut.
pub(crate) fn affected_accounts(
    catalog: &Catalog,
    changed: &BTreeMap<domain::Subject, BTreeSet<(u32, Timestamp)>>,
    touched: &BTreeSet<AccountId>,
    due: &DueIndex,
    previous_at: Timestamp,
    cut: &Cut,
) -> BTreeMap<AccountId, Affected> {
    let mut affected: BTreeMap<AccountId, Affected> = BTreeMap::new();
    for (subject, cells) in changed {
        let Some(timeline) = catalog.subject(subject.as_str()) else { continue };
        for (_, slice_from) in cells {
            let Some(binding) = timeline.at(*slice_from) else { continue };
            let Some(subscription) = catalog.subscription(&binding.subscription) else { continue };
            let (account, _) = account_and_entity(catalog, subscription.account());
            let zone = &account.time_zone;
            let window = zone.month(zone.period_of(*slice_from));
            let windows = &mut affected.entry(account.id.clone()).or_default().windows;
            windows.insert((binding.subscription.clone(), window.from));
        }
    }
    for account in touched {
        affected.entry(account.clone()).or_default().all = true;
    }
    for account in due.due(cut.at) {
        let (terms, _) = account_and_entity(catalog, &account);
        let affected = affected.entry(account.clone()).or_default();
        let since = previous_at.max(Timestamp::MIN);
        let mut period = terms.time_zone.period_of(since);
        loop {
            let window = terms.time_zone.month(period);
            if window.from > cut.at {
                break;
            }
            for subscription in catalog.subscriptions_of_account(&account) {
                affected.windows.insert((subscription.id().clone(), window.from));
            }
            period = period.next();
        }
        // The window that ended at `since` itself.
        let before = terms.time_zone.month(terms.time_zone.period_of(since.plus(-1).max(Timestamp::MIN)));
        for subscription in catalog.subscriptions_of_account(&account) {
            affected.windows.insert((subscription.id().clone(), before.from));
        }
    }
    affected
}

impl Rater<'_> {
    /// Rates the affected windows and collects what differs from what was issued.
    pub(crate) fn rate(&self, affected: &BTreeMap<AccountId, Affected>) -> CutOutcome {
        let mut outcome = CutOutcome { lines: Vec::new(), window_finals: Vec::new(), failures: Vec::new() };
        let mut schedules = Schedules::default();
        for (account, affected) in affected {
            match self.rate_account(&mut schedules, account, affected) {
                Ok(rated) => {
                    outcome.window_finals.extend(self.new_finals(account, &rated));
                    outcome.lines.extend(rated);
                }
                Err(failure) => outcome.failures.push(failure),
            }
        }
        for (index, line) in outcome.lines.iter_mut().enumerate() {
            line.line = u32::try_from(index + 1).expect("a batch has fewer than 2^32 lines");
        }
        outcome
    }

    fn rate_account(
        &self,
        schedules: &mut Schedules,
        account: &AccountId,
        affected: &Affected,
    ) -> Result<Vec<ChargeLine>, RatingFailure> {
        let (terms, entity) = account_and_entity(self.catalog, account);
        let mut lines = Vec::new();
        for (subscription, window_from) in self.windows_of(terms, affected) {
            let window = terms.time_zone.month(terms.time_zone.period_of(window_from));
            assert_eq!(window.from, window_from, "tier windows are months of the account's zone");
            self.rate_window(schedules, terms, entity, &subscription, window, &mut lines)?;
        }
        Ok(lines)
    }

    fn windows_of(&self, account: &Account, affected: &Affected) -> BTreeSet<(SubscriptionId, Timestamp)> {
        let mut windows = affected.windows.clone();
        if !affected.all {
            return windows;
        }
        windows.extend(self.issued.windows_of(&account.id));
        for subscription in self.catalog.subscriptions_of_account(&account.id) {
            // Usage may run ahead of the cut as far as policy lets it; silence may not.
            let subjects = self.catalog.subjects_of_subscription(subscription.id());
            let used = subjects.filter_map(|subject| self.cells.last_slice_of(subject)).max();
            let last = used.map_or(self.cut.at, |used| used.max(self.cut.at));
            for active in active_spans(self.catalog, subscription.id()) {
                let end = active.span.until.min(last.plus(1));
                let mut period = account.time_zone.period_of(active.span.from);
                let mut window = account.time_zone.month(period);
                while window.from < end {
                    windows.insert((subscription.id().clone(), window.from));
                    period = period.next();
                    window = account.time_zone.month(period);
                }
            }
        }
        windows
    }

    fn rate_window(
        &self,
        schedules: &mut Schedules,
        account: &Account,
        entity: &Entity,
        subscription: &SubscriptionId,
        window: Span,
        lines: &mut Vec<ChargeLine>,
    ) -> Result<(), RatingFailure> {
        let active: Vec<ActiveSpan> = active_spans(self.catalog, subscription)
            .into_iter()
            .filter(|active| active.span.overlaps(window))
            .collect();
        let mut prices: BTreeSet<PriceId> =
            self.issued.prices_of(&account.id, subscription, window.from).into_iter().collect();
        for active in &active {
            prices.extend(self.catalog.prices_of_plan(&active.plan).map(|price| price.id().clone()));
        }
        for price in prices {
            let fail = |status: RatingStatus| RatingFailure {
                account: account.id.clone(),
                subscription: subscription.clone(),
                price: price.clone(),
                window_from: window.from,
                status: status.to_string(),
            };
            let charge = Charge { account, entity, subscription, price: &price, window };
            let positions = self.positions(schedules, &charge, &active).map_err(fail)?;
            self.difference(&charge, positions, lines).map_err(|status| fail(status.into()))?;
        }
        Ok(())
    }

    /// What one price is worth in one window, per group and slice.
    fn positions(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[ActiveSpan],
    ) -> Result<BTreeMap<LineKey, (Span, Worth)>, RatingStatus> {
        let timeline = self.catalog.price(charge.price).expect("prices are never removed");
        let under_plan: Vec<ActiveTerm> = active
            .iter()
            .filter(|active| active.plan == *timeline.plan())
            .map(|active| {
                let span = Span::new(
                    active.span.from.max(charge.window.from),
                    active.span.until.min(charge.window.until),
                );
                ActiveTerm { span, seats: active.seats }
            })
            .collect();
        let mut positions = BTreeMap::new();
        if under_plan.is_empty() {
            return Ok(positions);
        }
        let mut groups = self.measures(schedules, charge, active)?;
        if groups.is_empty() {
            // Nothing was used: what is owed for silence is one line without a group.
            groups.insert(GroupTexts::new(), Vec::new());
        }
        for (group, slices) in &groups {
            let terms = WindowTerms {
                price: timeline,
                window: charge.window,
                active: &under_plan,
                group,
                zone: &charge.account.time_zone,
                currency: charge.account.currency,
                as_of: self.cut.at,
            };
            let measures: Vec<SliceMeasure<'_>> = slices.iter().map(MergedSlice::measure).collect();
            for line in position(&terms, &measures)? {
                let key = charge.key(group, line.slice.from, line.price_version);
                let (slice, worth) = positions.entry(key).or_insert((line.slice, Worth::NOTHING));
                // A first tier's flat amount may share its key with the first slice: they are one line.
                slice.until = slice.until.max(line.slice.until);
                *worth = worth.plus(&worth_of(&line))?;
            }
        }
        Ok(positions)
    }

    /// The merged measures of a price's meters in a window: per group, one per slice of the subscription.
    ///
    /// Groups of a matrix that take the same row are one: each row counts its own units. Usage that a matrix sets aside
    /// is left out.
    fn measures(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[ActiveSpan],
    ) -> Result<BTreeMap<GroupTexts, Vec<MergedSlice>>, RatingStatus> {
        let timeline = self.catalog.price(charge.price).expect("prices are never removed");
        let meters: Vec<&MeterId> = timeline.meters().collect();
        let mut folds: BTreeMap<GroupTexts, BTreeMap<Timestamp, (Span, Vec<Fold>)>> = BTreeMap::new();
        for (index, meter) in meters.iter().enumerate() {
            let program = program_index(self.plan, meter).expect("every meter has a program");
            let names = &self.plan.programs[program as usize].group_by;
            for (slice, cell) in self.cells_of(schedules, charge, active, program) {
                let texts = names.iter().zip(cell.group.iter());
                let texts =
                    texts.filter_map(|(name, text)| Some((name.to_string(), text.as_ref()?.to_string())));
                // The dimensions of a capacity are counted together, whatever their groups.
                let group = if meters.len() > 1 { GroupTexts::new() } else { texts.collect() };
                let Some(group) = timeline.counted_group(slice.from, group)? else { continue };
                let slices = folds.entry(group).or_default();
                let nothing = || (slice, vec![Fold::default(); meters.len()]);
                slices.entry(slice.from).or_insert_with(nothing).1[index].merge(&cell.fold);
            }
        }
        let scales: Vec<u8> = meters
            .iter()
            .map(|meter| {
                let program = program_index(self.plan, meter).expect("every meter has a program");
                self.plan.programs[program as usize].scale
            })
            .collect();
        let mut measures = BTreeMap::new();
        for (group, slices) in folds {
            let mut list = Vec::with_capacity(slices.len());
            for (slice, folds) in slices.into_values() {
                let mut merged =
                    MergedSlice { slice, quantities: Vec::new(), event_count: 0, event_digest: 0 };
                for (fold, scale) in folds.iter().zip(&scales) {
                    let sum = fold.sum.value().ok_or(ExactStatus::AmountMustFit)?;
                    merged.quantities.push(Exact::new(sum, u32::from(*scale)));
                    merged.event_count += fold.count;
                    merged.event_digest = merged.event_digest.wrapping_add(fold.digest);
                }
                list.push(merged);
            }
            measures.insert(group, list);
        }
        Ok(measures)
    }

    /// The cells of a meter that belong to a subscription under the price's plan in a window, each with its slice.
    fn cells_of(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[ActiveSpan],
        program: u32,
    ) -> Vec<(Span, MergedCell<'_>)> {
        let timeline = self.catalog.price(charge.price).expect("prices are never removed");
        let mut found = Vec::new();
        for subject in self.catalog.subjects_of_subscription(charge.subscription) {
            let bindings =
                self.catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
            let cells = self.cells.of_subject(subject, program, charge.window.from, charge.window.until);
            for cell in cells {
                let is_ours = bindings
                    .at(cell.slice_from)
                    .is_some_and(|binding| binding.subscription == *charge.subscription);
                let Some(active) = active.iter().find(|active| active.span.contains(cell.slice_from)) else {
                    continue;
                };
                if is_ours && active.plan == *timeline.plan() {
                    let account = &charge.account.id;
                    let slice = slice_of(self.catalog, schedules, account, active, cell.slice_from);
                    found.push((slice, cell));
                }
            }
        }
        found
    }

    /// Position − issued, as lines.
    fn difference(
        &self,
        charge: &Charge<'_>,
        positions: BTreeMap<LineKey, (Span, Worth)>,
        lines: &mut Vec<ChargeLine>,
    ) -> Result<(), ExactStatus> {
        let issued: BTreeMap<&LineKey, &Worth> = self
            .issued
            .of_window(&charge.account.id, charge.subscription, charge.price, charge.window.from)
            .collect();
        let mut keys: BTreeSet<&LineKey> = positions.keys().collect();
        keys.extend(issued.keys().copied());
        for key in keys {
            let before = issued.get(key).copied().copied().unwrap_or(Worth::NOTHING);
            // A line that is worth nothing any more keeps the start of its slice; its end is no longer known.
            let (slice, after) = positions.get(key).copied().unwrap_or((
                Span::new(key.slice_from, charge.window.until.max(key.slice_from)),
                Worth::NOTHING,
            ));
            if after == before {
                continue;
            }
            lines.push(self.line(charge, key, slice, before, after)?);
        }
        Ok(())
    }

    fn line(
        &self,
        charge: &Charge<'_>,
        key: &LineKey,
        slice: Span,
        before: Worth,
        after: Worth,
    ) -> Result<ChargeLine, ExactStatus> {
        let timeline = self.catalog.price(charge.price).expect("prices are never removed");
        let original = period_of(charge, timeline.model(), key.slice_from);
        let final_batch = self.finals.get(&(charge.account.id.clone(), charge.window.from)).copied();
        let is_final = final_batch.is_some() || charge.window.until.plus(self.grace) <= self.cut.at;
        let currency = charge.account.currency;
        let period = self.open_period(charge.entity, original);
        let minor = after.rounded.checked_sub(before.rounded).ok_or(ExactStatus::AmountMustFit)?;
        Ok(ChargeLine {
            batch: self.batch,
            line: 0,
            account: charge.account.id.clone(),
            subscription: charge.subscription.clone(),
            price: charge.price.clone(),
            price_version: key.price_version,
            meter: timeline.meter().cloned(),
            group: key.group.clone(),
            window: charge.window,
            slice,
            quantity_before: before.quantity,
            quantity_after: after.quantity,
            precise: after.precise.subtract(before.precise)?,
            rounded: currency.format_minor(minor),
            currency,
            entity: charge.entity.id.clone(),
            period,
            posting_class: match timeline.model() {
                PricingModel::Flat => PostingClass::EarnedSubscription,
                _ => PostingClass::EarnedUsage,
            },
            // Names the original period wherever the line is not simply the next difference of an open one.
            corrects: (final_batch.is_some() || period != original)
                .then_some(Corrects { period: original, window_final_batch: final_batch }),
            is_final,
            event_count: after.event_count - before.event_count,
            event_digest: format!("{:032x}", after.event_digest),
        })
    }

    /// The first period from `period` on that is open at the cut: a period closes when its grace is over.
    fn open_period(&self, entity: &Entity, period: Period) -> Period {
        let mut open = period;
        while entity.time_zone.month(open).until.plus(self.grace) <= self.cut.at {
            open = open.next();
        }
        open
    }

    /// Windows of the account that are over, grace included, and were not final before.
    fn new_finals(&self, account: &AccountId, rated: &[ChargeLine]) -> Vec<WindowFinal> {
        let (terms, _) = account_and_entity(self.catalog, account);
        let zone = &terms.time_zone;
        let first = self
            .catalog
            .subscriptions_of_account(account)
            .flat_map(|subscription| active_spans(self.catalog, subscription.id()))
            .map(|active| active.span.from)
            .min();
        let Some(first) = first else { return Vec::new() };
        let last = self
            .catalog
            .subscriptions_of_account(account)
            .flat_map(|subscription| active_spans(self.catalog, subscription.id()))
            .map(|active| active.span.until)
            .max()
            .unwrap_or(first);
        // Final windows follow each other, so the next one starts where the last one ended; unless a subscription was
        // put that started before the first of them.
        let is_final = |from: Timestamp| self.finals.contains_key(&(account.clone(), from));
        let mut period = zone.period_of(first);
        let mut window = zone.month(period);
        if let Some(until) = self.final_until.get(account).filter(|_| is_final(window.from)) {
            period = zone.period_of(*until);
            window = zone.month(period);
        }
        let mut finals = Vec::new();
        while window.until.plus(self.grace) <= self.cut.at && window.from < last {
            if is_final(window.from) {
                period = period.next();
                window = zone.month(period);
                continue;
            }
            let (mut count, mut digest) = self.issued.completeness(account, window.from);
            for line in rated.iter().filter(|line| line.window.from == window.from) {
                let key = line.key();
                let before = self.issued.worth_of(&key);
                let after = u128::from_str_radix(&line.event_digest, 16).expect("digests are written as hex");
                count += line.event_count;
                digest = digest.wrapping_sub(before.event_digest).wrapping_add(after);
            }
            finals.push(WindowFinal {
                account: account.clone(),
                window,
                event_count: u64::try_from(count).expect("a window's count of events is not negative"),
                event_digest: format!("{digest:032x}"),
            });
            period = period.next();
            window = zone.month(period);
        }
        finals
    }
}

/// What all shards and subjects together used in a slice: one quantity for each meter of the price.
struct MergedSlice {
    slice: Span,
    quantities: Vec<Exact>,
    event_count: u64,
    event_digest: u128,
}

impl MergedSlice {
    fn measure(&self) -> SliceMeasure<'_> {
        let measure = match self.quantities.as_slice() {
            [quantity] => Measure::Scalar(*quantity),
            quantities => Measure::Dimensions(quantities),
        };
        let (event_count, event_digest) = (self.event_count, self.event_digest);
        SliceMeasure { slice: self.slice, measure, event_count, event_digest }
    }
}

/// One price of one subscription in one window.
struct Charge<'a> {
    account: &'a Account,
    entity: &'a Entity,
    subscription: &'a SubscriptionId,
    price: &'a PriceId,
    window: Span,
}

impl Charge<'_> {
    fn key(&self, group: &GroupTexts, slice_from: Timestamp, price_version: u32) -> LineKey {
        LineKey {
            account: self.account.id.clone(),
            subscription: self.subscription.clone(),
            price: self.price.clone(),
            window_from: self.window.from,
            group: group.clone(),
            slice_from,
            price_version,
        }
    }
}

/// The accounting period that a line belongs to, whether it is still worth something or not. A usage slice lies in one
/// period; a recurring fee's slice is its whole window and belongs to the period that its middle lies in.
fn period_of(charge: &Charge<'_>, model: PricingModel, slice_from: Timestamp) -> Period {
    let (from, until) = (charge.window.from.nanoseconds(), charge.window.until.nanoseconds());
    let instant = match model {
        PricingModel::Flat => Timestamp::from_nanoseconds(from + (until - from) / 2),
        _ => slice_from,
    };
    charge.entity.time_zone.period_of(instant)
}

fn worth_of(line: &PositionLine) -> Worth {
    Worth {
        quantity: line.quantity,
        precise: line.precise,
        rounded: line.rounded,
        event_count: i64::try_from(line.event_count).expect("fewer than 2^63 events"),
        event_digest: line.event_digest,
    }
}
