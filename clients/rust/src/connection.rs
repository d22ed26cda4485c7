//! The driver: one connection after the other, each batch until it is acknowledged.
//!
//! Owns: hello, sending in order, matching acks, sending again, when to try again and when to give up.
//!
//! Invariants: at most `in_flight_max` batches, and no more than the server allows, are sent and unacknowledged; after a
//! reconnect they are sent again in order before anything new; acks are taken only for the oldest of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema, decode_frame};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, CloseCode, decode_verdicts};
use wire::verdict::Verdict;

use crate::queue::Outgoing;
use crate::shared::Shared;
use crate::stats::add;
use crate::{Acked, ClientError};

const PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that lived so long was a good one: the next attempt follows soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);

pub(crate) struct Driver {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    /// Acknowledged, verdicts outstanding; with the bytes of each.
    undecided: VecDeque<(Acked, usize)>,
    in_flight_max: usize,
}

/// Why one connection ended.
enum Ended {
    /// Everything is said, or the client gave up waiting.
    Done,
    /// Try again.
    Lost(String),
    /// Trying again does not help.
    Failed(ClientError),
}

enum Reply {
    Ack(u64, Ack),
    Verdicts(u64, Vec<Verdict>),
    Close(Close),
}

/// Says that the driver is done, also when its runtime drops it.
struct DoneWhenDropped(Arc<Shared>);

impl Drop for DoneWhenDropped {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_driver_done = true;
        if state.failed.is_none() && !state.is_closing {
            state.failed = Some(ClientError::Closed);
        }
        state.queue.end();
        drop(state);
        self.0.tell();
    }
}

impl Driver {
    pub(crate) fn new(endpoint: Endpoint, shared: Arc<Shared>) -> Self {
        let in_flight_max = shared.options.in_flight_max.max(1);
        Self { endpoint, shared, undecided: VecDeque::new(), in_flight_max }
    }

    /// Runs until the client is closed and everything is acknowledged, the server refuses for good, or waiting ends.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let endpoint = self.endpoint.clone();
        let _done = DoneWhenDropped(shared.clone());
        let stopped = shared.wait_until(|state| state.must_stop.then_some(()));
        tokio::select! {
            () = self.connect_until_done() => {}
            () = stopped => endpoint.close(quinn::VarInt::from_u32(0), b""),
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }

