//! What usage costs, slowly: from the records of the control log and single events, with plain loops.
//!
//! Owns: the catalog as the auditor reads it, who owned a subject when, and the worth of every line of the plain plans.
//! It shares numbers, zones and spans with the program and nothing else: no timeline, no schedule, no cell, no position.
//! Quantities are whole halves of a unit and are priced half a unit at a time, in whole 10^-8ths of the currency.
//!
//! Leaves to others: which events count (`recount`), the plan with other models and the agreements (`books` holds their
//! lines against the journals, a replay against themselves).

use std::collections::{BTreeMap, BTreeSet};

use domain::time::HOUR;
use domain::{Currency, Period, Span, Timestamp, Zone};
use serde_json::Value;

use crate::actions::RICH;
use crate::recount::Counted;

/// Fraction digits of amounts.
pub(crate) const DIGITS: u32 = 8;

/// How a plain price turns a quantity into an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Graduated,
    PerUnit,
    Flat,
}

/// Id, plan, kind and meter of the plain prices.
pub(crate) const PRICES: [(&str, &str, Kind, Option<&str>); 6] = [
    ("p0-tokens", "p0", Kind::Graduated, Some("tokens")),
    ("p0-calls", "p0", Kind::PerUnit, Some("calls")),
    ("p0-fee", "p0", Kind::Flat, None),
    ("p1-tokens", "p1", Kind::PerUnit, Some("tokens")),
    ("p1-calls", "p1", Kind::Graduated, Some("calls")),
    ("p1-fee", "p1", Kind::Flat, None),
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

/// A meter as its record says.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) id: String,
    /// Otherwise it counts.
    pub(crate) has_value: bool,
    pub(crate) is_grouped: bool,
    pub(crate) filter: Option<String>,
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
    prices: BTreeMap<String, Vec<Version>>,
    subscriptions: BTreeMap<String, (String, Vec<Holding>)>,
    bindings: BTreeMap<String, Vec<Holding>>,
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
    pub(crate) halves: i64,
    pub(crate) events: i64,
    /// 10^-8ths.
    pub(crate) exact: i128,
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
                has_value: body["aggregation"] != "count",
                is_grouped: body["group_by"].is_array(),
                filter: body["filter"]["model"].as_str().map(str::to_string),
                negative: body["negative_usage"].as_str().unwrap_or("reject").to_string(),
            }),
            "prices" => self.prices.entry(id).or_default().push(version(body)),
            "subscriptions" => {
                let entry = self.subscriptions.entry(id).or_default();
                entry.0 = text(&body["account"]);
                entry.1.push(holding(&body["plan"], body));
            }
            "subjects" => self.bindings.entry(id).or_default().push(holding(&body["subscription"], body)),
            _ => {}
        }
    }

    fn plan_at(&self, subscription: &str, t: Timestamp) -> Option<&str> {
        holds(self.subscriptions.get(subscription).map(|(_, holdings)| holdings), t)
    }

    /// Who owns a subject at an instant: its subscription, and the plan of that.
    pub(crate) fn owner_at(&self, subject: &str, t: Timestamp) -> Option<(&str, &str)> {
        let subscription = holds(self.bindings.get(subject), t)?;
        Some((subscription, self.plan_at(subscription, t)?))
    }

    /// Instants at which the plan of a subscription may change.
    fn bounds_of(&self, subscription: &str) -> BTreeSet<Timestamp> {
        let holdings = self.subscriptions.get(subscription).into_iter().flat_map(|(_, holdings)| holdings);
        holdings.flat_map(|holding| [Some(holding.from), holding.until]).flatten().collect()
    }

    /// Pieces of a span in which a subscription has a plan.
    fn active_in(&self, subscription: &str, plan: &str, span: Span) -> Vec<Span> {
        let mut bounds = self.bounds_of(subscription);
        bounds.extend([span.from, span.until]);
        let inside: Vec<Timestamp> = bounds.range(span.from..=span.until).copied().collect();
        let has_plan = |t: Timestamp| self.plan_at(subscription, t).is_some_and(|found| found == plan);
        let pieces = inside.windows(2).filter(|pair| has_plan(pair[0]));
        pieces.map(|pair| Span::new(pair[0], pair[1])).collect()
    }

    /// First instant of the slice of an event of a subscription: nothing that rating sees changes after it, grants left
    /// out.
    pub(crate) fn slice_from(&self, subscription: &str, plan: &str, t: Timestamp) -> Timestamp {
        let account = &self.accounts[&self.subscriptions[subscription].0];
        let mut from = Timestamp::MIN;
        for zone in [&account.zone, &self.entities[&account.entity]] {
            from = from.max(zone.month(zone.period_of(t)).from);
        }
        for (id, own_plan, ..) in PRICES.iter().filter(|(_, own_plan, ..)| *own_plan == plan) {
            debug_assert_eq!(*own_plan, plan);
            let versions = self.prices.get(*id).into_iter().flatten();
            for start in versions.map(|version| version.from).filter(|start| *start <= t) {
                from = from.max(start);
            }
        }
        for bound in self.bounds_of(subscription).into_iter().filter(|bound| *bound <= t) {
            if self.plan_at(subscription, bound.plus(-1)) != self.plan_at(subscription, bound) {
                from = from.max(bound);
            }
        }
        from
    }

    /// Everything of the plain plans that is worth something as of an instant.
    pub(crate) fn worths(&self, counted: &[Counted<'_>], as_of: Timestamp) -> Worths {
        let mut worths = Worths::new();
        for (subscription, (account, _)) in &self.subscriptions {
            if account == RICH {
                continue;
            }
            for (price, plan, kind, meter) in PRICES {
                let Some(versions) = self.prices.get(price) else { continue };
                for window in months(&self.accounts[account].zone) {
                    let active = self.active_in(subscription, plan, window);
                    let Some(last) = active.last().copied() else { continue };
                    let charge = Charge {
                        known: self,
                        account,
                        subscription,
                        price,
                        plan,
                        versions,
                        window,
                        active: &active,
                        has_ended: last.until <= as_of,
                    };
                    match meter.filter(|_| kind != Kind::Flat) {
                        None => charge.add_fee(&mut worths),
                        Some(meter) => charge.add_usage(&mut worths, meter, counted),
                    }
                }
            }
        }
        worths.retain(|_, worth| *worth != Worth::default());
        worths
    }

    /// Minor units, half away from zero.
    fn round(&self, exact: i128) -> i128 {
        let exponent = self.currency.expect("there is an account").exponent();
        let unit = 10i128.pow(DIGITS - u32::from(exponent));
        let (whole, rest) = (exact / unit, exact % unit);
        if rest.abs() * 2 >= unit { whole + rest.signum() } else { whole }
    }
}

