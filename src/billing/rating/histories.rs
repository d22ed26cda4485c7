//! Random histories of one window against a slow model: usage arrives, slices split, prices change, time passes, cuts
//! are made; what was issued must be what the model says the window is worth.
//!
//! The model walks through the units half a unit at a time, and adds up what each costs in whole 10^-8ths: no formula,
//! no difference of cumulative amounts, none of the exact arithmetic that rating uses.

use std::collections::{BTreeMap, BTreeSet};

use domain::time::HOUR;
use domain::{Currency, Decimal, Exact, GroupTexts, MeterId, PlanId, PriceId, Span, Timestamp, Zone};
use proptest::prelude::*;

use super::{ActiveTerm, Measure, PositionLine, SliceMeasure, WindowTerms, explain, position};
use crate::catalog::{Price, PriceTimeline, PriceVersion, PricingModel, Tier};
use crate::testing::cases;

/// Hours of the window.
const HOURS: i64 = 48;
/// Fraction digits of the model's amounts.
const MODEL_DIGITS: u32 = 8;

#[derive(Clone, Debug)]
struct ModelTier {
    /// Last half unit of the tier; the last tier has none.
    up_to: Option<i64>,
    /// 10^-4ths for `per` units.
    unit_amount: i128,
    /// 10^-2ths.
    flat_amount: i128,
}

#[derive(Clone, Debug)]
struct ModelPrice {
    effective_from: Option<i64>,
    tiers: Vec<ModelTier>,
    per: i128,
    flat_at_zero: bool,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Usage { hour: i64, halves: i64 },
    Split { hour: i64 },
    Pass { hours: i64 },
    Price(ModelPrice),
    Cut,
}

#[derive(Clone, Debug)]
struct World {
    model: PricingModel,
    prices: Vec<ModelPrice>,
    active: Vec<(i64, i64)>,
    usage: Vec<(i64, i64)>,
    bounds: BTreeSet<i64>,
    as_of: i64,
}

/// A line's key, and what it is worth: exactly in 10^-8ths, and in minor units.
type Worths = BTreeMap<(u32, i64), (i128, i128)>;

fn instant(hour: i64) -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hour * HOUR)
}

fn hour_of(instant: Timestamp) -> i64 {
    (instant.nanoseconds() - self::instant(0).nanoseconds()) / HOUR
}

impl World {
    /// Spans that tile the active time, cut at every bound and every change of price.
    fn slices(&self) -> Vec<(i64, i64)> {
        let mut bounds = self.bounds.clone();
        bounds.extend(self.prices.iter().filter_map(|price| price.effective_from));
        let mut slices = Vec::new();
        for (from, until) in &self.active {
            let inside = bounds.range(from + 1..*until).copied();
            let points: Vec<i64> = [*from].into_iter().chain(inside).chain([*until]).collect();
            slices.extend(points.windows(2).map(|pair| (pair[0], pair[1])));
        }
        slices
    }

    fn used_in(&self, (from, until): (i64, i64)) -> (u64, i64) {
        let inside = self.usage.iter().filter(|(hour, _)| (from..until).contains(hour));
        inside.fold((0, 0), |(count, sum), (_, halves)| (count + 1, sum + halves))
    }

