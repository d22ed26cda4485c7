//! The client library: services record usage events, and every event arrives once.
//!
//! Owns: batching by size and age, the connection, acks, sending again after a reconnect, keeping batches on disk.
//! Leaves to others: bytes (`wire`), counting (`the server`).
//!
//! Invariants:
//! - An event that [`Client::record`] took is sent until it is acknowledged, whatever happens to connections. An outbox
//!   ([`OutboxOptions`]) lets it outlive the process.
//! - `record` touches neither network nor disk; it waits only while memory is full, [`Client::try_record`] never.
//! - A call that is cancelled loses nothing: an event was taken or it was not.
//! - Memory is bounded, and nothing is dropped when it is full.
//! - Batches arrive in the order in which they were made; sent again they hold the same events with the same ids, so that
//!   these count once.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tallymark_client::{Client, ClientOptions, Decimal, Event, OutboxOptions, SyncPolicy, Timestamp};
//! let pem = std::fs::read("tallymark-data/dev-cert.pem")?;
//! let mut options = ClientOptions::new("localhost:7411", "tm_…", "checkout", pem);
//! options.outbox = Some(OutboxOptions::new("checkout-outbox", SyncPolicy::Never)); // survives a crash of the process
//! let client = Client::start(options)?;
//! let event = Event::minted("key-42", Timestamp::parse("2026-01-31T23:30:00Z")?)
//!     .value("tokens", Decimal::parse("1200")?)
//!     .dimension("model", "chat");
//! client.record("llm.request", &event).await?;
//! client.persist().await?; // everything recorded so far is in the outbox
//! client.flush().await?; // everything recorded so far is durable at the server
//! client.close_within(std::time::Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```

mod connection;
mod decimal;
mod dial;
mod error;
mod options;
mod outbox;
mod queue;
mod shared;
mod stats;
#[doc(hidden)]
pub mod testing;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
pub use domain::{Decimal, Timestamp};
use wire::frame::FRAME_HEADER_BYTES;
pub use wire::verdict::Verdict;
use wire::{AlignedBytes, FrameHeader, UsageBatch};
pub use wire::{BatchBuilder, BuilderStatus, Event, EventIdOwned, EventStatus, IdMode, Refusal};

pub use self::decimal::from_rust_decimal;
pub use self::error::{Cause, ClientError, ConnectionState};
pub use self::options::{ClientIdentity, ClientOptions, Keeps, OutboxOptions, SyncPolicy};
use self::outbox::Outbox;
pub use self::outbox::{Damaged, Recovered};
use self::shared::{Shared, State};
pub use self::stats::ClientStats;

/// A batch that is durable.
#[derive(Clone, Debug)]
pub struct Acked {
    /// Number of the batch.
    pub sequence: u64,
    /// Events in it.
    pub events: usize,
    /// When it was handed to the connection, or read back from the outbox.
    pub queued_at: Instant,
    /// Events that the server refused.
    pub refusals: Vec<Refusal>,
    /// What became of each event, where verdicts were asked for and the connection lived long enough to bring them.
    pub verdicts: Option<Vec<Verdict>>,
    frame: Bytes,
}

impl Acked {
    /// The id of an event of the batch, as answers and exports show it: the caller's own, or `seq:…` of a minted one.
    pub fn id(&self, index: usize) -> Option<String> {
        let frame = AlignedBytes::copy_of(&self.frame);
        let header = FrameHeader::decode_slice(&frame).ok()?;
        let batch = UsageBatch::check(&header, frame.get(FRAME_HEADER_BYTES..)?).ok()?;
        (index < batch.len()).then(|| batch.id(index).to_string())
    }
}

/// A connection to Tallymark that outlives its connections.
///
/// Dropped without [`Client::close`], it still sends what was recorded, for as long as the runtime lives.
pub struct Client {
    shared: Arc<Shared>,
    recovered: Recovered,
}

impl Client {
    /// Starts a client, which connects in the background and goes on connecting whenever a connection ends. Needs a
    /// Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Setup`] if certificates or settings are unusable; [`ClientError::Outbox`] if the outbox is in use,
    /// cannot be read, or has batches of another source.
    pub fn start(options: ClientOptions) -> Result<Self, ClientError> {
        let dialer = dial::Dialer::new(&options)?;
        let shared = Arc::new(Shared::new(options)?);
        let options = &shared.options;
        let outbox =
            options.outbox.as_ref().map(|outbox| open_outbox(&options.source, outbox)).transpose()?;
        let mut recovered = Recovered::default();
        if let (Some((outbox, found)), Some(settings)) = (outbox, &shared.options.outbox) {
            recovered = found;
            shared.lock().queue.recover(recovered.batches, recovered.events);
            stats::add(&shared.counters.recovered, recovered.events);
            stats::add(&shared.counters.outbox_damaged_bytes, outbox.damaged_bytes());
            let (shared, sync) = (shared.clone(), settings.sync);
            let thread = std::thread::Builder::new().name("tallymark-outbox".to_string());
            thread
                .spawn(move || outbox::keeper::run(&shared, outbox, sync))
                .map_err(|error| ClientError::Setup(error.to_string()))?;
        }
        tokio::spawn(connection::Driver::new(dialer, shared.clone()).run());
        tokio::spawn(send_aged(Arc::downgrade(&shared)));
        Ok(Self { shared, recovered })
    }

