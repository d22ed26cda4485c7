//! A quote: what usage would cost under a catalog, without a server.
//!
//! Owns: which prices and windows a quote is of, the join of usage and prices over a window, the bill with its explanation.
//! Leaves to others: reading usage (`usage`, `quantity`), what an event measures (`metering`), what it is worth
//! (`rating`), printing.
//!
//! Invariants:
//! - Every amount comes from [`position`], [`explain`] and [`account_position`], as in a cut; a bill only adds them up.
//! - A quote is of one subscription, and its window is over: everything that is owed for it is in the bill. Terms of a
//!   price are part of it; terms of a subscription and an account are in a quote of a subscription only ([`agreed`]).

mod agreed;
mod metering;
mod quantity;
mod status;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use domain::time::BillingGrid;
use domain::{
    AccountId, Currency, Exact, GroupTexts, MeterId, Period, PlanId, PriceId, Span, SubscriptionId,
    Timestamp, Zone,
};

pub use self::agreed::{Agreed, Note, ThresholdStanding, notes, window_notes};
use self::agreed::{CountedElsewhere, counts_towards_threshold};
pub use self::metering::{Metered, SetAside, Use, meter};
pub use self::quantity::uses_of;
pub use self::status::QuoteStatus;
pub use self::usage::{UsageEvent, read as read_usage};
use crate::catalog::{Catalog, PriceTimeline, PricingModel, cadence_of};
use crate::charges::{Component, LineKey};
use crate::nearest::nearest;
use crate::rating::account::{
    AccountTerms, BillLine, CoveredUnits, RatedPrice, UnitUse, account_position, cover_units,
};
use crate::rating::{
    ActiveTerm, Elsewhere, Measure, PositionLine, RatingStatus, SliceMeasure, WindowExplanation, WindowTerms,
    elsewhere, explain, position,
};

/// The prices that a quote is of.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    prices: Vec<&'a PriceTimeline>,
    currency: Currency,
}

impl<'a> Selection<'a> {
    /// All prices of a plan.
    ///
    /// # Errors
    /// [`QuoteStatus::PlanMustExist`], then [`QuoteStatus::PlanMustHavePrices`].
    pub fn of_plan(catalog: &'a Catalog, id: &str) -> Result<Self, QuoteStatus> {
        let unknown = || {
            let near = nearest(id, catalog.plans().map(|plan| plan.id.as_str()));
            QuoteStatus::PlanMustExist(id.to_string(), owned(&near))
        };
        let plan = catalog.plans().find(|plan| plan.id.as_str() == id).ok_or_else(unknown)?;
        let prices: Vec<&PriceTimeline> = catalog.prices_of_plan(&plan.id).collect();
        if prices.is_empty() {
            return Err(QuoteStatus::PlanMustHavePrices(id.to_string()));
        }
        Ok(Self { prices, currency: plan.currency })
    }

    /// Some prices, in the order in which they are named.
    ///
    /// # Errors
    /// [`QuoteStatus::PriceMustExist`], then [`QuoteStatus::CurrenciesMustMatch`].
    ///
    /// # Panics
    /// If no price is named.
    pub fn of_prices(catalog: &'a Catalog, ids: &[String]) -> Result<Self, QuoteStatus> {
        let find = |id: &String| {
            let unknown = || {
                let near = nearest(id, catalog.prices().map(|price| price.id().as_str()));
                QuoteStatus::PriceMustExist(id.clone(), owned(&near))
            };
            catalog.prices().find(|price| price.id().as_str() == id).ok_or_else(unknown)
        };
        let mut prices: Vec<&PriceTimeline> = Vec::new();
        for id in ids {
            let price = find(id)?;
            if !prices.iter().any(|known| known.id() == price.id()) {
                prices.push(price);
            }
        }
        let first = prices.first().expect("a quote is of a price");
        let currency_of = |price: &PriceTimeline| currency_of(catalog, price.plan());
        let currency = currency_of(first);
        if let Some(other) = prices.iter().find(|price| currency_of(price) != currency) {
            let of = |price: &PriceTimeline| (price.id().to_string(), currency_of(price));
            return Err(QuoteStatus::CurrenciesMustMatch([of(first), of(other)]));
        }
        Ok(Self { prices, currency })
    }

    /// The prices.
    pub fn prices(&self) -> &[&'a PriceTimeline] {
        &self.prices
    }

