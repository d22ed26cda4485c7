//! Which lot pays what.
//!
//! Owns: the sweep over time, closed draws, restoring. Leaves to others: what a grant is (`super`).

use std::collections::{BTreeMap, BTreeSet};

use domain::{Exact, Timestamp, Zone};

use super::{Grant, sum_of};
use crate::rating::status::RatingStatus;

/// Something to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it became due: which lots may pay it.
    pub at: Timestamp,
    /// How much; nothing is drawn for what is not above zero.
    pub amount: Exact,
    /// Indexes of the grants that may pay it; all, if `None`.
    pub grants: Option<BTreeSet<usize>>,
    /// Draws that a closed period has for it, in any order: they were drawn in the order of burning.
    pub frozen: Vec<FrozenDraw>,
    /// Indexes of dues that were a part of it when they were drawn, in order: what its own amount leaves of the draws is for them.
    pub pieces: Vec<usize>,
}

/// A draw of a closed period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenDraw {
    /// Index of the grant.
    pub grant: usize,
    /// Number of its lot, from 0.
    pub lot: usize,
    /// How much it paid.
    pub amount: Exact,
}

/// A draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the due.
    pub due: usize,
    /// Index of the grant.
    pub grant: usize,
    /// Number of its lot, from 0.
    pub lot: usize,
    /// How much it pays.
    pub amount: Exact,
}

/// Where a lot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LotState {
    /// Index of the grant.
    pub grant: usize,
    /// Number of the lot, from 0.
    pub lot: usize,
    /// First instant.
    pub from: Timestamp,
    /// First instant after it.
    pub until: Timestamp,
    /// What it was given, and what rolled into it.
    pub given: Exact,
    /// What it paid.
    pub drawn: Exact,
    /// What went on into the next lot.
    pub rolled: Exact,
    /// What was lost at its end.
    pub expired: Exact,
    /// What was voided.
    pub voided: Exact,
    /// What is left.
    pub balance: Exact,
}

/// What grants pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Draws, in the order of dues and of burning; a due and a lot have at most one.
    pub draws: Vec<Draw>,
    /// What no grant paid, by due.
    pub unpaid: Vec<Exact>,
    /// All lots that started by `as_of`, or by the last due if that is later: by grant and number.
    pub lots: Vec<LotState>,
}

/// Draws what is due from grants, as known at `as_of`, or at the last due if that is later.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If closed draws name a lot that the grants cannot have, or took more from it than it ever had.
pub fn draw(grants: &[Grant], dues: &[Due], zone: &Zone, as_of: Timestamp) -> Result<Drawn, RatingStatus> {
    let last = dues.iter().map(|due| due.at).fold(as_of, Timestamp::max);
    let mut sweep = Sweep::new(grants, &lots_closed(grants, dues), zone, last);
    let mut paid: Vec<Vec<Draw>> = Vec::with_capacity(dues.len());
    let mut surplus: Vec<LotAmounts> = Vec::with_capacity(dues.len());
    for (index, due) in dues.iter().enumerate() {
        let (draws, rest) = sweep.take_frozen(index, due)?;
        paid.push(draws);
        surplus.push(rest);
    }
    for (due, mut rest) in dues.iter().zip(surplus) {
        for piece in &due.pieces {
            rest = sweep.take_piece(*piece, &dues[*piece], rest, &mut paid[*piece])?;
        }
    }
    sweep.reserve()?;
    let mut order: Vec<usize> = (0..dues.len()).collect();
    // Stable: of one instant the list decides.
    order.sort_by_key(|index| dues[*index].at);
    for index in order {
        sweep.advance(dues[index].at)?;
        sweep.pay(index, &dues[index], &mut paid[index])?;
    }
    sweep.advance(last)?;
    let mut unpaid = Vec::with_capacity(dues.len());
    for (due, draws) in dues.iter().zip(&paid) {
        let drawn = sum_of(draws.iter().map(|draw| draw.amount))?;
        unpaid.push(due.amount.max(Exact::ZERO)?.subtract(drawn)?);
    }
    Ok(Drawn { draws: paid.into_iter().flatten().collect(), unpaid, lots: sweep.finish(last)? })
}

/// How many lots of each grant closed draws need at least.
fn lots_closed(grants: &[Grant], dues: &[Due]) -> Vec<usize> {
    let mut counts = vec![0; grants.len()];
    for frozen in dues.iter().flat_map(|due| &due.frozen) {
        counts[frozen.grant] = counts[frozen.grant].max(frozen.lot + 1);
    }
    counts
}

/// What decides the order in which lots burn.
type BurnOrder = (u32, Timestamp, Timestamp, u64, String, usize);

/// Amounts by index of a lot.
type LotAmounts = Vec<(usize, Exact)>;

struct Lot {
    state: LotState,
    order: BurnOrder,
    /// What later closed draws need of what rolls over.
    reserved: Exact,
    is_over: bool,
}

