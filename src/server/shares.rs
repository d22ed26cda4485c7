//! Shares of something that is limited in bytes, dealt out fairly between sources.
//!
//! Owns: who waits, whose turn it is, how much each source and all together have. Leaves to others: what a share is for: the
//! memory of batches that are not answered yet, the queue of the log writer, and bodies of requests, where a token stands for the
//! source.
//!
//! Sources that wait take turns (deficit round robin): in a round each may take [`ROUND_BYTES`], whatever it asks for and
//! however many connections it has. One source that floods waits behind itself, and another one for a round at most.
//!
//! Invariants: what is out is at most the limit, and of one source at most its own limit, each exceeded by less than one
//! request; as long as nothing is out, somebody may take; a share that is dropped comes back, and so does one whose taker
//! stopped waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use domain::limits::BATCH_BYTES_MAX;
use tokio::sync::oneshot;

/// Bytes that a source may take in a round: the largest request, so that every turn serves somebody.
const ROUND_BYTES: usize = BATCH_BYTES_MAX;

/// Something limited.
#[derive(Clone)]
pub struct Shares(Arc<Mutex<State>>);

/// Bytes that are in use until they are dropped.
pub struct Share {
    of: Option<(Shares, Arc<str>)>,
    bytes: usize,
}

struct State {
    bytes_max: usize,
    source_bytes_max: usize,
    out: usize,
    sources: HashMap<Arc<str>, Source>,
    /// Sources that wait and are not at their limit, in turn.
    turns: VecDeque<Arc<str>>,
}

#[derive(Default)]
struct Source {
    out: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Share>)>,
    /// What is left of the round.
    credit: usize,
    is_in_turn: bool,
}

impl Shares {
    /// So many bytes for all sources together, and for each.
    pub fn new(bytes_max: usize, source_bytes_max: usize) -> Self {
        let (sources, turns) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State { bytes_max, source_bytes_max, out: 0, sources, turns })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the shares")
    }

    /// Takes bytes for a source when its turn comes. Cancelled while it waits, it takes nothing.
    pub async fn take(&self, source: &Arc<str>, bytes: usize) -> Share {
        let waiting = match self.try_take(source, bytes) {
            Ok(share) => return share,
            Err(waiting) => waiting,
        };
        waiting.await.expect("whoever waits is served or stops waiting")
    }

    /// Takes bytes at once, or a place among those who wait.
    fn try_take(&self, source: &Arc<str>, bytes: usize) -> Result<Share, oneshot::Receiver<Share>> {
        let mut state = self.lock();
        let (sender, receiver) = oneshot::channel();
        let entry = state.sources.entry(source.clone()).or_default();
        // Takers that stopped waiting while the source was at its limit.
        while entry.waiting.pop_front_if(|(_, taker)| taker.is_closed()).is_some() {}
        entry.waiting.push_back((bytes, sender));
        state.put_in_turn(source);
        state.serve(self);
        drop(state);
        let mut receiver = receiver;
        receiver.try_recv().map_err(|_| receiver)
    }

    /// Takes bytes for a source that does not wait; `None` if that exceeds what it or all together may have, or somebody waits.
    pub fn take_now(&self, source: &Arc<str>, bytes: usize) -> Option<Share> {
        let mut state = self.lock();
        let out = state.sources.get(source).map_or(0, |entry| entry.out);
        let has_room = state.out + bytes <= state.bytes_max && out + bytes <= state.source_bytes_max;
        if !has_room || !state.turns.is_empty() {
            return None;
        }
        state.sources.entry(source.clone()).or_default().out += bytes;
        state.out += bytes;
        Some(Share { of: Some((self.clone(), source.clone())), bytes })
    }

    fn give_back(&self, source: &Arc<str>, bytes: usize) {
        let mut state = self.lock();
        state.out -= bytes;
        let entry = state.sources.get_mut(source).expect("a source with a share is known");
        entry.out -= bytes;
        let is_idle = entry.out == 0 && entry.waiting.is_empty();
        if is_idle && !entry.is_in_turn {
            state.sources.remove(source);
        } else {
            state.put_in_turn(source);
        }
        state.serve(self);
    }

    /// Bytes that are out.
    pub fn out(&self) -> usize {
        self.lock().out
    }
}

impl State {
    /// Puts a source that waits and may take at the end of the row.
    fn put_in_turn(&mut self, source: &Arc<str>) {
        let Some(entry) = self.sources.get_mut(source) else { return };
        let may_take = !entry.waiting.is_empty() && entry.out < self.source_bytes_max;
        if may_take && !entry.is_in_turn {
            (entry.is_in_turn, entry.credit) = (true, ROUND_BYTES);
            self.turns.push_back(source.clone());
        }
    }

