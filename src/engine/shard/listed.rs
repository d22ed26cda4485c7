//! What a snapshot saves of the lists that barriers change: pending events, corrected ones, and those that were set aside.
//!
//! Owns: saving them step by step, each as it was when the snapshot began. Leaves to others: the lists, and saying so before
//! they change (`super::Shard`); when a step is done (`super::snapshot`).
//!
//! A list is saved in its order. What is left of it and is about to change is saved before that: pending events a subject at a
//! time, the others one by one. Events behind the first batch since are none of the snapshot's.
//!
//! Invariants: no step is larger because a list is; each entry is saved once.

use std::collections::{BTreeSet, VecDeque};

use domain::EventPosition;

use super::SetAside;
use super::corrections::{Corrected, Corrections};
use super::pending::PendingEvent;
use super::snapshot::SECTION_BYTES;
use super::subjects::Subjects;
use crate::snapshot::codec::Fields;
use crate::snapshot::{Section, SectionKind};

/// Entries that are looked at before a section ends, however few of them are saved.
const LOOKED_AT: usize = if cfg!(test) { 2 } else { 1 << 14 };

/// How far the lists are saved.
pub(super) struct Listed {
    /// Subjects that there were.
    subjects: u32,
    pending: Left<u32>,
    /// Pending events that are saved of the first subject that is left.
    pending_saved: usize,
    corrected: Left<EventPosition>,
    set_aside: Left<EventPosition>,
    /// Offset of the first batch since the snapshot began.
    first_new: Option<u64>,
    /// Sections of what was saved before it changed.
    ready: VecDeque<Section>,
}

/// What is left of a list.
struct Left<K> {
    kind: SectionKind,
    /// Everything before is saved; without it, everything is.
    from: Option<K>,
    /// Of what is left, what was saved before it changed, or came since.
    kept: BTreeSet<K>,
    /// What was saved so and is no section yet.
    fields: Fields,
}

impl<K: Ord + Copy> Left<K> {
    fn all(kind: SectionKind, from: Option<K>) -> Self {
        Self { kind, from, kept: BTreeSet::new(), fields: Fields::default() }
    }

    /// Whether an entry that changes has to be saved before.
    fn must_keep(&mut self, key: K) -> bool {
        self.from.is_some_and(|from| from <= key) && self.kept.insert(key)
    }

    /// Whether an entry that is reached is still to be saved.
    fn is_left(&mut self, key: K) -> bool {
        !self.kept.remove(&key)
    }

    /// The section of what was kept, if it is longer than `bytes`.
    fn section(&mut self, bytes: usize) -> Option<Section> {
        (self.fields.len() > bytes).then(|| Section { kind: self.kind, body: self.fields.take() })
    }
}

impl Listed {
    /// Everything, of so many subjects.
    pub(super) fn all(subjects: usize, has_pending: bool) -> Self {
        let first = Some(EventPosition::from_bits(0));
        Self {
            subjects: subjects as u32,
            pending: Left::all(SectionKind::Pending, has_pending.then_some(0)),
            pending_saved: 0,
            corrected: Left::all(SectionKind::Corrections, first),
            set_aside: Left::all(SectionKind::SetAside, first),
            first_new: None,
            ready: VecDeque::new(),
        }
    }

    /// A batch is next to be handled.
    pub(super) fn on_batch(&mut self, offset: u64) {
        self.first_new.get_or_insert(offset);
    }

    /// Whether an event arrived since the snapshot began.
    pub(super) fn is_new(&self, position: EventPosition) -> bool {
        self.first_new.is_some_and(|first| first <= position.offset())
    }

    /// A subject will have other pending events.
    pub(super) fn keep_pending(&mut self, subject: u32, pending: &[PendingEvent]) {
        if subject >= self.subjects || !self.pending.must_keep(subject) {
            return;
        }
        let saved = if self.pending.from == Some(subject) { self.pending_saved } else { 0 };
        for event in pending.iter().skip(saved) {
            if !self.is_new(event.position) {
                event.save(subject, &mut self.pending.fields);
                self.ready.extend(self.pending.section(SECTION_BYTES));
            }
        }
    }

