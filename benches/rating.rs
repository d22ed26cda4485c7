//! What rating costs: from changed cells to the charge lines of a cut, and each pricing model beside a bare loop.
//!
//! Goals: cells a second of a whole cut (position, difference to what was issued, lines, bytes, digest, seal); the same
//! after many cuts as a ratio to after few; and nanoseconds a quantity of each model, beside a multiply-add loop of the
//! same run.
//! Non-goals: logs and shards (`path`), encoding and sealing.

use std::hint::black_box;

use billing::catalog::{Catalog, CatalogFile};
use billing::rating::{Measure, SliceMeasure, WindowTerms, position};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::plan::CellClass;
use domain::{EventPosition, Exact, Period, PriceId, Subject, Timestamp, Zone};
use engine::shard::cell::{CellReport, Group};
use engine::shard::kept::CellValue;
use engine::shard::sequence::Item;
use machine::Machine;
use wire::control::{ClockKind, ControlRecord, Genesis};

/// Accounts, each with one subscription, one subject and one cell a month.
const ACCOUNTS: usize = 20_000;
/// Accounts that are cut many times: what was issued stays in memory until it is journaled.
const ACCOUNTS_OF_MANY_CUTS: usize = 1_000;
const FEW_CUTS: usize = 20;
const MANY_CUTS: usize = 200;

fn catalog_text(accounts: usize) -> String {
    let mut text = String::from(
        r#"
        catalog = 1
        entity = [{ id = "inc", currency = "USD", time_zone = "UTC" }]
        meter = [{ id = "calls", event_type = "call", aggregation = "sum", value = "n" }]
        plan = [{ id = "pro", currency = "USD" }]
        [[price]]
        id = "tiers"
        plan = "pro"
        meter = "calls"
        model = "graduated"
        window = "month"
        tiers = [
            { up_to = "100", unit_amount = "0.05" }, { up_to = "1000", unit_amount = "0.04" },
            { up_to = "10000", unit_amount = "0.03" }, { up_to = "100000", unit_amount = "0.02" }, { unit_amount = "0.01" },
        ]
        "#,
    );
    for n in 0..accounts {
        text.push_str(&format!(
            r#"
            [[account]]
            id = "a{n}"
            name = "A"
            entity = "inc"
            currency = "USD"
            time_zone = "UTC"
            [[subscription]]
            id = "s{n}"
            account = "a{n}"
            plan = "pro"
            from = "2026-01-01T00:00:00Z"
            [[subject]]
            id = "k{n}"
            subscription = "s{n}"
            from = "2026-01-01T00:00:00Z"
            "#
        ));
    }
    text
}

struct Cutter {
    machine: Machine,
    accounts: usize,
    offset: u64,
    quantity: i128,
}

impl Cutter {
    fn new(accounts: usize) -> Self {
        let resources = CatalogFile::parse(&catalog_text(accounts)).expect("a valid catalog").resources();
        let mut cutter = Self { machine: Machine::new(1), accounts, offset: 0, quantity: 0 };
        cutter.apply(ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: "0".repeat(32),
            clock: ClockKind::Scenario,
            epoch: machine::RATING_EPOCH.to_string(),
            made_by: "a bench".to_string(),
        }));
        for resource in &resources {
            let (kind, id) = (resource.kind().as_str(), resource.id());
            let put =
                cutter.machine.propose_put(kind, id, resource.to_json(), "bench").expect("a valid resource");
            cutter.apply(put.expect("a new resource"));
        }
        cutter.machine.new_barrier(cutter.offset, true);
        cutter
    }

    fn apply(&mut self, record: ControlRecord) {
        self.offset += 1;
        self.machine.apply(self.offset, &record).expect("a record that follows");
    }

    /// Every cell changes; the next cut is open.
    fn open(&mut self) {
        self.quantity += 1_000_003;
        let from = Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant");
        let group: Group = Group::from([]);
        let reports = (0..self.accounts).map(|n| {
            let mut value = CellValue::default();
            let item = Item {
                time: from,
                position: EventPosition::new(0, 0),
                value: self.quantity * 10i128.pow(16) + n as i128,
            };
            value.add(CellClass::Additive, n as u128 + self.quantity as u128, item);
            let subject = Subject::new(&format!("k{n}")).expect("a subject");
            CellReport { subject, program: 0, group: group.clone(), slice_from: from, value }
        });
        self.machine.handle_reports(0, reports.collect());
        let at = from.plus(20 * domain::time::DAY);
        let cut = self.machine.propose_cut(self.offset + 1, at, "bench");
        self.apply(cut);
    }

    fn rate(&mut self) -> usize {
        let rated =
            self.machine.rate_open_cut().expect("nothing was spilled").expect("every account changed");
        let lines = rated.batch.lines.len();
        self.apply(ControlRecord::Seal(rated.seal));
        self.machine.close_cut();
        lines
    }
}

fn cut(criterion: &mut Criterion) {
    let mut cutter = Cutter::new(ACCOUNTS);
    // The first cut rates everything, because every account is new.
    cutter.open();
    assert_eq!(cutter.rate(), ACCOUNTS);
    let mut group = criterion.benchmark_group("cut");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ACCOUNTS as u64));
    group.bench_function("graduated cells to charge lines", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..iterations {
                cutter.open();
                let start = std::time::Instant::now();
                black_box(cutter.rate());
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

/// What a cut costs does not depend on how many there were: the fastest of some early ones beside that of some late ones.
#[expect(clippy::print_stdout, reason = "a bench talks to whoever runs it")]
fn cuts_before(_: &mut Criterion) {
    let mut cutter = Cutter::new(ACCOUNTS_OF_MANY_CUTS);
    let mut best = |until: usize, measured: usize| {
        let mut best = std::time::Duration::MAX;
        for _ in 0..until {
            cutter.open();
            cutter.rate();
        }
        for _ in 0..measured {
            cutter.open();
            let start = std::time::Instant::now();
            black_box(cutter.rate());
            best = best.min(start.elapsed());
        }
        best.as_nanos() / ACCOUNTS_OF_MANY_CUTS as u128
    };
    let (early, late) = (best(1, FEW_CUTS), best(MANY_CUTS, FEW_CUTS));
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
    let (group_texts, active) = (std::collections::BTreeMap::new(), [window.into()]);
    let terms = WindowTerms {
        price,
        window,
        active: &active,
        group: &group_texts,
        zone: &zone,
        currency,
        as_of: window.until,
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
    let group_texts = std::collections::BTreeMap::from([("kind".to_string(), "small".to_string())]);
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
