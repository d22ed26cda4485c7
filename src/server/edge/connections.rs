//! HTTP connections: who may have one, and when it ends.
//!
//! Owns: accepting, TLS handshakes, limits of connections. Leaves to others: certificates (`crate::tls`), requests (routes).
//!
//! What a peer can cost before it showed a token, in memory and in open files: at most [`CONNECTIONS_MAX`] connections and
//! those that the limit of open files leaves room for, half of them of one address; each with 64 KiB of headers, or 128
//! requests of HTTP/2 with 16 KiB of headers each, and its windows.
//!
//! Invariants:
//! - A connection ends when nothing moves for [`IDLE_MAX`]: neither a whole request comes, nor is one worked on, nor does its
//!   peer take an answer. A slow handshake ends earlier and holds no other up.
//! - Connections never take the last open files: those are the logs'.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::observe::Metrics;
use crate::peers::{PeerLimits, Peers, Place};

/// Connections at once, where the limit of open files leaves room for them.
pub const CONNECTIONS_MAX: usize = 8_192;
/// Time in which something must move.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Time for a TLS handshake, and for the end of a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's headers, and of a body that are read ahead, over HTTP/1.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a request's headers over HTTP/2, 32 for each and the rest as they are unpacked.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// Requests at once of a connection over HTTP/2.
const STREAMS_MAX: u32 = 128;

/// The configuration of TLS that is in force.
pub type TlsInForce = Arc<ArcSwap<rustls::ServerConfig>>;

/// What is done with connections.
pub struct Connections {
    /// What requests are answered with.
    pub routes: Router,
    /// Each handshake takes the configuration of its moment; without one, connections are plain.
    pub tls: Option<TlsInForce>,
    /// How many there may be.
    pub limits: PeerLimits,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Everything that a connection needs.
#[derive(Clone)]
struct Served {
    routes: Router,
    builder: Builder<TokioExecutor>,
    idle_max: Duration,
    stopping: watch::Receiver<bool>,
}

impl Connections {
    /// Takes connections until `stopping` says so; then lets each end with the request that it is at.
    pub async fn serve(self, listener: TcpListener, stopping: watch::Receiver<bool>) {
        self.serve_with(listener, IDLE_MAX, stopping).await;
    }

    async fn serve_with(
        self,
        listener: TcpListener,
        idle_max: Duration,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().max_buf_size(BUFFER_BYTES);
        builder.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEADER_LIST_BYTES_MAX);
        let served = Served { routes: self.routes, builder, idle_max, stopping: stopping.clone() };
        let peers = Peers::default();
        // Every connection holds one end; the other hears when the last of them is gone.
        let (open, mut ended) = mpsc::channel::<()>(1);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Some(place) = peers.take(address.ip(), self.limits) else {
                self.metrics.http_connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
            let (served, metrics, open) = (served.clone(), self.metrics.clone(), open.clone());
            tokio::spawn(async move {
                metrics.http_connections_opened.fetch_add(1, Ordering::Relaxed);
                served.serve(stream, tls, address, place).await;
                metrics.http_connections_closed.fetch_add(1, Ordering::Relaxed);
                drop(open);
            });
        }
        drop((listener, open));
        let _ = ended.recv().await;
    }
}

/// A peer that went away again is no reason to wait.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!("no HTTP connection can be taken: {error}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Served {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>, address: SocketAddr, _place: Place) {
        // An answer is written at once; without this the next one waits for the peer to acknowledge it.
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.serve_requests(stream, address).await,
            Some(acceptor) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                    self.serve_requests(stream, address).await;
                }
            }
        }
    }

    async fn serve_requests<I>(mut self, stream: I, address: SocketAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::new(Activity::begin());
        let (routes, seen) = (self.routes, activity.clone());
        let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let working = Working::begin(&seen);
            let answered = routes.clone().oneshot(request.map(Body::new));
            async move {
                let answer = answered.await;
                drop(working);
                answer
            }
        });
        let stream = TokioIo::new(Watched { stream, activity: activity.clone() });
        let mut connection = pin!(self.builder.serve_connection(stream, answer));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = activity.ends(self.idle_max) => tracing::debug!("nothing moves on the connection of {address}"),
            _ = self.stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(self.idle_max.min(PATIENCE), connection).await;
    }
}

/// What moves on a connection.
struct Activity {
    begun: Instant,
    /// Requests that are worked on.
    working: AtomicU32,
    /// When something moved last: milliseconds since it began.
    moved_at: AtomicU64,
}

impl Activity {
    fn begin() -> Self {
        Self { begun: Instant::now(), working: AtomicU32::new(0), moved_at: AtomicU64::new(0) }
    }

    fn on_moved(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_at.store(now, Ordering::Relaxed);
    }

    /// Waits until nothing moved for so long.
    async fn ends(&self, idle_max: Duration) {
        loop {
            let moved_at = Duration::from_millis(self.moved_at.load(Ordering::Relaxed));
            let idle = self.begun.elapsed().saturating_sub(moved_at);
            let is_working = self.working.load(Ordering::Relaxed) > 0;
            match idle_max.checked_sub(idle) {
                Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
                _ if is_working => tokio::time::sleep(idle_max).await,
                _ => return,
            }
        }
    }
}

