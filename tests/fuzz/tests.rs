//! Every target over its seeds, and over seeds with single bytes changed.

use std::path::PathBuf;

use billing::catalog::CatalogFile;
use machine::Batch;
use wire::control::ControlRecord;

use crate::TARGETS;
use crate::logs::{sections_of, sound_files};
use crate::outbox::sound_file;

/// Changes of each seed.
const CHANGES: usize = 64;

/// The golden frames are the seeds of frames.
fn folder_of(target: &str) -> PathBuf {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    if target == "frames" { project.join("schemas/golden") } else { project.join("fuzz/seeds").join(target) }
}

fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let folder = folder_of(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Seeds that are made and not written: those of formats that only machines write.
#[test]
fn made_seeds_are_of_the_formats_in_force() {
    let frame = |name: &str| std::fs::read(folder_of("frames").join(name)).unwrap();
    let frames = ["usage_batch_v1.given.bin", "usage_batch_v1.sequenced.bin"].map(frame);
    let [segment, index] = sound_files();
    for (target, name, made) in [
        ("log", "segment.bin", segment),
        ("index", "index.bin", index),
        ("snapshot", "sections.bin", sections_of(&frames)),
        ("runs", "run.bin", engine::testing::runs::sound_run()),
        ("outbox", "batches-and-mark.bin", sound_file()),
    ] {
        let file = folder_of(target).join(name);
        if std::env::var("TALLYMARK_BLESS").is_ok_and(|bless| bless == "1") {
            std::fs::write(&file, &made).unwrap();
        }
        let kept = std::fs::read(&file).unwrap_or_default();
        assert!(
            kept == made,
            "{} is not what is written today; TALLYMARK_BLESS=1 rewrites it",
            file.display()
        );
    }
}

/// A seed that is refused at its first byte leads nowhere.
#[test]
fn written_seeds_are_taken() {
    for seed in seeds_of("control") {
        ControlRecord::decode(&seed).unwrap_or_else(|error| panic!("{error}: {}", seed.escape_ascii()));
    }
    for seed in seeds_of("charges") {
        Batch::decode(&seed).unwrap();
    }
    for seed in seeds_of("catalog") {
        CatalogFile::parse(str::from_utf8(&seed).unwrap()).unwrap();
    }
}

#[test]
fn seeds_and_their_neighbours_break_no_target() {
    for (name, target) in TARGETS {
        let seeds = seeds_of(name);
        assert!(!seeds.is_empty(), "{name} has seeds");
        target(&[]);
        for seed in seeds {
            target(&seed);
            for change in 0..CHANGES.min(seed.len()) {
                let at = change * seed.len() / CHANGES.min(seed.len());
                for flip in [1, 0x80, 0xff] {
                    let mut changed = seed.clone();
                    changed[at] ^= flip;
                    target(&changed);
                }
                target(&seed[..at]);
            }
        }
    }
}
