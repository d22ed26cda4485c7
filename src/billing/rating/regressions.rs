//! Bugs that users of other billing systems met, each as a test of the rule that it broke.
//!
//! Owns: one test for each of thirty stories, through a catalog, positions, the account's bill and quotes. Leaves to
//! others: the account that they are told of (`shop`), and stories that a test beside the code tells; the table says where.
//!
//! | | test |
//! |---|---|
//! | 1 | [`a_flat_amount_at_zero_usage_is_a_term_of_each_version`] |
//! | 2 | [`an_event_is_stored_at_what_was_estimated_and_never_below_zero`] |
//! | 3, 4 | [`a_level_below_zero_goes_on_as_it_is_into_a_free_tier`]; `properties`: `usage_that_is_taken_back_was_worth_nothing` |
//! | 5 | [`a_termination_bills_the_same_with_and_without_a_bill_before`] |
//! | 6 | [`the_last_unit_of_an_allowance_is_free_and_the_next_one_is_not`] |
//! | 7 | [`a_balance_is_the_grant_less_every_draw_to_the_cent`] |
//! | 8 | [`credits_are_never_computed_back_from_a_rounded_amount`] |
//! | 9 | [`what_is_given_back_is_what_discounts_left_of_it`] |
//! | 10 | [`a_closed_draw_stays_with_the_line_that_it_paid`] |
//! | 11 | the conformance example's `tax`: `the_last_credit_note_takes_what_is_left`, `a_tax_is_rounded_once_half_away` |
//! | 12 | `proration`: `a_preview_is_not_one_day_short` |
//! | 13 | [`an_event_before_one_of_the_future_adds_its_own_amount`] |
//! | 14 | [`half_a_cent_is_rounded_once_and_compared_as_rounded`] |
//! | 15 | [`usage_beyond_64_bits_is_on_the_bill`]; `golden`: `thirty_six_digits_compute_exactly_and_what_cannot_be_billed_is_refused_by_name` |
//! | 16 | [`late_usage_of_any_earlier_month_is_billed_and_silence_blocks_nothing`]; how late is too late is a policy of the engine, which quarantines what it refuses |
//! | 17 | [`a_pause_bills_no_day_twice_and_changes_no_month_before`] |
//! | 18 | [`the_last_evening_of_a_month_is_of_the_month_of_the_account`] |
//! | 19 | `models::graduated`: `the_width_of_a_tier_is_its_bound_less_the_one_below` |
//! | 20 | [`included_units_are_no_overage_and_fill_no_tier`] |
//! | 21 | [`a_commitment_of_zero_charges_all_usage_once`]; the conformance example's `window_commitment`: `a_commitment_of_zero_and_a_missing_one_are_told_apart` |
//! | 22 | [`a_change_inside_a_period_gives_no_grant_again`]; `credits::tests`: `cuts_and_splits_change_nothing` |
//! | 23 | [`a_grant_that_is_dated_back_is_as_if_it_had_always_been_there`]; there are no snapshots of balances: `machine::tests::agreements` replays and compares |
//! | 24 | [`the_flat_amount_of_the_first_tier_is_owed_before_any_unit`] |
//! | 25 | [`a_call_costs_what_was_debited_while_it_went_on`] |
//! | 26, 27 | [`no_second_is_rounded_and_a_minute_costs_its_price`] |
//! | 28 | `allocation`: `cents_lost_by_rounding_lines_go_back_to_the_lines` |
//! | 29 | `models::graduated`: `a_bound_is_inside_the_tier_that_it_ends` |
//! | 30 | [`late_usage_after_a_new_price_is_corrected_at_the_new_price`], [`two_units_at_once_never_overdraw_a_grant`], [`included_units_are_those_of_the_window_and_not_of_a_slice`]; `proration`: `a_boundary_day_belongs_to_one_slice`, `thirty_days_are_the_most_that_the_slices_of_a_period_make`; `account::tests`: `discounts_apply_in_their_order_then_the_maximum_then_the_minimum_of_a_final_window`; `machine::measure`: `a_granule_across_a_cut_of_slices_counts_once`; `folds::levels`: `a_level_counts_for_the_part_of_the_span_in_which_it_held` |
//!
//! Of the thirtieth, reservations have no place here: there are none.

