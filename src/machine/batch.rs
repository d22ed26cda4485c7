//! A charge batch and its bytes: newline-delimited canonical JSON, chained by digest.
//!
//! Owns: the order of lines, the encoding, the chain digest. Leaves to others: which lines (`cut`), storage (`server`).
//!
//! Layout, one JSON object a line:
//! `{"batch": head}`, then `{"charge": line}` for every line in key order, then `{"window_final": …}` for every window
//! that became final, then `{"invoice_request": …}` for every account that passed a threshold. The digest is SHA-256 over the previous batch's digest, a newline, and these bytes.
//!
//! Invariants: the bytes of a batch are a function of its content; decoding and encoding again gives the same bytes.

use std::collections::BTreeMap;

use billing::charges::{ChargeLine, InvoiceRequest};
use domain::{Currency, Timestamp};
use serde::{Deserialize, Serialize};
use wire::canonical::{sha256_hex_of, write_canonical_json};
use wire::control::WindowFinal;

use crate::charge_text::write_charge;

/// What the first line of a batch says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchHead {
    /// Number of the batch, from 1, without gaps.
    pub number: u64,
    /// The cut that it came from.
    pub cut: u64,
    /// The instant of the cut.
    pub at: Timestamp,
    /// Offset of the barrier in usage partition 0 up to which usage is covered.
    pub barrier: u64,
    /// Rating semantics and time-zone data.
    pub epoch: String,
    /// Digest of the previous batch; empty for the first.
    pub previous: String,
    /// Charge lines that follow.
    pub lines: u64,
    /// Windows that became final with this batch.
    pub window_finals: u64,
    /// Accounts that billing is asked to invoice; left out where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub invoice_requests: u64,
    /// Sum of the rounded amounts per currency.
    pub totals: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A charge batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What the batch is.
    pub head: BatchHead,
    /// Charge lines in key order.
    pub lines: Vec<ChargeLine>,
    /// Windows that became final.
    pub window_finals: Vec<WindowFinal>,
    /// What billing is asked to invoice, in order of accounts.
    pub invoice_requests: Vec<InvoiceRequest>,
}

/// Why bytes are not a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// A line is not the JSON object that belongs there.
    #[error("line {line} of a charge batch is not what belongs there")]
    LineMustBeKnown {
        /// Number of the line, from 1.
        line: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A charge line has an amount that is none of its currency.
    #[error("charge line {line} of a batch has an amount that is none of its currency")]
    LineMustBeReadable {
        /// Number of the charge line, from 1.
        line: usize,
    },
    /// The head promises other counts, numbers or totals than what follows.
    #[error("the head of charge batch {number} does not match its lines")]
    HeadMustMatchLines {
        /// Number of the batch.
        number: u64,
    },
    /// The bytes are empty.
    #[error("a charge batch has at least a head")]
    HeadMustExist,
}

/// A line of a batch as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one line lives at a time, on the stack")]
enum BatchLine {
    Batch(BatchHead),
    Charge(ChargeLine),
    WindowFinal(WindowFinal),
    InvoiceRequest(InvoiceRequest),
}

/// A line of a batch as it is written, but for charges (`charge_text`).
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum WrittenLine<'a> {
    Batch(&'a BatchHead),
    WindowFinal(&'a WindowFinal),
    InvoiceRequest(&'a InvoiceRequest),
}

impl Batch {
    /// The batch as newline-delimited canonical JSON.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::with_capacity(self.lines.len() * 768 + 512);
        let write = |text: &mut String, line| {
            write_canonical_json(text, &line).expect("a batch has no floats");
            text.push('\n');
        };
        write(&mut text, WrittenLine::Batch(&self.head));
        for line in &self.lines {
            write_charge(&mut text, line);
            text.push('\n');
        }
        let window_finals = self.window_finals.iter().map(WrittenLine::WindowFinal);
        let requests = self.invoice_requests.iter().map(WrittenLine::InvoiceRequest);
        window_finals.chain(requests).for_each(|line| write(&mut text, line));
        text.into_bytes()
    }

    /// Reads a batch back and checks its head against its lines.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut head = None;
        let mut lines = Vec::new();
        let mut window_finals = Vec::new();
        let mut invoice_requests = Vec::new();
        for (index, text) in bytes.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).enumerate() {
            let line = serde_json::from_slice(text)
                .map_err(|source| BatchError::LineMustBeKnown { line: index + 1, source })?;
            match line {
                BatchLine::Batch(found) => head = Some(found),
                BatchLine::Charge(line) => lines.push(line),
                BatchLine::WindowFinal(window) => window_finals.push(window),
                BatchLine::InvoiceRequest(request) => invoice_requests.push(request),
            }
        }
        let head = head.ok_or(BatchError::HeadMustExist)?;
        lines.iter().try_for_each(check_readable)?;
        let is_numbered = lines
            .iter()
            .enumerate()
            .all(|(index, line)| line.batch == head.number && line.line as usize == index + 1);
        let counts = [lines.len(), window_finals.len(), invoice_requests.len()].map(|count| count as u64);
        let has_counts = counts == [head.lines, head.window_finals, head.invoice_requests];
        if !is_numbered
            || !has_counts
            || Some(&head.totals) != sums_of(&lines).as_ref().map(texts_of).as_ref()
        {
            return Err(BatchError::HeadMustMatchLines { number: head.number });
        }
        Ok(Self { head, lines, window_finals, invoice_requests })
    }
}

