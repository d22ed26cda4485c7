//! Why a call of the client failed.
//!
//! Owns: the errors and which of them pass. Invariants: no error means that an event was dropped: it was not taken, or
//! it is still sent, or it is told how many were not acknowledged.

use std::net::SocketAddr;

use wire::{EventStatus, FrameStatus};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Certificates or settings are unusable.
    #[error("cannot set the connection up: {0}")]
    Setup(String),
    /// Nothing answered while [`crate::Client::connect`] tried.
    #[error("no server answers at {0}")]
    Unreachable(SocketAddr),
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
        matches!(
            self,
            ClientError::Unreachable(_)
                | ClientError::Full
                | ClientError::DeadlinePassed { .. }
                | ClientError::Outbox(_)
        )
    }
}
