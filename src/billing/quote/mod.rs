//! A quote: what usage would cost under a catalog, without a server.
//!
//! Owns: which prices a quote is of, the join of usage and prices over one window, the bill with its explanation.
//! Leaves to others: reading usage (`usage`, `quantity`), what an event measures (`metering`), what it is worth
//! (`rating`), printing.
//!
//! Invariants:
//! - Every amount comes from [`position`], [`explain`] and [`account_position`], as in a cut; a bill only adds them up.
//! - A quote is of one subscription, and its window is over: everything that is owed for it is in the bill. Terms of a
//!   price are part of it; terms of a subscription and an account (its bounds, commitments, credits) are not.

mod metering;
mod quantity;
mod status;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    AccountId, Currency, Exact, MeterId, Period, PlanId, PriceId, Span, SubscriptionId, Timestamp, Zone,
};

pub use self::metering::{Metered, SetAside, Use, meter};
pub use self::quantity::uses_of;
pub use self::status::QuoteStatus;
pub use self::usage::{UsageEvent, read as read_usage};
use crate::catalog::{Catalog, PriceTimeline, PricingModel};
use crate::charges::Component;
use crate::nearest::nearest;
use crate::rating::account::{AccountTerms, BillLine, RatedPrice, account_position};
use crate::rating::{
    ActiveTerm, Measure, PositionLine, RatingStatus, SliceMeasure, WindowExplanation, WindowTerms, explain,
    position,
};

/// Texts of the dimensions that usage is grouped by.
pub type Group = BTreeMap<String, String>;

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
    /// Zone of the account: its months are windows.
    pub zone: Zone,
    /// Seats of the subscription.
    pub seats: Option<Exact>,
    /// When the subscription is active.
    pub active: Span,
}

/// What a window costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The month.
    pub period: Period,
    /// The window.
    pub window: Span,
    /// Where the subscription is active in it; nowhere, if the bill is empty for that.
    pub active: Option<Span>,
    /// Currency of all amounts.
    pub currency: Currency,
    /// Price by price.
    pub prices: Vec<PriceBill>,
    /// The amount, exactly.
    pub precise: Exact,
    /// What is billed, in minor units: the sum of what is billed for each group of each price.
    pub rounded: i128,
}

/// What a price costs in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBill {
    /// The price.
    pub price: PriceId,
    /// Its model.
    pub model: PricingModel,
    /// The version that is in force when the window, or the subscription in it, starts; and how many there are.
    pub version: Option<u32>,
    /// How many versions there are.
    pub version_count: usize,
    /// When a version comes into force later in the window, or after it.
    pub next_version_at: Option<Timestamp>,
    /// Group by group.
    pub groups: Vec<GroupBill>,
    /// Units of groups that the price sets aside until it has a row for them.
    pub set_aside: Vec<(Group, Exact)>,
    /// What discounts, the maximum and the minimum of the price change.
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
    pub group: Group,
    /// Units, by meter of the price.
    pub quantities: Vec<(MeterId, Exact)>,
    /// Events that they come from.
    pub event_count: u64,
    /// What each slice is worth.
    pub lines: Vec<PositionLine>,
    /// How the amount comes about.
    pub explanation: WindowExplanation,
}

