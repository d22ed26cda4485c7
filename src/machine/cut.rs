//! A cut: rates the accounts that changed or fell due, and makes a batch of what differs from what was issued.
//!
//! Owns: the join of cells and terms, the difference to issued, finality and periods.
//! Leaves to others: which windows are rated (`affected`), what one is worth (`billing::rating`), sealing (`server`).
//!
//! Invariants:
//! - A batch is position − issued over the affected windows; a previous balance is never an input.
//! - Rating a window that did not change gives no line, so rating more windows than needed changes nothing.
//! - A charge that cannot be computed keeps its whole account out of the batch and is reported by name.

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use billing::catalog::{
    Account, Belonging, Catalog, CreditGrant, Entity, GrantKind, Meter, PriceTimeline, PricingModel,
};
use billing::charges::{ChargeLine, Component, Corrects, EventDigest, LineKey, PostingClass};
use billing::rating::account::{
    AccountTerms, BillLine, CoveredUnits, FrozenDraw, RatedPrice, account_position, grant_of,
};
use billing::rating::models::{Flat, Model, Payment};
use billing::rating::{
    ActiveTerm, Elsewhere, Measure, PositionLine, RatingStatus, SliceMeasure, WindowTerms, elsewhere,
    position,
};
use domain::plan::MeteringPlan;
use domain::{AccountId, Exact, ExactStatus, GroupTexts, Period, PriceId, Span, SubscriptionId, Timestamp};
use engine::shard::cell::Group;
use engine::shard::kept::CellValue;
use engine::shard::spill::SpillError;
use smallvec::SmallVec;
use wire::control::{Cut, RatingFailure, WindowFinal};

use crate::affected::Affected;
use crate::cells::{Cells, MergedCell};
use crate::groups::{counted_texts, texts_of_group};
use crate::issued::{Issued, Worth};
use crate::measure::MeasureRule;
use crate::metering_plan::program_index;
use crate::owners::{ActiveSpan, Schedules, account_and_entity, active_spans_of, slice_of};
use crate::units::key_of_use;
use crate::windows::{grids_of_account, window_of};

/// Usage that fits no row of its matrix price and waits for a version that has one; the rest of its account is charged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetAside {
    /// The account.
    pub account: AccountId,
    /// The subscription that used.
    pub subscription: SubscriptionId,
    /// The price without a row for it.
    pub price: PriceId,
    /// The tier window.
    pub window: Span,
    /// Events that wait.
    pub event_count: u64,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, subscription, price, window, event_count } = self;
        let window_from = window.from;
        write!(
            f,
            "account {account}, subscription {subscription}, price {price}, window from {window_from}: {event_count} \
             events fit no row; put a version of the price with a row for them"
        )
    }
}

/// What rating reads.
pub(crate) struct Rater<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) plan: &'a MeteringPlan,
    pub(crate) cells: &'a Cells,
    pub(crate) issued: &'a Issued,
    pub(crate) finals: &'a BTreeMap<(AccountId, Span), u64>,
    pub(crate) cut: &'a Cut,
    /// Periods that ended by then were closed by an earlier cut.
    pub(crate) closed_through: Timestamp,
    /// Windows that ended by then are final: their grace is over, or was once.
    pub(crate) final_through: Timestamp,
    pub(crate) batch: u64,
    /// What was set aside of the windows that were rated.
    pub(crate) set_aside: RefCell<Vec<SetAside>>,
}

