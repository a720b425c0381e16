//! Values of any length against fake nodes in this process.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use crate::fake::{Authority, FakeCluster, Reaction, failure};
use quoit_client::large::{
    LargeReadError, LargeTablesError, LargeValue, LargeValues, PART_BYTES, Swept,
};
use quoit_client::{Client, ConflictPolicy, Context, FailureCode, TableOptions};
use quoit_protocol::ClientRequest;
use tokio::io::{AsyncRead, ReadBuf};

async fn large_values(client: &Client) -> LargeValues {
    let options = || TableOptions { replication: 1, ..TableOptions::default() };
    let siblings = TableOptions { policy: ConflictPolicy::Siblings, ..options() };
    let latest = TableOptions { policy: ConflictPolicy::Latest, ..options() };
    client.create_table("films", siblings).await.expect("all are up");
    client.create_table("parts", latest).await.expect("all are up");
    let films = client.table("films").await.expect("all are up");
    let error = LargeValues::new(films.clone(), films.clone()).expect_err("one table is not two");
    assert_eq!(error, LargeTablesError::Same { table: "films".into() });
    LargeValues::new(films, client.table("parts").await.expect("all are up")).expect("all are up")
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

async fn all(value: &LargeValue) -> Result<Vec<u8>, LargeReadError> {
    let (mut parts, mut all) = (value.parts(), Vec::new());
    while let Some(bytes) = parts.next().await? {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(all.len() as u64, value.length());
    Ok(all)
}

#[tokio::test]
async fn what_was_streamed_in_is_streamed_out_and_leaves_nothing_when_it_goes() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let films = large_values(&client).await;
    let lengths = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 12 * PART_BYTES + 5];
    for length in lengths {
        let value = bytes(length);
        let old = films.get("film").await.unwrap();
        films.put("film", &value[..], Some(&old)).await.unwrap();
        let parts = if length < PART_BYTES { 0 } else { length.div_ceil(PART_BYTES) };
        assert_eq!(cluster.items(), 1 + parts, "the manifest, its parts, and nothing of the last");
        let reading = films.get("film").await.unwrap();
        assert!(all(&reading.siblings[0]).await.unwrap() == value, "{length} bytes");
    }
    let reading = films.get("film").await.unwrap();
    films.delete("film", &reading).await.unwrap();
    assert_eq!(cluster.items(), 0);
    let gone = all(&reading.siblings[0]).await.unwrap_err();
    assert_eq!(gone, LargeReadError::Gone { part: 0 });
    assert!(films.get("film").await.unwrap().siblings.is_empty());
    let table = client.table("films").await.unwrap();
    table.put("plain", "value", &Context::none()).await.unwrap();
    let error = films.get("plain").await.unwrap_err();
    assert_eq!(error, LargeReadError::NotLarge { table: "films".into() });
}

/// Yields some parts, and then an error.
struct Breaking(usize);

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0 == 0 {
            return Poll::Ready(Err(io::Error::other("the tape is torn")));
        }
        let length = self.0.min(buffer.remaining());
        buffer.initialize_unfilled_to(length).fill(7);
        buffer.advance(length);
        self.0 -= length;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_fails_midway_is_never_seen_and_its_parts_go() {
    let authority = Authority::new();
    let is_full = Arc::new(AtomicBool::new(false));
    let full = Arc::clone(&is_full);
    let cluster = FakeCluster::start(&authority, 1, move |_, request| match request {
        // What is refused is an eleventh part, or a manifest.
        ClientRequest::Write(write)
            if write.value.is_some()
                && full.load(Ordering::SeqCst)
                && (write.key.partition == "film" || write.key.partition.ends_with(&[10])) =>
        {
            Reaction::Refuse(failure(FailureCode::Invalid, false, "full"))
        }
        _ => Reaction::Serve,
    });
    let client = cluster.builder(&authority).connect().await.unwrap();
    let films = large_values(&client).await;
    let error = films.put("film", Breaking(9 * PART_BYTES + 1), None).await.unwrap_err();
    assert_eq!(error.to_string(), "not written: the input cannot be read: the tape is torn");
    assert_eq!(cluster.items(), 0);
    is_full.store(true, Ordering::SeqCst);
    let value = bytes(20 * PART_BYTES);
    let error = films.put("film", &value[..], None).await.unwrap_err();
    assert!(error.to_string().starts_with("not written, for part 10 was not: "), "{error}");
    let error = films.put("film", &value[..5 * PART_BYTES], None).await.unwrap_err();
    assert!(!error.is_unknown() && error.to_string().contains("full"), "{error}");
    assert_eq!(cluster.items(), 0);
}

#[tokio::test]
async fn a_sweep_takes_what_no_manifest_knows_once_it_is_old() {
    let authority = Authority::new();
    let cluster = FakeCluster::start(&authority, 1, |_, _| Reaction::Serve);
    let client = cluster.builder(&authority).connect().await.unwrap();
    let films = large_values(&client).await;
    let value = bytes(2 * PART_BYTES + 9);
    films.put("kept", &value[..], None).await.unwrap();
    films.put("lost", &value[..], None).await.unwrap();
    // Somebody deletes a manifest without a thought of its parts.
    client.table("films").await.unwrap().delete("lost", &Context::none()).await.unwrap();
    assert_eq!(cluster.items(), 1 + 3 + 3);
    let swept = films.sweep(Duration::MAX).await.unwrap();
    assert_eq!(swept, Swept { parts: 6, deleted: 0 }, "too young");
    let swept = films.sweep(Duration::ZERO).await.unwrap();
    assert_eq!(swept, Swept { parts: 6, deleted: 3 });
    let kept = films.get("kept").await.unwrap();
    assert!(all(&kept.siblings[0]).await.unwrap() == value);
}
