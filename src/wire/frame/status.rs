//! The rules of a frame, one status each.
//!
//! Owns: their names, their order, their codes on the wire. Leaves to others: checking them, each where it is known.
//!
//! Invariants: codes rise in the order of precedence and are never given to another rule; a rule that comes later is
//! appended, whatever its precedence.

use std::fmt;

/// Which rule a frame broke, in order of precedence.
///
/// The first of them in this order is the one that is reported; [`FrameStatus::code`] is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum FrameStatus {
    /// Fewer than 32 bytes where an envelope must be.
    HeaderMustBeWhole = 1,
    /// The first bytes are not `TLMK`.
    MagicMustBeTallymark = 2,
    /// The version is not 1.
    VersionMustBeSupported = 3,
    /// The schema is none of those that version 1 has.
    SchemaMustBeKnown = 4,
    /// The body is larger than its schema allows.
    BodyMustFit = 5,
    /// A batch has no events or too many; a reply has too many entries; another frame has any.
    CountMustFit = 6,
    /// A flag is set that the schema does not have.
    FlagsMustBeZero = 7,
    /// The body has fewer or more bytes than the envelope says.
    BodyMustBeWhole = 8,
    /// The checksum over envelope and body is another one.
    CrcMustMatch = 9,
    /// The frame is sound, but its schema is not the one that must come here.
    SchemaMustBeExpected = 10,
    /// The body was not read into memory at a multiple of 16 bytes.
    BodyMustBeAligned = 11,
    /// The body is not an archive of the batch's columns.
    ArchiveMustBeValid = 12,
    /// The source is empty or longer than 256 bytes.
    SourceMustFit = 13,
    /// The event type is empty or longer than 256 bytes.
    EventTypeMustFit = 14,
    /// The kind of ids is neither given nor sequenced.
    IdKindMustBeKnown = 15,
    /// Sequenced ids would go beyond 64 bits.
    IdSequenceMustFit = 16,
    /// More than 16 value columns or more than 16 dimension columns.
    ColumnsMustFit = 17,
    /// The name of a column is empty or longer than 256 bytes.
    ColumnNameMustFit = 18,
    /// Two value columns, or two dimension columns, have one name.
    ColumnNamesMustBeUnique = 19,
    /// A value column has more than 28 fraction digits.
    ScaleMustFit = 20,
    /// A column, or a bitmap of nulls that is not empty, does not have exactly one entry for every event, or an id
    /// column that the kind of ids does not use is not empty.
    ColumnMustMatchCount = 21,
    /// A dictionary has more than 8,192 entries.
    DictionaryMustFit = 22,
    /// The bytes of a dictionary are not UTF-8.
    DictionaryMustBeUtf8 = 23,
    /// Offsets do not start at zero, fall, cut a character, or do not end at the end of their bytes.
    OffsetsMustRise = 24,
    /// An index points past the end of its dictionary.
    IndexMustBeInDictionary = 25,
    /// A reply's body is not as long as its count says.
    ReplyMustMatchCount = 26,
    /// The refusals of an ack do not rise by index.
    RefusalsMustRise = 27,
    /// A refusal has a code that version 1 does not have.
    RefusalMustBeKnown = 28,
    /// A verdict has a code that version 1 does not have.
    VerdictMustBeKnown = 29,
    /// A close has no code, or a reason that is not UTF-8 or longer than 512 bytes.
    CloseMustBeValid = 30,
    /// A hello is not the JSON object that it must be.
    HelloMustBeValid = 31,
    /// A welcome is not the JSON object that it must be.
    WelcomeMustBeValid = 32,
}

