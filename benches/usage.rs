//! Usage queries over a log in memory: what a scan costs beside reading the log alone.
//!
//! Goal: events scanned per second, as figures of one run. Not a goal: disks and busy shards. `cargo test --bench usage`
//! runs each part once.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use billing::catalog::{Catalog, CatalogFile};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::plan::{MeterProgram, MeteringPlan, NegativeUsage};
use domain::time::{HOUR, WindowUnit};
use domain::{MeterId, Span, Subject, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::log::{LogError, LogKind, LogOptions, LogReader, LogWriter};
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use engine::testing::disk::SimulatedDisk;
use machine::KnownCorrections;
use machine::usage_query::{
    GroupKey, Known, Question, ScannedLog, UsageFold, UsageQuery, UsageScope, UsageTerms, scan,
};
use wire::usage_record::{BatchRecordHead, KIND_USAGE_BATCH};
use wire::{BatchBuilder, IdMode};

const BATCH_EVENTS: u64 = 4_096;
const BATCHES: u64 = 128;
const SUBJECTS: u64 = 1_000;
const OPTIONS: LogOptions =
    LogOptions { kind: LogKind::Usage, partition: 0, incarnation: 0, segment_bytes: 64 << 20 };

fn start() -> Timestamp {
    Timestamp::parse("2026-01-15T00:00:00Z").expect("a constant instant")
}

fn catalog() -> Catalog {
    let text = "catalog = 1\n[[meter]]\nid = \"units\"\nevent_type = \"usage\"\naggregation = \"sum\"\nvalue = \"units\"\n";
    let file = CatalogFile::parse(text).expect("a catalog");
    let mut catalog = Catalog::default();
    for resource in file.resources() {
        catalog.apply(resource, 0).expect("the catalog takes its own file");
    }
    catalog
}

/// A log of "64-byte events", and a shard that took them.
fn log(key: IdentityKey) -> (SimulatedDisk, Shard, u64) {
    let disk = SimulatedDisk::default();
    let (mut writer, _) =
        LogWriter::recover::<LogError>(Arc::new(disk.clone()), OPTIONS, &mut |_| Ok(())).expect("a new log");
    let mut shard = Shard::new(0);
    let program = MeterProgram {
        meter: MeterId::new("units").expect("an id"),
        event_type: "usage".into(),
        aggregation: domain::plan::Aggregation::Sum,
        value: Some("units".into()),
        key: None,
        operation: None,
        group_by: Vec::new(),
        filter: Vec::new(),
        scale: 18,
        negative_usage: NegativeUsage::Reject,
        since_control_offset: 0,
    };
    let mut plan = MeteringPlan { programs: vec![program], ..MeteringPlan::default() };
    plan.policy.pending_per_slot_max = u32::MAX;
    assert!(!shard.handle_barrier(0, &Arc::new(plan)));
    let mut builder = BatchBuilder::new("bench", "usage", IdMode::Given);
    for batch in 0..BATCHES {
        for number in batch * BATCH_EVENTS..(batch + 1) * BATCH_EVENTS {
            let (id, subject) = (
                format!("{number:016x}"),
                format!("key-{:06}", number.wrapping_mul(2_654_435_761) % SUBJECTS),
            );
            let value = [("units", i128::from(number % 99_999), 2)];
            let model = if number % 3 == 0 { "large" } else { "small" };
            let time = start().nanoseconds() + number as i64 * 1_000_000_000;
            let dimensions = [("model", model), ("region", "eu")];
            builder.push_parts(id.as_bytes(), &subject, time, &value, &dimensions).expect("there is room");
        }
        let frame = Arc::new(builder.finish(batch + 1, 0));
        let received_at = start().plus(batch as i64 * 4_096 * 1_000_000_000);
        let mut prepared = PreparedBatch::prepare(frame.clone(), None, received_at.plus(HOUR), key, 1)
            .expect("a valid batch");
        let head = BatchRecordHead { producer: 1, refusals: Vec::new() }.encode();
        let at = received_at.nanoseconds();
        prepared.offset = writer.stage(KIND_USAGE_BATCH, at, &[&head, &frame]).expect("there is room");
        writer.commit(at).expect("a disk in memory takes it");
        shard.handle_batch(&prepared, &mut |_, _| {}).expect("nothing is on disk");
    }
    (disk, shard, writer.next_offset())
}

fn usage(criterion: &mut Criterion) {
    let key = IdentityKey::new(7);
    let (disk, shard, end) = log(key);
    let shards = [shard];
    let catalog = catalog();
    let everything = Question {
        meter: MeterId::new("units").expect("an id"),
        scope: UsageScope::All,
        span: Span::new(start(), start().plus(30 * 24 * HOUR)),
        window: None,
        zone: Zone::utc(),
        group_by: Vec::new(),
        filter: BTreeMap::new(),
        shows_empty: false,
    };
    let subject = Subject::new("key-000001").expect("a short subject");
    let by_model = vec![GroupKey::Dimension("model".into())];
    let hours = Some(WindowUnit::Hour);
    let questions = [
        ("everything", everything.clone()),
        (
            "everything by hour and model",
            Question { window: hours, group_by: by_model, ..everything.clone() },
        ),
        ("one subject of 1,000", Question { scope: UsageScope::Subjects([subject].into()), ..everything }),
    ];
    let mut group = criterion.benchmark_group("usage query, 524,288 events");
    group.sample_size(10).throughput(Throughput::Elements(BATCHES * BATCH_EVENTS));
    group.bench_function("reading the log alone", |bencher| {
        bencher.iter(|| {
            let mut reader = LogReader::open(&disk, OPTIONS, 0, Some(end)).expect("a sound log");
            while let Some(record) = reader.next().expect("a sound log") {
                black_box(record.payload);
            }
        });
    });
    for (name, question) in questions {
        let query = UsageQuery::new(question).expect("a question that can be answered");
        let terms = UsageTerms::of(&catalog, &query).expect("the meter is there");
        let known = Known { before: end, recorded_by: None };
        let log = ScannedLog { storage: &disk, options: OPTIONS, key };
        let nothing = KnownCorrections::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut fold = UsageFold::new(query.clone(), terms.clone());
                let mut judge = shards.as_slice();
                scan(log, known, &nothing, &mut fold, &mut judge, &|| true).expect("a sound log");
                let answer = fold.finish().expect("sums fit");
                assert!(answer.event_count > 0);
                black_box(answer)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, usage);
criterion_main!(benches);
