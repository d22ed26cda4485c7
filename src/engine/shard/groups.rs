//! Groups of a shard: the distinct combinations of group-by texts, numbered as they appear.
//!
//! Owns: the numbering. Numbers are local to a shard and never leave it; reports carry the texts.

use super::cell::Group;

/// The groups seen by one shard.
#[derive(Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    numbers: foldhash::HashMap<Group, u32>,
}

impl Groups {
    /// The number of a group, new or known.
    pub(crate) fn number_of(&mut self, group: Group) -> u32 {
        if let Some(number) = self.numbers.get(&group) {
            return *number;
        }
        let number = u32::try_from(self.groups.len()).expect("fewer than 2^32 groups fit in memory");
        self.groups.push(group.clone());
        self.numbers.insert(group, number);
        number
    }

    /// The number of a group that is known.
    pub(crate) fn find(&self, group: &Group) -> Option<u32> {
        self.numbers.get(group).copied()
    }

    /// Groups seen.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The texts of a group.
    pub(crate) fn group(&self, number: u32) -> &Group {
        &self.groups[number as usize]
    }
}
