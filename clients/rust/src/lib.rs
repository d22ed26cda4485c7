//! The client library: services record usage events, and every event arrives once.
//!
//! Owns: batching by size and age, the connection, acks, sending again after a reconnect.
//! Leaves to others: bytes (`wire`), counting (`the server`).
//!
//! Invariants:
//! - An event that [`Client::record`] took is sent until it is acknowledged, whatever happens to connections.
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
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClientOptions,
    state: Mutex<State>,
    queue: mpsc::Sender<Outgoing>,
    /// Sends in the order of sequences: a sequence is taken and its frame queued under this lock.
    order: tokio::sync::Mutex<u64>,
    progress: watch::Receiver<Progress>,
    stats: Arc<ClientStats>,
}

#[derive(Default)]
struct State {
    builders: HashMap<String, Open>,
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
        let shared = Arc::new(Shared {
            options,
            state: Mutex::default(),
            queue,
            order: tokio::sync::Mutex::new(0),
            progress,
            stats,
        });
        tokio::spawn(send_aged(Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    /// Takes an event. Waits while too much is unacknowledged.
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
    /// # Errors
    /// If the client has failed.
    pub async fn send(&self, builder: &mut BatchBuilder) -> Result<u64, ClientError> {
        self.shared.send(|| Some(builder)).await
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
        let last = *self.shared.order.lock().await;
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
        let mut order = self.order.lock().await;
        let outgoing = {
            let mut state = self.lock();
            let Some(open) = state.builders.get_mut(event_type).filter(|open| !open.builder.is_empty())
            else {
                return Ok(());
            };
            open.since = None;
            self.finish(&mut order, &mut open.builder)
        };
        self.queue.send(outgoing).await.map_err(|_| self.failure())
    }

    async fn send<'b>(
        &self,
        builder: impl FnOnce() -> Option<&'b mut BatchBuilder>,
    ) -> Result<u64, ClientError> {
        let mut order = self.order.lock().await;
        let Some(builder) = builder().filter(|builder| !builder.is_empty()) else { return Ok(*order) };
        let outgoing = self.finish(&mut order, builder);
        let sequence = outgoing.sequence;
        self.stats.recorded.fetch_add(outgoing.events as u64, Ordering::Relaxed);
        self.queue.send(outgoing).await.map_err(|_| self.failure())?;
        Ok(sequence)
    }

    fn finish(&self, order: &mut u64, builder: &mut BatchBuilder) -> Outgoing {
        *order += 1;
        let events = builder.len();
        let flags = if self.options.verdicts { wire::frame::FLAG_VERDICTS_WANTED } else { 0 };
        let frame = Bytes::from_owner(builder.finish(*order, flags));
        Outgoing { sequence: *order, events, frame, queued_at: Instant::now() }
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