    /// The meters that they price, each once.
    pub fn meters(&self) -> Vec<&'a MeterId> {
        let meters: BTreeSet<&MeterId> = self.prices.iter().flat_map(|price| price.meters()).collect();
        meters.into_iter().collect()
    }
}

fn currency_of(catalog: &Catalog, plan: &PlanId) -> Currency {
    catalog.plan(plan).expect("the catalog refuses prices of unknown plans").currency
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_string()).collect()
}

/// What a bill depends on besides usage.
#[derive(Clone, Debug)]
pub struct QuoteTerms<'a> {
    /// The prices.
    pub selection: Selection<'a>,
    /// Zone of the account: its days make windows.
    pub zone: Zone,
    /// Seats of the subscription.
    pub seats: Option<Exact>,
    /// When the subscription is active.
    pub active: Span,
    /// The subscription of the catalog that it is of, if it is of one; its seats go before those above.
    pub agreed: Option<Agreed<'a>>,
}

/// What windows cost that start in a month, or in which an instant lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The month.
    pub period: Period,
    /// The month as a span: the window of most prices.
    pub window: Span,
    /// Where the subscription is active in it; nowhere, if the bill is empty for that.
    pub active: Option<Span>,
    /// Currency of all amounts.
    pub currency: Currency,
    /// Price by price.
    pub prices: Vec<PriceBill>,
    /// What the subscription and its account agreed to changes, beside the prices; units that grants cover first.
    pub agreed: Vec<BillLine>,
    /// Where usage stands, if the account has thresholds.
    pub thresholds: Option<ThresholdStanding>,
    /// The amount, exactly.
    pub precise: Exact,
    /// What is billed, in minor units: the sum of what is billed for each group of each price, and of terms.
    pub rounded: i128,
}

/// What a price costs in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBill {
    /// The price.
    pub price: PriceId,
    /// The window.
    pub window: Span,
    /// Its model.
    pub model: PricingModel,
    /// The version that is in force when the window, or the subscription in it, starts; and how many there are.
    pub version: Option<u32>,
    /// How many versions there are.
    pub version_count: usize,
    /// When a version comes into force later in the window, or after it.
    pub next_version_at: Option<Timestamp>,
    /// GroupTexts by group.
    pub groups: Vec<GroupBill>,
    /// Units of groups that the price sets aside until it has a row for them.
    pub set_aside: Vec<(GroupTexts, Exact)>,
    /// What discounts, the maximum and the minimum of the price change, and what the account agreed to changes of it.
    pub terms: Vec<BillLine>,
    /// The amount, exactly.
    pub precise: Exact,
    /// What is billed, in minor units.
    pub rounded: i128,
}

/// What a price costs in a window for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBill {
    /// The group.
    pub group: GroupTexts,
    /// Units, by meter of the price.
    pub quantities: Vec<(MeterId, Exact)>,
    /// Events that they come from.
    pub event_count: u64,
    /// What each slice is worth.
    pub lines: Vec<PositionLine>,
    /// How the amount comes about.
    pub explanation: WindowExplanation,
}

/// What usage costs in the windows in which an instant lies. `uses` outside of them, or of meters that no price is of, are left
/// out.
///
/// # Errors
/// [`QuoteStatus::PriceMustBeRatable`].
pub fn quote_at(terms: &QuoteTerms<'_>, at: Timestamp, uses: &[Use]) -> Result<Bill, QuoteStatus> {
    let bill = quote_windows(terms, &[(terms.zone.period_of(at), Wanted::Around(at))], uses)?.pop();
    Ok(bill.expect("an instant has a bill"))
}

/// What usage costs in the windows that start in a month. `uses` outside of them, or of meters that no price is of, are left out.
///
/// # Errors
/// [`QuoteStatus::PriceMustBeRatable`].
pub fn quote(terms: &QuoteTerms<'_>, period: Period, uses: &[Use]) -> Result<Bill, QuoteStatus> {
    let bill = quote_months(terms, &[period], uses)?.pop();
    Ok(bill.expect("a month has a bill"))
}

/// What usage costs in the windows that start in months that follow each other, for an account that used nothing before:
/// commitments, grants and thresholds go on from month to month.
///
/// # Errors
/// [`QuoteStatus::PriceMustBeRatable`].
///
/// # Panics
/// If there is no month.
pub fn quote_months(
    terms: &QuoteTerms<'_>,
    periods: &[Period],
    uses: &[Use],
) -> Result<Vec<Bill>, QuoteStatus> {
    let wanted: Vec<(Period, Wanted)> = periods.iter().map(|period| (*period, Wanted::Starting)).collect();
    quote_windows(terms, &wanted, uses)
}

