//! A price of any model, in versions, usage of one window, and what it is worth the slow way.
//!
//! Owns: random terms and events, the price that they make, its position in any slices, and the same without rating. Leaves
//! to others: which of it must hold (`properties`).
//!
//! The slow way walks through the units half a unit at a time, event by event, in whole 10^-8ths: no formula, no difference
//! of cumulative amounts, none of the exact arithmetic that rating uses.

use std::collections::{BTreeMap, BTreeSet};

use domain::time::HOUR;
use domain::{Currency, Decimal, Exact, GroupTexts, Span, Timestamp, Zone};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::catalog::{Price, PriceTimeline, PriceVersion};
use crate::rating::shop::at;
use crate::rating::{Measure, PositionLine, SliceMeasure, WindowTerms, position};

/// Hours of the window.
pub(super) const HOURS: i64 = 48;
pub(super) const MODELS: [&str; 12] = [
    "per_unit",
    "converted",
    "graduated",
    "volume",
    "package",
    "stairstep",
    "capacity",
    "percentage",
    "graduated_percentage",
    "matrix",
    "dynamic",
    "flat",
];
pub(super) const KINDS: [&str; 3] = ["plain", "tiered", "other"];

/// What happened: so many half units of a kind, in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) hour: i64,
    /// Breaks ties, and says in which order events become known.
    pub(super) key: u32,
    pub(super) halves: i64,
    pub(super) kind: usize,
}

/// Numbers that make a price of any model.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// Half units of a tier, 10^-4ths for a unit, 10^-2ths once.
    pub(super) tiers: Vec<(i64, i128, i128)>,
    pub(super) flat_at_zero: bool,
    pub(super) included: i64,
    /// Half units of a package, and whether a started one counts.
    pub(super) package: (i64, bool),
    pub(super) free_events: Option<u64>,
    pub(super) free_amount: Option<i64>,
    /// 10^-2ths.
    pub(super) event_min: Option<i128>,
    pub(super) event_above_min: Option<i128>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) model: &'static str,
    /// Versions of the price, each with its first hour; the first holds always.
    pub(super) versions: Vec<(i64, Terms)>,
    pub(super) events: Vec<Event>,
    pub(super) currency: &'static str,
}

pub(super) fn decimal(mantissa: i128, scale: u8) -> String {
    Decimal::new(mantissa, scale).unwrap().to_string()
}

pub(super) fn halves(count: i64) -> String {
    decimal(i128::from(count) * 5, 1)
}

impl Terms {
    fn ladder(&self, tier: impl Fn(i128, i128) -> Value) -> Value {
        let (mut low, last) = (0, self.tiers.len() - 1);
        let tiers = self.tiers.iter().enumerate().map(|(index, (width, unit, flat))| {
            let mut tier = tier(*unit, *flat);
            low += width;
            if index < last {
                tier.as_object_mut().unwrap().insert("up_to".to_string(), halves(low).into());
            }
            tier
        });
        tiers.collect()
    }

    fn unit_amount(&self) -> String {
        decimal(self.tiers[0].1, 4)
    }

