//! A shop: an account in a catalog, what it used, and what it is billed, for tests that tell stories or draw random ones.
//!
//! Owns: the catalog around the prices that a test names, slices as fine as slices can be, issuing by key. Leaves to
//! others: what anything costs (`position`, `account`, `quote`).

use std::collections::BTreeMap;

use domain::{AccountId, Exact, GroupTexts, MeterId, Period, PriceId, Span, SubscriptionId, Timestamp, Zone};

use super::account::{AccountTerms, BillLine, FrozenDraw, RatedPrice, account_position};
use super::{ActiveTerm, Measure, SliceMeasure, WindowTerms, position};
use crate::catalog::{Catalog, CatalogFile, PriceTimeline, PricingModel, SubscriptionTimeline, cadence_of};
use crate::charges::{Component, LineKey};
use crate::quote::{QuoteTerms, Selection, Use, quote};

/// An account in a catalog, what it used, and what it is billed.
#[derive(Clone)]
pub(super) struct Shop {
    pub(super) catalog: Catalog,
    pub(super) zone: Zone,
    pub(super) uses: Vec<Use>,
    pub(super) frozen_draws: Vec<FrozenDraw>,
}

pub(super) fn exact(text: &str) -> Exact {
    Exact::parse(text).unwrap_or_else(|| panic!("{text}"))
}

/// An instant of 2026, such as `01-31` or `01-31T23:30:00` in UTC, or of another year where it is named.
pub(super) fn at(text: &str) -> Timestamp {
    let text = if text.starts_with("20") { text.to_string() } else { format!("2026-{text}") };
    let time = if text.contains('T') { "Z" } else { "T00:00:00Z" };
    Timestamp::parse(&format!("{text}{time}")).unwrap_or_else(|status| panic!("{text}: {status}"))
}

/// A price of the plan as a line of a catalog: `price("p", "per_unit", "unit_amount = \"1\"")`; over months.
pub(super) fn price(id: &str, model: &str, terms: &str) -> String {
    price_over("month", id, model, terms)
}

/// The same over other windows.
pub(super) fn price_over(window: &str, id: &str, model: &str, terms: &str) -> String {
    let meter = if terms.contains("meter") || model == "flat" { "" } else { "meter = \"units\", " };
    format!(
        "{{ id = \"{id}\", plan = \"pro\", window = \"{window}\", model = \"{model}\", {meter}{terms} }},\n"
    )
}

impl Shop {
    /// A shop with prices, in UTC, and a subscription from the start of 2026; `more` are further resources.
    pub(super) fn new(prices: &[String], more: &str) -> Self {
        Self::in_zone("UTC", prices, "from = \"2026-01-01T00:00:00Z\"", more)
    }

    pub(super) fn in_zone(zone: &str, prices: &[String], subscription: &str, more: &str) -> Self {
        Self::parse(
            zone,
            &format!(
                "price = [\n{}]\nsubscription = [{{ id = \"s\", account = \"acme\", plan = \"pro\", {subscription} }}]\n{more}",
                prices.concat()
            ),
        )
    }

    pub(super) fn parse(zone: &str, resources: &str) -> Self {
        let text = format!(
            r#"
            catalog = 1
            entity = [{{ id = "inc", currency = "USD", time_zone = "UTC" }}]
            account = [{{ id = "acme", name = "A", entity = "inc", currency = "USD", time_zone = "{zone}" }}]
            meter = [
                {{ id = "units", event_type = "u", aggregation = "each", value = "units" }},
                {{ id = "seats", event_type = "u", aggregation = "sum", value = "seats" }},
                {{ id = "kinds", event_type = "u", aggregation = "sum", value = "units", group_by = ["kind"] }},
            ]
            plan = [{{ id = "pro", currency = "USD" }}]
            {resources}"#
        );
        let mut shop = Self {
            catalog: Catalog::default(),
            zone: Zone::new(zone).unwrap(),
            uses: Vec::new(),
            frozen_draws: Vec::new(),
        };
        shop.put(&text);
        shop
    }

