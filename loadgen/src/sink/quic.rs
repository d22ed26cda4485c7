//! A raw QUIC sink: reads frames, answers with acks.
//!
//! Owns: the same transport settings and envelope as the server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use domain::Timestamp;
use quinn::VarInt;
use quinn::crypto::rustls::QuicServerConfig;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema};
use wire::hello::Welcome;
use wire::reply::Ack;

pub(crate) async fn serve(listen: SocketAddr, cert: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string(), "127.0.0.1".to_string()])?;
    std::fs::write(cert, made.cert.pem()).with_context(|| format!("cannot write {}", cert.display()))?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(4 << 20));
    transport.receive_window(VarInt::from_u32(8 << 20));
    config.transport_config(Arc::new(transport));
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(listen),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // The kernel may give less.
    let _ = socket.set_recv_buffer_size(8 << 20);
    let _ = socket.set_send_buffer_size(8 << 20);
    socket.bind(&listen.into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = quinn::EndpointConfig::default();
    endpoint.max_udp_payload_size(wire::frame::DATAGRAM_BYTES_MAX)?;
    let endpoint = quinn::Endpoint::new(endpoint, Some(config), socket.into(), runtime)?;
    println!("{}", endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            // A connection that ends has said everything.
            let _ = answer(incoming).await;
        });
    }
    Ok(())
}

async fn answer(incoming: quinn::Incoming) -> Result<()> {
    let connection = incoming.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut frame = Vec::new();
    loop {
        let mut head = [0; FRAME_HEADER_BYTES];
        receive.read_exact(&mut head).await?;
        let header = FrameHeader::decode(&head)?;
        frame.resize(header.body_bytes as usize, 0);
        receive.read_exact(&mut frame).await?;
        let reply = match header.schema {
            Schema::HelloV1 => Welcome {
                server: "sink".to_string(),
                batch_bytes_max: domain::limits::BATCH_BYTES_MAX as u32,
                batches_in_flight_max: 64,
            }
            .encode(),
            _ => Ack { offset: 0, received_at: Timestamp::MIN, refusals: Vec::new() }.encode(header.sequence),
        };
        send.write_all(&reply).await?;
    }
}