    /// The fields of a price of a model.
    pub(super) fn body(&self, model: &str) -> Value {
        let tiers = || {
            self.ladder(
                |unit, flat| json!({ "unit_amount": decimal(unit, 4), "flat_amount": decimal(flat, 2) }),
            )
        };
        let unit = self.unit_amount();
        let mut body = match model {
            "per_unit" => json!({ "unit_amount": unit }),
            "converted" => json!({
                "model": "per_unit", "unit_amount": unit, "convert": { "divide": halves(self.package.0) },
                "round_quantity": { "mode": "ceiling" },
            }),
            "graduated" | "volume" => json!({ "tiers": tiers() }),
            "package" => json!({
                "unit_amount": unit, "package_size": halves(self.package.0),
                "package_round": if self.package.1 { "up" } else { "down" },
            }),
            "stairstep" => {
                json!({ "tiers": self.ladder(|_, flat| json!({ "flat_amount": decimal(flat, 2) })) })
            }
            "capacity" => json!({
                "meters": ["units", "seats"],
                "steps": [
                    { "up_to": { "units": halves(self.tiers[0].0) }, "amount": decimal(self.tiers[0].2, 2) },
                    { "up_to": { "seats": halves(self.package.0) }, "amount": "3" },
                    { "amount": "11.5" },
                ],
            }),
            "percentage" => {
                json!({ "rate_percent": decimal(self.tiers[0].1, 2), "fixed_amount": decimal(self.tiers[0].2, 2) })
            }
            "graduated_percentage" => json!({
                "tiers": self.ladder(|unit, flat| json!({ "rate_percent": decimal(unit, 2), "flat_amount": decimal(flat, 2) })),
            }),
            "matrix" => json!({
                "meter": "kinds", "unmatched": "zero",
                "rows": [
                    { "when": { "kind": KINDS[0] }, "unit_amount": unit },
                    { "when": { "kind": KINDS[1] }, "tiers": tiers() },
                ],
            }),
            "dynamic" => json!({ "multiplier": unit }),
            "flat" => json!({ "unit_amount": unit }),
            other => panic!("{other} is no model"),
        };
        let fields = body.as_object_mut().unwrap();
        let mut put = |name: &str, value: Value| {
            fields.entry(name.to_string()).or_insert(value);
        };
        put("model", model.into());
        put("window", "month".into());
        put("flat_at_zero", self.flat_at_zero.into());
        match model {
            "flat" | "capacity" => {}
            "percentage" => {
                put("meter", "units".into());
                if let Some(count) = self.free_events {
                    put("free_events", count.into());
                }
                if let Some(amount) = self.free_amount {
                    put("free_amount", halves(amount).into());
                }
                if let Some(min) = self.event_min {
                    put("event_min", decimal(min, 2).into());
                }
                if let Some(above) = self.event_above_min {
                    put("event_max", decimal(self.event_min.unwrap_or(0) + above, 2).into());
                }
            }
            "converted" => {
                put("meter", "units".into());
                put("included", self.included.to_string().into());
            }
            _ => {
                put("meter", "units".into());
                put("included", halves(self.included).into());
            }
        }
        body
    }

    /// Index and first half unit of the tier that a half unit lies in.
    fn tier_of(&self, half: i64) -> (usize, i64) {
        let mut low = 0;
        for (index, (width, _, _)) in self.tiers.iter().enumerate() {
            if half < low + width || index + 1 == self.tiers.len() {
                return (index, low);
            }
            low += width;
        }
        unreachable!("the last tier is open")
    }

    /// The tier of a total: its bound is inside.
    fn band_of(&self, total: i64) -> usize {
        self.tier_of((total - 1).max(0)).0
    }

    /// What one half unit costs, after so many others of the window. `band` is the tier of the window's total.
    fn half(&self, model: &str, kind: usize, after: i64, band: usize, is_first_flat_paid: bool) -> i128 {
        let (units, unit) = (5_000, self.tiers[0].1);
        if model == "converted" {
            let opens = after % self.package.0 == 0 && after / self.package.0 >= self.included;
            return if opens { unit * 10_000 } else { 0 };
        }
        let Some(paid) = Some(after - self.included).filter(|paid| *paid >= 0) else { return 0 };
        match (model, KINDS[kind]) {
            ("per_unit" | "dynamic", _) | ("matrix", "plain") => unit * units,
            ("graduated" | "graduated_percentage", _) | ("matrix", "tiered") => {
                let (tier, low) = self.tier_of(paid);
                let owes_flat = paid == low && (tier > 0 || !(self.flat_at_zero || is_first_flat_paid));
                self.tiers[tier].1 * units + if owes_flat { self.tiers[tier].2 * 1_000_000 } else { 0 }
            }
            ("volume", _) => self.tiers[band].1 * units,
            ("package", _) => {
                let (size, is_up) = self.package;
                let counts = if is_up { paid % size == 0 } else { (paid + 1) % size == 0 };
                if counts { unit * 10_000 } else { 0 }
            }
            _ => 0,
        }
    }

