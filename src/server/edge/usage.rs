//! `GET /v1/meters/{meter}/usage`: a usage query, answered from the log.
//!
//! Owns: how a query runs beside everything else. Leaves to others: what it means (`machine::usage_query`), how it is
//! written (`usage_request`).
//!
//! Invariants:
//! - Whatever was acknowledged before the request is counted, under the catalog and the corrections of that moment.
//! - A query runs on a blocking thread and never waits for a cut; shards answer it a few thousand events at a time,
//!   between batches. At most [`QUERIES_MAX`] run together, and one ends soon after its caller is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crossbeam_channel::{Receiver, Sender, bounded};
use engine::io::Storage;
use engine::log::LogKind;
use machine::usage_query::{
    AsOf, Candidate, Counting, Judge, Known, OnCounted, QueryStatus, ScanError, ScannedLog, UsageFold,
    UsageTerms, bytes_to_scan, control_state_before, known_control_offset, plan_of, scan,
};
use machine::{ControlState, KnownCorrections, LogPlace, Machine};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

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
    let permit = permit(&edge)?;
    let query = request.as_of.is_none().then(|| request.query.clone());
    let terms_of = move |machine: &Machine| {
        let terms = |query| UsageTerms::of(machine.control().catalog(), &query);
        Ok(match query {
            Some(query) => Some((terms(query)?, machine.known_corrections())),
            None => None,
        })
    };
    let (end, terms) = moment(&edge, terms_of).await?;
    let known = known(&edge, request.as_of, end)?;
    run(edge, permit, move |edge, is_awaited| {
        let (terms, corrections) = match terms {
            Some(terms) => terms,
            None => {
                let state = state_at(edge, known, is_awaited)?;
                let terms = UsageTerms::of(state.catalog(), &request.query).map_err(ScanError::from)?;
                (terms, KnownCorrections::of(&state, plan_of(&state)))
            }
        };
        let mut fold = UsageFold::new(request.query, terms);
        let as_of = count(edge, known, &corrections, &mut fold, is_awaited)?;
        let answer = fold.finish().map_err(ScanError::from)?;
        Ok(match format {
            UsageFormat::Json => Json(answer.to_json(as_of)).into_response(),
            UsageFormat::Csv => {
                ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], answer.to_csv()).into_response()
            }
        })
    })
    .await
}

/// Lets a query in.
pub(super) fn permit(edge: &Edge) -> Result<OwnedSemaphorePermit, Problem> {
    edge.queries.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{QUERIES_MAX} usage queries are running; try again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", &detail)
    })
}

/// Runs a query on a blocking thread; what it is given says whether anybody waits for the answer.
pub(super) async fn run(
    edge: Arc<Edge>,
    permit: OwnedSemaphorePermit,
    query: impl FnOnce(&Edge, &dyn Fn() -> bool) -> Result<Response, RunError> + Send + 'static,
) -> Answer {
    let caller = Caller::default();
    let is_gone = caller.is_gone.clone();
    let running = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let is_awaited = || !is_gone.load(Ordering::Relaxed) && edge.shard_queues.strong_count() > 0;
        query(&edge, &is_awaited)
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

/// The end of the usage log, and what the machine says that the last barrier before it names.
///
/// The control thread alone sends barriers. So a question that is put while it reads the machine stands behind the
/// barrier of every record that it reads, and before all others.
pub(super) async fn moment<T: Send + 'static>(
    edge: &Arc<Edge>,
    terms_of: impl FnOnce(&Machine) -> Result<T, QueryStatus> + Send + 'static,
) -> Result<(u64, T), Problem> {
    let room = edge.usage_tasks.clone().reserve_owned().await.map_err(|_| stopping())?;
    let (reply, end) = oneshot::channel();
    let terms = edge
        .read(move |machine| {
            room.send(UsageTask::Position(reply));
            terms_of(machine)
        })
        .await?;
    let terms = terms.map_err(|status| problem_of_request(RequestStatus::Query(status)))?;
    Ok((end.await.map_err(|_| stopping())?, terms))
}

/// What is to be counted; refused if it is not known yet.
pub(super) fn known(edge: &Edge, as_of: Option<AsOfText>, end: u64) -> Result<Known, Problem> {
    let now = edge.clock.now();
    let unknown = |detail: String| Problem::bad_request("position_must_exist", &detail);
    match as_of {
        Some(AsOfText::Offset(offset)) if offset > end => {
            Err(unknown(format!("the usage log ends at {end}; what comes behind is not known yet")))
        }
        Some(AsOfText::Instant(instant)) if instant > now => {
            Err(unknown(format!("it is {now}; what is recorded later is not known yet")))
        }
        Some(AsOfText::Offset(offset)) => Ok(Known { before: offset, recorded_by: None }),
        Some(AsOfText::Instant(instant)) => Ok(Known { before: end, recorded_by: Some(instant) }),
        None => Ok(Known { before: end, recorded_by: None }),
    }
}

/// What the control log said at the last barrier that is known.
pub(super) fn state_at(
    edge: &Edge,
    known: Known,
    is_awaited: &dyn Fn() -> bool,
) -> Result<ControlState, RunError> {
    let log = edge.directory.existing_log(LogKind::Usage)?;
    let control_offset = known_control_offset(scanned(edge, &*log), known, is_awaited)?;
    let control = LogPlace {
        storage: edge.directory.existing_log(LogKind::Control)?,
        options: edge.directory.options(LogKind::Control),
    };
    Ok(control_state_before(&control, control_offset)?)
}

/// Counts what is known.
pub(super) fn count(
    edge: &Edge,
    known: Known,
    corrections: &KnownCorrections,
    counting: &mut dyn Counting,
    is_awaited: &dyn Fn() -> bool,
) -> Result<AsOf, RunError> {
    let log = edge.directory.existing_log(LogKind::Usage)?;
    let log = scanned(edge, &*log);
    let bytes = bytes_to_scan(log, known, counting).map_err(ScanError::from)?;
    if bytes > edge.query_bytes_max {
        return Err(RunError::ScanMustFit { bytes, bytes_max: edge.query_bytes_max });
    }
    let mut judge = ShardJudge { queues: edge.shard_queues.clone(), shards: edge.shards, asked: None };
    Ok(scan(log, known, corrections, counting, &mut judge, is_awaited)?)
}

pub(super) fn scanned<'a>(edge: &Edge, storage: &'a dyn Storage) -> ScannedLog<'a> {
    ScannedLog { storage, options: edge.directory.options(LogKind::Usage), key: edge.identity_key }
}

/// Why a query did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// The log, or what is asked of it.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The query reads too much.
    #[error(
        "the query reads {bytes} bytes of the log, and {bytes_max} are allowed; ask `tallymark usage`, which has no such limit"
    )]
    ScanMustFit {
        /// What it would read.
        bytes: u64,
        /// What it may read.
        bytes_max: u64,
    },
    /// The folder of a log.
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

/// A request that breaks a rule.
pub(super) fn problem_of_request(status: RequestStatus) -> Problem {
    let http = match &status {
        RequestStatus::Query(query) => http_status_of(query),
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(http, status.name(), &status.to_string())
}

fn problem_of_run(error: RunError) -> Problem {
    match error {
        RunError::Scan(ScanError::Query(status)) => problem_of_request(RequestStatus::Query(status)),
        RunError::ScanMustFit { .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "scan_must_fit", &error.to_string())
        }
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
        QueryStatus::RowsMustFit | QueryStatus::ValueMustFit | QueryStatus::MeterMustNotBeLevel => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::BAD_REQUEST,
    }
}
