//! The client library: services record usage events, and every event arrives once.
//!
//! Owns: batching by size and age, the connection, acks, sending again after a reconnect.
//! Leaves to others: bytes (`wire`), counting (`the server`).
//!
//! Invariants:
//! - An event that [`Client::record`] took is sent until it is acknowledged, whatever happens to connections, until the
//!   client is dropped. Only [`Client::flush`] and [`Client::close`] wait for acks.
//! - A call that is cancelled loses nothing: a batch is finished only when there is room for it.
//! - Memory is bounded: when too much waits for acks, `record` waits.
//! - Batches arrive in the order in which they were made; sent again they are the same bytes, so ids make them count once.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tallymark_client::{Client, ClientOptions, Decimal, Event, EventIdOwned, Timestamp};
//! let pem = std::fs::read("tallymark-data/dev-cert.pem")?;
//! let client = Client::connect(ClientOptions::new("127.0.0.1:7411".parse()?, "tm_…", "checkout", pem)).await?;
//! let event = Event::new(EventIdOwned::Text("order-1".into()), "key-42", Timestamp::parse("2026-01-31T23:30:00Z")?)
//!     .value("tokens", Decimal::parse("1200")?)
//!     .dimension("model", "chat");
//! client.record("llm.request", &event).await?;
//! client.flush().await?; // everything recorded so far is durable
//! # Ok(()) }
//! ```

mod connection;
mod decimal;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
pub use domain::{Decimal, Timestamp};
use tokio::sync::{mpsc, watch};
use wire::FrameStatus;
pub use wire::verdict::Verdict;
pub use wire::{BatchBuilder, BuilderStatus, Event, EventIdOwned, EventStatus, IdMode, Refusal};

pub use self::decimal::from_rust_decimal;

