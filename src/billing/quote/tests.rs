//! Bills as tables: what is written in a catalog and used, and what it costs.

use super::*;
use crate::catalog::CatalogFile;

/// A plan in dollars, with meters, to which a test adds prices.
const BASE: &str = r#"
    catalog = 1
    [[meter]]
    id = "calls"
    event_type = "call"
    aggregation = "count"
    group_by = ["model", "region"]
    [[meter]]
    id = "tokens"
    event_type = "call"
    aggregation = "sum"
    value = "tokens"
    scale = 6
    [[meter]]
    id = "payments"
    event_type = "payment"
    aggregation = "each"
    value = "amount"
    [[plan]]
    id = "pro"
    currency = "USD"
    [[plan]]
    id = "euro"
    currency = "EUR"
    [[plan]]
    id = "empty"
    currency = "USD"
"#;

fn catalog(prices: &str) -> Catalog {
    let mut catalog = Catalog::default();
    let file = CatalogFile::parse(&format!("{BASE}{prices}")).unwrap();
    for (offset, resource) in file.resources().into_iter().enumerate() {
        catalog.apply(resource, offset as u64).unwrap();
    }
    catalog
}

fn price(id: &str, fields: &str) -> String {
    format!("[[price]]\nid = \"{id}\"\nplan = \"pro\"\nwindow = \"month\"\n{}\n", fields.replace("; ", "\n"))
}

fn terms<'a>(selection: &Selection<'a>) -> QuoteTerms<'a> {
    let active = Span::new(Timestamp::MIN, Timestamp::END);
    QuoteTerms { selection: selection.clone(), zone: Zone::utc(), seats: None, active, agreed: None }
}

