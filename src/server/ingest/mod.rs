//! QUIC ingest: authenticate, check the frame, hand it on, say what became of it.
//!
//! Owns: connections, the framed stream, limits of a connection. Leaves to others: durability (`usage_log`), verdicts
//! (`shards`).
//!
//! A conversation: one bidirectional stream; hello up, welcome down; batches up, an ack down for each in order, and a
//! verdict frame where it was asked for; close from either side.
//!
//! Invariants:
//! - A header is checked before memory for its body is taken.
//! - A connection has at most [`BATCHES_IN_FLIGHT_MAX`] unanswered batches: the server stops reading then, and QUIC
//!   flow control makes the producer wait. Nothing is dropped.
//! - One connection's mistake ends that connection and no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use domain::Timestamp;
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use wire::AlignedBytes;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, CloseCode, encode_verdicts};

use crate::clock::Clock;
use crate::observe::Metrics;
use crate::tokens::{Token, Tokens};
use crate::usage_log::{IncomingBatch, UsageTask};

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Batches of one connection that were not answered yet.
pub const BATCHES_IN_FLIGHT_MAX: usize = 64;
/// Time for hello after the handshake, and for a reply to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every connection needs.
pub struct Ingest {
    /// Tokens.
    pub tokens: Arc<Tokens>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The key of event identities.
    pub key: IdentityKey,
    /// Number of shards.
    pub shards: usize,
    /// Queue of the usage-log writer.
    pub usage: mpsc::Sender<UsageTask>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Opens the endpoint. `secret` is the directory's: it lets a restarted server tell the peers of its predecessor that
/// their connections are gone (stateless reset), so that they connect again at once instead of waiting for a time-out.
///
/// # Errors
/// If the address cannot be bound.
pub fn endpoint(address: SocketAddr, tls: QuicServerConfig, secret: [u8; 32]) -> Result<Endpoint> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(4 << 20));
    transport.receive_window(VarInt::from_u32(8 << 20));
    transport.send_window(2 << 20);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.max_idle_timeout(Some(VarInt::from_u32(30_000).into()));
    config.transport_config(Arc::new(transport));
    config.max_incoming(1_024);
    config.incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(64 << 20);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel may give less; the default of 208 KiB loses datagrams under load.
    let _ = socket.set_recv_buffer_size(8 << 20);
    let _ = socket.set_send_buffer_size(8 << 20);
    socket.bind(&address.into()).with_context(|| format!("cannot bind UDP {address}"))?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    let id_key = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|index: usize| secret[index]));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    Ok(Endpoint::new(endpoint, Some(config), socket.into(), runtime)?)
}

/// Takes connections until `stopping` says so; then tells every connection to come back later.
pub async fn accept(endpoint: Endpoint, ingest: Arc<Ingest>, mut stopping: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (ingest, stopping) = (ingest.clone(), stopping.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(Ok(connection)) = tokio::time::timeout(PATIENCE, incoming.into_future()).await else {
                return;
            };
            ingest.metrics.connections_opened.fetch_add(1, Ordering::Relaxed);
            let remote = connection.remote_address();
            if let Err(error) = converse(&connection, &ingest, stopping).await {
                tracing::info!(%remote, "connection ended: {error:#}");
            }
            ingest.metrics.connections_closed.fetch_add(1, Ordering::Relaxed);
        });
    }
    // Every connection says goodbye by itself.
    let _ = tokio::time::timeout(PATIENCE * 2, connections.acquire_many(CONNECTIONS_MAX as u32)).await;
}

async fn converse(
    connection: &Connection,
    ingest: &Arc<Ingest>,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    let (send, mut receive) = tokio::time::timeout(PATIENCE, connection.accept_bi()).await??;
    let (replies, queue) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write_replies(send, queue));
    let reading = read_frames(&mut receive, ingest, &replies, stopping).await;
    let close = match &reading {
        Ok(close) => close.clone(),
        Err(error) => Close::new(CloseCode::Done, &format!("{error:#}")),
    };
    // Answers of batches in flight come first; the writer ends when the last of them is written.
    let _ = replies.send(Reply { frame: close.encode(), _permit: None });
    drop(replies);
    let _ = tokio::time::timeout(PATIENCE * 3, writer).await;
    let code = VarInt::from_u32(u32::from(close.code.code()));
    // Give the last frame time to arrive: a close of the connection overtakes stream data.
    let _ = tokio::time::timeout(Duration::from_millis(500), connection.closed()).await;
    connection.close(code, close.reason.as_bytes());
    reading.map(|_| ())
}

