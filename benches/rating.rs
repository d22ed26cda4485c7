//! What rating costs: from changed cells to the charge lines of a cut, and each pricing model beside a bare loop.
//!
//! Goals: nanoseconds a cell of a whole cut (position, difference to what was issued, lines, bytes, digest, seal) of many
//! accounts and of few; the same after many cuts as a ratio to after few; and nanoseconds a quantity of each model, beside a
//! multiply-add loop of the same run.
//! Non-goals: logs and shards (`path`).

use std::hint::black_box;

use billing::catalog::{Catalog, CatalogFile};
use billing::rating::{Measure, SliceMeasure, WindowTerms, position};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::{Exact, Period, PriceId, Zone};

use self::cutter::{Cutter, Shape};

mod cutter;

/// Cuts of each shape that are measured.
const CUTS: usize = 7;
/// Accounts that are cut many times: what was issued stays in memory until it is journaled.
const ACCOUNTS_OF_MANY_CUTS: usize = 1_000;
const FEW_CUTS: usize = 20;
const MANY_CUTS: usize = 200;

/// Whole cuts of many accounts, and of few with many groups: processor time a cell, of the cell to the line of a sealed batch.
#[expect(clippy::print_stdout, clippy::disallowed_macros, reason = "a bench talks to whoever runs it")]
fn cut(_: &mut Criterion) {
    for shape in shapes() {
        let mut cutter = Cutter::new(shape);
        // The first cut rates everything, because every account is new.
        let mut spent = (0..=CUTS).map(|_| spent_on_cut(&mut cutter, shape)).skip(1).collect::<Vec<_>>();
        spent.sort_unstable();
        let (fastest, median) = (spent[0], spent[CUTS / 2]);
        println!("cut/{shape:?}: {median} ns a cell, fastest {fastest} ns, of {CUTS} cuts");
    }
}

/// Large with `cargo bench`, tiny with the tests.
fn shapes() -> [Shape; 3] {
    let (cells, groups) =
        if std::env::args().any(|arg| arg == "--bench") { (100_000, 500) } else { (100, 10) };
    [(cells / 100, 1), (cells, 1), (cells / groups, groups)]
        .map(|(accounts, groups)| Shape { accounts, groups })
}

/// Nanoseconds of processor a cell.
fn spent_on_cut(cutter: &mut Cutter, shape: Shape) -> u128 {
    cutter.open();
    let start = processor_time();
    let lines = black_box(cutter.rate());
    let spent = processor_time() - start;
    assert_eq!(lines, shape.cells());
    spent / shape.cells() as u128
}

/// What the thread took, without what others took meanwhile.
fn processor_time() -> u128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128
}

/// What a cut costs does not depend on how many there were: the fastest of some early ones beside that of some late ones.
#[expect(clippy::print_stdout, clippy::disallowed_macros, reason = "a bench talks to whoever runs it")]
fn cuts_before(_: &mut Criterion) {
    let shape = Shape { accounts: ACCOUNTS_OF_MANY_CUTS, groups: 1 };
    let mut cutter = Cutter::new(shape);
    let mut best = |until: usize| {
        for _ in 0..until {
            spent_on_cut(&mut cutter, shape);
        }
        (0..FEW_CUTS).map(|_| spent_on_cut(&mut cutter, shape)).min().expect("some cuts")
    };
    let (early, late) = (best(1), best(MANY_CUTS));
    println!(
        "cut/cuts before: {early} ns a cell among the first {FEW_CUTS} cuts, {late} ns after {MANY_CUTS} more: {} %",
        late * 100 / early
    );
}

/// One cell of a window to its line: terms, tiers, version, rounding; without the machine around it.
fn position_of_a_cell(criterion: &mut Criterion) {
    let mut catalog = Catalog::default();
    for resource in CatalogFile::parse(MODELS).expect("a valid catalog").resources() {
        catalog.apply(resource, 0).expect("a valid resource");
    }
    let price = catalog.price(&PriceId::new("graduated").expect("an id")).expect("the price");
    let zone = Zone::utc();
    let window = zone.month(Period::parse("2026-01").expect("a month"));
    let currency = domain::Currency::from_code("USD").expect("a currency");
    let (group_texts, active) = (domain::GroupTexts::NONE, [window.into()]);
    let terms = WindowTerms {
        price,
        window,
        active: &active,
        group: &group_texts,
        zone: &zone,
        currency,
        as_of: window.until,
        is_continued: false,
        elsewhere: None,
    };
    let cells: Vec<SliceMeasure<'_>> = (0..1_000i128)
        .map(|n| SliceMeasure {
            slice: window,
            measure: Measure::Scalar(Exact::new(n * 137 * 10i128.pow(18), 18)),
            covered: Exact::ZERO,
            event_count: 1,
            event_digest: 1,
        })
        .collect();
    let mut group = criterion.benchmark_group("position");
    group.throughput(Throughput::Elements(cells.len() as u64));
    group.bench_function("graduated cells to lines", |bencher| {
        bencher.iter(|| {
            for cell in black_box(&cells) {
                black_box(position(&terms, std::slice::from_ref(cell)).expect("amounts fit"));
            }
        });
    });
    group.finish();
}

/// A price of every model that prices a quantity.
const MODELS: &str = include_str!("models.toml");

fn models(criterion: &mut Criterion) {
    let mut catalog = Catalog::default();
    for resource in CatalogFile::parse(MODELS).expect("a valid catalog").resources() {
        catalog.apply(resource, 0).expect("a valid resource");
    }
    let quantities: Vec<i128> = (0..1_000).map(|n| n * 137 * 10i128.pow(18)).collect();
    let group_texts = domain::GroupTexts::from([("kind".to_string(), "small".to_string())]);
    let mut group = criterion.benchmark_group("models");
    group.throughput(Throughput::Elements(quantities.len() as u64));
    group.bench_function("bare multiply-add", |bencher| {
        bencher
            .iter(|| black_box(&quantities).iter().fold(0i128, |sum, q| sum.wrapping_add(q.wrapping_mul(3))));
    });
    for price in catalog.prices() {
        let model = &price.versions()[0].terms.model;
        group.bench_function(price.id().as_str(), |bencher| {
            bencher.iter(|| {
                for quantity in black_box(&quantities) {
                    black_box(
                        model.amount(&group_texts, Exact::new(*quantity, 18), true).expect("amounts fit"),
                    );
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, cut, cuts_before, position_of_a_cell, models);
criterion_main!(benches);
