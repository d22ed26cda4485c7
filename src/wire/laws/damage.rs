//! Damage is refused; damage with a right checksum is refused or consistent, and never a panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::cases;
use super::samples::{check, frame_with, given, sequenced};
use crate::buffer::AlignedBytes;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema, decode_frame, encode_frame};
use crate::hello::{Hello, Welcome};
use crate::reply::{Ack, Close, CloseCode, decode_verdicts, encode_verdicts};
use crate::usage::Refusal;
use crate::verdict::{RefusalCode, Verdict};

/// Reads everything that a batch has, and says how much that is.
fn walk(frame: &AlignedBytes) -> Option<usize> {
    let batch = check(frame).ok()?;
    let mut bytes = batch.source().len() + batch.event_type().len();
    for index in 0..batch.len() {
        bytes += batch.id(index).to_string().len() + batch.subject(batch.subject_index(index)).len();
        bytes += usize::from(batch.time(index) > 0);
        for column in batch.value_columns() {
            bytes += usize::from(column.value(index).is_some());
        }
        for column in batch.dimension_columns() {
            bytes += column.index(index).map_or(0, |entry| column.text(entry).len());
        }
    }
    for entry in 0..batch.subject_count() {
        bytes += batch.subject(entry).len();
    }
    for column in batch.dimension_columns() {
        bytes += (0..column.dictionary_len()).map(|entry| column.text(entry).len()).sum::<usize>();
    }
    let refusals = batch.refusals();
    assert!(refusals.is_sorted_by(|a, b| a.index < b.index));
    assert!(refusals.iter().all(|refusal| usize::from(refusal.index) < batch.len()));
    Some(bytes)
}

fn flipped(frame: &[u8], bit: usize) -> AlignedBytes {
    let mut flipped = AlignedBytes::copy_of(frame);
    flipped.as_mut_slice()[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// The same envelope and body with the checksum that belongs to them, if the envelope is one.
fn sealed_again(frame: &AlignedBytes) -> Option<AlignedBytes> {
    let header = FrameHeader::decode_slice(frame).ok()?;
    let body = &frame[FRAME_HEADER_BYTES..];
    if body.len() != header.body_bytes as usize {
        return None;
    }
    let again = FrameHeader::for_body(header.schema, header.count, header.sequence, header.flags, body);
    let mut sealed = frame.clone();
    sealed.as_mut_slice()[..FRAME_HEADER_BYTES].copy_from_slice(&again.encode());
    Some(sealed)
}

fn small_frames() -> Vec<AlignedBytes> {
    let ack = Ack {
        offset: 4_096,
        received_at: domain::Timestamp::from_nanoseconds(super::samples::TIME),
        refusals: vec![Refusal { index: 1, code: RefusalCode::TimeMustBeInRange }],
    };
    let verdicts = encode_verdicts(7, &[Verdict::Accepted.code(), Verdict::Conflict.code()]);
    let hello = Hello { token: "t".into(), client: "c/1".into(), verdicts: false };
    let welcome =
        Welcome { server: "tallymark/0".into(), batch_bytes_max: 1_048_576, batches_in_flight_max: 4 };
    let replies = [
        ack.encode(7),
        verdicts,
        Close::new(CloseCode::GoingAway, "später").encode(),
        hello.encode(),
        welcome.encode(),
    ];
    let mut frames = vec![given(), sequenced()];
    frames.extend(replies.iter().map(|frame| AlignedBytes::copy_of(frame)));
    frames
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    for frame in small_frames() {
        for bytes in 0..frame.len() {
            assert!(decode_frame(&frame[..bytes]).is_err(), "{bytes} bytes");
        }
        let mut longer = frame.to_vec();
        longer.push(0);
        assert!(decode_frame(&longer).is_err());
        for bit in 0..frame.len() * 8 {
            assert!(decode_frame(&flipped(&frame, bit)).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn every_flipped_bit_with_a_right_checksum_is_refused_or_consistent() {
    for frame in [given(), sequenced()] {
        assert!(walk(&frame).is_some());
        let (mut refused, mut taken) = (0, 0);
        for bit in 0..frame.len() * 8 {
            match sealed_again(&flipped(&frame, bit)).and_then(|sealed| walk(&sealed)) {
                Some(_) => taken += 1,
                None => refused += 1,
            }
        }
        assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken");
    }
}

#[test]
fn a_reply_that_is_taken_is_the_only_writing_of_what_it_says() {
    for frame in small_frames().into_iter().skip(2) {
        for bit in 0..frame.len() * 8 {
            let Some(sealed) = sealed_again(&flipped(&frame, bit)) else { continue };
            let (header, body) = decode_frame(&sealed).unwrap();
            let written_again = match header.schema {
                Schema::UsageBatchV1 => None,
                Schema::AckV1 => Ack::decode(&header, body).ok().map(|ack| ack.encode(header.sequence)),
                Schema::VerdictV1 => decode_verdicts(&header, body).ok().map(|verdicts| {
                    let codes: Vec<u8> = verdicts.iter().map(|verdict| verdict.code()).collect();
                    encode_verdicts(header.sequence, &codes)
                }),
                Schema::CloseV1 => Close::decode(&header, body).ok().map(|close| {
                    let body = [&close.code.code().to_le_bytes(), close.reason.as_bytes()].concat();
                    encode_frame(Schema::CloseV1, 0, header.sequence, 0, &body)
                }),
                // JSON has many writings; reading must only not panic.
                Schema::HelloV1 => Hello::decode(&header, body).ok().and(None),
                Schema::WelcomeV1 => Welcome::decode(&header, body).ok().and(None),
            };
            if let Some(written) = written_again {
                assert_eq!(written, sealed.to_vec());
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn wild_bytes_are_refused_or_consistent(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        count in 1u32..6,
        is_minted: bool,
    ) {
        let frame = if is_minted { sequenced() } else { given() };
        let mut body = frame[FRAME_HEADER_BYTES..].to_vec();
        for (index, byte) in changes {
            let index = index.index(body.len());
            body[index] = byte;
        }
        if let Some(cut) = cut {
            body.drain(..cut.index(body.len()));
        }
        walk(&frame_with(count, &body));
    }

    #[test]
    fn any_bytes_at_all_are_no_panic(bytes in vec(any::<u8>(), 0..600), count in 1u32..200) {
        let _ = decode_frame(&bytes);
        walk(&frame_with(count, &bytes));
    }
}