    /// What a window owes besides its units, once it is over.
    fn fixed(&self, model: &str, kind: usize, events: &[&Event]) -> i128 {
        let sum = |of: &dyn Fn(&Event) -> bool| -> i64 {
            events.iter().filter(|event| of(event)).map(|event| event.halves).sum()
        };
        let paid = (sum(&|_| true) - self.included).max(0);
        let cents = match model {
            "flat" => return self.tiers[0].1 * 10_000,
            "graduated" | "graduated_percentage" if self.flat_at_zero => self.tiers[0].2,
            "matrix" if self.flat_at_zero && KINDS[kind] == "tiered" => self.tiers[0].2,
            "volume" | "stairstep" if self.flat_at_zero || paid > 0 => self.tiers[self.band_of(paid)].2,
            "capacity" if self.flat_at_zero || sum(&|e| e.kind == 0) > 0 || sum(&|e| e.kind != 0) > 0 => {
                if sum(&|event| event.kind == 0) <= self.tiers[0].0 {
                    self.tiers[0].2
                } else if sum(&|event| event.kind != 0) <= self.package.0 {
                    300
                } else {
                    1_150
                }
            }
            _ => 0,
        };
        cents * 1_000_000
    }

    /// What the next event of a sequence owes: free events and half units so far are counted on.
    fn event(&self, halves: i64, free: &mut (u64, i64)) -> i128 {
        let has_limit = self.free_events.is_some() || self.free_amount.is_some();
        let has_count = self.free_events.is_none_or(|most| free.0 < most);
        let has_amount = self.free_amount.is_none_or(|most| free.1 < most);
        let mut paid = 0;
        let has_room = has_limit && has_count && has_amount;
        for _ in 0..halves {
            if has_room && self.free_amount.is_none_or(|most| free.1 < most) {
                free.1 += 1;
            } else {
                paid += 1;
            }
        }
        if has_room && paid == 0 {
            free.0 += 1;
            return 0;
        }
        let owed = i128::from(paid) * self.tiers[0].1 * 5_000 + self.tiers[0].2 * 1_000_000;
        let min = self.event_min.unwrap_or(0);
        let owed = self.event_min.map_or(owed, |min| owed.max(min * 1_000_000));
        self.event_above_min.map_or(owed, |above| owed.min((min + above) * 1_000_000))
    }
}

/// A line's key, and what it is worth: exactly, and in minor units.
pub(super) type Worths = BTreeMap<(String, u32, i64), (Exact, i128)>;

impl World {
    fn timeline(&self) -> PriceTimeline {
        let price = |(from, terms): &(i64, Terms)| {
            let mut body = terms.body(self.model);
            let fields = body.as_object_mut().unwrap();
            fields.insert("id".to_string(), "p".into());
            fields.insert("plan".to_string(), "pro".into());
            if *from > 0 {
                fields.insert("effective_from".to_string(), instant(*from).to_string().into());
            }
            serde_json::from_value::<Price>(body).unwrap()
        };
        let versions = self.versions.iter().map(price).enumerate();
        let version = |(index, price)| PriceVersion::new(index as u32 + 1, index as u64, price).unwrap();
        PriceTimeline { versions: versions.map(version).collect() }
    }

    fn version_at(&self, hour: i64) -> usize {
        let started = self.versions.iter().enumerate().filter(|(_, (from, _))| *from <= hour);
        started.max_by_key(|(index, (from, _))| (*from, *index)).map(|(index, _)| index).unwrap()
    }

    /// Events by group, each in order of time.
    fn groups(&self) -> BTreeMap<usize, Vec<&Event>> {
        let mut groups: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
        for event in &self.events {
            let group = if self.model == "matrix" { event.kind } else { 0 };
            groups.entry(group).or_default().push(event);
        }
        if self.model != "matrix" {
            groups.entry(0).or_default();
        }
        groups.values_mut().for_each(|events| events.sort());
        groups
    }