/// A request that is worked on, until its answer begins.
struct Working(Arc<Activity>);

impl Working {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.working.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
        self.0.on_moved();
    }
}

/// A connection on which bytes of an answer are seen to go.
struct Watched<I> {
    stream: I,
    activity: Arc<Activity>,
}

impl<I> Watched<I> {
    fn seen(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.on_moved();
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.seen(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.seen(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Request;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(200);

    struct Running {
        address: SocketAddr,
        metrics: Arc<Metrics>,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(limits: PeerLimits, idle_max: Duration) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let late = || async {
            tokio::time::sleep(3 * SHORT).await;
            "late"
        };
        let routes = Router::new()
            .route("/", get(|_: Request| async { "answer" }))
            .route("/late", get(late))
            .route("/long", get(|| async { vec![b'x'; 64 << 20] }));
        let metrics = Arc::new(Metrics::default());
        let connections = Connections { routes, tls: None, limits, metrics: metrics.clone() };
        let task = tokio::spawn(connections.serve_with(listener, idle_max, stopping));
        Running { address, metrics, stop, task }
    }

    const MANY: PeerLimits = PeerLimits { all: 100, of_network: 50 };

    async fn ask(address: SocketAddr, from: &str, path: &str) -> io::Result<String> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0))?;
        let mut stream = socket.connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// An answer that was made in one piece was cut off, however well its peer took it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_that_is_taken_slowly_is_given_whole() {
        const IDLE: Duration = Duration::from_secs(1);
        let running = start(MANY, IDLE).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let (mut part, mut taken) = (vec![0; 1 << 20], 0);
        loop {
            match stream.read(&mut part).await.unwrap() {
                0 => break,
                bytes => taken += bytes,
            }
            if taken < 48 << 20 {
                tokio::time::sleep(IDLE / 20).await;
            }
        }
        assert!(taken > 64 << 20, "{taken} bytes of an answer of 64 MiB");
    }

    /// Slow peers of HTTP kept a connection each, for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_on_which_nothing_moves_ends_and_work_is_no_idleness() {
        let running = start(MANY, SHORT).await;
        let beginnings: [&[u8]; 5] = [
            b"",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            // Answered, and then kept open.
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        let mut slow = Vec::new();
        for beginning in beginnings {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            slow.push(stream);
        }
        assert!(ask(running.address, "127.0.0.1", "/late").await.unwrap().ends_with("late"));
        for mut stream in slow {
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(PATIENCE * 3, stream.read_to_end(&mut answer)).await.unwrap();
        }
        // An answer that is not taken.
        let mut greedy = TcpStream::connect(running.address).await.unwrap();
        greedy.write_all(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        while running.metrics.http_connections_closed.load(Ordering::Relaxed) < 7 {
            tokio::time::sleep(SHORT).await;
        }
        running.stop.send(true).unwrap();
        running.task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_share_a_connection_over_http_2() {
        let running = start(MANY, Duration::from_secs(600)).await;
        let stream = TcpStream::connect(running.address).await.unwrap();
        let (ask, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let asking: Vec<_> = (0..20)
            .map(|number| {
                let mut ask = ask.clone();
                let path = if number % 2 == 0 { "/" } else { "/late" };
                let request = Request::get(format!("http://localhost{path}")).body(Body::empty()).unwrap();
                tokio::spawn(async move {
                    let answer = ask.send_request(request).await.unwrap();
                    assert_eq!(
                        (answer.status().as_u16(), answer.version()),
                        (200, axum::http::Version::HTTP_2)
                    );
                    let text = axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap();
                    assert_eq!(text, if number % 2 == 0 { "answer" } else { "late" });
                })
            })
            .collect();
        for asked in asking {
            asked.await.unwrap();
        }
        assert_eq!(running.metrics.http_connections_opened.load(Ordering::Relaxed), 1);
        running.stop.send(true).unwrap();
        running.task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_address_leaves_connections_to_others_and_a_stop_waits_for_answers() {
        let running = start(PeerLimits { all: 6, of_network: 3 }, Duration::from_secs(600)).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(TcpStream::connect(running.address).await.unwrap());
        }
        while running.metrics.http_connections_opened.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = ask(running.address, "127.0.0.1", "/").await;
        assert!(refused.as_deref().unwrap_or_default().is_empty(), "{refused:?}");
        assert_eq!(running.metrics.http_connections_refused.load(Ordering::Relaxed), 1);
        assert!(ask(running.address, "127.0.0.2", "/").await.unwrap().ends_with("answer"));
        let asking = tokio::spawn(ask(running.address, "127.0.0.3", "/late"));
        while running.metrics.http_connections_opened.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.stop.send(true).unwrap();
        assert!(asking.await.unwrap().unwrap().ends_with("late"));
        running.task.await.unwrap();
        drop(held);
    }
}
