//! `POST /v1/events`: usage over HTTP, as CloudEvents 1.0 in all three modes and as NDJSON of any size.
//!
//! Owns: which body is read how, limits of bodies, the answer. Leaves to others: what an event says
//! (`wire::cloudevents`), batches and verdicts (`intake`), durability (`usage_log`).
//!
//! Invariants:
//! - A 200 says that every event of the request is durable and counts, counted before, or was taken back by a person;
//!   otherwise the answer names the events that do not count, and why, however often they come. What was accepted beside them is durable, and sending all again is harmless.
//! - Bodies that are read at once, and the batches that they become, take their bytes from one budget, half of it those of one
//!   token at most; at its end the answer is 503 `busy`.
//! - Events arrive when their body, or their block of lines, is read; until then their token may be taken away.

mod intake;
mod packed;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use wire::cloudevents::{self, BrokenEvent, CloudEvent};

use self::intake::{Intake, Summary, Turns};
use self::packed::Unpacking;
use super::problem::Problem;
use super::{Answer, BODY_BYTES_MAX, BODY_PATIENCE, Edge, stopping};
use crate::shares::{Share, Shares};
use crate::tokens::{Role, Token};

/// Bytes of all event bodies that are in memory at once.
const EVENT_BODIES_BYTES_MAX: usize = 512 << 20;
/// Those of one token: whoever takes as many as it may, and never ends a body, leaves room for others.
const TOKEN_BODIES_BYTES_MAX: usize = 256 << 20;
/// Bytes of one line of an NDJSON upload.
const EVENT_LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of lines that an upload reads before it hands their events on.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks of one upload that wait for their verdicts.
const BLOCKS_IN_FLIGHT_MAX: usize = 8;
/// Bodies up to this are read where they arrive: that takes less time than handing the thread's other work over.
const BODY_INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of the buffer into which a body of several chunks is gathered, at first.
const GATHERED_BYTES_MIN: usize = 64 << 10;

/// What event bodies may take.
pub struct EventBudget {
    bytes: Shares,
    unpacking: Unpacking,
}

impl Default for EventBudget {
    fn default() -> Self {
        let bytes = Shares::new(EVENT_BODIES_BYTES_MAX, TOKEN_BODIES_BYTES_MAX);
        Self { bytes, unpacking: Unpacking::default() }
    }
}

impl EventBudget {
    /// Bytes that are out.
    #[cfg(test)]
    fn out(&self) -> usize {
        self.bytes.out()
    }

    fn take(&self, token: &Arc<str>, bytes: usize) -> Result<Share, Problem> {
        self.bytes.take_now(token, bytes).ok_or_else(|| {
            let detail = "event bodies, or those of this token, take all the memory that they may; send again a little later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
        })
    }
}

/// How a body says its events.
enum Mode {
    Structured { is_batch: bool },
    Binary,
    Lines,
}

fn mode_of(headers: &HeaderMap) -> Result<Mode, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence =
        content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match essence.as_deref() {
        Some("application/cloudevents-batch+json") => Ok(Mode::Structured { is_batch: true }),
        Some("application/cloudevents+json") => Ok(Mode::Structured { is_batch: false }),
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Ok(Mode::Lines),
        _ if headers.contains_key("ce-specversion") => Ok(Mode::Binary),
        Some("application/json") => Ok(Mode::Structured { is_batch: false }),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type_must_be_known",
            "send application/cloudevents+json, application/cloudevents-batch+json, application/x-ndjson with one \
             event a line, or ce- headers with JSON data",
        )),
    }
}

/// `POST /v1/events`
pub(super) async fn post_events(State(edge): State<Arc<Edge>>, request: Request) -> Answer {
    let token = edge.authorize(request.headers(), Role::Ingest)?;
    let (parts, body) = request.into_parts();
    // Whose share the body takes.
    let lane = Arc::from(token.name.as_str());
    let body = edge.event_budget.unpacking.unpack(&lane, &parts.headers, body).await?;
    take(&edge, token, &lane, &parts.headers, body).await
}

