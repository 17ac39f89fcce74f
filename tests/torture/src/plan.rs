//! What a run is made of: everything that happens by chance is drawn from the seed, before anything starts.
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use dripline_stand_in::{Fault, FaultKind};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// A sequence that leads enter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its name.
    pub name: String,
    /// Whether a second arrival ends the first enrolment and begins anew; otherwise it changes nothing.
    pub restarts: bool,
    /// In order of sending.
    pub steps: Vec<Step>,
}

/// A step of a sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// The delay after the email before it, in milliseconds.
    pub after_ms: u64,
}

/// The sequences of every run.
pub fn sequences() -> Vec<Sequence> {
    let sequence = |name: &str, restarts, delays: &[u64]| Sequence {
        name: name.to_owned(),
        restarts,
        steps: (1..).zip(delays).map(|(n, &after_ms)| Step { id: format!("{name}-{n}"), after_ms }).collect(),
    };
    vec![
        sequence("welcome", false, &[0, 1_000, 1_500, 1_000]),
        sequence("news", false, &[500, 1_000, 2_000]),
        sequence("course", true, &[0, 700, 1_000, 1_000, 1_500]),
    ]
}

/// One lead that a source hands in.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Since the start.
    pub at: Duration,
    /// Counts the people of a run.
    pub person: usize,
    /// Whose.
    pub address: String,
    /// Which sequence it names.
    pub sequence: String,
    /// The idempotency key; no two arrivals share one.
    pub key: String,
    /// The source loses the first 202, and hands the lead in again after this time.
    pub answer_lost: Option<Duration>,
}

/// Something that is done to the system, and undone after a while.
#[derive(Debug, Clone, PartialEq)]
pub struct Deed {
    /// Since the start.
    pub at: Duration,
    /// Until it is undone.
    pub lasts: Duration,
    /// What.
    pub what: What,
}

/// The kinds of deed.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// `kill -9`, and another start.
    Kill(Target),
    /// SIGSTOP, and SIGCONT.
    Pause(Target),
    /// The provider misbehaves.
    Fault(Fault),
    /// Somebody says that an address must not be mailed. There is nothing to undo.
    Suppress(String, Cause),
    /// An operator orders something through the control service.
    Order(Order),
}

/// Who says that an address must not be mailed, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An operator writes it into the bucket.
    Operator,
    /// The person follows the link of an email.
    Unsubscribe,
    /// The provider tells that the person called an email spam.
    Complaint,
    /// The provider tells that the address does not exist.
    HardBounce,
}

/// What an operator orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Of a lead: once all is done and answered, it is asked for again under the same id.
    pub repeated: bool,
}

/// The kinds of [`Order`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is paused, and resumed when the deed is over.
    Hold(Held),
    /// What is under way of a lead ends, in this sequence or in all.
    Stop(String, Option<String>),
    /// A lead begins this sequence anew.
    Restart(String, String),
}

/// What can be paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// The lead of this address.
    Lead(String),
    /// The sequence of this name.
    Sequence(String),
    /// The one provider.
    Provider,
}

/// The name of the one provider.
pub const PROVIDER: &str = "postmark";

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One of the engines.
    Engine(usize),
    /// The one gateway.
    Gateway,
    /// One of the servers.
    Server(usize),
}

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// How long leads arrive and things go wrong.
    pub duration: Duration,
    /// Engine processes.
    pub engines: usize,
    /// nats-servers: 1, or 3 for a cluster.
    pub servers: usize,
    /// New people a second.
    pub people_per_second: f64,
}

/// All that will be done. The deeds of one lane come one after the other; lanes know nothing of each other, so that
/// every combination comes up in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In order of time.
    pub arrivals: Vec<Arrival>,
    /// One a process, one for what goes wrong at the provider, one for suppressions by an operator; one for each lead about
    /// which something is ordered, one a sequence, one for the provider's pauses; one for each word of a person, or of the
    /// provider about one.
    pub lanes: Vec<Vec<Deed>>,
}

