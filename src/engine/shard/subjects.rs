//! The subjects of a shard: numbered as they appear, found by their texts.
//!
//! Owns: what a shard knows of a subject, and the slice that its last event fell into.
//! Leaves to others: what becomes of its events (`super::Shard`).
//!
//! Invariants: a subject keeps its number; the last slice is one of the subject's plan, or empty.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

use domain::plan::SubjectPlan;
use domain::{Span, Subject, Timestamp};

use super::numbered::Numbered;
use super::pending::PendingEvent;

/// What is known of a subject.
pub(crate) struct SubjectState {
    /// Its text.
    pub(crate) subject: Subject,
    /// The slice that its last event fell into: the next one mostly does as well.
    last_slice: Span,
    plan: Option<Arc<SubjectPlan>>,
    /// Numbers of its cells.
    pub(crate) cells: Vec<u32>,
    /// Its events that wait for an owner.
    pub(crate) pending: Vec<PendingEvent>,
}

/// A span without instants.
const NO_SLICE: Span = Span { from: Timestamp::MIN, until: Timestamp::MIN };

impl SubjectState {
    /// When it is owned.
    pub(crate) fn plan(&self) -> Option<&Arc<SubjectPlan>> {
        self.plan.as_ref()
    }

    /// Changes when it is owned.
    pub(crate) fn set_plan(&mut self, plan: Option<Arc<SubjectPlan>>) {
        self.last_slice = NO_SLICE;
        self.plan = plan;
    }

    /// The slice that an instant falls into; `None` while nobody owns the subject.
    #[inline]
    pub(crate) fn slice_of(&mut self, time: Timestamp) -> Option<Span> {
        if !self.last_slice.contains(time) {
            self.last_slice = self.plan.as_ref()?.span_at(time)?.slice_of(time);
        }
        Some(self.last_slice)
    }
}

/// A text that is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The text.
    pub(crate) text: &'a str,
    hash: u64,
}

/// All subjects of a shard.
#[derive(Default)]
pub(crate) struct Subjects {
    states: Numbered<SubjectState>,
    // Seeded at random, so that nobody can choose texts that share a hash; it decides where a subject lies, and nothing else.
    hasher: foldhash::quality::RandomState,
}

impl Subjects {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &SubjectState> {
        self.states.iter()
    }

    /// All, by number.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut SubjectState> {
        self.states.iter_mut()
    }

    /// The subject of a number.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut SubjectState> {
        self.states.get_mut(number)
    }

    /// A text to be looked for.
    #[inline]
    pub(crate) fn wanted<'a>(&self, text: &'a str) -> Wanted<'a> {
        Wanted { text, hash: self.hasher.hash_one(text) }
    }

    /// Loads what searches for these texts will read, all at once instead of one after the other.
    #[inline]
    pub(crate) fn touch<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>> + Clone) {
        let homes = wanted.clone().map(|wanted| self.states.touch_home(wanted.hash));
        black_box(homes.fold(0, |all, one| all | one));
        let candidates = wanted.filter_map(|wanted| self.states.candidate(wanted.hash));
        let first_byte = |state: &SubjectState| state.subject.as_str().as_bytes().first().copied();
        black_box(candidates.filter_map(first_byte).fold(0, |all, one| all | one));
    }

    /// The number of a subject.
    #[inline]
    pub(crate) fn find(&self, wanted: Wanted<'_>) -> Option<u32> {
        self.states.find(wanted.hash, |state| state.subject.as_str() == wanted.text).ok()
    }

    /// Adds a subject; `None` if it is there already.
    pub(crate) fn add(&mut self, subject: Subject, plan: Option<Arc<SubjectPlan>>) -> Option<u32> {
        let hash = self.hasher.hash_one(subject.as_str());
        let vacant = self.states.find(hash, |state| state.subject == subject).err()?;
        let last_slice = NO_SLICE;
        let state = SubjectState { subject, last_slice, plan, cells: Vec::new(), pending: Vec::new() };
        Some(self.states.add(vacant, state))
    }
}

impl std::ops::Index<u32> for Subjects {
    type Output = SubjectState;

    #[inline]
    fn index(&self, number: u32) -> &SubjectState {
        &self.states[number]
    }
}

impl std::ops::IndexMut<u32> for Subjects {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut SubjectState {
        &mut self.states[number]
    }
}
