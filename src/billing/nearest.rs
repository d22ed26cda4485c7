//! Names close to one that does not exist: for whoever mistyped it.
//!
//! Owns: which names are close. Leaves to others: saying so.

/// Names that are offered at most.
const OFFERED_MAX: usize = 3;

/// The known names nearest to a wanted one, nearest first, at most three; none if nothing is near.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let distance_max = 2.max(wanted.chars().count() / 3);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let contains = wanted.len() >= 3 && (name.contains(wanted) || wanted.contains(name));
            let distance = distance(wanted, name);
            (contains || distance <= distance_max).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, name)| name).take(OFFERED_MAX).collect()
}

/// Characters to insert, delete or replace to make one text of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, from) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_recognized_and_a_foreign_one_is_not() {
        let known = ["pro-tokens", "pro-calls", "base", "tokens"];
        for (wanted, expected) in [
            ("pro-token", &["pro-tokens"][..]),
            ("pro_tokens", &["pro-tokens", "tokens"]),
            ("tokens", &["tokens", "pro-tokens"]),
            ("calls", &["pro-calls"]),
            ("bsae", &["base"]),
            ("storage", &[]),
            ("", &[]),
        ] {
            assert_eq!(nearest(wanted, known), expected, "{wanted}");
        }
        assert_eq!([distance("", "abc"), distance("kitten", "sitting")], [3, 3]);
    }
}
