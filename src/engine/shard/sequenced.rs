//! Sequenced ids of a shard: which numbers of which runs of clients arrived, as stretches of numbers that came together.
//!
//! Owns: telling a new number from a repeated one; where its event stands, what became of it and, for a time, what it said.
//! Leaves to others: ids that producers choose (`super::dedup`), what is missing (`machine::completeness`).
//!
//! A client mints (source, epoch, number) and sends numbers in batches. A batch whose numbers are all new is one
//! stretch, whatever its events: a place in the log, a count and one standing for all. No entry is made and nothing is
//! searched per event.
//!
//! What events said is kept while they are at most `SEQUENCED_CONTENT_BYTES` of usage log behind: by then a repeat
//! is compared. A later repeat is told by its id alone and is a duplicate. Both are functions of places in the log, so that
//! a replay says the same.
//!
//! Invariants: exact, without horizon. A number is in at most one stretch; stretches are in log order. Memory: 64 bytes and an
//! entry of a map for each stretch; 2 bits an event where events of one stretch came to stand differently; 16 bytes an
//! event for those whose content is kept, shared by all shards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use domain::EventPosition;
#[cfg(not(test))]
use domain::limits::SEQUENCED_CONTENT_BYTES;

use super::dedup::Standing;
use super::numbered::Chunks;
use super::sequence::{load_position, save_position};
use crate::prepared::{Content, SequencedIds};
use crate::snapshot::codec::{FieldReader, Fields};

/// Small in tests, so that their histories are long.
#[cfg(test)]
pub(super) const SEQUENCED_CONTENT_BYTES: u64 = 64 * 5;

/// Numbers of a run that arrived together and were all new.
struct Stretch {
    run: u128,
    first: u64,
    count: u32,
    /// How many of the events are the shard's own: the stretch says nothing of others'.
    own: u32,
    /// Place of the first; the others follow in the same batch.
    position: EventPosition,
    standings: Standings,
    contents: Option<Arc<Vec<Content>>>,
}

/// What became of the events of a stretch.
enum Standings {
    All(Standing),
    /// Two bits each.
    Each(Box<[u64]>),
}

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Where it stands.
    pub(super) position: EventPosition,
    /// What became of it.
    pub(super) standing: Standing,
    /// What it said, if that is still kept.
    pub(super) content: Option<Content>,
}

/// The sequenced ids of a shard.
#[derive(Default)]
pub(super) struct Sequenced {
    stretches: Chunks<Stretch>,
    /// By run, and by their first number.
    runs: BTreeMap<u128, BTreeMap<u64, u32>>,
    /// Stretches before this one have no contents any more.
    contents_from: u32,
    remembered: usize,
}

