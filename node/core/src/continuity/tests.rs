//! One node's life, as its disk and its peers tell of it.

use super::*;

const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const WALL: WallTime = WallTime(1_700_000_000_000);

/// A node whose saves and eras are durable at once.
struct Node {
    continuity: Continuity,
    time: Instant,
    /// What the disk holds.
    saved: Option<ContinuityState>,
    eras: u32,
}

impl Node {
    fn start(state: Option<ContinuityState>, starts: u64, sequence: u64) -> Self {
        let continuity =
            Continuity::new(NodeId(1), 77, starts, state.clone(), sequence, Instant(0));
        let mut node = Self { continuity, time: Instant(0), saved: state, eras: 0 };
        node.settle();
        node
    }

    /// A node that was confirmed in two starts, at that record of its log.
    fn confirmed(sequence: u64) -> Self {
        let mut node = Self::start(None, 2, sequence);
        node.hear(2, None);
        node.hear(3, None);
        assert!(node.continuity.is_confirmed());
        node.continuity.on_durable(sequence);
        node
    }

    /// The same disk's next start.
    fn restart(&self, sequence: u64) -> Self {
        Self::start(self.saved.clone(), self.continuity.starts + 1, sequence)
    }

    fn settle(&mut self) {
        while let Some(step) =
            self.continuity.step(&MEMBERS, Now { instant: self.time, wall: WALL })
        {
            match step {
                Step::Save(bytes) => {
                    self.saved = ContinuityState::read(Some(&bytes)).expect("just written");
                    self.continuity.on_saved(&Ok(()), self.time);
                }
                Step::BeginEra { .. } => {
                    self.eras += 1;
                    self.continuity.on_era_begun(&Ok(()), self.time);
                }
            }
        }
    }

    fn hear(&mut self, from: u64, remembered: Option<Life>) {
        self.continuity.on_ping(NodeId(from), None, remembered, self.time);
        self.settle();
    }

    fn hear_of(&mut self, from: u64, life: Life) -> bool {
        let has_lost = self.continuity.on_ping(NodeId(from), Some(life), None, self.time);
        self.settle();
        has_lost
    }

    fn wait(&mut self, milliseconds: u64) {
        self.time = self.time.plus_ms(milliseconds);
        self.settle();
    }

    fn life(&self) -> Life {
        self.continuity.life().expect("it is confirmed")
    }
}

fn life(incarnation: u64, starts: u64, sequence: u64) -> Life {
    Life { incarnation, starts, sequence }
}

#[test]
fn a_new_node_of_a_new_cluster_takes_its_directorys_incarnation() {
    let mut node = Node::start(None, 1, 0);
    node.hear(2, None);
    assert!(!node.continuity.is_confirmed(), "the third may come up yet");
    assert_eq!((node.continuity.life(), node.continuity.votes_as()), (None, None));
    node.hear(3, None);
    assert_eq!((node.life(), node.continuity.votes_as()), (life(77, 1, 0), Some(0)));
    assert_eq!(node.saved.map(|saved| (saved.incarnation, saved.unconfirmed)), Some((77, None)));
}

#[test]
fn half_of_the_members_are_enough_after_a_while() {
    let mut node = Node::start(None, 1, 0);
    node.wait(10 * LISTEN_MS);
    assert!(!node.continuity.is_confirmed(), "nobody has answered");
    node.hear(2, None);
    assert!(node.continuity.is_confirmed());
    let mut node = Node::start(None, 1, 0);
    node.hear(2, None);
    assert_eq!(node.continuity.next_wake(), Some(Instant(0).plus_ms(LISTEN_MS)));
    node.wait(LISTEN_MS);
    assert!(node.continuity.is_confirmed());
    assert_eq!(node.continuity.next_wake(), None);
}

#[test]
fn a_node_that_is_alone_asks_nobody() {
    let mut continuity = Continuity::new(NodeId(1), 77, 1, None, 0, Instant(0));
    let now = Now { instant: Instant(0), wall: WALL };
    for _ in 0..2 {
        let step = continuity.step(&MEMBERS[..1], now);
        assert!(matches!(step, Some(Step::Save(_))));
        continuity.on_saved(&Ok(()), Instant(0));
    }
    assert!(continuity.is_confirmed());
}

#[test]
fn a_restart_is_no_loss() {
    let mut node = Node::confirmed(100);
    for _ in 0..5 {
        let told = node.life();
        node = node.restart(told.sequence);
        node.hear(2, Some(told));
        node.hear(3, Some(told));
        assert_eq!((node.eras, node.life().incarnation), (0, 77));
        node.continuity.on_durable(told.sequence + 10);
    }
}

#[test]
fn a_wiped_disk_is_told_by_whoever_remembers_the_node() {
    let told = Node::confirmed(100).life();
    let mut node = Node::start(None, 1, 0);
    node.hear(2, None);
    node.hear(3, Some(told));
    assert_eq!(node.eras, 1);
    assert_eq!(node.life().incarnation, WALL.0, "greater than any, and than earlier ones");
    assert_eq!(node.continuity.votes_as(), Some(WALL.0));
    // It is not lost twice.
    let told = node.life();
    let mut node = node.restart(5);
    node.hear(2, Some(life(77, 2, 100)));
    node.hear(3, Some(told));
    assert_eq!((node.eras, node.life().incarnation), (0, WALL.0));
    assert_eq!(node.continuity.votes_as(), Some(WALL.0));
}

