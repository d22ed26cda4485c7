//! The client's side of TLS and its UDP socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{ClientError, ClientOptions};

/// Packets after which the server acknowledges them.
const PACKETS_UNACKED: u32 = 20;
/// Time after which it does in any case. A new connection may send less than so many packets before it hears of them, and must not
/// wait for the usual 25 ms.
const ACK_DELAY_MAX: Duration = Duration::from_millis(1);

fn setup(error: impl std::fmt::Display) -> ClientError {
    ClientError::Setup(error.to_string())
}

/// An endpoint that trusts the certificates of the options and speaks our protocol only.
pub(crate) fn endpoint(options: &ClientOptions) -> Result<Endpoint, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&options.trusted_pem) {
        roots.add(certificate.map_err(setup)?).map_err(setup)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_root_certificates(roots);
    let mut tls = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(&identity.cert_pem);
            let chain = chain.collect::<Result<Vec<_>, _>>().map_err(setup)?;
            let key = PrivateKeyDer::from_pem_slice(&identity.key_pem).map_err(setup)?;
            builder.with_client_auth_cert(chain, key).map_err(setup)?
        }
    };
    tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(setup)?));
    let mut transport = quinn::TransportConfig::default();
    transport.send_window(16 << 20);
    transport.stream_receive_window(VarInt::from_u32(1 << 20));
    transport.max_idle_timeout(Some(VarInt::from_u32(10_000).into()));
    transport.keep_alive_interval(Some(Duration::from_secs(3)));
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(wire::frame::DATAGRAM_BYTES_MAX);
    transport.mtu_discovery_config(Some(discovery));
    // Replies tell what was taken; acknowledgements of packets need not come for every second one.
    let mut frequency = quinn::AckFrequencyConfig::default();
    frequency.ack_eliciting_threshold(VarInt::from_u32(PACKETS_UNACKED));
    frequency.max_ack_delay(Some(ACK_DELAY_MAX));
    transport.ack_frequency_config(Some(frequency));
    config.transport_config(Arc::new(transport));
    let local: SocketAddr =
        if options.address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let domain = socket2::Domain::for_address(local);
    let socket =
        socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP)).map_err(setup)?;
    // The kernel may give less.
    let _ = socket.set_send_buffer_size(8 << 20);
    let _ = socket.set_recv_buffer_size(8 << 20);
    socket.bind(&local.into()).map_err(setup)?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint =
        Endpoint::new(quinn::EndpointConfig::default(), None, socket.into(), runtime).map_err(setup)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}
