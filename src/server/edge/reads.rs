//! Requests that read.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::ledger::Journal;
use domain::{AccountId, EntityId, EventPosition, Period, Span, Timestamp};
use engine::log::LogKind;
use machine::{ContentReader, ExplainedWindow, InvoiceStanding, RateError};
use serde::Deserialize;
use serde_json::json;
use wire::verdict::QuarantineReason;

use super::problem::Problem;
use super::{Answer, Edge, stopping};
use crate::connectors::hledger;
use crate::control::{StoredEntry, unbilled};
use crate::observe::{MetricsInput, render};
use crate::shards::{ShardSnapshot, join_snapshots};
use crate::usage_log::UsageTask;

/// `GET /healthz`: the process is there.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the control thread answers.
pub(super) async fn readyz(State(edge): State<Arc<Edge>>) -> Answer {
    let batches = edge.read(|machine| machine.control().seals().len()).await?;
    Ok(Json(json!({ "ready": true, "sealed_batches": batches })).into_response())
}

/// What became of every event that was acknowledged before the call: asked through the log writer, behind them. With a
/// position, the first of those from there on that did not count are in it, too.
pub(super) async fn shard_snapshot(
    edge: &Arc<Edge>,
    set_aside_from: Option<EventPosition>,
) -> Result<ShardSnapshot, Problem> {
    let (reply, answers) = crossbeam_channel::bounded(edge.shards);
    edge.usage_tasks.send(UsageTask::Snapshot(set_aside_from, reply)).await.map_err(|_| stopping())?;
    let shards = edge.shards;
    let joined = tokio::task::spawn_blocking(move || join_snapshots(&answers, shards)).await;
    joined.ok().flatten().ok_or_else(stopping)
}

