//! From a name to a connection: addresses, sockets, the handshake, and why there is none.
//!
//! Owns: looking names up, which of several addresses answers, the cause of a failure. Leaves to others: what is said on a
//! connection (`connection`), certificates (`tls`).
//!
//! Invariants: a name is looked up for every connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint};
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;

use crate::tls::{Secrets, endpoint};
use crate::{Cause, ClientError, ClientOptions};

/// How long a lookup, a handshake or a greeting may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Another address of a name is tried when those before it said nothing for so long.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// How long a goodbye has to leave. One that is lost is not worth a caller's time: the server ends such a connection by itself.
const GOODBYE: Duration = Duration::from_millis(20);

/// Opens connections to one server.
pub(crate) struct Dialer {
    host: String,
    port: u16,
    server_name: String,
    /// For IPv4 and IPv6, once they are needed.
    endpoints: [Option<Endpoint>; 2],
}

impl Dialer {
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ClientError> {
        let setup = |what: &str| ClientError::Setup(format!("{:?} {what}", options.address));
        let (host, port) =
            host_and_port(&options.address).ok_or_else(|| setup("is no address; write host:port"))?;
        let server_name = options.server_name.clone().unwrap_or_else(|| host.to_string());
        if ServerName::try_from(server_name.as_str()).is_err() {
            return Err(ClientError::Setup(format!("{server_name:?} is no name of a server")));
        }
        Ok(Self { host: host.to_string(), port, server_name, endpoints: [None, None] })
    }

    pub(crate) async fn dial(&mut self, secrets: &Secrets) -> Result<Connection, Cause> {
        let addresses = self.look_up().await?;
        let mut attempts = JoinSet::new();
        let mut cause = None;
        for (turn, address) in (0..).zip(addresses) {
            let endpoint = match self.endpoint_of(address) {
                Ok(endpoint) => endpoint.clone(),
                Err(error) => {
                    cause = Some(Cause::Lost(error.to_string()));
                    continue;
                }
            };
            let (config, server_name) = (secrets.config.clone(), self.server_name.clone());
            attempts.spawn(async move {
                tokio::time::sleep(NEXT_AFTER * turn).await;
                let connecting = endpoint.connect_with(config, address, &server_name);
                let connecting = connecting.map_err(|error| Cause::Lost(error.to_string()))?;
                match tokio::time::timeout(PATIENCE, connecting).await {
                    Ok(connected) => connected.map_err(|error| cause_of(&error)),
                    Err(_) => Err(Cause::NoAnswer),
                }
            });
        }
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok(Ok(connection)) => return Ok(connection),
                // What was answered says more than silence.
                Ok(Err(Cause::NoAnswer)) => {}
                Ok(Err(said)) => cause = Some(said),
                Err(error) => cause = Some(Cause::Lost(error.to_string())),
            }
        }
        Err(cause.unwrap_or(Cause::NoAnswer))
    }

    async fn look_up(&self) -> Result<Vec<SocketAddr>, Cause> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![(ip, self.port).into()]);
        }
        let unresolved = |why: &dyn std::fmt::Display| Cause::Unresolved(why.to_string());
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = tokio::time::timeout(PATIENCE, looking).await.map_err(|error| unresolved(&error))?;
        let found: Vec<SocketAddr> = found.map_err(|error| unresolved(&error))?.take(ADDRESSES_MAX).collect();
        if found.is_empty() { Err(unresolved(&"there is none")) } else { Ok(found) }
    }

    fn endpoint_of(&mut self, address: SocketAddr) -> std::io::Result<&Endpoint> {
        let place = &mut self.endpoints[usize::from(address.is_ipv6())];
        if place.is_none() {
            *place = Some(endpoint(address.is_ipv4())?);
        }
        Ok(place.as_ref().expect("it was just made"))
    }

    /// Says goodbye on every connection that is open, and gives up the sockets.
    pub(crate) async fn close(self) {
        for endpoint in self.endpoints.into_iter().flatten() {
            endpoint.close(quinn::VarInt::from_u32(0), b"");
            let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        }
    }
}

