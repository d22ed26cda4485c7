//! Certificates: a development one made on first start, real ones by path.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::disk::write_atomically;

/// Certificate of the development authority-less server, in the data directory; clients trust exactly this one.
pub const DEV_CERT_FILE: &str = "dev-cert.pem";
const DEV_KEY_FILE: &str = "dev-key.pem";

/// The QUIC side of TLS: TLS 1.3 only, our protocol only, no early data.
///
/// # Errors
/// If a certificate or key cannot be read or made.
pub fn quic_config(data: &Path, cert: Option<&Path>, key: Option<&Path>) -> Result<QuicServerConfig> {
    let (chain, key) = match (cert, key) {
        (Some(cert), Some(key)) => (read_chain(cert)?, read_key(key)?),
        _ => development_certificate(data)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3 is not available")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and key do not belong together")?;
    config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).context("the cipher suites do not serve QUIC")
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let context = || format!("cannot read a certificate chain from {}", path.display());
    let chain = CertificateDer::pem_file_iter(path).with_context(context)?;
    chain.collect::<Result<Vec<_>, _>>().with_context(context)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("cannot read a private key from {}", path.display()))
}

fn development_certificate(data: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let (cert, key) = (data.join(DEV_CERT_FILE), data.join(DEV_KEY_FILE));
    if !cert.exists() || !key.exists() {
        let names = vec!["localhost".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
        let made =
            rcgen::generate_simple_self_signed(names).context("cannot make a development certificate")?;
        write_atomically(data, DEV_KEY_FILE, made.signing_key.serialize_pem().as_bytes())?;
        write_atomically(data, DEV_CERT_FILE, made.cert.pem().as_bytes())?;
    }
    Ok((read_chain(&cert)?, read_key(&key)?))
}
