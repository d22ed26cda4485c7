//! Files that a client finds in its outbox.

use tallymark_client::testing::OutboxFiles;
use wire::{AlignedBytes, BatchBuilder, IdMode};

/// A batch of one event.
pub(crate) fn batch(number: u64) -> AlignedBytes {
    let mut builder = BatchBuilder::new("source", "type", IdMode::Sequenced { epoch: 1, first: number });
    builder.push_parts(&[], "a", domain::limits::EVENT_TIME_MIN, &[("n", 1, 0)], &[]).expect("it has room");
    builder.finish(number, 0)
}

/// An outbox of two files, the second of any bytes; one of sound batches of which some bytes changed (`position, value` of
/// three bytes each); and one whose records are any bytes behind sound checksums: a byte for the kind, one for the
/// length, then the body; a length of zero begins the next file.
pub fn outbox(bytes: &[u8]) {
    let files = OutboxFiles::default();
    files.add_record(0, 1, &batch(1));
    files.add(1, bytes.to_vec());
    goes_on(&files);

    let files = OutboxFiles::default();
    let mut sound = sound_file();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % sound.len();
        sound[at] = change[2];
    }
    files.add(0, sound);
    goes_on(&files);

    let (files, mut file) = (OutboxFiles::default(), 0);
    let mut rest = bytes;
    while let Some((&[kind, length], after)) = rest.split_first_chunk() {
        let body;
        (body, rest) = after.split_at(usize::from(length).min(after.len()));
        match kind % 4 {
            0 => files.add_record(file, 1, &batch(u64::from(length))),
            kind => files.add_record(file, kind.into(), body),
        }
        file += u64::from(length == 0);
    }
    goes_on(&files);
}

/// Some batches and a mark, as they are written.
pub(crate) fn sound_file() -> Vec<u8> {
    let files = OutboxFiles::default();
    for number in 1..=4 {
        files.add_record(0, 1, &batch(number));
    }
    files.add_record(0, 2, &[0; 16]);
    files.bytes_of(0)
}

/// Whatever is in an outbox: what is read of it is read again by the next process, and what is added behind it too.
fn goes_on(files: &OutboxFiles) {
    let more = batch(99);
    let Ok((recovered, batches)) = files.visit(&[&more]) else { return };
    assert_eq!(recovered.batches, batches.len() as u64, "what is told is what is sent");
    let (_, mut again) = files.visit(&[]).expect("an outbox that was taken once is taken again");
    assert_eq!(again.pop().as_deref(), Some(&*more), "what was added is there");
    assert!(again.iter().map(|frame| &**frame).eq(batches.iter().map(|frame| &**frame)), "nothing is lost");
}
