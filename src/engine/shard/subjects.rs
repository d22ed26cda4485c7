//! The subjects of a shard: numbered as they appear, found by their texts.
//!
//! Owns: what a shard knows of a subject, and the slice that its last event fell into.
//! Leaves to others: what becomes of its events (`super::Shard`).
//!
//! Invariants: a subject keeps its number; the last slice is one of the subject's plan, or empty.

use std::hash::BuildHasher;
use std::sync::Arc;

use domain::plan::SubjectPlan;
use domain::{Span, Subject, Timestamp};

use super::numbered::{Numbered, Vacant};
use super::pending::PendingEvent;

/// What is known of a subject: first what nearly every event reads, in one line of the cache.
#[repr(C, align(64))]
pub(crate) struct SubjectState {
    head: Head,
    /// The slice that its last event fell into: the next one mostly does as well.
    last_slice: Span,
    plan: Option<Arc<SubjectPlan>>,
    /// Its text.
    pub(crate) subject: Subject,
    /// Numbers of its cells.
    pub(crate) cells: Vec<u32>,
    /// Its events that wait for an owner.
    pub(crate) pending: Vec<PendingEvent>,
}

const _: () = assert!(size_of::<SubjectState>() == 128 && std::mem::offset_of!(SubjectState, subject) == 64);

/// The first bytes of a text, and its length up to [`HEAD_BYTES`]: of two texts that are shorter, only equal ones share a head.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head([u64; HEAD_BYTES / 8]);

const HEAD_BYTES: usize = 40;

impl Head {
    #[inline]
    fn of(text: &str) -> Self {
        let mut bytes = [0; HEAD_BYTES];
        let (first, length) = bytes.split_at_mut(HEAD_BYTES - 1);
        let kept = text.len().min(first.len());
        first[..kept].copy_from_slice(&text.as_bytes()[..kept]);
        length[0] = text.len().min(HEAD_BYTES) as u8;
        let (words, _) = bytes.as_chunks();
        Self(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }

    /// Whether it has all of its text.
    #[inline]
    fn is_whole(self) -> bool {
        self.0[HEAD_BYTES / 8 - 1] >> 56 < HEAD_BYTES as u64
    }
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
    text: &'a str,
    head: Head,
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
        Wanted { text, head: Head::of(text), hash: self.hasher.hash_one(text) }
    }

    /// Loads what searches for these texts will read, all at once instead of one after the other.
    #[inline]
    pub(crate) fn touch<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>> + Clone) {
        self.states.touch(wanted.map(|wanted| wanted.hash), |state| state.head.0[0]);
    }

    /// The number of a subject.
    #[inline]
    pub(crate) fn find(&self, wanted: Wanted<'_>) -> Option<u32> {
        self.find_or_vacant(wanted).ok()
    }

    #[inline]
    fn find_or_vacant(&self, wanted: Wanted<'_>) -> Result<u32, Vacant> {
        self.states.find(wanted.hash, |state| {
            state.head == wanted.head && (wanted.head.is_whole() || state.subject.as_str() == wanted.text)
        })
    }

    /// Adds a subject; `None` if it is there already.
    pub(crate) fn add(&mut self, subject: Subject, plan: Option<Arc<SubjectPlan>>) -> Option<u32> {
        let wanted = self.wanted(subject.as_str());
        let (head, vacant) = (wanted.head, self.find_or_vacant(wanted).err()?);
        let last_slice = NO_SLICE;
        let state = SubjectState { head, last_slice, plan, subject, cells: Vec::new(), pending: Vec::new() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_any_length_are_told_apart() {
        let mut subjects = Subjects::default();
        // Around the length of a head they differ in the first byte, the last one, or in their lengths alone.
        let texts = [1, HEAD_BYTES - 2, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 256].map(|length| {
            let same = "a".repeat(length);
            [format!("b{}", &same[1..]), format!("{}b", &same[1..]), same]
        });
        // Of one byte there are two, and one of them twice.
        let texts: std::collections::BTreeSet<String> = texts.into_iter().flatten().collect();
        let subject = |text: &String| Subject::new(text).unwrap();
        for (number, text) in texts.iter().enumerate() {
            assert_eq!(subjects.find(subjects.wanted(text)), None, "{text}");
            assert_eq!(subjects.add(subject(text), None), Some(number as u32));
        }
        for (number, text) in texts.iter().enumerate() {
            assert_eq!(subjects.find(subjects.wanted(text)), Some(number as u32));
            assert_eq!(subjects.add(subject(text), None), None, "it is there already");
        }
        assert_eq!((texts.len(), subjects.len()), (17, 17));
    }
}
