//! The sweeper: sets the timer of every lead that waits for something and has none.
//!
//! Timers are written without fsync, because they can be rebuilt from the leads; this is where they are. It is the one
//! that reads every lead, and so it counts them by status, too.
//!
//! It goes through the leads in the order in which they last changed, and so a sweep that is interrupted goes on from its
//! place. Its cost is bounded: [`AT_ONCE`] leads in memory beside the set of timers, as many timers being set, [`PER_TICK`]
//! leads in a [`TICK`], and no more leads than there were when it began.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dripline_domain::{LeadStatus, Timestamp};
use futures_util::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Chain;
use crate::metrics::Metrics;
use crate::ports::{Clock, Ledger, Revision, Scanned, StoreError, Timers};
use crate::timer::Timer;

/// Leads that are looked at, and timers that are being set, at a time: bounds memory and the load on the server.
const AT_ONCE: usize = 256;
/// No more than [`PER_TICK`] leads are read in so long: 20,000 a second, however fast the server gives them.
const TICK: Duration = Duration::from_millis(50);
const PER_TICK: usize = 1_000;
/// A timer has fired so long after its time, or never will. The server is 0.7 s late where 50,000 are due at one moment.
const LATE: Duration = Duration::from_secs(10);
/// Between an interruption and the next try.
const PAUSE: Duration = Duration::from_secs(5);

/// What the sweeper is told.
pub(crate) enum Message {
    /// Sweep once, then wait for the next occasion.
    Sweep,
}

pub(crate) struct SweeperActor;

pub(crate) struct SweeperArguments {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) timers: Arc<dyn Timers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) every: Duration,
    /// Whether it is this engine that sweeps on the interval.
    pub(crate) is_first: watch::Receiver<bool>,
    pub(crate) stopping: watch::Receiver<bool>,
}

pub(crate) struct SweeperState {
    arguments: SweeperArguments,
    /// Where the sweep under way is: every lead up to this revision was looked at and has its timer. 0 between sweeps.
    place: Revision,
}

/// What a sweep, or the part of one from an interruption to the next, came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Swept {
    /// Leads that were looked at and have their timer.
    leads: u64,
    /// Those of them that had none.
    mended: u64,
    by_status: HashMap<LeadStatus, usize>,
}

