//! What a server answers: acks, verdicts, and the last word of a stream.
//!
//! Owns: the fixed layouts of the three bodies. Leaves to others: when they are sent (`server::ingest`).
//!
//! ```text
//!  ack      0  8  offset       of the batch's record in the usage log
//!           8  8  received_at  nanoseconds since 1970
//!          16     count x { index u16, code u16 }   refused events, rising by index
//!  verdict  0     count x code u8                   one for every event of the batch, in order
//!  close    0  2  code
//!           2     reason       at most 512 bytes of UTF-8
//! ```
//!
//! Invariants: the sequence in the envelope of an ack or a verdict is that of its batch; acks come in the order of
//! their batches; a body is exactly as long as its count says.

use std::fmt;

use domain::Timestamp;

use crate::frame::{FrameHeader, FrameStatus, Schema, encode_frame};
use crate::usage::Refusal;
use crate::verdict::{RefusalCode, Verdict};

const ACK_OFFSET_OFFSET: usize = 0;
const ACK_RECEIVED_AT_OFFSET: usize = ACK_OFFSET_OFFSET + 8;
const ACK_REFUSALS_OFFSET: usize = ACK_RECEIVED_AT_OFFSET + 8;
const REFUSAL_BYTES: usize = 4;
/// Longest reason of a close, in bytes.
pub const CLOSE_REASON_BYTES_MAX: usize = 512;

/// A batch is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Offset of the batch's record in the usage log.
    pub offset: u64,
    /// When the batch reached the server.
    pub received_at: Timestamp,
    /// Events that were refused, rising by index; every other event goes on.
    pub refusals: Vec<Refusal>,
}

impl Ack {
    /// The whole frame, for the batch with this sequence.
    ///
    /// # Panics
    /// If the refusals do not rise by index.
    pub fn encode(&self, sequence: u64) -> Vec<u8> {
        assert!(self.refusals.is_sorted_by(|a, b| a.index < b.index), "refusals rise by index");
        let mut body = Vec::with_capacity(ACK_REFUSALS_OFFSET + REFUSAL_BYTES * self.refusals.len());
        body.extend_from_slice(&self.offset.to_le_bytes());
        body.extend_from_slice(&self.received_at.nanoseconds().to_le_bytes());
        for refusal in &self.refusals {
            body.extend_from_slice(&refusal.index.to_le_bytes());
            body.extend_from_slice(&refusal.code.code().to_le_bytes());
        }
        encode_frame(Schema::AckV1, self.refusals.len() as u32, sequence, 0, &body)
    }

    /// Reads the body of a checked frame.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`FrameStatus`] declares them.
    pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Self, FrameStatus> {
        header.check_schema(Schema::AckV1)?;
        let (offset, rest) = body.split_first_chunk().ok_or(FrameStatus::ReplyMustMatchCount)?;
        let (received_at, rest) = rest.split_first_chunk().ok_or(FrameStatus::ReplyMustMatchCount)?;
        let (entries, remainder) = rest.as_chunks::<REFUSAL_BYTES>();
        if entries.len() != header.count as usize || !remainder.is_empty() {
            return Err(FrameStatus::ReplyMustMatchCount);
        }
        let index_of = |[low, high, ..]: &[u8; REFUSAL_BYTES]| u16::from_le_bytes([*low, *high]);
        if !entries.is_sorted_by(|a, b| index_of(a) < index_of(b)) {
            return Err(FrameStatus::RefusalsMustRise);
        }
        let refusals = entries
            .iter()
            .map(|entry| {
                let [.., low, high] = *entry;
                let code = RefusalCode::from_code(u16::from_le_bytes([low, high]))?;
                Some(Refusal { index: index_of(entry), code })
            })
            .collect::<Option<_>>()
            .ok_or(FrameStatus::RefusalMustBeKnown)?;
        Ok(Self {
            offset: u64::from_le_bytes(*offset),
            received_at: Timestamp::from_nanoseconds(i64::from_le_bytes(*received_at)),
            refusals,
        })
    }
}

/// The whole frame of a verdict, from the code of every event of the batch in order.
///
/// # Panics
/// If there are more codes than events fit a batch.
pub fn encode_verdicts(sequence: u64, codes: &[u8]) -> Vec<u8> {
    debug_assert!(codes.iter().all(|code| Verdict::from_code(*code).is_some()), "every event has a verdict");
    let count = u32::try_from(codes.len()).unwrap_or(u32::MAX); // refused by the envelope's own assert
    encode_frame(Schema::VerdictV1, count, sequence, 0, codes)
}

