//! Bad input over QUIC: each mistake has its typed refusal, ends its own connection, and no other notices.

use std::path::Path;
use std::sync::Arc;

use domain::{Decimal, Timestamp};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tallymark_client::{Event, EventIdOwned};
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema, decode_frame, encode_frame};
use wire::hello::Hello;
use wire::reply::{Ack, Close, CloseCode};
use wire::{AlignedBytes, BatchBuilder, IdMode, RefusalCode};

use crate::process::{Server, call, client, tallymark, text};

pub(crate) struct Raw {
    pub(crate) send: quinn::SendStream,
    pub(crate) receive: quinn::RecvStream,
    pub(crate) connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// Trusts the development certificate of a data directory.
pub(crate) fn client_config(data: &Path) -> quinn::ClientConfig {
    client_config_with(data, false)
}

fn client_config_with(data: &Path, early_data: bool) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(data.join("dev-cert.pem")).unwrap();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    tls.enable_early_data = early_data;
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

impl Raw {
    pub(crate) async fn connect(server: &Server, data: &Path) -> Self {
        Self::connect_with(server, client_config(data)).await
    }

    pub(crate) async fn connect_with(server: &Server, config: quinn::ClientConfig) -> Self {
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(server.quic.parse().unwrap(), "localhost").unwrap().await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Self { send, receive, connection, _endpoint: endpoint }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The server may have closed already; what it said is what counts.
        let _ = self.send.write_all(bytes).await;
    }

    pub(crate) async fn read(&mut self) -> (FrameHeader, Vec<u8>) {
        let mut frame = vec![0; FRAME_HEADER_BYTES];
        self.receive.read_exact(&mut frame).await.expect("the server answers");
        let header = FrameHeader::decode_slice(&frame).unwrap();
        frame.resize(header.frame_bytes(), 0);
        self.receive.read_exact(&mut frame[FRAME_HEADER_BYTES..]).await.unwrap();
        decode_frame(&frame).unwrap();
        (header, frame[FRAME_HEADER_BYTES..].to_vec())
    }

    pub(crate) async fn hello(&mut self, token: &str) {
        let hello = Hello { token: token.to_string(), client: "test".to_string(), verdicts: false };
        self.write(&hello.encode()).await;
    }

