//! Every rule of a frame has a frame that breaks it and no earlier one.

use domain::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};

use super::samples::{
    check, columns, dictionary, dimension_column, frame_of, frame_with, given, value_column,
};
use crate::buffer::AlignedBytes;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStatus, Schema, decode_frame, encode_frame};
use crate::hello::{Hello, Welcome};
use crate::reply::{Ack, CLOSE_REASON_BYTES_MAX, Close, decode_verdicts};
use crate::usage::UsageBatch;
use crate::usage::archive::UsageBatchV1;

/// A good frame with some bytes written over, without a new checksum.
fn overwritten(offset: usize, bytes: &[u8]) -> Result<(), FrameStatus> {
    let mut frame = given();
    frame.as_mut_slice()[offset..offset + bytes.len()].copy_from_slice(bytes);
    check(&frame).map(drop)
}

fn header_statuses() -> Vec<(Result<(), FrameStatus>, FrameStatus)> {
    let large = u32::try_from(BATCH_BYTES_MAX - FRAME_HEADER_BYTES + 1).unwrap();
    let many = u32::try_from(BATCH_EVENTS_MAX + 1).unwrap();
    let frame = given();
    vec![
        (decode_frame(&frame[..FRAME_HEADER_BYTES - 1]).map(drop), FrameStatus::HeaderMustBeWhole),
        (overwritten(3, b"k"), FrameStatus::MagicMustBeTallymark),
        (overwritten(4, &[2]), FrameStatus::VersionMustBeSupported),
        (overwritten(6, &[0]), FrameStatus::SchemaMustBeKnown),
        (overwritten(6, &[7]), FrameStatus::SchemaMustBeKnown),
        (overwritten(6, &[1, 1]), FrameStatus::SchemaMustBeKnown),
        (overwritten(8, &large.to_le_bytes()), FrameStatus::BodyMustFit),
        (overwritten(12, &[0]), FrameStatus::CountMustFit),
        (overwritten(12, &many.to_le_bytes()), FrameStatus::CountMustFit),
        (overwritten(24, &[2]), FrameStatus::FlagsMustBeZero),
        (overwritten(24, &[0, 0, 0, 128]), FrameStatus::FlagsMustBeZero),
        (decode_frame(&frame[..frame.len() - 1]).map(drop), FrameStatus::BodyMustBeWhole),
        (overwritten(28, &[0, 0, 0, 0]), FrameStatus::CrcMustMatch),
        // Several rules are broken: the first is named.
        (overwritten(0, &[0; 32]), FrameStatus::MagicMustBeTallymark),
        (overwritten(8, &[255; 24]), FrameStatus::BodyMustFit),
    ]
}

/// Two events whose columns were changed.
fn changed(change: impl FnOnce(&mut UsageBatchV1)) -> Result<(), FrameStatus> {
    let mut columns = columns();
    change(&mut columns);
    check(&frame_of(&columns, 2)).map(drop)
}

