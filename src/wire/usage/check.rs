//! The rules of a batch as a whole, in order of precedence.
//!
//! Owns: making a [`UsageBatch`] out of bytes that nobody vouched for. Leaves to others: events by themselves
//! (`super::refusals`), the envelope (`crate::frame`).
//!
//! Invariants: one pass over each column, no allocation but the lists of columns; nothing is followed before it is
//! checked, memory safety by rkyv's `bytecheck`, meaning by the rules below.

use domain::limits::{
    DECIMAL_FRACTION_DIGITS_MAX, DICTIONARY_ENTRIES_MAX, EVENT_DIMENSIONS_MAX, EVENT_VALUES_MAX,
};
use rkyv::Archived;

use super::archive::{
    ArchivedDictionaryV1, ArchivedDimensionColumnV1, ArchivedUsageBatchV1, ArchivedValueColumnV1,
    ID_KIND_GIVEN, ID_KIND_SEQUENCED,
};
use super::{Dictionary, DimensionColumn, GivenIds, IdColumn, Nulls, UsageBatch, ValueColumn};
use crate::buffer::ALIGNMENT;
use crate::event::{names_are_unique, opaque_fits, property_fits};
use crate::frame::{FrameHeader, FrameStatus, Schema};

impl<'a> UsageBatch<'a> {
    /// Checks the body of a frame whose envelope and checksum were checked before.
    ///
    /// The body starts at a multiple of 16 bytes, as it does behind the envelope in [`crate::AlignedBytes`].
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`FrameStatus`] declares them.
    pub fn check(header: &FrameHeader, body: &'a [u8]) -> Result<Self, FrameStatus> {
        let batch = Self::reopen(header, body)?;
        check_offsets_and_indexes(&batch)?;
        Ok(batch)
    }

    /// Opens a body that [`UsageBatch::check`] passed before: the same view, without a pass over its events.
    ///
    /// Safe on any bytes, but accessors of a view that was never checked may panic.
    ///
    /// # Errors
    /// As [`UsageBatch::check`], for the rules that are not about single entries of columns.
    pub fn reopen(header: &FrameHeader, body: &'a [u8]) -> Result<Self, FrameStatus> {
        header.check_schema(Schema::UsageBatchV1)?;
        if body.len() != header.body_bytes as usize {
            return Err(FrameStatus::BodyMustBeWhole);
        }
        if !body.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(FrameStatus::BodyMustBeAligned);
        }
        let archive = rkyv::access::<ArchivedUsageBatchV1, rancor::Failure>(body)
            .map_err(|_| FrameStatus::ArchiveMustBeValid)?;
        let count = header.count as usize;
        check_names(archive, count)?;
        check_shape(archive, count)?;
        Ok(Self {
            source: &archive.source,
            event_type: &archive.event_type,
            ids: id_column(archive),
            subjects: dictionary(&archive.subjects)?,
            subject_index: &archive.subject_index,
            time: &archive.time,
            values: archive.values.iter().map(value_column).collect(),
            dimensions: archive.dimensions.iter().map(dimension_column).collect::<Result<_, _>>()?,
        })
    }
}

/// Texts, kinds, numbers of columns.
fn check_names(archive: &ArchivedUsageBatchV1, count: usize) -> Result<(), FrameStatus> {
    if !opaque_fits(archive.source.as_bytes()) {
        return Err(FrameStatus::SourceMustFit);
    }
    if !opaque_fits(archive.event_type.as_bytes()) {
        return Err(FrameStatus::EventTypeMustFit);
    }
    if !matches!(archive.id_kind, ID_KIND_GIVEN | ID_KIND_SEQUENCED) {
        return Err(FrameStatus::IdKindMustBeKnown);
    }
    let (values, dimensions) = (archive.values.as_slice(), archive.dimensions.as_slice());
    if archive.id_first_sequence.to_native().checked_add(count as u64).is_none() {
        return Err(FrameStatus::IdSequenceMustFit);
    }
    if values.len() > EVENT_VALUES_MAX || dimensions.len() > EVENT_DIMENSIONS_MAX {
        return Err(FrameStatus::ColumnsMustFit);
    }
    let names_fit = values.iter().all(|column| property_fits(&column.name))
        && dimensions.iter().all(|column| property_fits(&column.name));
    if !names_fit {
        return Err(FrameStatus::ColumnNameMustFit);
    }
    if !names_are_unique(values, |column| &column.name)
        || !names_are_unique(dimensions, |column| &column.name)
    {
        return Err(FrameStatus::ColumnNamesMustBeUnique);
    }
    if !values.iter().all(|column| column.scale <= DECIMAL_FRACTION_DIGITS_MAX) {
        return Err(FrameStatus::ScaleMustFit);
    }
    Ok(())
}

