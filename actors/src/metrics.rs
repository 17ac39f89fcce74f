//! What the engine measures: each metric declared once, and the handles through which actors record it.
//!
//! Actors record through the `metrics` facade; where no recorder is installed, that costs next to nothing. Handles are
//! made once, before there is work, so that recording neither looks anything up by labels nor allocates, and every
//! series is there from the start, at zero.
use std::collections::HashMap;

use dripline_domain::{Entry, LeadStatus, Outcome, What};
use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};
use strum::VariantNames;

use crate::ports::Settle;

/// One metric, as Prometheus names it: base units, and `_total` for what is counted.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Samples, counted up to each of these bounds.
    Histogram(&'static [f64]),
}

impl Metric {
    /// Something that is counted.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    /// Something that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// Something whose distribution matters; counted up to each of these bounds.
    pub const fn histogram(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, kind: Kind::Histogram(bounds) }
    }
}

/// From a commit on a fast disk to a call that times out, in seconds.
pub const DURATIONS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// From a timer that is on time to a backlog of hours, in seconds.
const LAGS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0];
/// Up to a full batch.
const BATCHES: &[f64] = &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 600.0, 990.0];

const EVENTS: Metric = Metric::counter(
    "dripline_lead_events_total",
    "Entries that this process wrote into leads' histories and the journal, by kind.",
);
const SENDS: Metric =
    Metric::counter("dripline_sends_total", "Emails handed to a provider, by what came of the attempt.");
const CALLS: Metric = Metric::histogram(
    "dripline_provider_call_duration_seconds",
    "Time from a call to a provider to its answer, or to its time-out.",
    DURATIONS,
);
const BREAKER: Metric = Metric::gauge(
    "dripline_breaker_open",
    "Whether a provider's circuit breaker is open: 1 while it is left alone but for single tries.",
);
const SCHEDULER_LAG: Metric = Metric::histogram(
    "dripline_scheduler_lag_seconds",
    "Time from when an attempt was due to when its intent was on disk, waits for a permit included.",
    LAGS,
);
const LIMITER_WAIT: Metric =
    Metric::histogram("dripline_limiter_wait_seconds", "Time that an attempt waited for its permit.", LAGS);
const LIMITER_RATE: Metric = Metric::gauge(
    "dripline_limiter_rate",
    "Emails a second that this process may send now; infinite where nothing limits it.",
);
const COMMIT: Metric = Metric::histogram(
    "dripline_commit_duration_seconds",
    "Time that one batch of documents took to be on disk, or to be refused.",
    DURATIONS,
);
const BATCH: Metric = Metric::histogram("dripline_commit_batch_documents", "Documents in one batch.", BATCHES);
const CONFLICTS: Metric = Metric::counter(
    "dripline_commit_conflicts_total",
    "Decisions that another process's write came before, and that were made again.",
);
const RESIDENT: Metric =
    Metric::gauge("dripline_resident_leads", "Lead actors in this process's memory, as of the last second.");
const RESTARTS: Metric = Metric::counter("dripline_lead_restarts_total", "Lead actors that failed.");
const ACTOR_STARTS: Metric = Metric::counter(
    "dripline_actor_starts_total",
    "Starts of each of the tree's own actors; every one but the first is a restart.",
);
const MESSAGES: Metric = Metric::counter(
    "dripline_messages_settled_total",
    "Messages of a queue that were answered for: acknowledged, to be delivered again, or never again.",
);
const PUMPED: Metric = Metric::gauge(
    "dripline_pump_messages",
    "Messages that a pump holds unsettled, or has asked for, as of its last pull.",
);
const REJECTED: Metric =
    Metric::counter("dripline_rejected_total", "Messages that this process moved to REJECTED, by code.");
const TIMERS_MENDED: Metric =
    Metric::counter("dripline_timers_mended_total", "Timers that the sweeper found missing and set again.");
const SWEPT: Metric = Metric::gauge(
    "dripline_last_sweep_timestamp_seconds",
    "When the sweeper last came to the last lead, in Unix time.",
);
const LEADS: Metric = Metric::gauge(
    "dripline_leads",
    "Leads by status, as this process's sweeper last counted them; NaN where another engine's does.",
);
const ENGINES: Metric = Metric::gauge("dripline_engines", "Engines that are alive, as this process sees them.");

/// Everything that the engine measures.
pub const ENGINE: &[Metric] = &[
    EVENTS,
    SENDS,
    CALLS,
    BREAKER,
    SCHEDULER_LAG,
    LIMITER_WAIT,
    LIMITER_RATE,
    COMMIT,
    BATCH,
    CONFLICTS,
    RESIDENT,
    RESTARTS,
    ACTOR_STARTS,
    MESSAGES,
    PUMPED,
    REJECTED,
    TIMERS_MENDED,
    SWEPT,
    LEADS,
    ENGINES,
];