    /// Reads on until the server closes.
    pub(crate) async fn close(&mut self) -> Close {
        loop {
            let (header, body) = self.read().await;
            if header.schema == Schema::CloseV1 {
                return Close::decode(&header, &body).unwrap();
            }
        }
    }
}

pub(crate) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

fn batch(source: &str, sequence: u64) -> AlignedBytes {
    let mut builder = BatchBuilder::new(source, "request", IdMode::Given);
    builder.push_parts(b"a", "key-1", now(), &[("tokens", 1, 0)], &[]).unwrap();
    builder.finish(sequence, 0)
}

/// The frame with one byte changed; its checksum mended if wanted.
fn changed(frame: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = byte;
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_has_its_refusal_and_no_other_connection_notices() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let directory = data.path().to_str().unwrap();
    let created =
        tallymark(&["token", "--data", directory, "create", "app", "--role", "ingest", "--source", "shop"]);
    let app = text(&created).trim().to_string();
    let healthy = client(&server, data.path(), &token, "healthy").await;
    let good = batch("shop", 1);
    let body = good[FRAME_HEADER_BYTES..].to_vec();

    let bad_frame = |status: FrameStatus| (CloseCode::BadFrame, Some(status));
    let mut garbage = good.to_vec();
    garbage.truncate(garbage.len() - 8);
    let flipped: Vec<u8> = {
        let mut body = body.clone();
        let end = body.len();
        body[end - 40..].fill(0xff);
        encode_frame(Schema::UsageBatchV1, 1, 1, 0, &body)
    };
    type Case = (&'static str, Vec<u8>, bool, (CloseCode, Option<FrameStatus>));
    let cases: Vec<Case> = vec![
        ("magic", changed(&good, 0, b'X'), false, bad_frame(FrameStatus::MagicMustBeTallymark)),
        ("version", changed(&good, 4, 9), false, bad_frame(FrameStatus::VersionMustBeSupported)),
        ("schema", changed(&good, 6, 99), false, bad_frame(FrameStatus::SchemaMustBeKnown)),
        ("length", changed(&good, 11, 0xff), false, bad_frame(FrameStatus::BodyMustFit)),
        ("count", changed(&good, 14, 0xff), false, bad_frame(FrameStatus::CountMustFit)),
        ("flags", changed(&good, 25, 1), false, bad_frame(FrameStatus::FlagsMustBeZero)),
        ("checksum", changed(&good, 28, good[28] ^ 1), false, bad_frame(FrameStatus::CrcMustMatch)),
        ("truncated", garbage, true, bad_frame(FrameStatus::BodyMustBeWhole)),
        ("archive", flipped, false, (CloseCode::BadFrame, None)),
        (
            "not a batch",
            encode_frame(Schema::AckV1, 0, 0, 0, &[0; 16]),
            false,
            bad_frame(FrameStatus::SchemaMustBeExpected),
        ),
        ("another source", batch("other", 1).to_vec(), false, (CloseCode::SourceNotGranted, None)),
    ];
    for (number, (name, frame, is_end, (code, status))) in cases.into_iter().enumerate() {
        let mut raw = Raw::connect(&server, data.path()).await;
        raw.hello(&app).await;
        raw.write(&frame).await;
        if is_end {
            raw.send.finish().unwrap();
        }
        let close = raw.close().await;
        assert_eq!(close.code, code, "{name}: {close:?}");
        if let Some(status) = status {
            assert_eq!(close, Close::bad_frame(status), "{name}");
        }
        let event = Event::new(
            EventIdOwned::Text(format!("h{number}")),
            "nobody",
            Timestamp::from_nanoseconds(now()),
        )
        .value("tokens", Decimal::ONE);
        healthy.record("request", &event).await.unwrap();
        healthy.flush().await.unwrap();
    }
    assert_eq!(call("GET", &server.url("/healthz"), "", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_starts_with_a_known_token_and_sequences_rise() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.write(&batch("shop", 1)).await;
    assert_eq!(raw.close().await.code, CloseCode::HelloRequired);
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.hello("tm_nobody").await;
    assert_eq!(raw.close().await.code, CloseCode::Unauthorized);
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n").await;
    assert_eq!(raw.close().await, Close::bad_frame(FrameStatus::MagicMustBeTallymark));
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.hello(&token).await;
    raw.write(&batch("shop", 5)).await;
    raw.write(&batch("shop", 5)).await;
    assert_eq!(raw.close().await.code, CloseCode::BatchSequenceMustIncrease);
}

/// Early data can be sent again by anybody who saw it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_here_before_sends_nothing_before_the_handshake() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config_with(data.path(), true));
    let address = server.quic.parse().unwrap();
    for _ in 0..3 {
        let connecting = endpoint.connect(address, "localhost").unwrap();
        let connection = match connecting.into_0rtt() {
            Ok(_) => panic!("the server lets early data in"),
            Err(connecting) => connecting.await.unwrap(),
        };
        // The answer brings the ticket with which a peer comes back.
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let hello = Hello { token: "tm_nobody".to_string(), client: "test".to_string(), verdicts: false };
        send.write_all(&hello.encode()).await.unwrap();
        receive.read_exact(&mut [0; FRAME_HEADER_BYTES]).await.unwrap();
        connection.close(0u32.into(), b"");
    }
}

/// An open connection went on with it, for as long as it lived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_ends_its_connections_with_their_next_batch() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let directory = data.path().to_str().unwrap();
    let create = |name: &str| {
        let made = ["token", "--data", directory, "create", name, "--role", "ingest", "--source", "shop"];
        text(&tallymark(&made)).trim().to_string()
    };
    let (old, new) = (create("old"), create("new"));
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.hello(&old).await;
    raw.write(&batch("shop", 1)).await;
    assert_eq!(raw.read().await.0.schema, Schema::WelcomeV1);
    assert_eq!(raw.read().await.0.schema, Schema::AckV1);
    let other = client(&server, data.path(), &new, "shop").await;
    assert!(tallymark(&["token", "--data", directory, "revoke", "old"]).status.success());
    raw.write(&batch("shop", 2)).await;
    let close = raw.close().await;
    assert_eq!((close.code, &*close.reason), (CloseCode::Unauthorized, "the token old was revoked"));
    let event = Event::minted("key-1", Timestamp::from_nanoseconds(now())).value("tokens", Decimal::ONE);
    other.record("request", &event).await.unwrap();
    other.close().await.unwrap();
    let token = server.token.clone().unwrap();
    let (_, counters) = call("GET", &server.url("/v1/counters"), &token, "").await;
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    assert_eq!(counters["sources"]["shop"]["received"], 2, "one with each token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_event_is_refused_by_index_and_the_others_go_on() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let mut builder = BatchBuilder::new("shop", "request", IdMode::Given).without_event_checks();
    builder.push_parts(b"a", "key-1", now(), &[("tokens", 1, 0)], &[]).unwrap();
    builder.push_parts(b"", "key-1", now(), &[("tokens", 1, 0)], &[]).unwrap();
    builder.push_parts(b"c", "", now(), &[("tokens", 1, 0)], &[]).unwrap();
    builder.push_parts(b"d", "key-1", -1, &[("tokens", 1, 0)], &[]).unwrap();
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.hello(&token).await;
    raw.write(&builder.finish(1, 0)).await;
    let (welcome, _) = raw.read().await;
    assert_eq!(welcome.schema, Schema::WelcomeV1);
    let (header, body) = raw.read().await;
    let refused: Vec<_> = Ack::decode(&header, &body)
        .unwrap()
        .refusals
        .into_iter()
        .map(|refusal| (refusal.index, refusal.code))
        .collect();
    assert_eq!(
        refused,
        [(1, RefusalCode::IdMustFit), (2, RefusalCode::SubjectMustFit), (3, RefusalCode::TimeMustBeInRange)]
    );
    let (_, counters) = call("GET", &server.url("/v1/counters"), &token, "").await;
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    let shop = &counters["sources"]["shop"];
    assert_eq!(
        (shop["received"].as_u64(), shop["rejected"].as_u64(), shop["unmetered"].as_u64()),
        (Some(4), Some(3), Some(1))
    );
}