/// A frame for the producer; the permit of its batch ends when it is written.
struct Reply {
    frame: Vec<u8>,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

async fn write_replies(mut send: SendStream, mut queue: mpsc::UnboundedReceiver<Reply>) -> Result<()> {
    while let Some(reply) = queue.recv().await {
        tokio::time::timeout(PATIENCE, send.write_all(&reply.frame)).await??;
    }
    send.finish()?;
    Ok(())
}

async fn read_frames(
    receive: &mut RecvStream,
    ingest: &Arc<Ingest>,
    replies: &mpsc::UnboundedSender<Reply>,
    mut stopping: watch::Receiver<bool>,
) -> Result<Close> {
    let hello = match tokio::time::timeout(PATIENCE, read_frame(receive)).await? {
        Ok(Frame::Whole(header, frame)) if header.schema == Schema::HelloV1 => {
            match Hello::decode(&header, &frame[FRAME_HEADER_BYTES..]) {
                Ok(hello) => hello,
                Err(status) => return Ok(refuse(ingest, status)),
            }
        }
        Ok(Frame::Whole(..)) => {
            return Ok(Close::new(CloseCode::HelloRequired, "the first frame is a hello"));
        }
        Ok(Frame::Ended) => return Ok(Close::new(CloseCode::Done, "")),
        Err(ReadError::Frame(status)) => return Ok(refuse(ingest, status)),
        Err(ReadError::Connection(error)) => return Err(error),
    };
    let Some(token) = ingest.tokens.authenticate(&hello.token) else {
        return Ok(Close::new(CloseCode::Unauthorized, "the token is unknown or revoked"));
    };
    let welcome = Welcome {
        server: concat!("tallymark/", env!("CARGO_PKG_VERSION")).to_string(),
        batch_bytes_max: domain::limits::BATCH_BYTES_MAX as u32,
        batches_in_flight_max: BATCHES_IN_FLIGHT_MAX as u32,
    };
    let _ = replies.send(Reply { frame: welcome.encode(), _permit: None });
    let mut producer = Producer { token, wants_verdicts: hello.verdicts, last_sequence: None };
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT_MAX));
    loop {
        let permit = in_flight.clone().acquire_owned().await?;
        let frame = tokio::select! {
            frame = read_frame(receive) => Some(frame),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(frame) = frame else {
            // What was taken is answered before the goodbye.
            let _ = tokio::time::timeout(PATIENCE, answered(&in_flight)).await;
            return Ok(Close::new(CloseCode::GoingAway, "the server is stopping"));
        };
        let (header, frame) = match frame {
            Ok(Frame::Whole(header, frame)) => (header, frame),
            Ok(Frame::Ended) => {
                // The producer has no more; answer what is in flight.
                answered(&in_flight).await;
                return Ok(Close::new(CloseCode::Done, ""));
            }
            Err(ReadError::Frame(status)) => return Ok(refuse(ingest, status)),
            Err(ReadError::Connection(error)) => return Err(error),
        };
        if let Err(close) = producer.take(ingest, header, frame, replies, permit).await {
            return Ok(close);
        }
    }
}

/// Waits until every batch is answered; the reader holds one permit for the batch that does not come any more.
async fn answered(in_flight: &Semaphore) {
    let _ = in_flight.acquire_many(BATCHES_IN_FLIGHT_MAX as u32 - 1).await;
}

fn refuse(ingest: &Ingest, status: FrameStatus) -> Close {
    ingest.metrics.frames_refused.fetch_add(1, Ordering::Relaxed);
    Close::bad_frame(status)
}