/// `GET /metrics`
pub(super) async fn metrics(State(edge): State<Arc<Edge>>) -> Answer {
    let shards = shard_snapshot(&edge, None).await?;
    let (totals, oldest, sizes, failures, forgotten) = edge
        .read(|machine| {
            let oldest = machine.unacked().values().next().map(|(at, _)| *at);
            let control = machine.control();
            let forgotten = (control.forgotten_ids().before, control.forgotten_by_number());
            (unbilled(machine), oldest, machine.sizes(), machine.failures().len(), forgotten)
        })
        .await?;
    let now = edge.clock.now().nanoseconds();
    let input = MetricsInput {
        shards,
        sources: edge.usage_queue.sources.count(),
        log_bytes: edge.usage.bytes.load(Ordering::Relaxed),
        log_commits: edge.usage.commits.load(Ordering::Relaxed),
        log_end: edge.usage.end_offset.offset(),
        snapshot_offset: edge.snapshots.usage_offset.load(Ordering::Relaxed),
        unbilled: totals.iter().map(|(c, minor)| (c.code().to_string(), c.format_minor(*minor))).collect(),
        unbilled_age_seconds: oldest.map_or(0, |at| (now - at.nanoseconds()) / domain::time::SECOND),
        sizes,
        rating_failures: failures,
        forgotten,
        ids_max: edge.ids_max,
        items: [edge.pool.in_memory(), edge.pool.on_disk()],
        archived: [&edge.archive.segments, &edge.archive.bytes, &edge.archive.failures]
            .map(|number| number.load(Ordering::Relaxed)),
        unanswered_bytes: edge.unanswered.out(),
    };
    let page = render(&edge.metrics, &input);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

/// Sources in one answer of counters.
const COUNTERS_PAGE_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountersQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/counters[?after=SOURCE][&limit=N]`: what became of events, per source, with the equation that must hold, and which ids
/// are forgotten.
pub(super) async fn counters(State(edge): State<Arc<Edge>>, Query(query): Query<CountersQuery>) -> Answer {
    let shards = shard_snapshot(&edge, None).await?;
    let limit = query.limit.unwrap_or(COUNTERS_PAGE_MAX).clamp(1, COUNTERS_PAGE_MAX);
    let after = query.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut listed = shards.counters.range::<str, _>((after, Bound::Unbounded));
    let page: Vec<_> = listed.by_ref().take(limit).collect();
    let last = page.last().filter(|_| listed.next().is_some()).map(|(source, _)| source.to_string());
    let sources: serde_json::Map<String, serde_json::Value> = page
        .into_iter()
        .map(|(source, c)| {
            let quarantined: serde_json::Map<_, _> = QuarantineReason::ALL
                .into_iter()
                .map(|reason| (reason.as_str().to_string(), c.quarantined[reason.ordinal()].into()))
                .collect();
            let counts = json!({
                "received": c.received(), "accepted": c.accepted(), "metered": c.metered, "unmetered": c.unmetered,
                "pending": c.pending, "duplicate": c.duplicate, "duplicate_restamped": c.duplicate_restamped,
                "conflict": c.conflict, "quarantined": quarantined, "rejected": c.rejected, "voided": c.voided,
            });
            (source.to_string(), counts)
        })
        .collect();
    let latency = json!({
        "p50": edge.metrics.ack_microseconds(50.0), "p99": edge.metrics.ack_microseconds(99.0),
        "p999": edge.metrics.ack_microseconds(99.9),
    });
    let forgotten = edge.read(|machine| machine.control().forgotten_json()).await?;
    let ids = json!({ "remembered": shards.ids, "max": edge.ids_max, "forgotten": forgotten });
    let answer = json!({
        "sources": sources, "source_count": shards.counters.len(), "next_after": last,
        "durable_after_microseconds": latency, "ids": ids,
    });
    Ok(Json(answer).into_response())
}

/// `GET /v1/archive`: which usage lies in the archive, what of it is out of reach, and what failed on the way there.
pub(super) async fn archive(State(edge): State<Arc<Edge>>) -> Answer {
    let looked = {
        let edge = edge.clone();
        tokio::task::spawn_blocking(move || edge.archive.to_json(&edge.directory)).await
    };
    let said = looked.map_err(|_| stopping())?.map_err(|error| Problem::internal(&error))?;
    Ok(Json(said).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BillQuery {
    period: Option<String>,
    #[serde(default)]
    format: BillFormat,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BillFormat {
    #[default]
    Text,
    Json,
}

/// `GET /v1/accounts/{account}/bill[?period=YYYY-MM][&format=json]`: what the account's windows are worth as of the last
/// cut, and how that came about; all windows, or the one of a month in the account's zone.
pub(super) async fn bill(
    State(edge): State<Arc<Edge>>,
    UrlPath(account): UrlPath<String>,
    Query(query): Query<BillQuery>,
) -> Answer {
    let not_found =
        || Problem::new(StatusCode::NOT_FOUND, "not_found", &format!("there is no account {account:?}"));
    let id = AccountId::new(&account).map_err(|_| not_found())?;
    let period = query.period.as_deref().map(Period::parse).transpose();
    let period =
        period.map_err(|status| Problem::bad_request("period_must_be_year_month", &status.to_string()))?;
    let explained = edge
        .read(move |machine| {
            let zone = machine.control().catalog().account(&id)?.time_zone.clone();
            let always = Span::new(Timestamp::MIN, Timestamp::END);
            let explained = machine.explain(&id, period.map_or(always, |period| zone.month(period)));
            let unrated = machine.failure_of(&id).map(ToString::to_string);
            Some((explained, machine.invoice_standing(&id), unrated))
        })
        .await?;
    let (explained, standing, unrated) = explained.ok_or_else(not_found)?;
    let windows = explained.map_err(|error| match error {
        RateError::Rating(_) => {
            Problem::new(StatusCode::CONFLICT, "charge_must_be_computable", &error.to_string())
        }
        RateError::Items(error) => Problem::internal(&anyhow::Error::new(error)),
    })?;
    Ok(match query.format {
        BillFormat::Json => {
            let windows: Vec<_> = windows.iter().map(ExplainedWindow::to_json).collect();
            let standing = standing.map(InvoiceStanding::to_json);
            let body =
                json!({ "account": account, "windows": windows, "thresholds": standing, "unrated": unrated });
            Json(body).into_response()
        }
        BillFormat::Text => {
            let mut text = String::new();
            for window in &windows {
                text.push_str(&format!(
                    "{account} · {} to {}\n\n{window}\n\n",
                    window.window.from, window.window.until
                ));
            }
            if let Some(standing) = standing {
                text.push_str(&format!("{standing}\n"));
            }
            if let Some(failure) = unrated {
                text.push_str(&format!("not charged since the last cut, which could not rate {failure}\n"));
            }
            if windows.is_empty() {
                text.push_str("nothing was used and nothing is owed\n");
            }
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
    })
}

pub(super) fn ndjson(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchesQuery {
    #[serde(default)]
    after: u64,
    digest: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/charge-batches?after=N[&digest=D][&limit=K]`: sealed batches after a cursor, as NDJSON; behind each its
/// seal. A digest that is not that of batch N answers 409 `history_forked`.
pub(super) async fn charge_batches(
    State(edge): State<Arc<Edge>>,
    Query(query): Query<BatchesQuery>,
) -> Answer {
    let entries = edge.served.batches.read().map_err(|_| stopping())?.clone();
    let after = usize::try_from(query.after).unwrap_or(usize::MAX);
    if let (Some(given), Some(index)) = (&query.digest, after.checked_sub(1)) {
        let known = entries.get(index).map_or("", |entry| entry.digest.as_str());
        if known != given {
            return Err(Problem::history_forked(query.after, known));
        }
    }
    let wanted: Vec<StoredEntry> =
        entries.into_iter().skip(after).take(query.limit.unwrap_or(usize::MAX)).collect();
    Ok(ndjson(stream(edge, LogKind::Charges, wanted, |entry| {
        format!("{}\n", json!({ "seal": { "batch": entry.number, "digest": entry.digest } }))
    })))
}

/// Streams stored content, one entry in memory at a time, each followed by what `trailer` says.
fn stream(
    edge: Arc<Edge>,
    kind: LogKind,
    entries: Vec<StoredEntry>,
    trailer: impl Fn(&StoredEntry) -> String + Send + 'static,
) -> Body {
    let (chunks, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(2);
    tokio::task::spawn_blocking(move || {
        let read = for_each_content(&edge, kind, &entries, &mut |entry, mut bytes| {
            bytes.extend_from_slice(trailer(entry).as_bytes());
            // The caller may have gone away; then there is nobody to send to.
            Ok(chunks.blocking_send(Ok(Bytes::from(bytes))).is_ok())
        });
        if let Err(error) = read {
            let _ = chunks.blocking_send(Err(std::io::Error::other(format!("{error:#}"))));
        }
    });
    Body::from_stream(ReceiverStream(receiver))
}

/// Reads entries in order until `visit` says that it wants no more.
pub(super) fn for_each_content(
    edge: &Edge,
    kind: LogKind,
    entries: &[StoredEntry],
    visit: &mut dyn FnMut(&StoredEntry, Vec<u8>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let [first, ..] = entries else { return Ok(()) };
    let until = entries.last().map_or(first.end_offset, |last| last.end_offset);
    let log = edge.directory.log(kind)?;
    let mut reader = ContentReader::open(&*log, edge.directory.options(kind), first.offset, until)?;
    for entry in entries {
        let bytes = reader.read(entry.offset)?;
        if !visit(entry, bytes)? {
            break;
        }
    }
    Ok(())
}

struct ReceiverStream(tokio::sync::mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl futures_core::Stream for ReceiverStream {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JournalsQuery {
    entity: Option<EntityId>,
}

async fn all_journals(edge: &Arc<Edge>, query: JournalsQuery) -> Result<Vec<Journal>, Problem> {
    let entries = edge.served.journals.read().map_err(|_| stopping())?.clone();
    let edge = edge.clone();
    let read = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<Journal>> {
        let mut journals = Vec::new();
        for_each_content(&edge, LogKind::Journals, &entries, &mut |_, bytes| {
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                journals.push(serde_json::from_slice::<Journal>(line)?);
            }
            Ok(true)
        })?;
        journals.retain(|journal| query.entity.as_ref().is_none_or(|entity| *entity == journal.entity));
        Ok(journals)
    });
    read.await.map_err(|_| stopping())?.map_err(|error| Problem::internal(&error))
}

/// `GET /v1/journals[?entity=E]`: sealed journals as NDJSON.
pub(super) async fn journals(State(edge): State<Arc<Edge>>, Query(query): Query<JournalsQuery>) -> Answer {
    let mut lines = String::new();
    for journal in all_journals(&edge, query).await? {
        let line = wire::canonical::canonical_json(&journal);
        lines.push_str(&line.map_err(|status| Problem::internal(&status.into()))?);
        lines.push('\n');
    }
    Ok(ndjson(Body::from(lines)))
}

/// `GET /v1/journals.hledger[?entity=E]`: the same for hledger.
pub(super) async fn journals_hledger(
    State(edge): State<Arc<Edge>>,
    Query(query): Query<JournalsQuery>,
) -> Answer {
    let text = hledger::export(&all_journals(&edge, query).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
