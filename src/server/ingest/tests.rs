//! A log that is not written: its producers wait, each for its turn, and nothing of theirs is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use wire::control::ClockKind;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema};
use wire::hello::Hello;
use wire::reply::CloseCode;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use super::*;
use crate::sources::Sources;
use crate::tls::{DEV_CERT_FILE, TlsFiles};
use crate::tokens::{self, Role};
use crate::usage_log::{QUEUED_BYTES_MAX, USAGE_QUEUE_MAX, UsageTask};

/// Sources that there may be.
const SOURCES_MAX: usize = 2;
/// Batches that each flooding connection sends, of nearly a mebibyte.
const FLOOD: u64 = 16;
const LARGE: u64 = 3_500;

struct Running {
    data: tempfile::TempDir,
    address: SocketAddr,
    ingest: Arc<Ingest>,
    /// What nobody writes.
    log: mpsc::Receiver<UsageTask>,
    stop: watch::Sender<bool>,
}

async fn start() -> Running {
    let data = tempfile::tempdir().unwrap();
    let tls = TlsFiles::development(data.path(), None).unwrap().quic_config().unwrap();
    let endpoint = endpoint("127.0.0.1:0".parse().unwrap(), tls, [7; 32]).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (usage, log) = mpsc::channel(USAGE_QUEUE_MAX);
    let metrics = Arc::new(Metrics::default());
    let ingest = Arc::new(Ingest {
        tokens: Arc::new(Tokens::open(data.path()).unwrap()),
        clock: Arc::new(Clock::new(ClockKind::Real, domain::Timestamp::MIN)),
        key: IdentityKey::new(1),
        shards: 1,
        usage: UsageQueue::new(usage, Sources::new(SOURCES_MAX, std::iter::empty()), metrics.clone()),
        memory: Shares::new(UNANSWERED_BYTES_MAX, SOURCE_BYTES_MAX),
        metrics,
        authenticated: AtomicUsize::new(0),
    });
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(accept(endpoint, ingest.clone(), stopping));
    Running { data, address, ingest, log, stop }
}

fn batch(source: &str, sequence: u64, events: u64) -> AlignedBytes {
    let mut builder = BatchBuilder::new(source, "request", IdMode::Given);
    for event in 0..events {
        let id = format!("{sequence:>100}{event:>150}");
        builder.push_parts(id.as_bytes(), "key", domain::limits::EVENT_TIME_MIN, &[], &[]).unwrap();
    }
    builder.finish(sequence, 0)
}

async fn connect(address: SocketAddr, data: &Path) -> (Endpoint, quinn::SendStream, quinn::RecvStream) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data.join(DEV_CERT_FILE)).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    transport.send_window(1 << 20);
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
    let (send, receive) = connection.open_bi().await.unwrap();
    (endpoint, send, receive)
}