/// Who sends on a connection.
struct Producer {
    token: Arc<Token>,
    wants_verdicts: bool,
    last_sequence: Option<u64>,
}

impl Producer {
    async fn take(
        &mut self,
        ingest: &Arc<Ingest>,
        header: FrameHeader,
        frame: AlignedBytes,
        replies: &mpsc::UnboundedSender<Reply>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), Close> {
        if header.schema == Schema::CloseV1 {
            return Err(Close::new(CloseCode::Done, ""));
        }
        if header.schema != Schema::UsageBatchV1 {
            return Err(refuse(ingest, FrameStatus::SchemaMustBeExpected));
        }
        let sequence = header.sequence;
        if self.last_sequence.is_some_and(|last| sequence <= last) {
            return Err(Close::new(
                CloseCode::BatchSequenceMustIncrease,
                "a batch's sequence is above the one before",
            ));
        }
        self.last_sequence = Some(sequence);
        let arrived = Instant::now();
        let received_at: Timestamp = ingest.clock.now();
        let prepared = PreparedBatch::prepare(Arc::new(frame), None, received_at, ingest.key, ingest.shards)
            .map_err(|status| refuse(ingest, status))?;
        let source = prepared.view().source().to_string();
        if !self.token.grants_source(&source) {
            let reason = format!("the token {} does not grant source {source:?}", self.token.name);
            return Err(Close::new(CloseCode::SourceNotGranted, &reason));
        }
        let refusals = prepared.refusals().to_vec();
        let permit = Arc::new(permit);
        let wants_verdicts = self.wants_verdicts && header.wants_verdicts();
        let (ack_to, ack_permit) = (replies.clone(), permit.clone());
        let on_durable: Box<dyn FnOnce(u64) + Send> = Box::new(move |offset| {
            let frame = Ack { offset, received_at, refusals }.encode(sequence);
            let _ = ack_to.send(Reply { frame, _permit: Some(ack_permit) });
        });
        let verdict_to = replies.clone();
        let on_verdicts = wants_verdicts.then(|| -> Box<dyn FnOnce(Vec<u8>) + Send> {
            Box::new(move |codes| {
                let frame = encode_verdicts(sequence, &codes);
                let _ = verdict_to.send(Reply { frame, _permit: Some(permit) });
            })
        });
        let batch =
            IncomingBatch { prepared, producer: self.token.producer(), on_durable, on_verdicts, arrived };
        ingest.metrics.batches_queued.fetch_add(1, Ordering::Relaxed);
        let sent = ingest.usage.send(UsageTask::Batch(Box::new(batch))).await;
        sent.map_err(|_| Close::new(CloseCode::StorageFailed, "the log is not written any more"))
    }
}

enum Frame {
    Whole(FrameHeader, AlignedBytes),
    Ended,
}

enum ReadError {
    Frame(FrameStatus),
    Connection(anyhow::Error),
}

impl From<FrameStatus> for ReadError {
    fn from(status: FrameStatus) -> Self {
        ReadError::Frame(status)
    }
}

/// Reads a frame; its checksum is checked with its content.
async fn read_frame(receive: &mut RecvStream) -> Result<Frame, ReadError> {
    let mut head = [0; FRAME_HEADER_BYTES];
    match receive.read_exact(&mut head).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(Frame::Ended),
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(FrameStatus::BodyMustBeWhole.into()),
        Err(error) => return Err(ReadError::Connection(error.into())),
    }
    let header = FrameHeader::decode(&head)?;
    let mut frame = AlignedBytes::with_len(header.frame_bytes());
    frame.as_mut_slice()[..FRAME_HEADER_BYTES].copy_from_slice(&head);
    match receive.read_exact(&mut frame.as_mut_slice()[FRAME_HEADER_BYTES..]).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(FrameStatus::BodyMustBeWhole.into()),
        Err(error) => return Err(ReadError::Connection(error.into())),
    }
    // A batch's checksum is checked when it is prepared, so that its bytes are read once.
    if header.schema != Schema::UsageBatchV1 {
        header.check_body(&frame[FRAME_HEADER_BYTES..])?;
    }
    Ok(Frame::Whole(header, frame))
}
