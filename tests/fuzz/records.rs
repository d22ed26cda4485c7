//! Records of logs behind their checksums: heads of batches, barriers, parts of stored content, journals.

use domain::{EntityId, Timestamp};
use machine::{JournalBatch, PartJoiner};
use wire::control::JournalRun;
use wire::usage_record::{BatchRecordHead, decode_barrier, encode_barrier};

/// A record of the usage log, parts of stored content (two bytes for the length of each), and the journals of a run.
pub fn records(bytes: &[u8]) {
    if let Some((head, frame)) = BatchRecordHead::decode(bytes) {
        let written = head.encode();
        assert_eq!(written.len() + frame.len(), bytes.len(), "a record is taken whole");
        let again = BatchRecordHead::decode(&[&written, frame].concat()).map(|(again, _)| again == head);
        assert_eq!(again, Some(true), "a head is written as it was read");
    }
    if let Some(offset) = decode_barrier(bytes) {
        assert_eq!(encode_barrier(offset), bytes, "a barrier is written one way");
    }
    let mut joiner = PartJoiner::default();
    let mut rest = bytes;
    for offset in 0.. {
        let Some((length, after)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let part;
        (part, rest) = after.split_at(length);
        match joiner.push(offset, part) {
            Ok(Some(content)) => assert!(content.offset <= offset && content.last_offset == offset),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    let entity = EntityId::new("inc").expect("an id");
    let run = JournalRun { entity, first_run: 1, batches: [1, 2], at: Timestamp::MIN, reason: String::new() };
    let Ok(journals) = JournalBatch::decode(&run, bytes) else { return };
    let written = journals.encode();
    let again = JournalBatch::decode(&run, &written).expect("what was written is read");
    assert_eq!(again.encode(), written, "journals are written one way");
}
