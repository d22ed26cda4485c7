//! The calls of a client that nothing drains: what is taken, what waits, and that cancelling loses nothing.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::queue::Outgoing;

/// A client without a connection; the test takes its batches itself.
fn client(memory_bytes_max: usize) -> Client {
    let mut options = ClientOptions::new("127.0.0.1:1", "tm_x", "shop", Vec::new());
    options.batch_events_max = 2;
    options.memory_bytes_max = memory_bytes_max;
    options.in_flight_max = 1;
    Client { shared: Arc::new(Shared::new(options).unwrap()), recovered: Recovered::default() }
}

/// Takes the next batch as if it was sent and acknowledged.
fn take(client: &Client) -> Option<Outgoing> {
    let mut state = client.shared.lock();
    let sent = state.queue.send_next(1)?;
    let acked = state.queue.on_acked(sent.sequence);
    drop(state);
    client.shared.tell();
    acked
}

fn event(id: usize) -> Event {
    Event::new(EventIdOwned::Text(id.to_string()), "key", Timestamp::MIN)
}

/// Polls a future once; it must wait. Dropping it then is what a cancelled request handler does.
async fn must_wait<F: Future>(future: &mut std::pin::Pin<Box<F>>) {
    let polled =
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending()));
    assert!(polled.await, "it waits for room");
}

fn ids_of(outgoing: Outgoing) -> Vec<String> {
    let Outgoing { sequence, events, queued_at, frame, .. } = outgoing;
    let acked = Acked { sequence, events, queued_at, refusals: Vec::new(), verdicts: None, frame };
    (0..events).filter_map(|index| acked.id(index)).collect()
}

#[tokio::test]
async fn a_full_client_takes_nothing_more_until_something_is_acknowledged() {
    let client = client(3_000);
    let mut taken = 0;
    while client.try_record("request", &event(taken)).is_ok() {
        taken += 1;
    }
    assert!((3..20).contains(&taken), "{taken}");
    let next = event(taken);
    let mut recording = Box::pin(client.record("request", &next));
    must_wait(&mut recording).await;
    // A request handler that is dropped while it waits takes nothing with it.
    drop(recording);
    let mut recording = Box::pin(client.record("request", &next));
    must_wait(&mut recording).await;
    assert_eq!(ids_of(take(&client).unwrap()), ["0", "1"]);
    recording.await.unwrap();
    client.shared.finish_all();
    let left: Vec<String> = std::iter::from_fn(|| take(&client)).flat_map(ids_of).collect();
    assert_eq!(left, Vec::from_iter((2..=taken).map(|id| id.to_string())));
    assert_eq!(client.stats().recorded, taken as u64 + 1);
}

/// A handler that flushes after each event made batches without asking for room: while the server was away, memory grew
/// for ever, and nobody was told that it is full.
#[tokio::test]
async fn whoever_flushes_or_persists_each_event_is_told_that_memory_is_full() {
    for is_persist in [false, true] {
        let (client, memory_bytes_max) = (client(20_000), 20_000);
        let mut taken = 0;
        while client.try_record("request", &event(taken)).is_ok() {
            taken += 1;
            assert!(taken < 1_000, "memory has an end");
            match is_persist {
                true => must_wait(&mut Box::pin(client.persist())).await,
                false => must_wait(&mut Box::pin(client.flush())).await,
            }
            assert!(client.stats().memory_bytes <= memory_bytes_max, "{:?}", client.stats());
        }
        let next = event(taken);
        assert_eq!(client.try_record("request", &next), Err(ClientError::Full));
        let mut recording = Box::pin(client.record("request", &next));
        must_wait(&mut recording).await;
        let flushing = client.flush();
        while take(&client).is_some() {}
        recording.await.unwrap();
        client.shared.finish_all();
        while take(&client).is_some() {}
        flushing.await.unwrap();
        assert_eq!((client.stats().unacked, client.stats().recorded), (0, taken as u64 + 1));
    }
}

/// Open batches of 256 event types with ids of two kinds lay outside the limit.
#[tokio::test]
async fn open_batches_are_part_of_memory() {
    let client = client(50_000);
    let mut taken = 0;
    for number in 0..256 {
        for event in [event(number), Event::minted("key", Timestamp::MIN)] {
            taken += u64::from(client.try_record(&number.to_string(), &event).is_ok());
            assert!(client.stats().memory_bytes <= 50_000, "{:?}", client.stats());
        }
    }
    assert!((20..256).contains(&taken), "{taken}");
    client.shared.finish_all();
    assert!(client.stats().memory_bytes <= 50_000, "{:?}", client.stats());
    while take(&client).is_some() {}
    assert_eq!((client.stats().unacked, client.stats().recorded), (0, taken));
    assert!(client.stats().memory_bytes <= 12_500, "a quarter may be kept for the next batches");
}

