//! What an account agreed to, in a quote of one of its subscriptions.
//!
//! Owns: which agreements a quote has, what it says of those that it cannot have, where slices end for it. Leaves to others:
//! what terms make of charges (`rating::account`).
//!
//! Invariants: a quote is of an account that used nothing but what is quoted, from the first month that is quoted on. What that
//! makes of an agreement is said by name, never passed over.

use std::collections::BTreeSet;
use std::fmt;

use domain::{AccountId, CommitmentId, GrantId, PlanId, PriceId, Span, SubscriptionId, Timestamp};

use super::{Bill, QuoteTerms, Selection};
use crate::catalog::{
    Account, AccountDiscount, Catalog, CommitmentTimeline, CreditGrant, PriceTimeline, SubscriptionTimeline,
};
use crate::rating::ActiveTerm;
use crate::rating::account::BillLine;
use crate::rating::commitment::Shape;
use crate::rating::progressive::Thresholds;

/// A subscription, and what its account agreed to.
#[derive(Clone, Debug)]
pub struct Agreed<'a> {
    pub(super) catalog: &'a Catalog,
    /// The subscription.
    pub subscription: &'a SubscriptionTimeline,
    /// Who pays.
    pub account: &'a Account,
}

/// What a person should know of a quote, since no file says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Agreements of accounts, by kind and name: a quote of a price or a plan has none of them.
    AgreementsLeftOut(Vec<String>),
    /// Other subscriptions that the same agreements are of.
    OthersUseNothing(AccountId, Vec<SubscriptionId>),
    /// A commitment that carries something over from months before the first one.
    CommitmentLeftOut(CommitmentId, Timestamp),
    /// A grant that may have been drawn on before the first month.
    GrantIsWhole(GrantId, Timestamp),
    /// Thresholds are of all usage that was ever charged.
    ThresholdsFromZero,
    /// A price has other windows that start in the month; this one is from a day until another.
    WindowIsOneOfMany(PriceId, String, String),
    /// The window of a price starts in another month, on a day.
    WindowStartsElsewhere(PriceId, String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::AgreementsLeftOut(names) => write!(
                f,
                "without what accounts agreed to ({}): a quote of a --subscription has it",
                names.join(", ")
            ),
            Note::OthersUseNothing(account, others) => {
                let others: Vec<&str> = others.iter().map(SubscriptionId::as_str).collect();
                write!(
                    f,
                    "as if nothing else of {account} and its pool were charged: without {}",
                    others.join(", ")
                )
            }
            Note::CommitmentLeftOut(id, from) => write!(
                f,
                "without the commitment {id}: it carries over what months before left; quote all of them from {from} on, with --usage"
            ),
            Note::GrantIsWhole(id, from) => {
                write!(f, "as if nothing had been drawn on the grant {id} since it started at {from}")
            }
            Note::ThresholdsFromZero => f.write_str(
                "as if nothing had been charged before: thresholds count all usage of the account",
            ),
            Note::WindowIsOneOfMany(price, from, until) => write!(
                f,
                "{price} has more windows than the one from {from} until {until} in this month; a quote with --usage, or without a quantity, \
                 has them all"
            ),
            Note::WindowStartsElsewhere(price, from) => write!(
                f,
                "the window of {price} started on {from}: a quote of that month is of the same window, so the two do not add up"
            ),
        }
    }
}

/// Where usage stands between two thresholds; amounts are minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThresholdStanding {
    /// Usage from the first month that is quoted on.
    pub usage: i128,
    /// The greatest threshold that it reaches in this month.
    pub reached: Option<i128>,
    /// The one that it reaches next.
    pub next: Option<i128>,
}

/// Where a price counts what is used under another plan.
pub(super) struct CountedElsewhere {
    /// Where the other plan is active.
    pub(super) span: Span,
    /// Instants at which slices end there.
    pub(super) bounds: Vec<Timestamp>,
}

