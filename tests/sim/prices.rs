//! What usage costs, slowly: from the records of the control log and single events, with plain loops.
//!
//! Owns: the catalog as the auditor reads it, who owned a subject when, and the worth of every line of the plain plans.
//! It shares numbers, zones and spans with the program and nothing else: no timeline, no schedule, no cell, no position.
//! Quantities that add up are whole halves of a unit and are priced half a unit at a time, in whole 10^-8ths of the currency;
//! what other aggregations come to has a price per unit.
//!
//! Leaves to others: which events count (`recount`), the plan with other models and the agreements (`books` holds their
//! lines against the journals, a replay against themselves).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use domain::time::HOUR;
use domain::{Currency, Exact, Rounding, Span, Timestamp, Zone};
use serde_json::Value;

use crate::actions::{RICH, SUBJECTS, Scope};
use crate::civil;
use crate::measures::{Measure, Used, of_halves};
use crate::recount::Counted;

/// Fraction digits of amounts that are made of half units.
const DIGITS: u32 = 8;

/// How a plain price turns a quantity into an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Graduated,
    PerUnit,
    Flat,
}

/// Id, plan, kind and meter of the plain prices. Those of `p3` count on from others; `m0` and `m1` are meters of any aggregation.
pub(crate) const PRICES: [(&str, &str, Kind, Option<&str>); 12] = [
    ("p0-tokens", "p0", Kind::Graduated, Some("tokens")),
    ("p0-calls", "p0", Kind::PerUnit, Some("calls")),
    ("p0-fee", "p0", Kind::Flat, None),
    ("p1-tokens", "p1", Kind::PerUnit, Some("tokens")),
    ("p1-calls", "p1", Kind::Graduated, Some("calls")),
    ("p1-fee", "p1", Kind::Flat, None),
    ("p3-tokens", "p3", Kind::Graduated, Some("tokens")),
    ("p3-calls", "p3", Kind::Graduated, Some("calls")),
    ("p0-m0", "p0", Kind::PerUnit, Some("m0")),
    ("p1-m0", "p1", Kind::PerUnit, Some("m0")),
    ("p1-m1", "p1", Kind::PerUnit, Some("m1")),
    ("p3-m1", "p3", Kind::PerUnit, Some("m1")),
];

/// A version of a price as its record says.
#[derive(Clone, Debug)]
struct Version {
    from: Timestamp,
    /// Last half unit, 10^-4ths a unit, 10^-2ths at its start.
    tiers: Vec<(Option<i64>, i128, i128)>,
    per: i128,
    is_flat_at_zero: bool,
}

impl Version {
    /// What the half unit above `low` halves costs; `is_flat_paid`: the window's fixed part has a first flat amount.
    fn half(&self, low: i64, is_flat_paid: bool) -> i128 {
        let index = self
            .tiers
            .iter()
            .position(|(up_to, ..)| up_to.is_none_or(|up_to| low < up_to))
            .expect("the last tier has no end");
        let bottom = if index == 0 { 0 } else { self.tiers[index - 1].0.expect("only the last has no end") };
        let is_owed = index > 0 || !(self.is_flat_at_zero || is_flat_paid);
        let (_, unit, flat) = self.tiers[index];
        let flat = if low == bottom && is_owed { flat * 1_000_000 } else { 0 };
        unit * 10_000 / (2 * self.per) + flat
    }
}

/// A price as its records say.
struct Price {
    plan: String,
    /// Nothing if it is not priced here.
    kind: Option<Kind>,
    meter: Option<String>,
    unit: &'static str,
    versions: Vec<Version>,
}

/// A meter as its record says.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) measure: Measure,
    pub(crate) is_grouped: bool,
    pub(crate) filter: Value,
    pub(crate) negative: String,
}

/// Something that holds from an instant on: a subject's subscription, or a subscription's plan.
#[derive(Clone, Debug)]
struct Holding {
    what: String,
    from: Timestamp,
    until: Option<Timestamp>,
}

fn holds(holdings: Option<&Vec<Holding>>, t: Timestamp) -> Option<&str> {
    let started = holdings?.iter().filter(|holding| holding.from <= t).max_by_key(|holding| holding.from)?;
    started.until.is_none_or(|until| t < until).then_some(&started.what)
}

