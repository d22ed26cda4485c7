//! One conversation: hello, batches, their acks and verdicts, goodbye.
//!
//! Owns: the framed stream, the order of replies, the limits of a connection. Leaves to others: who may connect
//! (`super`), whose turn it is (`crate::shares`).
//!
//! One bidirectional stream; hello up, welcome down; batches up, an ack down for each in order, and a verdict frame where
//! it was asked for; close from either side.
//!
//! Invariants: whoever waits, for memory or for its turn, holds no memory of batches but its own; a peer that does not
//! read its replies, or does not finish a frame, is told so and closed; a token counts as it is when a batch comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use domain::Timestamp;
use engine::prepared::PreparedBatch;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use wire::AlignedBytes;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, CloseCode, encode_verdicts};

use super::{BATCHES_IN_FLIGHT_MAX, CONNECTION_BYTES_MAX, FRAME_PATIENCE, Ingest, PATIENCE};
use crate::peers::Place;
use crate::shares::Share;
use crate::tls::names_of_peer;
use crate::tokens::Token;
use crate::usage_log::IncomingBatch;

/// What a permit of a connection's bytes stands for.
const UNIT_BYTES: usize = 4 << 10;

pub(super) async fn converse(
    connection: &Connection,
    ingest: &Arc<Ingest>,
    stranger: Place,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let Ok(accepted) = tokio::time::timeout(PATIENCE, connection.accept_bi()).await else {
        close_with(connection, &no_hello());
        return Ok(());
    };
    let (send, receive) = accepted?;
    let (replies, queue) = mpsc::unbounded_channel();
    let (writing, written) = watch::channel(());
    let writer = tokio::spawn(async move {
        // Dropped when the writer ends, however it ends.
        let _writing = writing;
        write_replies(send, queue).await
    });
    let reading = Reader::read(connection, receive, ingest, stranger, &replies, stopping, written).await;
    let close = match &reading {
        Ok(close) => close.clone(),
        Err(error) => Close::new(CloseCode::Done, &format!("{error:#}")),
    };
    // Answers of batches in flight come first; the writer ends when the last of them is written.
    let _ = replies.send(Reply { frame: close.encode(), _held: None });
    drop(replies);
    let _ = tokio::time::timeout(PATIENCE * 3, writer).await;
    // Give the last frame time to arrive: a close of the connection overtakes stream data.
    let _ = tokio::time::timeout(Duration::from_millis(500), connection.closed()).await;
    close_with(connection, &close);
    reading.map(|_| ())
}

fn close_with(connection: &Connection, close: &Close) {
    connection.close(VarInt::from_u32(u32::from(close.code.code())), close.reason.as_bytes());
}

fn no_hello() -> Close {
    Close::new(CloseCode::TooSlow, "no hello arrived in time")
}

/// What an unanswered batch holds: its place among those of the connection, and memory.
struct Held {
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
    _memory: Share,
}

/// A frame for the producer; what its batch holds is free when it is written.
struct Reply {
    frame: Vec<u8>,
    _held: Option<Arc<Held>>,
}

async fn write_replies(mut send: SendStream, mut queue: mpsc::UnboundedReceiver<Reply>) -> Result<()> {
    while let Some(reply) = queue.recv().await {
        tokio::time::timeout(PATIENCE, send.write_all(&reply.frame)).await??;
    }
    send.finish()?;
    Ok(())
}

/// Counts a connection with a token for as long as it is one.
struct Authenticated<'a>(&'a Ingest);