impl<'a> Agreed<'a> {
    fn accounts(&self) -> impl Iterator<Item = &'a AccountId> {
        let pool = self.catalog.pool_of(&self.account.id);
        self.catalog.accounts_of_pool(pool).into_iter()
    }

    pub(super) fn pool(&self) -> &'a AccountId {
        self.catalog.pool_of(&self.account.id)
    }

    /// Those whose agreements hold for the account: itself, and its parent.
    fn holders(&self) -> Vec<&'a AccountId> {
        let mut holders = vec![self.pool(), &self.account.id];
        holders.dedup();
        holders
    }

    pub(super) fn discounts(&self) -> Vec<(u64, &'a AccountDiscount)> {
        self.holders().into_iter().flat_map(|account| self.catalog.discounts_of_account(account)).collect()
    }

    pub(super) fn grants(&self) -> Vec<(u64, &'a CreditGrant)> {
        self.holders().into_iter().flat_map(|account| self.catalog.grants_of_account(account)).collect()
    }

    /// Its commitments whose months all are quoted or stand alone, and those of which some is missing.
    fn all_commitments(
        &self,
        first: Timestamp,
    ) -> (Vec<&'a CommitmentTimeline>, Vec<&'a CommitmentTimeline>) {
        let all = self.holders().into_iter().flat_map(|account| self.catalog.commitments_of_account(account));
        all.partition(|timeline| {
            let commitment = timeline.first();
            commitment.shape == Shape::None || commitment.from >= first || timeline.end() <= first
        })
    }

    pub(super) fn commitments(&self, first: Timestamp) -> Vec<&'a CommitmentTimeline> {
        self.all_commitments(first).0
    }

    /// Where the subscription is charged under the plan of a price.
    pub(super) fn active_of(&self, price: &PriceTimeline) -> Vec<ActiveTerm> {
        self.active_under(|plan| plan == price.plan())
    }

    /// Where in a span a price goes on counting what other plans of the subscription counted, with the bounds of slices there.
    pub(super) fn counted_elsewhere(&self, price: &PriceTimeline, inside: Span) -> Vec<CountedElsewhere> {
        let records = self.subscription.spans().into_iter().map(|(_, record)| &record.plan);
        let plans: BTreeSet<&PlanId> = records.filter(|plan| *plan != price.plan()).collect();
        let mut counted = Vec::new();
        for plan in plans {
            let active = self.active_under(|own| own == plan).into_iter().map(|term| term.span);
            for span in active.filter(|span| span.overlaps(inside)) {
                let span = Span::new(span.from.max(inside.from), span.until.min(inside.until));
                if self.catalog.goes_on_from(price, plan, span) {
                    counted.push(CountedElsewhere { span, bounds: self.bounds_of_plan(plan) });
                }
            }
        }
        counted.sort_by_key(|counted| counted.span.from);
        counted
    }

    /// Where the subscription is charged under some plans.
    fn active_under(&self, is_asked: impl Fn(&PlanId) -> bool) -> Vec<ActiveTerm> {
        let mut active: Vec<ActiveTerm> = Vec::new();
        for (span, record) in self.subscription.spans() {
            let from = record.trial_until.map_or(span.from, |until| until.clamp(span.from, span.until));
            if !is_asked(&record.plan) || from >= span.until {
                continue;
            }
            let seats = record.seats.map(Into::into);
            match active.last_mut() {
                Some(last) if last.span.until == from && last.seats == seats => last.span.until = span.until,
                _ => active.push(ActiveTerm { span: Span::new(from, span.until), seats }),
            }
        }
        active
    }

    /// Instants at which slices of the account end, sorted.
    pub(super) fn bounds(&self, price: &PriceTimeline) -> Vec<Timestamp> {
        self.bounds_of_plan(price.plan())
    }

    fn bounds_of_plan(&self, plan: &PlanId) -> Vec<Timestamp> {
        let entity = self.catalog.entity(&self.account.entity).expect("the catalog refuses unknown entities");
        let zone = &self.account.time_zone;
        let mut bounds = entity.time_zone.month_starts();
        bounds.extend(zone.month_starts());
        for cadence in self.catalog.cadences_of_plan(plan, self.subscription.anchor(), zone) {
            bounds.extend_from_slice(zone.grid(cadence).starts());
        }
        bounds.extend(self.catalog.prices_of_plan(plan).flat_map(PriceTimeline::changes));
        bounds.extend(self.catalog.grant_bounds(&self.account.id));
        bounds.sort_unstable();
        bounds.dedup();
        bounds
    }

    /// Where usage stands, by what of it was reached before.
    pub(super) fn standing(&self, before: i128, usage: i128) -> Option<ThresholdStanding> {
        let (amounts, every) = self.account.thresholds.as_ref()?.minor(self.account.currency);
        let thresholds = Thresholds { fixed: &amounts, recurring: every };
        let is_new = thresholds.reached(usage).ok()? > thresholds.reached(before).ok()?;
        let reached = thresholds.last_reached(usage).filter(|_| is_new);
        Some(ThresholdStanding { usage, reached, next: thresholds.next_above(usage) })
    }

    fn notes(&self, first: Timestamp) -> Vec<Note> {
        let mut notes = Vec::new();
        let (commitments, left_out) = self.all_commitments(first);
        let others = self.accounts().flat_map(|account| self.catalog.subscriptions_of_account(account));
        let others: Vec<SubscriptionId> =
            others.map(|other| other.id().clone()).filter(|id| id != self.subscription.id()).collect();
        let (grants, discounts) = (self.grants(), self.discounts());
        let has_agreements = !(commitments.is_empty() && grants.is_empty() && discounts.is_empty());
        if !others.is_empty() && (has_agreements || self.account.thresholds.is_some()) {
            notes.push(Note::OthersUseNothing(self.account.id.clone(), others));
        }
        let left_out = left_out.into_iter().map(|timeline| timeline.first());
        notes.extend(left_out.map(|of| Note::CommitmentLeftOut(of.id.clone(), of.from)));
        let started = grants
            .into_iter()
            .filter(|(_, grant)| grant.from < first && grant.until.is_none_or(|until| first < until));
        notes.extend(started.map(|(_, grant)| Note::GrantIsWhole(grant.id.clone(), grant.from)));
        if self.account.thresholds.is_some() {
            notes.push(Note::ThresholdsFromZero);
        }
        notes
    }
}

