//! Makes a plan that fails smaller: whole stretches of actions first, single ones last, until none can be left out.

use crate::actions::{Action, Plan};
use crate::play::{Failure, Trace, play};

/// A plan of which no action can be left out, and what is wrong with it; at most so many plans are tried.
pub fn minimize(plan: &Plan, failure: &Failure, tries_max: usize) -> (Plan, Failure) {
    let (mut plan, mut failure) = (plan.clone(), failure.clone());
    if let Some(action) = failure.action {
        plan.actions.truncate(action);
    }
    let mut tries = 0;
    let mut fails = |candidate: &Plan| {
        tries += 1;
        if tries > tries_max { None } else { play(candidate, &mut Trace::default()).err() }
    };
    match fails(&plan) {
        Some(found) => failure = found,
        // The end of a run is part of what fails.
        None => return (plan, failure),
    }
    let mut length = plan.actions.len().div_ceil(2);
    while length > 0 {
        let mut from = 0;
        let mut has_shrunk = false;
        while from < plan.actions.len() {
            let mut candidate = plan.clone();
            candidate.actions.drain(from..(from + length).min(plan.actions.len()));
            match fails(&candidate) {
                Some(found) => (plan, failure, has_shrunk) = (candidate, found, true),
                None => from += length,
            }
        }
        if !has_shrunk || length > 1 {
            length /= 2;
        }
    }
    shrink_batches(&mut plan, &mut failure, &mut fails);
    (plan, failure)
}

/// Leaves out single events and resources.
fn shrink_batches(plan: &mut Plan, failure: &mut Failure, fails: &mut dyn FnMut(&Plan) -> Option<Failure>) {
    for index in 0..plan.actions.len() {
        let mut part = 0;
        loop {
            let mut candidate = plan.clone();
            match &mut candidate.actions[index] {
                Action::Produce { events, .. } if events.len() > 1 && part < events.len() => {
                    events.remove(part);
                }
                Action::Put(resources) if resources.len() > 1 && part < resources.len() => {
                    resources.remove(part);
                }
                _ => break,
            }
            match fails(&candidate) {
                Some(found) => (*plan, *failure) = (candidate, found),
                None => part += 1,
            }
        }
    }
}
