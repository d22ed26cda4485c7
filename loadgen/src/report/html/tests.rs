//! The page: well-formed, self-contained, with every chart, whatever a run found.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::Timestamp;

use super::*;
use crate::cpu::CpuUse;
use crate::recorder::{Counts, Recorder, histogram};
use crate::scenario::Scenario;
use crate::verify::Verified;
use crate::workers::Second;

fn measured(seconds: usize) -> Measured {
    let recorder = Recorder::new();
    let mut latencies = histogram();
    let mut series = Vec::new();
    for second in 0..seconds {
        recorder.record(Some(Duration::from_micros(100 + second as u64 * 37)), |_| {});
        let tick = recorder.take(std::time::Instant::now());
        tick.add_latencies_to(&mut latencies);
        let counts =
            Counts { events: 1_000 + second as u64, bytes: 60_000, requests: 10, ..Counts::default() };
        series.push(Second { counts, p50: 100, p99: 200, max: 300 + second as u64 });
    }
    let mut counts = Counts { statuses: BTreeMap::from([(200, 10)]), ..Counts::default() };
    for second in &series {
        counts.add(&second.counts);
    }
    let cpu = CpuUse {
        seconds: 1.0,
        generator: 0.5,
        receiver: Some(0.9),
        is_receiver_gone: false,
        foreign: Some(0.2),
        stolen: 0.0,
        cores: 2,
    };
    Measured { counts, seconds: seconds as f64 - 0.5, latencies, series, cpu: Some(cpu), broken: None }
}

fn report(seconds: usize, differences: Vec<String>, sink: bool) -> Report {
    let text = "scenario = 1\nabout = \"<b>bold & more</b>\"\n[load]\nevents = 1\nrate = 9\n[bursts]\nevery_seconds = 5\n\
                for_seconds = 1\nfactor = 2\n[[dimension]]\nname = \"a\"\nvalues = [\"<i>\"]\n";
    Report {
        name: "<script>".to_string(),
        is_changed: true,
        receiver: "http://peer/".to_string(),
        started_at: Timestamp::parse("2026-03-01T12:00:00Z").unwrap(),
        scenario: Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}")),
        measured: measured(seconds),
        sink_before: sink.then(|| measured(seconds)),
        sink_after: sink.then(|| measured(1)),
        verified: Some(Verified { rows: 5, differences, charged: "USD 1.00".to_string() }),
    }
}

/// Every element that is opened is closed, in order.
fn check_markup(page: &str) {
    const EMPTY: [&str; 4] = ["meta", "br", "line", "path"];
    let mut open: Vec<&str> = Vec::new();
    let (_, mut rest) = page.split_once('>').expect("a page has a doctype");
    while let Some(at) = rest.find('<') {
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn every_report_is_a_whole_page_that_loads_nothing() {
    for (seconds, differences, sink) in [(1, 0, false), (2, 0, true), (90, 3, true), (700, 50, false)] {
        let differences = (0..differences).map(|n| format!("account {n} <wrong>")).collect();
        let page = page(&report(seconds, differences, sink));
        check_markup(&page);
        assert!(page.contains("begun 2026-03-01 12:00:00 UTC,"), "{page}");
        assert_eq!(page.matches("<svg").count(), 3);
        for forbidden in
            ["<script", "http-equiv", "src=", "href=", "url(", "@import", "<b>bold", "<wrong>", "NaN", "inf "]
        {
            assert!(!page.contains(forbidden), "{forbidden} is in the page of {seconds} seconds");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("&lt;script&gt;"));
        assert_eq!(page.contains("NOT verified"), seconds >= 90);
        assert_eq!(page.contains("sink before"), sink);
    }
}

#[test]
fn a_run_without_any_answer_is_shown_too() {
    let mut report = report(1, Vec::new(), false);
    report.measured = Measured {
        counts: Counts::default(),
        seconds: 0.001,
        latencies: histogram(),
        series: vec![Second::default()],
        cpu: None,
        broken: None,
    };
    let page = page(&report);
    check_markup(&page);
    assert!(!page.contains("NaN") && !page.contains(">inf"), "{page}");
}

#[test]
fn numbers_are_written_for_people() {
    let shown = [0.0, 5.0, 12.3, 999.0, 12_345.0, 123_456.0, 7_654_321.0].map(milliseconds);
    assert_eq!(shown, ["0 ms", "0.01 ms", "0.01 ms", "1 ms", "12.3 ms", "123 ms", "7,654 ms"]);
    assert_eq!([0.0, 999.0, 1_000.0, 1_234_567.4].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}