#[test]
fn an_older_copy_is_told_by_its_starts_or_its_log() {
    for later in [life(77, 4, 100), life(77, 2, 101)] {
        let copy = Node::confirmed(100);
        let mut node = copy.restart(100);
        node.hear(2, Some(life(77, 2, 100)));
        node.hear(3, Some(later));
        assert_eq!(node.eras, 1, "{later:?}");
        assert!(node.life().incarnation > 77);
    }
}

#[test]
fn starts_that_nobody_has_confirmed_prove_nothing() {
    let mut node = Node::confirmed(100);
    // The copy is started over and over, alone, and its log grows.
    for sequence in [110, 900, 2_000] {
        node = node.restart(sequence);
        node.wait(5_000);
        assert!(!node.continuity.is_confirmed());
    }
    node = node.restart(3_000);
    node.hear(2, Some(life(77, 4, 800)));
    node.hear(3, None);
    assert_eq!(node.eras, 1);
}

#[test]
fn what_is_heard_late_is_a_loss_all_the_same() {
    let mut node = Node::confirmed(100).restart(100);
    node.hear(2, Some(life(77, 2, 100)));
    node.wait(LISTEN_MS);
    assert_eq!(node.life(), life(77, 3, 0));
    node.continuity.on_durable(120);
    node.hear(2, Some(life(77, 3, 120)));
    assert_eq!(node.eras, 0, "that was itself");
    node.hear(3, Some(life(77, 3, 500)));
    assert_eq!(node.eras, 1);
    assert!(node.life().incarnation > 77);
}

#[test]
fn a_record_that_names_a_later_incarnation_tells_of_a_loss() {
    let mut node = Node::confirmed(100).restart(100);
    node.continuity.on_named(78);
    node.hear(2, None);
    node.hear(3, None);
    assert_eq!(node.eras, 1);
    assert!(node.life().incarnation > 78);
}

#[test]
fn an_era_that_cannot_be_begun_is_begun_later() {
    let mut continuity = Continuity::new(NodeId(1), 77, 1, None, 0, Instant(0));
    let mut now = Now { instant: Instant(0), wall: WALL };
    assert!(matches!(continuity.step(&MEMBERS, now), Some(Step::Save(_))));
    continuity.on_saved(&Err("full".to_owned()), now.instant);
    for peer in [2, 3] {
        continuity.on_ping(NodeId(peer), None, Some(life(1, 2, 3)), now.instant);
    }
    assert_eq!(continuity.step(&MEMBERS, now), None, "the disk is full");
    now.instant = continuity.next_wake().expect("it tries again");
    assert!(matches!(continuity.step(&MEMBERS, now), Some(Step::Save(_))));
    continuity.on_saved(&Ok(()), now.instant);
    assert!(matches!(continuity.step(&MEMBERS, now), Some(Step::BeginEra { .. })));
    continuity.on_era_begun(&Err("full".to_owned()), now.instant);
    now.instant = continuity.next_wake().expect("it tries again");
    let mut eras = 0;
    while let Some(step) = continuity.step(&MEMBERS, now) {
        match step {
            Step::Save(_) => drop(continuity.on_saved(&Ok(()), now.instant)),
            Step::BeginEra { .. } => {
                eras += 1;
                continuity.on_era_begun(&Ok(()), now.instant);
            }
        }
    }
    assert!(eras == 1 && continuity.is_confirmed());
}

#[test]
fn what_is_heard_of_others_is_saved_at_once_where_they_were_started_and_seldom_else() {
    let mut node = Node::confirmed(100);
    let saved = |node: &Node| node.saved.clone().expect("saved").peers;
    node.hear_of(2, life(5, 1, 10));
    assert_eq!(saved(&node), [(NodeId(2), life(5, 1, 10))]);
    node.hear_of(2, life(5, 1, 20));
    node.wait(SAVE_EVERY_MS / 2);
    node.hear_of(2, life(5, 1, 30));
    assert_eq!(saved(&node), [(NodeId(2), life(5, 1, 10))]);
    node.wait(SAVE_EVERY_MS / 2);
    assert_eq!(saved(&node), [(NodeId(2), life(5, 1, 30))]);
    node.hear_of(2, life(5, 2, 30));
    assert_eq!(saved(&node), [(NodeId(2), life(5, 2, 30))]);
    assert!(node.hear_of(2, life(6, 1, 3)), "it has lost something");
    assert!(!node.hear_of(2, life(5, 9, 9)), "an old word");
    assert_eq!(saved(&node), [(NodeId(2), life(6, 1, 3))]);
    assert_eq!(node.restart(100).continuity.of(NodeId(2)), Some(life(6, 1, 3)));
}