use domain::{Exact, Zone};

use super::account::FrozenDraw;
use super::shop::{Shop, at, exact, grant, grants, issue, precise, price, worths};
use crate::charges::{Component, LineKey};

/// A first tier's flat amount was not billed where nothing was used, and the mending of that changed the bills of plans that
/// were sold before. Here it is a term of the price, and a new version leaves what was before it alone.
/// <https://github.com/getlago/lago/issues/648>, <https://github.com/getlago/lago-api/pull/5760>
#[test]
fn a_flat_amount_at_zero_usage_is_a_term_of_each_version() {
    let tiers = "tiers = [{ up_to = \"10\", unit_amount = \"10\", flat_amount = \"2\" }, { unit_amount = \"5\", flat_amount = \"3\" }]";
    for model in ["graduated", "volume"] {
        let of = |flag: &str| price("p", model, &format!("{tiers}{flag}"));
        assert_eq!(Shop::new(&[of("")], "").total("02-01"), 200, "{model}");
        assert_eq!(Shop::new(&[of(", flat_at_zero = false")], "").total("02-01"), 0, "{model}");
        // Sold without it, and with it from March on.
        let march = of(", flat_at_zero = true, effective_from = \"2026-03-01T00:00:00Z\"");
        let shop = Shop::new(&[of(", flat_at_zero = false"), march], "");
        assert_eq!(shop.months("04-01"), ["03 200"], "{model}");
    }
}

/// A percentage in advance with bounds for each event stored fees of zero or below, where the estimate was right. Here both
/// are the difference of one sequence.
/// <https://github.com/getlago/lago-api/issues/5560>
#[test]
fn an_event_is_stored_at_what_was_estimated_and_never_below_zero() {
    let terms = "rate_percent = \"1\", fixed_amount = \"1\", free_events = 1, event_min = \"1.75\", event_max = \"12\"";
    let mut shop = Shop::new(&[price("p", "percentage", terms)], "");
    let mut stored = Vec::new();
    for (day, amount) in
        [("01-02", "50"), ("01-03", "1"), ("01-04", "100"), ("01-05", "1000"), ("01-06", "10000")]
    {
        let before = shop.total("01-07");
        let estimate = shop.clone().used(&[(day, amount)]).quoted("2026-01").0 - before;
        shop = shop.used(&[(day, amount)]);
        stored.push(shop.total("01-07") - before);
        assert_eq!(stored.last(), Some(&estimate), "{amount}");
    }
    assert_eq!(stored, [0, 175, 200, 1_100, 1_200]);
}

/// A level was read from a fee that had been cut off at zero: three removals and four additions made four units instead of
/// one, and a unit in a free tier showed about 300 dollars. Another cache flipped the sign.
/// <https://github.com/getlago/lago-api/pull/5569>, <https://github.com/getlago/lago-api/pull/5906>
#[test]
fn a_level_below_zero_goes_on_as_it_is_into_a_free_tier() {
    let terms = "tiers = [{ up_to = \"2\", unit_amount = \"0\" }, { unit_amount = \"150\" }]";
    for model in ["graduated", "volume"] {
        let shop = Shop::new(&[price("p", model, terms)], "").used(&[("01-02", "-3"), ("01-20", "4")]);
        assert_eq!(shop.total("02-01"), 0, "{model}");
        assert_eq!(
            shop.used(&[("01-21", "2")]).total("02-01"),
            if model == "volume" { 45_000 } else { 15_000 }
        );
    }
}

