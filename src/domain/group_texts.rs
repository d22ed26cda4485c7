//! The texts that usage has in the dimensions it is grouped by.
//!
//! Owns: which text a dimension has, and the order of groups. Leaves to others: which dimensions there are (`plan`), groups of a shard,
//! which have no names (`engine`).
//!
//! Invariants: each dimension is named once, names are in order, and groups order as maps from name to text do. A copy shares the
//! texts: a group is part of the identity of each line that is charged for it.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name and its text.
type NamedText = (Arc<str>, Arc<str>);

/// Texts by dimension; dimensions that events did not have are left out.
#[derive(Clone, Default)]
pub struct GroupTexts(Option<Arc<[NamedText]>>);

impl GroupTexts {
    /// The group of usage that has no dimensions.
    pub const NONE: Self = Self(None);

    fn texts(&self) -> &[NamedText] {
        self.0.as_deref().unwrap_or_default()
    }

    /// How many dimensions it names.
    pub fn len(&self) -> usize {
        self.texts().len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text of a dimension.
    pub fn get(&self, name: &str) -> Option<&str> {
        // A meter groups by a handful of dimensions.
        self.iter().find(|(own, _)| *own == name).map(|(_, text)| text)
    }

    /// Names and texts, in order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.texts().iter().map(|(name, text)| (&**name, &**text))
    }
}

/// Of two texts of one name the later one counts.
impl<N: Into<Arc<str>>, T: Into<Arc<str>>> FromIterator<(N, T)> for GroupTexts {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(texts: I) -> Self {
        let texts = texts.into_iter().map(|(name, text)| (name.into(), text.into()));
        let mut texts: Vec<NamedText> = texts.collect();
        if !texts.is_sorted_by(|a, b| a.0 < b.0) {
            texts.reverse();
            texts.sort_by(|a, b| a.0.cmp(&b.0));
            texts.dedup_by(|next, kept| next.0 == kept.0);
        }
        Self((!texts.is_empty()).then(|| texts.into()))
    }
}

impl<N: Into<Arc<str>>, T: Into<Arc<str>>, const LEN: usize> From<[(N, T); LEN]> for GroupTexts {
    fn from(texts: [(N, T); LEN]) -> Self {
        texts.into_iter().collect()
    }
}

impl PartialEq for GroupTexts {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for GroupTexts {}

impl PartialOrd for GroupTexts {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GroupTexts {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (None, None) => Ordering::Equal,
            // Most groups that are compared are copies of one.
            (Some(own), Some(other)) if Arc::ptr_eq(own, other) => Ordering::Equal,
            _ => self.texts().cmp(other.texts()),
        }
    }
}

impl fmt::Debug for GroupTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for GroupTexts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for GroupTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = GroupTexts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts by dimension")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GroupTexts, A::Error> {
        let mut texts: Vec<(String, String)> = Vec::new();
        while let Some(text) = map.next_entry()? {
            texts.push(text);
        }
        Ok(texts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = Vec<(String, String)>> {
        let text = || prop::sample::select(vec!["", "a", "ab", "b", "é\"", "z"]).prop_map(str::to_string);
        prop::collection::vec((text(), text()), 0..4)
    }

    proptest! {
        #[test]
        fn it_is_like_an_ordered_map(own in texts(), other in texts()) {
            let map_of = |texts: &[(String, String)]| texts.iter().cloned().collect::<BTreeMap<_, _>>();
            let group_of = |texts: &[(String, String)]| texts.iter().cloned().collect::<GroupTexts>();
            let (map, group) = (map_of(&own), group_of(&own));
            prop_assert_eq!((group.len(), group.is_empty()), (map.len(), map.is_empty()));
            prop_assert!(group.iter().eq(map.iter().map(|(name, text)| (name.as_str(), text.as_str()))));
            for name in ["", "a", "ab", "b", "c"] {
                prop_assert_eq!(group.get(name), map.get(name).map(String::as_str));
            }
            prop_assert_eq!(group.cmp(&group_of(&other)), map.cmp(&map_of(&other)));
            prop_assert_eq!(group == group_of(&other), map == map_of(&other));
            prop_assert_eq!(&group.clone(), &group);
            let text = serde_json::to_string(&group).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<GroupTexts>(&text).unwrap(), group);
        }
    }

    #[test]
    fn only_texts_by_name_are_read() {
        for text in ["[]", r#"{"a":1}"#, r#"{"a":null}"#, "null", r#""a""#] {
            assert!(serde_json::from_str::<GroupTexts>(text).is_err(), "{text}");
        }
    }
}
