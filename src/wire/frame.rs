//! The envelope of everything on a stream: 32 bytes, little endian, in front of every body.
//!
//! Owns: the layout, its limits, the checksum. [`FrameStatus`] names every rule that a frame can break.
//! Leaves to others: what a body means (`usage`, `reply`, `hello`), in which order frames may come (`server::ingest`).
//!
//! ```text
//!  offset  bytes  field
//!       0      4  magic        "TLMK"
//!       4      2  version      1
//!       6      2  schema       1 usage batch, 2 hello, 3 ack, 4 verdict, 5 close, 6 welcome
//!       8      4  body_bytes   bytes that follow the envelope
//!      12      4  count        events of a batch, entries of an ack or verdict, else 0
//!      16      8  sequence     the client's number of the batch; a reply carries its batch's
//!      24      4  flags        bit 0 of a batch: verdicts wanted; every other bit is 0
//!      28      4  crc32c       over bytes 0..28 and the body
//!      32         body
//! ```
//!
//! Invariants: [`FrameHeader::decode`] holds before anything is allocated for the body; a header that exists is within
//! limits, so it encodes to exactly the bytes that it was decoded from.

mod status;

use crc_fast::{CrcAlgorithm, Digest};
use domain::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};

pub use status::FrameStatus;

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"tallymark/1";
/// Bytes of a datagram that both sides take; a sender uses so many where the path lets it (jumbo frames, loopback). Ten of
/// them are handed to the kernel at once, which must be less than 64 KiB.
pub const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"TLMK";
/// The version of the envelope that this crate speaks.
pub const VERSION: u16 = 1;
/// Flag of a usage batch: send a verdict frame once the batch is applied.
pub const FLAG_VERDICTS_WANTED: u32 = 1;

const MAGIC_OFFSET: usize = 0;
const VERSION_OFFSET: usize = MAGIC_OFFSET + 4;
const SCHEMA_OFFSET: usize = VERSION_OFFSET + 2;
const BODY_BYTES_OFFSET: usize = SCHEMA_OFFSET + 2;
const COUNT_OFFSET: usize = BODY_BYTES_OFFSET + 4;
const SEQUENCE_OFFSET: usize = COUNT_OFFSET + 4;
const FLAGS_OFFSET: usize = SEQUENCE_OFFSET + 8;
const CRC_OFFSET: usize = FLAGS_OFFSET + 4;
/// Bytes of the envelope.
pub const FRAME_HEADER_BYTES: usize = CRC_OFFSET + 4;

/// Largest body of a hello, a welcome or a close, in bytes.
pub const CONVERSATION_BODY_BYTES_MAX: usize = 4 << 10;
/// Largest body of an ack or a verdict, in bytes.
pub const REPLY_BODY_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(FRAME_HEADER_BYTES == 32);
const _: () =
    assert!(FRAME_HEADER_BYTES.is_multiple_of(crate::buffer::ALIGNMENT), "the archive stays aligned");
const _: () =
    assert!(16 + 4 * BATCH_EVENTS_MAX <= REPLY_BODY_BYTES_MAX, "a batch refused whole fits its ack");

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Schema {
    /// Columns of usage events, client to server.
    UsageBatchV1 = 1,
    /// The greeting of a client, first frame of a stream.
    HelloV1 = 2,
    /// A batch is durable, server to client.
    AckV1 = 3,
    /// What became of each event of a batch, server to client.
    VerdictV1 = 4,
    /// The last frame of a stream, either way.
    CloseV1 = 5,
    /// The server's answer to a hello.
    WelcomeV1 = 6,
}

impl Schema {
    /// Every schema of version 1.
    pub const ALL: [Schema; 6] = [
        Schema::UsageBatchV1,
        Schema::HelloV1,
        Schema::AckV1,
        Schema::VerdictV1,
        Schema::CloseV1,
        Schema::WelcomeV1,
    ];

    /// The code of the schema on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The schema with a code.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|schema| schema.code() == code)
    }

    /// Largest body of the schema, in bytes.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Schema::UsageBatchV1 => BATCH_BYTES_MAX - FRAME_HEADER_BYTES,
            Schema::AckV1 | Schema::VerdictV1 => REPLY_BODY_BYTES_MAX,
            Schema::HelloV1 | Schema::CloseV1 | Schema::WelcomeV1 => CONVERSATION_BODY_BYTES_MAX,
        }
    }

    fn count_fits(self, count: u32) -> bool {
        let fits = count <= BATCH_EVENTS_MAX as u32;
        match self {
            Schema::UsageBatchV1 => count > 0 && fits,
            Schema::AckV1 | Schema::VerdictV1 => fits,
            Schema::HelloV1 | Schema::CloseV1 | Schema::WelcomeV1 => count == 0,
        }
    }

    fn flags_fit(self, flags: u32) -> bool {
        match self {
            Schema::UsageBatchV1 => flags & !FLAG_VERDICTS_WANTED == 0,
            _ => flags == 0,
        }
    }
}

/// A checked envelope. Its checksum is checked with the body, by [`FrameHeader::check_body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub schema: Schema,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Events of a batch, entries of a reply, else zero.
    pub count: u32,
    /// The client's number of the batch.
    pub sequence: u64,
    /// [`FLAG_VERDICTS_WANTED`] or zero.
    pub flags: u32,
    /// CRC-32C over the 28 bytes before it and the body.
    pub crc32c: u32,
}

