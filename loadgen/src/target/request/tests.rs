//! Requests as Tallymark's own reader of CloudEvents sees them.

use wire::cloudevents::{read_binary, read_structured};

use super::*;
use crate::scenario::Scenario;

const SCENARIO: &str = "scenario = 1\nabout = \"x\"\n[load]\nevents = 1\n[time]\nlate = 500\n\
                        [[dimension]]\nname = \"quo\\\"ted\"\nvalues = [\"a\\\\b\", \"c\\nd\"]\n";

/// What was generated, as text.
fn expected(plan: &Plan, generator: &Generator, generated: &Generated) -> String {
    let mut texts = Texts::default();
    generator.write(generated, &mut texts);
    let (name, values) = &plan.dimensions[0];
    let time = Timestamp::from_nanoseconds(generated.time);
    let units = domain::Decimal::new(generated.hundredths.into(), 2).unwrap();
    let (id, subject, value) = (&texts.id, &texts.subject, &values[texts.picks[0]]);
    format!("{id} {} {subject} {time} {units} {name}={value}", plan.run)
}

fn said(event: &wire::cloudevents::CloudEvent<'_>) -> String {
    let (time, (_, units)) = (event.time.unwrap(), &event.values[0]);
    let (name, value) = &event.dimensions[0];
    format!("{} {} {} {time} {units} {name}={value}", event.id, event.source, event.subject)
}

fn check(target: Target, events: usize) {
    let scenario = Scenario::parse("test", SCENARIO).unwrap();
    let start = Timestamp::parse("2026-03-01T12:00:00Z").unwrap();
    let plan = Arc::new(Plan::new(&scenario, "lgtest", start).unwrap());
    let mut endpoint = Endpoint::parse("http://peer:81/in").unwrap();
    endpoint.header("X-Key: 1").unwrap();
    let mut request = Request::new(target, plan.clone(), &endpoint);
    let mut generator = Generator::new(plan.clone(), 0);
    // Memory is used again: the second request has nothing of the first.
    for _ in 0..2 {
        request.begin();
        let mut sent = Vec::new();
        for _ in 0..events {
            let generated = generator.next();
            request.push(&generator, &generated);
            sent.push(expected(&plan, &generator, &generated));
        }
        let bytes = request.finish().to_vec();
        assert_eq!(bytes, request.bytes());
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut headers);
        let body_at = parsed.parse(&bytes).unwrap().unwrap();
        assert_eq!((parsed.method, parsed.path), (Some("POST"), Some("/in")));
        let body = std::str::from_utf8(&bytes[body_at..]).unwrap();
        let header = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.name == name);
            std::str::from_utf8(found.expect("the header is there").value).unwrap().trim().to_string()
        };
        assert_eq!(header("content-length"), body.len().to_string());
        assert_eq!((header("host").as_str(), header("X-Key").as_str()), ("peer:81", "1"));
        let read = match target {
            Target::HttpBinary => {
                let pairs = parsed.headers.iter().map(|header| (header.name, header.value));
                let content_type = header("content-type");
                let body = bytes::Bytes::copy_from_slice(body.as_bytes());
                vec![said(&read_binary(pairs, Some(&content_type), &body).unwrap())]
            }
            Target::Ndjson => body.lines().flat_map(structured).collect(),
            _ => structured(body),
        };
        assert_eq!(read, sent, "{target:?}");
    }
}

fn structured(body: &str) -> Vec<String> {
    let mut read = Vec::new();
    read_structured(body, &mut |event| read.push(said(event.unwrap()))).unwrap();
    read
}

#[test]
fn every_way_of_packing_says_what_was_generated() {
    check(Target::HttpSingle, 1);
    check(Target::HttpBinary, 1);
    check(Target::HttpBatch, 1);
    check(Target::HttpBatch, 50);
    check(Target::Ndjson, 50);
}