struct Account {
    entity: String,
    zone: Zone,
}

#[derive(Default)]
struct Subscription {
    account: String,
    anchor: Option<Timestamp>,
    plans: Vec<Holding>,
}

type Bounds = Rc<BTreeSet<Timestamp>>;

/// What a prefix of the control log says.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) horizon: i64,
    pub(crate) future_max: i64,
    pub(crate) correction_horizon: i64,
    pub(crate) pending_per_slot_max: u64,
    /// In the order in which they were made.
    pub(crate) meters: Vec<Meter>,
    currency: Option<Currency>,
    entities: BTreeMap<String, Zone>,
    accounts: BTreeMap<String, Account>,
    prices: BTreeMap<String, Price>,
    subscriptions: BTreeMap<String, Subscription>,
    bindings: BTreeMap<String, Vec<Holding>>,
    /// By subscription and plan: bounds of slices that were asked for since the last record.
    bounds: RefCell<BTreeMap<(String, String), Bounds>>,
}

/// What a charge line is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) account: String,
    pub(crate) subscription: String,
    pub(crate) price: String,
    pub(crate) window_from: Timestamp,
    pub(crate) group: Option<String>,
    pub(crate) slice_from: Timestamp,
    pub(crate) version: u64,
}

/// What it is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Worth {
    pub(crate) quantity: Exact,
    pub(crate) events: i64,
    pub(crate) exact: Exact,
    pub(crate) minor: i128,
}

pub(crate) type Worths = BTreeMap<Key, Worth>;

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_string()
}

fn instant(value: &Value) -> Option<Timestamp> {
    value.as_str().map(|text| Timestamp::parse(text).expect("an instant"))
}

fn zone(value: &Value) -> Zone {
    Zone::new(value.as_str().expect("a zone")).expect("a zone")
}

/// A decimal text in 10^-`digits`ths.
fn scaled(value: &Value, digits: usize) -> i128 {
    let text = value.as_str().unwrap_or("0");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= digits, "{text} has at most {digits} fraction digits");
    format!("{whole}{fraction:0<digits$}").parse().expect("digits")
}

impl Known {
    /// Takes the next record of the control log.
    pub(crate) fn apply(&mut self, record: &Value) {
        self.bounds.borrow_mut().clear();
        match record["record"].as_str() {
            Some("policy") => {
                self.horizon = record["horizon"].as_i64().expect("a duration");
                self.future_max = record["future_max"].as_i64().expect("a duration");
                self.correction_horizon = record["correction_horizon"].as_i64().expect("a duration");
                self.pending_per_slot_max = record["pending_per_slot_max"].as_u64().expect("a number");
            }
            Some("put") => self.apply_put(&text(&record["kind"]), text(&record["id"]), &record["body"]),
            _ => {}
        }
    }

    fn apply_put(&mut self, kind: &str, id: String, body: &Value) {
        match kind {
            "entities" => {
                self.entities.insert(id, zone(&body["time_zone"]));
            }
            "accounts" => {
                self.currency = Currency::from_code(&text(&body["currency"])).ok();
                let account = Account { entity: text(&body["entity"]), zone: zone(&body["time_zone"]) };
                self.accounts.insert(id, account);
            }
            "meters" if self.meters.iter().all(|meter| meter.id != id) => self.meters.push(Meter {
                id,
                measure: Measure::of(body),
                is_grouped: body["group_by"].is_array(),
                filter: body["filter"].clone(),
                negative: body["negative_usage"].as_str().unwrap_or("reject").to_string(),
            }),
            "prices" => self.prices.entry(id).or_insert_with(|| price(body)).versions.push(version(body)),
            "subscriptions" => {
                let known = self.subscriptions.entry(id).or_default();
                known.account = text(&body["account"]);
                known.anchor = instant(&body["anchor"]);
                known.plans.push(holding(&body["plan"], body));
            }
            "subjects" => self.bindings.entry(id).or_default().push(holding(&body["subscription"], body)),
            _ => {}
        }
    }

    fn plan_at(&self, subscription: &str, t: Timestamp) -> Option<&str> {
        holds(self.subscriptions.get(subscription).map(|known| &known.plans), t)
    }