    /// Puts the resources of a catalog file.
    pub(super) fn put(&mut self, text: &str) {
        let file = CatalogFile::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for (offset, resource) in file.resources().into_iter().enumerate() {
            self.catalog.apply(resource, offset as u64).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    pub(super) fn used(mut self, uses: &[(&str, &str)]) -> Self {
        for (instant, value) in uses {
            self.take("units", "", at(instant), exact(value));
        }
        self
    }

    /// Takes usage of a meter and of a kind, if it has one.
    pub(super) fn take(&mut self, meter: &str, kind: &str, time: Timestamp, value: Exact) {
        let group = [("kind", kind)].into_iter().filter(|(_, kind)| !kind.is_empty());
        let group = group.map(|(name, text)| (name.to_string(), text.to_string())).collect();
        self.uses.push(Use { meter: MeterId::new(meter).unwrap(), group, time, value });
    }

    /// The bill at an instant, with a slice for every instant of use: as fine as slices can be.
    pub(super) fn bill(&self, as_of: Timestamp) -> Vec<BillLine> {
        let account = AccountId::new("acme").unwrap();
        let currency = self.catalog.account(&account).unwrap().currency;
        let mut prices = Vec::new();
        for subscription in self.catalog.subscriptions_of_account(&account) {
            for price in self.catalog.prices() {
                let cadence = cadence_of(price.window(), subscription.anchor(), &self.zone);
                let (grid, seen) = (self.zone.grid(cadence), Span::new(at("01-01"), as_of.plus(1)));
                for window in grid.windows_in(seen) {
                    prices.extend(self.rated(&account, subscription, price, window, as_of));
                }
            }
        }
        let subscription_at = |id: &SubscriptionId, at| self.catalog.subscription(id)?.at(at);
        let price = |id: &PriceId| self.catalog.price(id);
        let terms = AccountTerms {
            pool: &account,
            currency,
            zone: &self.zone,
            subscription_at: &subscription_at,
            discounts: self.catalog.discounts_of_account(&account).collect(),
            commitments: self.catalog.commitments_of_account(&account).collect(),
            price: &price,
            grants: self.catalog.grants_of_account(&account).collect(),
            frozen_draws: self.frozen_draws.clone(),
            is_final: &|window| window.until <= as_of,
            as_of,
        };
        account_position(&terms, &prices).unwrap()
    }

    /// A price of a subscription in a window, if that is active in it.
    fn rated<'a>(
        &'a self,
        account: &'a AccountId,
        subscription: &'a SubscriptionTimeline,
        price: &'a PriceTimeline,
        window: Span,
        as_of: Timestamp,
    ) -> Option<RatedPrice<'a>> {
        let spans = subscription.spans().into_iter().filter(|(span, _)| span.overlaps(window));
        let active: Vec<ActiveTerm> = spans
            .map(|(span, record)| ActiveTerm {
                span: Span::new(span.from.max(window.from), span.until.min(window.until)),
                seats: record.seats.map(Exact::from),
            })
            .collect();
        if active.is_empty() {
            return None;
        }
        let currency = self.catalog.account(account).unwrap().currency;
        let mut lines = Vec::new();
        for (group, uses) in self.groups_of(price, &active) {
            let measures: Vec<SliceMeasure<'_>> = uses.iter().map(Slice::measure).collect();
            let terms = WindowTerms {
                price,
                window,
                active: &active,
                group: &group,
                zone: &self.zone,
                currency,
                as_of,
                is_continued: false,
                elsewhere: None,
            };
            let rated = position(&terms, &measures).unwrap();
            lines.extend(rated.into_iter().map(|line| (group.clone(), line)));
        }
        let active = active.iter().map(|term| term.span).collect();
        Some(RatedPrice { account, subscription: subscription.id(), price, window, active, lines })
    }

    /// Slices of a price by group, each an instant; without usage one group without slices.
    fn groups_of(&self, price: &PriceTimeline, active: &[ActiveTerm]) -> BTreeMap<GroupTexts, Vec<Slice>> {
        let meters: Vec<&MeterId> = price.meters().collect();
        let is_sequence = price.model() == PricingModel::Percentage;
        let mut groups: BTreeMap<GroupTexts, BTreeMap<Timestamp, Slice>> = BTreeMap::new();
        for one in &self.uses {
            let Some(index) = meters.iter().position(|meter| **meter == one.meter) else { continue };
            if !active.iter().any(|term| term.span.contains(one.time)) {
                continue;
            }
            let own = if meters.len() > 1 { GroupTexts::NONE } else { one.group.clone() };
            let Some(group) = price.counted_group(one.time, own).unwrap() else { continue };
            let slice = groups.entry(group).or_default().entry(one.time).or_insert_with(|| Slice {
                at: one.time,
                quantities: vec![Exact::ZERO; meters.len()],
                sequence: Vec::new(),
                is_sequence,
                event_count: 0,
            });
            slice.quantities[index] = slice.quantities[index].add(one.value).unwrap();
            slice.sequence.push(one.value);
            slice.event_count += 1;
        }
        if groups.is_empty() {
            groups.insert(GroupTexts::NONE, BTreeMap::new());
        }
        groups.into_iter().map(|(group, slices)| (group, slices.into_values().collect())).collect()
    }

