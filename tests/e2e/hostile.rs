//! Slow and malicious peers: what they cost is bounded, and others are served all the while.

use std::path::Path;
use std::time::Duration;

use domain::{Decimal, Timestamp};
use tallymark_client::{Client, Event};
use tokio::io::AsyncWriteExt;
use wire::frame::{FRAME_HEADER_BYTES, Schema};
use wire::reply::{Close, CloseCode};
use wire::{AlignedBytes, BatchBuilder, FrameHeader, IdMode};

use crate::bad_input::{Raw, client_config, now};
use crate::process::{Server, call, client, tallymark, text};

/// Memory of the server process, in bytes.
fn resident_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn metric(server: &Server, name: &str) -> u64 {
    let (_, page) = call("GET", &server.url("/metrics"), "", "").await;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap();
    line.parse().unwrap()
}

/// Others are served: an event is recorded and acknowledged.
async fn is_served(client: &Client) {
    let event = Event::minted("nobody", Timestamp::from_nanoseconds(now())).value("tokens", Decimal::ONE);
    client.record("request", &event).await.unwrap();
    client.flush_within(Duration::from_secs(60)).await.unwrap();
}

fn token_of(data: &Path, name: &str, source: &str) -> String {
    let directory = data.to_str().unwrap();
    let made =
        tallymark(&["token", "--data", directory, "create", name, "--role", "ingest", "--source", source]);
    text(&made).trim().to_string()
}

fn batch(source: &str, sequence: u64) -> AlignedBytes {
    let mut builder = BatchBuilder::new(source, "request", IdMode::Sequenced { epoch: 7, first: sequence });
    builder.push_parts(b"", "nobody", now(), &[], &[]).unwrap();
    builder.finish(sequence, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_never_end_make_addresses_show_themselves_and_hold_nobody_up() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let healthy = client(&server, data.path(), &token, "healthy").await;
    is_served(&healthy).await;
    let before = resident_bytes(&server);
    // Handshakes are begun with somebody who never answers; the server gets copies of their datagrams.
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(data.path()));
    let mut held = Vec::new();
    for _ in 0..600 {
        let connecting = endpoint.connect(nobody.local_addr().unwrap(), "localhost").unwrap();
        let mut datagram = [0; 2_000];
        let (bytes, _) = nobody.recv_from(&mut datagram).await.unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&datagram[..bytes], &server.quic).unwrap();
        held.push((connecting, socket));
    }
    let newcomer = client(&server, data.path(), &token, "newcomer").await;
    is_served(&newcomer).await;
    is_served(&healthy).await;
    assert!(metric(&server, "tallymark_handshakes_retried_total").await > 0);
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 100 << 20, "600 unfinished handshakes cost {grown} bytes");
    // Datagrams that are no QUIC at all.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in 0..1_200 {
        let garbage: Vec<u8> = (0..length).map(|byte| (byte * 31 + length) as u8).collect();
        let _ = socket.send_to(&garbage, &server.quic);
    }
    is_served(&newcomer).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_its_acks_is_told_and_closed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let healthy = client(&server, data.path(), &token, "healthy").await;
    let mut config = client_config(data.path());
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(quinn::VarInt::from_u32(1_000));
    config.transport_config(std::sync::Arc::new(transport));
    let mut raw = Raw::connect_with(&server, config).await;
    raw.hello(&token).await;
    for sequence in 1..4_000 {
        // The server stops reading when it cannot answer, and the window fills.
        let batch = batch("slow", sequence);
        let sending = raw.send.write_all(&batch);
        match tokio::time::timeout(Duration::from_secs(60), sending).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    is_served(&healthy).await;
    let closed = raw.connection.closed().await;
    let quinn::ConnectionError::ApplicationClosed(close) = &closed else { panic!("{closed}") };
    assert_eq!(close.error_code.into_inner(), u64::from(CloseCode::TooSlow.code()), "{closed}");
    is_served(&healthy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_one_stream_and_a_small_window_before_it_shows_a_token() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let healthy = client(&server, data.path(), &token, "healthy").await;
    let mut raw = Raw::connect(&server, data.path()).await;
    raw.write(&[0]).await;
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, raw.connection.open_bi()).await.is_err(), "no second stream");
    assert!(tokio::time::timeout(patience, raw.connection.open_uni()).await.is_err(), "no stream down");
    // The header of a hello, then far more than it may have: the server takes no more than its window.
    let mut hello = Raw::connect(&server, data.path()).await;
    let frame = wire::frame::encode_frame(Schema::HelloV1, 0, 0, 0, &[b' '; 4_096]);
    hello.write(&frame[..FRAME_HEADER_BYTES]).await;
    let mut taken = 0;
    while let Ok(Ok(written)) = tokio::time::timeout(patience, hello.send.write(&[b' '; 1_024])).await {
        taken += written;
        assert!(taken < 1 << 20, "the window is bounded");
    }
    is_served(&healthy).await;
}

