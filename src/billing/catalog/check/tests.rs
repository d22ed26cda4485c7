//! Mistakes and warnings as tables: what is written, and what is said of it.

use super::*;
use crate::rating::TermsStatus;
use crate::rating::commitment::CommitmentStatus;

/// A catalog without mistakes and warnings; a case adds lines to it, or changes some.
const GOOD: &str = r#"catalog = 1
[[entity]]
id = "inc"
currency = "USD"
time_zone = "UTC"
[[account]]
id = "acme"
name = "Acme"
entity = "inc"
currency = "USD"
time_zone = "UTC"
[[meter]]
id = "calls"
event_type = "call"
aggregation = "count"
group_by = ["model"]
filter = { kind = ["chat", "voice"] }
[[plan]]
id = "pro"
currency = "USD"
[[price]]
id = "pro-calls"
plan = "pro"
meter = "calls"
model = "per_unit"
unit_amount = "0.01"
window = "month"
[[subscription]]
id = "s1"
account = "acme"
plan = "pro"
from = "2026-01-01T00:00:00Z"
until = "2027-01-01T00:00:00Z"
[[subject]]
id = "key-1"
subscription = "s1"
from = "2026-01-01T00:00:00Z"
"#;

/// What is found, each as `mistake name "marked text"`.
fn found(text: &str) -> Vec<String> {
    let line = |finding: &Finding| {
        let place = Place::of(text, &finding.span);
        let marked: String = place.text.chars().skip(place.column - 1).take(place.width).collect();
        let severity = if finding.severity == Severity::Mistake { "mistake" } else { "warning" };
        format!("{severity} {} {marked}", finding.name)
    };
    check_file(text).findings.iter().map(line).collect()
}

fn check(changes: &[(&str, &str)], more: &str, expected: &[&str]) {
    let mut text = GOOD.to_string();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text.push_str(more);
    assert_eq!(found(&text), expected, "{changes:?} {more}");
}

fn price(fields: &str) -> String {
    let fields = fields.replace("; ", "\n");
    format!("[[price]]\nid = \"p\"\nplan = \"pro\"\nwindow = \"month\"\n{fields}\n")
}

#[test]
fn a_good_file_has_no_findings_and_the_one_of_the_state_tests_only_warnings() {
    check(&[], "", &[]);
    assert_eq!(check_file(GOOD).resource_count, 7);
    let report = check_file(crate::catalog::state::tests::FILE);
    assert_eq!(report.count(Severity::Mistake), 0, "{report:?}");
}

