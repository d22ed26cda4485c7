//! The client's side of TLS, and its UDP sockets.
//!
//! Owns: what a client shows and trusts, which may be replaced; settings of the transport. Leaves to others: addresses
//! (`dial`), connections (`connection`).

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{ClientError, ClientIdentity, ClientOptions};

/// Packets after which the server acknowledges them.
const PACKETS_UNACKED: u32 = 20;
/// Time after which it does in any case. A new connection may send less than so many packets before it hears of them, and must not
/// wait for the usual 25 ms.
const ACK_DELAY_MAX: Duration = Duration::from_millis(1);

fn setup(error: impl std::fmt::Display) -> ClientError {
    ClientError::Setup(error.to_string())
}

/// What a client shows and what it trusts, from the next connection on.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) token: String,
    identity: Option<ClientIdentity>,
    trusted_pem: Vec<u8>,
    pub(crate) config: quinn::ClientConfig,
    /// Rises with every change.
    pub(crate) version: u64,
}

impl Secrets {
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { token, identity, trusted_pem, .. } = options.clone();
        let config = config(&trusted_pem, identity.as_ref())?;
        Ok(Self { token, identity, trusted_pem, config, version: 0 })
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: token.to_string(), version: self.version + 1, ..self }
    }

    pub(crate) fn with_identity(self, identity: Option<ClientIdentity>) -> Result<Self, ClientError> {
        let config = config(&self.trusted_pem, identity.as_ref())?;
        Ok(Self { identity, config, version: self.version + 1, ..self })
    }

    pub(crate) fn with_trusted(self, trusted_pem: Vec<u8>) -> Result<Self, ClientError> {
        let config = config(&trusted_pem, self.identity.as_ref())?;
        Ok(Self { trusted_pem, config, version: self.version + 1, ..self })
    }
}

/// Settings of connections that trust these certificates and speak our protocol only.
fn config(trusted_pem: &[u8], identity: Option<&ClientIdentity>) -> Result<quinn::ClientConfig, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trusted_pem) {
        roots.add(certificate.map_err(setup)?).map_err(setup)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .with_root_certificates(roots);
    let mut tls = match identity {
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
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> quinn::TransportConfig {
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
    transport
}

/// A socket for servers at addresses of a family.
pub(crate) fn endpoint(is_ipv4: bool) -> std::io::Result<Endpoint> {
    let local: std::net::SocketAddr = if is_ipv4 { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let domain = socket2::Domain::for_address(local);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // The kernel may give less.
    let _ = socket.set_send_buffer_size(8 << 20);
    let _ = socket.set_recv_buffer_size(8 << 20);
    socket.bind(&local.into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(quinn::EndpointConfig::default(), None, socket.into(), runtime)
}
