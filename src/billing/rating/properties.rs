//! Thirteen properties that rating keeps, whatever the price and however usage arrives.
//!
//! Owns: the list of them, and those that no other test states: every model against a slow one, corrections, recurring
//! amounts over any cut of a period, groups that count together, and that a quote, a month in runs and its last bill are one number. Leaves to others:
//! graduated prices in histories (`histories`), the same over whole accounts and cuts (`machine::tests::agreements`).
//!
//! | | property | tests |
//! |---|---|---|
//! | 1 | runs add up to the price of the whole | [`runs_of_any_price_add_up_to_what_the_slow_way_says`], [`a_window_is_worth_what_its_model_says_of_its_total`]; `histories`: `what_was_issued_is_the_position_after_any_history`, `finer_slices_are_worth_the_same` |
//! | 2 | more never costs less, but under volume | `models`: `more_units_never_cost_less_but_under_volume` |
//! | 3 | graduated without flat amounts is continuous | `models`: `graduated_without_flat_amounts_is_continuous_at_every_bound` |
//! | 4 | one open tier is per unit | `models`: `one_open_tier_is_per_unit` |
//! | 5 | lines and true-up are the commitment below it | [`lines_and_true_up_are_what_was_agreed_below_it`]; `commitment::tests`: `lines_and_true_up_are_the_commitment_below_it`; `account::tests`: `a_year_costs_at_least_its_commitment` |
//! | 6 | shares sum to the amount, each within a unit | `allocation`: `shares_are_what_the_slow_way_gives`, `lines_are_within_one_unit_and_sum_to_the_rounded_sum` |
//! | 7 | a correction makes it the new price, twice makes nothing | [`runs_of_any_price_add_up_to_what_the_slow_way_says`], [`usage_that_is_taken_back_was_worth_nothing`] |
//! | 8 | precise rounds to rounded | [`runs_of_any_price_add_up_to_what_the_slow_way_says`], [`a_recurring_amount_is_whole_over_any_cut_of_its_period`], [`a_quote_a_month_in_runs_and_its_last_bill_are_one_number`] |
//! | 9 | slices of a period sum to it | `proration`: `slices_of_any_cut_sum_to_the_whole` |
//! | 10 | rating again yields no lines | [`runs_of_any_price_add_up_to_what_the_slow_way_says`]; `machine::tests::agreements` |
//! | 11 | credits: grants less draws, expiries, voids | `credits::tests`: `draws_are_what_paying_unit_by_unit_gives`, `closed_draws_stay_whatever_comes_late` |
//! | 12 | zones, leap years, clock changes, the 31st | [`a_recurring_amount_is_whole_over_any_cut_of_its_period`]; `credits::tests`: `a_monthly_grant_of_the_31st_comes_back_to_the_31st` |
//! | 13 | quote, runs and last bill are one number | [`a_quote_a_month_in_runs_and_its_last_bill_are_one_number`]; `machine::tests::quoted` |

mod slow;

use std::collections::{BTreeMap, BTreeSet};

use domain::time::{DAY, HOUR, SECOND};
use domain::{Currency, Exact, GroupTexts, Span, Timestamp, Zone};
use proptest::prelude::*;
use serde_json::json;

use self::slow::{
    Event, HOURS, KINDS, MODELS, World, Worths, decimal, emit, event, halves, instant, terms, totals, world,
};
use super::shop::{Shop, at, issue, precise, worths};
use super::{ActiveTerm, Measure, PositionLine, SliceMeasure, WindowTerms, elsewhere, explain, position};
use crate::catalog::{Price, PriceTimeline, PriceVersion, PricingModel};
use crate::testing::cases;