fn may() -> Period {
    Period::parse("2026-05").unwrap()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The bill of quantities in May.
fn bill(catalog: &Catalog, id: &str, quantities: &[&str]) -> Result<Bill, QuoteStatus> {
    let selection = Selection::of_prices(catalog, &[id.to_string()])?;
    let texts: Vec<String> = quantities.iter().map(|text| text.to_string()).collect();
    let uses = uses_of(catalog, &selection, &texts, at("2026-05-01T00:00:00Z"))?;
    quote(&terms(&selection), may(), &uses[0])
}

fn billed(bill: &Bill) -> String {
    format!("{} ({})", bill.currency.format_minor(bill.rounded), bill.precise)
}

/// An account and its legal entity.
const ACME: &str = "
        [[entity]]
        id = \"inc\"
        currency = \"USD\"
        time_zone = \"UTC\"
        [[account]]
        id = \"acme\"
        name = \"Acme\"
        entity = \"inc\"
        currency = \"USD\"
        time_zone = \"UTC\"";

#[test]
fn every_model_makes_a_bill() {
    let per_unit = "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"2.50\"; per = 1000000";
    let tiers =
        "tiers = [{ up_to = \"10\", unit_amount = \"1\", flat_amount = \"5\" }, { unit_amount = \"0.5\" }]";
    let graduated = format!("meter = \"tokens\"; model = \"graduated\"; {tiers}");
    let volume = format!("meter = \"tokens\"; model = \"volume\"; {tiers}");
    let steps = "tiers = [{ up_to = \"10\", flat_amount = \"5\" }, { flat_amount = \"50\" }]";
    let stairstep = format!("meter = \"tokens\"; model = \"stairstep\"; {steps}");
    let capacity = "meters = [\"tokens\", \"calls\"]; model = \"capacity\"; \
                    steps = [{ up_to = { tokens = \"10\" }, amount = \"1\" }, { amount = \"9\" }]";
    let shares = "tiers = [{ up_to = \"100\", rate_percent = \"3\" }, { rate_percent = \"1\" }]";
    let matrix = "meter = \"calls\"; model = \"matrix\"; \
                  rows = [{ when = { model = \"m\" }, unit_amount = \"2\" }, { unit_amount = \"1\" }]";
    for (fields, quantities, expected) in [
        (per_unit, &["1200000"][..], "3.00 (3)"),
        (per_unit, &["0"], "0.00 (0)"),
        (per_unit, &["tokens=1.5"], "0.00 (0.00000375)"),
        ("model = \"flat\"; unit_amount = \"49\"", &[], "49.00 (49)"),
        (&graduated, &["12"], "16.00 (16)"),
        (&graduated, &[], "5.00 (5)"),
        (&volume, &["12"], "6.00 (6)"),
        (
            "meter = \"tokens\"; model = \"package\"; unit_amount = \"8\"; package_size = \"100\"",
            &["101"],
            "16.00 (16)",
        ),
        (&stairstep, &["10"], "5.00 (5)"),
        (&stairstep, &["10.000001"], "50.00 (50)"),
        (capacity, &["tokens=10", "calls=7"], "1.00 (1)"),
        (capacity, &["calls=7", "tokens=11"], "9.00 (9)"),
        (
            "meter = \"payments\"; model = \"percentage\"; rate_percent = \"1\"; fixed_amount = \"0.3\"",
            &["100"],
            "1.30 (1.3)",
        ),
        (
            &format!("meter = \"payments\"; model = \"graduated_percentage\"; {shares}"),
            &["150"],
            "3.50 (3.5)",
        ),
        (matrix, &["10@model=m", "calls=3@model=n@region=eu", "1"], "24.00 (24)"),
        ("meter = \"payments\"; model = \"dynamic\"; multiplier = \"1.2\"", &["10.01"], "12.01 (12.012)"),
        (
            "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\"; convert = { divide = \"1000\" }; round_quantity = { mode = \"ceiling\" }; included = \"1\"",
            &["2001"],
            "2.00 (2)",
        ),
    ] {
        let catalog = catalog(&price("p", fields));
        let bill = bill(&catalog, "p", quantities).unwrap();
        assert_eq!(billed(&bill), expected, "{fields} {quantities:?}");
    }
}

#[test]
fn terms_of_a_price_are_part_of_its_bill() {
    let fields = "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\"; \
                  discounts = [{ percent = \"10\" }]; minimum = \"5\"; maximum = \"50\"";
    let catalog = catalog(&price("p", fields));
    for (quantity, expected, terms) in [
        ("10", "9.00 (9)", &["discount: 10% of 10.00 = -1.00"][..]),
        ("0", "5.00 (5)", &["at least 5.00, of which 0.00 was used = 5.00"]),
        ("100", "50.00 (50)", &["discount: 10% of 100.00 = -10.00", "at most 50.00, of 90.00 = -40.00"]),
    ] {
        let bill = bill(&catalog, "p", &[quantity]).unwrap();
        assert_eq!(billed(&bill), expected, "{quantity}");
        let found: Vec<String> =
            bill.prices[0].terms.iter().map(|line| line.explanation(bill.currency)).collect();
        assert_eq!(found, terms, "{quantity}");
    }
}

#[test]
fn a_plan_is_the_sum_of_its_prices_and_seats_multiply_what_recurs() {
    let prices = [
        price("base", "model = \"flat\"; unit_amount = \"12\"; proration = \"days\""),
        price("tokens", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"0.001\""),
        price("calls", "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"0.005\""),
    ];
    let catalog = catalog(&prices.concat());
    let selection = Selection::of_plan(&catalog, "pro").unwrap();
    let texts = ["tokens=1001".to_string(), "calls=1@model=a".to_string(), "calls=1@model=b".to_string()];
    let uses = uses_of(&catalog, &selection, &texts, at("2026-05-20T00:00:00Z")).unwrap();
    // From the 17th on: 15 of 31 days.
    let active = Span::new(at("2026-05-17T00:00:00Z"), Timestamp::END);
    let terms = QuoteTerms { seats: Some(Exact::from_integer(5)), active, ..terms(&selection) };
    let bill = quote(&terms, may(), &uses[0]).unwrap();
    // Each group is rounded by itself, as its line is: 0.005 twice is 0.01 twice.
    assert_eq!(billed(&bill), "30.05 (931341/31000)");
    let precise: Vec<String> = bill.prices.iter().map(|price| price.precise.to_string()).collect();
    assert_eq!(precise, ["900/31", "0.01", "1.001"], "in the order of their ids");
    assert_eq!(bill.prices[1].groups.len(), 2);
    let before = quote(&terms, Period::parse("2026-04").unwrap(), &uses[0]).unwrap();
    assert_eq!((before.active, before.prices.len()), (None, 0));
}

#[test]
fn the_version_in_force_when_something_is_used_prices_it() {
    let of = |from: &str, amount: &str| {
        price(
            "p",
            &format!(
                "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"{amount}\"; effective_from = \"{from}\""
            ),
        )
    };
    let catalog = catalog(&[of("2026-05-10T00:00:00Z", "1"), of("2026-05-20T00:00:00Z", "2")].concat());
    let selection = Selection::of_prices(&catalog, &["p".to_string()]).unwrap();
    let day = |day: &str| format!("2026-05-{day}T00:00:00Z,call,1\n");
    let file =
        ["time,type,tokens\n".to_string(), day("09"), day("10"), day("19"), day("20"), day("21")].concat();
    let mut meters: Vec<(u64, &crate::catalog::Meter)> = catalog.meters().collect();
    meters.sort_by_key(|(created, _)| *created);
    let meters: Vec<&crate::catalog::Meter> = meters.into_iter().map(|(_, meter)| meter).collect();
    let metered = meter(&meters, &read_usage(&file, None).unwrap());
    let bill = quote(&terms(&selection), may(), &metered.uses).unwrap();
    assert_eq!(billed(&bill), "6.00 (6)");
    let priced = &bill.prices[0];
    assert_eq!((priced.version, priced.next_version_at), (None, Some(at("2026-05-10T00:00:00Z"))));
    let lines: Vec<(u32, String)> =
        priced.groups[0].lines.iter().map(|line| (line.price_version, line.precise.to_string())).collect();
    assert_eq!(lines, [(1, "2".to_string()), (2, "4".to_string())]);
}

#[test]
fn a_percentage_prices_events_one_by_one_in_order_of_time() {
    let fields = "meter = \"payments\"; model = \"percentage\"; rate_percent = \"10\"; fixed_amount = \"1\"; free_events = 1";
    let catalog = catalog(&price("p", fields));
    let selection = Selection::of_prices(&catalog, &["p".to_string()]).unwrap();
    let file = "time,amount\n2026-05-03T00:00:00Z,100\n2026-05-02T00:00:00Z,10\n2026-05-04T00:00:00Z,0\n";
    let meters: Vec<&crate::catalog::Meter> = catalog.meters().map(|(_, meter)| meter).collect();
    let metered = meter(&meters, &read_usage(file, Some("payment")).unwrap());
    let bill = quote(&terms(&selection), may(), &metered.uses).unwrap();
    // The payment of 10 came first and is free; then 10 + 1, then 0 + 1.
    assert_eq!(billed(&bill), "12.00 (12)");
    assert_eq!(bill.prices[0].groups[0].event_count, 3);
}

#[test]
fn what_fits_no_row_waits_is_free_or_fails_as_the_price_says() {
    let matrix = |unmatched: &str| {
        let rows = "rows = [{ when = { model = \"m\" }, unit_amount = \"2\" }]";
        catalog(&price(
            "p",
            &format!("meter = \"calls\"; model = \"matrix\"; {rows}; unmatched = \"{unmatched}\""),
        ))
    };
    let quantities = ["1@model=m", "5@model=other"];
    let zero = bill(&matrix("zero"), "p", &quantities).unwrap();
    assert_eq!((billed(&zero), zero.prices[0].groups.len()), ("2.00 (2)".to_string(), 2));
    let aside = bill(&matrix("quarantine"), "p", &quantities).unwrap();
    let group = GroupTexts::from([("model".to_string(), "other".to_string())]);
    assert_eq!(aside.prices[0].set_aside, [(group, Exact::from_integer(5))]);
    let refused = bill(&matrix("reject"), "p", &quantities).unwrap_err().to_string();
    assert!(refused.starts_with("price p, model=other: usage fits no row"), "{refused}");
}

#[test]
fn a_row_of_quantities_is_a_row_of_bills() {
    let catalog = catalog(&price("p", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"2\""));
    let selection = Selection::of_plan(&catalog, "pro").unwrap();
    let uses =
        uses_of(&catalog, &selection, &["tokens=0,1,2.5".to_string()], at("2026-05-01T00:00:00Z")).unwrap();
    let bills = uses.iter().map(|uses| billed(&quote(&terms(&selection), may(), uses).unwrap()));
    assert_eq!(bills.collect::<Vec<_>>(), ["0.00 (0)", "2.00 (2)", "5.00 (5)"]);
}

#[test]
fn what_is_wrong_is_said_with_what_belongs_there() {
    let two = [
        price("pro-tokens", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\""),
        price("pro-calls", "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\""),
        price("euro", "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"")
            .replace("\"pro\"", "\"euro\""),
        price("huge", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"99999999999999999999\""),
    ];
    let catalog = catalog(&two.concat());
    let said = |ids: &[&str], quantities: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        let texts: Vec<String> = quantities.iter().map(|text| text.to_string()).collect();
        let selection = Selection::of_prices(&catalog, &ids)?;
        let uses = uses_of(&catalog, &selection, &texts, at("2026-05-01T00:00:00Z"))?;
        quote(&terms(&selection), may(), &uses[0]).map(|_| ())
    };
    for (ids, quantities, what) in [
        (&["pro-token"][..], &[][..], "the catalog has no price \"pro-token\"; it has pro-tokens"),
        (&["zzzzzz"], &[], "the catalog has no price \"zzzzzz\""),
        (&["pro-tokens", "euro"], &[], "pro-tokens is in USD and euro in EUR"),
        (&["pro-tokens"], &["1e3"], "\"1e3\" is not a quantity: a decimal is written with digits"),
        (&["pro-tokens"], &["1,1000.5"], "several quantities"),
        (&["pro-tokens"], &["0.0000001"], "the meter tokens does not measure that: more fraction digits"),
        (&["pro-tokens"], &["-1"], "a negative value"),
        (&["pro-calls"], &["1.5"], "a count has none"),
        (&["pro-tokens"], &["1234567890123456789012345678901234567890"], "at most 38 significant digits"),
        (&["pro-tokens", "pro-calls"], &["5"], "such as calls=100; the meters here are calls, tokens"),
        (&["pro-tokens"], &["calls=5"], "no price here is of a meter calls; the meters here are tokens"),
        (&["pro-calls"], &["5@colour=red"], "does not group by colour; it groups by model, region"),
        (&["pro-tokens"], &["5@model=m"], "groups by no dimension"),
        (&["pro-calls"], &["5@red"], "\"red\" is not a dimension"),
        (&["pro-calls"], &["5@model=m", "calls=6@model=m"], "given twice"),
        (&["huge"], &["999999999999999"], "price huge: a window is worth at most 10^27 minor units"),
    ] {
        if what == "several quantities" {
            let selection = Selection::of_prices(&catalog, &["pro-tokens".to_string()]).unwrap();
            let texts = [quantities[0].to_string(), "1".to_string()];
            let status = uses_of(&catalog, &selection, &texts, at("2026-05-01T00:00:00Z")).unwrap_err();
            assert!(status.to_string().starts_with(what), "{status}");
            continue;
        }
        let status = said(ids, quantities).unwrap_err().to_string();
        assert!(status.contains(what), "{status}");
    }
    assert!(Selection::of_plan(&catalog, "por").unwrap_err().to_string().ends_with("it has pro"));
    let empty = Selection::of_plan(&catalog, "empty").unwrap_err().to_string();
    assert!(empty.contains("add a [[price]]"), "{empty}");
    let email = [("model".to_string(), "a@b".to_string())];
    let selection = Selection::of_prices(&catalog, &["pro-calls".to_string()]).unwrap();
    let uses = uses_of(&catalog, &selection, &["1@model=a@b".to_string()], Timestamp::MIN).unwrap();
    assert_eq!(uses[0][0].group, GroupTexts::from(email), "an @ inside a text stays there");
}

/// An account that subscribes to the plan of two prices, and what it agreed to.
fn agreed(more: &str) -> Catalog {
    let calls =
        price("calls", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\"; maximum = \"900\"");
    let fee = price("fee", "model = \"flat\"; unit_amount = \"10\"; proration = \"days\"");
    catalog(&format!(
        "{calls}{fee}
        [[entity]]
        id = \"inc\"
        currency = \"USD\"
        time_zone = \"UTC\"
        [[account]]
        id = \"acme\"
        name = \"Acme\"
        entity = \"inc\"
        currency = \"USD\"
        time_zone = \"America/New_York\"
        thresholds = {{ amounts = [\"50.00\", \"90.00\"] }}
        [[subscription]]
        id = \"s1\"
        account = \"acme\"
        plan = \"pro\"
        seats = \"2\"
        from = \"2026-05-01T04:00:00Z\"
        minimum = \"30\"
        {more}"
    ))
}

/// Terms and amounts of the months of a subscription with tokens used at instants, and the notes.
fn agreed_bills(catalog: &Catalog, months: &[&str], used: &[(&str, i64)]) -> (Vec<String>, Vec<String>) {
    let terms = QuoteTerms::of_subscription(catalog, "s1").unwrap();
    let uses: Vec<Use> = used
        .iter()
        .map(|(time, units)| Use {
            meter: MeterId::new("tokens").unwrap(),
            group: GroupTexts::NONE,
            time: at(time),
            value: Exact::from_integer((*units).into()),
        })
        .collect();
    let periods: Vec<Period> = months.iter().map(|month| Period::parse(month).unwrap()).collect();
    let bills = quote_months(&terms, &periods, &uses).unwrap();
    let mut shown = Vec::new();
    for bill in &bills {
        let lines = bill.prices.iter().flat_map(|price| &price.terms).chain(&bill.agreed);
        shown.extend(lines.map(|line| format!("{} {}", bill.period, line.explanation(bill.currency))));
        let standing = bill.thresholds.unwrap();
        let reached = standing.reached.map_or(String::new(), |at| format!(" reached {at}"));
        shown.push(format!("{} total {} usage {}{reached}", bill.period, bill.rounded, standing.usage));
    }
    let said = notes(catalog, &terms, bills[0].window.from);
    (shown, said.iter().map(Note::to_string).collect())
}

#[test]
fn a_quote_of_a_subscription_has_its_own_terms_and_those_of_its_account() {
    let nothing = agreed("");
    // Two seats of 10.00, and 10 are missing to the minimum.
    assert_eq!(
        agreed_bills(&nothing, &["2026-05"], &[]),
        (
            vec![
                "2026-05 at least 30.00, of which 20.00 was used = 10.00".to_string(),
                "2026-05 total 3000 usage 0".to_string()
            ],
            vec![
                "as if nothing had been charged before: thresholds count all usage of the account"
                    .to_string()
            ]
        )
    );
    let catalog = agreed(
        "[[grant]]
        id = \"free\"
        account = \"acme\"
        kind = \"promotional\"
        meter = \"tokens\"
        amount = \"20\"
        from = \"2026-04-01T00:00:00Z\"
        [[grant]]
        id = \"wallet\"
        account = \"acme\"
        kind = \"paid\"
        amount = \"50\"
        from = \"2026-05-10T00:00:00Z\"
        [[discount]]
        id = \"half\"
        account = \"acme\"
        percent = \"50\"
        from = \"2026-06-01T04:00:00Z\"
        [[commitment]]
        id = \"annual\"
        account = \"acme\"
        shape = \"cumulative\"
        amount = \"1200\"
        from = \"2026-01-01T05:00:00Z\"
        until = \"2027-01-01T05:00:00Z\"
        [[subscription]]
        id = \"s2\"
        account = \"acme\"
        plan = \"pro\"
        from = \"2026-05-01T04:00:00Z\"",
    );
    let used = [("2026-05-05T00:00:00Z", 50), ("2026-05-12T00:00:00Z", 30), ("2026-06-02T00:00:00Z", 40)];
    let (shown, said) = agreed_bills(&catalog, &["2026-05", "2026-06"], &used);
    assert_eq!(
        shown,
        [
            "2026-05 credit wallet pays 30.00 of 30.00; the grant has 0.00 left after all draws = -30.00",
            "2026-05 grant free covers 20 of 50 tokens; the grant has 0 left after all draws",
            "2026-05 total 5000 usage 6000 reached 5000",
            "2026-06 discount half: 50% of 60.00 is 30.00 in all, of which for this = -20.00",
            "2026-06 credit wallet pays 20.00 of 20.00; the grant has 0.00 left after all draws = -20.00",
            "2026-06 discount half: 50% of 60.00 is 30.00 in all, of which for this = -10.00",
            "2026-06 total 1000 usage 8000",
        ]
    );
    assert_eq!(
        said,
        [
            "as if nothing else of acme and its pool were charged: without s2",
            "without the commitment annual: it carries over what months before left; quote all of them from 2026-01-01T05:00:00Z \
             on, with --usage",
            "as if nothing had been drawn on the grant free since it started at 2026-04-01T00:00:00Z",
            "as if nothing had been charged before: thresholds count all usage of the account",
        ]
    );
    // A quote of the plan names what it has not.
    let selection = Selection::of_plan(&catalog, "pro").unwrap();
    let said = notes(&catalog, &terms(&selection), at("2026-05-01T00:00:00Z"));
    assert_eq!(
        said.iter().map(Note::to_string).collect::<Vec<_>>(),
        [
            "without what accounts agreed to (discount half, commitment annual, grant free, grant wallet): a quote of a \
          --subscription has it"
        ]
    );
    let unknown = QuoteTerms::of_subscription(&catalog, "s3").unwrap_err();
    assert_eq!(unknown.to_string(), "the catalog has no subscription \"s3\"; it has s1, s2");
}

fn steps_of(catalog: &Catalog, id: &str, quantities: &[&str]) -> Vec<String> {
    let bill = bill(catalog, id, quantities).unwrap();
    bill.prices[0].groups[0].explanation.to_string().lines().map(str::to_string).collect()
}

#[test]
fn a_cap_is_said_where_it_makes_a_tier_cheaper() {
    let tiers =
        |model: &str, tiers: &str| format!("meter = \"tokens\"; model = \"{model}\"; tiers = [{tiers}]");
    let first = "{ up_to = \"100\", unit_amount = \"3\", flat_amount = \"2\", flat_cap = \"10\" }, { unit_amount = \"1\" }";
    for (fields, quantity, expected) in [
        (tiers("graduated", first), "2", &["flat amount = 2.00", "first 2 units at 3.00 = 6.00"][..]),
        (
            tiers("graduated", first),
            "130",
            &[
                "flat amount = 2.00",
                "first 100 units at 3.00 are 300.00, but the tier costs at most 10.00 in all = 8.00",
                "next 30 units at 1.00 = 30.00",
            ],
        ),
        (
            tiers("volume", "{ unit_amount = \"1\", flat_cap = \"7\" }"),
            "53",
            &["all 53 units at 1.00 are 53.00, but the tier costs at most 7.00 in all = 7.00"],
        ),
        (
            tiers("graduated", "{ unit_amount = \"1\", flat_amount = \"7\", flat_cap = \"5\" }"),
            "3",
            &[
                "flat amount of 7.00, but the tier costs at most 5.00 in all = 5.00",
                "3 units at 1.00 are 3.00, but the tier costs at most 5.00 in all = 0.00",
            ],
        ),
        (
            tiers("volume", "{ unit_amount = \"4\", package_size = \"10\" }"),
            "25",
            &["all 25 units in 3 packages of 10 at 4.00 = 12.00"],
        ),
    ] {
        let catalog = catalog(&price("p", &fields));
        let mut steps = steps_of(&catalog, "p", &[quantity]);
        steps.pop();
        assert_eq!(steps, expected, "{fields}");
    }
    let catalog = catalog(&price("p", &tiers("volume", "{ unit_amount = \"1\", flat_cap = \"7\" }")));
    let bill = bill(&catalog, "p", &["53"]).unwrap();
    let step = &bill.prices[0].groups[0].explanation.steps_to_json()[0];
    assert_eq!((&step["cap"], &step["uncapped"], &step["amount"]), (&"7".into(), &"53".into(), &"7".into()));
}

#[test]
fn a_part_of_a_window_is_said_in_what_it_is_counted_in() {
    for (proration, expected) in [
        ("days", "recurring amount, 10 of 31 days of 28.00 = 9.032258…"),
        ("thirty_days", "recurring amount, 10 of 30 days of 28.00 = 9.333333…"),
        ("seconds", "recurring amount, 864,000 of 2,678,400 seconds of 28.00 = 9.032258…"),
        ("none", "recurring amount = 28.00"),
    ] {
        let fields = format!("model = \"flat\"; unit_amount = \"28\"; proration = \"{proration}\"");
        let catalog = catalog(&price("p", &fields));
        let selection = Selection::of_prices(&catalog, &["p".to_string()]).unwrap();
        let active = Span::new(at("2026-05-22T00:00:00Z"), Timestamp::END);
        let bill = quote(&QuoteTerms { active, ..terms(&selection) }, may(), &[]).unwrap();
        let explanation = &bill.prices[0].groups[0].explanation;
        assert_eq!(explanation.to_string().lines().next(), Some(expected));
        let recurring = &explanation.steps_to_json()[0]["basis"]["recurring"];
        assert_eq!(recurring["proration"], proration);
    }
}

#[test]
fn terms_are_said_in_the_order_in_which_they_were_applied_and_have_a_structure() {
    let calls = price(
        "calls",
        "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\"; maximum = \"90\"; \
         discounts = [{ percent = \"5\" }, { amount = \"2\" }]",
    );
    let catalog = catalog(&format!(
        "{calls}
        {ACME}
        [[subscription]]
        id = \"s1\"
        account = \"acme\"
        plan = \"pro\"
        from = \"2026-05-01T00:00:00Z\"
        minimum = \"60\"
        maximum = \"70\"
        discounts = [{{ percent = \"10\" }}]
        [[discount]]
        id = \"a-later\"
        account = \"acme\"
        amount = \"6\"
        from = \"2026-05-01T00:00:00Z\"
        [[discount]]
        id = \"z-first\"
        account = \"acme\"
        percent = \"10\"
        from = \"2026-05-01T00:00:00Z\"
        [[grant]]
        id = \"z-gift\"
        account = \"acme\"
        kind = \"promotional\"
        amount = \"20\"
        priority = 1
        from = \"2026-05-01T00:00:00Z\"
        [[grant]]
        id = \"a-wallet\"
        account = \"acme\"
        kind = \"paid\"
        amount = \"100\"
        priority = 2
        from = \"2026-05-01T00:00:00Z\""
    ));
    let terms = QuoteTerms::of_subscription(&catalog, "s1").unwrap();
    let texts = ["100".to_string()];
    let uses = uses_of(&catalog, &terms.selection, &texts, at("2026-05-01T00:00:00Z")).unwrap();
    let bill = quote(&terms, may(), &uses[0]).unwrap();
    let shown: Vec<String> =
        bill.prices[0].terms.iter().map(|line| line.explanation(bill.currency)).collect();
    assert_eq!(
        shown,
        [
            "discount: 5% of 100.00 = -5.00",
            "discount off 95.00 = -2.00",
            "at most 90.00, of 93.00 = -3.00",
            "discount of the subscription: 10% of 90.00 = -9.00",
            "the subscription: at most 70.00, of 81.00 = -11.00",
            "discount z-first: 10% of 70.00 = -7.00",
            "discount a-later: off 63.00 = -6.00",
            "credit z-gift pays 20.00 of 57.00; the grant has 0.00 left after all draws = -20.00",
            "credit a-wallet pays 37.00 of 57.00; the grant has 63.00 left after all draws = -37.00",
        ]
    );
    let reasons: Vec<serde_json::Value> =
        bill.prices[0].terms.iter().map(|line| line.reason_to_json(bill.currency)).collect();
    for (index, expected) in [
        (0, r#"{"kind":"discount","level":"price","of":"100.00","percent":"5","taken":"5.00"}"#),
        (1, r#"{"kind":"discount","level":"price","of":"95.00","percent":null,"taken":"2.00"}"#),
        (2, r#"{"kind":"maximum","level":"price","maximum":"90.00","of":"93.00","taken":"3.00"}"#),
        (4, r#"{"kind":"maximum","level":"subscription","maximum":"70.00","of":"81.00","taken":"11.00"}"#),
        (6, r#"{"kind":"discount","level":"account","of":"63.00","percent":null,"taken":"6.00"}"#),
        (8, r#"{"balance":"63.00","due":"57.00","grant":"a-wallet","kind":"credit","level":"account"}"#),
    ] {
        assert_eq!(reasons[index], serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }
}

#[test]
fn commas_that_could_separate_thousands_are_no_row_of_quantities() {
    // 1,000 was a table of one and of nothing.
    let catalog = catalog(&price("p", "meter = \"tokens\"; model = \"per_unit\"; unit_amount = \"1\""));
    let selection = Selection::of_prices(&catalog, &["p".to_string()]).unwrap();
    let read = |text: &str| uses_of(&catalog, &selection, &[text.to_string()], at("2026-05-01T00:00:00Z"));
    for text in ["1,000", "tokens=12,500,000", "-1,000", "1,000.5", "100,200"] {
        let refused = read(text).unwrap_err();
        assert!(matches!(refused, QuoteStatus::QuantityMustHaveNoThousands(_)), "{text}: {refused}");
    }
    let said = read("1,000").unwrap_err().to_string();
    assert_eq!(
        said,
        "\"1,000\" is one quantity, or several in a row; write 1000 for one, or \"1, 000\" for several"
    );
    for (text, bills) in
        [("0,100,1000", 3), ("100, 200", 2), ("10,20", 2), ("1000,2000", 2), ("1,1000", 2), ("1000", 1)]
    {
        assert_eq!(read(text).unwrap().len(), bills, "{text}");
    }
}

#[test]
fn a_month_is_quoted_in_windows_that_start_in_it_and_what_it_leaves_out_is_said() {
    let day = price("day", "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"")
        .replace("\"month\"", "\"day\"");
    let fee = price("fee", "model = \"flat\"; unit_amount = \"10\"");
    let year = price("year", "model = \"flat\"; unit_amount = \"10\"").replace("\"month\"", "\"year\"");
    let catalog = catalog(&format!(
        "{day}{fee}{year}
        {ACME}
        [[subscription]]
        id = \"s1\"
        account = \"acme\"
        plan = \"pro\"
        from = \"2026-01-31T00:00:00Z\"
        anchor = \"2026-01-31T00:00:00Z\""
    ));
    let terms = QuoteTerms::of_subscription(&catalog, "s1").unwrap();
    for (month, start, fees, said) in [
        ("2026-01", "2026-01-31T00:00:00Z", "2026-01-31", &[][..]),
        (
            "2026-02",
            "2026-02-28T00:00:00Z",
            "2026-02-28",
            &[
                "day has more windows than the one from 2026-02-28 until 2026-03-01 in this month; a quote with --usage, or without a \
                 quantity, has them all",
                "the window of year started on 2026-01-31: a quote of that month is of the same window, so the two do not add up",
            ],
        ),
    ] {
        let period = Period::parse(month).unwrap();
        let at_start = terms.start_in(period);
        assert_eq!(at_start, at(start), "{month}");
        let bill = quote_at(&terms, at_start, &[]).unwrap();
        let fee = bill.prices.iter().find(|price| price.price.as_str() == "fee").unwrap();
        assert_eq!(terms.zone.date_of(fee.window.from), fees);
        let notes: Vec<String> = window_notes(&terms, &bill).iter().map(Note::to_string).collect();
        assert_eq!(notes, said);
        // All windows of the month: as many days as it has, of those on which there is a subscription.
        let whole = quote(&terms, period, &[]).unwrap();
        let days = whole.prices.iter().filter(|price| price.price.as_str() == "day").count();
        assert_eq!(days, if month == "2026-01" { 1 } else { 28 });
    }
}