#[test]
fn every_mistake_is_said_at_its_place_and_what_follows_from_it_is_not() {
    let missing_twice = "mistake reference_must_exist \"basic\"";
    for (changes, expected) in [
        (&[("catalog = 1", "catalog = 2")][..], &["mistake version_must_be_known 2"][..]),
        (&[("catalog = 1\n", "")], &["mistake version_must_be_known ["]),
        (
            &[("name = \"Acme\"", "name = \"Acme\"\nthresholds = { amounts = [\"5\", \"5\"] }")],
            &["mistake thresholds_must_hold { amounts = [\"5\", \"5\"] }"],
        ),
        (
            &[("name = \"Acme\"", "name = \"Acme\"\nparent = \"acne\"")],
            &["mistake reference_must_exist \"acne\""],
        ),
        (
            &[("name = \"Acme\"", "name = \"Acme\"\nthresholds = { every = \"0.001\" }")],
            &["mistake amount_must_fit_currency { every = \"0.001\" }"],
        ),
        (&[("id = \"inc\"", "id = \"inc")], &["mistake file_must_be_toml "]),
        (
            &[("[[plan]]", "[[plans]]")],
            &[
                "mistake kind_must_be_known plans",
                "mistake reference_must_exist \"pro\"",
                "mistake reference_must_exist \"pro\"",
            ],
        ),
        (
            &[("[[plan]]", "[plan]")],
            &[
                "mistake body_must_be_readable plan",
                "mistake reference_must_exist \"pro\"",
                "mistake reference_must_exist \"pro\"",
            ],
        ),
        // Several fields of one resource.
        (
            &[
                ("unit_amount = \"0.01\"", "unit_amout = 0.01"),
                ("window = \"month\"", "window = \"month\"\nper = 7\nincluded = 5"),
            ],
            &[
                "mistake body_must_be_readable unit_amout",
                "mistake per_must_be_power_of_ten 7",
                "mistake body_must_be_readable 5",
            ],
        ),
        (&[("unit_amount = \"0.01\"", "unit_amount = 0.01")], &["mistake body_must_be_readable 0.01"]),
        (&[("unit_amount = \"0.01\"\n", "")], &["mistake price_must_fit_model \"per_unit\""]),
        (&[("currency = \"USD\"\n[[price]]", "[[price]]")], &["mistake body_must_be_readable [[plan]]"]),
        (
            &[("aggregation = \"count\"", "aggregation = \"count\"\nvalue = \"n\"\nscale = 29")],
            &["mistake value_must_fit_aggregation \"n\"", "mistake scale_must_fit 29"],
        ),
        (
            &[("group_by = [\"model\"]", "group_by = [\"a\", \"a\"]")],
            &["mistake group_by_must_fit [\"a\", \"a\"]"],
        ),
        (&[("\"Acme\"", "\"\"")], &["mistake text_must_fit \"\""]),
        (
            &[(
                "catalog = 1",
                "catalog = 1\ndiscount = [\n{ id = \"a\", account = \"acme\", percent = \"5\", amount = \"5\", \
                 from = \"2026-01-01T00:00:00Z\" },\n{ id = \"b\", account = \"acme\", from = \"2026-01-01T00:00:00Z\" },\n\
                 { id = \"c\", account = \"acme\", percent = \"100.5\", from = \"2026-01-02T00:00:00Z\" },\n\
                 { id = \"4\", account = \"acme\", percent = \"0\", from = \"2026-01-01T00:00:00Z\" },\n\
                 { id = \"e\", account = \"acme\", amount = \"0.005\", from = \"2026-01-01T00:00:00Z\" },\n\
                 { id = \"f\", account = \"acme\", percent = \"5\", from = \"2026-01-02T00:00:00Z\" }]",
            )],
            &[
                "mistake discount_must_hold \"5\"",
                "mistake discount_must_hold { id = \"b\", account = \"acme\", from = \"2026-01-01T00:00:00Z\" }",
                "mistake discount_must_hold \"100.5\"",
                "mistake discount_must_hold \"4\"",
                "warning amount_is_zero \"0\"",
                "mistake amount_must_fit_currency \"0.005\"",
                "mistake term_must_fit_windows \"2026-01-02T00:00:00Z\"",
            ],
        ),
        (
            &[("until = \"2027", "until = \"2026")],
            &["mistake until_must_be_after_from \"2026-01-01T00:00:00Z\""],
        ),
        // Windows side by side: of one meter, and under an amount of all prices together.
        (
            &[(
                "[[subscription]]",
                "[[price]]\nid = \"week\"\nplan = \"pro\"\nmeter = \"calls\"\nmodel = \"per_unit\"\nunit_amount = \"1\"\n\
                 window = \"week\"\n[[subscription]]",
            )],
            &["mistake windows_must_match \"week\""],
        ),
        (
            &[
                (
                    "[[subscription]]",
                    "[[price]]\nid = \"fee\"\nplan = \"pro\"\nmodel = \"flat\"\nunit_amount = \"1\"\nwindow = \"year\"\n[[subscription]]",
                ),
                ("until = \"2027", "minimum = \"5\"\nuntil = \"2027"),
            ],
            &["mistake windows_must_match \"5\""],
        ),
        (
            &[
                (
                    "[[subscription]]",
                    "[[price]]\nid = \"fee\"\nplan = \"pro\"\nmodel = \"flat\"\nunit_amount = \"1\"\nwindow = \"year\"\n\
                     proration = \"days\"\n[[subscription]]",
                ),
                ("until = \"2027", "discounts = [{ percent = \"5\" }]\nuntil = \"2027"),
            ],
            &["mistake window_must_fit \"days\""],
        ),
        // References, all of them, and nothing else of the resources that have them.
        (
            &[("plan = \"pro\"\nmeter = \"calls\"", "plan = \"basic\"\nmeter = \"call\"")],
            &[missing_twice, "mistake reference_must_exist \"call\""],
        ),
        (&[("entity = \"inc\"", "entity = \"ltd\"")], &["mistake reference_must_exist \"ltd\""]),
        // The plan is in euros: the subscription, and nothing about the subject that hangs on it.
        (
            &[("id = \"pro\"\ncurrency = \"USD\"", "id = \"pro\"\ncurrency = \"EUR\"")],
            &["mistake currency_must_match_account \"pro\""],
        ),
    ] {
        check(changes, "", expected);
    }
}