/// Why accounts cannot be rated.
#[derive(Debug, thiserror::Error)]
pub enum RateError {
    /// A charge cannot be computed.
    #[error("a charge cannot be computed: {0}")]
    Rating(RatingFailure),
    /// What was kept of single events cannot be read.
    #[error(transparent)]
    Items(#[from] SpillError),
}

impl From<RatingFailure> for RateError {
    fn from(failure: RatingFailure) -> Self {
        RateError::Rating(failure)
    }
}

/// What a cut found.
pub(crate) struct CutOutcome {
    pub(crate) lines: Vec<ChargeLine>,
    pub(crate) window_finals: Vec<WindowFinal>,
    pub(crate) failures: Vec<RatingFailure>,
    pub(crate) set_aside: Vec<SetAside>,
}

impl Rater<'_> {
    /// Rates the affected windows and collects what differs from what was issued.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(crate) fn rate(&self, affected: &BTreeMap<AccountId, Affected>) -> Result<CutOutcome, SpillError> {
        let mut outcome = CutOutcome {
            lines: Vec::new(),
            window_finals: Vec::new(),
            failures: Vec::new(),
            set_aside: Vec::new(),
        };
        let mut schedules = Schedules::default();
        // Accounts of a pool are rated together, with those of it that did not change; each keeps its place in the batch.
        let mut pools: Vec<&AccountId> =
            affected.keys().map(|account| self.catalog.pool_of(account)).collect();
        pools.sort_unstable();
        pools.dedup();
        let untouched = Affected::default();
        for pool in pools {
            let member_of = |account| {
                let terms = self.catalog.account(account).expect("a pool has accounts of the catalog");
                Member { terms, affected: affected.get(account).unwrap_or(&untouched) }
            };
            let members: Vec<Member<'_>> =
                self.catalog.accounts_of_pool(pool).into_iter().map(member_of).collect();
            let before = outcome.lines.len();
            match self.rate_pool(&mut schedules, &members, &mut outcome.lines) {
                Ok(counts) => {
                    let mut from = before;
                    for (member, count) in members.iter().zip(counts) {
                        let lines = &outcome.lines[from..from + count];
                        outcome.window_finals.extend(self.new_finals(member.terms, member.affected, lines));
                        from += count;
                    }
                }
                Err(RateError::Items(error)) => return Err(error),
                Err(RateError::Rating(failure)) => {
                    outcome.lines.truncate(before);
                    outcome.failures.extend(failures_of(&members, &failure));
                }
            }
        }
        // In order but for the accounts of a pool, which stand where their parent does; those of one account are in order.
        outcome.lines.sort_by(|a, b| a.account.cmp(&b.account));
        outcome.window_finals.sort_by(|a, b| a.account.cmp(&b.account));
        outcome.failures.sort_by(|a, b| a.account.cmp(&b.account));
        for (index, line) in outcome.lines.iter_mut().enumerate() {
            line.line = u32::try_from(index + 1).expect("a batch has fewer than 2^32 lines");
        }
        outcome.set_aside = self.set_aside.take();
        Ok(outcome)
    }

    /// Rates the accounts of a pool and adds their lines; how many each has.
    fn rate_pool<'m>(
        &'m self,
        schedules: &mut Schedules,
        members: &[Member<'m>],
        lines: &mut Vec<ChargeLine>,
    ) -> Result<Vec<usize>, RateError> {
        // Commitments and grants tie the windows of an account together, a parent those of its accounts.
        let first = &members[0].terms.id;
        let has_agreements = members.len() > 1
            || self.catalog.commitments_of_account(first).next().is_some()
            || self.catalog.grants_of_account(first).next().is_some();
        let pooled = |Member { terms, affected }: &Member<'m>| {
            let account = &terms.id;
            let has_discounts = self.catalog.discounts_of_account(account).next().is_some();
            // Other windows share no bounds with months: a discount may tie all of them together.
            let has_ties = has_discounts && !self.catalog.has_only_months(account, &terms.time_zone);
            let is_whole = affected.all || has_agreements || has_ties;
            let windows = match (is_whole, has_discounts) {
                (true, _) => Cow::Owned(self.windows_of(terms, affected)),
                (false, true) => Cow::Owned(self.months_of(account, &affected.windows)),
                (false, false) => Cow::Borrowed(&affected.windows),
            };
            let issued = self.issued_of(account, &windows, is_whole);
            PooledAccount { terms, windows, issued }
        };
        let pool: Vec<PooledAccount<'_>> = members.iter().map(pooled).collect();
        let _items = self.read_items(&pool)?;
        let (_, entity) = account_and_entity(self.catalog, first);
        let of_account = |account: &AccountId, status: RatingStatus| RatingFailure {
            account: account.clone(),
            subscription: None,
            price: None,
            window_from: None,
            status: status.to_string(),
        };
        let of_pool = |status| of_account(self.catalog.pool_of(first), status);
        let covered = self.covered(schedules, &pool, entity).map_err(of_pool)?;
        let mut prices = Vec::new();
        for PooledAccount { terms, windows, issued } in &pool {
            for (subscription, window) in windows.iter() {
                let window = *window;
                let issued = of_window(issued, subscription, window);
                let window = RatedWindow { account: terms, subscription, window, covered: &covered };
                self.rate_window(schedules, window, issued, &mut prices)?;
            }
        }
        let bill = self.pool_position(&pool, entity, has_agreements, &prices, covered).map_err(of_pool)?;
        let mut counts = Vec::with_capacity(pool.len());
        for PooledAccount { terms, issued, .. } in &pool {
            let from = bill.partition_point(|line| line.key.account < terms.id);
            let count = bill[from..].partition_point(|line| line.key.account == terms.id);
            let before = lines.len();
            self.difference(terms, entity, &bill[from..from + count], issued, lines)
                .map_err(|status| of_account(&terms.id, status.into()))?;
            counts.push(lines.len() - before);
        }
        Ok(counts)
    }

    /// The credit grants of a pool, each with its place in the order of creation.
    pub(crate) fn grants_of_pool(&self, pool: &[PooledAccount<'_>]) -> Vec<(u64, &CreditGrant)> {
        pool.iter().flat_map(|member| self.catalog.grants_of_account(&member.terms.id)).collect()
    }

    /// What was charged for an account, or for some of its windows, in order of keys.
    fn issued_of(
        &self,
        account: &AccountId,
        windows: &BTreeSet<(SubscriptionId, Span)>,
        is_whole: bool,
    ) -> Vec<(&LineKey, &Worth)> {
        if is_whole {
            return self.issued.of_account(account).collect();
        }
        let mut issued = Vec::new();
        for (subscription, window) in windows {
            issued.extend(self.issued.of_window(account, subscription, *window));
        }
        issued
    }

    /// What the windows of a pool's accounts are worth: prices, and what is agreed around them.
    pub(crate) fn pool_position(
        &self,
        pool: &[PooledAccount<'_>],
        entity: &Entity,
        has_agreements: bool,
        prices: &[RatedPrice<'_>],
        covered: CoveredUnits,
    ) -> Result<Vec<BillLine>, RatingStatus> {
        let subscription_at = |id: &SubscriptionId, at| self.catalog.subscription(id)?.at(at);
        let price = |id: &PriceId| self.catalog.price(id);
        let is_closed = |key: &LineKey| {
            let original = original_period(self.catalog, entity, key);
            self.open_period(entity, original) != original
        };
        let account = pool[0].terms;
        let zone = &account.time_zone;
        let frozen_draws = if has_agreements {
            let frozen_of = |member: &PooledAccount<'_>| {
                let closed: Vec<(&LineKey, &Worth)> = self
                    .issued
                    .of_account(&member.terms.id)
                    .filter(|(key, _)| key.component == Component::Credit)
                    .filter(|(key, _)| is_closed(key))
                    .collect();
                let ends = self.ends_of_draws(&member.terms.id, closed.iter().map(|(key, _)| *key));
                let frozen = closed.into_iter().zip(ends).map(|((key, worth), until)| FrozenDraw {
                    key: key.clone(),
                    until,
                    amount: -worth.rounded,
                });
                frozen.collect::<Vec<_>>()
            };
            pool.iter().flat_map(frozen_of).collect()
        } else {
            Vec::new()
        };
        let commitments =
            pool.iter().flat_map(|member| self.catalog.commitments_of_account(&member.terms.id));
        let discounts = pool.iter().flat_map(|member| self.catalog.discounts_of_account(&member.terms.id));
        let terms = AccountTerms {
            pool: self.catalog.pool_of(&account.id),
            currency: account.currency,
            zone,
            subscription_at: &subscription_at,
            commitments: commitments.collect(),
            price: &price,
            discounts: discounts.collect(),
            grants: self.grants_of_pool(pool),
            frozen_draws,
            is_final: &|window| window.until <= self.final_through,
            as_of: self.cut.at,
        };
        let mut bill = account_position(&terms, prices)?;
        if !covered.is_empty() {
            bill.extend(covered.lines);
            bill.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(bill)
    }

    pub(crate) fn rate_window<'c>(
        &'c self,
        schedules: &mut Schedules,
        RatedWindow { account, subscription, window, covered }: RatedWindow<'_>,
        issued: &[(&LineKey, &Worth)],
        rated: &mut Vec<RatedPrice<'c>>,
    ) -> Result<(), RatingFailure> {
        let timeline = self.catalog.subscription(subscription);
        let timeline = timeline.expect("a window belongs to a subscription of the catalog");
        let subscription = timeline.id();
        let active: Vec<ActiveSpan> = active_spans_of(timeline)
            .into_iter()
            .filter(|active| active.span.overlaps(window) && !active.is_trial)
            .collect();
        // Prices that were charged here, and those of the plans that are active here.
        let charged = issued.iter().filter_map(|(key, _)| key.price.as_ref());
        let charged = charged.map(|id| self.catalog.price(id).expect("prices are never removed"));
        let of_plans = active.iter().flat_map(|active| self.catalog.prices_of_plan(&active.plan));
        let zone = &account.time_zone;
        let mut prices: Vec<&PriceTimeline> = charged
            .chain(of_plans)
            .filter(|price| window_of(price, timeline.anchor(), zone, window.from) == window)
            .collect();
        prices.sort_by(|a, b| a.id().cmp(b.id()));
        prices.dedup_by(|a, b| a.id() == b.id());
        for price in prices {
            let charge = Charge { account, subscription, price, window, covered };
            let position =
                self.price_position(schedules, &charge, &active).map_err(|status| RatingFailure {
                    account: account.id.clone(),
                    subscription: Some(subscription.clone()),
                    price: Some(price.id().clone()),
                    window_from: Some(window.from),
                    status: status.to_string(),
                })?;
            rated.extend(position.map(|(active, lines)| RatedPrice {
                account: timeline.account(),
                subscription,
                price,
                window,
                active,
                lines,
            }));
        }
        Ok(())
    }

    /// Where a price's plan is active in a window, and its position there, per group; `None` where it is not active.
    fn price_position(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[ActiveSpan],
    ) -> Result<Option<(Vec<Span>, GroupLines)>, RatingStatus> {
        let Some((counted, groups)) = self.groups(schedules, charge, active)? else { return Ok(None) };
        let mut lines = Vec::new();
        let measures = measures_of(&groups);
        let elsewhere = elsewhere_of(charge.price, &measures)?;
        for (index, (group, _)) in groups.iter().enumerate() {
            let terms = self.window_terms(charge, &counted, group, elsewhere.get(index));
            let position = position(&terms, &measures[index])?;
            lines.extend(position.into_iter().map(|line| (group.clone(), line)));
        }
        Ok(Some((counted.active.iter().map(|term| term.span).collect(), lines)))
    }

    pub(crate) fn window_terms<'t>(
        &'t self,
        charge: &Charge<'t>,
        counted: &'t Counted<'_>,
        group: &'t GroupTexts,
        elsewhere: Option<&'t Elsewhere>,
    ) -> WindowTerms<'t> {
        WindowTerms {
            price: charge.price,
            window: charge.window,
            active: &counted.active,
            is_continued: counted.is_continued,
            group,
            zone: &charge.account.time_zone,
            currency: charge.account.currency,
            as_of: self.cut.at,
            elsewhere,
        }
    }

    /// Where a price counts in a window, and what was used there, per group; `None` where its plan is not active.
    pub(crate) fn groups<'s>(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &'s [ActiveSpan],
    ) -> Result<Option<(Counted<'s>, Groups)>, RatingStatus> {
        let Some(counted) = self.counted(charge, active) else { return Ok(None) };
        let mut groups = self.measures(schedules, charge, &counted)?;
        if groups.is_empty() {
            // Nothing was used: what is owed for silence is one line without a group.
            groups.push((GroupTexts::NONE, Vec::new()));
        }
        Ok(Some((counted, groups)))
    }

    /// Where a price counts in a window; `None` where its plan is not active.
    fn counted<'s>(&self, charge: &Charge<'_>, active: &'s [ActiveSpan]) -> Option<Counted<'s>> {
        let (price, window) = (charge.price, charge.window);
        let inside = |span: Span| Span::new(span.from.max(window.from), span.until.min(window.until));
        let is_own = |span: &ActiveSpan| span.plan == *price.plan();
        let counts = |span: &&ActiveSpan| {
            is_own(span) || self.catalog.goes_on_from(price, &span.plan, inside(span.span))
        };
        let spans: Vec<&ActiveSpan> = active.iter().filter(counts).collect();
        let own = spans.iter().filter(|span| is_own(span));
        let own: Vec<ActiveTerm> =
            own.map(|own| ActiveTerm { span: inside(own.span), seats: own.seats }).collect();
        let is_continued = !is_own(spans.first()?);
        (!own.is_empty()).then_some(Counted { active: own, spans, is_continued })
    }

    /// The merged measures of a price's meters in a window: per group, one per slice of the subscription.
    ///
    /// Groups of a matrix that take the same row are one: each row counts its own units. Usage that a matrix sets aside
    /// is left out, and said; that of another plan, which only counts, is left out where the price knows no row for it.
    fn measures(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        counted: &Counted<'_>,
    ) -> Result<Groups, RatingStatus> {
        let timeline = charge.price;
        let meters = self.priced_meters(timeline);
        let mut set_aside = 0;
        let mut used: Vec<MeterUse> = Vec::new();
        let may_be_covered = !charge.covered.is_empty() && timeline.model() != PricingModel::Capacity;
        for (index, meter) in meters.iter().enumerate() {
            let cells = self.cells_of(schedules, charge, &counted.spans, meter.program);
            let has_many = cells.len() as u64 > meter.terms.groups_max();
            let different: BTreeSet<&Group> =
                cells.iter().filter(|_| has_many).map(|(_, cell)| cell.group).collect();
            used.reserve(cells.len());
            for (slice, cell) in cells {
                let group = match counted_group(timeline, counted.row_slice(slice), meter, cell.group) {
                    Ok(Some(group)) => group,
                    _ if !counted.charges(slice) => continue,
                    Ok(None) => {
                        set_aside += cell.value.fold.count;
                        continue;
                    }
                    Err(status) => return Err(status),
                };
                let own = may_be_covered.then(|| texts_of(meter, cell.group));
                used.push(MeterUse {
                    group,
                    slice,
                    meter: index,
                    own,
                    value: cell.value,
                    weighted: Exact::ZERO,
                });
            }
            if different.len() as u64 > meter.terms.groups_max() {
                return Err(RatingStatus::GroupsMustFit);
            }
            if meter.rule.aggregation.is_carried() {
                for (slice, group, level) in self.levels_of(schedules, charge, &counted.spans, meter)? {
                    let group = match counted_group(timeline, counted.row_slice(slice), meter, group) {
                        Ok(Some(group)) => group,
                        Err(status) if counted.charges(slice) => return Err(status),
                        Ok(None) | Err(_) => continue,
                    };
                    let value = CellValue::default();
                    used.push(MeterUse { group, slice, meter: index, own: None, value, weighted: level });
                }
            }
        }
        if set_aside > 0 {
            self.set_aside.borrow_mut().push(SetAside {
                account: charge.account.id.clone(),
                subscription: charge.subscription.clone(),
                price: timeline.id().clone(),
                window: charge.window,
                event_count: set_aside,
            });
        }
        used.sort_by(|a, b| (&a.group, a.slice.from).cmp(&(&b.group, b.slice.from)));
        let merged_of = |of_group: &[MeterUse]| {
            let of_slices = of_group.chunk_by(|a, b| a.slice.from == b.slice.from);
            let slices: Result<Vec<SliceUse>, ExactStatus> =
                of_slices.map(|uses| SliceUse::of(uses, meters.len())).collect();
            let slices = slices?;
            let mut merged = merged_slices(timeline, charge.window, &meters, &slices)?;
            for (merged, slice) in merged.iter_mut().zip(slices) {
                for group in slice.groups {
                    let key = key_of_use(charge, group, slice.slice.from);
                    merged.cover(charge.covered.of(&meters[0].terms.id, &key))?;
                }
            }
            Ok((of_group[0].group.clone(), merged))
        };
        used.chunk_by(|a, b| a.group == b.group).map(merged_of).collect()
    }

    /// The meters of a price, as the plan executes them.
    pub(crate) fn priced_meters(&self, price: &PriceTimeline) -> Vec<PricedMeter<'_>> {
        let meters = price.meters().map(|id| {
            let program = program_index(self.plan, id).expect("every meter has a program");
            let names = &self.plan.programs[program as usize];
            let rule = MeasureRule { aggregation: names.aggregation, scale: names.scale };
            let terms = self.catalog.meter(id).expect("the catalog refuses prices of unknown meters");
            PricedMeter { program, group_by: &names.group_by, rule, terms }
        });
        meters.collect()
    }

    /// The cells of a meter that belong to a subscription in a window where it is active, each with its slice.
    pub(crate) fn cells_of(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[&ActiveSpan],
        program: u32,
    ) -> Vec<(Span, MergedCell<'_>)> {
        let mut found = Vec::new();
        for subject in self.catalog.subjects_of_subscription(charge.subscription) {
            let bindings =
                self.catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
            let cells = self.cells.of_subject(subject, program, charge.window.from, charge.window.until);
            let mut slice_from = |instant: Timestamp| {
                let binding = bindings.at(instant)?;
                let active = active.iter().find(|active| active.span.contains(instant))?;
                let is_ours = binding.subscription == *charge.subscription;
                is_ours.then(|| slice_of(self.catalog, schedules, &charge.account.id, active, instant))
            };
            // Cells come slice by slice.
            let mut last: Option<(Timestamp, Option<Span>)> = None;
            for cell in cells {
                let known = last.filter(|(from, _)| *from == cell.slice_from);
                let (_, slice) = known.unwrap_or_else(|| (cell.slice_from, slice_from(cell.slice_from)));
                last = Some((cell.slice_from, slice));
                found.extend(slice.map(|slice| (slice, cell)));
            }
        }
        found
    }

    /// Adds position − issued, as lines.
    fn difference(
        &self,
        account: &Account,
        entity: &Entity,
        bill: &[BillLine],
        issued: &[(&LineKey, &Worth)],
        lines: &mut Vec<ChargeLine>,
    ) -> Result<(), ExactStatus> {
        // Both are in order of keys.
        let (mut positions, mut issued) = (bill.iter().peekable(), issued.iter().peekable());
        loop {
            let (key, order) = match (positions.peek(), issued.peek()) {
                (Some(position), Some((key, _))) => {
                    let order = position.key.cmp(key);
                    (if order.is_gt() { *key } else { &position.key }, order)
                }
                (Some(position), None) => (&position.key, Ordering::Less),
                (None, Some((key, _))) => (*key, Ordering::Greater),
                (None, None) => return Ok(()),
            };
            let position = positions.next_if(|_| order.is_le());
            let before = issued.next_if(|_| order.is_ge()).map_or(Worth::NOTHING, |(_, worth)| **worth);
            let after = position.map_or(Worth::NOTHING, worth_of);
            if after != before {
                // A line that is worth nothing any more keeps the start of its slice; its end is no longer known.
                let unknown = Span::new(key.slice_from, key.window.until.max(key.slice_from));
                let slice = position.map_or(unknown, |line| line.slice);
                lines.push(self.line(account, entity, key, slice, before, after)?);
            }
        }
    }

    fn line(
        &self,
        account: &Account,
        entity: &Entity,
        key: &LineKey,
        slice: Span,
        before: Worth,
        after: Worth,
    ) -> Result<ChargeLine, ExactStatus> {
        let window = key.window;
        let price = key.price.as_ref().and_then(|price| self.catalog.price(price));
        let original = Belonging::of(key, price).period(&entity.time_zone, &account.time_zone);
        // Only an earlier cut can have made it final.
        let was_over = window.until <= self.closed_through;
        let final_batch = if was_over { self.finals.get(&(account.id.clone(), window)) } else { None };
        let final_batch = final_batch.copied();
        let is_final = final_batch.is_some() || window.until <= self.final_through;
        let currency = account.currency;
        let period = self.open_period(entity, original);
        let minor = after.rounded.checked_sub(before.rounded).ok_or(ExactStatus::AmountMustFit)?;
        let meter = match key.component {
            Component::Charge => price.and_then(|price| price.meter().cloned()),
            Component::Covered => {
                self.catalog.grant(grant_of(&key.term)).and_then(|grant| grant.meter.clone())
            }
            _ => None,
        };
        Ok(ChargeLine {
            batch: self.batch,
            line: 0,
            account: account.id.clone(),
            subscription: key.subscription.clone(),
            price: key.price.clone(),
            price_version: key.price_version,
            component: key.component,
            term: key.term.clone(),
            meter,
            group: key.group.clone(),
            window,
            slice,
            quantity_before: before.quantity,
            quantity_after: after.quantity,
            precise: after.precise.subtract(before.precise)?,
            rounded: currency.amount(minor),
            currency,
            entity: entity.id.clone(),
            period,
            posting_class: self.posting_class(key, price),
            // Names the original period wherever the line is not simply the next difference of an open one.
            corrects: (final_batch.is_some() || period != original)
                .then_some(Corrects { period: original, window_final_batch: final_batch }),
            is_final,
            event_count: after.event_count - before.event_count,
            event_digest: EventDigest(after.event_digest),
        })
    }

    /// What a line is to the books. A function of its key: a line that is worth nothing any more keeps its class.
    fn posting_class(&self, key: &LineKey, price: Option<&PriceTimeline>) -> PostingClass {
        match key.component {
            Component::Minimum | Component::TrueUp => PostingClass::TrueUp,
            Component::Drawdown => PostingClass::PrepaidDraw,
            Component::Credit | Component::Covered => {
                match self.catalog.grant(grant_of(&key.term)).map(|grant| grant.kind) {
                    Some(GrantKind::Promotional) => PostingClass::Promotional,
                    Some(GrantKind::Paid) | None => PostingClass::PrepaidDraw,
                }
            }
            Component::Charge | Component::Discount | Component::Maximum | Component::Overage => {
                let Some(price) = price.filter(|price| price.model() == PricingModel::Flat) else {
                    return PostingClass::EarnedUsage;
                };
                match price.versions().iter().find(|v| v.version == key.price_version).map(|v| &v.terms.model)
                {
                    Some(Model::Flat(Flat { payment: Payment::InAdvance, .. })) => PostingClass::Deferred,
                    _ => PostingClass::EarnedSubscription,
                }
            }
        }
    }

    /// The first period from `period` on that is open: the first cut after a period's grace is the last to post to it, so
    /// that what becomes due when a window is final still belongs to its own period.
    pub(crate) fn open_period(&self, entity: &Entity, period: Period) -> Period {
        let mut open = period;
        while entity.time_zone.month(open).until <= self.closed_through {
            open = open.next();
        }
        open
    }

    /// Windows of the account that are over, grace included, and were not final before.
    fn new_finals(&self, terms: &Account, affected: &Affected, rated: &[ChargeLine]) -> Vec<WindowFinal> {
        let account = &terms.id;
        // The cut before saw to what had ended by then, unless the account was touched since.
        let seen = if affected.all { Timestamp::MIN } else { self.closed_through.max(Timestamp::MIN) };
        let mut ended: BTreeSet<Span> = BTreeSet::new();
        for (grid, life) in grids_of_account(self.catalog, account) {
            let since = Span::new(life.from.max(grid.window_of(seen).from), life.until);
            ended.extend(grid.windows_in(since).take_while(|window| window.until <= self.final_through));
        }
        let is_new = |window: &Span| !self.finals.contains_key(&(account.clone(), *window));
        let mut finals = Vec::new();
        for window in ended.into_iter().filter(is_new) {
            let subscriptions = self.catalog.subscriptions_of_account(account);
            let subscriptions = subscriptions.map(|subscription| subscription.id());
            let (mut count, mut digest) = self.issued.completeness(account, subscriptions, window);
            for line in rated.iter().filter(|line| line.window == window) {
                let key = line.key();
                let before = self.issued.worth_of(&key);
                count += line.event_count;
                digest = digest.wrapping_sub(before.event_digest).wrapping_add(line.event_digest.0);
            }
            finals.push(WindowFinal {
                account: account.clone(),
                window,
                event_count: u64::try_from(count).expect("a window's count of events is not negative"),
                event_digest: format!("{digest:032x}"),
            });
        }
        finals
    }
}

