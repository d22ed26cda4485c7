//! Checks a catalog file without a server, and says everything that is wrong with it.
//!
//! Owns: which mistakes there are besides the first, where each of them stands, and what to do about it. Leaves to others:
//! the rules themselves (`resource`, `price`, `state`), printing.
//!
//! Invariants:
//! - What a server would refuse is a mistake, by the same functions; what it would take is at most a warning
//!   ([`warnings`]).
//! - A mistake that only follows from another one is not said: what is mended first may mend it.

mod entry;
mod remedy;
mod warnings;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use domain::Timestamp;
use toml::de::{DeTable, DeValue};

use self::entry::{Entry, Step};
use super::file::{FILE_BYTES_MAX, version_mistake};
use super::ramps;
use super::resource::{Resource, ResourceKind};
use super::state::{Catalog, Change};
use super::status::Rule;
use crate::nearest::nearest;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A server refuses it.
    Mistake,
    /// A server takes it, and it is probably not what was meant.
    Warning,
}

/// Something that was found in a catalog file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name of the rule or the warning.
    pub name: &'static str,
    /// The resource, as `price pro-tokens`; none if it is about the file.
    pub subject: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do about it, where that is not said by what is wrong.
    pub remedy: Option<String>,
    /// The bytes of the file that it is about.
    pub span: Range<usize>,
}

/// What was found in a catalog file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the file.
    pub findings: Vec<Finding>,
    /// Resources in the file.
    pub resource_count: usize,
}

impl Report {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Where a finding stands in the text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// The line.
    pub text: &'a str,
    /// Characters of it that the finding is about; at least one.
    pub width: usize,
}