/// A producer that sends as fast as it may, and then waits for all acks; `written` counts what QUIC took.
fn produce(
    running: &Running,
    token: &str,
    source: &'static str,
    (batches, events): (u64, u64),
    written: &Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    let hello = Hello { token: token.to_string(), client: "test".to_string(), verdicts: false }.encode();
    let (address, data, written) = (running.address, running.data.path().to_path_buf(), written.clone());
    tokio::spawn(async move {
        let (_endpoint, mut send, mut receive) = connect(address, &data).await;
        send.write_all(&hello).await.unwrap();
        let sending = async {
            for sequence in 1..=batches {
                let frame = batch(source, sequence, events);
                send.write_all(&frame).await.unwrap();
                written.fetch_add(frame.len() as u64, Ordering::Relaxed);
            }
        };
        let answers = async {
            let mut acks = 0;
            while acks < batches {
                let mut head = [0; FRAME_HEADER_BYTES];
                receive.read_exact(&mut head).await.unwrap();
                let header = FrameHeader::decode(&head).unwrap();
                receive.read_exact(&mut vec![0; header.frame_bytes() - head.len()]).await.unwrap();
                acks += u64::from(header.schema == Schema::AckV1);
            }
        };
        tokio::join!(sending, answers);
    })
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_stands_still_stops_its_producers_and_a_flood_does_not_starve_others() {
    let mut running = start().await;
    let token = |name: &str| {
        let sources = BTreeSet::from([name.to_string()]);
        tokens::create(running.data.path(), name, BTreeSet::from([Role::Ingest]), sources).unwrap()
    };
    let (greedy, modest) = (token("greedy"), token("modest"));
    let (flood, little) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut producers: Vec<_> =
        (0..3).map(|_| produce(&running, &greedy, "greedy", (FLOOD, LARGE), &flood)).collect();
    // The queue before the log is full, and each connection waits with one batch more.
    let large = batch("greedy", 1, LARGE).len();
    let waiting = QUEUED_BYTES_MAX / large + 3;
    until(|| running.ingest.memory.out() >= waiting * large).await;
    producers.push(produce(&running, &modest, "modest", (1, 1), &little));
    until(|| !running.ingest.memory.out().is_multiple_of(large)).await;
    // Whatever else is sent waits at its producer, but for what windows and buffers take.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(running.ingest.memory.out() <= (waiting + 2) * large);
    let taken = flood.load(Ordering::Relaxed) as usize;
    let windows = WINDOW_BYTES_MAX + (1 << 20);
    assert!(taken <= (waiting + 2) * large + 3 * windows, "{taken} bytes were taken");
    assert!(producers.iter().all(|producer| !producer.is_finished()));
    // The log goes on: the modest one's turn comes next, not behind the flood.
    let mut order = Vec::new();
    let mut offset = 0;
    while order.len() < 3 * FLOOD as usize + 1 {
        let Some(UsageTask::Batch(batch, share)) = running.log.recv().await else {
            panic!("only batches come")
        };
        order.push(batch.prepared.view().source().to_string());
        offset += 1;
        (batch.on_durable)(offset);
        drop(share);
    }
    let modest_at = order.iter().position(|source| source == "modest").unwrap();
    assert!(
        modest_at <= QUEUED_BYTES_MAX / large + 2,
        "{modest_at} batches came before that of the modest one"
    );
    for producer in producers {
        producer.await.unwrap();
    }
    until(|| running.ingest.memory.out() == 0).await;
    running.stop.send(true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_beyond_as_many_as_there_may_be_is_told_so() {
    let mut running = start().await;
    let all = BTreeSet::from(["*".to_string()]);
    let token = tokens::create(running.data.path(), "all", BTreeSet::from([Role::Ingest]), all).unwrap();
    let hello = Hello { token, client: "test".to_string(), verdicts: false }.encode();
    let (_endpoint, mut send, mut receive) = connect(running.address, running.data.path()).await;
    send.write_all(&hello).await.unwrap();
    for (sequence, source) in ["a", "b", "a", "c"].into_iter().enumerate() {
        send.write_all(&batch(source, sequence as u64 + 1, 1)).await.unwrap();
    }
    for source in ["a", "b", "a"] {
        let Some(UsageTask::Batch(batch, _)) = running.log.recv().await else { panic!("only batches come") };
        assert_eq!(batch.prepared.view().source(), source);
    }
    let mut said = Vec::new();
    while let Ok(Some(read)) = receive.read_chunk(usize::MAX, true).await {
        said.extend_from_slice(&read.bytes);
    }
    let text = String::from_utf8_lossy(&said);
    assert!(text.contains("there are 2 sources already"), "{text:?}");
    running.stop.send(true).unwrap();
}

/// It was closed as if it had said goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_after_its_handshake_is_told_that_it_is_too_slow() {
    let running = start().await;
    let (_endpoint, _send, mut receive) = connect(running.address, running.data.path()).await;
    let ended = tokio::time::timeout(4 * PATIENCE, receive.read_exact(&mut [0])).await.unwrap();
    let Err(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost))) = ended else {
        panic!("{ended:?}")
    };
    let quinn::ConnectionError::ApplicationClosed(close) = lost else { panic!("{lost}") };
    assert_eq!(close.error_code, VarInt::from_u32(u32::from(CloseCode::TooSlow.code())));
    running.stop.send(true).unwrap();
}

#[test]
fn buffers_that_the_kernel_keeps_small_are_said_with_what_to_set() {
    let granted = if cfg!(target_os = "linux") { 2 * SOCKET_BYTES } else { SOCKET_BYTES };
    assert_eq!(socket_advice(granted, granted), None);
    let advice = socket_advice(granted / 32, granted).unwrap();
    assert!(advice.contains("256 KiB to receive and 8192 KiB to send instead of 8192"), "{advice}");
    assert!(advice.contains("net.core.rmem_max=8388608 net.core.wmem_max=8388608"), "{advice}");
}
