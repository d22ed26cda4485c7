//! QUIC ingest: who may connect, and the endpoint. A conversation is `conversation`'s.
//!
//! Owns: the endpoint and its limits, who is let in, what all connections need. Leaves to others: durability (`usage_log`),
//! verdicts (`shards`), whose turn it is (`crate::shares`).
//!
//! What a peer can cost, by how far it came:
//!
//! | peer | memory | time |
//! |---|---|---|
//! | any datagram | what quinn buffers of handshakes: 64 KiB each, 64 MiB in all | |
//! | in its handshake | 64 KiB, of at most [`HANDSHAKES_MAX`] peers, [`HANDSHAKES_OF_ADDRESS_MAX`] of them from one address; above [`RETRY_ABOVE`] an address must answer first | 10 s |
//! | connected, without a token | a window of 64 KiB and a hello of 4 KiB; one stream; of at most [`STRANGERS_MAX`] peers, [`STRANGERS_OF_ADDRESS_MAX`] of them from one address, handshakes included | 10 s |
//! | with a token | its window, of [`WINDOWS_BYTES`] shared by all connections; its unanswered batches, of which a connection, a source and all together have limits | 30 s for a frame, 10 s for a reply |
//!
//! Invariants:
//! - A header is checked, and memory for its body is free, before the body is read.
//! - A connection has at most [`BATCHES_IN_FLIGHT_MAX`] unanswered batches: the server stops reading then, and QUIC
//!   flow control makes the producer wait. Nothing is dropped.
//! - One connection's mistake ends that connection and no other.

mod admission;
mod conversation;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use engine::identity::IdentityKey;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Semaphore, watch};

use self::admission::{Admission, Decision};
use self::conversation::converse;
use crate::clock::Clock;
use crate::observe::Metrics;
use crate::shares::Shares;
use crate::tokens::Tokens;
use crate::usage_log::UsageQueue;

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Handshakes at once.
pub const HANDSHAKES_MAX: usize = 2_048;
/// Of one address: so few that each of them ends long before its peer gives up, also where handshakes are slow. What is
/// refused comes again.
pub const HANDSHAKES_OF_ADDRESS_MAX: usize = 256;
/// Connections without a token, handshakes included: the others are for who has one.
pub const STRANGERS_MAX: usize = CONNECTIONS_MAX / 2;
/// Of one address: many more than handshakes, since whoever has a token shows it at once.
pub const STRANGERS_OF_ADDRESS_MAX: usize = 1_024;
/// With so many unfinished handshakes an address must show that it receives what it is sent (Retry).
pub const RETRY_ABOVE: usize = 128;
/// Time between two peers that are told that their connection is gone: ten thousand hear of a restart in five seconds.
const RESET_INTERVAL: Duration = Duration::from_micros(500);
/// Batches of one connection that were not answered yet.
pub const BATCHES_IN_FLIGHT_MAX: usize = 64;
/// Bytes of them.
pub const CONNECTION_BYTES_MAX: usize = 16 << 20;
/// Bytes of batches of one source that were not answered yet.
pub const SOURCE_BYTES_MAX: usize = 64 << 20;
/// Bytes of all batches that were not answered yet.
pub const UNANSWERED_BYTES_MAX: usize = 256 << 20;
/// Bytes that peers with a token may send ahead of what the server reads, all together.
pub const WINDOWS_BYTES: usize = 256 << 20;
/// Most and least of them that one connection gets.
const WINDOW_BYTES_MAX: usize = 4 << 20;
const WINDOW_BYTES_MIN: usize = 64 << 10;
/// Bytes of each buffer of the socket: the default of 208 KiB loses datagrams under load.
const SOCKET_BYTES: usize = 8 << 20;
/// Time for the handshake, for hello after it, and for a reply to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time for a batch to arrive once its header did.
const FRAME_PATIENCE: Duration = Duration::from_secs(30);

// A handshake is also one of a stranger.
const _: () = assert!(HANDSHAKES_OF_ADDRESS_MAX < STRANGERS_OF_ADDRESS_MAX && HANDSHAKES_MAX < STRANGERS_MAX);
// Somebody who waits for its turn fits into what is free when nobody else has anything.
const _: () = assert!(domain::limits::BATCH_BYTES_MAX <= CONNECTION_BYTES_MAX);
const _: () = assert!(CONNECTION_BYTES_MAX <= SOURCE_BYTES_MAX && SOURCE_BYTES_MAX < UNANSWERED_BYTES_MAX);

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
    /// Way to the usage-log writer.
    pub usage: UsageQueue,
    /// Memory for batches that are not answered yet.
    pub memory: Shares,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Connections with a token.
    pub authenticated: AtomicUsize,
}

