//! The driver: one connection after the other, each batch until it is acknowledged.
//!
//! Owns: hello, sending in order, matching acks, sending again, when to try again and when to give up. Leaves to others:
//! addresses and handshakes (`dial`).
//!
//! The client says that it has no more by ending its side of the stream; the server answers what it has and closes the
//! stream; the client, which now has everything, closes the connection.
//!
//! Invariants: at most `in_flight_max` batches, and no more than the server allows, are sent and unacknowledged; after a
//! reconnect they are sent again in order before anything new; acks are taken only for the oldest of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema, decode_frame};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, CloseCode, decode_verdicts};
use wire::verdict::Verdict;

use crate::dial::{Dialer, PATIENCE, cause_of};
use crate::queue::Outgoing;
use crate::shared::Shared;
use crate::stats::add;
use crate::tls::Secrets;
use crate::{Acked, Cause, ClientError, ConnectionState};

/// How long the server may take to say goodbye.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that lived so long was a good one: the next attempt follows soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);

pub(crate) struct Driver {
    dialer: Dialer,
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
    Lost(Cause),
    /// Trying again helps when the client shows something else.
    Refused(ClientError),
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
        if state.connection == ConnectionState::Connected {
            state.connection = ConnectionState::Lost(Cause::Lost("the client ended".to_string()));
        }
        state.queue.end();
        drop(state);
        self.0.tell();
    }
}

impl Driver {
    pub(crate) fn new(dialer: Dialer, shared: Arc<Shared>) -> Self {
        let in_flight_max = shared.options.in_flight_max.max(1);
        Self { dialer, shared, undecided: VecDeque::new(), in_flight_max }
    }