    /// What every month costs, as `MM amount`; months that cost nothing are left out.
    pub(super) fn months(&self, as_of: &str) -> Vec<String> {
        let mut months: BTreeMap<String, i128> = BTreeMap::new();
        for line in self.bill(at(as_of)) {
            *months.entry(self.zone.period_of(line.window.from).to_string()[5..].to_string()).or_default() +=
                line.rounded;
        }
        months.retain(|_, amount| *amount != 0);
        months.into_iter().map(|(month, amount)| format!("{month} {amount}")).collect()
    }

    /// What all months cost.
    pub(super) fn total(&self, as_of: &str) -> i128 {
        self.bill(at(as_of)).iter().map(|line| line.rounded).sum()
    }

    /// Amounts of lines of one component, in the order of their keys.
    pub(super) fn lines_of(&self, component: Component, as_of: &str) -> Vec<i128> {
        let lines = self.bill(at(as_of)).into_iter();
        lines.filter(|line| line.key.component == component).map(|line| line.rounded).collect()
    }

    /// What a quote of a month says of the same usage, in minor units, and exactly.
    pub(super) fn quoted(&self, month: &str) -> (i128, Exact) {
        let selection = Selection::of_plan(&self.catalog, "pro").unwrap();
        let active = Span::new(Timestamp::MIN, Timestamp::END);
        let terms = QuoteTerms { selection, zone: self.zone.clone(), seats: None, active, agreed: None };
        let bill = quote(&terms, Period::parse(month).unwrap(), &self.uses).unwrap();
        (bill.rounded, bill.precise)
    }

    /// The same of the subscription `s`, with what its account agreed to.
    pub(super) fn quoted_with_agreements(&self, month: &str) -> (i128, Exact) {
        let terms = QuoteTerms::of_subscription(&self.catalog, "s").unwrap();
        let bill = quote(&terms, Period::parse(month).unwrap(), &self.uses).unwrap();
        (bill.rounded, bill.precise)
    }
}

/// What was used at an instant.
struct Slice {
    at: Timestamp,
    quantities: Vec<Exact>,
    sequence: Vec<Exact>,
    is_sequence: bool,
    event_count: u64,
}

impl Slice {
    fn measure(&self) -> SliceMeasure<'_> {
        let measure = match self.quantities.as_slice() {
            _ if self.is_sequence => Measure::Sequence(&self.sequence),
            [quantity] => Measure::Scalar(*quantity),
            quantities => Measure::Dimensions(quantities),
        };
        let (slice, event_count) = (Span::new(self.at, self.at.plus(1)), self.event_count);
        SliceMeasure { slice, measure, covered: Exact::ZERO, event_count, event_digest: 0 }
    }
}

/// A grant of the account as a line of a catalog.
pub(super) fn grant(id: &str, amount: &str, terms: &str) -> String {
    format!(
        "{{ id = \"{id}\", account = \"acme\", amount = \"{amount}\", from = \"2026-01-01T00:00:00Z\", {terms} }},\n"
    )
}

/// A catalog's list of grants.
pub(super) fn grants(list: &[String]) -> String {
    format!("grant = [\n{}]", list.concat())
}

/// Lines of a bill that are worth something, by key, in minor units.
pub(super) fn worths(bill: &[BillLine]) -> BTreeMap<LineKey, i128> {
    let lines = bill.iter().filter(|line| line.rounded != 0);
    lines.map(|line| (line.key.clone(), line.rounded)).collect()
}

/// Issues what a position is more than what was issued, key by key; gives the sum.
pub(super) fn issue(position: &BTreeMap<LineKey, i128>, issued: &mut BTreeMap<LineKey, i128>) -> i128 {
    let before: i128 = issued.values().sum();
    let keys: Vec<LineKey> = issued.keys().chain(position.keys()).cloned().collect();
    for key in keys {
        let now = position.get(&key).copied().unwrap_or(0);
        *issued.entry(key).or_default() += now - issued.get(&key).copied().unwrap_or(0);
    }
    issued.retain(|_, amount| *amount != 0);
    issued.values().sum::<i128>() - before
}

/// The sum of exact amounts.
pub(super) fn precise(bill: &[BillLine]) -> Exact {
    bill.iter().fold(Exact::ZERO, |sum, line| sum.add(line.precise).unwrap())
}