impl Ingest {
    /// Bytes that a new connection may send ahead: fewer, the more there are.
    fn window(&self) -> VarInt {
        let connections = self.authenticated.load(Ordering::Relaxed).max(1);
        let window = (WINDOWS_BYTES / connections).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        VarInt::from_u32(window as u32) // at most 4 MiB
    }
}

/// Opens the endpoint. `secret` is the directory's: it lets a restarted server tell the peers of its predecessor that
/// their connections are gone (stateless reset), so that they connect again at once instead of waiting for a time-out.
///
/// # Errors
/// If the address cannot be bound.
pub fn endpoint(address: SocketAddr, tls: QuicServerConfig, secret: [u8; 32]) -> Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    if let Some(advice) = socket_advice(socket.recv_buffer_size()?, socket.send_buffer_size()?) {
        tracing::warn!("{advice}");
    }
    socket.bind(&address.into()).with_context(|| format!("cannot bind UDP {address}"))?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    // Only for ids that this directory's server made, which nobody else can make.
    endpoint.min_reset_interval(RESET_INTERVAL);
    let id_key = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|index: usize| secret[index]));
    endpoint.max_udp_payload_size(wire::frame::DATAGRAM_BYTES_MAX)?;
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    Ok(Endpoint::new(endpoint, Some(server_config(tls)), socket.into(), runtime)?)
}

/// What to do where the kernel gave less than it was asked for. Linux says twice what it gives, for what it needs itself.
fn socket_advice(receive: usize, send: usize) -> Option<String> {
    let wanted = if cfg!(target_os = "linux") { 2 * SOCKET_BYTES } else { SOCKET_BYTES };
    let granted_kib = |got: usize| got * (SOCKET_BYTES / 1024) / wanted;
    (receive < wanted || send < wanted).then(|| {
        format!(
            "the socket of QUIC has buffers of {} KiB to receive and {} KiB to send instead of {}: datagrams are lost under \
             load; allow them with `sysctl -w net.core.rmem_max={SOCKET_BYTES} net.core.wmem_max={SOCKET_BYTES}` and start again",
            granted_kib(receive),
            granted_kib(send),
            SOCKET_BYTES / 1024,
        )
    })
}

/// What new connections get.
pub fn server_config(tls: QuicServerConfig) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(4 << 20));
    // Until a token is shown; then the connection gets its window.
    transport.receive_window(VarInt::from_u32(WINDOW_BYTES_MIN as u32));
    // Replies that the peer does not read; behind them the server stops reading batches.
    transport.send_window(64 << 10);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.max_idle_timeout(Some(VarInt::from_u32(30_000).into()));
    config.transport_config(Arc::new(transport));
    config.max_incoming(HANDSHAKES_MAX);
    config.incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(64 << 20);
    config
}

/// Takes connections until `stopping` says so; then tells every connection to come back later.
pub async fn accept(endpoint: Endpoint, ingest: Arc<Ingest>, mut stopping: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let admission = Admission::default();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Some(incoming) = incoming else { break };
        let address = incoming.remote_address().ip();
        let (handshake, stranger) = match admission.decide(address, incoming.remote_address_validated()) {
            Decision::Admit { handshake, stranger } => (handshake, stranger),
            Decision::Retry if incoming.may_retry() => {
                ingest.metrics.handshakes_retried.fetch_add(1, Ordering::Relaxed);
                // It may, so it can.
                let _ = incoming.retry();
                continue;
            }
            Decision::Retry | Decision::Refuse => {
                ingest.metrics.handshakes_refused.fetch_add(1, Ordering::Relaxed);
                incoming.refuse();
                continue;
            }
        };
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            ingest.metrics.handshakes_refused.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            continue;
        };
        let (ingest, stopping) = (ingest.clone(), stopping.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(Ok(connection)) = tokio::time::timeout(PATIENCE, incoming.into_future()).await else {
                return;
            };
            drop(handshake);
            ingest.metrics.connections_opened.fetch_add(1, Ordering::Relaxed);
            let remote = connection.remote_address();
            if let Err(error) = converse(&connection, &ingest, stranger, stopping).await {
                tracing::info!(%remote, "connection ended: {error:#}");
            }
            ingest.metrics.connections_closed.fetch_add(1, Ordering::Relaxed);
        });
    }
    // Every connection says goodbye by itself.
    let _ = tokio::time::timeout(PATIENCE * 2, connections.acquire_many(CONNECTIONS_MAX as u32)).await;
}

#[cfg(test)]
mod tests;
