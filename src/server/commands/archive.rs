//! `tallymark archive`: which usage lies in the archive, and whether it is there as it went.

use anyhow::{Result, ensure};
use clap::Args;
use domain::Timestamp;
use engine::log::{LogKind, check_archived};

use crate::archive::{Archived, list_archive};
use crate::config::DirectoryArgs;

/// `tallymark archive`. A server may be running on the directory.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ArchiveArgs {
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Read every archived segment, and compare it with what is known of it.
    #[arg(long)]
    check: bool,
}

const EXAMPLES: &str = "\
Examples:
  tallymark archive --data tallymark-data --archive /mnt/archive
  tallymark archive --archive /mnt/archive --check";

/// Runs the command.
///
/// # Errors
/// If the archive does not have what it is to have.
pub fn run(args: &ArchiveArgs) -> Result<()> {
    let directory = args.directory.open();
    let (log, options) = (directory.existing_usage()?, directory.options(LogKind::Usage));
    let archived = Archived::of(&directory, &|| list_archive(&directory))?;
    println!("archive   {}", archived.archive.as_deref().unwrap_or("(none is given)"));
    for segment in &archived.segments {
        let [from, until] = [segment.recorded_at.0, segment.recorded_at.1].map(Timestamp::from_nanoseconds);
        let sha256: String = segment.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("  {}  {:>12} bytes  {from} to {until}  sha256 {sha256}", segment.file(), segment.bytes());
    }
    println!("in all    {} segments, {} bytes", archived.segments.len(), archived.bytes());
    let is_whole = archived.missing.as_ref().is_ok_and(Vec::is_empty);
    ensure!(is_whole, "{archived}");
    if args.check {
        for segment in &archived.segments {
            check_archived(&log, &options, segment)?;
        }
        println!("checked   all are as they went");
    }
    Ok(())
}