/// The head of a batch and one of its charge lines, by its number; the others are not read.
///
/// # Errors
/// [`BatchError`].
pub fn read_line(bytes: &[u8], number: u32) -> Result<(BatchHead, Option<ChargeLine>), BatchError> {
    let texts = || bytes.split(|byte| *byte == b'\n');
    let read = |index: usize, text: &[u8]| {
        serde_json::from_slice(text).map_err(|source| BatchError::LineMustBeKnown { line: index + 1, source })
    };
    let BatchLine::Batch(head) = read(0, texts().next().unwrap_or_default())? else {
        return Err(BatchError::HeadMustExist);
    };
    let index = number as usize;
    let is_there = (1..=head.lines).contains(&u64::from(number));
    let text = texts().nth(index).filter(|_| is_there);
    match text.map(|text| read(index, text)).transpose()? {
        Some(BatchLine::Charge(line)) if line.line == number => {
            check_readable(&line)?;
            Ok((head, Some(line)))
        }
        None => Ok((head, None)),
        Some(_) => Err(BatchError::HeadMustMatchLines { number: head.number }),
    }
}

/// The charge lines of a batch whose text has one of some needles; what the others say is not read.
///
/// # Errors
/// [`BatchError::LineMustBeKnown`].
pub(crate) fn lines_with(bytes: &[u8], needles: &[String]) -> Result<Vec<ChargeLine>, BatchError> {
    let mut lines = Vec::new();
    for (index, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let may_be =
            str::from_utf8(text).is_ok_and(|text| needles.iter().any(|needle| text.contains(needle)));
        if !may_be {
            continue;
        }
        let line = serde_json::from_slice(text)
            .map_err(|source| BatchError::LineMustBeKnown { line: index + 1, source })?;
        if let BatchLine::Charge(line) = line {
            check_readable(&line)?;
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Whether a line that somebody else may have written says its amounts.
fn check_readable(line: &ChargeLine) -> Result<(), BatchError> {
    let unreadable = || BatchError::LineMustBeReadable { line: line.line as usize };
    line.is_readable().then_some(()).ok_or_else(unreadable)
}

/// Sum of the rounded amounts per currency, as text.
pub(crate) fn totals_of(lines: &[ChargeLine]) -> BTreeMap<String, String> {
    // A total beyond 128 bits of minor units cannot come from lines that each fit; saturating would be a lie.
    texts_of(&sums_of(lines).expect("batch totals fit 128 bits of minor units"))
}

/// The same in minor units, of lines that somebody else may have written; `None` if a sum does not fit.
pub(crate) fn sums_of(lines: &[ChargeLine]) -> Option<BTreeMap<Currency, i128>> {
    let mut totals: BTreeMap<Currency, i128> = BTreeMap::new();
    for lines in lines.chunk_by(|a, b| a.currency == b.currency) {
        let total = totals.entry(lines[0].currency).or_default();
        for line in lines {
            *total = total.checked_add(line.rounded_minor())?;
        }
    }
    Some(totals)
}

fn texts_of(totals: &BTreeMap<Currency, i128>) -> BTreeMap<String, String> {
    totals
        .iter()
        .map(|(currency, minor)| (currency.code().to_string(), currency.format_minor(*minor)))
        .collect()
}

/// Digest of a batch (or of a run's journals) that follows one with digest `previous`.
pub fn chain_digest(previous: &str, bytes: &[u8]) -> String {
    sha256_hex_of(&[previous.as_bytes(), b"\n", bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: &str = include_str!("../../fuzz/seeds/charges/one-line.ndjson");

    /// Amounts and digests that are none ended the process that read them.
    #[test]
    fn a_batch_whose_lines_say_no_amount_is_refused() {
        let decoded = Batch::decode(BATCH.as_bytes()).unwrap();
        assert_eq!((decoded.lines.len(), decoded.encode().len()), (1, BATCH.len()));
        let rounded = format!("\"rounded\":\"{}\"", decoded.lines[0].rounded);
        let digest = decoded.lines[0].event_digest.to_string();
        for (from, to) in [
            (rounded.as_str(), "\"rounded\":\"-0.0ned_usag1\""),
            (rounded.as_str(), "\"rounded\":\"\""),
            (rounded.as_str(), "\"rounded\":\"0.001\""),
            (digest.as_str(), "not a digest"),
        ] {
            assert!(BATCH.contains(from), "{from}");
            // The digest stands in the record of the final window as well, and that one is not read as a number.
            let bytes = BATCH.replace(from, to).into_bytes();
            let refused = [
                Batch::decode(&bytes).map(drop),
                read_line(&bytes, 1).map(drop),
                lines_with(&bytes, &["charge".to_string()]).map(drop),
            ];
            for refused in refused {
                let is_refused = match refused {
                    Err(BatchError::LineMustBeReadable { line }) => line == 1 && to.contains("0.001"),
                    Err(BatchError::LineMustBeKnown { line, .. }) => line == 2,
                    _ => false,
                };
                assert!(is_refused, "{to}");
            }
        }
    }

    #[test]
    fn a_batch_whose_lines_have_no_sum_is_refused() {
        let most = format!("\"rounded\":\"{}.99\"", "9".repeat(36));
        let decoded = Batch::decode(BATCH.as_bytes()).unwrap();
        let rounded = format!("\"rounded\":\"{}\"", decoded.lines[0].rounded);
        let large = BATCH.replace(&rounded, &most);
        let mut lines: Vec<String> = large.lines().map(str::to_string).collect();
        lines.insert(2, lines[1].replace("\"line\":1", "\"line\":2"));
        lines[0] = lines[0].replace("\"lines\":1", "\"lines\":2");
        let refused = Batch::decode(lines.join("\n").as_bytes());
        assert!(matches!(refused, Err(BatchError::HeadMustMatchLines { number: 1 })), "{refused:?}");
    }
}