    /// Who owns a subject at an instant: its subscription, and the plan of that.
    pub(crate) fn owner_at(&self, subject: &str, t: Timestamp) -> Option<(&str, &str)> {
        let subscription = holds(self.bindings.get(subject), t)?;
        Some((subscription, self.plan_at(subscription, t)?))
    }

    pub(crate) fn account_of(&self, subscription: &str) -> &str {
        &self.subscriptions[subscription].account
    }

    /// Whether whoever is asked about is there.
    pub(crate) fn check_scope(&self, scope: Scope) -> Result<(), &'static str> {
        match scope {
            Scope::Subscription(id) if !self.subscriptions.contains_key(id) => Err("subscription_must_exist"),
            Scope::Account(id) if !self.accounts.contains_key(id) => Err("account_must_exist"),
            _ => Ok(()),
        }
    }

    pub(crate) fn meter(&self, id: &str) -> Option<&Meter> {
        self.meters.iter().find(|meter| meter.id == id)
    }

    /// Pieces of time in which a subscription has a plan.
    fn pieces_of(&self, subscription: &str, plan: &str) -> Vec<Span> {
        let holdings = &self.subscriptions[subscription].plans;
        let mut bounds: BTreeSet<Timestamp> = [Timestamp::END].into();
        bounds.extend(holdings.iter().flat_map(|holding| [Some(holding.from), holding.until]).flatten());
        let bounds: Vec<Timestamp> = bounds.into_iter().collect();
        let has_plan = |t: Timestamp| self.plan_at(subscription, t).is_some_and(|found| found == plan);
        let pieces = bounds.windows(2).filter(|pair| has_plan(pair[0]));
        pieces.map(|pair| Span::new(pair[0], pair[1])).collect()
    }

    /// The windows of a unit that a subscription has.
    fn windows_of(&self, subscription: &str, unit: &'static str) -> Rc<Vec<Span>> {
        let Subscription { account, anchor, .. } = &self.subscriptions[subscription];
        windows(&self.accounts[account].zone, unit, *anchor)
    }

    /// Instants at which something changes that rating sees of a subscription under a plan, grants left out.
    fn bounds_of(&self, subscription: &str, plan: &str) -> Bounds {
        let key = (subscription.to_string(), plan.to_string());
        if let Some(found) = self.bounds.borrow().get(&key) {
            return found.clone();
        }
        let Subscription { account, plans, .. } = &self.subscriptions[subscription];
        let account = &self.accounts[account];
        let mut bounds = BTreeSet::from([Timestamp::MIN]);
        for zone in [&account.zone, &self.entities[&account.entity]] {
            bounds.extend(windows(zone, "month", None).iter().map(|window| window.from));
        }
        for price in self.prices.values().filter(|price| price.plan == plan) {
            bounds.extend(self.windows_of(subscription, price.unit).iter().map(|window| window.from));
            bounds.extend(price.versions.iter().map(|version| version.from));
        }
        let ends = plans.iter().flat_map(|holding| [Some(holding.from), holding.until]).flatten();
        let changes = |bound: &Timestamp| {
            self.plan_at(subscription, bound.plus(-1)) != self.plan_at(subscription, *bound)
        };
        bounds.extend(ends.filter(changes));
        let bounds = Rc::new(bounds);
        self.bounds.borrow_mut().insert(key, bounds.clone());
        bounds
    }

    /// First instant of the slice of an event of a subscription: nothing that rating sees changes after it, grants left
    /// out.
    pub(crate) fn slice_from(&self, subscription: &str, plan: &str, t: Timestamp) -> Timestamp {
        *self.bounds_of(subscription, plan).range(..=t).next_back().expect("time has a start")
    }

    /// Everything of the plain plans that is worth something as of an instant.
    pub(crate) fn worths(&self, counted: &[Counted<'_>], as_of: Timestamp) -> Worths {
        let mut worths = Worths::new();
        let mut counted: Vec<&Counted<'_>> = counted.iter().collect();
        counted.sort_by_key(|event| (event.sent.time, event.place));
        let last = counted.last().map_or(as_of, |event| event.sent.time.max(as_of));
        for (subscription, Subscription { account, .. }) in &self.subscriptions {
            if account == RICH {
                continue;
            }
            for (id, price) in &self.prices {
                let pieces = self.pieces_of(subscription, &price.plan);
                if pieces.is_empty() || price.kind.is_none() {
                    continue;
                }
                let alike: Vec<(&Price, Vec<Span>)> = self
                    .prices
                    .values()
                    .filter(|other| self.count_alike(price, other))
                    .map(|other| (other, self.pieces_of(subscription, &other.plan)))
                    .collect();
                let charges = Charges { known: self, account, subscription, id, price, alike: &alike };
                let used = charges.used(&counted);
                // What has not begun and has no events is worth nothing.
                let windows = self.windows_of(subscription, price.unit);
                for window in windows.iter().copied().filter(|window| window.from <= last) {
                    let active = inside(&pieces, window);
                    let Some(end) = active.last().map(|piece| piece.until) else { continue };
                    let has_ended = end <= as_of;
                    let charge = Charge { of: &charges, window, active: &active, as_of, has_ended };
                    match price.kind {
                        Some(Kind::Flat) | None => charge.add_fee(&mut worths),
                        Some(_) => charge.add_usage(&mut worths, &used, &counted),
                    }
                }
            }
        }
        worths.retain(|_, worth| *worth != Worth::default());
        worths
    }

    /// Whether a price goes on counting what one of another plan counted in the same window.
    fn count_alike(&self, price: &Price, other: &Price) -> bool {
        let counted = |price: &Price| (price.kind, price.meter.clone(), price.unit);
        let meter = price.meter.as_ref().and_then(|meter| self.meter(meter));
        price.plan != other.plan
            && price.kind.is_some_and(|kind| kind != Kind::Flat)
            && counted(price) == counted(other)
            && meter.is_some_and(|meter| meter.measure.goes_on())
    }

    /// Minor units, half away from zero.
    fn round(&self, exact: Exact) -> i128 {
        let exponent = self.currency.expect("there is an account").exponent();
        exact.round_to_minor(Rounding::HalfAway, exponent).expect("amounts of these worlds fit")
    }
}

