//! Catalog files: TOML, one table per resource.
//!
//! Owns: reading them, and the difference to a catalog. Leaves to others: writing records (`machine::ControlWriter`).
//!
//! Invariants: a mistake is said with its line, what is wrong and what belongs there; a file of another version is
//! refused for its version first, since everything else in it may be new.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, Deserializer};

use super::agreement::{AccountDiscount, Commitment, CreditGrant};
use super::price::Price;
use super::ramps;
use super::resource::{Account, Entity, Meter, Plan, Resource, ResourceKind, SubjectBinding, Subscription};
use super::state::{Catalog, Change};
use super::status::CatalogStatus;

/// The version of catalog files that is read.
const FILE_VERSION: u32 = 1;
/// Bytes of a catalog file.
pub(super) const FILE_BYTES_MAX: usize = 64 << 20;

/// Why a text is not a catalog file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogFileError {
    /// Line of the mistake, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for CatalogFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for CatalogFileError {}

/// A catalog file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFile {
    catalog: u32,
    #[serde(default)]
    entity: Vec<Entity>,
    #[serde(default)]
    account: Vec<Account>,
    #[serde(default)]
    meter: Vec<Meter>,
    #[serde(default)]
    plan: Vec<Plan>,
    #[serde(default)]
    price: Vec<Price>,
    #[serde(default)]
    subscription: Vec<Subscription>,
    #[serde(default)]
    subject: Vec<SubjectBinding>,
    #[serde(default)]
    commitment: Vec<Commitment>,
    #[serde(default)]
    grant: Vec<CreditGrant>,
    #[serde(default)]
    discount: Vec<AccountDiscount>,
}

impl CatalogFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`CatalogFileError`] with the line of the mistake.
    pub fn parse(text: &str) -> Result<Self, CatalogFileError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(CatalogFileError {
                line: None,
                what: "a catalog file has at most 64 MiB".to_string(),
            });
        }
        let unreadable = |error: toml::de::Error| CatalogFileError {
            line: error.span().map(|span| line_of(text, span.start)),
            what: error.message().trim().replace('\n', "; "),
        };
        let refused =
            |what, span: Range<usize>| CatalogFileError { line: Some(line_of(text, span.start)), what };
        let mut table = DeTable::parse(text).map_err(unreadable)?;
        let ramp = ramps::write_out(table.get_mut()).into_iter().next();
        let file = CatalogFile::deserialize(Deserializer::from(table));
        if !matches!((&file, &ramp), (Ok(file), None) if file.catalog == FILE_VERSION)
            && let Some((what, span)) = version_mistake(text)
        {
            return Err(refused(what, span));
        }
        match ramp {
            Some(mistake) => Err(refused(mistake.what, mistake.span)),
            None => file.map_err(unreadable),
        }
    }

    /// Its resources, those that others refer to first.
    pub fn resources(&self) -> Vec<Resource> {
        let mut resources = Vec::new();
        resources.extend(self.entity.iter().cloned().map(Resource::Entity));
        let (parents, children): (Vec<_>, Vec<_>) =
            self.account.iter().cloned().partition(|account| account.parent.is_none());
        resources.extend(parents.into_iter().chain(children).map(Resource::Account));
        resources.extend(self.meter.iter().cloned().map(Resource::Meter));
        resources.extend(self.plan.iter().cloned().map(Resource::Plan));
        resources.extend(self.price.iter().cloned().map(Resource::from));
        resources.extend(self.subscription.iter().cloned().map(Resource::Subscription));
        resources.extend(self.subject.iter().cloned().map(Resource::Subject));
        resources.extend(self.commitment.iter().cloned().map(Resource::from));
        resources.extend(self.grant.iter().cloned().map(Resource::from));
        resources.extend(self.discount.iter().cloned().map(Resource::from));
        resources
    }
}

/// What a file says of its version, whatever else is in it.
#[derive(Deserialize)]
struct Header {
    catalog: Option<Spanned<toml::Value>>,
}

/// What is wrong with a file's version, and where, if that is what is wrong.
pub(super) fn version_mistake(text: &str) -> Option<(String, Range<usize>)> {
    // A text that is no TOML has a mistake of its own.
    let header: Header = toml::from_str(text).ok()?;
    let Some(version) = header.catalog else {
        let what = "a catalog file starts with its version; write `catalog = 1` above the first table";
        return Some((what.to_string(), 0..0));
    };
    let is_known = version.get_ref().as_integer() == Some(FILE_VERSION.into());
    let what = format!(
        "catalog = {} is not a version that is known here; this program reads `catalog = {FILE_VERSION}`",
        version.get_ref()
    );
    (!is_known).then_some((what, version.span()))
}

fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A difference between a file and a catalog.
#[derive(Clone, Debug)]
pub struct PlannedChange {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Id of the resource.
    pub id: String,
    /// What it becomes.
    pub change: Change,
    /// The newest version before, if there is one.
    pub before: Option<serde_json::Value>,
    /// The version in the file.
    pub after: serde_json::Value,
}