impl Actor for SweeperActor {
    type Msg = Message;
    type State = SweeperState;
    type Arguments = SweeperArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: SweeperArguments,
    ) -> Result<SweeperState, ActorProcessingErr> {
        arguments.metrics.not_counted();
        myself.cast(Message::Sweep)?;
        Ok(SweeperState { arguments, place: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        Message::Sweep: Message,
        state: &mut SweeperState,
    ) -> Result<(), ActorProcessingErr> {
        let mut stopping = state.arguments.stopping.clone();
        tokio::select! {
            () = state.sweep_and_wait() => myself.cast(Message::Sweep)?,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    }
}

impl SweeperState {
    async fn sweep_and_wait(&mut self) {
        let (swept, end) = self.sweep().await;
        let Swept { leads, mended, .. } = swept;
        match end {
            Ok(()) if mended == 0 => tracing::debug!(leads, "every waiting lead has its timer"),
            Ok(()) => tracing::info!(leads, mended, "set the timers of leads that had none"),
            Err(error) => {
                let place = self.place;
                tracing::warn!(
                    error = %Chain(&error), place, leads, mended, "the sweep was interrupted; going on from there soon"
                );
                tokio::time::sleep(PAUSE).await;
                return;
            }
        }
        self.arguments.next_occasion().await;
    }

    /// From the place of the last one on, if that was interrupted.
    async fn sweep(&mut self) -> (Swept, Result<(), StoreError>) {
        let is_whole = self.place == 0;
        let mut swept = Swept::default();
        let end = self.arguments.go_through(&mut self.place, &mut swept).await;
        if end.is_ok() {
            self.place = 0;
            let SweeperArguments { metrics, clock, .. } = &self.arguments;
            // Of a sweep that went on, the part before was counted long ago, and what changed since would count twice.
            if is_whole {
                metrics.counted(&swept.by_status);
            }
            metrics.swept.set(clock.now().since(Timestamp::from_millis(0)));
        }
        (swept, end)
    }
}

impl SweeperArguments {
    async fn go_through(&self, place: &mut Revision, swept: &mut Swept) -> Result<(), StoreError> {
        let mut pace = tokio::time::interval(TICK);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // In order, though they are set at once: at an error, all before it are set, and none after it counts.
        let fired_by = self.clock.now().minus(LATE);
        let leads = self.ledger.scan(*place, fired_by).await?;
        let mut leads = leads.map(|lead| self.mend(lead)).buffered(AT_ONCE);
        while let Some(lead) = leads.next().await {
            let (Scanned { revision, status, .. }, mended) = lead?;
            *place = revision;
            swept.leads += 1;
            swept.mended += u64::from(mended);
            if let Some(status) = status {
                *swept.by_status.entry(status).or_default() += 1;
            }
            if swept.leads.is_multiple_of(PER_TICK as u64) {
                pace.tick().await;
            }
        }
        Ok(())
    }

    /// Sets the timer of a lead that has none and waits for something; whether it did.
    async fn mend(&self, lead: Result<Scanned, StoreError>) -> Result<(Scanned, bool), StoreError> {
        let lead = lead?;
        let Some(at) = lead.next_action.filter(|_| !lead.has_timer) else { return Ok((lead, false)) };
        // Should the lead have moved on meanwhile, it is woken in vain.
        let timer = Timer::new(lead.key.clone(), at, lead.generation);
        self.timers.set(timer).await.map_err(|error| StoreError::Unavailable(error.0))?;
        self.metrics.timers_mended.increment(1);
        Ok((lead, true))
    }

    /// After a reconnect every engine sweeps: its own connection was away, and timers may be lost that a sweep which went
    /// on from its place had set before. On the interval one of them does.
    async fn next_occasion(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.every) => {
                    if *self.is_first.borrow() {
                        return;
                    }
                    // Another one counts from now on. What we counted would only become old.
                    self.metrics.not_counted();
                }
                () = self.ledger.reconnected() => {
                    tracing::info!("connected again: sweeping");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Mutex;

    use async_trait::async_trait;
    use dripline_domain::LeadKey;
    use futures_util::stream::{self, BoxStream};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::ports::TimerError;

    /// Leads and timers in memory, on a server that fails at random.
    struct World {
        /// By revision.
        leads: BTreeMap<Revision, Scanned>,
        timers: Mutex<BTreeSet<LeadKey>>,
        /// Where each scan began.
        scans: Mutex<Vec<Revision>>,
        random: Mutex<StdRng>,
        /// One answer in so many is an error; 0 for none.
        fails: Mutex<u32>,
    }

    impl World {
        /// Some wait and have a timer, some wait and have none, some wait for nothing.
        fn new(seed: u64, leads: u64, fails: u32) -> Arc<Self> {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut revision, mut timers) = (0, BTreeSet::new());
            let leads = (0..leads).map(|number| {
                // The journal stands between the documents.
                revision += random.random_range(1..4);
                let key = LeadKey::parse(&format!("lead-{number}=40example.com")).unwrap();
                let next_action = random.random_bool(0.8).then(|| Timestamp::from_millis(1));
                if next_action.is_some() && random.random_bool(0.5) {
                    timers.insert(key.clone());
                }
                let status = Some(if next_action.is_some() { LeadStatus::Active } else { LeadStatus::Completed });
                (revision, Scanned { key, revision, next_action, generation: 1, status, has_timer: false })
            });
            Arc::new(Self {
                leads: leads.collect(),
                timers: Mutex::new(timers),
                scans: Mutex::default(),
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                fails: Mutex::new(fails),
            })
        }

        /// What the server does next: whether it fails, and how many other tasks come first.
        fn chance(&self) -> (bool, usize) {
            let mut random = self.random.lock().unwrap();
            let fails = *self.fails.lock().unwrap();
            (fails > 0 && random.random_ratio(1, fails), random.random_range(0..5))
        }

        /// The first lead that waits and has no timer.
        fn first_without(&self) -> Option<Revision> {
            let timers = self.timers.lock().unwrap();
            let mut without =
                self.leads.values().filter(|lead| lead.next_action.is_some() && !timers.contains(&lead.key));
            without.next().map(|lead| lead.revision)
        }
    }

    #[async_trait]
    impl Ledger for World {
        async fn scan(
            &self,
            after: Revision,
            _fired_by: Timestamp,
        ) -> Result<BoxStream<'static, Result<Scanned, StoreError>>, StoreError> {
            self.scans.lock().unwrap().push(after);
            let timers = self.timers.lock().unwrap().clone();
            let leads: Vec<_> = self.leads.range(after + 1..).map(|(_, lead)| lead.clone()).collect();
            let read: Vec<_> = leads
                .into_iter()
                .map(|lead| {
                    let has_timer = timers.contains(&lead.key);
                    if self.chance().0 { Err(away()) } else { Ok(Scanned { has_timer, ..lead }) }
                })
                .collect();
            Ok(stream::iter(read).boxed())
        }

        async fn reconnected(&self) {
            std::future::pending::<()>().await;
        }
    }

    #[async_trait]
    impl Timers for World {
        async fn set(&self, timer: Timer) -> Result<(), TimerError> {
            let (fails, others_first) = self.chance();
            for _ in 0..others_first {
                tokio::task::yield_now().await;
            }
            if fails {
                return Err(TimerError("away".into()));
            }
            self.timers.lock().unwrap().insert(timer.key);
            Ok(())
        }

        async fn forget(&self, _: &LeadKey) -> Result<(), TimerError> {
            panic!("a sweep erases no lead")
        }
    }

    impl Clock for World {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(0)
        }
    }

    fn away() -> StoreError {
        StoreError::Unavailable("away".into())
    }

    fn sweeper(world: &Arc<World>) -> SweeperState {
        let arguments = SweeperArguments {
            ledger: Arc::clone(world) as _,
            timers: Arc::clone(world) as _,
            clock: Arc::clone(world) as _,
            metrics: Arc::new(Metrics::new()),
            every: Duration::from_mins(5),
            is_first: watch::channel(true).1,
            stopping: watch::channel(false).1,
        };
        SweeperState { arguments, place: 0 }
    }

    #[tokio::test]
    async fn a_sweep_that_is_interrupted_goes_on_and_skips_no_lead() {
        let mut interruptions = 0;
        for seed in 0..100 {
            let world = World::new(seed, 1_000, 300);
            let mut sweeper = sweeper(&world);
            let (mut leads, mut place) = (0, 0);
            loop {
                let (swept, end) = sweeper.sweep().await;
                leads += swept.leads;
                if end.is_ok() {
                    break;
                }
                interruptions += 1;
                assert!(sweeper.place >= place, "seed {seed}");
                place = sweeper.place;
                let without = world.first_without();
                assert!(without.is_none_or(|without| without > place), "seed {seed}: {without:?} is before {place}");
            }
            assert_eq!(world.first_without(), None, "seed {seed}");
            assert_eq!(leads, 1_000, "seed {seed}: each was looked at once");
        }
        assert!(interruptions > 100, "{interruptions} interruptions show little");
    }

    #[tokio::test]
    async fn timers_that_are_lost_before_the_place_of_a_sweep_are_set_by_the_next_one() {
        let world = World::new(1, 1_000, 300);
        let mut sweeper = sweeper(&world);
        while sweeper.place == 0 {
            assert!(sweeper.sweep().await.1.is_err());
        }
        world.timers.lock().unwrap().clear();
        while sweeper.sweep().await.1.is_err() {}
        assert!(world.first_without().is_some(), "the sweep did not begin again");
        while sweeper.sweep().await.1.is_err() {}
        assert_eq!(world.first_without(), None);
    }

    #[tokio::test]
    async fn a_sweep_keeps_its_pace_however_fast_the_leads_come() {
        let ticks = 4;
        let world = World::new(3, (PER_TICK * (ticks + 1)) as u64, 0);
        let began = std::time::Instant::now();
        sweeper(&world).sweep().await.1.unwrap();
        assert!(began.elapsed() >= TICK * u32::try_from(ticks).unwrap(), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_whole_sweep_counts_every_lead_and_the_next_one_begins_at_the_first() {
        let world = World::new(2, 300, 0);
        let mut sweeper = sweeper(&world);
        let (swept, end) = sweeper.sweep().await;
        end.unwrap();
        let active = world.leads.values().filter(|lead| lead.next_action.is_some()).count();
        let by_status = HashMap::from([(LeadStatus::Active, active), (LeadStatus::Completed, 300 - active)]);
        assert_eq!(swept.by_status, by_status);
        let (again, end) = sweeper.sweep().await;
        end.unwrap();
        assert_eq!((again.leads, again.mended), (300, 0));
        assert_eq!(*world.scans.lock().unwrap(), [0, 0]);
    }
}