impl<'a> Place<'a> {
    /// The place of a span; of one over several lines the part in the first.
    pub fn of(text: &'a str, span: &Range<usize>) -> Self {
        let start = floor_of(text, span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let end = floor_of(text, span.end).clamp(start, line_start + line.len().max(start - line_start));
        Self {
            line: before.matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: line,
            width: text[start..end].chars().count().max(1),
        }
    }
}

/// The last start of a character at or before a byte.
fn floor_of(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Checks a catalog file: every resource by itself, what lies between them, and what is probably not meant.
pub fn check_file(text: &str) -> Report {
    let of_file =
        |name, what: &str, span| Report { findings: vec![mistake(name, what, span)], resource_count: 0 };
    if text.len() > FILE_BYTES_MAX {
        return of_file("file_must_fit", "a catalog file has at most 64 MiB", 0..0);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let findings = errors.iter().map(|error| {
            let what = error.message().trim().replace('\n', "; ");
            mistake("file_must_be_toml", &what, error.span().unwrap_or(0..0))
        });
        return Report { findings: findings.collect(), resource_count: 0 };
    }
    if let Some((what, span)) = version_mistake(text) {
        // Everything else in it may be new.
        return of_file("version_must_be_known", &what, span);
    }
    let mut check = Check::default();
    let mut table = table.into_inner();
    for ramp in ramps::write_out(&mut table) {
        let subject = ramp.id.map(|id| format!("{} {id}", ramp.kind.singular()));
        check.findings.push(Finding { subject, ..mistake("ramp_must_hold", &ramp.what, ramp.span) });
    }
    let entries = check.entries(table);
    check.references(&entries);
    check.apply(&entries);
    let has_mistakes = check.findings.iter().any(|finding| finding.severity == Severity::Mistake);
    check.findings.extend(warnings::of(&entries, has_mistakes));
    check.findings.sort_by_key(|finding| (finding.span.start, finding.severity));
    // What is wrong with a resource is wrong with every step of its ramps.
    let mut said = BTreeSet::new();
    check
        .findings
        .retain(|found| said.insert((found.span.start, found.span.end, found.name, found.what.clone())));
    Report { findings: check.findings, resource_count: entries.len() }
}

fn mistake(name: &'static str, what: &str, span: Range<usize>) -> Finding {
    let (what, remedy) = remedy::of_message(what);
    Finding { severity: Severity::Mistake, name, subject: None, what, remedy, span }
}

#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
}

impl Check {
    /// The resources of a file, those that others refer to first.
    fn entries<'i>(&mut self, table: DeTable<'i>) -> Vec<Entry<'i>> {
        let words: Vec<&str> = ResourceKind::ALL.iter().map(|kind| kind.singular()).collect();
        for (key, _) in table.iter().filter(|(key, _)| !words.contains(&key.get_ref().as_ref())) {
            if key.get_ref() == "catalog" {
                continue;
            }
            let what = format!("there is no resource `{}`", key.get_ref());
            let mut finding = mistake("kind_must_be_known", &what, key.span());
            let near = nearest(key.get_ref(), words.iter().copied());
            finding.remedy = Some(match near.first() {
                Some(near) => format!("write [[{near}]]"),
                None => format!("a catalog has {}", words.join(", ")),
            });
            self.findings.push(finding);
        }
        let mut entries = Vec::new();
        for kind in ResourceKind::ALL {
            let Some((key, value)) = table.get_key_value(kind.singular()) else { continue };
            let items =
                value.get_ref().as_array().filter(|items| items.iter().all(|item| item.get_ref().is_table()));
            let Some(items) = items else {
                let what = format!("a resource is a table of its own: write [[{}]]", kind.singular());
                self.findings.push(mistake("body_must_be_readable", &what, key.span()));
                continue;
            };
            let first_of_kind = entries.len();
            for item in items.iter() {
                if let DeValue::Table(table) = item.get_ref() {
                    let entry = Entry::read(kind, table.clone(), item.span(), &mut self.findings);
                    entries.push(entry);
                }
            }
            // Stable: parents come before the accounts that name them.
            entries[first_of_kind..].sort_by_key(|entry| !entry.references(kind).is_empty());
        }
        entries
    }

    /// Every name of a resource that is not in the file.
    fn references(&mut self, entries: &[Entry<'_>]) {
        let mut known: BTreeMap<ResourceKind, BTreeSet<&str>> = BTreeMap::new();
        for entry in entries {
            known.entry(entry.kind).or_default().extend(entry.id());
        }
        let empty = BTreeSet::new();
        for entry in entries {
            for kind in ResourceKind::ALL {
                let ids = known.get(&kind).unwrap_or(&empty);
                for (id, span) in entry.references(kind) {
                    if ids.contains(id) {
                        continue;
                    }
                    let near = nearest(id, ids.iter().copied());
                    let remedy = match near.first() {
                        Some(near) => format!("did you mean {near:?}?"),
                        None => format!("add [[{}]] with id = {id:?}", kind.singular()),
                    };
                    let what = format!("the {} {id:?} is not in the file", kind.singular());
                    self.findings.push(Finding {
                        subject: entry.subject(),
                        remedy: Some(remedy),
                        ..mistake(Rule::ReferenceMustExist(String::new()).name(), &what, span)
                    });
                }
            }
        }
    }

    /// What a server would say when the file is applied to an empty catalog.
    fn apply(&mut self, entries: &[Entry<'_>]) {
        let mut catalog = Catalog::default();
        let mut refused: BTreeSet<(ResourceKind, &str)> = BTreeSet::new();
        let mut first: BTreeMap<(ResourceKind, &str), &Entry<'_>> = BTreeMap::new();
        for (offset, entry) in entries.iter().enumerate() {
            let Some(id) = entry.id() else { continue };
            let missing = ResourceKind::ALL.into_iter().any(|kind| {
                entry.references(kind).iter().any(|(id, _)| {
                    refused.contains(&(kind, *id))
                        || !entries.iter().any(|e| e.kind == kind && e.id() == Some(*id))
                })
            });
            let resource = entry.resource.clone().filter(|_| entry.is_sound && !missing);
            let Some(resource) = resource else {
                refused.insert((entry.kind, id));
                continue;
            };
            match catalog.admit(&resource).and_then(|_| catalog.apply(resource, offset as u64)) {
                Ok(Change::Unchanged) => self.findings.push(entry.warning(
                    "resource_repeated",
                    &[],
                    "it is in the file before, word for word",
                    "leave one of them out",
                )),
                Ok(Change::Create | Change::NewVersion(_)) => {}
                Err(status) => {
                    refused.insert((entry.kind, id));
                    let mut finding = entry.mistake(&status.rule);
                    if let Some(field) = bound_inside_month(&catalog, &status.rule, entry.resource.as_ref()) {
                        finding.span = entry.span_of(&[Step::Field(field)]);
                    }
                    if let (Rule::MustNotChange(_), Some(first)) =
                        (&status.rule, first.get(&(entry.kind, id)))
                    {
                        finding.span = entry.first_difference(first).unwrap_or(finding.span);
                    }
                    self.findings.push(finding);
                }
            }
            first.entry((entry.kind, id)).or_insert(entry);
        }
    }
}

/// The first bound of an agreement that is not the start of a month, if that is the mistake.
fn bound_inside_month(catalog: &Catalog, rule: &Rule, resource: Option<&Resource>) -> Option<&'static str> {
    let (account, bounds) = match (rule, resource?) {
        (Rule::TermMustFitWindows, Resource::Commitment(of)) => (
            &of.account,
            [("from", Some(of.from)), ("until", Some(of.until)), ("effective_from", of.effective_from)],
        ),
        (Rule::TermMustFitWindows, Resource::Discount(of)) => {
            (&of.account, [("from", Some(of.from)), ("until", of.until), ("until", None)])
        }
        _ => return None,
    };
    let zone = &catalog.account(account)?.time_zone;
    let is_inside = |at: Timestamp| zone.month(zone.period_of(at)).from != at;
    bounds.into_iter().find(|(_, at)| at.is_some_and(is_inside)).map(|(field, _)| field)
}

/// A step into a value.
fn step_into<'a, 'i>(value: &'a DeValue<'i>, step: &Step<'_>) -> Option<&'a toml::Spanned<DeValue<'i>>> {
    match step {
        Step::Field(name) => value.get(*name),
        Step::Index(index) => value.get(*index),
    }
}