/// Parts of pieces of time that lie in a window.
fn inside(pieces: &[Span], window: Span) -> Vec<Span> {
    let overlapping = pieces.iter().filter(|piece| piece.overlaps(window));
    let part = |piece: &Span| Span::new(piece.from.max(window.from), piece.until.min(window.until));
    overlapping.map(part).collect()
}

/// The first instant of pieces at which a price has a version, and that version.
fn start_in(price: &Price, pieces: &[Span]) -> Option<(Timestamp, usize)> {
    let mut starts: Vec<Timestamp> = price.versions.iter().map(|version| version.from).collect();
    starts.retain(|at| pieces.iter().any(|piece| piece.contains(*at)));
    starts.extend(pieces.iter().map(|piece| piece.from));
    starts.sort();
    starts.into_iter().find_map(|at| price.version_at(at).map(|version| (at, version)))
}

impl Price {
    /// The version in force: the latest to take effect, and of equals the newest.
    fn version_at(&self, t: Timestamp) -> Option<usize> {
        let started = self.versions.iter().enumerate().filter(|(_, version)| version.from <= t);
        started.max_by_key(|(_, version)| version.from).map(|(index, _)| index)
    }
}

/// An event of a subscription that a price counts.
#[derive(Clone, Copy)]
struct CountedUse<'a> {
    group: Option<&'a str>,
    used: Used,
    slice_from: Timestamp,
    /// Whether the price's own plan was active.
    is_charged: bool,
}

/// One price of one subscription.
struct Charges<'a> {
    known: &'a Known,
    account: &'a str,
    subscription: &'a str,
    id: &'a str,
    price: &'a Price,
    /// Prices of other plans that count alike, and when these are active.
    alike: &'a [(&'a Price, Vec<Span>)],
}