/// The units that a subscription began with were missing from prorated tiers before its first invoice, and from the one at
/// its end. Here a bill before it changes nothing of the last one.
/// <https://github.com/getlago/lago-api/pull/1520>
#[test]
fn a_termination_bills_the_same_with_and_without_a_bill_before() {
    let prices = [
        price(
            "units",
            "graduated",
            "tiers = [{ up_to = \"5\", unit_amount = \"10\" }, { unit_amount = \"1\" }]",
        ),
        price("fee", "flat", "unit_amount = \"31\", proration = \"days\""),
    ];
    let until = "from = \"2026-01-05T00:00:00Z\", until = \"2026-01-17T00:00:00Z\", seats = \"3\"";
    let shop = Shop::in_zone("UTC", &prices, until, "").used(&[("01-05", "4"), ("01-12", "4")]);
    let last = worths(&shop.bill(at("01-17")));
    assert_eq!(last.values().sum::<i128>(), 5_300 + 3_600, "twelve days of three seats, and eight units");
    for before in ["01-05", "01-06", "01-12", "01-16"] {
        let mut issued = worths(&shop.bill(at(before)));
        issue(&worths(&shop.bill(at("01-17"))), &mut issued);
        assert_eq!(issued, last, "after a bill on {before}");
        assert_eq!(worths(&shop.bill(at("02-05"))), last, "and nothing comes after it");
    }
}

/// Of an allowance of 250 units the 250th was billed, or the 251st was not.
/// <https://github.com/getlago/lago-front/issues/3489>
#[test]
fn the_last_unit_of_an_allowance_is_free_and_the_next_one_is_not() {
    let tiers = "tiers = [{ up_to = \"250\", unit_amount = \"0\" }, { unit_amount = \"0.02\" }]";
    let included = "unit_amount = \"0.02\", included = \"250\"";
    for (model, terms) in [("graduated", tiers), ("per_unit", included)] {
        for (quantity, amount) in [("249.5", 0), ("250", 0), ("250.5", 1), ("251", 2), ("252", 4)] {
            let shop = Shop::new(&[price("p", model, terms)], "").used(&[("01-02", quantity)]);
            assert_eq!(shop.total("02-01"), amount, "{model} {quantity}");
        }
    }
}

/// A wallet's balance was rounded down and its transaction to the nearest cent: the two were a cent apart.
/// <https://github.com/getlago/lago-api/pull/4639>
#[test]
fn a_balance_is_the_grant_less_every_draw_to_the_cent() {
    let wallet = grant("wallet", "20", "kind = \"paid\"");
    let unit = price("p", "per_unit", "unit_amount = \"0.333333333333333333\"");
    let shop = Shop::new(&[unit], &grants(&[wallet]));
    let shop = shop.used(&[("01-02", "17.9699999999999988631316"), ("01-03", "1.5"), ("01-04", "0.01")]);
    let bill = shop.bill(at("02-01"));
    let draws: Vec<i128> = shop.lines_of(Component::Credit, "02-01");
    // 5.99 and 6.49 and 6.4933: every draw is the line that it pays, and the last one is nothing.
    assert_eq!(draws, [-599, -50]);
    assert_eq!(bill.iter().map(|line| line.rounded).sum::<i128>(), 0);
    let balance = bill
        .iter()
        .filter(|line| line.key.component == Component::Credit)
        .map(|line| line.explanation(domain::Currency::from_code("USD").unwrap()));
    for text in balance {
        assert!(text.contains("13.51"), "2,000 less 649 is left: {text}");
    }
}

/// Credits were computed back from an amount that had been rounded, 14.23 / 1.375, and drifted from what was granted.
/// <https://github.com/getlago/lago-api/pull/5525>
#[test]
fn credits_are_never_computed_back_from_a_rounded_amount() {
    use super::credits::{Due, Grant, draw};
    let grant = Grant {
        id: "g".to_string(),
        priority: 0,
        created: 0,
        amount: exact("10.34567"),
        from: at("01-01"),
        until: None,
        recurrence: None,
        rollover_max: Exact::ZERO,
        voided_at: None,
    };
    let due = |amount: &str| Due {
        at: at("01-02"),
        amount: exact(amount),
        grants: None,
        frozen: Vec::new(),
        pieces: Vec::new(),
    };
    for (dues, left) in [
        (&["1/3", "1/3", "1/3"][..], "9.34567"),
        (&["10.34566"], "0.00001"),
        (&["10.34567", "0.00001"], "0"),
        (&["0.000000000000000001"], "10.345669999999999999"),
    ] {
        let dues: Vec<Due> = dues.iter().map(|amount| due(amount)).collect();
        let drawn = draw(std::slice::from_ref(&grant), &dues, &Zone::utc(), at("01-03")).unwrap();
        assert_eq!(drawn.lots[0].balance, exact(left));
    }
}

