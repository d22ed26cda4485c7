//! The simulation as a test: `TALLYMARK_SEEDS` seeds, 300 where it is not set, in as many threads as there are cores.
//!
//! A seed that fails is made smaller and printed; `cargo run --release -p machine --example simulate -- --seed N` plays
//! it again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use simulation::{Trace, minimize, plan_of, play};

/// Plans that are tried to make a failing one smaller.
const TRIES_MAX: usize = 2_000;

fn seeds() -> u64 {
    std::env::var("TALLYMARK_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[test]
fn whatever_breaks_nothing_is_lost_or_counted_twice_and_money_stays() {
    let (next, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !has_failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds() {
                break;
            }
            let plan = plan_of(seed);
            if let Err(failure) = play(&plan, &mut Trace::default()) {
                has_failed.store(true, Ordering::Relaxed);
                let (small, smaller) = minimize(&plan, &failure, TRIES_MAX);
                panic!(
                    "seed {seed} at {:?}: {}\nmade smaller: {}\n{small}",
                    failure.action, failure.what, smaller.what
                );
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn a_seed_plays_the_same_every_time() {
    for seed in 0..8 {
        let mut traces = [Trace::kept(), Trace::kept()];
        let outcomes = traces.each_mut().map(|trace| play(&plan_of(seed), trace));
        assert_eq!(traces[0].lines(), traces[1].lines(), "seed {seed}");
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
    }
}