    /// Runs until the client is closed and everything is acknowledged, the server refuses for good, or waiting ends.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let _done = DoneWhenDropped(shared.clone());
        let stopped = shared.wait_until(|state| state.must_stop.then_some(()));
        tokio::select! {
            () = self.connect_until_done() => {}
            () = stopped => {}
        }
        self.dialer.close().await;
    }

    async fn connect_until_done(&mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut was_lost = false;
        while !self.is_done() {
            let secrets = self.shared.lock().secrets.clone();
            let opened_at = Instant::now();
            let ended = match self.open(&secrets).await {
                Ok((connection, send, receive)) => {
                    self.on_connected(was_lost);
                    self.converse(&connection, send, receive).await
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Done => break,
                Ended::Lost(cause) => {
                    if opened_at.elapsed() > GOOD_AFTER {
                        backoff = BACKOFF_MIN;
                    }
                    let pause = with_jitter(backoff);
                    was_lost |= self.on_lost(cause, pause);
                    let changed = self.secrets_changed(&secrets);
                    let _ = tokio::time::timeout(pause, changed).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Ended::Refused(error) => {
                    was_lost |= self.shared.lock().has_connected;
                    if !self.wait_for_other_secrets(&secrets, error).await {
                        break;
                    }
                }
                Ended::Failed(error) => {
                    tracing::error!("the client cannot go on: {error}");
                    self.shared.lock().failed = Some(error);
                    break;
                }
            }
        }
    }

    fn on_connected(&self, was_lost: bool) {
        let mut state = self.shared.lock();
        state.has_connected = true;
        state.connection = ConnectionState::Connected;
        drop(state);
        self.shared.changed.notify_waiters();
        let address = &self.shared.options.address;
        match was_lost {
            true => tracing::info!("connected to {address} again"),
            false => tracing::debug!("connected to {address}"),
        }
        add(&self.shared.counters.reconnects, u64::from(was_lost));
    }

    /// Gives whether there was a connection before.
    fn on_lost(&self, cause: Cause, pause: Duration) -> bool {
        let address = &self.shared.options.address;
        let pause = pause.as_millis();
        tracing::warn!("no connection to {address}: {cause}; trying again in {pause} ms");
        add(&self.shared.counters.connection_failures, 1);
        let mut state = self.shared.lock();
        state.connection = ConnectionState::Lost(cause);
        let has_connected = state.has_connected;
        drop(state);
        self.shared.changed.notify_waiters();
        has_connected
    }

    async fn secrets_changed(&self, tried: &Secrets) {
        self.shared.wait_until(|state| (state.secrets.version != tried.version).then_some(())).await;
    }

    /// Every call says that the server refused, until the client shows something else; `false` if it is closed before.
    async fn wait_for_other_secrets(&self, refused: &Secrets, error: ClientError) -> bool {
        let is_known = self.shared.lock().secrets.version != refused.version;
        if !is_known {
            tracing::error!("the client cannot go on as it is: {error}");
            add(&self.shared.counters.connection_failures, 1);
            let mut state = self.shared.lock();
            state.connection = ConnectionState::Lost(Cause::Lost(error.to_string()));
            state.failed = Some(error);
            drop(state);
            self.shared.tell();
        }
        self.shared
            .wait_until(|state| {
                if state.secrets.version != refused.version {
                    state.failed = None;
                    return Some(true);
                }
                state.is_closing.then_some(false)
            })
            .await
    }

    /// Whether the client is closed and waits for nothing any more.
    fn is_done(&self) -> bool {
        let state = self.shared.lock();
        state.is_closing && state.queue.first_unacked().is_none() && self.undecided.is_empty()
    }

    async fn open(&mut self, secrets: &Secrets) -> Result<(Connection, SendStream, RecvStream), Ended> {
        let connection = self.dialer.dial(secrets).await.map_err(Ended::Lost)?;
        let greeting = tokio::time::timeout(PATIENCE, self.greet(&connection, secrets));
        let Ok(greeted) = greeting.await else { return Err(Ended::Lost(Cause::NoAnswer)) };
        let (send, receive, header, frame) = greeted.map_err(|why| lost(&connection, why))?;
        let body = &frame[FRAME_HEADER_BYTES..];
        match header.schema {
            Schema::WelcomeV1 => {
                let welcome =
                    Welcome::decode(&header, body).map_err(|status| Ended::Failed(status.into()))?;
                let allowed = (welcome.batches_in_flight_max as usize).max(1);
                self.in_flight_max = self.shared.options.in_flight_max.max(1).min(allowed);
                Ok((connection, send, receive))
            }
            Schema::CloseV1 => Err(closed(&Close::decode(&header, body))),
            _ => Err(Ended::Failed(ClientError::Protocol(wire::FrameStatus::SchemaMustBeExpected))),
        }
    }

    /// Says hello; gives the answer.
    async fn greet(
        &self,
        connection: &Connection,
        secrets: &Secrets,
    ) -> Result<(SendStream, RecvStream, FrameHeader, Vec<u8>), String> {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let hello = Hello {
            token: secrets.token.clone(),
            client: concat!("tallymark-rust/", env!("CARGO_PKG_VERSION")).to_string(),
            verdicts: self.shared.options.verdicts,
        };
        send.write_all(&hello.encode()).await.map_err(|error| error.to_string())?;
        let (header, frame) = read_frame(&mut receive).await?;
        Ok((send, receive, header, frame))
    }

    async fn converse(
        &mut self,
        connection: &Connection,
        mut send: SendStream,
        receive: RecvStream,
    ) -> Ended {
        let (replies_to, mut replies) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_replies(receive, replies_to));
        let ended = match self.exchange(&mut send, &mut replies).await {
            Ok(ended) => ended,
            Err(why) => lost(connection, why),
        };
        if matches!(ended, Ended::Done) {
            let _ = send.finish();
            let _ = tokio::time::timeout(GOODBYE_PATIENCE, last_word(&mut replies)).await;
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

    /// Sends and hears until everything is said; an error says what happened to the stream.
    async fn exchange(
        &mut self,
        send: &mut SendStream,
        replies: &mut mpsc::UnboundedReceiver<Result<Reply, String>>,
    ) -> Result<Ended, String> {
        self.shared.lock().queue.send_again();
        loop {
            while let Some(outgoing) = self.next_to_send() {
                add(&self.shared.counters.bytes, outgoing.frame.len() as u64);
                if outgoing.is_again {
                    add(&self.shared.counters.resent, outgoing.events as u64);
                }
                send.write_chunk(outgoing.frame).await.map_err(|error| error.to_string())?;
                // Room behind the batch that was taken: whoever waits to send may go on, and more may be read back.
                self.shared.tell();
                while let Ok(reply) = replies.try_recv() {
                    if let Err(ended) = self.take(reply?) {
                        return Ok(ended);
                    }
                }
            }
            if self.is_done() {
                return Ok(Ended::Done);
            }
            tokio::select! {
                biased;
                reply = replies.recv() => {
                    let reply = reply.unwrap_or_else(|| Err("the server ended the stream".to_string()));
                    if let Err(ended) = self.take(reply?) {
                        return Ok(ended);
                    }
                }
                () = self.shared.work.notified() => {}
            }
        }
    }

    fn next_to_send(&self) -> Option<Outgoing> {
        self.shared.lock().queue.send_next(self.in_flight_max)
    }

    fn take(&mut self, reply: Reply) -> Result<(), Ended> {
        let broken = || Ended::Failed(ClientError::Protocol(wire::FrameStatus::SchemaMustBeExpected));
        match reply {
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
    let refused = |close: &Close| ClientError::Refused(format!("{:?}: {}", close.code, close.reason));
    match close {
        Ok(close) if close.code.is_transient() || close.code == CloseCode::Done => {
            Ended::Lost(Cause::Lost(format!("{} ({})", close.code, close.reason)))
        }
        Ok(close) if matches!(close.code, CloseCode::Unauthorized | CloseCode::SourceNotGranted) => {
            Ended::Refused(refused(close))
        }
        Ok(close) => Ended::Failed(refused(close)),
        Err(status) => Ended::Failed((*status).into()),
    }
}

/// A stream ended: why its connection did says more, if it did.
fn lost(connection: &Connection, why: String) -> Ended {
    Ended::Lost(connection.close_reason().map_or(Cause::Lost(why), |error| cause_of(&error)))
}

/// Waits until the server has nothing more to say.
async fn last_word(replies: &mut mpsc::UnboundedReceiver<Result<Reply, String>>) {
    while let Some(reply) = replies.recv().await {
        if matches!(reply, Ok(Reply::Close(_)) | Err(_)) {
            return;
        }
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

#[cfg(test)]
mod tests;