/// The lines of one window among those of an account, in order of keys.
pub(crate) fn of_window<'l, 'k>(
    issued: &'l [(&'k LineKey, &'k Worth)],
    subscription: &SubscriptionId,
    window: Span,
) -> &'l [(&'k LineKey, &'k Worth)] {
    let window = (Some(subscription), window);
    let of = |key: &'k LineKey| (key.subscription.as_ref(), key.window);
    let from = issued.partition_point(|(key, _)| of(key) < window);
    let after = issued[from..].partition_point(|(key, _)| of(key) == window);
    &issued[from..from + after]
}

/// Lines of a position, each with its group.
type GroupLines = Vec<(GroupTexts, PositionLine)>;

/// Where a price counts what a subscription uses in a window.
pub(crate) struct Counted<'a> {
    /// Where the subscription is active under the price's plan: what is used there is charged.
    pub(crate) active: Vec<ActiveTerm>,
    /// That, and where it is active under other plans from whose prices this one goes on counting.
    spans: Vec<&'a ActiveSpan>,
    /// Whether the first of them is of another plan.
    is_continued: bool,
}

impl Counted<'_> {
    /// Whether what is used in a slice is charged.
    fn charges(&self, slice: Span) -> bool {
        self.active.len() == self.spans.len() || self.active.iter().any(|term| term.span.contains(slice.from))
    }

    /// The slice whose version says in which row what is used in a slice counts: itself, or where another plan is active the last
    /// instant before that is charged, or the first one after it.
    fn row_slice(&self, slice: Span) -> Span {
        if self.charges(slice) {
            return slice;
        }
        let before = self.active.iter().rev().find(|term| term.span.until <= slice.from);
        let at = before.map_or(self.active[0].span.from, |term| term.span.until.plus(-1));
        Span::new(at, at)
    }
}

