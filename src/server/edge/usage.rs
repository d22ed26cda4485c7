//! `GET /v1/meters/{meter}/usage`: a usage query, answered from the log.
//!
//! Owns: how a query runs beside everything else. Leaves to others: what it means (`machine::usage_query`), how it is
//! written (`usage_request`).
//!
//! Invariants:
//! - Whatever was acknowledged before the request is counted, under the catalog as it is at that moment.
//! - A query runs on a blocking thread and never waits for a cut; shards answer it a few thousand events at a time,
//!   between batches. At most [`QUERIES_MAX`] run together, and one ends soon after its caller is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crossbeam_channel::{Receiver, Sender, bounded};
use engine::log::LogKind;
use machine::LogPlace;
use machine::usage_query::{
    Candidate, Judge, Known, OnCounted, QueryStatus, ScanError, UsageFold, UsageTerms, control_state_before,
    known_control_offset, scan,
};
use tokio::sync::oneshot;

use super::problem::Problem;
use super::{Answer, Edge, stopping};
use crate::shards::{CountsTask, ShardTask};
use crate::usage_log::UsageTask;
use crate::usage_request::{AsOfText, RequestStatus, UsageFormat, UsageRequest};

/// Queries that run together.
pub const QUERIES_MAX: usize = 2;

/// `GET /v1/meters/{meter}/usage`
pub(super) async fn usage(
    State(edge): State<Arc<Edge>>,
    UrlPath(meter): UrlPath<String>,
    Query(parameters): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Answer {
    let request = UsageRequest::parse(&meter, &parameters).map_err(problem_of_request)?;
    let format = request.format.unwrap_or_else(|| accepted(&headers));
    let permit = edge.queries.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{QUERIES_MAX} usage queries are running; try again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", &detail)
    })?;
    let (end, terms) = moment(&edge, &request).await?;
    let known = known(&edge, request.as_of, end)?;
    if known.before > edge.query_bytes_max {
        let detail = format!(
            "the query reads {} bytes of the log, and {} are allowed; ask `tallymark usage`, which has no such limit",
            known.before, edge.query_bytes_max
        );
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "scan_must_fit", &detail));
    }
    let caller = Caller::default();
    let is_gone = caller.is_gone.clone();
    let running = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let is_awaited = || !is_gone.load(Ordering::Relaxed) && edge.shard_queues.strong_count() > 0;
        run(&edge, request, terms, known, format, &is_awaited)
    });
    running.await.map_err(|_| stopping())?.map_err(problem_of_run)
}

/// Says that it is gone when it is dropped.
#[derive(Default)]
struct Caller {
    is_gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }
}

fn accepted(headers: &HeaderMap) -> UsageFormat {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.split(',').any(|kind| kind.trim().starts_with("text/csv")) {
        UsageFormat::Csv
    } else {
        UsageFormat::Json
    }
}

/// The end of the usage log, and what the catalog that its last barrier names says about the query.
///
/// The control thread alone sends barriers. So a question that is put while it reads the machine stands behind the
/// barrier of every record that it reads, and before all others.
async fn moment(edge: &Arc<Edge>, request: &UsageRequest) -> Result<(u64, Option<UsageTerms>), Problem> {
    let room = edge.usage_tasks.clone().reserve_owned().await.map_err(|_| stopping())?;
    let (reply, end) = oneshot::channel();
    let query = request.as_of.is_none().then(|| request.query.clone());
    let terms = edge
        .read(move |machine| {
            room.send(UsageTask::Position(reply));
            query.map(|query| UsageTerms::of(machine.control().catalog(), &query)).transpose()
        })
        .await?;
    let terms = terms.map_err(|status| problem_of_request(RequestStatus::Query(status)))?;
    Ok((end.await.map_err(|_| stopping())?, terms))
}

fn known(edge: &Edge, as_of: Option<AsOfText>, end: u64) -> Result<Known, Problem> {
    let now = edge.clock.now();
    match as_of {
        Some(AsOfText::Offset(offset)) if offset > end => {
            let detail = format!("the usage log ends at {end}; what comes behind is not known yet");
            Err(Problem::bad_request("position_must_exist", &detail))
        }
        Some(AsOfText::Instant(instant)) if instant > now => {
            let detail = format!("it is {now}; what is recorded later is not known yet");
            Err(Problem::bad_request("position_must_exist", &detail))
        }
        Some(AsOfText::Offset(offset)) => Ok(Known { before: offset, recorded_by: None }),
        Some(AsOfText::Instant(instant)) => Ok(Known { before: end, recorded_by: Some(instant) }),
        None => Ok(Known { before: end, recorded_by: None }),
    }
}