/// The credit for what had been billed within a period left out coupons, and credit notes that were there before: more was
/// given back than paid. Here usage that is taken back gives back what its discount left.
/// <https://github.com/getlago/lago-api/pull/4606>
#[test]
fn what_is_given_back_is_what_discounts_left_of_it() {
    let terms = "unit_amount = \"1\", discounts = [{ percent = \"50\" }, { amount = \"10\" }]";
    let full = Shop::new(&[price("p", "per_unit", terms)], "").used(&[("01-02", "100")]);
    let mut issued = worths(&full.bill(at("01-20")));
    assert_eq!(issued.values().sum::<i128>(), 4_000);
    for (left, given_back) in [("60", -2_000), ("10", -2_000), ("0", 0), ("100", 4_000)] {
        let now = Shop::new(&[price("p", "per_unit", terms)], "").used(&[("01-02", left)]);
        let charged = issue(&worths(&now.bill(at("01-20"))), &mut issued);
        assert_eq!(charged, given_back, "{left} are left");
        assert!(issued.values().sum::<i128>() >= 0);
    }
}

/// A credit for a progressive invoice was spread over charges that were added after it. Here a draw is keyed by the line
/// that it paid, and stays there.
/// <https://github.com/getlago/lago-api/pull/4436>
#[test]
fn a_closed_draw_stays_with_the_line_that_it_paid() {
    let prices =
        [price("a", "per_unit", "unit_amount = \"1\""), price("b", "per_unit", "unit_amount = \"2\"")];
    let wallet = grants(&[grant("wallet", "50", "kind = \"paid\"")]);
    let first = Shop::new(&prices[..1], &wallet).used(&[("01-10", "40")]);
    let draws = first.bill(at("02-10")).into_iter().filter(|line| line.key.component == Component::Credit);
    let draws: Vec<FrozenDraw> = draws
        .map(|line| FrozenDraw { key: line.key, until: line.slice.until, amount: -line.rounded })
        .collect();
    assert_eq!(draws.len(), 1);
    // The price b comes later, with usage that lies before.
    let mut second = Shop::new(&prices, &wallet).used(&[("01-02", "3"), ("01-10", "40")]);
    second.frozen_draws = draws.clone();
    let bill = second.bill(at("02-10"));
    let paid: Vec<(&LineKey, i128)> = bill
        .iter()
        .filter(|line| line.key.component == Component::Credit)
        .map(|line| (&line.key, -line.rounded))
        .collect();
    assert!(paid.contains(&(&draws[0].key, 4_000)), "{paid:?}");
    assert_eq!(paid.iter().map(|(_, amount)| amount).sum::<i128>(), 5_000, "and nothing is overdrawn");
}

/// Paying in advance left out the last event, which was the wrong one where another lay in the future. Here an event is
/// worth what the window is with it, less what it is without it.
/// <https://github.com/getlago/lago-api/pull/2405>
#[test]
fn an_event_before_one_of_the_future_adds_its_own_amount() {
    let tiers = "tiers = [{ up_to = \"1\", unit_amount = \"7\" }, { unit_amount = \"3\" }]";
    let share = "rate_percent = \"10\", fixed_amount = \"1\", free_events = 1";
    for (model, terms, added) in [("graduated", tiers, 300), ("percentage", share, 110)] {
        let shop = Shop::new(&[price("p", model, terms)], "").used(&[("01-02", "1"), ("01-30", "1")]);
        let before = shop.total("01-31");
        assert_eq!(shop.used(&[("01-10", "1")]).total("01-31") - before, added, "{model}");
    }
}

/// 55 units at 0.067 are 3.685: the item was rounded and the check was not, so the account was parked. A second run found a
/// cent to bill.
/// <https://github.com/killbill/killbill/issues/1124>
#[test]
fn half_a_cent_is_rounded_once_and_compared_as_rounded() {
    let shop = Shop::new(&[price("p", "package", "unit_amount = \"0.067\", package_size = \"1\"")], "");
    let shop = shop.used(&[("01-02", "20"), ("01-03", "35")]);
    assert_eq!(shop.quoted("2026-01"), (369, exact("3.685")));
    let mut issued = worths(&shop.bill(at("02-01")));
    assert_eq!(issued.values().sum::<i128>(), 369);
    assert_eq!(issue(&worths(&shop.bill(at("02-02"))), &mut issued), 0);
    assert!(issued.values().all(|amount| *amount >= 0));
}