    async fn connect_until_done(&mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut was_lost = false;
        loop {
            if self.is_done() {
                break;
            }
            let opened_at = Instant::now();
            let ended = match self.open().await {
                Ok((connection, send, receive)) => {
                    self.shared.lock().has_connected = true;
                    self.shared.changed.notify_waiters();
                    match was_lost {
                        true => tracing::info!("connected to {} again", self.shared.options.address),
                        false => tracing::debug!("connected to {}", self.shared.options.address),
                    }
                    add(&self.shared.counters.reconnects, u64::from(was_lost));
                    self.converse(&connection, send, receive).await
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Done => break,
                Ended::Lost(why) => {
                    if opened_at.elapsed() > GOOD_AFTER {
                        backoff = BACKOFF_MIN;
                    }
                    was_lost |= self.shared.lock().has_connected;
                    let pause = with_jitter(backoff);
                    tracing::warn!(
                        "no connection to {}: {why}; trying again in {} ms",
                        self.shared.options.address,
                        pause.as_millis()
                    );
                    tokio::time::sleep(pause).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Ended::Failed(error) => {
                    tracing::error!("the client cannot go on: {error}");
                    self.shared.lock().failed = Some(error);
                    break;
                }
            }
        }
    }

    /// Whether the client is closed and waits for nothing any more.
    fn is_done(&self) -> bool {
        let state = self.shared.lock();
        state.is_closing && state.queue.first_unacked().is_none() && self.undecided.is_empty()
    }

    async fn open(&mut self) -> Result<(Connection, SendStream, RecvStream), Ended> {
        let lost = |error: &dyn std::fmt::Display| Ended::Lost(error.to_string());
        let options = &self.shared.options;
        let connecting = self
            .endpoint
            .connect(options.address, &options.server_name)
            .map_err(|error| Ended::Failed(ClientError::Setup(error.to_string())))?;
        let connection = tokio::time::timeout(PATIENCE, connecting)
            .await
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
        let hello = Hello {
            token: options.token.clone(),
            client: concat!("tallymark-rust/", env!("CARGO_PKG_VERSION")).to_string(),
            verdicts: options.verdicts,
        };
        send.write_all(&hello.encode()).await.map_err(|error| lost(&error))?;
        let (header, frame) = tokio::time::timeout(PATIENCE, read_frame(&mut receive))
            .await
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        let body = &frame[FRAME_HEADER_BYTES..];
        match header.schema {
            Schema::WelcomeV1 => {
                let welcome =
                    Welcome::decode(&header, body).map_err(|status| Ended::Failed(status.into()))?;
                let allowed = (welcome.batches_in_flight_max as usize).max(1);
                self.in_flight_max = options.in_flight_max.max(1).min(allowed);
                Ok((connection, send, receive))
            }
            Schema::CloseV1 => Err(closed(&Close::decode(&header, body))),
            _ => Err(Ended::Failed(ClientError::Protocol(wire::FrameStatus::SchemaMustBeExpected))),
        }
    }

    async fn converse(
        &mut self,
        connection: &Connection,
        mut send: SendStream,
        receive: RecvStream,
    ) -> Ended {
        let (replies_to, mut replies) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_replies(receive, replies_to));
        let ended = self.exchange(&mut send, &mut replies).await;
        if matches!(ended, Ended::Done) {
            let _ = send.finish();
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.closed()).await;
        }
        reader.abort();
        connection.close(quinn::VarInt::from_u32(0), b"");
        // Verdicts of a lost connection do not come any more; the acks did.
        while let Some((acked, bytes)) = self.undecided.pop_front() {
            self.shared.lock().queue.on_decided(bytes);
            self.tell(acked);
        }
        self.shared.tell();
        ended
    }

    async fn exchange(
        &mut self,
        send: &mut SendStream,
        replies: &mut mpsc::UnboundedReceiver<Result<Reply, String>>,
    ) -> Ended {
        self.shared.lock().queue.send_again();
        loop {
            while let Some(outgoing) = self.next_to_send() {
                add(&self.shared.counters.bytes, outgoing.frame.len() as u64);
                if outgoing.is_again {
                    add(&self.shared.counters.resent, outgoing.events as u64);
                }
                if let Err(error) = send.write_chunk(outgoing.frame).await {
                    return Ended::Lost(error.to_string());
                }
                // Room behind the batch that was taken: whoever waits to send may go on, and more may be read back.
                self.shared.tell();
                while let Ok(reply) = replies.try_recv() {
                    if let Err(ended) = self.take(reply) {
                        return ended;
                    }
                }
            }
            if self.is_done() {
                return Ended::Done;
            }
            tokio::select! {
                biased;
                reply = replies.recv() => {
                    let reply = reply.unwrap_or_else(|| Err("the server ended the stream".to_string()));
                    if let Err(ended) = self.take(reply) {
                        return ended;
                    }
                }
                () = self.shared.work.notified() => {}
            }
        }
    }

    fn next_to_send(&self) -> Option<Outgoing> {
        self.shared.lock().queue.send_next(self.in_flight_max)
    }

