//! Long reads, page by page: one partition key's items, or a whole table.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use quoit_protocol::{Key, Page};
use quoit_ring::{VnodeCount, VnodeIndex};
use quoit_session::{Answer, Request};

use crate::client::Submission;
use crate::{Context, ReadError, Table, Value};

/// At most so many items are asked for on one page.
const PAGE_ITEMS_MAX: u32 = 500;
/// So many virtual nodes are read at once by an export.
const EXPORT_VNODES_IN_FLIGHT: usize = 8;

/// Which of a partition key's items are read. The default is all.
///
/// ```
/// # quoit_sandbox::with_table(async |diary| {
/// use quoit_client::ScanRange;
///
/// for day in ["1", "2", "3"] {
///     diary.replace(("alice", day), "rain").await?;
/// }
/// let range = ScanRange { from: "2".into(), ..ScanRange::default() };
/// let days = diary.scan("alice", range).collect().await?;
/// assert_eq!(days.len(), 2);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanRange {
    /// The first sort key (included).
    pub from: Bytes,
    /// The end (excluded); none where `None`.
    pub to: Option<Bytes>,
    /// At most so many items in all.
    pub limit: Option<u64>,
}

/// One item of a page.
///
/// ```
/// # quoit_sandbox::with_table(async |diary| {
/// use quoit_client::ScanRange;
///
/// diary.replace(("alice", "monday"), "rain").await?;
/// for item in diary.scan("alice", ScanRange::default()).collect().await? {
///     diary.delete(&item.key, &item.context).await?;
/// }
/// assert!(diary.get(("alice", "monday")).await?.is_absent());
/// # Ok(()) });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Key,
    /// Its live values, at least one.
    pub siblings: Vec<Value>,
    /// Covers them.
    pub context: Context,
}

impl From<quoit_protocol::Item> for Item {
    fn from(item: quoit_protocol::Item) -> Self {
        Self {
            key: item.key,
            siblings: item.siblings.into_iter().map(Value::from).collect(),
            context: Context(item.context),
        }
    }
}

/// A long read that is under way. Call [`Pages::next`] until it yields `None`. After an error it
/// may be called again: it goes on where it was.
///
/// ```
/// # quoit_sandbox::with_table(async |diary| {
/// use quoit_client::ScanRange;
///
/// for day in ["1", "2", "3"] {
///     diary.replace(("alice", day), "rain").await?;
/// }
/// let mut pages = diary.scan("alice", ScanRange::default());
/// let mut days = Vec::new();
/// while let Some(items) = pages.next().await? {
///     days.extend(items.into_iter().map(|item| item.key.sort));
/// }
/// assert_eq!(days, ["1", "2", "3"]);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Pages {
    table: Table,
    state: State,
}

#[derive(Debug)]
enum State {
    Scan { partition: Bytes, range: ScanRange, done: bool },
    Export(Export),
}

/// What an export has still to read. A part moves from `waiting` to `in_flight` and back, until its
/// last page was read.
#[derive(Debug)]
struct Export {
    /// Parts that were begun, or have to be asked again.
    waiting: VecDeque<Part>,
    in_flight: VecDeque<(Part, Submission)>,
    vnode_next: u32,
    vnodes: VnodeCount,
}

#[derive(Debug, Clone)]
struct Part {
    vnode: VnodeIndex,
    after: Option<Key>,
}

impl Pages {
    pub(crate) fn scan(table: Table, partition: Bytes, range: ScanRange) -> Self {
        let done = range.limit == Some(0);
        Self { table, state: State::Scan { partition, range, done } }
    }

    pub(crate) fn export(table: Table, vnodes: VnodeCount) -> Self {
        let export =
            Export { waiting: VecDeque::new(), in_flight: VecDeque::new(), vnode_next: 0, vnodes };
        Self { table, state: State::Export(export) }
    }