/// Amounts of usage beyond 32 and 64 bits were missing from the invoice.
/// <https://github.com/killbill/killbill/issues/1081>
#[test]
fn usage_beyond_64_bits_is_on_the_bill() {
    let per = "unit_amount = \"0.01\", per = 1000000000";
    for (quantity, amount) in [
        ("2147483648", 2),
        ("9223372036854775808", 9_223_372_037),
        ("18446744073709551616", 18_446_744_074),
        ("340282366920938463463374607431768211", 340_282_366_920_938_463_463_374_607),
    ] {
        let shop = Shop::new(&[price("p", "per_unit", per)], "").used(&[("01-02", quantity)]);
        assert_eq!(shop.total("02-01"), amount, "{quantity}");
        assert_eq!(shop.quoted("2026-01").0, amount, "{quantity}");
    }
}

/// Usage that came more than two periods late was silently ignored, and a period without usage blocked the invoice.
/// <https://github.com/killbill/killbill/issues/876>
#[test]
fn late_usage_of_any_earlier_month_is_billed_and_silence_blocks_nothing() {
    let tiers = "tiers = [{ up_to = \"10\", unit_amount = \"1\" }, { unit_amount = \"0.5\" }]";
    let shop = Shop::new(&[price("p", "graduated", tiers)], "").used(&[("01-02", "8"), ("11-02", "1")]);
    let mut issued = worths(&shop.bill(at("12-01")));
    assert_eq!(shop.months("12-01"), ["01 800", "11 100"]);
    let late = shop.used(&[("01-20", "8"), ("04-02", "3")]);
    assert_eq!(issue(&worths(&late.bill(at("12-01"))), &mut issued), 500 + 300);
    assert_eq!(late.months("12-01"), ["01 1300", "04 300", "11 100"], "each in its own month and tiers");
}

/// After a block, a period that enclosed one already billed was billed again.
/// <https://github.com/killbill/killbill/issues/1171>
#[test]
fn a_pause_bills_no_day_twice_and_changes_no_month_before() {
    let fee = |proration: &str| {
        price("fee", "flat", &format!("unit_amount = \"31\", payment = \"in_advance\"{proration}"))
    };
    for (proration, expected) in
        [(", proration = \"days\"", ["01 3100", "03 1500"]), ("", ["01 3100", "03 3100"])]
    {
        let active = "from = \"2026-01-01T00:00:00Z\", until = \"2026-02-01T00:00:00Z\"";
        let mut shop = Shop::in_zone("UTC", &[fee(proration)], active, "");
        let mut issued = worths(&shop.bill(at("02-01")));
        shop.put(
            "catalog = 1\nsubscription = [{ id = \"s\", account = \"acme\", plan = \"pro\", from = \"2026-03-17T00:00:00Z\", until = \"2026-04-01T00:00:00Z\" }]",
        );
        let before = issued.clone();
        issue(&worths(&shop.bill(at("05-01"))), &mut issued);
        assert_eq!(shop.months("05-01"), expected, "{proration}");
        assert!(before.iter().all(|(key, amount)| issued[key] == *amount), "January stays as it was");
        assert_eq!(issue(&worths(&shop.bill(at("06-01"))), &mut issued), 0);
    }
}

/// Usage of the last day was in or out of a period by the zone of the server and not of the account.
/// <https://github.com/killbill/killbill/pull/1918>
#[test]
fn the_last_evening_of_a_month_is_of_the_month_of_the_account() {
    let unit = || [price("p", "per_unit", "unit_amount = \"1\"")];
    // Half past eleven in the evening of 31 March, and half past midnight, in New York and in Berlin.
    for (zone, instants) in [
        ("UTC", ["03-31T23:30:00", "04-01T00:30:00"]),
        ("America/New_York", ["04-01T03:30:00", "04-01T04:30:00"]),
        ("Europe/Berlin", ["03-31T21:30:00", "03-31T22:30:00"]),
    ] {
        let shop = Shop::in_zone(zone, &unit(), "from = \"2026-01-01T12:00:00Z\"", "")
            .used(&[(instants[0], "1"), (instants[1], "10")]);
        assert_eq!(shop.months("05-02"), ["03 100", "04 1000"], "{zone}");
        assert_eq!((shop.quoted("2026-03").0, shop.quoted("2026-04").0), (100, 1_000), "{zone}");
    }
}

