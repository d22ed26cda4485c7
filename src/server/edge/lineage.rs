//! From an event to the charge lines and journals that it landed in, and back.
//!
//! Owns: paths, parameters, the order in which logs are read. Leaves to others: what an answer says (`machine::lineage`),
//! how a query runs beside everything else (`super::usage`).
//!
//! Invariants: an answer is of one moment of both logs; logs are read on a blocking thread, and no more of them than a usage
//! query may read.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use billing::ledger::{Journal, LedgerAccount};
use crossbeam_channel::bounded;
use domain::EntityId;
use engine::log::LogKind;
use engine::shard::{ArrivedAs, FoundEvent};
use machine::lineage::{
    Arrivals, ArrivedEvent, EventLineage, JournalCharges, LINES_PAGE_MAX, LineEvents, LinePage, RestsOn,
    Story, Trail, UnderLine, run_of_external_id, unknown_to_json, unknown_to_text,
};
use machine::usage_query::{AsOf, Known, ScanError, plan_of};
use machine::{KnownCorrections, LogPlace, name_of, read_line};
use serde::Deserialize;
use serde_json::Value;
use wire::event::EventIdOwned;

use super::corrections::{event_id, position_of};
use super::problem::Problem;
use super::reads::{for_each_content, shard_snapshot};
use super::usage::{RunError, count, moment, permit, run, scanned, state_at};
use super::{Answer, Edge, stopping};
use crate::control::StoredEntry;
use crate::usage_log::UsageTask;

/// Charge lines in one answer, if it is not said.
const LINES_PAGE_DEFAULT: usize = 1_000;
/// Events under a line in one answer.
const EVENTS_PAGE_MAX: usize = 1_000;
const EVENTS_PAGE_DEFAULT: usize = 100;
/// Sources that are asked for an id where none is named.
const SOURCES_ASKED_MAX: usize = 1_000;

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Text,
}

