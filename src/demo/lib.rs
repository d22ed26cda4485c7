//! The demo.

use clap::Args;

/// `tallymark demo`
#[derive(Debug, Args)]
pub struct DemoArgs {}

/// Runs the demo.
///
/// # Errors
/// If a proof does not hold.
pub fn run(_: &DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("the demo is being built")
}