/// Overage of a tiered price was priced wrongly, and units that were included counted as overage.
/// <https://github.com/flexprice/flexprice/issues/793>, <https://github.com/flexprice/flexprice/issues/811>
#[test]
fn included_units_are_no_overage_and_fill_no_tier() {
    let terms =
        "included = \"100\", tiers = [{ up_to = \"10\", unit_amount = \"5\" }, { unit_amount = \"1\" }]";
    let commitment = "commitment = [{ id = \"c\", account = \"acme\", shape = \"none\", amount = \"50\", overage_factor = \"1.5\", from = \"2026-01-01T00:00:00Z\", until = \"2026-02-01T00:00:00Z\" }]";
    // A hundred units are included, ten cost 5 and ten cost 1: 60, of which 10 are beyond the commitment.
    for (units, charges, overage, true_up) in
        [("90", 0, 0, 5_000), ("100", 0, 0, 5_000), ("110", 5_000, 0, 0), ("120", 6_000, 500, 0)]
    {
        let shop = Shop::new(&[price("p", "graduated", terms)], commitment).used(&[("01-02", units)]);
        let of = |component| shop.lines_of(component, "02-01").iter().sum::<i128>();
        let found = (of(Component::Charge), of(Component::Overage), of(Component::TrueUp));
        assert_eq!(found, (charges, overage, true_up), "{units}");
    }
}

/// A commitment of zero was read as none, a missing factor as zero, and usage outside of what was committed was lost from
/// the total.
/// <https://github.com/flexprice/flexprice/pull/2891>
#[test]
fn a_commitment_of_zero_charges_all_usage_once() {
    let prices =
        [price("a", "per_unit", "unit_amount = \"1\""), price("b", "per_unit", "unit_amount = \"2\"")];
    for (terms, total) in [
        ("amount = \"0\"", 3_000),
        ("amount = \"0\", overage_factor = \"2\"", 6_000),
        ("amount = \"0\", overage_factor = \"2\", prices = [\"a\"]", 4_000),
        ("amount = \"15\", prices = [\"a\"]", 3_500),
        ("amount = \"5\", prices = [\"a\"], overage_factor = \"1\"", 3_000),
    ] {
        for shape in ["none", "roll_forward", "cumulative", "year_end"] {
            let commitment = format!(
                "commitment = [{{ id = \"c\", account = \"acme\", shape = \"{shape}\", {terms}, from = \"2026-01-01T00:00:00Z\", until = \"2026-02-01T00:00:00Z\" }}]"
            );
            let shop = Shop::new(&prices, &commitment).used(&[("01-02", "10")]);
            assert_eq!(shop.total("02-01"), total, "{shape} {terms}");
        }
    }
}

/// A change inside a period gave the grant of the period a second time.
/// <https://github.com/openmeterio/openmeter/pull/4252>
#[test]
fn a_change_inside_a_period_gives_no_grant_again() {
    let monthly = grants(&[grant("g", "10", "kind = \"promotional\", every = \"month\"")]);
    let unit = [price("p", "per_unit", "unit_amount = \"1\"")];
    let uses: &[(&str, &str)] = &[("01-05", "8"), ("01-25", "8"), ("02-05", "8")];
    let plain = Shop::new(&unit, &monthly).used(uses);
    assert_eq!(plain.months("02-20"), ["01 600"]);
    for day in ["10", "20", "26"] {
        let mut changed = plain.clone();
        changed.put(&format!(
            "catalog = 1\nsubscription = [{{ id = \"s\", account = \"acme\", plan = \"pro\", seats = \"2\", from = \"2026-01-{day}T00:00:00Z\" }}]"
        ));
        assert_eq!(changed.months("02-20"), ["01 600"], "changed on the {day}th");
    }
}