impl FrameStatus {
    /// Every status, in order of precedence.
    pub const ALL: [FrameStatus; 32] = [
        FrameStatus::HeaderMustBeWhole,
        FrameStatus::MagicMustBeTallymark,
        FrameStatus::VersionMustBeSupported,
        FrameStatus::SchemaMustBeKnown,
        FrameStatus::BodyMustFit,
        FrameStatus::CountMustFit,
        FrameStatus::FlagsMustBeZero,
        FrameStatus::BodyMustBeWhole,
        FrameStatus::CrcMustMatch,
        FrameStatus::SchemaMustBeExpected,
        FrameStatus::BodyMustBeAligned,
        FrameStatus::ArchiveMustBeValid,
        FrameStatus::SourceMustFit,
        FrameStatus::EventTypeMustFit,
        FrameStatus::IdKindMustBeKnown,
        FrameStatus::IdSequenceMustFit,
        FrameStatus::ColumnsMustFit,
        FrameStatus::ColumnNameMustFit,
        FrameStatus::ColumnNamesMustBeUnique,
        FrameStatus::ScaleMustFit,
        FrameStatus::ColumnMustMatchCount,
        FrameStatus::DictionaryMustFit,
        FrameStatus::DictionaryMustBeUtf8,
        FrameStatus::OffsetsMustRise,
        FrameStatus::IndexMustBeInDictionary,
        FrameStatus::ReplyMustMatchCount,
        FrameStatus::RefusalsMustRise,
        FrameStatus::RefusalMustBeKnown,
        FrameStatus::VerdictMustBeKnown,
        FrameStatus::CloseMustBeValid,
        FrameStatus::HelloMustBeValid,
        FrameStatus::WelcomeMustBeValid,
    ];

    /// The code of the status on the wire; never reused.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The status with a code.
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }
}

impl fmt::Display for FrameStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrameStatus::HeaderMustBeWhole => "a frame starts with an envelope of 32 bytes",
            FrameStatus::MagicMustBeTallymark => "a frame starts with TLMK",
            FrameStatus::VersionMustBeSupported => "the version of a frame is 1",
            FrameStatus::SchemaMustBeKnown => "the schema of a frame is 1 to 6",
            FrameStatus::BodyMustFit => "the body of a frame is at most as large as its schema allows",
            FrameStatus::CountMustFit => "a batch has 1 to 32768 events, a reply at most as many entries",
            FrameStatus::FlagsMustBeZero => "flags that the schema does not have are zero",
            FrameStatus::BodyMustBeWhole => "a body has exactly the bytes that its envelope says",
            FrameStatus::CrcMustMatch => "the checksum matches envelope and body",
            FrameStatus::SchemaMustBeExpected => "a frame has the schema that must come at its place",
            FrameStatus::BodyMustBeAligned => "a batch is read into memory at a multiple of 16 bytes",
            FrameStatus::ArchiveMustBeValid => "the body of a batch is an archive of its columns",
            FrameStatus::SourceMustFit => "a source has 1 to 256 bytes",
            FrameStatus::EventTypeMustFit => "an event type has 1 to 256 bytes",
            FrameStatus::IdKindMustBeKnown => "ids are given (0) or sequenced (1)",
            FrameStatus::IdSequenceMustFit => "sequenced ids fit 64 bits",
            FrameStatus::ColumnsMustFit => "a batch has at most 16 value and 16 dimension columns",
            FrameStatus::ColumnNameMustFit => "the name of a column has 1 to 256 bytes",
            FrameStatus::ColumnNamesMustBeUnique => "columns of one kind have different names",
            FrameStatus::ScaleMustFit => "a value column has at most 28 fraction digits",
            FrameStatus::ColumnMustMatchCount => "a column has one entry for every event",
            FrameStatus::DictionaryMustFit => "a dictionary has at most 8192 entries",
            FrameStatus::DictionaryMustBeUtf8 => "the bytes of a dictionary are UTF-8",
            FrameStatus::OffsetsMustRise => {
                "offsets rise from zero to the end of their bytes, from character to character"
            }
            FrameStatus::IndexMustBeInDictionary => "an index points at an entry of its dictionary",
            FrameStatus::ReplyMustMatchCount => "a reply is as long as its count says",
            FrameStatus::RefusalsMustRise => "refusals rise by index",
            FrameStatus::RefusalMustBeKnown => "a refusal has a known code",
            FrameStatus::VerdictMustBeKnown => "a verdict has a known code",
            FrameStatus::CloseMustBeValid => "a close is a code and a reason of at most 512 bytes of UTF-8",
            FrameStatus::HelloMustBeValid => "a hello is a JSON object with token, client and verdicts",
            FrameStatus::WelcomeMustBeValid => {
                "a welcome is a JSON object with server, batch_bytes_max and batches_in_flight_max"
            }
        })
    }
}

impl std::error::Error for FrameStatus {}