    /// Starts a client and waits for its first connection.
    ///
    /// # Errors
    /// As [`Client::start`]; [`ClientError::Refused`] if the server does not take the token; [`ClientError::Unreachable`]
    /// if nothing answers in time, or at once if a certificate is not taken.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let (patience, address) = (options.connect_timeout, options.address.clone());
        let client = Self::start(options)?;
        let first = client.shared.wait_until(|state| match (&state.failed, &state.connection) {
            (Some(failed), _) => Some(Err(failed.clone())),
            (None, _) if state.has_connected => Some(Ok(())),
            (None, ConnectionState::Lost(cause)) if !cause.is_transient() => {
                Some(Err(ClientError::Unreachable { address: address.clone(), cause: cause.clone() }))
            }
            (None, _) => None,
        });
        let outcome = match tokio::time::timeout(patience, first).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let cause = match client.connection() {
                    ConnectionState::Lost(cause) => cause,
                    _ => Cause::NoAnswer,
                };
                Err(ClientError::Unreachable { address, cause })
            }
        };
        if let Err(error) = outcome {
            client.stop().await;
            return Err(error);
        }
        Ok(client)
    }

    /// Takes an event. Waits while memory is full, and for nothing else.
    ///
    /// Cancelled while it waits, it has not taken the event.
    ///
    /// # Errors
    /// If the event can never be sent, or the client has failed.
    pub async fn record(&self, event_type: &str, event: &Event) -> Result<(), ClientError> {
        self.shared
            .wait_until(|state| match self.shared.take(state, event_type, event) {
                Err(ClientError::Full) => None,
                taken => Some(taken),
            })
            .await
    }

    /// Takes an event, or says at once why not.
    ///
    /// # Errors
    /// [`ClientError::Full`] while memory is full; else as [`Client::record`].
    pub fn try_record(&self, event_type: &str, event: &Event) -> Result<(), ClientError> {
        self.shared.take(&mut self.shared.lock(), event_type, event)
    }

    /// Sends the events of a builder as one batch, for callers who build batches themselves. Waits while `in_flight_max`
    /// batches wait to be sent.
    ///
    /// Cancelled while it waits, it leaves the builder as it was.
    ///
    /// # Errors
    /// If the client has failed.
    pub async fn send(&self, builder: &mut BatchBuilder) -> Result<u64, ClientError> {
        self.shared.wait_until(|state| self.shared.send(state, builder)).await
    }

    /// Waits until everything recorded so far is acknowledged or in the outbox, synced as its policy says.
    ///
    /// # Errors
    /// [`ClientError::Outbox`] if something is neither and the outbox fails; if the client has failed.
    pub async fn persist(&self) -> Result<(), ClientError> {
        self.wait_for(|state, last| {
            if state.queue.first_unkept().is_none_or(|first| first > last) {
                return Some(Ok(()));
            }
            state.outbox_error.clone().map(|error| Err(ClientError::Outbox(error)))
        })
        .await
    }

    /// Waits until everything recorded so far is durable at the server.
    ///
    /// # Errors
    /// If the client has failed.
    pub async fn flush(&self) -> Result<(), ClientError> {
        self.wait_for(|state, last| state.is_acked(last).then_some(Ok(()))).await
    }

    /// As [`Client::flush`], for no longer than this.
    ///
    /// # Errors
    /// [`ClientError::DeadlinePassed`]; everything is still sent. If the client has failed.
    pub async fn flush_within(&self, patience: Duration) -> Result<(), ClientError> {
        match tokio::time::timeout(patience, self.flush()).await {
            Ok(flushed) => flushed,
            Err(_) => Err(self.deadline_passed()),
        }
    }

    /// Takes no more events, flushes, then ends the connection.
    ///
    /// # Errors
    /// If the client has failed; [`Client::stats`] says how many events have no ack, and what is in the outbox is sent by
    /// the next client that has it.
    pub async fn close(&self) -> Result<(), ClientError> {
        self.shared.begin_to_close();
        let flushed = self.flush().await;
        self.shared.tell();
        self.shared.wait_until(|state| (state.is_driver_done && state.is_outbox_done).then_some(())).await;
        flushed
    }

    /// As [`Client::close`], for no longer than this. With an outbox, whatever is not acknowledged by then is written to
    /// it, also where it keeps an overflow only.
    ///
    /// # Errors
    /// [`ClientError::DeadlinePassed`] says how many events are not acknowledged, and how many of these are in the
    /// outbox: the others are lost with the client. If the client has failed.
    pub async fn close_within(&self, patience: Duration) -> Result<(), ClientError> {
        if let Ok(closed) = tokio::time::timeout(patience, self.close()).await {
            return closed;
        }
        self.stop().await;
        match self.deadline_passed() {
            ClientError::DeadlinePassed { unacked: 0, .. } => Ok(()),
            passed => Err(passed),
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> ClientStats {
        let state = self.shared.lock();
        let (unacked, unacked_stored) = state.queue.events_left();
        let memory_bytes = state.queue.memory_bytes() as u64;
        let connected = u64::from(state.connection == ConnectionState::Connected);
        drop(state);
        ClientStats { memory_bytes, connected, unacked, unacked_stored, ..self.shared.counters.snapshot() }
    }

    /// Whether there is a connection, and if not, why.
    pub fn connection(&self) -> ConnectionState {
        self.shared.lock().connection.clone()
    }

    /// Shows another token from the next connection on. Set it before the old one is revoked, and nothing is refused; a
    /// client that was refused because of its token goes on.
    pub fn set_token(&self, token: &str) {
        let changed = self.change_secrets(|secrets| Ok(secrets.with_token(token)));
        changed.expect("a token is not looked at before the server sees it");
    }

    /// Shows another certificate, or none, from the next connection on. The connection that is open goes on with the one
    /// that it began with.
    ///
    /// # Errors
    /// [`ClientError::Setup`] if it is unusable; the old one stays.
    pub fn set_identity(&self, identity: Option<ClientIdentity>) -> Result<(), ClientError> {
        self.change_secrets(|secrets| secrets.with_identity(identity))
    }

    /// Trusts other certificates (PEM) from the next connection on.
    ///
    /// # Errors
    /// [`ClientError::Setup`] if they are unusable; the old ones stay.
    pub fn set_trusted(&self, trusted_pem: Vec<u8>) -> Result<(), ClientError> {
        self.change_secrets(|secrets| secrets.with_trusted(trusted_pem))
    }

    fn change_secrets(
        &self,
        change: impl FnOnce(tls::Secrets) -> Result<tls::Secrets, ClientError>,
    ) -> Result<(), ClientError> {
        let mut state = self.shared.lock();
        state.secrets = change(state.secrets.clone())?;
        drop(state);
        self.shared.tell();
        Ok(())
    }

    /// What an earlier process left in the outbox; it is being sent.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn deadline_passed(&self) -> ClientError {
        let (unacked, stored) = self.shared.lock().queue.events_left();
        ClientError::DeadlinePassed { unacked, stored }
    }

    /// Makes batches of all open ones and waits for an answer about everything up to the last of them.
    async fn wait_for(
        &self,
        answer: impl Fn(&State, u64) -> Option<Result<(), ClientError>>,
    ) -> Result<(), ClientError> {
        let last = self.shared.finish_all();
        self.shared
            .wait_until(|state| match &state.failed {
                Some(failed) => Some(Err(failed.clone())),
                None => answer(state, last),
            })
            .await
    }

    /// Ends the connection now; the outbox gets what it does not have.
    async fn stop(&self) {
        self.shared.begin_to_close();
        self.shared.lock().must_stop = true;
        self.shared.tell();
        self.shared.wait_until(|state| (state.is_driver_done && state.is_outbox_done).then_some(())).await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.begin_to_close();
    }
}