impl FrameHeader {
    /// Reads an envelope; checks everything that can be checked without the body.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`FrameStatus`] declares them.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameStatus> {
        if bytes_at::<4>(bytes, MAGIC_OFFSET) != MAGIC {
            return Err(FrameStatus::MagicMustBeTallymark);
        }
        if u16::from_le_bytes(bytes_at(bytes, VERSION_OFFSET)) != VERSION {
            return Err(FrameStatus::VersionMustBeSupported);
        }
        let Some(schema) = Schema::from_code(u16::from_le_bytes(bytes_at(bytes, SCHEMA_OFFSET))) else {
            return Err(FrameStatus::SchemaMustBeKnown);
        };
        let body_bytes = u32::from_le_bytes(bytes_at(bytes, BODY_BYTES_OFFSET));
        if body_bytes as usize > schema.body_bytes_max() {
            return Err(FrameStatus::BodyMustFit);
        }
        let count = u32::from_le_bytes(bytes_at(bytes, COUNT_OFFSET));
        if !schema.count_fits(count) {
            return Err(FrameStatus::CountMustFit);
        }
        let flags = u32::from_le_bytes(bytes_at(bytes, FLAGS_OFFSET));
        if !schema.flags_fit(flags) {
            return Err(FrameStatus::FlagsMustBeZero);
        }
        let sequence = u64::from_le_bytes(bytes_at(bytes, SEQUENCE_OFFSET));
        let crc32c = u32::from_le_bytes(bytes_at(bytes, CRC_OFFSET));
        Ok(Self { schema, body_bytes, count, sequence, flags, crc32c })
    }

    /// Reads the envelope at the start of a slice.
    ///
    /// # Errors
    /// [`FrameStatus::HeaderMustBeWhole`] for fewer than 32 bytes, else as [`FrameHeader::decode`].
    pub fn decode_slice(frame: &[u8]) -> Result<Self, FrameStatus> {
        Self::decode(frame.first_chunk().ok_or(FrameStatus::HeaderMustBeWhole)?)
    }

    /// Checks that the body is whole, and last its checksum.
    ///
    /// # Errors
    /// [`FrameStatus::BodyMustBeWhole`] or [`FrameStatus::CrcMustMatch`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), FrameStatus> {
        if body.len() != self.body_bytes as usize {
            return Err(FrameStatus::BodyMustBeWhole);
        }
        if self.checksum(body) != self.crc32c {
            return Err(FrameStatus::CrcMustMatch);
        }
        Ok(())
    }

    /// Checks that the frame is of the schema that must come here.
    ///
    /// # Errors
    /// [`FrameStatus::SchemaMustBeExpected`].
    pub fn check_schema(&self, expected: Schema) -> Result<(), FrameStatus> {
        if self.schema == expected { Ok(()) } else { Err(FrameStatus::SchemaMustBeExpected) }
    }

    /// Bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_bytes as usize
    }

    /// Whether the client wants a verdict frame for this batch.
    pub fn wants_verdicts(&self) -> bool {
        self.flags & FLAG_VERDICTS_WANTED != 0
    }

    /// The envelope for a body.
    ///
    /// # Panics
    /// If the body, the count or the flags break a limit of the schema: the caller keeps them.
    pub fn for_body(schema: Schema, count: u32, sequence: u64, flags: u32, body: &[u8]) -> Self {
        assert!(body.len() <= schema.body_bytes_max(), "the body fits its schema");
        assert!(schema.count_fits(count), "the count fits its schema");
        assert!(schema.flags_fit(flags), "the schema has the flags");
        let mut header = Self { schema, body_bytes: body.len() as u32, count, sequence, flags, crc32c: 0 };
        header.crc32c = header.checksum(body);
        header
    }

    /// The bytes of the envelope.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(MAGIC_OFFSET, &MAGIC);
        put(VERSION_OFFSET, &VERSION.to_le_bytes());
        put(SCHEMA_OFFSET, &self.schema.code().to_le_bytes());
        put(BODY_BYTES_OFFSET, &self.body_bytes.to_le_bytes());
        put(COUNT_OFFSET, &self.count.to_le_bytes());
        put(SEQUENCE_OFFSET, &self.sequence.to_le_bytes());
        put(FLAGS_OFFSET, &self.flags.to_le_bytes());
        put(CRC_OFFSET, &self.crc32c.to_le_bytes());
        bytes
    }

    fn checksum(&self, body: &[u8]) -> u32 {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.encode()[..CRC_OFFSET]);
        digest.update(body);
        digest.finalize() as u32 // the algorithm has 32 bits
    }
}

/// A whole frame: envelope and body.
///
/// # Panics
/// As [`FrameHeader::for_body`].
pub fn encode_frame(schema: Schema, count: u32, sequence: u64, flags: u32, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader::for_body(schema, count, sequence, flags, body);
    let mut frame = Vec::with_capacity(header.frame_bytes());
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(body);
    frame
}

/// Splits a frame that lies whole in memory into its envelope and its body, both checked.
///
/// # Errors
/// The first broken rule, up to and including the checksum.
pub fn decode_frame(frame: &[u8]) -> Result<(FrameHeader, &[u8]), FrameStatus> {
    let (head, body) = frame.split_first_chunk().ok_or(FrameStatus::HeaderMustBeWhole)?;
    let header = FrameHeader::decode(head)?;
    header.check_body(body)?;
    Ok((header, body))
}

fn bytes_at<const N: usize>(bytes: &[u8; FRAME_HEADER_BYTES], offset: usize) -> [u8; N] {
    *bytes.get(offset..).and_then(|rest| rest.first_chunk()).expect("every field lies inside the envelope")
}