struct Sweep<'a> {
    grants: &'a [Grant],
    lots: Vec<Lot>,
    /// Index of the first lot of each grant.
    first_lots: Vec<usize>,
    /// Instants at which lots start or end, in order: an end comes before a start at the same instant.
    events: Vec<(Timestamp, bool, usize)>,
    next_event: usize,
    usable: BTreeMap<BurnOrder, usize>,
}

impl<'a> Sweep<'a> {
    fn new(grants: &'a [Grant], lots_closed: &[usize], zone: &Zone, last: Timestamp) -> Self {
        let (mut lots, mut first_lots, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for (index, grant) in grants.iter().enumerate() {
            first_lots.push(lots.len());
            let (starts, following) = grant.starts(zone, last, lots_closed[index]);
            let end = grant.until.unwrap_or(Timestamp::END);
            for (number, from) in starts.iter().enumerate() {
                let until = starts.get(number + 1).copied().or(following).unwrap_or(end);
                let usable_until = grant.voided_at.map_or(until, |voided| voided.clamp(*from, until));
                events.push((*from, true, lots.len()));
                events.push((usable_until, false, lots.len()));
                lots.push(Lot {
                    state: LotState {
                        grant: index,
                        lot: number,
                        from: *from,
                        until,
                        given: grant.amount,
                        drawn: Exact::ZERO,
                        rolled: Exact::ZERO,
                        expired: Exact::ZERO,
                        voided: Exact::ZERO,
                        balance: grant.amount,
                    },
                    order: (grant.priority, until, *from, grant.created, grant.id.clone(), index),
                    reserved: Exact::ZERO,
                    is_over: false,
                });
            }
        }
        events.sort_by_key(|(at, is_start, lot)| (*at, *is_start, *lot));
        Self { grants, lots, first_lots, events, next_event: 0, usable: BTreeMap::new() }
    }

    /// Takes the closed draws of a due, and says what is too much because the due shrank, by lot in the order of burning: the
    /// last to burn is given back first.
    fn take_frozen(&mut self, due_index: usize, due: &Due) -> Result<(Vec<Draw>, LotAmounts), RatingStatus> {
        let mut closed: BTreeMap<&BurnOrder, (usize, Exact)> = BTreeMap::new();
        for frozen in &due.frozen {
            let lot = self.first_lots[frozen.grant] + frozen.lot;
            let named = self.lots.get(lot).filter(|lot| lot.state.grant == frozen.grant);
            let named = named.expect("a closed draw names a lot that there is");
            let (_, amount) = closed.entry(&named.order).or_insert((lot, Exact::ZERO));
            *amount = amount.add(frozen.amount)?;
        }
        let mut surplus = sum_of(due.frozen.iter().map(|draw| draw.amount))?;
        surplus = surplus.subtract(due.amount.max(Exact::ZERO)?)?.max(Exact::ZERO)?;
        let (mut kept, mut too_much) = (Vec::new(), Vec::new());
        for (lot, amount) in closed.into_values().rev() {
            let given_back = amount.min(surplus)?;
            surplus = surplus.subtract(given_back)?;
            kept.push((lot, amount.subtract(given_back)?));
            too_much.push((lot, given_back));
        }
        too_much.retain(|(_, amount)| amount.is_positive());
        too_much.reverse();
        let mut draws = Vec::new();
        for (lot, amount) in kept.into_iter().rev().filter(|(_, amount)| amount.is_positive()) {
            self.spend(lot, amount)?;
            let LotState { grant, lot, .. } = self.lots[lot].state;
            draws.push(Draw { due: due_index, grant, lot, amount });
        }
        Ok((draws, too_much))
    }

    /// Takes what a due can of closed draws of the due that it was a part of; what is left of them.
    fn take_piece(
        &mut self,
        due_index: usize,
        due: &Due,
        rest: LotAmounts,
        draws: &mut Vec<Draw>,
    ) -> Result<LotAmounts, RatingStatus> {
        let drawn = sum_of(draws.iter().map(|draw| draw.amount))?;
        let mut room = due.amount.max(Exact::ZERO)?.subtract(drawn)?;
        let mut left = Vec::new();
        for (index, amount) in rest {
            let taken = amount.min(room)?;
            room = room.subtract(taken)?;
            if taken.is_positive() {
                self.spend(index, taken)?;
                let LotState { grant, lot, .. } = self.lots[index].state;
                match draws.iter_mut().find(|draw| (draw.grant, draw.lot) == (grant, lot)) {
                    Some(draw) => draw.amount = draw.amount.add(taken)?,
                    None => draws.push(Draw { due: due_index, grant, lot, amount: taken }),
                }
            }
            left.push((index, amount.subtract(taken)?));
        }
        Ok(left)
    }

    fn spend(&mut self, lot: usize, amount: Exact) -> Result<(), RatingStatus> {
        let state = &mut self.lots[lot].state;
        state.drawn = state.drawn.add(amount)?;
        state.balance = state.balance.subtract(amount)?;
        Ok(())
    }

    /// Reserves what closed draws of later lots need of what rolls into them.
    fn reserve(&mut self) -> Result<(), RatingStatus> {
        for index in (1..self.lots.len()).rev() {
            let (before, after) = self.lots.split_at_mut(index);
            let (Some(before), Some(after)) = (before.last_mut(), after.first()) else { continue };
            if before.state.grant == after.state.grant {
                let missing = after.reserved.subtract(after.state.balance)?;
                before.reserved = missing.max(Exact::ZERO)?;
            }
        }
        Ok(())
    }

    /// Moves on to an instant: what ended by then ends, what started by then may be drawn on.
    fn advance(&mut self, at: Timestamp) -> Result<(), RatingStatus> {
        while let Some((event_at, is_start, lot)) = self.events.get(self.next_event).copied()
            && event_at <= at
        {
            self.next_event += 1;
            if is_start {
                // What nothing is left of is never looked at: a lot gains nothing after its start.
                if !self.lots[lot].is_over && self.lots[lot].state.balance.is_positive() {
                    self.usable.insert(self.lots[lot].order.clone(), lot);
                }
            } else {
                self.end(lot)?;
            }
        }
        Ok(())
    }

    /// Ends a lot: by its void, by the next recurrence, or by its expiry.
    fn end(&mut self, index: usize) -> Result<(), RatingStatus> {
        self.usable.remove(&self.lots[index].order);
        let grant = &self.grants[self.lots[index].state.grant];
        let (is_voided, left, until, reserved) = {
            let lot = &mut self.lots[index];
            lot.is_over = true;
            let left = lot.state.balance.max(Exact::ZERO)?;
            (grant.is_voided_by(lot.state.until), left, lot.state.until, lot.reserved)
        };
        let has_next = self
            .lots
            .get(index + 1)
            .is_some_and(|next| next.state.grant == self.lots[index].state.grant && next.state.from == until);
        let rolled = match (has_next, is_voided) {
            (true, false) => left.min(grant.rollover_max)?,
            // Nothing rolls out of a void but what closed draws took from there.
            (true, true) => left.min(reserved)?,
            (false, _) => Exact::ZERO,
        };
        let lost = left.subtract(rolled)?;
        let state = &mut self.lots[index].state;
        state.rolled = rolled;
        state.balance = state.balance.subtract(left)?;
        *(if is_voided { &mut state.voided } else { &mut state.expired }) = lost;
        if has_next {
            let next = &mut self.lots[index + 1].state;
            next.given = next.given.add(rolled)?;
            next.balance = next.balance.add(rolled)?;
        }
        Ok(())
    }

    fn pay(&mut self, index: usize, due: &Due, draws: &mut Vec<Draw>) -> Result<(), RatingStatus> {
        let drawn = sum_of(draws.iter().map(|draw| draw.amount))?;
        let mut left = due.amount.subtract(drawn)?;
        let closed_count = draws.len();
        let mut spent = Vec::new();
        for (order, lot) in &self.usable {
            if !left.is_positive() {
                break;
            }
            let state = &self.lots[*lot].state;
            if due.grants.as_ref().is_some_and(|grants| !grants.contains(&state.grant)) {
                continue;
            }
            let usable = state.balance.subtract(self.lots[*lot].reserved)?;
            let amount = usable.min(left)?;
            if amount.is_positive() {
                left = left.subtract(amount)?;
                spent.push((*lot, amount, (amount == state.balance).then(|| order.clone())));
            }
        }
        for (lot, amount, exhausted) in spent {
            self.spend(lot, amount)?;
            if let Some(order) = exhausted {
                // What nothing is left of need not be looked at again.
                self.usable.remove(&order);
            }
            let (grant, number) = (self.lots[lot].state.grant, self.lots[lot].state.lot);
            match draws[..closed_count].iter_mut().find(|draw| (draw.grant, draw.lot) == (grant, number)) {
                Some(draw) => draw.amount = draw.amount.add(amount)?,
                None => draws.push(Draw { due: index, grant, lot: number, amount }),
            }
        }
        Ok(())
    }

    fn finish(self, last: Timestamp) -> Result<Vec<LotState>, RatingStatus> {
        let mut lots = Vec::new();
        for lot in self.lots {
            let state = lot.state;
            let used = sum_of([state.drawn, state.rolled, state.expired, state.voided, state.balance])?;
            assert_eq!(used, state.given, "what a lot was given is drawn, gone or left");
            assert!(!state.balance.is_negative(), "a lot is never overdrawn");
            let is_closed = state.drawn.is_positive() || state.rolled.is_positive();
            let is_given = state.from <= last && self.grants[state.grant].gives_at(state.from);
            if is_given || is_closed {
                lots.push(state);
            }
        }
        Ok(lots)
    }
}
