//! The words and numbers of Tallymark: the types that every other crate speaks in.
//!
//! Owns: names (ids), exact numbers (decimals, money), instants and calendars, the metering plan that the engine
//! executes, and every limit. Leaves to others: rules (`billing`), bytes (`wire`), state (`engine`, `machine`).
//!
//! Invariants:
//! - No float, no clock, no randomness, no I/O; the same input gives the same value everywhere.
//! - A value that exists is valid: constructors check, and nothing downstream checks again.
//!
//! Glossary (one concept, one word):
//! - *event*: one usage fact with `id`, `source`, `type`, `subject`, `time`, values and `dimensions`.
//! - *meter*: turns events of a type into a measure (aggregation, value property, group-by, filter).
//! - *account*: who pays; *subscription*: its subscription to a plan; *subject*: an API key, tenant or seat that
//!   belongs to a subscription from one instant until another.
//! - *plan*, *price*: what is sold; a price is a pricing model over one meter, effective-dated and versioned.
//! - *tier window*: the span over which tiers accumulate; *slice*: the finest span that rating looks at.
//! - *position*, *issued*: what a window is worth as now known, and what sealed batches already charged for it.
//! - *barrier*, *cut*, *seal*: where control state meets usage; where rating happens; what makes a batch final.
//! - *rated charge*, *batch*, *correction*: a priced line; the numbered set that billing pulls; a line that adjusts.
//! - *pending*, *quarantine*: counted but not yet owned; set aside with a reason until a person decides.
//! - *legal entity*, *period*: who keeps the books, and the accounting period.
//! - *journal*: a balanced double entry.

#![deny(clippy::float_arithmetic)]

pub mod currency;
pub mod decimal;
pub mod exact;
pub mod group_texts;
pub mod ids;
pub mod limits;
pub mod plan;
pub mod table;
pub mod time;

pub use currency::{Amount, Currency};
pub use decimal::{Decimal, DecimalStatus};
pub use exact::{Exact, ExactStatus, Rounding};
pub use group_texts::GroupTexts;
pub use ids::{
    AccountId, CommitmentId, DiscountId, EntityId, EventPosition, GrantId, MeterId, PlanId, PriceId, Subject,
    SubscriptionId, Tenant,
};
pub use table::Table;
pub use time::{Period, Span, Timestamp, Zone};