    /// Serves those whose turn it is, as long as there is something.
    fn serve(&mut self, shares: &Shares) {
        while self.out < self.bytes_max
            && let Some(source) = self.turns.pop_front()
        {
            let entry = self.sources.get_mut(&source).expect("a source in turn is known");
            let may_take = entry.out < self.source_bytes_max;
            let Some((bytes, _)) = entry.waiting.front().filter(|_| may_take) else {
                entry.is_in_turn = false;
                if entry.out == 0 && entry.waiting.is_empty() {
                    self.sources.remove(&source);
                }
                continue;
            };
            if *bytes > entry.credit && entry.credit < ROUND_BYTES {
                // The next round.
                entry.credit = ROUND_BYTES;
                self.turns.push_back(source);
                continue;
            }
            let (bytes, taker) = entry.waiting.pop_front().expect("it was just there");
            entry.credit = entry.credit.saturating_sub(bytes);
            let share = Share { of: Some((shares.clone(), source.clone())), bytes };
            match taker.send(share) {
                Ok(()) => {
                    entry.out += bytes;
                    self.out += bytes;
                }
                // Nobody waits any more; dropped as it is, the share would come back a second time.
                Err(mut share) => share.of = None,
            }
            self.turns.push_front(source);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((shares, source)) = self.of.take() {
            shares.give_back(&source, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn source(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn must_take(shares: &Shares, source: &Arc<str>, bytes: usize) -> Share {
        shares.try_take(source, bytes).ok().expect("there is room")
    }

    fn must_wait(shares: &Shares, source: &Arc<str>, bytes: usize) -> oneshot::Receiver<Share> {
        shares.try_take(source, bytes).err().expect("there is no room")
    }

    #[test]
    fn a_flood_waits_behind_itself_and_another_source_for_a_round_at_most() {
        let shares = Shares::new(256 * KIB, 256 * KIB);
        let (flood, other) = (source("flood"), source("other"));
        let first = must_take(&shares, &flood, 256 * KIB);
        let mut flooding: Vec<_> = (0..1_000).map(|_| must_wait(&shares, &flood, 256 * KIB)).collect();
        let mut late = must_wait(&shares, &other, KIB);
        drop(first);
        // One share at a time is out: count those of the flood before the other source's.
        let mut before = 0;
        while late.try_recv().is_err() {
            let served = flooding.iter_mut().find_map(|waiting| waiting.try_recv().ok());
            drop(served.expect("somebody is served"));
            before += 1;
            assert!(before <= ROUND_BYTES / (256 * KIB), "the other source waits for more than a round");
        }
    }

    #[test]
    fn two_sources_that_flood_get_the_same_bytes_whatever_the_size_of_their_batches() {
        let shares = Shares::new(64 * KIB, 64 * KIB);
        let (small, large) = (source("small"), source("large"));
        let first = must_take(&shares, &small, 64 * KIB);
        let mut waiting: Vec<_> = (0..20_000).map(|_| (0, must_wait(&shares, &small, KIB))).collect();
        waiting.extend((0..20).map(|_| (1, must_wait(&shares, &large, 1_000 * KIB))));
        drop(first);
        let (mut bytes, mut held) = ([0, 0], Vec::new());
        while bytes[0] + bytes[1] < 12 << 20 {
            held.clear();
            waiting.retain_mut(|(whose, waiting)| match waiting.try_recv() {
                Ok(share) => {
                    bytes[*whose] += share.bytes;
                    held.push(share);
                    false
                }
                Err(_) => true,
            });
        }
        let [small, large] = bytes;
        assert!(small.abs_diff(large) <= 2 * ROUND_BYTES, "{bytes:?}");
    }

    #[test]
    fn one_source_has_a_limit_of_its_own() {
        let shares = Shares::new(100 * KIB, 10 * KIB);
        let (greedy, other) = (source("greedy"), source("other"));
        let held: Vec<Share> = (0..10).map(|_| must_take(&shares, &greedy, KIB)).collect();
        let mut waits = must_wait(&shares, &greedy, KIB);
        let others: Vec<Share> = (0..10).map(|_| must_take(&shares, &other, KIB)).collect();
        assert_eq!(shares.out(), 20 * KIB);
        drop(others);
        assert!(waits.try_recv().is_err());
        drop(held);
        assert_eq!(waits.try_recv().unwrap().bytes, KIB);
    }

    #[test]
    fn who_does_not_wait_takes_what_is_there_and_no_byte_more() {
        let shares = Shares::new(10 * KIB, 6 * KIB);
        let (greedy, other) = (source("greedy"), source("other"));
        let held = shares.take_now(&greedy, 6 * KIB).unwrap();
        assert!(shares.take_now(&greedy, 1).is_none(), "beyond what one source may have");
        let rest = shares.take_now(&other, 4 * KIB).unwrap();
        assert!(shares.take_now(&other, 1).is_none(), "beyond what all may have");
        let mut waits = must_wait(&shares, &other, KIB);
        drop(held);
        let first = waits.try_recv().unwrap();
        assert!(shares.take_now(&greedy, 5 * KIB).is_some());
        drop((rest, first));
        assert_eq!(shares.out(), 0);
        assert!(shares.lock().sources.is_empty(), "idle sources take no memory");
    }

    #[test]
    fn what_nobody_waits_for_any_more_goes_to_the_next_and_nothing_stays_behind() {
        let shares = Shares::new(KIB, KIB);
        let (one, two) = (source("one"), source("two"));
        let first = must_take(&shares, &one, KIB);
        drop(must_wait(&shares, &one, KIB));
        let mut waits = must_wait(&shares, &two, KIB);
        drop(first);
        let second = waits.try_recv().unwrap();
        let unread = must_wait(&shares, &one, KIB);
        drop(second);
        // Served, and dropped before it was looked at.
        drop(unread);
        assert_eq!(shares.out(), 0);
        let state = shares.lock();
        assert!(state.sources.is_empty() && state.turns.is_empty(), "idle sources take no memory");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everyone_is_served_when_takers_come_and_go() {
        let shares = Shares::new(4 * KIB, 3 * KIB);
        let takers: Vec<_> = (0..40)
            .map(|number: usize| {
                let shares = shares.clone();
                tokio::spawn(async move {
                    let source = source(&(number % 5).to_string());
                    for round in 0..200 {
                        let taking = shares.take(&source, 1 + (number * 37 + round * 11) % (2 * KIB));
                        if round % 7 == 0 {
                            let _ = tokio::time::timeout(std::time::Duration::ZERO, taking).await;
                        } else {
                            let _share = taking.await;
                            tokio::task::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        for taker in takers {
            taker.await.unwrap();
        }
        assert_eq!(shares.out(), 0);
        assert!(shares.lock().sources.is_empty());
    }
}