impl Drop for Authenticated<'_> {
    fn drop(&mut self) {
        self.0.authenticated.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The side of a conversation that reads.
struct Reader<'a> {
    ingest: &'a Arc<Ingest>,
    receive: RecvStream,
    replies: &'a mpsc::UnboundedSender<Reply>,
    token: Arc<Token>,
    wants_verdicts: bool,
    last_sequence: Option<u64>,
    /// Whose turn the next batch waits for: the source of the last one, at first the token.
    lane: Arc<str>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl<'a> Reader<'a> {
    async fn read(
        connection: &Connection,
        mut receive: RecvStream,
        ingest: &'a Arc<Ingest>,
        stranger: Place,
        replies: &'a mpsc::UnboundedSender<Reply>,
        mut stopping: watch::Receiver<bool>,
        mut written: watch::Receiver<()>,
    ) -> Result<Close> {
        let hello = match tokio::time::timeout(PATIENCE, read_hello(&mut receive)).await {
            Err(_) => return Ok(no_hello()),
            Ok(Ok(hello)) => hello,
            Ok(Err(Unread::Ended)) => return Ok(Close::new(CloseCode::Done, "")),
            Ok(Err(Unread::Closed(close))) => return Ok(counted(ingest, close)),
            Ok(Err(Unread::Lost(error))) => return Err(error),
        };
        let token = match hello.token.is_empty() {
            true => ingest.tokens.of_certificate(&names_of_peer(connection)),
            false => ingest.tokens.authenticate(&hello.token),
        };
        let Some(token) = token else {
            let reason = "the token is unknown or revoked, or no certificate shows one";
            return Ok(Close::new(CloseCode::Unauthorized, reason));
        };
        drop(stranger);
        ingest.authenticated.fetch_add(1, Ordering::Relaxed);
        let _authenticated = Authenticated(ingest);
        connection.set_receive_window(ingest.window());
        let welcome = Welcome {
            server: concat!("tallymark/", env!("CARGO_PKG_VERSION")).to_string(),
            batch_bytes_max: domain::limits::BATCH_BYTES_MAX as u32,
            batches_in_flight_max: BATCHES_IN_FLIGHT_MAX as u32,
        };
        let _ = replies.send(Reply { frame: welcome.encode(), _held: None });
        let mut reader = Self {
            ingest,
            receive,
            replies,
            lane: Arc::from(format!("token {}", token.name)),
            token,
            wants_verdicts: hello.verdicts,
            last_sequence: None,
            places: Arc::new(Semaphore::new(BATCHES_IN_FLIGHT_MAX)),
            bytes: Arc::new(Semaphore::new(CONNECTION_BYTES_MAX / UNIT_BYTES)),
        };
        let unread = tokio::select! {
            unread = reader.read_batches() => Some(unread),
            _ = async { stopping.wait_for(|stopping| *stopping).await.is_ok() } => None,
            // The writer ends first only if it cannot go on.
            _ = written.changed() => {
                Some(Unread::Closed(Close::new(CloseCode::TooSlow, "replies were not read in time")))
            }
        };
        let Some(unread) = unread else {
            // What was taken is answered before the goodbye.
            let _ = tokio::time::timeout(PATIENCE, reader.answered()).await;
            return Ok(Close::new(CloseCode::GoingAway, "the server is stopping"));
        };
        match unread {
            Unread::Closed(close) => Ok(counted(ingest, close)),
            Unread::Lost(error) => Err(error),
            Unread::Ended => {
                // The producer has no more; answer what is in flight.
                reader.answered().await;
                Ok(Close::new(CloseCode::Done, ""))
            }
        }
    }

    /// Waits until every batch is answered.
    async fn answered(&self) {
        let _ = self.places.acquire_many(BATCHES_IN_FLIGHT_MAX as u32).await;
    }

    /// Takes batches until there is a reason not to.
    async fn read_batches(&mut self) -> Unread {
        loop {
            if let Err(unread) = self.read_batch().await {
                return unread;
            }
        }
    }

    async fn read_batch(&mut self) -> Result<(), Unread> {
        let place = self.places.clone().acquire_owned().await.map_err(lost)?;
        let (head, header) = read_header(&mut self.receive).await?;
        let units = header.frame_bytes().div_ceil(UNIT_BYTES) as u32; // a frame is at most 1 MiB and a bit
        let bytes = self.bytes.clone().acquire_many_owned(units).await.map_err(lost)?;
        let memory = self.ingest.memory.take(&self.lane, header.frame_bytes()).await;
        let reading = read_body(&mut self.receive, &head, &header);
        let frame = tokio::time::timeout(FRAME_PATIENCE, reading).await.unwrap_or_else(|_| {
            Err(Unread::Closed(Close::new(CloseCode::TooSlow, "a frame did not arrive in time")))
        })?;
        self.take(&header, frame, Held { _place: place, _bytes: bytes, _memory: memory }).await
    }

    async fn take(&mut self, header: &FrameHeader, frame: AlignedBytes, held: Held) -> Result<(), Unread> {
        if header.schema == Schema::CloseV1 {
            return Err(Unread::Ended);
        }
        if header.schema != Schema::UsageBatchV1 {
            return Err(FrameStatus::SchemaMustBeExpected.into());
        }
        let sequence = header.sequence;
        if self.last_sequence.is_some_and(|last| sequence <= last) {
            let reason = "a batch's sequence is above the one before";
            return Err(Unread::Closed(Close::new(CloseCode::BatchSequenceMustIncrease, reason)));
        }
        self.last_sequence = Some(sequence);
        let arrived = Instant::now();
        let received_at: Timestamp = self.ingest.clock.now();
        let Ingest { key, shards, .. } = **self.ingest;
        let prepared = PreparedBatch::prepare(Arc::new(frame), None, received_at, key, shards)?;
        let source = prepared.view().source();
        let Some(token) = self.ingest.tokens.renew(&self.token) else {
            let reason = format!("the token {} was revoked", self.token.name);
            return Err(Unread::Closed(Close::new(CloseCode::Unauthorized, &reason)));
        };
        self.token = token;
        if !self.token.grants_source(source) {
            let reason = format!("the token {} does not grant source {source:?}", self.token.name);
            return Err(Unread::Closed(Close::new(CloseCode::SourceNotGranted, &reason)));
        }
        if let Err(refusal) = self.ingest.usage.sources.admit(source) {
            return Err(Unread::Closed(Close::new(CloseCode::SourceNotGranted, &refusal.to_string())));
        }
        if *self.lane != *source {
            self.lane = Arc::from(source);
        }
        let refusals = prepared.refusals().to_vec();
        let held = Arc::new(held);
        let wants_verdicts = self.wants_verdicts && header.wants_verdicts();
        let (ack_to, ack_held) = (self.replies.clone(), held.clone());
        let on_durable: Box<dyn FnOnce(u64) + Send> = Box::new(move |offset| {
            let frame = Ack { offset, received_at, refusals }.encode(sequence);
            let _ = ack_to.send(Reply { frame, _held: Some(ack_held) });
        });
        let verdict_to = self.replies.clone();
        let on_verdicts = wants_verdicts.then(|| -> Box<dyn FnOnce(Vec<u8>) + Send> {
            Box::new(move |codes| {
                let frame = encode_verdicts(sequence, &codes);
                let _ = verdict_to.send(Reply { frame, _held: Some(held) });
            })
        });
        let batch =
            IncomingBatch { prepared, producer: self.token.producer(), on_durable, on_verdicts, arrived };
        self.ingest.usage.send(&self.lane, batch).await.map_err(|_| {
            Unread::Closed(Close::new(CloseCode::StorageFailed, "the log is not written any more"))
        })
    }
}

/// Why no frame is read any more.
enum Unread {
    /// The producer has no more.
    Ended,
    /// This is said to it.
    Closed(Close),
    /// The connection is gone.
    Lost(anyhow::Error),
}

impl From<FrameStatus> for Unread {
    fn from(status: FrameStatus) -> Self {
        Unread::Closed(Close::bad_frame(status))
    }
}

fn lost(error: impl Into<anyhow::Error>) -> Unread {
    Unread::Lost(error.into())
}

/// Counts a close that is about a frame.
fn counted(ingest: &Ingest, close: Close) -> Close {
    if close.code == CloseCode::BadFrame {
        ingest.metrics.frames_refused.fetch_add(1, Ordering::Relaxed);
    }
    close
}

async fn read_hello(receive: &mut RecvStream) -> Result<Hello, Unread> {
    let (head, header) = read_header(receive).await?;
    if header.schema != Schema::HelloV1 {
        let close = Close::new(CloseCode::HelloRequired, "the first frame is a hello");
        return Err(Unread::Closed(close));
    }
    let frame = read_body(receive, &head, &header).await?;
    Ok(Hello::decode(&header, &frame[FRAME_HEADER_BYTES..])?)
}

async fn read_header(receive: &mut RecvStream) -> Result<([u8; FRAME_HEADER_BYTES], FrameHeader), Unread> {
    let mut head = [0; FRAME_HEADER_BYTES];
    match receive.read_exact(&mut head).await {
        Ok(()) => Ok((head, FrameHeader::decode(&head)?)),
        Err(quinn::ReadExactError::FinishedEarly(0)) => Err(Unread::Ended),
        Err(quinn::ReadExactError::FinishedEarly(_)) => Err(FrameStatus::BodyMustBeWhole.into()),
        Err(error) => Err(lost(error)),
    }
}

/// Reads the rest of a frame; its checksum is checked with its content.
async fn read_body(
    receive: &mut RecvStream,
    head: &[u8; FRAME_HEADER_BYTES],
    header: &FrameHeader,
) -> Result<AlignedBytes, Unread> {
    let mut frame = AlignedBytes::with_len(header.frame_bytes());
    frame.as_mut_slice()[..FRAME_HEADER_BYTES].copy_from_slice(head);
    match receive.read_exact(&mut frame.as_mut_slice()[FRAME_HEADER_BYTES..]).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(FrameStatus::BodyMustBeWhole.into()),
        Err(error) => return Err(lost(error)),
    }
    // A batch's checksum is checked when it is prepared, so that its bytes are read once.
    if header.schema != Schema::UsageBatchV1 {
        header.check_body(&frame[FRAME_HEADER_BYTES..])?;
    }
    Ok(frame)
}