impl Charges<'_> {
    /// What the price counts of events in order of time and place.
    fn used<'e>(&self, counted: &[&Counted<'e>]) -> Vec<CountedUse<'e>> {
        let meter = self.price.meter.as_ref().and_then(|meter| self.known.meter(meter));
        let Some(meter) = meter else { return Vec::new() };
        let use_of = |event: &&Counted<'e>| {
            let sent = event.sent;
            let owner = self.known.owner_at(sent.subject, sent.time);
            let (_, plan) = owner.filter(|(owner, _)| *owner == self.subscription)?;
            let counts_on =
                |(other, _): &(&Price, _)| other.plan == plan && other.version_at(sent.time).is_some();
            let is_charged = plan == self.price.plan;
            let is_counted = is_charged || self.alike.iter().any(counts_on);
            (is_counted && event.meters.contains(&meter.id)).then(|| CountedUse {
                group: sent.labels.group.filter(|_| meter.is_grouped),
                used: event.used_of(meter),
                slice_from: self.known.slice_from(self.subscription, plan, sent.time),
                is_charged,
            })
        };
        counted.iter().filter_map(use_of).collect()
    }
}

/// One price of one subscription in one window.
struct Charge<'a> {
    of: &'a Charges<'a>,
    window: Span,
    active: &'a [Span],
    as_of: Timestamp,
    has_ended: bool,
}

/// What slices of a window add, in order of time, by first instant and version.
type Slices = BTreeMap<(Timestamp, usize), Worth>;

