//! `tallymark replay`: derives everything again from the logs and compares it with the seals.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use machine::ReplayMode;

use super::verify::without_a_server;
use crate::config::DirectoryArgs;
use crate::directory::DataDirectory;
use crate::recovery::replay;

/// `tallymark replay`. No server may be running on the directory.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What to read.
    #[command(flatten)]
    pub directory: DirectoryArgs,
    /// Shards, 1 to 64. The result must not depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
}

/// Runs the command.
///
/// # Errors
/// The first damage, or the first batch or journal that derives differently.
pub fn run(args: &ReplayArgs) -> Result<()> {
    let directory = args.directory.open();
    without_a_server(&directory, || derive(args, &directory))
}

fn derive(args: &ReplayArgs, directory: &DataDirectory) -> Result<()> {
    let started = Instant::now();
    let replayed = replay(directory, usize::from(args.shards), ReplayMode::Derive)?;
    let summary = replayed.summary;
    println!(
        "replayed {} events with {} shards in {:.1} s",
        replayed.events,
        args.shards,
        started.elapsed().as_secs_f64()
    );
    println!("  cuts     {}", summary.cuts);
    println!("  batches  {}  all equal to their seals", summary.batches);
    println!("  chain    {}", if summary.chain.is_empty() { "(empty)" } else { &summary.chain });
    println!("  journals {}", if summary.journals.is_empty() { "(empty)" } else { &summary.journals });
    Ok(())
}
