//! HTTP connections with TLS.
//!
//! Owns: handshakes, several at once. Leaves to others: certificates (`crate::tls`), requests (axum).
//!
//! Invariants: a slow handshake holds no other up, and ends; at most [`HANDSHAKES_MAX`] are under way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 1_024;
/// Time for a handshake.
const PATIENCE: Duration = Duration::from_secs(10);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Listens for TLS; each handshake takes the configuration of its moment.
pub struct TlsListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
}

impl TlsListener {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn new(listener: TcpListener, config: Arc<ArcSwap<rustls::ServerConfig>>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (taken, accepted) = mpsc::channel(1);
        tokio::spawn(accept(listener, config, taken));
        Ok(Self { address, accepted })
    }
}

async fn accept(
    mut listener: TcpListener,
    config: Arc<ArcSwap<rustls::ServerConfig>>,
    taken: mpsc::Sender<Accepted>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (stream, address) = tokio::select! {
            connected = axum::serve::Listener::accept(&mut listener) => connected,
            () = taken.closed() => return,
        };
        let (acceptor, taken) = (TlsAcceptor::from(config.load_full()), taken.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                // A server that stops takes no more.
                let _ = taken.send((stream, address)).await;
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