/// Header after header of the largest batches, whose bodies never come, on many connections of one token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_never_end_fill_the_memory_of_their_own_source_only() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let token = server.token.clone().unwrap();
    let slow = token_of(data.path(), "slow", "slow");
    let healthy = client(&server, data.path(), &token, "healthy").await;
    is_served(&healthy).await;
    let before = resident_bytes(&server);
    let header = FrameHeader {
        schema: Schema::UsageBatchV1,
        body_bytes: Schema::UsageBatchV1.body_bytes_max() as u32,
        count: 1,
        sequence: 1,
        flags: 0,
        crc32c: 0,
    };
    let mut config = client_config(data.path());
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    config.transport_config(std::sync::Arc::new(transport));
    let mut held = Vec::new();
    for _ in 0..120 {
        let mut raw = Raw::connect_with(&server, config.clone()).await;
        raw.hello(&slow).await;
        raw.write(&header.encode()).await;
        raw.write(&[0; 100]).await;
        assert_eq!(raw.read().await.0.schema, Schema::WelcomeV1);
        held.push(raw);
    }
    is_served(&healthy).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    // 64 MiB of the source, and what 120 connections cost.
    assert!(grown < 160 << 20, "120 unfinished frames of 1 MiB cost {grown} bytes");
    let unanswered = metric(&server, "tallymark_unanswered_bytes").await;
    assert!(unanswered <= (64 << 20) + (1 << 20), "{unanswered} bytes are unanswered");
    is_served(&healthy).await;
    // Those that wait for memory are closed like those that have it, each in its time.
    let close: Close = held.swap_remove(0).close().await;
    assert_eq!(close.code, CloseCode::TooSlow);
}

/// Connections took all open files, and with them those of the logs: a log that could not begin its next segment ended the
/// server, and no token could be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_http_connections_leave_open_files_to_the_logs_and_connections_to_others() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with_files(data.path(), 200);
    let token = server.token.clone().unwrap();
    let healthy = client(&server, data.path(), &token, "healthy").await;
    let mut silent = Vec::new();
    for number in 0..400 {
        let mut stream = tokio::net::TcpStream::connect(&server.http).await.unwrap();
        let _ = stream.write_all(&b"POST /v1/events HTTP/1.1\r\nHost: a\r\n"[..number % 30]).await;
        silent.push(stream);
    }
    let newcomer = client(&server, data.path(), &token_of(data.path(), "new", "newcomer"), "newcomer").await;
    is_served(&newcomer).await;
    is_served(&healthy).await;
    // Somebody else's address is served over HTTP.
    let other = reqwest::Client::builder().local_address("127.0.0.2".parse::<std::net::IpAddr>().unwrap());
    let page = other.build().unwrap().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let count = |name: &str| -> u64 {
        page.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap().parse().unwrap()
    };
    assert!(
        count("tallymark_http_connections_refused_total") >= 300,
        "half of the files are for connections"
    );
    drop(silent);
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_grow_to_what_the_path_and_the_server_take() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let mut config = client_config(data.path());
    let mut transport = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    // More than the server says it takes: it decides.
    discovery.upper_bound(20_000);
    transport.mtu_discovery_config(Some(discovery));
    config.transport_config(std::sync::Arc::new(transport));
    let mut raw = Raw::connect_with(&server, config).await;
    raw.hello(server.token.as_ref().unwrap()).await;
    let found = || usize::from(raw.connection.stats().path.current_mtu);
    let most = usize::from(wire::frame::DATAGRAM_BYTES_MAX);
    // Discovery goes on with the packets that are sent; its last steps are small.
    for sequence in 1..2_000 {
        if found() > most * 9 / 10 {
            break;
        }
        raw.send.write_all(&batch("jumbo", sequence)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((most * 9 / 10..=most).contains(&found()), "{} bytes", found());
}
