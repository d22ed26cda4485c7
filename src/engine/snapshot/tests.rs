//! Whole files are read back, and everything else is left aside by name.

use super::*;
use crate::testing::disk::SimulatedDisk;

fn head(usage_offset: u64) -> SnapshotHead {
    SnapshotHead {
        incarnation: 0,
        partition: 0,
        shards: 2,
        usage_offset,
        control_offset: 77,
        history: [7; 32],
    }
}

fn write(disk: &SimulatedDisk, usage_offset: u64, sections: &[(u16, Section)]) -> u64 {
    let mut writer = SnapshotWriter::create(disk, &head(usage_offset)).unwrap();
    sections.iter().for_each(|(shard, section)| writer.write(*shard, section).unwrap());
    writer.finish(disk).unwrap()
}

fn sections() -> Vec<(u16, Section)> {
    SectionKind::ALL
        .iter()
        .enumerate()
        .map(|(index, kind)| (index as u16, Section { kind: *kind, body: vec![index as u8; 700 * index] }))
        .collect()
}

fn read(disk: &SimulatedDisk, usage_offset: u64) -> Result<Vec<(u16, Section)>, SnapshotError> {
    let mut found = Vec::new();
    read_snapshot(disk, usage_offset, |found| *found == head(usage_offset), &mut |shard, kind, body| {
        found.push((shard, Section { kind, body: body.to_vec() }));
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn what_was_written_is_read_and_the_last_two_are_kept() {
    let disk = SimulatedDisk::default();
    for offset in [100, 200, 300] {
        write(&disk, offset, &sections());
    }
    assert_eq!(snapshots(&disk).unwrap(), [200, 300]);
    assert_eq!(read(&disk, 300).unwrap(), sections());
    assert!(matches!(read(&disk, 100), Err(SnapshotError::Io(_))));
    write(&disk, 300, &[]);
    assert_eq!(read(&disk, 300).unwrap(), [], "a file of the same barrier is written anew");
    assert_eq!(snapshot_offset("0000000000000064.snap"), Some(100));
    assert_eq!(snapshot_offset("64.snap"), None);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let disk = SimulatedDisk::default();
    let few: Vec<(u16, Section)> = sections()
        .into_iter()
        .map(|(shard, mut section)| {
            section.body.truncate(3);
            (shard, section)
        })
        .collect();
    let bytes = write(&disk, 100, &few);
    let file = disk.open(&snapshot_name(100), true).unwrap();
    let mut whole = vec![0; bytes as usize];
    file.read_at(0, &mut whole).unwrap();
    for (at, byte) in whole.iter().enumerate() {
        // Bytes 76 to 80 are reserved.
        if (76..80).contains(&at) {
            continue;
        }
        file.write_at(at as u64, &[byte ^ 0x10]).unwrap();
        assert!(read(&disk, 100).is_err(), "byte {at}");
        file.write_at(at as u64, &[*byte]).unwrap();
    }
    for end in 0..whole.len() {
        file.truncate(end as u64).unwrap();
        assert!(read(&disk, 100).is_err(), "{end} bytes");
        file.write_at(0, &whole).unwrap();
    }
    assert_eq!(read(&disk, 100).unwrap(), few);
    file.write_at(bytes, &[0]).unwrap();
    assert!(read(&disk, 100).is_err(), "bytes behind the end mark");
}

#[test]
fn a_snapshot_of_another_history_is_not_taken() {
    let disk = SimulatedDisk::default();
    write(&disk, 100, &sections());
    let taken = read_snapshot(&disk, 100, |head| head.shards == 3, &mut |_, _, _| Ok(()));
    assert!(matches!(taken, Err(SnapshotError::MustBeOfTheseLogs)));
}

/// A disk whose list of names was made before the last of them went away.
struct ListedBefore(SimulatedDisk, Vec<String>);

impl Storage for ListedBefore {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.1.clone())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.0.create(name)
    }

    fn open(&self, name: &str, is_writable: bool) -> io::Result<Box<dyn StorageFile>> {
        self.0.open(name, is_writable)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }
}

/// The thread of runs listed snapshots, a new one was finished and took the oldest away, and that this one could not be opened
/// ended the server.
#[test]
fn a_snapshot_that_goes_away_meanwhile_names_no_runs() {
    let disk = SimulatedDisk::default();
    let runs = |number: u64| {
        let body = codec::Fields::default().u64(number).u32(7).u8(0).take();
        (0, Section { kind: SectionKind::Runs, body })
    };
    write(&disk, 100, &[runs(1), runs(2)]);
    write(&disk, 200, &[runs(2), runs(3)]);
    let names = disk.list().unwrap();
    assert_eq!(runs_named(&disk).unwrap(), [1, 2, 3].into());
    disk.remove(&snapshot_name(100)).unwrap();
    assert_eq!(runs_named(&ListedBefore(disk, names)).unwrap(), [2, 3].into());
}