/// What was used in a window, per group in their order, one slice after the other.
pub(crate) type Groups = Vec<(GroupTexts, Vec<MergedSlice>)>;

/// What rating takes of each group.
pub(crate) fn measures_of(groups: &Groups) -> Vec<Vec<SliceMeasure<'_>>> {
    groups.iter().map(|(_, slices)| slices.iter().map(MergedSlice::measure).collect()).collect()
}

/// For each group of a price, what the others count; nothing where each counts by itself.
pub(crate) fn elsewhere_of(
    price: &PriceTimeline,
    measures: &[Vec<SliceMeasure<'_>>],
) -> Result<Vec<Elsewhere>, RatingStatus> {
    if price.counts_groups_together() { Ok(elsewhere(measures)?) } else { Ok(Vec::new()) }
}

/// A meter of a price.
pub(crate) struct PricedMeter<'a> {
    /// Index of its program.
    pub(crate) program: u32,
    group_by: &'a [Arc<str>],
    /// How its cells become a quantity.
    pub(crate) rule: MeasureRule,
    /// What the catalog says of it.
    pub(crate) terms: &'a Meter,
}

/// What one subject used of one of a price's meters in a slice.
struct MeterUse {
    /// The group of the price that it counts in.
    group: GroupTexts,
    slice: Span,
    /// Which of the price's meters.
    meter: usize,
    /// The group of the meter, where grants in units may cover it.
    own: Option<GroupTexts>,
    /// The cells of all shards.
    value: CellValue,
    /// What levels add to the weighted sum of the window.
    weighted: Exact,
}