impl Sequenced {
    /// How many events of the shard are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.remembered
    }

    /// How many stretches there are.
    pub(super) fn len(&self) -> usize {
        self.stretches.len()
    }

    /// Lets go of contents that a batch at an offset of the log is not compared with.
    pub(super) fn forget_contents(&mut self, offset: u64) {
        while (self.contents_from as usize) < self.stretches.len() {
            let stretch = &mut self.stretches[self.contents_from];
            if is_compared(stretch.position, offset) {
                return;
            }
            stretch.contents = None;
            self.contents_from += 1;
        }
    }

    /// Which events of a batch have numbers that never arrived: ranges of indexes, in order. `refused` ones have none.
    pub(super) fn unseen(
        &self,
        ids: &SequencedIds,
        refused: impl Iterator<Item = u16>,
        out: &mut Vec<Range<u32>>,
    ) {
        out.clear();
        let (mut from, until) = (ids.first, ids.first + ids.contents.len() as u64);
        let mut push = |span: Range<u64>| {
            if !span.is_empty() {
                out.push((span.start - ids.first) as u32..(span.end - ids.first) as u32);
            }
        };
        if let Some(stretches) = self.runs.get(&ids.run) {
            if let Some((_, stretch)) = stretches.range(..=from).next_back() {
                from = from.max(self.stretches[*stretch].until());
            }
            for (first, stretch) in stretches.range(from..until.max(from)) {
                push(from..*first);
                from = self.stretches[*stretch].until();
            }
        }
        push(from..until);
        for refused in refused.map(u32::from) {
            if let Some(at) = out.iter().position(|span| span.contains(&refused)) {
                let Range { start, end } = out[at];
                let parts = [start..refused, refused + 1..end].into_iter().filter(|part| !part.is_empty());
                out.splice(at..=at, parts);
            }
        }
    }

    /// What is known of a number. Its content, if a batch at an offset of the log is compared with it.
    pub(super) fn find(&self, run: u128, number: u64, offset: u64) -> Option<Arrived> {
        let (first, stretch) = self.runs.get(&run)?.range(..=number).next_back()?;
        let stretch = &self.stretches[*stretch];
        let at = number - first;
        (at < u64::from(stretch.count)).then(|| stretch.at(at as u32, offset))
    }

    /// What became of the event at a position; `None` if it was not the first of its id, or has none of these ids.
    pub(super) fn standing_at(&self, position: EventPosition) -> Option<Standing> {
        let (stretch, at) = self.place_of(position)?;
        Some(self.stretches[stretch].standings.at(at))
    }

    /// Changes what became of the event at a position; gives what it was.
    pub(super) fn set_standing(&mut self, position: EventPosition, standing: Standing) -> Option<Standing> {
        let (stretch, at) = self.place_of(position)?;
        let stretch = &mut self.stretches[stretch];
        let before = stretch.standings.at(at);
        stretch.standings.set(at, stretch.count, standing);
        Some(before)
    }

    /// The stretch that begins last at or before a position, and which of its events is meant.
    fn place_of(&self, position: EventPosition) -> Option<(u32, u32)> {
        let after = self.stretches.partition_point(|stretch| stretch.position <= position);
        let number = after.checked_sub(1)? as u32;
        let stretch = &self.stretches[number];
        let at = u32::from(position.index()) - u32::from(stretch.position.index().min(position.index()));
        let is_of_batch = stretch.position.offset() == position.offset();
        (is_of_batch && at < stretch.count).then_some((number, at))
    }

    /// Remembers the new numbers of a batch at an offset; `standings` are those of the shard's own events, in order.
    pub(super) fn remember(
        &mut self,
        ids: &SequencedIds,
        offset: u64,
        unseen: &[Range<u32>],
        standings: &[(u16, Standing)],
    ) {
        let mut standings = standings;
        for span in unseen {
            let own = standings.partition_point(|(index, _)| u32::from(*index) < span.end);
            let (of_span, rest) = standings.split_at(own);
            standings = rest;
            let Some((_, first)) = of_span.first() else { continue };
            let count = span.end - span.start;
            let mut all = Standings::All(*first);
            for (index, standing) in of_span {
                all.set(u32::from(*index) - span.start, count, *standing);
            }
            self.add(Stretch {
                run: ids.run,
                first: ids.first + u64::from(span.start),
                count,
                own: own as u32,
                position: EventPosition::new(offset, span.start as u16), // at most BATCH_EVENTS_MAX
                standings: all,
                contents: Some(ids.contents.clone()),
            });
        }
    }

    fn add(&mut self, stretch: Stretch) {
        let (run, first, own) = (stretch.run, stretch.first, stretch.own);
        let number = self.stretches.push(stretch);
        let before = self.runs.entry(run).or_default().insert(first, number);
        assert_eq!(before, None, "a number is in one stretch");
        self.remembered += own as usize;
    }

    /// Writes a stretch into a snapshot, with standings as they were for those that `moved` since.
    pub(super) fn save(
        &self,
        number: usize,
        offset: u64,
        moved: &BTreeMap<EventPosition, Standing>,
        fields: &mut Fields,
    ) {
        let stretch = &self.stretches[number as u32];
        let Stretch { run, first, count, own, position, .. } = *stretch;
        fields.u128(run).u64(first).u32(count).u32(own);
        save_position(fields, position);
        let last = EventPosition::new(position.offset(), position.index() + (count - 1) as u16);
        let mut moved = moved.range(position..=last).peekable();
        match &stretch.standings {
            Standings::All(standing) if moved.peek().is_none() => fields.u8(*standing as u8),
            standings => {
                let mut words = standings.words(count);
                for (moved, standing) in moved {
                    put(&mut words, u32::from(moved.index() - position.index()), *standing);
                }
                words.iter().fold(fields.u8(EACH), |fields, word| fields.u64(*word))
            }
        };
        let contents = stretch.contents.as_ref().filter(|_| is_compared(position, offset));
        fields.u8(u8::from(contents.is_some()));
        for content in contents.into_iter().flat_map(|contents| stretch.own_contents(contents)) {
            fields.u64(content.payload_digest).i64(content.time);
        }
    }

    /// Where the first stretch begins that another does not have as this one; both as of a batch at an offset.
    pub(super) fn first_difference(&self, other: &Sequenced, offset: u64) -> Option<EventPosition> {
        let saved = |sequenced: &Sequenced, number: usize| {
            let mut fields = Fields::default();
            if number < sequenced.len() {
                sequenced.save(number, offset, &BTreeMap::new(), &mut fields);
            }
            fields.take()
        };
        let number = (0..self.len().max(other.len())).find(|at| saved(self, *at) != saved(other, *at))?;
        let position = |sequenced: &Sequenced| {
            (number < sequenced.len()).then(|| sequenced.stretches[number as u32].position)
        };
        [position(self), position(other)].into_iter().flatten().min()
    }

    /// Adds a stretch that was saved.
    pub(super) fn load(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let (run, first, count, own) = (fields.u128()?, fields.u64()?, fields.u32()?, fields.u32()?);
        let position = load_position(fields)?;
        let is_sound = count > 0
            && own <= count
            && u32::from(position.index()) + count <= u32::from(u16::MAX)
            && first.checked_add(u64::from(count)).is_some()
            && self.find(run, first, 0).is_none()
            && self.stretches.last().is_none_or(|last| last.position < position);
        if !is_sound {
            return None;
        }
        let standings = match fields.u8()? {
            EACH => {
                let words: Option<Box<[u64]>> = (0..words_of(count)).map(|_| fields.u64()).collect();
                Standings::Each(words?)
            }
            code => Standings::All(Standing::of_bits(u64::from(code))?),
        };
        let contents = match fields.u8()? {
            0 => None,
            _ => {
                // In front stand those of earlier stretches of the batch, which are not looked at.
                let nothing = Content { payload_digest: 0, time: 0 };
                let mut contents = vec![nothing; usize::from(position.index())];
                for _ in 0..count {
                    contents.push(Content { payload_digest: fields.u64()?, time: fields.i64()? });
                }
                Some(Arc::new(contents))
            }
        };
        self.add(Stretch { run, first, count, own, position, standings, contents });
        Some(())
    }
}