/// A snapshot of balances lost the use of a grant, and one from before a reset that was dated back stayed in use. Here the
/// balance is always that of the whole history.
/// <https://github.com/openmeterio/openmeter/pull/4846>, <https://github.com/openmeterio/openmeter/pull/4845>
#[test]
fn a_grant_that_is_dated_back_is_as_if_it_had_always_been_there() {
    let unit = [price("p", "per_unit", "unit_amount = \"1\"")];
    let list = [
        grant("gift", "10", "kind = \"promotional\", until = \"2026-01-20T00:00:00Z\""),
        grant("wallet", "30", "kind = \"paid\", priority = 1"),
    ];
    let uses: &[(&str, &str)] = &[("01-05", "8"), ("01-10", "8"), ("01-25", "8")];
    let always = Shop::new(&unit, &grants(&list)).used(uses);
    let mut later = Shop::new(&unit, &grants(&list[1..])).used(uses);
    let mut issued = worths(&later.bill(at("01-28")));
    assert_eq!(later.lines_of(Component::Credit, "01-28"), [-800, -800, -800]);
    later.put(&format!("catalog = 1\n{}", grants(&list[..1])));
    issue(&worths(&later.bill(at("01-28"))), &mut issued);
    assert_eq!(issued, worths(&always.bill(at("01-28"))));
    assert_eq!(always.lines_of(Component::Credit, "01-28"), [-800, -200, -600, -800]);
}

/// The flat amount of the first tier could be left to usage, so a plan with flat amounts only had a free first step.
/// <https://github.com/openmeterio/openmeter/pull/2119>
#[test]
fn the_flat_amount_of_the_first_tier_is_owed_before_any_unit() {
    let graduated = "tiers = [{ up_to = \"5\", unit_amount = \"0\", flat_amount = \"100\" }, { up_to = \"10\", unit_amount = \"0\", flat_amount = \"50\" }, { up_to = \"15\", unit_amount = \"10\" }, { unit_amount = \"5\" }]";
    let steps = "tiers = [{ up_to = \"5\", flat_amount = \"100\" }, { flat_amount = \"150\" }]";
    for (model, terms, quantity, amount) in [
        ("graduated", graduated, None, 10_000),
        ("graduated", graduated, Some("5"), 10_000),
        ("graduated", graduated, Some("6"), 15_000),
        ("graduated", graduated, Some("16"), 20_500),
        ("stairstep", steps, None, 10_000),
        ("stairstep", steps, Some("5.5"), 15_000),
    ] {
        let uses: Vec<(&str, &str)> = quantity.iter().map(|quantity| ("01-09", *quantity)).collect();
        let shop = Shop::new(&[price("p", model, terms)], "").used(&uses);
        assert_eq!(shop.total("02-01"), amount, "{model} {quantity:?}");
        assert_eq!(shop.quoted("2026-01").0, amount, "{model} {quantity:?}");
    }
}

/// With increments of 30 and then 6 seconds the record of a call showed another cost than was debited while it went on.
/// <https://github.com/cgrates/cgrates/issues/118>
#[test]
fn a_call_costs_what_was_debited_while_it_went_on() {
    // 0.006 a minute, as 0.003 for the first 30 seconds and 0.0006 for every 6 after them.
    let terms = "tiers = [{ up_to = \"30\", unit_amount = \"0.003\", package_size = \"30\" }, { unit_amount = \"0.0006\", package_size = \"6\" }]";
    for (seconds, cost) in
        [(1, "0.003"), (30, "0.003"), (31, "0.0036"), (32, "0.0036"), (57, "0.006"), (75, "0.0078")]
    {
        let mut shop = Shop::new(&[price("p", "graduated", terms)], "");
        let (mut debited, mut at_the_end) = (Exact::ZERO, Exact::ZERO);
        for second in 0..seconds {
            shop.take("units", "", at("01-02").plus(second * 1_000_000_000), Exact::ONE);
            let now = precise(&shop.bill(at("01-03")));
            debited = debited.add(now.subtract(at_the_end).unwrap()).unwrap();
            at_the_end = now;
        }
        assert_eq!((debited, shop.quoted("2026-01").1), (exact(cost), exact(cost)), "{seconds}");
    }
}