    /// What the window is worth when it is over, group by group, half a unit at a time.
    fn modelled(&self) -> BTreeMap<usize, i128> {
        let of_group = |(kind, events): (usize, Vec<&Event>)| {
            let first = &self.versions[0].1;
            let fixed = first.fixed(self.model, kind, &events);
            let total: i64 = events.iter().map(|event| event.halves).sum();
            let (mut used, mut free, mut amount) = (0, (0, 0), fixed);
            for event in events {
                let terms = &self.versions[self.version_at(event.hour)].1;
                if self.model == "percentage" {
                    amount += terms.event(event.halves, &mut free);
                    continue;
                }
                let band = terms.band_of((total - terms.included).max(0));
                for _ in 0..event.halves {
                    amount += terms.half(self.model, kind, used, band, fixed != 0);
                    used += 1;
                }
            }
            (kind, amount)
        };
        self.groups().into_iter().map(of_group).collect()
    }

    /// Position lines, group by group, with slices cut at the given hours.
    fn rated(&self, bounds: &BTreeSet<i64>, as_of: i64) -> BTreeMap<usize, Vec<PositionLine>> {
        let price = self.timeline();
        let mut cuts: Vec<i64> = bounds.iter().copied().filter(|cut| (1..HOURS).contains(cut)).collect();
        cuts.extend(self.versions.iter().map(|(from, _)| *from));
        cuts.extend([0, HOURS]);
        cuts.sort();
        cuts.dedup();
        let rated = |(kind, events): (usize, Vec<&Event>)| {
            let slices: Vec<(Span, Vec<Exact>, Vec<Exact>)> = cuts
                .windows(2)
                .filter_map(|pair| {
                    let inside: Vec<&&Event> =
                        events.iter().filter(|event| (pair[0]..pair[1]).contains(&event.hour)).collect();
                    let values = |of: &dyn Fn(&Event) -> bool| -> Vec<Exact> {
                        let of = inside.iter().filter(|event| of(event));
                        of.map(|event| Exact::new(i128::from(event.halves) * 5, 1)).collect()
                    };
                    let sum = |values: Vec<Exact>| {
                        values.into_iter().fold(Exact::ZERO, |sum, value| sum.add(value).unwrap())
                    };
                    let quantities = match self.model {
                        "capacity" => vec![sum(values(&|e| e.kind == 0)), sum(values(&|e| e.kind != 0))],
                        _ => vec![sum(values(&|_| true))],
                    };
                    let span = Span::new(instant(pair[0]), instant(pair[1]));
                    (!inside.is_empty()).then(|| (span, quantities, values(&|_| true)))
                })
                .collect();
            let measures: Vec<SliceMeasure<'_>> = slices
                .iter()
                .map(|(slice, quantities, sequence)| SliceMeasure {
                    slice: *slice,
                    measure: match self.model {
                        "percentage" => Measure::Sequence(sequence),
                        "capacity" => Measure::Dimensions(quantities),
                        _ => Measure::Scalar(quantities[0]),
                    },
                    covered: Exact::ZERO,
                    event_count: sequence.len() as u64,
                    event_digest: 0,
                })
                .collect();
            let group = match self.model {
                "matrix" => GroupTexts::from([("kind", KINDS[kind])]),
                _ => GroupTexts::NONE,
            };
            let window = Span::new(instant(0), instant(HOURS));
            let terms = WindowTerms {
                price: &price,
                window,
                active: &[window.into()],
                group: &group,
                zone: &Zone::utc(),
                currency: Currency::from_code(self.currency).unwrap(),
                as_of: instant(as_of),
                is_continued: false,
                elsewhere: None,
            };
            (kind, position(&terms, &measures).unwrap())
        };
        self.groups().into_iter().map(rated).collect()
    }

    pub(super) fn worths(&self, bounds: &BTreeSet<i64>, as_of: i64) -> Worths {
        let mut worths = Worths::new();
        for (kind, lines) in self.rated(bounds, as_of) {
            for line in lines {
                let key = (KINDS[kind].to_string(), line.price_version, line.slice.from.nanoseconds());
                let before = worths.insert(key, (line.precise, line.rounded));
                assert_eq!(before, None, "keys of lines are unique");
            }
        }
        worths.retain(|_, worth| !worth.0.is_zero() || worth.1 != 0);
        worths
    }