/// A handle for each variant of a closed enum, by its name.
struct ByName<H>(HashMap<&'static str, H>);

impl<H> ByName<H> {
    fn new(names: &'static [&'static str], handle: impl Fn(&'static str) -> H) -> Self {
        Self(names.iter().map(|name| (*name, handle(name))).collect())
    }
}

/// The engine's handles.
pub(crate) struct Metrics {
    events: ByName<Counter>,
    leads: ByName<Gauge>,
    pub(crate) scheduler_lag: Histogram,
    pub(crate) limiter_wait: Histogram,
    pub(crate) limiter_rate: Gauge,
    pub(crate) commit: Histogram,
    pub(crate) batch: Histogram,
    pub(crate) conflicts: Counter,
    pub(crate) resident: Gauge,
    pub(crate) restarts: Counter,
    pub(crate) timers_mended: Counter,
    pub(crate) swept: Gauge,
    pub(crate) engines: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            events: ByName::new(What::VARIANTS, |event| counter!(EVENTS.name, "event" => event)),
            leads: ByName::new(LeadStatus::VARIANTS, |status| gauge!(LEADS.name, "status" => status)),
            scheduler_lag: histogram!(SCHEDULER_LAG.name),
            limiter_wait: histogram!(LIMITER_WAIT.name),
            limiter_rate: gauge!(LIMITER_RATE.name),
            commit: histogram!(COMMIT.name),
            batch: histogram!(BATCH.name),
            conflicts: counter!(CONFLICTS.name),
            resident: gauge!(RESIDENT.name),
            restarts: counter!(RESTARTS.name),
            timers_mended: counter!(TIMERS_MENDED.name),
            swept: gauge!(SWEPT.name),
            engines: gauge!(ENGINES.name),
        }
    }

    pub(crate) fn happened(&self, entry: &Entry) {
        if let Some(counter) = self.events.0.get(entry.event.into()) {
            counter.increment(1);
        }
    }

    /// A message was moved to `REJECTED`. Rare, and the codes are many: no handle is kept.
    pub(crate) fn rejected(code: &'static str) {
        counter!(REJECTED.name, "code" => code).increment(1);
    }

    /// How many leads have each status; those not named have none.
    pub(crate) fn counted(&self, leads: &HashMap<LeadStatus, usize>) {
        for (name, gauge) in &self.leads.0 {
            let count = leads.iter().find(|(status, _)| status.name() == *name).map_or(0, |(_, count)| *count);
            gauge.set(number(count));
        }
    }

    /// This process does not know how many leads have each status: `max` over all of them passes it over.
    pub(crate) fn not_counted(&self) {
        for gauge in self.leads.0.values() {
            gauge.set(f64::NAN);
        }
    }
}

/// The handles of one provider.
pub(crate) struct ProviderMetrics {
    outcomes: ByName<Counter>,
    pub(crate) call: Histogram,
    pub(crate) breaker: Gauge,
}

impl ProviderMetrics {
    pub(crate) fn new(provider: &'static str) -> Self {
        let breaker = gauge!(BREAKER.name, "provider" => provider);
        breaker.set(0.0);
        Self {
            outcomes: ByName::new(
                Outcome::VARIANTS,
                |outcome| counter!(SENDS.name, "provider" => provider, "outcome" => outcome),
            ),
            call: histogram!(CALLS.name, "provider" => provider),
            breaker,
        }
    }

    pub(crate) fn answered(&self, outcome: &Outcome) {
        if let Some(counter) = self.outcomes.0.get(outcome.name()) {
            counter.increment(1);
        }
    }
}

/// The handles of one pump.
pub(crate) struct PumpMetrics {
    acknowledged: Counter,
    retried: Counter,
    terminated: Counter,
    pub(crate) held: Gauge,
}

impl PumpMetrics {
    pub(crate) fn new(pump: &'static str) -> Self {
        let settled = |how| counter!(MESSAGES.name, "pump" => pump, "how" => how);
        Self {
            acknowledged: settled("acknowledged"),
            retried: settled("retried"),
            terminated: settled("terminated"),
            held: gauge!(PUMPED.name, "pump" => pump),
        }
    }

    pub(crate) fn settled(&self, how: Settle) {
        match how {
            Settle::Ack => self.acknowledged.increment(1),
            Settle::Retry(_) => self.retried.increment(1),
            Settle::Terminate => self.terminated.increment(1),
        }
    }
}

/// Counts the starts of one of the tree's own actors.
pub(crate) fn starts(actor: &str) -> Counter {
    counter!(ACTOR_STARTS.name, vec![Label::new("actor", actor.to_owned())])
}

/// As a gauge or a histogram takes it; exact up to 2^32.
pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