/// Settings of a client.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Name in the server's certificate.
    pub server_name: String,
    /// Certificates that are trusted (PEM).
    pub trusted_pem: Vec<u8>,
    /// The secret that grants the source.
    pub token: String,
    /// Source of all events.
    pub source: String,
    /// Whether the client mints ids (`true`) or every event brings its own.
    pub mints_ids: bool,
    /// Events of a batch at most.
    pub batch_events_max: usize,
    /// A batch is sent after this time, full or not.
    pub batch_age_max: Duration,
    /// Batches that wait for their ack at most; then `record` waits.
    pub in_flight_max: usize,
    /// Gets an [`Acked`] for every batch.
    pub acks: Option<mpsc::UnboundedSender<Acked>>,
    /// Whether verdicts are asked for; they arrive as [`Acked::verdicts`].
    pub verdicts: bool,
    /// How long [`Client::connect`] tries; once connected, a client tries for as long as it lives.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// Settings with defaults: ids are given, batches of at most 4,096 events or 50 ms, 32 in flight.
    pub fn new(address: SocketAddr, token: &str, source: &str, trusted_pem: Vec<u8>) -> Self {
        Self {
            address,
            server_name: "localhost".to_string(),
            trusted_pem,
            token: token.to_string(),
            source: source.to_string(),
            mints_ids: false,
            batch_events_max: 4_096,
            batch_age_max: Duration::from_millis(50),
            in_flight_max: 32,
            acks: None,
            verdicts: false,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// A batch that is durable.
#[derive(Clone, Debug)]
pub struct Acked {
    /// Number of the batch.
    pub sequence: u64,
    /// Events in it.
    pub events: usize,
    /// When it was handed to the connection.
    pub queued_at: Instant,
    /// Events that the server refused.
    pub refusals: Vec<Refusal>,
    /// What became of each event, where verdicts were asked for.
    pub verdicts: Option<Vec<Verdict>>,
}

/// Why a client cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// Certificates or settings are unusable.
    #[error("cannot set the connection up: {0}")]
    Setup(String),
    /// Nothing answered while [`Client::connect`] tried.
    #[error("no server answers at {0}")]
    Unreachable(SocketAddr),
    /// The event can never be sent.
    #[error(transparent)]
    Event(#[from] EventStatus),
    /// The server closed for a reason that sending again does not mend.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server broke the protocol.
    #[error("the server's frame is refused: {0}")]
    Protocol(#[from] FrameStatus),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the same call may succeed later. Once connected, transport failures are mended inside the client and
    /// never surface.
    pub fn is_transient(&self) -> bool {
        matches!(self, ClientError::Unreachable(_))
    }
}

/// Counters of a client.
#[derive(Debug, Default)]
pub struct ClientStats {
    /// Events taken by `record`.
    pub recorded: AtomicU64,
    /// Events in acknowledged batches.
    pub acked: AtomicU64,
    /// Events that the server refused.
    pub refused: AtomicU64,
    /// Connections after the first.
    pub reconnects: AtomicU64,
    /// Bytes of frames handed to connections, sent again included.
    pub bytes: AtomicU64,
}

pub(crate) struct Outgoing {
    pub(crate) sequence: u64,
    pub(crate) events: usize,
    pub(crate) frame: Bytes,
    pub(crate) queued_at: Instant,
}

/// What the connection has done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The last batch of an unbroken row that is done with.
    pub(crate) done: u64,
    pub(crate) failed: Option<ClientError>,
}

/// A connection to Tallymark that outlives its connections.
///
/// Dropping it without [`Client::close`] gives up the events that are not yet in a batch; batches that are made are still
/// sent, for as long as the runtime lives.
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClientOptions,
    state: Mutex<State>,
    queue: mpsc::Sender<Outgoing>,
    progress: watch::Receiver<Progress>,
    stats: Arc<ClientStats>,
}

#[derive(Default)]
struct State {
    builders: HashMap<String, Open>,
    /// Number of the last batch. It is taken and its batch queued under the lock, so batches leave in this order.
    sequence: u64,
}

struct Open {
    builder: BatchBuilder,
    since: Option<Instant>,
}

impl Client {
    /// Connects, and goes on connecting in the background whenever a connection ends.
    ///
    /// # Errors
    /// [`ClientError::Setup`], or [`ClientError::Refused`] if the server does not take the token.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let endpoint = tls::endpoint(&options)?;
        let (queue, outgoing) = mpsc::channel(options.in_flight_max.max(1));
        let (progress_sender, mut progress) = watch::channel(Progress::default());
        let (connected, first) = tokio::sync::oneshot::channel();
        let stats = Arc::new(ClientStats::default());
        let driver = connection::Driver::new(endpoint, options.clone(), stats.clone(), progress_sender);
        tokio::spawn(driver.run(outgoing, connected));
        let first = match tokio::time::timeout(options.connect_timeout, first).await {
            Ok(first) => first,
            Err(_) => return Err(ClientError::Unreachable(options.address)),
        };
        if first.is_err() {
            let _ = progress.wait_for(|progress| progress.failed.is_some()).await;
            return Err(progress.borrow().failed.clone().unwrap_or(ClientError::Closed));
        }
        let client = Self::over(options, queue, progress, stats);
        tokio::spawn(send_aged(Arc::downgrade(&client.shared)));
        Ok(client)
    }

    /// A client over a driver's queue.
    fn over(
        options: ClientOptions,
        queue: mpsc::Sender<Outgoing>,
        progress: watch::Receiver<Progress>,
        stats: Arc<ClientStats>,
    ) -> Self {
        Self { shared: Arc::new(Shared { options, state: Mutex::default(), queue, progress, stats }) }
    }

    /// Takes an event. Waits while too much is unacknowledged.
    ///
    /// Cancelled while it waits, it has either taken the event or not, and loses none that came before.
    ///
    /// # Errors
    /// If the event can never be sent, or the client has failed.
    pub async fn record(&self, event_type: &str, event: &Event) -> Result<(), ClientError> {
        loop {
            let full = match self.shared.push(event_type, event) {
                Ok(None) => return Ok(()),
                Ok(Some(full)) => full,
                Err(BuilderStatus::Event(status)) => return Err(status.into()),
                Err(BuilderStatus::BatchMustHaveRoom) => {
                    self.shared.send_open(event_type).await?;
                    continue;
                }
            };
            if full {
                self.shared.send_open(event_type).await?;
            }
            return Ok(());
        }
    }

    /// Sends the events of a builder as one batch, for callers who build batches themselves.
    ///
    /// Cancelled while it waits, it leaves the builder as it was.
    ///
    /// # Errors
    /// If the client has failed.
    pub async fn send(&self, builder: &mut BatchBuilder) -> Result<u64, ClientError> {
        self.shared.send(builder).await
    }

    /// Waits until everything recorded so far is durable.
    ///
    /// # Errors
    /// If the client has failed.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let types: Vec<String> = self.shared.lock().builders.keys().cloned().collect();
        for event_type in types {
            self.shared.send_open(&event_type).await?;
        }
        let last = self.shared.lock().sequence;
        let mut progress = self.shared.progress.clone();
        let waited = progress.wait_for(|progress| progress.done >= last || progress.failed.is_some()).await;
        match waited {
            Ok(progress) => progress.failed.clone().map_or(Ok(()), Err),
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// Flushes, then ends the connection.
    ///
    /// # Errors
    /// If the client has failed.
    pub async fn close(self) -> Result<(), ClientError> {
        self.flush().await
        // Dropping the queue ends the driver, which says goodbye.
    }

    /// Counters.
    pub fn stats(&self) -> &ClientStats {
        &self.shared.stats
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the builders")
    }

    /// Adds an event to its builder; `Some(true)` says that the batch is full now.
    fn push(&self, event_type: &str, event: &Event) -> Result<Option<bool>, BuilderStatus> {
        let mut state = self.lock();
        if !state.builders.contains_key(event_type) {
            let builder = BatchBuilder::new(&self.options.source, event_type, self.id_mode());
            state.builders.insert(event_type.to_string(), Open { builder, since: None });
        }
        let open = state.builders.get_mut(event_type).expect("the builder was just made");
        // A full batch stays here while whoever filled it waits for room, or stopped waiting.
        if open.builder.len() >= self.options.batch_events_max.max(1) {
            return Err(BuilderStatus::BatchMustHaveRoom);
        }
        if self.options.mints_ids {
            let values: Vec<(&str, i128, u8)> = event
                .values
                .iter()
                .map(|(name, value)| (name.as_str(), value.mantissa(), value.scale()))
                .collect();
            let dimensions: Vec<(&str, &str)> =
                event.dimensions.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            open.builder.push_parts(b"", &event.subject, event.time.nanoseconds(), &values, &dimensions)?;
        } else {
            open.builder.push(event)?;
        }
        open.since.get_or_insert_with(Instant::now);
        self.stats.recorded.fetch_add(1, Ordering::Relaxed);
        Ok((open.builder.len() >= self.options.batch_events_max).then_some(true))
    }

    fn id_mode(&self) -> IdMode {
        if !self.options.mints_ids {
            return IdMode::Given;
        }
        let mut epoch = [0; 8];
        getrandom::fill(&mut epoch).expect("the operating system gives random bytes");
        IdMode::Sequenced { epoch: u64::from_le_bytes(epoch), first: 0 }
    }

    async fn send_open(&self, event_type: &str) -> Result<(), ClientError> {
        let is_empty =
            |state: &State| state.builders.get(event_type).is_none_or(|open| open.builder.is_empty());
        if is_empty(&self.lock()) {
            return Ok(());
        }
        let permit = self.queue.reserve().await.map_err(|_| self.failure())?;
        let State { builders, sequence } = &mut *self.lock();
        // Another call may have sent the batch meanwhile.
        let Some(open) = builders.get_mut(event_type).filter(|open| !open.builder.is_empty()) else {
            return Ok(());
        };
        open.since = None;
        permit.send(self.finish(sequence, &mut open.builder));
        Ok(())
    }

    async fn send(&self, builder: &mut BatchBuilder) -> Result<u64, ClientError> {
        if builder.is_empty() {
            return Ok(self.lock().sequence);
        }
        let permit = self.queue.reserve().await.map_err(|_| self.failure())?;
        let mut state = self.lock();
        let outgoing = self.finish(&mut state.sequence, builder);
        let sequence = outgoing.sequence;
        self.stats.recorded.fetch_add(outgoing.events as u64, Ordering::Relaxed);
        permit.send(outgoing);
        Ok(sequence)
    }

    /// Takes the next sequence and makes the batch. Nothing awaits between this and the queue.
    fn finish(&self, sequence: &mut u64, builder: &mut BatchBuilder) -> Outgoing {
        *sequence += 1;
        let events = builder.len();
        let flags = if self.options.verdicts { wire::frame::FLAG_VERDICTS_WANTED } else { 0 };
        let frame = Bytes::from_owner(builder.finish(*sequence, flags));
        Outgoing { sequence: *sequence, events, frame, queued_at: Instant::now() }
    }

    fn failure(&self) -> ClientError {
        self.progress.borrow().failed.clone().unwrap_or(ClientError::Closed)
    }
}

/// Sends batches that are old enough, until the client is dropped.
async fn send_aged(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(age_max) = shared.upgrade().map(|shared| shared.options.batch_age_max) else { return };
        tokio::time::sleep(age_max / 2).await;
        let Some(shared) = shared.upgrade() else { return };
        let aged: Vec<String> = {
            let state = shared.lock();
            let is_aged = |open: &Open| open.since.is_some_and(|since| since.elapsed() >= age_max / 2);
            state.builders.iter().filter(|(_, open)| is_aged(open)).map(|(name, _)| name.clone()).collect()
        };
        for event_type in aged {
            if shared.send_open(&event_type).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_that_nobody_drains() -> (Client, mpsc::Receiver<Outgoing>) {
        let mut options = ClientOptions::new(([127, 0, 0, 1], 1).into(), "tm_x", "shop", Vec::new());
        options.batch_events_max = 2;
        let (queue, outgoing) = mpsc::channel(1);
        (Client::over(options, queue, watch::channel(Progress::default()).1, Arc::default()), outgoing)
    }

    fn event(id: usize) -> Event {
        Event::new(EventIdOwned::Text(id.to_string()), "key", Timestamp::MIN)
    }

    /// Polls a future once; it must wait. Dropping it then is what a cancelled request handler does.
    async fn must_wait<F: Future>(future: &mut std::pin::Pin<Box<F>>) {
        let polled = std::future::poll_fn(|context| {
            std::task::Poll::Ready(future.as_mut().poll(context).is_pending())
        });
        assert!(polled.await, "it waits for room");
    }

    /// A request handler that is dropped while `record` waits for room must not take the batch with it.
    #[tokio::test]
    async fn a_cancelled_record_loses_no_event() {
        let (client, mut outgoing) = client_that_nobody_drains();
        for id in 0..3 {
            client.record("request", &event(id)).await.unwrap();
        }
        let last = event(3);
        // The queue is full: this one fills the second batch and has to wait. It is polled, then dropped.
        let mut recording = Box::pin(client.record("request", &last));
        must_wait(&mut recording).await;
        drop(recording);
        // The batch is full and stays so: the next event is not taken before it left.
        let next = event(4);
        let mut recording = Box::pin(client.record("request", &next));
        must_wait(&mut recording).await;
        drop(recording);
        let first = outgoing.recv().await.unwrap();
        client.shared.send_open("request").await.unwrap();
        let second = outgoing.recv().await.unwrap();
        assert_eq!([(first.sequence, first.events), (second.sequence, second.events)], [(1, 2), (2, 2)]);
    }

    #[tokio::test]
    async fn a_cancelled_send_leaves_the_builder_as_it_was() {
        let (client, mut outgoing) = client_that_nobody_drains();
        let mut builder = BatchBuilder::new("shop", "request", IdMode::Given);
        builder.push(&event(0)).unwrap();
        assert_eq!(client.send(&mut builder).await.unwrap(), 1);
        builder.push(&event(1)).unwrap();
        let mut sending = Box::pin(client.send(&mut builder));
        must_wait(&mut sending).await;
        drop(sending);
        assert_eq!(builder.len(), 1);
        assert_eq!(outgoing.recv().await.unwrap().sequence, 1);
        assert_eq!(client.send(&mut builder).await.unwrap(), 2);
        assert_eq!(client.stats().recorded.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn batches_of_many_callers_leave_in_the_order_of_their_sequences() {
        let (client, mut outgoing) = client_that_nobody_drains();
        let client = Arc::new(client);
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let client = client.clone();
                tokio::spawn(async move {
                    for id in 0..50 {
                        client
                            .record(["request", "job"][caller % 2], &event(caller * 50 + id))
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        let sent_last = tokio::spawn(async move {
            for caller in callers {
                caller.await.unwrap();
            }
            for event_type in ["request", "job"] {
                client.shared.send_open(event_type).await.unwrap();
            }
            // The client is dropped here, and its queue with it.
        });
        let (mut next, mut events) = (1, 0);
        while let Some(batch) = outgoing.recv().await {
            assert_eq!((batch.sequence, batch.events <= 2), (next, true));
            (next, events) = (next + 1, events + batch.events);
        }
        sent_last.await.unwrap();
        assert_eq!(events, 400);
    }
}
