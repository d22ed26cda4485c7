//! The growing columns of a batch: values and dimensions.
//!
//! Owns: planning where an event's parts go, without changing anything, and then adding them.
//! Leaves to others: dictionaries (`super::texts`), limits of a whole batch (`super::BatchBuilder`).
//!
//! Invariants: a column that comes late, and an event without a part that others have, is filled with nulls; the value
//! columns' scale only rises within a batch, and never loses a digit.

use domain::decimal::{MANTISSA_MAX, normalize, power_of_ten};
use domain::limits::{DICTIONARY_ENTRIES_MAX, EVENT_DIMENSIONS_MAX, EVENT_VALUES_MAX};

use super::PADDING_BYTES_MAX;
use super::texts::{self, TextTable};
use crate::usage::archive::{
    ArchivedDimensionColumnV1, ArchivedValueColumnV1, DimensionColumnV1, ValueColumnV1,
};

/// Which column each value of an event goes to; a number past the last column means a new one.
pub(super) type ValuePlaces = [u8; EVENT_VALUES_MAX];

/// Which column and dictionary entry each dimension of an event goes to.
pub(super) struct DimensionPlaces {
    columns: [u8; EVENT_DIMENSIONS_MAX],
    entries: [Option<u32>; EVENT_DIMENSIONS_MAX],
}

/// The value columns.
#[derive(Default)]
pub(super) struct Values {
    columns: Vec<ValueColumnV1>,
    /// Largest magnitude of each column's mantissas.
    magnitudes: Vec<u128>,
    name_bytes: usize,
    spare: Vec<ValueColumnV1>,
}

impl Values {
    const COLUMN_BYTES: usize = size_of::<ArchivedValueColumnV1>() + 3 * PADDING_BYTES_MAX;

    #[inline]
    pub(super) fn event_bytes(&self) -> usize {
        size_of::<i128>() * self.columns.len()
    }

    #[inline]
    pub(super) fn fixed_bytes(&self, count: usize) -> usize {
        self.columns.len() * (Self::COLUMN_BYTES + nulls_bytes(count)) + self.name_bytes
    }

    /// Where the values of event `count` go, or `None` if the batch has no room for them; adds the bytes of new columns.
    #[inline]
    pub(super) fn plan(
        &self,
        values: &[(&str, i128, u8)],
        count: usize,
        bytes: &mut usize,
    ) -> Option<ValuePlaces> {
        let mut places = [0; EVENT_VALUES_MAX];
        let mut column_count = self.columns.len();
        for ((guess, (name, mantissa, scale)), place) in values.iter().enumerate().zip(&mut places) {
            if let Some(column) = column_of(&self.columns, |column| &column.name, guess, name) {
                self.fit(column, *mantissa, *scale)?;
                *place = column as u8;
            } else {
                *place = column_count as u8;
                column_count += 1;
                *bytes += Self::COLUMN_BYTES + name.len() + nulls_bytes(count + 1);
                *bytes += size_of::<i128>() * (count + 1);
            }
        }
        (column_count <= EVENT_VALUES_MAX).then_some(places)
    }

    /// Adds the values of event `count`, which were planned.
    #[inline]
    pub(super) fn add(&mut self, values: &[(&str, i128, u8)], places: &ValuePlaces, count: usize) {
        for ((name, mantissa, scale), place) in values.iter().zip(places) {
            let column = usize::from(*place);
            if column == self.columns.len() {
                self.add_column(name, *scale, count);
            }
            let (mantissa, scale) = self.fit(column, *mantissa, *scale).expect("the push was planned");
            if scale > self.columns[column].scale {
                self.rescale(column, scale);
            }
            self.columns[column].mantissa.push(mantissa);
            self.magnitudes[column] = self.magnitudes[column].max(mantissa.unsigned_abs());
        }
        if values.len() < self.columns.len() {
            for column in &mut self.columns {
                if column.mantissa.len() == count {
                    column.mantissa.push(0);
                    set_null(&mut column.nulls, count);
                }
            }
        }
    }

