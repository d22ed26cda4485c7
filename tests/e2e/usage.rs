//! Usage queries: of a running server, of its directory, and beside what is charged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use domain::{Decimal, Timestamp};
use serde_json::{Value, json};
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, charged, client, tallymark};

const HOUR: i64 = 3_600_000_000_000;

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

fn event(id: usize, subject: &str, time: i64, region: Option<&str>) -> Event {
    let id = EventIdOwned::Text(id.to_string());
    let event =
        Event::new(id, subject, Timestamp::from_nanoseconds(time)).value("tokens", Decimal::from_integer(10));
    region.into_iter().fold(event, |event, region| event.dimension("region", region))
}

/// The rows of an answer as CSV, from the server and from its directory: they must be the same.
async fn rows(
    server: &Server,
    data: &Path,
    token: &str,
    meter: &str,
    parameters: &[(&str, &str)],
) -> Vec<String> {
    let mut url = reqwest::Url::parse(&server.url(&format!("/v1/meters/{meter}/usage"))).unwrap();
    url.query_pairs_mut().extend_pairs(parameters).append_pair("format", "csv");
    let (status, csv) = call("GET", url.as_str(), token, "").await;
    assert_eq!(status, 200, "{url}: {csv}");
    let mut arguments = vec!["usage".to_string(), meter.to_string(), "--data".to_string()];
    arguments.push(data.display().to_string());
    for (name, text) in parameters {
        let (name, text) = match name.strip_prefix("filter.") {
            Some(dimension) => ("filter", format!("{dimension}={text}")),
            None => (*name, (*text).to_string()),
        };
        arguments.extend([format!("--{}", name.replace('_', "-")), text]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = tallymark(&arguments);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), csv, "{arguments:?}");
    assert!(printed.status.success());
    csv.lines().skip(1).map(str::to_string).collect()
}

