//! Certificates: of the server and of clients, replaced while the server runs; HTTP with TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tallymark_client::{Cause, Client, ClientError, ClientIdentity, ClientOptions, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bad_input::now;
use crate::process::{Server, tallymark, text};

/// An authority for clients.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn identity_of(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> ClientIdentity {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, authority).unwrap();
    ClientIdentity { cert_pem: certificate.pem().into_bytes(), key_pem: key.serialize_pem().into_bytes() }
}

/// Puts a new certificate of a server in place; gives it.
fn place_certificate(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.pem().into_bytes()
}

async fn sends(options: ClientOptions) -> Result<(), ClientError> {
    let client = Client::connect(options).await?;
    client.record("request", &Event::minted("nobody", Timestamp::from_nanoseconds(now()))).await?;
    client.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_show_tokens_and_all_of_them_are_replaced_while_the_server_runs() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let (ours, other) = (authority(), authority());
    std::fs::write(folder.join("ca.pem"), ours.as_ref().pem()).unwrap();
    let first = place_certificate(folder);
    let server = Server::start(
        folder,
        &["--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem"), "--client-ca", &path("ca.pem")],
    );
    let create = ["create", "checkout.example", "--role", "ingest", "--source", "shop", "--certificate"];
    let made = tallymark(&[&["token", "--data", folder.to_str().unwrap()], &create[..]].concat());
    assert!(made.status.success(), "{}", text(&made));

    let mut options = ClientOptions::new(&server.quic, "", "shop", first);
    options.server_name = Some("localhost".to_string());
    options.connect_timeout = Duration::from_secs(3);
    options.identity = Some(identity_of(&ours, "checkout.example"));
    sends(options.clone()).await.unwrap();
    let mut unknown = options.clone();
    unknown.identity = Some(identity_of(&ours, "another.example"));
    assert!(matches!(sends(unknown).await, Err(ClientError::Refused(_))), "no token has that name");
    let mut without = options.clone();
    without.identity = None;
    assert!(matches!(sends(without.clone()).await, Err(ClientError::Refused(_))), "nothing shows a token");
    without.token = server.token.clone().unwrap();
    sends(without).await.unwrap();
    let mut foreign = options.clone();
    foreign.identity = Some(identity_of(&other, "checkout.example"));
    let refused = sends(foreign.clone()).await;
    let Err(ClientError::Unreachable { cause: Cause::ClientCertificate(_), .. }) = refused else {
        panic!("another authority's: {refused:?}");
    };
    // A client that runs shows another certificate without being made again.
    let running = Client::start(foreign.clone()).unwrap();
    running.record("request", &Event::minted("nobody", Timestamp::from_nanoseconds(now()))).await.unwrap();
    running.set_identity(options.identity.clone()).unwrap();
    running.close().await.unwrap();

    // The server's certificate and the clients' authority are replaced; what is half there is not used.
    std::fs::write(folder.join("cert.pem"), "not a certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    sends(options.clone()).await.unwrap();
    let second = place_certificate(folder);
    std::fs::write(folder.join("ca.pem"), other.as_ref().pem()).unwrap();
    foreign.trusted_pem = second;
    let started = Instant::now();
    while let Err(error) = sends(foreign.clone()).await {
        assert!(started.elapsed() < Duration::from_secs(60), "the new certificates are not in use: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(sends(options).await.is_err(), "the old ones are not any more");
    assert_eq!(server.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_speaks_tls_where_it_has_a_certificate_and_a_silent_peer_holds_nobody_up() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let pem = place_certificate(folder);
    let server = Server::start(folder, &["--http-cert", &path("cert.pem"), "--http-key", &path("key.pem")]);
    let address = server.http.trim_start_matches("https://").to_string();
    assert!(server.http.starts_with("https://"), "{}", server.http);
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    // Commands ask over TLS as well, if they are told whom to trust.
    let url = server.http.replace("127.0.0.1", "localhost");
    let (token, ca) = (server.token.clone().unwrap(), path("cert.pem"));
    for (more, said) in [
        (&["--ca", &ca][..], ""),
        (&[], "asking https://localhost"),
        (&["--ca", &path("key.pem")], "has no certificate in PEM"),
        (&["--ca", &path("gone.pem")], "cannot read"),
    ] {
        let arguments = [&["event", "list-quarantine", "--url", &url, "--token", &token], more].concat();
        let listed = tallymark(&arguments);
        let is_told = String::from_utf8_lossy(&listed.stderr).contains(said);
        assert!(is_told && listed.status.success() == said.is_empty(), "{more:?}: {listed:?}");
    }
    // A request without TLS is no request.
    let mut plain = tokio::net::TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    drop(silent);
    assert_eq!(server.terminate(), Some(0));
}