proptest! {
    #![proptest_config(cases())]

    /// Whatever becomes known in whatever order, however finely slices are cut and however often: what was issued is what
    /// the window is worth. Then usage is corrected, and the difference makes it the worth of the corrected usage.
    #[test]
    fn runs_of_any_price_add_up_to_what_the_slow_way_says(
        world in world(), corrected in prop::collection::vec(event(), 0..8),
    ) {
        let mut known = World { events: Vec::new(), ..world.clone() };
        let (mut issued, mut charged, mut bounds, mut as_of) = (Worths::new(), (Exact::ZERO, 0), BTreeSet::new(), 0);
        let mut cut = |now: Worths| {
            let (exact, rounded) = emit(&now, &mut issued);
            charged = (charged.0.add(exact).unwrap(), charged.1 + rounded);
            assert_eq!(issued, now);
            assert_eq!(emit(&now, &mut issued), (Exact::ZERO, 0), "rating again is no difference");
            assert_eq!(charged, totals(&now));
        };
        let mut arriving = world.events.clone();
        arriving.sort_by_key(|event| event.key);
        for event in arriving {
            known.events.push(event);
            as_of = as_of.max(i64::from(event.key) % HOURS);
            if event.key % 3 == 0 {
                bounds.insert(i64::from(event.key / 3) % HOURS);
            }
            if event.key % 2 == 0 {
                cut(known.worths(&bounds, as_of));
            }
        }
        cut(known.worths(&bounds, HOURS));
        known.check(&bounds);
        known.check(&BTreeSet::new());

        known.events.retain(|event| event.key % 5 < 3);
        known.events.extend(corrected);
        cut(known.worths(&bounds, HOURS));
        known.check(&bounds);
    }

    /// Usage, and the same usage below zero: what was charged is given back, to what silence owes.
    #[test]
    fn usage_that_is_taken_back_was_worth_nothing(world in world(), taken_at in 0..HOURS) {
        // Each event of a percentage is one of its own, and a change of price in between keeps its difference.
        prop_assume!(world.model != "percentage");
        let mut world = World { versions: world.versions[..1].to_vec(), ..world };
        let silence = World { events: Vec::new(), ..world.clone() };
        let back: Vec<Event> = world
            .events
            .iter()
            .map(|event| Event { halves: -event.halves, hour: event.hour.max(taken_at), ..*event })
            .collect();
        world.events.extend(back);
        let bounds = BTreeSet::from_iter(0..HOURS);
        let kinds: BTreeSet<usize> = world.events.iter().map(|event| event.kind).collect();
        let expected = match world.model {
            // Every row that was used is rated by itself.
            "matrix" => {
                let owes = kinds.contains(&1) && world.versions[0].1.flat_at_zero;
                Exact::new(if owes { world.versions[0].1.tiers[0].2 } else { 0 }, 2)
            }
            _ => totals(&silence.worths(&bounds, HOURS)).0,
        };
        prop_assert_eq!(totals(&world.worths(&bounds, HOURS)).0, expected);
    }

    /// Caps and packages of tiers too: a window in slices is worth what the model says of the total.
    #[test]
    fn a_window_is_worth_what_its_model_says_of_its_total(
        terms in terms(),
        caps in prop::collection::vec((prop::option::of(0i128..2_000), prop::option::of(1i64..20)), 3),
        model in prop::sample::select(vec!["graduated", "volume", "matrix", "graduated_percentage", "package", "stairstep"]),
        events in prop::collection::vec(event(), 0..8),
    ) {
        let mut body = terms.body(model);
        let fields = body.as_object_mut().unwrap();
        fields.insert("id".to_string(), "p".into());
        fields.insert("plan".to_string(), "pro".into());
        let tiers = match model {
            "matrix" => fields["rows"][1].get_mut("tiers"),
            _ => fields.get_mut("tiers"),
        };
        let tiers = tiers.filter(|_| ["graduated", "volume", "matrix"].contains(&model));
        for (tier, (cap, size)) in tiers.into_iter().flat_map(|tiers| tiers.as_array_mut().unwrap()).zip(caps) {
            let tier = tier.as_object_mut().unwrap();
            if let Some(cap) = cap {
                tier.insert("flat_cap".to_string(), decimal(cap, 2).into());
            }
            if let Some(size) = size {
                tier.insert("package_size".to_string(), halves(size).into());
            }
        }
        let version = PriceVersion::new(1, 0, serde_json::from_value(body).unwrap()).unwrap();
        let price = PriceTimeline { versions: vec![version] };
        let group = GroupTexts::from([("kind", KINDS[1])]);
        let mut slices: BTreeMap<i64, i64> = BTreeMap::new();
        for event in &events {
            *slices.entry(event.hour).or_default() += event.halves;
        }
        let measures: Vec<SliceMeasure<'_>> = slices
            .iter()
            .map(|(hour, halves)| SliceMeasure {
                slice: Span::new(instant(*hour), instant(*hour + 1)),
                measure: Measure::Scalar(Exact::new(i128::from(*halves) * 5, 1)),
                covered: Exact::ZERO,
                event_count: 1,
                event_digest: 0,
            })
            .collect();
        let window = Span::new(instant(0), instant(HOURS));
        let rated = WindowTerms {
            price: &price,
            window,
            active: &[window.into()],
            group: &group,
            zone: &Zone::utc(),
            currency: Currency::from_code("USD").unwrap(),
            as_of: window.until, is_continued: false, elsewhere: None,
        };
        let lines = position(&rated, &measures).unwrap();
        let sum = lines.iter().fold(Exact::ZERO, |sum, line| sum.add(line.precise).unwrap());
        let total: i64 = slices.values().sum();
        let terms = &price.versions()[0].terms;
        let priced = terms.quantity.priced(Exact::new(i128::from(total) * 5, 1)).unwrap();
        prop_assert_eq!(Ok(sum), terms.model.amount(&group, priced, terms.flat_at_zero), "{:?}", terms.model);
    }

    /// However what was used is spread over groups and slices: groups that count together cost together what one group of all would.
    #[test]
    fn groups_that_count_together_cost_what_their_sum_does(
        model in prop::sample::select(vec!["graduated", "volume", "graduated_percentage"]),
        (bounds, amounts) in (prop::collection::btree_set(1i64..400, 0..4), prop::collection::vec(0i128..500, 5)),
        (included, is_rounded) in (prop::option::of(0i64..50), any::<bool>()),
        used in prop::collection::vec((0usize..4, 0i64..6, -20i64..200), 0..20),
    ) {
        let field = if model == "graduated_percentage" { "rate_percent" } else { "unit_amount" };
        let tier = |up_to: Option<i64>, amount: i128| {
            let mut tier = json!({ field: decimal(amount, 2) });
            if let Some(up_to) = up_to {
                tier["up_to"] = halves(up_to).into();
            }
            tier
        };
        let bounds = bounds.into_iter().map(Some).chain([None]);
        let tiers: Vec<_> = bounds.zip(&amounts).map(|(up_to, amount)| tier(up_to, *amount)).collect();
        let mut body = json!({
            "id": "p", "plan": "pro", "meter": "m", "window": "month", "model": model, "tier_scope": "price", "tiers": tiers,
        });
        if let Some(included) = included {
            body["included"] = halves(included).into();
        }
        if is_rounded {
            body["round_quantity"] = json!({ "mode": "ceiling" });
        }
        let version = PriceVersion::new(1, 0, serde_json::from_value(body).unwrap()).unwrap();
        let price = PriceTimeline { versions: vec![version] };
        let mut groups: BTreeMap<usize, BTreeMap<i64, i64>> = BTreeMap::new();
        for (group, hour, halves) in &used {
            *groups.entry(*group).or_default().entry(*hour).or_default() += halves;
        }
        let measure = |(hour, halves): (&i64, &i64)| SliceMeasure {
            slice: Span::new(instant(*hour), instant(*hour + 1)),
            measure: Measure::Scalar(Exact::new(i128::from(*halves) * 5, 1)),
            covered: Exact::ZERO,
            event_count: 1,
            event_digest: 0,
        };
        let measures: Vec<Vec<SliceMeasure<'_>>> =
            groups.values().map(|slices| slices.iter().map(measure).collect()).collect();
        let others = elsewhere(&measures).unwrap();
        let window = Span::new(instant(0), instant(HOURS));
        let mut sum = Exact::ZERO;
        for (index, slices) in measures.iter().enumerate() {
            let rated = WindowTerms {
                price: &price,
                window,
                active: &[window.into()],
                group: &GroupTexts::NONE,
                zone: &Zone::utc(),
                currency: Currency::from_code("USD").unwrap(),
                as_of: window.until,
                is_continued: false,
                elsewhere: Some(&others[index]),
            };
            // It asserts that its steps add up to the lines.
            sum = sum.add(explain(&rated, slices).unwrap().precise).unwrap();
        }
        let total = used.iter().map(|(.., halves)| i128::from(*halves)).sum::<i128>();
        let terms = &price.versions()[0].terms;
        let priced = terms.quantity.priced(Exact::new(total * 5, 1)).unwrap();
        prop_assert_eq!(Ok(sum), terms.model.amount(&GroupTexts::NONE, priced, true), "{:?}", terms.model);
    }

    /// However a period is cut, by changes of price, seats that stay the same, or pauses whose parts are put back: a recurring
    /// amount adds up to the whole, exactly and in minor units, and a later cut only adds lines.
    #[test]
    fn a_recurring_amount_is_whole_over_any_cut_of_its_period(
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"]),
        (year, month, anchor) in (2010i32..2032, 1u8..=12, 26u8..=31),
        cuts in prop::collection::vec((0i64..31 * DAY, 0u8..4), 0..8),
        amount in 0i128..1_000_000, seats in 1i128..5,
        proration in prop::sample::select(vec!["days", "seconds", "thirty_days"]),
        payment in prop::sample::select(vec!["in_advance", "in_arrears"]),
        currency in prop::sample::select(vec!["USD", "JPY", "KWD"]),
    ) {
        let zone = Zone::new(zone).unwrap();
        let period = zone.anchored_months(at(&format!("2023-12-{anchor:02}T12:00:00")), 1, at(&format!("{year}-{month:02}-10"))).unwrap();
        let currency = Currency::from_code(currency).unwrap();
        // What a cut is: a change of price to the same price, or a new record of the same subscription.
        let mut cuts: Vec<(Timestamp, u8)> = cuts
            .into_iter()
            .map(|(offset, what)| {
                // Midnight, a whole second, or any instant.
                let offset = match offset % 3 { 0 => offset / HOUR * HOUR, 1 => offset / SECOND * SECOND, _ => offset };
                (period.from.plus(offset), what)
            })
            .filter(|(cut, _)| period.from < *cut && *cut < period.until)
            .collect();
        cuts.sort();
        cuts.dedup_by_key(|(cut, _)| *cut);
        let price = |from: Option<Timestamp>| {
            let mut body = json!({
                "id": "p", "plan": "pro", "window": "month", "model": "flat", "unit_amount": decimal(amount, 2),
                "proration": proration, "payment": payment,
            });
            if let Some(from) = from {
                body.as_object_mut().unwrap().insert("effective_from".to_string(), from.to_string().into());
            }
            serde_json::from_value::<Price>(body).unwrap()
        };
        let changes = cuts.iter().filter(|(_, what)| *what == 0).map(|(cut, _)| price(Some(*cut)));
        let versions = std::iter::once(price(None)).chain(changes).enumerate();
        let version = |(index, price)| PriceVersion::new(index as u32 + 1, index as u64, price).unwrap();
        let price = PriceTimeline { versions: versions.map(version).collect() };
        let points: Vec<Timestamp> = std::iter::once(period.from)
            .chain(cuts.iter().filter(|(_, what)| *what > 0).map(|(cut, _)| *cut))
            .chain([period.until])
            .collect();
        let all: Vec<ActiveTerm> = points
            .windows(2)
            .map(|pair| ActiveTerm { span: Span::new(pair[0], pair[1]), seats: Some(Exact::from_integer(seats)) })
            .collect();
        let rated = |active: &[ActiveTerm], as_of: Timestamp| {
            let terms = WindowTerms {
                price: &price, window: period, active, group: &GroupTexts::NONE, zone: &zone, currency, as_of, is_continued: false, elsewhere: None,
            };
            position(&terms, &[]).unwrap()
        };
        let sum_of = |lines: &[PositionLine]| lines.iter().fold(Exact::ZERO, |sum, line| sum.add(line.precise).unwrap());
        let whole = Exact::new(amount * seats, 2);
        let lines = rated(&all, period.until);
        let expected = match proration {
            "thirty_days" => {
                let days = zone.days_starting_in(period).min(30);
                whole.multiply(Exact::ratio(days.into(), 30).unwrap()).unwrap()
            }
            _ => whole,
        };
        prop_assert_eq!(sum_of(&lines), expected);
        prop_assert!(expected <= whole);
        let rounded: i128 = lines.iter().map(|line| line.rounded).sum();
        prop_assert_eq!(Ok(rounded), expected.round_to(currency.exponent()));
        for (cut, _) in &cuts {
            let before = rated(&all, *cut);
            prop_assert_eq!(&lines[..before.len()], &before[..], "at {}", cut);
        }
        // What is active, and what is not, are the whole; thirty days only if the month has no more.
        let split = |wanted: usize| -> Vec<ActiveTerm> {
            all.iter().enumerate().filter(|(index, _)| index % 2 == wanted).map(|(_, term)| *term).collect()
        };
        let halves = sum_of(&rated(&split(0), period.until)).add(sum_of(&rated(&split(1), period.until))).unwrap();
        prop_assert!(halves == expected || proration == "thirty_days" && halves >= expected);
    }

    /// A minimum or a commitment of a month, and usage below and above it, of a subscription that may begin inside it.
    #[test]
    fn lines_and_true_up_are_what_was_agreed_below_it(
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York"]),
        day in 1u8..=28, agreed in 0i128..5_000, unit in 0i128..3_000,
        uses in prop::collection::vec((0i64..27 * 24, 0i64..40), 0..6),
        is_minimum in any::<bool>(), shape in prop::sample::select(vec!["none", "roll_forward", "cumulative", "year_end"]),
    ) {
        let zone_of = Zone::new(zone).unwrap();
        let march = zone_of.month(domain::Period::parse("2026-03").unwrap());
        let from = march.from.plus(i64::from(day - 1) * DAY);
        let minimum = if is_minimum { format!(", minimum = \"{}\"", decimal(agreed, 2)) } else { String::new() };
        let commitment = if is_minimum { String::new() } else {
            format!("commitment = [{{ id = \"c\", account = \"acme\", shape = \"{shape}\", amount = \"{}\", from = \"{}\", until = \"{}\" }}]", decimal(agreed, 2), march.from, march.until)
        };
        let mut shop = Shop::parse(zone, &format!(
            "price = [{{ id = \"p\", plan = \"pro\", window = \"month\", model = \"per_unit\", meter = \"units\", unit_amount = \"{}\"{minimum} }}]
             subscription = [{{ id = \"s\", account = \"acme\", plan = \"pro\", from = \"{from}\" }}]\n{commitment}", decimal(unit, 4)));
        let mut used = 0;
        for (hour, halves) in uses {
            let time = march.from.plus(hour * HOUR);
            shop.take("units", "", time, Exact::new(i128::from(halves) * 5, 1));
            used += if time >= from { i128::from(halves) } else { 0 };
        }
        let charges = (used * unit * 5 + 500).div_euclid(1_000);
        let days = i128::from(zone_of.days_starting_in(Span::new(from, march.until)));
        let least = if is_minimum { (2 * agreed * days + 31).div_euclid(62) } else { agreed };
        let bill = shop.bill(march.until);
        let of_march: i128 = bill.iter().filter(|line| line.window == march).map(|line| line.rounded).sum();
        prop_assert_eq!(of_march, charges.max(least));
    }

    /// A plan with a price of every model, with discounts and bounds of their own, of the subscription and of the account.
    #[test]
    fn a_quote_a_month_in_runs_and_its_last_bill_are_one_number(
        list in prop::collection::vec((terms(), 0u8..8), MODELS.len()..=MODELS.len()),
        zone in prop::sample::select(vec!["UTC", "America/New_York"]),
        uses in prop::collection::vec((event(), 0i64..31 * 24), 0..10),
        runs in prop::collection::vec(1i64..31, 0..5),
        discounts in prop::collection::vec((any::<bool>(), 0i128..2_000, 0u32..2, any::<bool>()), 0..3),
        of_subscription in prop::option::of((0i128..6_000, 0i128..3_000, 0i128..9_000)),
    ) {
        let prices = MODELS.iter().zip(&list).map(|(model, (terms, around))| {
            let mut body = terms.body(model);
            let fields = body.as_object_mut().unwrap();
            fields.insert("id".to_string(), model.replace('_', "-").into());
            fields.insert("plan".to_string(), "pro".into());
            if around & 1 > 0 {
                fields.insert("discounts".to_string(), json!([{ "percent": "12.5" }, { "amount": "0.5" }]));
            }
            if around & 2 > 0 {
                fields.insert("minimum".to_string(), "4".into());
            }
            if around & 4 > 0 {
                fields.insert("maximum".to_string(), "9".into());
            }
            body
        });
        let of_account = discounts.iter().enumerate().map(|(index, (is_percent, number, priority, is_of_one))| {
            let mut body = json!({
                "id": format!("d{index}"), "account": "acme", "priority": priority,
                "from": at("2026-01-01").to_string(),
            });
            body[if *is_percent { "percent" } else { "amount" }] = decimal(*number, 2).into();
            if *is_of_one {
                body["prices"] = json!([MODELS[0].replace('_', "-")]);
            }
            body
        });
        let of_account: Vec<_> = of_account.collect();
        let of_account = if zone == "UTC" { of_account } else { Vec::new() };
        let prices = toml::to_string(&json!({ "price": prices.collect::<Vec<_>>(), "discount": &of_account })).unwrap();
        let bounds = of_subscription.map_or(String::new(), |(percent, amount, maximum)| {
            let [percent, amount, maximum] = [percent, amount, maximum].map(|number| decimal(number, 2));
            format!(", discounts = [{{ percent = \"{percent}\" }}, {{ amount = \"{amount}\" }}], maximum = \"{maximum}\"")
        });
        let mut shop = Shop::parse(zone, &format!(
            "subscription = [{{ id = \"s\", account = \"acme\", plan = \"pro\", from = \"2026-01-01T00:00:00Z\"{bounds} }}]\n{prices}"));
        let march = shop.zone.month(domain::Period::parse("2026-03").unwrap());
        let of_march = |shop: &Shop, as_of: Timestamp| {
            let lines = shop.bill(as_of).into_iter().filter(|line| line.window == march);
            lines.collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for (event, hour) in uses {
            let time = march.from.plus(hour * HOUR + i64::from(event.key) % HOUR).min(march.until.plus(-1));
            let value = Exact::new(i128::from(event.halves) * 5, 1);
            for meter in ["units", "seats", "kinds"] {
                all.push((time, if meter == "kinds" { KINDS[event.kind] } else { "" }, meter, value));
            }
        }
        // A run bills what is known by then: usage that comes in order, or not.
        let (mut issued, mut charged) = (BTreeMap::new(), 0);
        let mut days: Vec<i64> = runs;
        days.sort();
        let step = all.len().div_ceil(days.len() + 1).max(1);
        let mut chunks = all.chunks(step);
        for as_of in days.iter().map(|day| march.from.plus(day * DAY)).chain([march.until]) {
            for (time, kind, meter, value) in chunks.next().unwrap_or_default() {
                shop.take(meter, kind, *time, *value);
            }
            charged += issue(&worths(&of_march(&shop, as_of)), &mut issued);
        }
        let last = of_march(&shop, march.until);
        let (quoted, quoted_exactly) = shop.quoted_with_agreements("2026-03");
        prop_assert_eq!(charged, last.iter().map(|line| line.rounded).sum::<i128>());
        prop_assert_eq!(charged, quoted);
        prop_assert_eq!(precise(&last), quoted_exactly);
        let has_only_prices = of_account.is_empty() && of_subscription.is_none();
        prop_assert!(!has_only_prices || shop.quoted("2026-03") == (quoted, quoted_exactly));
        prop_assert_eq!(&issued, &worths(&last));
        for model in PricingModel::ALL {
            prop_assert!(shop.catalog.prices().any(|price| price.model() == model), "every model is there");
        }
    }
}
