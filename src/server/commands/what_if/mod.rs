//! `tallymark what-if`: what a changed catalog would do to real usage, before anybody approves it.
//!
//! Owns: arguments, the order of reading and showing, what is refused. Leaves to others: the effect (`machine::WhatIf`),
//! reading the logs (`recovery`), how it looks (`terminal`, `json`, `svg`).
//!
//! Invariants: the data directory is only read; what is shown does not depend on a clock.

mod comparison;
mod distribution;
mod json;
mod svg;
mod terminal;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use billing::catalog::{CatalogFile, Resource, ResourceKind};
use clap::Args;
use domain::{Period, Timestamp};
use machine::{PutError, WhatIf};

use self::comparison::{Change, Comparison, Question};
use super::catalog::{own_mistakes, read, report_text};
use crate::config::DirectoryArgs;
use crate::recovery::{Moment, read_moment};
use crate::run::epoch;

/// `tallymark what-if`
///
/// Rates the usage in a data directory under the terms of a catalog file, and compares with what is charged under the
/// present ones. The directory is only read; a server may be running on it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WhatIfArgs {
    /// Catalog file (TOML) with the new terms; what it does not name stays as it is.
    #[arg(long, value_name = "FILE")]
    catalog: PathBuf,
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Only charges for usage of this accounting period, as YYYY-MM; all, if left out.
    #[arg(long, value_name = "MONTH", value_parser = Period::parse)]
    period: Option<Period>,
    /// Prices of the file that hold from later on are taken as if they held from this instant.
    #[arg(long, value_name = "INSTANT", value_parser = Timestamp::parse)]
    as_if_from: Option<Timestamp>,
    /// The instant of the comparison; that of the last cut, if left out.
    #[arg(long, value_name = "INSTANT", value_parser = Timestamp::parse)]
    at: Option<Timestamp>,
    /// Draw the distribution of the changes into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// JSON instead of text, with every account.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  tallymark what-if --catalog new.toml --data tallymark-data
  tallymark what-if --catalog new.toml --period 2026-02 --svg effect.svg
  tallymark what-if --catalog next-year.toml --period 2026-02 --as-if-from 2026-02-01T00:00:00Z
  tallymark what-if --catalog new.toml --json | jq '.accounts[:5]'";

/// Runs the command.
///
/// # Errors
/// If the file has mistakes, the directory cannot be read, or an account cannot be rated under the new terms.
pub fn run(args: &WhatIfArgs) -> Result<()> {
    let text = read(&args.catalog)?;
    refuse_mistakes(&args.catalog, &text)?;
    let file =
        CatalogFile::parse(&text).with_context(|| format!("{} is not a catalog", args.catalog.display()))?;
    if let Some(svg) = &args.svg {
        refuse_inside(svg, &args.directory.data)?;
    }
    let Moment { replayer, events, usage_end, mut history } = read_moment(&args.directory.open(), 1)?;
    let control = replayer.machine.control();
    refuse_other_epoch(&args.directory.data, control.epoch())?;
    let last_cut_at = control.last_cut().map(|cut| cut.at);
    let at = instant_of(&args.directory.data, args.at, last_cut_at)?;

    let mut what_if = WhatIf::new(replayer, usage_end, at, &mut history)?;
    let mut changes = Vec::new();
    for resource in file.resources() {
        let resource = as_if_from(resource, args.as_if_from);
        changes.extend(put(&mut what_if, &resource).map_err(|error| at_line(error, args, &text, &resource))?);
    }
    let names = what_if.catalog().accounts().map(|a| (a.id.clone(), a.name.clone())).collect();
    let effect = what_if.effect(args.period)?;
    let question = Question {
        catalog: &args.catalog,
        data: &args.directory.data,
        at,
        events,
        period: args.period,
        as_if_from: args.as_if_from,
    };
    let comparison = Comparison::new(question, changes, effect, names);
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::draw(&comparison))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut said = if args.json { json::write(&comparison)? } else { terminal::write(&comparison) };
    if let Some(path) = args.svg.as_ref().filter(|_| !args.json) {
        said.push_str(&format!("\nthe distribution is drawn in {}\n", path.display()));
    }
    // A reader that went away, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(said.as_bytes());
    match comparison.effect.failures.len() {
        0 => Ok(()),
        1 => bail!("one account cannot be rated under the new terms; the effect is without it"),
        count => bail!("{count} accounts cannot be rated under the new terms; the effect is without them"),
    }
}

/// Says all mistakes that do not depend on what the directory has: it may have what the file names.
fn refuse_mistakes(path: &Path, text: &str) -> Result<()> {
    let own = own_mistakes(text);
    if own.is_empty() {
        return Ok(());
    }
    let _ = std::io::stdout().write_all(report_text(path, text, &own).as_bytes());
    bail!("{} has mistakes; mend them first", path.display());
}

