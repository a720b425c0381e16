use super::*;

const INTERVAL: Duration = Duration::from_millis(500);

/// A picture, its clock, and what chitchat would hold.
struct Scene {
    peers: Peers,
    now: Instant,
    held: BTreeMap<Incarnation, Sighting>,
    facts: BTreeMap<Incarnation, Facts>,
}

fn one(node: u64, generation: u64, port: u16) -> Incarnation {
    Incarnation { node: NodeId(node), generation, address: ([10, 0, 0, 1], port).into() }
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        let me = one(1, 1, 1);
        let peers = Peers::new(me, INTERVAL, now);
        let mut scene = Self { peers, now, held: BTreeMap::new(), facts: BTreeMap::new() };
        scene.hold(me, true);
        scene
    }

    fn hold(&mut self, incarnation: Incarnation, alive: bool) {
        let entry = self.held.entry(incarnation);
        let sighting = entry.or_insert(Sighting { incarnation, alive, heartbeat: 1, version: 0 });
        sighting.alive = alive;
        sighting.heartbeat += u64::from(alive);
    }

    fn say(&mut self, incarnation: Incarnation, key: &str, value: &str) {
        self.facts.entry(incarnation).or_default().insert(key.into(), value.into());
        self.held.get_mut(&incarnation).unwrap().version += 1;
    }

    fn look(&mut self, after: Duration, room: usize) -> Vec<GossipEvent> {
        self.now += after;
        let sightings: Vec<_> = self.held.values().copied().collect();
        let facts = &self.facts;
        self.peers.observe(self.now, &sightings, |incarnation| {
            facts.get(incarnation).cloned().unwrap_or_default()
        });
        self.peers.tell(room)
    }

    fn step(&mut self) -> Vec<GossipEvent> {
        self.look(INTERVAL / 2, 100)
    }
}

fn alive(one: Incarnation, facts: &[(&str, &str)]) -> GossipEvent {
    let facts = facts.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let Incarnation { node, generation, address } = one;
    GossipEvent::Alive { node, generation, address, facts }
}

fn dead(node: u64) -> GossipEvent {
    GossipEvent::Dead { node: NodeId(node) }
}

#[test]
fn a_node_lives_speaks_dies_and_is_forgotten() {
    let mut scene = Scene::new();
    let two = one(2, 1, 2);
    scene.hold(two, false);
    assert_eq!(scene.step(), [], "hearsay of the dead is not told");
    scene.hold(two, true);
    assert_eq!(scene.step(), [alive(two, &[])]);
    scene.say(two, "load", "3");
    let facts = Facts::from([("load".into(), "3".into())]);
    assert_eq!(scene.step(), [GossipEvent::Facts { node: NodeId(2), generation: 1, facts }]);
    assert_eq!(scene.step(), []);
    scene.hold(two, false);
    assert_eq!(scene.step(), [dead(2)]);
    assert!(!scene.peers.view(scene.now)[0].alive);
    assert_eq!(scene.peers.view(scene.now)[0].silence, INTERVAL * 3 / 2);
    scene.held.remove(&two);
    assert_eq!(scene.step(), []);
    assert_eq!(scene.peers.view(scene.now), []);
}

#[test]
fn the_greatest_generation_is_believed_and_no_lower_one_soon_after_it() {
    let mut scene = Scene::new();
    let (old, new) = (one(2, 1, 2), one(2, 2, 2));
    scene.hold(old, true);
    scene.step();
    scene.hold(new, false);
    assert_eq!(scene.step(), [], "the new life is not alive yet, the old one still seems so");
    scene.hold(new, true);
    assert_eq!(scene.step(), [alive(new, &[])]);
    scene.hold(new, false);
    assert_eq!(scene.step(), [dead(2)]);
    assert_eq!(scene.step(), []);
}

#[test]
fn an_earlier_life_that_lives_is_believed_when_the_greater_one_has_long_been_silent() {
    let mut scene = Scene::new();
    let (restored, before) = (one(2, 3, 2), one(2, 7, 2));
    scene.hold(before, true);
    scene.step();
    scene.hold(before, false);
    assert_eq!(scene.step(), [dead(2)]);
    let mut told = Vec::new();
    for _ in 0..3 * YIELD_ROUNDS {
        scene.hold(restored, true);
        told.extend(scene.step());
    }
    assert_eq!(told, [alive(restored, &[])]);
    // Should the greater one come back, it is the one again.
    scene.hold(before, true);
    assert_eq!(scene.step(), [alive(before, &[])]);
}

#[test]
fn who_says_goodbye_is_dead_at_once_and_may_come_back() {
    let mut scene = Scene::new();
    let (two, again) = (one(2, 1, 2), one(2, 2, 2));
    scene.hold(two, true);
    scene.step();
    scene.say(two, LEAVING_KEY, "true");
    assert_eq!(scene.step(), [dead(2)]);
    scene.hold(again, true);
    assert_eq!(scene.step(), [alive(again, &[])]);
}

#[test]
fn what_the_caller_has_no_room_for_is_told_later_and_merged() {
    let mut scene = Scene::new();
    let (two, three) = (one(2, 1, 2), one(3, 1, 3));
    scene.hold(two, true);
    scene.hold(three, true);
    assert_eq!(scene.look(INTERVAL, 0), []);
    scene.say(two, "a", "1");
    scene.say(two, "a", "2");
    assert_eq!(scene.look(INTERVAL, 1), [alive(two, &[("a", "2")])]);
    scene.hold(three, false);
    assert_eq!(scene.step(), [], "nobody is told of a death whose life was not told");
}

#[test]
fn a_long_double_claim_is_told_once_until_it_ends() {
    let mut scene = Scene::new();
    let (here, there) = (one(2, 1, 2), one(2, 1, 20));
    scene.hold(here, true);
    scene.hold(there, true);
    let mut told = Vec::new();
    for _ in 0..200 {
        told.extend(scene.step());
    }
    let addresses = BTreeSet::from([here.address, there.address]);
    assert_eq!(told, [alive(here, &[]), GossipEvent::Conflict { node: NodeId(2), addresses }]);
    // It is told of ourselves too.
    scene.hold(one(1, 9, 10), true);
    let told: Vec<_> = (0..60).flat_map(|_| scene.step()).collect();
    assert!(matches!(&told[..], [GossipEvent::Conflict { node: NodeId(1), .. }]), "{told:?}");
}

#[test]
fn after_a_stall_of_our_own_deaths_wait() {
    let mut scene = Scene::new();
    let two = one(2, 1, 2);
    scene.hold(two, true);
    scene.step();
    scene.hold(two, false);
    assert_eq!(scene.look(INTERVAL * 10, 100), []);
    let told: Vec<_> = (0..7).flat_map(|_| scene.step()).collect();
    assert_eq!(told, []);
    assert_eq!(scene.step(), [dead(2)], "a death that lasts is told after the wait");
}

#[test]
fn a_refusal_is_told_once_in_a_while_and_their_number_is_bounded() {
    let mut scene = Scene::new();
    let from = |port| ([10, 0, 0, 9], port).into();
    for _ in 0..10 {
        scene.peers.on_refusal(scene.now, from(1), Refusal::RefusedByPeer);
    }
    assert_eq!(scene.step().len(), 1);
    let later = scene.now + REFUSAL_QUIET;
    for port in 1..2_000 {
        scene.peers.on_refusal(later, from(port), Refusal::TooManyNodes);
    }
    assert_eq!(scene.step().len(), NOTICES_MAX);
}
