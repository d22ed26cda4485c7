//! The commands of the binary, one file each.
//!
//! Owns: what a person types and reads. Leaves to others: the work.
#![allow(clippy::print_stdout)] // a command's output is its purpose

pub mod archive;
pub mod bill;
pub mod catalog;
pub mod event;
pub mod inspect;
pub mod lineage;
pub mod quote;
pub mod replay;
pub mod serve;
pub mod token;
pub mod usage;
pub mod verify;
pub mod what_if;

mod remote;
