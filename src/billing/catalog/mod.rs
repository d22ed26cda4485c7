//! The catalog: who sells what to whom at which price, effective-dated and versioned.
//!
//! Owns: resources, their rules, their versions, look-ups by time. Leaves to others: storing them (`machine::control`).

mod agreement;
mod check;
mod file;
mod price;
mod ramps;
mod resource;
#[cfg(test)]
mod schema;
mod state;
mod status;
mod text;
mod timeline;
mod windows;

pub use self::agreement::{
    AccountDiscount, Commitment, CreditGrant, GrantKind, GrantRollover, RecurrenceEvery,
};
pub use self::check::{Finding, Place, Report, Severity, check_file};
pub use self::file::{CatalogFile, CatalogFileError, PlannedChange, plan_changes};
pub use self::price::{
    CapacityStep, Convert, PackageRound, Price, PriceDiscount, PriceRow, PriceTerms, PricingModel, Proration,
    RoundQuantity, Tier, TierScope,
};
pub use self::ramps::versions_of_json;
pub use self::resource::{
    Account, Aggregation, Entity, FilterTest, FilterTests, Gauge, InvoiceThresholds, Meter, NegativeUsage,
    OneOrMany, Plan, Resource, ResourceKind, SubjectBinding, Subscription,
};
pub use self::state::{Catalog, Change, OnTrial, Versioned};
pub use self::status::{CatalogStatus, Rule};
pub use self::timeline::{
    CommitmentTimeline, PriceTimeline, PriceVersion, SubjectTimeline, SubscriptionTimeline,
};
pub use self::windows::{Belonging, cadence_of};
