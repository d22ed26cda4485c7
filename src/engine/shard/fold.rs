//! Meter programs against a batch: which meters an event feeds, in which group, with which value.
//!
//! Owns: filters, groups and values, resolved once per batch against its dictionaries, then looked up per event.
//! Leaves to others: verdicts and cells (`super::Shard`).
//!
//! Invariants: an event is atomic, so [`contributions_of`] either gives what every matching meter takes or one reason.

use std::sync::Arc;

use domain::Decimal;
use domain::decimal::{normalize, power_of_ten};
use domain::limits::{DECIMAL_DIGITS_MAX, METER_GROUP_BY_MAX};
use domain::plan::{CellClass, Condition, MeterProgram, MeteringPlan, NegativeUsage, Test};
use foldhash::HashMapExt;
use sha2::{Digest, Sha256};
use wire::usage::UsageBatch;
use wire::verdict::QuarantineReason;

use super::cell::Group;
use super::groups::Groups;
use super::sequence::KeyChange;

/// What one event adds to one cell of a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contribution {
    /// Index of the meter's program.
    pub(crate) program: u32,
    /// The group, as the shard numbers it.
    pub(crate) group: u32,
    /// What a cell keeps of it.
    pub(crate) class: CellClass,
    /// The value at the meter's scale, or the change of a key.
    pub(crate) value: i128,
}

/// The programs that can take events of a batch.
pub(crate) struct ResolvedPrograms {
    programs: Vec<Resolved>,
}

struct Resolved {
    program: u32,
    class: CellClass,
    value: ValueRule,
    negative_usage: NegativeUsage,
    filters: Vec<Filter>,
    group_columns: Vec<Option<usize>>,
    group_radix: Vec<u128>,
    known_groups: KnownGroups,
}

enum ValueRule {
    Count,
    /// The batch has no such value column.
    Missing,
    Column {
        column: usize,
        rescaling: Rescaling,
    },
    /// Texts of a dimension are keys that come or go.
    Keys {
        column: usize,
        /// Per dictionary entry.
        digests: Vec<u128>,
        operation: Option<Operation>,
    },
}

/// From the scale of a column to that of a meter.
#[derive(Clone, Copy)]
struct Rescaling {
    scale: u8,
    meter_scale: u8,
    /// What a mantissa is multiplied with, where that is enough and the factor is small.
    factor: Option<i64>,
}

/// Numbers of groups that the batch has used before, by their entries: `u32::MAX` if not yet.
enum KnownGroups {
    Few(Vec<u32>),
    Many(foldhash::HashMap<u128, u32>),
}

/// Combinations of entries up to which each has a place of its own.
const FEW_GROUPS: u128 = 4_096;

struct Operation {
    column: usize,
    /// Per dictionary entry: does the key go.
    is_removal: Vec<bool>,
}

struct Filter {
    /// The dimension, if the batch has it.
    column: Option<usize>,
    /// Per dictionary entry of the column: does the filter let it through.
    allowed: Vec<bool>,
    /// Whether an event without the dimension passes.
    is_missing_allowed: bool,
    /// The value property that serves where an event has no such dimension, and the test.
    value: Option<(usize, Test)>,
}

impl ResolvedPrograms {
    /// Resolves the programs of the plan that existed at `control_offset` against the columns of a batch.
    pub(crate) fn of(plan: &MeteringPlan, control_offset: u64, batch: &UsageBatch<'_>) -> Self {
        let programs = plan
            .programs
            .iter()
            .enumerate()
            .filter(|(_, program)| {
                *program.event_type == *batch.event_type() && program.since_control_offset <= control_offset
            })
            .map(|(index, program)| Resolved::of(index as u32, program, batch))
            .collect();
        Self { programs }
    }

    /// Collects into `out` what every matching meter takes of an event.
    ///
    /// # Errors
    /// The reason for which the first meter, in plan order, cannot take the event; then none takes it.
    pub(crate) fn contributions_of(
        &mut self,
        batch: &UsageBatch<'_>,
        index: usize,
        plan: &MeteringPlan,
        groups: &mut Groups,
        out: &mut Vec<Contribution>,
    ) -> Result<(), QuarantineReason> {
        out.clear();
        for resolved in &mut self.programs {
            if !resolved.filters.iter().all(|filter| filter.lets_through(batch, index)) {
                continue;
            }
            let value = resolved.value_of(batch, index)?;
            let group = resolved.group_of(batch, index, plan, groups);
            out.push(Contribution { program: resolved.program, group, class: resolved.class, value });
        }
        Ok(())
    }
}

