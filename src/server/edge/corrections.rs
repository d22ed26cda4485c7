//! Single events: where they stand, corrections, and what was set aside.
//!
//! Owns: paths and bodies. Leaves to others: the rules (`machine::corrections`), what they change (`engine::shard`).
//!
//! Invariants: an answer leaves when its correction is durable and counts; whoever asks again gets the same answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use domain::{Decimal, EventPosition, Timestamp};
use engine::shard::EventStanding;
use machine::{Amendment, CorrectionKind, CorrectionRequest, RecordedCorrection, name_of};
use serde::Deserialize;
use serde_json::{Value, json};
use wire::event::EventIdOwned;
use wire::verdict::Verdict;

use super::problem::Problem;
use super::reads::{ndjson, shard_snapshot};
use super::writes::read_json;
use super::{Answer, Caller, Edge, stopping};
use crate::control::Command;
use crate::event_finder::{EventFinder, LoggedEvent};
use crate::shards::ShardSnapshot;

/// Events that were set aside in one answer.
const QUARANTINE_PAGE_MAX: usize = 10_000;
const QUARANTINE_PAGE_DEFAULT: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AmendBody {
    reason: String,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    time: Option<Timestamp>,
    #[serde(default)]
    values: Option<BTreeMap<String, Decimal>>,
    #[serde(default)]
    dimensions: Option<BTreeMap<String, String>>,
}

/// `POST /v1/events/{source}/{id}/void`
pub(super) async fn void(edge: State<Arc<Edge>>, caller: Caller, path: EventPath, body: Bytes) -> Answer {
    let ReasonBody { reason } = read_json(&body)?;
    correct(edge, caller, path, CorrectionKind::Void, reason).await
}

/// `POST /v1/events/{source}/{id}/discard`
pub(super) async fn discard(edge: State<Arc<Edge>>, caller: Caller, path: EventPath, body: Bytes) -> Answer {
    let ReasonBody { reason } = read_json(&body)?;
    correct(edge, caller, path, CorrectionKind::Discard, reason).await
}

/// `POST /v1/events/{source}/{id}/release`
pub(super) async fn release(edge: State<Arc<Edge>>, caller: Caller, path: EventPath, body: Bytes) -> Answer {
    let ReasonBody { reason } = read_json(&body)?;
    correct(edge, caller, path, CorrectionKind::Release, reason).await
}

/// `POST /v1/events/{source}/{id}/amend`: what the body names replaces what the event said, values and dimensions as a
/// whole.
pub(super) async fn amend(edge: State<Arc<Edge>>, caller: Caller, path: EventPath, body: Bytes) -> Answer {
    let AmendBody { reason, subject, time, values, dimensions } = read_json(&body)?;
    let amendment = Amendment { subject, time, values, dimensions };
    correct(edge, caller, path, CorrectionKind::Amend(amendment), reason).await
}

type EventPath = Path<(String, String)>;

pub(super) fn event_id(text: &str) -> Result<EventIdOwned, Problem> {
    let unreadable = |_| {
        let detail = format!(
            "{text:?} is no id of an event: 1 to 256 bytes, or seq: with 16 hex digits, / and a number"
        );
        Problem::bad_request("id_must_fit", &detail)
    };
    text.parse().map_err(unreadable)
}

async fn correct(
    State(edge): State<Arc<Edge>>,
    caller: Caller,
    Path((source, id)): EventPath,
    kind: CorrectionKind,
    reason: String,
) -> Answer {
    let correction = kind.as_str();
    let request = CorrectionRequest {
        id: event_id(&id)?,
        source: source.clone(),
        kind,
        actor: caller.name.clone(),
        reason,
    };
    let outcome = edge.command(|reply| Command::Correct { request: Box::new(request), reply }).await?;
    let mut answer = json!({
        "source": source, "id": id, "correction": correction, "control_offset": outcome.control_offset,
        "change": if outcome.control_offset.is_some() { "changed" } else { "unchanged" },
    });
    add_standing(&mut answer, outcome.standing);
    Ok(Json(answer).into_response())
}

fn add_standing(answer: &mut Value, standing: EventStanding) {
    answer["standing"] = standing.as_str().into();
    answer["quarantined"] = match standing {
        EventStanding::Quarantined(reason) => reason.as_str().into(),
        _ => Value::Null,
    };
}

impl Edge {
    pub(super) fn event_finder(&self) -> EventFinder {
        EventFinder { directory: self.directory.clone(), key: self.identity_key }
    }
}

