//! The driver: one connection after the other, each batch until it is acknowledged.
//!
//! Owns: hello, sending in order, matching acks, sending again, when to give up.
//!
//! Invariants: at most `in_flight_max` batches are unacknowledged; after a reconnect they are sent again in order before
//! anything new; acks are taken only for the oldest unacknowledged batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot, watch};
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema, decode_frame};
use wire::hello::{Hello, Welcome};
use wire::reply::{Ack, Close, CloseCode, decode_verdicts};
use wire::verdict::Verdict;

use crate::{Acked, ClientError, ClientOptions, ClientStats, Outgoing, Progress};

const PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Driver {
    endpoint: Endpoint,
    options: ClientOptions,
    stats: Arc<ClientStats>,
    progress: watch::Sender<Progress>,
    /// Sent or to be sent again, oldest first.
    unacked: VecDeque<Outgoing>,
    /// Acknowledged, verdicts outstanding.
    undecided: VecDeque<Acked>,
}

/// Why one connection ended.
enum Ended {
    /// Everything is said: the client was dropped.
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

impl Driver {
    pub(crate) fn new(
        endpoint: Endpoint,
        options: ClientOptions,
        stats: Arc<ClientStats>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        Self { endpoint, options, stats, progress, unacked: VecDeque::new(), undecided: VecDeque::new() }
    }

    /// Runs until the client is dropped and everything is acknowledged, or the server refuses for good.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Outgoing>, connected: oneshot::Sender<()>) {
        let mut connected = Some(connected);
        let mut backoff = BACKOFF_MIN;
        let mut is_first = true;
        loop {
            let ended = match self.open().await {
                Ok((connection, send, receive)) => {
                    backoff = BACKOFF_MIN;
                    if let Some(connected) = connected.take() {
                        let _ = connected.send(());
                    }
                    if !std::mem::replace(&mut is_first, false) {
                        self.stats.reconnects.fetch_add(1, Ordering::Relaxed);
                    }
                    self.converse(&connection, send, receive, &mut queue).await
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Done => break,
                // Nobody waits for the first connection any more.
                Ended::Lost(_) if connected.as_ref().is_some_and(oneshot::Sender::is_closed) => break,
                Ended::Lost(why) => {
                    tracing::warn!("connection to {} lost: {why}; trying again", self.options.address);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Ended::Failed(error) => {
                    self.progress.send_modify(|progress| progress.failed = Some(error));
                    break;
                }
            }
        }
        self.endpoint.wait_idle().await;
    }

    async fn open(&self) -> Result<(Connection, SendStream, RecvStream), Ended> {
        let lost = |error: &dyn std::fmt::Display| Ended::Lost(error.to_string());
        let connecting = self
            .endpoint
            .connect(self.options.address, &self.options.server_name)
            .map_err(|error| Ended::Failed(ClientError::Setup(error.to_string())))?;
        let connection = tokio::time::timeout(PATIENCE, connecting)
            .await
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
        let hello = Hello {
            token: self.options.token.clone(),
            client: concat!("tallymark-rust/", env!("CARGO_PKG_VERSION")).to_string(),
            verdicts: self.options.verdicts,
        };
        send.write_all(&hello.encode()).await.map_err(|error| lost(&error))?;
        let (header, frame) = tokio::time::timeout(PATIENCE, read_frame(&mut receive))
            .await
            .map_err(|error| lost(&error))?
            .map_err(|error| lost(&error))?;
        let body = &frame[FRAME_HEADER_BYTES..];
        match header.schema {
            Schema::WelcomeV1 => {
                Welcome::decode(&header, body).map_err(|status| Ended::Failed(status.into()))?;
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
        queue: &mut mpsc::Receiver<Outgoing>,
    ) -> Ended {
        let (replies_to, mut replies) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_replies(receive, replies_to));
        let ended = self.exchange(&mut send, queue, &mut replies).await;
        if matches!(ended, Ended::Done) {
            let _ = send.finish();
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.closed()).await;
        }
        reader.abort();
        connection.close(quinn::VarInt::from_u32(0), b"");
        // Verdicts of a lost connection do not come any more; the acks did.
        while let Some(acked) = self.undecided.pop_front() {
            self.tell(acked);
        }
        ended
    }

    async fn exchange(
        &mut self,
        send: &mut SendStream,
        queue: &mut mpsc::Receiver<Outgoing>,
        replies: &mut mpsc::UnboundedReceiver<Result<Reply, String>>,
    ) -> Ended {
        for index in 0..self.unacked.len() {
            let frame = self.unacked[index].frame.clone();
            self.stats.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            if let Err(error) = send.write_chunk(frame).await {
                return Ended::Lost(error.to_string());
            }
        }
        let mut is_open = true;
        loop {
            let has_room = is_open && self.unacked.len() < self.options.in_flight_max.max(1);
            if !is_open && self.unacked.is_empty() && self.undecided.is_empty() {
                return Ended::Done;
            }
            tokio::select! {
                biased;
                reply = replies.recv() => match reply {
                    Some(Ok(reply)) => {
                        if let Err(ended) = self.take(reply) {
                            return ended;
                        }
                    }
                    Some(Err(why)) => return Ended::Lost(why),
                    None => return Ended::Lost("the server ended the stream".to_string()),
                },
                outgoing = queue.recv(), if has_room => match outgoing {
                    None => is_open = false,
                    Some(outgoing) => {
                        let frame = outgoing.frame.clone();
                        self.stats.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                        self.unacked.push_back(outgoing);
                        if let Err(error) = send.write_chunk(frame).await {
                            return Ended::Lost(error.to_string());
                        }
                    }
                },
            }
        }
    }

    fn take(&mut self, reply: Reply) -> Result<(), Ended> {
        let broken = || Ended::Failed(ClientError::Protocol(wire::FrameStatus::SchemaMustBeExpected));
        match reply {
            Reply::Ack(sequence, ack) => {
                let oldest = self.unacked.pop_front().filter(|oldest| oldest.sequence == sequence);
                let outgoing = oldest.ok_or_else(broken)?;
                self.stats.acked.fetch_add(outgoing.events as u64, Ordering::Relaxed);
                self.stats.refused.fetch_add(ack.refusals.len() as u64, Ordering::Relaxed);
                self.progress.send_modify(|progress| progress.done = sequence);
                let acked = Acked {
                    sequence,
                    events: outgoing.events,
                    queued_at: outgoing.queued_at,
                    refusals: ack.refusals,
                    verdicts: None,
                };
                if self.options.verdicts {
                    self.undecided.push_back(acked);
                } else {
                    self.tell(acked);
                }
            }
            Reply::Verdicts(sequence, verdicts) => {
                let oldest = self.undecided.pop_front().filter(|oldest| oldest.sequence == sequence);
                let mut acked = oldest.ok_or_else(broken)?;
                acked.verdicts = Some(verdicts);
                self.tell(acked);
            }
            Reply::Close(close) => return Err(closed(&Ok(close))),
        }
        Ok(())
    }

    fn tell(&self, acked: Acked) {
        if let Some(acks) = &self.options.acks {
            // The caller may have stopped listening.
            let _ = acks.send(acked);
        }
    }
}

fn closed(close: &Result<Close, wire::FrameStatus>) -> Ended {
    match close {
        Ok(close) if close.code.is_transient() || close.code == CloseCode::Done => {
            Ended::Lost(format!("{:?} {}", close.code, close.reason))
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
