//! Plays seeds of the simulation in `tests/sim`: as many as asked, in as many threads as there are cores.
//!
//! ```text
//! cargo run --release -p machine --example simulate -- --seeds 100000 [--from 0] [--threads 2]
//! cargo run --release -p machine --example simulate -- --seed 4711     plays one and says what happened
//! ```
//!
//! The first failing seeds are made smaller and printed; the exit code is 1 then.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_macros,
    reason = "an example talks to people"
)]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use simulation::{Outcome, Trace, minimize, plan_of, play};

/// Failing seeds that are shown before a run gives up.
const FAILURES_MAX: usize = 3;
/// Plans that are tried to make a failing one smaller.
const TRIES_MAX: usize = 4_000;

const USAGE: &str = "usage: simulate [--seeds N] [--from SEED] [--threads N], or simulate --seed SEED";

/// What is asked for.
#[derive(Default)]
struct Asked {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: Option<u64>,
    threads: Option<u64>,
}

impl Asked {
    /// Reads names and numbers; `None` if there is anything else.
    fn read(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut asked = Self::default();
        while let Some(name) = arguments.next() {
            let number = match name.as_str() {
                "--seed" => &mut asked.seed,
                "--seeds" => &mut asked.seeds,
                "--from" => &mut asked.from,
                "--threads" => &mut asked.threads,
                _ => return None,
            };
            *number = Some(arguments.next()?.parse().ok()?);
        }
        let is_one_or_many =
            asked.seed.is_none() || (asked.seeds, asked.from, asked.threads) == (None, None, None);
        is_one_or_many.then_some(asked)
    }
}

fn main() -> ExitCode {
    let Some(asked) = Asked::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // Failures say what was found; the panics that they may come from would only repeat it.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = asked.seed {
        return play_one(seed);
    }
    let cores = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    play_many(asked.from.unwrap_or(0), asked.seeds.unwrap_or(1_000), asked.threads.unwrap_or(cores))
}

fn play_one(seed: u64) -> ExitCode {
    let plan = plan_of(seed);
    let mut trace = Trace::kept();
    let played = play(&plan, &mut trace);
    println!("{}", trace.lines().join("\n"));
    match played {
        Ok(outcome) => {
            println!("seed {seed}: {outcome:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let (small, smaller) = minimize(&plan, &failure, TRIES_MAX);
            println!("\nseed {seed} at {:?}: {}", failure.action, failure.what);
            println!("made smaller, at {:?}: {}\n{small}", smaller.action, smaller.what);
            let mut trace = Trace::kept();
            let _ = play(&small, &mut trace);
            println!("{}", trace.lines().join("\n"));
            ExitCode::FAILURE
        }
    }
}

fn play_many(from: u64, seeds: u64, threads: u64) -> ExitCode {
    let next = AtomicU64::new(from);
    let failures = Mutex::new(Vec::new());
    let totals = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = failures.lock().map_or(true, |failures| failures.len() >= FAILURES_MAX);
                    if seed >= from + seeds || enough {
                        break;
                    }
                    match play(&plan_of(seed), &mut Trace::default()) {
                        Ok(outcome) => {
                            if let Ok(mut totals) = totals.lock() {
                                totals.add(&outcome);
                            }
                        }
                        Err(failure) => {
                            if let Ok(mut failures) = failures.lock() {
                                failures.push((seed, failure));
                            }
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    let totals = totals.into_inner().unwrap_or_default();
    if failures.is_empty() {
        println!("{seeds} seeds from {from} are clean: {totals}");
        return ExitCode::SUCCESS;
    }
    for (seed, failure) in &failures {
        let (small, smaller) = minimize(&plan_of(*seed), failure, TRIES_MAX);
        println!("seed {seed} at {:?}: {}", failure.action, failure.what);
        println!("made smaller, at {:?}: {}\n{small}", smaller.action, smaller.what);
    }
    ExitCode::FAILURE
}
