//! A run file that may be any bytes, for those who throw bytes at it.
//!
//! Owns: a sound run, and everything that is ever read of a run. Leaves to others: what a run is (`super`).
//!
//! Invariants: what is read of a run that passes for sound is in the order of its keys, and is found by them.

use std::sync::Arc;

use domain::EventPosition;
use domain::limits::EVENT_TIME_MIN;

use super::super::memtable::Memtable;
use super::super::{Seen, Standing};
use super::format::{HEADER_BYTES, RunLog, RunName, key_of, run_name};
use super::run::{Kept, RunError, RunReader};
use super::store::RunStore;
use super::work::{Inputs, RunJob};
use crate::io::Storage;
use crate::log::crc_of;
use crate::testing::disk::SimulatedDisk;

const LOG: RunLog = RunLog { incarnation: 3, partition: 1, key_check: 99 };
const ENTRIES: u64 = 200;

fn identity(number: u64) -> u128 {
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

fn store(disk: &SimulatedDisk) -> RunStore {
    RunStore::open(Arc::new(disk.folder("runs")), LOG).expect("no fault is set")
}

/// The bytes of a sound run.
pub fn sound_run() -> Vec<u8> {
    let disk = SimulatedDisk::default();
    let mut table = Memtable::default();
    for number in 0..ENTRIES {
        let vacant = table.look_up(identity(number), |_| true).expect_err("every identity is another");
        let position = EventPosition::new(number, 0);
        let (payload_digest, time) = (number * 31, EVENT_TIME_MIN + number as i64);
        table.insert(vacant, Seen { payload_digest, position, time, standing: Standing::Metered });
    }
    let inputs = Inputs::Table(Arc::new(table));
    let job = RunJob { shard: 0, inputs, remembered_from: EventPosition::from_bits(0) };
    store(&disk).work_off(job).expect("no fault is set");
    disk.content(&format!("runs/{}", run_name(1)))
}

/// Gives a header the checksum of its bytes.
pub fn mend_header(run: &mut [u8]) {
    if let Some(header) = run.first_chunk_mut::<HEADER_BYTES>() {
        let (bytes, crc) = header.split_at_mut(HEADER_BYTES - 4);
        crc.copy_from_slice(&crc_of(&[bytes]).to_le_bytes());
    }
}

/// Reads a run in every way in which it is read: for its ids, with and without what is kept in memory, and as a whole.
/// Gives its entries.
///
/// # Errors
/// [`RunError`]: it is not of this log, or not whole.
pub fn read_run(bytes: &[u8]) -> Result<usize, RunError> {
    let disk = SimulatedDisk::default();
    let file = disk.folder("runs").create(&run_name(1)).expect("the name is free");
    file.write_at(0, bytes).expect("no fault is set");
    let store = store(&disk);
    let header_crc = bytes.get(..HEADER_BYTES).and_then(<[u8]>::last_chunk);
    let name = RunName { number: 1, header_crc: header_crc.map_or(0, |crc| u32::from_le_bytes(*crc)) };
    let mut buffer = Vec::new();
    for kept in [Kept::All, Kept::Nothing] {
        let run = store.open_run(0, name, kept)?;
        for number in (0..ENTRIES + 10).map(|number| key_of(identity(number))) {
            if kept == Kept::Nothing || run.may_hold(number) {
                run.read_soon(number);
                run.find(number, &mut buffer, |_| true)?;
            }
        }
    }
    let run = store.open_run(0, name, Kept::All)?;
    let mut reader = RunReader::new(store.open_run(0, name, Kept::Index)?);
    let mut entries = 0;
    while let Some(entry) = reader.next()? {
        let found = run.find(entry.key, &mut buffer, |position| position == entry.seen.position)?;
        assert_eq!(found, Some(entry.seen), "what a run has is found");
        entries += 1;
    }
    let job = RunJob {
        shard: 0,
        inputs: Inputs::Runs(vec![name]),
        remembered_from: EventPosition::new(ENTRIES / 2, 0),
    };
    let _ = store.work_off(job)?;
    Ok(entries)
}