#[test]
fn terms_of_a_price_are_said_where_they_are_broken() {
    for (fields, expected) in [
        (
            "meter = \"calls\"; model = \"graduated\"; tiers = [{ up_to = \"10\", unit_amount = \"1\" }, { up_to = \"5\", unit_amount = \"1\" }, { unit_amount = \"1\" }]",
            "mistake tiers_must_rise \"5\"",
        ),
        (
            "meter = \"calls\"; model = \"volume\"; tiers = [{ up_to = \"10\", unit_amount = \"1\" }]",
            "mistake tiers_must_rise \"10\"",
        ),
        (
            "meter = \"calls\"; model = \"stairstep\"; tiers = [{ up_to = \"10\", unit_amount = \"1\" }, { flat_amount = \"1\" }]",
            "mistake price_must_fit_model [{ up_to = \"10\", unit_amount = \"1\" }, { flat_amount = \"1\" }]",
        ),
        (
            "model = \"flat\"; unit_amount = \"1\"; meter = \"calls\"",
            "mistake price_must_fit_model \"calls\"",
        ),
        (
            "meter = \"calls\"; model = \"package\"; unit_amount = \"1\"; package_size = \"0\"",
            "mistake package_size_must_be_positive \"0\"",
        ),
        (
            "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"; convert = { divide = \"0\" }",
            "mistake conversion_factor_must_be_positive { divide = \"0\" }",
        ),
        (
            "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"; included = \"-1\"",
            "mistake free_units_must_not_be_negative \"-1\"",
        ),
        (
            "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"; discounts = [{ percent = \"120\" }]",
            "mistake bounds_must_hold [{ percent = \"120\" }]",
        ),
        (
            "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"1\"; minimum = \"0.001\"",
            "mistake amount_must_fit_currency \"0.001\"",
        ),
        (
            "meter = \"calls\"; model = \"matrix\"; rows = [{ unit_amount = \"1\" }, { unit_amount = \"2\" }]",
            "mistake rows_must_differ [{ unit_amount = \"1\" }, { unit_amount = \"2\" }]",
        ),
        (
            "meter = \"calls\"; model = \"matrix\"; rows = [{ when = { model = \"a\" } }]",
            "mistake price_must_fit_model [{ when = { model = \"a\" } }]",
        ),
        (
            "meters = [\"calls\", \"cals\"]; model = \"capacity\"; steps = [{ amount = \"1\" }]",
            "mistake reference_must_exist \"cals\"",
        ),
        (
            "meter = \"calls\"; model = \"percentage\"; rate_percent = \"1\"",
            "mistake meter_must_keep_events \"calls\"",
        ),
    ] {
        check(&[], &price(fields), &[expected]);
    }
}

#[test]
fn what_is_in_the_file_twice_is_said_where_it_differs() {
    let meter = |event_type: &str| {
        format!(
            "[[meter]]\nid = \"calls\"\nevent_type = \"{event_type}\"\naggregation = \"count\"\ngroup_by = [\"model\"]\nfilter = {{ kind = [\"chat\", \"voice\"] }}\n"
        )
    };
    check(&[], &meter("other"), &["mistake must_not_change \"other\""]);
    check(&[], &meter("call"), &["warning resource_repeated [[meter]]"]);
    let later = price(
        "meter = \"calls\"; model = \"per_unit\"; unit_amount = \"2\"; effective_from = \"2026-05-01T00:00:00Z\"",
    );
    check(&[], &later.replace("\"p\"", "\"pro-calls\""), &[]);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let row = |when: &str| format!("{{ when = {{ {when} }}, unit_amount = \"1\" }}");
    let matrix =
        |rows: &[String]| format!("meter = \"calls\"; model = \"matrix\"; rows = [{}]", rows.join(", "));
    let step = |bounds: &str| format!("{{ up_to = {{ {bounds} }}, amount = \"1\" }}");
    for (fields, expected) in [
        ("meter = \"calls\"; model = \"volume\"; tiers = [{ up_to = \"100\", unit_amount = \"2\" }, { unit_amount = \"1\" }]".to_string(), &["warning amount_falls \"100\""][..]),
        ("meter = \"calls\"; model = \"stairstep\"; tiers = [{ up_to = \"100\", flat_amount = \"2\" }, { flat_amount = \"1\" }]".to_string(), &["warning amount_falls \"100\""]),
        ("meter = \"calls\"; model = \"graduated\"; tiers = [{ up_to = \"999\", unit_amount = \"2\" }, { unit_amount = \"1\" }]".to_string(), &["warning bound_looks_exclusive \"999\""]),
        ("meter = \"calls\"; model = \"per_unit\"; unit_amount = \"0\"".to_string(), &["warning amount_is_zero \"0\""]),
        ("meter = \"calls\"; model = \"per_unit\"; unit_amount = \"-1\"".to_string(), &["warning amount_is_negative \"-1\""]),
        ("meter = \"calls\"; model = \"graduated\"; tiers = [{ up_to = \"10\", unit_amount = \"0\" }, { unit_amount = \"-1\" }]".to_string(), &["warning amount_is_negative \"-1\""]),
        (matrix(&[row("region = \"eu\"")]), &["warning row_never_fits { when = { region = \"eu\" }, unit_amount = \"1\" }"]),
        ("model = \"flat\"; unit_amount = \"1\"; effective_from = \"2027-01-01T00:00:00Z\"".to_string(), &["warning price_never_reached \"2027-01-01T00:00:00Z\""]),
        (
            format!("meters = [\"calls\", \"calls\"]; model = \"capacity\"; steps = [{}, {}]", step("calls = \"10\""), step("calls = \"9\"")),
            &["warning step_never_fits { up_to = { calls = \"9\" }, amount = \"1\" }"],
        ),
    ] {
        check(&[], &price(&fields), expected);
    }
    let two = [("group_by = [\"model\"]", "group_by = [\"model\", \"kind\", \"region\"]")];
    check(
        &two,
        &price(&matrix(&[row("kind = \"mail\"")])),
        &["warning row_never_fits { when = { kind = \"mail\" }, unit_amount = \"1\" }"],
    );
    let (model, region) = (row("model = \"m\""), row("region = \"eu\""));
    let overlap = "warning rows_overlap { when = { region = \"eu\" }, unit_amount = \"1\" }";
    check(&two, &price(&matrix(&[model.clone(), region.clone()])), &[overlap]);
    check(&two, &price(&matrix(&[model, region, row("model = \"m\", region = \"eu\"")])), &[]);
    check(&[], "[[plan]]\nid = \"empty\"\ncurrency = \"USD\"\n", &["warning plan_without_prices \"empty\""]);
    let plan = "[[plan]]\nid = \"lonely\"\ncurrency = \"USD\"\n";
    let of_it = price("model = \"flat\"; unit_amount = \"1\"").replace("\"pro\"", "\"lonely\"");
    check(&[], &format!("{plan}{of_it}"), &["warning plan_never_reached \"lonely\""]);
    check(
        &[],
        "[[meter]]\nid = \"idle\"\nevent_type = \"e\"\naggregation = \"count\"\n",
        &["warning meter_not_priced \"idle\""],
    );
}

#[test]
fn a_finding_says_what_to_do() {
    let said = |from: &str, to: &str| {
        let text = GOOD.replace(from, to);
        let report = check_file(&text);
        let finding = report.findings.first().expect("something is wrong").clone();
        format!(
            "{}: {}; {}",
            finding.subject.unwrap_or_default(),
            finding.what,
            finding.remedy.unwrap_or_default()
        )
    };
    for (from, to, expected) in [
        (
            "unit_amount = \"0.01\"",
            "unit_amout = \"0.01\"",
            "price pro-calls: there is no field `unit_amout` here; did you mean unit_amount?",
        ),
        (
            "\"per_unit\"",
            "\"perunit\"",
            "price pro-calls: `perunit` is not a word that is known here; did you mean per_unit?",
        ),
        (
            "plan = \"pro\"\nmeter",
            "plan = \"por\"\nmeter",
            "price pro-calls: the plan \"por\" is not in the file; did you mean \"pro\"?",
        ),
        (
            "plan = \"pro\"\nmeter",
            "plan = \"basic\"\nmeter",
            "price pro-calls: the plan \"basic\" is not in the file; add [[plan]] with id = \"basic\"",
        ),
        ("[[subject]]", "[[subjct]]", ": there is no resource `subjct`; write [[subject]]"),
    ] {
        assert_eq!(said(from, to), expected);
    }
}

#[test]
fn a_place_is_a_line_and_a_character() {
    let text = "a = 1\r\nü = \"öö\"\nlast";
    let place = |span: Range<usize>| {
        let place = Place::of(text, &span);
        (place.line, place.column, place.width)
    };
    assert_eq!(place(0..1), (1, 1, 1));
    let start = text.find('"').unwrap();
    assert_eq!(place(start..start + 6), (2, 5, 4));
    assert_eq!(place(start..text.len()), (2, 5, 4), "the part in the first line");
    assert_eq!(place(text.len()..text.len() + 9), (3, 5, 1));
    assert_eq!(place(5..6), (1, 6, 1));
    assert_eq!(Place::of("", &(0..0)).text, "");
}

fn commitment(fields: &str) -> String {
    format!(
        "[[commitment]]\nid = \"annual\"\naccount = \"acme\"\nshape = \"none\"\nfrom = \"2026-01-01T00:00:00Z\"\n\
         until = \"2027-01-01T00:00:00Z\"\n{}\n",
        fields.replace("; ", "\n")
    )
}

#[test]
fn what_is_wrong_with_an_agreement_is_said_at_the_field_that_is_wrong() {
    let grant = |fields: &str| {
        let fields = fields.replace("; ", "\n");
        format!(
            "[[grant]]\nid = \"g\"\naccount = \"acme\"\nkind = \"paid\"\nfrom = \"2026-01-01T00:00:00Z\"\n{fields}\n"
        )
    };
    let other = "[[account]]\nid = \"globex\"\nname = \"Globex\"\nentity = \"inc\"\ncurrency = \"USD\"\ntime_zone = \"UTC\"\n\
                 [[subscription]]\nid = \"s2\"\naccount = \"globex\"\nplan = \"pro\"\nfrom = \"2026-01-01T00:00:00Z\"\n";
    let bare = price(
        "meter = \"calls\"; model = \"matrix\"; rows = [{ when = { model = \"a\" }, unit_amount = \"1\" }]",
    );
    for (more, expected) in [
        (
            commitment(
                "amount = \"9\"; ramps = [{ effective_from = \"2026-03-15T00:00:00Z\", amount = \"8\" }]",
            ),
            "mistake term_must_fit_windows \"2026-03-15T00:00:00Z\"",
        ),
        (
            commitment("amount = \"9\"").replace("2027-01-01", "2027-01-02"),
            "mistake term_must_fit_windows \"2027-01-02T00:00:00Z\"",
        ),
        (
            commitment("amount = \"9\"; effective_from = \"2027-01-01T00:00:00Z\""),
            "mistake until_must_be_after_from \"2027-01-01T00:00:00Z\"",
        ),
        (commitment("amount = \"9\"; overage_factor = \"0.5\""), "mistake commitment_must_hold \"0.5\""),
        (commitment("amount = \"-9\""), "mistake commitment_must_hold \"-9\""),
        (
            format!("{other}{}", commitment("amount = \"9\"; subscriptions = [\"s2\"]")),
            "mistake subscription_must_be_own [\"s2\"]",
        ),
        (
            format!("{bare}{}", commitment("quantity = \"9\"; prices = [\"p\"]")),
            "mistake quantity_must_be_priced \"9\"",
        ),
        (grant("amount = \"-1\""), "mistake grant_must_hold \"-1\""),
        (grant("amount = \"1\"; rollover = { max = \"1\" }"), "mistake grant_must_hold { max = \"1\" }"),
        (grant("amount = \"1\"; every = { days = 0 }"), "mistake grant_must_hold { days = 0 }"),
        (
            grant("amount = \"1\"; voided_at = \"2025-12-01T00:00:00Z\""),
            "warning grant_never_drawn \"2025-12-01T00:00:00Z\"",
        ),
        (
            price(
                "meter = \"calls\"; model = \"graduated\"; tiers = [{ up_to = \"10\", unit_amount = \"1\" }, { unit_amount = \"1\", flat_cap = \"-5\" }]",
            ),
            "mistake price_amount_must_hold \"-5\"",
        ),
        (
            price("model = \"flat\"; unit_amount = \"10000000000000000000000000.01\""),
            "mistake price_amount_must_hold \"10000000000000000000000000.01\"",
        ),
        (
            price(
                "meter = \"calls\"; model = \"stairstep\"; tiers = [{ flat_amount = \"7\", flat_cap = \"5\" }]",
            ),
            "warning cap_without_effect \"5\"",
        ),
    ] {
        check(&[], &more, &[expected]);
    }
    check(
        &[(
            "until = \"2027-01-01T00:00:00Z\"\n",
            "until = \"2027-01-01T00:00:00Z\"\ntrial_until = \"2027-02-01T00:00:00Z\"\n",
        )],
        "",
        &["warning trial_outlasts_subscription \"2027-02-01T00:00:00Z\""],
    );
}

#[test]
fn every_rule_says_what_to_do_or_has_a_remedy() {
    let texts = [
        "a price of model flat needs `unit_amount`; `unit_amount` is missing",
        "a matrix has at most 10000 rows",
    ];
    let mut rules: Vec<Rule> = crate::catalog::state::tests::RULES.to_vec();
    rules.extend(texts.map(|text| Rule::PriceMustFitModel(text.to_string())));
    rules.extend(
        [
            TermsStatus::PackageSizeMustBePositive,
            TermsStatus::ConversionFactorMustBePositive,
            TermsStatus::FreeUnitsMustNotBeNegative,
            TermsStatus::MinimumMustNotExceedMaximum,
            TermsStatus::RowsMustDiffer,
        ]
        .map(Rule::TermsMustHold),
    );
    rules.extend([
        Rule::CommitmentMustHold(CommitmentStatus::FactorMustBeAtLeastOne),
        Rule::BoundsMustHold("a discount is 0 to 100 percent, or an amount of zero or more"),
        Rule::PriceAmountMustHold("unit_amount is too much".to_string()),
    ]);
    // Texts of the other two are said where the rule is broken.
    let is_of_text = |rule: &&Rule| matches!(rule, Rule::BodyMustBeReadable(_) | Rule::WindowMustFit(_));
    for rule in rules.iter().filter(|rule| !is_of_text(rule)) {
        let is_said = remedy::of_rule(rule).is_some() || rule.to_string().contains("; ");
        assert!(is_said, "{}: {rule}", rule.name());
    }
}