    /// Something else will count instead of an event.
    pub(super) fn keep_corrected(&mut self, position: EventPosition, corrected: Option<&Corrected>) {
        if !self.is_new(position)
            && self.corrected.must_keep(position)
            && let Some(corrected) = corrected
        {
            corrected.save(position, &mut self.corrected.fields);
            self.ready.extend(self.corrected.section(SECTION_BYTES));
        }
    }

    /// An event will be set aside, or will no more.
    pub(super) fn keep_set_aside(&mut self, position: EventPosition, set_aside: Option<&SetAside>) {
        if !self.is_new(position)
            && self.set_aside.must_keep(position)
            && let Some(set_aside) = set_aside
        {
            set_aside.save(&mut self.set_aside.fields);
            self.ready.extend(self.set_aside.section(SECTION_BYTES));
        }
    }

    /// The next section; nothing once all were given.
    pub(super) fn poll(
        &mut self,
        subjects: &Subjects,
        corrections: &Corrections,
        set_aside: &[SetAside],
    ) -> Option<Section> {
        let mut fields = Fields::default();
        while let Some(kind) = self.kind_left() {
            match kind {
                SectionKind::Pending => self.save_pending(subjects, &mut fields),
                SectionKind::Corrections => self.save_corrected(corrections, &mut fields),
                _ => self.save_set_aside(set_aside, &mut fields),
            }
            // An empty one says that there is more, after a look at what other work there is.
            if fields.len() > 0 || self.kind_left() == Some(kind) {
                return Some(Section { kind, body: fields.take() });
            }
        }
        let kept = || {
            let rest = self.pending.section(0).or_else(|| self.corrected.section(0));
            rest.or_else(|| self.set_aside.section(0))
        };
        self.ready.pop_front().or_else(kept)
    }

    /// The list that is being saved.
    fn kind_left(&self) -> Option<SectionKind> {
        let pending = self.pending.from.map(|_| self.pending.kind);
        let corrected = self.corrected.from.map(|_| self.corrected.kind);
        let set_aside = self.set_aside.from.map(|_| self.set_aside.kind);
        pending.or(corrected).or(set_aside)
    }

    fn save_pending(&mut self, subjects: &Subjects, fields: &mut Fields) {
        for _ in 0..LOOKED_AT {
            let subject = self.pending.from.filter(|subject| *subject < self.subjects);
            self.pending.from = subject;
            let Some(subject) = subject else { return };
            let pending = &subjects[subject].pending;
            while !self.pending.kept.contains(&subject)
                && let Some(event) = pending.get(self.pending_saved)
            {
                if fields.len() >= SECTION_BYTES {
                    return;
                }
                if !self.is_new(event.position) {
                    event.save(subject, fields);
                }
                self.pending_saved += 1;
            }
            self.pending.kept.remove(&subject);
            (self.pending.from, self.pending_saved) = (Some(subject + 1), 0);
        }
    }

    fn save_corrected(&mut self, corrections: &Corrections, fields: &mut Fields) {
        let from = self.corrected.from.take().expect("something is left");
        for (looked_at, (position, corrected)) in corrections.corrected_from(from).enumerate() {
            if self.is_new(position) {
                return;
            }
            if fields.len() >= SECTION_BYTES || looked_at == LOOKED_AT {
                self.corrected.from = Some(position);
                return;
            }
            if self.corrected.is_left(position) {
                corrected.save(position, fields);
            }
        }
    }

    fn save_set_aside(&mut self, set_aside: &[SetAside], fields: &mut Fields) {
        let from = self.set_aside.from.take().expect("something is left");
        let first = set_aside.partition_point(|listed| listed.position < from);
        for (looked_at, listed) in set_aside[first..].iter().enumerate() {
            if self.is_new(listed.position) {
                return;
            }
            if fields.len() >= SECTION_BYTES || looked_at == LOOKED_AT {
                self.set_aside.from = Some(listed.position);
                return;
            }
            if self.set_aside.is_left(listed.position) {
                listed.save(fields);
            }
        }
    }
}