/// What was used of a group of a price in a slice, before it is a quantity for each meter.
struct SliceUse {
    slice: Span,
    /// The cells of all subjects, and their weighted sum.
    meters: SmallVec<[(CellValue, Exact); 1]>,
    /// The meter's groups that were used, where grants in units may cover them.
    groups: BTreeSet<GroupTexts>,
}

impl SliceUse {
    /// Of one slice.
    fn of(uses: &[MeterUse], meter_count: usize) -> Result<Self, ExactStatus> {
        let mut meters = SmallVec::from_elem((CellValue::default(), Exact::ZERO), meter_count);
        let mut groups = BTreeSet::new();
        for used in uses {
            let (value, weighted): &mut (CellValue, Exact) = &mut meters[used.meter];
            value.merge(&used.value);
            *weighted = weighted.add(used.weighted)?;
            groups.extend(used.own.clone());
        }
        Ok(Self { slice: uses[0].slice, meters, groups })
    }
}

/// The group of a price that a meter's group counts in; `None` if it is set aside.
pub(crate) fn counted_group(
    price: &PriceTimeline,
    slice: Span,
    meter: &PricedMeter<'_>,
    group: &Group,
) -> Result<Option<GroupTexts>, RatingStatus> {
    counted_texts(price, slice, || texts_of_group(meter.group_by, group))
}