/// What should be known of the windows of a quote in which an instant lies.
pub fn window_notes(terms: &QuoteTerms<'_>, bill: &Bill) -> Vec<Note> {
    let mut notes = Vec::new();
    let day = |instant| terms.zone.date_of(instant);
    for price in &bill.prices {
        let timeline = terms.selection.prices().iter().find(|of| *of.id() == price.price);
        let Some(timeline) = timeline else { continue };
        let grid = terms.grid(timeline);
        let is_charged = |window: &Span| bill.window.contains(window.from) && window.overlaps(terms.active);
        let starting = grid.windows_in(bill.window).filter(is_charged).count();
        let window = price.window;
        if !bill.window.contains(window.from) {
            notes.push(Note::WindowStartsElsewhere(price.price.clone(), day(window.from)));
        } else if starting > 1 {
            notes.push(Note::WindowIsOneOfMany(price.price.clone(), day(window.from), day(window.until)));
        }
    }
    notes
}

/// What a quote from a month on leaves out or takes for granted.
pub fn notes(catalog: &Catalog, terms: &QuoteTerms<'_>, first: Timestamp) -> Vec<Note> {
    if let Some(agreed) = &terms.agreed {
        return agreed.notes(first);
    }
    let names = agreements_of(catalog, &terms.selection);
    if names.is_empty() { Vec::new() } else { vec![Note::AgreementsLeftOut(names)] }
}

/// What accounts agreed to that subscribe to the plans of some prices, by kind and name.
fn agreements_of(catalog: &Catalog, selection: &Selection<'_>) -> Vec<String> {
    let plans: BTreeSet<_> = selection.prices().iter().map(|price| price.plan()).collect();
    let subscriptions = plans.into_iter().flat_map(|plan| catalog.subscriptions_of_plan(plan));
    let accounts: BTreeSet<&AccountId> =
        subscriptions.flat_map(|of| [of.account(), catalog.pool_of(of.account())]).collect();
    let mut names = Vec::new();
    for account in &accounts {
        names.extend(catalog.discounts_of_account(account).map(|(_, of)| format!("discount {}", of.id)));
        names.extend(
            catalog.commitments_of_account(account).map(|of| format!("commitment {}", of.first().id)),
        );
        names.extend(catalog.grants_of_account(account).map(|(_, of)| format!("grant {}", of.id)));
    }
    names
}

/// Whether a line counts towards a threshold: as `counts_towards_threshold` of a charge line.
pub(super) fn counts_towards_threshold(catalog: &Catalog, line: &BillLine) -> bool {
    use crate::charges::Component;
    let price = line.key.price.as_ref().and_then(|price| catalog.price(price));
    match line.key.component {
        Component::Drawdown => true,
        Component::Charge | Component::Discount | Component::Maximum | Component::Overage => {
            price.is_none_or(|price| price.meters().next().is_some())
        }
        _ => false,
    }
}
