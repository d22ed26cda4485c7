//! The path of an event in process: build a batch, check and hash it, decide and fold, rate.
//!
//! Goal: show where a core's time goes, as figures of one run. Not a goal: disks and sockets; `loadgen` measures those
//! against a raw sink. `cargo test --bench path` runs each part once.

use std::hint::black_box;
use std::sync::Arc;

use billing::catalog::{Catalog, CatalogFile};
use billing::rating::{Measure, SliceMeasure, WindowTerms, position};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::time::HOUR;
use domain::{Exact, Period, PriceId, Span, Zone};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use wire::{AlignedBytes, BatchBuilder, IdMode};

use self::traffic::{EVENTS, frame, plan, start, subjects};

mod traffic;

fn path(criterion: &mut Criterion) {
    let key = IdentityKey::new(7);
    let subjects = subjects();
    let mut builder = BatchBuilder::new("bench", "usage", IdMode::Given);
    let mut group = criterion.benchmark_group("event path, one batch of 4,096");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("build", |bencher| bencher.iter(|| black_box(frame(&mut builder, &subjects, 0))));
    let one = Arc::new(frame(&mut builder, &subjects, 0));
    let prepare = |frame: Arc<AlignedBytes>| {
        PreparedBatch::prepare(frame, None, start().plus(HOUR), key, 1).expect("a valid batch")
    };
    group.bench_function("check and hash", |bencher| bencher.iter(|| black_box(prepare(one.clone()))));
    let mut shard = Shard::new(0);
    let _ = shard.handle_barrier(0, &plan(&subjects));
    let mut first = 0;
    group.bench_function("decide and fold, new ids", |bencher| {
        bencher.iter_batched(
            || {
                first += EVENTS;
                prepare(Arc::new(frame(&mut builder, &subjects, first)))
            },
            |batch| {
                let handled = shard.handle_batch(&batch, &mut |_, verdict| {
                    black_box(verdict);
                });
                handled.expect("nothing is on disk");
            },
            BatchSize::LargeInput,
        );
    });
    let again = prepare(one);
    group.bench_function("decide, all duplicates", |bencher| {
        bencher.iter(|| {
            let handled = shard.handle_batch(&again, &mut |_, verdict| {
                black_box(verdict);
            });
            handled.expect("nothing is on disk");
        });
    });
    group.finish();
}

fn rating(criterion: &mut Criterion) {
    let file = CatalogFile::parse(
        r#"
        catalog = 1
        [[meter]]
        id = "m"
        event_type = "usage"
        aggregation = "count"
        [[plan]]
        id = "p"
        currency = "USD"
        [[price]]
        id = "tiers"
        plan = "p"
        meter = "m"
        model = "graduated"
        per = 1000
        window = "month"
        tiers = [{ up_to = "25000000", unit_amount = "0.030" }, { up_to = "100000000", unit_amount = "0.024" }, { unit_amount = "0.018" }]
        "#,
    );
    let mut catalog = Catalog::default();
    for resource in file.expect("a valid catalog").resources() {
        catalog.apply(resource, 0).expect("a valid resource");
    }
    let price = catalog.price(&PriceId::new("tiers").expect("an id")).expect("the price");
    let window = Zone::utc().month(Period::parse("2026-01").expect("a month"));
    let slices: Vec<SliceMeasure<'_>> = (0..744)
        .map(|hour| SliceMeasure {
            slice: Span::new(window.from.plus(hour * HOUR), window.from.plus((hour + 1) * HOUR)),
            measure: Measure::Scalar(Exact::new(i128::from(200_000 + hour), 0)),
            covered: Exact::ZERO,
            event_count: 1_000,
            event_digest: 1,
        })
        .collect();
    let currency = domain::Currency::from_code("USD").expect("a currency");
    let (active, group, zone) = ([window.into()], domain::GroupTexts::NONE, Zone::utc());
    let terms = WindowTerms {
        price,
        window,
        active: &active,
        group: &group,
        zone: &zone,
        currency,
        as_of: window.until,
        is_continued: false,
        elsewhere: None,
    };
    let mut group = criterion.benchmark_group("rating");
    group.throughput(Throughput::Elements(slices.len() as u64));
    group.bench_function("graduated month of 744 slices", |bencher| {
        bencher.iter(|| black_box(position(&terms, &slices).expect("amounts fit")));
    });
    group.finish();
}

criterion_group!(benches, path, rating);
criterion_main!(benches);