/// Which windows a bill is of.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Those that start in its month.
    Starting,
    /// Those in which an instant lies.
    Around(Timestamp),
}

fn quote_windows(
    terms: &QuoteTerms<'_>,
    wanted: &[(Period, Wanted)],
    uses: &[Use],
) -> Result<Vec<Bill>, QuoteStatus> {
    // Stable: a percentage prices events of one instant in the order of the file.
    let mut uses: Vec<&Use> = uses.iter().collect();
    uses.sort_by_key(|one| one.time);
    let mut months = Vec::new();
    for (period, wanted) in wanted {
        let month = terms.zone.month(*period);
        let mut used = Vec::new();
        for charge in terms.charges(month, *wanted) {
            used.push(charge.used(&uses)?);
        }
        months.push(Month { period: *period, span: month, wanted: *wanted, used });
    }
    cover(terms, &mut months)?;
    let mut bills = Vec::new();
    for month in &months {
        let charges = month.used.iter().map(|used| used.bill());
        bills.push(Bill {
            period: month.period,
            window: month.span,
            active: terms.active_in(month.span),
            currency: terms.selection.currency,
            prices: charges.collect::<Result<_, _>>()?,
            agreed: Vec::new(),
            thresholds: None,
            precise: Exact::ZERO,
            rounded: 0,
        });
    }
    add_terms(terms, &months, &mut bills)?;
    for bill in &mut bills {
        let of_prices = bill.prices.iter_mut().map(|price| &mut price.terms);
        of_prices.chain([&mut bill.agreed]).for_each(|terms| terms.sort_by(BillLine::compare_applied));
    }
    Ok(bills)
}

/// What is quoted of a month: what was used of every price, window by window.
struct Month<'a> {
    period: Period,
    span: Span,
    wanted: Wanted,
    used: Vec<Used<'a>>,
}

impl Month<'_> {
    /// Whether a line is of its bill whatever the others are: of a window that it is of, or of the month.
    fn has(&self, zone: &Zone, line: &BillLine) -> bool {
        match self.wanted {
            Wanted::Starting => zone.period_of(line.window.from) == self.period,
            Wanted::Around(_) => line.window == self.span,
        }
    }

    /// Whether a window of a price, or of any, goes on in a span.
    fn goes_on_in(&self, span: Span, price: Option<&PriceId>) -> bool {
        let is_of = |used: &&Used<'_>| price.is_none_or(|price| used.charge.price.id() == price);
        self.used.iter().filter(is_of).any(|used| used.charge.window.overlaps(span))
    }
}

/// The month in whose bill a line stands. What is agreed for months stands in that month, or else with the last windows that go on
/// in it: always if it is of what these cost, and otherwise if all is quoted that the month costs.
fn place_of(terms: &QuoteTerms<'_>, months: &[Month<'_>], line: &BillLine) -> Option<usize> {
    if let Some(own) = months.iter().position(|month| month.has(&terms.zone, line)) {
        return Some(own);
    }
    if line.key.subscription.is_none() && !terms.is_all_quoted(months, line.window) {
        return None;
    }
    months.iter().rposition(|month| month.goes_on_in(line.window, line.key.price.as_ref()))
}