/// The directory is only read, so a picture does not go into it by accident.
fn refuse_inside(svg: &Path, data: &Path) -> Result<()> {
    let parent = svg.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_inside =
        matches!((parent.canonicalize(), data.canonicalize()), (Ok(p), Ok(d)) if p.starts_with(&d));
    if is_inside {
        bail!("{} lies in the data directory, which is only read; choose another place", svg.display());
    }
    Ok(())
}

fn refuse_other_epoch(data: &Path, rated: &str) -> Result<()> {
    if rated != epoch() {
        bail!(
            "{} was rated with epoch {rated}, this program has {}: the program's changes would mix with the catalog's; \
             run `tallymark replay` to see them, then start a server once with --accept-epoch",
            data.display(),
            epoch()
        );
    }
    Ok(())
}

fn instant_of(data: &Path, wanted: Option<Timestamp>, last_cut_at: Option<Timestamp>) -> Result<Timestamp> {
    match (wanted, last_cut_at) {
        (Some(wanted), Some(last)) if wanted < last => {
            bail!("--at {wanted} is before the last cut, at {last}; leave it out, or choose a later instant")
        }
        (Some(at), _) | (None, Some(at)) => Ok(at),
        (None, None) => {
            bail!(
                "{} has no cut yet; say with --at INSTANT when the charges are to be compared",
                data.display()
            )
        }
    }
}

/// A price that holds from later on, as if it held from an instant.
fn as_if_from(resource: Resource, instant: Option<Timestamp>) -> Resource {
    match (resource, instant) {
        (Resource::Price(mut price), Some(instant)) if price.effective_from > Some(instant) => {
            price.effective_from = Some(instant);
            Resource::Price(price)
        }
        (resource, _) => resource,
    }
}

/// Puts a resource; the change that it is, if it is one.
fn put(what_if: &mut WhatIf<'_>, resource: &Resource) -> Result<Option<Change>, PutError> {
    let before = what_if.catalog().newest(resource).map(|before| before.to_json());
    let version = what_if.put(resource)?;
    let holds_from = match resource {
        Resource::Price(price) => price.effective_from,
        _ => None,
    };
    Ok(version.map(|version| Change {
        kind: resource.kind(),
        id: resource.id().to_string(),
        version,
        before,
        after: resource.to_json(),
        holds_from,
    }))
}

/// What the directory's catalog refuses, with the place in the file.
fn at_line(error: PutError, args: &WhatIfArgs, text: &str, resource: &Resource) -> anyhow::Error {
    let line = line_of(text, resource.kind(), resource.id());
    let place = line.map_or_else(String::new, |line| format!(", line {line}"));
    let context = format!(
        "{}{place} does not fit the catalog of {}",
        args.catalog.display(),
        args.directory.data.display()
    );
    anyhow::Error::from(error).context(context)
}

/// The line at which a file gives a resource its id; none if it is written in an unusual way.
fn line_of(text: &str, kind: ResourceKind, id: &str) -> Option<usize> {
    let header = format!("[[{}]]", kind.singular());
    let mut is_of_kind = false;
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            is_of_kind = line.split('#').next().is_some_and(|line| line.trim() == header);
        }
        let value =
            line.strip_prefix("id").map(|rest| rest.trim_start()).and_then(|rest| rest.strip_prefix('='));
        let quoted = value.map(str::trim_start).and_then(|value| value.strip_prefix(['"', '\'']));
        if is_of_kind && quoted.is_some_and(|quoted| quoted.split(['"', '\'']).next() == Some(id)) {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_found_where_the_file_gives_it_its_id() {
        let text = "catalog = 1\n[[plan]]\nid = \"pro\"\n\n[[price]] # of pro\nplan = \"pro\"\nid='pro'\n  id = \"x\"";
        for (kind, id, line) in [
            (ResourceKind::Plans, "pro", Some(3)),
            (ResourceKind::Prices, "pro", Some(7)),
            (ResourceKind::Prices, "x", Some(8)),
            (ResourceKind::Prices, "y", None),
            (ResourceKind::Accounts, "pro", None),
        ] {
            assert_eq!(line_of(text, kind, id), line, "{kind:?} {id}");
        }
    }

    #[test]
    fn the_instant_is_that_of_the_last_cut_or_a_later_one() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let (early, late) = (at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z"));
        let data = Path::new("data");
        assert_eq!(instant_of(data, None, Some(early)).unwrap(), early);
        assert_eq!(instant_of(data, Some(late), Some(early)).unwrap(), late);
        assert_eq!(instant_of(data, Some(early), None).unwrap(), early);
        assert!(instant_of(data, None, None).unwrap_err().to_string().contains("--at INSTANT"));
        assert!(
            instant_of(data, Some(early), Some(late))
                .unwrap_err()
                .to_string()
                .contains("before the last cut")
        );
    }
}