/// Takes `host:port` apart; an IPv6 address stands in brackets.
fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_plain = bare.is_some() || !host.contains(':');
    let host = bare.unwrap_or(host);
    (is_plain && !host.is_empty()).then_some((host, port.parse().ok()?))
}

/// Why a connection is not there, in the caller's words.
pub(crate) fn cause_of(error: &ConnectionError) -> Cause {
    match error {
        ConnectionError::TimedOut => Cause::NoAnswer,
        ConnectionError::TransportError(error) => match alert_of(error.code.into()) {
            Some(alert) if is_of_certificate(alert) => Cause::ServerCertificate(error.reason.clone()),
            Some(_) => Cause::Handshake(error.reason.clone()),
            None => Cause::Lost(error.to_string()),
        },
        ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code.into()) {
            Some(alert) => {
                let reason = String::from_utf8_lossy(&close.reason);
                let said = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let what = |what: &str| format!("{what}{said}");
                match alert {
                    CERTIFICATE_EXPIRED => Cause::ClientCertificate(what("it has expired")),
                    UNKNOWN_AUTHORITY => Cause::ClientCertificate(what("its authority is not known")),
                    CERTIFICATE_REVOKED => Cause::ClientCertificate(what("it was revoked")),
                    CERTIFICATE_REQUIRED => Cause::ClientCertificate(what("there is none")),
                    alert if is_of_certificate(alert) => Cause::ClientCertificate(what("it is not accepted")),
                    NO_PROTOCOL => Cause::Handshake(what("the server does not speak this protocol")),
                    alert => Cause::Handshake(what(&format!("the server sent alert {alert}"))),
                }
            }
            None => Cause::Lost(error.to_string()),
        },
        error => Cause::Lost(error.to_string()),
    }
}

const CERTIFICATE_REVOKED: u8 = 44;
const CERTIFICATE_EXPIRED: u8 = 45;
const UNKNOWN_AUTHORITY: u8 = 48;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_PROTOCOL: u8 = 120;

/// The TLS alert (RFC 8446, 6.2) that a QUIC error carries (RFC 9001, 4.8).
fn alert_of(code: u64) -> Option<u8> {
    (0x100..0x200).contains(&code).then_some(code as u8)
}

/// Whether an alert is about a certificate: bad, unsupported, revoked, expired, unknown, of an unknown authority, not its key's, missing.
fn is_of_certificate(alert: u8) -> bool {
    matches!(alert, 42..=46 | UNKNOWN_AUTHORITY | 51 | CERTIFICATE_REQUIRED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (address, expected) in [
            ("127.0.0.1:7411", Some(("127.0.0.1", 7_411))),
            ("meter.example:7411", Some(("meter.example", 7_411))),
            ("[::1]:7411", Some(("::1", 7_411))),
            ("::1:7411", None),
            ("meter.example", None),
            (":7411", None),
            ("meter.example:", None),
            ("meter.example:70000", None),
        ] {
            assert_eq!(host_and_port(address), expected, "{address}");
        }
    }

    #[test]
    fn the_name_in_the_certificate_is_the_host_unless_said() {
        let mut options = ClientOptions::new("meter.example:7411", "", "shop", Vec::new());
        assert_eq!(Dialer::new(&options).unwrap().server_name, "meter.example");
        options.server_name = Some("other.example".to_string());
        assert_eq!(Dialer::new(&options).unwrap().server_name, "other.example");
        options.server_name = Some("not a name".to_string());
        assert!(matches!(Dialer::new(&options), Err(ClientError::Setup(_))));
        options.address = "meter.example".to_string();
        assert!(matches!(Dialer::new(&options), Err(ClientError::Setup(_))));
    }
}