/// Every increment of a call was rounded, so 180 seconds at 0.10 a minute cost 0.3001, others up to a cent a second, and with
/// four digits a minute cost less than its price.
/// <https://github.com/cgrates/cgrates/issues/260>, <https://github.com/irontec/ivozprovider/issues/692>
#[test]
fn no_second_is_rounded_and_a_minute_costs_its_price() {
    for (a_minute, seconds, cost) in [
        ("0.1", 180, "0.3"),
        ("0.05", 24, "0.02"),
        ("0.01", 60, "0.01"),
        ("0.0133", 60, "0.0133"),
        ("0.1", 7, "7/600"),
    ] {
        let terms = format!("unit_amount = \"{a_minute}\", convert = {{ divide = \"60\" }}");
        let mut shop = Shop::new(&[price("p", "per_unit", &terms)], "");
        for second in 0..seconds {
            shop.take("units", "", at("01-02").plus(second * 1_000_000_000), Exact::ONE);
        }
        let bill = shop.bill(at("02-01"));
        assert_eq!(precise(&bill), exact(cost), "{seconds} seconds at {a_minute}");
        let rounded: i128 = bill.iter().map(|line| line.rounded).sum();
        assert_eq!(rounded, exact(cost).round_to(2).unwrap(), "{seconds} seconds at {a_minute}");
    }
}

/// A review of a design found that a correction after a re-rating replayed the price that was pinned before it.
/// gears-rust `docs/reviews/2026-07-31-billing-domain-review.md`, 3.
#[test]
fn late_usage_after_a_new_price_is_corrected_at_the_new_price() {
    let unit =
        |amount: &str, from: &str| price("p", "per_unit", &format!("unit_amount = \"{amount}\"{from}"));
    let mut shop = Shop::new(&[unit("2", "")], "").used(&[("01-05", "10")]);
    let mut issued = worths(&shop.bill(at("02-01")));
    // The price is mended from its beginning; then usage of before comes late.
    shop.put(&format!("catalog = 1\nprice = [{}]", unit("3", "")));
    assert_eq!(issue(&worths(&shop.bill(at("02-02"))), &mut issued), 1_000);
    let shop = shop.used(&[("01-04", "1"), ("01-05", "-10")]);
    assert_eq!(issue(&worths(&shop.bill(at("02-03"))), &mut issued), 300 - 3_000);
    assert_eq!(issued.values().sum::<i128>(), 300, "one unit, at the new price");
}

/// The same review: two units that were rated at one frozen balance drew more than a pool had.
/// gears-rust `docs/reviews/2026-07-31-billing-domain-review.md`, 8.
#[test]
fn two_units_at_once_never_overdraw_a_grant() {
    let prices =
        [price("a", "per_unit", "unit_amount = \"7\""), price("b", "per_unit", "unit_amount = \"8\"")];
    let shop = Shop::new(&prices, &grants(&[grant("pool", "10", "kind = \"paid\"")]));
    let shop = shop.used(&[("01-05", "1"), ("01-05", "0.25")]);
    assert_eq!(shop.lines_of(Component::Credit, "02-01"), [-875, -125]);
    assert_eq!(shop.total("02-01"), 875 + 1_000 - 1_000);
}

/// The same review: what is set apart for a window was set apart again in each of its slices.
/// gears-rust `docs/reviews/2026-07-31-billing-domain-review.md`, 2.
#[test]
fn included_units_are_those_of_the_window_and_not_of_a_slice() {
    let unit = |from: &str| price("p", "per_unit", &format!("unit_amount = \"1\", included = \"10\"{from}"));
    let change = ", effective_from = \"2026-01-16T00:00:00Z\"";
    for prices in [vec![unit("")], vec![unit(""), unit(change)]] {
        let shop =
            Shop::new(&prices, "").used(&[("01-05", "8"), ("01-20", "8"), ("01-21", "1"), ("02-02", "10")]);
        assert_eq!(shop.months("03-01"), ["01 700"]);
    }
}