    fn take(&mut self, reply: Result<Reply, String>) -> Result<(), Ended> {
        let broken = || Ended::Failed(ClientError::Protocol(wire::FrameStatus::SchemaMustBeExpected));
        match reply.map_err(Ended::Lost)? {
            Reply::Ack(sequence, ack) => {
                let shared = self.shared.clone();
                let mut state = shared.lock();
                let outgoing = state.queue.on_acked(sequence).ok_or_else(broken)?;
                let bytes = outgoing.bytes();
                add(&shared.counters.acked, outgoing.events as u64);
                add(&shared.counters.refused, ack.refusals.len() as u64);
                let acked = Acked {
                    sequence,
                    events: outgoing.events,
                    queued_at: outgoing.queued_at,
                    refusals: ack.refusals,
                    verdicts: None,
                    frame: outgoing.frame,
                };
                warn_of_refusals(&acked);
                // Under the lock: whoever waited for the ack finds it in the channel.
                match shared.options.verdicts {
                    true => {
                        state.queue.begin_to_decide(bytes);
                        self.undecided.push_back((acked, bytes));
                    }
                    false => self.tell(acked),
                }
                drop(state);
                shared.tell();
            }
            Reply::Verdicts(sequence, verdicts) => {
                let oldest = self.undecided.pop_front_if(|(oldest, _)| oldest.sequence == sequence);
                let (mut acked, bytes) = oldest.ok_or_else(broken)?;
                acked.verdicts = Some(verdicts);
                self.tell(acked);
                self.shared.lock().queue.on_decided(bytes);
                self.shared.tell();
            }
            Reply::Close(close) => return Err(closed(&Ok(close))),
        }
        Ok(())
    }

    fn tell(&self, acked: Acked) {
        if let Some(acks) = &self.shared.options.acks {
            // The caller may have stopped listening.
            let _ = acks.send(acked);
        }
    }
}

fn warn_of_refusals(acked: &Acked) {
    if let Some(first) = acked.refusals.first() {
        tracing::warn!(
            "the server refused {} of {} events; the first is {}: {:?}",
            acked.refusals.len(),
            acked.events,
            acked.id(usize::from(first.index)).unwrap_or_default(),
            first.code
        );
    }
}

/// A pause between a half and the whole of this: clients that lost one server do not come back all at once.
fn with_jitter(pause: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the pause is whole.
    let share = if getrandom::fill(&mut random).is_ok() { u32::from_le_bytes(random) % 512 } else { 511 };
    pause * (512 + share) / 1_024
}

fn closed(close: &Result<Close, wire::FrameStatus>) -> Ended {
    match close {
        Ok(close) if close.code.is_transient() || close.code == CloseCode::Done => {
            Ended::Lost(format!("{} ({})", close.code, close.reason))
        }
        Ok(close) => Ended::Failed(ClientError::Refused(format!("{:?}: {}", close.code, close.reason))),
        Err(status) => Ended::Failed((*status).into()),
    }
}

async fn read_replies(mut receive: RecvStream, replies: mpsc::UnboundedSender<Result<Reply, String>>) {
    loop {
        let reply = read_frame(&mut receive).await.and_then(|(header, frame)| {
            let body = &frame[FRAME_HEADER_BYTES..];
            let read = match header.schema {
                Schema::AckV1 => Ack::decode(&header, body).map(|ack| Reply::Ack(header.sequence, ack)),
                Schema::VerdictV1 => {
                    decode_verdicts(&header, body).map(|verdicts| Reply::Verdicts(header.sequence, verdicts))
                }
                Schema::CloseV1 => Close::decode(&header, body).map(Reply::Close),
                _ => Err(wire::FrameStatus::SchemaMustBeExpected),
            };
            read.map_err(|status| status.to_string())
        });
        let is_over = reply.is_err();
        if replies.send(reply).is_err() || is_over {
            return;
        }
    }
}

async fn read_frame(receive: &mut RecvStream) -> Result<(FrameHeader, Vec<u8>), String> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    receive.read_exact(&mut frame).await.map_err(|error| error.to_string())?;
    let header = FrameHeader::decode_slice(&frame).map_err(|status| status.to_string())?;
    frame.resize(header.frame_bytes(), 0);
    receive.read_exact(&mut frame[FRAME_HEADER_BYTES..]).await.map_err(|error| error.to_string())?;
    decode_frame(&frame).map_err(|status| status.to_string())?;
    Ok((header, frame))
}