/// What applying a file would change, in order.
///
/// # Errors
/// The first resource that breaks a rule.
pub fn plan_changes(catalog: &Catalog, file: &CatalogFile) -> Result<Vec<PlannedChange>, CatalogStatus> {
    let mut scratch = catalog.clone();
    let mut changes = Vec::new();
    for (index, resource) in file.resources().into_iter().enumerate() {
        let before = scratch.newest(&resource).map(|before| before.to_json());
        let (kind, id, after) = (resource.kind(), resource.id().to_string(), resource.to_json());
        // Offsets only order meters; any rising number does for a plan.
        let change = scratch.apply(resource, u64::MAX / 2 + index as u64)?;
        if change != Change::Unchanged {
            changes.push(PlannedChange { kind, id, change, before, after });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_said_with_its_line_and_what_belongs_there() {
        let plan = "catalog = 1\n[[plan]]\nid = \"pro\"\ncurrency = \"USD\"\n";
        let price = "catalog = 1\n[[price]]\nid = \"p\"\nplan = \"pro\"\nmeter = \"m\"\nmodel = \"per_unit\"\nwindow = \"month\"\n";
        let with = |base: &str, line: &str| format!("{base}{line}\n");
        for (text, line, what) in [
            (String::new(), Some(1), "write `catalog = 1` above the first table"),
            (plan.replace("catalog = 1\n", ""), Some(1), "write `catalog = 1` above the first table"),
            (plan.replace("catalog = 1", "\ncatalog = 2"), Some(2), "catalog = 2 is not a version"),
            (plan.replace("catalog = 1", "catalog = \"1\""), Some(1), "this program reads `catalog = 1`"),
            (String::from("catalog = 2\n[[coupon]]\nid = \"x\"\n"), Some(1), "catalog = 2 is not a version"),
            (plan.replace("\"pro\"", "\"Pro\""), Some(3), "a-z or 0-9"),
            (plan.replace("\"USD\"", "\"usd\""), Some(4), "ISO 4217"),
            (with(plan, "colour = 1"), Some(5), "unknown field `colour`, expected `id` or `currency`"),
            (plan.replace("[[plan]]", "[[plans]]"), Some(2), "expected one of"),
            (plan.replace("currency = \"USD\"", ""), Some(2), "missing field `currency`"),
            (with(price, "unit_amount = 0.01"), Some(8), "expected a decimal in quotes, such as \"0.01\""),
            (with(price, "unit_amount = 1"), Some(8), "expected a decimal in quotes"),
            (with(price, "unit_amount = \"1e3\""), Some(8), "\"1e3\": a decimal is written with digits"),
            (with(price, "tiers = [{ unit_amount = 0.5 }]"), Some(8), "expected a decimal in quotes"),
            (with(price, "tiers = [{ up_to = 10, unit_amount = \"1\" }]"), Some(8), "a decimal in quotes"),
            (with(price, "effective_from = 2026-01-01T00:00:00Z"), Some(8), "expected an instant in quotes"),
            (with(price, "effective_from = \"2026-01-01\""), Some(8), "RFC 3339"),
            (with(price, "per = \"1000\""), Some(8), "expected"),
            (plan.replace("model", "x").replace("= \"pro\"", "= \"pro"), Some(3), ""),
            (price.replace("per_unit", "hourly"), Some(6), "expected one of `per_unit`, `flat`, `graduated`"),
        ] {
            let error = CatalogFile::parse(&text).expect_err(&text);
            assert_eq!(error.line, line, "{error}\n{text}");
            assert!(error.what.contains(what), "{error}\n{text}");
            assert!(!error.to_string().contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn resources_stand_in_the_order_in_which_they_may_refer_to_each_other() {
        let resources = CatalogFile::parse(crate::catalog::state::tests::FILE).unwrap().resources();
        assert!(resources.is_sorted_by_key(Resource::kind));
        let kinds: Vec<ResourceKind> = resources.iter().map(Resource::kind).collect();
        assert!(ResourceKind::ALL.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    }

    #[test]
    fn a_plan_of_changes_shows_before_and_after_and_changes_nothing() {
        let file = CatalogFile::parse(crate::catalog::state::tests::FILE).unwrap();
        let mut catalog = Catalog::default();
        let planned = plan_changes(&catalog, &file).unwrap();
        assert_eq!(planned.len(), file.resources().len());
        assert!(planned.iter().all(|planned| planned.change == Change::Create && planned.before.is_none()));
        assert_eq!(catalog.entities().count(), 0, "planning changes nothing");
        for (offset, resource) in file.resources().into_iter().enumerate() {
            catalog.apply(resource, offset as u64).unwrap();
        }
        assert_eq!(plan_changes(&catalog, &file).unwrap().len(), 0);

        let renamed = crate::catalog::state::tests::FILE.replace("\"Acme\"", "\"Acme Corp\"");
        let planned = plan_changes(&catalog, &CatalogFile::parse(&renamed).unwrap()).unwrap();
        let [change] = planned.as_slice() else { panic!("{planned:?}") };
        assert_eq!((change.kind, &*change.id), (ResourceKind::Accounts, "acme"));
        assert_eq!(change.change, Change::NewVersion(2));
        assert_eq!(change.before.as_ref().unwrap()["name"], "Acme");
        assert_eq!(change.after["name"], "Acme Corp");

        let broken = renamed.replace("\"America/New_York\"", "\"Europe/Berlin\"");
        let status = plan_changes(&catalog, &CatalogFile::parse(&broken).unwrap()).unwrap_err();
        assert_eq!(status.to_string().split(':').next(), Some("entity inc"));
    }
}