/// First instant after everything that is quoted.
fn end_of(months: &[Month<'_>]) -> Timestamp {
    let ends = months
        .iter()
        .flat_map(|month| month.used.iter().map(|used| used.charge.window.until).chain([month.span.until]));
    ends.max().unwrap_or(Timestamp::MIN)
}

/// Covers use with the account's grants in units.
fn cover(terms: &QuoteTerms<'_>, months: &mut [Month<'_>]) -> Result<(), QuoteStatus> {
    let Some(agreed) = &terms.agreed else { return Ok(()) };
    let grants = agreed.grants();
    if grants.iter().all(|(_, grant)| grant.meter.is_none()) {
        return Ok(());
    }
    let mut uses: BTreeMap<(MeterId, LineKey), UnitUse> = BTreeMap::new();
    for used in months.iter().flat_map(|month| &month.used) {
        // A grant covers what one meter counts; the meters of a capacity are none of it.
        let Some(meter) = used.charge.covered_meter() else { continue };
        let mut of_price: BTreeMap<(MeterId, LineKey), UnitUse> = BTreeMap::new();
        let slices = used.groups.values().flat_map(BTreeMap::values);
        for slice in slices.filter(|slice| slice.is_charged) {
            for (group, units) in &slice.groups {
                if !used.charge.price.charges(slice.span.from, group) {
                    continue;
                }
                let key = used.charge.key_of_use(agreed, group, slice.span.from);
                let one = of_price.entry((meter.clone(), key.clone())).or_insert_with(|| UnitUse {
                    key,
                    meter: meter.clone(),
                    window: used.charge.window,
                    slice: slice.span,
                    quantity: Exact::ZERO,
                });
                let sum = one.quantity.add(*units);
                one.quantity = sum.map_err(|status| unratable(used.charge.price, group, status.into()))?;
            }
        }
        // Another price of the meter counts the same units.
        for (of, one) in of_price {
            uses.entry(of).or_insert(one);
        }
    }
    let as_of = end_of(months);
    let covered = cover_units(agreed.pool(), &grants, uses.into_values().collect(), &[], &terms.zone, as_of);
    for used in months.iter_mut().flat_map(|month| &mut month.used) {
        let price = used.charge.price;
        let fail = |status: RatingStatus| unratable(price, &GroupTexts::NONE, status);
        let covered = covered.as_ref().map_err(|status| fail(*status))?;
        used.take_covered(agreed, covered).map_err(fail)?;
    }
    Ok(())
}

/// Adds what is agreed around the prices to bills: to that of its price, or of the whole month.
fn add_terms(terms: &QuoteTerms<'_>, months: &[Month<'_>], bills: &mut [Bill]) -> Result<(), QuoteStatus> {
    let nobody = AccountId::new("quote").expect("it is an id");
    let nothing = SubscriptionId::new("quote").expect("it is an id");
    let agreed = terms.agreed.as_ref();
    let account = agreed.map_or(&nobody, |agreed| &agreed.account.id);
    let subscription = agreed.map_or(&nothing, |agreed| agreed.subscription.id());
    let Some(first) = bills.first().map(|bill| bill.window.from) else { return Ok(()) };
    let end = end_of(months);
    let subscription_at =
        |_: &SubscriptionId, at: Timestamp| agreed.and_then(|agreed| agreed.subscription.at(at));
    let price = |id: &PriceId| agreed.and_then(|agreed| agreed.catalog.price(id));
    let account_terms = AccountTerms {
        pool: agreed.map_or(&nobody, Agreed::pool),
        currency: terms.selection.currency,
        zone: &terms.zone,
        subscription_at: &subscription_at,
        discounts: agreed.map(Agreed::discounts).unwrap_or_default(),
        commitments: agreed.map(|agreed| agreed.commitments(first)).unwrap_or_default(),
        price: &price,
        grants: agreed.map(Agreed::grants).unwrap_or_default(),
        frozen_draws: Vec::new(),
        is_final: &|window| window.until <= end,
        as_of: end,
    };
    let mut rated = Vec::new();
    for (month, bill) in months.iter().zip(bills.iter()) {
        for (used, priced) in month.used.iter().zip(&bill.prices) {
            let lines = priced.groups.iter();
            let lines = lines.flat_map(|of| of.lines.iter().map(|line| (of.group.clone(), *line)));
            rated.push(RatedPrice {
                account,
                subscription,
                price: used.charge.price,
                window: used.charge.window,
                active: used.charge.active.iter().map(|term| term.span).collect(),
                lines: lines.collect(),
            });
        }
    }
    let of_all = terms.selection.prices.first().expect("a quote is of a price");
    let fail = |status: RatingStatus| unratable(of_all, &GroupTexts::NONE, status);
    let covered = months.iter().flat_map(|month| &month.used).flat_map(|used| used.covered.iter().cloned());
    let mut covered: Vec<BillLine> = covered.collect();
    covered.sort_by(|a, b| a.key.cmp(&b.key));
    covered.dedup_by(|a, b| a.key == b.key);
    let lines = account_position(&account_terms, &rated).map_err(fail)?;
    let placed: Vec<(Option<usize>, &BillLine)> =
        covered.iter().chain(&lines).map(|line| (place_of(terms, months, line), line)).collect();
    let mut usage = 0i128;
    for (index, bill) in bills.iter_mut().enumerate() {
        let before = usage;
        let own = placed.iter().filter(|(place, _)| *place == Some(index));
        for (_, line) in own {
            bill.add(line).map_err(fail)?;
            if agreed.is_some_and(|agreed| counts_towards_threshold(agreed.catalog, line)) {
                usage = usage.checked_add(line.rounded).ok_or(fail(RatingStatus::AmountMustFit))?;
            }
        }
        bill.thresholds = agreed.and_then(|agreed| agreed.standing(before, usage));
    }
    Ok(())
}