    /// The value's mantissa, and the scale that the column must have for it; `None` if digits would not fit.
    #[inline]
    fn fit(&self, column: usize, mantissa: i128, scale: u8) -> Option<(i128, u8)> {
        let column_scale = self.columns[column].scale;
        if scale == column_scale {
            return Some((mantissa, scale));
        }
        fit_scales(self.magnitudes[column], column_scale, mantissa, scale)
    }

    fn add_column(&mut self, name: &str, scale: u8, count: usize) {
        let mut column = self.spare.pop().unwrap_or_default();
        column.name.clear();
        column.name.push_str(name);
        column.scale = scale;
        column.mantissa.clear();
        column.mantissa.resize(count, 0);
        set_nulls_before(&mut column.nulls, count);
        self.name_bytes += name.len();
        self.columns.push(column);
        self.magnitudes.push(0);
    }

    fn rescale(&mut self, column: usize, scale: u8) {
        let values = &mut self.columns[column];
        let factor = power_of_ten(scale - values.scale);
        for mantissa in &mut values.mantissa {
            *mantissa *= factor; // the largest of them was tried in `fit`
        }
        self.magnitudes[column] *= factor.unsigned_abs();
        values.scale = scale;
    }

    pub(super) fn move_into(&mut self, archive: &mut Vec<ValueColumnV1>, count: usize) {
        self.columns.iter_mut().for_each(|column| close_nulls(&mut column.nulls, count));
        std::mem::swap(&mut self.columns, archive);
    }

    pub(super) fn take_back(&mut self, archive: &mut Vec<ValueColumnV1>) {
        self.spare.append(archive);
        std::mem::swap(&mut self.columns, archive);
        self.magnitudes.clear();
        self.name_bytes = 0;
    }
}

#[cold]
fn fit_scales(magnitude_max: u128, column_scale: u8, mantissa: i128, scale: u8) -> Option<(i128, u8)> {
    let (mantissa, scale) = normalize(mantissa, scale);
    let fits = |magnitude: u128, shift: u8| {
        let magnitude = magnitude.checked_mul(power_of_ten(shift).unsigned_abs());
        magnitude.is_some_and(|magnitude| magnitude <= MANTISSA_MAX.unsigned_abs())
    };
    match column_scale.checked_sub(scale) {
        Some(shift) => {
            fits(mantissa.unsigned_abs(), shift).then(|| (mantissa * power_of_ten(shift), column_scale))
        }
        None => fits(magnitude_max, scale - column_scale).then_some((mantissa, scale)),
    }
}

/// The dimension columns.
#[derive(Default)]
pub(super) struct Dimensions {
    columns: Vec<DimensionColumnV1>,
    tables: Vec<TextTable>,
    /// Bytes of names and dictionaries.
    text_bytes: usize,
    spare: Vec<(DimensionColumnV1, TextTable)>,
}

impl Dimensions {
    const COLUMN_BYTES: usize =
        size_of::<ArchivedDimensionColumnV1>() + texts::EMPTY_BYTES + 5 * PADDING_BYTES_MAX;

    #[inline]
    pub(super) fn event_bytes(&self) -> usize {
        size_of::<u32>() * self.columns.len()
    }

    #[inline]
    pub(super) fn fixed_bytes(&self, count: usize) -> usize {
        self.columns.len() * (Self::COLUMN_BYTES + nulls_bytes(count)) + self.text_bytes
    }

    /// Where the dimensions of event `count` go, or `None` if the batch has no room for them; adds the bytes of new
    /// columns and texts.
    #[inline]
    pub(super) fn plan(
        &self,
        dimensions: &[(&str, &str)],
        count: usize,
        bytes: &mut usize,
    ) -> Option<DimensionPlaces> {
        let mut places =
            DimensionPlaces { columns: [0; EVENT_DIMENSIONS_MAX], entries: [None; EVENT_DIMENSIONS_MAX] };
        let slots = places.columns.iter_mut().zip(&mut places.entries);
        let mut column_count = self.columns.len();
        for ((guess, (name, text)), (place, entry)) in dimensions.iter().enumerate().zip(slots) {
            if let Some(column) = column_of(&self.columns, |column| &column.name, guess, name) {
                let dictionary = &self.columns[column].dictionary;
                *place = column as u8;
                *entry = self.tables[column].find(dictionary, text);
                if entry.is_none() {
                    if texts::count(dictionary) == DICTIONARY_ENTRIES_MAX {
                        return None;
                    }
                    *bytes += texts::entry_bytes(text);
                }
            } else {
                *place = column_count as u8;
                column_count += 1;
                *bytes += Self::COLUMN_BYTES + name.len() + nulls_bytes(count + 1) + texts::entry_bytes(text);
                *bytes += size_of::<u32>() * (count + 1);
            }
        }
        (column_count <= EVENT_DIMENSIONS_MAX).then_some(places)
    }