    fn measures(&self) -> Vec<SliceMeasure<'static>> {
        let slices = self.slices().into_iter();
        slices
            .filter_map(|slice| {
                let (event_count, halves) = self.used_in(slice);
                (event_count > 0).then(|| SliceMeasure {
                    slice: Span::new(instant(slice.0), instant(slice.1)),
                    measure: Measure::Scalar(Exact::new(i128::from(halves) * 5, 1)),
                    covered: Exact::ZERO,
                    event_count,
                    event_digest: u128::from(event_count),
                })
            })
            .collect()
    }

    fn timeline(&self) -> PriceTimeline {
        let versions = self.prices.iter().enumerate().map(|(index, price)| {
            let price = price.to_price(self.model);
            PriceVersion::new(index as u32 + 1, index as u64, price).unwrap()
        });
        PriceTimeline { versions: versions.collect() }
    }

    fn rated(&self) -> Vec<PositionLine> {
        let (price, active, zone, group) =
            (self.timeline(), self.active_terms(), Zone::utc(), GroupTexts::NONE);
        let terms = self.terms(&price, &active, &zone, &group);
        let lines = position(&terms, &self.measures()).unwrap();
        let explanation = explain(&terms, &self.measures()).unwrap();
        assert_eq!(explanation.rounded, lines.iter().map(|line| line.rounded).sum::<i128>());
        lines
    }

    fn active_terms(&self) -> Vec<ActiveTerm> {
        let spans = self.active.iter().map(|(from, until)| Span::new(instant(*from), instant(*until)));
        spans.map(ActiveTerm::from).collect()
    }

    fn terms<'a>(
        &self,
        price: &'a PriceTimeline,
        active: &'a [ActiveTerm],
        zone: &'a Zone,
        group: &'a GroupTexts,
    ) -> WindowTerms<'a> {
        WindowTerms {
            price,
            window: Span::new(instant(0), instant(HOURS)),
            active,
            group,
            zone,
            currency: Currency::from_code("USD").unwrap(),
            as_of: instant(self.as_of),
            is_continued: false,
            elsewhere: None,
        }
    }

    /// The version in force at an hour: the latest to take effect, and of equals the newest.
    fn version_at(&self, hour: i64) -> Option<usize> {
        let mut found: Option<usize> = None;
        for (index, price) in self.prices.iter().enumerate() {
            let starts = price.effective_from.unwrap_or(i64::MIN);
            let best = found.map_or(i64::MIN, |found| self.prices[found].effective_from.unwrap_or(i64::MIN));
            if starts <= hour && starts >= best {
                found = Some(index);
            }
        }
        found
    }

    /// What the window is worth, half a unit at a time.
    fn modelled(&self) -> Worths {
        let mut worths = Worths::new();
        let (Some(first), Some(last)) = (self.active.first(), self.active.last()) else { return worths };
        let has_ended = last.1 <= self.as_of;
        let has_usage = self.slices().into_iter().any(|slice| self.used_in(slice).0 > 0);
        // The first active instant at which there is a price.
        let is_active = |hour: &i64| self.active.iter().any(|(from, until)| (*from..*until).contains(hour));
        let start = (first.0..last.1).filter(is_active).find_map(|hour| Some((hour, self.version_at(hour)?)));
        let mut running = Running::default();
        if self.model == PricingModel::Flat {
            if let Some((_, version)) = start.filter(|_| has_ended) {
                let amount = self.prices[version].tiers[0].unit_amount * 10_000;
                running.add(&mut worths, (version as u32 + 1, 0), amount);
            }
            worths.retain(|_, worth| *worth != (0, 0));
            return worths;
        }
        let fixed = start.filter(|(_, version)| {
            let price = &self.prices[*version];
            price.flat_at_zero && price.tiers[0].flat_amount != 0 && (has_usage || has_ended)
        });
        if let Some((hour, version)) = fixed {
            let flat = self.prices[version].tiers[0].flat_amount * 1_000_000;
            running.add(&mut worths, (version as u32 + 1, hour), flat);
        }
        let mut used = 0;
        for slice in self.slices() {
            let (event_count, halves) = self.used_in(slice);
            let version = self.version_at(slice.0);
            if event_count == 0 {
                continue;
            }
            let mut amount = 0;
            for _ in 0..halves.abs() {
                // A half unit from `low` up, or back down to `low`.
                let low = if halves > 0 { used } else { used - 1 };
                if let Some(version) = version {
                    amount += halves.signum() as i128 * self.prices[version].half(low, fixed.is_some());
                }
                used += halves.signum();
            }
            if let Some(version) = version {
                running.add(&mut worths, (version as u32 + 1, slice.0), amount);
            }
        }
        worths.retain(|_, worth| *worth != (0, 0));
        worths
    }
}

#[derive(Default)]
struct Running {
    exact: i128,
    rounded: i128,
}

impl Running {
    fn add(&mut self, worths: &mut Worths, key: (u32, i64), amount: i128) {
        self.exact += amount;
        let (cents, rest) = (self.exact / 1_000_000, self.exact % 1_000_000);
        let rounded = if rest.abs() >= 500_000 { cents + rest.signum() } else { cents };
        let worth = worths.entry(key).or_default();
        worth.0 += amount;
        worth.1 += rounded - self.rounded;
        self.rounded = rounded;
    }
}

