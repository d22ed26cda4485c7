//! One resource of a catalog file, with the places of its fields.
//!
//! Owns: reading it field by field, and what it breaks by itself. Leaves to others: rules between resources (`super`).
//!
//! A field that cannot be read, or that breaks a rule, is taken out and the rest is looked at again: so every field has its
//! say. What is then said of a field that was taken out only follows from the first mistake.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Finding, Severity, mistake, remedy, step_into};
use crate::catalog::resource::{Resource, ResourceKind};
use crate::catalog::status::Rule;

/// A step from a resource into its fields.
pub(super) enum Step<'a> {
    Field(&'a str),
    Index(usize),
}

/// Something that is wrong, and the fields that it is about.
struct Broken {
    finding: Finding,
    fields: Vec<String>,
}

/// A resource of a file.
pub(super) struct Entry<'i> {
    pub(super) kind: ResourceKind,
    /// As it stands in the file.
    table: DeTable<'i>,
    /// The header of its table.
    header: Range<usize>,
    /// The resource, as far as it can be read.
    pub(super) resource: Option<Resource>,
    /// Whether it breaks no rule by itself.
    pub(super) is_sound: bool,
}

impl<'i> Entry<'i> {
    /// Reads a resource, and adds what is wrong with it by itself.
    pub(super) fn read(
        kind: ResourceKind,
        table: DeTable<'i>,
        header: Range<usize>,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut entry = Self { kind, table, header, resource: None, is_sound: true };
        let mut rest = entry.table.clone();
        let mut removed: BTreeSet<String> = BTreeSet::new();
        // Each turn takes out a field.
        for _ in 0..=entry.table.len() {
            let (finding, fields) = match entry.read_rest(&rest) {
                Ok(resource) => {
                    let broken = resource.check();
                    entry.resource = Some(resource);
                    let Err(rule) = broken else { break };
                    let fields = remedy::fields_of(&rule, entry.resource.as_ref());
                    (entry.mistake(&rule), fields)
                }
                Err(unreadable) => (unreadable.finding, unreadable.fields),
            };
            entry.is_sound = false;
            let Some(field) = fields.iter().find(|field| rest.contains_key(field.as_str())) else {
                if !fields.iter().any(|field| removed.contains(field)) {
                    findings.push(finding);
                }
                break;
            };
            findings.push(finding);
            rest.remove(field.as_str());
            removed.extend(fields);
        }
        entry
    }

    /// The resource of some of its fields; or what is wrong, and which fields it is about.
    fn read_rest(&self, rest: &DeTable<'i>) -> Result<Resource, Box<Broken>> {
        let value = Spanned::new(self.header.clone(), DeValue::Table(rest.clone()));
        Resource::read(self.kind, ValueDeserializer::from(value)).map_err(|error| {
            let message = error.message().trim().replace('\n', "; ");
            let span = error.span().unwrap_or(self.header.clone());
            let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let mut fields = match missing {
                Some(missing) if span == self.header => vec![missing.to_string()],
                _ => Vec::from_iter(self.field_at(span.start)),
            };
            // Who mistypes a field does not leave it out.
            fields.extend(remedy::meant_fields(&message));
            let rule = Rule::BodyMustBeReadable(message);
            let mut finding = mistake(rule.name(), &rule.to_string(), span);
            finding.subject = self.subject();
            Box::new(Broken { finding, fields })
        })
    }

    /// The field that a byte belongs to: the last that starts before it.
    fn field_at(&self, byte: usize) -> Option<String> {
        let started = self.table.keys().filter(|key| key.span().start <= byte);
        started.max_by_key(|key| key.span().start).map(|key| key.get_ref().to_string())
    }

    /// Its id, if it has one.
    pub(super) fn id(&self) -> Option<&str> {
        self.table.get("id")?.get_ref().as_str()
    }

    /// What it is called: `price pro-tokens`.
    pub(super) fn subject(&self) -> Option<String> {
        Some(match self.id() {
            Some(id) => format!("{} {id}", self.kind.singular()),
            None => format!("{} without an id", self.kind.singular()),
        })
    }

    /// Ids of resources of a kind that it names, and where.
    pub(super) fn references(&self, kind: ResourceKind) -> Vec<(&str, Range<usize>)> {
        let is_parent = self.kind == ResourceKind::Accounts && kind == self.kind;
        let one = self.table.get(if is_parent { "parent" } else { kind.singular() }).into_iter();
        let many = self.table.get(kind.as_str()).and_then(|value| value.get_ref().as_array());
        let all = one.chain(many.into_iter().flat_map(|items| items.iter()));
        all.filter_map(|value| Some((value.get_ref().as_str()?, value.span()))).collect()
    }

    /// The place of a field, or of the nearest one around it.
    pub(super) fn span_of(&self, path: &[Step<'_>]) -> Range<usize> {
        let Some((Step::Field(first), rest)) = path.split_first() else { return self.header.clone() };
        let Some(mut value) = self.table.get(*first) else { return self.header.clone() };
        for step in rest {
            let Some(inner) = step_into(value.get_ref(), step) else { break };
            value = inner;
        }
        value.span()
    }

    /// A broken rule, at the field that breaks it.
    pub(super) fn mistake(&self, rule: &Rule) -> Finding {
        let span = match (remedy::tier_of(rule, self.resource.as_ref()), rule) {
            (Some((field, index)), _) => {
                self.span_of(&[Step::Field(field), Step::Index(index), Step::Field("up_to")])
            }
            (None, Rule::PriceAmountMustHold(what)) => {
                let place = what.split(' ').next().unwrap_or_default();
                self.span_of(&steps_of(place))
            }
            (None, _) => {
                let fields = remedy::fields_of(rule, self.resource.as_ref());
                let present = fields.iter().find(|field| self.table.contains_key(field.as_str()));
                // What is missing is missing because of the model.
                let around = self.table.contains_key("model").then_some("model");
                let field = present.map(String::as_str).or(around.filter(|_| !fields.is_empty()));
                field.map_or(self.header.clone(), |field| self.span_of(&[Step::Field(field)]))
            }
        };
        Finding {
            severity: Severity::Mistake,
            name: rule.name(),
            subject: self.subject(),
            what: rule.to_string(),
            remedy: remedy::of_rule(rule).map(str::to_string),
            span,
        }
    }

    /// A warning about a field.
    pub(super) fn warning(&self, name: &'static str, path: &[Step<'_>], what: &str, remedy: &str) -> Finding {
        Finding {
            severity: Severity::Warning,
            name,
            subject: self.subject(),
            what: what.to_string(),
            remedy: Some(remedy.to_string()),
            span: self.span_of(path),
        }
    }

    /// The first field that differs from another version of the resource and may not: from when on it holds always does.
    pub(super) fn first_difference(&self, other: &Entry<'_>) -> Option<Range<usize>> {
        let (own, others) = (self.resource.as_ref()?.to_json(), other.resource.as_ref()?.to_json());
        let fields = own
            .as_object()?
            .iter()
            .filter(|(name, value)| *name != "effective_from" && others.get(name) != Some(value));
        let spans = fields.filter_map(|(name, _)| Some(self.table.get(name.as_str())?.span()));
        spans.min_by_key(|span| span.start)
    }
}

/// The steps of a place that is written as `tiers[1].flat_cap`.
fn steps_of(place: &str) -> Vec<Step<'_>> {
    let parts = place.split(['.', '[', ']']).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_or(Step::Field(part), Step::Index)).collect()
}