fn total(rows: &[String], column: usize) -> i64 {
    rows.iter().map(|row| row.split(',').rev().nth(column).unwrap().parse::<i64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_counts_what_was_acknowledged_and_what_is_charged() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--shards", "3"]);
    let token = server.token.clone().unwrap();
    assert_eq!(call("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    let client = client(&server, data.path(), &token, "shop").await;
    let ask = async |meter: &str, parameters: &[(&str, &str)]| {
        rows(&server, data.path(), &token, meter, parameters).await
    };
    let base = now() - 40 * HOUR;
    let (mut sent, mut by_hour) = (0, BTreeMap::new());
    for round in 0..5 {
        for index in 0..60 {
            let subject = if index % 6 == 0 { "key-2" } else { "key-1" };
            let time = base + (index as i64 % 30) * HOUR + round;
            let region = [None, Some("eu"), Some("us")][index % 3];
            let first = event(round as usize * 60 + index, subject, time, region);
            client.record("request", &first).await.unwrap();
            sent += 1;
            *by_hour.entry(time.div_euclid(HOUR)).or_insert(0) += 10;
            if index % 7 == 0 {
                // The same again, and something else with the same id.
                client.record("request", &first).await.unwrap();
                let conflict = event(round as usize * 60 + index, "key-1", time, Some("asia"));
                client.record("request", &conflict).await.unwrap();
            }
        }
        // Too old, so it is set aside.
        client
            .record("request", &event(10_000 + round as usize, "key-1", now() - 1_000 * HOUR, None))
            .await
            .unwrap();
        client.flush().await.unwrap();
        // Whatever was acknowledged is there.
        let whole = ask("tokens", &[]).await;
        assert_eq!((total(&whole, 0), total(&whole, 1)), (sent, 10 * sent), "{whole:?}");
    }
    let bound = |hours: i64| Timestamp::from_nanoseconds(base + hours * HOUR).to_string();
    let (from, to) = (bound(-100), bound(100));
    let hours = ask("tokens", &[("window", "hour"), ("from", &from), ("to", &to)]).await;
    let expected: Vec<i64> = by_hour.into_values().collect();
    let values: Vec<i64> = hours.iter().map(|row| total(std::slice::from_ref(row), 1)).collect();
    assert_eq!(values, expected, "{hours:?}");
    let regions = ask("calls", &[("group_by", "region"), ("group_by", "subject")]).await;
    assert_eq!((regions.len(), total(&regions, 1)), (4, sent), "{regions:?}");
    let eu = ask("calls", &[("filter.region", "eu"), ("filter.region", "asia"), ("subject", "key-1")]).await;
    assert_eq!(total(&eu, 1), 100, "{eu:?}");

    // One subject has no owner yet: its usage counts for nobody.
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let owned = ask("tokens", &[("account", "acme")]).await;
    assert_eq!((total(&owned, 1), charged(&server, &token).await.0["tokens"]), (2_500, 2_500));
    let (_, before) = call_json("GET", &server.url("/v1/meters/tokens/usage"), &token, "").await;
    let binding = r#"{"subscription": "s1", "from": "2020-01-01T00:00:00Z"}"#;
    assert_eq!(call("PUT", &server.url("/v1/subjects/key-2"), &token, binding).await.0, 200);
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    let owned = ask("tokens", &[("subscription", "s1")]).await;
    assert_eq!((total(&owned, 1), charged(&server, &token).await.0["tokens"]), (3_000, 3_000));

    check_completeness(&server, &token, base).await;

    // What was known then is known still.
    client.record("request", &event(20_000, "key-1", now(), None)).await.unwrap();
    client.close().await.unwrap();
    let as_of = before["as_of"]["usage_offset"].to_string();
    let then = ask("tokens", &[("account", "acme"), ("as_of", &as_of)]).await;
    assert_eq!(total(&then, 1), 2_500);
    let url = server.url(&format!("/v1/meters/tokens/usage?as_of={as_of}"));
    assert_eq!(call_json("GET", &url, &token, "").await.1, before);
    let today = ask("tokens", &[("account", "acme")]).await;
    assert_eq!(total(&today, 1), 3_010);
    assert_eq!(server.terminate(), Some(0));
}

/// Every price charges what the log has, and the source says how far it has come.
async fn check_completeness(server: &Server, token: &str, base: i64) {
    let months: BTreeSet<String> = (0..30)
        .map(|hour| Timestamp::from_nanoseconds(base + hour * HOUR).to_string()[..7].to_string())
        .collect();
    let mut events = 0;
    for month in months {
        let url = server.url(&format!("/v1/accounts/acme/completeness?period={month}"));
        let (status, said) = call_json("GET", &url, token, "").await;
        assert_eq!(status, 200, "{said}");
        let prices = said["prices"].as_array().unwrap();
        assert_eq!(prices.len(), 2, "{said}");
        for price in prices {
            assert_eq!(
                (&price["counted"], &price["is_charged"]),
                (&price["charged"], &true.into()),
                "{said}"
            );
            events += price["counted"]["event_count"].as_i64().unwrap();
        }
        let source = &said["sources"][0];
        assert_eq!(source["source"], "shop", "{said}");
        assert_eq!(source["sequences"], json!({ "runs": 0, "missing": 0, "gap_count": 0, "gaps": [] }));
        let as_of = said["last_cut"]["barrier"].to_string();
        let (_, then) = call_json("GET", &format!("{url}&as_of={as_of}"), token, "").await;
        assert_eq!(then["prices"], said["prices"], "{then}");
    }
    assert_eq!(events, 2 * 300, "every event is counted by both prices");
    for (path, status, code) in [
        ("acme/completeness?period=2026-13", 400, "period_must_be_year_month"),
        ("acme/completeness", 400, "request_must_be_readable"),
        ("acme/completeness?period=2026-01&as_of=x", 400, "parameter_must_be_readable"),
        ("acme/completeness?period=2026-01&as_of=1000000000000", 400, "position_must_exist"),
        ("nobody/completeness?period=2026-01", 404, "account_must_exist"),
    ] {
        let (found, said) = call_json("GET", &server.url(&format!("/v1/accounts/{path}")), token, "").await;
        assert_eq!((found, said["code"].as_str()), (status, Some(code)), "{path}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_breaks_a_rule_is_told_which() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &["--query-bytes-max", "40000"]);
    let token = server.token.clone().unwrap();
    assert_eq!(call("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await.0, 200);
    let long = "x".repeat(300);
    for (path, status, code) in [
        ("calls/usage?window=fortnight", 400, "parameter_must_be_readable"),
        ("calls/usage?tz=Mars", 400, "parameter_must_be_readable"),
        ("calls/usage?from=2026-01-01&to=2026-01-01", 400, "span_must_not_be_empty"),
        ("calls/usage?window=minute", 400, "windows_must_fit"),
        ("calls/usage?nothing=1", 400, "parameter_must_be_known"),
        ("calls/usage?tz=UTC&tz=UTC", 400, "parameter_must_be_single"),
        ("calls/usage?subject=a&account=acme", 400, "scope_must_be_one"),
        (&format!("calls/usage?subject={long}"), 400, "parameter_must_be_readable"),
        ("calls/usage?as_of=1000000000000", 400, "position_must_exist"),
        ("calls/usage?as_of=2090-01-01T00:00:00Z", 400, "position_must_exist"),
        ("calls/usage?empty=show&window=hour&from=2020-01-01&to=2026-01-01", 422, "rows_must_fit"),
        ("nothing/usage", 404, "meter_must_exist"),
        ("NOTHING/usage", 404, "meter_must_exist"),
        ("calls/usage?account=nobody", 404, "account_must_exist"),
        ("calls/usage?subscription=nothing", 404, "subscription_must_exist"),
        ("calls/usage?as_of=0", 404, "meter_must_exist"),
        ("calls/usage?as_of=2020-01-01T00:00:00Z", 404, "meter_must_exist"),
        ("calls/usage?%ff=%ff", 400, "parameter_must_be_known"),
    ] {
        let (found, said) = call_json("GET", &server.url(&format!("/v1/meters/{path}")), &token, "").await;
        assert_eq!((found, said["code"].as_str()), (status, Some(code)), "{path}: {said}");
    }
    let answer = |accept: &'static str| {
        let url = server.url("/v1/meters/calls/usage?from=2026-01-01&to=2026-02-01");
        reqwest::Client::new().get(url).bearer_auth(&token).header("accept", accept).send()
    };
    let csv = answer("text/csv").await.unwrap().text().await.unwrap();
    assert_eq!(csv, "from,to,value,event_count\n2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,0,0\n");
    let json: Value = answer("application/json").await.unwrap().json().await.unwrap();
    assert_eq!((json["rows"][0]["value"].as_str(), json["window"].is_null()), (Some("0"), true), "{json}");

    let client = client(&server, data.path(), &token, "shop").await;
    for round in 0..30 {
        for index in 0..50 {
            client.record("request", &event(round * 50 + index, "key-1", now(), None)).await.unwrap();
        }
    }
    client.close().await.unwrap();
    let (status, said) = call_json("GET", &server.url("/v1/meters/calls/usage"), &token, "").await;
    assert_eq!((status, said["code"].as_str()), (422, Some("scan_must_fit")), "{said}");
}