fn batch_statuses() -> Vec<(Result<(), FrameStatus>, FrameStatus)> {
    let names = |count: usize| (0..count).map(|index| format!("column-{index}"));
    vec![
        (check(&frame_with(2, &[0; 64])).map(drop), FrameStatus::ArchiveMustBeValid),
        (check(&frame_with(2, &[0; 15])).map(drop), FrameStatus::ArchiveMustBeValid),
        (check(&frame_with(2, &[255; 1024])).map(drop), FrameStatus::ArchiveMustBeValid),
        (changed(|batch| batch.source.clear()), FrameStatus::SourceMustFit),
        (changed(|batch| batch.source = "s".repeat(257)), FrameStatus::SourceMustFit),
        (changed(|batch| batch.event_type.clear()), FrameStatus::EventTypeMustFit),
        (changed(|batch| batch.event_type = "t".repeat(257)), FrameStatus::EventTypeMustFit),
        (changed(|batch| batch.id_kind = 2), FrameStatus::IdKindMustBeKnown),
        (changed(|batch| batch.id_first_sequence = u64::MAX - 1), FrameStatus::IdSequenceMustFit),
        (
            changed(|batch| batch.values = names(17).map(|name| value_column(&name)).collect()),
            FrameStatus::ColumnsMustFit,
        ),
        (
            changed(|batch| batch.dimensions = names(17).map(|name| dimension_column(&name)).collect()),
            FrameStatus::ColumnsMustFit,
        ),
        (changed(|batch| batch.values[0].name.clear()), FrameStatus::ColumnNameMustFit),
        (changed(|batch| batch.dimensions[0].name = "d".repeat(257)), FrameStatus::ColumnNameMustFit),
        (changed(|batch| batch.values.push(value_column("v"))), FrameStatus::ColumnNamesMustBeUnique),
        (changed(|batch| batch.dimensions.push(dimension_column("d"))), FrameStatus::ColumnNamesMustBeUnique),
        (changed(|batch| batch.values[0].scale = 29), FrameStatus::ScaleMustFit),
        (changed(|batch| batch.time.push(0)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.subject_index.truncate(1)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.id_offsets.push(2)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.id_epoch = 1), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.id_kind = 1), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.values[0].mantissa.push(0)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.values[0].nulls.push(0)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.values[0].nulls = vec![4]), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.dimensions[0].index.truncate(1)), FrameStatus::ColumnMustMatchCount),
        (changed(|batch| batch.dimensions[0].nulls = vec![1 << 63]), FrameStatus::ColumnMustMatchCount),
        (
            changed(|batch| {
                let texts: Vec<String> = (0..10_000).map(|entry| entry.to_string()).collect();
                batch.subjects = dictionary(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            }),
            FrameStatus::DictionaryMustFit,
        ),
        (
            changed(|batch| batch.dimensions[0].dictionary = dictionary(&["x"; 8_193])),
            FrameStatus::DictionaryMustFit,
        ),
        (changed(|batch| batch.subjects.bytes[0] = 0xff), FrameStatus::DictionaryMustBeUtf8),
        (changed(|batch| batch.dimensions[0].dictionary.bytes[1] = 0), FrameStatus::DictionaryMustBeUtf8),
        (changed(|batch| batch.subjects.offsets.clear()), FrameStatus::OffsetsMustRise),
        (changed(|batch| batch.subjects.offsets = vec![0, 4, 3]), FrameStatus::OffsetsMustRise),
        (changed(|batch| batch.subjects.offsets = vec![1, 3, 6]), FrameStatus::OffsetsMustRise),
        (changed(|batch| batch.subjects.offsets = vec![0, 3, 5]), FrameStatus::OffsetsMustRise),
        (changed(|batch| batch.id_offsets = vec![0, u32::MAX, 2]), FrameStatus::OffsetsMustRise),
        (
            changed(|batch| batch.dimensions[0].dictionary.offsets = vec![0, 1, 3]),
            FrameStatus::OffsetsMustRise,
        ),
        (changed(|batch| batch.subject_index = vec![0, 2]), FrameStatus::IndexMustBeInDictionary),
        (changed(|batch| batch.dimensions[0].index = vec![2, 0]), FrameStatus::IndexMustBeInDictionary),
        (
            changed(|batch| batch.dimensions[0].dictionary = dictionary(&[])),
            FrameStatus::IndexMustBeInDictionary,
        ),
        (misaligned(), FrameStatus::BodyMustBeAligned),
    ]
}

/// The good body at an odd address.
fn misaligned() -> Result<(), FrameStatus> {
    let frame = given();
    let header = FrameHeader::decode_slice(&frame)?;
    let mut shifted = AlignedBytes::with_len(frame.len() + 8);
    shifted.as_mut_slice()[8..].copy_from_slice(&frame);
    UsageBatch::check(&header, &shifted[FRAME_HEADER_BYTES + 8..]).map(drop)
}

/// Decodes a frame of a schema, whatever its body.
fn decoded(schema: Schema, count: u32, body: &[u8]) -> Result<(), FrameStatus> {
    let frame = encode_frame(schema, count, 0, 0, body);
    let (header, body) = decode_frame(&frame)?;
    match schema {
        Schema::UsageBatchV1 => UsageBatch::check(&header, body).map(drop),
        Schema::HelloV1 => Hello::decode(&header, body).map(drop),
        Schema::WelcomeV1 => Welcome::decode(&header, body).map(drop),
        Schema::AckV1 => Ack::decode(&header, body).map(drop),
        Schema::VerdictV1 => decode_verdicts(&header, body).map(drop),
        Schema::CloseV1 => Close::decode(&header, body).map(drop),
    }
}

