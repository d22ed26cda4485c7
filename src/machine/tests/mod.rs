//! The machine and its shards against random histories.
//!
//! `world` drives them as the server does, `model` says what must come out, `play` does a history in several worlds at
//! once and compares, `histories` makes the histories up, `found` keeps those that found something. `quoted` compares a
//! cut with a quote of the same usage, `what_if` what terms would change with what they then do change. `disputed` are bills
//! that were once wrong; `corrections` says which corrections are refused, `forgotten` what comes of an end of remembering;
//! `lineage` follows every event of a history to its lines and back; `starts` are directories that no start goes on from.

mod agreements;
mod civil;
mod corrections;
mod covered;
mod disputed;
mod forgotten;
mod found;
mod histories;
mod kept_files;
mod lineage;
mod measures;
mod model;
mod play;
mod pools;
mod posting;
mod quoted;
mod starts;
mod what_if;
mod world;