/// Reads the body of a checked verdict frame: one verdict for every event of the batch, in order.
///
/// # Errors
/// The first broken rule, in the order in which [`FrameStatus`] declares them.
pub fn decode_verdicts(header: &FrameHeader, body: &[u8]) -> Result<Vec<Verdict>, FrameStatus> {
    header.check_schema(Schema::VerdictV1)?;
    if body.len() != header.count as usize {
        return Err(FrameStatus::ReplyMustMatchCount);
    }
    body.iter()
        .map(|code| Verdict::from_code(*code))
        .collect::<Option<_>>()
        .ok_or(FrameStatus::VerdictMustBeKnown)
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Everything that was sent is answered; the client is done.
    Done,
    /// A frame broke a rule; the reason begins with the code of its [`FrameStatus`].
    BadFrame,
    /// The token is not known.
    Unauthorized,
    /// The token does not grant the source of a batch.
    SourceNotGranted,
    /// The server is stopping.
    GoingAway,
    /// The client does not read its replies, or did not finish a frame in time.
    TooSlow,
    /// The log could not be written.
    StorageFailed,
    /// The first frame was not a hello.
    HelloRequired,
    /// A batch's sequence is not greater than that of the batch before it.
    BatchSequenceMustIncrease,
    /// More batches wait for their ack than the welcome allows.
    TooManyInFlight,
    /// A code that this version does not have; the reason is for people.
    Other(u16),
}

impl CloseCode {
    const KNOWN: [CloseCode; 10] = [
        CloseCode::Done,
        CloseCode::BadFrame,
        CloseCode::Unauthorized,
        CloseCode::SourceNotGranted,
        CloseCode::GoingAway,
        CloseCode::TooSlow,
        CloseCode::StorageFailed,
        CloseCode::HelloRequired,
        CloseCode::BatchSequenceMustIncrease,
        CloseCode::TooManyInFlight,
    ];

    /// The code on the wire; never reused.
    pub fn code(self) -> u16 {
        match self {
            CloseCode::Done => 0,
            CloseCode::BadFrame => 1,
            CloseCode::Unauthorized => 2,
            CloseCode::SourceNotGranted => 3,
            CloseCode::GoingAway => 4,
            CloseCode::TooSlow => 5,
            CloseCode::StorageFailed => 6,
            CloseCode::HelloRequired => 7,
            CloseCode::BatchSequenceMustIncrease => 8,
            CloseCode::TooManyInFlight => 9,
            CloseCode::Other(code) => code,
        }
    }

    /// The meaning of a code.
    pub fn from_code(code: u16) -> Self {
        Self::KNOWN.get(usize::from(code)).copied().unwrap_or(CloseCode::Other(code))
    }

    /// Whether the same frames, sent again on a new connection, can succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, CloseCode::GoingAway | CloseCode::TooSlow | CloseCode::StorageFailed)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseCode::Done => "done",
            CloseCode::BadFrame => "a frame broke a rule",
            CloseCode::Unauthorized => "the token is not known",
            CloseCode::SourceNotGranted => "the token does not grant the source",
            CloseCode::GoingAway => "the server is stopping",
            CloseCode::TooSlow => "replies were not read, or a frame was not finished, in time",
            CloseCode::StorageFailed => "the log could not be written",
            CloseCode::HelloRequired => "the first frame must be a hello",
            CloseCode::BatchSequenceMustIncrease => "the sequence of batches must increase",
            CloseCode::TooManyInFlight => "too many batches wait for their ack",
            CloseCode::Other(code) => return write!(f, "close code {code}"),
        })
    }
}

/// The last word of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why the stream ends.
    pub code: CloseCode,
    /// For people; at most 512 bytes.
    pub reason: String,
}

impl Close {
    /// A close whose reason is cut to 512 bytes, at the end of a character.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        let end = reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        Self { code, reason: reason[..end].to_owned() }
    }

    /// The close after a frame that broke a rule: code and text of the rule are its reason.
    pub fn bad_frame(status: FrameStatus) -> Self {
        Self::new(CloseCode::BadFrame, &format!("{}: {status}", status.code()))
    }

    /// The whole frame.
    ///
    /// # Panics
    /// If the reason is longer than 512 bytes.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.reason.len() <= CLOSE_REASON_BYTES_MAX, "a reason has at most 512 bytes");
        let mut body = self.code.code().to_le_bytes().to_vec();
        body.extend_from_slice(self.reason.as_bytes());
        encode_frame(Schema::CloseV1, 0, 0, 0, &body)
    }

    /// Reads the body of a checked frame.
    ///
    /// # Errors
    /// [`FrameStatus::SchemaMustBeExpected`] or [`FrameStatus::CloseMustBeValid`].
    pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Self, FrameStatus> {
        header.check_schema(Schema::CloseV1)?;
        let (code, reason) = body.split_first_chunk().ok_or(FrameStatus::CloseMustBeValid)?;
        if reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(FrameStatus::CloseMustBeValid);
        }
        let reason = str::from_utf8(reason).map_err(|_| FrameStatus::CloseMustBeValid)?;
        Ok(Self { code: CloseCode::from_code(u16::from_le_bytes(*code)), reason: reason.to_owned() })
    }
}