impl Resolved {
    fn of(index: u32, program: &MeterProgram, batch: &UsageBatch<'_>) -> Self {
        let dimension = |name: &str| dimension_column(batch, name);
        let value = match (&program.key, &program.value) {
            (Some(key), _) => dimension(key).map_or(ValueRule::Missing, |column| ValueRule::Keys {
                column,
                digests: of_entries(batch, column, digest_of_key),
                operation: program.operation.as_deref().and_then(dimension).map(|column| Operation {
                    column,
                    is_removal: of_entries(batch, column, |text| text == KEY_GOES),
                }),
            }),
            (None, None) => ValueRule::Count,
            (None, Some(name)) => value_column(batch, name).map_or(ValueRule::Missing, |column| {
                let rescaling = Rescaling::new(batch.value_columns()[column].scale(), program.scale);
                ValueRule::Column { column, rescaling }
            }),
        };
        let filters = program.filter.iter().map(|condition| Filter::of(condition, batch)).collect();
        assert!(program.group_by.len() <= METER_GROUP_BY_MAX, "the catalog limits group-by dimensions");
        let group_columns: Vec<Option<usize>> = program.group_by.iter().map(|name| dimension(name)).collect();
        // One digit per dimension: entry + 1, or 0 where the event has no such dimension. Eight digits below 2^14
        // fit 128 bits.
        let mut radix = 1u128;
        let group_radix: Vec<u128> = group_columns
            .iter()
            .map(|column| {
                let this = radix;
                let entries = column.map_or(0, |column| batch.dimension_columns()[column].dictionary_len());
                radix *= entries as u128 + 1;
                this
            })
            .collect();
        Self {
            program: index,
            class: program.aggregation.class(),
            value,
            negative_usage: program.negative_usage,
            filters,
            group_columns,
            group_radix,
            known_groups: match radix {
                0..=FEW_GROUPS => KnownGroups::Few(vec![u32::MAX; radix as usize]),
                _ => KnownGroups::Many(foldhash::HashMap::new()),
            },
        }
    }

    #[inline]
    fn value_of(&self, batch: &UsageBatch<'_>, index: usize) -> Result<i128, QuarantineReason> {
        let (column, rescaling) = match &self.value {
            ValueRule::Count => return Ok(1),
            ValueRule::Missing => return Err(QuarantineReason::MissingValue),
            ValueRule::Column { column, rescaling } => (*column, *rescaling),
            ValueRule::Keys { column, digests, operation } => {
                let entry = batch.dimension_columns()[*column].index(index);
                let digest = digests[entry.ok_or(QuarantineReason::MissingValue)?];
                let is_removal = operation.as_ref().is_some_and(|operation| {
                    let entry = batch.dimension_columns()[operation.column].index(index);
                    entry.is_some_and(|entry| operation.is_removal[entry])
                });
                return Ok(KeyChange::new(digest, is_removal).to_value());
            }
        };
        let Some(mantissa) = batch.value_columns()[column].value(index) else {
            return Err(QuarantineReason::MissingValue);
        };
        let value = rescaling.of(mantissa)?;
        if value >= 0 {
            return Ok(value);
        }
        match self.negative_usage {
            NegativeUsage::Reject => Err(QuarantineReason::NegativeUsage),
            NegativeUsage::Zero => Ok(0),
            NegativeUsage::Signed => Ok(value),
        }
    }

    #[inline]
    fn group_of(
        &mut self,
        batch: &UsageBatch<'_>,
        index: usize,
        plan: &MeteringPlan,
        groups: &mut Groups,
    ) -> u32 {
        let entry_of = |column: &Option<usize>| {
            column.and_then(|column| {
                batch.dimension_columns()[column].index(index).map(|entry| (column, entry))
            })
        };
        let mut key = 0u128;
        for (column, radix) in self.group_columns.iter().zip(&self.group_radix) {
            key += entry_of(column).map_or(0, |(_, entry)| entry as u128 + 1) * radix;
        }
        let known = match &self.known_groups {
            KnownGroups::Few(groups) => groups[key as usize],
            KnownGroups::Many(groups) => groups.get(&key).copied().unwrap_or(u32::MAX),
        };
        if known != u32::MAX {
            return known;
        }
        let texts: Group = self
            .group_columns
            .iter()
            .map(|column| {
                entry_of(column)
                    .map(|(column, entry)| Arc::from(batch.dimension_columns()[column].text(entry)))
            })
            .collect();
        debug_assert_eq!(texts.len(), plan.programs[self.program as usize].group_by.len());
        let group = groups.number_of(texts);
        match &mut self.known_groups {
            KnownGroups::Few(groups) => groups[key as usize] = group,
            KnownGroups::Many(groups) => {
                groups.insert(key, group);
            }
        }
        group
    }
}