/// `GET /v1/events/{source}/{id}`: what arrived, where it stands, and the corrections of it.
pub(super) async fn event(State(edge): State<Arc<Edge>>, Path((source, id)): EventPath) -> Answer {
    let id = event_id(&id)?;
    let name = name_of(edge.identity_key, &source, &id);
    let (finder, usage) = (edge.event_finder(), edge.usage_tasks.clone());
    let found = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let Some(found) = finder.find(&usage, name)? else { return Ok(None) };
        let mut events = finder.read_all(&[found.position])?;
        Ok(events.remove(&found.position).map(|event| (found, event)))
    });
    let found = found.await.map_err(|_| stopping())?.map_err(|error| Problem::internal(&error))?;
    let Some((found, event)) = found else {
        let detail = format!("no event {id} of source {source:?} is in the log");
        return Err(Problem::new(StatusCode::NOT_FOUND, "event_must_be_known", &detail));
    };
    let corrections: Vec<Value> = edge
        .read(move |machine| {
            let corrections = machine.control().corrections();
            corrections.of(&source, &id, found.position).iter().map(RecordedCorrection::to_json).collect()
        })
        .await?;
    let mut answer = event.to_json();
    answer["offset"] = found.position.offset().into();
    answer["index"] = found.position.index().into();
    answer["corrections"] = corrections.into();
    let counted_before =
        found.counted_before.map(|earlier| json!({ "offset": earlier.offset(), "index": earlier.index() }));
    answer["counted_before"] = counted_before.into();
    add_standing(&mut answer, found.standing);
    Ok(Json(answer).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuarantineQuery {
    /// Offset and index of the last event of the page before.
    after: Option<String>,
    limit: Option<usize>,
    reason: Option<String>,
}

/// `GET /v1/quarantine[?after=OFFSET.INDEX][&limit=N][&reason=R]`: events that were set aside, in log order, with what they
/// say.
pub(super) async fn quarantine(
    State(edge): State<Arc<Edge>>,
    Query(query): Query<QuarantineQuery>,
) -> Answer {
    let after = query.after.as_deref().map(position_of).transpose()?;
    let limit = query.limit.unwrap_or(QUARANTINE_PAGE_DEFAULT).min(QUARANTINE_PAGE_MAX);
    let is_wanted = |verdict: Verdict| {
        query
            .reason
            .as_deref()
            .is_none_or(|wanted| Some(wanted) == verdict.reason() || wanted == verdict.as_str())
    };
    let mut page: Vec<(EventPosition, Verdict)> = Vec::new();
    let behind = |after: EventPosition| EventPosition::from_bits(after.to_bits().saturating_add(1));
    let mut from = Some(after.map_or(EventPosition::from_bits(0), behind));
    while page.len() < limit && from.is_some() {
        let ShardSnapshot { set_aside, set_aside_next, .. } = shard_snapshot(&edge, from).await?;
        let listed = set_aside
            .into_iter()
            .filter_map(|listed| Some((listed.position, Verdict::from_code(listed.verdict)?)))
            .filter(|(_, verdict)| is_wanted(*verdict));
        page.extend(listed.take(limit - page.len()));
        from = set_aside_next;
    }
    let positions: Vec<EventPosition> = page.iter().map(|(position, _)| *position).collect();
    let finder = edge.event_finder();
    let events = tokio::task::spawn_blocking(move || finder.read_all(&positions));
    let mut events = events.await.map_err(|_| stopping())?.map_err(|error| Problem::internal(&error))?;
    let mut lines = String::new();
    for (position, verdict) in page {
        let Some(event) = events.remove(&position) else { continue };
        lines.push_str(&set_aside_json(position, verdict, &event).to_string());
        lines.push('\n');
    }
    Ok(ndjson(Body::from(lines)))
}

fn set_aside_json(position: EventPosition, verdict: Verdict, event: &LoggedEvent) -> Value {
    let mut line = event.to_json();
    line["offset"] = position.offset().into();
    line["index"] = position.index().into();
    line["verdict"] = verdict.as_str().into();
    line["reason"] = verdict.reason().into();
    line
}

pub(super) fn position_of(text: &str) -> Result<EventPosition, Problem> {
    let position = text.split_once('.').and_then(|(offset, index)| {
        let offset = offset.parse().ok().filter(|offset: &u64| *offset < 1 << 48)?;
        Some(EventPosition::new(offset, index.parse().ok()?))
    });
    position.ok_or_else(|| {
        Problem::bad_request("after_must_be_position", "after is an offset, a dot and an index")
    })
}