/// One price of one subscription in one window.
struct Charge<'a> {
    known: &'a Known,
    account: &'a str,
    subscription: &'a str,
    price: &'a str,
    plan: &'a str,
    versions: &'a [Version],
    window: Span,
    active: &'a [Span],
    has_ended: bool,
}

impl Charge<'_> {
    fn key(&self, group: Option<&str>, slice_from: Timestamp, version: usize) -> Key {
        Key {
            account: self.account.to_string(),
            subscription: self.subscription.to_string(),
            price: self.price.to_string(),
            window_from: self.window.from,
            group: group.map(str::to_string),
            slice_from,
            version: version as u64 + 1,
        }
    }

    /// The first active instant at which there is a version.
    fn start(&self) -> Option<(Timestamp, usize)> {
        let mut starts: Vec<Timestamp> = self.versions.iter().map(|version| version.from).collect();
        starts.retain(|at| self.active.iter().any(|piece| piece.contains(*at)));
        starts.extend(self.active.iter().map(|piece| piece.from));
        starts.sort();
        starts.into_iter().find_map(|at| self.version_at(at).map(|version| (at, version)))
    }

    /// A recurring amount is owed in arrears.
    fn add_fee(&self, worths: &mut Worths) {
        let Some((_, version)) = self.start().filter(|_| self.has_ended) else { return };
        let exact = self.versions[version].tiers[0].1 * 10_000;
        let minor = self.known.round(exact);
        worths.insert(self.key(None, self.window.from, version), Worth { exact, minor, ..Worth::default() });
    }

    fn add_usage(&self, worths: &mut Worths, meter: &str, counted: &[Counted<'_>]) {
        let meter = self.known.meters.iter().find(|known| known.id == meter);
        let mut groups: BTreeMap<Option<&str>, Vec<(Timestamp, i64)>> = BTreeMap::new();
        for event in counted {
            let sent = event.sent;
            let is_ours = self.window.contains(sent.time)
                && self.known.owner_at(sent.subject, sent.time) == Some((self.subscription, self.plan));
            let Some(meter) = meter.filter(|meter| is_ours && event.meters.contains(&meter.id)) else {
                continue;
            };
            let halves = if meter.has_value { event.halves } else { 2 };
            groups.entry(sent.group.filter(|_| meter.is_grouped)).or_default().push((sent.time, halves));
        }
        if groups.is_empty() {
            groups.insert(None, Vec::new());
        }
        for (group, mut events) in groups {
            events.sort_unstable();
            self.add_group(worths, group, &events);
        }
    }

    fn add_group(&self, worths: &mut Worths, group: Option<&str>, events: &[(Timestamp, i64)]) {
        let fixed = self.start().filter(|(_, version)| {
            let terms = &self.versions[*version];
            terms.is_flat_at_zero && terms.tiers[0].2 != 0 && (self.has_ended || !events.is_empty())
        });
        // In order of time: what each slice adds.
        let mut slices: BTreeMap<(Timestamp, usize), Worth> = BTreeMap::new();
        if let Some((at, version)) = fixed {
            let flat = self.versions[version].tiers[0].2 * 1_000_000;
            slices.entry((at, version)).or_default().exact += flat;
        }
        let mut used = 0i64;
        for (time, halves) in events {
            let Some(version) = self.version_at(*time) else {
                used += halves;
                continue;
            };
            let slice_from = self.known.slice_from(self.subscription, self.plan, *time);
            let worth = slices.entry((slice_from, version)).or_default();
            worth.events += 1;
            worth.halves += halves;
            for _ in 0..halves.abs() {
                // A half unit from `low` up, or back down to `low`.
                let low = if *halves > 0 { used } else { used - 1 };
                let cost = self.versions[version].half(low, fixed.is_some());
                worth.exact += i128::from(halves.signum()) * cost;
                used += halves.signum();
            }
        }
        let (mut exact, mut minor) = (0, 0);
        for ((slice_from, version), mut worth) in slices {
            exact += worth.exact;
            worth.minor = self.known.round(exact) - minor;
            minor += worth.minor;
            worths.insert(self.key(group, slice_from, version), worth);
        }
    }

    /// The version of a price in force: the latest to take effect, and of equals the newest.
    fn version_at(&self, t: Timestamp) -> Option<usize> {
        let started = self.versions.iter().enumerate().filter(|(_, version)| version.from <= t);
        started.max_by_key(|(_, version)| version.from).map(|(index, _)| index)
    }
}

fn holding(what: &Value, body: &Value) -> Holding {
    Holding {
        what: text(what),
        from: instant(&body["from"]).expect("a start"),
        until: instant(&body["until"]),
    }
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

/// The months that histories touch.
fn months(zone: &Zone) -> Vec<Span> {
    let mut period = Period::parse("2025-11").expect("a month");
    let mut months = Vec::new();
    for _ in 0..12 {
        months.push(zone.month(period));
        period = period.next();
    }
    months
}

/// Hour zero of histories is the first of January in UTC.
pub(crate) fn hour(hours: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant").plus(hours * HOUR)
}