impl Format {
    fn answer(self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Response {
        match self {
            Format::Json => Json(json()).into_response(),
            Format::Text => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text()).into_response(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhereQuery {
    id: String,
    source: Option<String>,
    /// Batch and line of the last line of the page before.
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    format: Format,
}

/// `GET /v1/where?id=ID[&source=S][&after=BATCH.LINE][&limit=N][&format=text]`: every arrival of an event, what it counts as,
/// and the lines and journals that it landed in.
pub(super) async fn whereabouts(State(edge): State<Arc<Edge>>, Query(query): Query<WhereQuery>) -> Answer {
    let id = event_id(&query.id)?;
    let page = line_page(query.after.as_deref(), query.limit)?;
    let permit = permit(&edge)?;
    let found = match query.source {
        Some(source) => {
            let found = find(&edge, vec![source.clone()], &id).await?;
            (source, found.into_iter().next().map(|(_, found)| found))
        }
        None => only_one(find(&edge, sources(&edge).await?, &id).await?, &id)?,
    };
    // What was found is before this end, and what the machine says now is of these records.
    let (usage_end, control_last) = moment(&edge, |machine| Ok(machine.control().last_offset())).await?;
    run(edge, permit, move |edge, is_awaited| {
        let (source, found) = found;
        let as_of = AsOf { usage_offset: usage_end, control_offset: control_last + 1 };
        let mut arrivals = Arrivals::new(&source, &id, found.map(|found| found.position));
        read_arrivals(edge, &mut arrivals, usage_end, is_awaited)?;
        let Some(found) = found else {
            let (arrivals, left_out) = arrivals.finish();
            if arrivals.is_empty() {
                return Ok(not_known(&id, &source).into_response());
            }
            return Ok(query.format.answer(
                || unknown_to_json(&source, &id, &arrivals, left_out),
                || unknown_to_text(&source, &id, &arrivals, left_out),
            ));
        };
        let lineage = lineage(edge, (source, id, found), arrivals, control_last, page, is_awaited)?;
        Ok(query.format.answer(|| lineage.to_json(&found, as_of), || lineage.to_text(&found)))
    })
    .await
}

fn line_page(after: Option<&str>, limit: Option<usize>) -> Result<LinePage, Problem> {
    let read = |text: &str| {
        let (batch, line) = text.split_once('.')?;
        Some((batch.parse().ok()?, line.parse().ok()?))
    };
    let unfit =
        || Problem::bad_request("after_must_be_line", "after is the number of a batch, a dot and a line");
    let after = after.map(|text| read(text).ok_or_else(unfit)).transpose()?;
    Ok(LinePage { after, limit: limit.unwrap_or(LINES_PAGE_DEFAULT).clamp(1, LINES_PAGE_MAX) })
}

fn not_known(id: &EventIdOwned, source: &str) -> Problem {
    let detail = format!("no event {:?} of source {source:?} is in the log", id.to_string());
    Problem::new(StatusCode::NOT_FOUND, "event_must_be_known", &detail)
}

/// All sources that ever sent something.
async fn sources(edge: &Arc<Edge>) -> Result<Vec<String>, Problem> {
    let counters = shard_snapshot(edge, None).await?.counters;
    if counters.len() > SOURCES_ASKED_MAX {
        let detail = format!("more than {SOURCES_ASKED_MAX} sources are known; name one");
        return Err(Problem::new(StatusCode::CONFLICT, "source_must_be_named", &detail));
    }
    Ok(counters.keys().map(ToString::to_string).collect())
}

/// Which of some sources have an event with an id, and where it stands.
async fn find(
    edge: &Arc<Edge>,
    sources: Vec<String>,
    id: &EventIdOwned,
) -> Result<Vec<(String, FoundEvent)>, Problem> {
    let mut asked = Vec::new();
    for source in sources {
        let (reply, answer) = bounded(1);
        let task = UsageTask::Find(name_of(edge.identity_key, &source, id), reply);
        edge.usage_tasks.send(task).await.map_err(|_| stopping())?;
        asked.push((source, answer));
    }
    let collect = move || {
        let mut found = Vec::new();
        for (source, answer) in asked {
            found.extend(answer.recv().ok()?.map(|event| (source, event)));
        }
        Some(found)
    };
    tokio::task::spawn_blocking(collect).await.ok().flatten().ok_or_else(stopping)
}

/// The only source that has the event.
fn only_one(
    mut found: Vec<(String, FoundEvent)>,
    id: &EventIdOwned,
) -> Result<(String, Option<FoundEvent>), Problem> {
    if found.len() > 1 {
        let sources: Vec<String> = found.into_iter().map(|(source, _)| source).collect();
        let id = id.to_string();
        let detail = format!("several sources have an event {id:?}: name one of {sources:?}");
        let problem = Problem::new(StatusCode::CONFLICT, "source_must_be_named", &detail);
        return Err(problem.with(&serde_json::json!({ "sources": sources })));
    }
    let Some((source, found)) = found.pop() else {
        let id = id.to_string();
        let detail = format!(
            "no event {id:?} of any source is in the log; with a source named, arrivals that were refused are looked for, too"
        );
        return Err(Problem::new(StatusCode::NOT_FOUND, "event_must_be_known", &detail));
    };
    Ok((source, Some(found)))
}

fn read_arrivals(
    edge: &Edge,
    arrivals: &mut Arrivals,
    until: u64,
    is_awaited: &dyn Fn() -> bool,
) -> Result<(), RunError> {
    let storage = edge.directory.existing_log(LogKind::Usage)?;
    let log = scanned(edge, &*storage);
    check_bytes(edge, arrivals.bytes_to_read(log, until).map_err(ScanError::from)?)?;
    Ok(arrivals.read(log, until, is_awaited)?)
}

fn check_bytes(edge: &Edge, bytes: u64) -> Result<(), RunError> {
    let bytes_max = edge.query_bytes_max;
    if bytes > bytes_max { Err(RunError::ScanMustFit { bytes, bytes_max }) } else { Ok(()) }
}

fn lineage(
    edge: &Edge,
    (source, id, found): (String, EventIdOwned, FoundEvent),
    arrivals: Arrivals,
    control_last: u64,
    page: LinePage,
    is_awaited: &dyn Fn() -> bool,
) -> Result<EventLineage, RunError> {
    let content =
        arrivals.content().ok_or_else(|| anyhow::anyhow!("an event that a shard knows is in the log"))?;
    let mut trail = Trail::new(ArrivedEvent {
        source,
        id,
        position: found.position,
        content,
        is_accepted: found.arrived_as == ArrivedAs::Accepted,
        meters_at: found.meters_at,
    });
    let control = LogPlace {
        storage: edge.directory.existing_log(LogKind::Control)?,
        options: edge.directory.options(LogKind::Control),
    };
    trail.read(&control, control_last, is_awaited)?;
    let mut story = trail.finish().with_page(page);
    read_batches(edge, &mut story, is_awaited)?;
    read_runs(edge, &mut story)?;
    let (arrivals, left_out) = arrivals.finish();
    Ok(story.finish(arrivals, left_out))
}

fn read_batches(edge: &Edge, story: &mut Story, is_awaited: &dyn Fn() -> bool) -> Result<(), RunError> {
    let entries = entries_of(&edge.served.batches)?;
    let at = |number: u64| usize::try_from(number - 1).ok().and_then(|index| entries.get(index).cloned());
    let wanted: Vec<StoredEntry> = story.batches().into_iter().filter_map(at).collect();
    read_contents(edge, LogKind::Charges, &wanted, is_awaited, &mut |bytes| Ok(story.take_batch(bytes)?))
}

fn read_runs(edge: &Edge, story: &mut Story) -> Result<(), RunError> {
    let entries = entries_of(&edge.served.journals)?;
    let runs = story.runs();
    let wanted: Vec<StoredEntry> = runs.iter().filter_map(|run| entries.get(run.index).cloned()).collect();
    let mut runs = runs.iter();
    read_contents(edge, LogKind::Journals, &wanted, &|| true, &mut |bytes| {
        let run = runs.next().expect("there is a run for every entry");
        story.take_run(run, &journals_in(bytes)?);
        Ok(())
    })
}

fn entries_of(entries: &std::sync::RwLock<Vec<StoredEntry>>) -> Result<Vec<StoredEntry>, RunError> {
    Ok(entries.read().map_err(|_| anyhow::anyhow!("a thread panicked while it served content"))?.clone())
}

/// Reads stored content, one entry in memory at a time; refused if it is too much.
fn read_contents(
    edge: &Edge,
    kind: LogKind,
    entries: &[StoredEntry],
    is_awaited: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
) -> Result<(), RunError> {
    let from = entries.first().map_or(0, |first| first.offset);
    let until = entries.last().map_or(0, |last| last.end_offset);
    check_bytes(edge, until - from)?;
    let mut is_over = false;
    for_each_content(edge, kind, entries, &mut |_, bytes| {
        take(&bytes)?;
        is_over = !is_awaited();
        Ok(!is_over)
    })?;
    if is_over { Err(ScanError::Abandoned.into()) } else { Ok(()) }
}

fn journals_in(bytes: &[u8]) -> serde_json::Result<Vec<Journal>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(serde_json::from_slice).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Offset and index of the last event of the page before.
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    format: Format,
}

/// `GET /v1/charge-batches/{number}/lines/{line}/events[?after=OFFSET.INDEX][&limit=N][&format=text]`: the events that a sealed
/// charge line counts, as its cut knew them.
pub(super) async fn line_events(
    State(edge): State<Arc<Edge>>,
    UrlPath((number, line)): UrlPath<(u64, u32)>,
    Query(query): Query<EventsQuery>,
) -> Answer {
    let after = query.after.as_deref().map(position_of).transpose()?;
    let limit = query.limit.unwrap_or(EVENTS_PAGE_DEFAULT).clamp(1, EVENTS_PAGE_MAX);
    let permit = permit(&edge)?;
    run(edge, permit, move |edge, is_awaited| {
        let entries = entries_of(&edge.served.batches)?;
        let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let Some(entry) = index.and_then(|index| entries.get(index).cloned()) else {
            return Ok(no_line(number, line).into_response());
        };
        let mut found = None;
        read_contents(edge, LogKind::Charges, std::slice::from_ref(&entry), &|| true, &mut |bytes| {
            found = Some(read_line(bytes, line)?);
            Ok(())
        })?;
        let Some((head, Some(charge))) = found else { return Ok(no_line(number, line).into_response()) };
        // The barrier itself says which catalog and corrections the cut knew.
        let known = Known { before: head.barrier + 1, recorded_by: None };
        let state = state_at(edge, known, is_awaited)?;
        let rests_on = RestsOn::of(state.catalog(), &charge);
        let (mut under, as_of) = match LineEvents::new(state.catalog(), &charge, after, limit) {
            Some(mut events) => {
                let corrections = KnownCorrections::of(&state, plan_of(&state));
                let as_of = count(edge, known, &corrections, &mut events, is_awaited)?;
                (events.finish(charge, rests_on), as_of)
            }
            None => {
                let as_of = AsOf { usage_offset: known.before, control_offset: state.last_offset() + 1 };
                (UnderLine::nothing(charge, rests_on), as_of)
            }
        };
        let positions: Vec<_> = under.events.iter().map(|event| event.position).collect();
        let mut told = edge.event_finder().read_all(&positions)?;
        for event in &mut under.events {
            if let Some(logged) = told.remove(&event.position) {
                event.tell(&state, logged.source, logged.id, logged.received_at, logged.content);
            }
        }
        Ok(query.format.answer(|| under.to_json(&entry.digest, as_of), || under.to_string()))
    })
    .await
}

fn no_line(number: u64, line: u32) -> Problem {
    let detail = format!("there is no charge line {line} in a sealed batch {number}");
    Problem::new(StatusCode::NOT_FOUND, "not_found", &detail)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChargesQuery {
    /// Only lines that went to this account of the books.
    ledger_account: Option<LedgerAccount>,
    /// Batch and line of the last line of the page before.
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    format: Format,
}

/// `GET /v1/journals/{external_id}/charges[?ledger_account=A][&after=BATCH.LINE][&limit=N][&format=text]`: the charge lines that a
/// journal sums up.
pub(super) async fn journal_charges(
    State(edge): State<Arc<Edge>>,
    UrlPath(external_id): UrlPath<String>,
    Query(query): Query<ChargesQuery>,
) -> Answer {
    let page = line_page(query.after.as_deref(), query.limit)?;
    let named = run_of_external_id(&external_id);
    let permit = permit(&edge)?;
    run(edge, permit, move |edge, is_awaited| {
        let journal = match named {
            Some((entity, run)) => find_journal(edge, &entity, run, is_awaited)?,
            None => None,
        };
        let Some(journal) = journal.filter(|journal| journal.external_id == external_id) else {
            let detail = format!("there is no journal {external_id:?}");
            return Ok(Problem::new(StatusCode::NOT_FOUND, "not_found", &detail).into_response());
        };
        let mut charges = JournalCharges::new(journal, query.ledger_account, page);
        let entries = entries_of(&edge.served.batches)?;
        let [first, last] = charges.batches();
        let is_its = |entry: &&StoredEntry| (first..=last).contains(&entry.number);
        let wanted: Vec<StoredEntry> = entries.iter().filter(is_its).cloned().collect();
        read_contents(edge, LogKind::Charges, &wanted, is_awaited, &mut |bytes| {
            Ok(charges.take_batch(bytes)?)
        })?;
        Ok(query.format.answer(|| charges.to_json(), || charges.to_string()))
    })
    .await
}

/// The journal of an entity with a number.
fn find_journal(
    edge: &Edge,
    entity: &EntityId,
    run: u64,
    is_awaited: &dyn Fn() -> bool,
) -> Result<Option<Journal>, RunError> {
    let entries = entries_of(&edge.served.journals)?;
    let mut found = None;
    read_contents(edge, LogKind::Journals, &entries, is_awaited, &mut |bytes| {
        let mut journals = journals_in(bytes)?.into_iter();
        found =
            found.take().or_else(|| journals.find(|journal| journal.entity == *entity && journal.run == run));
        Ok(())
    })?;
    Ok(found)
}
