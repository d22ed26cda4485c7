//! Rated charges: the lines that leave in a batch.
//!
//! Owns: their fields, their identity, their posting class, what asks for an invoice. Leaves to others: which lines a batch has
//! (`machine::cut`), how a batch is numbered and chained (`machine::batch`).

mod charge;
mod component;
mod invoice_request;
mod posting_class;

pub use self::charge::{ChargeLine, Corrects, EventDigest, LineKey};
pub use self::component::Component;
pub use self::invoice_request::InvoiceRequest;
pub use self::posting_class::PostingClass;
