//! The memtable against a map, with identities made to collide.
//!
//! Invariants: whatever tags and slots are shared, an identity is known after its first insert and not before, and it is
//! found with what was remembered of it.

use std::collections::BTreeMap;

use domain::EventPosition;
use domain::limits::EVENT_TIME_MIN;
use proptest::prelude::*;

use super::{Dedup, Lookup, Seen, Standing};

const STANDINGS: [Standing; 4] =
    [Standing::Metered, Standing::Pending, Standing::Unmetered, Standing::Quarantined];

fn seen(number: u64) -> Seen {
    Seen {
        payload_digest: number.wrapping_mul(31),
        position: EventPosition::new(number * 16, number as u16),
        time: EVENT_TIME_MIN + number as i64,
        standing: STANDINGS[number as usize % 4],
    }
}

fn check(identities: impl Iterator<Item = u128>) {
    let (mut dedup, mut model) = (Dedup::default(), BTreeMap::new());
    for (number, identity) in identities.enumerate() {
        dedup.touch([identity].into_iter());
        match (dedup.look_up(identity), model.get(&identity)) {
            (Lookup::Known(known), Some(expected)) => assert_eq!(known, *expected),
            (Lookup::Unknown(vacant), None) => {
                dedup.insert(vacant, seen(number as u64));
                model.insert(identity, seen(number as u64));
            }
            (lookup, expected) => panic!("{identity:x}: {lookup:?}, but expected {expected:?}"),
        }
    }
    assert_eq!(dedup.len(), model.len());
    assert_eq!((0..dedup.len()).map(|number| dedup.at(number)).collect::<BTreeMap<_, _>>(), model);
    for (identity, expected) in &model {
        assert_eq!(dedup.find(*identity), Some(*expected));
    }
}

#[test]
fn identities_that_differ_in_any_one_bit_are_different_events() {
    check((0..128).map(|bit| 1 << bit).chain(std::iter::once(0)).cycle().take(400));
}

#[test]
fn identities_of_one_slot_and_one_tag_are_told_apart_however_many() {
    check((0..5_000u128).map(|number| ((number % 3_000) << 32) | 0xffff_ffff));
}

#[test]
fn an_index_grows_through_many_sizes_and_loses_nothing() {
    let spread = |number: u128| (number % 60_000).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    check((0..100_000).map(spread));
    check((0..30_000).map(|number| spread(number) >> 10)); // all in the first slot
}

#[test]
fn a_standing_changes_and_nothing_else_does() {
    let mut dedup = Dedup::default();
    let Lookup::Unknown(vacant) = dedup.look_up(7) else { panic!("nothing is known yet") };
    dedup.insert(vacant, seen(1));
    assert_eq!(dedup.set_standing(7, Standing::Quarantined), Standing::Pending);
    assert_eq!(dedup.find(7), Some(Seen { standing: Standing::Quarantined, ..seen(1) }));
}

proptest! {
    #[test]
    fn the_memtable_is_a_map(identities in prop::collection::vec((0u128..4, 0u128..50, 0u128..3), 0..600)) {
        check(identities.into_iter().map(|(high, middle, tag)| high << 118 | middle << 40 | tag << 30));
    }
}