async fn take(
    edge: &Arc<Edge>,
    token: Arc<Token>,
    lane: &Arc<str>,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let summary = match mode_of(headers)? {
        Mode::Lines => read_lines(edge, token, lane, body).await?,
        Mode::Binary => {
            let (body, _shares) = read_whole(&edge.event_budget, lane, headers, body).await?;
            let intake = Intake::begin(edge, &token, lane, 0);
            read_binary(intake, headers, &body)?.finish().await.map_err(|_| stopping())?
        }
        Mode::Structured { is_batch } => {
            let (body, _shares) = read_whole(&edge.event_budget, lane, headers, body).await?;
            let intake = Intake::begin(edge, &token, lane, 0);
            read_structured(intake, is_batch, body)?.whole()?.finish().await.map_err(|_| stopping())?
        }
    };
    edge.metrics.http_events_refused.fetch_add(summary.refused, Ordering::Relaxed);
    if summary.is_good() {
        let mut text = serde_json::to_vec(&summary).expect("a summary is JSON");
        text.push(b'\n');
        return Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response());
    }
    let detail = format!(
        "{} of {} events do not count; the others are durable, and sending all again counts none twice",
        summary.failed(),
        summary.received
    );
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "events_must_count", &detail).with(&summary))
}

/// Reads a body that must fit into memory. One of several chunks is gathered in a buffer, of which all is paid for: however
/// small its chunks are, it costs twice its bytes, or 64 KiB.
async fn read_whole(
    budget: &EventBudget,
    lane: &Arc<str>,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<(Bytes, Vec<Share>), Problem> {
    let too_large = || {
        let detail = format!("an event body has at most {BODY_BYTES_MAX} bytes; larger ones go as NDJSON");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_must_fit", &detail)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let mut shares = Vec::new();
    let Some(first) = next_chunk(&mut body).await? else { return Ok((Bytes::new(), shares)) };
    if first.len() > BODY_BYTES_MAX {
        return Err(too_large());
    }
    shares.push(budget.take(lane, first.len())?);
    let Some(second) = next_chunk(&mut body).await? else { return Ok((first, shares)) };
    let mut gathered: Vec<u8> = Vec::new();
    let (mut chunk, mut behind) = (first, Some(second));
    loop {
        let bytes = gathered.len() + chunk.len();
        if bytes > BODY_BYTES_MAX {
            return Err(too_large());
        }
        if bytes > gathered.capacity() {
            let capacity = (2 * bytes).clamp(GATHERED_BYTES_MIN, BODY_BYTES_MAX);
            shares.push(budget.take(lane, capacity - gathered.capacity())?);
            gathered.reserve_exact(capacity - gathered.len());
        }
        gathered.extend_from_slice(&chunk);
        let next = match behind.take() {
            Some(behind) => Some(behind),
            None => next_chunk(&mut body).await?,
        };
        chunk = match next {
            Some(next) => next,
            None => return Ok((gathered.into(), shares)),
        };
    }
}

/// The next bytes of a body; `None` at its end.
async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = tokio::time::timeout(BODY_PATIENCE, body.frame()).await.map_err(|_| {
            let detail = format!("no bytes of the body came for {} seconds", BODY_PATIENCE.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body_must_come", &detail)
        })?;
        let Some(frame) = frame else { return Ok(None) };
        let frame = frame.map_err(|error| Problem::bad_request("body_must_be_whole", &error.to_string()))?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
}

fn read_binary(mut intake: Intake, headers: &HeaderMap, body: &Bytes) -> Result<Intake, Problem> {
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => Some(value.to_str().map_err(|_| {
            Problem::bad_request("request_must_be_readable", "the content type is not ASCII")
        })?),
        None => None,
    };
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    match cloudevents::read_binary(pairs, content_type, body) {
        Ok(event) => intake.take(Ok(&event)),
        Err(broken) => intake.take(Err(broken)),
    }
    Ok(intake)
}

/// Reads a structured body; a large one off the threads that serve connections.
fn read_structured(mut intake: Intake, is_batch: bool, body: Bytes) -> Result<Intake, Problem> {
    let is_small = body.len() <= BODY_INLINE_BYTES_MAX;
    let read = move || -> Result<Intake, Problem> {
        let text = str::from_utf8(&body)
            .map_err(|_| Problem::bad_request("body_must_be_json", "the body is not UTF-8"))?;
        if is_batch && !text.trim_ascii_start().starts_with('[') {
            return Err(Problem::bad_request("body_must_be_json", "a batch is a JSON list of events"));
        }
        cloudevents::read_structured(text, &mut |event: Result<&CloudEvent<'_>, BrokenEvent<'_>>| {
            intake.take(event);
        })
        .map_err(|error| Problem::bad_request("body_must_be_json", &error.to_string()))?;
        Ok(intake)
    };
    if is_small { read() } else { tokio::task::block_in_place(read) }
}

/// Reads one event a line, however many there are: blocks of lines go on while earlier ones wait for their verdicts. They
/// reach the log in the order of their lines.
async fn read_lines(
    edge: &Arc<Edge>,
    mut token: Arc<Token>,
    lane: &Arc<str>,
    mut body: Body,
) -> Result<Summary, Problem> {
    let upload_bytes = BLOCK_BYTES * (BLOCKS_IN_FLIGHT_MAX + 1) + EVENT_LINE_BYTES_MAX;
    let _share = edge.event_budget.take(lane, upload_bytes)?;
    let mut in_flight = VecDeque::new();
    let mut summary = Summary::default();
    let mut taken = 0;
    let mut buffer: Vec<u8> = Vec::new();
    let mut turns = Turns::default();
    loop {
        let chunk = next_chunk(&mut body).await?;
        let is_end = chunk.is_none();
        buffer.extend_from_slice(&chunk.unwrap_or_default());
        if buffer.len() < BLOCK_BYTES && !is_end {
            continue;
        }
        let whole = if is_end {
            buffer.len()
        } else {
            buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        if buffer.len() - whole > EVENT_LINE_BYTES_MAX {
            let detail = format!(
                "the line of event {taken} has more than {EVENT_LINE_BYTES_MAX} bytes; events before it may be durable"
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "line_must_fit", &detail));
        }
        let lines: Vec<u8> = buffer.drain(..whole).collect();
        if !lines.is_empty() {
            token = edge.authorize_again(&token, Role::Ingest)?;
            let block = tokio::task::block_in_place(|| {
                let mut block = Intake::begin(edge, &token, lane, taken);
                block.take_lines(&lines);
                block
            });
            taken = block.events_taken();
            in_flight.push_back(tokio::spawn(block.whole()?.finish_in(turns.next())));
        }
        while in_flight.len() > if is_end { 0 } else { BLOCKS_IN_FLIGHT_MAX } {
            let Some(block) = in_flight.pop_front() else { break };
            summary.add(block.await.map_err(|_| stopping())?.map_err(|_| stopping())?);
        }
        if is_end {
            return Ok(summary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    struct Chunks(VecDeque<Bytes>);

    impl futures_core::Stream for Chunks {
        type Item = Result<Bytes, Infallible>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn body_of(chunks: Vec<Bytes>) -> Body {
        Body::from_stream(Chunks(chunks.into()))
    }

    /// Every chunk was kept with a share of its own: a body of single bytes took seventy times what was counted.
    #[tokio::test]
    async fn a_body_costs_what_is_counted_however_small_its_chunks_are() {
        let (budget, lane, headers) = (EventBudget::default(), Arc::from("token"), HeaderMap::new());
        for (bytes, chunk, counted_max) in [
            (0, 1, 0),
            (200_000, 200_000, 200_000),
            (10, 5, 65 << 10),
            (300_000, 1, 600_000),
            (300_000, 70_000, 600_000),
        ] {
            let whole: Vec<u8> = (0..bytes).map(|byte: u32| (byte % 251) as u8).collect();
            let chunks = whole.chunks(chunk).map(Bytes::copy_from_slice).collect();
            let (body, shares) = read_whole(&budget, &lane, &headers, body_of(chunks)).await.unwrap();
            assert!(body == whole, "{bytes} bytes in chunks of {chunk}");
            let counted = budget.out();
            assert!((bytes as usize..=counted_max).contains(&counted), "{counted} are counted for {bytes}");
            assert!(shares.len() < 12, "{bytes} bytes in chunks of {chunk} take {} shares", shares.len());
            drop(shares);
            assert_eq!(budget.out(), 0);
        }
        let piece = Bytes::from(vec![0; 1 << 20]);
        let too_long = body_of(vec![piece.clone(); 65]);
        assert!(read_whole(&budget, &lane, &headers, too_long).await.is_err());
        // What is left for the token is too little.
        let _held = budget.take(&lane, TOKEN_BODIES_BYTES_MAX - (1 << 20)).unwrap();
        assert!(read_whole(&budget, &lane, &headers, body_of(vec![piece; 2])).await.is_err());
        assert_eq!(budget.out(), TOKEN_BODIES_BYTES_MAX - (1 << 20));
    }
}
