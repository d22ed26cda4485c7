//! The HTTP API and the commands beside a running server.

use domain::{Decimal, Timestamp};
use tallymark_client::{Event, EventIdOwned};

use crate::process::{CATALOG, Server, call, call_json, charged, client, mark_shown, tallymark, text};

async fn with_catalog(data: &std::path::Path) -> (Server, String) {
    let server = Server::start(data, &[]);
    let token = server.token.clone().unwrap();
    let (status, said) = call_json("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await;
    assert_eq!((status, said["changed"].as_array().map(Vec::len)), (200, Some(9)), "{said}");
    (server, token)
}

fn event(id: &str, subject: &str) -> Event {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    Event::new(EventIdOwned::Text(id.to_string()), subject, Timestamp::from_nanoseconds(now))
        .value("tokens", Decimal::from_integer(10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn master_data_is_idempotent_by_content_and_mistakes_are_problem_documents() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = with_catalog(data.path()).await;
    let (_, again) = call_json("POST", &server.url("/v1/catalog/apply"), &token, CATALOG).await;
    assert_eq!(again["unchanged"], 9, "{again}");
    let account = r#"{"name": "Acme AG", "entity": "inc", "currency": "USD", "time_zone": "UTC"}"#;
    let url = server.url("/v1/accounts/acme");
    assert_eq!(call_json("PUT", &url, &token, account).await.1["version"], 2);
    assert_eq!(call_json("PUT", &url, &token, account).await.1["change"], "unchanged");
    let price = |amount: &str| {
        format!(
            r#"{{"plan": "pro", "meter": "calls", "model": "per_unit", "window": "month", "unit_amount": {amount}}}"#
        )
    };
    // A second step, behind one that holds.
    let ramped = |step: &str| {
        let first = r#"{"effective_from": "2027-01-01T00:00:00Z", "unit_amount": "2"}"#;
        price("\"3\"").replacen('{', &format!(r#"{{"ramps": [{first}, {step}], "#), 1)
    };
    let cases = [
        ("/v1/accounts/ACME", account.to_string(), 422, "body_must_be_readable"),
        ("/v1/accounts/acme", account.replace("USD", "EUR"), 409, "must_not_change"),
        ("/v1/accounts/new", account.replace("\"inc\"", "\"none\""), 409, "reference_must_exist"),
        ("/v1/accounts/new", "{".to_string(), 400, "body_must_be_json"),
        ("/v1/accounts/new", account.replace("\"name\"", "\"nom\""), 422, "body_must_be_readable"),
        ("/v1/prices/p2", price("1.5"), 422, "body_must_be_readable"),
        ("/v1/prices/p2", price("\"NaN\""), 422, "body_must_be_readable"),
        ("/v1/prices/p2", price("\"1e3\""), 422, "body_must_be_readable"),
        ("/v1/prices/p2", ramped("{}"), 422, "ramp_must_hold"),
        (
            "/v1/prices/p2",
            ramped(r#"{"effective_from": "2028-01-01T00:00:00Z", "per": 7}"#),
            422,
            "per_must_be_power_of_ten",
        ),
        ("/v1/things/x", "{}".to_string(), 404, "kind_must_be_known"),
    ];
    for (path, body, status, code) in cases {
        let (found, said) = call_json("PUT", &server.url(path), &token, &body).await;
        assert_eq!((found, said["code"].as_str()), (status, Some(code)), "{path} {body}: {said}");
        assert!(said["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    // All versions or none: what was refused left nothing.
    let url_of_price = server.url("/v1/prices/p2");
    let whole =
        ramped(r#"{"effective_from": "2028-01-01T00:00:00Z", "minimum": "5"}"#).replace("\"3\"", "\"4\"");
    assert_eq!(call_json("PUT", &url_of_price, &token, &whole).await.1["version"], 3);
    assert_eq!(call_json("PUT", &url_of_price, &token, &whole).await.1["change"], "unchanged");
    assert_eq!(call("GET", &server.url("/v1/counters"), "tm_wrong", "").await.0, 401);
    assert_eq!(call_json("DELETE", &url, &token, "").await.1["code"], "method_not_allowed");
    assert_eq!(call_json("GET", &server.url("/nowhere"), &token, "").await.1["code"], "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_bound_later_releases_its_pending_events() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = with_catalog(data.path()).await;
    let client = client(&server, data.path(), &token, "shop").await;
    client.record("request", &event("1", "key-2")).await.unwrap();
    client.record("request", &event("2", "key-1")).await.unwrap();
    client.flush().await.unwrap();
    let counters = || async {
        call_json("GET", &server.url("/v1/counters"), &token, "").await.1["sources"]["shop"].clone()
    };
    let before = counters().await;
    assert_eq!((before["pending"].as_u64(), before["metered"].as_u64()), (Some(1), Some(1)), "{before}");
    let binding = r#"{"subscription": "s1", "from": "2020-01-01T00:00:00Z"}"#;
    assert_eq!(call("PUT", &server.url("/v1/subjects/key-2"), &token, binding).await.0, 200);
    let after = counters().await;
    assert_eq!((after["pending"].as_u64(), after["metered"].as_u64()), (Some(0), Some(2)), "{after}");
    call("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(charged(&server, &token).await.0["tokens"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn billing_pulls_by_cursor_and_a_forked_history_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = with_catalog(data.path()).await;
    let client = client(&server, data.path(), &token, "shop").await;
    client.record("request", &event("1", "key-1")).await.unwrap();
    client.close().await.unwrap();
    let (_, cut) = call_json("POST", &server.url("/v1/cuts"), &token, "").await;
    // The server may have cut by itself before: past windows became final then.
    let batch = cut["batch"].as_u64().expect("something was charged");
    let chain = cut["chain"].as_str().unwrap().to_string();
    let (_, again) = call_json("POST", &server.url("/v1/cuts"), &token, "").await;
    assert_eq!(
        (again["batch"].as_u64(), again["chain"].as_str()),
        (None, Some(chain.as_str())),
        "nothing changed: {again}"
    );
    let after = |digest: &str| server.url(&format!("/v1/charge-batches?after={batch}&digest={digest}"));
    assert_eq!(call("GET", &after(&chain), &token, "").await, (200, String::new()));
    let (status, said) = call_json("GET", &after(&"0".repeat(64)), &token, "").await;
    assert_eq!((status, said["code"].as_str()), (409, Some("history_forked")));
    let ack = server.url(&format!("/v1/charge-batches/{batch}/ack"));
    assert_eq!(call("POST", &ack, &token, r#"{"digest": "0"}"#).await.0, 409);
    assert_eq!(call("POST", &ack, &token, &format!(r#"{{"digest": "{chain}"}}"#)).await.0, 200);
    assert_eq!(call("POST", &server.url("/v1/charge-batches/99/ack"), &token, "").await.0, 404);
    // The run at midnight may have come first; either way the charge is in a journal now.
    let (status, runs) =
        call_json("POST", &server.url("/v1/journal-runs"), &token, r#"{"entity": "inc"}"#).await;
    assert_eq!((status, runs[0]["entity"].as_str()), (200, Some("inc")), "{runs}");
    let (_, journals) = call("GET", &server.url("/v1/journals?entity=inc"), &token, "").await;
    assert!(journals.contains("UnbilledReceivable") && journals.contains("-1-v1"), "{journals}");
    let (_, metrics) = call("GET", &server.url("/metrics"), "", "").await;
    assert!(metrics.contains("tallymark_events_received_total{source=\"shop\"} 1\n"), "{metrics}");
    assert_eq!(server.terminate(), Some(0));
    mark_shown(data.path());
    let server = Server::start(data.path(), &[]);
    assert_eq!(
        call("GET", &server.url(&format!("/v1/charge-batches?after={batch}&digest={chain}")), &token, "")
            .await
            .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_says_how_it_came_about_and_adds_up_to_what_was_charged() {
    let data = tempfile::tempdir().unwrap();
    let (server, token) = with_catalog(data.path()).await;
    let tiers = r#"[{"up_to": "1000", "unit_amount": "0.5"}, {"unit_amount": "0.25"}]"#;
    let price = format!(
        r#"{{"plan": "pro", "meter": "tokens", "model": "graduated", "window": "month", "tiers": {tiers}, "discounts": [{{"percent": "20"}}]}}"#
    );
    let grant = r#"{"account": "acme", "kind": "paid", "amount": "200", "from": "2020-01-01T00:00:00Z"}"#;
    for (path, body) in [("/v1/prices/tokens", price.as_str()), ("/v1/grants/wallet", grant)] {
        let (status, said) = call("PUT", &server.url(path), &token, body).await;
        assert_eq!(status, 200, "{path}: {said}");
    }
    let client = client(&server, data.path(), &token, "shop").await;
    for id in 0..150 {
        client.record("request", &event(&id.to_string(), "key-1")).await.unwrap();
    }
    client.close().await.unwrap();
    call("POST", &server.url("/v1/cuts"), &token, "").await;

    let said =
        text(&tallymark(&["bill", "acme", "--url", server.url("").trim_end_matches('/'), "--token", &token]));
    for line in [
        "first 1,000 units at 0.50 = 500.00",
        "next 500 units at 0.25 = 125.00",
        "total 625.00 USD",
        "150 units at 0.01 = 1.50",
        "discount: 20% of 625.00 = -125.00",
        "credit wallet pays 1.50 of 1.50; the grant has 0.00 left after all draws = -1.50",
        "credit wallet pays 198.50 of 500.00; the grant has 0.00 left after all draws = -198.50",
        "total 301.50 USD",
    ] {
        assert!(said.contains(line), "{line} in:\n{said}");
    }
    let (status, bill) =
        call_json("GET", &server.url("/v1/accounts/acme/bill?format=json"), &token, "").await;
    let windows = bill["windows"].as_array().unwrap();
    assert_eq!((status, windows.len(), windows[0]["total"].as_str()), (200, 1, Some("301.50")), "{bill}");
    let (_, batches) = call("GET", &server.url("/v1/charge-batches?after=0"), &token, "").await;
    let charges = batches.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let cents =
        charges.filter_map(|line| line["charge"]["rounded"].as_str()?.replace('.', "").parse::<i64>().ok());
    assert_eq!(cents.sum::<i64>(), 30_150);
    for (path, code) in [("nobody/bill", "not_found"), ("acme/bill?period=May", "period_must_be_year_month")]
    {
        let (_, said) = call_json("GET", &server.url(&format!("/v1/accounts/{path}")), &token, "").await;
        assert_eq!(said["code"].as_str(), Some(code), "{said}");
    }
    assert_eq!(server.terminate(), Some(0));
    mark_shown(data.path());
    assert!(tallymark(&["replay", "--data", data.path().to_str().unwrap()]).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_beside_a_running_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let (token, directory) = (server.token.clone().unwrap(), data.path().to_str().unwrap());
    let file = data.path().join("catalog.toml");
    std::fs::write(&file, CATALOG).unwrap();
    let url = server.url("");
    let catalog = |verb: &str| {
        let file = file.to_str().unwrap();
        text(&tallymark(&["catalog", verb, file, "--url", url.trim_end_matches('/'), "--token", &token]))
    };
    assert!(catalog("plan").contains("9 changes"), "the difference first");
    assert!(catalog("apply").contains("applied 9 changes"));
    assert!(catalog("plan").contains("no changes"));

    let created = tallymark(&["token", "create", "books", "--role", "finance", "--data", directory]);
    let books = text(&created).trim().to_string();
    assert_eq!(call("GET", &server.url("/v1/journals"), &books, "").await.0, 200);
    assert_eq!(call("POST", &server.url("/v1/cuts"), &books, "").await.0, 403);
    assert!(text(&tallymark(&["token", "list", "--data", directory])).contains("books"));
    tallymark(&["token", "revoke", "books", "--data", directory]);
    assert_eq!(call("GET", &server.url("/v1/journals"), &books, "").await.0, 401);

    let second = tallymark(&["serve", "--data", directory, "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    assert!(!second.status.success() && text(&second).contains("in use by another process"));
    assert_eq!(server.terminate(), Some(0));
    let scenario = tallymark(&["serve", "--data", directory, "--clock", "scenario"]);
    assert!(!scenario.status.success() && text(&scenario).contains("--clock scenario is refused"));
    assert!(text(&tallymark(&["inspect", "control", "--data", directory])).contains("genesis"));
    assert!(tallymark(&["replay", "--data", directory]).status.success());
}

/// A catalog may be larger than a block of the log; one resource may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_beyond_a_block_is_taken_and_a_resource_beyond_its_limit_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let tier =
        |n: usize| format!("{{ up_to = \"{}\", unit_amount = \"0.{n:027}1\", flat_amount = \"0\" }},", n + 1);
    let tiers: String = (0..255).map(tier).collect();
    let price = |n: usize| {
        format!(
            "[[price]]\nid = \"p{n}\"\nplan = \"pro\"\nmeter = \"tokens\"\nmodel = \"graduated\"\nwindow = \"month\"\ntiers = [{tiers} {{ unit_amount = \"0\" }}]\n"
        )
    };
    let catalog: String = std::iter::once(CATALOG.to_string()).chain((0..1_000).map(price)).collect();
    assert!(catalog.len() > 16 << 20, "larger than a block");
    let (status, said) = call_json("POST", &server.url("/v1/catalog/apply"), &token, &catalog).await;
    assert_eq!((status, said["changed"].as_array().map(Vec::len)), (200, Some(1_009)), "{}", said["detail"]);

    let row =
        |n: usize| serde_json::json!({ "when": { "kind": n.to_string() }, "unit_amount": "1".repeat(24) });
    let rows: Vec<_> = (0..1_000).map(row).collect();
    let mut body = serde_json::json!({ "plan": "pro", "meter": "tokens", "model": "matrix", "window": "month", "rows": rows });
    let wide: std::collections::BTreeMap<String, String> =
        (0..8).map(|n| (format!("{n}{}", "d".repeat(200)), "x".repeat(250))).collect();
    body["rows"][0]["when"] = serde_json::json!(wide);
    for row in body["rows"].as_array_mut().unwrap().iter_mut().skip(1) {
        let mut dimensions = wide.clone();
        dimensions.insert("kind".to_string(), row["when"]["kind"].as_str().unwrap().to_string());
        row["when"] = serde_json::json!(dimensions);
    }
    let (status, said) = call_json("PUT", &server.url("/v1/prices/wide"), &token, &body.to_string()).await;
    assert_eq!(
        (status, said["detail"].as_str().map(|d| d.contains("more than 1048576 bytes"))),
        (409, Some(true)),
        "{said}"
    );
    assert_eq!(server.terminate(), Some(0));
    mark_shown(data.path());
    assert!(tallymark(&["replay", "--data", data.path().to_str().unwrap()]).status.success());
}
