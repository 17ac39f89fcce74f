//! Kills, pauses and lies to dripline at random moments, then checks from outside what it promised.
//!
//! [`plan`] draws what will be done from a seed; this file does it, with real processes, and writes down a [`history`];
//! [`check`] judges the history. A plan is repeated exactly; how the processes run through it is not, so a violation may
//! take several runs of its seed to come again.
pub mod check;
mod feedback;
pub mod history;
mod orders;
pub mod plan;
mod read;
mod sources;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use async_nats::jetstream;
use dripline_stand_in::{Fault, FaultKind};
use futures_util::future::{join_all, try_join_all};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

pub use check::{InDoubt, Rules, Violation};
pub use history::{History, Summary};
pub use plan::Size;
pub use world::StandIn;

use history::{Hindered, LeftHeld, Verb};
use plan::{Action, Arrival, Cause, Deed, Held, Plan, Target, What};
use read::Reader;
use world::{Parts, World};

/// After the last fault a source tries so much longer to hand its lead in.
const SOURCES_PATIENCE: Duration = Duration::from_mins(2);
/// An operator tries so long to have an answer.
const OPERATORS_PATIENCE: Duration = Duration::from_mins(2);
/// The system has come to rest, or something must have moved within this time. Longer than a server takes to find that a
/// stream it copies from has another leader.
const REST_PATIENCE: Duration = Duration::from_mins(1);
/// What moves for ever does not come to rest either. After a long run hundreds of leads are in doubt, are asked for at ever
/// longer intervals, and then go on.
const REST_LIMIT: Duration = Duration::from_mins(20);
/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What is to be done.
pub struct Torture<'a> {
    /// Draws the plan.
    pub seed: u64,
    /// How much.
    pub size: Size,
    /// What counts as kept.
    pub rules: Rules,
    /// The `dripline` binary.
    pub binary: &'a Path,
    /// Further settings of dripline: variables and their values.
    pub settings: &'a [(String, String)],
    /// Keeps the folder with logs and history, also when all went well.
    pub keep: bool,
}

/// What came of it.
pub struct Outcome {
    /// In numbers.
    pub summary: Summary,
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// Each violation with the story of its lead.
    pub report: String,
    /// Where logs and history are, if they were kept.
    pub folder: Option<PathBuf>,
}

