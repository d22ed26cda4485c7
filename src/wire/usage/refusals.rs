//! Events that are refused although their batch is sound.
//!
//! Owns: the rules of one event that show in the frame alone, and their order. Leaves to others: writing them into the
//! log and the ack (`server::ingest`).
//!
//! Invariants: at most one refusal for an event, that of the first rule it breaks; refusals rise by index; the same
//! bytes give the same refusals. A column that breaks no rule, as nearly all do, costs one plain pass.

use domain::decimal::MANTISSA_MAX;
use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN, OPAQUE_BYTES_MAX};
use rkyv::Archived;

use super::{Dictionary, DimensionColumn, GivenIds, IdColumn, UsageBatch, ValueColumn};
use crate::event::{opaque_fits, property_fits};
use crate::verdict::RefusalCode;

/// An event that is not counted, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Index of the event in its batch.
    pub index: u16,
    /// The first rule that it breaks.
    pub code: RefusalCode,
}

impl UsageBatch<'_> {
    /// The events that are refused, rising by index.
    pub fn refusals(&self) -> Vec<Refusal> {
        let mut first = FirstBroken { codes: Vec::new(), events: self.len() };
        if let IdColumn::Bytes(given) = self.ids {
            refuse_ids(given, &mut first);
        }
        if let Some(bad) = bad_entries(self.subjects, |text| opaque_fits(text.as_bytes())) {
            first.note(RefusalCode::SubjectMustFit, |event| bad.contains(self.subject_index(event)));
        }
        if !times_in_range(self.time) {
            let is_out = |event| !(EVENT_TIME_MIN..EVENT_TIME_END).contains(&self.time(event));
            first.note(RefusalCode::TimeMustBeInRange, is_out);
        }
        for column in &self.values {
            refuse_values(column, &mut first);
        }
        for column in &self.dimensions {
            refuse_dimensions(column, &mut first);
        }
        first.into_refusals()
    }
}

/// The first rule that each event breaks; empty as long as none does.
struct FirstBroken {
    codes: Vec<Option<RefusalCode>>,
    events: usize,
}

impl FirstBroken {
    /// Notes a rule for the events that break it, unless they broke an earlier one.
    #[cold]
    fn note(&mut self, code: RefusalCode, is_broken: impl Fn(usize) -> bool) {
        self.codes.resize(self.events, None);
        for (event, noted) in self.codes.iter_mut().enumerate() {
            if noted.is_none() && is_broken(event) {
                *noted = Some(code);
            }
        }
    }

    fn into_refusals(self) -> Vec<Refusal> {
        let refusal = |(index, code): (usize, Option<RefusalCode>)| {
            code.map(|code| Refusal { index: index as u16, code }) // a batch index fits 16 bits
        };
        self.codes.into_iter().enumerate().filter_map(refusal).collect()
    }
}

fn refuse_ids(ids: GivenIds<'_>, first: &mut FirstBroken) {
    if !lengths_fit(ids.offsets) {
        first.note(RefusalCode::IdMustFit, |event| !opaque_fits(ids.id(event)));
    }
    // Ids one after the other can be UTF-8 although a character is cut between two of them.
    let all_utf8 = str::from_utf8(ids.bytes).is_ok_and(|texts| {
        let is_between_characters =
            |offset: &Archived<u32>| texts.is_char_boundary(offset.to_native() as usize);
        texts.is_ascii() || ids.offsets.iter().all(is_between_characters)
    });
    if !all_utf8 {
        first.note(RefusalCode::IdMustBeUtf8, |event| str::from_utf8(ids.id(event)).is_err());
    }
}

fn refuse_values(column: &ValueColumn<'_>, first: &mut FirstBroken) {
    if !mantissas_fit(column.mantissa) {
        let is_out = |event| column.value(event).is_some_and(|value| !mantissa_fits(value));
        first.note(RefusalCode::ValueDigitsMustFit, is_out);
    }
}

fn refuse_dimensions(column: &DimensionColumn<'_>, first: &mut FirstBroken) {
    if let Some(bad) = bad_entries(column.dictionary, property_fits) {
        let is_out = |event| column.index(event).is_some_and(|entry| bad.contains(entry));
        first.note(RefusalCode::DimensionMustFit, is_out);
    }
}

/// The entries of a dictionary that do not fit, if there are any.
fn bad_entries(dictionary: Dictionary<'_>, fits: impl Fn(&str) -> bool) -> Option<BadEntries> {
    if lengths_fit(dictionary.offsets) {
        return None;
    }
    let mut bad = vec![false; dictionary.len()];
    for (entry, is_bad) in bad.iter_mut().enumerate() {
        *is_bad = !fits(dictionary.text(entry));
    }
    Some(BadEntries(bad))
}

/// Which entries of a dictionary do not fit.
struct BadEntries(Vec<bool>);

impl BadEntries {
    fn contains(&self, entry: usize) -> bool {
        self.0.get(entry).copied().unwrap_or(false)
    }
}

const _: () =
    assert!(OPAQUE_BYTES_MAX == domain::limits::PROPERTY_BYTES_MAX, "one length rule for all texts");

/// Whether every text between two offsets has 1 to 256 bytes.
fn lengths_fit(offsets: &[Archived<u32>]) -> bool {
    let mut misfits = false;
    for (from, until) in offsets.iter().zip(offsets.iter().skip(1)) {
        let bytes = until.to_native().wrapping_sub(from.to_native());
        misfits |= bytes.wrapping_sub(1) >= OPAQUE_BYTES_MAX as u32;
    }
    !misfits
}

fn times_in_range(times: &[Archived<i64>]) -> bool {
    let mut out = false;
    for time in times {
        let since = time.to_native().wrapping_sub(EVENT_TIME_MIN) as u64;
        out |= since >= (EVENT_TIME_END - EVENT_TIME_MIN) as u64;
    }
    !out
}

fn mantissas_fit(mantissas: &[Archived<i128>]) -> bool {
    let mut fit = true;
    for mantissa in mantissas {
        fit &= mantissa_fits(mantissa.to_native());
    }
    fit
}

#[inline]
fn mantissa_fits(mantissa: i128) -> bool {
    mantissa.wrapping_add(MANTISSA_MAX) as u128 <= 2 * MANTISSA_MAX as u128
}