impl ModelPrice {
    /// What the half unit after `low` half units costs.
    fn half(&self, low: i64, is_first_flat_paid: bool) -> i128 {
        let index = self.tiers.iter().position(|tier| tier.up_to.is_none_or(|up_to| low < up_to));
        let index = index.expect("the last tier is open");
        let tier = &self.tiers[index];
        let units = tier.unit_amount * 5_000 / self.per;
        let enters = low == index.checked_sub(1).map_or(0, |below| self.tiers[below].up_to.unwrap());
        let owes_flat = enters && (index > 0 || !(self.flat_at_zero || is_first_flat_paid));
        units + if owes_flat { tier.flat_amount * 1_000_000 } else { 0 }
    }

    /// The same price for a model without tiers: one open tier without flat amount.
    fn fitted_to(mut self, model: PricingModel) -> Self {
        if model != PricingModel::Graduated {
            self.tiers.truncate(1);
            self.tiers[0].up_to = None;
            self.tiers[0].flat_amount = 0;
        }
        self
    }

    fn to_price(&self, model: PricingModel) -> Price {
        let unit = |tier: &ModelTier| Decimal::new(tier.unit_amount, 4).unwrap();
        let tiers = self.tiers.iter().map(|tier| Tier {
            up_to: tier.up_to.map(|halves| Decimal::new(i128::from(halves) * 5, 1).unwrap()),
            unit_amount: Some(unit(tier)),
            flat_amount: Some(Decimal::new(tier.flat_amount, 2).unwrap()),
            ..Tier::default()
        });
        let is_graduated = model == PricingModel::Graduated;
        Price {
            meter: (model != PricingModel::Flat).then(|| MeterId::new("m").unwrap()),
            unit_amount: (!is_graduated).then(|| unit(&self.tiers[0])),
            tiers: is_graduated.then(|| tiers.collect()),
            per: (model != PricingModel::Flat).then_some(self.per as u64),
            effective_from: self.effective_from.map(instant),
            flat_at_zero: Some(self.flat_at_zero),
            ..Price::new(PriceId::new("p").unwrap(), PlanId::new("x").unwrap(), model)
        }
    }
}

/// Position lines by key, without those that are worth nothing.
fn worths_of(lines: &[PositionLine]) -> Worths {
    let mut worths = Worths::new();
    for line in lines {
        let precise = line.precise.multiply(Exact::new(10i128.pow(MODEL_DIGITS), 0)).unwrap();
        let before = worths.insert(
            (line.price_version, hour_of(line.slice.from)),
            (precise.round_to(0).unwrap(), line.rounded),
        );
        assert_eq!(before, None, "keys of lines are unique: {lines:?}");
        assert_eq!(Exact::new(precise.round_to(0).unwrap(), 0), precise, "the model has enough digits");
    }
    worths.retain(|_, worth| *worth != (0, 0));
    worths
}

/// Position − issued per key; afterwards it is issued.
fn issue(position: &Worths, issued: &mut Worths) -> Worths {
    let keys: BTreeSet<_> = position.keys().chain(issued.keys()).copied().collect();
    let mut charges = Worths::new();
    for key in keys {
        let now = position.get(&key).copied().unwrap_or_default();
        let before = issued.get(&key).copied().unwrap_or_default();
        if now != before {
            charges.insert(key, (now.0 - before.0, now.1 - before.1));
        }
    }
    for (key, charge) in &charges {
        let sum = issued.entry(*key).or_default();
        *sum = (sum.0 + charge.0, sum.1 + charge.1);
    }
    charges
}

fn totals(worths: &Worths) -> (i128, i128) {
    worths.values().fold((0, 0), |sum, worth| (sum.0 + worth.0, sum.1 + worth.1))
}

fn model_price() -> impl Strategy<Value = ModelPrice> {
    let tier = (1i64..60, 0i128..2_000, prop_oneof![Just(0i128), 1i128..900]);
    let tiers = prop::collection::vec(tier, 1..4);
    let starts = prop::option::weighted(0.6, 0..HOURS);
    (tiers, starts, 0u32..4, any::<bool>()).prop_map(|(tiers, effective_from, per, flat_at_zero)| {
        let last = tiers.len() - 1;
        let mut low = 0;
        let tiers = tiers.into_iter().enumerate().map(|(index, (width, unit_amount, flat_amount))| {
            low += width;
            ModelTier { up_to: (index < last).then_some(low), unit_amount, flat_amount }
        });
        ModelPrice { effective_from, tiers: tiers.collect(), per: 10i128.pow(per), flat_at_zero }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..HOURS, -15i64..120).prop_map(|(hour, halves)| Step::Usage { hour, halves }),
        2 => (1..HOURS).prop_map(|hour| Step::Split { hour }),
        2 => (1i64..12).prop_map(|hours| Step::Pass { hours }),
        1 => model_price().prop_map(Step::Price),
        3 => Just(Step::Cut),
    ]
}