impl Torture<'_> {
    /// Runs the plan, waits for rest, and checks. `say` gets a line at a time.
    ///
    /// # Errors
    /// The torture itself failed: a binary does not start, a server's log cannot be read. What dripline does wrong is a
    /// violation, not an error.
    pub async fn run(&self, provider: StandIn, say: &(dyn Fn(String) + Sync)) -> Result<Outcome> {
        let dir = tempfile::Builder::new().prefix("dripline-torture-").tempdir()?;
        let sequences = plan::sequences();
        let parts = Parts {
            binary: self.binary,
            dir: dir.path(),
            sequences: &sequences,
            provider,
            servers: self.size.servers,
            engines: self.size.engines,
            settings: self.settings,
        };
        let world = World::start(parts).await?;
        match self.carry_out(&world, sequences, say).await {
            Ok((history, seconds)) => self.judge(&world, dir, &history, seconds).await,
            Err(error) => {
                world.keep_logs(dir.path()).await?;
                Err(error.context(format!("the logs are in {}", dir.keep().display())))
            }
        }
    }

    async fn carry_out(
        &self,
        world: &World,
        sequences: Vec<plan::Sequence>,
        say: &(dyn Fn(String) + Sync),
    ) -> Result<(History, u64)> {
        let Plan { arrivals, lanes } = Plan::draw(self.seed, self.size);
        let record = Record::default();
        let operator = async_nats::connect(&world.urls[..]).await?;
        let begun = Instant::now();
        let http = world::http(Duration::from_secs(5))?;
        let run = Run { torture: self, world, record: &record, operator, http, begun, say };
        run.world.provider.set_faults(&[usual()]).await?;
        let all = async {
            tokio::try_join!(run.hand_in(&arrivals), async {
                try_join_all(lanes.iter().map(|lane| run.carry_out(lane))).await?;
                run.world.provider.set_faults(&[]).await?;
                (run.say)(format!("{} nothing goes wrong any more", run.clock()));
                anyhow::Ok(())
            },)?;
            run.until_rest(&sequences).await
        };
        let stuck = tokio::select! {
            stuck = all => stuck?,
            error = run.keep_running() => return Err(error),
            error = run.show_progress() => return Err(error),
        };
        let seconds = begun.elapsed().as_secs();
        (run.say)(format!("{} stopping; reading what is on disk", run.clock()));
        let mut odd = world.stop().await?;
        odd.append(&mut lock(&record.odd));
        let refusals = world.provider.refusals().await?;
        odd.extend(
            refusals.iter().map(|refusal| format!("the provider refused {}: {}", refusal.request, refusal.reason)),
        );
        let reader = Reader::connect(&world.urls).await?;
        // Not ours to prevent, and whoever reads `JOURNAL` knows a batch again; but not to be kept quiet either.
        let twice = reader.batches("JOURNAL").await?.values().filter(|times| **times > 1).count();
        if twice > 0 {
            (run.say)(format!("{} the server has copied {twice} batches into JOURNAL more than once", run.clock()));
        }
        let mut orders = std::mem::take(&mut *lock(&record.orders));
        orders.sort_by_key(|order| order.first_sent);
        let history = History {
            documents: reader.documents(&sequences).await?,
            journal: reader.journal().await?,
            rejected: reader.rejected().await?,
            accepted: world.provider.accepted().await?,
            submissions: std::mem::take(&mut lock(&record.submissions)),
            suppressions: std::mem::take(&mut lock(&record.suppressions)),
            orders,
            left_held: std::mem::take(&mut lock(&record.left_held)),
            deeds: std::mem::take(&mut lock(&record.deeds)),
            sequences,
            stuck,
            odd,
        };
        Ok((history, seconds))
    }

    async fn judge(&self, world: &World, dir: TempDir, history: &History, seconds: u64) -> Result<Outcome> {
        let mut violations = check::check(history, self.rules);
        violations.sort_by_key(|violation| (violation.kind, violation.at));
        let summary = Summary {
            seed: self.seed,
            seconds,
            servers: self.size.servers,
            engines: self.size.engines,
            leads: history.documents.len(),
            promises: history.submissions.iter().filter(|submission| submission.promise.is_some()).count(),
            retries: history.submissions.iter().map(|submission| submission.tries.saturating_sub(1)).sum(),
            emails: history.accepted.len(),
            doubts: check::doubts(history),
            suppressions: counted(history.suppressions.iter().map(|suppression| format!("{:?}", suppression.cause))),
            orders: counted(history.orders.iter().filter(|it| it.acknowledged().is_some()).map(|it| it.verb.subject())),
            refusals: counted(history.orders.iter().filter_map(|order| order.answer.as_ref()?.refused.clone())),
            deeds: counted(history.deeds.iter().map(|done| kind_of(&done.what))),
            statuses: counted(history.documents.iter().map(|document| document.status.clone())),
            violations: violations.len(),
        };
        let mut report = String::new();
        for violation in &violations {
            report.push_str(&format!("{violation}\n{}\n", check::story(history, &violation.address)));
        }
        let mut folder = None;
        if self.keep || !violations.is_empty() {
            world.keep_logs(dir.path()).await?;
            let file = |name: &str| dir.path().join(name);
            std::fs::write(file("history.json"), serde_json::to_vec(history)?)?;
            std::fs::write(file("violations.txt"), &report)?;
            folder = Some(dir.keep());
        }
        Ok(Outcome { summary, violations, report, folder })
    }
}

fn counted<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_default() += 1;
    }
    counts
}

/// `kill engine` of `kill engine 1`.
fn kind_of(what: &str) -> String {
    match what.rsplit_once(' ') {
        // A process's number has one digit.
        Some((kind, number)) if number.len() == 1 && number.parse::<u8>().is_ok() => kind.to_owned(),
        _ => what.to_owned(),
    }
}

/// What is written down while it runs.
#[derive(Default)]
struct Record {
    submissions: Mutex<Vec<history::Submission>>,
    suppressions: Mutex<Vec<history::Suppression>>,
    orders: Mutex<Vec<history::Order>>,
    left_held: Mutex<Vec<LeftHeld>>,
    deeds: Mutex<Vec<history::Done>>,
    odd: Mutex<Vec<String>>,
    /// Counts the requests of operators.
    requests: AtomicUsize,
}

struct Run<'a> {
    torture: &'a Torture<'a>,
    world: &'a World,
    record: &'a Record,
    /// The operators' own connection.
    operator: async_nats::Client,
    http: reqwest::Client,
    begun: Instant,
    say: &'a (dyn Fn(String) + Sync),
}

