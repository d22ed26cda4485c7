//! Instructions of the two paths that money and events take, counted: a gate that a noisy machine does not move.
//!
//! Goals: instructions of a thousand quantities of each pricing model, of a thousand cells to their lines and to a sealed batch
//! (whose SHA-256 valgrind's processor computes without instructions of its own for it), and of a batch of given and of
//! sequenced ids through a shard, each in a warm state.
//! Non-goals: time, caches and memory (`rating`, `path`, and `dedup` of the engine).
//!
//! Needs `valgrind`, and `cargo install gungraun-runner` of the version that Cargo.toml pins.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "the macros of the harness make items without a word"
)]

use std::hint::black_box;
use std::sync::Arc;

use billing::catalog::{Catalog, CatalogFile, PriceTimeline};
use billing::rating::{Measure, SliceMeasure, WindowTerms, position};
use domain::time::HOUR;
use domain::{Currency, Exact, GroupTexts, Period, PriceId, Zone};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use gungraun::{library_benchmark, library_benchmark_group, main};
use wire::{BatchBuilder, IdMode};

use self::cutter::{Cutter, Shape};
use self::traffic::{EVENTS, frame, plan, start, subjects};

mod cutter;
mod traffic;

/// Quantities, and cells.
const COUNT: i128 = 1_000;
/// Batches that a shard has had before.
const KNOWN_BATCHES: usize = 8;

fn price(id: &str) -> PriceTimeline {
    let mut catalog = Catalog::default();
    for resource in CatalogFile::parse(include_str!("models.toml")).expect("a valid catalog").resources() {
        catalog.apply(resource, 0).expect("a valid resource");
    }
    catalog.price(&PriceId::new(id).expect("an id")).expect("the price").clone()
}

type Quantities = (PriceTimeline, GroupTexts, Vec<Exact>);

fn quantities(id: &str) -> Quantities {
    let group = GroupTexts::from([("kind".to_string(), "small".to_string())]);
    let quantities = (0..COUNT).map(|n| Exact::new(n * 137 * 10i128.pow(18), 18)).collect();
    (price(id), group, quantities)
}

#[library_benchmark(setup = quantities)]
#[bench::per_unit("per-unit")]
#[bench::graduated("graduated")]
#[bench::volume("volume")]
#[bench::package("package")]
#[bench::stairstep("stairstep")]
#[bench::graduated_percentage("share")]
#[bench::matrix("matrix")]
#[bench::dynamic("dynamic")]
fn model((price, group, quantities): Quantities) -> Quantities {
    let model = &price.versions()[0].terms.model;
    for quantity in &quantities {
        black_box(model.amount(&group, *quantity, true).expect("amounts fit"));
    }
    (price, group, quantities)
}

#[library_benchmark(setup = quantities)]
#[bench::graduated("graduated")]
fn cells_to_lines((price, group, quantities): Quantities) -> Quantities {
    let zone = Zone::utc();
    let window = zone.month(Period::parse("2026-01").expect("a month"));
    let active = [window.into()];
    let terms = WindowTerms {
        price: &price,
        window,
        active: &active,
        group: &group,
        zone: &zone,
        currency: Currency::from_code("USD").expect("a currency"),
        as_of: window.until,
        is_continued: false,
        elsewhere: None,
    };
    for quantity in &quantities {
        let cell = SliceMeasure {
            slice: window,
            measure: Measure::Scalar(*quantity),
            covered: Exact::ZERO,
            event_count: 1,
            event_digest: 1,
        };
        black_box(position(&terms, &[cell]).expect("amounts fit"));
    }
    (price, group, quantities)
}

/// A machine that was cut before, and whose cells all changed since.
fn cut_before(shape: Shape) -> Cutter {
    let mut cutter = Cutter::new(shape);
    for _ in 0..2 {
        cutter.open();
        assert_eq!(cutter.rate(), shape.cells());
    }
    cutter.open();
    cutter
}

#[library_benchmark(setup = cut_before)]
#[bench::of_1000_accounts(Shape { accounts: 1_000, groups: 1 })]
#[bench::of_1000_groups(Shape { accounts: 2, groups: 500 })]
fn cells_to_a_sealed_batch(mut cutter: Cutter) -> Cutter {
    black_box(cutter.rate());
    cutter
}

/// A shard that knows so many events, and the next batch for it.
fn shard_and_batch(ids: IdMode) -> (Shard, PreparedBatch) {
    let (mut shard, subjects) = (Shard::new(0), subjects());
    let _ = shard.handle_barrier(0, &plan(&subjects));
    let mut builder = BatchBuilder::new("bench", "usage", ids);
    let mut prepared = (0..).map(|batch| {
        let frame = Arc::new(frame(&mut builder, &subjects, batch * EVENTS));
        PreparedBatch::prepare(frame, None, start().plus(HOUR), IdentityKey::new(7), 1)
            .expect("a valid batch")
    });
    for batch in prepared.by_ref().take(KNOWN_BATCHES) {
        shard.handle_batch(&batch, &mut |_, _| {}).expect("no run is read");
    }
    let next = prepared.next().expect("as many batches as are wanted");
    (shard, next)
}

#[library_benchmark(setup = shard_and_batch)]
#[bench::given_ids(IdMode::Given)]
#[bench::sequenced_ids(IdMode::Sequenced { epoch: 1, first: 0 })]
fn batch_through_a_shard((mut shard, batch): (Shard, PreparedBatch)) -> (Shard, PreparedBatch) {
    let taken = shard.handle_batch(&batch, &mut |_, verdict| {
        black_box(verdict);
    });
    taken.expect("no run is read");
    (shard, batch)
}

library_benchmark_group!(name = rating; benchmarks = model, cells_to_lines, cells_to_a_sealed_batch);
library_benchmark_group!(name = events; benchmarks = batch_through_a_shard);
main!(library_benchmark_groups = rating, events);