/// Counts and writes the answer.
fn run(
    edge: &Edge,
    request: UsageRequest,
    terms: Option<UsageTerms>,
    known: Known,
    format: UsageFormat,
    is_awaited: &dyn Fn() -> bool,
) -> Result<Response, RunError> {
    let log = edge.directory.existing_log(LogKind::Usage)?;
    let options = edge.directory.options(LogKind::Usage);
    let terms = match terms {
        Some(terms) => terms,
        None => {
            let control_offset = known_control_offset(&*log, options, known, is_awaited)?;
            let control = LogPlace {
                storage: edge.directory.existing_log(LogKind::Control)?,
                options: edge.directory.options(LogKind::Control),
            };
            let state = control_state_before(&control, control_offset)?;
            UsageTerms::of(state.catalog(), &request.query).map_err(ScanError::from)?
        }
    };
    let mut fold = UsageFold::new(request.query, terms);
    let mut judge = ShardJudge { queues: edge.shard_queues.clone(), shards: edge.shards, asked: None };
    let as_of = scan(&*log, options, edge.identity_key, known, &mut fold, &mut judge, is_awaited)?;
    let answer = fold.finish().map_err(ScanError::from)?;
    Ok(match format {
        UsageFormat::Json => Json(answer.to_json(as_of)).into_response(),
        UsageFormat::Csv => {
            ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], answer.to_csv()).into_response()
        }
    })
}

/// Why a query did not run to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Directory(#[from] anyhow::Error),
}

/// Asks running shards: while they answer one chunk, the next one is read.
struct ShardJudge {
    queues: Weak<Vec<Sender<ShardTask>>>,
    shards: usize,
    asked: Option<Asked>,
}

struct Asked {
    candidates: Vec<Candidate>,
    /// Indexes of the candidates of each shard, in the order in which it was asked.
    by_shard: Vec<Vec<usize>>,
    answers: Receiver<(usize, Vec<bool>)>,
}

impl Judge for ShardJudge {
    fn judge(&mut self, candidates: Vec<Candidate>, counted: OnCounted<'_>) -> Result<(), ScanError> {
        let before = self.asked.take();
        let mut by_shard = vec![Vec::new(); self.shards];
        for (index, candidate) in candidates.iter().enumerate() {
            by_shard[candidate.shard(self.shards)].push(index);
        }
        let (reply, answers) = bounded(self.shards);
        let queues = self.queues.upgrade().ok_or(ScanError::JudgeStopped)?;
        for (queue, indexes) in queues.iter().zip(&by_shard).filter(|(_, indexes)| !indexes.is_empty()) {
            let event = |index: &usize| (candidates[*index].identity, candidates[*index].position);
            let task = CountsTask { events: indexes.iter().map(event).collect(), reply: reply.clone() };
            queue.send(ShardTask::Counts(Box::new(task))).map_err(|_| ScanError::JudgeStopped)?;
        }
        self.asked = Some(Asked { candidates, by_shard, answers });
        before.map_or(Ok(()), |asked| asked.collect(counted))
    }

    fn finish(&mut self, counted: OnCounted<'_>) -> Result<(), ScanError> {
        self.asked.take().map_or(Ok(()), |asked| asked.collect(counted))
    }
}

impl Asked {
    fn collect(self, counted: OnCounted<'_>) -> Result<(), ScanError> {
        for _ in self.by_shard.iter().filter(|indexes| !indexes.is_empty()) {
            let (shard, counts) = self.answers.recv().map_err(|_| ScanError::JudgeStopped)?;
            assert_eq!(counts.len(), self.by_shard[shard].len(), "a shard answers for every event");
            for (index, _) in self.by_shard[shard].iter().zip(counts).filter(|(_, counts)| *counts) {
                counted(&self.candidates[*index])?;
            }
        }
        Ok(())
    }
}

fn problem_of_request(status: RequestStatus) -> Problem {
    let http = match &status {
        RequestStatus::Query(query) => http_status_of(query),
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(http, status.name(), &status.to_string())
}

fn problem_of_run(error: RunError) -> Problem {
    match error {
        RunError::Scan(ScanError::Query(status)) => problem_of_request(RequestStatus::Query(status)),
        RunError::Scan(ScanError::JudgeStopped | ScanError::Abandoned) => stopping(),
        RunError::Scan(error) => Problem::internal(&error.into()),
        RunError::Directory(error) => Problem::internal(&error),
    }
}

fn http_status_of(status: &QueryStatus) -> StatusCode {
    match status {
        QueryStatus::MeterMustExist | QueryStatus::AccountMustExist | QueryStatus::SubscriptionMustExist => {
            StatusCode::NOT_FOUND
        }
        QueryStatus::RowsMustFit | QueryStatus::ValueMustFit => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::BAD_REQUEST,
    }
}