/// Lengths of all columns, and the sizes of dictionaries.
fn check_shape(archive: &ArchivedUsageBatchV1, count: usize) -> Result<(), FrameStatus> {
    let ids_match = match archive.id_kind {
        ID_KIND_SEQUENCED => archive.id_bytes.is_empty() && archive.id_offsets.is_empty(),
        _ => {
            archive.id_offsets.len() == count + 1
                && archive.id_epoch.to_native() == 0
                && archive.id_first_sequence.to_native() == 0
        }
    };
    let columns_match = archive.subject_index.len() == count
        && archive.time.len() == count
        && archive
            .values
            .iter()
            .all(|column| column.mantissa.len() == count && nulls_match(&column.nulls, count))
        && archive
            .dimensions
            .iter()
            .all(|column| column.index.len() == count && nulls_match(&column.nulls, count));
    if !ids_match || !columns_match {
        return Err(FrameStatus::ColumnMustMatchCount);
    }
    let dictionaries =
        || archive.dimensions.iter().map(|column| &column.dictionary).chain([&archive.subjects]);
    if dictionaries().any(|dictionary| dictionary.offsets.len() > DICTIONARY_ENTRIES_MAX + 1) {
        return Err(FrameStatus::DictionaryMustFit);
    }
    Ok(())
}

/// No words, or one bit for every event and zeros behind the last.
fn nulls_match(nulls: &[Archived<u64>], count: usize) -> bool {
    let Some(last) = nulls.last() else { return true };
    let unused = count.next_multiple_of(64) - count;
    nulls.len() == count.div_ceil(64) && last.to_native().leading_zeros() as usize >= unused
}

/// Entries of columns, one pass each.
fn check_offsets_and_indexes(batch: &UsageBatch<'_>) -> Result<(), FrameStatus> {
    let dictionaries = || batch.dimensions.iter().map(|column| column.dictionary).chain([batch.subjects]);
    let ids_rise = match batch.ids {
        IdColumn::Bytes(given) => offsets_rise(given.offsets, given.bytes.len()),
        IdColumn::Sequenced { .. } => true,
    };
    if !ids_rise || !dictionaries().all(texts_rise) {
        return Err(FrameStatus::OffsetsMustRise);
    }
    let subjects_in = indexes_in(batch.subject_index, batch.subjects.len(), Nulls(&[]));
    let dimensions_in =
        batch.dimensions.iter().all(|column| indexes_in(column.index, column.dictionary.len(), column.nulls));
    if !subjects_in || !dimensions_in {
        return Err(FrameStatus::IndexMustBeInDictionary);
    }
    Ok(())
}

/// From zero, never falling, to the end of the bytes.
fn offsets_rise(offsets: &[Archived<u32>], bytes: usize) -> bool {
    let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return false };
    let mut falls = false;
    for (from, until) in offsets.iter().zip(offsets.iter().skip(1)) {
        falls |= until.to_native() < from.to_native();
    }
    first.to_native() == 0 && last.to_native() as usize == bytes && !falls
}

/// Offsets of a dictionary also lie between characters, so that every entry is UTF-8 by itself.
fn texts_rise(dictionary: Dictionary<'_>) -> bool {
    let Dictionary { texts, offsets } = dictionary;
    offsets_rise(offsets, texts.len())
        && (texts.is_ascii()
            || offsets.iter().all(|offset| texts.is_char_boundary(offset.to_native() as usize)))
}

/// The index of an event without an entry means nothing, and may point anywhere.
fn indexes_in(index: &[Archived<u32>], entries: usize, nulls: Nulls<'_>) -> bool {
    let mut largest = 0;
    for entry in index {
        largest = largest.max(entry.to_native());
    }
    (largest as usize) < entries
        || index
            .iter()
            .enumerate()
            .all(|(event, entry)| (entry.to_native() as usize) < entries || nulls.has(event))
}

fn id_column(archive: &ArchivedUsageBatchV1) -> IdColumn<'_> {
    match archive.id_kind {
        ID_KIND_SEQUENCED => IdColumn::Sequenced {
            epoch: archive.id_epoch.to_native(),
            first: archive.id_first_sequence.to_native(),
        },
        _ => IdColumn::Bytes(GivenIds { bytes: &archive.id_bytes, offsets: &archive.id_offsets }),
    }
}

fn dictionary(dictionary: &ArchivedDictionaryV1) -> Result<Dictionary<'_>, FrameStatus> {
    let texts = str::from_utf8(&dictionary.bytes).map_err(|_| FrameStatus::DictionaryMustBeUtf8)?;
    Ok(Dictionary { texts, offsets: &dictionary.offsets })
}

fn value_column(column: &ArchivedValueColumnV1) -> ValueColumn<'_> {
    ValueColumn {
        name: &column.name,
        scale: column.scale,
        mantissa: &column.mantissa,
        nulls: Nulls(&column.nulls),
    }
}

fn dimension_column(column: &ArchivedDimensionColumnV1) -> Result<DimensionColumn<'_>, FrameStatus> {
    Ok(DimensionColumn {
        name: &column.name,
        dictionary: dictionary(&column.dictionary)?,
        index: &column.index,
        nulls: Nulls(&column.nulls),
    })
}
