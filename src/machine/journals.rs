//! Journals of a run: a function of the run's record and the sealed charges it covers.
//!
//! Owns: which charges a run posts, posting dates, the bytes of a run's journals. Leaves to others: the entries
//! themselves (`billing::ledger`), sealing and serving (`server`).
//!
//! Layout: one canonical JSON journal a line; the digest chains over runs as that of charge batches does.

use billing::catalog::Entity;
use billing::charges::ChargeLine;
use billing::ledger::{Journal, LedgerStatus, accrue};
use domain::Period;
use wire::canonical::canonical_json;
use wire::control::JournalRun;

/// The journals of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBatch {
    /// The run.
    pub run: JournalRun,
    /// Its journals, numbered from the run's first number on.
    pub journals: Vec<Journal>,
}

impl JournalBatch {
    /// Derives the journals of a run from the charges that it covers.
    pub(crate) fn derive<'a>(
        run: &JournalRun,
        entity: &Entity,
        lines: impl Iterator<Item = &'a ChargeLine>,
    ) -> Result<Self, LedgerStatus> {
        let zone = &entity.time_zone;
        // The day that ended when the run happened, kept inside the period that is posted to.
        let day = zone.date_of(run.at.plus(-1));
        let posted_on = |period: Period| day.clone().clamp(period.first_day(), period.last_day());
        let journals = accrue(&run.entity, run.first_run, &posted_on, lines, run.batches)?;
        Ok(Self { run: run.clone(), journals })
    }

    /// The journals as newline-delimited canonical JSON.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for journal in &self.journals {
            bytes.extend_from_slice(canonical_json(journal).expect("a journal has no floats").as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }

    /// Reads the journals of a run back.
    ///
    /// # Errors
    /// If a line is not a journal.
    pub fn decode(run: &JournalRun, bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let journals = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()?;
        Ok(Self { run: run.clone(), journals })
    }
}
