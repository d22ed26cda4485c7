//! `tallymark usage METER`
//!
//! Owns: arguments, asking the shards of a replayed directory. Leaves to others: what a query means
//! (`machine::usage_query`), its texts (`usage_request`).
//!
//! Invariants: the data directory is only read; the answer is that of a server on it.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use clap::Args;
use machine::KnownCorrections;
use machine::usage_query::{
    Known, ScannedLog, UsageFold, UsageTerms, control_state_before, known_control_offset, plan_of, scan,
};

use crate::config::DirectoryArgs;
use crate::recovery::read_moment;
use crate::usage_request::{AsOfText, UsageFormat, UsageRequest};

/// `tallymark usage`
///
/// Counts the usage of a meter again from the logs of a data directory, in windows of civil time and in groups. The
/// directory is only read; a server may be running on it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct UsageArgs {
    /// The meter.
    meter: String,
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Usage of this subject, owned or not; may be given again.
    #[arg(long)]
    subject: Vec<String>,
    /// Usage that belongs to this subscription.
    #[arg(long)]
    subscription: Option<String>,
    /// Usage that belongs to this account.
    #[arg(long)]
    account: Option<String>,
    /// First instant, or a day of the zone such as 2026-02-01.
    #[arg(long, value_name = "INSTANT")]
    from: Option<String>,
    /// First instant that is not counted any more, or a day.
    #[arg(long, value_name = "INSTANT")]
    to: Option<String>,
    /// minute, hour, day, week or month; one window, if left out.
    #[arg(long)]
    window: Option<String>,
    /// IANA zone of windows and days; UTC, if left out.
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Dimension that splits the answer, or `subject` or `source`; may be given again.
    #[arg(long, value_name = "NAME")]
    group_by: Vec<String>,
    /// Only events whose dimension has this text; given again with the same name, one of them.
    #[arg(long, value_name = "NAME=TEXT")]
    filter: Vec<String>,
    /// Also show windows without usage.
    #[arg(long)]
    empty: bool,
    /// Count what was known at this offset of the usage log, or by this instant.
    #[arg(long, value_name = "OFFSET|INSTANT")]
    as_of: Option<String>,
    /// JSON instead of CSV.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tallymark usage tokens --account acme --from 2026-02-01 --to 2026-03-01 --window day --tz Europe/Berlin
  tallymark usage tokens --subject key-1 --group-by region --json
  tallymark usage tokens --filter region=eu --filter region=us --as-of 2026-02-03T00:00:00Z";

/// Runs the command.
///
/// # Errors
/// If the directory cannot be read, or the query has no answer.
pub fn run(args: &UsageArgs) -> Result<()> {
    let request = UsageRequest::parse(&args.meter, &parameters_of(args)?)?;
    let directory = args.directory.open();
    let logs = directory.existing_logs()?;
    let moment = read_moment(&directory, 1)?;
    let machine = &moment.replayer.machine;
    let genesis = machine.control().genesis().context("the control log has no genesis")?;
    let key = engine::identity::IdentityKey::from_hex(&genesis.identity_key)
        .context("the identity key is not 32 hex digits")?;
    let end = moment.usage_end;
    let known = match request.as_of {
        Some(AsOfText::Offset(offset)) if offset > end => {
            bail!("the usage log ends at {end}; what comes behind is not known yet")
        }
        Some(AsOfText::Offset(offset)) => Known { before: offset, recorded_by: None },
        Some(AsOfText::Instant(instant)) => Known { before: end, recorded_by: Some(instant) },
        None => Known { before: end, recorded_by: None },
    };
    let log = ScannedLog { storage: &*logs.usage.storage, options: logs.usage.options, key };
    let is_awaited = || true;
    let (terms, corrections) = if request.as_of.is_some() {
        let control_offset = known_control_offset(log, known, &is_awaited)?;
        let state = control_state_before(&logs.control, control_offset)?;
        let terms = UsageTerms::of(state.catalog(), &request.query)?;
        (terms, KnownCorrections::of(&state, plan_of(&state)))
    } else {
        (UsageTerms::of(machine.control().catalog(), &request.query)?, machine.known_corrections())
    };
    let mut fold = UsageFold::new(request.query, terms);
    let mut judge = moment.replayer.shards.as_slice();
    let as_of = scan(log, known, &corrections, &mut fold, &mut judge, &is_awaited)?;
    let answer = fold.finish()?;
    let text = match request.format {
        Some(UsageFormat::Json) => format!("{}\n", answer.to_json(as_of)),
        Some(UsageFormat::Csv) | None => answer.to_csv(),
    };
    // A reader that went away, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// The arguments as a URL has them.
fn parameters_of(args: &UsageArgs) -> Result<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    let mut add = |name: &str, text: &str| parameters.push((name.to_string(), text.to_string()));
    args.subject.iter().for_each(|subject| add("subject", subject));
    args.group_by.iter().for_each(|name| add("group_by", name));
    for filter in &args.filter {
        let (name, text) =
            filter.split_once('=').with_context(|| format!("--filter {filter:?} is no NAME=TEXT"))?;
        add(&format!("filter.{name}"), text);
    }
    let single = [
        ("subscription", &args.subscription),
        ("account", &args.account),
        ("from", &args.from),
        ("to", &args.to),
        ("window", &args.window),
        ("tz", &args.tz),
        ("as_of", &args.as_of),
    ];
    for (name, text) in single {
        text.iter().for_each(|text| add(name, text));
    }
    if args.empty {
        add("empty", "show");
    }
    add("format", if args.json { "json" } else { "csv" });
    Ok(parameters)
}
