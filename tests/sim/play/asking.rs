//! Asks the server of usage, and holds its answers against the auditor's.
//!
//! Owns: asking, and asking again. Leaves to others: what is right (`questions`), how the server answers (`server`).

use machine::usage_query::{AsOf, ScanError};

use super::{Halt, Play, all_of};
use crate::actions::Question;
use crate::questions::{Answer, Answered, written_answer};
use crate::recount::Until;

/// An answer, and what it is of.
type GivenAnswer = (Answer, Option<AsOf>);

impl Play<'_> {
    /// Somebody asks of usage; the answer must be that of the auditor, who recounts the log for it.
    pub(super) fn ask(&mut self, question: &Question, share: Option<u8>) -> Result<(), Halt> {
        let end = self.server().usage.end();
        let before = share.map(|share| end / 256 * u64::from(share));
        let Some((answer, as_of)) = self.answer_to(question, before)? else { return Ok(()) };
        let until = before.map_or(Until::End, Until::Before);
        let recount = self.auditor.recount(&self.disk, &self.producers, until)?;
        let expected = question.answer(&recount);
        self.trace.say(&format!("     {answer:?}"));
        if answer != expected {
            return Err(format!(
                "{question:?} of {before:?} is answered {answer:?}, by the log {expected:?}"
            )
            .into());
        }
        let should = (before.unwrap_or(end), recount.control_offset);
        if as_of.is_some_and(|as_of| (as_of.usage_offset, as_of.control_offset) != should) {
            return Err(format!("{question:?} is answered as of {as_of:?}, and not {should:?}").into());
        }
        self.outcome.answers += 1;
        if let Some(before) = before {
            self.answered.push(Answered { question: *question, before, answer });
        }
        Ok(())
    }

    /// Asks again what was asked of a position before.
    pub(super) fn ask_again(&mut self, nth: usize) -> Result<(), Halt> {
        let Some(index) = nth.checked_rem(self.answered.len()) else { return Ok(()) };
        let Answered { question, before, .. } = self.answered[index];
        if let Some((answer, _)) = self.answer_to(&question, Some(before))? {
            self.answered[index].check(&answer)?;
            self.outcome.answers += 1;
        }
        Ok(())
    }

    /// What the server answers; nothing if a run of ids is damaged.
    fn answer_to(&mut self, question: &Question, before: Option<u64>) -> Result<Option<GivenAnswer>, Halt> {
        match self.server().answer(question, before)? {
            Ok((answer, as_of)) => Ok(Some((Ok(written_answer(&answer)), Some(as_of)))),
            Err(ScanError::Query(status)) => Ok(Some((Err(status.name()), None))),
            Err(ScanError::Runs(_)) if self.is_damaged => Ok(None),
            Err(error) => Err(format!("{question:?} has no answer: {}", all_of(&error)).into()),
        }
    }
}