impl Bill {
    /// Takes a line of what the month is worth; a charge is in the bill of its price already.
    fn add(&mut self, line: &BillLine) -> Result<(), RatingStatus> {
        self.precise = self.precise.add(line.precise)?;
        self.rounded = self.rounded.checked_add(line.rounded).ok_or(RatingStatus::AmountMustFit)?;
        if line.key.component == Component::Charge {
            return Ok(());
        }
        // What an account agreed to is of a month: it stands with the first of the price's windows.
        let is_of = |price: &PriceBill| Some(&price.price) == line.key.price.as_ref();
        let own = self.prices.iter().position(|price| is_of(price) && price.window == line.window);
        let index = own.or_else(|| self.prices.iter().position(is_of));
        match index.map(|index| &mut self.prices[index]) {
            Some(price) => {
                price.precise = price.precise.add(line.precise)?;
                let sum = price.rounded.checked_add(line.rounded);
                price.rounded = sum.ok_or(RatingStatus::AmountMustFit)?;
                price.terms.push(line.clone());
            }
            None => self.agreed.push(line.clone()),
        }
        Ok(())
    }
}

impl<'a> QuoteTerms<'a> {
    /// A quote of a subscription: its seats, months and plans, and what its account agreed to.
    ///
    /// # Errors
    /// [`QuoteStatus::SubscriptionMustExist`], then [`QuoteStatus::PlanMustHavePrices`].
    pub fn of_subscription(catalog: &'a Catalog, id: &str) -> Result<Self, QuoteStatus> {
        let all = || catalog.accounts().flat_map(|account| catalog.subscriptions_of_account(&account.id));
        let unknown = || {
            let near = nearest(id, all().map(|of| of.id().as_str()));
            QuoteStatus::SubscriptionMustExist(id.to_string(), owned(&near))
        };
        let subscription = all().find(|of| of.id().as_str() == id).ok_or_else(unknown)?;
        let account = catalog.account(subscription.account()).expect("a subscription is of an account");
        let spans = subscription.spans();
        let plans: BTreeSet<&PlanId> = spans.iter().map(|(_, record)| &record.plan).collect();
        let prices: Vec<&PriceTimeline> =
            plans.iter().flat_map(|plan| catalog.prices_of_plan(plan)).collect();
        if prices.is_empty() {
            let plan = plans.first().map_or(String::new(), |plan| plan.to_string());
            return Err(QuoteStatus::PlanMustHavePrices(plan));
        }
        let selection = Selection { prices, currency: account.currency };
        let from = spans.first().map_or(Timestamp::MIN, |(span, _)| span.from);
        let until = spans.last().map_or(Timestamp::END, |(span, _)| span.until);
        let agreed = Some(Agreed { catalog, subscription, account });
        let zone = account.time_zone.clone();
        Ok(Self { selection, zone, seats: None, active: Span::new(from, until), agreed })
    }

    /// Where the subscription is active in a window.
    fn active_in(&self, window: Span) -> Option<Span> {
        let active = Span::new(
            window.from.max(self.active.from),
            window.until.min(self.active.until.max(window.from)),
        );
        Some(active).filter(|active| active.from < active.until)
    }

    /// The windows of a price.
    fn grid(&self, price: &PriceTimeline) -> BillingGrid {
        let anchor = self.agreed.as_ref().and_then(|agreed| agreed.subscription.anchor());
        self.zone.grid(cadence_of(price.window(), anchor, &self.zone))
    }

    /// The first month in which a window starts that an instant lies in.
    pub fn first_period(&self, instant: Timestamp) -> Period {
        let starts = self.selection.prices.iter().map(|price| self.grid(price).window_of(instant).from);
        self.zone.period_of(starts.min().unwrap_or(instant))
    }

    /// An instant of a month that lies in the first of each price's windows that start in it; its first, if none does.
    pub fn start_in(&self, period: Period) -> Timestamp {
        let month = self.zone.month(period);
        let starts = self.selection.prices.iter().filter_map(|price| {
            let grid = self.grid(price);
            grid.windows_in(month).map(|window| window.from).find(|from| month.contains(*from))
        });
        starts.max().unwrap_or(month.from)
    }

