//! Certificates: a development one made on first start, real ones by path; clients' by their authorities.
//!
//! Owns: reading them, what TLS speaks, seeing that files were replaced. Leaves to others: who uses the configurations.
//!
//! Invariants: TLS 1.3 only over QUIC, without early data; files that cannot be used never replace ones that could.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::watch;

use crate::disk::{FileVersion, write_atomically};

/// Certificate of the development authority-less server, in the data directory; clients trust exactly this one.
pub const DEV_CERT_FILE: &str = "dev-cert.pem";
const DEV_KEY_FILE: &str = "dev-key.pem";
/// Replaced files are seen after this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files of a side that speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// A certificate chain, its key, and authorities of clients.
    pub fn new(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Self {
        let client_ca = client_ca.map(Path::to_path_buf);
        Self { cert: cert.to_path_buf(), key: key.to_path_buf(), client_ca }
    }

    /// The development certificate of a data directory; made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn development(data: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let (cert, key) = (data.join(DEV_CERT_FILE), data.join(DEV_KEY_FILE));
        if !cert.exists() || !key.exists() {
            let names = vec!["localhost".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
            let made =
                rcgen::generate_simple_self_signed(names).context("cannot make a development certificate")?;
            write_atomically(data, DEV_KEY_FILE, made.signing_key.serialize_pem().as_bytes())?;
            write_atomically(data, DEV_CERT_FILE, made.cert.pem().as_bytes())?;
        }
        Ok(Self::new(&cert, &key, client_ca))
    }

    fn versions(&self) -> Vec<Option<FileVersion>> {
        let client_ca = self.client_ca.iter();
        [&self.cert, &self.key].into_iter().chain(client_ca).map(|path| FileVersion::of(path)).collect()
    }

    /// The QUIC side of TLS: TLS 1.3 only, our protocol only, no early data. A client may show a certificate of the
    /// authorities; one that shows another certificate is refused.
    ///
    /// # Errors
    /// If a certificate or key cannot be read or used.
    pub fn quic_config(&self) -> Result<QuicServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3 is not available")?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = rustls::RootCertStore::empty();
                for authority in read_chain(path)? {
                    roots.add(authority).with_context(|| format!("{} has no authority", path.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .with_context(|| format!("{} has no authorities", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(read_chain(&self.cert)?, read_key(&self.key)?)
            .context("certificate and key do not belong together")?;
        config.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
        config.max_early_data_size = 0;
        QuicServerConfig::try_from(config).context("the cipher suites do not serve QUIC")
    }

    /// The HTTP side: TLS 1.3 and 1.2, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// If a certificate or key cannot be read or used.
    pub fn http_config(&self) -> Result<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS is not available")?
            .with_no_client_auth()
            .with_single_cert(read_chain(&self.cert)?, read_key(&self.key)?)
            .context("certificate and key do not belong together")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Takes replaced files into use, until `stopping` says so: connections that are open keep what they have.
pub async fn follow(
    quic: TlsFiles,
    endpoint: quinn::Endpoint,
    http: Option<(TlsFiles, Arc<ArcSwap<rustls::ServerConfig>>)>,
    mut stopping: watch::Receiver<bool>,
) {
    let (mut quic_seen, mut http_seen) = (quic.versions(), http.as_ref().map(|(files, _)| files.versions()));
    loop {
        tokio::select! {
            _ = async { stopping.wait_for(|stopping| *stopping).await.is_ok() } => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = quic.versions();
        if std::mem::replace(&mut quic_seen, now.clone()) != now {
            told(quic.quic_config().map(|tls| {
                endpoint.set_server_config(Some(crate::ingest::server_config(tls)));
                "QUIC"
            }));
        }
        let Some((files, in_use)) = &http else { continue };
        let now = Some(files.versions());
        if std::mem::replace(&mut http_seen, now.clone()) != now {
            told(files.http_config().map(|tls| {
                in_use.store(Arc::new(tls));
                "HTTP"
            }));
        }
    }
}

fn told(taken: Result<&str>) {
    match taken {
        Ok(side) => tracing::info!("new certificates of {side} are in use"),
        Err(error) => tracing::error!("new certificates cannot be used; the ones before stay: {error:#}"),
    }
}

/// The DNS names of the certificate that a peer showed and TLS checked.
pub fn names_of_peer(connection: &quinn::Connection) -> Vec<String> {
    let identity = connection.peer_identity().and_then(|identity| identity.downcast().ok());
    let chain: Box<Vec<CertificateDer<'static>>> = identity.unwrap_or_default();
    let Some(Ok(certificate)) = chain.first().map(webpki::EndEntityCert::try_from) else { return Vec::new() };
    certificate.valid_dns_names().map(str::to_string).collect()
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
