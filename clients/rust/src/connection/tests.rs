//! A client and a server that follows a script: certificates and tokens that change, causes, goodbyes.
//!
//! Owns: the server. Invariants: nothing here depends on how fast anything is, but that a goodbye needs no patience.

use std::net::SocketAddr;

use domain::Timestamp;
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::{Client, ClientIdentity, ClientOptions, Event, EventIdOwned};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of an authority that ends at the beginning of a year.
fn identity(authority: &Authority, name: &str, ends_in: i32) -> ClientIdentity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
    params.not_after = rcgen::date_time_ymd(ends_in, 1, 1);
    let certificate = params.signed_by(&key, authority).unwrap();
    ClientIdentity { cert_pem: certificate.pem().into_bytes(), key_pem: key.serialize_pem().into_bytes() }
}

/// A server whose tokens may change.
struct Server {
    endpoint: quinn::Endpoint,
    tokens: Arc<std::sync::Mutex<Vec<String>>>,
    /// Why connections ended, told by their server's side.
    ends: mpsc::UnboundedReceiver<quinn::ConnectionError>,
}

impl Server {
    fn start(own: &ClientIdentity, clients: Option<&Authority>, tokens: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.as_ref().pem().as_bytes()).unwrap())
                    .unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(&own.cert_pem).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&own.key_pem).unwrap();
        let mut tls = builder.with_single_cert(chain, key).unwrap();
        tls.alpn_protocols = vec![wire::frame::ALPN.to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let tokens = Arc::new(std::sync::Mutex::new(tokens.iter().map(ToString::to_string).collect()));
        let (to_test, ends) = mpsc::unbounded_channel();
        let (accepting, known) = (endpoint.clone(), tokens.clone());
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let (known, to_test) = (known.clone(), to_test.clone());
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        let _ = converse(&connection, &known).await;
                        // The client has the last word.
                        let _ = to_test.send(connection.closed().await);
                    }
                });
            }
        });
        Self { endpoint, tokens, ends }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    fn options(&self, trusted: &Authority, token: &str) -> ClientOptions {
        let mut options =
            ClientOptions::new(self.address(), token, "shop", trusted.as_ref().pem().into_bytes());
        options.server_name = Some("meter.example".to_string());
        options.connect_timeout = Duration::from_secs(60);
        options
    }
}

/// Takes everything from whoever has a token for as long as it is known.
async fn converse(connection: &Connection, tokens: &std::sync::Mutex<Vec<String>>) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| text(&error))?;
    let (header, frame) = read_frame(&mut receive).await?;
    let hello = Hello::decode(&header, &frame[FRAME_HEADER_BYTES..]).map_err(|error| text(&error))?;
    let welcome =
        Welcome { server: "script".to_string(), batch_bytes_max: 1 << 20, batches_in_flight_max: 9 };
    let mut answer = welcome.encode();
    loop {
        if !tokens.lock().unwrap().contains(&hello.token) {
            answer = Close::new(CloseCode::Unauthorized, "the token was revoked").encode();
        }
        send.write_all(&answer).await.map_err(|error| text(&error))?;
        let Ok((header, _)) = read_frame(&mut receive).await else { break };
        answer = Ack { offset: 0, received_at: Timestamp::MIN, refusals: Vec::new() }.encode(header.sequence);
    }
    send.write_all(&Close::new(CloseCode::Done, "").encode()).await.map_err(|error| text(&error))?;
    send.finish().map_err(|error| text(&error))
}

async fn record(client: &Client, id: &str) -> Result<(), ClientError> {
    let event = Event::new(EventIdOwned::Text(id.to_string()), "key", Timestamp::MIN);
    client.record("request", &event).await
}

/// Waits until the client says that something stands between it and the server.
async fn lost(client: &Client) -> Cause {
    let found = client.shared.wait_until(|state| match &state.connection {
        ConnectionState::Lost(cause) => Some(cause.clone()),
        _ => None,
    });
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap()
}

/// Each waited for the other, and a close took half a second of patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_closes_has_the_last_word_and_waits_for_nobody() {
    let ours = authority("ours");
    let mut server = Server::start(&identity(&ours, "meter.example", 2_100), None, &["one"]);
    let client = Client::connect(server.options(&ours, "one")).await.unwrap();
    assert_eq!((client.connection(), client.stats().connected), (ConnectionState::Connected, 1));
    record(&client, "a").await.unwrap();
    client.flush().await.unwrap();
    let started = Instant::now();
    client.close().await.unwrap();
    assert!(started.elapsed() < GOODBYE_PATIENCE, "{:?}", started.elapsed());
    let end = server.ends.recv().await.unwrap();
    assert!(matches!(end, quinn::ConnectionError::ApplicationClosed(_)), "the client closes: {end}");
}

