//! What bodies and headers become, as tables.

use domain::Decimal;
use proptest::prelude::*;

use super::data::decimal;
use super::*;

/// One line an event: what it says, or the rule it broke; a last line if the body is not JSON.
fn read(body: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let read =
        read_structured(body, &mut |event| lines.push(event.map_or_else(|s| s.status.name().into(), shown)));
    if let Err(error) = read {
        lines.push(format!("not JSON at line {} column {}", error.line(), error.column()));
    }
    lines
}

fn shown(event: &CloudEvent<'_>) -> String {
    let CloudEvent { id, source, event_type, subject, time, values, dimensions } = event;
    let time = time.map_or("now".to_string(), |time| time.to_string());
    let values = values.iter().map(|(name, value)| format!(" {name}={value}"));
    let dimensions = dimensions.iter().map(|(name, text)| format!(" {name}:{text}"));
    let data: String = values.chain(dimensions).collect();
    format!("{source}/{id} {event_type} {subject} {time}{data}")
}

fn with_data(data: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"k","data":{data}}}"#)
}

#[test]
fn a_structured_event_is_read_as_it_is_written() {
    let body = r#" {"specversion":"1.0","id":"a\"b","source":"/shop","type":"request","subject":"key-é",
        "time":"2026-01-15T12:00:00.000000001+02:00","datacontenttype":"application/json; charset=utf-8","tenant":"x",
        "data":{"tokens":12.50,"model":"large","cached":true,"empty":"","none":null,"http":{"status":200,"verb":"GET"}}} "#;
    let expected = "/shop/a\"b request key-é 2026-01-15T10:00:00.000000001Z tokens=12.5 http.status=200 model:large \
                    cached:true http.verb:GET";
    assert_eq!(read(body), [expected]);
}

