//! Corrections of single events: what people ask for, and what they must be answered.
//!
//! Owns: what was asked, and the rules of an answer, in the order in which they are looked at. Leaves to others: what a
//! correction changes (`recount`), which ones are asked for (`generate`).

use domain::time::SECOND;
use domain::{Decimal, Timestamp};
use machine::{Amendment, CorrectionKind, CorrectionRequest};
use wire::EventIdOwned;
use wire::verdict::QuarantineReason;

use crate::actions::{Flaw, Labels};
use crate::producers::{Id, Sent};
use crate::recount::{Event, Recount, Stands, is_same_content};

/// What somebody asks for, with everything that it is about.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) source: &'static str,
    pub(crate) id: Id,
    pub(crate) what: What,
    pub(crate) reason: String,
}

/// What is to become of an event.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Void,
    Amend(Amended),
    Release,
    Discard,
}

/// What is to be different.
#[derive(Clone, Debug)]
pub(crate) struct Amended {
    pub(crate) subject: Option<&'static str>,
    pub(crate) time: Option<Timestamp>,
    /// The only value, or none; and what is wrong with it.
    pub(crate) value: Option<(Option<(i128, u8)>, Flaw)>,
    /// All dimensions.
    pub(crate) labels: Option<Labels>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Recorded,
    /// It was made before.
    Known,
    /// The code of the broken rule.
    Refused(&'static str),
}

/// An id as requests name it.
pub(crate) fn event_id(id: &Id) -> EventIdOwned {
    match id {
        Id::Given(id) => EventIdOwned::Text(id.clone()),
        Id::Sequenced(epoch, sequence) => EventIdOwned::Sequenced { epoch: *epoch, sequence: *sequence },
    }
}

impl Asked {
    /// The word in records.
    pub(crate) fn kind(&self) -> &'static str {
        match self.what {
            What::Void => "void",
            What::Amend(_) => "amend",
            What::Release => "release",
            What::Discard => "discard",
        }
    }

    /// Content as it is to be.
    pub(crate) fn applied_to(&self, sent: &Sent) -> Sent {
        let mut sent = sent.clone();
        if let What::Amend(amended) = &self.what {
            sent.subject = amended.subject.unwrap_or(sent.subject);
            sent.time = amended.time.unwrap_or(sent.time);
            (sent.value, sent.flaw) = amended.value.unwrap_or((sent.value, sent.flaw));
            sent.labels = amended.labels.unwrap_or(sent.labels);
        }
        sent
    }

    /// The request of an actor.
    pub(crate) fn request(&self, actor: String) -> CorrectionRequest {
        let kind = match &self.what {
            What::Void => CorrectionKind::Void,
            What::Release => CorrectionKind::Release,
            What::Discard => CorrectionKind::Discard,
            What::Amend(amended) => CorrectionKind::Amend(Amendment {
                subject: amended.subject.map(str::to_string),
                time: amended.time,
                values: amended.value.map(|(value, _)| {
                    let number = |(mantissa, scale)| Decimal::new(mantissa, scale).expect("digits");
                    value.map(|value| ("tokens".to_string(), number(value))).into_iter().collect()
                }),
                dimensions: amended.labels.map(|labels| {
                    labels.texts().map(|(name, text)| (name.to_string(), text.to_string())).collect()
                }),
            }),
        };
        let (source, id, reason) = (self.source.to_string(), event_id(&self.id), self.reason.clone());
        CorrectionRequest { source, id, kind, actor, reason }
    }

    /// What is to be answered, now and with all that was recounted; none where a minute decides.
    pub(crate) fn answer(&self, recount: &Recount, now: Timestamp) -> Option<Answer> {
        let horizon = recount.known.correction_horizon;
        let Some(event) = recount.events.get(&(self.source, self.id.clone())) else {
            return Some(Answer::Refused("event_must_be_known"));
        };
        let last = event.corrected.as_ref().map(|(kind, reason)| (kind.as_str(), reason.as_str()));
        let is_set_aside = matches!(event.stands, Stands::SetAside(_));
        if last == Some((self.kind(), &self.reason))
            && match self.what {
                Void | Discard => true,
                Release => !is_set_aside,
                Amend(_) => false,
            }
        {
            return Some(Answer::Known);
        }
        if event.stands == Stands::TakenBack {
            return Some(Answer::Refused("event_must_not_be_voided"));
        }
        let beyond = now.nanoseconds() - event.received_at.nanoseconds() - horizon;
        if beyond.abs() < 60 * SECOND {
            return None;
        }
        if beyond > 0 {
            return Some(Answer::Refused("event_must_be_within_correction_horizon"));
        }
        if recount.has_counted_before(event) && matches!(self.what, Amend(_) | Release) {
            return Some(Answer::Refused("event_must_not_count_already"));
        }
        use What::{Amend, Discard, Release, Void};
        Some(match (&self.what, &event.stands) {
            (Void, _) | (Discard, Stands::SetAside(_)) => Answer::Recorded,
            (Release | Discard, stands) if !matches!(stands, Stands::SetAside(_)) => {
                Answer::Refused("event_must_be_in_quarantine")
            }
            (Release, Stands::SetAside(reason)) => match reason {
                QuarantineReason::TooOld | QuarantineReason::Future | QuarantineReason::PendingFull => {
                    Answer::Recorded
                }
                _ => Answer::Refused("event_must_be_amended"),
            },
            _ => self.answer_to_amendment(event),
        })
    }

    fn answer_to_amendment(&self, event: &Event) -> Answer {
        let amended = self.applied_to(&event.sent);
        if amended.subject.is_empty() || amended.time < Timestamp::MIN {
            return Answer::Refused("content_must_fit");
        }
        match is_same_content(&event.sent, &amended) && event.sent.time == amended.time {
            true => Answer::Known,
            false => Answer::Recorded,
        }
    }
}