    /// The next items, at least one; `None` at the end.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// let mut pages = carts.export();
    /// assert_eq!(pages.next().await?.map(|items| items.len()), Some(1));
    /// assert_eq!(pages.next().await?, None);
    /// # Ok(()) });
    /// ```
    pub async fn next(&mut self) -> Result<Option<Vec<Item>>, ReadError> {
        let table = &self.table;
        loop {
            let items = match &mut self.state {
                State::Scan { partition, range, done } => {
                    if *done {
                        return Ok(None);
                    }
                    scan_page(table, partition, range, done).await?
                }
                State::Export(export) => match export.next(table).await? {
                    Some(items) => items,
                    None => return Ok(None),
                },
            };
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
    }

    /// All that is left, in memory. For small results.
    ///
    /// ```
    /// # quoit_sandbox::with_table(async |carts| {
    /// carts.replace("alice", "3 apples").await?;
    /// let items = carts.export().collect().await?;
    /// assert_eq!(items[0].key.partition, "alice");
    /// # Ok(()) });
    /// ```
    pub async fn collect(mut self) -> Result<Vec<Item>, ReadError> {
        let mut all = Vec::new();
        while let Some(items) = self.next().await? {
            all.extend(items);
        }
        Ok(all)
    }
}

async fn scan_page(
    table: &Table,
    partition: &Bytes,
    range: &mut ScanRange,
    done: &mut bool,
) -> Result<Vec<Item>, ReadError> {
    let left = range.limit.unwrap_or(u64::MAX);
    let limit = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE_ITEMS_MAX);
    let request = Request::Scan {
        table: table.definition().id,
        partition: partition.clone(),
        from: range.from.clone(),
        to: range.to.clone(),
        limit,
    };
    let page = page(table, table.read(request)?).await?;
    let left = left.saturating_sub(page.items.len() as u64);
    match page.after {
        Some(after) if left > 0 => range.from = just_after(&after.sort),
        _ => *done = true,
    }
    if range.limit.is_some() {
        range.limit = Some(left);
    }
    Ok(page.items.into_iter().map(Item::from).collect())
}

/// The least byte string that is greater.
fn just_after(sort: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(sort.len() + 1);
    next.put_slice(sort);
    next.put_u8(0);
    next.freeze()
}

async fn page(table: &Table, submission: Submission) -> Result<Page, ReadError> {
    match submission.read(table.name()).await?.answer {
        Answer::Page(page) => Ok(page),
        other => unreachable!("the session answers a scan with a page, not {other:?}"),
    }
}

impl Export {
    /// A page, perhaps an empty one; `None` once every virtual node was read to its end.
    async fn next(&mut self, table: &Table) -> Result<Option<Vec<Item>>, ReadError> {
        self.fill(table)?;
        let Some((part, submission)) = self.in_flight.front_mut() else {
            return Ok(None);
        };
        // The submission stays in its place while it is awaited: who drops this future midway loses
        // no page.
        let outcome = submission.wait(table.name()).await.map(|done| done.answer);
        let part = part.clone();
        self.in_flight.pop_front();
        match outcome {
            Ok(Answer::Page(page)) => {
                if page.after.is_some() {
                    self.waiting.push_back(Part { vnode: part.vnode, after: page.after });
                }
                Ok(Some(page.items.into_iter().map(Item::from).collect()))
            }
            Ok(other) => unreachable!("the session answers an export with a page, not {other:?}"),
            Err(error) => {
                self.waiting.push_front(part);
                Err(error)
            }
        }
    }

    /// Asks for as many parts at once as the bound allows.
    fn fill(&mut self, table: &Table) -> Result<(), ReadError> {
        while self.in_flight.len() < EXPORT_VNODES_IN_FLIGHT {
            let part = match self.waiting.pop_front() {
                Some(part) => part,
                None if self.vnode_next < self.vnodes.get() => {
                    self.vnode_next += 1;
                    Part { vnode: VnodeIndex(self.vnode_next - 1), after: None }
                }
                None => return Ok(()),
            };
            let request = Request::Export {
                table: table.definition().id,
                vnode: part.vnode,
                after: part.after.clone(),
                limit: PAGE_ITEMS_MAX,
            };
            match table.read(request) {
                Ok(submission) => self.in_flight.push_back((part, submission)),
                Err(error) => {
                    self.waiting.push_front(part);
                    // Others of this client fill its bound: go on with what is in flight.
                    let full = matches!(error, ReadError::Overloaded { .. });
                    return if full && !self.in_flight.is_empty() { Ok(()) } else { Err(error) };
                }
            }
        }
        Ok(())
    }
}