/// Whether the content of an event is compared with that of a repeat in the batch at an offset of the log.
pub(super) fn is_compared(position: EventPosition, offset: u64) -> bool {
    position.offset() + SEQUENCED_CONTENT_BYTES >= offset
}

/// The code of standings that differ, behind those of a [`Standing`].
const EACH: u8 = 4;

fn words_of(count: u32) -> usize {
    (count as usize).div_ceil(32)
}

fn put(words: &mut [u64], at: u32, standing: Standing) {
    let (word, shift) = (at as usize / 32, at % 32 * 2);
    words[word] = words[word] & !(3 << shift) | (standing as u64) << shift;
}

impl Standings {
    fn at(&self, at: u32) -> Standing {
        match self {
            Standings::All(standing) => *standing,
            Standings::Each(words) => {
                let bits = words[at as usize / 32] >> (at % 32 * 2) & 3;
                Standing::of_bits(bits).expect("two bits are a standing")
            }
        }
    }

    fn set(&mut self, at: u32, count: u32, standing: Standing) {
        if matches!(self, Standings::All(all) if *all == standing) {
            return;
        }
        if matches!(self, Standings::All(_)) {
            *self = Standings::Each(self.words(count));
        }
        if let Standings::Each(words) = self {
            put(words, at, standing);
        }
    }

    fn words(&self, count: u32) -> Box<[u64]> {
        match self {
            Standings::All(standing) => {
                // The two bits, in every place of a word.
                vec![*standing as u64 * (u64::MAX / 3); words_of(count)].into()
            }
            Standings::Each(words) => words.clone(),
        }
    }
}