fn open_outbox(source: &str, options: &OutboxOptions) -> Result<(Outbox, Recovered), ClientError> {
    if options.bytes_max < 2 * options.segment_bytes + 2 * domain::limits::BATCH_BYTES_MAX as u64 {
        let what = "an outbox has room for two files and two batches at least";
        return Err(ClientError::Setup(what.to_string()));
    }
    let failed =
        |error: std::io::Error| ClientError::Outbox(format!("{}: {error}", options.folder.display()));
    let (outbox, recovered) = Outbox::open(options).map_err(failed)?;
    if let Some(other) = recovered.source.as_deref().filter(|found| *found != source) {
        let what = format!("it has batches of source {other:?}, and the client sends {source:?}");
        return Err(failed(std::io::Error::other(what)));
    }
    if recovered.batches > 0 {
        let Recovered { batches, events, .. } = recovered;
        tracing::info!("the outbox has {batches} batches with {events} events, which are sent again");
    }
    if recovered.torn_bytes > 0 {
        tracing::warn!("{} bytes of unfinished writes were cut off the outbox", recovered.torn_bytes);
    }
    for Damaged { file, from, until } in &recovered.damaged {
        tracing::error!("bytes {from} to {until} of {file} in the outbox cannot be read; the file is kept");
    }
    Ok((outbox, recovered))
}

/// Sends batches that are old enough, until the client is closed.
async fn send_aged(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(age_max) = shared.upgrade().map(|shared| shared.options.batch_age_max) else { return };
        let age = age_max / 2;
        tokio::time::sleep(age.max(Duration::from_millis(1))).await;
        let Some(shared) = shared.upgrade() else { return };
        let state = shared.lock();
        // A client that was refused may go on.
        if state.is_closing || state.is_driver_done {
            return;
        }
        drop(state);
        shared.finish_aged(age);
    }
}

#[cfg(test)]
mod tests;
