//! Deterministic simulation: the machine and the engine on a simulated clock, disk and network.
//!
//! Owns: one seed, one run, bit for bit. A seed makes a [`Plan`], a setup and a list of actions; playing it drives the
//! same code as the server (`machine::recover`, `machine::ControlWriter`, `engine::shard`, `engine::log`); an auditor that
//! shares nothing with that code but numbers and zones says what must have come out. A plan that fails is made smaller
//! until nothing can be left out.
//!
//! Leaves to others: threads, sockets, real disks (`tests/e2e`), single rules (each crate's own tests).
//!
//! Invariants: nothing here looks at a clock, a random number of the system, or the order of a map that has none.

mod actions;
mod auditor;
mod books;
#[path = "../../src/machine/tests/civil.rs"]
mod civil;
mod corrections;
mod generate;
mod measures;
mod minimize;
mod play;
mod prices;
mod producers;
mod questions;
mod random;
mod recount;
mod resources;
mod server;

pub use actions::{Action, Plan, Setup};
pub use minimize::minimize;
pub use play::{Failure, Outcome, Trace, play};

/// The plan of a seed.
pub fn plan_of(seed: u64) -> Plan {
    generate::plan_of(seed)
}