/// What usage costs in a month. `uses` outside of the month, or of meters that no price is of, are left out.
///
/// # Errors
/// [`QuoteStatus::PriceMustBeRatable`].
pub fn quote(terms: &QuoteTerms<'_>, period: Period, uses: &[Use]) -> Result<Bill, QuoteStatus> {
    let window = terms.zone.month(period);
    let active =
        Span::new(window.from.max(terms.active.from), window.until.min(terms.active.until.max(window.from)));
    let active = Some(active).filter(|active| active.from < active.until);
    let mut bill = Bill {
        period,
        window,
        active,
        currency: terms.selection.currency,
        prices: Vec::new(),
        precise: Exact::ZERO,
        rounded: 0,
    };
    let Some(active) = active else { return Ok(bill) };
    let mut uses: Vec<&Use> = uses.iter().filter(|one| active.contains(one.time)).collect();
    // Stable: a percentage prices events of one instant in the order of the file.
    uses.sort_by_key(|one| one.time);
    let charges = terms.selection.prices.iter().map(|price| Charge { terms, price, window, active });
    bill.prices = charges.map(|charge| charge.bill(&uses)).collect::<Result<_, _>>()?;
    add_terms(terms, &mut bill, active)?;
    for price in &bill.prices {
        let unfit = || {
            QuoteStatus::PriceMustBeRatable(
                price.price.to_string(),
                String::new(),
                RatingStatus::AmountMustFit,
            )
        };
        bill.precise = bill.precise.add(price.precise).map_err(|_| unfit())?;
        bill.rounded = bill.rounded.checked_add(price.rounded).ok_or_else(unfit)?;
    }
    Ok(bill)
}

/// Adds what is agreed around the prices to their bills.
fn add_terms(terms: &QuoteTerms<'_>, bill: &mut Bill, active: Span) -> Result<(), QuoteStatus> {
    let account = AccountId::new("quote").expect("it is an id");
    let subscription = SubscriptionId::new("quote").expect("it is an id");
    let account_terms = AccountTerms {
        pool: &account,
        currency: bill.currency,
        zone: &terms.zone,
        subscription_at: &|_, _| None,
        discounts: Vec::new(),
        commitments: Vec::new(),
        price: &|_| None,
        grants: Vec::new(),
        frozen_draws: Vec::new(),
        is_final: &|_| true,
        as_of: bill.window.until,
    };
    for (price, priced) in terms.selection.prices.iter().zip(&mut bill.prices) {
        let lines = priced.groups.iter().flat_map(|of| of.lines.iter().map(|line| (of.group.clone(), *line)));
        let rated = RatedPrice {
            account: &account,
            subscription: &subscription,
            price,
            window: bill.window,
            active: vec![active],
            lines: lines.collect(),
        };
        let fail = |status| unratable(price, &Group::new(), status);
        for line in account_position(&account_terms, &[rated]).map_err(fail)? {
            if line.key.component != Component::Charge {
                priced.precise = priced.precise.add(line.precise).map_err(|status| fail(status.into()))?;
                let unfit = fail(RatingStatus::AmountMustFit);
                priced.rounded = priced.rounded.checked_add(line.rounded).ok_or(unfit)?;
                priced.terms.push(line);
            }
        }
    }
    Ok(())
}

fn unratable(price: &PriceTimeline, group: &Group, status: RatingStatus) -> QuoteStatus {
    QuoteStatus::PriceMustBeRatable(price.id().to_string(), group_text(group), status)
}

/// A group as text: `model=chat, region=eu`.
pub fn group_text(group: &Group) -> String {
    group.iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(", ")
}

/// One price in one window.
struct Charge<'a> {
    terms: &'a QuoteTerms<'a>,
    price: &'a PriceTimeline,
    window: Span,
    active: Span,
}

/// What was used in a slice.
struct Slice {
    span: Span,
    quantities: Vec<Exact>,
    /// Single events, in order of time, for a price that asks for them.
    sequence: Vec<Exact>,
    event_count: u64,
}