    /// Adds the dimensions of event `count`, which were planned.
    #[inline]
    pub(super) fn add(&mut self, dimensions: &[(&str, &str)], places: &DimensionPlaces, count: usize) {
        for ((name, text), (place, entry)) in
            dimensions.iter().zip(places.columns.iter().zip(&places.entries))
        {
            let column = usize::from(*place);
            if column == self.columns.len() {
                self.add_column(name, count);
            }
            let entry = entry.unwrap_or_else(|| self.add_text(column, text));
            self.columns[column].index.push(entry);
        }
        if dimensions.len() < self.columns.len() {
            for column in &mut self.columns {
                if column.index.len() == count {
                    column.index.push(0);
                    set_null(&mut column.nulls, count);
                }
            }
        }
    }

    fn add_text(&mut self, column: usize, text: &str) -> u32 {
        self.text_bytes += texts::entry_bytes(text);
        self.tables[column].add(&mut self.columns[column].dictionary, text)
    }

    fn add_column(&mut self, name: &str, count: usize) {
        let (mut column, mut table) = self.spare.pop().unwrap_or_default();
        column.name.clear();
        column.name.push_str(name);
        table.start(&mut column.dictionary);
        column.index.clear();
        column.index.resize(count, 0);
        set_nulls_before(&mut column.nulls, count);
        self.text_bytes += name.len();
        self.columns.push(column);
        self.tables.push(table);
    }

    pub(super) fn move_into(&mut self, archive: &mut Vec<DimensionColumnV1>, count: usize) {
        self.columns.iter_mut().for_each(|column| close_nulls(&mut column.nulls, count));
        std::mem::swap(&mut self.columns, archive);
    }

    pub(super) fn take_back(&mut self, archive: &mut Vec<DimensionColumnV1>) {
        self.spare.extend(archive.drain(..).zip(self.tables.drain(..)));
        std::mem::swap(&mut self.columns, archive);
        self.text_bytes = 0;
    }
}

/// The column with a name. The parts of events usually come in the order of the columns, so that one is tried first.
#[inline]
fn column_of<T>(columns: &[T], name_of: impl Fn(&T) -> &str, guess: usize, name: &str) -> Option<usize> {
    if columns.get(guess).is_some_and(|column| name_of(column) == name) {
        return Some(guess);
    }
    columns.iter().position(|column| name_of(column) == name)
}

/// Room for a bitmap, which every column is given whether it has nulls or not.
#[inline]
fn nulls_bytes(count: usize) -> usize {
    size_of::<u64>() * count.div_ceil(64)
}

/// Marks an event as having no entry in a column.
fn set_null(nulls: &mut Vec<u64>, event: usize) {
    if nulls.len() <= event / 64 {
        nulls.resize(event / 64 + 1, 0);
    }
    nulls[event / 64] |= 1 << (event % 64);
}

/// Marks every event before a column's first.
fn set_nulls_before(nulls: &mut Vec<u64>, count: usize) {
    nulls.clear();
    nulls.resize(count / 64, u64::MAX);
    if !count.is_multiple_of(64) {
        nulls.push((1 << (count % 64)) - 1);
    }
}

/// A bitmap covers every event or none.
fn close_nulls(nulls: &mut Vec<u64>, count: usize) {
    if !nulls.is_empty() {
        nulls.resize(count.div_ceil(64), 0);
    }
}