impl Charge<'_> {
    fn key(&self, group: Option<&str>, slice_from: Timestamp, version: usize) -> Key {
        Key {
            account: self.of.account.to_string(),
            subscription: self.of.subscription.to_string(),
            price: self.of.id.to_string(),
            window_from: self.window.from,
            group: group.map(str::to_string),
            slice_from,
            version: version as u64 + 1,
        }
    }

    /// A recurring amount is owed in arrears.
    fn add_fee(&self, worths: &mut Worths) {
        let start = start_in(self.of.price, self.active).filter(|_| self.has_ended);
        let Some((_, version)) = start else { return };
        let exact = Exact::new(self.of.price.versions[version].tiers[0].1, 4);
        let minor = self.of.known.round(exact);
        worths.insert(self.key(None, self.window.from, version), Worth { exact, minor, ..Worth::default() });
    }

    fn add_usage(&self, worths: &mut Worths, used: &[CountedUse<'_>], counted: &[&Counted<'_>]) {
        let meter = self.of.price.meter.as_ref().and_then(|meter| self.of.known.meter(meter));
        let Some(meter) = meter else { return };
        // In order of time.
        let from = used.partition_point(|event| event.used.time < self.window.from);
        let until = used.partition_point(|event| event.used.time < self.window.until);
        let mut groups: BTreeMap<Option<&str>, Vec<CountedUse<'_>>> = BTreeMap::new();
        for event in &used[from..until] {
            groups.entry(event.group).or_default().push(*event);
        }
        let mut levels = self.levels_of(meter, counted);
        for group in levels.keys() {
            groups.entry(*group).or_default();
        }
        if groups.is_empty() {
            groups.insert(None, Vec::new());
        }
        for (group, events) in groups {
            let slices = match meter.measure {
                Measure::Sum | Measure::Count => self.slices_by_halves(&events),
                Measure::Level(_) => self.slices_of_level(&events, levels.remove(&group).unwrap_or_default()),
                measure => self.slices_of_measure(measure, &events),
            };
            let (mut exact, mut minor) = (Exact::ZERO, 0);
            for ((slice_from, version), mut worth) in slices {
                exact = exact.add(worth.exact).expect("amounts fit");
                worth.minor = self.of.known.round(exact) - minor;
                minor += worth.minor;
                worths.insert(self.key(group, slice_from, version), worth);
            }
        }
    }

    /// Half units are priced one by one.
    fn slices_by_halves(&self, events: &[CountedUse<'_>]) -> Slices {
        let price = self.of.price;
        let begin = |(other, pieces): &(&Price, Vec<Span>)| start_in(other, &inside(pieces, self.window));
        let is_continued = self.of.alike.iter().filter_map(begin).any(|(at, _)| at < self.active[0].from);
        let fixed = start_in(price, self.active).filter(|(_, version)| {
            let terms = &price.versions[*version];
            let has_flat = terms.is_flat_at_zero && terms.tiers[0].2 != 0;
            has_flat && !is_continued && (self.has_ended || !events.is_empty())
        });
        let mut slices: BTreeMap<(Timestamp, usize), (i64, i64, i128)> = BTreeMap::new();
        if let Some((at, version)) = fixed {
            slices.entry((at, version)).or_default().2 += price.versions[version].tiers[0].2 * 1_000_000;
        }
        let mut used = 0i64;
        for event in events {
            let halves = event.used.halves;
            let Some(version) = price.version_at(event.used.time).filter(|_| event.is_charged) else {
                used += halves;
                continue;
            };
            let (quantity, count, exact) = slices.entry((event.slice_from, version)).or_default();
            *quantity += halves;
            *count += 1;
            for _ in 0..halves.abs() {
                // A half unit from `low` up, or back down to `low`.
                let low = if halves > 0 { used } else { used - 1 };
                let cost = price.versions[version].half(low, fixed.is_some() || is_continued);
                *exact += i128::from(halves.signum()) * cost;
                used += halves.signum();
            }
        }
        let worth_of = |(halves, events, exact): (i64, i64, i128)| Worth {
            quantity: of_halves(halves.into()),
            events,
            exact: Exact::new(exact, DIGITS),
            minor: 0,
        };
        slices.into_iter().map(|(slice, worth)| (slice, worth_of(worth))).collect()
    }

    /// A slice adds what all events up to its end come to, less what those up to its start do.
    fn slices_of_measure(&self, measure: Measure, events: &[CountedUse<'_>]) -> Slices {
        let used: Vec<Used> = events.iter().map(|event| event.used).collect();
        let up_to = |count: usize| measure.of_events(&used[..count], self.window.from).unwrap_or_default();
        let mut slices = Slices::new();
        let mut from = 0;
        while from < events.len() {
            let slice_from = events[from].slice_from;
            let until = from + events[from..].partition_point(|event| event.slice_from == slice_from);
            let quantity = up_to(until).subtract(up_to(from)).expect("quantities fit");
            if events[from].is_charged {
                self.add_quantity(&mut slices, slice_from, quantity, until - from);
            }
            from = until;
        }
        slices
    }

    /// A slice adds what subjects had in it while the subscription owned them.
    fn slices_of_level(&self, events: &[CountedUse<'_>], levels: BTreeMap<Timestamp, i128>) -> Slices {
        let length = self.window.until.nanoseconds() - self.window.from.nanoseconds();
        let of_events = events.iter().filter(|event| event.is_charged).map(|event| event.slice_from);
        let all: BTreeSet<Timestamp> = of_events.chain(levels.keys().copied()).collect();
        let mut slices = Slices::new();
        for slice_from in all {
            let count = events.iter().filter(|event| event.slice_from == slice_from).count();
            let halves = levels.get(&slice_from).copied().unwrap_or(0);
            let quantity = Exact::ratio(halves, 2 * i128::from(length)).expect("a window has a length");
            self.add_quantity(&mut slices, slice_from, quantity, count);
        }
        slices
    }

    /// Of a price per unit.
    fn add_quantity(&self, slices: &mut Slices, slice_from: Timestamp, quantity: Exact, count: usize) {
        let at = slice_from.max(self.window.from);
        let Some(version) = self.of.price.version_at(at) else { return };
        let terms = &self.of.price.versions[version];
        let unit = Exact::new(terms.tiers[0].1, 4).divide(Exact::from_integer(terms.per));
        let exact = unit.and_then(|unit| unit.multiply(quantity)).expect("amounts fit");
        let worth = Worth { quantity, events: count as i64, exact, minor: 0 };
        slices.insert((slice_from, version), worth);
    }

    /// Halves times nanoseconds that subjects had in the window as far as it is known, by group and slice.
    fn levels_of<'e>(
        &self,
        meter: &Meter,
        counted: &[&Counted<'e>],
    ) -> BTreeMap<Option<&'e str>, BTreeMap<Timestamp, i128>> {
        let mut levels: BTreeMap<_, BTreeMap<Timestamp, i128>> = BTreeMap::new();
        let Measure::Level(level) = meter.measure else { return BTreeMap::new() };
        let Charges { known, subscription, price, .. } = self.of;
        let bounds = known.bounds_of(subscription, &price.plan);
        for subject in SUBJECTS {
            let Some(bindings) = known.bindings.get(subject) else { continue };
            let is_ours = |event: &&&Counted<'e>| {
                let sent = event.sent;
                sent.subject == subject
                    && event.meters.contains(&meter.id)
                    && known.owner_at(subject, sent.time).is_some()
            };
            let mut histories: BTreeMap<Option<&'e str>, Vec<Used>> = BTreeMap::new();
            for event in counted.iter().filter(is_ours) {
                let group = event.sent.labels.group.filter(|_| meter.is_grouped);
                histories.entry(group).or_default().push(event.used_of(meter));
            }
            let mut ends: BTreeSet<Timestamp> =
                bindings.iter().flat_map(|holding| [Some(holding.from), holding.until]).flatten().collect();
            ends.extend(bounds.iter().copied());
            for active in self.active.iter().filter(|active| active.from < self.as_of) {
                let mut instants: BTreeSet<Timestamp> = [active.from, active.until.min(self.as_of)].into();
                instants.extend(ends.iter().copied().filter(|at| active.contains(*at) && *at < self.as_of));
                let instants: Vec<Timestamp> = instants.into_iter().collect();
                for pair in instants.windows(2) {
                    if holds(Some(bindings), pair[0]) != Some(subscription) {
                        continue;
                    }
                    let slice_from = known.slice_from(subscription, &price.plan, pair[0]);
                    for (group, history) in &histories {
                        let integral = level.integral(history, Span::new(pair[0], pair[1]));
                        *levels.entry(*group).or_default().entry(slice_from).or_default() += integral;
                    }
                }
            }
        }
        levels
    }
}