impl Run<'_> {
    fn clock(&self) -> String {
        format!("{:7.1} s ", self.begun.elapsed().as_secs_f64())
    }

    /// Nobody tries for ever.
    fn give_up(&self) -> Instant {
        self.begun + self.torture.size.duration + SOURCES_PATIENCE
    }

    async fn hand_in(&self, arrivals: &[Arrival]) -> Result<()> {
        let submit = async |arrival: &Arrival| {
            sleep_until(self.begun + arrival.at).await;
            sources::submit(&self.http, &self.world.leads_url, arrival, self.give_up(), &self.record.submissions).await;
        };
        join_all(arrivals.iter().map(submit)).await;
        Ok(())
    }

    async fn carry_out(&self, lane: &[Deed]) -> Result<()> {
        for Deed { at, lasts, what } in lane {
            sleep_until(self.begun + *at).await;
            let from = now();
            let name = what.to_string();
            if !matches!(what, What::Suppress(..) | What::Order(_)) {
                (self.say)(format!("{} {name} for {:.1} s", self.clock(), lasts.as_secs_f64()));
            }
            let context = || format!("cannot {name}");
            match what {
                What::Kill(target) => {
                    self.world.kill(*target).await.with_context(context)?;
                    sleep(*lasts).await;
                    self.world.restart(*target).await.with_context(context)?;
                }
                What::Pause(target) => {
                    self.world.pause(*target, true).await.with_context(context)?;
                    sleep(*lasts).await;
                    self.world.pause(*target, false).await.with_context(context)?;
                }
                What::Fault(fault) => {
                    self.world.provider.set_faults(&[fault.clone(), usual()]).await.with_context(context)?;
                    sleep(*lasts).await;
                    self.world.provider.set_faults(&[usual()]).await.with_context(context)?;
                }
                What::Suppress(address, Cause::Operator) => {
                    let context = jetstream::new(self.operator.clone());
                    sources::suppress(&context, address, self.give_up(), &self.record.suppressions).await?;
                    continue;
                }
                What::Suppress(address, cause) => {
                    self.tell(address, *cause).await?;
                    continue;
                }
                What::Order(order) => {
                    self.give(order, *lasts).await;
                    continue;
                }
            }
            let hinders = match what {
                What::Kill(Target::Engine(_)) => Some(Hindered::Ended),
                What::Pause(Target::Engine(_)) => Some(Hindered::StoodStill),
                What::Kill(Target::Server(_)) | What::Pause(Target::Server(_)) => Some(Hindered::Server),
                What::Kill(Target::Gateway)
                | What::Pause(Target::Gateway)
                | What::Fault(_)
                | What::Suppress(..)
                | What::Order(_) => None,
            };
            lock(&self.record.deeds).push(history::Done { from, to: now(), hinders, what: name });
        }
        Ok(())
    }

    /// A person, or the provider, says that an address must not be mailed.
    async fn tell(&self, address: &str, cause: Cause) -> Result<()> {
        let World { webhook_url, provider, .. } = self.world;
        match feedback::tell(&self.http, webhook_url, provider, address, cause, self.give_up()).await? {
            Ok(told) => lock(&self.record.suppressions).extend(told),
            Err(error) => lock(&self.record.odd).push(format!("{error:#}")),
        }
        Ok(())
    }

    /// An operator orders something, and undoes it after a while where it can be undone.
    async fn give(&self, plan::Order { action, repeated }: &plan::Order, lasts: Duration) {
        let verb = match action {
            Action::Hold(held) => Verb::Pause(held.clone()),
            Action::Stop(address, sequence) => Verb::Stop(address.clone(), sequence.clone()),
            Action::Restart(address, sequence) => Verb::Restart(address.clone(), sequence.clone()),
        };
        let mut first = self.ask(verb).await;
        sleep(lasts).await;
        if let Action::Hold(held) = action {
            let resumed = self.ask(Verb::Resume(held.clone())).await;
            lock(&self.record.orders).push(resumed);
        }
        // What was refused is not remembered, and may be of use by now.
        if *repeated && first.acknowledged().is_some() {
            orders::repeat(&self.operator, &mut first, Instant::now() + OPERATORS_PATIENCE).await;
        }
        lock(&self.record.orders).push(first);
    }

    async fn ask(&self, verb: Verb) -> history::Order {
        let id = format!("order-{}", self.record.requests.fetch_add(1, Ordering::Relaxed));
        orders::order(&self.operator, id, verb, Instant::now() + OPERATORS_PATIENCE).await
    }

    /// A process that ends by itself is started again, as its supervisor would.
    async fn keep_running(&self) -> anyhow::Error {
        loop {
            sleep(Duration::from_secs(1)).await;
            match self.world.keep_running().await {
                Ok(0) => {}
                Ok(ended) => {
                    (self.say)(format!("{} {ended} processes had ended by themselves; started again", self.clock()));
                    let what = "start of a process that had ended".to_owned();
                    let done = history::Done { from: now(), to: now(), hinders: Some(Hindered::Ended), what };
                    lock(&self.record.deeds).push(done);
                }
                Err(error) => return error,
            }
        }
    }

    async fn show_progress(&self) -> anyhow::Error {
        loop {
            sleep(PROGRESS_EVERY).await;
            let summary = match self.world.provider.summary().await {
                Ok(summary) => summary,
                Err(error) => return error,
            };
            let submissions = lock(&self.record.submissions).len();
            let suppressions = lock(&self.record.suppressions).len();
            let orders = lock(&self.record.orders).len();
            (self.say)(format!(
                "{} {submissions} leads handed in, {} emails accepted, {} met a fault, {suppressions} addresses \
                 suppressed, {orders} orders",
                self.clock(),
                summary.accepted,
                summary.faulted
            ));
        }
    }

    /// Waits until nothing is due any more. Gives what does not come to rest.
    async fn until_rest(&self, sequences: &[plan::Sequence]) -> Result<Vec<String>> {
        let waiting = Instant::now();
        let (mut seen, mut since) = (None, waiting);
        loop {
            let (open, emails) = (self.open(sequences).await, self.world.provider.summary().await?.accepted);
            if let Ok(open) = &open
                && open.is_empty()
            {
                return Ok(Vec::new());
            }
            let open = open.unwrap_or_else(|error| vec![format!("the servers cannot be read: {error:#}")]);
            let now = (open.clone(), emails);
            if seen.as_ref() != Some(&now) {
                (self.say)(format!("{} {} not at rest yet: {} …", self.clock(), open.len(), open[0]));
                (seen, since) = (Some(now), Instant::now());
            }
            if since.elapsed() > REST_PATIENCE || waiting.elapsed() > REST_LIMIT {
                return Ok(open);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// What is not at rest.
    async fn open(&self, sequences: &[plan::Sequence]) -> Result<Vec<String>> {
        let reader = Reader::connect(&self.world.urls).await?;
        let mut open = Vec::new();
        for (stream, what) in [("LEADS", "leads"), ("FEEDBACK", "events")] {
            let queued = reader.count(stream).await?;
            if queued > 0 {
                open.push(format!("{queued} {what} are in the queue"));
            }
        }
        let mut held = reader.controls().await?;
        let (committed, copied) = (reader.batches("KV_leads").await?, reader.batches("JOURNAL").await?);
        if !committed.keys().eq(copied.keys()) {
            open.push(format!("JOURNAL has {} of the {} batches", copied.len(), committed.len()));
        }
        let at = now();
        for document in reader.documents(sequences).await? {
            held.extend(document.paused.as_ref().map(|pause| LeftHeld {
                at,
                held: Held::Lead(document.email.clone()),
                reason: pause.reason.clone(),
            }));
            if let Some(next) = document.next_action_timestamp
                && !document.is_held(self.torture.rules.in_doubt)
            {
                open.push(format!("{} is {}, next at {next}", document.email, document.status));
            }
        }
        for left in held {
            open.push(format!("{} is held back by {}", left.held, left.reason));
            self.let_go(left).await;
        }
        Ok(open)
    }

    /// Every operator is done, and yet it is held back: they were never answered, or an order was carried out after its
    /// answer. Which of the two is for the checker to say; the run goes on.
    async fn let_go(&self, left: LeftHeld) {
        let resumed = self.ask(Verb::Resume(left.held.clone())).await;
        lock(&self.record.orders).push(resumed);
        lock(&self.record.left_held).push(left);
    }
}

/// Every answer takes a moment, so that there is a moment to be killed in.
fn usual() -> Fault {
    Fault { delay_ms: Some(30), ..Fault::new(FaultKind::Slow) }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