    /// The window is worth what the slow way says, and each group is rounded once.
    pub(super) fn check(&self, bounds: &BTreeSet<i64>) {
        let exponent = Currency::from_code(self.currency).unwrap().exponent();
        let found: BTreeMap<usize, i128> = self
            .rated(bounds, HOURS)
            .into_iter()
            .map(|(kind, lines)| {
                let sum = lines.iter().fold(Exact::ZERO, |sum, line| sum.add(line.precise).unwrap());
                let rounded: i128 = lines.iter().map(|line| line.rounded).sum();
                assert_eq!(sum.round_to(exponent), Ok(rounded), "the sum is rounded once");
                let scaled = sum.multiply(Exact::from_integer(100_000_000)).unwrap();
                let whole = scaled.round_to(0).unwrap();
                assert_eq!(Exact::from_integer(whole), scaled, "the model has enough digits");
                (kind, whole)
            })
            .collect();
        assert_eq!(found, self.modelled(), "{self:?}");
    }
}

/// Issues what a position is more than what was issued; gives the sum.
pub(super) fn emit(position: &Worths, issued: &mut Worths) -> (Exact, i128) {
    let keys: BTreeSet<_> = position.keys().chain(issued.keys()).cloned().collect();
    let mut sum = (Exact::ZERO, 0);
    for key in keys {
        let now = position.get(&key).copied().unwrap_or((Exact::ZERO, 0));
        let before = issued.get(&key).copied().unwrap_or((Exact::ZERO, 0));
        sum.0 = sum.0.add(now.0.subtract(before.0).unwrap()).unwrap();
        sum.1 += now.1 - before.1;
        issued.insert(key, now);
    }
    issued.retain(|_, worth| !worth.0.is_zero() || worth.1 != 0);
    sum
}

pub(super) fn totals(worths: &Worths) -> (Exact, i128) {
    worths.values().fold((Exact::ZERO, 0), |sum, worth| (sum.0.add(worth.0).unwrap(), sum.1 + worth.1))
}

pub(super) fn instant(hour: i64) -> Timestamp {
    at("01-01").plus(hour * HOUR)
}

pub(super) fn terms() -> impl Strategy<Value = Terms> {
    let tier = (1i64..60, 0i128..2_000, prop_oneof![Just(0i128), 1i128..900]);
    let tiers = prop::collection::vec(tier, 1..4);
    let included = prop_oneof![Just(0i64), 1i64..40];
    let events = (prop::option::of(0u64..4), prop::option::of(0i64..80));
    let bounds = (prop::option::of(0i128..900), prop::option::of(0i128..900));
    (tiers, any::<bool>(), included, (1i64..30, any::<bool>()), events, bounds).prop_map(
        |(tiers, flat_at_zero, included, package, (free_events, free_amount), (min, above))| Terms {
            tiers,
            flat_at_zero,
            included,
            package,
            free_events,
            free_amount,
            event_min: min,
            event_above_min: above,
        },
    )
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    (0..HOURS, any::<u32>(), 0i64..100, 0..KINDS.len()).prop_map(|(hour, key, halves, kind)| Event {
        hour,
        key,
        halves,
        kind,
    })
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let versions = prop::collection::vec((1..HOURS, terms()), 0..3);
    let events = prop::collection::vec(event(), 0..12);
    let currency = prop::sample::select(vec!["USD", "JPY", "KWD"]);
    (prop::sample::select(MODELS.to_vec()), terms(), versions, events, currency).prop_map(
        |(model, first, mut versions, events, currency)| {
            // The size of a package and the meters of a step are fixed for all versions.
            versions.iter_mut().for_each(|(_, terms)| terms.package = first.package);
            versions.insert(0, (0, first));
            World { model, versions, events, currency }
        },
    )
}