#[test]
fn every_rule_refuses_its_event_and_no_other() {
    let good = with_data("{}");
    for (event, rule) in [
        ("1", "event_must_be_object"),
        ("[{}]", "event_must_be_object"),
        ("null", "event_must_be_object"),
        ("\"x\"", "event_must_be_object"),
        (r#"{"id":"1","id":"2"}"#, "attributes_must_be_unique"),
        ("{}", "specversion_must_be_known"),
        (r#"{"specversion":"0.3"}"#, "specversion_must_be_known"),
        (r#"{"specversion":1.0}"#, "specversion_must_be_known"),
        (r#"{"specversion":"1.0"}"#, "id_must_be_text"),
        (r#"{"specversion":"1.0","id":7}"#, "id_must_be_text"),
        (r#"{"specversion":"1.0","id":"1","source":null}"#, "source_must_be_text"),
        (r#"{"specversion":"1.0","id":"1","source":"s"}"#, "type_must_be_text"),
        (r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#, "subject_must_be_text"),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"k","time":"today"}"#,
            "time_must_be_instant",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"k","data_base64":"eA=="}"#,
            "data_must_be_json",
        ),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"k","datacontenttype":"text/xml"}"#,
            "data_must_be_json",
        ),
        (&with_data("\"{}\""), "data_must_be_object"),
        (&with_data("[1]"), "data_must_be_object"),
        (&with_data(r#"{"a":[1]}"#), "property_must_be_scalar"),
        (&with_data(&format!("{}1{}", "{\"a\":".repeat(9), "}".repeat(9))), "property_must_not_be_deep"),
        (&with_data(r#"{"a":1e40}"#), "property_must_be_decimal"),
    ] {
        let batch = format!("[{good},{event},{good}]");
        assert_eq!(read(&batch), ["s/1 t k now", rule, "s/1 t k now"], "{event}");
        if !event.starts_with('[') {
            assert_eq!(read(event), [rule]);
        }
    }
    assert_eq!(read(&with_data(&format!("{}1{}", "{\"a\":".repeat(8), "}".repeat(8)))).len(), 1);
    assert_eq!(read("[]"), [""; 0]);
}

#[test]
fn what_is_not_json_refuses_the_body_and_says_where() {
    let good = with_data("{}");
    assert_eq!(read(""), ["not JSON at line 1 column 0"]);
    assert_eq!(read(&format!("[{good},\n{{]")), ["s/1 t k now", "not JSON at line 2 column 2"]);
    assert!(
        read(&format!("{good}{good}"))[0].starts_with("not JSON"),
        "no event is taken of two that are one body"
    );
    let deep = "[".repeat(100_000);
    assert!(read(&deep)[0].starts_with("not JSON"), "depth is limited, not the stack of the process");
    let deep = with_data(&"{\"a\":".repeat(100_000));
    assert!(read(&deep)[0].starts_with("not JSON"));
}

#[test]
fn numbers_are_exact_in_any_notation() {
    for (number, value) in [
        ("0", "0"),
        ("-0.0", "0"),
        ("0e999999999999999999999", "0"),
        ("1E3", "1000"),
        ("-1.5e-3", "-0.0015"),
        ("120e-1", "12"),
        ("1200.0e-2", "12"),
        ("0.1", "0.1"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890.12345678", "123456789012345678901234567890.12345678"),
        ("1e-28", "0.0000000000000000000000000001"),
        ("1e37", "10000000000000000000000000000000000000"),
    ] {
        assert_eq!(decimal(number), Ok(Decimal::parse(value).unwrap()), "{number}");
    }
    for (number, status) in [
        ("1e-29", DecimalStatus::DecimalScaleMustFit),
        ("1e-99999999999999999999", DecimalStatus::DecimalScaleMustFit),
        ("1e38", DecimalStatus::DecimalDigitsMustFit),
        ("1e99999999999999999999", DecimalStatus::DecimalDigitsMustFit),
        ("1e9223372036854775807", DecimalStatus::DecimalDigitsMustFit),
        ("1e-9223372036854775808", DecimalStatus::DecimalScaleMustFit),
    ] {
        assert_eq!(decimal(number), Err(status), "{number}");
    }
}

/// The failure of an event whose data had no shape did not say which event it was.
#[test]
fn an_event_that_breaks_a_rule_is_named_by_the_id_that_it_has() {
    let named = |event: Result<&CloudEvent<'_>, BrokenEvent<'_>>| match event {
        Ok(event) => format!("{}/{} is read", event.source, event.id),
        Err(BrokenEvent { status, source, id }) => format!("{source}/{id}: {}", status.name()),
    };
    let (list, text, good) = (with_data(r#"{"a":[1]}"#), with_data("\"x\""), with_data("{}"));
    let base64 =
        r#"{"data_base64":"AA==","type":"t","subject":"k","specversion":"1.0","source":"s","id":"2"}"#;
    let old = r#"{"specversion":"0.3","source":"s","id":"3"}"#;
    let nameless = r#"{"specversion":"1.0","source":"s","type":"t"}"#;
    let twice = r#"{"specversion":"1.0","id":"4","source":"s","id":"5"}"#;
    let mut lines = Vec::new();
    let body = format!("[{list},{text},{base64},{old},7,{good},{nameless},[],{twice}]");
    read_structured(&body, &mut |event| lines.push(named(event))).unwrap();
    let expected = [
        "s/1: property_must_be_scalar",
        "s/1: data_must_be_object",
        "s/2: data_must_be_json",
        "s/3: specversion_must_be_known",
        "/: event_must_be_object",
        "s/1 is read",
        "s/: id_must_be_text",
        "/: event_must_be_object",
        "/: attributes_must_be_unique",
    ];
    assert_eq!(lines, expected);
    let headers = [("ce-specversion", &b"1.0"[..]), ("ce-id", b"a%20b"), ("ce-source", b"s")];
    let read = read_binary(headers.into_iter(), Some("text/plain"), b"x");
    assert_eq!(named(read.as_ref().map_err(Clone::clone)), "s/a b: type_must_be_text");
}

#[test]
fn a_binary_event_is_its_headers_and_its_body() {
    let check = |headers: &[(&str, &[u8])], content_type: Option<&str>, body: &str, expected: &str| {
        let all = [("ce-specversion", &b"1.0"[..]), ("ce-source", b"s"), ("ce-type", b"t"), ("host", b"h")];
        let headers = all.iter().chain(headers).map(|(name, value)| (*name, *value));
        let read = read_binary(headers, content_type, body.as_bytes());
        assert_eq!(read.as_ref().map_or_else(|s| s.status.name().into(), shown), expected);
    };
    let k = ("ce-subject", &b"k"[..]);
    // As the second generation of the SDK for Python encodes it.
    let encoded = b"a%22b%20%2541%C3%A9%E2%82%AC%20%F0%9F%98%80";
    check(&[("ce-id", encoded), k], None, r#"{"n":1}"#, "s/a\"b %41é€ 😀 t k now n=1");
    // As the first sends it: Latin-1, and a percent sign that encodes nothing.
    check(&[("ce-id", b"caf\xe9 100%"), k], Some("application/json"), "", "s/café 100% t k now");
    check(&[("ce-id", b"%zz%4"), k], None, "null", "s/%zz%4 t k now");
    check(&[("ce-id", b"%ff"), k], None, "{}", "s/%ff t k now");
    check(
        &[("ce-id", b"1"), k, ("ce-time", b"2026-01-01T00:00:00Z")],
        None,
        "",
        "s/1 t k 2026-01-01T00:00:00Z",
    );
    check(&[k], None, "", "id_must_be_text");
    check(&[("ce-id", b"1")], None, "", "subject_must_be_text");
    check(&[("ce-id", b"1"), k, k], None, "", "attributes_must_be_unique");
    check(&[("ce-id", b"1"), k, ("ce-time", b"x")], None, "", "time_must_be_instant");
    check(&[("ce-id", b"1"), k], Some("text/plain"), "{}", "data_must_be_json");
    check(&[("ce-id", b"1"), k], None, "{", "data_must_be_json");
    check(&[("ce-id", b"1"), k], None, "{} {}", "data_must_be_json");
    check(&[("ce-id", b"1"), k], None, "7", "data_must_be_object");
}

proptest! {
    /// Whatever arrives: no panic, and every event is read or refused.
    #[test]
    fn nothing_that_arrives_panics(body in "\\PC*|[\\[\\]{}\",:a-e0-9.\\\\ ]{0,60}") {
        let _ = read(&body);
        let _ = read(&with_data(&body));
        let _ = read_binary([("ce-id", body.as_bytes())].into_iter(), None, body.as_bytes());
    }

    #[test]
    fn an_exponent_moves_the_point_and_nothing_else(mantissa in -10i64.pow(15)..10i64.pow(15), exponent in -12i32..12) {
        let value = decimal(&format!("{mantissa}e{exponent}")).unwrap();
        let (left, right) = if exponent < 0 { (value.to_string(), Decimal::new(i128::from(mantissa), exponent.unsigned_abs() as u8).unwrap()) }
            else { (value.to_string(), Decimal::new(i128::from(mantissa) * 10i128.pow(exponent as u32), 0).unwrap()) };
        prop_assert_eq!(left, right.to_string());
    }
}