/// The texts of a meter's group.
pub(crate) fn texts_of(meter: &PricedMeter<'_>, group: &Group) -> GroupTexts {
    texts_of_group(meter.group_by, group)
}

/// The quantities of a group's slices, in order of time.
fn merged_slices(
    price: &PriceTimeline,
    window: Span,
    meters: &[PricedMeter<'_>],
    slices: &[SliceUse],
) -> Result<Vec<MergedSlice>, RatingStatus> {
    let nothing = |slice: &SliceUse| MergedSlice {
        slice: slice.slice,
        quantities: SmallVec::new(),
        covered: Exact::ZERO,
        events: None,
        event_count: 0,
        event_digest: 0,
    };
    let mut merged: Vec<MergedSlice> = slices.iter().map(nothing).collect();
    for (index, meter) in meters.iter().enumerate() {
        let values = || slices.iter().map(|slice| (slice.slice, &slice.meters[index].0));
        meter.check_kept(values().map(|(_, value)| value))?;
        let quantities = match meter.rule.aggregation.is_carried() {
            true => slices.iter().map(|slice| slice.meters[index].1).collect(),
            false => meter.rule.quantities(window.from, values())?,
        };
        for ((merged, quantity), (_, value)) in merged.iter_mut().zip(quantities).zip(values()) {
            merged.quantities.push(quantity);
            if price.model() == PricingModel::Percentage {
                merged.events = Some(meter.rule.values(value));
            }
            merged.event_count += value.fold.count;
            merged.event_digest = merged.event_digest.wrapping_add(value.fold.digest);
        }
    }
    Ok(merged)
}

impl PricedMeter<'_> {
    /// Refuses to measure more events or keys one by one than the meter says.
    pub(crate) fn check_kept<'v>(
        &self,
        values: impl Iterator<Item = &'v CellValue>,
    ) -> Result<(), RatingStatus> {
        let kept = self.rule.kept_count(values);
        if kept > self.terms.kept_max() { Err(RatingStatus::KeptMustFit) } else { Ok(()) }
    }
}