    /// The prices that are charged in the windows of a month or around an instant, each where it is.
    fn charges(&self, month: Span, wanted: Wanted) -> Vec<Charge<'_>> {
        let mut charges = Vec::new();
        for price in &self.selection.prices {
            let grid = self.grid(price);
            let windows: Vec<Span> = match wanted {
                Wanted::Around(instant) => vec![grid.window_of(instant)],
                Wanted::Starting => {
                    grid.windows_in(month).filter(|window| month.contains(window.from)).collect()
                }
            };
            let bounds = self.agreed.as_ref().map_or_else(|| price.changes(), |of| of.bounds(price));
            charges.extend(windows.into_iter().filter_map(|window| self.charge(price, window, &bounds)));
        }
        charges
    }

    /// Whether every window that is charged and goes on in a span is quoted.
    fn is_all_quoted(&self, months: &[Month<'_>], span: Span) -> bool {
        let is_quoted = |price: &PriceTimeline, window: Span| {
            let mut used = months.iter().flat_map(|month| &month.used);
            used.any(|used| used.charge.window == window && used.charge.price.id() == price.id())
        };
        self.selection.prices.iter().all(|price| {
            let grid = self.grid(price);
            let mut windows = grid.windows_in(span);
            windows.all(|window| is_quoted(price, window) || self.charge(price, window, &[]).is_none())
        })
    }

    /// A price in a window, if it is charged there; `bounds` are those of its slices, sorted.
    fn charge<'t>(
        &'t self,
        price: &'t PriceTimeline,
        window: Span,
        bounds: &[Timestamp],
    ) -> Option<Charge<'t>> {
        let all = self.active_in(window)?;
        let active = match &self.agreed {
            None => vec![ActiveTerm { span: all, seats: self.seats }],
            Some(agreed) => agreed.active_of(price),
        };
        let inside = |term: ActiveTerm| {
            let span = Span::new(term.span.from.max(all.from), term.span.until.min(all.until).max(all.from));
            (span.from < span.until).then_some(ActiveTerm { span, ..term })
        };
        let active: Vec<ActiveTerm> = active.into_iter().filter_map(inside).collect();
        if active.is_empty() {
            return None;
        }
        let counted =
            self.agreed.as_ref().map(|agreed| agreed.counted_elsewhere(price, all)).unwrap_or_default();
        // Only those inside the window end its slices: of a hundred years of days a day has none.
        let own = bounds.partition_point(|bound| *bound <= window.from)
            ..bounds.partition_point(|bound| *bound < window.until);
        Some(Charge { terms: self, price, window, active, counted, bounds: bounds[own].to_vec() })
    }
}

fn unratable(price: &PriceTimeline, group: &GroupTexts, status: RatingStatus) -> QuoteStatus {
    QuoteStatus::PriceMustBeRatable(price.id().to_string(), group_text(group), status)
}

/// A group as text: `model=chat, region=eu`.
pub fn group_text(group: &GroupTexts) -> String {
    group.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(", ")
}

/// One price in one window.
struct Charge<'a> {
    terms: &'a QuoteTerms<'a>,
    price: &'a PriceTimeline,
    window: Span,
    /// Where it is charged there: somewhere.
    active: Vec<ActiveTerm>,
    /// Where it only counts: under other plans of the subscription from whose prices it goes on counting.
    counted: Vec<CountedElsewhere>,
    /// Instants at which slices end.
    bounds: Vec<Timestamp>,
}

/// What was used of a price in a window.
struct Used<'a> {
    charge: Charge<'a>,
    /// By group and slice.
    groups: BTreeMap<GroupTexts, BTreeMap<Timestamp, Slice>>,
    /// What the price sets aside, by group.
    set_aside: BTreeMap<GroupTexts, Exact>,
    /// Lines of what grants in units cover.
    covered: Vec<BillLine>,
}

/// What was used in a slice.
struct Slice {
    span: Span,
    quantities: Vec<Exact>,
    /// What of the first quantity each group of the meter has.
    groups: BTreeMap<GroupTexts, Exact>,
    /// Units that grants cover, and that are no longer in the quantity.
    covered: Exact,
    /// Single events, in order of time, for a price that asks for them.
    sequence: Vec<Exact>,
    event_count: u64,
    /// Whether it is charged, and does not only count.
    is_charged: bool,
}