/// A token was fixed for a client's life, and one refusal was its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_replaced_before_or_after_the_old_one_is_revoked() {
    let ours = authority("ours");
    let server = Server::start(&identity(&ours, "meter.example", 2_100), None, &["one", "two"]);
    let client = Client::connect(server.options(&ours, "one")).await.unwrap();
    record(&client, "a").await.unwrap();
    client.flush().await.unwrap();
    // Set in time, nobody notices.
    client.set_token("two");
    server.tokens.lock().unwrap().retain(|token| token != "one");
    record(&client, "b").await.unwrap();
    client.flush().await.unwrap();
    // Set too late, every call says so until then, and nothing is lost.
    server.tokens.lock().unwrap().clear();
    record(&client, "c").await.unwrap();
    let refused = client.flush().await;
    assert!(matches!(&refused, Err(ClientError::Refused(why)) if why.contains("revoked")), "{refused:?}");
    assert!(matches!(record(&client, "d").await, Err(ClientError::Refused(_))));
    server.tokens.lock().unwrap().push("three".to_string());
    client.set_token("three");
    let went_on = client.shared.wait_until(|state| state.failed.is_none().then_some(()));
    tokio::time::timeout(Duration::from_secs(60), went_on).await.unwrap();
    client.flush().await.unwrap();
    // Batches leave by their age again: nobody flushes here.
    record(&client, "d").await.unwrap();
    let acked = &client.shared.counters.acked;
    let left_by_age =
        client.shared.wait_until(|_| (acked.load(std::sync::atomic::Ordering::Relaxed) == 4).then_some(()));
    tokio::time::timeout(Duration::from_secs(60), left_by_age).await.unwrap();
    client.close().await.unwrap();
    assert_eq!((client.connection() == ConnectionState::Connected, client.stats().connected), (false, 0));
    assert_eq!((client.stats().recorded, client.stats().acked, client.stats().unacked), (4, 4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_refused_can_be_closed() {
    let ours = authority("ours");
    let server = Server::start(&identity(&ours, "meter.example", 2_100), None, &[]);
    let refused = Client::connect(server.options(&ours, "one")).await.err();
    assert!(matches!(refused, Some(ClientError::Refused(_))), "{refused:?}");
    let client = Client::start(server.options(&ours, "one")).unwrap();
    assert!(matches!(lost(&client).await, Cause::Lost(why) if why.contains("revoked")));
    assert!(matches!(client.close().await, Err(ClientError::Refused(_))));
}

/// Such a client tried for ever, and only the log knew why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_that_has_expired_is_said_and_can_be_replaced() {
    let (ours, other) = (authority("ours"), authority("other"));
    let server = Server::start(&identity(&ours, "meter.example", 2_100), Some(&ours), &[""]);
    let mut options = server.options(&ours, "");
    for (shown, said) in [
        (Some(identity(&ours, "shop", 2_020)), "expired"),
        (Some(identity(&other, "shop", 2_100)), "authority"),
        (None, "there is none"),
    ] {
        options.identity = shown;
        let refused = Client::connect(options.clone()).await.err();
        let Some(ClientError::Unreachable { cause: Cause::ClientCertificate(why), .. }) = &refused else {
            panic!("{said}: {refused:?}");
        };
        assert!(why.contains(said), "{why}");
        assert!(!refused.unwrap().is_transient());
    }
    options.identity = Some(identity(&ours, "shop", 2_020));
    let client = Client::start(options).unwrap();
    record(&client, "a").await.unwrap();
    assert!(matches!(lost(&client).await, Cause::ClientCertificate(why) if why.contains("expired")));
    assert!(client.stats().connection_failures > 0);
    let unusable = ClientIdentity { cert_pem: Vec::new(), key_pem: Vec::new() };
    assert!(matches!(client.set_identity(Some(unusable)), Err(ClientError::Setup(_))));
    client.set_identity(Some(identity(&ours, "shop", 2_100))).unwrap();
    client.close().await.unwrap();
    assert_eq!(client.stats().acked, 1);
}

/// A wrong authority and a wrong name read like a server that is away, after all patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_is_said_at_once() {
    let (ours, other) = (authority("ours"), authority("other"));
    let server = Server::start(&identity(&ours, "meter.example", 2_100), None, &["one"]);
    let mut misnamed = server.options(&ours, "one");
    misnamed.server_name = None;
    for (options, said) in [(server.options(&other, "one"), "UnknownIssuer"), (misnamed, "meter.example")] {
        let refused = Client::connect(options).await.err().unwrap();
        assert!(
            matches!(&refused, ClientError::Unreachable { cause: Cause::ServerCertificate(_), .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains(said), "{refused}");
    }
    let client = Client::start(server.options(&other, "one")).unwrap();
    record(&client, "a").await.unwrap();
    assert!(matches!(lost(&client).await, Cause::ServerCertificate(_)));
    client.set_trusted(ours.as_ref().pem().into_bytes()).unwrap();
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_found_by_its_name() {
    let ours = authority("ours");
    let server = Server::start(&identity(&ours, "localhost", 2_100), None, &["one"]);
    let mut options = server.options(&ours, "one");
    (options.address, options.server_name) = (format!("localhost:{}", server.address().port()), None);
    let client = Client::connect(options.clone()).await.unwrap();
    client.close().await.unwrap();
    options.address = "nowhere.invalid:7411".to_string();
    options.connect_timeout = Duration::from_millis(100);
    let refused = Client::connect(options).await.err();
    assert!(matches!(refused, Some(ClientError::Unreachable { .. })), "{refused:?}");
}
