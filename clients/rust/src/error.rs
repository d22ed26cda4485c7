//! Why a call of the client failed.
//!
//! Owns: the errors, causes of a missing connection, and which of them pass. Invariants: no error means that an event was
//! dropped: it was not taken, or it is still sent, or it is told how many were not acknowledged.

use wire::{EventStatus, FrameStatus};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Certificates or settings are unusable.
    #[error("cannot set the connection up: {0}")]
    Setup(String),
    /// There was no connection while [`crate::Client::connect`] tried, or it cannot come by waiting.
    #[error("no connection to {address}: {cause}")]
    Unreachable {
        /// Where the server should be.
        address: String,
        /// Why the last attempt failed.
        cause: Cause,
    },
    /// The event can never be sent.
    #[error(transparent)]
    Event(#[from] EventStatus),
    /// The name of an event type is empty or longer than 256 bytes.
    #[error("an event type has 1 to 256 bytes")]
    EventTypeMustFit,
    /// One client records at most 256 types of events.
    #[error("a client records at most 256 event types")]
    EventTypesMustFit,
    /// Memory is full, and so is the outbox if there is one; the event was not taken.
    #[error("too much waits for the server; the event was not taken")]
    Full,
    /// Time is up: so many events are not acknowledged, and of these so many are in the outbox.
    #[error("{unacked} events are not acknowledged yet, of which {stored} are in the outbox")]
    DeadlinePassed {
        /// Events without an ack.
        unacked: u64,
        /// Of these, events that the next client with this outbox sends.
        stored: u64,
    },
    /// The outbox cannot be read or written.
    #[error("the outbox fails: {0}")]
    Outbox(String),
    /// The server closed for a reason that sending again does not mend.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server broke the protocol.
    #[error("the server's frame is refused: {0}")]
    Protocol(#[from] FrameStatus),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the same call may succeed later. Once connected, transport failures are mended inside the client and
    /// never surface.
    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Unreachable { cause, .. } => cause.is_transient(),
            ClientError::Full | ClientError::DeadlinePassed { .. } | ClientError::Outbox(_) => true,
            _ => false,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The name of the server leads to no address.
    #[error("its name leads to no address: {0}")]
    Unresolved(String),
    /// Nothing answered in time.
    #[error("nothing answers")]
    NoAnswer,
    /// The client does not take the server's certificate: nothing that it trusts stands behind it, it has another name, or
    /// it has expired.
    #[error("the server's certificate is not trusted: {0}")]
    ServerCertificate(String),
    /// The server does not take the client's certificate: it has expired, is of another authority, or is missing.
    #[error("the server does not take the client's certificate: {0}")]
    ClientCertificate(String),
    /// What answers does not speak this protocol.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// The connection ended, for this reason.
    #[error("{0}")]
    Lost(String),
}

impl Cause {
    /// Whether waiting may help. A client tries again in any case: certificates are replaced, on both sides.
    pub fn is_transient(&self) -> bool {
        matches!(self, Cause::Unresolved(_) | Cause::NoAnswer | Cause::Lost(_))
    }
}

/// Whether there is a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConnectionState {
    /// The first attempt is under way.
    #[default]
    Connecting,
    /// The server took the token.
    Connected,
    /// The last connection ended, or the last attempt failed; the client tries again.
    Lost(Cause),
}