impl<'a> Charge<'a> {
    /// The meter whose units grants may cover.
    fn covered_meter(&self) -> Option<&'a MeterId> {
        self.price.meter().filter(|_| self.price.model() != PricingModel::Capacity)
    }

    /// The key of what was used of a group in a slice.
    fn key_of_use(&self, agreed: &Agreed<'_>, group: &GroupTexts, slice_from: Timestamp) -> LineKey {
        LineKey {
            account: agreed.account.id.clone(),
            subscription: Some(agreed.subscription.id().clone()),
            price: None,
            window: self.window,
            group: group.clone(),
            slice_from,
            price_version: 0,
            component: Component::Covered,
            term: String::new(),
        }
    }

    /// What was used, by group and slice; and what the price sets aside, by group.
    fn used(self, uses: &[&Use]) -> Result<Used<'a>, QuoteStatus> {
        let meters: Vec<&MeterId> = self.price.meters().collect();
        let is_capacity = self.price.model() == PricingModel::Capacity;
        let mut used =
            Used { charge: self, groups: BTreeMap::new(), set_aside: BTreeMap::new(), covered: Vec::new() };
        for one in uses {
            for (index, _) in meters.iter().enumerate().filter(|(_, meter)| ***meter == one.meter) {
                // The meters of a capacity are counted together, whatever their groups.
                let own = if is_capacity { GroupTexts::NONE } else { one.group.clone() };
                let price = used.charge.price;
                let fail = |status: RatingStatus| unratable(price, &own, status);
                let Some((span, is_charged)) = used.charge.slice_of(one.time) else { continue };
                let counted = price.counted_group(used.charge.row_instant(span, is_charged), own.clone());
                if !is_charged && !matches!(counted, Ok(Some(_))) {
                    continue;
                }
                let Some(group) = counted.map_err(fail)? else {
                    let aside = used.set_aside.entry(own.clone()).or_default();
                    *aside = aside.add(one.value).map_err(|status| fail(status.into()))?;
                    continue;
                };
                let slice = used.groups.entry(group).or_default().entry(span.from).or_insert_with(|| Slice {
                    span,
                    quantities: vec![Exact::ZERO; meters.len()],
                    groups: BTreeMap::new(),
                    covered: Exact::ZERO,
                    sequence: Vec::new(),
                    event_count: 0,
                    is_charged,
                });
                let of_group = slice.groups.entry(own.clone()).or_default();
                for sum in [&mut slice.quantities[index], of_group] {
                    *sum = sum.add(one.value).map_err(|status| fail(status.into()))?;
                }
                slice.sequence.push(one.value);
                slice.event_count += 1;
            }
        }
        Ok(used)
    }

    /// The slice that an instant falls into, and whether the price is charged then, if it counts then: between two bounds.
    fn slice_of(&self, instant: Timestamp) -> Option<(Span, bool)> {
        let charged = self.active.iter().map(|term| (term.span, &self.bounds, true));
        let counted = self.counted.iter().map(|counted| (counted.span, &counted.bounds, false));
        let (active, bounds, is_charged) =
            charged.chain(counted).find(|(span, ..)| span.contains(instant))?;
        let after = bounds.partition_point(|bound| *bound <= instant);
        let from = after.checked_sub(1).map_or(active.from, |before| bounds[before].max(active.from));
        let until = bounds.get(after).map_or(active.until, |bound| (*bound).min(active.until));
        Some((Span::new(from, until), is_charged))
    }

    /// The instant whose version says in which row what is used in a slice counts: its start, or where another plan is active the last
    /// instant before that is charged, or the first one after it.
    fn row_instant(&self, slice: Span, is_charged: bool) -> Timestamp {
        let before = self.active.iter().rev().find(|term| term.span.until <= slice.from);
        match (is_charged, before) {
            (true, _) => slice.from,
            (false, Some(term)) => term.span.until.plus(-1),
            (false, None) => self.active[0].span.from,
        }
    }

    fn group(
        &self,
        group: &GroupTexts,
        slices: &[&Slice],
        measures: &[SliceMeasure<'_>],
        elsewhere: Option<&Elsewhere>,
    ) -> Result<GroupBill, RatingStatus> {
        let terms = WindowTerms {
            price: self.price,
            window: self.window,
            active: &self.active,
            group,
            zone: &self.terms.zone,
            currency: self.terms.selection.currency,
            as_of: self.window.until,
            is_continued: self
                .counted
                .first()
                .is_some_and(|counted| counted.span.from < self.active[0].span.from),
            elsewhere,
        };
        let mut quantities: Vec<(MeterId, Exact)> =
            self.price.meters().map(|meter| (meter.clone(), Exact::ZERO)).collect();
        let charged = || slices.iter().filter(|slice| slice.is_charged);
        for slice in charged() {
            for ((_, sum), quantity) in quantities.iter_mut().zip(&slice.quantities) {
                *sum = sum.add(*quantity)?;
            }
            if let Some((_, sum)) = quantities.first_mut() {
                *sum = sum.add(slice.covered)?;
            }
        }
        Ok(GroupBill {
            group: group.clone(),
            quantities,
            event_count: charged().map(|slice| slice.event_count).sum(),
            lines: position(&terms, measures)?,
            explanation: explain(&terms, measures)?,
        })
    }
}

