//! Sealed content, held against itself: what was sealed never changes, journals balance and carry every charge once.
//!
//! Owns: the charges and journals that a server sealed, as the auditor saw them first. Leaves to others: what charges
//! should have been (`prices`).

use std::collections::{BTreeMap, BTreeSet};

use domain::{Currency, Exact};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::actions::{DIMENSION, RICH};
use crate::prices::{Key, Worth, Worths};

/// Sealed content: its chain digest and its bytes.
pub(crate) type Sealed = (String, Vec<u8>);

/// What the auditor knows of sealed content.
#[derive(Default)]
pub(crate) struct Books {
    /// Charge batches and journal runs in the order of their seals.
    batches: Vec<Sealed>,
    journals: Vec<Sealed>,
    /// Sum of the plain lines of all batches.
    pub(crate) issued: Worths,
    /// Minor units by entity, period and currency: of charges, and of receivables in journals.
    charged: BTreeMap<(String, String, String), i128>,
    posted: BTreeMap<(String, String, String), i128>,
    journal_ids: BTreeSet<String>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether content hashes to a seal that follows another.
pub(crate) fn chains(previous: &str, bytes: &[u8], digest: &str) -> bool {
    let mut hasher = Sha256::new();
    hasher.update(previous.as_bytes());
    hasher.update(b"\n");
    hasher.update(bytes);
    hex(&hasher.finalize()) == digest
}

fn minor(currency: &Value, amount: &Value) -> Result<i128, String> {
    let currency = currency.as_str().and_then(|code| Currency::from_code(code).ok());
    let parsed = currency.and_then(|currency| currency.parse_minor(amount.as_str()?));
    parsed.ok_or_else(|| format!("{amount} is no amount of {currency:?}"))
}

fn exact(number: &Value) -> Result<Exact, String> {
    number.as_str().and_then(Exact::parse).ok_or_else(|| format!("{number} is no number"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

impl Books {
    /// Takes what is sealed now: what was sealed before must be the same, the rest is new.
    pub(crate) fn take(&mut self, batches: &[Sealed], journals: &[Sealed]) -> Result<(), String> {
        same_start("charge batch", &self.batches, batches)?;
        same_start("journal run", &self.journals, journals)?;
        for batch in &batches[self.batches.len()..] {
            self.take_batch(&batch.1)
                .map_err(|what| format!("charge batch {}: {what}", self.batches.len() + 1))?;
            self.batches.push(batch.clone());
        }
        for run in &journals[self.journals.len()..] {
            self.take_journals(&run.1)?;
            self.journals.push(run.clone());
        }
        Ok(())
    }

    /// Sealed charge batches so far.
    pub(crate) fn batch_count(&self) -> usize {
        self.batches.len()
    }

    fn take_batch(&mut self, bytes: &[u8]) -> Result<(), String> {
        let number = self.batches.len() as u64 + 1;
        let mut totals: BTreeMap<String, i128> = BTreeMap::new();
        let mut head = Value::Null;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            if line["batch"].is_object() {
                head = line["batch"].clone();
            } else if line["charge"].is_object() {
                let charge = &line["charge"];
                *totals.entry(text(&charge["currency"])).or_default() +=
                    minor(&charge["currency"], &charge["rounded"])?;
                self.take_charge(charge)?;
            }
        }
        if head["number"] != number {
            return Err(format!("it says that it is {}", head["number"]));
        }
        for (currency, total) in totals {
            let said = minor(&currency.as_str().into(), &head["totals"][&currency])?;
            if said != total {
                return Err(format!("its head says {said} {currency}, its lines {total}"));
            }
        }
        Ok(())
    }

    fn take_charge(&mut self, charge: &Value) -> Result<(), String> {
        let rounded = minor(&charge["currency"], &charge["rounded"])?;
        let place = (text(&charge["entity"]), text(&charge["period"]), text(&charge["currency"]));
        *self.charged.entry(place).or_default() += rounded;
        if charge["account"] == RICH {
            return Ok(());
        }
        let instant = |value: &Value| {
            let parsed = value.as_str().map(domain::Timestamp::parse);
            parsed.and_then(Result::ok).ok_or_else(|| format!("{value} is no instant"))
        };
        let key = Key {
            account: text(&charge["account"]),
            subscription: text(&charge["subscription"]),
            price: text(&charge["price"]),
            window_from: instant(&charge["window"]["from"])?,
            group: charge["group"][DIMENSION].as_str().map(str::to_string),
            slice_from: instant(&charge["slice"]["from"])?,
            version: charge["price_version"].as_u64().unwrap_or(0),
        };
        let worth = self.issued.entry(key.clone()).or_default();
        let before = exact(&charge["quantity_before"])?;
        if before != worth.quantity {
            return Err(format!("{before} is said to be charged before, not {}: {key:?}", worth.quantity));
        }
        worth.quantity = exact(&charge["quantity_after"])?;
        worth.events += charge["event_count"].as_i64().unwrap_or(0);
        let precise = worth.exact.add(exact(&charge["precise"])?);
        worth.exact = precise.map_err(|error| error.to_string())?;
        worth.minor += rounded;
        if *worth == Worth::default() {
            self.issued.remove(&key);
        }
        Ok(())
    }

    fn take_journals(&mut self, bytes: &[u8]) -> Result<(), String> {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let journal: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            let id = text(&journal["external_id"]);
            if !self.journal_ids.insert(id.clone()) {
                return Err(format!("journal {id} was made before"));
            }
            let (mut balance, mut receivable) = (0, 0);
            for line in journal["lines"].as_array().into_iter().flatten() {
                let amount = minor(&journal["currency"], &line["debit"])?
                    - minor(&journal["currency"], &line["credit"])?;
                balance += amount;
                if line["ledger_account"] == "UnbilledReceivable" {
                    receivable += amount;
                }
            }
            if balance != 0 {
                return Err(format!("journal {id} does not balance: {balance}"));
            }
            let place = (text(&journal["entity"]), text(&journal["period"]), text(&journal["currency"]));
            *self.posted.entry(place).or_default() += receivable;
        }
        Ok(())
    }

    /// Once journals were made of everything: they carry what was charged.
    pub(crate) fn check_posted(&self) -> Result<(), String> {
        for place in self.charged.keys().chain(self.posted.keys()) {
            let of = |sums: &BTreeMap<_, i128>| sums.get(place).copied().unwrap_or(0);
            let (charged, posted) = (of(&self.charged), of(&self.posted));
            if charged != posted {
                return Err(format!("{place:?}: charged {charged}, posted {posted}"));
            }
        }
        Ok(())
    }
}

fn same_start(what: &str, before: &[Sealed], now: &[Sealed]) -> Result<(), String> {
    if now.len() < before.len() {
        return Err(format!("{what} {} was sealed and is gone", now.len() + 1));
    }
    for (number, (before, now)) in before.iter().zip(now).enumerate() {
        if before != now {
            return Err(format!("{what} {} is not what was sealed first", number + 1));
        }
    }
    Ok(())
}
