//! A connection of HTTP: request after request, each until it is answered.
//!
//! Owns: what an answer means, when a request is sent again. Leaves to others: bytes (`http`, `request`).
//!
//! Invariants: what is sent again is the same bytes, so ids make it count once; a lost connection, 429 and 503 are tried
//! again until [`PATIENCE`] is over, every other refusal is counted and not tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::endpoint::{Dialer, Endpoint, is_hopeless};
use super::http::{Answer, Connection};
use super::request::Request;
use super::{Lane, PATIENCE, Pushed};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Characters of a refusal that a report shows.
const REFUSAL_CHARS_MAX: usize = 300;

/// Opens the connection of a lane.
pub(crate) async fn open(dialer: Arc<Dialer>, endpoint: &Endpoint) -> Result<Connection> {
    let opened = Connection::open(dialer).await;
    opened.with_context(|| format!("no connection to {}", endpoint.authority))
}

/// Sends the events of a lane; gives how many were distinct.
pub(crate) async fn send(mut lane: Lane, mut connection: Connection, endpoint: &Endpoint) -> Result<u64> {
    let mut request = Request::new(lane.scenario.send.target, lane.plan.clone(), endpoint);
    loop {
        request.begin();
        let next = lane.next_batch(|generator, generated| {
            request.push(generator, generated);
            Ok::<_, std::convert::Infallible>(Pushed::HasRoom)
        });
        let Ok(Some(due)) = next else { return Ok(lane.generator.distinct()) };
        request.finish();
        let since = match due.at {
            Some(at) => {
                lane.timer.until(at).await;
                at
            }
            None => Instant::now(),
        };
        if due.breaks_off {
            // The answer is never read; whether the events arrived is not known.
            let _ = connection.send(request.bytes()).await;
            connection.break_off();
            lane.recorder.record(None, |counts| {
                counts.reconnects += 1;
                counts.bytes += request.bytes().len() as u64;
            });
        }
        let answer = send_until_answered(&lane, &mut connection, request.bytes()).await?;
        let latency = lane.slowness.is_none().then(|| since.elapsed());
        record(&lane, &answer, request.events.into(), latency);
    }
}

async fn send_until_answered(lane: &Lane, connection: &mut Connection, request: &[u8]) -> Result<Answer> {
    let first = Instant::now();
    let mut backoff = BACKOFF_MIN;
    loop {
        let answer = exchange(lane, connection, request).await;
        lane.recorder.record(None, |counts| counts.bytes += request.len() as u64);
        let why = match answer {
            Ok(answer) if !matches!(answer.status, 429 | 503) => return Ok(answer),
            Ok(answer) => {
                lane.recorder.record(None, |counts| *counts.statuses.entry(answer.status).or_default() += 1);
                format!("it answers {} {}", answer.status, shortened(&answer.body))
            }
            Err(error) if is_hopeless(&error) => bail!("no connection can be opened: {error}"),
            Err(error) => error.to_string(),
        };
        if first.elapsed() > PATIENCE {
            bail!("the receiver took nothing for {} seconds: {why}", PATIENCE.as_secs());
        }
        lane.recorder.record(None, |counts| counts.retries += 1);
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn exchange(lane: &Lane, connection: &mut Connection, request: &[u8]) -> std::io::Result<Answer> {
    connection.send(request).await?;
    if let Some(slowness) = lane.slowness {
        tokio::time::sleep(slowness).await;
    }
    match tokio::time::timeout(PATIENCE, connection.answer()).await {
        Ok(answer) => answer,
        Err(_) => {
            connection.break_off();
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer came"))
        }
    }
}

fn record(lane: &Lane, answer: &Answer, events: u64, latency: Option<Duration>) {
    let is_good = (200..300).contains(&answer.status);
    let refused = if is_good { 0 } else { refused_of(answer).unwrap_or(events).min(events) };
    lane.recorder.record(latency, |counts| {
        counts.events += events - refused;
        counts.requests += u64::from(is_good);
        counts.refused += refused;
        *counts.statuses.entry(answer.status).or_default() += 1;
        if !is_good && counts.first_refusal.is_none() {
            counts.first_refusal = Some(format!("{} {}", answer.status, shortened(&answer.body)));
        }
    });
}

/// How many events do not count, where the answer says so: Tallymark names them one by one.
fn refused_of(answer: &Answer) -> Option<u64> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let count = |name: &str| body.get(name).and_then(Value::as_u64);
    Some(count("conflict")? + count("quarantined")? + count("rejected")?)
}

fn shortened(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(REFUSAL_CHARS_MAX).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
