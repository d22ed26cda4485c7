//! A charge line: the difference between what a slice is worth and what was charged for it before.

use std::fmt;

use domain::{
    AccountId, Amount, Currency, EntityId, Exact, GroupTexts, MeterId, Period, PriceId, Span, SubscriptionId,
    Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::component::Component;
use super::posting_class::PostingClass;

/// What a correction corrects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corrects {
    /// The accounting period that the usage belongs to.
    pub period: Period,
    /// The batch with which the window became final; none if it was not final yet, but its period was closed.
    pub window_final_batch: Option<u64>,
}

/// Identity of a charge line: the finest thing that is charged.
///
/// Lines of one key, over all batches, add up to what the slice was worth at the last cut. Keys order by account,
/// subscription, window, price, group, slice, version, component and term: the order of the lines in a batch. What
/// belongs to no single price or subscription comes before what does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    /// Who pays.
    pub account: AccountId,
    /// For which subscription; none if the line belongs to the whole account.
    pub subscription: Option<SubscriptionId>,
    /// The tier window.
    pub window: Span,
    /// At which price; none if the line belongs to the whole subscription or account.
    pub price: Option<PriceId>,
    /// Texts of the group-by dimensions.
    pub group: GroupTexts,
    /// First instant of the slice. Its end is no part of the key: a slice that is split keeps its start.
    pub slice_from: Timestamp,
    /// The price's version; 0 where there is no price.
    pub price_version: u32,
    /// Which part of the bill it is.
    pub component: Component,
    /// What it came from: the number of a discount of the price (`1`) or of the subscription (`subscription/1`), the id of one of the
    /// account, `subscription` for its maximum or minimum, the id of a commitment or a lot of a credit grant; else empty.
    pub term: String,
}

/// All of a key but its account, in order of what decides.
type KeyInPool<'a> = (
    &'a Option<SubscriptionId>,
    Span,
    &'a Option<PriceId>,
    &'a GroupTexts,
    Timestamp,
    u32,
    Component,
    &'a str,
);

impl LineKey {
    /// The order of keys in a pool of accounts: as if all were of one account.
    pub fn in_pool(&self) -> KeyInPool<'_> {
        let (subscription, window, price) = (&self.subscription, self.window, &self.price);
        let (group, slice_from, version) = (&self.group, self.slice_from, self.price_version);
        (subscription, window, price, group, slice_from, version, self.component, &self.term)
    }
}

/// One priced line of a charge batch.
///
/// The order of fields is the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeLine {
    /// Number of the batch.
    pub batch: u64,
    /// Number of the line in it, from 1.
    pub line: u32,
    /// Who pays.
    pub account: AccountId,
    /// For which subscription; none if the line belongs to the whole account.
    pub subscription: Option<SubscriptionId>,
    /// At which price; none if the line belongs to the whole subscription or account.
    pub price: Option<PriceId>,
    /// In which version; 0 where there is no price.
    pub price_version: u32,
    /// Which part of the bill it is.
    pub component: Component,
    /// What it came from, as in [`LineKey::term`].
    pub term: String,
    /// What was measured or covered; none for a recurring amount and for money.
    pub meter: Option<MeterId>,
    /// Texts of the group-by dimensions.
    pub group: GroupTexts,
    /// The tier window.
    pub window: Span,
    /// The slice whose worth changed.
    pub slice: Span,
    /// Units of the slice that sealed batches had charged.
    pub quantity_before: Exact,
    /// Units of the slice as now known.
    pub quantity_after: Exact,
    /// The difference in amount, exactly.
    pub precise: Exact,
    /// The difference in rounded amount, with the currency's fraction digits.
    pub rounded: Amount,
    /// Currency of both.
    pub currency: Currency,
    /// The legal entity that sells.
    pub entity: EntityId,
    /// The accounting period that the line posts to.
    pub period: Period,
    /// What the charge is to the books.
    pub posting_class: PostingClass,
    /// Set if the window was final before, or the line posts to a later period than its usage belongs to.
    pub corrects: Option<Corrects>,
    /// Whether the window is final; otherwise the line is provisional.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Change in the number of events that the slice counts.
    pub event_count: i64,
    /// Digest of the set of events that the slice counts as now known.
    pub event_digest: EventDigest,
}

/// Digest of a set of events; its text is 32 lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest(pub u128);

impl fmt::Display for EventDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        for (byte, at) in text.iter_mut().zip((0..32).rev()) {
            *byte = b"0123456789abcdef"[(self.0 >> (4 * at)) as usize & 15];
        }
        f.write_str(str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl Serialize for EventDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits = Some(&*text).filter(|text| text.len() == 32 && text.bytes().all(is_hex));
        let digest = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let unreadable = || serde::de::Error::custom(format!("{text:?} is not a digest of events"));
        digest.map(Self).ok_or_else(unreadable)
    }
}

