//! Subjects and sources that split an answer.
//!
//! Owns: their numbering, and the texts of a group in the order in which it was asked for. Leaves to others: groups of
//! dimensions (`engine::shard::recount`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::question::GroupKey;

/// Subjects and sources that split an answer, numbered as they appear.
pub(super) struct Labels {
    has_subject: bool,
    has_source: bool,
    labels: Vec<Label>,
    numbers: BTreeMap<Label, u32>,
}

/// Subject and source, where they split an answer.
type Label = [Option<Arc<str>>; 2];

impl Labels {
    /// Labels of nothing yet.
    pub(super) fn new(group_by: &[GroupKey]) -> Self {
        let (has_subject, has_source) =
            (group_by.contains(&GroupKey::Subject), group_by.contains(&GroupKey::Source));
        Self { has_subject, has_source, labels: Vec::new(), numbers: BTreeMap::new() }
    }

    /// The number of a label, new or known.
    pub(super) fn number_of(&mut self, subject: &str, source: &str) -> u32 {
        let label =
            [self.has_subject.then(|| Arc::from(subject)), self.has_source.then(|| Arc::from(source))];
        if let Some(number) = self.numbers.get(&label) {
            return *number;
        }
        let number = u32::try_from(self.labels.len()).expect("labels are limited");
        self.labels.push(label.clone());
        self.numbers.insert(label, number);
        number
    }

    /// Labels seen.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The texts of a cell, in the order of the keys.
    pub(super) fn texts_of(
        &self,
        group_by: &[GroupKey],
        label: u32,
        dimensions: &[Option<Arc<str>>],
    ) -> Vec<Option<Arc<str>>> {
        let [subject, source] = &self.labels[label as usize];
        let mut dimensions = dimensions.iter();
        let text_of = |key: &GroupKey| match key {
            GroupKey::Subject => subject.clone(),
            GroupKey::Source => source.clone(),
            GroupKey::Dimension(_) => {
                dimensions.next().expect("a group has a text for every dimension").clone()
            }
        };
        group_by.iter().map(text_of).collect()
    }
}