fn world() -> impl Strategy<Value = World> {
    let model = prop_oneof![1 => Just(PricingModel::Flat), 2 => Just(PricingModel::PerUnit), 6 => Just(PricingModel::Graduated)];
    let active = prop_oneof![
        4 => Just(vec![(0, HOURS)]),
        2 => (0..20i64, 21..HOURS).prop_map(|(from, until)| vec![(from, until)]),
        2 => (0..10i64, 11..20i64, 21..30i64, 31..=HOURS).prop_map(|(a, b, c, d)| vec![(a, b), (c, d)]),
        1 => Just(Vec::new()),
    ];
    (model, model_price(), active).prop_map(|(model, price, active)| World {
        model,
        prices: vec![price.fitted_to(model)],
        active,
        usage: Vec::new(),
        bounds: BTreeSet::new(),
        as_of: 0,
    })
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever arrives in whatever order, however finely slices are cut and however often: what the batches charged
    /// is the position, per key and in total, and the position is what the model says.
    #[test]
    fn what_was_issued_is_the_position_after_any_history(
        mut world in world(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let (mut issued, mut charged) = (Worths::new(), (0, 0));
        for step in steps.into_iter().chain([Step::Cut, Step::Pass { hours: HOURS }, Step::Cut]) {
            match step {
                Step::Usage { hour, halves } => world.usage.push((hour, halves)),
                Step::Split { hour } => { world.bounds.insert(hour); }
                Step::Pass { hours } => world.as_of += hours,
                Step::Price(price) => world.prices.push(price.fitted_to(world.model)),
                Step::Cut => {
                    let now = worths_of(&world.rated());
                    prop_assert_eq!(&now, &world.modelled());
                    let charges = totals(&issue(&now, &mut issued));
                    charged = (charged.0 + charges.0, charged.1 + charges.1);
                    prop_assert!(issue(&now, &mut issued).is_empty(), "rating unchanged is no difference");
                }
            }
        }
        let last = worths_of(&world.rated());
        issued.retain(|_, worth| *worth != (0, 0));
        prop_assert_eq!(&issued, &last);
        prop_assert_eq!(charged, totals(&last));
        let whole = Exact::new(charged.0, MODEL_DIGITS).round_to(2).unwrap();
        prop_assert_eq!(whole, charged.1, "rounded of the window is the rounding of its exact amount");
    }

    /// Slices only say where amounts stand, not how much a window is worth.
    #[test]
    fn finer_slices_are_worth_the_same(
        mut world in world(),
        usage in prop::collection::vec((0..HOURS, 0i64..120), 0..20),
        bounds in prop::collection::btree_set(1..HOURS, 0..12),
    ) {
        world.usage = usage;
        world.as_of = HOURS;
        let whole = totals(&worths_of(&world.rated()));
        world.bounds = bounds;
        prop_assert_eq!(totals(&worths_of(&world.rated())), whole);
    }

    /// The flat amount that silence owes stands at one key, whichever slices have usage.
    #[test]
    fn the_flat_amount_at_zero_keeps_its_key(
        mut world in world(),
        usage in prop::collection::vec((0..HOURS, 1i64..120), 0..6),
        flat in 1i128..900,
    ) {
        world.model = PricingModel::Graduated;
        world.prices[0].effective_from = None;
        world.prices[0].flat_at_zero = true;
        world.prices[0].tiers[0].flat_amount = flat;
        for tier in &mut world.prices[0].tiers {
            tier.unit_amount = 0;
        }
        for tier in &mut world.prices[0].tiers[1..] {
            tier.flat_amount = 0;
        }
        world.usage = usage;
        world.as_of = HOURS;
        let Some((start, _)) = world.active.first().copied() else { return Ok(()) };
        prop_assert_eq!(worths_of(&world.rated()), Worths::from([((1, start), (flat * 1_000_000, flat))]));
    }
}
