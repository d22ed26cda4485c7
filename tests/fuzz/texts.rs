//! Texts and JSON that people and programs send: usage files, resources, parameters of queries.

use billing::catalog::{Resource, ResourceKind};
use billing::quote::read_usage;
use server::usage_request::UsageRequest;

/// Usage files of quotes: CSV or one JSON object a line.
pub fn quotes(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    for type_default in [None, Some("request")] {
        let Ok(events) = read_usage(text, type_default) else { continue };
        let lines = text.lines().count();
        assert!(events.iter().all(|event| (1..=lines).contains(&event.line)), "an event has a line");
    }
}

/// Bodies of master data: a byte for the kind, then JSON.
pub fn resources(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let kind = ResourceKind::ALL[usize::from(*kind) % ResourceKind::ALL.len()];
    let Ok(body) = serde_json::from_slice(body) else { return };
    let Ok(resource) = Resource::from_json(kind, "id", body) else { return };
    let written = resource.to_json();
    let again = Resource::from_json(kind, "id", written.clone()).expect("what was written is read");
    assert_eq!(again.to_json(), written, "a resource is written one way");
}

/// Parameters of usage queries: lines of name and value.
pub fn requests(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let parameters: Vec<(String, String)> = text
        .lines()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    if let Err(status) = UsageRequest::parse("tokens", &parameters) {
        assert!(!status.to_string().is_empty() && !status.name().is_empty());
    }
}
