//! Settings of a client.
//!
//! Owns: names, defaults and meaning of every setting. Leaves to others: what they do.
//!
//! Invariants: what a client does when memory is full is chosen here and nowhere else: it waits, or it spills to the
//! outbox. No setting makes it drop an event.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::Acked;

/// Settings of a client.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where the server listens, `host:port`. A name is looked up for every connection, so a server that moved is found.
    pub address: String,
    /// Name in the server's certificate; the host of the address unless said.
    pub server_name: Option<String>,
    /// Certificates that are trusted (PEM), and no others: what the system trusts does not count.
    pub trusted_pem: Vec<u8>,
    /// The secret that grants the source; empty if the certificate of [`ClientOptions::identity`] shows the token. See
    /// [`crate::Client::set_token`].
    pub token: String,
    /// A certificate of the client, where the server takes those. See [`crate::Client::set_identity`].
    pub identity: Option<ClientIdentity>,
    /// Source of all events.
    pub source: String,
    /// Events of a batch at most.
    pub batch_events_max: usize,
    /// A batch is sent after this time, full or not.
    pub batch_age_max: Duration,
    /// Batches that are sent and wait for their ack at most; the server may allow fewer.
    pub in_flight_max: usize,
    /// Bytes of events in memory, in open batches and in finished ones. Beyond them [`crate::Client::record`] waits,
    /// [`crate::Client::try_record`] answers [`crate::ClientError::Full`], and with an outbox batches are spilled from half
    /// of them on.
    pub memory_bytes_max: usize,
    /// Where batches are kept until they are acknowledged; without it they are in memory only.
    pub outbox: Option<OutboxOptions>,
    /// Gets an [`Acked`] for every batch. What it does not take stays in memory: read it.
    pub acks: Option<mpsc::UnboundedSender<Acked>>,
    /// Whether verdicts are asked for; they arrive as [`Acked::verdicts`].
    pub verdicts: bool,
    /// How long [`crate::Client::connect`] tries, 10 seconds unless said; once connected, a client tries for as long as it
    /// lives.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// Settings with defaults: batches of at most 4,096 events or 50 ms, 32 in flight, 64 MiB in memory, no outbox.
    ///
    /// The address is `host:port`, or a [`std::net::SocketAddr`].
    pub fn new(address: impl ToString, token: &str, source: &str, trusted_pem: Vec<u8>) -> Self {
        Self {
            address: address.to_string(),
            server_name: None,
            trusted_pem,
            token: token.to_string(),
            identity: None,
            source: source.to_string(),
            batch_events_max: 4_096,
            batch_age_max: Duration::from_millis(50),
            in_flight_max: 32,
            memory_bytes_max: 64 << 20,
            outbox: None,
            acks: None,
            verdicts: false,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// A client certificate.
#[derive(Clone)]
pub struct ClientIdentity {
    /// Certificate chain (PEM), the client's own first.
    pub cert_pem: Vec<u8>,
    /// Its private key (PEM).
    pub key_pem: Vec<u8>,
}

/// A folder in which batches survive the process.
#[derive(Clone, Debug)]
pub struct OutboxOptions {
    /// The folder; made if it does not exist. One client at a time has it, and all its batches are of one source.
    pub folder: PathBuf,
    /// What is written to it.
    pub keeps: Keeps,
    /// When what is written is synced.
    pub sync: SyncPolicy,
    /// Bytes of all files; beyond them a batch stays in memory, and when that is full too, `record` waits.
    pub bytes_max: u64,
    /// Bytes at which a file ends and the next one begins. A file is removed when all of it is acknowledged.
    pub segment_bytes: u64,
}

impl OutboxOptions {
    /// An outbox that keeps every batch, up to 1 GiB in files of 8 MiB.
    pub fn new(folder: impl Into<PathBuf>, sync: SyncPolicy) -> Self {
        let folder = folder.into();
        Self { folder, keeps: Keeps::Everything, sync, bytes_max: 1 << 30, segment_bytes: 8 << 20 }
    }
}

/// What an outbox is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Every batch is written before it is sent: a crash of the process loses no batch.
    Everything,
    /// Batches are written only when memory is half full, and when a client is closed before all was acknowledged: a long
    /// outage of the server costs disk instead of memory, a crash of the process loses what is in memory.
    Overflow,
}

/// When an outbox is synced. Without a sync, what was written survives the process, but not a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Never, except where a file ends.
    Never,
    /// At this interval, and where a file ends.
    Every(Duration),
    /// Before a batch counts as stored; batches that gathered meanwhile share one sync.
    EachBatch,
}