impl Used<'_> {
    /// Takes covered units off what is priced.
    fn take_covered(&mut self, agreed: &Agreed<'_>, covered: &CoveredUnits) -> Result<(), RatingStatus> {
        let Some(meter) = self.charge.covered_meter() else { return Ok(()) };
        for slice in self.groups.values_mut().flat_map(BTreeMap::values_mut) {
            for group in slice.groups.keys() {
                let key = self.charge.key_of_use(agreed, group, slice.span.from);
                let units = covered.of(meter, &key);
                slice.quantities[0] = slice.quantities[0].subtract(units)?;
                slice.covered = slice.covered.add(units)?;
                let lines = covered.lines.iter().filter(|_| slice.is_charged);
                self.covered.extend(
                    lines.filter(|line| LineKey { term: String::new(), ..line.key.clone() } == key).cloned(),
                );
            }
        }
        Ok(())
    }

    fn bill(&self) -> Result<PriceBill, QuoteStatus> {
        let (start, price) = (self.charge.active[0].span.from, self.charge.price);
        let version = price.version_at(start);
        let mut bill = PriceBill {
            price: price.id().clone(),
            window: self.charge.window,
            model: price.model(),
            version: version.map(|version| version.version),
            version_count: price.versions().len(),
            next_version_at: price.changes().into_iter().find(|change| *change > start),
            groups: Vec::new(),
            set_aside: self.set_aside.clone().into_iter().collect(),
            terms: Vec::new(),
            precise: Exact::ZERO,
            rounded: 0,
        };
        // Nothing was used: what is owed for silence is one line without a group.
        let silence = BTreeMap::from([(GroupTexts::NONE, BTreeMap::new())]);
        let groups = if self.groups.is_empty() { &silence } else { &self.groups };
        let is_sequence = price.model() == PricingModel::Percentage;
        let measures: Vec<Vec<SliceMeasure<'_>>> = groups
            .values()
            .map(|slices| slices.values().map(|slice| slice.measure(is_sequence)).collect())
            .collect();
        let elsewhere = match price.counts_groups_together() {
            true => {
                elsewhere(&measures).map_err(|status| unratable(price, &GroupTexts::NONE, status.into()))?
            }
            false => Vec::new(),
        };
        for (index, (group, slices)) in groups.iter().enumerate() {
            let slices: Vec<&Slice> = slices.values().collect();
            let rated = self
                .charge
                .group(group, &slices, &measures[index], elsewhere.get(index))
                .map_err(|status| unratable(price, group, status))?;
            let unfit = unratable(price, group, RatingStatus::AmountMustFit);
            bill.precise = bill.precise.add(rated.explanation.precise).map_err(|_| unfit.clone())?;
            bill.rounded = bill.rounded.checked_add(rated.explanation.rounded).ok_or(unfit)?;
            bill.groups.push(rated);
        }
        Ok(bill)
    }
}

impl Slice {
    fn measure(&self, is_sequence: bool) -> SliceMeasure<'_> {
        let measure = match self.quantities.as_slice() {
            _ if is_sequence => Measure::Sequence(&self.sequence),
            [quantity] => Measure::Scalar(*quantity),
            quantities => Measure::Dimensions(quantities),
        };
        SliceMeasure {
            slice: self.span,
            measure,
            covered: self.covered,
            event_count: self.event_count,
            event_digest: 0,
        }
    }
}

#[cfg(test)]
mod tests;