impl ChargeLine {
    /// Identity of the line.
    pub fn key(&self) -> LineKey {
        LineKey {
            account: self.account.clone(),
            subscription: self.subscription.clone(),
            price: self.price.clone(),
            group: self.group.clone(),
            window: self.window,
            slice_from: self.slice.from,
            price_version: self.price_version,
            component: self.component,
            term: self.term.clone(),
        }
    }

    /// The rounded amount in minor units.
    pub fn rounded_minor(&self) -> i128 {
        self.rounded.minor()
    }

    /// Whether the amount of a line that was read is one of its currency.
    pub fn is_readable(&self) -> bool {
        self.rounded.is_in(self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"batch":7,"line":1,"account":"acme","subscription":"s1","price":"calls","price_version":2,"component":"charge","term":"","meter":"calls","group":{"region":"eu"},"window":{"from":"2026-01-01T00:00:00Z","until":"2026-02-01T00:00:00Z"},"slice":{"from":"2026-01-15T00:00:00Z","until":"2026-02-01T00:00:00Z"},"quantity_before":"1000","quantity_after":"1000.5","precise":"0.00375","rounded":"-0.05","currency":"USD","entity":"inc","period":"2026-02","posting_class":"earned_usage","corrects":{"period":"2026-01","window_final_batch":5},"final":true,"event_count":-1,"event_digest":"0123456789abcdef0123456789abcdef"}"#;

    fn changed(from: &str, to: &str) -> Option<ChargeLine> {
        assert!(LINE.contains(from), "{from}");
        serde_json::from_str(&LINE.replace(from, to)).ok()
    }

    #[test]
    fn a_line_is_written_in_the_order_of_its_fields_and_reads_back() {
        let line: ChargeLine = serde_json::from_str(LINE).unwrap();
        assert_eq!(serde_json::to_string(&line).unwrap(), LINE);
        assert_eq!((line.rounded_minor(), line.is_readable()), (-5, true));
        // A correction of a closed period whose window was not final yet names the period only.
        let text = LINE.replace(r#""window_final_batch":5"#, r#""window_final_batch":null"#);
        let line: ChargeLine = serde_json::from_str(&text).unwrap();
        assert_eq!(line.corrects.as_ref().map(|corrects| corrects.window_final_batch), Some(None));
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }

    #[test]
    fn a_line_that_says_too_much_too_little_or_nonsense_is_not_readable() {
        for (from, to) in [
            (r#""batch":7,"#, ""),
            (r#""batch":7,"#, r#""batch":7,"colour":"red","#),
            (r#""precise":"0.00375""#, r#""precise":0.00375"#),
            (r#""period":"2026-02""#, r#""period":"2026-13""#),
            (r#""posting_class":"earned_usage""#, r#""posting_class":"spent""#),
            (r#""component":"charge""#, r#""component":"fee""#),
            (r#""window_final_batch":5"#, r#""window_final_batch":"5""#),
            (r#""rounded":"-0.05""#, r#""rounded":"five""#),
            ("0123456789abcdef0123456789abcdef", "0123456789abcdef"),
            ("0123456789abcdef0123456789abcdef", "+123456789abcdef0123456789abcdef"),
            ("0123456789abcdef0123456789abcdef", "0123456789ABCDEF0123456789abcdef"),
        ] {
            assert_eq!(changed(from, to), None, "{to}");
        }
        for to in [r#""rounded":"-0.051""#, r#""rounded":"-5""#] {
            let line = changed(r#""rounded":"-0.05""#, to);
            assert_eq!(line.map(|line| line.is_readable()), Some(false), "{to}");
        }
    }

    #[test]
    fn a_key_says_what_is_charged_and_not_when_or_how_much() {
        let key = changed("acme", "acme").unwrap().key();
        for (from, to) in [
            (r#""batch":7"#, r#""batch":8"#),
            (r#""rounded":"-0.05""#, r#""rounded":"1.00""#),
            (r#"15T00:00:00Z","until":"2026-02-01"#, r#"15T00:00:00Z","until":"2026-01-16"#),
        ] {
            assert_eq!(changed(from, to).unwrap().key(), key, "{to}");
        }
        // In order of what decides first.
        let greater: Vec<LineKey> = [
            (r#""term":"""#, r#""term":"1""#),
            (r#""component":"charge""#, r#""component":"discount""#),
            (r#""price_version":2"#, r#""price_version":3"#),
            (r#""slice":{"from":"2026-01-15"#, r#""slice":{"from":"2026-01-16"#),
            (r#"{"region":"eu"}"#, r#"{"region":"us"}"#),
            (r#""price":"calls""#, r#""price":"input""#),
            (r#""window":{"from":"2026-01-01"#, r#""window":{"from":"2026-01-02"#),
            (r#""subscription":"s1""#, r#""subscription":"s2""#),
            (r#""account":"acme""#, r#""account":"beta""#),
        ]
        .into_iter()
        .map(|(from, to)| changed(from, to).unwrap().key())
        .collect();
        assert!([key].iter().chain(&greater).is_sorted_by(|a, b| a < b), "{greater:#?}");
    }
}