impl Plan {
    /// The same for the same seed and size.
    pub fn draw(seed: u64, size: Size) -> Self {
        // Each lane has random numbers of its own: another engine does not change what the provider does.
        let chance = |lane: usize| {
            let spread = (lane as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            Chance(Xoshiro256PlusPlus::seed_from_u64(seed ^ spread))
        };
        let arrivals = arrivals(&mut chance(0), size);
        let mut lanes = vec![
            lane(&mut chance(1), size.duration, 0.5..4.0, fault),
            suppressions(&mut chance(2), size.duration, &arrivals),
            lane(&mut chance(3), size.duration, 5.0..20.0, |chance| {
                (What::Kill(Target::Gateway), chance.seconds(0.0..3.0))
            }),
        ];
        lanes.extend(lead_orders(&mut chance(4), size.duration, &arrivals));
        lanes.extend(feedback(&mut chance(5), size.duration, &arrivals));
        lanes.push(lane(&mut chance(6), size.duration, 5.0..20.0, |chance| {
            (hold(Held::Provider), chance.seconds(0.5..4.0))
        }));
        for (number, Sequence { name, .. }) in sequences().into_iter().enumerate() {
            lanes.push(lane(&mut chance(10 + number), size.duration, 4.0..25.0, |chance| {
                (hold(Held::Sequence(name.clone())), chance.seconds(0.5..6.0))
            }));
        }
        for engine in 0..size.engines {
            lanes.push(lane(&mut chance(100 + engine), size.duration, 1.0..9.0, |chance| engine_deed(chance, engine)));
        }
        for server in 0..size.servers {
            // As many deeds in a cluster as on a single server; now and then two of three are away.
            let many = if size.servers == 1 { 1.0 } else { 2.0 };
            lanes.push(lane(&mut chance(200 + server), size.duration, 4.0 * many..18.0 * many, |chance| {
                server_deed(chance, server)
            }));
        }
        Self { arrivals, lanes }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {target}"),
            Self::Pause(target) => write!(f, "pause {target}"),
            Self::Fault(Fault { kind: FaultKind::Status, status: Some(status), .. }) => {
                write!(f, "provider: status {status}")
            }
            Self::Fault(fault) => write!(f, "provider: {:?}", fault.kind),
            Self::Suppress(address, Cause::Operator) => write!(f, "suppress {address}"),
            Self::Suppress(address, Cause::Unsubscribe) => write!(f, "unsubscribe {address}"),
            Self::Suppress(address, Cause::Complaint) => write!(f, "complaint of {address}"),
            Self::Suppress(address, Cause::HardBounce) => write!(f, "hard bounce of {address}"),
            Self::Order(Order { action, repeated }) => {
                write!(f, "{action}{}", if *repeated { ", asked again" } else { "" })
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold(held) => write!(f, "hold {held}"),
            Self::Stop(address, Some(sequence)) => write!(f, "stop {address} in `{sequence}`"),
            Self::Stop(address, None) => write!(f, "stop {address}"),
            Self::Restart(address, sequence) => write!(f, "restart {address} in `{sequence}`"),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lead(address) => f.write_str(address),
            Self::Sequence(name) => write!(f, "sequence `{name}`"),
            Self::Provider => f.write_str("the provider"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(engine) => write!(f, "engine {engine}"),
            Self::Gateway => f.write_str("gateway"),
            Self::Server(server) => write!(f, "nats-server {server}"),
        }
    }
}

struct Chance(Xoshiro256PlusPlus);

impl Chance {
    fn seconds(&mut self, range: std::ops::Range<f64>) -> Duration {
        // To the millisecond, so that a plan reads well.
        Duration::from_millis(Duration::from_secs_f64(self.0.random_range(range)).as_millis().try_into().unwrap_or(0))
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }
}

fn arrivals(chance: &mut Chance, size: Size) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut at = Duration::ZERO;
    for person in 0.. {
        at += chance.seconds(0.0..2.0 / size.people_per_second);
        if at >= size.duration {
            break;
        }
        let first = match chance.0.random_range(0..10) {
            0..6 => "welcome",
            6..8 => "news",
            _ => "course",
        };
        let mut add = |chance: &mut Chance, at: Duration, sequence: &str, number: usize| {
            let address = format!("lead-{person}@example.com");
            let key = format!("lead-{person}-{number}");
            let answer_lost = chance.happens(0.1).then(|| chance.seconds(0.5..10.0));
            if at < size.duration {
                arrivals.push(Arrival { at, person, address, sequence: sequence.to_owned(), key, answer_lost });
            }
        };
        add(chance, at, first, 1);
        if chance.happens(0.2) {
            let later = chance.seconds(0.0..6.0);
            add(chance, at + later, first, 2);
        }
        if chance.happens(0.2) {
            let later = chance.seconds(0.0..4.0);
            add(chance, at + later, if first == "news" { "welcome" } else { "news" }, 3);
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// One deed after the other, with a pause drawn from `gap` (in seconds) before each; all undone by the end.
fn lane(
    chance: &mut Chance,
    duration: Duration,
    gap: std::ops::Range<f64>,
    mut draw: impl FnMut(&mut Chance) -> (What, Duration),
) -> Vec<Deed> {
    let mut deeds = Vec::new();
    let mut at = chance.seconds(gap.clone());
    while at < duration {
        let (what, lasts) = draw(chance);
        let lasts = lasts.min(duration.saturating_sub(at));
        deeds.push(Deed { at, lasts, what });
        at += lasts + chance.seconds(gap.clone());
    }
    deeds
}

fn engine_deed(chance: &mut Chance, engine: usize) -> (What, Duration) {
    let target = Target::Engine(engine);
    match chance.0.random_range(0..10) {
        // As a supervisor does it: at once.
        0..2 => (What::Kill(target), Duration::ZERO),
        2..5 => (What::Kill(target), chance.seconds(0.0..5.0)),
        5..8 => (What::Pause(target), chance.seconds(0.5..3.0)),
        // Longer than a message waits for its ack, and than an attempt waits for its answer.
        _ => (What::Pause(target), chance.seconds(3.0..20.0)),
    }
}

fn server_deed(chance: &mut Chance, server: usize) -> (What, Duration) {
    let target = Target::Server(server);
    match chance.0.random_range(0..10) {
        0..3 => (What::Kill(target), Duration::ZERO),
        3..7 => (What::Kill(target), chance.seconds(0.0..4.0)),
        7..9 => (What::Pause(target), chance.seconds(0.3..2.0)),
        // Longer than a client waits for an answer.
        _ => (What::Pause(target), chance.seconds(5.0..13.0)),
    }
}

fn fault(chance: &mut Chance) -> (What, Duration) {
    let status = |status| Fault { status: Some(status), ..Fault::new(FaultKind::Status) };
    // What leaves emails in doubt meets some requests only: who is held sends no more, and so shows no more.
    let some = |kind| Fault { probability: Some(0.15), ..Fault::new(kind) };
    let mut fault = match chance.0.random_range(0..8) {
        0 => status(503),
        1 => Fault { headers: [("Retry-After".to_owned(), "1".to_owned())].into(), ..status(429) },
        2 => some(FaultKind::Hang),
        3 => some(FaultKind::DropAfterAccept),
        4 => some(FaultKind::DropBeforeAccept),
        5 => some(FaultKind::Garbage),
        6 => {
            // The engines wait a second for an answer: some come in time, some too late.
            let delay = chance.seconds(0.2..1.6);
            Fault { delay_ms: u64::try_from(delay.as_millis()).ok(), ..some(FaultKind::Slow) }
        }
        _ => Fault { probability: Some(0.3), ..status(500) },
    };
    fault.seed = chance.0.random_range(0..u64::from(u32::MAX));
    (What::Fault(fault), chance.seconds(0.3..3.0))
}

/// Of people who came lately, or will come soon.
fn suppressions(chance: &mut Chance, duration: Duration, arrivals: &[Arrival]) -> Vec<Deed> {
    let mut deeds: Vec<Deed> = Vec::new();
    let mut at = chance.seconds(0.5..3.0);
    while at < duration {
        let from = arrivals.partition_point(|arrival| arrival.at + Duration::from_secs(6) < at);
        let to = arrivals.partition_point(|arrival| arrival.at < at + Duration::from_secs(1));
        if from < to {
            let address = &arrivals[chance.0.random_range(from..to)].address;
            let what = What::Suppress(address.clone(), Cause::Operator);
            if deeds.iter().all(|deed| deed.what != what) {
                deeds.push(Deed { at, lasts: Duration::ZERO, what });
            }
        }
        at += chance.seconds(0.2..2.5);
    }
    deeds
}

/// Orders about leads that came lately. Each lead has a lane of its own: the orders about one come one after the other,
/// and no other waits for them.
fn lead_orders(chance: &mut Chance, duration: Duration, arrivals: &[Arrival]) -> Vec<Vec<Deed>> {
    let mut lanes: BTreeMap<usize, Vec<Deed>> = BTreeMap::new();
    let mut at = chance.seconds(0.5..2.0);
    while at < duration {
        let people = lately(arrivals, at);
        if !people.is_empty() {
            let Arrival { person, address, sequence, .. } = &people[chance.0.random_range(0..people.len())];
            let (address, sequence) = (address.clone(), sequence.clone());
            let repeated = chance.happens(0.3);
            let lasts = chance.seconds(0.0..4.0).min(duration.saturating_sub(at));
            let (action, lasts) = match chance.0.random_range(0..10) {
                0..4 => (Action::Hold(Held::Lead(address)), lasts),
                4 => (Action::Stop(address, None), if repeated { lasts } else { Duration::ZERO }),
                5..7 => (Action::Stop(address, Some(sequence)), if repeated { lasts } else { Duration::ZERO }),
                _ => (Action::Restart(address, sequence), if repeated { lasts } else { Duration::ZERO }),
            };
            let lane = lanes.entry(*person).or_default();
            if lane.last().is_none_or(|deed| deed.at + deed.lasts <= at) {
                lane.push(Deed { at, lasts, what: What::Order(Order { action, repeated }) });
            }
        }
        at += chance.seconds(0.05..0.8);
    }
    lanes.into_values().collect()
}

fn hold(held: Held) -> What {
    What::Order(Order { action: Action::Hold(held), repeated: false })
}

/// What people who were mailed lately say, and what the provider tells of them: each a lane of its own.
fn feedback(chance: &mut Chance, duration: Duration, arrivals: &[Arrival]) -> Vec<Vec<Deed>> {
    let mut lanes = Vec::new();
    let mut at = chance.seconds(1.0..3.0);
    while at < duration {
        let people = lately(arrivals, at);
        if !people.is_empty() {
            let address = people[chance.0.random_range(0..people.len())].address.clone();
            let cause = match chance.0.random_range(0..10) {
                0..6 => Cause::Unsubscribe,
                6..8 => Cause::Complaint,
                _ => Cause::HardBounce,
            };
            lanes.push(vec![Deed { at, lasts: Duration::ZERO, what: What::Suppress(address, cause) }]);
        }
        at += chance.seconds(0.2..2.0);
    }
    lanes
}

/// Most of them are enrolled by then, and not at their end yet.
fn lately(arrivals: &[Arrival], at: Duration) -> &[Arrival] {
    let before = |millis| {
        let time = at.saturating_sub(Duration::from_millis(millis));
        arrivals.partition_point(|arrival| arrival.at < time)
    };
    &arrivals[before(6_000)..before(500)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SIZE: Size = Size { duration: Duration::from_mins(2), engines: 2, servers: 3, people_per_second: 10.0 };

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        assert_eq!(Plan::draw(7, SIZE), Plan::draw(7, SIZE));
        assert_ne!(Plan::draw(7, SIZE), Plan::draw(8, SIZE));
    }

    #[test]
    fn another_engine_changes_nothing_else() {
        let (two, three) = (Plan::draw(7, SIZE), Plan::draw(7, Size { engines: 3, ..SIZE }));
        assert_eq!(two.arrivals, three.arrivals);
        assert!(two.lanes.iter().all(|lane| three.lanes.contains(lane)));
    }

    #[test]
    fn the_deeds_of_a_lane_do_not_overlap_and_all_are_undone_by_the_end() {
        for seed in 0..20 {
            for lane in Plan::draw(seed, SIZE).lanes {
                assert!(lane.windows(2).all(|pair| pair[0].at + pair[0].lasts <= pair[1].at));
                assert!(lane.last().is_none_or(|deed| deed.at + deed.lasts <= SIZE.duration));
            }
        }
    }

    #[test]
    fn the_orders_about_one_lead_come_one_after_the_other() {
        let mut of = std::collections::HashMap::new();
        for (number, lane) in Plan::draw(7, SIZE).lanes.iter().enumerate() {
            for deed in lane {
                let What::Order(Order { action, .. }) = &deed.what else { continue };
                if let Action::Hold(Held::Lead(address)) | Action::Stop(address, _) | Action::Restart(address, _) =
                    action
                {
                    assert_eq!(*of.entry(address.clone()).or_insert(number), number, "{address}");
                }
            }
        }
        assert!(of.len() > 50, "{}", of.len());
    }

    #[test]
    fn every_kind_of_trouble_comes_up() {
        let plan = Plan::draw(1, Size { duration: Duration::from_mins(10), ..SIZE });
        let deeds = || plan.lanes.iter().flatten();
        for target in [Target::Engine(0), Target::Engine(1), Target::Server(2)] {
            assert!(deeds().any(|deed| deed.what == What::Kill(target)), "{target:?}");
            assert!(deeds().any(|deed| deed.what == What::Pause(target)), "{target:?}");
        }
        let mut kinds: Vec<_> = deeds()
            .filter_map(|deed| match &deed.what {
                What::Fault(fault) => Some(format!("{:?} {:?}", fault.kind, fault.status)),
                What::Kill(_) | What::Pause(_) | What::Suppress(..) | What::Order(_) => None,
            })
            .collect();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds.len(), 8, "{kinds:?}");
        let orders = |is: fn(&Action) -> bool| {
            deeds().filter(|deed| matches!(&deed.what, What::Order(order) if is(&order.action))).count()
        };
        assert!(orders(|action| matches!(action, Action::Hold(Held::Lead(_)))) > 100);
        assert!(orders(|action| matches!(action, Action::Hold(Held::Sequence(_)))) > 50);
        assert!(orders(|action| matches!(action, Action::Hold(Held::Provider))) > 20);
        assert!(orders(|action| matches!(action, Action::Stop(_, None))) > 20);
        assert!(orders(|action| matches!(action, Action::Stop(_, Some(_)))) > 50);
        assert!(orders(|action| matches!(action, Action::Restart(..))) > 50);
        assert!(deeds().any(|deed| matches!(&deed.what, What::Order(Order { repeated: true, .. }))));
        for cause in [Cause::Operator, Cause::Unsubscribe, Cause::Complaint, Cause::HardBounce] {
            assert!(deeds().any(|deed| matches!(&deed.what, What::Suppress(_, by) if *by == cause)), "{cause:?}");
        }
        let people = plan.arrivals.iter().map(|arrival| &arrival.address).collect::<std::collections::HashSet<_>>();
        assert!((4_000..8_000).contains(&people.len()), "{}", people.len());
        assert!(plan.arrivals.len() > people.len() * 5 / 4);
    }
}