impl Stretch {
    fn until(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    fn own_contents<'c>(&self, contents: &'c [Content]) -> &'c [Content] {
        let from = usize::from(self.position.index());
        &contents[from..from + self.count as usize]
    }

    fn at(&self, at: u32, offset: u64) -> Arrived {
        let index = self.position.index() + at as u16; // below the count of the batch's events
        let position = EventPosition::new(self.position.offset(), index);
        let contents = self.contents.as_ref().filter(|_| is_compared(position, offset));
        let content = contents.map(|contents| contents[usize::from(index)]);
        Arrived { position, standing: self.standings.at(at), content }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const STANDINGS: [Standing; 4] =
        [Standing::Metered, Standing::Pending, Standing::Unmetered, Standing::Quarantined];

    fn ids(run: u8, first: u64, count: usize) -> SequencedIds {
        let content = |number| Content { payload_digest: u64::from(run) << 32 | number, time: number as i64 };
        let contents = (first..first + count as u64).map(content).collect();
        SequencedIds { run: run.into(), first, contents: Arc::new(contents) }
    }

    #[test]
    fn a_batch_that_is_new_is_one_stretch() {
        let mut sequenced = Sequenced::default();
        let (ids, mut unseen) = (ids(1, 7, 40), Vec::new());
        sequenced.unseen(&ids, std::iter::empty(), &mut unseen);
        assert_eq!((unseen.len(), &unseen[0]), (1, &(0..40)));
        let standings: Vec<(u16, Standing)> = (0..40).map(|index| (index, Standing::Metered)).collect();
        sequenced.remember(&ids, 64, &unseen, &standings);
        assert_eq!((sequenced.len(), sequenced.remembered()), (1, 40));
        assert!(matches!(sequenced.stretches[0].standings, Standings::All(Standing::Metered)));
        // As large as the documentation says.
        assert_eq!(size_of::<Stretch>(), 64);
    }

    proptest! {
        /// Batches that overlap in any way, with refused events and events of other shards: every number is known as a map of
        /// numbers knows it, before and after it was saved and loaded.
        #[test]
        fn numbers_are_known_as_a_map_of_them_says(
            batches in prop::collection::vec(
                (0u8..2, 0u64..40, prop::collection::vec((0u8..8, 0usize..4), 1..12)),
                1..16,
            ),
            moves in prop::collection::vec((0usize..300, 0usize..4), 0..6),
        ) {
            let mut sequenced = Sequenced::default();
            let mut naive: BTreeMap<(u8, u64), (EventPosition, Standing)> = BTreeMap::new();
            let mut unseen = Vec::new();
            let mut offset = 0;
            for (run, first, events) in &batches {
                offset += 64;
                let ids = ids(*run, *first, events.len());
                let is_refused = |index: usize| events[index].0 == 0;
                // A number has one shard, whichever batch brings it.
                let is_own = |index: usize| (first + index as u64) % 3 != 2;
                let refused = (0..events.len()).filter(|index| is_refused(*index)).map(|index| index as u16);
                sequenced.unseen(&ids, refused, &mut unseen);
                let mut standings = Vec::new();
                for (index, (_, standing)) in events.iter().enumerate() {
                    let is_unseen = unseen.iter().any(|span| span.contains(&(index as u32)));
                    if is_refused(index) || !is_own(index) {
                        prop_assert!(!is_unseen || !is_refused(index));
                        continue;
                    }
                    let key = (*run, first + index as u64);
                    prop_assert_eq!(is_unseen, !naive.contains_key(&key));
                    if is_unseen {
                        let standing = STANDINGS[*standing];
                        standings.push((index as u16, standing));
                        naive.insert(key, (EventPosition::new(offset, index as u16), standing));
                    }
                }
                sequenced.remember(&ids, offset, &unseen, &standings);
            }
            // What moves after a snapshot began is saved as it was.
            let before = naive.clone();
            let mut moved = BTreeMap::new();
            for (at, standing) in moves {
                let count = naive.len().max(1);
                let Some((position, known)) = naive.values_mut().nth(at % count) else { continue };
                *known = STANDINGS[standing];
                let was = sequenced.set_standing(*position, STANDINGS[standing]).unwrap();
                moved.entry(*position).or_insert(was);
            }
            let mut fields = Fields::default();
            (0..sequenced.len()).for_each(|number| sequenced.save(number, offset, &moved, &mut fields));
            let bytes = fields.take();
            let mut reader = FieldReader::new(&bytes);
            let mut loaded = Sequenced::default();
            while !reader.is_empty() {
                loaded.load(&mut reader).expect("what was written is readable");
            }
            for (sequenced, naive) in [(&sequenced, &naive), (&loaded, &before)] {
                prop_assert_eq!(sequenced.remembered(), naive.len());
                for ((run, number), (position, standing)) in naive {
                    let is_compared = position.offset() + SEQUENCED_CONTENT_BYTES >= offset;
                    let content = Content { payload_digest: u64::from(*run) << 32 | number, time: *number as i64 };
                    let known = Arrived {
                        position: *position,
                        standing: *standing,
                        content: is_compared.then_some(content),
                    };
                    prop_assert_eq!(sequenced.find((*run).into(), *number, offset), Some(known));
                    prop_assert_eq!(sequenced.standing_at(*position), Some(*standing));
                }
                prop_assert_eq!(sequenced.find(9, 0, offset), None);
                prop_assert_eq!(sequenced.standing_at(EventPosition::new(offset + 64, 0)), None);
            }
        }
    }
}
