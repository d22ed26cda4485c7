//! Requests that change something.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use billing::catalog::{CatalogFile, Resource, ResourceKind, plan_changes, versions_of_json};
use domain::{EntityId, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::{Answer, Caller, Edge};
use crate::control::{Command, PutOutcome};

pub(super) fn read_json<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Problem> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request("body_must_be_json", &error.to_string()))
}

fn outcome_json(outcome: &PutOutcome) -> Value {
    let change = if outcome.version.is_some() { "changed" } else { "unchanged" };
    json!({ "kind": outcome.kind, "id": outcome.id, "version": outcome.version, "change": change })
}

/// `PUT /v1/{kind}/{id}`: a resource, and the versions that its `ramps` stand for; all or none.
pub(super) async fn put_resource(
    State(edge): State<Arc<Edge>>,
    caller: Caller,
    Path((kind, id)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let body: Value = read_json(&body)?;
    let actor = caller.name.clone();
    let bodies = match ResourceKind::parse(&kind) {
        Some(known) => versions_of_json(known, &id, body)?,
        None => vec![body],
    };
    let resources = bodies.into_iter().map(|body| (kind.clone(), id.clone(), body)).collect();
    let outcomes = edge.command(|reply| Command::Put { resources, actor, reply }).await?;
    let newest = outcomes.iter().max_by_key(|outcome| outcome.version);
    Ok(Json(newest.map(outcome_json)).into_response())
}

fn catalog_file(body: &Bytes) -> Result<CatalogFile, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Problem::bad_request("catalog_must_be_utf8", "a catalog file is UTF-8 TOML"))?;
    CatalogFile::parse(text)
        .map_err(|error| Problem::bad_request("catalog_must_be_readable", &error.to_string()))
}

/// `POST /v1/catalog/plan`: what applying the file would change.
pub(super) async fn plan_catalog(State(edge): State<Arc<Edge>>, body: Bytes) -> Answer {
    let file = catalog_file(&body)?;
    let changes = edge.read(move |machine| plan_changes(machine.control().catalog(), &file)).await??;
    let changes: Vec<Value> = changes
        .into_iter()
        .map(|change| {
            json!({
                "kind": change.kind.as_str(), "id": change.id, "version": change.change.version(),
                "before": change.before, "after": change.after,
            })
        })
        .collect();
    Ok(Json(json!({ "changes": changes })).into_response())
}

/// Resources of a file as a put command takes them.
pub(crate) fn put_list(resources: Vec<Resource>) -> Vec<(String, String, Value)> {
    resources.into_iter().map(|r| (r.kind().as_str().to_string(), r.id().to_string(), r.to_json())).collect()
}

/// `POST /v1/catalog/apply`
pub(super) async fn apply_catalog(State(edge): State<Arc<Edge>>, caller: Caller, body: Bytes) -> Answer {
    let resources = put_list(catalog_file(&body)?.resources());
    let actor = caller.name.clone();
    let outcomes = edge.command(|reply| Command::Put { resources, actor, reply }).await?;
    let changed: Vec<Value> = outcomes.iter().filter(|o| o.version.is_some()).map(outcome_json).collect();
    Ok(Json(json!({ "changed": changed, "unchanged": outcomes.len() - changed.len() })).into_response())
}

/// `POST /v1/cuts`: an issuing cut now.
pub(super) async fn cut(State(edge): State<Arc<Edge>>, caller: Caller) -> Answer {
    let reason = caller.name.clone();
    let outcome = edge.command(|reply| Command::Cut { reason, reply }).await?;
    Ok(Json(outcome).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JournalRunBody {
    #[serde(default)]
    entity: Option<EntityId>,
}

/// `POST /v1/journal-runs`: journals of one entity (`{"entity": …}`) or of all.
pub(super) async fn journal_runs(State(edge): State<Arc<Edge>>, caller: Caller, body: Bytes) -> Answer {
    let JournalRunBody { entity } = read_json(&body)?;
    let reason = caller.name.clone();
    let outcomes = edge.command(|reply| Command::Journals { entity, reason, reply }).await?;
    Ok(Json(outcomes).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AckBody {
    #[serde(default)]
    digest: Option<String>,
}

/// `POST /v1/charge-batches/{number}/ack`
pub(super) async fn ack_batch(
    State(edge): State<Arc<Edge>>,
    caller: Caller,
    Path(batch): Path<u64>,
    body: Bytes,
) -> Answer {
    let AckBody { digest } = read_json(&body)?;
    let consumer = caller.name.clone();
    edge.command(|reply| Command::AckBatch { batch, digest, consumer, reply }).await?;
    Ok(Json(json!({ "batch": batch, "acknowledged": true })).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockBody {
    now: Timestamp,
}

/// `POST /v1/scenario-clock`: moves the scenario clock, and does what falls due until then.
pub(super) async fn advance_clock(State(edge): State<Arc<Edge>>, body: Bytes) -> Answer {
    let ClockBody { now } = read_json(&body)?;
    let now = edge.command(|reply| Command::AdvanceClock { now, reply }).await?;
    Ok(Json(json!({ "now": now })).into_response())
}