impl Filter {
    fn of(condition: &Condition, batch: &UsageBatch<'_>) -> Self {
        let Condition { dimension, test } = condition;
        let column = dimension_column(batch, dimension);
        let value = value_column(batch, dimension).filter(|_| test.is_of_values());
        Self {
            column,
            allowed: column
                .map_or(Vec::new(), |column| of_entries(batch, column, |text| test.passes(Some(text)))),
            is_missing_allowed: test.passes(None),
            value: value.map(|column| (column, test.clone())),
        }
    }

    #[inline]
    fn lets_through(&self, batch: &UsageBatch<'_>, index: usize) -> bool {
        if let Some(entry) = self.column.and_then(|column| batch.dimension_columns()[column].index(index)) {
            return self.allowed[entry];
        }
        let Some((column, test)) = &self.value else { return self.is_missing_allowed };
        let column = &batch.value_columns()[*column];
        match column.value(index) {
            None => self.is_missing_allowed,
            Some(mantissa) => Decimal::new(mantissa, column.scale()).is_ok_and(|value| test.admits(value)),
        }
    }
}

fn dimension_column(batch: &UsageBatch<'_>, name: &str) -> Option<usize> {
    batch.dimension_columns().iter().position(|column| column.name() == name)
}

fn value_column(batch: &UsageBatch<'_>, name: &str) -> Option<usize> {
    batch.value_columns().iter().position(|column| column.name() == name)
}

/// Something of every text of a dimension.
fn of_entries<T>(batch: &UsageBatch<'_>, column: usize, of: impl Fn(&str) -> T) -> Vec<T> {
    let column = &batch.dimension_columns()[column];
    (0..column.dictionary_len()).map(|entry| of(column.text(entry))).collect()
}

/// The text of an operation that takes a key away; every other one adds it.
const KEY_GOES: &str = "remove";

/// A key in 128 bits of SHA-256: nobody can make two keys that count as one, and every server gives the same.
fn digest_of_key(text: &str) -> u128 {
    let digest = Sha256::digest(text.as_bytes());
    u128::from_be_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
}

impl Rescaling {
    fn new(scale: u8, meter_scale: u8) -> Self {
        let shift = meter_scale.checked_sub(scale);
        let factor = shift.and_then(|shift| i64::try_from(power_of_ten(shift)).ok());
        Self { scale, meter_scale, factor }
    }

    /// The mantissa at the meter's scale, exactly.
    #[inline]
    fn of(self, mantissa: i128) -> Result<i128, QuarantineReason> {
        if let (Some(factor), Ok(small)) = (self.factor, i64::try_from(mantissa)) {
            // Twice 64 bits always fit.
            return Ok(i128::from(small) * i128::from(factor));
        }
        self.of_any(mantissa)
    }

    #[inline(never)]
    fn of_any(self, mantissa: i128) -> Result<i128, QuarantineReason> {
        let Self { scale, meter_scale, .. } = self;
        let (mantissa, scale) =
            if scale > meter_scale { normalize(mantissa, scale) } else { (mantissa, scale) };
        let Some(shift) = meter_scale.checked_sub(scale) else { return Err(QuarantineReason::ValueScale) };
        debug_assert!(u32::from(shift) <= DECIMAL_DIGITS_MAX);
        mantissa.checked_mul(power_of_ten(shift)).ok_or(QuarantineReason::ValueRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_rescaled_exactly_or_refused_by_name() {
        let rescale = |mantissa, scale, meter_scale| Rescaling::new(scale, meter_scale).of(mantissa);
        assert_eq!(rescale(15, 1, 3), Ok(1_500));
        assert_eq!(rescale(1_500, 3, 1), Ok(15));
        assert_eq!(rescale(1_501, 3, 1), Err(QuarantineReason::ValueScale));
        assert_eq!(rescale(10i128.pow(37), 0, 18), Err(QuarantineReason::ValueRange));
        assert_eq!(rescale(0, 28, 0), Ok(0));
        // On both sides of what fits 64 bits, by mantissa and by factor.
        let (edge, factor) = (i128::from(i64::MAX), 10i128.pow(18));
        for mantissa in [edge, edge + 1, -edge - 1, -edge - 2] {
            assert_eq!(rescale(mantissa, 0, 18), Ok(mantissa * factor));
            assert_eq!(rescale(mantissa, 0, 19), Ok(mantissa * factor * 10));
        }
    }
}
