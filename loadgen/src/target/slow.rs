//! A QUIC producer that takes its acks slowly, with hardly a window to put them into.
//!
//! Owns: the protocol by hand, because the client library always reads. Leaves to others: events (`quic::Packer`).
//!
//! Invariants: every batch is acknowledged before the lane ends; its latencies are not counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quinn::{RecvStream, SendStream, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema};
use wire::hello::Hello;
use wire::reply::Ack;

use super::Lane;
use super::quic::{Packer, QuicTarget, id_mode};

/// Unread bytes of acks that the peer may have under way.
const WINDOW_BYTES: u32 = 256;
/// How long one address of a name may say nothing.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);

/// A connection that was greeted.
pub(crate) struct Connected {
    _connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
    send: SendStream,
    receive: RecvStream,
}

pub(crate) async fn open(target: &QuicTarget) -> Result<Connected> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(target.trusted_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match &target.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
            builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    };
    tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(WINDOW_BYTES));
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    config.transport_config(Arc::new(transport));
    let (endpoint, connection) = connect(target, config).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let hello = Hello { token: target.token.clone(), client: "loadgen-slow/1".to_string(), verdicts: false };
    send.write_all(&hello.encode()).await?;
    let (header, _) = read_frame(&mut receive).await?;
    if header.schema != Schema::WelcomeV1 {
        bail!("the server does not welcome this token");
    }
    Ok(Connected { _connection: connection, _endpoint: endpoint, send, receive })
}

/// Tries the addresses of the target's name in turn.
async fn connect(
    target: &QuicTarget,
    config: quinn::ClientConfig,
) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let host = target.address.rsplit_once(':').map_or(target.address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let server_name = target.server_name.as_deref().unwrap_or(host);
    let no_connection = || format!("no connection to {}", target.address);
    let mut failed = anyhow::anyhow!("its name leads to no address");
    for address in tokio::net::lookup_host(&target.address).await.with_context(no_connection)? {
        let any: SocketAddr =
            if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let mut endpoint = quinn::Endpoint::client(any)?;
        endpoint.set_default_client_config(config.clone());
        match tokio::time::timeout(ADDRESS_PATIENCE, endpoint.connect(address, server_name)?).await {
            Ok(Ok(connection)) => return Ok((endpoint, connection)),
            Ok(Err(error)) => failed = error.into(),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed).with_context(no_connection)
}

/// Sends the events of a lane; gives how many were distinct.
pub(crate) async fn send(mut lane: Lane, connected: Connected) -> Result<u64> {
    let Connected { mut send, receive, .. } = connected;
    let slowness = lane.slowness.context("only a slow lane is sent slowly")?;
    let mut packer = Packer::new(lane.plan.clone(), id_mode(lane.scenario.ids.shape)?);
    let (sent, batches) = tokio::sync::mpsc::unbounded_channel();
    let reader = tokio::spawn(read_acks(receive, batches, slowness, lane.recorder.clone()));
    let mut sequence = 0;
    loop {
        let due = lane.next_batch(|generator, generated| packer.push(generator, generated))?;
        if due.is_none() && !packer.push_left_over(&lane.generator)? {
            break;
        }
        if let Some(at) = due.and_then(|due| due.at) {
            lane.timer.until(at).await;
        }
        sequence += 1;
        let events = packer.builder.len() as u64;
        let frame = packer.builder.finish(sequence, 0);
        send.write_all(frame.as_slice()).await?;
        lane.recorder.record(None, |counts| counts.bytes += frame.as_slice().len() as u64);
        if sent.send(events).is_err() {
            break;
        }
    }
    drop(sent);
    reader.await??;
    let _ = send.finish();
    Ok(lane.generator.distinct())
}

/// Reads an ack for every batch, each a while later than it could.
async fn read_acks(
    mut receive: RecvStream,
    mut batches: tokio::sync::mpsc::UnboundedReceiver<u64>,
    slowness: Duration,
    recorder: Arc<crate::recorder::Recorder>,
) -> Result<()> {
    while let Some(events) = batches.recv().await {
        tokio::time::sleep(slowness).await;
        let (header, frame) = read_frame(&mut receive).await?;
        if header.schema != Schema::AckV1 {
            bail!("the server answers a slow connection with {:?}", header.schema);
        }
        let ack = Ack::decode(&header, &frame[FRAME_HEADER_BYTES..])?;
        let refused = ack.refusals.len() as u64;
        recorder.record(None, |counts| {
            counts.events += events - refused;
            counts.refused += refused;
            counts.requests += 1;
        });
    }
    Ok(())
}

async fn read_frame(receive: &mut RecvStream) -> Result<(FrameHeader, Vec<u8>)> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    receive.read_exact(&mut frame).await?;
    let header = FrameHeader::decode_slice(&frame)?;
    frame.resize(header.frame_bytes(), 0);
    receive.read_exact(&mut frame[FRAME_HEADER_BYTES..]).await?;
    Ok((header, frame))
}