/// What all shards and subjects together used in a slice: one quantity for each meter of the price.
pub(crate) struct MergedSlice {
    slice: Span,
    quantities: SmallVec<[Exact; 1]>,
    /// Units that grants cover, and that are no longer in the quantity.
    covered: Exact,
    /// The values of single events, if the price prices them one by one.
    events: Option<Vec<Exact>>,
    event_count: u64,
    event_digest: u128,
}

impl MergedSlice {
    /// Takes covered units off what is priced.
    fn cover(&mut self, units: Exact) -> Result<(), ExactStatus> {
        self.quantities[0] = self.quantities[0].subtract(units)?;
        self.covered = self.covered.add(units)?;
        Ok(())
    }

    pub(crate) fn measure(&self) -> SliceMeasure<'_> {
        let measure = match (&self.events, self.quantities.as_slice()) {
            (Some(events), _) => Measure::Sequence(events),
            (None, [quantity]) => Measure::Scalar(*quantity),
            (None, quantities) => Measure::Dimensions(quantities),
        };
        let (event_count, event_digest) = (self.event_count, self.event_digest);
        SliceMeasure { slice: self.slice, measure, covered: self.covered, event_count, event_digest }
    }
}

/// An account of a pool, and which of its windows are affected.
struct Member<'a> {
    terms: &'a Account,
    affected: &'a Affected,
}