fn holding(what: &Value, body: &Value) -> Holding {
    Holding {
        what: text(what),
        from: instant(&body["from"]).expect("a start"),
        until: instant(&body["until"]),
    }
}

fn price(body: &Value) -> Price {
    let kind = match body["model"].as_str() {
        _ if body["plan"] == "p2" => None,
        Some("graduated") => Some(Kind::Graduated),
        Some("per_unit") => Some(Kind::PerUnit),
        _ => Some(Kind::Flat),
    };
    let unit = UNITS.into_iter().find(|unit| body["window"] == *unit).expect("a window");
    let meter = body["meter"].as_str().map(str::to_string);
    Price { plan: text(&body["plan"]), kind, meter, unit, versions: Vec::new() }
}

fn version(body: &Value) -> Version {
    let tier = |tier: &Value| {
        let up_to = tier["up_to"].as_str().map(|_| (scaled(&tier["up_to"], 1) / 5) as i64);
        (up_to, scaled(&tier["unit_amount"], 4), scaled(&tier["flat_amount"], 2))
    };
    // The plan with other models is not priced here; its versions only bound slices.
    let is_plain = body["plan"] != "p2";
    let tiers = body["tiers"].as_array().filter(|_| is_plain).map(|tiers| tiers.iter().map(tier).collect());
    let whole = || vec![(None, if is_plain { scaled(&body["unit_amount"], 4) } else { 0 }, 0)];
    Version {
        from: instant(&body["effective_from"]).unwrap_or(Timestamp::MIN),
        tiers: tiers.unwrap_or_else(whole),
        per: i128::from(body["per"].as_u64().unwrap_or(1)),
        is_flat_at_zero: body["flat_at_zero"].as_bool().unwrap_or(true),
    }
}

/// Windows of prices.
pub(crate) const UNITS: [&str; 5] = ["day", "week", "month", "quarter", "year"];

/// Zone, unit and anchor of windows.
type Grid = (String, &'static str, Option<Timestamp>);

/// The windows of a unit that histories touch; each is looked for once.
pub(crate) fn windows(zone: &Zone, unit: &'static str, anchor: Option<Timestamp>) -> Rc<Vec<Span>> {
    thread_local! {
        static FOUND: RefCell<BTreeMap<Grid, Rc<Vec<Span>>>> = RefCell::default();
    }
    let key = (zone.name().to_string(), unit, anchor);
    let find = || Rc::new(civil::windows(zone, unit, anchor));
    FOUND.with_borrow_mut(|found| found.entry(key).or_insert_with(find).clone())
}

/// Hour zero of histories is the first of January in UTC.
pub(crate) fn hour(hours: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant").plus(hours * HOUR)
}
