//! Where HTTP requests go: Tallymark's `/v1/events`, or any URL that takes CloudEvents.
//!
//! Owns: reading a URL, opening TCP and TLS. Leaves to others: requests and answers (`http`).
//!
//! Invariants: TLS always checks the peer's certificate.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An address for requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) is_tls: bool,
    /// Host and port as the URL says them.
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Endpoint {
    /// Reads `http[s]://host[:port][/path]`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let is_tls = match scheme {
            "http" => false,
            "https" => true,
            _ => bail!("{url:?} is no URL of an endpoint; write http://host:port/path or https://…"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = !authority.contains('@') && !rest.contains(['#', ' ']) && rest.is_ascii();
        if authority.is_empty() || !is_plain {
            bail!(
                "{url:?} is no URL of an endpoint; leave credentials out of it and give them with --header"
            );
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { is_tls, authority: authority.to_string(), path: path.to_string(), headers: Vec::new() })
    }

    /// Adds a header as `Name: value`.
    pub(crate) fn header(&mut self, text: &str) -> Result<()> {
        let (name, value) =
            text.split_once(':').with_context(|| format!("{text:?} is no header; write 'Name: value'"))?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
        let is_visible = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) || !value.bytes().all(is_visible) {
            bail!("{text:?} is no header; a name is a word, and a value visible ASCII");
        }
        self.headers.push((name.to_string(), value.trim().to_string()));
        Ok(())
    }

    /// The host, without brackets.
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { &self.authority }
        });
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        let port = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(if self.is_tls { 443 } else { 80 })
    }

    /// Whether it is on this machine, by its name.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.host();
        host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
    }
}

/// Opens connections to an endpoint.
pub(crate) struct Dialer {
    endpoint: Endpoint,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection's bytes.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Dialer {
    /// `trusted` are the certificates that a TLS peer's own must lead to (PEM).
    pub(crate) fn new(endpoint: Endpoint, trusted: &[u8]) -> Result<Self> {
        if !endpoint.is_tls {
            return Ok(Self { endpoint, tls: None });
        }
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(trusted) {
            roots.add(certificate.context("the trusted certificates cannot be read")?)?;
        }
        if roots.is_empty() {
            bail!("https needs certificates that are trusted; give a PEM file with --cert");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(endpoint.host().to_string())?;
        Ok(Self { endpoint, tls: Some((TlsConnector::from(Arc::new(config)), name)) })
    }

    pub(crate) async fn dial(&self) -> std::io::Result<Box<dyn Bytes>> {
        let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

/// Whether TLS failed in a way that trying again does not mend: a certificate is not trusted, or nobody speaks TLS there.
pub(crate) fn is_hopeless(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    tls.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_refuses_is_not_tried_again_and_what_was_lost_is() {
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_hopeless(&std::io::Error::new(std::io::ErrorKind::InvalidData, untrusted)));
        assert!(!is_hopeless(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        assert!(!is_hopeless(&std::io::Error::other("the body ends too early")));
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, expected) in [
            ("http://127.0.0.1:7410/v1/events", Some((false, "127.0.0.1", 7410, "/v1/events", true))),
            ("https://peer.example/ingest?x=1", Some((true, "peer.example", 443, "/ingest?x=1", false))),
            ("http://[::1]:80", Some((false, "::1", 80, "/", true))),
            ("http://[::1]/a", Some((false, "::1", 80, "/a", true))),
            ("http://localhost", Some((false, "localhost", 80, "/", true))),
            ("ftp://peer", None),
            ("peer:80/x", None),
            ("http://user:secret@peer/", None),
            ("http:///path", None),
            ("http://peer/a b", None),
        ] {
            let found = Endpoint::parse(url).ok();
            let found = found.as_ref().map(|e| (e.is_tls, e.host(), e.port(), e.path.as_str(), e.is_local()));
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn headers_cannot_break_out_of_their_line() {
        let mut endpoint = Endpoint::parse("http://peer/").unwrap();
        endpoint.header("X-Key:  secret ").unwrap();
        assert_eq!(endpoint.headers, [("X-Key".to_string(), "secret".to_string())]);
        for text in ["no colon", ": empty", "a b: c", "X: line\r\nY: other", "X\u{e4}: y"] {
            assert!(endpoint.header(text).is_err(), "{text:?}");
        }
    }
}