impl Charge<'_> {
    fn bill(&self, uses: &[&Use]) -> Result<PriceBill, QuoteStatus> {
        let (start, price) = (self.active.from, self.price);
        let version = price.version_at(start);
        let (mut groups, set_aside) = self.slices(uses)?;
        if groups.is_empty() {
            // Nothing was used: what is owed for silence is one line without a group.
            groups.insert(Group::new(), BTreeMap::new());
        }
        let mut bill = PriceBill {
            price: price.id().clone(),
            model: price.model(),
            version: version.map(|version| version.version),
            version_count: price.versions().len(),
            next_version_at: price.changes().into_iter().find(|change| *change > start),
            groups: Vec::new(),
            set_aside: set_aside.into_iter().collect(),
            terms: Vec::new(),
            precise: Exact::ZERO,
            rounded: 0,
        };
        for (group, slices) in groups {
            let slices: Vec<Slice> = slices.into_values().collect();
            let rated = self.group(&group, &slices).map_err(|status| unratable(price, &group, status))?;
            let unfit = unratable(price, &group, RatingStatus::AmountMustFit);
            bill.precise = bill.precise.add(rated.explanation.precise).map_err(|_| unfit.clone())?;
            bill.rounded = bill.rounded.checked_add(rated.explanation.rounded).ok_or(unfit)?;
            bill.groups.push(rated);
        }
        Ok(bill)
    }

    /// What was used, by group and slice; and what the price sets aside, by group.
    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn slices(
        &self,
        uses: &[&Use],
    ) -> Result<(BTreeMap<Group, BTreeMap<Timestamp, Slice>>, BTreeMap<Group, Exact>), QuoteStatus> {
        let meters: Vec<&MeterId> = self.price.meters().collect();
        let is_capacity = self.price.model() == PricingModel::Capacity;
        let (mut groups, mut set_aside) = (BTreeMap::new(), BTreeMap::new());
        for one in uses {
            for (index, _) in meters.iter().enumerate().filter(|(_, meter)| ***meter == one.meter) {
                // The meters of a capacity are counted together, whatever their groups.
                let own = if is_capacity { Group::new() } else { one.group.clone() };
                let fail = |status: RatingStatus| unratable(self.price, &own, status);
                let span = self.slice_of(one.time);
                let Some(group) = self.price.counted_group(span.from, own.clone()).map_err(fail)? else {
                    let aside: &mut Exact = set_aside.entry(own.clone()).or_default();
                    *aside = aside.add(one.value).map_err(|status| fail(status.into()))?;
                    continue;
                };
                let slices: &mut BTreeMap<Timestamp, Slice> = groups.entry(group).or_default();
                let slice = slices.entry(span.from).or_insert_with(|| Slice {
                    span,
                    quantities: vec![Exact::ZERO; meters.len()],
                    sequence: Vec::new(),
                    event_count: 0,
                });
                let quantity = &mut slice.quantities[index];
                *quantity = quantity.add(one.value).map_err(|status| fail(status.into()))?;
                slice.sequence.push(one.value);
                slice.event_count += 1;
            }
        }
        Ok((groups, set_aside))
    }

    /// The slice that an instant falls into: between two changes of the price.
    fn slice_of(&self, instant: Timestamp) -> Span {
        let changes = self.price.changes();
        let after = changes.partition_point(|change| *change <= instant);
        let from =
            after.checked_sub(1).map_or(self.active.from, |before| changes[before].max(self.active.from));
        let until = changes.get(after).map_or(self.active.until, |change| (*change).min(self.active.until));
        Span::new(from, until)
    }

    fn group(&self, group: &Group, slices: &[Slice]) -> Result<GroupBill, RatingStatus> {
        let active = [ActiveTerm { span: self.active, seats: self.terms.seats }];
        let terms = WindowTerms {
            price: self.price,
            window: self.window,
            active: &active,
            group,
            zone: &self.terms.zone,
            currency: self.terms.selection.currency,
            as_of: self.window.until,
        };
        let is_sequence = self.price.model() == PricingModel::Percentage;
        let measures: Vec<SliceMeasure<'_>> = slices.iter().map(|slice| slice.measure(is_sequence)).collect();
        let mut quantities: Vec<(MeterId, Exact)> =
            self.price.meters().map(|meter| (meter.clone(), Exact::ZERO)).collect();
        for slice in slices {
            for ((_, sum), quantity) in quantities.iter_mut().zip(&slice.quantities) {
                *sum = sum.add(*quantity)?;
            }
        }
        Ok(GroupBill {
            group: group.clone(),
            quantities,
            event_count: slices.iter().map(|slice| slice.event_count).sum(),
            lines: position(&terms, &measures)?,
            explanation: explain(&terms, &measures)?,
        })
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
            covered: Exact::ZERO,
            event_count: self.event_count,
            event_digest: 0,
        }
    }
}

#[cfg(test)]
mod tests;