#[tokio::test]
async fn an_event_that_is_larger_than_memory_is_taken_alone() {
    let client = client(1);
    client.record("request", &event(0)).await.unwrap();
    assert_eq!(client.try_record("request", &event(1)), Err(ClientError::Full));
    client.shared.finish_all();
    assert_eq!(ids_of(take(&client).unwrap()), ["0"]);
    client.record("request", &event(1)).await.unwrap();
    let mut builder = BatchBuilder::new("shop", "request", IdMode::Given);
    builder.push(&event(2)).unwrap();
    must_wait(&mut Box::pin(client.send(&mut builder))).await;
    client.shared.finish_all();
    assert_eq!(ids_of(take(&client).unwrap()), ["1"]);
    assert_eq!(client.send(&mut builder).await.unwrap(), 3);
}

#[tokio::test]
async fn a_cancelled_send_leaves_the_builder_as_it_was() {
    let client = client(1 << 20);
    let mut builder = BatchBuilder::new("shop", "request", IdMode::Given);
    builder.push(&event(0)).unwrap();
    assert_eq!(client.send(&mut builder).await.unwrap(), 1);
    builder.push(&event(1)).unwrap();
    let mut sending = Box::pin(client.send(&mut builder));
    must_wait(&mut sending).await;
    drop(sending);
    assert_eq!(builder.len(), 1);
    assert_eq!(take(&client).unwrap().sequence, 1);
    assert_eq!(client.send(&mut builder).await.unwrap(), 2);
    assert_eq!(client.stats().recorded, 2);
}

#[tokio::test]
async fn minted_ids_are_a_row_of_their_own_beside_given_ones() {
    let client = client(1 << 20);
    for id in 0..3 {
        client.record("request", &Event::minted("key", Timestamp::MIN)).await.unwrap();
        client.record("request", &event(id)).await.unwrap();
    }
    client.shared.finish_all();
    let ids: Vec<String> = std::iter::from_fn(|| take(&client)).flat_map(ids_of).collect();
    let (minted, given): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| id.starts_with("seq:"));
    assert_eq!(given, ["0", "1", "2"]);
    let sequences: Vec<&str> = minted.iter().filter_map(|id| Some(id.split_once('/')?.1)).collect();
    assert_eq!(sequences, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_flush_and_a_close_have_a_deadline_that_says_what_is_left() {
    let client = client(1 << 20);
    let patience = Duration::from_millis(1);
    for id in 0..3 {
        client.record("request", &event(id)).await.unwrap();
    }
    let passed = ClientError::DeadlinePassed { unacked: 3, stored: 0 };
    assert_eq!(client.flush_within(patience).await, Err(passed));
    while take(&client).is_some() {}
    client.flush_within(Duration::from_secs(60)).await.unwrap();
    client.persist().await.unwrap();
    client.shared.lock().is_driver_done = true;
    client.close().await.unwrap();
    assert_eq!(client.record("request", &event(9)).await, Err(ClientError::Closed));
}

#[test]
fn what_can_never_be_sent_is_refused_at_once() {
    let client = client(1 << 20);
    let long = "x".repeat(257);
    assert_eq!(client.try_record("", &event(0)), Err(ClientError::EventTypeMustFit));
    assert_eq!(client.try_record(&long, &event(0)), Err(ClientError::EventTypeMustFit));
    let bad = Event::minted("", Timestamp::MIN);
    assert_eq!(client.try_record("request", &bad), Err(EventStatus::SubjectMustFit.into()));
    for number in 1..256 {
        client.try_record(&number.to_string(), &event(0)).unwrap();
    }
    assert_eq!(client.try_record("one more", &event(0)), Err(ClientError::EventTypesMustFit));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_many_callers_leave_in_the_order_of_their_sequences() {
    let client = Arc::new(client(4_000));
    let started = Instant::now();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                for id in 0..50 {
                    let event_type = ["request", "job"][caller % 2];
                    client.record(event_type, &event(caller * 50 + id)).await.unwrap();
                }
            })
        })
        .collect();
    let (mut next, mut ids) = (1, Vec::new());
    while ids.len() < 400 {
        if callers.iter().all(tokio::task::JoinHandle::is_finished) {
            client.shared.finish_all();
        }
        match take(&client) {
            None => tokio::task::yield_now().await,
            Some(batch) => {
                assert_eq!((batch.sequence, batch.events <= 2), (next, true));
                next += 1;
                ids.extend(ids_of(batch));
            }
        }
        assert!(started.elapsed() < Duration::from_secs(60), "callers wait for ever");
    }
    ids.sort_unstable_by_key(|id| id.parse::<usize>().unwrap());
    assert_eq!(ids, Vec::from_iter((0..400).map(|id| id.to_string())));
}