fn reply_statuses() -> Vec<(Result<(), FrameStatus>, FrameStatus)> {
    let ack = |entries: &[u8]| [&[0; 16], entries].concat();
    let close = |bytes: usize| [&[0; 2][..], &vec![b'x'; bytes]].concat();
    let of_another_schema = encode_frame(Schema::HelloV1, 0, 0, 0, b"");
    let (header, body) = decode_frame(&of_another_schema).unwrap();
    vec![
        (Ack::decode(&header, body).map(drop), FrameStatus::SchemaMustBeExpected),
        (UsageBatch::check(&header, body).map(drop), FrameStatus::SchemaMustBeExpected),
        (decoded(Schema::AckV1, 0, &[0; 15]), FrameStatus::ReplyMustMatchCount),
        (decoded(Schema::AckV1, 1, &[0; 16]), FrameStatus::ReplyMustMatchCount),
        (decoded(Schema::AckV1, 0, &[0; 17]), FrameStatus::ReplyMustMatchCount),
        (decoded(Schema::AckV1, 2, &ack(&[0, 0, 1, 0, 0, 0, 1, 0])), FrameStatus::RefusalsMustRise),
        (decoded(Schema::AckV1, 2, &ack(&[0, 1, 1, 0, 255, 0, 1, 0])), FrameStatus::RefusalsMustRise),
        (decoded(Schema::AckV1, 1, &ack(&[0, 0, 0, 0])), FrameStatus::RefusalMustBeKnown),
        (decoded(Schema::AckV1, 1, &ack(&[0, 0, 7, 0])), FrameStatus::RefusalMustBeKnown),
        (decoded(Schema::VerdictV1, 2, &[1]), FrameStatus::ReplyMustMatchCount),
        (decoded(Schema::VerdictV1, 2, &[1, 0]), FrameStatus::VerdictMustBeKnown),
        (decoded(Schema::CloseV1, 0, &[0]), FrameStatus::CloseMustBeValid),
        (decoded(Schema::CloseV1, 0, &[0, 0, 0xff]), FrameStatus::CloseMustBeValid),
        (decoded(Schema::CloseV1, 0, &close(CLOSE_REASON_BYTES_MAX + 1)), FrameStatus::CloseMustBeValid),
        (decoded(Schema::HelloV1, 0, b"{}"), FrameStatus::HelloMustBeValid),
        (decoded(Schema::WelcomeV1, 0, b"{}"), FrameStatus::WelcomeMustBeValid),
    ]
}

#[test]
fn every_status_is_the_first_broken_rule_of_some_frame() {
    let mut reached = Vec::new();
    let tables = [header_statuses(), batch_statuses(), reply_statuses()];
    for (line, (outcome, expected)) in tables.into_iter().flatten().enumerate() {
        assert_eq!(outcome, Err(expected), "line {line} of the tables");
        reached.push(expected);
    }
    reached.sort();
    reached.dedup();
    assert_eq!(reached, FrameStatus::ALL);
}

#[test]
fn the_columns_that_are_changed_are_sound_before() {
    assert_eq!(changed(|_| ()), Ok(()));
    assert_eq!(changed(|batch| batch.dimensions[0].nulls = vec![3]), Ok(()));
    let null_points_anywhere = |batch: &mut UsageBatchV1| {
        batch.dimensions[0].index = vec![u32::MAX, 0];
        batch.dimensions[0].nulls = vec![1];
    };
    assert_eq!(changed(null_points_anywhere), Ok(()));
}

#[test]
fn codes_of_statuses_are_stable_and_unique() {
    for (position, status) in FrameStatus::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(status.code()), position + 1);
        assert_eq!(FrameStatus::from_code(status.code()), Some(status));
        let text = status.to_string();
        assert!(!text.ends_with('.') && !text.contains('\n'), "{text}");
    }
    assert_eq!(FrameStatus::from_code(0), None);
}