/// An account of a pool: what is rated of it.
pub(crate) struct PooledAccount<'a> {
    pub(crate) terms: &'a Account,
    pub(crate) windows: Cow<'a, BTreeSet<(SubscriptionId, Span)>>,
    /// What was charged in these windows, in order of keys.
    pub(crate) issued: Vec<(&'a LineKey, &'a Worth)>,
}

/// What keeps an account of a pool out of a batch keeps out all of them.
fn failures_of(members: &[Member<'_>], failure: &RatingFailure) -> Vec<RatingFailure> {
    let of_member = |member: &Member<'_>| match member.terms.id == failure.account {
        true => failure.clone(),
        false => RatingFailure {
            account: member.terms.id.clone(),
            subscription: None,
            price: None,
            window_from: None,
            status: format!("it is rated together with {failure}"),
        },
    };
    members.iter().map(of_member).collect()
}

/// One subscription in one window.
#[derive(Clone, Copy)]
pub(crate) struct RatedWindow<'a> {
    pub(crate) account: &'a Account,
    pub(crate) subscription: &'a SubscriptionId,
    pub(crate) window: Span,
    pub(crate) covered: &'a CoveredUnits,
}

/// One price of one subscription in one window.
pub(crate) struct Charge<'a> {
    pub(crate) account: &'a Account,
    pub(crate) subscription: &'a SubscriptionId,
    pub(crate) price: &'a PriceTimeline,
    pub(crate) window: Span,
    /// What grants in units cover of the account's use.
    pub(crate) covered: &'a CoveredUnits,
}

/// The accounting period that a line belongs to, whether it is still worth something or not.
pub(crate) fn original_period(catalog: &Catalog, entity: &Entity, key: &LineKey) -> Period {
    let price = key.price.as_ref().and_then(|price| catalog.price(price));
    let (account, _) = account_and_entity(catalog, &key.account);
    Belonging::of(key, price).period(&entity.time_zone, &account.time_zone)
}

fn worth_of(line: &BillLine) -> Worth {
    Worth {
        quantity: line.quantity,
        precise: line.precise,
        rounded: line.rounded,
        event_count: i64::try_from(line.event_count).expect("fewer than 2^63 events"),
        event_digest: line.event_digest,
    }
}
