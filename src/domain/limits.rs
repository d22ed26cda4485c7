//! Every limit that more than one room must agree on, with the relations between them.
//!
//! Owns: the numbers. Leaves to others: enforcing them, each where the input enters.

/// Longest catalog id in bytes (`[a-z0-9][a-z0-9._-]{0,63}`).
pub const CATALOG_ID_BYTES_MAX: usize = 64;
/// Longest legal-entity id: journals carry it in an external id of at most 50 characters.
pub const ENTITY_ID_BYTES_MAX: usize = 24;
/// Longest event id, source, event type or subject in bytes; each has at least one.
pub const OPAQUE_BYTES_MAX: usize = 256;
/// Longest name of a value or a dimension, and longest dimension text, in bytes.
pub const PROPERTY_BYTES_MAX: usize = 256;
/// Values per event.
pub const EVENT_VALUES_MAX: usize = 16;
/// Dimensions per event.
pub const EVENT_DIMENSIONS_MAX: usize = 16;
/// Events in one usage batch. An event's position keeps 16 bits for its index.
pub const BATCH_EVENTS_MAX: usize = 32_768;
/// Bytes of one usage batch frame, envelope included.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Usage log, in bytes, behind which a repeated sequenced id is told by the id alone, and its content not compared.
pub const SEQUENCED_CONTENT_BYTES: u64 = 256 << 20;
/// Entries of one dictionary (subjects, or the texts of one dimension) in a batch.
pub const DICTIONARY_ENTRIES_MAX: usize = 8_192;
/// Significant digits of a quantity or a price.
pub const DECIMAL_DIGITS_MAX: u32 = 38;
/// Fraction digits of a quantity or a price.
pub const DECIMAL_FRACTION_DIGITS_MAX: u8 = 28;
/// Fraction digits that a meter keeps unless it says otherwise.
pub const METER_SCALE_DEFAULT: u8 = 18;
/// Largest unit divisor (`per`) of a price; it is a power of ten, so that a division stays exact.
pub const PRICE_PER_MAX: u64 = 1_000_000_000_000;
/// Tiers of one price.
pub const PRICE_TIERS_MAX: usize = 256;
/// Rows of a matrix price.
pub const PRICE_ROWS_MAX: usize = 1_000;
/// Group-by dimensions of one meter.
pub const METER_GROUP_BY_MAX: usize = 8;
/// Different groups that a subscription may use of one meter in one tier window, unless the meter says otherwise.
pub const METER_GROUPS_MAX_DEFAULT: u64 = 10_000;
/// Events or keys that a meter may measure one by one in one tier window and group, unless it says otherwise.
pub const METER_KEPT_MAX_DEFAULT: u64 = 1_000_000;
/// Largest value of either limit.
pub const METER_LIMIT_MAX: u64 = 100_000_000;
/// Shortest and longest granule of a peak, in seconds.
pub const METER_GRANULE_SECONDS: std::ops::RangeInclusive<u32> = 60..=86_400;
/// Texts of one condition of a filter.
pub const METER_FILTER_TEXTS_MAX: usize = 1_000;
/// Fixed dedup slots; partitions and shards own ranges of them.
pub const SLOTS: usize = 1_024;
/// Shards that one process may run.
pub const SHARDS_MAX: usize = 64;
/// First instant that an event may carry: 2000-01-01T00:00:00Z, in nanoseconds.
pub const EVENT_TIME_MIN: i64 = 946_684_800_000_000_000;
/// First instant that an event may no longer carry: 2100-01-01T00:00:00Z, in nanoseconds.
pub const EVENT_TIME_END: i64 = 4_102_444_800_000_000_000;

const _: () = assert!(BATCH_EVENTS_MAX <= u16::MAX as usize, "an event index must fit 16 bits");
const _: () =
    assert!(ENTITY_ID_BYTES_MAX + "-2026-01-".len() + 10 + "-v1".len() <= 50, "external ids fit ERPs");
const _: () = assert!(DECIMAL_FRACTION_DIGITS_MAX as u32 <= DECIMAL_DIGITS_MAX);
const _: () = assert!(METER_SCALE_DEFAULT <= DECIMAL_FRACTION_DIGITS_MAX);
const _: () = assert!(SLOTS.is_power_of_two() && SHARDS_MAX <= SLOTS);
