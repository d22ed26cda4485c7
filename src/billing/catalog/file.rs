//! Catalog files: TOML, one table per resource.
//!
//! Owns: reading them, and the difference to a catalog. Leaves to others: writing records (`server::control`).

use std::fmt;

use serde::Deserialize;

use super::resource::{
    Account, Entity, Meter, Plan, Price, Resource, ResourceKind, SubjectBinding, Subscription,
};
use super::state::{Catalog, Change};
use super::status::CatalogStatus;

/// Bytes of a catalog file.
const FILE_BYTES_MAX: usize = 64 << 20;

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
        let file: CatalogFile = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            CatalogFileError { line, what: error.message().to_string() }
        })?;
        if file.catalog != 1 {
            let what = format!("catalog = {} is not known; this version reads catalog = 1", file.catalog);
            return Err(CatalogFileError { line: None, what });
        }
        Ok(file)
    }

    /// Its resources, those that others refer to first.
    pub fn resources(&self) -> Vec<Resource> {
        let mut resources = Vec::new();
        resources.extend(self.entity.iter().cloned().map(Resource::Entity));
        resources.extend(self.account.iter().cloned().map(Resource::Account));
        resources.extend(self.meter.iter().cloned().map(Resource::Meter));
        resources.extend(self.plan.iter().cloned().map(Resource::Plan));
        resources.extend(self.price.iter().cloned().map(Resource::Price));
        resources.extend(self.subscription.iter().cloned().map(Resource::Subscription));
        resources.extend(self.subject.iter().cloned().map(Resource::Subject));
        resources
    }
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
    fn a_mistake_is_named_with_its_line() {
        let error =
            CatalogFile::parse("catalog = 1\n[[plan]]\nid = \"Pro\"\ncurrency = \"USD\"\n").unwrap_err();
        assert_eq!(error.line, Some(3));
        assert!(error.what.contains("a-z or 0-9"), "{error}");
        let error =
            CatalogFile::parse("catalog = 1\n[[plan]]\nid = \"pro\"\ncurrency = \"USD\"\ncolour = 1\n")
                .unwrap_err();
        assert!(error.what.contains("colour"), "{error}");
        assert!(CatalogFile::parse("catalog = 2\n").unwrap_err().what.contains("catalog = 1"));
        assert!(CatalogFile::parse("").unwrap_err().what.contains("catalog"));
    }
}
